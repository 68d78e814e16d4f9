"""Explanations within answers: which face, which numbers, and when maps are shown."""

import json
import pathlib

import jax
import numpy as np
import pytest

import masm_jax
from masm_jax import predict
from masm_jax.data.manifest import load_manifest
from masm_jax.explain.run import load
from masm_jax.export import detector as export
from masm_jax.export.request import Request
from masm_jax.inference import detector_file
from masm_jax.prediction import answers, command, words
from masm_jax.prediction.engine import Engine
from masm_jax.prediction.explaining import FaceExplainer
from masm_jax.prediction.media import Source
from tests.prediction.answers_made import check
from tests.prediction.clips import write_clip


@pytest.fixture(scope='module')
def masm_detector(old_runs, tmp_path_factory):
  """A detector file of MASM whose maps lost to the centre prior."""
  folder = tmp_path_factory.mktemp('explained')
  run = old_runs / 'masm'
  with jax.numpy_dtype_promotion('standard'):
    facts = load(run).facts
    lost = {'value': -0.2, 'low': -0.3, 'high': -0.1}
    found = {'num_pairs': 40, 'differences': {'centre prior': {'auprc': lost}}}
    document = {
      'run': {'trained_weights': facts['trained_weights']},
      'sets': {'known': {'localisation': found}},
    }
    (folder / 'benchmark.json').write_text(json.dumps(document))
    export.write(
      Request(run, folder / 'masm', explanations='always', benchmark=folder / 'benchmark.json')
    )
  return folder / 'masm'


@pytest.fixture(scope='module')
def engine(masm_detector):
  explainer = FaceExplainer(masm_detector, points=4)
  with Engine(masm_jax.load(masm_detector, batch_size=4), faces='whole', explainer=explainer) as e:
    yield e


def test_the_highest_frame_of_a_clip_is_explained(engine, val, tmp_path):
  _, crops = val
  clip = write_clip(tmp_path / 'clip.mkv', np.stack(crops[:3]))
  answer = engine.submit(Source(clip)).result()
  found = check(answer)['explanation']
  (face,) = found['faces']
  frames = answer.tracks[0].frames
  assert face['frame'] == max(frames, key=lambda one: one.score_raw).index
  assert face['logit'] == pytest.approx(max(one.score_raw for one in frames), abs=1e-4)
  assert sum(face['shapley']) == pytest.approx(face['logit'] - face['base_logit'], abs=1e-4)
  assert found['parts'] == ['subspace 1', 'subspace 2']
  assert face['picture'].startswith('data:image/jpeg;base64,')
  # It survives its file.
  assert answers.from_dict(answer.to_dict()).to_dict() == answer.to_dict()
  (line,) = words.explanation_lines(answer)
  assert line.startswith(f'Person 1, frame {face["frame"]}: training moved the score from')


def test_maps_that_lost_are_left_out_and_told(engine, masm_detector, val):
  _, crops = val
  answer = engine.submit(Source(crops[0], name='crop')).result()
  assert not answer.explanation['maps_shown'] and answer.explanation['faces'][0]['maps'] is None
  assert 'worse than the middle' in answer.explanation['measured']
  asked_for = FaceExplainer(masm_detector, maps='always', points=4)
  assert asked_for.shows_maps and asked_for.words == answer.explanation['measured']


def test_what_has_no_face_has_no_explanation(engine):
  answer = engine.submit(Source(b'nothing', name='x')).result()
  assert check(answer)['explanation'] is None and words.explanation_lines(answer) == []


def test_the_command_draws_what_it_explains(masm_detector, portraits, tmp_path):
  crop = pathlib.Path(load_manifest(portraits).root) / load_manifest(portraits).table['path'][0]
  options = command.Options(
    model=str(masm_detector), sources=(str(crop),), out=tmp_path / 'out', faces='whole',
    batch_size=4, explain='always',
  )  # fmt: skip
  assert command.run(options, start_jax=lambda: None) == 0
  (line,) = (tmp_path / 'out' / 'predictions.jsonl').read_text().splitlines()
  found = check(json.loads(line))['explanation']
  assert np.asarray(found['faces'][0]['maps']).shape == (2, 8, 8)
  page = (tmp_path / 'out' / 'report.html').read_text()
  assert 'What the detector reacted to' in page and 'worse than the middle' in page
  assert len(list((tmp_path / 'out').rglob('explanation_*.png'))) == 1
  assert page.count('data:image/png;base64,') == 1


def test_a_detector_without_changes_is_refused_before_anything_is_done(old_runs, tmp_path):
  with jax.numpy_dtype_promotion('standard'):
    export.write(Request(old_runs / 'masm', tmp_path / 'plain', explanations='never'))
  assert not (tmp_path / 'plain' / detector_file.CHANGES).exists()
  with pytest.raises(masm_jax.UserError, match='--explanations=always'):
    FaceExplainer(tmp_path / 'plain')


@pytest.mark.parametrize(
  ('typed', 'means'), [([], ''), (['--explain'], 'measured'), (['--explain=always'], 'always')]
)
def test_the_flag(typed, means):
  args = predict._parser().parse_args(['--model=m', '--source=s', '--out=o', *typed])
  assert args.explain == means
