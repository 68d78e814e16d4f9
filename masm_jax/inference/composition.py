"""What a detector was trained on: sets, forgeries, and how many videos and people of each label."""

import json
import pathlib
from collections.abc import Mapping

import pandas as pd
import pydantic

from masm_jax import files
from masm_jax.data import linking
from masm_jax.data.columns import FAKE, REAL
from masm_jax.data.manifest import Manifest
from masm_jax.errors import UserError
from masm_jax.inference.detector_schema import LabelCounts, Training
from masm_jax.metrics import text_tables

UNKNOWN = Training(sets=(), forgeries=(), videos=None, frames=None)


def describe(train: Manifest) -> Training:
  """Of a training set. Identities are counted where each video of a label has some."""
  table = train.table
  named = lambda column: tuple(
    sorted({text_tables.one_line(str(name))[:2000] for name in column} - {''})
  )[:1000]
  videos = table[['label', 'dataset', 'identities', 'video_id']].drop_duplicates()
  return Training(
    sets=named(table['dataset']),
    forgeries=named(table['method'][table['label'] == FAKE]),
    videos=int(table['video_id'].nunique()),
    frames=len(table),
    real=_counts(videos[videos['label'] == REAL]),
    fake=_counts(videos[videos['label'] == FAKE]),
  )


def of_run(workdir: pathlib.Path) -> Training | None:
  """What a run's record says; None where it does not tell, as those of earlier versions do not."""
  try:
    record = files.read_json(workdir / 'run.json')
    return Training.model_validate_json(json.dumps(record['training']))
  except (UserError, KeyError, TypeError, ValueError, pydantic.ValidationError):
    return None


def by_label(training: Training) -> Mapping[str, Mapping[str, int | None]] | None:
  """`real` and `fake`: counts of `videos` and `identities`; None where nothing tells."""
  if training.real is None or training.fake is None:
    return None
  return {'real': training.real.model_dump(), 'fake': training.fake.model_dump()}


def _counts(videos: pd.DataFrame) -> LabelCounts:
  people = linking.identities(videos)
  known = bool(people) and all(people)
  return LabelCounts(
    videos=int(videos['video_id'].nunique()),
    identities=len(set().union(*people)) if known else None,
  )
