"""Evaluations of trained runs: suites, results, comparisons; never a training step."""
