"""Small disks that fill up, and grow."""

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator

import pytest


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


def leftovers(folder: pathlib.Path) -> list[str]:
  """Names of files and folders below a folder that a command should not have left."""
  words = ('.partial', 'incomplete', '.lock', '.writing-', '.tmp', '-tmp')
  return sorted(
    str(path.relative_to(folder))
    for path in folder.rglob('*')
    if any(word in path.name for word in words)
  )
