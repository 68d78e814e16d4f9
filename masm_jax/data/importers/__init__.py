"""Importers: known layouts of face crops to manifests."""
