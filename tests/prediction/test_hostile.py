"""Files that mean harm: each gets its answer, and nothing but the child may die."""

import os
import pathlib
import signal
import threading
import time

import numpy as np
import pytest

from masm_jax.prediction.media import Source
from tests.prediction import hostile
from tests.prediction.answers_made import check


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize('kind', hostile.KINDS)
def test_a_hostile_file_has_its_answer(whole_engine, kind, seed):
  file = hostile.make_one(kind, np.random.default_rng(seed))
  answer = whole_engine.submit(Source(file.content, name=file.name)).result(timeout=60)
  check(answer)
  if file.allowed:
    assert answer.verdict == 'no_answer' and answer.reasons[0] in file.allowed
  if answer.verdict == 'no_answer':
    assert answer.warnings and '\n' not in answer.warnings[0]
  assert len(answer.input.name) <= 1024 and '\n' not in answer.input.name
  assert not pathlib.Path('/tmp/owned').exists()


def test_the_child_is_shut_in(whole_engine):
  whole_engine.submit(Source(b'')).result()
  found = whole_engine.isolation
  assert 'address space' in found['limits'] and set(found) == {'limits', 'files', 'calls'}
  if 'not in force' in found['calls'] or 'not in force' in found['files']:
    pytest.skip(f'this kernel allows no more: {found}')


def test_a_child_that_dies_is_answered_for(whole_engine, val):
  """The process that reads is killed in the middle of a file: that file has its answer, and the
  next one is read by another process."""
  whole_engine.submit(Source(val[1][0])).result()
  (worker,) = whole_engine._workers
  for number, reason in (
    (signal.SIGSEGV, 'unreadable'),
    (signal.SIGXCPU, 'limit_exceeded'),
    (signal.SIGKILL, 'limit_exceeded'),
  ):
    pid = worker._process.pid
    os.kill(pid, signal.SIGSTOP)  # So that it is sure to be at work when it dies.
    begun = threading.Event()
    future = whole_engine.submit(Source(val[1][0]), lambda *_, begun=begun: begun.set())
    assert begun.wait(30)
    time.sleep(0.2)
    os.kill(pid, number)
    os.kill(pid, signal.SIGCONT)
    answer = future.result(timeout=60)
    assert (answer.verdict, answer.reasons) == ('no_answer', (reason,)), answer.warnings
    assert whole_engine.submit(Source(val[1][0])).result(timeout=60).tracks
  assert threading.active_count() < 40


def test_wall_clock_and_bytes_strike(whole_engine, val):
  large = Source(bytes(60_000_000), name='large.bin')
  answer = whole_engine.submit(large).result()
  assert answer.reasons == ('limit_exceeded',) and '60000000 bytes' in answer.warnings[0]
  (worker,) = whole_engine._workers
  process = worker._process
  object.__setattr__(worker._settings.limits, 'wall_seconds', 0.3)
  try:
    os.kill(process.pid, signal.SIGSTOP)  # Stopped: it answers no more.
    answer = whole_engine.submit(Source(val[1][0])).result(timeout=60)
  finally:
    object.__setattr__(worker._settings.limits, 'wall_seconds', 20)
  assert answer.reasons == ('limit_exceeded',) and 'longer than 0.3 s' in answer.warnings[0]
