"""Explaining files and measuring explanations, with the old run of MASM that is at hand."""

import hashlib
import json
import shutil

import cv2
import jax
import numpy as np
import pytest
import safetensors.numpy

from configs import common, cross_eval
from masm_jax import files
from masm_jax.data import manifest as manifest_lib
from masm_jax.data import transforms
from masm_jax.errors import UserError
from masm_jax.explain import run as explain_run
from masm_jax.explain import verdict
from masm_jax.explain.explanation import explain
from masm_jax.export import detector as export
from masm_jax.export.request import Request
from masm_jax.inference import detector_file


@pytest.fixture(scope='module')
def masm(old_runs):
  with jax.numpy_dtype_promotion('standard'):  # Of optax' own.
    return explain_run.load(old_runs / 'masm')


def test_files_are_explained_in_lines_and_pictures(masm, portraits, tmp_path):
  table = manifest_lib.load_manifest(portraits).table
  chosen = [portraits.parent / path for path in table['path'][:2]]
  found = explain_run.explain_files(masm, chosen, tmp_path, points=8)
  lines = [json.loads(line) for line in (tmp_path / 'explanations.jsonl').read_text().splitlines()]
  assert [line['name'] for line in lines] == [path.name for path in chosen]
  num_parts = masm.explainer.changes.num_parts
  for (_, one), line in zip(found, lines, strict=True):
    assert len(line['shapley']) == num_parts and len(line['maps']) == num_parts
    assert sum(line['shapley']) == pytest.approx(line['logit'] - line['base_logit'], abs=1e-4)
    assert abs(one.completeness_error) < 1e-3
    total = one.maps.sum() + one.completeness_error
    assert abs(total) <= abs(one.logit - one.base_logit) + 1.0
  for path in tmp_path.glob('*.png'):
    assert cv2.imread(str(path)).std() > 5
  assert len(list(tmp_path.glob('*.png'))) == 2
  rows = explain_run.describe(found).splitlines()
  assert len(rows) == 3 and f'{found[0][1].logit:+.3f}' in rows[1]


def test_maps_take_the_place_of_older_ones_and_of_nothing_else(
  masm, portraits, tmp_path, monkeypatch
):
  monkeypatch.setattr(explain_run, 'explanation_figure', lambda *words, **_: words[3].touch())
  image = cv2.imread(str(next(portraits.parent.rglob('*.png'))))
  names = ['a', 'b', 'c' * 251]
  paths = [tmp_path / f'{name}.png' for name in names]
  for path in paths:
    cv2.imwrite(str(path), image)
  out = tmp_path / 'out'
  explain_run.explain_files(masm, paths, out, points=8)  # All in one batch of one size.
  (out / 'mine').touch()
  assert sorted(path.name[:6] for path in out.iterdir()) == [
    '001_a.', '002_b.', '003_cc', 'explai', 'explan', 'mine'
  ]  # fmt: skip
  explain_run.explain_files(masm, paths[:2], out, points=8)
  assert sorted(path.name for path in out.iterdir()) == [
    '001_a.png', '002_b.png', 'explain.json', 'explanations.jsonl', 'mine'
  ]  # fmt: skip
  foreign = tmp_path / 'foreign'
  foreign.mkdir()
  (foreign / 'explanations.jsonl').write_text('mine')
  with pytest.raises(UserError, match='foreign holds other files'):
    explain_run.explain_files(masm, paths, foreign, points=8)
  (foreign / 'benchmark.json').write_text('{"mine": 1}')
  with pytest.raises(UserError, match='foreign holds other files'):
    explain_run.measure(masm, {}, foreign)
  assert sorted(path.name for path in foreign.iterdir()) == ['benchmark.json', 'explanations.jsonl']


