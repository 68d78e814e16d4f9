"""Batches for training and evaluation.

Training: position -> record -> decode -> augment -> resize -> batch -> prefetch, built on grain's
index-based data sets. Batch t is a function of (manifest, seed, t) alone: neither threads, worker
processes nor the number of hosts change which pixels stand in it, nor where.
"""

import collections
import concurrent.futures
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from masm_jax.data import transforms
from masm_jax.data.loader import Loader, decode
from masm_jax.data.manifest import Manifest
from masm_jax.data.samplers import Sampler
from masm_jax.errors import UserError
from masm_jax.parallel import parents

_BATCHES_AHEAD = 2

Perturb = Callable[[np.ndarray, int], np.ndarray]

_logger = logging.getLogger(__name__)


def train_iterator(
  manifest: Manifest,
  *,
  batch_size: int,
  image_size: int,
  sampler: Sampler,
  augment: str,
  seed: int,
  num_steps: int,
  process_index: int = 0,
  process_count: int = 1,
  num_workers: int = 0,
  num_threads: int = 4,
  max_replaced_share: float = 0.01,
) -> 'TrainIterator':
  """Builds this host's iterator over `num_steps` training batches.

  With B the global batch and b = B / process_count, batch t on host p holds the positions
  `t * B + p * b + [0..b)`, so the hosts' parts in order are the batch of a single host.

  A record that cannot be decoded is replaced by the next one of its label that can, in the
  manifest's order; it is logged once with its path.

  Args:
    manifest: N records; sampled indices are its rows.
    batch_size: B, over all hosts.
    image_size: side of the square images, in pixels.
    sampler: which record stands at which position.
    augment: a key of `transforms.PRESETS`.
    seed: of the augmentations; not negative. An example's random numbers depend on the seed and
      its position.
    num_steps: batches until the iterator ends.
    process_index: this host, of `process_count`.
    num_workers: worker processes, which never touch an accelerator; 0 works in threads of this one.
    num_threads: threads per process, each on a batch of its own; 0 works in the calling thread.
    max_replaced_share: the run stops when more than this share of the manifest's records have
      turned out undecodable on this host.

  Returns:
    An iterator over dicts of `image` uint8 [b, H, W, 3], `label` int32 [b], `method` int32 [b] (0
    for real, or the forgery, see `Manifest.method_ids`), `record` int64 [b] (the manifest's row
    that the image shows) and `replaced` bool [b].

  Raises:
    UserError: if B is not divisible by the hosts, or there is no such preset; while iterating, if
      too many records cannot be decoded.
  """
  if batch_size < 1 or batch_size % process_count:
    raise UserError(f'batch size {batch_size} does not divide over {process_count} processes')
  if augment not in transforms.PRESETS:
    known = ', '.join(transforms.PRESETS)
    raise UserError(f'no augmentation preset {augment!r}; there are {known}')
  loader = Loader(
    images=manifest.images,
    labels=manifest.labels,
    landmarks=_landmarks(manifest),
    methods=manifest.method_ids,
    image_size=image_size,
    sampler=sampler,
    augment=augment,
    seed=seed,
    batch_size=batch_size,
    local_size=batch_size // process_count,
    process_index=process_index,
  )
  read = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=max(_BATCHES_AHEAD, num_threads)
  )
  workers = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=_BATCHES_AHEAD)
  cv2.setNumThreads(1)  # Images are small: work goes parallel over them, not within.
  if num_workers and not flags.FLAGS.is_parsed():  # grain reads its flags to start workers.
    flags.FLAGS.mark_as_parsed()
  return TrainIterator(loader, num_steps, read, workers, max_replaced_share)


