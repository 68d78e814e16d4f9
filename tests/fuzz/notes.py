"""The border of notes: JSON documents by which a command knows its own earlier work."""

import json
import pathlib
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st

from configs import demo
from masm_jax import config as config_lib
from masm_jax.data.synthetic import dataset
from masm_jax.export import detector as export_detector
from masm_jax.inference import composition, stored, trained
from masm_jax.methods import chosen_layers
from masm_jax.parallel import locks
from masm_jax.perturbations import copies
from masm_jax.prediction import facts, policy, results
from masm_jax.preprocess import run as preprocess
from masm_jax.sweep import cost, table
from masm_jax.sweep.plan import Run, Sweep
from tests.fuzz.border import Border, Case
from tests.fuzz.mutations import spoilt_json

_COPY = {'key': 'CS', 'level': 1, 'parameter': 0.4, 'seed': 0}
_CROPS = {'code_version': 2, 'template': 'gend', 'margin': 1.3, 'size_px': 256}
_IDENTITY = {'config_sha256': 'ab', 'base_weights': 'cd', 'train_manifest': 'ef'}
_DETECTOR = SimpleNamespace(
  thresholds={level: {'eer': 0.5, 'fpr=1%': 0.7} for level in ('frame', 'video')}, calibration=None
)
_SET = {'seed': 0, 'size_px': 64, 'strength': 1.0, 'num_identities': 8}


def _sound(folder: pathlib.Path) -> dict[str, Any]:
  """A document of each kind."""
  del folder
  config = demo.get_config('method=masm')
  sha, inputs = config_lib.fingerprint(config), config_lib.inputs(config)
  metrics = {'auroc': 0.5, 'ap': 0.5, 'eer': 'nan'}
  scores = dict.fromkeys(('frame', 'video'), metrics)
  scored = {'step': 1, 'sets': dict.fromkeys(('val', *inputs['data.tests']), scores)}
  difference = {'value': 0.1, 'low': 0.0, 'high': 0.2}
  counts = {'videos': 1, 'identities': None}
  found = {
    'predict.json': {'schema': 'x', 'policy': {'threshold': 0.5}},
    'preprocess.json': _CROPS,
    'perturbation.json': _COPY,
    'policy.json': {'threshold': 'fpr=1%', 'abstain': [0.4, 0.6], 'num_frames': 8},
    'run.json': {
      'config_sha256': sha, 'config': json.loads(config.to_json()), 'git': {'commit': 'a' * 40},
      'crops': [{'template': 'gend', 'margin': 1.3, 'size_px': 256}],
      'training': {'sets': ['d'], 'forgeries': ['f'], 'videos': 2, 'frames': 2, 'real': counts,
                   'fake': counts},
    },
    'results.json': {
      'config_sha256': sha, 'inputs': inputs, 'trainable_parameters': 5, 'note': 'n',
      'hashes': {'base_weights': 'ab', 'val': 'cd'}, 'best': scored, 'last': scored,
    },
    'cost.json': {
      'config_sha256': cost._fingerprint(config), 'train_step_gflop': 1.5, 'ratio': 2.0,
      'peak_temp_mb': 3.0,
    },
    'perf.jsonl': {'step': 1, 'train/images_per_second': 9.5},
    'selection.json': {
      'identity': _IDENTITY, 'names': ['a', 'b'], 'scores': [0.1, 0.2], 'chosen': [True, False],
      'agreement': 0.5,
    },
    'benchmark.json': {
      'run': {'trained_weights': 'ab'},
      'sets': {'d': {'localisation': {
        'num_pairs': 3, 'differences': {'centre prior': {'auprc': difference}}}}},
    },
    dataset.MARKER_NAME: _SET,
    '.lock': {'host': 'h', 'machine': 'm', 'pid': 5, 'started': '1', 'command': 'c', 'since': 's',
              'token': 't'},
  }  # fmt: skip
  return json.loads(json.dumps(found, default=list))


def _notes(sound: dict[str, Any]) -> st.SearchStrategy[Case]:
  return st.one_of(
    st.builds(lambda content, name=name: {name: content + b'\n'}, spoilt_json(document))
    for name, document in sound.items()
  )


def _read_note(sound: dict[str, Any], folder: pathlib.Path) -> str:
  """What the commands do first where they find the note."""
  del sound
  (path,) = folder.iterdir()
  if path.name == 'predict.json':
    results.Folder(folder, {'schema': 'x', 'policy': {'threshold': 0.5}}).close()
  elif path.name == 'preprocess.json':
    preprocess._check_parameters(folder, _CROPS)
  elif path.name == 'perturbation.json':
    preprocess._perturbation(folder)
    copies._begin(folder, _COPY)
  elif path.name == 'policy.json':
    policy.read_policy(path, _DETECTOR)
  elif path.name == 'benchmark.json':
    export_detector._benchmark(path, SimpleNamespace(facts={'trained_weights': 'ab'}))
  elif path.name == 'selection.json':
    groups = SimpleNamespace(names=('a', 'b'))
    return 'read' if chosen_layers.read(path, groups, _IDENTITY) else 'refused'
  elif path.name == dataset.MARKER_NAME:
    dataset._is_complete(folder, _SET)
  elif path.name == '.lock':
    found = locks._read(path)
    assert locks.describe(found[0]).isprintable()
    locks._is_gone(found[0])
  else:
    if path.name == 'run.json':
      facts._training_sets(folder)
      composition.of_run(folder)
      stored._commit(folder)
      trained._crops(folder)
    _tabled(path)
  return 'read'


def _tabled(path: pathlib.Path) -> None:
  """Makes the table of a sweep of one run, whose folder holds the note."""
  folder = path.parent
  run = Run('a', 0, folder, (), demo.get_config('method=masm'))
  sweep = Sweep('s', '', 'demo', {}, {'a': {}}, (0,), folder, (run,))
  if path.name == 'cost.json':
    (folder / 'runs' / 'a').mkdir(parents=True)
    path.rename(folder / 'runs' / 'a' / path.name)
  made = table.make_table(sweep)
  table.to_markdown(made, speed=table.make_speed(sweep))
  found = [value for row in made['rows'] for levels in row['sets'].values()
           for metric in levels['video'].values() for value in metric['values']]  # fmt: skip
  assert all(value == 'nan' or 0 <= value <= 1 for value in found), found


NOTES = Border('notes', _sound, _notes, _read_note, 150)
