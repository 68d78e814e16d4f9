"""Makes single training examples: position -> record -> decode -> augment -> resize."""

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np

from masm_jax.data import self_blending, transforms
from masm_jax.data.columns import FAKE
from masm_jax.data.images import Images
from masm_jax.data.presets import SBI
from masm_jax.data.samplers import Sampler
from masm_jax.errors import UserError

_STREAM = 0xA06  # Keeps augmentation apart from other random numbers of the same seed.
_MAX_ATTEMPTS = 100


@dataclasses.dataclass(frozen=True)
class Loader:
  """Makes the example at one of this host's indices; travels to the workers.

  With B the global batch and b this host's share, example `t * b + i` of host p stands at position
  `t * B + p * b + i` of the training.

  Attributes:
    images: N encoded images.
    labels: int32 [N].
    methods: int32 [N]: 0 real, otherwise which forgery.
    landmarks: the manifest's `landmarks` texts [N] or None; only `sbi` looks at them.
    image_size: side of the square images, in pixels.
    sampler: which record stands at which position.
    augment: a key of `transforms.PRESETS`.
    seed: of the augmentations.
    batch_size: B.
    local_size: b.
    process_index: p.
  """

  images: Images
  labels: np.ndarray
  methods: np.ndarray
  landmarks: np.ndarray | None
  image_size: int
  sampler: Sampler
  augment: str
  seed: int
  batch_size: int
  local_size: int
  process_index: int

  def position(self, index: int) -> int:
    """The global position of this host's example `index`."""
    step, i = divmod(index, self.local_size)
    return step * self.batch_size + self.process_index * self.local_size + i

  def __call__(self, index: int) -> dict[str, Any]:
    """The example: `image` uint8 [H, W, 3], `label`, `method` (0 real, or which
    forgery; self-blending is one more), `record` (the one shown), `replaced`.

    Raises:
      UserError: so many records in a row cannot be decoded that none is left to stand in.
    """
    position = self.position(int(index))
    asked = self.sampler(position)
    record, image = self._decodable(asked)
    label, method = self.labels[record], self.methods[record]
    if self.augment == SBI:  # Positions 2i and 2i + 1 are a pair, and share their numbers.
      pair, is_fake = divmod(position, 2)
      rng = np.random.default_rng((self.seed, _STREAM, pair))
      landmarks = None if self.landmarks is None else self._landmarks(record)
      image = self_blending.self_blended(image, rng, is_fake=bool(is_fake), landmarks=landmarks)
      if is_fake:
        label, method = FAKE, self._own_method
    else:
      rng = np.random.default_rng((self.seed, _STREAM, position))
      image = transforms.augment(image, self.augment, rng)
    return {
      'image': transforms.resize(image, self.image_size),
      'label': np.int32(label),
      'method': np.int32(method),
      'record': np.int64(record),
      'replaced': np.bool_(record != asked),
    }

  @functools.cached_property
  def _own_method(self) -> int:
    """The number of self-blending among the methods."""
    return int(self.methods.max()) + 1

  def _landmarks(self, record: int) -> np.ndarray | None:
    try:
      return self_blending.parse_landmarks(self.landmarks[record])
    except ValueError as error:
      raise UserError(f'{self.images.name(record)}: {error}') from error

  def _decodable(self, asked: int) -> tuple[int, np.ndarray]:
    """The record itself, or the next one of its label that can be decoded."""
    errors = []
    for record in itertools.chain(range(asked, len(self.labels)), range(asked)):
      if self.labels[record] != self.labels[asked]:
        continue
      try:
        return record, decode(self.images, record)
      except transforms.DecodeError as error:
        errors.append(error)
        if len(errors) == _MAX_ATTEMPTS:
          break
    raise UserError(f'{len(errors)} training images in a row cannot be decoded, first {errors[0]}')


def decode(images: Images, record: int) -> np.ndarray:
  """Reads and decodes an image: uint8 RGB [H, W, 3].

  Raises:
    DecodeError: it cannot be read or used.
  """
  try:
    content = images.read(record)
  except OSError as error:
    raise transforms.unreadable(images.name(record), error) from error
  return transforms.decode_bytes(content, images.name(record))
