"""Reads and writes the published weights of a backbone (safetensors; no torch needed).

Names and shapes are checked in both directions: everything that the model needs must be in the
file, everything in the file must be used or be listed as ignorable. All problems are collected
before one error is raised.
"""

import concurrent.futures
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import safetensors
from absl import logging
from flax import traverse_util

from masm_jax import plain_files
from masm_jax.backbones import flax_names, mapped
from masm_jax.backbones.backbone import Backbone, KeyTable, Shape, Transform, param_shapes
from masm_jax.backbones.presets import PRESETS
from masm_jax.errors import UserError

_FLOATS = ('F64', 'F32', 'F16', 'BF16')
_LAYER = re.compile(r'(?<=[._])\d+(?=[./])')


def load_weights(
  path: str | os.PathLike[str], backbone: Backbone, image_size: int | None = None
) -> dict[str, Any]:
  """Reads the weights of `backbone` from a safetensors file, or a `.npz` or `.msgpack` of Flax.

  Arrays that `backbone.resamples` names may be of another grid, and are resampled.

  Args:
    path: the file, in the names of the preset's published format.
    backbone: the preset.
    image_size: side of the images that the model is to take, in pixels; the preset's own by
      default. The model must be built from `backbone.with_image_size(image_size)`.

  Returns:
    The parameters of the backbone's module as a nested dict of float32 arrays.

  Raises:
    UserError: no such file, not a whole safetensors file, or names, shapes or values that do not
      fit; the message names all of them, or the preset that the file is of.
  """
  file_path = _existing_file(path, backbone)
  if image_size is not None:
    backbone = backbone.with_image_size(image_size)
  if file_path.suffix in flax_names.SUFFIXES:
    return from_arrays(flax_names.read_arrays(file_path), backbone, file_path)
  try:
    with safetensors.safe_open(file_path, framework='numpy') as file:
      views = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
      found = {name: tuple(view.get_shape()) for name, view in views.items()}
      types = {name: view.get_dtype() for name, view in views.items()}
      arrays = mapped.arrays(file_path)

      def read(name: str) -> np.ndarray:
        return arrays[name] if name in arrays else file.get_tensor(name)

      return _read(found, types, read, file_path, backbone)
  except safetensors.SafetensorError as error:
    raise UserError(_damaged(file_path, backbone, error)) from error
  except OSError as error:
    raise UserError(f'{file_path} cannot be read: {error}') from error


def from_arrays(
  arrays: Mapping[str, np.ndarray], backbone: Backbone, place: str | os.PathLike[str]
) -> dict[str, Any]:
  """As `load_weights`, from float32 arrays in published names; `place` is what errors call it."""
  types = {name: 'F32' if x.dtype == np.float32 else str(x.dtype) for name, x in arrays.items()}
  found = {name: array.shape for name, array in arrays.items()}
  return _read(found, types, arrays.__getitem__, pathlib.Path(place), backbone)


def fitting_presets(found: Mapping[str, Shape]) -> list[str]:
  """Names of the presets that a file of these names and shapes is of."""
  return [name for name, preset in PRESETS.items() if _fits(found, preset)]


def _read(
  found: Mapping[str, Shape],
  types: Mapping[str, str],
  read: Callable[[str], np.ndarray],
  path: pathlib.Path,
  backbone: Backbone,
) -> dict[str, Any]:
  targets = param_shapes(backbone.config)
  keys = _matching_keys(found, types, path, backbone)
  not_finite = []
  flat = {name: np.zeros(targets[name], np.float32) for name in _zeros(keys, targets)}
  names = {_without_prefix(name, keys): name for name in found}

  def load(source: str, rule: tuple[tuple[str, ...], Transform]) -> dict[str, np.ndarray]:
    """The parameters that one published array holds."""
    paths, transform = rule
    array = read(names[source]).astype(np.float32, copy=False)
    if not np.isfinite(array).all():
      not_finite.append((names[source], 'holds values that are not finite'))
    values = {}
    for target, value in zip(paths, transform.load(array), strict=True):
      if target in backbone.resamples and value.shape != targets[target]:
        before = value.shape[-2]
        value = backbone.resamples[target].apply(value, targets[target])
        logging.info('%s: %s resampled from %s to %s tokens', path, target, before, value.shape[-2])
      # A copy in any case: the file may change while the parameters are in use.
      values[target] = value.copy() if value.flags.c_contiguous else _contiguous(value)
    return values

  rules = keys.expand(backbone.config.depth)
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for values in pool.map(load, rules, rules.values()):  # NumPy frees the GIL as it copies.
      flat |= values
  if not_finite:
    raise UserError(f'{path} does not hold usable weights: {_listing(sorted(not_finite))}')
  return traverse_util.unflatten_dict(flat, sep='/')


