"""Detector files from strangers: each damage is one line, and nothing but the folder is read."""

import hashlib
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from masm_jax import backbones, files
from masm_jax import detector as detector_lib
from masm_jax.errors import UserError
from masm_jax.inference import detector_file, detector_schema, feature_statistics, validation
from masm_jax.metrics import scores
from masm_jax.parallel import sharding

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


@pytest.fixture(scope='module')
def config():
  backbone = backbones.ViTConfig(
    image_size=16, patch_size=8, width=24, depth=2, num_heads=3, mlp_dim=48, activation='gelu',
    pre_norm=True, patch_bias=True, norm_eps=1e-6, mean=(0.5,) * 3, std=(0.5,) * 3,
  )  # fmt: skip
  return detector_lib.DetectorConfig(backbone, normalize_features=True)


@pytest.fixture(scope='module')
def params(config):
  return detector_lib.init_params(config, jax.random.key(0))


@pytest.fixture(scope='module')
def found():
  table = score_table()
  features = np.random.default_rng(0).normal(size=(len(table), 24)).astype(np.float32)
  fitted = feature_statistics.fit(features, table['label'].to_numpy(), table['video_id'].to_numpy())
  made = validation.from_scores(table)
  return validation.Validation(made.thresholds, made.calibration, made.scores, fitted)


@pytest.fixture(scope='module')
def sound(params, config, found, tmp_path_factory):
  folder = tmp_path_factory.mktemp('sound') / 'file'
  write(folder, params, config, found)
  return folder


@pytest.fixture
def copy(sound, tmp_path):
  return pathlib.Path(shutil.copytree(sound, tmp_path / 'file'))


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(devices=jax.devices()[:1])


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


def test_what_is_written_is_read_back(sound, params, config, found, mesh):
  run = detector_file.load_detector_file(sound, mesh)
  jax.tree.map(np.testing.assert_array_equal, run.params, params)
  assert run.detector == config
  assert run.validation.thresholds == found.thresholds
  assert run.validation.calibration == found.calibration
  for level in scores.LEVELS:
    assert run.validation.band(level) == found.band(level)
  for name in ('means', 'whitening', 'threshold', 'percentile', 'num'):
    np.testing.assert_array_equal(
      getattr(run.validation.features, name), getattr(found.features, name)
    )
  assert run.facts['method'] == 'linear' and run.file.name == 'tiny' and run.crops == ()


def test_a_bit_that_flips_in_the_note_is_found(copy, mesh):
  note = (copy / NOTE).read_bytes()
  spots = [note.index(b'"norm_eps": 1e-06') + 12, note.index(b'"digest"') + 3]
  spots += [note.index(key) + len(key) + 2 for key in (b'"temperature": ', b'"eer": ')]
  for spot in spots:
    (copy / NOTE).write_bytes(note[:spot] + bytes([note[spot] ^ 1]) + note[spot + 1 :])
    refused(copy, mesh, 'does not match its digest|Extra inputs|Input should be')


def test_a_note_of_an_earlier_version_is_believed_with_a_warning(copy, mesh, caplog):
  note = json.loads((copy / NOTE).read_text())
  del note['digest']
  (copy / NOTE).write_text(json.dumps(note))
  assert detector_file.load_detector_file(copy, mesh).file.name == 'tiny'
  (text,) = [record.getMessage() for record in caplog.records if 'digest' in record.getMessage()]
  assert 'an earlier version wrote detector.json without a digest' in text and '\n' not in text


def test_a_file_without_validation(params, config, mesh, tmp_path):
  write(tmp_path / 'file', params, config, None)
  assert detector_file.load_detector_file(tmp_path / 'file', mesh).validation is None


def test_weights_that_are_not_finite_are_not_written(params, config, tmp_path):
  params = jax.tree.map(np.array, params)
  params['head']['bias'][0] = np.nan
  with pytest.raises(UserError, match='the first is head/bias: the model has diverged'):
    write(tmp_path / 'file', params, config, None)
  assert not (tmp_path / 'file').exists()


