"""What an answer says of the detector, and how the detector wants its faces cut."""

import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import masm_jax
from masm_jax import files
from masm_jax.errors import UserError
from masm_jax.inference import composition
from masm_jax.prediction.answers import ModelFacts
from masm_jax.prediction.predictor import Detector
from masm_jax.preprocess import crops
from masm_jax.preprocess.templates import TEMPLATES
from masm_jax.telemetry import record


def model_facts(detector: Detector) -> ModelFacts:
  """Of a run or a detector file."""
  facts = detector.facts
  if detector.file is not None:
    name, training = detector.file.name, detector.file.training
    sets = tuple(training.sets)
  else:
    workdir = pathlib.Path(str(facts['workdir']))
    name = workdir.resolve().name
    training = composition.of_run(workdir) or composition.UNKNOWN
    sets = tuple(training.sets) or _training_sets(workdir)
  return ModelFacts(
    name=name[:256],
    method=str(facts['method'])[:64],
    backbone=str(facts['backbone'])[:64],
    sha256=_sha256(facts, 'trained_weights'),
    base_sha256=_sha256(facts, 'base_weights'),
    code=code_version(),
    training_sets=tuple(one[:256] for one in sets[:1000]),
    training_videos=composition.by_label(training),
  )


def crop_settings(trained: Detector, **changes: Any) -> tuple[crops.Settings, str]:
  """How faces are cut for a detector, and a warning where that is not sure; '' otherwise.

  Args:
    trained: the detector.
    **changes: fields of `preprocess.crops.Settings`: the face detector and its file.
  """
  settings = crops.Settings(people='all', **changes)
  known = [way for way in trained.crops if way.template in TEMPLATES]
  if not known:
    text = (
      'The detector does not tell how its training crops were made: faces are cut by'
      f' {settings.template} with margin {settings.margin:g}.'
    )
    return settings, text
  way = known[0]
  chosen = crops.Settings(
    people='all',
    template=way.template,
    margin=way.margin,
    size_px=way.size_px or None,
    **changes,
  )
  several = f'The detector was trained on crops of several kinds: faces are cut by {way}.'
  return chosen, several if len(known) > 1 else ''


@functools.cache
def code_version() -> str:
  """`0.2.0`, with `+` and the commit in a checkout."""
  state = record.git_state(pathlib.Path(__file__).resolve())
  if state is None:
    return masm_jax.__version__
  changed = '.changed' if state['changed_files'] else ''
  return f'{masm_jax.__version__}+{state["commit"][:12]}{changed}'


def _training_sets(workdir: pathlib.Path) -> tuple[str, ...]:
  """Of a run that recorded none: the name of its training manifest, where it is a file."""
  try:
    config = files.read_json(workdir / 'run.json')['config']
    manifest = str(config['data']['train']['manifest'])
  except (UserError, KeyError, TypeError):
    return ()
  path = pathlib.PurePath(manifest)
  name = path.parent.name if path.stem == 'manifest' else path.stem
  return (name,) if name else ()


def _sha256(facts: Mapping[str, Any], name: str) -> str:
  value = str(facts.get(name) or '')
  return value if re.fullmatch('[0-9a-f]{64}', value) else ''
