"""How a set's crops were made: the template that aligns them, their margin and their size.

A detector knows the crops that it was trained on; others, cut wider or aligned otherwise, get other
scores. Preprocessing writes these settings into the manifest, as columns: so they outlive whatever
is made of it (CSV, a TFDS set, a choice of rows, rows of several sets together). They also stand in
`preprocess.json` beside it, from where manifests of earlier versions have them.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from masm_jax import files
from masm_jax.data import storage
from masm_jax.data.manifest import Manifest

COLUMNS = ('crop_template', 'crop_margin', 'crop_size_px')
RECORD = 'preprocess.json'  # What preprocessing writes beside its manifest.
PERTURBATION = 'perturbation.json'  # What is beside a perturbed copy of raw videos.


@dataclasses.dataclass(frozen=True, order=True)
class CropSettings:
  """How crops were made.

  Attributes:
    template: a key of `preprocess.templates.TEMPLATES`.
    margin: size of a crop over the size of the face's own square.
    size_px: side of a crop, in pixels; 0 for the scale that each face had in its picture.
  """

  template: str
  margin: float
  size_px: int

  def columns(self) -> dict[str, Any]:
    """The manifest's columns of a crop."""
    return dict(zip(COLUMNS, dataclasses.astuple(self), strict=True))

  def to_json(self) -> dict[str, Any]:
    """As JSON holds it; `from_json` reads it back."""
    return dataclasses.asdict(self)

  def __str__(self) -> str:
    size = f'{self.size_px} px' if self.size_px else 'native size'
    return f'template {self.template}, margin {self.margin:g}, {size}'


def from_json(value: Mapping[str, Any]) -> CropSettings | None:
  """The settings in an object of JSON (`size_px` may be null); None if it is another kind.

  >>> str(from_json({'template': 'gend', 'margin': 1.3, 'size_px': None}))
  'template gend, margin 1.3, native size'
  """
  try:
    template, margin, size = value['template'], float(value['margin']), int(value['size_px'] or 0)
  except (KeyError, TypeError, ValueError, OverflowError):
    return None
  return CropSettings(template, margin, size) if isinstance(template, str) and template else None


def read_crop_settings(manifest: Manifest) -> tuple[CropSettings, ...]:
  """Every way in which a manifest's crops were made, sorted; () where nothing tells.

  Several, where rows of several sets stand together. Rows that do not tell are passed by.
  """
  table = manifest.table
  if set(COLUMNS) <= set(table.columns):
    keys = ('template', 'margin', 'size_px')
    ways = table[list(COLUMNS)].drop_duplicates().itertuples(index=False, name=None)
    found = {from_json(dict(zip(keys, way, strict=True))) for way in ways}
    return tuple(sorted(way for way in found if way and way.margin == way.margin))
  try:
    record = files.parse_object(storage.read_bytes(storage.join(manifest.root, RECORD)))
  except (OSError, ValueError):
    return ()
  found_there = from_json(record)
  return (found_there,) if found_there else ()


def read_record(value: Any) -> tuple[CropSettings, ...]:
  """The settings in a run's record: a list of what `to_json` gives; all else in it is passed by."""
  entries = value if isinstance(value, list) else []
  found = (from_json(entry) for entry in entries if isinstance(entry, Mapping))
  return tuple(sorted(way for way in found if way))


def difference(trained: Iterable[CropSettings], scored: Iterable[CropSettings]) -> str:
  """What is to be said of crops that a detector was not trained on; '' where nothing is.

  Args:
    trained: how the crops of its training were made; () where nothing tells.
    scored: how those were made that it scores now.

  >>> one, other = CropSettings('gend', 1.3, 256), CropSettings('gend', 1.8, 256)
  >>> difference([one], [other])
  'crops made otherwise (template gend, margin 1.8, 256 px) than those of the training (template \
gend, margin 1.3, 256 px): scores may be off'
  >>> difference([one], [one]) + difference([], [other])
  ''
  """
  known = sorted(set(trained))
  others = sorted(set(scored) - set(known))
  if not known or not others:
    return ''
  made, trained_on = ('; '.join(map(str, ways)) for ways in (others, known))
  return (
    f'crops made otherwise ({made}) than those of the training ({trained_on}): scores may be off'
  )
