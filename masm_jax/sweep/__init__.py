"""Sweeps: many runs that differ in named fields and in the seed, and the table of their results."""
