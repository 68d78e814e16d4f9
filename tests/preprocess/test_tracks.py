import numpy as np

from masm_jax.preprocess.faces import Face
from masm_jax.preprocess.tracks import MAX_GAP, find_people, follow, link, mask_overlap


def face(x, y=100.0, side=50.0):
  """A square face with its top left corner at x, y."""
  box = np.array([x, y, side, side])
  return Face(box, box[:2] + np.linspace(0.2, 0.8, 10).reshape(5, 2) * side, 0.9)


def choose(detections, masks=None):
  """The face of the one whom the video is about, in each frame; whether a mask lies upon it."""
  people = find_people(detections, masks=masks)
  if not people:
    return [None] * len(detections), False
  return follow(people[0], detections), people[0].in_mask


def lefts(choices):
  return [None if choice is None else choice.face.box[0] for choice in choices]


def test_one_person_throughout():
  choices, guided = choose([[face(10 + 5 * t)] for t in range(6)])
  assert lefts(choices) == [10, 15, 20, 25, 30, 35]
  assert all(choice.detected for choice in choices) and not guided


def test_the_crop_does_not_jump_between_two_people():
  # The one at the right is the larger one in every other frame, but not in sum.
  frames = [[face(100, side=52), face(300, side=40 if t % 2 else 55)] for t in range(8)]
  frames = [sorted(faces, key=lambda f: -f.area) for faces in frames]
  assert [faces[0].box[0] for faces in frames] == [300, 100] * 4
  assert lefts(choose(frames)[0]) == [100] * 8


def test_people_who_cross_keep_their_tracks():
  # Two of one size pass each other one above the other.
  frames = [[face(100 + 20 * t, 100), face(240 - 20 * t, 160)] for t in range(8)]
  tracks = link(frames)
  assert [sorted(track) for track in tracks] == [list(range(8))] * 2
  assert [track[7].box[1] for track in tracks] == [100, 160]


def test_boxes_are_kept_where_detection_fails():
  frames = [[face(10)], [], [], [face(40)], []]
  choices, _ = choose(frames)
  assert lefts(choices) == [10, 10, 40, 40, 40]
  assert [choice.detected for choice in choices] == [True, False, False, True, False]


def test_boxes_are_kept_for_a_while_only():
  frames = [[] for _ in range(20)]
  frames[10] = [face(10)]
  there = [choice is not None for choice in choose(frames)[0]]
  assert there == [abs(t - 10) <= MAX_GAP for t in range(20)]


def test_somebody_else_does_not_fill_a_gap():
  frames = [[face(100, side=80), face(300)] for _ in range(4)]
  frames += [[face(300)], [face(300)]]  # The larger one turns away.
  frames += [[face(100, side=80), face(300)] for _ in range(4)]
  choices, _ = choose(frames)
  assert lefts(choices) == [100] * 10
  assert [choice.detected for choice in choices] == [True] * 4 + [False] * 2 + [True] * 4


def test_a_face_is_followed_over_a_cut():
  frames = [[face(100, side=80)] for _ in range(5)] + [[face(500)] for _ in range(5)]
  assert lefts(choose(frames)[0]) == [100] * 5 + [500] * 5


def test_one_false_alarm_is_not_followed():
  frames = [[face(100, side=80)] for _ in range(5)] + [[face(500, side=20)], []]
  assert lefts(choose(frames)[0]) == [100] * 7


def test_no_face_at_all():
  assert choose([[], []]) == ([None, None], False)
  assert choose([]) == ([], False)


def mask_around(x, side=50):
  mask = np.zeros((300, 600), bool)
  mask[100 : 100 + side, x : x + side] = True
  return mask


def test_the_mask_decides():
  frames = [[face(100, side=90), face(300, side=50)] for _ in range(4)]
  assert lefts(choose(frames)[0]) == [100] * 4
  choices, guided = choose(frames, [mask_around(300)] * 4)
  assert guided and lefts(choices) == [300] * 4
  # A mask in one frame only is enough.
  assert lefts(choose(frames, [None, None, mask_around(305), None])[0]) == [300] * 4


def test_a_mask_beside_all_faces_leaves_the_largest():
  frames = [[face(100, side=90), face(300, side=50)] for _ in range(4)]
  choices, guided = choose(frames, [mask_around(500)] * 4)
  assert not guided and lefts(choices) == [100] * 4
  assert not choose(frames, [np.zeros((300, 600), bool)] * 4)[1]


def test_mask_overlap():
  assert mask_overlap(face(300), mask_around(300)) == 1
  assert mask_overlap(face(325), mask_around(300)) == 25 / 75
  assert mask_overlap(face(-30), mask_around(300)) == 0
  assert mask_overlap(face(580, 280), np.ones((300, 600), bool)) == 400 / (180000 + 2500 - 400)
