"""Checks of a run's config, and durations in steps."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import ml_collections

from masm_jax import fields
from masm_jax.errors import UserError, first_line

# Fields that a resumed run may change: they alter where it runs and what it reports. (Only the same
# number of devices, and `mesh.fsdp`, repeats bit for bit.)
_MAY_CHANGE = (
  'data.num_workers',
  'data.num_threads',
  'data.train.root',
  'data.val.root',
  'data.train.flagged',  # The hash of the rows that it leaves must be the same.
  'data.val.flagged',
  'data.synthetic.root',
  'data.tests',
  'eval.on_train',
  'backbone.weights',
  'subspace.cache_dir',
  'checkpoint.keep',
  'mesh.fsdp',
)


# What a config stored before these fields means: runs stay readable, fingerprints what they were.
_BEFORE = {
  'subspace.semantic_rank': 0,
  'subspace.semantic_energy': 1.0,
  'subspace.parametrization': 'svd',
  'mask.keep_by': 'share',
  'mask.hysteresis': 0.0,
  'mask.close_steps': 0,
  'mask.head_batches': 0,
  'regularizer.mode': 'loss',
  'regularizer.squared': True,
  'regularizer.energy_of': 'kernel',
  'optim.decay_towards': 'zero',
  'data.synthetic.identities': 90,
  'data.synthetic.strength': 1.0,
}


def completed(stored: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """A stored config with the fields that came later, as the program behaved without them.

  Args:
    stored: nested, as JSON gives it back.

  Raises:
    UserError: it is no config.
  """
  try:
    config = ml_collections.ConfigDict(stored)
    known = flatten(config)
    groups = {name.rpartition('.')[0] for name in known}
    config.update_from_flattened_dict(
      {n: v for n, v in _BEFORE.items() if n not in known and n.rpartition('.')[0] in groups}
    )
    return config.lock()
  except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
    raise UserError(f'the config of the run cannot be read: {first_line(error)}') from error


def _problems(config: ml_collections.ConfigDict, flat: Mapping[str, Any]) -> list[str]:
  """What is wrong with single fields."""
  problems = fields.problems(flat)
  given = {name: config.data.get(name) for name in ('train', 'val')}
  tests = config.data.get('tests', {})
  problems += [f'data.{problem}' for problem in fields.set_problems(given)]
  if isinstance(tests, ml_collections.ConfigDict):
    problems += [f'data.tests.{problem}' for problem in fields.set_problems(tests)]
  else:
    problems.append('data.tests: it must be a group of sets')
  for name in fields.DURATIONS:
    try:
      duration_steps(str(flat[name]), batch_size=1, num_examples=1)
    except UserError as error:
      problems.append(f'{name} = {error}')
  weights = flat['head.class_weights']
  is_pair = isinstance(weights, list) and len(weights) == 2
  if not is_pair or not all(isinstance(w, int | float) and 0 < w <= 1e12 for w in weights):
    problems.append(
      f'head.class_weights = {str(weights)[:80]}: two positive numbers, for real and fake'
    )
  return problems


def validate(config: ml_collections.ConfigDict) -> None:
  """Checks values before anything is loaded.

  Raises:
    UserError: one line that lists every problem.
  """
  if not config.is_locked:
    raise UserError(
      'the config is not locked, so that misspelt fields would pass unseen: build it '
      'from configs/common.py, or end get_config() with `return config.lock()`'
    )
  flat = flatten(config)
  others = {'method', 'data.val.split', 'head.class_weights', 'loss.alignment'}
  needed = {*fields.REQUIRED, *_BEFORE, *others}
  if missing := sorted(needed - flat.keys()):
    raise UserError(
      f'this is no config of a training run, it lacks {missing[0]} and {len(missing) - 1} other '
      'fields: build it from configs/common.py'
    )
  if problems := _problems(config, flat):
    raise UserError('config: ' + '; '.join(problems))
  problems = []
  if (config.loss.alignment or config.loss.uniformity) and not config.head.normalize_features:
    problems.append(
      'loss.alignment and loss.uniformity are for features of length 1: set '
      'head.normalize_features=True'
    )
  if config.mask.granularity == 'block' and config.mask.select == 'per_layer':
    problems.append(
      'mask.select = per_layer ranks the subspaces of each layer, which mask.granularity = block '
      'switches as one: use global'
    )
  elif (
    config.mask.select == 'per_layer'
    and config.subspace.num_subspaces == 1
    and config.mask.kind not in ('none', 'all')
  ):
    problems.append(
      'mask.select = per_layer ranks the subspaces of each layer, but subspace.num_subspaces = 1 '
      'leaves nothing to rank: use global'
    )
  if config.mask.score == 'forgery' and (
    config.method != 'masm' or config.mask.kind not in ('dynamic', 'inverse', 'all')
  ):
    problems.append(
      'mask.score = forgery asks artifact subspaces while they are trained: it is for method ='
      ' masm with mask.kind = dynamic, inverse or all'
    )
  if config.subspace.semantic_rank and config.subspace.semantic_energy < 1.0:
    problems.append('subspace.semantic_rank and subspace.semantic_energy: give one of them')
  if config.mask.keep_by == 'score' and config.mask.keep_count:
    problems.append('mask.keep_by = score keeps a share of the score: set mask.keep_count = 0')
  weights = (config.regularizer.w_self, config.regularizer.w_cross)
  is_balanced = config.subspace.parametrization == 'balanced'
  if config.regularizer.mode == 'exact' and (
    all(weights) != any(weights) or (is_balanced and any(weights))
  ):
    problems.append(
      'regularizer.mode = exact makes all bases orthonormal together, and of length 1, which is not'
      ' for balanced factors: set regularizer.w_self and regularizer.w_cross both to 0, or neither'
    )
  if taken := {'train', 'val'} & set(config.data.tests):
    problems.append(f'data.tests.{min(taken)}: call this test set something else than train or val')
  if config.data.augment == 'sbi' and config.data.sampler != 'paired':
    problems.append(
      'data.augment = sbi makes a fake of each real face, which stands beside it: set '
      'data.sampler = paired'
    )
  if config.data.sampler == 'paired' and config.train.batch_size % 2:
    problems.append(
      f'train.batch_size = {config.train.batch_size}: data.sampler = paired needs an even one, or '
      'pairs stand in two batches'
    )
  if config.data.val.split == 'test':
    problems.append('data.val.split = test: it chooses checkpoints, never on a test set')
  if problems:
    raise UserError('config: ' + '; '.join(problems))


_SUITE_CHOICES = {
  'video_score': ('mean', 'median', 'max'),
  'bootstrap.unit': ('auto', 'video', 'identity'),
}
_SUITE_RANGES = {
  'batch_size': (1, 2**16),
  'num_threads': (1, 1024),
  'fsdp': (1, 2**20),
  'synthetic.size_px': (32, 512),
  'synthetic.strength': (0.01, 4.0),
  'bootstrap.draws': (1, 1_000_000),
  'bootstrap.confidence': (0.5, 0.9999),
  'abstention.fpr': (0.0, 0.5),
  'abstention.fnr': (0.0, 0.5),
}


def validate_suite(suite: ml_collections.ConfigDict) -> None:
  """Checks the values of a suite before anything is loaded.

  Raises:
    UserError: one line that lists every problem.
  """
  flat = flatten(suite)
  needed = {*_SUITE_CHOICES, *_SUITE_RANGES, 'robustness.perturbations', 'val.split'}
  if not suite.is_locked or needed - flat.keys():
    raise UserError(
      'this is no suite of an evaluation: build it from common.get_suite(), see'
      ' configs/cross_eval.py'
    )
  problems = [
    f'{name} = {flat[name]!r}: choose one of {", ".join(choices)}'
    for name, choices in _SUITE_CHOICES.items()
    if flat[name] not in choices
  ]
  problems += _out_of_range(flat, _SUITE_RANGES)
  if taken := {'train', 'val'} & set(suite.sets):
    problems.append(f'sets.{min(taken)}: call this set something else than train or val')
  if strange := [name for name in suite.sets if not fields.is_set_name(name)]:
    problems.append(f'sets.{strange[0][:80]}: {fields.SET_NAMES}')
  if unknown := sorted(set(suite.robustness.sets) - set(suite.sets)) if suite.sets else []:
    problems.append(f'robustness.sets: there is no set {unknown[0]}')
  if suite.val.split == 'test':
    problems.append('val.split = test: thresholds are chosen on validation data')
  if problems:
    raise UserError('suite: ' + '; '.join(problems))


def _out_of_range(flat: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> list[str]:
  """One line per number outside its range; those without one must be at least 0."""
  problems = []
  for name, value in flat.items():
    if isinstance(value, bool) or not isinstance(value, int | float):
      continue
    low, high = ranges.get(name, (0, fields.MANY))
    if not low <= value <= high:
      shown = str(value)[:60]
      problems.append(f'{name} = {shown}: it must be at least {low} and at most {high}')
  return problems


def flatten(
  config: ml_collections.ConfigDict | Mapping[str, Any], prefix: str = ''
) -> dict[str, Any]:
  """`{'optim.learning_rate': 2e-4, ...}`; empty groups are left out."""
  flat: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict | Mapping):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[f'{prefix}{name}'] = list(value) if isinstance(value, tuple) else value
  return flat


def duration_steps(text: str, *, batch_size: int, num_examples: int) -> int:
  """Steps in a duration such as '2000 steps', '3 epochs', '0.5 epochs' or '100000 examples'.

  Args:
    text: a number and a unit.
    batch_size: examples per step.
    num_examples: examples per epoch.

  Returns:
    Steps, rounded; at least 1, unless the duration is 0.

  Raises:
    UserError: the text is no duration.
  """
  match = re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*(step|epoch|example)s?\s*', text)
  if not match:
    raise UserError(
      f"{text[:60]!r}: a duration is written '2000 steps', '3 epochs' or '100000 examples'"
    )
  amount = float(match[1])
  if amount > fields.MANY:
    raise UserError(f'{text[:60]!r}: more than {fields.MANY:,} {match[2]}s')
  per_unit = {'step': 1.0, 'epoch': num_examples / batch_size, 'example': 1.0 / batch_size}
  return max(round(amount * per_unit[match[2]]), 1) if amount else 0


def differences(stored: Mapping[str, Any], config: ml_collections.ConfigDict) -> list[str]:
  """What stands between a stored config and the one of a run that wants to resume from it.

  Args:
    stored: the config as JSON gives it back.
    config: the config now.

  Returns:
    `name: stored -> now`, for each field that must not change.
  """
  old, new = _lasting(stored), json.loads(json.dumps(_lasting(config)))
  absent = '(absent)'
  return [
    f'{name}: {old.get(name, absent)!r} -> {new.get(name, absent)!r}'
    for name in old | new
    if old.get(name, absent) != new.get(name, absent)
  ]


def fingerprint(config: ml_collections.ConfigDict) -> str:
  """Hash of every field that decides what a run computes, hence of none that may change."""
  return hashlib.sha256(json.dumps(_lasting(config), sort_keys=True).encode()).hexdigest()


def _lasting(config: ml_collections.ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
  """The fields that a run keeps for its whole life."""
  return {
    name: value
    for name, value in flatten(config).items()
    if not any(name == field or name.startswith(f'{field}.') for field in _MAY_CHANGE)
    and not (name in _BEFORE and value == _BEFORE[name])
  }


def inputs(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Weights and test sets as they are named: what results depend on beside the fingerprint.

  Where a set's files lie (`root`) does not matter.
  """
  tests = {name: spec.to_dict() for name, spec in config.data.tests.items() if spec.manifest}
  return {
    'backbone.weights': config.backbone.weights,
    'data.tests': {
      name: {field: value for field, value in spec.items() if field != 'root'}
      for name, spec in tests.items()
    },
  }