def export_weights(params: Mapping[str, Any], backbone: Backbone) -> dict[str, np.ndarray]:
  """The inverse of `load_weights`: parameters under their published names.

  Args:
    params: plain (merged) parameters of the backbone's module, without any head.
    backbone: the preset, at the image size that the parameters are for.

  Returns:
    `{published name: array}`, contiguous, in the dtype of the parameters; what
    `safetensors.numpy.save_file` takes.

  Raises:
    UserError: the parameters are not those of the backbone.
  """
  flat = {
    path: np.asarray(leaf)
    for path, leaf in traverse_util.flatten_dict(dict(params), sep='/').items()
  }
  expected = param_shapes(backbone.config)
  problems = _compare({path: leaf.shape for path, leaf in flat.items()}, expected)
  if problems:
    raise UserError(f'these are no parameters of {backbone.name}: {_listing(problems)}')
  return {
    backbone.keys.prefix + source: _contiguous(transform.export(*(flat[path] for path in paths)))
    for source, (paths, transform) in backbone.keys.expand(backbone.config.depth).items()
  }


def _contiguous(array: np.ndarray) -> np.ndarray:
  """A C-contiguous array; transposed matrices in strips, 4 to 6 times as fast as in one copy."""
  if array.ndim != 2 or array.flags.c_contiguous:
    return np.ascontiguousarray(array)
  copy = np.empty(array.shape, array.dtype)
  for start in range(0, array.shape[1], 16):
    copy[:, start : start + 16] = array[:, start : start + 16]
  return copy


def weights_hash(path: str | os.PathLike[str]) -> str:
  """SHA-256 of a file, in hexadecimal: what names the base weights of a run."""
  return plain_files.sha256(path)


def _existing_file(path: str | os.PathLike[str], backbone: Backbone) -> pathlib.Path:
  get_them = f'to get them, {backbone.source}; then set config.backbone.weights to the file'
  if not path:
    raise UserError(f'no weights are given for the backbone {backbone.name}: {get_them}')
  file_path = pathlib.Path(path)
  if file_path.is_dir():
    raise UserError(f'{file_path} is a folder, not the weights of {backbone.name}: {get_them}')
  if not file_path.is_file():
    raise UserError(f'the weights of {backbone.name} are not at {file_path}: {get_them}')
  return file_path


def _damaged(path: pathlib.Path, backbone: Backbone, error: Exception) -> str:
  with plain_files.open_file(path) as file:
    start = file.read(64)
  if start.startswith(b'version https://git-lfs'):
    why = "is Git LFS's pointer to the weights, not the weights"
  elif start[8:9] != b'{':  # The format: eight bytes with the length of a JSON header, the header.
    why = 'is not a safetensors file'
  else:
    why = f'is a truncated or damaged safetensors file ({path.stat().st_size:,} bytes; {error})'
  return f'{path} {why}: to get the weights of {backbone.name}, {backbone.source}'


def _matching_keys(
  found: Mapping[str, Shape], types: Mapping[str, str], path: pathlib.Path, backbone: Backbone
) -> KeyTable:
  """The names that a file is written in.

  Raises:
    UserError: it fits none of them; the problems are those with the names that come closest.
  """
  problems_of = []
  for keys in (backbone.keys, *backbone.other_keys):
    problems = [
      (name, f'is of type {kind}, not a float of 16 bits or more')
      for name, kind in types.items()
      if kind not in _FLOATS and not _is_ignored(name, keys)
    ]
    problems += _check(found, keys, backbone)
    if not problems:
      return keys
    problems_of.append(problems)
  raise UserError(_explain(min(problems_of, key=len), found, path, backbone))


def _zeros(keys: KeyTable, targets: Iterable[str]) -> list[str]:
  """The parameters that the format leaves out because they are 0."""
  return [path for path in targets if any(re.fullmatch(zero, path) for zero in keys.zeros)]


def _without_prefix(name: str, keys: KeyTable) -> str:
  return name.removeprefix(keys.prefix)


def _is_ignored(name: str, keys: KeyTable) -> bool:
  short = _without_prefix(name, keys)
  return any(re.fullmatch(pattern, short) for pattern in keys.ignored)


