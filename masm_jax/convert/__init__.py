"""Detectors that other programs have trained, as detector files: one function per format."""
