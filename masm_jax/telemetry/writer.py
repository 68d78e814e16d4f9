"""Metrics of a run, as JSON lines (the record) and as TensorBoard summaries (for looking)."""

import itertools
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from masm_jax.telemetry.lines import JsonLines

METRICS_FILE = 'metrics.jsonl'
PERF_FILE = 'perf.jsonl'
TENSORBOARD_DIR = 'tensorboard'

_TENSORBOARD_FLUSH_SECONDS = 10.0
_file_numbers = itertools.count()


class MetricWriter:
  """Writes a run's metrics below `workdir`.

  `metrics.jsonl` holds what the run computes and nothing that depends on the machine: two runs of
  one config give the same bytes, and so does a run that was killed and resumed. Times and
  throughput go to `perf.jsonl` through `write_perf`. Each call adds one line, `{"step": 10,
  "loss": 0.69, ...}` with names in alphabetical order and numbers in full precision; nan and
  infinity are the strings 'nan', 'inf' and '-inf' (see `masm_jax.files`).

  To be complete after a resume from the checkpoint of step S, all lines of S must be written before
  that checkpoint is saved; call `truncate(S)` on resuming.

  TensorBoard's event files lie in `tensorboard/`. They are flushed every ten seconds, so a kill may
  cost their last lines, never those of the JSON files.

  Args:
    workdir: the run's folder; it is made.
    enabled: False on all hosts but the first; nothing is then written or made.
  """

  def __init__(self, workdir: str | os.PathLike, *, enabled: bool = True):
    self._enabled = enabled
    if not enabled:
      return
    workdir = pathlib.Path(workdir)
    self._metrics = JsonLines(workdir / METRICS_FILE, spare=True)
    self._perf = JsonLines(workdir / PERF_FILE)
    self._events = _EventFile(workdir / TENSORBOARD_DIR)

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Adds deterministic metrics.

    Args:
      step: number of optimizer steps done.
      values: by name, numbers or arrays of one element; reading a JAX array waits for it.

    Raises:
      TypeError: if a value is not one number; ValueError: if a name is 'step'.
    """
    self._write_line('_metrics', step, values)

  def write_perf(self, step: int, values: Mapping[str, Any]) -> None:
    """Adds what depends on the machine: seconds, images/s. Arguments as in `write`."""
    self._write_line('_perf', step, values)

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    """Adds a picture to TensorBoard.

    Args:
      step: number of optimizer steps done.
      name: TensorBoard's tag; a slash makes groups.
      image: uint8 [H, W, 3], RGB.

    Raises:
      ValueError: if the image is something else.
    """
    if not self._enabled:
      return
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
      raise ValueError(f'{name}: an image is uint8 [H, W, 3], not {image.dtype} {image.shape}')
    from tensorboardX import summary

    self._events.add(step, summary.image(name, image, dataformats='HWC'))

  def write_text(self, step: int, name: str, text: str) -> None:
    """Adds a text to TensorBoard, shown as it is in a fixed-width font."""
    if not self._enabled:
      return
    from tensorboardX import summary

    indented = ''.join(f'    {line}\n' for line in text.splitlines())  # Markdown for "as it is".
    self._events.add(step, summary.text(name, indented))

  def truncate(self, step: int) -> None:
    """Forgets everything later than `step`: what a run resumed there will write again.

    TensorBoard is told to hide its later events. A line that a kill cut short is dropped too.
    """
    if self._enabled:
      self._metrics.truncate(step)
      self._perf.truncate(step)
      self._events.purge_after(step)

  def flush(self) -> None:
    """Waits until everything is on the disk: call it before a checkpoint is saved."""
    if self._enabled:
      self._metrics.sync()
      self._perf.sync()
      self._events.flush()

  def close(self) -> None:
    """Flushes and closes the files; a second call does nothing."""
    if self._enabled:
      self.flush()
      self._metrics.close()
      self._perf.close()
      self._events.close()
      self._enabled = False

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _write_line(self, file: str, step: int, values: Mapping[str, Any]) -> None:
    if not self._enabled:
      return
    if 'step' in values:
      raise ValueError("'step' is not a metric's name: pass it as the first argument")
    numbers = {name: _number(name, values[name]) for name in sorted(values)}
    getattr(self, file).append({'step': int(step), **numbers})
    from tensorboardX import summary

    for name, number in numbers.items():
      self._events.add(step, summary.scalar(name, number))


class _EventFile:
  """TensorBoard events without tensorboardX's queue and threads, which would lose more in a kill.

  The file is made with the first event.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._writer = None
    self._purge_step: int | None = None
    self._last_flush = 0.0

  def add(self, step: int, summary: Any) -> None:
    from tensorboardX.proto.event_pb2 import Event

    if self._writer is None:
      self._open()
    self._writer.write_event(Event(step=int(step), wall_time=time.time(), summary=summary))
    if time.monotonic() - self._last_flush > _TENSORBOARD_FLUSH_SECONDS:
      self.flush()

  def purge_after(self, step: int) -> None:
    self.close()
    self._purge_step = step + 1  # TensorBoard hides events with a step >= this one.

  def flush(self) -> None:
    if self._writer is not None:
      self._writer.flush()
      self._last_flush = time.monotonic()

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()
      self._writer = None

  def _open(self) -> None:
    # tensorboardX is slow to import, and imports torch where that is installed.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    self._folder.mkdir(parents=True, exist_ok=True)
    # Names carry only seconds, and an existing file would be overwritten.
    unique = f'.{os.getpid()}.{next(_file_numbers)}'
    self._writer = EventsWriter(str(self._folder / 'events'), unique)
    if self._purge_step is not None:
      started = SessionLog(status=SessionLog.START)
      self._writer.write_event(
        Event(step=self._purge_step, wall_time=time.time(), session_log=started)
      )


def _number(name: str, value: Any) -> int | float:
  array = np.asarray(value)
  if array.size != 1:
    raise TypeError(f'metric {name!r} has shape {array.shape}, one number is needed')
  number = array.reshape(()).item()
  if isinstance(number, (bool, int, float)):
    return int(number) if isinstance(number, bool) else number
  raise TypeError(f'metric {name!r} is {value!r}, one number is needed')
