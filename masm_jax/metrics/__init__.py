"""From scores to numbers: metrics, calibration, clusters, intervals. Never sees a model."""
