"""Explaining files and measuring explanations, with the old run of MASM that is at hand."""

import json
import pathlib
import tarfile

import cv2
import jax
import pytest

from configs import common, cross_eval
from masm_jax.data import manifest as manifest_lib
from masm_jax.errors import UserError
from masm_jax.explain import run as explain_run
from masm_jax.explain import verdict

FIXTURE = pathlib.Path(__file__).resolve().parents[1] / 'fixtures' / 'version_0_1.tar.xz'


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  folder = tmp_path_factory.mktemp('old')
  with tarfile.open(FIXTURE) as archive:
    archive.extractall(folder, filter='data')
  return folder / 'runs'


@pytest.fixture(scope='module')
def masm(runs):
  with jax.numpy_dtype_promotion('standard'):  # Of optax' own.
    return explain_run.load(runs / 'masm')


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


def test_maps_are_measured_on_the_built_in_set(masm, portraits, tmp_path):
  manifest = manifest_lib.load_manifest(portraits).select(split='test')
  document = explain_run.measure(
    masm, {'faces': manifest}, tmp_path, points=2, limit=6, num_draws=50
  )
  stored = json.loads((tmp_path / 'benchmark.json').read_text())
  assert stored['format'] == 'masm_jax explanation benchmark 1'
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


def test_a_run_that_trained_its_head_alone_has_nothing_to_explain(runs):
  with jax.numpy_dtype_promotion('standard'), pytest.raises(UserError, match='the head alone'):
    explain_run.load(runs / 'linear')


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