def test_every_flipped_bit_and_every_truncation_is_told(copy, mesh):
  rng = np.random.default_rng(0)
  for name in (WEIGHTS, VALIDATION):
    sound = (copy / name).read_bytes()
    for where in (0, 3, 8, 40, *rng.integers(0, len(sound), 8), len(sound) - 1):
      broken = bytearray(sound)
      broken[where] ^= 1 << int(rng.integers(8))
      (copy / name).write_bytes(broken)
      refused(copy, mesh, f'{name} is not the file that its note was written with')
    for length in (0, 7, 100, len(sound) - 1):
      (copy / name).write_bytes(sound[:length])
      refused(copy, mesh, f'{name} is not the file')
    (copy / name).write_bytes(sound + b'\0')
    refused(copy, mesh, f'{name} is not the file')
    (copy / name).write_bytes(sound)
  note = (copy / NOTE).read_bytes()
  for length in (0, 1, 50, len(note) // 2, len(note) - 3):
    (copy / NOTE).write_bytes(note[:length])
    refused(copy, mesh, 'Invalid JSON')


def test_files_of_two_detectors_do_not_mix(copy, params, config, found, tmp_path, mesh):
  other = tmp_path / 'other'
  params = jax.tree.map(lambda x: x + 1, params)
  write(other, params, config, found)
  shutil.copy(other / WEIGHTS, copy / WEIGHTS)
  refused(copy, mesh, 'weights.safetensors is not the file')
  shutil.copy(copy / VALIDATION, copy / WEIGHTS)
  refused(copy, mesh, 'weights.safetensors is not the file')


@pytest.mark.parametrize('name', [NOTE, WEIGHTS, VALIDATION])
def test_a_missing_file_a_pipe_and_a_folder_are_told(copy, mesh, name):
  (copy / name).unlink()
  refused(copy, mesh, f'there is no file {name}')
  os.mkfifo(copy / name)
  refused(copy, mesh, f'there is no file {name}')
  (copy / name).unlink()
  (copy / name).mkdir()
  refused(copy, mesh, f'there is no file {name}')
  (copy / name).rmdir()
  (copy / name).symlink_to('/dev/zero')
  refused(copy, mesh, f'there is no file {name}')


@pytest.mark.parametrize(
  ('place', 'value', 'match'),
  [
    ('format', 'masm_jax detector 2', 'format: Input should be'),
    ('extra', 1, 'extra: Extra inputs are not permitted'),
    ('origin.extra', 1, 'origin.extra: Extra inputs'),
    ('weights.path', '/etc/passwd', 'weights.path: Extra inputs'),
    ('weights.file', '../../secret', 'weights.file: Extra inputs'),
    ('weights.sha256', 'A' * 64, 'weights.sha256: String should match'),
    ('weights.kind', 'pickle', 'weights.kind: Input should be'),
    ('weights.kind', 'adapter', "unknown backbone 'tiny'"),
    ('weights.bytes', -1, 'weights.bytes: Input should be greater'),
    ('weights.bytes', 1e3, 'weights.bytes: Input should be a valid integer'),
    ('weights.bytes', 10**400, 'weights.bytes: '),
    ('name', '', 'name: String should have at least 1'),
    ('name', 'a\nb', 'name: String should match'),
    ('name', '\x1b[2J', 'name: String should match'),
    ('name', 'x' * 300, 'name: String should have at most 200'),
    ('licence_note', 'two\nlines', 'licence_note: String should match'),
    ('method', '../masm', 'method: String should match'),
    ('head.normalize_features', 1, 'head.normalize_features: Input should be a valid boolean'),
    ('head', None, 'head: Input should be'),
    ('crops', [{'template': 'gend', 'margin': 1e400, 'size_px': 0}], 'crops.0.margin: '),
    ('crops', [{'template': '../gend', 'margin': 1, 'size_px': 0}], 'crops.0.template: '),
    ('crops', [{'template': 'gend', 'margin': 1, 'size_px': 10**9}], 'crops.0.size_px: '),
    ('validation.thresholds.frame.eer', 'nan', 'thresholds.frame.eer: Input should be a valid num'),
    ('validation.thresholds.frame.eer', 7, 'thresholds.frame.eer: Input should be less'),
    ('validation.thresholds.frame.best', 0.5, 'thresholds.frame.best.*: Input should be'),
    ('validation.calibration.temperature', 0, 'temperature: Input should be greater'),
    ('validation.features.threshold', -1, 'features.threshold: Input should be greater'),
    ('origin.step', True, 'origin.step: Input should be a valid integer'),
    ('origin.seed', 2**63, 'origin.seed: Input should be less'),
    ('config', [], 'config: Input should be'),
    ('backbone.family', 'os.system', "backbone.family 'os.system' is none of"),
    ('backbone.family', '__class__', "backbone.family '__class__' is none of"),
    ('backbone.dtype', 'float64', 'backbone.dtype: Input should be'),
    ('backbone.architecture', {}, 'backbone.architecture.image_size: '),
    ('backbone.architecture.extra', 1, 'architecture.extra: Unexpected keyword'),
    ('backbone.architecture.depth', 10**9, 'depth. holds 1e.09: a number from 0 to 65536'),
    ('backbone.architecture.depth', 60000, '60000 blocks and .* at most 256 and 64 are built'),
    ('backbone.architecture.depth', 256, 'does not hold the weights of the architecture'),
    ('backbone.architecture.num_registers', 65536, '2 blocks and 65537 tokens .* at most 256 and'),
    ('backbone.architecture.depth', 1, 'which is none of its arrays'),
    ('backbone.architecture.depth', 3, 'lacks backbone/block_02/'),
    ('backbone.architecture.depth', '2', 'architecture.depth: Input should be a valid integer'),
    ('backbone.architecture.depth', -1, 'depth. holds -1: a number from 0'),
    ('backbone.architecture.width', 48, r'is F32 \[.*24.*\], not F32 \[.*48.*\]'),
    ('backbone.architecture.width', 65536, 'architecture: .*not a multiple'),
    ('backbone.architecture.num_heads', 0, 'backbone.architecture: integer modulo by zero'),
    ('backbone.architecture.num_heads', 5, 'backbone.architecture: .* not a multiple of num_heads'),
    ('backbone.architecture.image_size', 4096, 'image_size. holds 4096: a number from 0 to 2048'),
    ('backbone.architecture.image_size', 2048, '2048 px is 65,536 patches, for 3 heads: take a'),
    ('backbone.architecture.image_size', 512, r'pos_embed is F32 .*, not F32 \[1, 4097, 24\]'),
    ('backbone.architecture.patch_size', 0, 'backbone.architecture: '),
    ('backbone.architecture.mlp_dim', 0, 'architecture cannot be built'),
    ('backbone.architecture.std', [0.5, 0.5], 'architecture.std.2: Field required'),
    ('backbone.architecture.std', [0.0, 0.5, 0.5], 'architecture.std holds a number below 1e-06'),
    ('backbone.architecture.mean', [1e300, 0.5, 0.5], 'mean. holds 1e.300: a number'),
    ('backbone.architecture.norm_eps', -1.0, 'norm_eps. holds -1: a number'),
    ('backbone.architecture.activation', '__import__', 'architecture.activation: Input should be'),
  ],
)  # fmt: skip
def test_a_note_that_is_not_what_it_should_be(copy, mesh, place, value, match):
  put(copy, place, value)
  refused(copy, mesh, match)


def test_nan_deep_nesting_and_great_length_in_the_note(copy, mesh):
  note = (copy / NOTE).read_text()
  for token in ('NaN', 'Infinity', '1e999'):
    (copy / NOTE).write_text(note.replace('"step": 1', f'"step": {token}'))
    refused(copy, mesh, 'origin.step: ')
    broken = note.replace('"percentile": 99.0', f'"percentile": {token}')
    (copy / NOTE).write_text(broken)
    refused(copy, mesh, 'validation.features.percentile: ')
  (copy / NOTE).write_text(note.replace('"config": {}', f'"config": {"[" * 5000}{"]" * 5000}'))
  refused(copy, mesh, 'detector file')
  (copy / NOTE).write_text(note + ' ' * 2**20)
  refused(copy, mesh, 'detector.json is larger than')
  (copy / NOTE).write_bytes(b'\x80\x04}q\x00.')  # A pickle.
  refused(copy, mesh, 'Invalid JSON|invalid')


def test_weights_of_another_type_shape_or_name_are_refused(copy, params, config, mesh):
  sound = safetensors.numpy.load_file(copy / WEIGHTS)
  for change, match in (
    ({'head/bias': np.zeros(2, np.float64)}, r'head/bias is F64 \[2\], not F32 \[2\]'),
    ({'head/bias': np.zeros(3, np.float32)}, r'head/bias is F32 \[3\], not F32 \[2\]'),
    ({'head/bias': np.array([0, np.nan], np.float32)}, 'head/bias holds values that are not fin'),
    ({'head/bias': np.array([0, np.inf], np.float32)}, 'head/bias holds values that are not fin'),
    ({'../\n\x1b': np.zeros(1, np.float32)}, r'holds ../\\n\\x1b, which is none'),
  ):
    replace(copy, WEIGHTS, sound | change)
    refused(copy, mesh, match)
  del sound['head/bias']
  replace(copy, WEIGHTS, sound)
  refused(copy, mesh, 'lacks head/bias and 0 other arrays')
  (copy / WEIGHTS).write_bytes(b'no safetensors at all')
  note_hash(copy, WEIGHTS)
  refused(copy, mesh, 'is no whole safetensors file')


def test_validation_arrays_that_are_no_scores_are_refused(copy, mesh):
  sound = safetensors.numpy.load_file(copy / VALIDATION)
  num = len(sound['frame/scores'])
  for change, match in (
    ({'frame/scores': sound['frame/scores'][::-1].copy()}, 'frame scores are no sorted scores'),
    ({'frame/scores': np.linspace(0, 2, num)}, 'frame scores are no sorted scores'),
    ({'frame/labels': np.full(num, 2, np.uint8)}, 'frame scores are no sorted scores'),
    ({'frame/labels': np.zeros(num + 1, np.uint8)}, r'frame/labels is U8 \[41\], not U8 \[40\]'),
    ({'video/scores': np.zeros((2, 2))}, r'video/scores is F64 \[2, 2\], not F64 \[2\]'),
    ({'frame/scores': np.zeros(2**17 + 1)}, 'more than 131072 scores'),
    ({'frame/scores': np.array(0.5)}, r'frame/scores is F64 \[\], not F64 \[0\]'),
    ({'features/means': np.zeros((2, 25), np.float32)}, r'not F32 \[2, 24\]'),
    ({'features/whitening': np.full((24, 24), np.inf, np.float32)}, 'are not finite'),
    ({'more': np.zeros(1)}, 'holds more, which is none of its arrays'),
  ):
    replace(copy, VALIDATION, sound | change)
    refused(copy, mesh, match)


def test_step_and_base_weights_are_of_runs(sound, mesh):
  for words, match in (({'step': '7'}, 'holds one checkpoint'), ({'weights': 'a'}, 'no base')):
    with pytest.raises(UserError, match=match):
      detector_file.load_detector(sound, mesh, **words)
