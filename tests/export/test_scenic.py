"""A detector in Scenic's own trainer. Skipped where Scenic is not on the path."""

import functools
import itertools
import warnings

import jax
import ml_collections
import numpy as np
import pytest
from flax import jax_utils

from masm_jax import detector as detector_lib
from masm_jax import tree
from masm_jax.errors import UserError
from masm_jax.export.__main__ import main as export
from masm_jax.inference import detector_file
from masm_jax.parallel import sharding
from masm_jax.training import losses

with warnings.catch_warnings():
  warnings.simplefilter('ignore')  # Of TensorFlow, which Scenic imports.
  trainer = pytest.importorskip('scenic.train_lib.classification_trainer', exc_type=ImportError)
  from clu import metric_writers
  from scenic.dataset_lib.dataset_utils import Dataset
  from scenic.train_lib import train_utils

from masm_jax.export.scenic import DetectorModel

pytestmark = [
  pytest.mark.usefixtures('standard_promotion'),
  pytest.mark.filterwarnings('ignore'),  # Scenic's own.
]
RATE = 0.01


@pytest.fixture(scope='module')
def folder(trained_run, tmp_path_factory):
  out = tmp_path_factory.mktemp('scenic') / 'detector'
  words = ['--run', str(trained_run), '--format', 'detector', '--out', str(out)]
  assert export(words) == 0
  return out


@pytest.fixture(scope='module')
def run(folder):
  return detector_file.load_detector(folder, sharding.make_mesh(devices=jax.devices()[:1]))


def make_batch(size, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (8, size, size, 3), dtype=np.uint8)
  return {'inputs': images, 'label': np.arange(8, dtype=np.int32) % 2}


def make_config(folder, **fields):
  return ml_collections.ConfigDict(
    {
      'model': {'detector': str(folder)},
      'batch_size': 8,
      'num_training_steps': 3,
      'log_eval_steps': 10,
      'steps_per_eval': 1,
      'log_summary_steps': 10,
      'checkpoint': False,
      'xprof': False,
      'debug_train': False,
      'debug_eval': False,
      'rng_seed': 0,
      'optimizer_configs': {'optimizer': 'sgd', 'momentum': 0.0},
      'lr_configs': {
        'learning_rate_schedule': 'compound',
        'factors': 'constant',
        'base_learning_rate': RATE,
      },
      **fields,
    }
  )


def meta(size):
  return {
    'num_classes': 2,
    'input_shape': (-1, size, size, 3),
    'input_dtype': np.uint8,
    'num_train_examples': 8,
    'num_eval_examples': 8,
    'target_is_onehot': False,
  }


def sharded(batch):
  num = jax.local_device_count()
  return {name: value.reshape(num, -1, *value.shape[1:]) for name, value in batch.items()}


def test_scenics_trainer_trains_and_evaluates_a_detector(folder, run, tmp_path):
  """`train` of Scenic: three of its training steps and its evaluation."""
  size = run.detector.backbone.image_size
  batch = make_batch(size)
  batches = itertools.repeat(sharded(batch))
  state, train_summary, eval_summary = trainer.train(
    rng=jax.random.key(0),
    config=make_config(folder),
    model_cls=DetectorModel,
    dataset=Dataset(batches, batches, None, meta(size)),
    workdir=str(tmp_path),
    writer=metric_writers.LoggingWriter(),
  )

  # Plain gradient descent on the same loss, by this package alone.
  model = detector_lib.Detector(run.detector)

  @jax.jit
  def loss_of(params):
    logits = model.apply({'params': params}, batch['inputs']).logits
    return losses.cross_entropy(logits, batch['label'])

  step = jax.jit(jax.value_and_grad(loss_of))
  params, found = jax.device_get(run.params), []
  for _ in range(3):
    loss, grads = step(params)
    found.append(float(loss))
    params = jax.tree.map(lambda leaf, grad: leaf - RATE * grad, params, grads)

  end = float(loss_of(params))
  assert found[0] > found[1] > found[2] > end
  assert train_summary['loss'] == pytest.approx(found[-1], rel=1e-5)  # Of the last step alone.
  assert eval_summary['loss'] == pytest.approx(end, rel=1e-5)
  trained = tree.flatten(jax.tree.map(lambda leaf: np.asarray(leaf[0]), dict(state.params)))
  for path, leaf in tree.flatten(params).items():
    np.testing.assert_allclose(trained[path], leaf, atol=1e-5, err_msg=path)


@pytest.mark.parametrize('floats', [False, True])
def test_scenics_evaluation_step_gives_the_detectors_logits(folder, run, floats):
  size = run.detector.backbone.image_size
  batch = make_batch(size, seed=1)
  wanted = detector_lib.Detector(run.detector).apply({'params': run.params}, batch['inputs']).logits
  if floats:
    batch['inputs'] = (batch['inputs'] / 255.0).astype(np.float32)
  model = DetectorModel(make_config(folder), meta(size))
  params = model.flax_model.init(jax.random.key(1), batch['inputs'][:1])['params']
  state = train_utils.TrainState(params=params, model_state={})
  step = functools.partial(
    trainer.eval_step, flax_model=model.flax_model, metrics_fn=model.get_metrics_fn('validation')
  )
  metrics, logits = jax.pmap(step, axis_name='batch')(jax_utils.replicate(state), sharded(batch))
  np.testing.assert_allclose(logits.reshape(8, 2), wanted, atol=1e-5)
  correct, count = jax.tree.map(lambda leaf: float(leaf[0]), metrics['accuracy'])
  assert count == 8 and correct == np.sum(wanted.argmax(axis=1) == batch['label'])


def test_a_data_set_that_does_not_fit_is_refused(folder, run):
  size = run.detector.backbone.image_size
  with pytest.raises(UserError, match='1000 classes'):
    DetectorModel(make_config(folder), meta(size) | {'num_classes': 1000})
  with pytest.raises(UserError, match=r'images \(224, 224, 3\), the detector takes'):
    DetectorModel(make_config(folder), meta(224))
  with pytest.raises(UserError, match='detector is empty'):
    DetectorModel(None, meta(size))
