"""Small disks that fill up, and grow; what commands leave on a disk."""

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from masm_jax import processes


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, kilobytes: int) -> Iterator[pathlib.Path]:
  """A file system of that size at a folder, for as long as the block runs."""
  folder.mkdir(parents=True, exist_ok=True)
  mount = ['mount', '-t', 'tmpfs', '-o', f'size={kilobytes}k', 'tmpfs', str(folder)]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('needs the right to mount a tmpfs')
  try:
    yield folder
  finally:
    subprocess.run(['umount', '-l', str(folder)], check=True)


def grow(folder: pathlib.Path, kilobytes: int) -> None:
  """Makes room on a small disk."""
  options = f'remount,size={kilobytes}k'
  subprocess.run(['mount', '-o', options, str(folder)], check=True)


def unfinished(path: pathlib.Path, pid: int = 2**22 + 1) -> pathlib.Path:
  """What a process was writing a file to; by default one that was killed: numbers end below it."""
  return path.with_name(f'.{path.name}.{processes.mark(pid)}.0011223344556677.partial')


def leftovers(folder: pathlib.Path) -> list[str]:
  """Names of files and folders below a folder that a command should not have left."""
  words = ('.partial', 'incomplete', '.lock', '.writing-', '.tmp', '-tmp')
  return sorted(
    str(path.relative_to(folder))
    for path in folder.rglob('*')
    if any(word in path.name for word in words)
  )
