import shutil

import av
import cv2
import numpy as np
import pytest

from masm_jax.perturbations import clips
from masm_jax.preprocess import video, video_limits
from masm_jax.preprocess.video import UnreadableError

NUM = 20


def numbered(num=NUM, height=48, width=64):
  """Frames whose grey value is ten times their number."""
  return np.stack([np.full((height, width, 3), 10 * i, np.uint8) for i in range(num)])


def seen(clip):
  """Frame numbers read off the pixels."""
  return [round(frame.rgb().mean() / 10) for frame in clip.frames]


@pytest.fixture(scope='module')
def clip_path(tmp_path_factory, write_clip):
  return write_clip(tmp_path_factory.mktemp('numbered') / 'a.mp4', numbered())


def test_even_indices():
  assert video.even_indices(300, 4) == [0, 99, 199, 299]
  assert video.even_indices(300, 32)[:4] == [0, 9, 19, 28]
  assert video.even_indices(3, 32) == [0, 1, 2]
  assert video.even_indices(5, 1) == [0]


def test_frames_are_those_of_their_index(clip_path):
  clip = video.read_video(clip_path, 5)
  assert [frame.index for frame in clip.frames] == [0, 4, 9, 14, 19] == seen(clip)
  assert clip.num_available == NUM and clip.problems == ()
  assert clip.frames[0].rgb().shape == (48, 64, 3)


def test_fewer_frames_than_asked_for(clip_path):
  clip = video.read_video(clip_path, 100)
  assert seen(clip) == list(range(NUM))


def test_frames_at_given_indices(clip_path):
  frames = video.read_video_at(clip_path, [3, 7, 30])
  assert [frame.index for frame in frames[:2]] == [3, 7]
  assert [round(frame.rgb().mean() / 10) for frame in frames[:2]] == [3, 7]


@pytest.mark.parametrize('suffix', ['.mkv', '.avi', '.mov', '.ts'])
def test_containers_without_a_count_of_frames(tmp_path, write_clip, suffix):
  path = write_clip(tmp_path / f'a{suffix}', numbered())
  assert seen(video.read_video(path, 4)) == [0, 6, 12, 19]


@pytest.mark.parametrize('name', ['two words.mp4', 'Müller – 日本.mp4', 'a:b.mp4', "it's %d?.mp4"])
def test_names(tmp_path, clip_path, name):
  shutil.copy(clip_path, tmp_path / name)
  assert seen(video.read_video(tmp_path / name, 2)) == [0, 19]


def test_truncated_video_gives_what_it_has_evenly_spaced(tmp_path, write_clip):
  rng = np.random.default_rng(0)
  # Noise, so that frames have bytes to lose; the mean still tells the number.
  frames = np.clip(numbered(24) + rng.integers(-20, 20, (24, 48, 64, 3)), 0, 255).astype(np.uint8)
  plain = write_clip(tmp_path / 'plain.mp4', frames)
  path = tmp_path / 'cut.mp4'
  with (
    av.open(str(plain)) as source,
    av.open(str(path), 'w', options={'movflags': 'faststart'}) as target,
  ):
    stream = target.add_stream_from_template(source.streams.video[0])
    for packet in source.demux(source.streams.video[0]):
      if packet.dts is not None:
        packet.stream = stream
        target.mux(packet)
  content = path.read_bytes()
  path.write_bytes(content[: int(0.6 * len(content))])
  clip = video.read_video(path, 4)
  assert 4 <= clip.num_available < 24
  assert len(clip.frames) == 4
  assert [f.index for f in clip.frames] == video.even_indices(clip.num_available, 4)
  assert f'{clip.num_available} of 24 frames decode' in clip.problems


def test_no_header_no_video(tmp_path, clip_path):
  path = tmp_path / 'headless.mp4'
  path.write_bytes(clip_path.read_bytes()[:1000])  # The index of this file stands at its end.
  with pytest.raises(UnreadableError, match='Invalid data'):
    video.read_video(path, 4)


