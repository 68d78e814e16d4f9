"""The plain lines under a clock that the test turns, and the bar on a terminal that records."""

import io

import pytest
from absl import logging

from masm_jax.telemetry import Progress


class Clock:
  def __init__(self):
    self.now = 1000.0

  def __call__(self):
    return self.now


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture
def clock():
  return Clock()


def run(progress, clock, steps, seconds, loss=None):
  for step in steps:
    clock.now += seconds
    progress.update(step, loss=loss)


def test_plain_lines_first_regular_and_last(clock):
  stream = io.StringIO()
  with Progress(20, images_per_step=8, every_seconds=10, stream=stream, clock=clock) as progress:
    run(progress, clock, [1], 60, loss=0.75)  # Compilation: in no rate.
    run(progress, clock, range(2, 20), 2)
    run(progress, clock, [20], 2, loss=0.5)
  assert stream.getvalue().splitlines() == [
    'train  1/20 (  5 %)  loss 0.7500',
    'train  6/20 ( 30 %)  loss 0.7500  4.00 images/s  0:28 left',
    'train 11/20 ( 55 %)  loss 0.7500  4.00 images/s  0:18 left',
    'train 16/20 ( 80 %)  loss 0.7500  4.00 images/s  0:08 left',
    'train 20/20 (100 %)  loss 0.5000  4.00 images/s  0:00 left',
  ]


def test_rate_follows_a_change_of_speed_within_the_window(clock):
  stream = io.StringIO()
  progress = Progress(1000, images_per_step=10, window_seconds=20, stream=stream, clock=clock)
  assert progress.images_per_second is None
  run(progress, clock, [1], 5)
  assert progress.images_per_second is None
  run(progress, clock, range(2, 101), 0.1)
  assert progress.images_per_second == pytest.approx(100)
  run(progress, clock, range(101, 111), 1.0)
  # 99 steps in 9.9 s, 10 steps in 10 s: the window still holds both.
  assert progress.images_per_second == pytest.approx(10 * 109 / 19.9)
  run(progress, clock, range(111, 131), 1.0)
  assert progress.images_per_second == pytest.approx(10)


def test_steps_longer_than_the_window_still_have_a_rate(clock):
  progress = Progress(10, window_seconds=30, stream=io.StringIO(), clock=clock)
  run(progress, clock, range(1, 5), 100)
  assert progress.images_per_second == pytest.approx(0.01)


def test_a_pause_counts_for_nothing(clock):
  stream = io.StringIO()
  progress = Progress(4000, images_per_step=4, every_seconds=10, stream=stream, clock=clock)
  run(progress, clock, range(1, 6), 1)
  with progress.pause():
    clock.now += 500
  run(progress, clock, [6], 1)
  assert progress.images_per_second == pytest.approx(4)
  assert (
    stream.getvalue().splitlines()[-1] == 'train    6/4000 (  0 %)  4.00 images/s  1:06:34 left'
  )


def test_resumed_run_counts_from_its_start_and_says_where_it_was_stopped(clock):
  stream = io.StringIO()
  with (
    pytest.raises(KeyboardInterrupt),
    Progress(100, start=50, stream=stream, clock=clock, label='SVD', unit='kernels') as progress,
  ):
    run(progress, clock, range(51, 55), 1, loss=0.25)
    raise KeyboardInterrupt
  assert stream.getvalue().splitlines() == [
    'SVD  51/100 ( 51 %)  loss 0.2500',
    'SVD  54/100 ( 54 %)  loss 0.2500  1.00 kernels/s  0:46 left',
  ]


def test_nothing_is_shown_on_other_hosts(clock):
  stream = Terminal()
  with Progress(3, enabled=False, stream=stream, clock=clock) as progress:
    run(progress, clock, range(1, 4), 1)
  assert stream.getvalue() == ''
  assert progress.images_per_second == pytest.approx(1)


def test_terminal_gets_a_bar_that_is_gone_during_a_pause(clock, monkeypatch):
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setenv('COLUMNS', '100')
  handler = logging.get_absl_handler().python_handler
  log_stream = handler.stream
  stream = Terminal()
  with Progress(4, images_per_step=8, stream=stream, clock=clock, label='train [x]') as progress:
    run(progress, clock, range(1, 3), 2, loss=0.5)
    with progress.pause(), Progress(2, stream=stream, clock=clock, label='eval') as inner:
      run(inner, clock, range(1, 3), 1)
    run(progress, clock, range(3, 5), 2, loss=0.25)
  text = stream.getvalue()
  assert 'train [x]' in text and '━' in text
  assert '2/4 loss 0.5000  4.00 images/s  0:04 left' in text
  assert '2/2 1.00 images/s  0:00 left' in text
  assert (
    text.rstrip()
    .removesuffix('\x1b[?25h')
    .rstrip()
    .endswith('4/4 loss 0.2500  4.00 images/s  0:00 left')
  )
  assert handler.stream is log_stream


def test_dumb_terminal_gets_plain_lines(clock, monkeypatch):
  monkeypatch.setenv('TERM', 'dumb')
  stream = Terminal()
  with Progress(2, stream=stream, clock=clock) as progress:
    run(progress, clock, range(1, 3), 1)
  assert stream.getvalue() == 'train 1/2 ( 50 %)\ntrain 2/2 (100 %)  1.00 images/s  0:00 left\n'


def test_time_left_by_work_where_one_step_is_long(clock, monkeypatch):
  """20 clips of 1 MB, one of 180 MB, then 20 more of 1 MB; a MB takes 2 s."""
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setenv('COLUMNS', '120')
  stream = Terminal()
  with Progress(41, stream=stream, clock=clock, unit='videos', total_work=220.0) as progress:
    for step in range(1, 21):
      clock.now += 2
      progress.update(step, work=1.0)
    assert progress._details() == '0.50 videos/s  6:40 left'
    clock.now += 200  # Within the long one, no step is done.
    assert progress._details() == '0.50 videos/s  3:20 left'
    stream.truncate(0)
    progress._bar._live.refresh()
    assert '20/41 0.50 videos/s  3:20 left' in stream.getvalue()
    clock.now += 160
    progress.update(21, work=180.0)
    assert progress._details().endswith('  0:40 left')  # By steps of the window: an hour.
    for step in range(22, 42):
      clock.now += 2
      progress.update(step, work=1.0)
    assert progress._details().endswith('  0:00 left')
