"""Two processes of which one finds something damaged, or another directory, go the same way.

They meet over the loopback; this file is also what each of them executes.
"""

import json
import os
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from absl import logging
from jax.experimental import multihost_utils

from configs import common
from masm_jax.checkpoints.saving import Best, Checkpoints
from masm_jax.errors import UserError
from masm_jax.parallel import agreement, sharding
from tests.positions import Positions

HASHES = {'base_hash': 'a', 'manifest_hash': 'b', 'val_hash': 'c'}


class State(NamedTuple):
  """As far as a checkpoint knows it."""

  step: Any
  trainable: Any


def state_of(step):
  values = State(np.int32(step), {'kernel': np.full((4, 3), step, np.float32)})
  return sharding.place(values, sharding.replicated(sharding.make_mesh()))


def open_run(workdir, **hashes):
  return Checkpoints(workdir, config=common.get_config(), **HASHES | hashes)


def save(workdir, steps):
  checkpoints = open_run(workdir)
  for step in steps:
    positions = {'next_step': step, 'undecodable': [jax.process_index()]}
    checkpoints.save(state_of(step), Positions(positions), Best(step, 0.5))
  checkpoints.close()


def restore(workdir, damage=lambda checkpoints: None):
  """What a process has after a restart: step, leaf, iterator, best, what lies where."""
  checkpoints = open_run(workdir)
  damage(checkpoints)
  state, iterator, best = checkpoints.restore(state_of(0), Positions())
  checkpoints.close()
  aside = workdir / 'damaged_checkpoints'
  return {
    'step': int(state.step),
    'leaf': float(np.unique(state.trainable['kernel'].addressable_data(0)).item()),
    'next_step': iterator.state['next_step'],
    'undecodable': iterator.state['undecodable'],
    'best': best.step,
    'aside': sorted(os.listdir(aside)) if aside.exists() else [],
  }


def refusal(make, *arguments, **keywords):
  try:
    make(*arguments, **keywords)
  except UserError as error:
    return str(error)
  return ''


def one_iterator_state_is_empty(folder):
  save(folder, [10, 20])
  if jax.process_index() == 1:
    os.truncate(folder / 'checkpoints' / '00000020' / 'data' / 'process_1-of-2.json', 0)
  multihost_utils.sync_global_devices('damaged')
  found = restore(folder)
  save(folder, [20])  # The run can resume.
  return found, restore(folder)['step']


def one_process_cannot_read_the_state(folder):
  save(folder, [10, 20])

  def damage(checkpoints):
    whole = checkpoints._state

    def fails(step, state, meta):
      if step == 20:
        raise ValueError('a bad sector')
      return whole(step, state, meta)

    if jax.process_index() == 0:
      checkpoints._state = fails

  return restore(folder, damage)


def one_process_cannot_read_what_was_chosen(folder):
  save(folder, [10])
  checkpoints = open_run(folder)
  if jax.process_index() == 1:
    checkpoints._folder = lambda step: folder / 'nowhere'
  said = refusal(checkpoints.restore_trainable, state_of(0), 10)
  checkpoints.close()
  return said


def one_process_has_other_data(folder):
  save(folder, [10])
  other = {'manifest_hash': 'x'} if jax.process_index() == 1 else {}
  return refusal(open_run, folder, **other)


def one_process_sees_another_directory(folder):
  own = folder / str(jax.process_index())
  for step in ((10, 30), (20, 30))[jax.process_index()]:  # As many, and the same newest one.
    (own / 'checkpoints' / f'{step:08d}').mkdir(parents=True)
  return refusal(open_run, own)


CASES = (
  one_iterator_state_is_empty,
  one_process_cannot_read_the_state,
  one_process_cannot_read_what_was_chosen,
  one_process_has_other_data,
  one_process_sees_another_directory,
)


@pytest.fixture(scope='module')
def found(run_pair, tmp_path_factory):
  """Case -> what each process found, and what it logged."""
  folder = tmp_path_factory.mktemp('pair')
  for index, (status, output) in enumerate(run_pair(__file__, folder)):
    assert status == 0, f'process {index}: {output}'
  results = [json.loads((folder / f'{index}.json').read_text()) for index in range(2)]
  return {case.__name__: [result[case.__name__] for result in results] for case in CASES}


def test_a_checkpoint_that_one_process_cannot_read_is_set_aside_by_all(found):
  cases = found['one_iterator_state_is_empty']
  for index, ((restored, saved_again), log) in enumerate(cases):
    assert restored == {
      'step': 10, 'leaf': 10.0, 'next_step': 10, 'undecodable': [index], 'best': 10,
      'aside': ['00000020'],
    }  # fmt: skip
    assert saved_again == 20
    who = '' if index == 1 else 'process 1: '
    reason = f'the checkpoint of step 20 cannot be read ({who}Expecting value: line 1 column 1'
    assert reason in log


def test_a_state_that_one_process_cannot_read_keeps_no_other_waiting(found):
  for index, (restored, log) in enumerate(found['one_process_cannot_read_the_state']):
    assert (restored['step'], restored['leaf'], restored['aside']) == (10, 10.0, ['00000020'])
    assert restored['undecodable'] == [index]
    assert ('(process 0: a bad sector)' if index else '(a bad sector)') in log


def test_all_say_that_the_chosen_checkpoint_cannot_be_read(found):
  (zero, _), (one, _) = found['one_process_cannot_read_what_was_chosen']
  assert 'which validation chose, cannot be read: process 1: ' in zero
  assert 'which validation chose, cannot be read: ' in one and 'nowhere' in one


def test_all_refuse_what_one_refuses(found):
  (zero, _), (one, _) = found['one_process_has_other_data']
  assert 'holds a run of another train manifest (hash b, now x)' in one
  assert zero == f'process 1: {one}'


def test_directories_of_different_steps_are_told_apart(found):
  for said, _ in found['one_process_sees_another_directory']:
    assert 'the processes see different checkpoints in ' in said
    assert '(newest: 30, 30; in number: 2, 2)' in said


def test_alone_a_problem_is_ones_own():
  assert agreement.first_problem('') == '' and agreement.first_problem('bad') == 'bad'
  assert agreement.together(lambda: 3) == (3, '')
  assert agreement.together(lambda: {}['x']) == (None, "'x'")
  with pytest.raises(OSError, match='Gloo'):  # A process that is gone agrees to nothing.
    agreement.together(lambda: (_ for _ in ()).throw(OSError('Gloo')))


def main(index, address, folder):
  """One of the processes."""
  jax.distributed.initialize(address, 2, int(index))
  folder, results, lines = pathlib.Path(folder), {}, []
  logging.get_absl_logger().addFilter(lambda record: lines.append(record.getMessage()) or True)
  for case in CASES:
    lines.clear()
    shared = folder / case.__name__
    shared.mkdir(exist_ok=True)
    results[case.__name__] = case(shared), '\n'.join(lines)
  (folder / f'{index}.json').write_text(json.dumps(results))


if __name__ == '__main__':
  main(*sys.argv[1:])
