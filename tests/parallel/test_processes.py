"""Two and four processes with two devices each compute what one process with eight does.

The processes meet over the loopback and stand in for hosts. They run the parts that training is
made of, on a tiny detector: this file is also what each of them executes. Two are started here;
with MASM_JAX_PROCESSES=4 four are, after them, which takes minutes on few cores.
"""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import cv2
import jax
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils

from masm_jax import tree
from masm_jax.checkpoints.saving import Best, Checkpoints
from masm_jax.data import manifest as manifest_lib
from masm_jax.data import pipeline, samplers
from masm_jax.inference import steps as inference_steps
from masm_jax.inference.scorer import Evaluator
from masm_jax.metrics import scores
from masm_jax.parallel import sharding
from masm_jax.training import steps

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
STEPS, SAVED_AT = 8, 4
FIELDS = {
  'optim.learning_rate': 5e-3,
  'mask.refresh_steps': 2,
  'subspace.targets': 'backbone/block_01/.*',  # Traced and compiled in half the time.
}
HASHES = {'base_hash': 'a', 'manifest_hash': 'b', 'val_hash': 'c'}


def make_crops(folder):
  """48 noisy crops; the fakes are brighter, by less than the noise."""
  rng = np.random.default_rng(0)
  rows = []
  for i in range(48):
    image = rng.normal(100 + 25 * (i % 2), 60, (16, 16, 3)).clip(0, 255).astype(np.uint8)
    cv2.imwrite(str(folder / f'{i:02d}.png'), image)
    rows.append(
      {'path': f'{i:02d}.png', 'label': i % 2, 'dataset': 'noise', 'split': 'train', 'frame': i,
       'method': 'fake' if i % 2 else 'real', 'video_id': f'noise/{i}'}
    )  # fmt: skip
  manifest = manifest_lib.build_manifest(rows, folder)
  manifest_lib.write_manifest(manifest, folder / 'manifest.parquet')


def batches_of(manifest):
  return pipeline.train_iterator(
    manifest,
    batch_size=16,
    image_size=16,
    sampler=samplers.make_sampler('uniform', manifest.table, 0),
    augment='gend',
    seed=0,
    num_steps=STEPS,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    num_threads=1,
  )


def checkpoints_of(run, folder):
  return Checkpoints(folder, config=run.config, **HASHES)


def train(run, manifest, folder, seen):
  """Trains to the end, from the checkpoint of `folder` if there is one; saves half-way, too.

  Appends the records of each global batch to `seen`."""
  checkpoints = checkpoints_of(run, folder)
  run.start(run.trainable)
  run.state, batches, _ = checkpoints.restore(run.state, batches_of(manifest))
  for step in range(int(run.state.step) + 1, STEPS + 1):
    batch = next(batches)
    records = multihost_utils.process_allgather(batch['record'].astype(np.int32))
    seen.append(np.asarray(records).ravel().tolist())
    placed = sharding.place_batch({name: batch[name] for name in steps.INPUTS}, run.mesh)
    run.state = run.jitted(run.state, run.frozen, run.reference, placed)
    jax.block_until_ready(run.state.step)
    if step in (SAVED_AT, STEPS):
      checkpoints.save(run.state, batches, Best())
      checkpoints.wait()
  batches.close()
  checkpoints.close()


def evaluate(run, manifest, state):
  """Metrics of the merged detector, over all hosts."""
  merge = inference_steps.jit_merge(run.method, run.mesh, state.trainable, run.frozen)
  params = merge(state.trainable, run.frozen)
  step = inference_steps.jit_eval_step(
    inference_steps.make_eval_step(run.detector_config), run.mesh, params
  )
  evaluator = Evaluator(step, run.mesh, 16, 16, 1)
  table = evaluator.scores(params, manifest)
  metrics = scores.summarize(table, name='noise')['frame']
  return {name: float(value) for name, value in metrics.items()}


def work(tiny_run, folder, name):
  """What each number of processes does; returns what the test compares.

  Args:
    tiny_run: the class of conftest.py.
    folder: `crops/`, `first/` (a checkpoint to evaluate, none for the first) and, if there is one,
      `others/`, the half-way checkpoint of other processes to resume from.
    name: of the folder that this one leaves its checkpoints in.
  """
  manifest = manifest_lib.load_manifest(folder / 'crops' / 'manifest.parquet')
  mesh = sharding.make_mesh(2)
  run = tiny_run('masm', mesh, **FIELDS)
  first = next(batches_of(manifest))
  placed = sharding.place_batch({key: first[key] for key in steps.INPUTS}, mesh)
  run.state = run.jitted(run.state, run.frozen, run.reference, placed)
  jax.block_until_ready(run.state.step)
  result = {'loss': float(run.state.metrics.compute()['loss']), 'batches': []}
  # Adam's first moment after one step is 0.1 times the gradient.
  first_moment = optax.tree_utils.tree_get(run.state.opt_state, 'mu')
  gradients = tree.flatten(jax.device_get(first_moment))
  train(run, manifest, folder / name, result['batches'])
  result['metrics'] = evaluate(run, manifest, run.state)
  if (folder / 'others').exists():
    goes_on = []
    train(run, manifest, folder / 'others', goes_on)
    result['resumed'] = {'batches': goes_on, 'metrics': evaluate(run, manifest, run.state)}
  if (folder / 'first').exists():
    checkpoints = checkpoints_of(run, folder / 'first')
    state, _, _ = checkpoints.restore(run.state, batches_of(manifest))
    checkpoints.close()
    result['same_checkpoint'] = evaluate(run, manifest, state)
  return result, gradients


