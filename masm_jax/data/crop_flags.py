"""Flags of crops that preprocessing found unfit, and the filter that leaves them out.

The column `crop_flag` names what is wrong with a crop, '' where nothing is; `face_detected` says
whether a detector saw the face in the crop's own picture. Manifests may lack either.
"""

import collections
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

if TYPE_CHECKING:  # The process that reads strangers' files needs the names alone.
  import pandas as pd

  from masm_jax.data.manifest import Manifest

COLUMN, DETECTED = 'crop_flag', 'face_detected'
NO_FACE, TOO_SMALL, UPSIDE_DOWN, PADDING = FLAGS = (
  'no_face',  # The box was kept from another frame, and this one shows nobody there.
  'too_small',
  'upside_down',
  'padding',  # Most of it lies beyond the border of the picture.
)


def flags_of(table: 'pd.DataFrame') -> np.ndarray:
  """The flag of each of N rows, object [N] of str; '' for crops that are fit.

  A row with `face_detected` false and no flag has the flag 'no_face'.
  """
  flags = np.full(len(table), '', object)
  if COLUMN in table:
    flags = table[COLUMN].astype(object).where(table[COLUMN].notna(), '').map(str).to_numpy(object)
  if DETECTED in table:
    missed = table[DETECTED].map(str).isin(('False', '0', '0.0')).to_numpy()
    flags[missed & (flags == '')] = NO_FACE
  return flags


def leave_out_flagged(manifest: 'Manifest', name: str) -> 'Manifest':
  """The rows without a flag; says how many others there were.

  Args:
    manifest: N rows.
    name: of the config field that names the set, for the log.
  """
  flags = flags_of(manifest.table)
  counts = collections.Counter(flag for flag in flags if flag)
  if not counts:
    return manifest
  kinds = ', '.join(f'{count} {flag}' for flag, count in sorted(counts.items()))
  logging.info(
    '%s: %d of %d crops are left out (%s); %s.flagged=True takes them',
    name, sum(counts.values()), len(flags), kinds, name,
  )  # fmt: skip
  return manifest.take(flags == '')
