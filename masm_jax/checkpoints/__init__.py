"""Checkpoints of a run through Orbax: saving and resuming, and reading by others."""
