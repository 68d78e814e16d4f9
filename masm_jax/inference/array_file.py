"""Safetensors files beside a note: hashes, names, types and shapes are checked before use."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import safetensors
import safetensors.numpy

from masm_jax import files, plain_files
from masm_jax.errors import UserError
from masm_jax.inference.detector_schema import Blob

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]  # Name -> type and shape.
Read = Callable[[str], np.ndarray]


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> Blob:
  """Writes arrays whole; returns what to note of the file."""
  files.write_arrays(path, arrays)
  return Blob(sha256=plain_files.sha256(path), bytes=path.stat().st_size)


def check_file(path: pathlib.Path) -> None:
  """Refuses what is no plain file: a pipe would be waited for, a device has no end."""
  if not path.is_file():
    raise UserError(f'there is no file {path.name}: copy the whole folder')


@contextlib.contextmanager
def opened(
  path: pathlib.Path, blob: Blob
) -> Iterator[tuple[dict[str, tuple[str, tuple[int, ...]]], Read]]:
  """Types and shapes of a safetensors file whose hash is right, and a function that reads one."""
  check_file(path)
  size = path.stat().st_size
  if size != blob.bytes or plain_files.sha256(path) != blob.sha256:
    raise UserError(f'{path.name} is not the file that its note was written with: copy both again')
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      found = {}
      for name in file.keys():  # noqa: SIM118 (a safetensors handle cannot be iterated)
        view = file.get_slice(name)
        found[name] = (view.get_dtype(), tuple(view.get_shape()))
      yield found, file.get_tensor
  except safetensors.SafetensorError as error:
    raise UserError(f'{path.name} is no whole safetensors file: {one_line(str(error))}') from error


def check_shapes(path: pathlib.Path, found: Shapes, wanted: Shapes) -> None:
  """Refuses a file that holds other arrays than the wanted ones."""
  if missing := sorted(wanted.keys() - found.keys()):
    raise UserError(f'{path.name} lacks {one_line(missing[0])} and {len(missing) - 1} other arrays')
  if strange := sorted(found.keys() - wanted.keys()):
    raise UserError(f'{path.name} holds {one_line(strange[0])}, which is none of its arrays')
  for name, (dtype, shape) in wanted.items():
    if found[name] != (dtype, tuple(shape)):
      raise UserError(
        f'{path.name}: {name} is {found[name][0]} {list(found[name][1])}, not {dtype} {list(shape)}'
      )


def finite(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
  """The array; refuses nan and infinity."""
  if not np.isfinite(array).all():
    raise UserError(f'{path.name}: {name} holds values that are not finite')
  return array


def one_line(text: str) -> str:
  """A stranger's text as part of an error."""
  return ascii(text)[1:-1][:200]
