"""What a camera and an encoder do to a picture; reals and fakes alike pass through both."""

import cv2
import numpy as np

from masm_jax.data.synthetic.people import Scene


def capture(image: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
  """Lens blur, white balance and sensor noise: float32 [H, W, 3] -> float32 [H, W, 3], 0..255."""
  sigma = scene.blur_px * len(image) / 64
  image = cv2.GaussianBlur(image, (0, 0), sigma) * scene.white_balance.astype(np.float32)
  # Shot noise grows with the square root of the signal; a floor is read noise.
  spread = np.float32(scene.noise) * np.sqrt(image * np.float32(0.8 / 128) + np.float32(0.2))
  image = image + spread * rng.standard_normal(image.shape, dtype=np.float32)
  return np.clip(image, 0, 255)


def deliver(image: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
  """A little grain and one JPEG round trip: float32 [H, W, 3] -> uint8 [H, W, 3] RGB."""
  image = image + np.float32(0.6) * rng.standard_normal(image.shape, dtype=np.float32)
  quality = int(np.clip(scene.jpeg_quality + rng.integers(-3, 4), 60, 98))
  pixels = np.clip(image + 0.5, 0, 255).astype(np.uint8)
  _, code = cv2.imencode('.jpg', pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
  return np.ascontiguousarray(cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1])
