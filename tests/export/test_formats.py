"""Each export is loaded by its own consumer, and computes what JAX does."""

import dataclasses
import json
import os

import jax
import jax.export
import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import transformers

import masm_jax
from masm_jax import backbones, files, tree
from masm_jax.backbones import presets
from masm_jax.convert.__main__ import main as convert
from masm_jax.convert.adapter import probe_images
from masm_jax.export import FORMATS, common
from masm_jax.export.__main__ import main
from masm_jax.export.request import Request
from masm_jax.inference import detector_file, detector_schema


def _export(source, export_format, out, *words):
  command = ['--run', str(source), '--format', export_format, '--out', str(out), *words]
  assert main(command) == 0
  if not out.is_dir():
    return None
  if export_format != 'detector':
    assert {path.name for path in out.iterdir()} - {common.NOTE} <= {*common._FILES}
  return json.loads((out / 'export.json').read_text())


@pytest.fixture
def make_detector(monkeypatch, tmp_path):
  """A function that writes the detector file of a small preset with random weights."""

  # jax2onnx fails at functions that jax has traced for two layers and uses for a third.
  def make(name, normalize=False, published_size=None):
    preset = backbones.get_preset(name)
    config = dataclasses.replace(
      preset.config, image_size=32, width=64, depth=3, num_heads=2, mlp_dim=256, patch_size=8
    )
    small = dataclasses.replace(preset, config=config, published_size=published_size)
    monkeypatch.setitem(presets.PRESETS, name, small)
    rng = np.random.default_rng(0)
    shapes = backbones.param_shapes(config)
    flat = {
      path: rng.normal(size=shape).astype(np.float32) * (0.1 if len(shape) == 2 else 0.3)
      for path, shape in shapes.items()
    }
    if published_size:  # The positions are those of a published file, resampled.
      size = 1 + (published_size // 8) ** 2
      base = flat | {'pos_embed': rng.normal(size=(1, size, 64)).astype(np.float32)}
      exported = backbones.export_weights(
        tree.unflatten(base), small.with_image_size(published_size)
      )
      common.save(tmp_path / 'base.safetensors', exported)
      loaded = backbones.load_weights(tmp_path / 'base.safetensors', small)
      flat['pos_embed'] = loaded['pos_embed']
    head = {'kernel': rng.normal(size=(64, 2)).astype(np.float32), 'bias': np.zeros(2, np.float32)}
    family, fields = detector_schema.describe(config)
    detector_file.write_detector_file(
      tmp_path / 'detector',
      params={'backbone': tree.unflatten(flat), 'head': head},
      validation=None,
      name='random',
      licence_note='',
      code=detector_schema.Code(version='0', commit=None),
      method='full',
      backbone=detector_schema.Backbone(
        preset=name, family=family, architecture=files.to_json(fields), dtype='float32'
      ),
      head=detector_schema.Head(normalize_features=normalize),
      crops=(),
      training=detector_schema.Training(sets=(), forgeries=(), videos=None, frames=None),
      origin=detector_schema.Origin(
        seed=0, checkpoint='last', step=0, best_step=None, last_step=0, selected_by='loss',
        config_sha256='', base_weights='none', trained_weights='0' * 64, trainable_parameters=0,
        train_manifest='', val_manifest='',
      ),
      config={},
    )  # fmt: skip
    return tmp_path / 'detector'

  return make


def _log_odds(folder):
  scores = masm_jax.load(folder, batch_size=3).score(probe_images(32))
  return np.log(scores) - np.log1p(-scores)


def _torch_pixels(note):
  pixels = probe_images(32) / 255.0
  pixels = (pixels - note['input']['mean']) / note['input']['std']
  return torch.from_numpy(pixels.astype(np.float32).transpose(0, 3, 1, 2).copy())


def test_stablehlo_runs_for_any_batch(make_detector, tmp_path):
  detector = make_detector('pe_core_b16')
  note = _export(detector, 'stablehlo', tmp_path / 'out')
  assert note['difference']['logits'] < 1e-5 and note['platforms'] == ['cpu', 'cuda', 'tpu']
  program = jax.export.deserialize(bytearray((tmp_path / 'out' / 'model.stablehlo').read_bytes()))
  weights = safetensors.numpy.load_file(tmp_path / 'out' / 'weights.safetensors')
  expected = _log_odds(detector)
  for count in (1, 3):
    logits = np.asarray(program.call(weights, probe_images(32)[:count]))
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected[:count], atol=1e-4)
  # The weights are arguments.
  assert (tmp_path / 'out' / 'model.stablehlo').stat().st_size < 100_000


