"""The layers that FMSD chooses: by the gradients of the plain backbone, once, and stored."""

import contextlib
import functools

import jax
import numpy as np
import pytest
from sklearn import linear_model

from configs import common
from masm_jax import detector as detector_lib
from masm_jax import telemetry, tree
from masm_jax.errors import UserError
from masm_jax.masking import grad_stats, layer_mask
from masm_jax.methods import chosen_layers, make_method
from masm_jax.parallel import sharding
from masm_jax.plots import layers as layer_plots
from masm_jax.training import fitted_head, probe
from tests.training.probing import (
  BATCHES,
  DETECTOR,
  HASHES,
  choose,
  make_batches,
  make_config,
  stored,
)


@pytest.fixture(scope='module')
def params():
  return detector_lib.init_params(DETECTOR, jax.random.key(0))


def replay(params):
  """Scores in float64 from the gradients of each batch, taken one by one."""
  model = detector_lib.Detector(DETECTOR)

  def loss(kernels, batch):
    logits = model.apply({'params': tree.unflatten(tree.flatten(params) | kernels)}, batch['image'])
    log_probs = jax.nn.log_softmax(logits.logits)
    return -log_probs[np.arange(len(log_probs)), batch['label']].mean()

  kernels = {
    path: leaf
    for path, leaf in tree.flatten(params).items()
    if '/block_' in path and path.endswith('kernel')
  }
  grad = jax.jit(jax.grad(loss))
  history = [jax.tree.map(np.float64, grad(kernels, batch)) for batch in make_batches()]
  scores = []
  for block in range(4):
    flat = np.stack(
      [
        np.concatenate([g.ravel() for path, g in grads.items() if f'block_{block:02d}' in path])
        for grads in history
      ]
    )
    scores.append(np.sum(flat.mean(axis=0) ** 2) / np.sum(flat.var(axis=0)))
  return np.array(scores)


def test_the_layers_of_the_highest_ratio_are_chosen_decomposed_and_stored(params, tmp_path):
  done = []
  method, selected = choose(params, tmp_path, on_progress=done.append)
  assert done == [1, 2, 3, 4]
  expected = replay(params)
  np.testing.assert_allclose(selected.scores, expected, rtol=1e-4)
  best = sorted(np.argsort(-expected)[:2])
  assert selected.layers == tuple(f'block_{i:02d}' for i in best)

  trainable, frozen, _ = method.init(params, jax.random.key(0))
  owners = {path.split('/')[1] for path in tree.flatten(trainable)} - {'kernel', 'bias'}
  assert owners == set(selected.layers)
  other = next(i for i in range(4) if i not in best)
  np.testing.assert_array_equal(
    frozen['backbone'][f'block_{other:02d}']['mlp']['fc1']['kernel'],
    params['backbone'][f'block_{other:02d}']['mlp']['fc1']['kernel'],
  )
  assert method.groups(trainable) is None

  # Another attempt of this run takes what is stored, without a look at the data.
  again, same = choose(params, tmp_path, batches=None, resuming=True)
  assert same.layers == selected.layers and again == method
  np.testing.assert_array_equal(same.scores, selected.scores)
  # So does whoever loads the run.
  assert stored(params, tmp_path) == method


def with_head(params, seed):
  """The same backbone under another fresh head."""
  return params | {'head': detector_lib.init_params(DETECTOR, jax.random.key(seed))['head']}


def test_the_probes_ranking_does_not_depend_on_the_head_that_a_run_begins_with(params, tmp_path):
  """With a fresh head it does: what is measured then is that head's own offset."""
  batches = functools.partial(make_batches, count=6 + BATCHES)
  scores = {
    (fitted, seed): choose(
      with_head(params, seed), tmp_path / f'{fitted}{seed}', make_config(head_batches=fitted),
      batches=batches,
    )[1].scores
    for fitted in (0, 6) for seed in (0, 1)
  }  # fmt: skip
  np.testing.assert_allclose(scores[6, 0], scores[6, 1], rtol=1e-4)
  assert np.abs(scores[0, 0] / scores[0, 1] - 1).max() > 0.05
  assert common.get_config().mask.head_batches > 0  # What a run does by default.


def test_the_head_is_a_logistic_regression_on_other_batches(params):
  """Against scikit-learn on the features of the first batches; the probe reads those behind."""
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  batches = make_batches(count=9)
  fitted = fitted_head.fit(params, DETECTOR, mesh, batches, 6)
  assert len(list(batches)) == 3
  model = detector_lib.Detector(DETECTOR)
  first = list(make_batches(count=6))
  features = np.concatenate(
    [model.apply({'params': params}, batch['image']).features for batch in first]
  ).astype(np.float64)
  labels = np.concatenate([batch['label'] for batch in first])
  scaled = (features - features.mean(axis=0)) / features.std(axis=0)
  reference = linear_model.LogisticRegression(max_iter=2000).fit(scaled, labels)
  kernel, bias = (np.asarray(fitted['head'][name], np.float64) for name in ('kernel', 'bias'))
  logits = features @ kernel + bias
  np.testing.assert_allclose(logits[:, 1] - logits[:, 0], reference.decision_function(scaled),
                             atol=2e-4)  # fmt: skip
  np.testing.assert_allclose(logits.sum(axis=1), 0.0, atol=1e-4)
  one_class = ({**batch, 'label': np.zeros(8, np.int32)} for batch in first)
  with pytest.raises(UserError, match='are all of one class'):
    fitted_head.fit(params, DETECTOR, mesh, one_class, 6)


