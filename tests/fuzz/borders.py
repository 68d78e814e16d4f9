"""Every border, by name."""

from collections.abc import Mapping

from tests.fuzz import media, tables
from tests.fuzz.border import Border

BORDERS: Mapping[str, Border] = {
  border.name: border
  for border in (
    media.IMAGES, media.VIDEOS,
    tables.MANIFESTS, tables.IMPORTERS, tables.LAYOUTS, tables.SETS,
  )
}  # fmt: skip
