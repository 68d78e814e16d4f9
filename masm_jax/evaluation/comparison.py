"""Several detectors on the same sets: differences with paired intervals, seeds together.

`metrics.paired` says what is paired, and how seeds count.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from masm_jax.errors import UserError
from masm_jax.evaluation import results
from masm_jax.evaluation.schema import Evaluation, Warning_
from masm_jax.metrics import binary as metrics
from masm_jax.metrics import paired, scores, summary
from masm_jax.metrics.clusters import make_clusters
from masm_jax.metrics.summary import Settings

FORM = 'masm_jax comparison '  # Of any version.
FORMAT = f'{FORM}1'
_MAX_DRAWS = 10_000  # Of the bootstrap: an evaluation may have taken more, and says how many.
_ROW = ['path', 'video_id', 'label']  # What makes two rows of score tables the same example.


@dataclasses.dataclass(frozen=True)
class Detector:
  """A row of the comparison: one method, with the folders of its seeds.

  Attributes:
    name: of the row.
    folders: of evaluations, one per seed.
    results: of each.
  """

  name: str
  folders: tuple[pathlib.Path, ...]
  results: tuple[Evaluation, ...]

  @property
  def seeds(self) -> tuple[int, ...]:
    """The seed of each folder's run."""
    return tuple(found.run.seed for found in self.results)


def load_detectors(folders: Sequence[str]) -> list[Detector]:
  """Reads evaluations, and puts those of one name together as its seeds.

  Args:
    folders: `DIR`, named by its run's method, or `NAME=DIR`.

  Raises:
    UserError: a folder without results, fewer than two detectors, or one name twice with one seed.
  """
  by_name: dict[str, list[tuple[pathlib.Path, Evaluation]]] = {}
  for text in folders:
    name, folder = results.named_folder(text)
    found = results.read(folder)
    by_name.setdefault(name or found.run.method, []).append((folder, found))
  detectors = [
    Detector(name, *(tuple(column) for column in zip(*rows, strict=True)))
    for name, rows in by_name.items()
  ]
  for detector in detectors:
    if len(set(detector.seeds)) < len(detector.seeds):
      raise UserError(
        f'{" and ".join(map(str, detector.folders))} are both {detector.name} with seed'
        f' {detector.seeds[0]}: name them apart, NAME=DIR'
      )
  if len(detectors) < 2:
    raise UserError('a comparison needs two detectors: give the folders of two evaluations')
  return detectors


def compare(detectors: Sequence[Detector], reference: str = '') -> dict[str, Any]:
  """Metrics of every detector on the sets that all have, and differences from a reference.

  Args:
    detectors: at least two. How videos are scored and intervals made is the first one's.
    reference: name of the detector that the others are held against; '' for the first.

  Returns:
    JSON types: `format`, `reference`, `bootstrap`, `video_score`, `notes`, `warnings`, `methods`
    (name -> seeds, folders, steps, trainable_parameters), `clusters` (set -> unit and number), and
    `metrics`: set -> level -> name -> metric -> `value`, `low`, `high`, `std` (over seeds, nan for
    one), `seeds`, and but for the reference `difference` of `value`, `low`, `high`.

  Raises:
    UserError: no common set, different rows of a set, or different video scores.
  """
  reference = reference or detectors[0].name
  if reference not in (names := [detector.name for detector in detectors]):
    raise UserError(f'no detector {reference!r} to compare with; there are {", ".join(names)}')
  every = [found for detector in detectors for found in detector.results]
  first = every[0].protocol
  if other := [f for f in every if f.protocol.video_score != first.video_score]:
    raise UserError(
      f'video scores differ: {first.video_score} and {other[0].protocol.video_score} of'
      ' the frames; evaluate with the same suite.video_score'
    )
  shared = [
    name
    for name in every[0].sets
    if name != results.VAL  # It chose checkpoints and thresholds.
    and all(name in found.sets for found in every)
  ]
  if not shared:
    raise UserError('these evaluations have no test set in common')
  left_out = sorted({name for found in every for name in found.sets} - {results.VAL, *shared})
  notes = [f'only some were evaluated on {", ".join(left_out)}: left out'] if left_out else []
  notes += list(dict.fromkeys(found.note for found in every if found.note))

  bootstrap = dataclasses.asdict(first.bootstrap)
  if bootstrap['draws'] > _MAX_DRAWS:
    notes.append(f'intervals from {_MAX_DRAWS:,} draws, not {bootstrap["draws"]:,}')
    bootstrap['draws'] = _MAX_DRAWS
  settings = Settings(video_score=first.video_score, **bootstrap)
  measured: dict[str, Any] = {}
  clusters: dict[str, Any] = {}
  warnings: list[dict[str, Any]] = []
  for name in shared:
    measured[name], clusters[name], unsure = _compare_set(name, detectors, reference, settings)
    warnings += unsure
  return {
    'format': FORMAT,
    'reference': reference,
    'bootstrap': bootstrap,
    'video_score': first.video_score,
    'notes': notes,
    'warnings': _warnings(detectors, shared) + warnings,
    'methods': {
      detector.name: {
        'seeds': list(detector.seeds),
        'folders': [str(folder) for folder in detector.folders],
        'steps': [found.run.step for found in detector.results],
        'trainable_parameters': detector.results[0].run.trainable_parameters,
      }
      for detector in detectors
    },
    'clusters': clusters,
    'metrics': measured,
  }


