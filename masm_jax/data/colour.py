"""Image operations on colour, noise and compression; see `operations`."""

import dataclasses
import math

import cv2
import numpy as np

from masm_jax.data.operations import Operation

_LEVELS = np.arange(256, dtype=np.float64)

# ---- Colour --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrightnessContrast(Operation):
  """`value * (1 + c) + 255 * b` with c and b up to `contrast` and `brightness`, either way."""

  brightness: float
  contrast: float

  def apply(self, image, rng):
    """See `Operation`."""
    brightness, contrast = rng.uniform(-1, 1, 2) * (self.brightness, self.contrast)
    return _look_up(image, _LEVELS * (1 + contrast) + 255 * brightness)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColourJitter(Operation):
  """Scales the values, then their distance from the mean grey (torchvision's form).

  Attributes:
    brightness: multiply by a factor up to this far from 1.
    contrast: blend with the mean grey, by a factor up to this far from 1.
  """

  brightness: float
  contrast: float

  def apply(self, image, rng):
    """See `Operation`."""
    brightness, contrast = 1 + rng.uniform(-1, 1, 2) * (self.brightness, self.contrast)
    image = _look_up(image, _LEVELS * brightness)
    mean_grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()
    return _look_up(image, mean_grey + contrast * (_LEVELS - mean_grey))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gamma(Operation):
  """Raises values of 0..1 to a power between these two."""

  gamma: tuple[float, float]

  def apply(self, image, rng):
    """See `Operation`."""
    return _look_up(image, 255 * (_LEVELS / 255) ** rng.uniform(*self.gamma))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HueSaturation(Operation):
  """Adds to hue (2 degrees a unit, round the circle), saturation and value (255 units)."""

  hue: float
  saturation: float
  value: float

  def apply(self, image, rng):
    """See `Operation`."""
    hue, saturation, value = rng.uniform(-1, 1, 3) * (self.hue, self.saturation, self.value)
    table = np.stack([(_LEVELS + hue) % 180, _LEVELS + saturation, _LEVELS + value], -1)
    # 179.6 rounds to 180, which is 0 again.
    table[:, 0] = np.rint(table[:, 0]) % 180
    hsv = _look_up(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RgbShift(Operation):
  """Adds to each channel up to `shift`, either way."""

  shift: float

  def apply(self, image, rng):
    """See `Operation`."""
    return _look_up(image, _LEVELS[:, None] + self.shift * rng.uniform(-1, 1, 3))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PcaColour(Operation):
  """Adds noise along the principal components of the image's own colours.

  Krizhevsky et al. 2012, section 4.1: components times their eigenvalues (of values in 0..1) times
  a normal number of standard deviation `std` each.
  """

  std: float

  def apply(self, image, rng):
    """See `Operation`."""
    colours = image.reshape(-1, 3).astype(np.float32) / 255
    eigenvalues, components = np.linalg.eigh(np.cov(colours, rowvar=False, ddof=0))
    shift = components @ (rng.normal(0, self.std, 3) * eigenvalues)
    return _look_up(image, _LEVELS[:, None] + 255 * shift)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelShuffle(Operation):
  """Puts the channels into a random order."""

  def apply(self, image, rng):
    """See `Operation`."""
    return np.ascontiguousarray(image[..., rng.permutation(3)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clahe(Operation):
  """Contrast-limited adaptive histogram equalisation of the lightness (CIELAB).

  Attributes:
    clip: limit of the contrast, between these two.
    tiles: the image is cut into this many tiles each way.
  """

  clip: tuple[float, float]
  tiles: int

  def apply(self, image, rng):
    """See `Operation`."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    clahe = cv2.createCLAHE(rng.uniform(*self.clip), (self.tiles, self.tiles))
    lab[..., 0] = clahe.apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


# ---- Noise and compression -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianNoise(Operation):
  """Adds independent normal noise to all values, its variance (of 0..255) between these two."""

  variance: tuple[float, float]

  def apply(self, image, rng):
    """See `Operation`."""
    noise = rng.standard_normal(image.shape, np.float32) * math.sqrt(rng.uniform(*self.variance))
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jpeg(Operation):
  """Compresses with an integer quality between these two, both included (4:2:0 chroma)."""

  quality: tuple[int, int]

  def apply(self, image, rng):
    """See `Operation`."""
    quality = int(rng.integers(self.quality[0], self.quality[1] + 1))
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)  # OpenCV's codec counts channels from blue.
    _, code = cv2.imencode('.jpg', bgr, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return cv2.cvtColor(cv2.imdecode(code, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
  """Maps values by a table of 256, [256] for all channels or [256, 3] for each; rounded, cut."""
  table = np.clip(np.rint(table), 0, 255).astype(np.uint8)
  return cv2.LUT(image, table[:, None] if table.ndim == 2 else table)
