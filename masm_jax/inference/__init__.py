"""A detector that scores: compiled steps, scoring of whole sets, runs read back."""