class TrainIterator(grain.DatasetIterator):
  """This host's training batches; its state is the next step and what was found undecodable.

  Grain's own state depends on the number of workers. This one does not, so that a run can resume
  with other workers or threads. It is what `grain.checkpoint.CheckpointSave` writes.
  """

  def __init__(
    self,
    loader: Loader,
    num_steps: int,
    read: grain.ReadOptions,
    workers: grain.MultiprocessingOptions,
    max_replaced_share: float,
  ):
    super().__init__()
    self._loader = loader
    self._num_steps = num_steps
    self._read = read
    self._workers = workers
    self._max_undecodable = max_replaced_share * len(loader.labels)
    self._next_step = 0
    self._undecodable: dict[int, None] = {}  # Records, in the order in which they came up.
    self._batches: grain.DatasetIterator | None = None
    self._is_under_way = False

  def __next__(self) -> dict[str, np.ndarray]:
    self.start_prefetch()
    batch = next(self._batches) if self._is_under_way else self._first()
    for i in np.flatnonzero(batch['replaced']):
      self._note_replaced(self._next_step, int(i), int(batch['record'][i]))
    self._next_step += 1
    return batch

  def _first(self) -> dict[str, np.ndarray]:
    """The first batch, with which grain starts its workers: in a thread that is deaf to Ctrl-C."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      with parents.deaf_to_ctrl_c():
        batch = pool.submit(next, self._batches)
      self._is_under_way = True
      return batch.result()

  def start_prefetch(self) -> None:
    """Starts reading ahead before the first batch is asked for."""
    if self._batches is not None:
      return
    size = self._loader.local_size
    examples = grain.MapDataset.range(self._next_step * size, self._num_steps * size)
    # Batches are made before the work is split over processes: a batch is whole in one worker, and
    # taking turns among workers keeps the order.
    batches = examples.map(self._loader).batch(size, drop_remainder=True)
    dataset = batches.to_iter_dataset(self._read)
    self._is_under_way = not self._workers.num_workers  # Workers start with it.
    if self._workers.num_workers:
      dataset = dataset.mp_prefetch(self._workers, worker_init_fn=_start_worker)
    self._batches = iter(dataset)
    self._batches.start_prefetch()

  def get_state(self) -> dict[str, Any]:
    """The state as JSON types: `next_step` and `undecodable`, the records met so far."""
    return {'next_step': self._next_step, 'undecodable': list(self._undecodable)}

  def set_state(self, state: dict[str, Any]) -> None:
    """Resumes where `get_state` was taken, whatever the threads and workers were then."""
    self.close()
    self._next_step = state['next_step']
    self._undecodable = dict.fromkeys(state['undecodable'])

  def close(self) -> None:
    """Ends threads and worker processes; the next batch would start them again."""
    if self._batches is not None:
      self._batches.close()
      self._batches = None

  def _note_replaced(self, step: int, i: int, used: int) -> None:
    loader = self._loader
    asked = loader.sampler(loader.position(step * loader.local_size + i))
    if asked in self._undecodable:
      return
    self._undecodable[asked] = None
    name = loader.images.name
    _logger.warning('cannot decode %s: %s instead', name(asked), name(used))
    if len(self._undecodable) > self._max_undecodable:
      raise UserError(
        f'{len(self._undecodable)} of {len(loader.labels)} training images cannot be decoded, the'
        f' last of them {name(asked)}; run `python -m masm_jax.data check`'
      )


def _landmarks(manifest: Manifest) -> np.ndarray | None:
  return manifest.table['landmarks'].to_numpy(object) if 'landmarks' in manifest.table else None


def _start_worker(worker_index: int, worker_count: int) -> None:
  """Runs first in each worker process."""
  del worker_index, worker_count
  os.environ['JAX_PLATFORMS'] = 'cpu'
  if 'jax' in sys.modules:  # Imported by grain, before the variable could be read.
    sys.modules['jax'].config.update('jax_platforms', 'cpu')
  cv2.setNumThreads(1)
  # A scheduler's SIGTERM reaches the whole process group, as Ctrl-C does; the main process decides.
  # It may need batches until it has saved, and ends its workers itself.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  parents.end_with_parent()  # Killed, it cannot end its workers.


def eval_batches(
  manifest: Manifest,
  *,
  batch_size: int,
  image_size: int,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 4,
  perturb: Perturb | None = None,
) -> Iterator[dict[str, np.ndarray]]:
  """Reads a manifest once, in its order, without augmentation.

  Every record comes on exactly one host, and all hosts yield ceil(N / batch_size) batches.

  Args:
    manifest: N records; not empty.
    batch_size: over all hosts; each gets b = batch_size / process_count of it.
    image_size: side of the square images, in pixels.
    process_index: this host, of `process_count`.
    num_threads: threads that decode, at least 1.
    perturb: changes the decoded image (uint8 RGB [H, W, 3], record) -> uint8 RGB, before it is
      resized; it is called from several threads.

  Yields:
    `image` uint8 [b, H, W, 3], `label` int32 [b], `record` int64 [b], `mask` bool [b] and `failed`
    bool [b]. Where `mask` is False there is no image: in the padding of the last batch (`record`
    -1) and, with `failed` True, for a record that cannot be decoded, which is logged with its path.

  Raises:
    UserError: if the manifest is empty or the batch does not divide over the hosts.
  """
  if batch_size < 1 or batch_size % process_count:
    raise UserError(f'batch size {batch_size} does not divide over {process_count} processes')
  if not len(manifest):
    raise UserError('the evaluation set is empty; check the split and dataset names')
  local_size = batch_size // process_count
  return _eval_batches(
    manifest, batch_size, image_size, process_index, local_size, num_threads, perturb
  )


def _eval_batches(
  manifest: Manifest,
  batch_size: int,
  image_size: int,
  process_index: int,
  local_size: int,
  num_threads: int,
  perturb: Perturb | None,
) -> Iterator[dict[str, np.ndarray]]:
  cv2.setNumThreads(1)
  images, labels = manifest.images, manifest.labels

  def load(record: int) -> tuple[np.ndarray, bool]:
    try:
      image = decode(images, record)
    except transforms.DecodeError as error:
      _logger.warning('left out of the evaluation: %s', error)
      return np.zeros((image_size, image_size, 3), np.uint8), False
    if perturb:
      image = perturb(image, record)
    return transforms.resize(image, image_size), True

  def collect(records: range, loaded: list[concurrent.futures.Future]) -> dict[str, np.ndarray]:
    batch = {
      'image': np.zeros((local_size, image_size, image_size, 3), np.uint8),
      'label': np.zeros(local_size, np.int32),
      'record': np.full(local_size, -1, np.int64),
      'mask': np.zeros(local_size, bool),
      'failed': np.zeros(local_size, bool),
    }
    for i, (record, future) in enumerate(zip(records, loaded, strict=True)):
      batch['image'][i], batch['mask'][i] = future.result()
      batch['label'][i], batch['record'][i] = labels[record], record
      batch['failed'][i] = not batch['mask'][i]
    return batch

  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    pending: collections.deque = collections.deque()
    try:
      for first in range(0, len(images), batch_size):
        start = min(first + process_index * local_size, len(images))
        records = range(start, min(start + local_size, len(images)))
        pending.append((records, [pool.submit(load, record) for record in records]))
        if len(pending) > _BATCHES_AHEAD:
          yield collect(*pending.popleft())
      while pending:
        yield collect(*pending.popleft())
    finally:  # Also when the caller stops early.
      pool.shutdown(cancel_futures=True)
