"""Devices and processes: placement, agreement, lost peers, requests to stop."""
