import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import cv2
import grain
import numpy as np
import pytest

from masm_jax.data import pipeline, transforms
from masm_jax.data.manifest import write_manifest
from masm_jax.data.pipeline import eval_batches
from masm_jax.data.samplers import make_sampler
from masm_jax.errors import UserError

SIZE = 16
STEPS = 9


@pytest.fixture
def broken(crops, tmp_path):
  """The same manifest with copies of the files of which records 4, 5 and 22 are damaged."""
  for path in crops.paths:
    content = pathlib.Path(path).read_bytes()
    name = os.path.basename(path)
    damaged = name in ('04.png', '05.png', '22.png')
    (tmp_path / name).write_bytes(content[: len(content) // 2] if damaged else content)
  return type(crops)(crops.table, tmp_path, crops.sha256)


def test_batches_hold_what_the_sampler_says(crops, iterate):
  sampler = make_sampler('balanced', crops.table, 1)
  batches = list(iterate(crops, sampler=sampler))
  assert len(batches) == STEPS
  for t, batch in enumerate(batches):
    assert batch['image'].shape == (8, SIZE, SIZE, 3)
    assert batch['image'].dtype == np.uint8
    assert (batch['label'].dtype, batch['record'].dtype) == (np.int32, np.int64)
    assert batch['label'].tolist() == [0, 1] * 4
    assert batch['method'].dtype == np.int32
    np.testing.assert_array_equal(batch['method'], crops.method_ids[batch['record']])
    assert batch['record'].tolist() == [sampler(t * 8 + i) for i in range(8)]
    assert not batch['replaced'].any()


def test_pixels_are_decode_augment_resize(crops, iterate):
  batch = next(iterate(crops, augment='none'))
  for image, record in zip(batch['image'], batch['record'], strict=True):
    expected = transforms.resize(transforms.decode(crops.paths[record]), SIZE)
    np.testing.assert_array_equal(image, expected)


def test_seed_changes_pixels_but_not_the_order(crops, iterate):
  sampler = make_sampler('uniform', crops.table, 1)
  a, b = (next(iterate(crops, sampler=sampler, seed=seed)) for seed in (1, 2))
  np.testing.assert_array_equal(a['record'], b['record'])
  assert (a['image'] != b['image']).mean() > 0.5


def test_the_same_record_is_augmented_anew_in_each_epoch(crops, iterate):
  sampler = make_sampler('uniform', crops.table, 1)
  batches = list(iterate(crops, sampler=sampler, num_steps=6))
  records = np.concatenate([batch['record'] for batch in batches])
  images = np.concatenate([batch['image'] for batch in batches])
  first, second = np.flatnonzero(records == records[0])[:2]
  assert (images[first] != images[second]).mean() > 0.5


@pytest.mark.parametrize('num_threads', [0, 1, 5])
def test_threads_change_nothing(crops, num_threads, iterate, assert_same_batches):
  assert_same_batches(list(iterate(crops, num_threads=num_threads)), list(iterate(crops)))


def test_worker_processes_change_nothing_and_runs_resume_with_any_number(
  crops, iterate, assert_same_batches
):
  expected = list(iterate(crops))
  iterator = iterate(crops, num_workers=4, num_threads=1)
  assert_same_batches([next(iterator) for _ in range(4)], expected[:4])
  state = json.loads(json.dumps(iterator.get_state()))
  assert_same_batches(list(iterator), expected[4:])
  iterator.close()
  for workers in (0, 1):
    again = iterate(crops, num_workers=workers, num_threads=1)
    again.set_state(state)
    assert_same_batches(list(again), expected[4:])
    again.close()
  in_threads = iterate(crops)
  for _ in range(4):
    next(in_threads)
  assert in_threads.get_state() == state


def test_state_is_where_the_caller_stands_not_how_far_was_read_ahead(
  crops, iterate, assert_same_batches
):
  expected = list(iterate(crops))
  for stop in range(STEPS + 1):
    iterator = iterate(crops)
    for _ in range(stop):
      next(iterator)
    again = iterate(crops, num_threads=1)
    next(again)  # A used iterator can be set back too.
    again.set_state(iterator.get_state())
    assert_same_batches(list(again), expected[stop:])


def test_grain_checkpoint_restores_the_iterator(crops, tmp_path, iterate, assert_same_batches):
  from orbax import checkpoint as ocp

  expected = list(iterate(crops))
  iterator = iterate(crops)
  for _ in range(3):
    next(iterator)
  with ocp.CheckpointManager(tmp_path / 'run') as manager:
    manager.save(3, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
    manager.wait_until_finished()
    again = iterate(crops)
    manager.restore(3, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(again)))
  assert_same_batches(list(again), expected[3:])


@pytest.mark.parametrize('process_count', [2, 4])
def test_hosts_side_by_side_make_the_batch_of_one(
  crops, process_count, iterate, assert_same_batches
):
  parts = [
    list(iterate(crops, process_index=p, process_count=process_count)) for p in range(process_count)
  ]
  whole = [
    {key: np.concatenate([part[key] for part in step]) for key in step[0]}
    for step in zip(*parts, strict=True)
  ]
  assert_same_batches(whole, list(iterate(crops)))


def test_undecodable_records_are_replaced_flagged_and_logged(
  broken, caplog, iterate, assert_same_batches
):
  successor = {4: 6, 5: 6, 22: 10}  # The next sound record of the label, in a circle.
  sampler = make_sampler('balanced', broken.table, 1)
  options = {'sampler': sampler, 'max_replaced_share': 3 / 23}
  with caplog.at_level(logging.WARNING):
    batches = list(iterate(broken, **options))
  asked = np.array([sampler(i) for i in range(STEPS * 8)])
  records = np.concatenate([batch['record'] for batch in batches])
  replaced = np.concatenate([batch['replaced'] for batch in batches])
  assert replaced.tolist() == np.isin(asked, [4, 5, 22]).tolist()
  assert replaced.sum() > 3
  assert records.tolist() == [successor.get(record, record) for record in asked]
  assert np.concatenate([batch['label'] for batch in batches]).tolist() == [0, 1] * (STEPS * 4)
  logged = [record.getMessage() for record in caplog.records if record.name.startswith('masm')]
  assert len(logged) == 3
  for name in ('04.png', '05.png', '22.png'):
    assert sum(f'cannot decode {broken.root / name}' in line for line in logged) == 1
  assert_same_batches(list(iterate(broken, num_threads=0, **options)), batches)
  parts = [list(iterate(broken, process_index=p, process_count=2, **options)) for p in (0, 1)]
  for t, batch in enumerate(batches):
    joined = np.concatenate([part[t]['image'] for part in parts])
    np.testing.assert_array_equal(joined, batch['image'])


def test_too_many_undecodable_records_stop_the_run_also_after_a_resume(broken, iterate):
  iterator = iterate(broken, max_replaced_share=2 / 23)
  seen, state = 0, None
  with pytest.raises(UserError, match=r'3 of 23 training images cannot be decoded.*data check'):
    for _ in iterator:
      seen, state = seen + 1, iterator.get_state()
  assert state['next_step'] == seen
  assert state['undecodable'] == [5]  # 4 and 22 come up in the batch that is refused.
  again = iterate(broken, max_replaced_share=2 / 23)
  again.set_state(state)
  with pytest.raises(UserError, match='3 of 23'):
    next(again)


def test_undecodable_record_in_a_worker_and_a_class_without_any_image(
  crops, broken, iterate, assert_same_batches
):
  options = {'max_replaced_share': 1.0, 'num_steps': 3}
  iterator = iterate(broken, num_workers=1, num_threads=1, **options)
  assert_same_batches(list(iterator), list(iterate(broken, **options)))
  iterator.close()
  for i in range(10, 23):
    (broken.root / f'{i}.png').write_bytes(b'')
  with pytest.raises(UserError, match='13 training images in a row cannot be decoded, first'):
    next(iterate(broken, **options))
  iterator = iterate(broken, num_workers=1, num_threads=1, **options)
  with pytest.raises(UserError, match='13 training images in a row cannot be decoded, first'):
    next(iterator)
  iterator.close()


def _backend_of_worker(index):
  """What a worker process has done with jax and OpenCV, as numbers that fit a batch."""
  del index
  bridge = sys.modules.get('jax._src.xla_bridge')
  return {
    'touched': np.bool_(bridge is not None and bridge.backends_are_initialized()),
    'cpu': np.bool_(os.environ['JAX_PLATFORMS'] == 'cpu'),
    'threads': np.int32(cv2.getNumThreads()),
  }


def test_workers_leave_accelerators_and_other_cores_alone(monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda,cpu')
  dataset = grain.MapDataset.range(2).map(_backend_of_worker).batch(2).to_iter_dataset()
  options = grain.MultiprocessingOptions(1)
  iterator = iter(dataset.mp_prefetch(options, worker_init_fn=pipeline._start_worker))
  batch = next(iterator)
  iterator.close()
  assert batch['touched'].tolist() == [False, False]
  assert batch['cpu'].all()
  assert batch['threads'].tolist() == [1, 1]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'batch_size': 9, 'process_count': 2}, 'batch size 9 does not divide over 2'),
    ({'batch_size': 0}, 'batch size 0'),
    ({'augment': 'strong'}, "no augmentation preset 'strong'"),
  ],
)
def test_bad_options(crops, options, message, iterate):
  with pytest.raises(UserError, match=message):
    iterate(crops, **options)


