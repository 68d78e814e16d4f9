"""Scores every set of a suite with one detector, and writes the evaluation's folder.

Each set is scored, written, and noted in `progress/` with a fingerprint of all that decides its
scores; an evaluation that was killed finds these notes and resumes behind them. All hosts take part
in the scoring; the lead alone reads and writes files, and tells the others what is done already.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import pandas as pd
from absl import logging
from jax.experimental import multihost_utils

from masm_jax import files as json_files
from masm_jax import telemetry
from masm_jax.data import leaks, pipeline
from masm_jax.data.manifest import Manifest
from masm_jax.evaluation import carried, curves, exhibits, results
from masm_jax.inference.scorer import Evaluator
from masm_jax.inference.validation import Validation
from masm_jax.metrics import scores, summary
from masm_jax.metrics.summary import Settings
from masm_jax.parallel import peers

_SUMMARY_VERSION = 3  # Raise it when metrics change: kept ones are then made again.

Copies = Mapping[curves.Point, Manifest]


@dataclasses.dataclass(frozen=True)
class SuiteRun:
  """One detector, one suite, one folder.

  Attributes:
    evaluator: scores manifests.
    params: plain parameters, placed on the mesh.
    suite: the config, see `common.get_suite`.
    folder: of the evaluation.
    identity: JSON types that name the detector; scores of another one are not taken over.
    is_lead: whether this process writes.
    watchdog: told of each batch, and stopped when all is scored: the lead computes the metrics
      alone, and takes its time.
  """

  evaluator: Evaluator
  params: Any
  suite: ml_collections.ConfigDict
  folder: pathlib.Path
  identity: Mapping[str, Any]
  is_lead: bool
  watchdog: peers.Watchdog = dataclasses.field(default_factory=lambda: peers.Watchdog(0.0))

  def run(
    self,
    val: Manifest | Validation | None,
    train: Manifest | None,
    tests: Mapping[str, Manifest],
    points: Sequence[curves.Point] = (),
    copies: Copies = types.MappingProxyType({}),
  ) -> dict[str, Any] | None:
    """Scores all sets, and computes every metric.

    Args:
      val: the validation set, which fixes thresholds and temperature; or what it fixed, where a
        detector file holds that; None for no threshold.
      train: the training set, to search for leaks; None where it is not at hand.
      tests: name -> what is measured.
      points: of the robustness curves.
      copies: crops of perturbed copies of whole videos, of the points that ask for one.

    Returns:
      `warnings`, `protocol`, `sets` and `robustness` of `results.json`, on the lead, or None.
    """
    shown = [self.suite.features_per_set, self.suite.mistakes_per_set]
    own = {results.VAL: val} if isinstance(val, Manifest) else {}
    for name, manifest in own.items():
      self.score(name, manifest, self._exhibited(manifest, {}), kind=shown)
    table = None
    if own and self.is_lead:
      table = scores.read_scores(results.scores_path(self.folder, results.VAL))
    settings, origin, warnings = carried.carry_over(val, table, self.suite)
    if not self.is_lead:
      warnings = []
    for name, manifest in tests.items():
      # Which mistakes are the worst depends on the threshold.
      kind = [*shown, val.sha256 if own else settings.thresholds]
      self.score(name, manifest, self._exhibited(manifest, settings.thresholds), kind=kind)
    self._score_points(points, tests, copies)
    self.watchdog.stop()
    if not self.is_lead:
      return None
    if train is None:
      text = 'the training manifest is not at hand: test sets were not searched for its faces'
      warnings.append({'set': '', 'kind': 'leak_unchecked', 'text': text})
    measured, facts = {}, {}
    for name, manifest in (own | dict(tests)).items():
      found = [] if train is None else leaks.find_leaks(train, manifest)
      if own and name != results.VAL:
        found += leaks.find_leaks(val, manifest, 'validation')
      for leak in found:
        warnings.append({'set': name, 'kind': f'leak_{leak.kind}', 'text': f'{name} {leak.text}'})
      path = results.scores_path(self.folder, name)
      part = self._summary(name, path, settings, with_groups=True)
      warnings += part['warnings']
      measured[name] = part['metrics']
      facts[name] = _facts(manifest, scores.read_scores(path)) | part['facts']
      facts[name]['scores'] = self._note(path)['scores']
      if missing := facts[name]['undecodable']:
        text = (
          f'{name}: {missing} of {len(manifest)} images could not be decoded; they are left out'
        )
        warnings.append({'set': name, 'kind': 'undecodable', 'text': text})
    robustness = self._curves(points, copies, settings)

    def table_of(name: str, point: curves.Point | None) -> pd.DataFrame:
      path = point.path(self.folder) if point else results.scores_path(self.folder, name)
      return scores.read_scores(path)

    warnings += curves.other_videos(points, table_of)
    bootstrap = {key: self.suite.bootstrap[key] for key in ('draws', 'confidence', 'unit', 'seed')}
    protocol = {
      'image_size': self.evaluator.image_size,
      'video_score': self.suite.video_score,
      **origin,
      'bootstrap': bootstrap,
      'sets': facts,
    }
    return {'warnings': warnings, 'protocol': protocol, 'sets': measured, 'robustness': robustness}

  def score(
    self,
    name: str,
    manifest: Manifest,
    exhibit: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    *,
    path: pathlib.Path | None = None,
    perturb: pipeline.Perturb | None = None,
    kind: Any = None,
  ) -> None:
    """Scores a set, unless that is done, and writes its table.

    Args:
      name: of the set.
      manifest: its records; there may be none.
      exhibit: adds columns to the table; all hosts call it.
      path: of the table; by default the table of an unperturbed set.
      perturb: changes the images.
      kind: JSON types that tell this table from others of the set.
    """
    path = path or results.scores_path(self.folder, name)
    # Where images are not known by their content, the folder that they lie in has to name them.
    root = '' if (manifest.table['sha256'] != '').all() else str(manifest.root)
    print_ = _fingerprint(self.identity, manifest.sha256, root, kind)
    of = {'set': name, 'scores': print_}
    if self._agreed(self._note(path).get('scores') == print_ and scores.is_whole(path, of=of)):
      logging.info('%s: scored before', path.relative_to(self.folder))
      return
    table = self._table(name, manifest, perturb)
    if exhibit:
      table = exhibit(table)
    if self.is_lead:
      # First: killed between the next two, the old note would pass for one of the new table.
      self._note_path(path).unlink(missing_ok=True)
      scores.write_scores(path, table, of=of)
      json_files.write_sealed(self._note_path(path), {'scores': print_})
      logging.info('%s: %d frames scored', path.relative_to(self.folder), len(table))

  def _table(self, name: str, manifest: Manifest, perturb: pipeline.Perturb | None) -> pd.DataFrame:
    if not len(manifest):
      none = np.zeros(0)
      return scores.score_table(manifest.table, none.astype(np.int64), none, none)
    batches = -(-len(manifest) // self.evaluator.batch_size)
    bar = telemetry.Progress(
      batches,
      label=name,
      images_per_step=self.evaluator.batch_size,
      enabled=self.is_lead,
    )

    def on_progress(done: int) -> None:
      self.watchdog.beat()
      bar.update(done)

    with bar:
      return self.evaluator.scores(self.params, manifest, perturb=perturb, on_progress=on_progress)

  def _exhibited(
    self, manifest: Manifest, thresholds: Mapping[str, float]
  ) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Adds features and thumbnails to a table, as the suite asks."""

    def add(table: pd.DataFrame) -> pd.DataFrame:
      if self.suite.features_per_set and len(manifest):
        rows = exhibits.sample_rows(manifest, self.suite.features_per_set)
        sample = manifest.select(path=list(manifest.table['path'].iloc[rows]))
        records, features = self.evaluator.features(
          self.params, sample, on_progress=self.watchdog.beat
        )
        table = exhibits.with_features(
          table, sample.table['path'].to_numpy(object)[records], features
        )
      if self.suite.mistakes_per_set and self.is_lead:
        table = exhibits.with_thumbnails(
          table, manifest, thresholds, self.suite.mistakes_per_set, self.suite.video_score
        )
      return table

    return add

  def _score_points(
    self, points: Sequence[curves.Point], sets: Mapping[str, Manifest], copies: Copies
  ) -> None:
    """Scores each point of the robustness curves."""
    seed = self.suite.robustness.seed
    for point in points:
      manifest = copies.get(point, sets[point.name])
      self.score(
        point.title,
        manifest,
        path=point.path(self.folder),
        perturb=point.perturb(manifest, seed),
        kind=[point.curve, point.parameter, 'copy' if point.copy else seed],
      )

  def _curves(
    self, points: Sequence[curves.Point], copies: Copies, settings: Settings
  ) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """`robustness` of `results.json`: set -> perturbation -> its levels."""
    made: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for point in points:
      path = point.path(self.folder)
      name = f'{point.name}/{point.curve}_{point.level}'
      origin = {}
      if point.copy:
        origin = {'manifest': point.copy, 'manifest_sha256': copies[point].sha256}
      made.setdefault(point.name, {}).setdefault(point.curve, []).append(
        {
          'level': point.level,
          'parameter': point.parameter,
          'file': str(path.relative_to(self.folder)),
          **origin,
          **self._summary(name, path, settings, with_groups=False)['metrics'],
        }
      )
    return made

  def _summary(
    self, name: str, path: pathlib.Path, settings: Settings, *, with_groups: bool
  ) -> dict[str, Any]:
    """Metrics, facts and warnings of a scored table; kept beside it for the next attempt."""
    note = self._note(path)
    print_ = _fingerprint(note['scores'], dataclasses.asdict(settings), _SUMMARY_VERSION)
    if note.get('summary') != print_:
      logging.info('%s: intervals from %d draws', name, settings.draws)
      measured, facts, warnings = summary.summarize(
        scores.read_scores(path), settings, name=name, with_groups=with_groups
      )
      made = {'metrics': measured, 'facts': facts, 'warnings': warnings}
      json_files.write_sealed(self._note_path(path), note | {'summary': print_, 'made': made})
    # Read back even when just made: what is JSON once is JSON always.
    return self._note(path)['made']

  def _note_path(self, path: pathlib.Path) -> pathlib.Path:
    return self.folder / 'progress' / path.relative_to(self.folder).with_suffix('.json')

  def _note(self, path: pathlib.Path) -> dict[str, Any]:
    return json_files.read_or_set_aside(self._note_path(path)) or {}

  def _agreed(self, done: bool) -> bool:
    """What the lead found; other hosts may not see its files."""
    if jax.process_count() == 1:
      return done
    return bool(multihost_utils.broadcast_one_to_all(np.array(done), is_source=self.is_lead))


def _facts(manifest: Manifest, table: pd.DataFrame) -> dict[str, Any]:
  """What was scored, for the protocol."""
  frames = table.groupby('video_id').size()
  counts = {
    name: float(getattr(frames, name)()) if len(frames) else math.nan
    for name in ('min', 'median', 'max')
  }
  return {
    'manifest_sha256': manifest.sha256,
    'frames': len(table),
    'videos': len(frames),
    'undecodable': len(manifest) - len(table),
    'frames_per_video': counts,
    'methods': {name: int(n) for name, n in sorted(table['method'].value_counts().items())},
  }


def _fingerprint(*values: Any) -> str:
  text = json.dumps(json_files.to_json(values), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
