"""A trained detector for Python: scores and features of face crops, and its thresholds.

>>> import masm_jax                                        # doctest: +SKIP
>>> detector = masm_jax.load('runs/ffpp')                  # doctest: +SKIP
>>> detector.score(crops)        # uint8 [B, H, W, 3] RGB -> float64 [B]   # doctest: +SKIP
>>> detector.thresholds['frame']['eer']                    # doctest: +SKIP
>>> for answer in detector.predict(['photo.jpg', 'clip.mp4']):             # doctest: +SKIP
...   print(answer.verdict, answer.probability)
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from numpy.typing import ArrayLike

from masm_jax import places
from masm_jax.data import transforms
from masm_jax.data.crop_settings import CropSettings
from masm_jax.errors import UserError
from masm_jax.inference import detector_file, steps, trained
from masm_jax.inference.detector_schema import DetectorFile
from masm_jax.inference.validation import Calibration, Validation
from masm_jax.metrics import calibration
from masm_jax.parallel import sharding
from masm_jax.prediction.answers import Answer
from masm_jax.prediction.media import Faces, Limits, Source
from masm_jax.prediction.policy import Policy

Channels = Literal['rgb', 'bgr']
Images = ArrayLike | Sequence[ArrayLike]


@dataclasses.dataclass(frozen=True)
class Detector:
  """A trained detector; `load` makes one.

  Attributes:
    image_size: side of the square that crops are resized to, pixels.
    validation: what the validation set fixed; None where the run has no scores of it yet.
    crops: the ways in which the training crops were made; score crops made so. () where unknown.
    facts: what the detector is, see `inference.trained.TrainedRun`.
    file: of a detector file, what it says: name, licence note, training sets; None for a run.
  """

  image_size: int
  validation: Validation | None
  crops: tuple[CropSettings, ...]
  facts: Mapping[str, Any]
  file: DetectorFile | None
  _run: trained.TrainedRun = dataclasses.field(repr=False)
  _mesh: jax.sharding.Mesh = dataclasses.field(repr=False)
  _batch_size: int = dataclasses.field(repr=False)

  @property
  def batch_size(self) -> int:
    """Images that are scored at a time."""
    return self._batch_size

  @property
  def num_devices(self) -> int:
    """Devices that share a batch."""
    return self._mesh.size

  @property
  def thresholds(self) -> Mapping[str, Mapping[str, float]]:
    """By level (`frame`, `video`) and name (`eer`, `fpr=1%`, `fpr=5%`, `fnr=1%`), from validation.

    A score at or above a threshold is called fake. Empty where there is no validation.
    """
    return self.validation.thresholds if self.validation else {}

  @property
  def calibration(self) -> Calibration | None:
    """On the validation set, by frame; None where it lacks a class."""
    return self.validation.calibration if self.validation else None

  def predict(
    self,
    inputs: Iterable[str | os.PathLike | bytes | np.ndarray],
    *,
    policy: Policy | None = None,
    limits: Limits | None = None,
    num_workers: int = 1,
    faces: Faces = 'yunet',
    yunet: str | os.PathLike | None = None,
  ) -> Iterator[Answer]:
    """Answers about pictures and videos: lazy, and in the order of the inputs.

    Inputs are read in other processes, which are started for this call and ended with it. A script
    that calls this needs `if __name__ == '__main__':`, as `multiprocessing` does.

    Args:
      inputs: paths, the bytes of files, or pictures as uint8 RGB [H, W, 3].
      policy: of `prediction.policy`; what validation fixed by default.
      limits: of a single input.
      num_workers: processes that read inputs.
      faces: how faces are found: yunet, haar, or whole for pictures that are face crops already.
      yunet: YuNet's model file; fetched once without it.

    Raises:
      UserError: YuNet cannot be had, or a picture that is none.
    """
    from masm_jax.prediction.engine import Engine  # It imports this file.

    with Engine(
      self, policy=policy, limits=limits, num_workers=num_workers, faces=faces, yunet=yunet
    ) as engine:
      yield from engine.predict(
        Source(one, name=os.fspath(one) if isinstance(one, str | os.PathLike) else f'input {i}')
        for i, one in enumerate(inputs)
      )

  def score(self, images: Images, *, channels: Channels = 'rgb') -> np.ndarray:
    """Scores of face crops: `sigmoid` of the log-odds of fake, as `masm_jax.evaluate` gives them.

    Args:
      images: uint8 [B, H, W, 3], or a sequence of B arrays uint8 [H, W, 3] of any sizes: face crops
        made as the training data was.
      channels: order of the last axis; OpenCV reads `bgr`.

    Returns:
      float64 [B], within [0, 1]; compare them with `thresholds`. They are probabilities as far as
      `calibration` says; `probability` rescales them.

    Raises:
      UserError: arrays that are not such images.
    """
    return calibration.rescale(self._logits(images, channels), 1.0)

  def probability(self, images: Images, *, channels: Channels = 'rgb') -> np.ndarray:
    """Scores rescaled by the temperature that was fitted on the validation set.

    Args:
      images: see `score`.
      channels: see `score`.

    Returns:
      float64 [B], in the order of `score`.

    Raises:
      UserError: see `score`; or there is no calibration.
    """
    if self.calibration is None:
      raise UserError(
        'this detector has no calibration: its validation set lacks a class, or was not scored yet'
      )
    return calibration.rescale(self._logits(images, channels), self.calibration.temperature)

  def features(self, images: Images, *, channels: Channels = 'rgb') -> np.ndarray:
    """What the head reads of face crops.

    Args:
      images: see `score`.
      channels: see `score`.

    Returns:
      float32 [B, D].

    Raises:
      UserError: see `score`.
    """
    return self._run_step(self._feature_step, 'feature', images, channels)

  def _logits(self, images: Images, channels: Channels) -> np.ndarray:
    return self._run_step(self._eval_step, 'logit', images, channels).astype(np.float64)

  def dispatch(self, crops: np.ndarray) -> Mapping[str, jax.Array]:
    """Starts the scoring of a batch, and does not wait for it.

    Args:
      crops: uint8 [B, S, S, 3] of the detector's own size; each B is compiled once.

    Returns:
      `logit` [B], log-odds of fake, and `feature` [B, D] where `validation.features` needs it.
    """
    count = len(crops)
    batch = {
      'image': crops,
      'record': np.arange(count, dtype=np.int32),
      'mask': np.ones(count, bool),
    }
    found = self._both_steps(self._run.params, sharding.place_batch(batch, self._mesh))
    return {name: found[name] for name in ('logit', 'feature') if name in found}

  @functools.cached_property
  def _both_steps(self) -> Callable:
    score = steps.make_eval_step(self._run.detector)
    describe = steps.make_feature_step(self._run.detector)
    wants_features = self.validation is not None and self.validation.features is not None

    def step(params: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
      # XLA computes once what both have in common.
      return score(params, batch) | (describe(params, batch) if wants_features else {})

    return steps.jit_eval_step(step, self._mesh, self._run.params)

  @functools.cached_property
  def _eval_step(self) -> Callable:
    step = steps.make_eval_step(self._run.detector)
    return steps.jit_eval_step(step, self._mesh, self._run.params)

  @functools.cached_property
  def _feature_step(self) -> Callable:
    step = steps.make_feature_step(self._run.detector)
    return steps.jit_eval_step(step, self._mesh, self._run.params)

  def _run_step(self, step: Callable, name: str, images: Images, channels: Channels) -> np.ndarray:
    """One result of a step for each image, in batches of one size, the last one padded."""
    crops = [transforms.resize(image, self.image_size) for image in as_images(images, channels)]
    size, count = self._batch_size, len(crops)
    # An empty call still tells the shape of its result.
    crops += [np.zeros((self.image_size,) * 2 + (3,), np.uint8)] * (
      -count % size or size * (not count)
    )
    results = []
    for start in range(0, len(crops), size):
      record = np.arange(start, start + size, dtype=np.int32)
      batch = {'image': np.stack(crops[start : start + size]), 'record': record}
      placed = sharding.place_batch(batch | {'mask': record < count}, self._mesh)
      results.append(np.asarray(step(self._run.params, placed)[name]))
    return np.concatenate(results)[:count]


def load(
  source: str | os.PathLike,
  *,
  step: str = 'best',
  weights: str = '',
  batch_size: int = 32,
  devices: Sequence[jax.Device] | None = None,
) -> Detector:
  """Loads a trained detector.

  Args:
    source: the --workdir of a training run, or a detector file (a folder that
      `python -m masm_jax.export` wrote).
    step: of a run: 'best' (chosen by validation), 'last', or the number of a checkpoint.
    weights: of a run: the file of base weights, if it is no longer where the run found it.
    batch_size: images that are scored at a time.
    devices: which ones compute; the first of this process by default.

  Raises:
    UserError: no such run or step, base weights that are not the run's, or a damaged file.
  """
  mesh = sharding.make_mesh(devices=devices or jax.local_devices()[:1])
  sharding.check_batch_size(batch_size, mesh, 'batch_size')
  folder = places.expanded(source)
  run = detector_file.load_detector(folder, mesh, step=step, weights=weights)
  return Detector(
    image_size=run.detector.backbone.image_size,
    validation=run.validation,
    crops=run.crops,
    facts=run.facts,
    file=run.file,
    _run=run,
    _mesh=mesh,
    _batch_size=batch_size,
  )


def as_images(images: Images, channels: Channels = 'rgb') -> list[np.ndarray]:
  """Checks what a caller gives as images, so that no wrong array is scored without a word.

  >>> [image.shape for image in as_images(np.zeros((2, 8, 8, 3), np.uint8))]
  [(8, 8, 3), (8, 8, 3)]

  Args:
    images: see `Detector.score`.
    channels: order of the last axis.

  Returns:
    B arrays uint8 [H, W, 3], RGB.

  Raises:
    UserError: one line that says what is wrong and how to mend it.
  """
  if channels not in ('rgb', 'bgr'):
    raise UserError(f"channels = {channels!r}: say 'rgb', or 'bgr' for images that OpenCV read")
  if isinstance(images, str | bytes | os.PathLike):
    raise UserError('images are arrays uint8 [B, H, W, 3], not a path: decode the file first')
  if isinstance(images, list | tuple):
    found = [
      _checked(np.asarray(image), f'image {i}', batched=False) for i, image in enumerate(images)
    ]
  else:
    found = list(_checked(np.asarray(images), 'images', batched=True))
  return [np.ascontiguousarray(image[..., ::-1] if channels == 'bgr' else image) for image in found]


def _checked(array: np.ndarray, name: str, *, batched: bool) -> np.ndarray:
  wanted = 'uint8 [B, H, W, 3]' if batched else 'uint8 [H, W, 3]'
  shape, ndim = list(array.shape), 4 if batched else 3
  problem = ''
  if array.dtype.kind == 'f' and array.size and np.nanmax(array) <= 1:
    problem = 'floats in 0 to 1: give (images * 255).round().astype(np.uint8)'
  elif array.dtype.kind not in 'biufc':
    problem = 'no array of numbers (cv2.imread gives None for a file that it cannot read)'
  elif array.dtype != np.uint8:
    problem = f'of dtype {array.dtype}: give bytes from 0 to 255, images.astype(np.uint8)'
  elif array.ndim == ndim - 1 and shape[-1:] == [3] and batched:
    problem = f'{shape}, one image without a batch axis: give images[None]'
  elif array.ndim == ndim - 1 or (array.ndim == ndim and shape[-1] == 1):
    problem = f'{shape}, with one channel: repeat it, np.stack([grey] * 3, axis=-1)'
  elif array.ndim == ndim and shape[-1] == 4:
    problem = f'{shape}, with four channels: leave out the last, images[..., :3]'
  elif array.ndim == ndim and shape[-3] == 3 and shape[-1] != 3:
    problem = f'{shape}, channels first: give np.moveaxis(images, -3, -1)'
  elif array.ndim != ndim or shape[-1] != 3 or 0 in shape[-3:]:
    problem = f'{shape}'
  if problem:
    raise UserError(f'{name}: a detector takes {wanted}; this is {problem}')
  return array