def free_port():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def run_processes(folder, name, count):
  port = free_port()
  environment = os.environ | {
    'PYTHONPATH': str(REPOSITORY),
    'XLA_FLAGS': '--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0',
  }
  processes = [
    subprocess.Popen(
      [sys.executable, __file__, str(folder), name, str(count), str(i), str(port)],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY, env=environment,
    )
    for i in range(count)
  ]  # fmt: skip
  try:
    outputs = [process.communicate(timeout=400)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  for process, output in zip(processes, outputs, strict=True):
    assert process.returncode == 0, output
  result = json.loads((folder / f'{name}.json').read_text())
  return result, dict(np.load(folder / f'{name}.npz'))


def half_way(folder, source):
  """A copy of a run as it was half-way, for others to resume from."""
  shutil.rmtree(folder / 'others', ignore_errors=True)
  shutil.copytree(folder / source, folder / 'others')
  shutil.rmtree(folder / 'others' / 'checkpoints' / f'{STEPS:08d}')


def assert_metrics(actual, expected, tolerance):
  assert actual.keys() == expected.keys() and 'auroc' in actual
  for name, value in expected.items():
    assert abs(actual[name] - value) <= tolerance, name


@pytest.mark.usefixtures('standard_promotion')
def test_one_two_and_four_processes_agree(tiny_run, tmp_path):
  (tmp_path / 'crops').mkdir()
  make_crops(tmp_path / 'crops')
  one, gradients = work(tiny_run, tmp_path, 'one')
  assert len(one['batches']) == STEPS and all(len(batch) == 16 for batch in one['batches'])
  assert 0 < one['metrics']['auroc'] < 1  # There is something to differ in.
  shutil.copytree(tmp_path / 'one', tmp_path / 'first')
  scale = np.sqrt(sum(np.square(leaf).sum() for leaf in gradients.values()))
  groups = [('two', 2, 'one'), ('four', 4, 'two')]
  if os.environ.get('MASM_JAX_PROCESSES') != '4':
    groups.pop()
  for name, count, source in groups:
    half_way(tmp_path, source)
    result, others = run_processes(tmp_path, name, count)
    assert result['batches'] == one['batches']
    assert result['loss'] == pytest.approx(one['loss'], rel=1e-5)
    assert others.keys() == gradients.keys()
    for path, leaf in gradients.items():
      np.testing.assert_allclose(others[path], leaf, rtol=1e-5, atol=1e-5 * scale, err_msg=path)
    assert_metrics(result['metrics'], one['metrics'], 0.005)
    assert_metrics(result['same_checkpoint'], one['metrics'], 1e-6)
    assert result['resumed']['batches'] == one['batches'][SAVED_AT:]
    assert_metrics(result['resumed']['metrics'], one['metrics'], 0.005)
  # And back: one process with eight devices resumes from what the others have saved.
  half_way(tmp_path, groups[-1][0])
  run = tiny_run('masm', sharding.make_mesh(2), **FIELDS)
  manifest = manifest_lib.load_manifest(tmp_path / 'crops' / 'manifest.parquet')
  seen = []
  train(run, manifest, tmp_path / 'others', seen)
  assert seen == one['batches'][SAVED_AT:]
  assert_metrics(evaluate(run, manifest, run.state), one['metrics'], 0.005)


def main(folder, name, count, index, port):
  """One of the processes."""
  jax.distributed.initialize(f'127.0.0.1:{port}', int(count), int(index))
  from tests import conftest

  jax.config.update('jax_numpy_dtype_promotion', 'standard')
  folder = pathlib.Path(folder)
  assert jax.device_count() == 2 * int(count)
  result, gradients = work(conftest.TinyRun, folder, name)
  if not jax.process_index():
    (folder / f'{name}.json').write_text(json.dumps(result))
    np.savez(folder / f'{name}.npz', **gradients)


if __name__ == '__main__':
  main(*sys.argv[1:])