def test_maps_are_measured_on_the_built_in_set(masm, portraits, tmp_path):
  manifest = manifest_lib.load_manifest(portraits).select(split='test')
  document = explain_run.measure(
    masm, {'faces': manifest}, tmp_path, points=2, limit=6, num_draws=50
  )
  stored = json.loads((tmp_path / 'benchmark.json').read_text())
  assert stored['format'] == 'masm_jax explanation benchmark 1'
  assert stored['files'] == ['faces_knock_out.png']
  found = document['sets']['faces']['localisation']
  num_parts = masm.explainer.changes.num_parts
  names = {'all changes', *(f'subspace {k + 1}' for k in range(num_parts))}
  baselines = {'random', 'centre prior', 'Grad-CAM', 'occlusion', 'attention rollout'}
  assert set(found['maps']) == names | baselines and set(found['differences']) == baselines
  assert found['masks'] == 'exact' and 0 < found['num_pairs'] <= 6
  for of in found['maps'].values():
    assert set(of) == {'pointing', 'energy', 'auprc', 'deletion', 'insertion'}
    assert all(0 <= metric['value'] <= 1 for metric in of.values())
  for name in baselines:
    difference = found['differences'][name]['auprc']['value']
    apart = found['maps']['all changes']['auprc']['value'] - found['maps'][name]['auprc']['value']
    assert difference == pytest.approx(apart)
  assert -1 <= found['shuffled']['rank_correlation']['value'] <= 1
  assert found['beats_centre_prior'] == verdict.beats_centre_prior(found)
  matrix = document['sets']['faces']['knock_out']
  assert len(matrix['falls']) == num_parts
  assert set(matrix['falls'][0]) == set(manifest.table['method']) - {'real'}
  text = explain_run.format_benchmark(document)
  assert 'without subspace 1' in text and 'all changes - centre prior' in text
  assert verdict.in_words(found) in text


def test_a_run_that_trained_its_head_alone_has_nothing_to_explain(old_runs):
  with jax.numpy_dtype_promotion('standard'), pytest.raises(UserError, match='the head alone'):
    explain_run.load(old_runs / 'linear')


def test_the_sets_are_those_that_the_suite_names(masm, portraits):
  suite = cross_eval.get_config('protocol=run')
  with suite.unlocked():
    suite.sets.mine = common.dataset(split='val')
  with pytest.raises(UserError, match=r'sets\.mine\.manifest is empty'):
    explain_run.load_sets(masm, suite)
  suite.sets.mine.manifest = str(portraits)
  (found,) = explain_run.load_sets(masm, suite).values()
  assert set(found.table['split']) == {'val'}


def test_pictures_are_listed_by_name(tmp_path):
  for name in ('b.png', 'a.jpg', 'c.txt'):
    (tmp_path / name).write_bytes(b'')
  assert [path.name for path in explain_run.list_pictures([str(tmp_path)])] == ['a.jpg', 'b.png']
  (tmp_path / 'empty').mkdir()
  for source in ('empty', 'gone'):
    with pytest.raises(UserError, match=source):
      explain_run.list_pictures([str(tmp_path / source)])


def test_maps_are_no_sources(tmp_path):
  (tmp_path / 'maps').mkdir()
  for name in ('a.png', 'maps/001_a.png'):
    (tmp_path / name).write_bytes(b'')
  (tmp_path / '001_a.png').symlink_to('maps/001_a.png')
  found = explain_run.list_pictures([str(tmp_path)], out=tmp_path / 'maps')
  assert found == [tmp_path / 'a.png']
  with pytest.raises(UserError, match=r'would be written over .*, which is read'):
    explain_run.list_pictures([str(tmp_path)], out=tmp_path)


@pytest.mark.parametrize(
  ('low', 'high', 'says'),
  [(0.1, 0.3, 'better than'), (-0.1, 0.1, 'could not be told'), (-0.3, -0.1, 'worse than')],
)
def test_words_follow_the_interval(low, high, says):
  middle = {'value': (low + high) / 2, 'low': low, 'high': high}
  result = {'num_pairs': 40, 'differences': {'centre prior': {'auprc': middle}}}
  assert says in verdict.in_words(result)
  assert verdict.beats_centre_prior(result) == (low > 0)
  assert ('not shown' in verdict.in_words(result)) == (low <= 0)
  assert 'Nobody has measured' in verdict.in_words(None)


