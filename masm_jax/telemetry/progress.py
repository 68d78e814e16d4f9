"""Progress: a bar on a terminal, a plain line now and then in a log file."""

import collections
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Self, TextIO

from absl import logging


class Progress:
  """Shows steps done, images per second, time left and the loss.

  On a terminal it is one bar at the bottom that log lines scroll past; elsewhere (a file, a pipe,
  `TERM=dumb`) it is one line after the first step, after the last one, and every `every_seconds`
  between. The rate is taken over the last `window_seconds`, so it follows a change of speed; it
  starts with the first `update`, so compilation does not count, and neither does time within
  `pause`.

  Where steps are of very different length, `total_work` tells how much there is to do: the time
  left is then the work left at the mean rate since the start, and counts down while a long
  step lasts.

  Args:
    total: number of steps when all is done.
    start: steps already done, in a resumed run.
    images_per_step: over all devices and hosts.
    label: what is done.
    unit: what a step works on, for the rate.
    every_seconds: between plain lines.
    window_seconds: over which the rate is taken; at least the last two updates.
    stream: where to; standard error by default.
    enabled: False on all hosts but the first: measures, but shows nothing.
    clock: seconds from any origin.
    total_work: of the steps from `start` on, in any unit; 0 where all steps are alike.
  """

  def __init__(
    self,
    total: int,
    *,
    start: int = 0,
    images_per_step: int = 1,
    label: str = 'train',
    unit: str = 'images',
    every_seconds: float = 10.0,
    window_seconds: float = 30.0,
    stream: TextIO | None = None,
    enabled: bool = True,
    clock: Callable[[], float] = time.monotonic,
    total_work: float = 0.0,
  ):
    self._total = total
    self._step = start
    self._images_per_step = images_per_step
    self._label = label
    self._unit = unit
    self._every_seconds = every_seconds
    self._window_seconds = window_seconds
    self._stream = sys.stderr if stream is None else stream
    self._enabled = enabled
    self._clock = clock
    self._paused_seconds = 0.0
    self._loss: float | None = None
    self._total_work, self._work = total_work, 0.0
    self._began = clock()
    self._samples: collections.deque[tuple[float, int]] = collections.deque()
    self._printed_at: float | None = None
    self._printed_step: int | None = None
    self._bar = (
      _Bar(self._stream, label, start, total, self._details)
      if enabled and _is_tty(self._stream)
      else None
    )

  def __enter__(self) -> Self:
    if self._bar:
      self._bar.start()
    return self

  def __exit__(self, *_: object) -> None:
    if self._bar:
      self._bar.stop(keep=True)
    elif self._enabled and self._step != self._printed_step and self._samples:
      self._print_line(self._clock())  # Where an interrupted run stopped.

  def update(self, step: int, *, loss: float | None = None, work: float = 0.0) -> None:
    """Says that `step` steps are done by now.

    Args:
      step: steps done since the start of the run, not since the last call.
      loss: the latest that is known; without it the one before stays in view.
      work: done since the last call, in units of `total_work`.
    """
    now = self._clock()
    active = now - self._paused_seconds
    self._step = step
    self._work += work
    self._loss = self._loss if loss is None else float(loss)
    self._samples.append((active, step))
    # The oldest sample kept is the last one outside of the window.
    while len(self._samples) > 2 and active - self._samples[1][0] >= self._window_seconds:
      self._samples.popleft()
    if self._bar:
      self._bar.update(step)
    elif self._enabled and self._is_due(now):
      self._print_line(now)

  @property
  def images_per_second(self) -> float | None:
    """Rate over the window; None before two updates have shown one."""
    seconds_per_step = self._seconds_per_step()
    return self._images_per_step / seconds_per_step if seconds_per_step else None

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Around work that is no step, such as an evaluation, which may show a progress of its own."""
    began = self._clock()
    if self._bar:
      self._bar.stop(keep=False)
    try:
      yield
    finally:
      self._paused_seconds += self._clock() - began
      if self._bar:
        self._bar.start()

  def _seconds_per_step(self) -> float | None:
    if len(self._samples) < 2:
      return None
    (first_time, first_step), (last_time, last_step) = self._samples[0], self._samples[-1]
    if last_step <= first_step or last_time <= first_time:
      return None
    return (last_time - first_time) / (last_step - first_step)

  def _seconds_left(self) -> float | None:
    if self._total_work:
      if not self._work or not self._samples:
        return None
      last = self._samples[-1][0]
      per_work = (last - self._began) / self._work
      since = self._clock() - self._paused_seconds - last
      return max((self._total_work - self._work) * per_work - since, 0.0)
    seconds_per_step = self._seconds_per_step()
    if seconds_per_step is None:
      return None
    return max(self._total - self._step, 0) * seconds_per_step

  def _is_due(self, now: float) -> bool:
    if self._printed_at is None or self._step >= self._total:
      return self._step != self._printed_step
    return now - self._printed_at >= self._every_seconds

  def _print_line(self, now: float) -> None:
    width = len(str(self._total))
    percent = 100 * self._step // max(self._total, 1)
    done = f'{self._label} {self._step:{width}d}/{self._total} ({percent:3d} %)'
    print(f'{done}  {self._details()}'.rstrip(), file=self._stream, flush=True)
    self._printed_at, self._printed_step = now, self._step

  def _details(self) -> str:
    parts = [] if self._loss is None else [f'loss {self._loss:.4f}']
    seconds_per_step = self._seconds_per_step()
    if seconds_per_step is not None:
      parts.append(f'{_three_digits(self._images_per_step / seconds_per_step)} {self._unit}/s')
    if (seconds_left := self._seconds_left()) is not None:
      parts.append(f'{_duration(seconds_left)} left')
    return '  '.join(parts)


class _Bar:
  """The bar of a terminal. It can be stopped and started again: only one may be live at a time."""

  def __init__(
    self, stream: TextIO, label: str, start: int, total: int, details: Callable[[], str]
  ):
    # rich is only needed where someone looks.
    from rich import console, progress

    self._rich, self._total = progress, total
    self._console = console.Console(file=stream)
    self._label, self._step, self._details = label, start, details
    self._live: Any = None

  def start(self) -> None:
    rich, details = self._rich, self._details

    class Details(rich.ProgressColumn):
      """Drawn anew with the bar, so that the time left goes down between two updates."""

      def render(self, task: Any) -> str:
        return details()

    self._live = rich.Progress(
      rich.TextColumn('{task.description}', markup=False),
      rich.BarColumn(bar_width=None),
      rich.TextColumn('{task.completed:.0f}/{task.total:.0f}'),
      Details(),
      console=self._console,
      expand=True,
      refresh_per_second=4,
    )
    self._task = self._live.add_task(self._label, total=self._total, completed=self._step)
    self._live.start()
    self._divert_log()

  def update(self, step: int) -> None:
    self._step = step
    if self._live:
      self._live.update(self._task, completed=step)

  def stop(self, *, keep: bool) -> None:
    if self._live:
      self._restore_log()
      self._live.live.transient = not keep
      self._live.stop()
      self._live = None

  def _divert_log(self) -> None:
    # absl's handler keeps the stream that it found at import: its lines would tear the bar. While
    # the bar is live, sys.stderr prints above it.
    handler = logging.get_absl_handler().python_handler
    self._log_stream = handler.stream
    if handler.stream in (sys.__stderr__, self._console.file):
      handler.setStream(sys.stderr)

  def _restore_log(self) -> None:
    logging.get_absl_handler().python_handler.setStream(self._log_stream)


def _is_tty(stream: TextIO) -> bool:
  return stream.isatty() and os.environ.get('TERM', '') not in ('', 'dumb')


def _three_digits(value: float) -> str:
  digits = 0 if value >= 100 else 1 if value >= 10 else 2
  return f'{value:.{digits}f}'


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'
