"""`python -m masm_jax.export --format detector`: what the folder holds, and what is refused."""

import errno
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

import masm_jax
from masm_jax import files, tree
from masm_jax.data import transforms
from masm_jax.data.manifest import load_manifest
from masm_jax.errors import UserError
from masm_jax.export import detector as export
from masm_jax.export.__main__ import main
from masm_jax.export.request import Request
from masm_jax.inference import adapter as adapter_lib
from masm_jax.inference import changes, detector_file
from masm_jax.metrics import scores


@pytest.fixture(scope='module')
def folder(trained_run, tmp_path_factory):
  """The detector file of `trained_run`, written by the command."""
  out = tmp_path_factory.mktemp('export') / 'detector'
  words = ['--run', str(trained_run), '--format', 'detector', '--out', str(out), '--name', 'probe']
  assert main([*words, '--licence-note', 'synthetic data: no terms']) == 0
  return out


def test_the_folder_needs_nothing_else(folder, trained_run, portraits):
  """The scores of the run, without its folder, base weights or images."""
  moved = folder.parent / 'moved'
  shutil.copytree(folder, moved)
  run, file = masm_jax.load(trained_run, batch_size=8), masm_jax.load(moved, batch_size=8)
  table = scores.read_scores(trained_run / 'scores' / 'best' / 'val.parquet')
  root = pathlib.Path(load_manifest(portraits).root)
  crops = [transforms.decode(root / path) for path in table['path']]
  np.testing.assert_array_equal(file.score(crops), run.score(crops))
  np.testing.assert_allclose(file.score(crops), table['score'], atol=1e-6)
  np.testing.assert_array_equal(file.features(crops[:3]), run.features(crops[:3]))
  assert file.thresholds == run.thresholds and file.calibration == run.calibration
  assert set(file.thresholds['frame']) == {'eer', 'fpr=1%', 'fpr=5%', 'fnr=1%'}
  for level in ('frame', 'video'):
    assert file.validation.band(level) == run.validation.band(level)
  assert file.validation.scores['frame'].scores.tolist() == sorted(table['score'])
  assert run.file is None and file.file.name == 'probe'
  facts = {k: v for k, v in file.facts.items() if k not in ('workdir', 'detector_file')}
  assert facts == {k: v for k, v in run.facts.items() if k != 'workdir'}


def test_the_validation_features_are_in_domain_and_noise_is_not(folder, trained_run, portraits):
  detector = masm_jax.load(folder, batch_size=8)
  statistics = detector.validation.features
  table = scores.read_scores(trained_run / 'scores' / 'best' / 'val.parquet')
  assert statistics.num == len(table) and statistics.means.shape == (2, 96)
  root = pathlib.Path(load_manifest(portraits).root)
  features = detector.features([transforms.decode(root / path) for path in table['path']])
  for label in (0, 1):
    np.testing.assert_allclose(
      statistics.means[label], features[table['label'] == label].mean(axis=0), atol=1e-5
    )
  assert (statistics.distances(features) < statistics.threshold).all()
  noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
  assert (statistics.distances(detector.features(noise)) > statistics.threshold).all()


def test_what_the_file_says(folder, trained_run, portraits):
  note = json.loads((folder / 'detector.json').read_text())
  assert note['format'] == 'masm_jax detector 1' and note['method'] == 'linear'
  assert note['licence_note'] == 'synthetic data: no terms'
  assert note['backbone']['family'] == 'vit' and note['backbone']['architecture']['depth'] == 6
  train = load_manifest(portraits).select(split='train')
  assert note['training']['sets'] == ['synthetic']
  assert note['training']['videos'] == train.table['video_id'].nunique()
  for label, name in enumerate(('real', 'fake')):
    videos = train.table[train.table['label'] == label]
    people = set(';'.join(videos['identities']).split(';'))
    assert note['training'][name] == {
      'videos': videos['video_id'].nunique(), 'identities': len(people),
    }  # fmt: skip
  assert note['code']['version'] == masm_jax.__version__
  assert sorted(os.listdir(folder)) == [
    'detector.json', 'validation.safetensors', 'weights.safetensors'
  ]  # fmt: skip
  # Nothing of the machine that it was made on.
  for place in (portraits.parent, trained_run.parent):
    assert str(place) not in json.dumps(note)
  assert note['config']['method'] == 'linear' and note['config']['data']['val']['manifest'] == ''


