"""Fakes with the real picture that each was made from, and where it was forged."""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from masm_jax.data import storage, transforms
from masm_jax.data.columns import FAKE, REAL
from masm_jax.data.manifest import Manifest
from masm_jax.data.synthetic import masks as synthetic_masks
from masm_jax.errors import UserError
from masm_jax.explain import localisation

MASK_COLUMN = 'mask'  # Of a manifest: the picture of the mask, relative to its root.
_MASK_THRESHOLD = 32  # Black is not quite black after compression.
_DIFFERENCE = 12  # Of 255, where fake and real tell the mask by their difference.

EXACT, GIVEN, DIFFERENCE = 'exact', 'given', 'difference'


class Pair(NamedTuple):
  """A fake beside its real source.

  Attributes:
    fake: uint8 [S, S, 3].
    real: uint8 [S, S, 3], the same frame before the forgery.
    mask: float64 [G, G], share of each patch that is forged.
    row: of the fake in the manifest's table.
  """

  fake: np.ndarray
  real: np.ndarray
  mask: np.ndarray
  row: int


class Pairs(NamedTuple):
  """The pairs of a data set.

  Attributes:
    pairs: those whose mask says where.
    source: how the masks are known: `exact` (the built-in set), `given` (the manifest's column
      `mask`) or `difference` (from the pictures themselves).
    left_out: fakes whose mask is empty or almost all of the picture.
    unpaired: fakes without their real frame in the manifest.
  """

  pairs: list[Pair]
  source: str
  left_out: int
  unpaired: int


def find_pairs(manifest: Manifest, *, image_size: int, grid: int, limit: int = 200) -> Pairs:
  """Pairs of a manifest, evenly over its fake videos.

  A fake belongs to the real crop of its `source_video_id` with the same `frame`.

  Args:
    manifest: with labels.
    image_size: S, what the detector takes.
    grid: G, patches along one side.
    limit: fakes that are looked at.

  Raises:
    UserError: no fake has its real frame in the manifest, or a picture cannot be read.
  """
  table = manifest.table
  real_rows = _real_rows(table)
  fakes = np.flatnonzero(table['label'].to_numpy() == FAKE)
  partners = [
    real_rows.get((table.at[i, 'source_video_id'], table.at[i, 'frame']), -1) for i in fakes
  ]
  paired = [(i, j) for i, j in zip(fakes, partners, strict=True) if j >= 0]
  if not paired:
    raise UserError(
      'explanations are measured on fakes beside their real frame: no fake of this set has a real'
      ' crop with its source_video_id and frame'
    )
  chosen = [paired[i] for i in _spread(table, [i for i, _ in paired], limit)]
  source, masks = _masks(manifest, [i for i, _ in chosen])
  found, left_out = [], 0
  for fake_row, real_row in chosen:
    fake, real = (
      transforms.decode_bytes(manifest.images.read(row), table.at[row, 'path'])
      for row in (fake_row, real_row)
    )
    mask = masks.get(fake_row)
    mask = difference_mask(fake, real) if mask is None else mask
    share = localisation.patch_mask(mask, grid)
    if not localisation.usable(share):
      left_out += 1
      continue
    sized = (transforms.resize(image, image_size) for image in (fake, real))
    found.append(Pair(*sized, share, int(fake_row)))
  return Pairs(found, source, left_out, len(fakes) - len(paired))


def difference_mask(fake: np.ndarray, real: np.ndarray) -> np.ndarray:
  """Where two aligned pictures of one size differ by more than compression does: bool [H, W].

  Raises:
    UserError: their sizes differ.
  """
  if fake.shape != real.shape:
    raise UserError(f'a fake of {fake.shape[:2]} pixels cannot be laid over {real.shape[:2]}')
  return np.abs(fake.astype(np.int16) - real).max(axis=-1) > _DIFFERENCE


def _real_rows(table: pd.DataFrame) -> dict[tuple[str, int], int]:
  """Row of each real frame by the video that fakes name as their source, and the frame."""
  rows: dict[tuple[str, int], int] = {}
  for i in np.flatnonzero(table['label'].to_numpy() == REAL):
    for video in (table.at[i, 'source_video_id'], table.at[i, 'video_id']):
      rows[video, table.at[i, 'frame']] = int(i)
  return rows


def _spread(table: pd.DataFrame, rows: list[int], limit: int) -> list[int]:
  """Positions within `rows`: the first frame of each video, then the second, up to the limit."""
  turn = table.loc[rows].groupby('video_id').cumcount().to_numpy()
  order = np.lexsort((np.arange(len(rows)), turn))[:limit]
  return sorted(order.tolist())


def _masks(manifest: Manifest, rows: list[int]) -> tuple[str, Mapping[int, np.ndarray]]:
  """How the masks are known, and those that are, by row."""
  table, root = manifest.table, manifest.root
  if isinstance(root, pathlib.Path) and synthetic_masks.has_masks(root):
    by_path = {table.at[row, 'path']: row for row in rows}
    drawn = synthetic_masks.forgery_masks(root, by_path)
    return EXACT, {by_path[path]: mask for path, mask in drawn}
  if MASK_COLUMN in table and (table.loc[rows, MASK_COLUMN].astype(str) != '').all():
    names = table.loc[rows, MASK_COLUMN].astype(str)
    return GIVEN, {row: _read_mask(manifest, name) for row, name in names.items()}
  return DIFFERENCE, {}


def _read_mask(manifest: Manifest, name: str) -> np.ndarray:
  """A mask's picture, bool [H, W].

  Raises:
    UserError: a name that leaves the manifest's root, or no picture.
  """
  if pathlib.PurePosixPath(name).is_absolute() or '..' in pathlib.PurePosixPath(name).parts:
    raise UserError(f'the mask {name!r} leaves the root of its manifest')
  return transforms.decode(storage.join(manifest.root, name)).max(axis=-1) > _MASK_THRESHOLD
