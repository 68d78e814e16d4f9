"""Results become typed values; whatever is wrong with them is one line that names the field."""

import copy
import json

import pytest

from masm_jax.errors import UserError
from masm_jax.evaluation import results

GOOD = {
  'format': results.FORMAT,
  'warnings': [{'set': 'a', 'kind': 'leak_files', 'text': 'a shares 1 file'}],
  'run': {'method': 'masm', 'seed': 3, 'step': 7, 'trainable_parameters': 11},
  'protocol': {
    'video_score': 'mean',
    'threshold': {'frame': 0.25, 'video': 'nan'},
    'bootstrap': {'draws': 20, 'confidence': 0.95, 'unit': 'video', 'seed': 0},
  },
  'sets': {
    'val': {},
    'a': {'video': {'num': 4, 'metrics': {'eer': {'value': 0.5, 'low': 'nan', 'high': 'nan'}}}},
  },
  'robustness': {'a': {'CS': [{'level': 2, 'parameter': [1, 2], 'video': {'num': 3}}]}},
  'masks': [{'step': 5, 'rows': ['b'], 'mask': [[0, 1]], 'duty': [[0.5, 'nan']]}],
  'of_a_later_version': {'x': 1},
}


def written(folder, document):
  folder.mkdir(exist_ok=True)
  text = document if isinstance(document, str) else json.dumps(document)
  (folder / 'results.json').write_text(text)
  return folder


def changed(place, value):
  document = copy.deepcopy(GOOD)
  *parents, last = place
  part = document
  for key in parents:
    part = part[key]
  part[last] = value
  return document


def test_what_is_there_is_read_and_what_is_missing_has_a_default(tmp_path):
  found = results.read(written(tmp_path, GOOD))
  assert (found.run.method, found.run.seed, found.run.crops) == ('masm', 3, None)
  assert found.protocol.threshold.frame == 0.25
  assert found.protocol.threshold.video != found.protocol.threshold.video
  eer = found.sets['a'].video.metric('eer')
  assert eer.value == 0.5 and eer.low != eer.low
  assert found.sets['a'].frame.num == 0 and found.sets['val'].video.metrics == {}
  assert found.warnings[0].kind == 'leak_files'
  (step,) = found.robustness['a']['CS']
  assert (step.level, step.parameter, step.video.num) == (2, [1, 2], 3)
  assert found.masks[0]['mask'] == [[0, 1]] and found.started == ''
  with pytest.raises(AttributeError):
    found.note = 'frozen'


def test_how_crops_were_made_is_a_typed_fact(tmp_path):
  crops = {'template': 'arcface', 'margin': 1.3, 'size': 224}
  found = results.read(written(tmp_path, changed(['run', 'crops'], crops)))
  assert (found.run.crops.template, found.run.crops.margin) == ('arcface', 1.3)
  assert found.run.crops.size_px == 224


def test_the_note_of_a_folder_says_when_it_was_begun(tmp_path):
  claim = {'format': results.CLAIM_FORMAT, 'started': '2026-11-25', 'config_sha256': 'c'}
  (tmp_path / 'evaluation.json').write_text(json.dumps(claim))
  assert results.read(written(tmp_path, GOOD)).started == '2026-11-25'
  assert results.read_claim(tmp_path) == {'config_sha256': 'c'}
  (tmp_path / 'evaluation.json').write_text(json.dumps({'config_sha256': 'c'}))  # Version 0.1.
  assert results.read(tmp_path).started == '' and results.read_claim(tmp_path) == {
    'config_sha256': 'c'
  }
  (tmp_path / 'evaluation.json').write_text(json.dumps({'format': 'of others'}))
  with pytest.raises(UserError, match='is not the note of an evaluation'):
    results.read_claim(tmp_path)


