"""What a detector file says of a backbone and of its validation."""

import numpy as np
import pytest

from masm_jax import backbones, files
from masm_jax import detector as detector_lib
from masm_jax.inference import detector_schema, validation


def test_every_family_of_backbones_is_described_and_built_again():
  classes = {type(preset.config) for preset in backbones.PRESETS.values()}
  assert len(detector_schema.families()) == len(classes)
  assert detector_schema.families()['vit'] is backbones.ViTConfig  # A name that files hold.
  for name, preset in backbones.PRESETS.items():
    family, fields = detector_schema.describe(preset.config)
    described = detector_schema.Backbone(
      preset=name, family=family, architecture=files.to_json(fields), dtype='auto'
    )
    assert detector_schema.build(described) == preset.config
    detector_lib.DetectorConfig(detector_schema.build(described))


def test_summaries_of_many_scores_keep_their_ranks():
  rng = np.random.default_rng(0)
  labels = np.repeat([0, 1], [300_000, 10])
  values = np.concatenate([rng.random(300_000), np.linspace(0, 1, 10)])
  found = validation._summary(labels, values)
  assert (found.labels == 0).sum() == 2**16 and (found.labels == 1).sum() == 10
  kept = found.scores[found.labels == 0]
  assert kept[0] == values[:300_000].min() and kept[-1] == values[:300_000].max()
  for share in (0.01, 0.5, 0.99):
    assert np.quantile(kept, share) == pytest.approx(np.quantile(values[:300_000], share), abs=1e-4)
