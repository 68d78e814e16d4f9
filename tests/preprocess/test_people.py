"""Who is seen: over cuts, in group photos, by `--people`; whose crops are left out, and why."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from masm_jax.data.crop_flags import flags_of
from masm_jax.data.linking import linked_groups
from masm_jax.data.manifest import load_manifest
from masm_jax.preprocess import crop_checks, looks
from masm_jax.preprocess.__main__ import main
from masm_jax.preprocess.faces import Face, Look, YuNet
from masm_jax.preprocess.looks import View
from masm_jax.preprocess.tracks import find_people, follow

SEED = 0


def face(x, who=None, side=50.0, y=100.0):
  """A square face of somebody; looks of two people share nothing."""
  box = np.array([x, y, side, side])
  look = None
  if who is not None:
    look = Look(np.eye(4)[who], np.eye(4)[who])
  return Face(box, box[:2] + np.linspace(0.2, 0.8, 10).reshape(5, 2) * side, 0.9, look)


def view(shot):
  return View(np.eye(4)[shot], np.eye(4)[shot])


def frames_of(people):
  return [sorted(person.faces) for person in people]


def test_two_people_in_one_place_after_a_cut_are_two():
  frames = [[face(100, 0)]] * 5 + [[face(102, 1)]] * 5
  assert frames_of(find_people(frames, [view(0)] * 5 + [view(1)] * 5)) == [
    [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]
  ]  # fmt: skip
  # Even where the background stays: only a cut makes one face of another.
  assert frames_of(find_people(frames, [view(0)] * 10)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_a_person_is_known_again_after_cuts():
  one, other = face(100, 0, side=60), face(102, 1)
  frames = [[one]] * 4 + [[other]] * 4 + [[face(300, 0, side=60)]] * 4 + [[other]] * 4
  views = [view(shot) for shot in (0, 1, 2, 1) for _ in range(4)]
  people = find_people(frames, views)
  assert frames_of(people) == [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]


def test_a_change_of_light_alone_does_not_part_a_person():
  """Frames differ, the look stays."""
  frames = [[face(100, 0)]] * 6
  assert frames_of(find_people(frames, [view(t % 3) for t in range(6)])) == [list(range(6))]


def test_no_box_is_kept_where_somebody_else_is_seen():
  frames = [[face(100, 0, side=60)]] * 4 + [[face(102, 1)]] * 4 + [[]]
  people = find_people(frames, [view(0)] * 4 + [view(1)] * 5)
  first, second = (follow(person, frames) for person in people)
  assert [choice is not None for choice in first] == [True] * 4 + [False] * 4 + [True]
  assert [choice is not None for choice in second] == [False] * 4 + [True] * 5


def test_passers_by_and_false_alarms_are_nobody():
  frames = [[face(100, 0), face(300, 1)]] + [[face(100, 0)]] * 5
  assert len(find_people(frames)) == 1
  assert len(find_people(frames[:1])) == 2  # Of a photo's faces, all count.
  assert find_people([[], []]) == []


def test_views_tell_shots_apart(astronaut):
  moved = np.roll(astronaut, 8, axis=1)
  assert looks.same_shot(looks.view_of(astronaut), looks.view_of(moved))
  assert not looks.same_shot(looks.view_of(astronaut), looks.view_of(astronaut[::-1]))
  black = looks.view_of(np.zeros_like(astronaut))
  assert not looks.same_scene(looks.view_of(astronaut), black)


@pytest.fixture(scope='module')
def actors(shared_data):
  """Crops of three people, uint8 RGB [4 or 5, 256, 256, 3] each."""
  folders = ('FF/real/000', 'CDFv2/Celeb-real/id0_0000', 'CDFv2/YouTube-real/00000')
  return [
    [
      cv2.imread(str(path))[..., ::-1]
      for path in sorted((shared_data / 'real_crops' / f).iterdir())
    ]
    for f in folders
  ]


def scene(crop, left=192, top=52, ground=90):
  """A frame uint8 RGB [360, 640, 3] with somebody's crop in it."""
  frame = np.full((360, 640, 3), ground, np.uint8)
  frame[top : top + 256, left : left + 256] = crop
  return frame


