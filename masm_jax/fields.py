"""What each field of a config may hold: the closed list of what a config decides.

A config may be a stranger's: a run's folder stores one. Each field has a type and a range, wherever
the config comes from; nothing that stands in it is a program, and no number is so large that it
alone keeps a machine busy.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

CHOICES: Mapping[str, tuple[str, ...]] = {
  'subspace.split': ('interleaved', 'contiguous'),
  'subspace.forward': ('auto', 'factored', 'materialized'),
  'subspace.parametrization': ('svd', 'balanced', 'core'),
  'mask.kind': ('dynamic', 'oneshot', 'inverse', 'random', 'all', 'none'),
  'mask.score': ('bvr', 'bvr_unbiased', 'gsnr', 'rgn', 'grad_norm', 'forgery'),
  'mask.select': ('per_subspace', 'per_layer', 'global'),
  'mask.keep_by': ('share', 'score'),
  'mask.granularity': ('block', 'block_subspace', 'kernel_subspace'),
  'regularizer.spectral_kind': ('energy', 'singular_values'),
  'regularizer.energy_of': ('artifact', 'kernel'),
  'regularizer.mode': ('loss', 'decoupled', 'exact'),
  'optim.name': ('adam', 'adamw'),
  'optim.schedule': ('constant', 'cosine'),
  'optim.decay_towards': ('zero', 'start'),
  'backbone.dtype': ('auto', 'float32', 'bfloat16'),
  'data.sampler': ('uniform', 'balanced', 'per_method', 'paired'),
  'data.augment': ('none', 'flip', 'deepfakebench', 'effort', 'gend', 'sbi'),
  'eval.select_by': ('frame_auroc', 'frame_ap', 'video_auroc', 'video_ap'),
}

DURATIONS = (
  'optim.warmup',
  'optim.restart_every',
  'train.duration',
  'eval.every',
  'checkpoint.every',
)

_TRUTH = (
  *('deterministic', 'backbone.remat', 'head.normalize_features', 'subspace.keep_factors'),
  *('regularizer.relative_energy', 'regularizer.squared', 'eval.on_train'),
)

MANY = 10**12  # Steps, or examples: more than any machine has done.
_WIDE = 2**16  # More than any model is wide.

# Whole numbers from ... to ...
_WHOLE: Mapping[str, tuple[int, int]] = {
  'seed': (0, 2**63 - 1),
  'backbone.image_size': (0, 4096),
  'subspace.num_subspaces': (1, _WIDE),
  'subspace.rank': (1, _WIDE),
  'subspace.semantic_rank': (0, _WIDE),
  'lora.rank': (1, _WIDE),
  'mask.keep_count': (0, MANY),
  'mask.probe_batches': (2, 10**6),
  'mask.head_batches': (0, 10**6),
  'mask.warmup_steps': (2, MANY),
  'mask.close_steps': (0, MANY),
  'mask.refresh_steps': (1, MANY),
  'data.num_workers': (0, 1024),
  'data.num_threads': (1, 1024),
  'data.synthetic.seed': (0, 2**63 - 1),
  'data.synthetic.identities': (1, 10**5),
  'data.synthetic.size_px': (32, 512),
  'train.batch_size': (1, 2**20),
  'eval.batch_size': (1, 2**16),
  'checkpoint.keep': (1, 10**6),
  'log.every_steps': (1, MANY),
  'mesh.fsdp': (1, 2**20),
}

_LARGE = 1e12  # Of a weight or a rate: not infinite, that is all.

# Numbers from ... to ...
_NUMBERS: Mapping[str, tuple[float, float]] = {
  'head.label_smoothing': (0.0, 0.999),
  'loss.alignment': (0.0, _LARGE),
  'loss.uniformity': (0.0, _LARGE),
  'lsda.weight': (0.0, _LARGE),
  'lsda.within': (0.0, _LARGE),
  'lsda.noise': (0.0, _LARGE),
  'lsda.cross': (0.0, 1.0),
  'subspace.semantic_energy': (1e-9, 1.0),
  'lora.alpha': (0.0, _LARGE),
  'lora.dropout': (0.0, 0.999),
  'mask.keep': (1e-9, 1.0),
  'mask.hysteresis': (0.0, _LARGE),
  'mask.decay': (0.0, 0.999999),
  'mask.eps': (1e-38, 1.0),
  'regularizer.orthogonality': (0.0, _LARGE),
  'regularizer.spectral': (0.0, _LARGE),
  'regularizer.w_self': (0.0, _LARGE),
  'regularizer.w_cross': (0.0, _LARGE),
  'regularizer.w_sem': (0.0, _LARGE),
  'optim.learning_rate': (1e-12, 1e38),  # What float32 holds.
  'optim.b1': (0.0, 0.999999),
  'optim.b2': (0.0, 0.999999999),
  'optim.eps': (1e-38, _LARGE),
  'optim.weight_decay': (0.0, _LARGE),
  'optim.clip_norm': (0.0, _LARGE),
  'optim.warmup_from': (0.0, _LARGE),
  'optim.final_learning_rate': (0.0, _LARGE),
  'data.max_replaced_share': (0.0, 1.0),
  'data.synthetic.strength': (0.01, 4.0),
}

_LONGEST = 4096  # Letters of a path.

# Texts, by how long they may be.
_TEXTS: Mapping[str, int] = {
  **{'method': 100, 'backbone.name': 100, 'subspace.targets': 1000, 'lora.targets': 1000},
  **dict.fromkeys(('backbone.weights', 'subspace.cache_dir', 'data.synthetic.root'), _LONGEST),
  **dict.fromkeys(DURATIONS, 100),
  **dict.fromkeys(CHOICES, 100),
}

# Of each data set.
_SET_TEXTS = {'manifest': _LONGEST, 'root': _LONGEST, 'split': 100, 'dataset': 1000}
_SET_FIELDS = {*_SET_TEXTS, 'methods'}  # `flagged` came later.
_MAX_SETS = 1000
_MAX_METHODS = 1000
_MAX_SET_BYTES = 200  # Of 255 that a file's name may have.
_SET_NAME = re.compile(r'[\w.+-]{1,100}')


# A config of a run that lacks one of these is none.
REQUIRED = (*CHOICES, *_TRUTH, *_WHOLE, *_NUMBERS, *_TEXTS)


def problems(flat: Mapping[str, Any]) -> list[str]:
  """What is wrong with the values of a config, by field; fields that are not there are passed by.

  Args:
    flat: `{'optim.learning_rate': 2e-4, ...}`. Fields that the program does not know decide
      nothing, and may hold anything.
  """
  found = []
  for name, choices in CHOICES.items():
    if name in flat and flat[name] not in choices:
      found.append(f'{name} = {_shown(flat[name])}: choose one of {", ".join(choices)}')
  for name, value in flat.items():
    if problem := _problem(name, value):
      found.append(f'{name} = {_shown(value)}: {problem}')
  return found


def whole_range(name: str) -> tuple[int, int]:
  """The lowest and the highest value of a field that is a whole number."""
  return _WHOLE[name]


def set_problems(sets: Mapping[str, Any]) -> list[str]:
  """What is wrong with a group of data sets, each a mapping, by their names."""
  if len(sets) > _MAX_SETS:
    return [f'{len(sets)} sets; at most {_MAX_SETS} can be tested at once']
  found = []
  for name, spec in sets.items():
    shown = ascii(name)[1:-1][:80]
    if not is_set_name(name):
      found.append(f'{shown}: {SET_NAMES}')
    elif lacks := sorted(_SET_FIELDS - set(spec if hasattr(spec, 'items') else ())):
      found.append(f'{shown}: it lacks {lacks[0]}')
  return found


SET_NAMES = (
  f'a set is named by letters, digits and . _ + -, in at most {_MAX_SET_BYTES} bytes, and not by'
  ' dots alone'
)


def is_set_name(name: str) -> bool:
  """Whether a data set may be called so: files of its scores are named after it."""
  is_short = bool(_SET_NAME.fullmatch(name)) and len(name.encode()) <= _MAX_SET_BYTES
  return is_short and bool(name.strip('.'))


def _problem(name: str, value: Any) -> str:
  """What is wrong with the value of a field; '' where nothing is, or the field is not known."""
  group, _, field = name.rpartition('.')
  if re.fullmatch(r'data\.(train|val|tests\..+)', group):
    if field in _SET_TEXTS:
      return _text_problem(value, _SET_TEXTS[field])
    if field == 'methods':
      return _texts_problem(value)
    return '' if field != 'flagged' or isinstance(value, bool) else 'it is True or False'
  for fields, problem in _BY_TYPE:
    if name in fields:
      return problem(value, fields[name])
  if name in _TRUTH and not isinstance(value, bool):
    return 'it is True or False'
  return ''


def _whole_problem(value: Any, limits: tuple[int, int]) -> str:
  low, high = limits
  if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
    return ''
  return f'it must be at least {low} and at most {high}, and whole'


def _number_problem(value: Any, limits: tuple[float, float]) -> str:
  low, high = limits
  if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
    return ''  # Of nan, neither holds.
  return f'it must be at least {low} and at most {high}'


def _text_problem(value: Any, longest: int) -> str:
  if not isinstance(value, str):
    return 'it must be text'
  if len(value) > longest:
    return f'it must be at most {longest} characters long'
  # A surrogate may stand for a byte of a file's name; nothing else that no line can hold.
  if not all(letter.isprintable() or '\udc80' <= letter <= '\udcff' for letter in value):
    return 'it must be on one line, without control characters'
  return ''


def _texts_problem(value: Any) -> str:
  if not isinstance(value, list | tuple) or len(value) > _MAX_METHODS:
    return f'it must be a list of at most {_MAX_METHODS} texts'
  return next(filter(None, (_text_problem(item, 1000) for item in value)), '')


_BY_TYPE: tuple[tuple[Mapping[str, Any], Callable[[Any, Any], str]], ...] = (
  (_WHOLE, _whole_problem),
  (_NUMBERS, _number_problem),
  ({name: longest for name, longest in _TEXTS.items() if name not in CHOICES}, _text_problem),
)


def _shown(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 80 else f'{text[:60]}... ({len(text)} characters)'
