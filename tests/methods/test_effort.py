"""`effort` against an independent reference of Effort (arXiv 2411.15633) in 20 lines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax import detector as detector_lib
from masm_jax import tree
from masm_jax.training import objective as task

pytestmark = pytest.mark.usefixtures('standard_promotion')


def effort_reference(params, detector_config):
  """`(residuals, loss_fn)`: each attention kernel is its best approximation of rank n - 1, frozen,
  plus `U diag(S) V`, trained; the loss is the mean cross-entropy."""
  flat = tree.flatten(params)
  main, residuals = {}, {}
  for path, kernel in flat.items():
    if '/attn/' in path and path.endswith('/kernel'):
      u, s, v = np.linalg.svd(np.asarray(kernel, np.float64))
      main[path] = jnp.asarray((u[:, :-1] * s[:-1]) @ v[:-1], jnp.float32)
      residuals[path] = [jnp.asarray(x, jnp.float32) for x in (u[:, -1:], s[-1:], v[-1:])]

  def loss_fn(residuals, head, batch):
    kernels = {path: main[path] + u @ jnp.diag(s) @ v for path, (u, s, v) in residuals.items()}
    adapted = tree.unflatten(flat | kernels) | {'head': head}
    logits = (
      detector_lib.Detector(detector_config).apply({'params': adapted}, batch['image']).logits
    )
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.mean(log_probs[jnp.arange(len(logits)), batch['label']]), logits

  return residuals, loss_fn


def relative_error(actual, expected):
  return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def test_logits_loss_and_gradients_equal_the_reference(tiny_run):
  run = tiny_run('effort', **{'head.label_smoothing': 0.0, 'head.class_weights': (1.0, 1.0)})
  batch = run.batch(size=32)
  residuals, loss_fn = effort_reference(run.params, run.detector_config)
  step = jax.jit(jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True))
  (expected_loss, expected_logits), (expected, expected_head) = step(
    residuals, run.params['head'], batch
  )

  task_loss = task.make_task_loss(run.detector_config, run.config, run.method.dense_cls)
  loss_of = lambda t: task_loss(tree.combine(t, run.frozen), batch, jnp.int32(0))[0]
  loss, grads = jax.jit(jax.value_and_grad(loss_of))(run.trainable)
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
  model = detector_lib.Detector(run.detector_config, dense_cls=run.method.dense_cls)
  output = model.apply({'params': tree.combine(run.trainable, run.frozen)}, batch['image'])
  assert relative_error(output.logits, expected_logits) <= 1e-5
  for name, leaf in grads['head'].items():
    assert relative_error(leaf, expected_head[name]) <= 1e-5

  flat, start = tree.flatten(grads), tree.flatten(run.trainable)
  assert len(expected) == 8
  ours, theirs = [], []
  for path, (u, s, v) in expected.items():
    owner = path.removesuffix('/kernel')
    # Singular vectors are known up to a common sign.
    sign = np.sign(np.vdot(start[f'{owner}/U'], residuals[path][0]))
    for name, value in (('U', sign * u), ('S', s), ('V', sign * v)):
      ours.append(np.ravel(flat[f'{owner}/{name}']))
      theirs.append(np.ravel(value))
      # Ours are the vectors of a float32 SVD, and few kernels' least singular value stands apart.
      assert relative_error(ours[-1], theirs[-1]) <= 3e-4, (owner, name)
  assert relative_error(np.concatenate(ours), np.concatenate(theirs)) <= 1e-5
