"""The record that is needed to repeat a run: config, data, versions, commit, devices."""

import importlib.metadata
import pathlib
import platform
import re
import subprocess
from collections.abc import Mapping
from typing import Any

import masm_jax
from masm_jax.files import to_json

PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'grain',
  'numpy',
  'scikit-learn',
  'opencv-python-headless',
  'pillow',
)
_COMMIT = re.compile('[0-9a-f]{40}([0-9a-f]{24})?')  # By SHA-1, or by SHA-256.


def run_record(config: Any, manifest_hashes: Mapping[str, str]) -> dict[str, Any]:
  """The record of a run, in plain JSON types and without times.

  Args:
    config: the resolved config, an `ml_collections.ConfigDict` or a mapping.
    manifest_hashes: SHA-256 by data set.

  Returns:
    `config`; `manifest_sha256`; `versions` (None where a package is missing), `python`,
    `platform`; `git`: commit and whether tracked files were changed, None when the package does
    not run from a checkout; `devices`: backend, kind, number, and number of hosts. It starts JAX.

  Raises:
    TypeError: if the config holds what JSON cannot.
  """
  if hasattr(config, 'to_dict'):
    config = config.to_dict()
  return to_json(
    {
      'config': config,
      'manifest_sha256': dict(manifest_hashes),
      'versions': {
        'masm_jax': masm_jax.__version__,
        **{package: _version(package) for package in PACKAGES},
      },
      'python': platform.python_version(),
      'platform': platform.platform(),
      'git': git_state(),
      'devices': _devices(),
    }
  )


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def git_state(file: pathlib.Path | None = None) -> dict[str, Any] | None:
  """The checkout that code runs from: `commit` and `changed_files`; None where git names none.

  Args:
    file: of the code; this one by default.
  """
  file = file or pathlib.Path(__file__).resolve()
  # An installed copy may lie in the virtual environment of some other repository, whose commit says
  # nothing about this code: only a tracked file counts.
  if _git(file, 'ls-files', '--error-unmatch', file.name) is None:
    return None
  commit = _git(file, 'rev-parse', 'HEAD')
  if commit is None or not _COMMIT.fullmatch(commit):
    return None
  changes = _git(file, 'status', '--porcelain', '--untracked-files=no')
  return {'commit': commit, 'changed_files': None if changes is None else bool(changes)}


def _git(file: pathlib.Path, *arguments: str) -> str | None:
  command = ['git', '-C', str(file.parent), *arguments]
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
  except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
    return None
  return done.stdout.strip() if done.returncode == 0 else None


def _devices() -> dict[str, Any]:
  import jax

  return {
    'backend': jax.default_backend(),
    'kind': jax.devices()[0].device_kind,
    'count': jax.device_count(),
    'hosts': jax.process_count(),
  }