@pytest.mark.parametrize('content', [b'\0' * 5000, b'not a video at all' * 100, b'\x89PNG'])
def test_what_is_no_video(tmp_path, content):
  path = tmp_path / 'a.mp4'
  path.write_bytes(content)
  with pytest.raises(UnreadableError):
    video.read_video(path, 4)


def test_zero_bytes_and_missing_files(tmp_path):
  (tmp_path / 'a.mp4').write_bytes(b'')
  with pytest.raises(UnreadableError, match='empty file'):
    video.read_video(tmp_path / 'a.mp4', 4)
  with pytest.raises(UnreadableError, match='No such file'):
    video.read_video(tmp_path / 'b.mp4', 4)


def test_sound_alone(tmp_path):
  path = tmp_path / 'a.mp4'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('aac', rate=44100)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
    frame.sample_rate = 44100
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  with pytest.raises(UnreadableError, match='no video stream'):
    video.read_video(path, 4)


def test_a_header_without_frames(tmp_path):
  path = tmp_path / 'a.avi'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('mjpeg', rate=25)
    stream.height = stream.width = 64
    stream.pix_fmt = 'yuvj420p'
    container.start_encoding()
  with pytest.raises(UnreadableError, match='no frame in it decodes'):
    video.read_video(path, 4)


@pytest.mark.parametrize(
  'text', ['#EXTM3U\n#EXTINF:1,\nsecret.mp4\n', "ffconcat version 1.0\nfile '../secret.mp4'\n"]
)
def test_play_lists_reach_no_other_file(tmp_path, clip_path, text):
  shutil.copy(clip_path, tmp_path / 'secret.mp4')
  (tmp_path / 'inner').mkdir()
  for path in (tmp_path / 'a.mp4', tmp_path / 'inner' / 'a.mp4'):
    path.write_text(text)
    with pytest.raises(UnreadableError):
      video.read_video(path, 4)


def test_damaged_middle_is_passed_over(tmp_path, write_clip):
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 255, (24, 48, 64, 3), np.uint8)
  path = write_clip(tmp_path / 'a.mkv', frames)
  content = bytearray(path.read_bytes())
  third = len(content) // 3
  content[third : third + 300] = bytes(300)
  path.write_bytes(content)
  clip = video.read_video(path, 6)
  assert 3 <= len(clip.frames) <= 6
  assert clip.frames[-1].index >= 15  # What stands behind the damage is there.


def test_phones_turn_their_videos(tmp_path, write_clip):
  frames = numbered(4)
  frames[:, :24, :32] = 250  # A bright corner, top left.
  path = write_clip(tmp_path / 'a.mp4', frames)
  content = bytearray(path.read_bytes())
  at = content.find(b'tkhd') + 4 + 40  # The display matrix: quarter turn clockwise.
  one, minus = (1 << 16).to_bytes(4, 'big'), ((1 << 32) - (1 << 16)).to_bytes(4, 'big')
  zero, w = bytes(4), (1 << 30).to_bytes(4, 'big')
  content[at : at + 36] = zero + one + zero + minus + zero + zero + zero + zero + w
  path.write_bytes(content)
  image = video.read_video(path, 1).frames[0].rgb()
  assert image.shape == (64, 48, 3)
  assert image[:30, 26:].mean() > 200 > 50 > image[:30, :22].mean()  # Now it is top right.


def test_folder_of_frames(tmp_path):
  for number in (1, 2, 10, 20, 100):
    cv2.imwrite(str(tmp_path / f'frame_{number}.png'), np.full((8, 8, 3), number, np.uint8))
  (tmp_path / 'notes.txt').touch()
  clip = video.read_folder(tmp_path, 3)
  assert [frame.index for frame in clip.frames] == [1, 10, 100]  # By number, not by name.
  assert [int(frame.rgb().mean()) for frame in clip.frames] == [1, 10, 100]
  assert clip.num_available == 5


