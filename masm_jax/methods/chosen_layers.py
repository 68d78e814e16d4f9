"""The record of the layers that a method chose before training, stored with the run.

A run that resumes, or is evaluated, takes the layers that it began with, whatever its data or its
machine would choose now. Without that record it is refused.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from masm_jax import config as config_lib
from masm_jax import files
from masm_jax.errors import UserError
from masm_jax.masking import layer_mask
from masm_jax.masking.groups import Groups
from masm_jax.methods.base import ChoosesLayers, Method

FILE = 'selection.json'


@dataclasses.dataclass(frozen=True)
class Selection:
  """Which layers were chosen, and what for.

  Attributes:
    names: of the L layers.
    scores: float32 [L], as `mask.score` says.
    chosen: bool [L].
    agreement: share of the layers that two halves of the probe's batches choose alike; nan where
      an earlier version of the program did not measure it.
  """

  names: tuple[str, ...]
  scores: np.ndarray
  chosen: np.ndarray
  agreement: float = float('nan')

  @property
  def layers(self) -> tuple[str, ...]:
    """Names of the chosen layers."""
    return tuple(name for name, on in zip(self.names, self.chosen, strict=True) if on)


def stored_layers(
  method: Method,
  params: Mapping[str, Any],
  *,
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  hashes: Mapping[str, str],
) -> Method:
  """The method as a run in `workdir` trained it; arguments as of `choose_layers`.

  Raises:
    UserError: the run chose layers, and its record of them is missing, damaged or another run's.
  """
  if not has_choice(method, config):
    return method
  path = workdir / FILE
  selection = read(path, method.candidates(params), identity_of(config, hashes))
  if selection is None:
    raise lost_record(path)
  return method.with_layers(params, selection.layers)


def assume_deepest(
  method: Method, params: Mapping[str, Any], config: ml_collections.ConfigDict
) -> Method:
  """The method on its deepest layers, as many as `config.mask` keeps, where nothing is measured."""
  mask_config = layer_mask.MaskConfig(**config.mask.to_dict())
  if not isinstance(method, ChoosesLayers) or mask_config.kind in ('none', 'all'):
    return method
  names = method.candidates(params).names
  depth = np.arange(len(names), dtype=np.float32)[:, None]
  chosen = layer_mask.draw(
    depth, config=dataclasses.replace(mask_config, kind='oneshot'), seed=0, step=0
  )
  return method.with_layers(params, [names[i] for i in np.flatnonzero(chosen)])


def has_choice(method: Method, config: ml_collections.ConfigDict) -> bool:
  """Whether layers are chosen; without a mask every candidate is trained."""
  return isinstance(method, ChoosesLayers) and config.mask.kind != 'none'


def identity_of(config: ml_collections.ConfigDict, hashes: Mapping[str, str]) -> dict[str, str]:
  """What a choice belongs to."""
  names = ('base_weights', 'train_manifest')
  return {'config_sha256': config_lib.fingerprint(config)} | {name: hashes[name] for name in names}


def read(path: pathlib.Path, groups: Groups, identity: Mapping[str, str]) -> Selection | None:
  """What this very run has chosen before; None if that is missing, damaged or another run's."""
  try:
    record = files.read_json(path)
    if record['identity'] != identity or tuple(record['names']) != groups.names:
      return None
    scores, chosen = np.asarray(record['scores'], np.float32), np.asarray(record['chosen'], bool)
    agreement = float(record.get('agreement', 'nan'))
  except (UserError, KeyError, TypeError, ValueError, OverflowError):
    return None
  is_whole = scores.shape == chosen.shape == (len(groups.names),)
  return Selection(groups.names, scores, chosen, agreement) if is_whole else None


def lost_record(path: pathlib.Path) -> UserError:
  """The error for checkpoints whose selection.json is missing or another run's."""
  return UserError(
    f'{path}, which says what layers the checkpoints beside it train, is missing, damaged or that '
    'of another run: put the right one back, or begin anew in a new --workdir'
  )


def blank(groups: Groups) -> Selection:
  """What other processes hold before the first one tells them."""
  size = len(groups.names)
  return Selection(groups.names, np.zeros(size, np.float32), np.zeros(size, bool))
