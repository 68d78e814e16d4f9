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


def published_losses(kernel, u, s, v, torch):
  """Effort's two losses of one square kernel, written in torch as its authors compute them: half
  the norm of each side's outer Gram matrix less the identity, and the change of energy."""
  kernel = torch.tensor(kernel)
  left, singular, right = torch.linalg.svd(kernel)
  eye = torch.eye(len(kernel), dtype=kernel.dtype)
  main = (left[:, :-1] * singular[:-1]) @ right[:-1]
  left, right = torch.cat([left[:, :-1], u], 1), torch.cat([right[:-1], v])
  orthogonal = torch.linalg.norm(left @ left.T - eye) + torch.linalg.norm(right @ right.T - eye)
  current = torch.linalg.norm(main + (u * s) @ v)
  return 0.5 * orthogonal, (current**2 - torch.linalg.norm(kernel) ** 2).abs()


def test_the_published_losses_and_their_gradients_equal_the_authors_formula(tiny_run):
  import torch

  run = tiny_run('effort_published')
  rng = np.random.default_rng(0)
  # Off the start, where a norm has a slope; the squares of small norms would be far smaller.
  noise = lambda x: 0.01 * rng.normal(size=x.shape).astype(np.float32)
  moved = tree.map_with_path(
    lambda path, x: x + (0.3 if path.endswith('/S') else noise(x)), run.trainable
  )
  total = lambda t: sum(run.method.regularize(t, run.frozen, run.reference).values())
  ours, grads = jax.value_and_grad(total)(jax.tree.map(jnp.asarray, moved))
  flat, grads = tree.flatten(moved), tree.flatten(grads)
  owners = [path.removesuffix('/S') for path in flat if path.endswith('/S')]
  assert len(owners) == 8
  theirs = 0.0
  kernels = tree.flatten(run.params)
  for owner in owners:
    u, s, v = (
      torch.tensor(np.asarray(flat[f'{owner}/{name}'][0], np.float64), requires_grad=True)
      for name in 'USV'
    )
    kernel = np.asarray(kernels[f'{owner}/kernel'], np.float64)
    loss = sum(published_losses(kernel, u, s, v, torch)) / len(owners)
    loss.backward()
    theirs += loss.item()
    for name, leaf in (('U', u), ('S', s), ('V', v)):
      assert relative_error(grads[f'{owner}/{name}'][0], leaf.grad.numpy()) < 2e-3, (owner, name)
  assert theirs > 0.01
  np.testing.assert_allclose(ours, theirs, rtol=1e-4)


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
      # Ours are the vectors of a float32 SVD, and few kernels' least singular value stands apart;
      # a gradient of one number, S, has its roundings alone.
      assert relative_error(ours[-1], theirs[-1]) <= 1e-3, (owner, name)
  assert relative_error(np.concatenate(ours), np.concatenate(theirs)) <= 1e-5
