"""Whole videos: each frame perturbed by its definition and kept; VC is H.264 at its crf."""

import av
import cv2
import numpy as np
import pytest

from masm_jax.errors import UserError
from masm_jax.perturbations import catalogue as robustness
from masm_jax.perturbations import clips
from masm_jax.preprocess import video


def scene(num_frames=5, height=72, width=96):
  """A moving coloured picture, as uint8 [T, H, W, 3]."""
  rng = np.random.default_rng(0)
  large = cv2.resize(rng.random((9, 14, 3)).astype(np.float32), (width + 40, height))
  noise = rng.random((height, width + 40, 3)) * 0.25
  image = np.uint8(255 * np.clip(0.8 * large + noise, 0, 1))
  return np.stack([image[:, 2 * t : 2 * t + width] for t in range(num_frames)])


def write(path, frames, *, rate=25, codec='libx264rgb', pixels='rgb24', times=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(f'file:{path}', 'w') as container:
    stream = container.add_stream(codec, rate=rate, options={'qp': '0', 'preset': 'ultrafast'})
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = pixels
    stream.codec_context.thread_count = 1
    for i, image in enumerate(frames):
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), 'rgb24')
      if times:
        frame.pts = times[i]
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


def read(path):
  with av.open(str(path)) as container:
    decoded = list(container.decode(video=0))
  times = [float(frame.pts * frame.time_base) for frame in decoded]
  return np.stack([frame.to_ndarray(format='rgb24') for frame in decoded]), times


@pytest.mark.parametrize('key', ['CS', 'CC', 'BW', 'GNC', 'GB', 'PX'])
def test_every_frame_is_perturbed_and_kept_without_loss(tmp_path, key):
  frames = scene(num_frames=3)
  source = write(tmp_path / 'a.mp4', frames)
  outcome = clips.perturb_video(source, tmp_path / 'b.mp4', key, 4, seed=3, video_id='a.mp4')
  assert outcome == clips.Outcome(3)
  expected = [
    robustness.perturb(frame, key, 4, robustness.make_rng(3, 'a.mp4', t, key, 4))
    for t, frame in enumerate(frames)
  ]
  copy, times = read(tmp_path / 'b.mp4')
  np.testing.assert_array_equal(copy, expected)
  assert times == read(source)[1]
  np.testing.assert_array_equal(
    clips.perturb_frames(frames, key, 4, seed=3, video_id='a.mp4'), expected
  )
  if key in ('BW', 'GNC'):  # Each frame has numbers of its own.
    still = clips.perturb_frames([frames[0]] * 2, key, 4, seed=3, video_id='a.mp4')
    assert (still[0] != still[1]).any()


def test_compression_loses_more_and_takes_less_with_each_level(tmp_path):
  frames = scene(num_frames=8)
  source = write(tmp_path / 'a.mp4', frames, codec='libx264', pixels='yuv420p')
  original, _ = read(source)
  errors, sizes = [0.0], [source.stat().st_size]
  for level in range(1, 6):
    copy = tmp_path / f'{level}.mp4'
    assert clips.perturb_video(source, copy, 'VC', level, seed=0, video_id='a') == clips.Outcome(8)
    decoded, times = read(copy)
    assert decoded.shape == original.shape and times == read(source)[1]
    errors.append(float(((decoded.astype(float) - original) ** 2).mean()))
    sizes.append(copy.stat().st_size)
  assert errors == sorted(errors) and errors[1] > 5
  assert sizes == sorted(sizes, reverse=True)


def test_compression_is_libx264_at_the_levels_rate_factor(tmp_path):
  source = write(tmp_path / 'a.mp4', scene(), codec='libx264', pixels='yuv420p')
  clips.perturb_video(source, tmp_path / 'b.mp4', 'VC', 3, seed=0, video_id='a')
  # libx264 writes its settings into the stream.
  settings = (tmp_path / 'b.mp4').read_bytes()
  assert b'rc=crf' in settings and b'crf=35.0' in settings and b'rc_lookahead=40' in settings
  with av.open(str(tmp_path / 'b.mp4')) as container:
    stream = container.streams.video[0]
    assert stream.codec_context.name == 'h264' and stream.format.name == 'yuv420p'


@pytest.mark.parametrize('key', ['VC', 'GB'])
def test_the_same_video_gives_the_same_bytes(tmp_path, key):
  source = write(tmp_path / 'a.mp4', scene())
  for name in ('b', 'c'):
    clips.perturb_video(source, tmp_path / f'{name}.mp4', key, 2, seed=0, video_id='a')
  assert (tmp_path / 'b.mp4').read_bytes() == (tmp_path / 'c.mp4').read_bytes()


def test_odd_sides_and_uneven_times(tmp_path):
  frames = scene(num_frames=4, height=45, width=61)
  source = write(tmp_path / 'a.mkv', frames, times=[0, 1, 5, 6])
  clips.perturb_video(source, tmp_path / 'b.mp4', 'VC', 1, seed=0, video_id='a')
  copy, times = read(tmp_path / 'b.mp4')
  assert copy.shape == (4, 46, 62, 3)
  assert np.abs(copy[:, :45, :61].astype(int) - frames).mean() < 20
  assert times == pytest.approx(read(source)[1]) and np.ptp(np.diff(times)) > 0.1
  assert clips.perturb_frames(frames, 'VC', 1, seed=0, video_id='a')[0].shape == (45, 61, 3)
  clips.perturb_video(source, tmp_path / 'c.mp4', 'CC', 1, seed=0, video_id='a')
  assert read(tmp_path / 'c.mp4')[0].shape == frames.shape


def test_frames_in_memory_are_compressed_as_in_a_file():
  frames = scene(num_frames=6)
  results = [clips.perturb_frames(frames, 'VC', level, seed=0, video_id='a') for level in (1, 5)]
  mild, hard = (np.mean((np.float64(result) - frames) ** 2) for result in results)
  assert len(results[0]) == 6 and 0 < mild < hard
  assert clips.perturb_frames([], 'VC', 1, seed=0, video_id='a') == []


def test_a_file_that_ends_early_gives_what_there_is_and_says_so(tmp_path):
  source = write(tmp_path / 'a.ts', scene(num_frames=12), codec='libx264', pixels='yuv420p')
  source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
  outcome = clips.perturb_video(source, tmp_path / 'b.mp4', 'CS', 1, seed=0, video_id='a')
  assert 0 < outcome.num_frames < 12 and len(read(tmp_path / 'b.mp4')[0]) == outcome.num_frames


@pytest.mark.parametrize('content', [b'', b'no video', b'#EXTM3U\n/etc/passwd\n'])
def test_what_is_no_video_leaves_nothing_behind(tmp_path, content):
  (tmp_path / 'a.mp4').write_bytes(content)
  with pytest.raises(video.UnreadableError):
    clips.perturb_video(tmp_path / 'a.mp4', tmp_path / 'b.mp4', 'CS', 1, seed=0, video_id='a')
  assert [path.name for path in tmp_path.iterdir()] == ['a.mp4']


@pytest.mark.parametrize(
  ('key', 'level', 'message'),
  [
    ('VC', 6, 'VC has levels 1 to 5, not 6'),
    ('gend_resize', 1, 'gend_resize is defined on crops; on videos there are CS, CC'),
    ('H264', 1, "no perturbation 'H264'"),
  ],
)
def test_what_suits_no_video_is_one_line(key, level, message):
  with pytest.raises(UserError, match=message):
    clips.perturb_frames([], key, level, seed=0, video_id='a')
