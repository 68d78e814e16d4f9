"""The arrays of a file that another program has written: safetensors, or a checkpoint of PyTorch.

A `.pth` file is a pickle, which could run any code. PyTorch reads it here with `weights_only=True`,
which takes nothing but tensors and plain containers; the rest of the program unpickles nothing.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors

from masm_jax import plain_files
from masm_jax.errors import UserError, first_line

State = dict[str, np.ndarray]

_CONTAINERS = ('state_dict', 'model', 'model_state_dict')
_PREFIX = 'module.'  # Of a model that was trained on several GPUs.
# Tensors may be views of others: layers share weights, and a bias may be one zero, read many times.
_TIMES_USED, _SMALL_BYTES = 4, 2**20
_WEIGHTS = 'model.safetensors'  # In a folder of transformers.
# What safetensors gives NumPy: no floats of 8 bits or fewer.
_TYPES = (
  *('F64', 'F32', 'F16', 'BF16', 'BOOL'),
  *('I64', 'I32', 'I16', 'I8', 'U64', 'U32', 'U16', 'U8'),
)


def read_state(path: pathlib.Path) -> State:
  """Names and arrays of a file, without containers and without `module.` before the names.

  Args:
    path: a `.safetensors` file, a folder of transformers, or a checkpoint of PyTorch.

  Returns:
    `{name: array}`; floats as float32, all else as it is.

  Raises:
    UserError: no such file, or one that cannot be read so.
  """
  if path.is_dir():
    path = path / _WEIGHTS
  if not path.is_file():
    raise UserError(f'there is no file {path}: give the file of the detector, or its folder')
  with plain_files.open_file(path) as file:
    is_safetensors = file.read(9)[8:9] == b'{'
  values = read_arrays(path)[1] if is_safetensors else _pickle(path)
  return {
    name.removeprefix(_PREFIX): value.astype(np.float32, copy=False)
    if value.dtype.kind in 'fV'
    else value
    for name, value in values.items()
  }


def read_arrays(path: pathlib.Path) -> tuple[dict[str, str], State]:
  """What a safetensors file says of itself, and its arrays by name, as they are.

  Raises:
    UserError: it is damaged, or holds numbers of a type that NumPy lacks.
  """
  try:
    plain_files.refuse_odd(path)
    with safetensors.safe_open(path, framework='numpy') as file:
      names = list(file.keys())
      for name in names:
        if (kind := file.get_slice(name).get_dtype()) not in _TYPES:
          raise UserError(f'{path}: {name} is of type {kind}; store it as F32, F16 or BF16')
      return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
  except (safetensors.SafetensorError, OSError) as error:
    raise UserError(f'{path} is a truncated or damaged safetensors file: {error}') from error


def _pickle(path: pathlib.Path) -> State:
  try:
    import torch
  except ImportError as error:
    raise UserError(
      f'{path} is a checkpoint of PyTorch: pip install torch reads it, here and nowhere else'
    ) from error
  try:
    with plain_files.open_file(path) as file:
      plain_files.refuse_bomb(file)
      size = os.fstat(file.fileno()).st_size
    value: Any = torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:  # Of many types: it may be any file, and it may want to run code.
    raise UserError(
      f'{path} is no file of tensors alone, and nothing else is read from a pickle:'
      f' {str(error).splitlines()[0][:200]}'
    ) from error
  for name in _CONTAINERS:
    if isinstance(value, Mapping) and isinstance(value.get(name), Mapping):
      value = value[name]
  if not isinstance(value, Mapping) or not all(map(torch.is_tensor, value.values())):
    raise UserError(f'{path} holds no state dict')
  total = sum(tensor.numel() * tensor.element_size() for tensor in value.values())
  if total > _TIMES_USED * size + _SMALL_BYTES:
    raise UserError(
      f'{path}: its tensors claim {total:,} bytes, the file has {size:,}: it is damaged, or they'
      ' are views of each other, which must be copied before they are saved'
    )
  try:
    return {
      str(name): (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
      for name, tensor in value.items()
    }
  except (TypeError, ValueError, RuntimeError) as error:  # Sparse, quantized, without data, ...
    raise UserError(
      f'{path} holds tensors that are no plain arrays: {first_line(error)}'
    ) from error
