"""Changes switched off one by one, and the path integral over their gates."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax import backbones, tree
from masm_jax import detector as detector_lib
from masm_jax.explain import gates, shapley
from masm_jax.inference import changes as changes_lib


def adapted(tiny_run, method, scale=0.2, **fields):
  """A run of one method whose trained leaves have moved, as `trained.AdaptedRun` holds it."""
  with jax.numpy_dtype_promotion('standard'):  # Of optax' own.
    run = tiny_run(method, **fields)
  rng = np.random.default_rng(1)
  moved = jax.tree.map(
    lambda x: x + (scale * np.abs(x).mean() + 0.02) * rng.normal(size=x.shape).astype(np.float32),
    jax.device_get(run.trainable),
  )
  return types.SimpleNamespace(
    method=run.method, initial=run.trainable, trainable=moved, frozen=run.frozen,
    detector=run.detector_config,
  )  # fmt: skip


@pytest.fixture(scope='module')
def masm(tiny_run):
  """(run, explainer) of MASM with two subspaces."""
  run = adapted(tiny_run, 'masm')
  return run, gates.Explainer(run.detector, changes_lib.learned_changes(run))


@pytest.fixture(scope='module')
def images():
  return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def plain_logits(run, trainable, images, backbone=None):
  params = run.method.merge(trainable, run.frozen)
  if backbone is not None:
    params = {'backbone': backbone, 'head': params['head']}
  logits = detector_lib.Detector(run.detector).apply({'params': params}, images).logits
  return np.asarray(logits[:, 1] - logits[:, 0])


PARTS = {'masm': 2, 'effort': 1, 'full': 1, 'lora': 1, 'gend': 1}


@pytest.mark.parametrize('method', PARTS)
def test_gates_lead_from_the_pretrained_backbone_to_the_detector(tiny_run, images, method):
  run = adapted(tiny_run, method)
  found = changes_lib.learned_changes(run)
  assert found.num_parts == PARTS[method]
  explainer = gates.Explainer(run.detector, found)
  on, off = (explainer.logits(images, np.full(found.num_parts, end)) for end in (1.0, 0.0))
  np.testing.assert_allclose(on, plain_logits(run, run.trainable, images), atol=1e-5)
  before = run.method.merge(run.initial, run.frozen)['backbone']
  np.testing.assert_allclose(off, plain_logits(run, run.trainable, images, before), atol=1e-5)
  assert np.abs(on - off).max() > 5e-4

  result = explainer.attribute(images, points=16)
  np.testing.assert_allclose(result.on, on, atol=1e-6)
  assert result.maps.shape == (3, found.num_parts, 2, 2)
  assert np.abs(result.completeness_error).max() < 1e-3
  # Position embeddings and the class token belong to no layer; `full` alone trains them.
  assert (np.abs(result.elsewhere).max() > 1e-6) == (method == 'full')
  assert np.all((result.token_share > 0) & (result.token_share < 1))


def test_a_gate_of_its_own_for_each_token_gives_the_same_slope(masm, images):
  """The slopes against finite differences of a model in which one token's kernels are moved."""
  _, explainer = masm
  at, step = 0.6, 1e-2
  slopes = np.asarray(
    explainer._slopes(explainer._base, explainer._parts, images[:1], jnp.float32(at))
  )[0]
  assert slopes.shape == (5 + 2, 2) and explainer.slots == (5, 2)

  params = explainer.changes.at(np.full(2, at, np.float32))
  for slot, part in ((2, 0), (4, 1), (0, 1), (5, 0)):

    def logit(moved, slot=slot, part=part):
      """m with the gate (slot, part) of every layer moved, the input of each layer as it comes."""

      def moving(next_fun, args, kwargs, context):
        y = next_fun(*args, **kwargs)
        path = '/'.join(context.module.path) + '/kernel'
        if context.method_name != '__call__' or path not in explainer.changes.parts:
          return y
        change = explainer.changes.parts[path]
        rows = len(y)
        row = {5: slot, 1: 0 if slot == 5 else None}[rows]
        if row is None or row >= rows or (rows == 5 and slot == 5):
          return y
        extra = args[0][row] @ change.left[part] @ change.right[part]
        return y.at[row].add(moved * extra)

      with backbones.intercept_layers(moving):
        out = detector_lib.Detector(explainer.config).apply({'params': params}, images[:1]).logits
      return float(out[0, 1] - out[0, 0])

    numeric = (logit(step) - logit(-step)) / (2 * step)
    assert slopes[slot, part] == pytest.approx(numeric, abs=2e-3 + 0.02 * abs(numeric))


def test_shapley_values_of_a_detector_sum_to_what_training_added(masm, images):
  run, explainer = masm
  result = shapley.shapley_values(lambda g: explainer.logits(images, g), 2)
  np.testing.assert_allclose(result.values.sum(1), result.on - result.off, atol=1e-5)
  np.testing.assert_allclose(result.on, plain_logits(run, run.trainable, images), atol=1e-5)


@pytest.mark.parametrize('parametrization', ['svd', 'balanced', 'core'])
def test_changes_are_those_of_the_merged_kernels(tiny_run, parametrization):
  run = adapted(tiny_run, 'masm', **{'subspace.parametrization': parametrization})
  found = changes_lib.learned_changes(run)
  before, after = (
    tree.flatten(run.method.merge(leaves, run.frozen)) for leaves in (run.initial, run.trainable)
  )
  for path, part in found.parts.items():
    total = part.total(jnp.ones(2, jnp.float32))
    np.testing.assert_allclose(total, after[path] - before[path], atol=2e-6)
  changed = {path for path in after if not np.array_equal(after[path], before[path])}
  assert set(found.parts) == {path for path in changed if not path.startswith('head/')}
