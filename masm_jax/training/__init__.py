"""One training run: from a config to results."""
