"""Makes all processes agree on whether a read succeeded, so that they take the same branch.

A process that turns back alone leaves the others waiting in their next collective operation.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from masm_jax.errors import first_line
from masm_jax.parallel import peers

T = TypeVar('T')


def together(read: Callable[[], T]) -> tuple[T | None, str]:
  """Reads something on every process; what not all of them can read, none has.

  Args:
    read: what this process reads, without waiting for another one.

  Returns:
    What was read, or None and why not.
  """
  try:
    found, problem = read(), ''
  except Exception as error:  # Of many types: Orbax', tensorstore's, json's.
    if peers.is_lost(error):
      raise
    found, problem = None, first_line(error)
  problem = first_problem(problem)
  return (None if problem else found), problem


def first_problem(own: str) -> str:
  """This process's problem, or the first other process's; '' if none has one."""
  if jax.process_count() == 1:
    return own
  text = np.zeros(1024, np.uint8)
  encoded = own.encode(errors='replace')[: text.size]
  text[: len(encoded)] = np.frombuffer(encoded, np.uint8)
  problems = [
    row.tobytes().rstrip(b'\0').decode(errors='ignore')
    for row in multihost_utils.process_allgather(text)
  ]
  others = [f'process {i}: {problem}' for i, problem in enumerate(problems) if problem]
  return own or next(iter(others), '')
