"""Bits that flip in files, as a disk or a cable flips them."""

import pathlib

import numpy as np


def flip(path: pathlib.Path, bit: int) -> None:
  """Turns one bit of a file."""
  data = bytearray(path.read_bytes())
  data[bit // 8] ^= 1 << bit % 8
  path.write_bytes(data)


def places(folder: pathlib.Path, count: int, seed: int) -> list[tuple[pathlib.Path, int]]:
  """Random bits of the files below a folder, each file as often as the others: (path, bit)."""
  files = sorted(path for path in folder.rglob('*') if path.is_file() and path.stat().st_size)
  rng = np.random.default_rng(seed)
  order = [files[i] for _ in range(-(-count // len(files))) for i in rng.permutation(len(files))]
  return [
    (path.relative_to(folder), int(rng.integers(8 * path.stat().st_size))) for path in order[:count]
  ]
