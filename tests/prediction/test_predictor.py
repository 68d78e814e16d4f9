"""The detector that Python users hold: the scores of `evaluate`, and no silent wrong input."""

import numpy as np
import pytest

from masm_jax.errors import UserError
from masm_jax.metrics import binary, calibration
from masm_jax.prediction import predictor


def test_scores_are_those_of_the_run(detector, val):
  table, crops = val
  found = detector.score(crops)
  assert found.dtype == np.float64 and found.shape == (len(table),)
  np.testing.assert_allclose(found, table['score'], atol=1e-6)
  np.testing.assert_array_equal(detector.score(np.stack(crops)), found)


def test_channels_are_as_declared(detector, val):
  crops = np.stack(val[1])
  as_opencv = np.ascontiguousarray(crops[..., ::-1])
  np.testing.assert_array_equal(detector.score(as_opencv, channels='bgr'), detector.score(crops))
  assert np.abs(detector.score(as_opencv) - detector.score(crops)).max() > 1e-3


def test_thresholds_and_calibration_are_those_of_validation(detector, val):
  table, crops = val
  labels, values = table['label'].to_numpy(), table['score'].to_numpy()
  assert detector.thresholds['frame']['eer'] == binary.equal_error_rate(labels, values)[1]
  for name, rate in (('fpr=1%', 0.01), ('fpr=5%', 0.05)):
    threshold = detector.thresholds['frame'][name]
    assert np.mean(values[labels == 0] >= threshold) <= rate
    assert np.mean(values[labels == 0] >= np.nextafter(threshold, 0)) > rate  # The least such one.
  temperature = calibration.fit_temperature(labels, table['logit'].to_numpy())
  assert detector.calibration.temperature == temperature
  np.testing.assert_allclose(
    detector.probability(crops), calibration.rescale(table['logit'], temperature), atol=1e-6
  )


def test_features_and_empty_batches(detector, val):
  features = detector.features(val[1][:3])
  assert features.shape == (3, 96) and features.dtype == np.float32
  assert np.abs(features[0] - features[1]).max() > 1e-3
  assert detector.score([]).shape == (0,)
  assert detector.features(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, 96)


IMAGES = np.zeros((2, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
  ('images', 'message'),
  [
    (IMAGES / 255.0, r'images: .* floats in 0 to 1: give \(images \* 255\)'),
    (IMAGES.astype(np.float32) + 7, r'images: .* of dtype float32: give bytes'),
    (IMAGES.astype(np.int64), r'images: .* of dtype int64: give bytes'),
    (IMAGES[0], r'images: .* one image without a batch axis: give images\[None\]'),
    (IMAGES[..., 0], r'images: .* \[2, 8, 8\], with one channel: repeat it'),
    (IMAGES[..., :1], r'images: .* with one channel: repeat it'),
    (np.zeros((2, 8, 8, 4), np.uint8), r'images: .* four channels: leave out the last'),
    (np.moveaxis(IMAGES, -1, 1), r'images: .* channels first: give np\.moveaxis'),
    (np.zeros((2, 0, 8, 3), np.uint8), r'images: .* this is \[2, 0, 8, 3\]'),
    ([IMAGES[0], IMAGES[1, :, :, 0]], r'image 1: .* with one channel'),
    ([IMAGES[0], None], r'image 1: .* no array of numbers \(cv2\.imread gives None for a file'),
    (['face.png'], r'image 0: .* no array of numbers'),
    ('face.png', r'not a path: decode the file first'),
  ],
)
def test_what_is_no_batch_of_images_is_one_line(images, message):
  with pytest.raises(UserError, match=message):
    predictor.as_images(images)


def test_unknown_channels_and_folders_are_one_line(tmp_path):
  with pytest.raises(UserError, match="channels = 'gbr': say 'rgb', or 'bgr'"):
    predictor.as_images(IMAGES, 'gbr')
  with pytest.raises(UserError, match=r'is no run: it has no checkpoints'):
    predictor.load(tmp_path)
