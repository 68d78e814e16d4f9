"""Robustness curves: which points a suite asks for, and what copies of whole videos must be."""

import json

import pytest

from configs import common, cross_eval
from masm_jax.data.manifest import Manifest
from masm_jax.errors import UserError
from masm_jax.evaluation import curves
from masm_jax.perturbations import catalogue as robustness


def config(**fields):
  suite = common.get_suite()
  suite.robustness.update(fields)
  return suite.robustness


def test_points_come_by_set_perturbation_and_level():
  asked = config(
    perturbations=('CS', 'VC', 'video_GB'), levels=(2, 5), copies='c/{set}_{key}{level}'
  )
  found = curves.points(asked, ['a', 'b'])
  assert [(p.name, p.curve, p.level, p.copy) for p in found[:6]] == [
    ('a', 'CS', 2, ''),
    ('a', 'CS', 5, ''),
    ('a', 'VC', 2, 'c/a_VC2'),
    ('a', 'VC', 5, 'c/a_VC5'),
    ('a', 'video_GB', 2, 'c/a_GB2'),
    ('a', 'video_GB', 5, 'c/a_GB5'),
  ]
  assert [p.parameter for p in found[:6]] == [0.3, 0.0, 32, 40, 9, 21] and len(found) == 12
  assert curves.points(config(perturbations=('VC',), sets=('b',)), ['a', 'b'])[4] == curves.Point(
    'b', 'VC', 5, 'data/b_VC5/manifest.parquet'
  )
  assert curves.points(config(), ['a']) == []
  assert set(robustness.WHOLE_VIDEO) & set(robustness.PERTURBATIONS) == set()


def test_the_suite_file_takes_groups_and_single_perturbations():
  chosen = cross_eval.get_config('robustness=deeperforensics+VC+video_CS').robustness.perturbations
  assert chosen == ('CS', 'CC', 'BW', 'GNC', 'GB', 'PX', 'VC', 'video_CS')
  assert cross_eval.get_config('robustness=none').robustness.perturbations == ()


def test_what_is_named_twice_is_scored_once():
  suite = cross_eval.get_config('robustness=deeperforensics+CS')
  assert suite.robustness.perturbations == ('CS', 'CC', 'BW', 'GNC', 'GB', 'PX')
  twice = config(perturbations=('CS', 'VC', 'CS', 'VC'), levels=(2,), sets=('a', 'a'))
  assert [(p.name, p.curve) for p in curves.points(twice, ['a'])] == [('a', 'CS'), ('a', 'VC')]


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'perturbations': ('XY',)}, "no perturbation 'XY'; .* of crops, and .*VC of whole videos"),
    ({'perturbations': ('VC',), 'levels': (6,)}, 'VC has none of the levels'),
    ({'perturbations': ('VC',), 'copies': '{set}/m.csv'}, 'gives a/m.csv for several copies'),
    ({'perturbations': ('VC', 'video_GB'), 'copies': '{set}{level}'}, 'gives a1 for several'),
    ({'perturbations': ('VC',), 'copies': '{crf}'}, 'is no pattern: only {set}, {key} and {level}'),
    ({'perturbations': ('VC',), 'copies': '{'}, 'is no pattern'),
    ({'perturbations': ('VC',), 'copies': '{set.x}'}, 'is no pattern'),
  ],
)
def test_what_gives_no_curve_is_refused(fields, message):
  with pytest.raises(UserError, match=message) as caught:
    curves.points(config(**fields), ['a', 'b'])
  assert '\n' not in str(caught.value)


def copy_point(tmp_path, record):
  folder = tmp_path / 'a_VC3'
  folder.mkdir()
  if record is not None:
    (folder / 'preprocess.json').write_text(record)
  return curves.Point('a', 'VC', 3, str(folder / 'manifest.parquet'))


def test_a_copy_is_held_to_what_its_folder_says(tmp_path):
  made = {'key': 'VC', 'level': 3, 'parameter': 35, 'seed': 0}
  point = copy_point(tmp_path, json.dumps({'layout': 'ffpp', 'perturbation': made}))
  manifest = Manifest(None, None, '')
  crops = curves.Point('a', 'CS', 1)
  assert curves.load_copies([crops, point], lambda _: manifest) == ({point: manifest}, [])
  other = curves.Point('a', 'VC', 4, point.copy)
  with pytest.raises(UserError, match=r'perturbed by VC at level 3 .*, not by VC at level 4'):
    curves.load_copies([other], lambda _: manifest)


@pytest.mark.parametrize('record', [None, '{}', 'no JSON', '[]'])
def test_a_copy_of_which_nothing_tells_gets_a_warning(tmp_path, record):
  point = copy_point(tmp_path, record)
  _, (warning,) = curves.load_copies([point], lambda _: Manifest(None, None, ''))
  assert warning['kind'] == 'perturbation_unchecked' and warning['set'] == 'a'
  assert warning['text'].startswith('a VC 3: nothing beside ')


def test_a_missing_copy_is_named_with_the_way_out():
  def load(point):
    raise UserError(f'no manifest at {point.copy}')

  asked = curves.points(config(perturbations=('VC',)), ['a'])
  with pytest.raises(
    UserError, match=r'a VC 1: no manifest at data/a_VC1/manifest.parquet .*levels'
  ):
    curves.load_copies(asked, load)
