"""The learning state of subspaces by forgery, against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax import tree
from masm_jax.masking import forgeries
from masm_jax.masking.groups import Groups
from masm_jax.parallel import sharding
from masm_jax.training import objective

GROUPS = Groups({'b0/q/U': 0, 'b0/q/V': 0, 'b0/k/U': 0, 'b1/q/U': 1}, ('b0', 'b1'), 2)
OWNERS = {'b0/q': 0, 'b0/k': 0, 'b1/q': 1}
DECAY = 0.8


def test_averages_by_forgery_and_half_are_those_of_a_replay():
  """A forgery that a batch lacks keeps what it had."""
  rng = np.random.default_rng(0)
  batches = [
    (rng.choice(chosen, size=6), {owner: rng.normal(size=(6, 2)) for owner in OWNERS})
    for chosen in ([0, 1], [0, 3], [1, 3], [0, 1], [0, 3], [0, 70])
  ]
  stats = forgeries.init_stats(GROUPS)
  for ids, grads in batches:
    grads = tree.unflatten({f'{o}/artifact': jnp.asarray(g, jnp.float32) for o, g in grads.items()})
    stats = forgeries.update_stats(stats, grads, jnp.asarray(ids), GROUPS, DECAY)

  for half in (None, 0, 1):
    expected = np.zeros((2, 2, forgeries.NUM_FORGERIES))
    for forgery, place in ((0, 0), (1, 1), (3, 3), (70, forgeries.NUM_FORGERIES - 1)):
      mean, weight = np.zeros((2, 2)), 0.0
      for number, (ids, grads) in enumerate(batches):
        if forgery not in ids:
          continue
        found = np.zeros((2, 2))
        for owner, row in OWNERS.items():
          found[row] += 6 * grads[owner][ids == forgery].mean(axis=0)
        counts = half is None or number % 2 == half
        mean = DECAY * mean + (1 - DECAY) * found * counts
        weight = DECAY * weight + (1 - DECAY) * counts
      expected[..., place] = mean / weight if weight else 0.0
    np.testing.assert_allclose(forgeries.states(stats, half), expected, atol=1e-5)
    np.testing.assert_allclose(
      forgeries.group_scores(stats, half), np.abs(expected).sum(-1), atol=1e-5
    )


@pytest.fixture
def run(tiny_run, standard_promotion):
  del standard_promotion
  return lambda mesh=None, **fields: tiny_run(
    'masm', mesh,
    **{'regularizer.orthogonality': 0.0, 'regularizer.spectral': 0.0, 'mask.decay': 0.0} | fields,
  )  # fmt: skip


@pytest.mark.parametrize('forward', ['factored', 'materialized'])
def test_a_step_measures_what_scaling_a_subspace_does_to_each_forgery(run, forward):
  """Each example's own loss, derived by a factor of U of one (block, subspace)."""
  fields = {'mask.score': 'forgery', 'subspace.forward': forward, 'head.class_weights': (1.0, 1.0)}
  found = run(**fields)
  batch = found.batch(0)
  found.step(0)
  # All of one batch lies in the first half.
  states = np.asarray(forgeries.states(found.state.grad_stats, 0))
  loss_of = objective.make_task_loss(found.detector_config, found.config, found.method.dense_cls)

  def loss(scales, image, label):
    moved = tree.map_with_path(
      lambda path, x: (
        x * scales[found.groups.rows[path]][:, None, None] if path[-2:] == '/U' else x
      ),
      found.trainable,
    )
    one = {'image': image[None], 'label': label[None]}
    return loss_of(tree.combine(moved, found.frozen), one, jnp.int32(1))[0]

  slopes = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(
    jnp.ones(found.groups.shape), batch['image'], batch['label']
  )
  ids = batch['method']
  assert len(set(ids.tolist())) > 1
  for forgery in set(ids.tolist()):
    expected = np.asarray(slopes)[ids == forgery].mean(axis=0)
    np.testing.assert_allclose(states[..., forgery], expected, rtol=1e-3, atol=1e-6)


def test_gates_leave_the_step_as_it_is_and_devices_agree(run):
  """While all groups are on, the score does not matter; masks are the same on eight devices."""
  fields = {'mask.warmup_steps': 2, 'mask.refresh_steps': 1, 'mask.keep': 0.5}
  by_forgery = {**fields, 'mask.score': 'forgery', 'mask.keep_by': 'share'}
  plain, one, eight = run(**fields), run(**by_forgery), run(sharding.make_mesh(), **by_forgery)
  for found in (plain, one, eight):
    found.step(0)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    jax.tree.map(np.asarray, plain.state.trainable),
    jax.tree.map(np.asarray, one.state.trainable),
  )
  for i in (1, 2):
    for found in (one, eight):
      found.step(i)
    np.testing.assert_array_equal(one.state.mask.mask, eight.state.mask.mask)
  assert 0 < np.asarray(one.state.mask.mask).mean() < 1 and one.traces == 1
