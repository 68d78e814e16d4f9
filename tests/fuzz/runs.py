"""Borders of runs: command lines, stored configs, checkpoints."""

import contextlib
import json
import os
import pathlib
import shutil
from typing import Any

import jax
import ml_collections
import numpy as np
from hypothesis import strategies as st

from configs import demo
from masm_jax import cli, files, plain_files, tree
from masm_jax import config as config_lib
from masm_jax.checkpoints import positions, reading, saving
from masm_jax.data.manifest import load_manifest
from masm_jax.errors import UserError, storage_text
from masm_jax.inference import stored
from masm_jax.training.state import TrainState
from tests.fuzz.border import Border, Case
from tests.fuzz.mutations import TEXTS, spoilt_bytes, spoilt_json
from tests.positions import Positions

# --- Command lines --------------------------------------------------------------------------------

_VALUES = (
  *(text for text in TEXTS if '\0' not in text),  # No argument of a program holds one.
  *('7' * 400, '1e23 steps', '1e400', '0x10', '1_000', '٣', '1 steps', '1e9 epochs', '-1 epochs'),
  *('99999999999999999999 steps', '()', '(1,2)', "('a',)", '[1,2]', '{}', 'None', '2**99'),
  *('1000000', 'a' * 5000, '/tmp/' + 'a' * 300, '/'.join(['b'] * 2500), '/etc/passwd/x', '\x7f'),
)  # fmt: skip
# How the name of a field may be misspelt; # is the name.
_NAMES = (
  *('#',) * 8, '#[0]', '#.x', '#.', '.#', '#[x', '#]', "#['a']", '#[0].b', '#[-1]', '#[9999999999]',
  '__class__', '#.__class__', 'data', 'data.tests', 'data.tests.x', 'data.tests.x.manifest',
  'data.tests.class.manifest', 'data.tests.a b.manifest', "data.tests.'.manifest", 'x', '', '# ',
  'data.tests..manifest', 'data.tests.known.x', 'data.tests.[.manifest', '#=#', 'ä', '\udcff',
)  # fmt: skip


def _flags(folder: pathlib.Path) -> dict[str, list[str]]:
  del folder
  config = cli.read_config('config', ['--config=demo:method=masm'], sets='data.tests')
  suite = cli.read_config('suite', ['--suite=cross_eval:protocol=run'], sets='sets')
  return {
    'config': sorted(config_lib.flatten(config)),
    'suite': sorted(config_lib.flatten(suite)),
  }


@st.composite
def _command_lines(draw: st.DrawFn, fields: dict[str, list[str]]) -> Case:
  name = draw(st.sampled_from(('config', 'config', 'config', 'suite')))
  files_ = {'config': 'demo:method=masm', 'suite': 'cross_eval:protocol=run'}
  first = f'--{name}={files_[name]}'
  if draw(st.integers(0, 15)) == 0:
    first = f'--{name}={draw(st.sampled_from(_VALUES))}'
  elif draw(st.integers(0, 15)) == 0:
    first += f',{draw(st.sampled_from(("method", "x", "")))}={draw(st.sampled_from(_VALUES))}'
  words = [first]
  for _ in range(draw(st.integers(1, 3))):
    field = draw(st.sampled_from(fields[name]))
    place = draw(st.sampled_from(_NAMES)).replace('#', field)
    value = draw(st.sampled_from(_VALUES))
    words.append(draw(st.sampled_from((f'--{name}.{place}={value}',) * 9 + (f'--{name}.{place}',))))
  content = '\0'.join([name, *words]).encode('utf-8', 'surrogatepass')
  return {'words': content}


def _start(fields: dict[str, list[str]], folder: pathlib.Path) -> str:
  """What the commands do with a config before they read anything: status 2, or a whole config."""
  text = plain_files.read_bytes(folder / 'words').decode('utf-8', 'surrogatepass')
  name, *words = text.split('\0')
  sets = 'data.tests' if name == 'config' else 'sets'
  config = cli.read_config(name, words, sets=sets)
  if name == 'suite':
    config_lib.validate_suite(config)
    return 'taken'
  config_lib.validate(config)
  config_lib.fingerprint(config)
  json.dumps(files.to_json(config.to_dict()), allow_nan=False)
  for field in ('train.duration', 'optim.warmup', 'eval.every', 'checkpoint.every'):
    steps = config_lib.duration_steps(
      str(config_lib.flatten(config)[field]), batch_size=config.train.batch_size, num_examples=1000
    )
    assert 0 <= steps <= 2**63
  try:
    load_manifest(config.data.train.manifest, config.data.train.root, check_files=False)
  except UserError:
    return 'taken, without its manifest'
  except OSError as error:
    assert storage_text(error), error
  return 'taken'


