"""Every border, by name."""

from collections.abc import Mapping

from tests.fuzz import arrays, evaluations, folders, media, notes, runs, tables, tfds_sets
from tests.fuzz.border import Border

BORDERS: Mapping[str, Border] = {
  border.name: border
  for border in (
    media.IMAGES, media.VIDEOS,
    tables.MANIFESTS, tables.IMPORTERS, tables.LAYOUTS, tfds_sets.SETS,
    arrays.WEIGHTS, arrays.CACHES, arrays.DETECTORS, arrays.ADAPTERS,
    runs.COMMAND_LINES, runs.CONFIGS, runs.CHECKPOINTS, notes.NOTES,
    evaluations.EVALUATIONS, evaluations.ANSWERS,
    folders.SERVED, folders.WORKING,
  )
}  # fmt: skip
