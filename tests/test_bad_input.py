"""Bad input gets one clear line and exit status 2, never a traceback."""

import pathlib

import cv2
import numpy as np
import pytest

from masm_jax.data import manifest as manifest_lib
from tests import running

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def write_set(root, *, labels=(0, 1), splits=('train', 'val', 'test'), broken=0):
  """A manifest of 4 crops per label and split; the first `broken` training crops are no images."""
  rng = np.random.default_rng(0)
  rows = []
  for split in splits:
    for label in labels:
      for i in range(4):
        path = root / split / str(label) / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        rows.append(
          {
            'path': str(path.relative_to(root)),
            'label': label,
            'dataset': 'noise',
            'split': split,
            'method': 'fake' if label else 'real',
            'video_id': f'noise/{split}/{label}/{i}',
            'frame': 0,
          }
        )
        if split == 'train' and i < broken:
          path.write_text('not an image')
  manifest_lib.write_manifest(manifest_lib.build_manifest(rows, root), root / 'manifest.parquet')
  return root / 'manifest.parquet'


def run_main(*args, num_devices=1, module='masm_jax.main'):
  flags = f'--xla_force_host_platform_device_count={num_devices}'
  return running.run(
    ['-m', module, *args], timeout_s=200,
    variables={'XLA_FLAGS': f'{flags} --xla_backend_optimization_level=0'},
  )  # fmt: skip


def the_error(result):
  assert result.returncode == 2, result.stderr
  assert 'Traceback' not in result.stderr
  (line,) = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
  assert result.stderr.strip().splitlines()[-1] == line
  return line


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['--config=configs/demo.py', '--config.optim.learning_rat=1'], 'learning_rat'),
    (['--config=configs/demo.py', '--config.seed=abc'], 'abc'),
    (['--config=configs/demo.py', '--config.train.batch_size=2.5'], '2.5'),
    (['--config=configs/demo.py:colour=red'], "'colour=red': there are method=..."),
    (['--config=configs/missing.py'], 'configs/missing.py'),
    (['--config=configs/demo.py'], 'error: give --workdir=DIR (a folder for the run)'),
    (
      ['--config=own:manifst=x'],
      "error: --config=own:manifst=x: config argument 'manifst=x': there are",
    ),
    (['--config=configs/demo.py', 'train'], "unknown argument 'train'"),
    (['--config=configs/demo.py', '--wrokdir=x'], 'wrokdir'),
  ],
  ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_flags(args, message, tmp_path):
  extra = [] if 'workdir' in message else [f'--workdir={tmp_path}']
  assert message in the_error(run_main(*args, *extra))


def demo_args(manifest, workdir, *more):
  sets = ('train', 'val', 'tests.known')
  return [
    '--config=configs/demo.py:method=linear',
    f'--workdir={workdir}',
    *(f'--config.data.{name}.manifest={manifest}' for name in sets),
    *(
      f'--config.data.tests.{name}.manifest=' for name in ('checkerboard', 'poisson', 'regenerate')
    ),
    '--config.data.tests.known.methods=()',
    '--config.backbone.weights=random',
    '--config.train.batch_size=8',
    '--config.eval.batch_size=8',
    *more,
  ]


def test_missing_manifest(tmp_path):
  line = the_error(run_main(*demo_args(tmp_path / 'none.parquet', tmp_path)))
  assert 'none.parquet' in line


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'labels': (0,)}, 'data.train: no fake face among its 4 rows'),
    ({'labels': (1,)}, 'data.train: no real face among its 4 rows'),
    ({'splits': ('train', 'test')}, 'data.val: no row of'),
  ],
)
def test_sets_that_cannot_train(tmp_path, fields, message):
  assert message in the_error(run_main(*demo_args(write_set(tmp_path / 'set', **fields), tmp_path)))


def test_images_that_are_no_images(tmp_path):
  line = the_error(run_main(*demo_args(write_set(tmp_path / 'set', broken=2), tmp_path)))
  assert 'cannot be decoded' in line and '.png' in line


def test_values_of_the_config(tmp_path):
  args = demo_args(write_set(tmp_path / 'set'), tmp_path)
  line = the_error(run_main(*args, '--config.mask.kind=x', '--config.train.duration=soon'))
  assert "mask.kind = 'x'" in line and "train.duration = 'soon'" in line
  assert "method = 'magic': choose one of masm, fmsd, effort," in the_error(
    run_main(*args, '--config.method=magic')
  )
  assert 'unknown backbone' in the_error(run_main(*args, '--config.backbone.name=vgg'))
  line = the_error(run_main(*args, '--config.backbone.weights=', '--config.backbone.name=clip_l14'))
  assert 'config.backbone.weights' in line and 'openai/clip-vit-large-patch14' in line


def test_batch_size_must_divide_over_the_devices(tmp_path):
  args = demo_args(write_set(tmp_path / 'set'), tmp_path, '--config.train.batch_size=12')
  line = the_error(run_main(*args, num_devices=8))
  assert 'train.batch_size = 12 does not divide over 8 devices: use a multiple of 8' in line


def test_unreachable_semantic_subspace(tmp_path):
  args = demo_args(
    write_set(tmp_path / 'set'), tmp_path, '--config.method=masm', '--config.subspace.rank=24'
  )
  assert 'has 96 singular components: 4 subspaces of rank 24 leave' in the_error(run_main(*args))


def test_selection_on_a_test_set_is_refused(tmp_path):
  args = demo_args(write_set(tmp_path / 'set'), tmp_path, '--config.data.val.split=test')
  assert 'never on a test set' in the_error(run_main(*args))