def test_folder_of_frames_without_numbers(tmp_path):
  for name in ('b', 'a', 'c'):
    cv2.imwrite(str(tmp_path / f'{name}.png'), np.zeros((8, 8, 3), np.uint8))
  clip = video.read_folder(tmp_path, 3)
  assert [(frame.index, frame.source[-5]) for frame in clip.frames] == [
    (0, 'a'),
    (1, 'b'),
    (2, 'c'),
  ]
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UnreadableError, match='no image'):
    video.read_folder(tmp_path / 'empty', 3)


def test_broken_image(tmp_path):
  path = tmp_path / 'a.png'
  path.write_bytes(b'\x89PNG')
  with pytest.raises(UnreadableError, match=r'^not an image'):
    video.read_image(path).frames[0].rgb()


def test_frames_that_take_too_much_are_refused_unseen(tmp_path, write_clip, monkeypatch):
  """200 kB of mp4 took 3.4 GB: the decoder's frames, and those that wait for their crops."""
  path = write_clip(tmp_path / 'a.mp4', np.zeros((1, 8192, 8192, 3), np.uint8))
  with pytest.raises(UnreadableError, match='8192 x 8192 pixels; the limit is 35,651,584 in all'):
    video.read_video(path, 4)
  with pytest.raises(UnreadableError, match='8192 x 8192 pixels'):
    clips.perturb_video(path, tmp_path / 'b.mp4', 'CS', 1, seed=0, video_id='v')
  path = write_clip(tmp_path / 'c.mp4', np.zeros((1, 16, 128, 3), np.uint8))
  monkeypatch.setattr(video_limits, 'MAX_SIDE', 100)
  with pytest.raises(UnreadableError, match=r'128 x 16 pixels; .*, and 100 of a side'):
    video.read_video(path, 4)


def test_a_size_that_grows_within_a_stream_is_not_decoded(tmp_path, write_clip, monkeypatch):
  small = write_clip(tmp_path / 'a.h264', np.full((3, 64, 64, 3), 200, np.uint8))
  large = write_clip(tmp_path / 'b.h264', np.zeros((3, 640, 640, 3), np.uint8))
  path = tmp_path / 'c.h264'
  path.write_bytes(small.read_bytes() + large.read_bytes())
  assert [frame.rgb().shape[0] for frame in video.read_video(path, 9).frames] == [64] * 3 + [
    640
  ] * 3
  monkeypatch.setattr(video_limits, '_DECODER', {'max_pixels': '10000'})
  with pytest.raises(UnreadableError, match='0 of 6 frames decode; Invalid argument'):
    video.read_video(path, 9)


def test_large_frames_are_kept_reduced(tmp_path, write_clip, monkeypatch):
  frames = np.zeros((3, 120, 200, 3), np.uint8)
  frames[:, 40:80, 50:150] = 255
  path = write_clip(tmp_path / 'a.mp4', frames)
  whole = video.read_video(path, 3)
  monkeypatch.setattr(video_limits, '_MAX_KEPT_BYTES', 3 * 60 * 100)
  clip = video.read_video(path, 3)
  assert [frame.index for frame in clip.frames] == [0, 1, 2]
  for small, large in zip(clip.frames, whole.frames, strict=True):
    assert small.rgb().shape == (60, 100, 3) and large.rgb().shape == (120, 200, 3)
    np.testing.assert_allclose(small.rgb()[::7, ::7], large.rgb()[::14, ::14], atol=40)
    assert sum(plane.buffer_size for plane in small.source.planes) <= 60 * 128 * 3


# --- Frames that nobody needs are not decoded -----------------------------------------------------