def test_without_the_images_the_file_says_that_it_has_no_features(
  folder, trained_run, portraits, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(
    export.sets_lib,
    'SetLoader',
    lambda *_, **__: lambda *_: (_ for _ in ()).throw(UserError('gone')),
  )
  export.write(Request(run=trained_run, out=tmp_path / 'file'))
  assert 'features    none: gone' in capsys.readouterr().out
  found = masm_jax.load(tmp_path / 'file')
  assert found.validation.features is None and found.thresholds['video']['eer'] > 0
  # The run's own record tells it, without the images.
  assert found.file.training == masm_jax.load(folder).file.training
  assert found.file.training.fake.videos > 0


def test_an_older_file_is_replaced_and_other_folders_are_refused(
  folder, trained_run, tmp_path, monkeypatch
):
  copy = tmp_path / 'copy'
  shutil.copytree(folder, copy)
  (copy / 'weights.safetensors').write_bytes(b'damaged')
  export.write(Request(run=trained_run, out=copy))
  assert masm_jax.load(copy).file.name == 'linear'  # The name of the run's folder.

  def full(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(detector_file, '_validation_note', full)
  with pytest.raises(UserError, match=r'cannot write to .*No space left'):
    export.write(Request(run=trained_run, out=copy))
  assert masm_jax.load(copy).file.name == 'linear'
  (tmp_path / 'holiday.jpg').write_bytes(b'')
  with pytest.raises(UserError, match='holds other files'):
    export.write(Request(run=trained_run, out=tmp_path))
  with pytest.raises(UserError, match='is a detector file already'):
    export.write(Request(run=folder, out=tmp_path / 'again'))


def test_a_checkpoint_that_the_run_did_not_score_is_scored(trained_run, tmp_path):
  export.write(Request(run=trained_run, out=tmp_path / 'file', step='2'))
  found = masm_jax.load(tmp_path / 'file')
  assert found.facts['step'] == 2 and found.facts['checkpoint'] == 'step'
  assert found.thresholds['frame'] and found.validation.features.num > 0


@pytest.fixture(scope='module')
def adapter(trained_run, tmp_path_factory):
  out = tmp_path_factory.mktemp('adapter') / 'file'
  export.write(Request(run=trained_run, out=out, weights='adapter', explanations='never'))
  return out


def test_an_adapter_is_small_and_scores_as_the_run(adapter, folder, portraits):
  """The base weights of the demo's backbone ship with the program."""
  sizes = [(of / 'weights.safetensors').stat().st_size for of in (adapter, folder)]
  assert sizes[0] < sizes[1] / 100  # A linear probe: the head alone.
  root = pathlib.Path(load_manifest(portraits).root)
  crops = [transforms.decode(path) for path in sorted(root.rglob('*.png'))[:8]]
  one, two = (masm_jax.load(of, batch_size=8) for of in (adapter, folder))
  np.testing.assert_allclose(one.score(crops), two.score(crops), rtol=0, atol=1e-6)
  assert one.thresholds == two.thresholds


def test_an_adapter_on_other_base_weights_is_refused(adapter, folder, tmp_path):
  assets = pathlib.Path(masm_jax.__file__).parent / 'assets' / 'demo_vit.safetensors'
  other = {k: v + 1e-3 for k, v in safetensors.numpy.load_file(assets).items()}
  safetensors.numpy.save_file(other, tmp_path / 'other.safetensors')
  with pytest.raises(UserError, match='it is an adapter of the base weights'):
    masm_jax.load(adapter, weights=str(tmp_path / 'other.safetensors'))
  masm_jax.load(adapter, weights=str(assets))
  with pytest.raises(UserError, match='needs no base weights'):
    masm_jax.load(folder, weights=str(assets))
  copy = tmp_path / 'copy'
  shutil.copytree(adapter, copy)
  note = json.loads((copy / 'detector.json').read_text())
  for change, match in (
    ({'preset': 'clip_b16'}, 'backbone.architecture is not the one of clip_b16'),
    ({'preset': 'of_tomorrow'}, "unknown backbone 'of_tomorrow'"),
  ):
    files.write_sealed(copy / 'detector.json', note | {'backbone': note['backbone'] | change})
    with pytest.raises(UserError, match=match):
      masm_jax.load(copy)


def test_an_adapter_of_low_rank_or_whole_changes_makes_the_weights_again():
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  base = {
    'backbone': {'q': {'kernel': normal(6, 5), 'bias': normal(5)}},
    'head': {'bias': normal(2)},
  }
  parts = {
    'backbone/q/kernel': changes.LowRank(normal(3, 6, 2), normal(3, 2, 5)),
    'backbone/q/bias': changes.Dense(normal(3, 5)),
  }
  added = changes.Changes(base, parts, 3)
  merged = tree.flatten(jax.device_get(added.at(np.ones(3, np.float32))))
  found = adapter_lib.arrays(added, merged)
  assert {name: array.shape for name, array in found.items()} == {
    'head/bias': (2,), 'backbone/q/bias/values': (1, 5),
    'backbone/q/kernel/left': (1, 6, 6), 'backbone/q/kernel/right': (1, 6, 5),
  }  # fmt: skip
  merged['backbone/q/bias'] = merged['backbone/q/bias'] + np.float32(0.1)
  with pytest.raises(UserError, match='would change backbone/q/bias by more than rounding'):
    adapter_lib.arrays(added, merged)


def test_the_command_ends_with_one_line(tmp_path, capsys):
  words = ['--run', str(tmp_path), '--format', 'detector', '--out', str(tmp_path / 'out')]
  assert main(words) == 2
  assert 'error: ' in capsys.readouterr().err and not (tmp_path / 'out').exists()
