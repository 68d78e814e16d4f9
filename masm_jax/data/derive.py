"""New manifests from old ones: other splits, fewer frames, other paths. Files stay as they are."""

import posixpath
from collections.abc import Mapping

import numpy as np
import pandas as pd

from masm_jax.data import storage
from masm_jax.data.columns import FAKE, REAL, SPLITS, UNLABELLED
from masm_jax.data.linking import linked_groups
from masm_jax.data.manifest import Manifest, build_manifest
from masm_jax.errors import UserError


def split_by_identity(manifest: Manifest, shares: Mapping[str, float], seed: int) -> Manifest:
  """Divides a manifest anew, so that no two splits share a person, a source video or a file.

  Rows that are linked (`linking.linked_groups`) stay together. The groups go, large ones first and
  those of one size in an order of the seed, to the split that lacks most of its share, of real and
  of fake videos alike.

  Args:
    manifest: what to divide; its own splits do not count.
    shares: split -> share of the videos, positive, one in all.
    seed: of the order among groups of the same size.

  Raises:
    UserError: the shares are not of this form, rows are unlabelled, or there are too few groups
      for the splits.
  """
  _needs_files(manifest)
  if unlabelled := int((manifest.labels == UNLABELLED).sum()):
    raise UserError(f'{unlabelled} rows have no label (-1): only labelled ones are divided')
  if not shares or not set(shares) <= set(SPLITS) or min(shares.values()) <= 0:
    raise UserError(f'shares are positive numbers for some of {", ".join(SPLITS)}')
  if not abs(sum(shares.values()) - 1) <= 1e-6:  # Nor is it with a NaN among them.
    raise UserError(f'the shares add up to {sum(shares.values()):g}, not to 1')
  table = manifest.table
  group = linked_groups(table)
  videos = pd.DataFrame({'group': group, 'video': table['video_id'], 'label': table['label']})
  videos = videos.drop_duplicates()
  num_groups = int(group.max()) + 1
  counts = np.zeros((num_groups, 2))  # Of real and of fake videos.
  for label in (REAL, FAKE):
    np.add.at(counts[:, label], videos.loc[videos['label'] == label, 'group'], 1)
  if num_groups < len(shares):
    raise UserError(
      f'{len(videos)} videos form {num_groups} groups that share people, sources or files: too few '
      f'for {len(shares)} splits'
    )
  share = counts / np.maximum(counts.sum(0), 1)  # Of all real, of all fake videos.
  names = [name for name in SPLITS if name in shares]
  wanted = np.array([shares[name] for name in names])
  lacking = np.repeat(wanted[:, None], 2, axis=1)
  order = np.random.default_rng(seed).permutation(num_groups)
  order = order[np.argsort(-counts[order].sum(1), kind='stable')]
  chosen = np.zeros(num_groups, np.int64)
  empty = list(range(len(names)))
  for done, i in enumerate(order):
    # The last groups go to splits that have none yet.
    among = empty if len(empty) == num_groups - done else range(len(names))
    fits = [(lacking[n] / wanted[n]) @ (share[i] > 0) for n in among]
    chosen[i] = among[int(np.argmax(fits))]
    lacking[chosen[i]] -= share[i]
    empty = [n for n in empty if n != chosen[i]]
  splits = np.array(names, object)[chosen[group]]
  return build_manifest(table.assign(split=splits), manifest.root)


def sample_frames(manifest: Manifest, num_frames: int) -> Manifest:
  """Keeps `num_frames` frames of each video, evenly spaced and with both ends; fewer have all.

  Raises:
    UserError: `num_frames` is not positive.
  """
  _needs_files(manifest)
  if num_frames < 1:
    raise UserError(f'{num_frames} frames: at least 1 of each video')
  table = manifest.table
  keep = np.zeros(len(table), bool)
  for rows in table.sort_values(['frame', 'path']).groupby('video_id').groups.values():
    count = len(rows)
    if num_frames == 1:
      places = np.array([(count - 1) // 2])
    else:
      places = np.unique(np.rint(np.linspace(0, count - 1, min(num_frames, count))).astype(int))
    keep[np.asarray(rows)[places]] = True
  return manifest.take(keep)


def remap_paths(manifest: Manifest, old: str, new: str, root: storage.Path) -> Manifest:
  """Puts `new` in the place of `old` at the beginning of paths, and starts them at `root`.

  Args:
    manifest: its files need not be there.
    old: one or more whole parts of a path; '' stands before every path.
    new: what comes in its place; '' for nothing.
    root: where the new paths start.

  Raises:
    UserError: no path begins with `old`, or as `load_manifest` for the new paths.
  """
  _needs_files(manifest)
  old, new = (text.replace('\\', '/').strip('/') for text in (old, new))
  paths = manifest.table['path'].tolist()
  hits = [not old or path == old or path.startswith(old + '/') for path in paths]
  if not any(hits):
    raise UserError(f'no path begins with {old!r}; the first is {paths[0]!r}')
  moved = [
    posixpath.join(new, path[len(old) :].lstrip('/')) if hit else path
    for path, hit in zip(paths, hits, strict=True)
  ]
  return build_manifest(manifest.table.assign(path=moved), root)


def _needs_files(manifest: Manifest) -> None:
  if manifest.shards:
    raise UserError(f'{manifest.root} is a TFDS set: change the manifest that it was built from')
