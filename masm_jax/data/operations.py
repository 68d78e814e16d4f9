"""Image operations: each a frozen record of its parameters, applied with a generator.

Here are the contract and what acts on geometry and sharpness; `colour` has the others. Images are
uint8 RGB `[H, W, 3]`, and keep their shape. A result is a function of the image, the parameters and
what is drawn from the generator.
"""

import abc
import dataclasses

import cv2
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation(abc.ABC):
  """Base of all operations.

  Attributes:
    probability: of being applied; otherwise the image stays as it is.
  """

  probability: float = 1.0

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies the operation, or not: uint8 RGB [H, W, 3] -> the same shape."""
    if self.probability < 1 and rng.random() >= self.probability:
      return image
    return self.apply(image, rng)

  @abc.abstractmethod
  def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies the operation: uint8 RGB [H, W, 3] -> the same shape."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneOf(Operation):
  """Applies one of several operations, each as likely as the others."""

  choices: tuple[Operation, ...]

  def apply(self, image, rng):
    """See `Operation`."""
    return self.choices[rng.integers(len(self.choices))](image, rng)


# ---- Geometry ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class HorizontalFlip(Operation):
  """Mirrors left and right."""

  def apply(self, image, rng):
    """See `Operation`."""
    return cv2.flip(image, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Affine(Operation):
  """Rotates and scales about the centre, then shifts; bilinear.

  Attributes:
    rotation_deg: rotate by up to this angle, either way.
    shift: move by up to this fraction of (width, height), either way.
    scale: zoom by a factor between these two.
    reflect: mirror the image at its borders; otherwise black comes in.
  """

  rotation_deg: float = 0.0
  shift: tuple[float, float] = (0.0, 0.0)
  scale: tuple[float, float] = (1.0, 1.0)
  reflect: bool = False

  def matrix(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random transform of pixel coordinates, float64 [2, 3]."""
    angle, x, y = rng.uniform(-1, 1, 3)
    zoom = rng.uniform(*self.scale)
    centre = ((width - 1) / 2, (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, self.rotation_deg * angle, zoom)
    matrix[:, 2] += (self.shift[0] * x * width, self.shift[1] * y * height)
    return matrix

  def apply(self, image, rng):
    """See `Operation`."""
    height, width = image.shape[:2]
    border = cv2.BORDER_REFLECT_101 if self.reflect else cv2.BORDER_CONSTANT
    matrix = self.matrix(height, width, rng)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cutout(Operation):
  """Blackens squares of `size_px`, `count` of them, which may overlap and be cut by the border."""

  count: int
  size_px: int

  def apply(self, image, rng):
    """See `Operation`."""
    height, width = image.shape[:2]
    image = image.copy()
    half = self.size_px // 2
    for y, x in zip(
      rng.integers(height, size=self.count), rng.integers(width, size=self.count), strict=True
    ):
      image[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
    return image


# ---- Sharpness -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianBlur(Operation):
  """Blurs with an odd kernel between `kernel_px`, both included.

  Attributes:
    kernel_px: smallest and largest side of the kernel.
    sigma_px: standard deviation between these two; None takes OpenCV's for the kernel.
  """

  kernel_px: tuple[int, int]
  sigma_px: tuple[float, float] | None = None

  def apply(self, image, rng):
    """See `Operation`."""
    side = _odd(self.kernel_px, rng)
    sigma = 0.0 if self.sigma_px is None else rng.uniform(*self.sigma_px)
    return cv2.GaussianBlur(image, (side, side), sigma)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MotionBlur(Operation):
  """Averages along a random line within an odd kernel between `kernel_px`."""

  kernel_px: tuple[int, int]

  def apply(self, image, rng):
    """See `Operation`."""
    side = _odd(self.kernel_px, rng)
    kernel = np.zeros((side, side), np.uint8)
    start, end = rng.integers(side, size=2), rng.integers(side, size=2)
    cv2.line(kernel, start.tolist(), end.tolist(), 1)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlassBlur(Operation):
  """Looks through frosted glass: blur, take each pixel from near by, blur.

  The source swaps neighbouring pixels one after the other; here each pixel is taken from its
  neighbourhood, all at once.

  Attributes:
    sigma_px: of both blurs.
    max_shift_px: how far a pixel may come from, each time.
    iterations: how often pixels are moved.
  """

  sigma_px: float
  max_shift_px: int
  iterations: int

  def apply(self, image, rng):
    """See `Operation`."""
    height, width = image.shape[:2]
    image = cv2.GaussianBlur(image, (0, 0), self.sigma_px)
    rows, columns = np.ogrid[:height, :width]
    reach = self.max_shift_px
    for _ in range(self.iterations):
      dy, dx = rng.integers(-reach, reach + 1, (2, height, width), np.int16)
      image = image[np.clip(rows + dy, 0, height - 1), np.clip(columns + dx, 0, width - 1)]
    return cv2.GaussianBlur(image, (0, 0), self.sigma_px)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharpen(Operation):
  """Blends the image with its Laplacian-sharpened self.

  Attributes:
    alpha: share of the sharpened image, between these two.
    lightness: surplus of the kernel's centre over the 8 around it, between these two.
  """

  alpha: tuple[float, float]
  lightness: tuple[float, float]

  def apply(self, image, rng):
    """See `Operation`."""
    alpha, lightness = rng.uniform(*self.alpha), rng.uniform(*self.lightness)
    kernel = np.full((3, 3), -alpha)
    kernel[1, 1] = 1 - alpha + alpha * (8 + lightness)
    return cv2.filter2D(image, -1, kernel)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Downscale(Operation):
  """Shrinks by one of `factors` (nearest pixel) and enlarges again (bilinear)."""

  factors: tuple[int, ...]

  def apply(self, image, rng):
    """See `Operation`."""
    height, width = image.shape[:2]
    factor = self.factors[rng.integers(len(self.factors))]
    size = (max(width // factor, 1), max(height // factor, 1))
    small = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _odd(limits: tuple[int, int], rng: np.random.Generator) -> int:
  """An odd number between two odd ones, both included."""
  return limits[0] + 2 * int(rng.integers((limits[1] - limits[0]) // 2 + 1))
