"""Robustness curves: which perturbed sets a suite asks for, and what is said of them.

A perturbation of crops changes the images as they are read. One of whole videos (`VC`, `video_GB`)
was applied before the crops were cut: `python -m masm_jax.perturb_videos` makes a copy of the
videos for each level and `python -m masm_jax.preprocess` its crops, whose manifests are found by a
pattern and scored as any other set.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import pandas as pd

from masm_jax import files
from masm_jax.data import crop_settings, pipeline, storage
from masm_jax.data.manifest import Manifest
from masm_jax.errors import UserError
from masm_jax.evaluation import results
from masm_jax.metrics.summary import Warning_
from masm_jax.perturbations import catalogue as robustness


@dataclasses.dataclass(frozen=True)
class Point:
  """One level of one perturbation of one set.

  Attributes:
    name: of the set.
    curve: what results call the perturbation: a key of crops, `VC`, or `video_` and a key.
    level: 1 for the mildest.
    copy: path of the manifest of the copy's crops; '' where crops are perturbed.
  """

  name: str
  curve: str
  level: int
  copy: str = ''

  @property
  def key(self) -> str:
    """Of the catalogue."""
    return robustness.WHOLE_VIDEO.get(self.curve, self.curve)

  @property
  def parameter(self) -> Any:
    """Of the level."""
    return robustness.parameter(self.key, self.level)

  @property
  def title(self) -> str:
    """For progress and errors."""
    return f'{self.name} {self.curve} {self.level}'

  def path(self, folder: pathlib.Path) -> pathlib.Path:
    """Of the score table in an evaluation's folder."""
    return results.perturbed_path(folder, self.name, self.curve, self.level)

  def perturb(self, manifest: Manifest, seed: int) -> pipeline.Perturb | None:
    """What changes the images of the set; None where the copy's already are."""
    if self.copy:
      return None
    videos = manifest.table['video_id'].to_numpy(object)
    return functools.partial(
      _perturb, self.key, self.level, seed, videos, manifest.table['frame'].to_numpy()
    )


def _perturb(key, level, seed, videos, frames, image, record):
  rng = robustness.make_rng(seed, videos[record], int(frames[record]), key, level)
  return robustness.perturb(image, key, level, rng)


def points(
  config: ml_collections.ConfigDict, names: Mapping[str, Any] | Sequence[str]
) -> list[Point]:
  """Every point that `suite.robustness` asks for, in order of sets, perturbations and levels.

  Args:
    config: `suite.robustness`.
    names: of the suite's sets, but for val.

  Raises:
    UserError: no such perturbation, level or set, or a pattern of copies that does not tell them
      apart.
  """
  for curve in config.perturbations:
    if curve not in robustness.PERTURBATIONS and curve not in robustness.WHOLE_VIDEO:
      crops, videos = (
        ', '.join(keys) for keys in (robustness.PERTURBATIONS, robustness.WHOLE_VIDEO)
      )
      raise UserError(
        f'suite.robustness: no perturbation {curve!r}; there are {crops} of crops, and {videos} of'
        ' whole videos'
      )
    if config.levels and not _levels(config, curve):
      raise UserError(f'suite.robustness: {curve} has none of the levels {list(config.levels)}')
  if unknown := sorted(set(config.sets) - set(names)):
    raise UserError(
      f'suite.robustness: no set {unknown[0]!r}; there are {", ".join(names) or "none"}'
    )
  found = [
    Point(name, curve, level, _copy(config.copies, name, curve, level))
    for name in dict.fromkeys(config.sets or names)  # One that is named twice counts once.
    for curve in dict.fromkeys(config.perturbations)
    for level in _levels(config, curve)
  ]
  copies = [point.copy for point in found if point.copy]
  if repeated := [path for path in copies if copies.count(path) > 1]:
    raise UserError(
      f'suite.robustness.copies = {config.copies!r} gives {repeated[0]} for several copies:'
      ' set it to a path with {set}, {key} and {level} in it'
    )
  return found


