"""Other splits, fewer frames, other paths; and the links between videos that they respect."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from masm_jax.data.__main__ import main
from masm_jax.data.check import find_problems
from masm_jax.data.derive import remap_paths, sample_frames, split_by_identity
from masm_jax.data.linking import linked_groups
from masm_jax.data.manifest import build_manifest, load_manifest, write_manifest
from masm_jax.errors import UserError


def _rows(*rows):
  """A table of (video, source video, identities, sha256)."""
  return pd.DataFrame(
    [
      {'dataset': 'd', 'video_id': v, 'source_video_id': s, 'identities': i, 'sha256': h}
      for v, s, i, h in rows
    ]
  )


def test_links_over_identities_sources_files_and_names():
  table = _rows(
    ('d/real/a', 'd/real/a', '1', ''),
    ('d/DF/b', '', '1;2', ''),
    ('d/real/c', 'd/real/c', '2', ''),  # Linked to a through b alone.
    ('d/DF/e', 'd/real/f', '', ''),
    ('d/real/f', 'd/real/f', '', 'x'),  # The source of e.
    ('d/real/g', 'd/real/g', '', 'x'),  # The same file as f.
    ('d/real/802', '', '', ''),
    ('d/DF/802_885', '', '', ''),  # By their names.
    ('d/real/alone', '', '', ''),
  )
  assert linked_groups(table).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3]


def test_families_share_people_and_other_data_sets_do_not():
  table = _rows(*(('v' + str(i), '', '7', '') for i in range(4)))
  table['dataset'] = ['FaceForensics++', 'FaceShifter', 'mine', 'yours']
  assert linked_groups(table).tolist() == [0, 0, 1, 2]


@pytest.fixture(scope='module')
def manifest(tmp_path_factory):
  """100 people in a ring of swaps by tens: 10 groups of 10 real and 10 fake videos, 3 frames."""
  root = tmp_path_factory.mktemp('crops')
  rng = np.random.default_rng(0)
  rows = []
  for person in range(100):
    donor = person // 10 * 10 + (person + 1) % 10
    for label, video in ((0, f'{person:03}'), (1, f'{person:03}_{donor:03}')):
      for frame in (0, 5, 9):
        path = f'{label}/{video}/{frame}.png'
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).save(root / path)
        rows.append(
          {'path': path, 'label': label, 'dataset': 'd', 'split': 'train', 'frame': frame,
           'video_id': f'd/{label}/{video}', 'source_video_id': f'd/0/{person:03}',
           'identities': ';'.join(video.split('_')), 'note': f'{person:03}'}
        )  # fmt: skip
  return build_manifest(rows, root)


def test_split_shares_nothing_and_comes_near_the_shares(manifest):
  divided = split_by_identity(manifest, {'train': 0.6, 'val': 0.2, 'test': 0.2}, seed=0)
  assert find_problems(divided) == []
  videos = divided.table.groupby('split')['video_id'].nunique().to_dict()
  assert videos == {'train': 120, 'val': 40, 'test': 40}
  by_class = divided.table.groupby(['split', 'label'])['video_id'].nunique()
  assert by_class['val', 0] == by_class['val', 1] == 20
  others = [column for column in manifest.table if column != 'split']
  pd.testing.assert_frame_equal(divided.table[others], manifest.table[others])
  again = split_by_identity(manifest, {'train': 0.6, 'val': 0.2, 'test': 0.2}, seed=0)
  assert again.sha256 == divided.sha256
  hashes = {
    split_by_identity(manifest, {'train': 0.5, 'test': 0.5}, seed=seed).sha256 for seed in range(4)
  }
  assert len(hashes) > 1


def test_every_split_gets_something_while_there_are_groups(manifest):
  shares = {'train': 0.98, 'val': 0.01, 'test': 0.01}
  few = manifest.take((manifest.table['note'] < '030').to_numpy())
  assert set(split_by_identity(few, shares, 0).table['split']) == {'train', 'val', 'test'}
  two = manifest.take((manifest.table['note'] < '020').to_numpy())
  with pytest.raises(UserError, match=r'40 videos form 2 groups .* too few for 3 splits'):
    split_by_identity(two, shares, 0)
  nan = {'train': float('nan'), 'val': 0.5}
  for bad in ({}, {'train': 0.5}, {'train': 1.5, 'val': -0.5}, {'dev': 1.0}, nan):
    with pytest.raises(UserError, match='shares'):
      split_by_identity(manifest, bad, 0)


def test_sample_keeps_evenly_spaced_frames(tmp_path):
  rows = []
  for video, frames in (('a', range(0, 100, 10)), ('b', (3, 12))):
    for frame in frames:
      path = f'{video}_{99 - frame:02}.png'  # Sorted by path they stand in another order.
      Image.fromarray(np.full((2, 2, 3), frame, np.uint8)).save(tmp_path / path)
      rows.append({'path': path, 'label': 0, 'dataset': 'd', 'split': 'test', 'video_id': video,
                   'frame': frame})  # fmt: skip
  manifest = build_manifest(rows, tmp_path)

  def frames(num_frames):
    table = sample_frames(manifest, num_frames).table
    return table.groupby('video_id')['frame'].apply(sorted).to_dict()

  assert frames(1) == {'a': [40], 'b': [3]}
  assert frames(2) == {'a': [0, 90], 'b': [3, 12]}
  assert frames(4) == {'a': [0, 30, 60, 90], 'b': [3, 12]}
  assert frames(99) == {'a': list(range(0, 100, 10)), 'b': [3, 12]}
  with pytest.raises(UserError, match='at least 1'):
    frames(0)


def test_remap_changes_whole_parts_of_paths(tmp_path):
  for path in ('new/x/ab/1.png', 'new/x/ab/2.png', 'abc/3.png'):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 2, 3), int(path[-5]), np.uint8)).save(tmp_path / path)
  # Written where the files were.
  lines = ['path,label,dataset,split,video_id'] + [
    f'{path},0,d,test,v' for path in ('ab/1.png', 'ab/2.png', 'abc/3.png')
  ]
  (tmp_path / 'old.csv').write_text('\n'.join(lines))
  old = load_manifest(tmp_path / 'old.csv', check_files=False)
  moved = remap_paths(old, 'ab', 'new\\x\\ab', tmp_path)
  assert moved.table['path'].tolist() == ['abc/3.png', 'new/x/ab/1.png', 'new/x/ab/2.png']
  with pytest.raises(UserError, match=r"no path begins with 'a'; the first is 'ab/1.png'"):
    remap_paths(old, 'a', 'b', tmp_path)
  with pytest.raises(UserError, match='missing file'):
    remap_paths(old, 'ab', 'elsewhere', tmp_path)
  with pytest.raises(UserError, match='leaves the root'):
    remap_paths(old, '', '..', tmp_path)


def test_commands(manifest, tmp_path, capsys):
  source = manifest.root / 'm.parquet'
  write_manifest(manifest, source)
  digests = []
  for name in ('a.parquet', 'b.parquet'):
    out = tmp_path / name
    assert main(['split', str(source), '--output', str(out), '--shares', '.5', '0', '.5']) == 0
    digests.append(hashlib.sha256(out.read_bytes()).hexdigest())
  assert digests[0] == digests[1]
  printed = capsys.readouterr().out
  assert '10 groups of linked videos, the largest of 20 videos' in printed
  assert f'its paths start at {manifest.root}, which the file remembers' in printed
  divided = load_manifest(tmp_path / 'a.parquet', root=manifest.root)
  assert divided.table['split'].value_counts().to_dict() == {'train': 300, 'test': 300}

  out = manifest.root / 'few.csv'
  assert main(['sample', str(source), '--output', str(out), '--frames', '2']) == 0
  assert set(load_manifest(out).table['frame']) == {0, 9}
  assert 'wrote' in capsys.readouterr().out

  out = manifest.root / '0' / 'zero.csv'
  arguments = ['remap', str(source), '--output', str(out), '--from', '0', '--to', '']
  assert main(arguments) == 2  # The fakes' paths stay, and do not lie there.
  assert 'missing file' in capsys.readouterr().err
  real = manifest.root / 'real.csv'
  write_manifest(manifest.select(label=0), real)
  assert main(['remap', str(real), *arguments[2:]]) == 0
  assert load_manifest(out).table['path'][0] == '000/0.png'
  assert main(['split', str(source), '--output', 'x.csv', '--seed', '-1']) == 2
  assert main(['split', str(source), '--output', 'x.txt']) == 2


def test_check_says_how_many_groups_are_torn_and_finds_copies_in_both_classes(
  manifest, tmp_path, capsys
):
  table = manifest.table.copy()
  table.loc[table['note'] >= '095', 'split'] = 'test'
  path = manifest.root / 'torn.csv'
  write_manifest(build_manifest(table, manifest.root), path)
  assert main(['check', str(path)]) == 1
  printed = capsys.readouterr().out
  assert '1 of 10 groups of linked videos stand in more than one split' in printed
  for folder in ('real', 'fake'):
    (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / folder / 'a.png')
  arguments = ['--format', 'folder', '--input', str(tmp_path), '--split', 'test']
  assert main(['import', *arguments, '--output', str(tmp_path / 'm.csv')]) == 0
  assert main(['check', str(tmp_path / 'm.csv')]) == 1
  assert '1 files with the same bytes are real and fake: fake/a.png' in capsys.readouterr().out


def test_folders_are_checked_by_the_names_of_their_videos(tmp_path, capsys):
  for i, path in enumerate(('train/real/802/0.png', 'test/fake/DF/802_885/0.png')):
    (tmp_path / path).parent.mkdir(parents=True)
    Image.fromarray(np.full((2, 2, 3), i, np.uint8)).save(tmp_path / path)
  arguments = ['import', '--format', 'folder', '--input', str(tmp_path)]
  assert main([*arguments, '--dataset', 'set', '--output', str(tmp_path / 'm.csv')]) == 0
  assert main(['check', str(tmp_path / 'm.csv')]) == 1
  assert '1 identities stand in more than one split: set:802 (test, train)' in (
    capsys.readouterr().out
  )
