"""Methods against small PyTorch programs that know nothing of this package.

Same weights, same batch: logits, loss, gradients, and the parameters after three steps of the
optimizer and schedule that `configs/METHOD.py` sets, to 1e-4 relative.
"""

import jax
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F

from configs import common
from masm_jax import detector as detector_lib
from masm_jax import tree

pytestmark = pytest.mark.usefixtures('standard_promotion')

ATTENTION = [
  f'backbone/block_{i:02}/attn/{name}' for i in (0, 1) for name in ('q', 'k', 'v', 'out')
]


class Reference:
  """A ViT of two blocks, all of it trained; parameters by the paths of ours, kernels [in, out]."""

  def __init__(self, params):
    self.weights = {path: torch.tensor(np.asarray(leaf)) for path, leaf in params.items()}
    self.trained = self.adapt()
    for leaf in self.trained.values():
      leaf.requires_grad_(True)

  def adapt(self):
    return self.weights

  def dense(self, owner, x):
    return x @ self.weights[f'{owner}/kernel'] + self.weights[f'{owner}/bias']

  def norm(self, owner, x):
    scale, bias = (self.weights[f'{owner}/{name}'] for name in ('scale', 'bias'))
    return F.layer_norm(x, x.shape[-1:], scale, bias, eps=1e-6)

  def features(self, images):
    pixels = (torch.tensor(images).permute(0, 3, 1, 2) / 255.0 - 0.5) / 0.5
    kernel = self.weights['backbone/patch_embed/kernel'].permute(3, 2, 0, 1)
    bias = self.weights['backbone/patch_embed/bias']
    x = F.conv2d(pixels, kernel, bias, stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([self.weights['backbone/cls_token'].expand(len(x), -1, -1), x], dim=1)
    x = self.norm('backbone/ln_pre', x + self.weights['backbone/pos_embed'])
    for i in (0, 1):
      block = f'backbone/block_{i:02}'
      y = self.norm(f'{block}/ln_1', x)
      heads = [
        self.dense(f'{block}/attn/{n}', y).unflatten(2, (3, 8)).transpose(1, 2) for n in 'qkv'
      ]
      y = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
      x = x + self.dense(f'{block}/attn/out', y)
      y = F.gelu(self.dense(f'{block}/mlp/fc1', self.norm(f'{block}/ln_2', x)))
      x = x + self.dense(f'{block}/mlp/fc2', y)
    return self.norm('backbone/ln_post', x)[:, 0]

  def __call__(self, images, labels):
    logits = self.dense('head', self.features(images))
    return logits, F.cross_entropy(logits, labels)

  def optimizer(self):
    return torch.optim.Adam(self.trained.values(), lr=self.rate(0), weight_decay=5e-4)

  def rate(self, step):
    return 2e-4


class Full(Reference):
  def rate(self, step):
    return 1e-5


class GenD(Reference):
  def adapt(self):
    is_norm = lambda path: '/ln_' in path or path.startswith('head/')
    return {path: leaf for path, leaf in self.weights.items() if is_norm(path)}

  def __call__(self, images, labels):
    z = F.normalize(self.features(images))
    logits = self.dense('head', z)
    i, j = torch.triu_indices(len(z), len(z), offset=1)
    equal = labels[i] == labels[j]
    alignment = (z[i[equal]] - z[j[equal]]).norm(dim=1).pow(2).mean()
    uniformity = torch.pdist(z).pow(2).mul(-2).exp().mean().clamp(min=1e-6).log()
    return logits, F.cross_entropy(logits, labels) + 0.5 * uniformity + 0.1 * alignment

  def optimizer(self):
    return torch.optim.AdamW(self.trained.values(), lr=self.rate(0), weight_decay=0.0)

  def rate(self, step):  # Warm-up over one epoch of ten steps.
    return 1e-5 + (3e-4 - 1e-5) * step / 10


class Lora(Reference):
  def optimizer(self):
    return torch.optim.Adam(self.trained.values(), lr=self.rate(0))  # Without decay.

  def adapt(self):
    adapters = {path: leaf for path, leaf in self.weights.items() if 'lora' in path}
    return adapters | {path: self.weights[path] for path in ('head/kernel', 'head/bias')}

  def dense(self, owner, x):
    y = super().dense(owner, x)
    if owner in ATTENTION:
      y = y + 16.0 / 3 * (x @ self.weights[f'{owner}/lora_a']) @ self.weights[f'{owner}/lora_b']
    return y


class Effort(Reference):
  def adapt(self):
    trained = {path: self.weights[path] for path in ('head/kernel', 'head/bias')}
    for owner in ATTENTION:
      kernel = self.weights[f'{owner}/kernel'].double()
      u, s, v = torch.linalg.svd(kernel)
      sign = torch.sign(u[:, -1] @ self.weights[f'{owner}/U'][0, :, 0].double())
      least = {'U': u[None, :, -1:] * sign, 'S': s[None, -1:], 'V': v[None, -1:] * sign}
      for name, value in least.items():
        # The same residual, but for what a float32 SVD knows of it where the least singular values
        # lie close; from there on both compute with the same numbers.
        trained[f'{owner}/{name}'] = self.weights[f'{owner}/{name}']
        assert_close(trained[f'{owner}/{name}'].numpy(), value.numpy(), name, rtol=1e-3)
      u, s, v = (trained[f'{owner}/{name}'][0].double() for name in 'USV')
      self.weights[f'{owner}/main'] = (kernel - (u * s) @ v).float()
    self.weights |= trained
    return trained

  def dense(self, owner, x):
    if owner not in ATTENTION:
      return super().dense(owner, x)
    u, s, v = (self.weights[f'{owner}/{name}'][0] for name in 'USV')
    return (
      x @ (self.weights[f'{owner}/main'] + u @ torch.diag(s) @ v) + self.weights[f'{owner}/bias']
    )


REFERENCES = {'full': Full, 'gend': GenD, 'lora': Lora, 'effort': Effort}


def assert_close(actual, expected, what, rtol=1e-4):
  """By the norm of each leaf: elements near 0 have no relative error."""
  error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
  assert error <= rtol, f'{what}: {error}'


@pytest.mark.parametrize('name', sorted(REFERENCES))
def test_three_steps_equal_torch(name, tiny_run):
  recipe = common.get_config()
  common.set_method(recipe, name)
  fields = {f'optim.{field}': value for field, value in recipe.optim.items()}
  fields |= {'head.label_smoothing': 0.0, 'head.class_weights': (1.0, 1.0), 'lora.dropout': 0.0}
  run = tiny_run(name, **fields)
  start = tree.flatten(run.trainable)
  # B starts at 0, where A has no gradient; a constant one would be undone by the next LayerNorm.
  draw = np.random.default_rng(1).normal
  start = {
    path: draw(scale=0.05, size=leaf.shape).astype(np.float32) if path.endswith('lora_b') else leaf
    for path, leaf in start.items()
  }
  run.start(tree.unflatten(start))
  reference = REFERENCES[name](tree.flatten(run.params) | start)
  assert reference.trained.keys() == start.keys()
  before = {path: leaf.detach().numpy().copy() for path, leaf in reference.trained.items()}

  model = detector_lib.Detector(run.detector_config, dense_cls=run.method.dense_cls)
  images, labels = run.batch()['image'], torch.tensor(run.batch()['label'], dtype=torch.long)
  logits, loss = reference(images, labels)
  ours = model.apply({'params': tree.combine(tree.unflatten(start), run.frozen)}, images)
  assert_close(ours.logits, logits.detach().numpy(), 'logits')

  optimizer = reference.optimizer()
  for step in range(3):
    optimizer.param_groups[0]['lr'] = reference.rate(step)
    optimizer.zero_grad()
    _, loss = reference(images, labels)
    loss.backward()
    run.step()
    if step == 0:
      metrics = run.state.metrics.compute()
      np.testing.assert_allclose(metrics['loss'], loss.item(), rtol=1e-5)
      moments = optax.tree_utils.tree_get(run.state.opt_state, 'mu')
      moments = tree.flatten(run.program.stacks.unstack(moments))
      for path, leaf in reference.trained.items():
        decay = 0.0 if name == 'gend' else run.config.optim.weight_decay  # AdamW's comes later.
        gradient = leaf.grad.numpy() + decay * leaf.detach().numpy()
        rtol = 1e-4 if leaf.numel() > 1 else 3e-4  # One number has nothing to average over.
        assert_close(np.array(moments[path]) / 0.1, gradient, f'gradient of {path}', rtol=rtol)
    optimizer.step()
  after = tree.flatten(jax.tree.map(np.array, run.state.trainable))
  for path, leaf in reference.trained.items():
    expected = leaf.detach().numpy()
    assert_close(after[path], expected, path)
    # The way gone is a thousandth of the weights: of it a hundredth, for Adam and float32 round.
    way = after[path] - np.asarray(start[path])
    assert_close(way, expected - before[path], f'change of {path}', rtol=1e-2)
