"""Names of the files that say how a folder was made."""

from masm_jax.data import crop_settings

PARAMETERS = crop_settings.RECORD  # Of a folder of crops.
PERTURBATION = 'perturbation.json'  # Of a perturbed copy of raw videos.
