"""What must be true of every method (`docs/methods.md`, What tests hold), on a tiny detector.

Further items stand beside the code they are about: the regularizers against their definitions in
`test_regularizers.py`, counts on the published backbones in `test_counts.py`, statistics against a
float64 replay of given gradients in `tests/masking/`, two processes against one in
`tests/test_train.py`.
"""

import importlib
import itertools
import re

import jax
import numpy as np
import optax
import pytest

from configs import common
from masm_jax import detector as detector_lib
from masm_jax import tree
from masm_jax.methods import METHODS
from masm_jax.parallel import sharding
from masm_jax.training import objective as task

# optax raises a float to an integer power, which strict promotion refuses.
pytestmark = pytest.mark.usefixtures('standard_promotion')

_NUM_STEPS = 22  # A mask is drawn in the second step; it holds for the twenty behind it (masm).
_DRAWN = 1
_FIELDS = {
  'gend': {'lsda.weight': 0.5},  # The latent augmentation is one of the terms under test.
  'bvg_ls': {'mask.refresh_steps': 1},  # By definition.
}

# Width 24, two blocks, MLP 48, patches of 8x8x3, 5 tokens.
_BLOCK_BIASES = 4 * 24 + 48 + 24
_NORMS = (2 * 2 + 2) * 2 * 24  # Two in each block, and those before and after the blocks.
_KERNELS = 4 * 24 * 24 + 2 * 24 * 48
HEAD = 24 * 2 + 2
TRAINABLE = {
  'linear': HEAD,
  'ln': _NORMS + HEAD,
  'gend': _NORMS + HEAD,
  'bitfit': 2 * _BLOCK_BIASES + _NORMS // 2 + 24 + HEAD,
  # U, S and V of four kernels in each of two blocks.
  'effort': 2 * 4 * (24 + 24 + 1) + HEAD,
  'effort_published': 2 * 4 * (24 + 24 + 1) + HEAD,
  # K * q = 4 components of six kernels.
  'masm': 2 * 4 * (4 * (24 + 24 + 1) + 2 * (24 + 48 + 1)) + HEAD,
  'fmsd': 4 * (4 * (24 + 24 + 1) + 2 * (24 + 48 + 1)) + HEAD,  # The deeper of two blocks.
  'lora': 2 * 4 * 3 * (24 + 24) + HEAD,
  'full': 2 * (_KERNELS + _BLOCK_BIASES) + _NORMS + (192 * 24 + 24) + 24 + 5 * 24 + HEAD,
}
TRAINABLE['bvg_ls'] = TRAINABLE['full']

# Other forms of `masm`, by name: the fields that make them, and what they train.
VARIANTS = {
  'masm balanced': {'subspace.parametrization': 'balanced', 'mask.keep_by': 'score'},
  'masm core': {'subspace.parametrization': 'core'},
  'masm exact': {'regularizer.mode': 'exact', 'subspace.semantic_rank': 8},
  'masm decoupled': {
    'regularizer.mode': 'decoupled',
    'subspace.semantic_energy': 0.5,
    'optim.decay_towards': 'start',
  },
}
TRAINABLE |= {
  'masm balanced': TRAINABLE['masm'] - 2 * 6 * 4,  # Without S.
  'masm core': 2 * 6 * 2 * 2 * 2 + HEAD,  # K cores [q, q] of each kernel.
  'masm exact': TRAINABLE['masm'],
  'masm decoupled': TRAINABLE['masm'],
}


def test_no_method_is_left_out():
  assert set(METHODS) == set(TRAINABLE) - set(VARIANTS) == set(common.METHODS)
  for name in METHODS:
    config = importlib.import_module(f'configs.{name}').get_config()
    assert config.method == name


class Trained:
  """A method before and after some steps, and what one step compiles to."""

  def __init__(self, name, tiny_run):
    self.name, self.run = name, make_run(name, tiny_run)
    run = self.run
    self.frozen_before = jax.tree.map(np.array, run.frozen)
    self.states = []
    for i in range(_NUM_STEPS):
      run.step(i)
      self.states.append(jax.tree.map(np.array, run.state))
    batch = sharding.place_batch(run.batch(), run.mesh)
    self.hlo = run.jitted.lower(run.state, run.frozen, run.reference, batch).compile().as_text()


