"""The same detector and training step in PyTorch, to compare with.

A CLIP-style ViT of `nn.Linear` layers and fused scaled-dot-product attention under autocast, Adam
over what is trained. For masm, each dense layer is a frozen matrix plus K artifact factors that are
applied as two skinny products, and the loss holds the bases orthonormal and apart. It leaves out
the layer mask, its statistics, and the overlap with the semantic basis: the reference has a little
less to do than what it is compared with.
"""

import ast
import contextlib
import math
import pathlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from masm_jax.backbones import ViTConfig

METHODS = ('masm', 'linear', 'full')
_EFFORT_FACTORS = ('S_residual', 'U_residual', 'V_residual')
_EFFORT = ('SVDResidualLinear', 'replace_with_svd_residual')


class SubspaceLinear(nn.Module):
  """`y = x W + ((x U) * S) V + b` with W and b frozen; the K subspaces side by side."""

  def __init__(self, d_in: int, d_out: int, num_subspaces: int, rank: int):
    super().__init__()
    count = num_subspaces * rank
    self.num_subspaces = num_subspaces
    self.register_buffer('weight', torch.randn(d_in, d_out) * d_in**-0.5)
    self.register_buffer('bias', torch.zeros(d_out))
    self.u = nn.Parameter(torch.linalg.qr(torch.randn(d_in, count))[0])
    self.v = nn.Parameter(torch.linalg.qr(torch.randn(d_out, count))[0].T.contiguous())
    self.s = nn.Parameter(torch.rand(count) * 0.01)
    self.register_buffer('energy', self.s.detach().square().sum())

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[..., d_in] -> [..., d_out]."""
    return x @ self.weight + ((x @ self.u) * self.s) @ self.v + self.bias

  def penalty(self) -> torch.Tensor:
    """Distance of the bases from orthonormal ones, and of the energy from its start."""
    eye = torch.eye(self.u.shape[1], device=self.u.device)
    gram_u, gram_v = self.u.T @ self.u, self.v @ self.v.T
    loss = (gram_u - eye).square().sum() + (gram_v - eye).square().sum()
    return loss + (self.s.square().sum() - self.energy).abs()


def effort_linear(path: str) -> Callable[[int, int], nn.Module]:
  """Builds layers by the code of Effort's authors, which is run from their repository.

  Their module imports what its other classes need; the layer and its builder are taken by name.

  Args:
    path: `DeepfakeBench/training/detectors/effort_detector.py` of YZY-stack/Effort-AIGI-Detection.
  """
  parts = [
    node for node in ast.parse(pathlib.Path(path).read_text()).body
    if getattr(node, 'name', '') in _EFFORT
  ]  # fmt: skip
  found: dict[str, Any] = {'torch': torch, 'nn': nn, 'F': functional, 'math': math}
  exec(compile(ast.Module(parts, []), path, 'exec'), found)
  replace = found['replace_with_svd_residual']
  return lambda d_in, d_out: replace(nn.Linear(d_in, d_out), min(d_in, d_out) - 1)


class Block(nn.Module):
  """A pre-norm transformer block."""

  def __init__(
    self,
    config: ViTConfig,
    linear: Callable[[int, int], nn.Module],
    mlp_linear: Callable[[int, int], nn.Module] | None = None,
  ):
    super().__init__()
    width, mlp_linear = config.width, mlp_linear or linear
    self.num_heads = config.num_heads
    self.quick = config.activation == 'quick_gelu'
    self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
    self.q, self.k, self.v, self.out = (linear(width, width) for _ in range(4))
    self.fc1 = mlp_linear(width, config.mlp_dim)
    self.fc2 = mlp_linear(config.mlp_dim, width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[B, T, D] -> [B, T, D]."""
    batch, tokens, width = x.shape
    y = self.ln_1(x)
    heads = lambda z: z.view(batch, tokens, self.num_heads, -1).transpose(1, 2)
    y = functional.scaled_dot_product_attention(
      heads(self.q(y)), heads(self.k(y)), heads(self.v(y))
    )
    x = x + self.out(y.transpose(1, 2).reshape(batch, tokens, width))
    y = self.fc1(self.ln_2(x))
    y = y * torch.sigmoid(1.702 * y) if self.quick else functional.gelu(y)
    return x + self.fc2(y)