@pytest.mark.parametrize('name', ['dinov3_b16', 'clip_l14'])
def test_onnx_runs_for_any_batch(name, make_detector, tmp_path):
  pytest.importorskip('jax2onnx')
  detector = make_detector(name)
  out = tmp_path / os.fsdecode(b'out\xff')  # As a path of onnxruntime it would be refused.
  note = _export(detector, 'onnx', out, '--name', 'mine')
  assert note['difference']['logits'] < 1e-4 and note['name'] == 'mine'
  assert 'onnxruntime' in note['difference']['between']
  session = onnxruntime.InferenceSession((out / 'model.onnx').read_bytes())
  expected = _log_odds(detector)
  for count in (1, 3):
    (logits,) = session.run(['logits'], {'images': probe_images(32)[:count]})
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected[:count], atol=1e-4)


@pytest.mark.parametrize('name', ['clip_l14', 'dinov2_reg_s14', 'siglip_b16'])
def test_transformers_loads_the_backbone(name, make_detector, tmp_path):
  detector = make_detector(name, normalize=name == 'clip_l14')
  note = _export(detector, 'huggingface', tmp_path / 'out')
  assert note['difference']['logits'] < 1e-4
  assert note['difference']['between'].startswith('transformers ')
  cls = getattr(transformers, note['class'])
  model, info = cls.from_pretrained(tmp_path / 'out', output_loading_info=True)
  assert not {key: value for key, value in info.items() if value and 'mask_token' not in str(value)}
  head = safetensors.torch.load_file(tmp_path / 'out' / 'head.safetensors')
  with torch.no_grad():
    features = model.eval()(_torch_pixels(note)).pooler_output
    if note['normalize_features']:
      features = torch.nn.functional.normalize(features)
    logits = features @ head['weight'].T + head['bias']
  np.testing.assert_allclose(logits[:, 1] - logits[:, 0], _log_odds(detector), atol=1e-4)


def test_without_transformers_the_file_is_read_back(make_detector, tmp_path, monkeypatch):
  from masm_jax.export import huggingface

  monkeypatch.setattr(huggingface.importlib.util, 'find_spec', lambda name: None)
  note = _export(make_detector('dinov3_b16'), 'huggingface', tmp_path / 'out')
  assert note['difference'] == {'logits': 0.0, 'between': 'the file read back and JAX'}


class _GenD(torch.nn.Module):
  """GenD's class as far as its names and its arithmetic go, on CLIP."""

  def __init__(self, sizes, normalize):
    super().__init__()
    self.feature_extractor = torch.nn.Module()
    vision = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes))
    self.feature_extractor.vision_model = vision
    self.model = torch.nn.Module()
    self.model.linear = torch.nn.Linear(64, 2)
    self.normalize = normalize

  def forward(self, pixels):
    features = self.feature_extractor.vision_model(pixels).pooler_output
    if self.normalize:
      features = torch.nn.functional.normalize(features, p=2, dim=1)
    return self.model.linear(features)


def test_the_layout_of_gend(make_detector, tmp_path):
  detector = make_detector('clip_l14', normalize=True)
  note = _export(detector, 'gend', tmp_path / 'out')
  assert note['difference']['logits'] == 0
  config = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert config['backbone'] == 'openai/clip-vit-large-patch14' and config['head'] == 'LinearNorm'
  sizes = {
    'hidden_size': 64, 'intermediate_size': 256, 'num_hidden_layers': 3, 'num_attention_heads': 2,
    'image_size': 32, 'patch_size': 8,
  }  # fmt: skip
  theirs = _GenD(sizes, normalize=True).eval()
  theirs.load_state_dict(safetensors.torch.load_file(tmp_path / 'out' / 'model.safetensors'))
  with torch.no_grad():
    logits = theirs(_torch_pixels(note))
  np.testing.assert_allclose(logits[:, 1] - logits[:, 0], _log_odds(detector), atol=1e-4)