@pytest.mark.parametrize(('batch_size', 'num_batches'), [(6, 4), (9, 3), (24, 1), (48, 1)])
def test_evaluation_counts_each_record_once_over_three_hosts(crops, batch_size, num_batches):
  seen = []
  for p in range(3):
    batches = list(
      eval_batches(crops, batch_size=batch_size, image_size=SIZE, process_index=p, process_count=3)
    )
    assert len(batches) == num_batches
    for batch in batches:
      assert batch['image'].shape == (batch_size // 3, SIZE, SIZE, 3)
      mask = batch['mask']
      assert (batch['record'][~mask] == -1).all()
      assert (batch['image'][~mask] == 0).all()
      assert not batch['failed'].any()
      for image, record in zip(batch['image'][mask], batch['record'][mask], strict=True):
        expected = transforms.resize(transforms.decode(crops.paths[record]), SIZE)
        np.testing.assert_array_equal(image, expected)
      assert (batch['label'][mask] == crops.labels[batch['record'][mask]]).all()
      seen += batch['record'][mask].tolist()
  assert sorted(seen) == list(range(23))


def test_evaluation_keeps_the_manifests_order(crops):
  batches = list(eval_batches(crops, batch_size=5, image_size=SIZE, num_threads=3))
  records = np.concatenate([batch['record'][batch['mask']] for batch in batches])
  assert records.tolist() == list(range(23))


def test_evaluation_perturbs_the_decoded_image_before_resizing_it(crops):
  shown = {}

  def perturb(image, record):
    shown[record] = image
    return np.full((4, 6, 3), record, np.uint8)

  batches = list(eval_batches(crops, batch_size=8, image_size=SIZE, perturb=perturb))
  assert sorted(shown) == list(range(23))
  for record, image in shown.items():
    np.testing.assert_array_equal(image, transforms.decode(crops.paths[record]))
  images = np.concatenate([batch['image'][batch['mask']] for batch in batches])
  np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(23))
  assert images.shape == (23, SIZE, SIZE, 3)


