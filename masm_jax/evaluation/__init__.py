"""From scores to figures: metrics and score tables that never see a parameter."""