def shot(actor, count, **where):
  return [scene(actor[t % len(actor)], **where) for t in range(count)]


def test_looks_of_real_people(yunet, actors):
  detector = YuNet(yunet, min_score=0.6)
  seen = [[looks.look_of(crop, detector.detect(crop)[0]) for crop in actor] for actor in actors]
  for i, one in enumerate(seen):
    assert looks.alike(one[:2], one[2:])
    for other in seen[:i]:
      assert not looks.alike(one, other)


@pytest.fixture
def run(tmp_path, yunet):
  """Runs the command on tmp_path/raw; returns the records by name, and the manifest's table."""

  def run(*options, output='out', status=0):
    words = ['--input', tmp_path / 'raw', '--label', 'real', '--split', 'test', '--frames', 16]
    words += ['--size', 128, '--processes', 0, '--yunet', yunet, '--output', tmp_path / output]
    assert main([str(word) for word in [*words, *options]]) == status
    done = [json.loads(p.read_bytes()) for p in (tmp_path / output).rglob('.outcome.json')]
    table = load_manifest(tmp_path / output / 'manifest.parquet').table
    return {record['video_id'].rpartition('/')[2]: record for record in done}, table

  return run


def test_two_people_after_a_cut_have_two_ids(tmp_path, run, actors, write_clip, capsys):
  first, second, _ = actors
  frames = shot(first, 10) + shot(second, 6, ground=140)
  write_clip(tmp_path / 'raw' / 'cut.mp4', frames)
  records, table = run()
  assert records['cut']['num_people'] == 2 and records['cut']['num_people_not_taken'] == 1
  assert table['frame'].tolist() == list(range(10))
  told = capsys.readouterr().out
  assert 'ok: cut.mp4: 1 other person not taken; --people all takes them' in told
  assert told.splitlines()[1].split()[-4:] == ['10', '0', '0', '1']

  records, table = run('--people', 'all', output='all')
  ids = table.groupby('video_id')['frame'].agg(list).to_dict()
  assert ids == {'raw/real/cut': list(range(10)), 'raw/real/cut/person_2': list(range(10, 16))}
  assert records['cut']['num_people_not_taken'] == 0
  # Splits keep them together, and reruns change nothing.
  assert set(linked_groups(table)) == {0}
  before = (tmp_path / 'all' / 'manifest.parquet').read_bytes()
  run('--people', 'all', output='all')
  assert (tmp_path / 'all' / 'manifest.parquet').read_bytes() == before


def test_one_person_is_followed_over_a_cut(tmp_path, run, actors, write_clip):
  one = actors[0]
  closer = [cv2.resize(crop[30:230, 30:230], (256, 256)) for crop in one]
  write_clip(tmp_path / 'raw' / 'zoom.mp4', shot(one, 8) + shot(closer, 8, left=60, ground=150))
  records, table = run()
  assert records['zoom']['num_people'] == 1 and len(table) == 16
  assert set(table['video_id']) == {'raw/real/zoom'}


def test_a_group_photo(tmp_path, run, actors, capsys):
  group = np.hstack([actor[0] for actor in actors])
  (tmp_path / 'raw').mkdir()
  Image.fromarray(group).save(tmp_path / 'raw' / 'group.png')
  records, table = run()
  assert len(table) == 1 and records['group']['num_people_not_taken'] == 2
  assert '2 other people not taken' in capsys.readouterr().out
  records, table = run('--people', 'all', output='all')
  assert set(table['video_id']) == {
    'raw/real/group', 'raw/real/group/person_2', 'raw/real/group/person_3'
  }  # fmt: skip
  assert table['sha256'].nunique() == 3
  # Perhaps one of them is forged, and nothing tells who.
  assert 'have the label fake' not in capsys.readouterr().out
  records, table = run('--people', 'all', '--label', 'fake', output='fake')
  assert table['label'].tolist() == [1, 1, 1]
  told = capsys.readouterr().out
  assert 'ok: group.png: 3 people have the label fake, though no mask tells who is forged' in told
  assert 'warning: in 1 fake videos all people have the label fake, though no mask tells' in told