def test_a_probe_says_when_its_halves_choose_other_layers(params, tmp_path, caplog):
  """Random images with random labels: nothing tells the layers apart."""
  _, selected = choose(params, tmp_path / 'a', make_config(keep=0.5))
  record = telemetry.read_json(tmp_path / 'a' / 'selection.json')
  assert record['noise_floor'] == pytest.approx(1 / (BATCHES - 1))
  assert record['agreement'] == selected.agreement and 0 <= selected.agreement <= 1
  assert selected.agreement == choose(params, tmp_path / 'a')[1].agreement  # Read back.
  config = layer_mask.MaskConfig(score='bvr', keep=0.5)
  agreed = float(
    layer_mask.agreement(layer_mask.score_of(*_replayed_stats(params), config), config)
  )
  assert selected.agreement == agreed
  assert ('hardly tells the layers apart' in caplog.text) == (
    agreed < layer_mask.SIGNAL or np.median(selected.scores) < 1.5 * record['noise_floor']
  )


def _replayed_stats(params):
  """Statistics of the probe's gradients, taken one by one."""
  config = make_config()
  groups = make_method(config).candidates(params)
  stats = grad_stats.init_stats(groups.select(params))
  step = jax.jit(probe.make_probe_step(DETECTOR, groups, config))
  for batch in make_batches():
    stats = step(stats, params, batch)
  return stats, groups, groups.select(params)


def test_without_a_mask_every_layer_is_trained_and_nothing_is_probed_or_stored(params, tmp_path):
  config = make_config(kind='none')
  method, selected = choose(params, tmp_path, config, batches=None)
  assert selected is None and not list(tmp_path.iterdir())
  assert method == stored(params, tmp_path, config) == make_method(config)
  trainable, *_ = method.init(params, jax.random.key(0))
  everything, _ = choose(params, tmp_path, make_config(kind='all'))
  trained_by_all, *_ = everything.init(params, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, trainable, trained_by_all)


def test_eight_devices_choose_what_one_does(params, tmp_path, monkeypatch):
  monkeypatch.setattr(sharding, '_MIN_SPLIT_BYTES', 256)  # These kernels are small.
  _, one = choose(params, tmp_path / 'one')
  _, eight = choose(params, tmp_path / 'eight', mesh=sharding.make_mesh(2))
  np.testing.assert_allclose(one.scores, eight.scores, rtol=1e-4)
  assert one.layers == eight.layers


@pytest.mark.parametrize(
  ('mask', 'count', 'rows'),
  [
    ({'keep': 0.25}, 1, 4),
    ({'keep_count': 3}, 3, 4),
    ({'kind': 'all'}, 4, 4),
    ({'kind': 'random'}, 2, 4),
    ({'granularity': 'kernel_subspace', 'keep_count': 5}, 5, 24),
  ],
)
def test_controls_and_granularity(params, tmp_path, mask, count, rows):
  _, selected = choose(params, tmp_path, make_config(**mask))
  assert len(selected.names) == rows and len(selected.layers) == count
  assert (selected.scores > 0).all()


def test_inverse_chooses_the_others(params, tmp_path):
  _, best = choose(params, tmp_path / 'best')
  _, worst = choose(params, tmp_path / 'worst', make_config(kind='inverse'))
  assert set(best.layers) | set(worst.layers) == set(best.names)


def test_methods_without_a_choice_come_back_as_they_are(params, tmp_path):
  for name in ('masm', 'linear', 'full'):
    config = common.get_config()
    common.set_method(config, name)
    method = make_method(config)
    same, nothing = probe.choose_layers(
      method,
      params,
      config=config,
      detector_config=DETECTOR,
      mesh=None,
      make_batches=None,
      workdir=tmp_path,
      hashes=HASHES,
      resuming=True,
    )
    assert same is method and nothing is None
    record = {'config': config, 'workdir': tmp_path, 'hashes': HASHES}
    assert chosen_layers.stored_layers(method, params, **record) is method
  assert not list(tmp_path.iterdir())


def test_the_deepest_layers_stand_in_where_nothing_is_measured(params):
  config = make_config()
  method = chosen_layers.assume_deepest(make_method(config), params, config)
  trainable, *_ = method.init(params, jax.random.key(0))
  assert set(trainable['backbone']) == {'block_02', 'block_03'}


def test_bad_input_is_told(params, tmp_path):
  with pytest.raises(UserError, match=r'mask\.kind = dynamic is not for method = fmsd'):
    make_method(make_config(kind='dynamic'))
  config = common.get_config()
  config.mask.kind = 'oneshot'
  with pytest.raises(UserError, match=r'mask\.kind = oneshot is not for method = masm'):
    make_method(config)
  for granularity in ('block', 'kernel_subspace'):
    with pytest.raises(UserError, match=r'mask\.select = per_layer ranks the subspaces of each'):
      make_method(make_config(select='per_layer', granularity=granularity))
  broken = jax.tree.map(lambda x: x * np.float32('nan'), params)
  with pytest.raises(UserError, match='gradients of the probe are not finite'):
    choose(broken, tmp_path)
  assert not (tmp_path / 'selection.json').exists()


def test_the_probe_closes_its_batches(params, tmp_path):
  closed = []

  def batches():
    with contextlib.closing(make_batches()) as inner:
      try:
        yield from inner
      finally:
        closed.append(True)

  choose(params, tmp_path, batches=batches)
  assert closed == [True]


def test_the_picture_has_a_bar_for_each_layer(tmp_path):
  path = layer_plots.selection_figure(
    ['a', 'b', 'c'], [1.0, 3.0, 2.0], [0, 1, 1], tmp_path / 's.png', score_name='bvr'
  )
  assert path.read_bytes().startswith(b'\x89PNG')
  with pytest.raises(ValueError, match='2 names'):
    layer_plots.selection_figure(['a', 'b'], [1.0], [1], path, score_name='bvr')
