"""What `results.json` holds of the inside of a model: layer masks, and the analysis of a run.

Both are drawn as they stand, and stay in dictionaries; their shapes are checked.
"""

import itertools
import pathlib
from typing import Annotated, Any

import pydantic
from pydantic import Field
from typing_extensions import TypedDict

from masm_jax import fields, telemetry
from masm_jax.errors import UserError

_Number = Annotated[float, Field(allow_inf_nan=True)]


class MaskLine(TypedDict):
  """A line of `masks.jsonl`: from `step` on the groups of `mask` [L, K] were trained."""

  step: Annotated[int, Field(ge=0, le=fields.MANY)]
  rows: list[str]
  mask: list[list[_Number]]


class _Side(TypedDict):
  angles_deg: list[list[_Number]]
  overlap: list[list[_Number]]
  semantic_share: list[_Number]


class _Factors(TypedDict):
  U: _Side
  V: _Side


class _Kept(TypedDict):
  U: _Number
  V: _Number


class _Spectrum(TypedDict):
  change: _Number
  principal_kept: _Kept


class _Subspaces(TypedDict):
  kernels: Annotated[dict[str, _Factors], Field(min_length=1)]


class _Spectra(TypedDict):
  kernels: Annotated[dict[str, _Spectrum], Field(min_length=1)]


class _Accuracy(TypedDict):
  accuracy: _Number
  low: _Number
  high: _Number
  chance: _Number


class _Probe(TypedDict):
  before: _Accuracy
  after: _Accuracy


class _Semantics(TypedDict, total=False):
  note: str
  probes: dict[str, _Probe]


class Analysis(TypedDict, total=False):
  """A run's `analysis.json`, as far as it is drawn; see `masm_jax.analysis`."""

  subspaces: _Subspaces | None
  spectra: _Spectra | None
  semantics: _Semantics | None


def _history(masks: tuple[MaskLine, ...]) -> tuple[MaskLine, ...]:
  """The lines, if they are one history.

  Raises:
    ValueError: their masks differ in shape, or their steps do not rise.
  """
  shapes = {_shape(line['mask']) for line in masks}
  steps = [line['step'] for line in masks]
  if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
    raise ValueError('masks are not all of one shape [L, K]')
  if any(len(line['rows']) != len(line['mask']) for line in masks):
    raise ValueError('a mask has as many rows as names')
  if any(b <= a for a, b in itertools.pairwise(steps)):
    raise ValueError('steps of masks must rise')
  return masks


Masks = Annotated[tuple[MaskLine, ...], pydantic.AfterValidator(_history)]
_MASKS = pydantic.TypeAdapter(Masks)


def read_masks(path: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of a run's `masks.jsonl`, as `results.json` holds them.

  Raises:
    UserError: it cannot be read, or is damaged.
  """
  lines = telemetry.read_lines(path)
  try:
    _MASKS.validate_python(tuple(lines))
  except pydantic.ValidationError as error:
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    what = ': '.join(filter(None, ('.'.join(map(str, found['loc'])), found['msg'])))
    raise UserError(f'{path}: {what}: it is damaged; put it back, or remove it') from error
  return lines


def alike(analysis: Analysis | None) -> Analysis | None:
  """The analysis, if its kernels have one number of subspaces.

  Raises:
    ValueError: they do not.
  """
  kernels = ((analysis or {}).get('subspaces') or {}).get('kernels', {})
  sides = [kernel[side] for kernel in kernels.values() for side in ('U', 'V')]
  shapes = {(_shape(s['overlap']), len(s['semantic_share']), len(s['angles_deg'])) for s in sides}
  if sides and (len(shapes) > 1 or not all(len({*a, *b}) == 1 for a, *b in shapes)):
    raise ValueError('kernels differ in their number of subspaces')
  if any(not angles for side in sides for angles in side['angles_deg']):
    raise ValueError('a subspace has no angles')
  return analysis


def _shape(rows: list[list[float]]) -> tuple[int, ...]:
  """(L, K) of a list of equally long lists; () of any other."""
  lengths = {len(row) for row in rows}
  return (len(rows), *lengths) if len(lengths) == 1 and 0 not in lengths else ()
