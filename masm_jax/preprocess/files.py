"""Files that say how a folder was made, by which other commands know it."""

from masm_jax.data import crop_settings

PARAMETERS = crop_settings.RECORD  # Of a folder of crops.
PERTURBATION = 'perturbation.json'  # Of a perturbed copy of raw videos.
