"""Explanations of a detector: which learned change fired, where, and whether that is true."""
