"""An XLA trace of some steps of a run: where the time goes."""

import pathlib
import re
from typing import TYPE_CHECKING, Any, Self

from absl import logging

from masm_jax import places
from masm_jax.errors import UserError

if TYPE_CHECKING:  # Programs without a model report their progress from this package, too.
  import jax


def parse_steps(text: str) -> range:
  """`'20:30'` -> the steps 20 to 30, both included; `'20'` -> that one; `''` -> none.

  Raises:
    UserError: anything else.
  """
  if not text:
    return range(0)
  found = re.fullmatch(r'([1-9]\d*)(?::([1-9]\d*))?', text)
  steps = range(int(found[1]), int(found[2] or found[1]) + 1) if found else range(0)
  if not steps:
    raise UserError(f'--profile={text}: give the first and last step, like 20:30')
  return steps


class Profiler:
  """Traces some steps into a directory, for TensorBoard's profile page and for Perfetto.

  Args:
    steps: which ones; the first few of a run compile, and say little about the others.
    folder: where the trace goes; each process writes a file of its own.
  """

  def __init__(self, steps: range, folder: pathlib.Path):
    self._steps = steps
    self._folder = folder
    self._is_on = False

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self._stop()

  def step(self, step: int) -> 'jax.profiler.StepTraceAnnotation':
    """To be entered around each step: it starts and marks the trace."""
    import jax

    if step in self._steps and not self._is_on:
      jax.profiler.start_trace(places.real_folder(self._folder), create_perfetto_trace=True)
      self._is_on = True
    return jax.profiler.StepTraceAnnotation('train', step_num=step)

  def end_step(self, step: int, result: Any) -> None:
    """Ends the trace after its last step, when `result` is there."""
    if self._is_on and step >= self._steps[-1]:
      import jax

      jax.block_until_ready(result)
      self._stop()

  def _stop(self) -> None:
    if self._is_on:
      import jax

      self._is_on = False
      jax.profiler.stop_trace()
      logging.warning('the trace of steps %d to %d is in %s', self._steps[0], self._steps[-1],
                      self._folder)  # fmt: skip