@pytest.mark.parametrize(
  ('place', 'value', 'field'),
  [
    (['run'], [], 'run: '),
    (['run', 'seed'], 'x', 'run.seed: '),
    (['run', 'seed'], 10**400, 'run.seed: '),
    (['run', 'method'], 3, 'run.method: '),
    (['run', 'config'], 'x', 'run.config: '),
    (['protocol', 'threshold', 'frame'], {}, 'protocol.threshold.frame: '),
    (['protocol', 'threshold', 'frame'], 10**400, 'protocol.threshold.frame: '),
    (['protocol', 'video_score'], 'worst', 'protocol.video_score: '),
    (['protocol', 'bootstrap', 'draws'], 10**12, 'protocol.bootstrap.draws: '),
    (['protocol', 'bootstrap', 'confidence'], 1, 'protocol.bootstrap.confidence: '),
    (['protocol', 'temperature'], {'frame': 0}, 'protocol.temperature.frame: '),
    (['sets'], [], 'sets: '),
    (['sets', '../up'], {}, "sets: Value error, '../up' is no name of a set"),
    (['sets', 'a', 'video', 'num'], -1, 'sets.a.video.num: '),
    (['sets', 'a', 'video', 'metrics', 'eer'], 0.5, 'sets.a.video.metrics.eer: '),
    (['sets', 'a', 'video', 'metrics', 'eer', 'low'], 'x', 'sets.a.video.metrics.eer.low: '),
    (['warnings'], {}, 'warnings: '),
    (['warnings', 0], 'leak', 'warnings.0: '),
    (['robustness', 'a', 'CS'], {}, 'robustness.a.CS: '),
    (['robustness', 'a', 'CS', 0, 'level'], 'x', 'robustness.a.CS.0.level: '),
    (['masks', 0, 'mask'], [[1], [1, 2]], 'masks: Value error, masks are not all of one shape'),
    (['masks', 0, 'step'], 2**63, 'masks.0.step: Input should be less than or equal to 1000000'),
    (['masks', 0, 'rows'], [], 'masks: Value error, a mask has as many rows as names'),
    (['masks'], [GOOD['masks'][0]] * 2, 'masks: Value error, steps of masks must rise'),
    (['subspaces'], {'spectra': {'kernels': {}}}, 'subspaces.spectra.kernels: '),
    (['subspaces'], {'semantics': {'probes': {'yaw': {}}}}, 'subspaces.semantics.probes.yaw.'),
  ],
)
def test_a_damaged_field_is_one_line_that_names_it(tmp_path, place, value, field):
  with pytest.raises(UserError) as caught:
    results.read(written(tmp_path, changed(place, value)))
  text = str(caught.value)
  assert text.startswith(f'{tmp_path / "results.json"}: {field}') and '\n' not in text


@pytest.mark.parametrize('text', ['', '[', '3', '[]', '{"a": ' * 100_000, '\x00', '{"format": 1}'])
def test_what_is_no_result_is_one_line(tmp_path, text):
  with pytest.raises(UserError, match=r'results\.json') as caught:
    results.read(written(tmp_path, text))
  assert '\n' not in str(caught.value)


def test_half_a_surrogate_pair_can_be_written_again(tmp_path):
  found = results.read(written(tmp_path, changed(['warnings', 0, 'text'], 'x\ud800y')))
  assert found.warnings[0].text.encode() == b'x?y'


@pytest.mark.parametrize(
  ('text', 'named'),
  [
    ('eval', ('', 'eval')),
    ('masm=eval', ('masm', 'eval')),
    ('there/K=4/eval', ('', 'there/K=4/eval')),  # The project's own sweeps make such folders.
    ('there/K=4,q=8', ('', 'there/K=4,q=8')),
    ('K=4=there', ('K=4', 'there')),
    ('all=there/K=4/eval', ('all', 'there/K=4/eval')),
    ('missing/K=4/eval', ('', 'missing/K=4/eval')),
    ('K=4', ('', 'K=4')),
    ('K=missing', ('K', 'missing')),
    ('=there', ('', '=there')),
  ],
)
def test_the_name_of_a_folder_and_the_folder(text, named, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for folder in ('eval', 'there/K=4/eval', 'there/K=4,q=8', 'K=4'):
    (tmp_path / folder).mkdir(parents=True)
  name, folder = results.named_folder(text)
  assert (name, str(folder)) == named
