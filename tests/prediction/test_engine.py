"""Answers of the engine: those of `evaluate` on the same crops, whatever else is being scored."""

import pathlib

import numpy as np
import pytest
from PIL import Image

import masm_jax
from masm_jax import plain_files
from masm_jax.data.manifest import load_manifest
from masm_jax.errors import UserError
from masm_jax.metrics import binary
from masm_jax.prediction import answers
from masm_jax.prediction.engine import Engine
from masm_jax.prediction.media import Source
from masm_jax.preprocess import model_file
from tests.prediction.answers_made import check
from tests.prediction.clips import write_clip


@pytest.fixture(scope='module')
def clips(val, tmp_path_factory):
  """A clip of each validation video: its crops as frames, without loss."""
  table, crops = val
  folder = tmp_path_factory.mktemp('clips')
  return {
    name: write_clip(folder / f'{i}.mkv', np.stack([crops[row] for row in rows]))
    for i, (name, rows) in enumerate(table.groupby('video_id').indices.items())
  }


def test_scores_and_decisions_are_those_of_evaluate(whole_engine, val, portraits, clips):
  table, _ = val
  root = pathlib.Path(load_manifest(portraits).root)
  paths = [root / path for path in table['path']]
  found = list(whole_engine.predict(Source(path) for path in [*paths, *clips.values()]))
  for answer in found:
    check(answer)
  pictures, videos = found[: len(paths)], found[len(paths) :]
  np.testing.assert_allclose([a.score_raw for a in pictures], table['logit'], atol=1e-6)
  assert {a.input.kind for a in pictures} == {'image'}
  expected = binary.video_scores(table).set_index('video_id')['score'].loc[list(clips)]
  scores = 1 / (1 + np.exp(-np.array([a.score_raw for a in videos])))
  np.testing.assert_allclose(scores, expected, atol=1e-6)
  rule = whole_engine.policy.rules['video']
  called = [a.probability >= a.policy.threshold for a in videos]
  np.testing.assert_array_equal(called, expected >= rule.threshold)
  low, high = rule.abstain or (rule.threshold, rule.threshold)
  wanted = np.select([expected < low, expected < high], ['real', 'undecided'], 'fake')
  assert [a.verdict for a in videos] == wanted.tolist()
  assert all('too_few_frames' in a.reasons and a.interval is None for a in videos)


def test_the_hash_is_of_what_was_scored(whole_engine, val, tmp_path):
  """A file that changes after it was hashed by its name, or while it is read."""
  _, crops = val
  place = tmp_path / 'x.png'
  Image.fromarray(crops[0]).save(place)
  answer = whole_engine.submit(Source(place, sha256='0' * 64)).result()
  sha256 = plain_files.sha256(place)
  assert (answer.input.sha256, answer.id) == (sha256, f'sha256:{sha256}')
  assert answer.tracks

  def rename(stage, share):
    place.rename(tmp_path / 'y.png')

  answer = whole_engine.submit(Source(place), lambda *at: at[0] == 'read' and rename(*at)).result()
  assert answer.tracks and answer.input.sha256 == sha256

  place = tmp_path / 'y.png'
  answer = whole_engine.submit(
    Source(place), lambda stage, share: stage == 'read' and place.write_bytes(b'another')
  ).result()
  assert (answer.verdict, answer.reasons) == ('no_answer', ('unreadable',))
  assert answer.warnings[0] == 'It changed while it was read.'


def test_without_yunet_its_own_flag_is_named(detector, monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setattr(model_file, '_fetch', lambda url: b'')
  with pytest.raises(UserError, match='the weaker --faces haar'):
    Engine(detector)


def test_neighbours_in_a_batch_leave_no_trace(whole_engine, val):
  _, crops = val
  sources = [Source(crop, name=f'{i}') for i, crop in enumerate(crops[:9])]
  alone = [whole_engine.submit(source).result() for source in sources]
  together = list(whole_engine.predict(reversed(sources)))[::-1]
  for one, other in zip(alone, together, strict=True):
    assert answers.without_timing(one).to_dict() == answers.without_timing(other).to_dict()
  assert [a.input.kind for a in alone] == ['array'] * 9
  assert whole_engine.scorer.num_rows >= 18


def test_bytes_paths_and_progress(whole_engine, clips):
  path = next(iter(clips.values()))
  told = []
  source = Source(path.read_bytes(), name='../../a\nb\0c.mkv')
  answer = whole_engine.submit(source, lambda *step: told.append(step)).result()
  assert answer.input.name == '../../a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c.mkv'
  assert {stage for stage, _ in told} == {'read', 'decode', 'faces', 'score'}
  assert all(0 <= share <= 1 for _, share in told) and told[-1] == ('score', 1.0)
  same = whole_engine.submit(Source(path, name=source.name)).result()
  assert answers.without_timing(same) == answers.without_timing(answer)
  facts = answer.input
  assert (facts.kind, facts.frames, facts.fps, facts.codec) == ('video', 2, 5.0, 'ffv1')
  assert answer.timing_s['score'] > 0 and set(answer.timing_s) == {'decode', 'faces', 'score'}


def test_what_cannot_be_opened_has_an_answer(whole_engine, tmp_path):
  (tmp_path / 'empty').touch()
  for source in (Source(tmp_path / 'none'), Source(tmp_path), Source(b''), Source('/dev/zero')):
    answer = whole_engine.submit(source).result()
    check(answer)
    assert (answer.verdict, answer.reasons) == ('no_answer', ('unreadable',))
    assert answer.warnings and not answer.tracks


def test_views_are_frames_made_smaller(whole_engine, tmp_path):
  images = np.zeros((9, 32, 1440, 3), np.uint8) + np.arange(9, dtype=np.uint8)[:, None, None, None]
  seen = []
  path = write_clip(tmp_path / 'wide.mkv', images * 20)
  answer = whole_engine.submit(Source(path), on_view=seen.append).result()
  assert [view.index for view in seen] == [0, 1, 3, 4, 6, 8]
  assert {view.image.shape for view in seen} == {(16, 720, 3)} and seen[0].scale == 0.5
  assert [int(view.image[0, 0, 0]) for view in seen] == [0, 20, 60, 80, 120, 160]
  assert [f.index for f in answer.tracks[0].frames] == list(range(9))


def test_a_detector_predicts_lazily_and_in_order(detector, whole_engine, val, monkeypatch):
  monkeypatch.setattr(whole_engine, 'close', lambda **_: None)
  monkeypatch.setattr('masm_jax.prediction.engine.Engine', lambda *_, **__: whole_engine)
  asked = []

  def inputs():
    for crop in val[1] * 3:
      asked.append(1)
      yield crop

  found = detector.predict(inputs(), faces='whole')
  first = next(found)
  assert isinstance(first, masm_jax.Answer) and first.input.name == 'input 0'
  assert len(asked) < 10  # Not all are read at once.
  assert [a.input.name for a in found] == [f'input {i}' for i in range(1, 3 * len(val[1]))]