def reordered_clip(path, frames, *, codec='libx264', ticks=None, options=None, box=None):
  """Frames out of order of decoding, most of which no other refers to; `ticks`: their times."""
  with av.open(str(path), 'w', options=box or {}) as container:
    options = {'crf': '20', 'x264-params': 'b-adapt=0', **(options or {})}
    stream = container.add_stream(codec, rate=25, options=options)
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = 'yuv420p'
    stream.codec_context.thread_count, stream.codec_context.max_b_frames = 1, 3
    for i, image in enumerate(frames):
      frame = av.VideoFrame.from_ndarray(image, 'rgb24')
      frame.pts = i if ticks is None else ticks[i]
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


class Counting(video.Checks):
  frames = 0

  def frame(self, frame):
    self.frames += 1


def moving_noise(num):
  rng = np.random.default_rng(0)
  noise = cv2.GaussianBlur(rng.integers(0, 255, (64, 96, 3), np.uint8), (5, 5), 0)
  return [np.roll(noise, 2 * i, axis=1) // 2 + np.uint8(i) for i in range(num)]


@pytest.mark.parametrize(
  ('name', 'how', 'is_sparse'),
  [
    ('a.mp4', {}, True),
    ('a.mp4', {'box': {'movflags': 'faststart'}}, True),
    ('a.mp4', {'ticks': np.cumsum(np.arange(60) % 5 + 1)}, True),  # A variable rate.
    ('a.mov', {'options': {'g': '12', 'x264-params': 'b-adapt=0:open-gop=1'}}, True),
    ('a.mp4', {'options': {'x264-params': 'b-adapt=0:b-pyramid=none:ref=1'}}, True),
    ('a.mp4', {'codec': 'libx265', 'options': {'x265-params': 'b-adapt=0:log-level=none'}}, True),
    ('a.mp4', {'box': {'movflags': 'frag_keyframe+empty_moov'}}, False),
    ('a.mkv', {}, False),
    ('a.ts', {}, False),
  ],
  ids=['index at the end', 'index first', 'variable rate', 'open GOPs', 'no pyramid', 'HEVC',
       'fragments', 'Matroska', 'transport stream'],
)  # fmt: skip
def test_sampled_frames_are_those_of_a_plain_pass(tmp_path, monkeypatch, name, how, is_sparse):
  path = reordered_clip(tmp_path / name, moving_noise(60), **how)
  sparse, plain = Counting(), Counting()
  found = video.read_video(path, 7, checks=sparse)
  monkeypatch.setattr(video, '_times', lambda *_: None)
  expected = video.read_video(path, 7, checks=plain)
  assert found.num_available == expected.num_available == plain.frames == 60
  assert found.problems == expected.problems == ()
  for a, b in zip(found.frames, expected.frames, strict=True):
    assert (a.index, a.time_s, a.turns) == (b.index, b.time_s, b.turns)
    np.testing.assert_array_equal(a.rgb(), b.rgb())
  assert (sparse.frames < 50) == is_sparse
  assert sparse.frames == 60 or is_sparse


@pytest.mark.parametrize('part', ['reference frame', 'end'])
def test_a_damaged_file_is_read_as_by_a_plain_pass(tmp_path, monkeypatch, part):
  path = reordered_clip(
    tmp_path / 'a.mp4', moving_noise(40), options={'g': '15'}, box={'movflags': 'faststart'}
  )
  content = bytearray(path.read_bytes())
  if part == 'end':
    content = content[: 3 * len(content) // 4]
  else:
    with av.open(str(path)) as container:
      key = [p for p in container.demux() if p.is_keyframe][1]
    content[key.pos + key.size // 2 : key.pos + key.size] = bytes(key.size - key.size // 2)
  path.write_bytes(content)
  found = video.read_video(path, 5)
  monkeypatch.setattr(video, '_times', lambda *_: None)
  expected = video.read_video(path, 5)
  assert found.num_available == expected.num_available and found.problems == expected.problems
  for a, b in zip(found.frames, expected.frames, strict=True):
    assert a.index == b.index
    np.testing.assert_array_equal(a.rgb(), b.rgb())
