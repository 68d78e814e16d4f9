"""Perturbed faces and videos for robustness: what there is, on crops and on whole videos."""
