"""A second run: nothing is done twice, what has changed or is damaged is done again."""

import json
import shutil

import pytest

from masm_jax.preprocess import crops
from tests.disks import unfinished
from tests.preprocess.conftest import lines


def test_two_runs_give_the_same_bytes_by_any_number_of_processes(run, tmp_path):
  assert run() == 0 and run(output='again') == 0 and run(output='parallel', processes=2) == 0
  first = tmp_path / 'out'
  files = sorted(p.relative_to(first) for p in first.rglob('*') if p.is_file())
  assert len(files) == 14 + 9 + 3  # Crops, records; manifest, outcomes, parameters.
  for other in (tmp_path / 'again', tmp_path / 'parallel'):
    assert sorted(p.relative_to(other) for p in other.rglob('*') if p.is_file()) == files
    for path in files:
      assert (first / path).read_bytes() == (other / path).read_bytes(), path


def test_a_second_run_repeats_nothing(run, tmp_path, capsys, monkeypatch):
  assert run() == 0
  before = (tmp_path / 'out' / 'manifest.parquet').read_bytes()
  monkeypatch.setattr(crops.Cropper, '__call__', None)
  assert run() == 0
  assert (tmp_path / 'out' / 'manifest.parquet').read_bytes() == before
  assert '9 videos, 9 of them done before' in capsys.readouterr().err


def test_a_file_that_has_changed_is_done_again(run, raw, tmp_path, clips):
  assert run() == 0
  shutil.copy(clips['ok'], raw / 'fake' / 'DF' / 'zero.mp4')  # The download is complete now.
  shutil.copy(clips['too_short'], raw / 'real' / 'a.mp4')
  kept = tmp_path / 'out/crops/raw/DF/two words/.outcome.json'
  made = kept.stat().st_mtime_ns
  assert run() == 0
  found = {
    line['video_id']: (line['outcome'], line['num_crops']) for line in lines(tmp_path / 'out')
  }
  assert found['raw/DF/zero'] == ('ok', 4) and found['raw/real/a'] == ('too_short', 2)
  assert len(list((tmp_path / 'out/crops/raw/real/a').glob('*.png'))) == 2
  assert kept.stat().st_mtime_ns == made


@pytest.mark.parametrize('knows_sizes', [True, False])
def test_a_crop_that_was_cut_is_made_again(run, tmp_path, knows_sizes):
  assert run() == 0
  folder = tmp_path / 'out' / 'crops' / 'raw' / 'real' / 'a'
  crop, record = sorted(folder.glob('*.png'))[1], folder / '.outcome.json'
  if not knows_sizes:  # Of an earlier version.
    old = json.loads(record.read_bytes())
    del old['digest']
    for row in old['crops']:
      del row['bytes']
    record.write_text(json.dumps(old))
  whole = crop.read_bytes()
  crop.write_bytes(whole[: len(whole) // 2])
  assert run() == 0 and crop.read_bytes() == whole


def test_killed_in_its_first_write_it_resumes(run, tmp_path):
  (tmp_path / 'out').mkdir()
  unfinished(tmp_path / 'out' / 'preprocess.json').write_text('{')
  assert run() == 0
  assert not list((tmp_path / 'out').glob('.*'))


def test_what_is_gone_or_damaged_is_made_again(run, tmp_path):
  assert run() == 0
  out = tmp_path / 'out'
  before = (out / 'manifest.parquet').read_bytes()
  (out / 'crops/raw/real/a/.outcome.json').write_text('{')
  sorted((out / 'crops/raw/DF/two words').glob('*.png'))[0].unlink()
  assert run() == 0
  assert (out / 'manifest.parquet').read_bytes() == before


def test_crops_among_the_videos_are_none_of_them(run, raw, tmp_path):
  for _ in range(2):
    assert run('--output', raw / 'real' / 'crops') == 0
    assert len(lines(raw / 'real' / 'crops')) == 9


def test_new_videos_join(run, raw, tmp_path, clips):
  assert run() == 0
  shutil.copy(clips['ok'], raw / 'real' / 'new.mp4')
  assert run() == 0
  assert len(lines(tmp_path / 'out')) == 10