def _source_shapes(keys: KeyTable, backbone: Backbone) -> dict[str, Shape]:
  """The shape of every published array, from the shapes of the model's parameters."""
  targets = param_shapes(backbone.config)
  shapes = {}
  for source, (paths, transform) in keys.expand(backbone.config.depth).items():
    # Arrays of one byte per element that nobody reads: only their layout is asked for.
    shapes[source] = transform.export(*(np.empty(targets[path], bool) for path in paths)).shape
  return shapes


def _check(found: Mapping[str, Shape], keys: KeyTable, backbone: Backbone) -> list[tuple[str, str]]:
  """All the ways in which the arrays of a file do not fit, as (name, what is wrong with it)."""
  expected = _source_shapes(keys, backbone)
  problems = []
  shapes: dict[str, Shape] = {}
  for name, shape in found.items():
    short = _without_prefix(name, keys)
    if short in shapes:
      problems.append((name, 'is there twice, with and without its prefix'))
    elif short in expected or not _is_ignored(name, keys):
      shapes[short] = shape
  targets = param_shapes(backbone.config)
  for name, (paths, transform) in keys.rules.items():
    resample = backbone.resamples.get(paths[0])
    if not resample or name not in shapes or len(shapes[name]) != len(expected[name]):
      continue
    (loaded,) = transform.load(np.empty(shapes[name], bool))
    if resample.fits(loaded.shape, targets[paths[0]]):
      expected[name] = shapes[name]
  return problems + _compare(shapes, expected)


def _compare(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> list[tuple[str, str]]:
  problems = [(name, 'is missing') for name in expected if name not in found]
  problems += [(name, 'is not part of the model') for name in found if name not in expected]
  for name, shape in expected.items():
    if found.get(name, shape) != shape:
      problems.append((name, f'is {list(found[name])}, not {list(shape)}'))
  return problems


def _explain(
  problems: Iterable[tuple[str, str]],
  found: Mapping[str, Shape],
  path: pathlib.Path,
  backbone: Backbone,
) -> str:
  others = {name: preset for name, preset in PRESETS.items() if name != backbone.name}
  fits = [name for name, preset in others.items() if _fits(found, preset)]
  if fits:
    return (
      f'{path} does not fit the backbone {backbone.name}: it is a file of {" or ".join(fits)}; set '
      'config.backbone.name to that, or give the other file'
    )
  if other := backbone.refuses(found):
    return f'{path} does not fit the backbone {backbone.name}: it is a file of {other}'
  return (
    f'{path} does not fit the backbone {backbone.name} (to get its weights, {backbone.source}): '
    f'{_listing(problems)}'
  )


def _fits(found: Mapping[str, Shape], preset: Backbone) -> bool:
  """Whether a file is one of `preset`, down to the grid of its position embeddings."""
  if preset.published_size is not None:
    preset = preset.with_image_size(preset.published_size)
  return any(
    _has_names(found, keys, preset)
    and not _check(found, keys, preset)
    and all(
      found.get(name, found.get(keys.prefix + name)) == shape
      for name, shape in _source_shapes(keys, preset).items()
    )
    for keys in (preset.keys, *preset.other_keys)
  )


def _has_names(found: Mapping[str, Shape], keys: KeyTable, preset: Backbone) -> bool:
  """Whether a file has all names of a format, which is soon known."""
  return all(
    name in found or keys.prefix + name in found for name in keys.expand(preset.config.depth)
  )


def _listing(problems: Iterable[tuple[str, str]]) -> str:
  """All problems in one line; those that differ by the number of the block alone as one entry."""
  groups: dict[tuple[str, str], list[str]] = {}
  for name, wrong in problems:
    numbers = _LAYER.findall(name)
    pattern = _LAYER.sub('{}', name, count=1) if numbers else name
    groups.setdefault((pattern, wrong), []).extend(numbers[:1])
  entries = []
  for (pattern, wrong), numbers in groups.items():
    entries.append(f'{pattern.replace("{}", _ranges(numbers), 1) if numbers else pattern} {wrong}')
  return '; '.join(entries)


def _ranges(numbers: Iterable[str]) -> str:
  """'3' for one number, '{0-3,7}' for several."""
  runs: list[list[str]] = []
  for number in sorted(numbers, key=int):
    if runs and int(number) == int(runs[-1][-1]) + 1:
      runs[-1].append(number)
    else:
      runs.append([number])
  parts = [run[0] if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in runs]
  return parts[0] if runs == [runs[0][:1]] else '{' + ','.join(parts) + '}'
