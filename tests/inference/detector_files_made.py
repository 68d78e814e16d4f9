"""Small detector files for tests, and ways to spoil them."""

import hashlib
import json

import numpy as np
import pytest
import safetensors.numpy

from masm_jax import files
from masm_jax.errors import UserError
from masm_jax.inference import detector_file, detector_schema

SHA = '0' * 64
NOTE, WEIGHTS, VALIDATION = (
  detector_file.NOTE, detector_file.WEIGHTS, detector_file.VALIDATION
)  # fmt: skip


def score_table(seed=0, num=40):
  import pandas as pd

  rng = np.random.default_rng(seed)
  labels = np.arange(num) % 2
  logits = 2.0 * labels - 1 + rng.normal(size=num)
  table = pd.DataFrame(
    {'video_id': [f'v{i // 4}_{label}' for i, label in enumerate(labels)], 'label': labels}
  )
  return table.assign(score=1 / (1 + np.exp(-logits)), logit=logits)


def write(folder, params, config, found, **changes):
  family, fields = detector_schema.describe(config.backbone)
  facts = {
    'name': 'tiny', 'licence_note': '', 'method': 'linear', 'crops': (), 'config': {},
    'code': detector_schema.Code(version='0', commit=None),
    'backbone': detector_schema.Backbone(
      preset='tiny', family=family, architecture=files.to_json(fields), dtype='float32'
    ),
    'head': detector_schema.Head(normalize_features=config.normalize_features),
    'training': detector_schema.Training(sets=(), forgeries=(), videos=None, frames=None),
    'origin': detector_schema.Origin(
      seed=0, checkpoint='best', step=1, best_step=1, last_step=1, selected_by='video_auroc',
      config_sha256=SHA, base_weights='random initialisation, seed 0', trained_weights=SHA,
      trainable_parameters=1, train_manifest=SHA, val_manifest=SHA,
    ),
  }  # fmt: skip
  return detector_file.write_detector_file(
    folder, params=params, validation=found, **(facts | changes)
  )


def refused(folder, mesh, match):
  """Loading ends with one line that names the folder."""
  with pytest.raises(UserError, match=match) as told:
    detector_file.load_detector_file(folder, mesh)
  text = str(told.value)
  assert text.isprintable() and len(text) < 1000 and str(folder) in text


def edit(folder, change):
  """Changes the note, which is a dictionary of JSON."""
  note = json.loads((folder / NOTE).read_text())
  change(note)
  files.write_sealed(folder / NOTE, note)


def put(folder, place, value):
  *parents, last = place.split('.')

  def change(note):
    for name in parents:
      note = note[name]
    note[last] = value

  edit(folder, change)


def replace(folder, name, arrays):
  """Another safetensors file, with a hash that fits."""
  safetensors.numpy.save_file(arrays, folder / name)
  note_hash(folder, name)


def note_hash(folder, name):
  data = (folder / name).read_bytes()
  place = 'weights' if name == WEIGHTS else 'validation.blob'
  put(folder, f'{place}.sha256', hashlib.sha256(data).hexdigest())
  put(folder, f'{place}.bytes', len(data))
