"""Borders of arrays: weights, factor caches, detector folders, adapters."""

import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import serialization
from hypothesis import strategies as st

from configs import demo
from masm_jax import backbones, tree
from masm_jax import detector as detector_lib
from masm_jax.convert import adapter, formats
from masm_jax.inference import changes, detector_file, feature_statistics, validation
from masm_jax.parallel import sharding
from masm_jax.subspaces import factor_cache
from tests.fuzz.border import Border, Case
from tests.fuzz.mutations import spoilt_bytes, spoilt_json
from tests.inference import detector_files_made as made

Files = dict[str, bytes]


@st.composite
def spoilt_arrays(draw: st.DrawFn, content: bytes) -> bytes:
  """A safetensors file with another header, or other bytes, or values that are not finite."""
  size = int.from_bytes(content[:8], 'little')
  header, data = content[8 : 8 + size], content[8 + size :]
  kind = draw(st.sampled_from(('bytes', 'header', 'header', 'numbers', 'value', 'cut')))
  if kind == 'bytes':
    return draw(spoilt_bytes([content]))
  if kind == 'cut':
    return content[: draw(st.integers(0, len(content)))]
  if kind == 'value':
    place = draw(st.integers(0, max(0, len(data) // 4 - 1))) * 4
    value = draw(st.sampled_from((np.nan, np.inf, -np.inf, 1e38, 0.0)))
    return content[:8] + header + data[:place] + np.float32(value).tobytes() + data[place + 4 :]
  changed = draw(spoilt_json(json.loads(header))) if kind == 'header' else header
  if kind == 'numbers':  # Other types, shapes and places, which may well go together.
    entries = json.loads(header)
    name = draw(st.sampled_from(sorted(entries)))
    other = draw(st.sampled_from(sorted(entries)))
    entries[name] = draw(
      st.sampled_from((
        entries[other], {**entries[name], 'dtype': draw(st.sampled_from(_TYPES))},
        {**entries[name], 'shape': draw(st.sampled_from(_SHAPES))},
        # As many bytes, in numbers of one byte.
        {**entries[name], 'dtype': draw(st.sampled_from(('F8_E4M3', 'F8_E5M2', 'U8'))),
         'shape': [4, *entries[name].get('shape', [])]},
      ))
    )  # fmt: skip
    changed = json.dumps(entries).encode()
  return len(changed).to_bytes(8, 'little') + changed + data


_TYPES = ('F64', 'F32', 'F16', 'BF16', 'I8', 'U8', 'BOOL', 'F8_E4M3', 'I64', 'X')
_SHAPES = ([], [0], [1], [2**40], [2**31, 2**33], [-1], [1] * 40, [0, 2**63], [1.5])


# --- Weights --------------------------------------------------------------------------------------


def _published(folder: pathlib.Path) -> dict[str, Any]:
  """A small preset and its file, in the three forms, and the file of another program."""
  preset = backbones.get_preset('demo_vit')
  path = pathlib.Path(detector_lib.__file__).parent / 'assets' / 'demo_vit.safetensors'
  arrays = safetensors.numpy.load_file(path)
  np.savez(folder / 'a.npz', **arrays)
  state = {f'backbone.{name}': value for name, value in arrays.items()}
  state |= {'head.weight': np.ones((2, 192), np.float32), 'head.bias': np.ones(2, np.float32)}
  return {
    'preset': preset,
    'a.safetensors': path.read_bytes(),
    'a.npz': (folder / 'a.npz').read_bytes(),
    'a.msgpack': serialization.msgpack_serialize(dict(arrays)),
    'b.safetensors': safetensors.numpy.save(state),
  }


def _weights(state: dict[str, Any]) -> st.SearchStrategy[Case]:
  named = lambda name: lambda content: {name: content}
  return st.one_of(
    st.builds(named('a.safetensors'), spoilt_arrays(state['a.safetensors'])),
    st.builds(named('a.safetensors'), spoilt_arrays(state['a.safetensors'])),
    st.builds(named('a.npz'), spoilt_bytes([state['a.npz']])),
    st.builds(named('a.msgpack'), spoilt_bytes([state['a.msgpack']])),
    st.builds(named('b.safetensors'), spoilt_arrays(state['b.safetensors'])),
  )


def _load_weights(state: dict[str, Any], folder: pathlib.Path) -> str:
  (path,) = folder.iterdir()
  if path.name == 'b.safetensors':
    return 'converted' if formats.deepfakebench(path) else ''
  params = backbones.load_weights(path, state['preset'])
  for name, leaf in tree.flatten(params).items():
    assert leaf.dtype == np.float32 and np.isfinite(leaf).all(), name
  return 'loaded'


WEIGHTS = Border('weights', _published, _weights, _load_weights, 60)

# --- Factor caches --------------------------------------------------------------------------------


def _cached(folder: pathlib.Path) -> dict[str, Any]:
  rng = np.random.default_rng(0)
  kernels = {f'b{i}/q': rng.normal(size=(6, 5)).astype(np.float32) for i in range(2)}
  factors = {
    path: {'U': kernel[:, :3].copy(), 's': kernel[0, :3].copy(), 'V': kernel[:3].copy()}
    for path, kernel in kernels.items()
  }
  shapes = {path: {n: leaf.shape for n, leaf in leaves.items()} for path, leaves in factors.items()}
  state = {'kernels': kernels, 'factors': factors, 'shapes': shapes}
  _cache(state, folder).write(factors)
  (path,) = folder.iterdir()
  return state | {'name': path.name, 'content': path.read_bytes()}


def _cache(state: dict[str, Any], folder: pathlib.Path) -> factor_cache.FactorCache:
  kernels = {path: jax.numpy.asarray(kernel) for path, kernel in state['kernels'].items()}
  return factor_cache.FactorCache(str(folder), kernels, fields=(3,), shapes=state['shapes'])


def _caches(state: dict[str, Any]) -> st.SearchStrategy[Case]:
  return st.builds(lambda content: {state['name']: content}, spoilt_arrays(state['content']))


def _read_cache(state: dict[str, Any], folder: pathlib.Path) -> str:
  found = _cache(state, folder).read()
  if found is None:
    return 'refused'
  content = (folder / state['name']).read_bytes()
  has_digest = b'"digest":"' in content.replace(b'": "', b'":"')
  for path, leaves in state['factors'].items():
    for name, leaf in leaves.items():
      assert np.isfinite(found[path][name]).all() and found[path][name].shape == leaf.shape
      assert not has_digest or np.array_equal(found[path][name], leaf), 'other factors'
  return 'read'


CACHES = Border('caches', _cached, _caches, _read_cache, 300)

# --- Detector folders -----------------------------------------------------------------------------


def _detector(folder: pathlib.Path) -> Files:
  backbone = backbones.ViTConfig(
    image_size=16, patch_size=8, width=24, depth=2, num_heads=3, mlp_dim=48, activation='gelu',
    pre_norm=True, patch_bias=True, norm_eps=1e-6, mean=(0.5,) * 3, std=(0.5,) * 3,
  )  # fmt: skip
  config = detector_lib.DetectorConfig(backbone, normalize_features=True)
  params = jax.device_get(detector_lib.init_params(config, jax.random.key(0)))
  table = made.score_table()
  features = np.random.default_rng(0).normal(size=(len(table), 24)).astype(np.float32)
  fitted = feature_statistics.fit(features, table['label'].to_numpy(), table['video_id'].to_numpy())
  found = validation.from_scores(table)
  found = validation.Validation(found.thresholds, found.calibration, found.scores, fitted)
  rng = np.random.default_rng(0)
  path = next(p for p, leaf in tree.flatten(params).items() if leaf.ndim == 2 and 'attn' in p)
  d_in, d_out = tree.flatten(params)[path].shape
  low_rank = changes.LowRank(
    rng.normal(size=(2, d_in, 3)).astype(np.float32),
    rng.normal(size=(2, 3, d_out)).astype(np.float32),
  )
  made.write(
    folder / 'd', params, config, found, changes=changes.Changes(params, {path: low_rank}, 2)
  )
  return {path.name: path.read_bytes() for path in (folder / 'd').iterdir()}


_BLOBS = {
  detector_file.WEIGHTS: ('weights',),
  detector_file.VALIDATION: ('validation', 'blob'),
  detector_file.CHANGES: ('explanation', 'blob'),
}


@st.composite
def _detectors(draw: st.DrawFn, sound: Files) -> Case:
  """One file is spoilt; of arrays the note mostly gives the new hash, as a stranger would."""
  name = draw(st.sampled_from((detector_file.NOTE, *sorted(sound))))
  note = json.loads(sound[detector_file.NOTE])
  del note['digest']  # As earlier versions wrote it: a stranger would write one that fits.
  if name == detector_file.NOTE and draw(st.integers(0, 3)) == 0:  # Sizes that go together.
    field = draw(st.sampled_from(('image_size', 'depth', 'num_registers', 'num_heads', 'width')))
    note['backbone']['architecture'][field] = 8 * draw(st.integers(1, 400))
    return {name: json.dumps(note).encode()}
  if name == detector_file.NOTE:
    return {name: draw(spoilt_json(note))}
  content = draw(spoilt_arrays(sound[name]))
  if draw(st.integers(0, 4)):
    place = note
    for key in _BLOBS[name]:
      place = place[key]
    place |= {'sha256': hashlib.sha256(content).hexdigest(), 'bytes': len(content)}
  return {name: content, detector_file.NOTE: json.dumps(note).encode()}


def _load_detector(sound: Files, folder: pathlib.Path) -> str:
  for name in sound.keys() - {path.name for path in folder.iterdir()}:
    (folder / name).write_bytes(sound[name])
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  run = detector_file.load_detector_file(folder, mesh)
  for name, leaf in tree.flatten(jax.device_get(run.params)).items():
    assert np.isfinite(leaf).all(), name
  if run.validation is not None:
    for found in run.validation.scores.values():
      assert ((found.scores >= 0) & (found.scores <= 1)).all()
  if run.file.explanation is not None:
    detector_file.load_changes(folder, run)
  return 'loaded'


DETECTORS = Border('detectors', _detector, _detectors, _load_detector, 20)

# --- Adapters -------------------------------------------------------------------------------------


def _adapter(folder: pathlib.Path) -> bytes:
  """A head on the weights that ship with the demonstration's backbone."""
  config = demo.get_config('method=linear')
  preset, detector_config = detector_lib.from_config(config)
  params, base_hash = detector_lib.load_params(preset, '', detector_config, jax.random.key(0))
  note = {
    'format': adapter.FORMAT, 'base_weights': base_hash, 'method': 'linear', 'backbone': 'demo_vit',
    'config': json.loads(config.to_json()),
    'origin': dict(
      seed=0, checkpoint='best', step=1, best_step=1, last_step=1, selected_by='video_auroc',
      config_sha256=made.SHA, base_weights=base_hash, trained_weights=made.SHA,
      trainable_parameters=1, train_manifest=made.SHA, val_manifest=made.SHA,
    ),
    'crops': [{'template': 'gend', 'margin': 1.3, 'size_px': 256}],
    'logits': adapter.probe_logits(detector_config, params).tolist(),
  }  # fmt: skip
  leaves = {f'head/{name}': np.asarray(leaf) for name, leaf in params['head'].items()}
  content = safetensors.numpy.save(leaves, {adapter.KEY: json.dumps(note)})
  del folder
  return content


@st.composite
def _adapters(draw: st.DrawFn, content: bytes) -> Case:
  kind = draw(st.integers(0, 3))
  if kind == 0:  # The simplest case, which is always drawn: as it was written.
    return {'a.safetensors': content}
  if kind == 1:
    return {'a.safetensors': draw(spoilt_arrays(content))}
  size = int.from_bytes(content[:8], 'little')
  header = json.loads(content[8 : 8 + size])
  note = draw(spoilt_json(json.loads(header['__metadata__'][adapter.KEY])))
  header['__metadata__'][adapter.KEY] = note.decode('utf-8', 'replace')
  text = json.dumps(header).encode()
  return {'a.safetensors': len(text).to_bytes(8, 'little') + text + content[8 + size :]}


def _read_adapter(content: bytes, folder: pathlib.Path) -> str:
  found = adapter.read(folder / 'a.safetensors', '')
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.params))
  json.dumps(found.config)
  return 'read'


ADAPTERS = Border('adapters', _adapter, _adapters, _read_adapter, 12)