def _levels(config: ml_collections.ConfigDict, curve: str) -> list[int]:
  key = robustness.WHOLE_VIDEO.get(curve, curve)
  levels = range(1, len(robustness.CATALOGUE[key].parameters) + 1)
  return [level for level in levels if not config.levels or level in config.levels]


def _copy(pattern: str, name: str, curve: str, level: int) -> str:
  if curve not in robustness.WHOLE_VIDEO:
    return ''
  try:
    return pattern.format(set=name, key=robustness.WHOLE_VIDEO[curve], level=level)
  except (AttributeError, IndexError, KeyError, ValueError) as error:
    raise UserError(
      f'suite.robustness.copies = {pattern!r} is no pattern: only {{set}}, {{key}} and {{level}}'
      ' may stand in braces'
    ) from error


def load_copies(
  asked: Sequence[Point], load: Callable[[Point], Manifest]
) -> tuple[dict[Point, Manifest], list[Warning_]]:
  """The manifests of the perturbed copies, before anything is scored.

  Args:
    asked: points; those of crops are passed over.
    load: gives the rows of a point's copy.

  Returns:
    Manifests, and warnings of copies about which nothing tells how they were made.

  Raises:
    UserError: a manifest is missing, or its crops come from other videos than it says.
  """
  found, warnings = {}, []
  for point in asked:
    if not point.copy:
      continue
    try:
      found[point] = load(point)
    except UserError as error:
      raise UserError(
        f'{point.title}: {error} (make the copy with `python -m masm_jax.perturb_videos` and its'
        ' crops with `python -m masm_jax.preprocess`, set suite.robustness.copies to where they'
        ' are, or suite.robustness.levels to those that you have)'
      ) from error
    warnings += _check_origin(point)
  return found, warnings


def _check_origin(point: Point) -> list[Warning_]:
  """Holds a copy to the record that lies beside its manifest."""
  path = storage.join(storage.parent(point.copy), crop_settings.RECORD)
  try:
    made = files.parse_object(storage.read_bytes(path)).get('perturbation')
  except (OSError, ValueError):
    made = None
  if not made:
    text = (
      f'{point.title}: nothing beside {os.fspath(point.copy)} says that its crops come from videos'
      ' perturbed so'
    )
    return [{'set': point.name, 'kind': 'perturbation_unchecked', 'text': text}]
  if (made.get('key'), made.get('level')) != (point.key, point.level):
    raise UserError(
      f'{point.title}: the crops of {point.copy} come from videos perturbed by {made.get("key")} at'
      f' level {made.get("level")} ({path}), not by {point.key} at level {point.level}'
    )
  return []


def other_videos(
  asked: Sequence[Point], read: Callable[[str, Point | None], pd.DataFrame]
) -> Iterator[Warning_]:
  """Warns of curves whose points are not over the videos of the unperturbed set.

  Faces are found anew in a perturbed copy, and may be missed there.

  Args:
    asked: points; those of crops are passed over.
    read: the score table of a set, at a point or (None) unperturbed.
  """
  curves: dict[tuple[str, str], list[Point]] = {}
  for point in asked:
    if point.copy:
      curves.setdefault((point.name, point.curve), []).append(point)
  for (name, curve), of_curve in curves.items():
    videos = set(read(name, None)['video_id'])
    parts = []
    for point in of_curve:
      there = set(read(name, point)['video_id'])
      if there != videos:
        more = f' and {len(there - videos)} others' if there - videos else ''
        parts.append(f'level {point.level} has {len(there & videos)}{more}')
    if parts:
      text = (
        f'{name}: its curve of {curve} is not over the same videos at each level: of the'
        f' {len(videos)} unperturbed ones, {"; ".join(parts)}'
      )
      yield {'set': name, 'kind': 'other_videos', 'text': text}
