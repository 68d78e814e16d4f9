"""Reads and checks evaluation folders for the report."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from masm_jax.errors import UserError
from masm_jax.evaluation import results, schema
from masm_jax.evaluation.schema import Evaluation, Level, Rescaled
from masm_jax.metrics import binary as metrics
from masm_jax.metrics import scores
from masm_jax.plots.roc import Scores

VALIDATION = results.VAL
LEVELS = ('video', 'frame')

Interval = tuple[float, float, float]  # Value, low, high; nan where there is none.


@dataclasses.dataclass(frozen=True)
class Run:
  """One evaluation folder.

  Attributes:
    name: for tables and legends, unique in a report.
    series: its number, which picks its colour.
    folder: where it was read.
    results: `results.json`.
    frames: score tables by data set, one row per frame that has a label.
    videos: the same, one row per video.
    unlabelled: the videos without a label, which have a score and no part in any metric.
  """

  name: str
  series: int
  folder: pathlib.Path
  results: Evaluation
  frames: Mapping[str, pd.DataFrame]
  videos: Mapping[str, pd.DataFrame]
  unlabelled: Mapping[str, pd.DataFrame]

  @property
  def sets(self) -> tuple[str, ...]:
    """All evaluated sets, validation last."""
    names = [name for name in self.results.sets if name != VALIDATION]
    return (*names, *([VALIDATION] if VALIDATION in self.results.sets else []))

  def level(self, name: str, level: str) -> Level:
    """Everything measured on a set at a level; empty where the run has no such set."""
    found = self.results.sets.get(name)
    return found.at(level) if found else Level()

  def value(self, name: str, level: str, metric: str) -> Interval:
    """A metric with its interval."""
    return interval(self.level(name, level), metric)

  def threshold(self, level: str) -> float:
    """What validation fixed; nan where it could not."""
    return self.results.protocol.threshold.at(level)

  @property
  def confidence(self) -> str:
    """Of the intervals, as a percentage."""
    return f'{100 * self.results.protocol.bootstrap.confidence:g}%'

  @property
  def is_best(self) -> bool:
    """Whether the checkpoint is the one that validation chose during training."""
    return self.results.run.checkpoint == 'best'

  @property
  def is_chosen_here(self) -> bool:
    """Whether the validation set of this evaluation is the one that chose the checkpoint."""
    here = self.results.protocol.threshold.manifest_sha256
    return self.is_best and here != '' and here == self.results.run.val_manifest

  def rows_hash(self, name: str) -> str:
    """Hash of the rows of a set; empty where it is not known."""
    facts = self.results.protocol.sets.get(name)
    return facts.manifest_sha256 if facts else ''

  def scores(self, name: str, level: str) -> Scores:
    """Labels and scores of a set at a level, for a drawing."""
    table = (self.videos if level == 'video' else self.frames)[name]
    return Scores(
      name=self.name,
      series=self.series,
      level=level,
      labels=table['label'].to_numpy(),
      scores=table['score'].to_numpy(),
      auroc=self.value(name, level, 'auroc')[0],
      threshold=self.threshold(level),
    )


def interval(level: Rescaled, metric: str) -> Interval:
  """(value, low, high) of a metric of a set at one level; nan where it is missing."""
  entry = level.metrics.get(metric, schema.Interval())
  return entry.value, entry.low, entry.high


def calibrated(level: Level) -> Rescaled:
  """Metrics of the probabilities that a temperature has rescaled; empty where there is none."""
  return level.calibrated or Rescaled()


def read_runs(folders: Sequence[str]) -> list[Run]:
  """Reads evaluation folders, given as `FOLDER` or `NAME=FOLDER`.

  Raises:
    UserError: a folder without a finished evaluation, a broken score file, or a name given twice.
  """
  named = [results.named_folder(folder) for folder in folders]
  documents = [results.read(folder) for _, folder in named]
  names = _names([name for name, _ in named], [folder for _, folder in named], documents)
  runs = []
  for i, (name, (_, folder), document) in enumerate(zip(names, named, documents, strict=True)):
    tables = {
      set_name: scores.read_scores(
        results.scores_path(folder, set_name), of=document.table_of(set_name)
      )
      for set_name in document.sets
    }
    frames = {set_name: scores.labelled(table) for set_name, table in tables.items()}
    others = {
      set_name: table[table['label'] == scores.UNLABELLED] for set_name, table in tables.items()
    }
    videos, unlabelled = (
      {
        set_name: metrics.video_scores(table, document.protocol.video_score)
        for set_name, table in rows.items()
      }
      for rows in (frames, others)
    )
    runs.append(Run(name, i, folder, document, frames, videos, unlabelled))
  return runs


def set_names(runs: Iterable[Run]) -> tuple[str, ...]:
  """Every data set of any run, in the order in which they are first met, validation last."""
  names = dict.fromkeys(name for run in runs for name in run.sets)
  return tuple(sorted(names, key=lambda name: name == VALIDATION))


def _names(
  given: Sequence[str], folders: Sequence[pathlib.Path], documents: Sequence[Evaluation]
) -> list[str]:
  """A name of each run: as given, or its method, or method and folder where that repeats."""
  methods = [document.run.method for document in documents]
  names = [
    name or (method if methods.count(method) == 1 else f'{method} ({folder.resolve().name})')
    for name, method, folder in zip(given, methods, folders, strict=True)
  ]
  if repeated := [name for name in names if names.count(name) > 1]:
    raise UserError(f'two runs are called {repeated[0]!r}: give names, as NAME=FOLDER')
  return names