COMMAND_LINES = Border('command_lines', _flags, _command_lines, _start, 150)

# --- Stored configs -------------------------------------------------------------------------------


def _config(folder: pathlib.Path) -> dict[str, Any]:
  del folder
  config = demo.get_config('method=masm')
  for spec in (config.data.train, config.data.val, *config.data.tests.values()):
    spec.manifest = 'm.csv'
  return json.loads(config.to_json())


def _configs(document: dict[str, Any]) -> st.SearchStrategy[Case]:
  return st.builds(lambda content: {'config.json': content}, spoilt_json(document))


def _read_config(document: dict[str, Any], folder: pathlib.Path) -> str:
  content = files.read_json(folder / 'config.json')
  config = stored.read_config(content, folder)
  config_lib.differences(content, config)
  config_lib.inputs(config)
  json.dumps(files.to_json(config.to_dict()))
  assert config.data.synthetic.root == ''
  return 'read'


CONFIGS = Border('configs', _config, _configs, _read_config, 200)

# --- Checkpoints ----------------------------------------------------------------------------------


def _state(step: int) -> TrainState:
  leaves = {'head': {'kernel': np.full((4, 2), step, np.float32)}}
  return TrainState(
    step=np.int32(step), trainable=leaves, opt_state=(), mask=None, grad_stats=None, metrics=(),
    nonfinite_step=np.int32(0),
  )  # fmt: skip


def _saved(folder: pathlib.Path) -> dict[str, Any]:
  """A run of two checkpoints."""
  config = ml_collections.ConfigDict(_config(folder)).lock()
  checkpoints = saving.Checkpoints(
    folder / 'run', config=config, base_hash='a', manifest_hash='b', val_hash='c'
  )
  for step in (1, 2):
    state = jax.tree.map(jax.numpy.asarray, _state(step))
    checkpoints.save(state, Positions({'next_step': step, 'undecodable': []}), saving.Best(1, 0.5))
  checkpoints.close()
  contents = {}
  for step in ('00000001', '00000002'):
    root = folder / 'run' / 'checkpoints' / step
    names = sorted(str(path.relative_to(root)) for path in root.rglob('*') if path.is_file())
    contents[step] = {name: (root / name).read_bytes() for name in names}
  return {'run': folder / 'run', 'others': contents['00000001'], 'contents': contents['00000002']}


@st.composite
def _checkpoints(draw: st.DrawFn, state: dict[str, Any]) -> Case:
  if draw(st.integers(0, 7)) == 0:  # Sound parts, of another checkpoint.
    part = draw(st.sampled_from(('data', 'meta', 'state', '')))
    return {name: content for name, content in state['others'].items() if name.startswith(part)}
  contents = state['contents']
  meta = 'meta/metadata'
  name = draw(st.sampled_from((meta, meta, *sorted(contents))))
  content = contents[name]
  try:
    document = json.loads(content)
  except ValueError:
    document = None
  if document is None or draw(st.integers(0, 3)) == 0:
    return {name: draw(spoilt_bytes([content]))}
  spoilt = draw(spoilt_json(document))
  if name == meta and draw(st.booleans()):  # A stranger seals it again.
    with contextlib.suppress(ValueError, RecursionError, TypeError, AttributeError):
      spoilt = json.dumps(files.seal(json.loads(spoilt))).encode()
  return {name: spoilt}


def _restore(state: dict[str, Any], folder: pathlib.Path) -> str:
  names = [path for path in folder.rglob('*') if path.is_file()]
  pipes = [path for path in folder.rglob('*') if path.is_fifo()]
  shutil.copytree(state['run'], folder / 'run')
  step = folder / 'run' / 'checkpoints' / '00000002'
  for path in names:
    shutil.copyfile(path, step / path.relative_to(folder))
  for path in pipes:
    (step / path.relative_to(folder)).unlink(missing_ok=True)
    os.mkfifo(step / path.relative_to(folder))
  saved = reading.SavedRun(folder / 'run')
  target = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
    ),
    _state(2).trainable,
  )
  number, found, trainable = saved.chosen('last', target)
  meta = stored.parse_meta(found, folder, number)
  stored.read_config(meta.config, folder)
  value = float(tree.flatten(jax.device_get(trainable))['head/kernel'].mean())
  assert value == number, 'another state'
  try:
    position = positions.read(step / 'data', number, found)
  except (ValueError, OSError, TypeError, KeyError):
    return 'no positions'
  assert position['next_step'] == number, 'positions of another'
  return 'read'


CHECKPOINTS = Border('checkpoints', _saved, _checkpoints, _restore, 40)