class Detector(nn.Module):
  """Pixels to two logits."""

  def __init__(
    self,
    config: ViTConfig,
    linear: Callable[[int, int], nn.Module],
    mlp_linear: Callable[[int, int], nn.Module] | None = None,
  ):
    super().__init__()
    self.patches = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)
    self.cls = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
    self.positions = nn.Parameter(torch.randn(1, 1 + config.grid**2, config.width) * 0.02)
    self.ln_pre = nn.LayerNorm(config.width) if config.pre_norm else nn.Identity()
    self.blocks = nn.Sequential(*(Block(config, linear, mlp_linear) for _ in range(config.depth)))
    self.ln_post = nn.LayerNorm(config.width)
    self.head = nn.Linear(config.width, 2)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> [B, 2]."""
    pixels = (images.permute(0, 3, 1, 2).float() / 127.5 - 1).to(self.patches.weight.dtype)
    x = self.patches(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.positions
    x = self.blocks(self.ln_pre(x))
    return self.head(self.ln_post(x[:, 0])).float()


def _autocast(device: str, dtype: str) -> contextlib.AbstractContextManager:
  if dtype == 'float32':
    return contextlib.nullcontext()
  return torch.autocast(device, dtype=getattr(torch, dtype))


def device_name() -> str:
  """'cuda' where there is one, otherwise 'cpu'."""
  return 'cuda' if torch.cuda.is_available() else 'cpu'


def _finish(device: str) -> None:
  if device == 'cuda':
    torch.cuda.synchronize()


def training_step(
  method: str, config: ViTConfig, batch: dict[str, Any], *, dtype: str, compiled: bool,
  num_subspaces: int = 4, rank: int = 8, effort_code: str = '',
) -> Callable[[], None]:  # fmt: skip
  """A training step on a batch that stays; it returns when the step is done.

  Args:
    method: one of `METHODS`, or `effort` by its authors' code.
    config: the backbone.
    batch: `image` uint8 [B, H, W, 3] and `label` [B], NumPy.
    dtype: float32, or autocast's.
    compiled: through torch.compile.
    num_subspaces: K.
    rank: q.
    effort_code: see `effort_linear`.
  """
  device = device_name()
  torch.manual_seed(0)
  mlp_linear = None
  if method == 'effort':
    linear, mlp_linear = effort_linear(effort_code), nn.Linear
  elif method == 'masm':
    linear = lambda d_in, d_out: SubspaceLinear(d_in, d_out, num_subspaces, rank)
  else:
    linear = nn.Linear
  model = Detector(config, linear, mlp_linear).to(device)
  for name, parameter in model.named_parameters():
    trained = method == 'full' or name.startswith('head.')
    last = name.split('.')[-1]
    is_factor = (method == 'masm' and last in 'usv') or last in _EFFORT_FACTORS
    parameter.requires_grad_(trained or is_factor)
  trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
  optimizer = torch.optim.Adam(trained, lr=1e-4, weight_decay=5e-4, fused=device == 'cuda')
  layers = [module for module in model.modules() if isinstance(module, SubspaceLinear)]
  images = torch.from_numpy(batch['image']).to(device)
  labels = torch.from_numpy(batch['label']).long().to(device)

  def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    with _autocast(device, dtype):
      logits = model(images)
    return functional.cross_entropy(logits, labels) + sum(layer.penalty() for layer in layers)

  loss_fn = torch.compile(loss_of) if compiled else loss_of

  def step() -> None:
    optimizer.zero_grad(set_to_none=True)
    loss_fn(images, labels).backward()
    optimizer.step()
    _finish(device)

  return step


def inference(config: ViTConfig, images: Any, *, dtype: str, compiled: bool) -> Callable[[], None]:
  """Scoring of images uint8 [B, H, W, 3] with plain layers; it returns when they are scored."""
  device = device_name()
  model = Detector(config, nn.Linear).to(device, getattr(torch, dtype)).eval()
  run = torch.compile(model) if compiled else model
  placed = torch.from_numpy(images).to(device)

  def score() -> None:
    with torch.inference_mode():
      run(placed)
    _finish(device)

  return score