def _compare_set(
  name: str, detectors: Sequence[Detector], reference: str, settings: Settings
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
  """Metrics of one set by level, detector and metric; its clusters' unit and number; warnings."""
  rows: pd.DataFrame | None = None
  others: list[str] = []  # Detectors whose images may be others than the first one's.
  point: dict[tuple[str, str], list[Mapping[str, float]]] = {}
  draws: dict[tuple[str, str], list[Mapping[str, np.ndarray]]] = {}
  for detector in detectors:
    for folder, found in zip(detector.folders, detector.results, strict=True):
      path = results.scores_path(folder, name)
      table = scores.labelled(scores.read_scores(path, of=found.table_of(name)))
      if rows is None:
        rows, first, manifest = table, folder, _manifest_hash(found, name)
        clusters = make_clusters(table, settings.unit)
      same_images = _check_rows(name, rows, table, first, folder)
      if not same_images and _manifest_hash(found, name) != manifest:
        others.append(detector.name)
      for level in scores.LEVELS:
        part = table if level == 'frame' else metrics.video_scores(table, settings.video_score)
        threshold, band = found.protocol.threshold.at(level), found.protocol.band.at(level)
        values = metrics.binary_metrics(
          part['label'], part['score'], threshold=threshold, band=band, name=f'{name} ({level}s)'
        )
        point.setdefault((level, detector.name), []).append(values)
        draws.setdefault((level, detector.name), []).append(
          summary.draw_metrics(part, clusters, settings, threshold, band)
        )
  result = {
    level: paired.entries(
      {detector.name: point[level, detector.name] for detector in detectors},
      {detector.name: draws[level, detector.name] for detector in detectors},
      reference=reference,
      confidence=settings.confidence,
    )
    for level in scores.LEVELS
  }
  text = f'{name}: evaluated on another manifest than {first}; the images may be others'
  unsure = [
    {'methods': list(dict.fromkeys(others)), 'set': name, 'kind': 'manifest_changed', 'text': text}
  ]
  return result, {'unit': clusters.unit, 'number': clusters.num}, unsure if others else []


def _manifest_hash(found: Evaluation, name: str) -> str:
  facts = found.protocol.sets.get(name)
  return facts.manifest_sha256 if facts else ''


def _check_rows(
  name: str, rows: pd.DataFrame, other: pd.DataFrame, first: pathlib.Path, second: pathlib.Path
) -> bool:
  """Refuses other rows; True if their images are known to be the same, by hash."""
  if rows[_ROW].equals(other[_ROW]):
    if not ('sha256' in rows and 'sha256' in other):
      return False
    known = (rows['sha256'] != '') & (other['sha256'] != '')
    changed = rows['path'][known & (rows['sha256'] != other['sha256'])]
    if changed.empty:
      return bool(known.all())
    raise UserError(
      f'{name}: {first} and {second} saw different images by the name {changed.iloc[0]}'
      f' ({len(changed)} of {len(rows)} rows): differences need the same rows, evaluate on one'
      ' manifest'
    )
  where = f'{name}: {first} has {len(rows)} rows, {second} {len(other)}'
  only = sorted(set(rows['path']) ^ set(other['path']))
  what = f'only one of them has {only[0]}' if only else 'labels or videos differ'
  raise UserError(f'{where}; {what}: differences need the same rows, evaluate on one manifest')


def _warnings(detectors: Sequence[Detector], sets: Sequence[str]) -> list[dict[str, Any]]:
  """Warnings that bear on the comparison: each once, with its detectors, leaks first.

  Those of the validation set do: it fixed the thresholds, and chose the checkpoints.
  """
  found: dict[Warning_, list[str]] = {}
  for detector in detectors:
    for warning in (warning for one in detector.results for warning in one.warnings):
      names = found.setdefault(warning, [])
      if warning.set in ('', results.VAL, *sets) and detector.name not in names:
        names.append(detector.name)
  entries = [
    {'methods': names, **dataclasses.asdict(warning)} for warning, names in found.items() if names
  ]
  return sorted(entries, key=lambda entry: results.urgency(entry['kind']))