@pytest.fixture(scope='module')
def detector(old_runs, tmp_path_factory):
  """The detector file of the run of MASM, with what training added."""
  out = tmp_path_factory.mktemp('detector') / 'masm'
  with jax.numpy_dtype_promotion('standard'):
    export.write(Request(old_runs / 'masm', out, explanations='always'))
  return out


def test_a_detector_file_explains_as_its_run_does(masm, detector, portraits):
  loaded = explain_run.load(detector)
  image = np.stack([transforms.decode(next(portraits.parent.rglob('*.png')))])
  (of_file,) = explain(loaded.explainer, image, points=2, batch_size=1)
  (of_run,) = explain(masm.explainer, image, points=2, batch_size=1)
  assert of_file.logit == pytest.approx(of_run.logit, abs=1e-5)
  assert of_file.base_logit == pytest.approx(of_run.base_logit, abs=1e-5)
  np.testing.assert_allclose(of_file.values, of_run.values, atol=1e-5)
  np.testing.assert_allclose(of_file.maps, of_run.maps, atol=1e-5)
  with pytest.raises(UserError, match='no test set is named'):
    explain_run.load_sets(loaded, cross_eval.get_config('protocol=run'))


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    (lambda arrays, name: arrays.pop(name), 'lacks'),
    (
      lambda arrays, name: arrays.update({'backbone/none/left': arrays[name]}),
      'none of its arrays',
    ),
    (
      lambda arrays, name: arrays.update({'head/kernel/values': arrays[name]}),
      'none of its arrays',
    ),
    (lambda arrays, name: arrays.update({name: arrays[name][:1]}), 'is F32'),
    (lambda arrays, name: arrays.update({name: arrays[name] * np.nan}), 'not finite'),
    (lambda arrays, name: arrays.update({name: arrays[name].astype(np.float64)}), 'is F64'),
  ],
)
def test_changes_that_do_not_fit_are_refused(detector, tmp_path, change, match):
  """Even where the hash in the note fits the file: a stranger wrote both."""
  folder = tmp_path / 'crafted'
  shutil.copytree(detector, folder)
  path = folder / detector_file.CHANGES
  arrays = safetensors.numpy.load_file(path)
  change(arrays, next(name for name in sorted(arrays) if name.endswith('/left')))
  safetensors.numpy.save_file(arrays, path)
  note = json.loads((folder / 'detector.json').read_text())
  content = path.read_bytes()
  note['explanation']['blob'] = {
    'sha256': hashlib.sha256(content).hexdigest(), 'bytes': len(content),
  }  # fmt: skip
  files.write_sealed(folder / 'detector.json', note)
  with pytest.raises(UserError, match=match) as told:
    explain_run.load(folder)
  assert '\n' not in str(told.value)


def test_a_damaged_or_missing_file_of_changes_is_told(detector, tmp_path):
  folder = tmp_path / 'damaged'
  shutil.copytree(detector, folder)
  path = folder / detector_file.CHANGES
  content = bytearray(path.read_bytes())
  content[-5] ^= 1
  path.write_bytes(content)
  with pytest.raises(UserError, match='copy both again'):
    explain_run.load(folder)
  path.unlink()
  with pytest.raises(UserError, match='copy the whole folder'):
    explain_run.load(folder)


def test_a_detector_file_may_be_written_without_changes(old_runs, tmp_path, monkeypatch):
  with jax.numpy_dtype_promotion('standard'):
    export.write(Request(old_runs / 'masm', tmp_path / 'out', explanations='never'))
  assert not (tmp_path / 'out' / detector_file.CHANGES).exists()
  with pytest.raises(UserError, match='--explanations=always'):
    explain_run.load(tmp_path / 'out')


def test_a_benchmark_of_other_weights_is_refused(old_runs, tmp_path):
  (tmp_path / 'b.json').write_text(json.dumps({'run': {'trained_weights': '0' * 64}, 'sets': {}}))
  request = Request(
    old_runs / 'masm', tmp_path / 'out', explanations='always', benchmark=tmp_path / 'b.json'
  )
  with jax.numpy_dtype_promotion('standard'), pytest.raises(UserError, match='other weights'):
    export.write(request)
