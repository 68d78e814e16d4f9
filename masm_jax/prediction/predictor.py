"""A trained detector for Python: scores and features of face crops, and its thresholds.

>>> import masm_jax                                        # doctest: +SKIP
>>> detector = masm_jax.load('runs/ffpp')                  # doctest: +SKIP
>>> detector.score(crops)        # uint8 [B, H, W, 3] RGB -> float64 [B]   # doctest: +SKIP
>>> detector.thresholds['frame']['eer']                    # doctest: +SKIP
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from numpy.typing import ArrayLike

from masm_jax.data import transforms
from masm_jax.data.crop_settings import CropSettings
from masm_jax.errors import UserError
from masm_jax.inference import steps, trained
from masm_jax.metrics import binary, calibration, scores
from masm_jax.parallel import sharding

Channels = Literal['rgb', 'bgr']
Images = ArrayLike | Sequence[ArrayLike]

# False positive rates, of real faces called fake, that a threshold is given for.
_RATES = {'fpr=1%': 0.01, 'fpr=5%': 0.05}


@dataclasses.dataclass(frozen=True)
class Calibration:
  """How far scores are probabilities, on the validation set, by frame.

  Attributes:
    temperature: T of `sigmoid(logit / T)` with the least log-loss (Guo et al. 2017).
    ece: expected calibration error of the scores as they are.
    ece_rescaled: the same with the temperature, on the very set that it was fitted on.
  """

  temperature: float
  ece: float
  ece_rescaled: float


@dataclasses.dataclass(frozen=True)
class Detector:
  """A trained detector; `load` makes one.

  Attributes:
    image_size: side of the square that crops are resized to, pixels.
    thresholds: by level (`frame`, `video`) and name (`eer`, `fpr=1%`, `fpr=5%`), from the run's
      validation set: a score at or above it is called fake. Empty where the run has no scores of
      its validation set yet.
    calibration: on the same set; None where it lacks a class.
    crops: the ways in which the training crops were made; score crops made so. () where unknown.
    facts: what the detector is, see `inference.trained.TrainedRun`.
  """

  image_size: int
  thresholds: Mapping[str, Mapping[str, float]]
  calibration: Calibration | None
  crops: tuple[CropSettings, ...]
  facts: Mapping[str, Any]
  _run: trained.TrainedRun = dataclasses.field(repr=False)
  _mesh: jax.sharding.Mesh = dataclasses.field(repr=False)
  _batch_size: int = dataclasses.field(repr=False)

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
    source: the --workdir of a training run.
    step: 'best' (chosen by validation), 'last', or the number of a checkpoint.
    weights: the file of base weights, if it is no longer where the run found it.
    batch_size: images that are scored at a time.
    devices: which ones compute; the first of this process by default.

  Raises:
    UserError: no such run or step, or base weights that are not the run's.
  """
  workdir = pathlib.Path(source).expanduser()
  mesh = sharding.make_mesh(devices=devices or jax.local_devices()[:1])
  sharding.check_batch_size(batch_size, mesh, 'batch_size')
  run = trained.load_run(workdir, mesh, step=step, weights=weights)
  thresholds, found = _from_validation(workdir / 'scores' / step / 'val.parquet')
  return Detector(
    image_size=run.detector.backbone.image_size,
    thresholds=thresholds,
    calibration=found,
    crops=run.crops,
    facts=run.facts,
    _run=run,
    _mesh=mesh,
    _batch_size=batch_size,
  )


def _from_validation(
  path: pathlib.Path,
) -> tuple[dict[str, dict[str, float]], Calibration | None]:
  """Thresholds and calibration from the scores of a run's validation set, if it has them."""
  if not path.is_file():
    return {}, None
  frames = scores.read_scores(path)
  thresholds = {}
  for level, table in {'frame': frames, 'video': binary.video_scores(frames)}.items():
    labels, values = table['label'].to_numpy(), table['score'].to_numpy()
    thresholds[level] = {'eer': binary.equal_error_rate(labels, values)[1]} | {
      name: binary.threshold_at_fpr(labels, values, rate) for name, rate in _RATES.items()
    }
  labels, logits = frames['label'].to_numpy(), frames['logit'].to_numpy()
  if not 0 < labels.sum() < len(labels):
    return thresholds, None
  temperature = calibration.fit_temperature(labels, logits)
  ece = [
    calibration.expected_calibration_error(labels, calibration.rescale(logits, t))
    for t in (1.0, temperature)
  ]
  return thresholds, Calibration(temperature, *ece)


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
