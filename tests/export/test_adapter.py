"""An adapter: what a run trained, and the base weights that it fits."""

import json

import jax
import jax.export
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch

import masm_jax
from configs import demo, ffpp
from masm_jax import backbones, files, tree
from masm_jax import detector as detector_lib
from masm_jax.convert.__main__ import main as convert
from masm_jax.convert.adapter import probe_images, probe_logits
from masm_jax.errors import UserError
from masm_jax.export import adapter as export_adapter
from masm_jax.export import common
from masm_jax.export.__main__ import main
from masm_jax.export.request import Request
from masm_jax.inference import trained
from masm_jax.methods import chosen_layers, make_method


def test_an_adapter_replaces_an_adapter_alone(trained_run, tmp_path, monkeypatch):
  """The base weights need not be named on the command line."""
  out = tmp_path / 'weights.safetensors'
  common.save(out, {'a': np.zeros(3, np.float32)})
  weights = out.read_bytes()
  with pytest.raises(UserError, match='is there and is no adapter'):
    export_adapter.write(Request(run=trained_run, out=out))
  assert out.read_bytes() == weights
  common.save(out, {'a': np.zeros(3, np.float32)}, masm_jax='an older adapter')
  older = out.read_bytes()

  def differ(*_):
    raise UserError('the export computes other logits')

  monkeypatch.setattr(common, 'difference', differ)
  with pytest.raises(UserError, match='other logits'):
    export_adapter.write(Request(run=trained_run, out=out))
  assert out.read_bytes() == older and [path.name for path in tmp_path.iterdir()] == [out.name]


def test_an_adapter_fits_its_base_weights_alone(trained_run, tmp_path, capsys):
  out = tmp_path / 'probe.adapter'
  assert main(['--run', str(trained_run), '--format', 'adapter', '--out', str(out)]) == 0
  assert '0.0e+00 in logits' in capsys.readouterr().out
  leaves = safetensors.numpy.load_file(out)
  assert set(leaves) == {'head/kernel', 'head/bias'}
  words = [str(out), '--from', 'adapter', '--out', str(tmp_path / 'whole')]
  assert convert(words) == 0
  own, whole = masm_jax.load(trained_run), masm_jax.load(tmp_path / 'whole')
  images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
  np.testing.assert_allclose(whole.score(images), own.score(images), atol=1e-6)
  same = ('method', 'step', 'base_weights', 'trained_weights', 'train_manifest', 'seed')
  assert {name: whole.facts[name] for name in same} == {name: own.facts[name] for name in same}

  # Other base weights of the same shapes.
  preset = backbones.get_preset('demo_vit')
  shipped = backbones.load_weights('masm_jax/assets/demo_vit.safetensors', preset)
  shipped['ln_post']['bias'] = shipped['ln_post']['bias'] + 1
  other = tmp_path / 'other.safetensors'
  common.save(other, backbones.export_weights(shipped, preset))
  assert convert([*words, '--base-weights', str(other)]) == 2
  message = capsys.readouterr().err
  assert own.facts['base_weights'] in message and backbones.weights_hash(other) in message


@pytest.fixture
def fmsd_adapter(tmp_path, monkeypatch):
  """The adapter of a run of FMSD that has learned something, and its merged detector."""
  config = demo.get_config('method=fmsd')
  preset, detector = detector_lib.from_config(config)
  params, base = detector_lib.load_params(preset, '', detector, jax.random.key(config.seed))
  method = chosen_layers.assume_deepest(make_method(config), params, config)
  initial, frozen, _ = method.init(params, jax.random.key(config.seed))
  trainable = jax.tree.map(lambda leaf: np.asarray(leaf) * 1.1 + 0.01, initial)
  facts = {
    'method': 'fmsd', 'backbone': 'demo_vit', 'base_weights': base, 'seed': 0, 'checkpoint': 'best',
    'step': 3, 'best_step': 3, 'last_step': 4, 'selected_by': 'auroc', 'config_sha256': '',
    'trained_weights': '0' * 64, 'trainable_parameters': tree.param_count(trainable),
    'train_manifest': '', 'val_manifest': '',
  }  # fmt: skip
  run = trained.AdaptedRun(config, detector, method, initial, trainable, frozen, facts, ())
  monkeypatch.setattr(trained, 'load_adapted', lambda *args, **kwargs: run)
  export_adapter.write(Request(run=tmp_path / 'run', out=tmp_path / 'fmsd.adapter'))
  return tmp_path / 'fmsd.adapter', detector, method.merge(trainable, frozen)


def test_an_adapter_is_put_together_again_or_refused(fmsd_adapter, tmp_path, capsys):
  """Decomposition, chosen layers and all."""
  path, detector, merged = fmsd_adapter
  words = [str(path), '--from', 'adapter', '--out', str(tmp_path / 'whole')]
  assert convert(words) == 0
  scores = masm_jax.load(tmp_path / 'whole').score(probe_images(64))
  logits = probe_logits(detector, merged)
  np.testing.assert_allclose(
    np.log(scores) - np.log1p(-scores), logits[:, 1] - logits[:, 0], atol=1e-4
  )
  capsys.readouterr()

  leaves = safetensors.numpy.load_file(path)
  with safetensors.safe_open(path, framework='numpy') as file:
    metadata = file.metadata()
  assert json.loads(metadata['masm_jax'])['difference']['logits'] < 1e-4
  fewer = {name: leaf for name, leaf in leaves.items() if name != 'head/bias'}
  moved = leaves | {'head/bias': leaves['head/bias'] + np.float32([0, 1])}
  for arrays, note, message in (
    (fewer, metadata, '1 arrays differ, the first is head/bias'),
    (moved, metadata, 'computes other logits than when it was exported'),
    (leaves, {}, 'is no adapter file of this version'),
  ):
    common.save(path, arrays, **note)
    assert convert(words) == 2
    assert message in capsys.readouterr().err
  path.write_bytes(b'x')
  assert convert(words) == 2
  assert 'is a truncated or damaged safetensors file' in capsys.readouterr().err


def test_the_adapter_of_effort_is_small(tmp_path):
  """On ViT-L/14, by the shapes of what it trains."""
  config = ffpp.get_config('method=effort')
  detector = detector_lib.DetectorConfig(backbones.get_preset('clip_l14').config)
  shapes = jax.eval_shape(lambda: detector_lib.init_params(detector, jax.random.key(0)))
  trainable, *_ = jax.eval_shape(make_method(config).init, shapes, jax.random.key(0))
  leaves = {path: np.zeros(x.shape, np.float32) for path, x in tree.flatten(trainable).items()}
  note = json.dumps({'config': files.to_json(config.to_dict()), 'logits': [[0.123456789] * 2] * 3})
  common.save(tmp_path / 'effort.adapter', leaves, masm_jax=note)
  assert 790_000 < (tmp_path / 'effort.adapter').stat().st_size < 1_000_000
