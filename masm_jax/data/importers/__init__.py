"""From the ways in which people keep face crops to a manifest."""
