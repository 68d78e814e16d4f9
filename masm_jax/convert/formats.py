"""Effort, GenD and DeepfakeBench's CLIP baseline: from a file to plain parameters."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from masm_jax import backbones, files, tree
from masm_jax.convert.states import State, read_state
from masm_jax.data.crop_settings import CropSettings
from masm_jax.errors import UserError
from masm_jax.inference import detector_schema
from masm_jax.methods import ln

# How DeepfakeBench and GenD cut faces.
_BENCH_CROPS = (CropSettings('deepfakebench', 1.3, 256),)
_GEND_CROPS = (CropSettings('gend', 1.3, 0),)

_RESIDUAL = ('U_residual', 'S_residual', 'V_residual')
_FACTORS = re.compile(r'(.+)\.(weight_main|[USV]_(?:residual|r))')


@dataclasses.dataclass(frozen=True)
class Converted:
  """A detector of another program.

  Attributes:
    method: how it was trained, as this program calls it.
    backbone: the preset.
    normalize_features: whether features have length 1 before the head.
    params: plain parameters `{'backbone': ..., 'head': ...}`, float32.
    trainable_parameters: how many its authors' code trains.
    crops: how its faces were cut; () for detectors of whole images.
    origin: its run, where that is known.
    config: of that run, for the record.
  """

  method: str
  backbone: backbones.Backbone
  normalize_features: bool
  params: dict[str, Any]
  trainable_parameters: int
  crops: tuple[CropSettings, ...]
  origin: detector_schema.Origin | None = None
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def effort(path: pathlib.Path) -> Converted:
  """Effort (arXiv 2411.15633): its detectors of faces, of UniversalFakeDetect and of GenImage.

  The residual of each attention kernel is folded in, `W = weight_main + U diag(S) V`.
  """
  state = read_state(path)
  of_images = 'fc.weight' in state  # The form of UniversalFakeDetect.
  state, head = _split_head(state, 'fc' if of_images else 'head', path)
  # Beside the vision tower that form has the whole of CLIP.
  state = {
    name.removeprefix('backbone.').removeprefix('model.'): value for name, value in state.items()
  }
  folded, num_residual = _fold(state, path)
  preset, params = _backbone(folded, path)
  return Converted(
    method='effort',
    backbone=preset,
    normalize_features=False,
    params={'backbone': params, 'head': head},
    trainable_parameters=num_residual + tree.param_count(head),
    crops=() if of_images else _BENCH_CROPS,
  )


def gend(path: pathlib.Path) -> Converted:
  """GenD (arXiv 2508.06248) on CLIP, DINOv2, DINOv3 or Perception Encoder, with its config.json."""
  config_path = (path if path.is_dir() else path.parent) / 'config.json'
  config = files.read_json(config_path)
  if config.get('head') not in ('linear', 'LinearNorm'):
    raise UserError(
      f'{config_path} is no config of GenD: its head is neither linear nor LinearNorm'
    )
  base = str(config.get('backbone', ''))
  if 'clip' in base.lower() and not base.startswith('openai/'):
    raise UserError(
      f"{config_path}: the backbone {base!r} is not OpenAI's CLIP, whose activation the presets"
      ' have'
    )
  state, head = _split_head(read_state(path), 'model.linear', path)
  prefixes = r'feature_extractor\.(backbone\.)?'
  state = {re.sub(f'^{prefixes}', '', name): value for name, value in state.items()}
  preset, params = _backbone(state, path)
  whole = tree.flatten({'backbone': params, 'head': head})
  trained = [leaf.size for name, leaf in whole.items() if tree.match_any(ln.PATTERNS, name)]
  return Converted(
    method='gend',
    backbone=preset,
    normalize_features=config['head'] == 'LinearNorm',
    params={'backbone': params, 'head': head},
    trainable_parameters=sum(trained),
    crops=_GEND_CROPS,
  )


def deepfakebench(path: pathlib.Path) -> Converted:
  """DeepfakeBench's baseline `clip`: the whole vision tower fine-tuned, and a head."""
  state, head = _split_head(read_state(path), 'head', path)
  state = {name.removeprefix('backbone.'): value for name, value in state.items()}
  preset, params = _backbone(state, path)
  return Converted(
    method='full',
    backbone=preset,
    normalize_features=False,
    params={'backbone': params, 'head': head},
    trainable_parameters=tree.param_count(params) + tree.param_count(head),
    crops=_BENCH_CROPS,
  )


# Name on the command line -> what reads it.
FORMATS: Mapping[str, Callable[[pathlib.Path], Converted]] = {
  'effort': effort,
  'gend': gend,
  'deepfakebench': deepfakebench,
}


def _split_head(state: State, name: str, path: pathlib.Path) -> tuple[State, dict[str, np.ndarray]]:
  """What is left of a state without its head, and the head's `kernel [D, 2]` and `bias [2]`.

  Of a head with one output, the logit of fake, the logit of real is 0.
  """
  rest = dict(state)
  try:
    weight, bias = rest.pop(f'{name}.weight'), rest.pop(f'{name}.bias')
  except KeyError as error:
    raise UserError(f'{path} has no {error.args[0]}: it is another kind of detector') from error
  if weight.ndim != 2 or weight.shape[0] not in (1, 2) or bias.shape != weight.shape[:1]:
    raise UserError(
      f'{path}: {name}.weight is {list(weight.shape)}, its bias {list(bias.shape)}: a head has one'
      ' output or two'
    )
  if len(weight) == 1:
    weight = np.concatenate([np.zeros_like(weight), weight])
    bias = np.concatenate([np.zeros_like(bias), bias])
  if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
    raise UserError(f'{path}: {name} holds values that are not finite')
  return rest, {'kernel': np.ascontiguousarray(weight.T), 'bias': bias}


def _fold(state: State, path: pathlib.Path) -> tuple[State, int]:
  """A state with plain weights in the place of Effort's factors, and how many it trained."""
  folded, num_trained, parts = {}, 0, {}
  for name, value in state.items():
    if found := _FACTORS.fullmatch(name):
      parts.setdefault(found[1], {})[found[2]] = value
    else:
      folded[name] = value
  if not parts:
    raise UserError(f'{path} has no weight_main: it is no detector of Effort')
  wrong = []
  for owner, factors in parts.items():
    try:
      main = factors['weight_main'].astype(np.float64)
      u, s, v = (factors[name].astype(np.float64) for name in _RESIDUAL)
      folded[f'{owner}.weight'] = (main + (u * s) @ v).astype(np.float32)
    except KeyError as error:
      wrong.append(f'{owner} lacks {error.args[0]}')
    except ValueError:
      shapes = {name: list(value.shape) for name, value in factors.items()}
      wrong.append(f'{owner} does not go together: {shapes}')
    else:
      num_trained += u.size + s.size + v.size
  if wrong:
    raise UserError(f'{path}: {"; ".join(wrong)}')
  return folded, num_trained


def _backbone(state: State, path: pathlib.Path) -> tuple[backbones.Backbone, dict[str, Any]]:
  """The preset that a state is of, and its parameters at the preset's image size."""
  fitting = backbones.fitting_presets({name: value.shape for name, value in state.items()})
  if not fitting:
    # The error of the preset with the fewest problems would be one of many: CLIP L/14's is told.
    backbones.from_arrays(state, backbones.get_preset('clip_l14'), path)
    raise UserError(f'{path} fits none of the backbones')
  preset = backbones.get_preset(fitting[0])
  return preset, backbones.from_arrays(state, preset, path)