def test_boxes_kept_over_black_frames_and_noise_show_no_face(tmp_path, run, actors, write_clip):
  rng = np.random.default_rng(SEED)
  nothing = [np.zeros((360, 640, 3), np.uint8)] * 3
  nothing += [rng.integers(0, 255, (360, 640, 3), np.uint8)]
  write_clip(tmp_path / 'raw' / 'a.mp4', shot(actors[0], 6) + nothing + shot(actors[0], 6))
  records, table = run()
  empty = table['frame'].isin(range(6, 10))
  assert empty.sum() == 4 and not table['face_detected'][empty].any()
  assert (table['crop_flag'] == np.where(empty, 'no_face', '')).all()
  assert (table['face_score'][empty] == 0).all() and (table['face_score'][~empty] > 0.7).all()
  assert records['a']['outcome'] == 'ok' and records['a']['num_left_out'] == 4
  assert records['a']['reasons'] == ['4 of 16 crops are left out: no face in it']
  assert (flags_of(table) != '').tolist() == empty.tolist()


def test_a_closer_look_finds_a_face_that_was_missed(yunet, actors):
  """Small in a large frame, where the first look stops at larger faces elsewhere."""
  detector = YuNet(yunet, min_score=0.6)
  picture = np.full((1400, 2200, 3), 90, np.uint8)
  picture[100:356, 100:356] = actors[0][0]
  tiny = cv2.resize(actors[1][0], (40, 40), interpolation=cv2.INTER_AREA)
  picture[900:940, 1500:1540] = tiny
  assert len(detector.detect(picture)) == 1
  kept = Face(np.array([1512.0, 910, 18, 22]), np.zeros((5, 2)), 0.9)
  found = crop_checks.closer_look(detector, picture, kept)
  assert found is not None and crop_checks.tracks.is_close(found, kept)
  assert found.landmarks.min(0)[0] > 1505 and found.landmarks.max(0)[0] < 1535
  picture[900:940, 1500:1540] = 0
  assert crop_checks.closer_look(detector, picture, kept) is None
  beside = Face(np.array([2300.0, 910, 18, 22]), np.zeros((5, 2)), 0.9)
  assert crop_checks.closer_look(detector, picture, beside) is None


@pytest.mark.parametrize(
  ('name', 'options', 'flag', 'told'),
  [
    ('turned', (), 'upside_down', 'upside down'),
    ('edge', ('--margin', '3'), 'padding', 'mostly padding beyond the border of the picture'),
    ('small', (), 'too_small', 'a face too small'),
    ('large', ('--min_face', '200'), 'too_small', 'a face too small'),
  ],
)
def test_crops_that_are_no_use_have_outcomes(
  tmp_path, run, actors, write_clip, capsys, name, options, flag, told
):
  small = [cv2.resize(crop, (36, 36), interpolation=cv2.INTER_AREA) for crop in actors[0]]
  tiny = [np.pad(crop, ((0, 220), (0, 220), (0, 0)), constant_values=90) for crop in small]
  frames = {
    'turned': [frame[::-1, ::-1] for frame in shot(actors[0], 16)],
    'edge': [crop[64:200, 72:200] for crop in actors[0]] * 4,
    'small': shot(tiny, 16),
    'large': shot(actors[0], 16),
  }[name]
  write_clip(tmp_path / 'raw' / f'{name}.mp4', frames[:16])
  records, table = run(*options)
  assert records[name]['outcome'] == flag and set(table['crop_flag']) == {flag}
  n = len(table)
  assert f'{flag}: {name}.mp4: {n} of {n} crops are left out: {told}' in capsys.readouterr().out


def test_share_of_padding():
  points = np.array([[40, 40], [60, 40], [50, 50], [42, 60], [58, 60]], float)
  how = {'template': 'deepfakebench', 'margin': 1.3}
  assert crop_checks.padding_share((200, 200, 3), points + 50, **how) == 0
  whole = crop_checks.padding_share((200, 200, 3), points - 500, **how)
  assert whole == 1
  # The crop's centre lies near the left border.
  half = crop_checks.padding_share((200, 200, 3), points + np.array([-50, 50]), **how)
  assert 0.4 < half < 0.6