def test_gend_gets_the_positions_of_the_base(make_detector, tmp_path, capsys):
  detector = make_detector('pe_core_b16', published_size=48)
  words = ['--run', str(detector), '--format', 'gend', '--out', str(tmp_path / 'out')]
  assert main(words) == 2
  assert 'for 48 px, which are in its base weights: give' in capsys.readouterr().err
  base = tmp_path / 'base.safetensors'
  note = _export(detector, 'gend', tmp_path / 'out', '--base-weights', str(base))
  assert note['difference']['logits'] == 0
  written = safetensors.numpy.load_file(tmp_path / 'out' / 'model.safetensors')
  published = safetensors.numpy.load_file(base)['pos_embed']
  np.testing.assert_array_equal(written['feature_extractor.backbone.pos_embed'], published)
  common.save(base, safetensors.numpy.load_file(base) | {'pos_embed': published + 1})
  assert main([*words, '--base-weights', str(base)]) == 2
  assert 'pos_embed was trained at 32 px, or' in capsys.readouterr().err


def test_what_a_format_has_no_form_for_is_refused(make_detector, tmp_path, capsys):
  detector = make_detector('siglip_b16')
  words = ['--run', str(detector), '--out', str(tmp_path / 'out')]
  assert main([*words, '--format', 'gend']) == 2
  assert 'GenD has no backbone of the form of siglip_b16' in capsys.readouterr().err
  assert main([*words, '--format', 'adapter']) == 2
  assert 'is a detector file, whose parts are merged: give a run' in capsys.readouterr().err
  strange = ['--out', str(tmp_path / os.fsdecode(b'out\xff')), '--format', 'huggingface']
  assert main([*words, *strange]) == 2
  assert 'is not UTF-8' in capsys.readouterr().err
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'holiday.jpg').write_bytes(b'')
  assert main([*words, '--format', 'stablehlo']) == 2
  assert 'holds other files' in capsys.readouterr().err


@pytest.mark.parametrize('export_format', FORMATS)
def test_what_is_read_is_not_written_over(export_format, tmp_path, monkeypatch, capsys):
  """Refused before anything is loaded: the run is a folder of any files."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'run').mkdir()
  for name in ('run/run.json', 'base', 'benchmark.json'):
    (tmp_path / name).write_text(name)
  words = ['--run', 'run', '--format', export_format, '--base-weights', 'base']
  for out, also in (('run', []), ('base', []), ('./x', ['--benchmark', 'benchmark.json'])):
    if also:
      (tmp_path / 'x').symlink_to('benchmark.json')
    assert main([*words, '--out', out, *also]) == 2
    assert f'error: {out.removeprefix("./")} would be written over' in capsys.readouterr().err
  assert convert(['base', '--from', 'effort', '--out', '.']) == 2
  assert 'error: . would be written over base, which is read' in capsys.readouterr().err
  assert (tmp_path / 'base').read_text() == 'base'


def test_an_export_leaves_no_file_of_another_format(tmp_path, monkeypatch):
  note = {'name': 'a', 'method': 'm', 'backbone': 'b', 'difference': {'logits': 0, 'between': ''}}
  monkeypatch.setattr(common, 'describe', lambda *_: note)
  request = Request(run=tmp_path, out=tmp_path / 'out')
  for names in (('model.stablehlo', 'weights.safetensors'), ('model.onnx',)):
    with common.folder(request, None, 'any') as (fresh, _):
      for name in names:
        (fresh / name).touch()
    assert {path.name for path in request.out.iterdir()} == {*names, common.NOTE}


def test_every_format_is_tested():
  assert set(FORMATS) == {'detector', 'huggingface', 'gend', 'adapter', 'stablehlo', 'onnx'}
