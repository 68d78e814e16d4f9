"""Files that say how a folder was made, by which other commands know it."""

PARAMETERS = 'preprocess.json'  # Of a folder of crops.
PERTURBATION = 'perturbation.json'  # Of a perturbed copy of raw videos.
