"""Checks a data set: files that cannot be read, and people, sources or files in two splits."""

import collections
import concurrent.futures
import hashlib
from collections.abc import Callable, Iterable

import pandas as pd

from masm_jax.data import linking, transforms
from masm_jax.data.columns import FAKE, REAL, UNLABELLED
from masm_jax.data.images import Images
from masm_jax.data.manifest import Manifest

_SHOWN = 3


def find_problems(
  manifest: Manifest, *, num_threads: int = 4, on_progress: Callable[[int], None] | None = None
) -> list[str]:
  """Reads every file of a manifest and compares its splits.

  Args:
    manifest: N records.
    num_threads: threads that read and decode.
    on_progress: called with the count of files read, after each.

  Returns:
    One line per kind of problem, with its first cases; empty if there is none. The kinds: files
    that do not decode, files that changed since the manifest was written, the same bytes in two
    splits or under both labels, an identity in two splits of a data set (or a family of data sets
    that shares its people), a source video in two splits.
  """
  errors, changed, hashes = [], [], []
  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    images = manifest.images
    facts = pool.map(lambda record: _read(images, record), range(len(images)))
    for i, (error, sha256) in enumerate(facts):
      row = manifest.table.iloc[i]
      errors += [error] if error else []
      changed += [row['path']] if row['sha256'] not in ('', sha256) and sha256 else []
      hashes.append(sha256)
      if on_progress:
        on_progress(i + 1)
  table = manifest.table.assign(sha256=hashes)
  problems = []
  if errors:
    problems.append(f'{len(errors)} files cannot be decoded: {_first(errors)}')
  if changed:
    problems.append(f'{len(changed)} files are not those of the manifest: {_first(changed)}')
  return problems + _overlaps(table)


def _read(images: Images, record: int) -> tuple[str, str]:
  """The error, or '', and the SHA-256 of a file; empty if it cannot be read."""
  name = images.name(record)
  try:
    content = images.read(record)
  except OSError as error:
    return str(transforms.unreadable(name, error)), ''
  sha256 = hashlib.sha256(content).hexdigest()
  try:
    transforms.decode_bytes(content, name)
  except transforms.DecodeError as error:
    return str(error), sha256
  return '', sha256


def _overlaps(table: pd.DataFrame) -> list[str]:
  # Whoever is linked over several names is linked over one of them: a chain of videos that leads
  # from one split to another has two neighbours in different splits, which share an identity. So
  # looking at single identities finds all that joining them into groups would.
  identities = [
    (name, split)
    for names, split in zip(linking.identities(table), table['split'], strict=True)
    for name in names
  ]
  videos = [
    pair
    for column in ('video_id', 'source_video_id')
    for pair in zip(table[column], table['split'], strict=True)
    if pair[0]
  ]
  by_hash = table[table['sha256'] != ''].groupby('sha256')
  files = [
    (f'{group["path"].iloc[0]} = {group["path"].iloc[-1]}', split)
    for _, group in by_hash
    if group['split'].nunique() > 1
    for split in group['split']
  ]
  twice = [group['path'].iloc[0] for _, group in by_hash if group['label'].nunique() > 1]
  kinds = (
    ('identities', _in_several_splits(identities)),
    ('source videos', _in_several_splits(videos)),
    ('files with the same bytes', _in_several_splits(files)),
  )
  problems = [
    f'{len(found)} {kind} stand in more than one split: {_first(found)}'
    for kind, found in kinds
    if found
  ]
  if twice:
    problems.append(f'{len(twice)} files with the same bytes are real and fake: {_first(twice)}')
  return problems


def _in_several_splits(pairs: Iterable[tuple[str, str]]) -> list[str]:
  splits = collections.defaultdict(set)
  for name, split in pairs:
    splits[name].add(split)
  return [f'{n} ({", ".join(sorted(s))})' for n, s in sorted(splits.items()) if len(s) > 1]


def _first(cases: list[str]) -> str:
  return '; '.join(cases[:_SHOWN]) + ('; ...' if len(cases) > _SHOWN else '')


def stats(manifest: Manifest) -> pd.DataFrame:
  """Counts per data set, split and method: columns `label`, `videos`, `images`, `size_px`.

  `size_px` is the range of the shorter side, '?' where it is not known.
  """
  table = manifest.table.assign(side=manifest.table[['width', 'height']].min(axis=1))
  groups = table.groupby(['dataset', 'split', 'method', 'label'], sort=True)
  counts = groups.agg(
    videos=('video_id', 'nunique'),
    images=('path', 'size'),
    low=('side', 'min'),
    high=('side', 'max'),
  ).reset_index()
  low, high = counts.pop('low'), counts.pop('high')
  words = {REAL: 'real', FAKE: 'fake', UNLABELLED: 'unlabelled'}
  counts['label'] = [words[label] for label in counts['label']]
  counts['size_px'] = [
    '?' if a <= 0 else str(a) if a == b else f'{a}-{b}' for a, b in zip(low, high, strict=True)
  ]
  return counts