@pytest.fixture(scope='module', params=sorted([*METHODS, *VARIANTS]))
def trained(request, tiny_run):
  with jax.numpy_dtype_promotion('standard'):
    return Trained(request.param, tiny_run)


def make_run(name, tiny_run, mesh=None):
  """A method, or a variant of one, by its name."""
  fields = _FIELDS.get(name, {}) | VARIANTS.get(name, {})
  return tiny_run(name.partition(' ')[0], mesh, **fields)


def relative_error(actual, expected):
  return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30)


def test_merge_is_the_inverse_of_init(trained):
  run = trained.run
  merged = run.method.merge(run.trainable, run.frozen)
  assert jax.tree.structure(merged) == jax.tree.structure(run.params)
  for path, leaf in tree.flatten(run.params).items():
    assert relative_error(tree.flatten(merged)[path], leaf) <= 1e-5, path


def test_merged_output_is_the_adapted_one_after_any_number_of_steps(trained):
  run, images = trained.run, trained.run.batch(9)['image']
  adapted_model = detector_lib.Detector(run.detector_config, dense_cls=run.method.dense_cls)
  plain_model = detector_lib.Detector(run.detector_config)
  start = plain_model.apply({'params': run.params}, images)
  for trainable in (run.trainable, *(state.trainable for state in trained.states[::7])):
    adapted = adapted_model.apply({'params': tree.combine(trainable, run.frozen)}, images)
    plain = plain_model.apply({'params': run.method.merge(trainable, run.frozen)}, images)
    assert relative_error(plain.features, adapted.features) <= 1e-5
    np.testing.assert_allclose(plain.logits, adapted.logits, rtol=1e-5, atol=1e-5)
  assert relative_error(plain.logits, start.logits) > 1e-2  # The steps did something.


def test_what_is_trainable_moves_and_what_is_frozen_stays(trained):
  run = trained.run
  assert run.traces == 1  # Refreshing a mask compiles nothing.
  assert int(run.state.step) == _NUM_STEPS and int(run.state.nonfinite_step) == 0
  jax.tree.map(np.testing.assert_array_equal, trained.frozen_before, run.frozen)
  moved = tree.map_with_path(
    lambda _, a, b: float(np.abs(a - b).max()), run.trainable, run.state.trainable
  )
  assert min(tree.flatten(moved).values()) > 0


def test_exact_trainable_counts(trained):
  run = trained.run
  count = tree.param_count(run.trainable)
  assert count == TRAINABLE[trained.name]
  for moments in ('mu', 'nu'):  # No optimizer state for frozen leaves.
    leaves = optax.tree_utils.tree_get(run.state.opt_state, moments)
    assert tree.param_count(leaves) == count
  assert not tree.flatten(run.trainable).keys() & tree.flatten(run.frozen).keys()


def product_shapes(hlo):
  """Shapes of the results of all matrix products in a compiled program."""
  found = re.findall(r'= f32\[([\d,]*)\][^ ]* (?:dot|custom-call)\(', hlo)
  return {tuple(map(int, shape.split(','))) for shape in found if shape}


def test_gradients_of_frozen_kernels_are_never_formed(trained):
  """Seen in the compiled step: no product has the shape of a frozen kernel, or of its transpose."""
  run = trained.run
  kernels = lambda leaves: {leaf.shape for leaf in jax.tree.leaves(leaves) if leaf.ndim == 2}
  frozen, trainable = kernels(run.frozen), kernels(run.trainable)
  shapes = product_shapes(trained.hlo)
  assert (24, 2) in shapes  # The head's gradient: what is looked for would be found.
  if run.method.name == 'full':
    assert trainable - shapes <= {(1, 24)}
  shapes |= {shape[::-1] for shape in shapes}
  assert not (frozen - trainable) & shapes


