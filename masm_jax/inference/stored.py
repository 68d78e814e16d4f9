"""What a run's folder says of itself, checked once: its notes and its config.

A run may be a stranger's. What it stores is data: it chooses among the program's own methods by
`masm_jax.fields`, the closed list of what a config decides, and names files to read. It has nothing
written, is followed over no network, and its patterns have a time limit.
"""

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import ml_collections
import pydantic

from masm_jax import config as config_lib
from masm_jax import fields, files, tree
from masm_jax.errors import UserError
from masm_jax.subspaces.decompose import TARGETS

# A path of this machine or a URL of an object store; `::` chains one file system to another.
_PLACE = r'((gs|s3)://)?((?!://|::).)*'

_PATTERN_SECONDS = 20.0  # A plain one takes a tenth of a second, of which Python starts in most.

# Reads [pattern, texts], and matches as `tree.match_any` does.
_MATCH = """
import json, re, sys
pattern, texts = json.load(sys.stdin)
try:
  for text in texts:
    re.fullmatch(pattern, text)
except (re.error, RecursionError, OverflowError):
  pass  # The method says what is wrong with it, if it needs it.
"""

# A hash, or `random initialisation, seed 0`.
_Name = Annotated[str, pydantic.Field(max_length=200, pattern=r'^[\w .,+-]*$')]
_Hash = Annotated[str, pydantic.Field(max_length=200, pattern=r'^[\w.+-]*$')]
_Step = Annotated[int, pydantic.Field(strict=True, ge=0, le=fields.MANY)]


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
  """What stands beside the state of a checkpoint, as far as a detector is made of it.

  Attributes:
    config: of the run, nested.
    best_step: chosen by validation; 0 for none yet.
    base_weights: hash of the base weights.
    train_manifest: hash of the training set.
    val_manifest: hash of the validation set.
  """

  config: dict[str, Any]
  best_step: _Step
  base_weights: _Name
  train_manifest: _Hash
  val_manifest: _Hash

  def hashes(self) -> dict[str, str]:
    """What the choice of layers belongs to."""
    return {'base_weights': self.base_weights, 'train_manifest': self.train_manifest}


_META = pydantic.TypeAdapter(Meta)


def parse_meta(document: Any, workdir: pathlib.Path, step: int) -> Meta:
  """The note of a checkpoint.

  Raises:
    UserError: a field is missing, or not what it should be.
  """
  try:
    return _META.validate_python(document)
  except pydantic.ValidationError as error:
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = '.'.join(map(str, found['loc'])) or 'all of it'
    raise UserError(
      f'the note of checkpoint {step} in {workdir} is damaged: {place}: {found["msg"]}'
    ) from error


def read_config(stored: Mapping[str, Any], workdir: pathlib.Path) -> ml_collections.ConfigDict:
  """The config of a run as it was, checked by this version of the program.

  Raises:
    UserError: it is no config, one of another version, or names places that it may not name.
  """
  config = config_lib.completed(_tuples(stored))
  try:
    config_lib.validate(config)
  except UserError as error:
    raise UserError(
      f'{workdir} was trained by another version of this program{_commit(workdir)}; evaluate it'
      f' with that one. This version says: {error}'
    ) from error
  for spec in (config.data.train, config.data.val, *config.data.tests.values()):
    for place in (spec.get('manifest'), spec.get('root')):
      if not re.fullmatch(_PLACE, str(place)):
        raise UserError(
          f'{workdir}: the config of the run names {place!r}, but of what a run names only files of'
          ' this machine, gs:// and s3:// are read: name the data in the suite'
        )
  # Drawn there, hence written: wherever the run had it, it is now in the place for all.
  config.data.synthetic.root = ''
  return config


def check_patterns(
  config: ml_collections.ConfigDict, params: Mapping[str, Any], workdir: pathlib.Path
) -> None:
  """Refuses patterns over layers that keep Python busy for ever.

  Nothing in the same process can stop one, so another process tries it first on the same paths.

  Raises:
    UserError: a pattern takes too long.
  """
  paths = tree.flatten(params)
  parts = [path.rpartition('/')[0] for path in paths]  # `decompose.find_targets` looks at both.
  for group in ('subspace', 'lora'):
    pattern = str(config[group].targets)
    if pattern in TARGETS:
      continue
    try:
      subprocess.run(
        [sys.executable, '-I', '-c', _MATCH], input=json.dumps([pattern, [*paths, *parts]]),
        capture_output=True, text=True, check=True, timeout=_PATTERN_SECONDS,
      )  # fmt: skip
    except (subprocess.SubprocessError, OSError) as error:
      raise UserError(
        f'{workdir}: {group}.targets = {pattern[:80]!r} of the config of the run cannot be'
        f' matched in {_PATTERN_SECONDS:g} s'
      ) from error


def _commit(workdir: pathlib.Path) -> str:
  """The commit that a run was trained by, as part of a text; '' where its record does not say."""
  try:
    record = files.read_json(workdir / 'run.json')
  except UserError:
    return ''
  git = record.get('git')
  commit = git.get('commit') if isinstance(git, dict) else None
  is_hash = isinstance(commit, str) and re.fullmatch('[0-9a-f]{12,}', commit)
  return f', commit {commit[:12]}' if is_hash else ''


def _tuples(value: Any) -> Any:
  """JSON's lists as the tuples that they were."""
  if isinstance(value, dict):
    return {name: _tuples(item) for name, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