def test_evaluation_reports_what_it_cannot_decode(broken, caplog):
  with caplog.at_level(logging.WARNING):
    batches = list(eval_batches(broken, batch_size=8, image_size=SIZE))
  failed = np.concatenate([batch['failed'] for batch in batches])
  mask = np.concatenate([batch['mask'] for batch in batches])
  records = np.concatenate([batch['record'] for batch in batches])
  assert records[failed].tolist() == [4, 5, 22]
  assert mask.sum() == 20
  assert not (mask & failed).any()
  assert sum('left out of the evaluation' in line for line in caplog.messages) == 3


def test_evaluation_may_be_left_early_and_refuses_nonsense(crops):
  batches = eval_batches(crops, batch_size=4, image_size=SIZE)
  assert next(batches)['record'].tolist() == [0, 1, 2, 3]
  batches.close()
  with pytest.raises(UserError, match='evaluation set is empty'):
    eval_batches(crops.select(split='val'), batch_size=4, image_size=SIZE)
  with pytest.raises(UserError, match='does not divide'):
    eval_batches(crops, batch_size=4, image_size=SIZE, process_count=3)


_ENDLESS = """
import multiprocessing, sys, time
from masm_jax.data import manifest, pipeline, samplers
if __name__ == '__main__':
  crops = manifest.load_manifest(sys.argv[1])
  iterator = pipeline.train_iterator(
    crops, batch_size=2, image_size=8, sampler=samplers.make_sampler('uniform', crops.table, 0),
    augment='none', seed=0, num_steps=10**6, num_workers=1, num_threads=1)
  next(iterator)
  print(multiprocessing.active_children()[0].pid, flush=True)
  time.sleep(600)
"""


def _is_running(pid):
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
  except FileNotFoundError:
    return False


@pytest.mark.skipif(not pathlib.Path('/proc/self/stat').exists(), reason='needs /proc')
def test_workers_end_when_the_run_is_killed(crops, tmp_path):
  write_manifest(crops, crops.root / 'm.csv')
  (tmp_path / 'endless.py').write_text(_ENDLESS)
  command = [sys.executable, str(tmp_path / 'endless.py'), str(crops.root / 'm.csv')]
  root = str(pathlib.Path(pipeline.__file__).parents[2])
  with subprocess.Popen(
    command, env=os.environ | {'PYTHONPATH': root}, stdout=subprocess.PIPE, text=True
  ) as run:
    worker = int(run.stdout.readline())
    # From its first moment on it is deaf to Ctrl-C, which would interrupt its imports.
    blocked = pathlib.Path(f'/proc/{worker}/status').read_text().partition('SigBlk:')[2].split()[0]
    assert int(blocked, 16) & 1 << (signal.SIGINT - 1)
    assert _is_running(worker)
    run.kill()
  deadline = time.monotonic() + 10
  while _is_running(worker) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not _is_running(worker)