def test_one_device_and_eight_give_the_same_loss_and_gradients(trained, tiny_run, monkeypatch):
  """At the start, and off it, where the regularizers pull.

  Compared before Adam, which turns rounding in near-zero gradients into whole steps: its first
  moment after one step from rest is the gradient times 1 - b1.
  """
  monkeypatch.setattr(sharding, '_MIN_SPLIT_BYTES', 256)  # These kernels are small.
  name = trained.name
  eight = make_run(name, tiny_run, sharding.make_mesh(fsdp=4))
  split = [leaf for leaf in jax.tree.leaves(eight.frozen) if not leaf.is_fully_replicated]
  assert split or name in ('full', 'bvg_ls')
  for moved_by in (1.0, 1.05):
    results = []
    for run in (trained.run, eight):
      run.start(jax.tree.map(lambda x, by=moved_by: x * by, run.trainable))
      run.step(seed=3)
      moments = optax.tree_utils.tree_get(run.state.opt_state, 'mu')
      grads = jax.tree.map(lambda m, b1=run.config.optim.b1: np.array(m) / (1 - b1), moments)
      results.append((run.state.metrics.compute(), grads))
    (metrics_1, grads_1), (metrics_8, grads_8) = results
    for metric, value in metrics_1.items():
      # A norm over all gradients follows them; the others are sums over the batch.
      # Shares count elements alike, also those whose gradients are rounding alone.
      rtol = {'grad_norm': 5e-5, 'task_share': 1e-2}.get(metric, 1e-5)
      np.testing.assert_allclose(metrics_8[metric], value, rtol=rtol, atol=1e-6, err_msg=metric)
    scale = float(optax.tree.norm(grads_1))
    assert scale > 1e-3
    jax.tree.map(
      lambda a, b, s=scale: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5 * s),
      grads_1,
      grads_8,
    )


def test_masked_groups_do_not_drift_over_twenty_steps_of_adamw_with_decay(trained):
  """Whatever is off in a step is bit for bit what it was before; whatever is ever on moves."""
  run = trained.run
  if not run.groups:
    assert trained.states[-1].mask is None
    return
  assert run.config.optim.name == 'adamw' and run.config.optim.weight_decay > 0
  moments = lambda state, name: run.program.stacks.unstack(
    optax.tree_utils.tree_get(state.opt_state, name)
  )
  parts = lambda state: (
    {'params': jax.tree.map(np.array, state.trainable)}
    | {name: jax.tree.map(np.array, moments(state, name)) for name in ('mu', 'nu')}
  )
  masks, moved = set(), {}
  for before, after in itertools.pairwise(trained.states[_DRAWN:]):
    mask = after.mask.mask
    assert 0 < mask.sum() < mask.size
    masks.add(mask.tobytes())
    on = tree.flatten(jax.tree.map(np.array, run.groups.expand(mask, after.trainable)))
    for part, leaves in parts(before).items():
      new = tree.flatten(parts(after)[part])
      for path, old in tree.flatten(leaves).items():
        still = np.broadcast_to(~on[path], old.shape)
        np.testing.assert_array_equal(new[path][still], old[still], err_msg=f'{part} of {path}')
        if not still.all():
          step = np.abs(new[path] - old)[~still].max()
          moved[part, path] = max(moved.get((part, path), 0.0), step)
  assert min(moved.values()) > 0
  assert (len(masks) == 1) == (run.config.mask.refresh_steps > _NUM_STEPS)


def test_statistics_equal_a_float64_replay_of_all_task_gradients(trained):
  run = trained.run
  if not run.groups:
    assert trained.states[-1].grad_stats is None
    return
  task_loss = task.make_task_loss(run.detector_config, run.config, run.method.dense_cls)
  gradient = jax.jit(jax.grad(
    lambda t, batch, step: task_loss(tree.combine(t, run.frozen), batch, step)[0]
  ))  # fmt: skip
  decay, count = run.config.mask.decay, 5
  mean = square = 0.0
  before = [run.trainable, *(state.trainable for state in trained.states)]
  for i in range(count):
    grads = run.groups.select(gradient(before[i], run.batch(i), np.int32(i + 1)))
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in tree.flatten(grads).items()}
    old = (mean, square) if i else ({path: 0.0 for path in flat},) * 2
    mean = {path: decay * old[0][path] + (1 - decay) * g for path, g in flat.items()}
    square = {path: decay * old[1][path] + (1 - decay) * g * g for path, g in flat.items()}
  stats = trained.states[count - 1].grad_stats
  assert int(stats.count) == count
  # Odd and even gradients are kept apart; together they are all.
  both = lambda halves: run.program.stacks.unstack(jax.tree.map(np.add, *halves))
  for actual, expected in ((both(stats.mean), mean), (both(stats.square), square)):
    assert tree.flatten(actual).keys() == expected.keys()
    for path, leaf in tree.flatten(actual).items():
      assert relative_error(leaf, expected[path]) <= 1e-5, path
