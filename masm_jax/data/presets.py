"""Every augmentation preset, with all of its parameters.

Those named after published work repeat its settings on images of about 256 pixels; where a source
leaves a parameter to albumentations 1.x, that default is written out here. Two differences hold
throughout: JPEG sees the channels in their right order (albumentations hands RGB to a codec that
expects BGR, so that red is compressed as if it were blue), and random numbers belong to a record.
"""

import dataclasses
from collections.abc import Mapping

from masm_jax.data.colour import (
  BrightnessContrast,
  ChannelShuffle,
  Clahe,
  ColourJitter,
  Gamma,
  GaussianNoise,
  HueSaturation,
  Jpeg,
  PcaColour,
  RgbShift,
)
from masm_jax.data.operations import (
  Affine,
  Cutout,
  Downscale,
  GaussianBlur,
  GlassBlur,
  HorizontalFlip,
  MotionBlur,
  OneOf,
  Operation,
  Sharpen,
)

_HUE_SATURATION = {'hue': 20, 'saturation': 30, 'value': 20}
_JPEG = (40, 100)

SBI = 'sbi'  # The preset that makes its own fakes.

PRESETS: Mapping[str, tuple[Operation, ...]] = {
  'none': (),
  'flip': (HorizontalFlip(probability=0.5),),  # Which leaves every trace as it is. [ours]
  # SCLBD/DeepfakeBench, training/dataset/abstract_dataset.py and the detectors' configs.
  'deepfakebench': (
    HorizontalFlip(probability=0.5),
    Affine(rotation_deg=10, reflect=True, probability=0.5),
    GaussianBlur(kernel_px=(3, 7), probability=0.5),
    OneOf(
      choices=(
        BrightnessContrast(brightness=0.1, contrast=0.1),
        PcaColour(std=0.1),
        HueSaturation(**_HUE_SATURATION),
      ),
      probability=0.5,
    ),
    Jpeg(quality=_JPEG, probability=0.5),
  ),
  # YZY-stack/Effort-AIGI-Detection, training transforms.
  'effort': (
    HorizontalFlip(probability=0.5),
    BrightnessContrast(brightness=0.2, contrast=0.2, probability=0.5),
    HueSaturation(**_HUE_SATURATION, probability=0.3),
    Jpeg(quality=_JPEG, probability=0.1),
    GaussianNoise(variance=(10, 50), probability=0.1),
    MotionBlur(kernel_px=(3, 7), probability=0.1),
    Clahe(clip=(1, 4), tiles=8, probability=0.1),
    ChannelShuffle(probability=0.1),
    Cutout(count=8, size_px=8, probability=0.1),
    Gamma(gamma=(0.8, 1.2), probability=0.3),
    GlassBlur(sigma_px=0.7, max_shift_px=4, iterations=2, probability=0.3),
  ),
  # yermandy/GenD, training transforms.
  'gend': (
    HorizontalFlip(probability=0.5),
    Affine(rotation_deg=10, shift=(0.1, 0.1), scale=(0.9, 1.1)),
    GaussianBlur(kernel_px=(7, 7), sigma_px=(0.1, 2.0), probability=0.1),
    ColourJitter(brightness=0.1, contrast=0.1),
    Jpeg(quality=_JPEG),
  ),
  # mapooon/SelfBlendedImages: what follows the blending, alike for a real and the fake made of it.
  # The source also moves hue, saturation and value by up to 0.3 of 255 levels: nothing is left of
  # that in 8 bits, and it is left out.
  SBI: (
    HorizontalFlip(probability=0.5),
    RgbShift(shift=20, probability=0.3),
    BrightnessContrast(brightness=0.3, contrast=0.3, probability=0.3),
    Jpeg(quality=_JPEG, probability=0.5),
  ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfBlending:
  """How `sbi` makes a fake of a real face.

  Lengths are pixels of a crop of 256, and in proportion at other sizes.

  Attributes:
    statistics: what changes either the face that is pasted or the one that it is pasted into.
    placement: how the pasted face and its mask are moved.
    elastic_px: the mask is warped by uniform noise up to this, smoothed by `elastic_sigma_px`.
    elastic_sigma_px: of that smoothing.
    erosion_px: side of the square that the mask shrinks by, odd, between these two.
    blur_px: side of the kernel that softens the mask's border, odd, between these two.
    blur_sigma_px: its standard deviation, between these two.
    ratios: opacities of the pasted face, each as likely as the others.
    no_forehead_probability: how often the mask ends at the brows.
    ellipse: (x, y, half width, half height) of the face where landmarks are not known, in fractions
      of the crop; it fits both crop templates. [ours]
    jitter: each number of the ellipse varies by up to this fraction of the crop. [ours]
  """

  statistics: tuple[Operation, ...]
  placement: Affine
  elastic_px: float
  elastic_sigma_px: float
  erosion_px: tuple[int, int]
  blur_px: tuple[int, int]
  blur_sigma_px: tuple[float, float]
  ratios: tuple[float, ...]
  no_forehead_probability: float
  ellipse: tuple[float, float, float, float]
  jitter: float


# Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022, and
# mapooon/SelfBlendedImages.
SELF_BLENDING = SelfBlending(
  statistics=(
    RgbShift(shift=20, probability=0.3),
    BrightnessContrast(brightness=0.1, contrast=0.1),
    OneOf(choices=(Downscale(factors=(2, 4)), Sharpen(alpha=(0.2, 0.5), lightness=(0.5, 1.0)))),
  ),
  placement=Affine(shift=(0.03, 0.015), scale=(0.95, 1 / 0.95)),
  elastic_px=50.0,
  elastic_sigma_px=7.0,
  erosion_px=(5, 25),
  blur_px=(5, 25),
  blur_sigma_px=(5.0, 45.0),
  ratios=(0.25, 0.5, 0.75, 1.0, 1.0, 1.0),
  no_forehead_probability=0.25,
  ellipse=(0.5, 0.58, 0.27, 0.36),
  jitter=0.04,
)
