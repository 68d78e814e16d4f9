"""The names of Flax trees: vision_transformer, big_vision and Scenic (`.npz` and `.msgpack` files).

A name joins the keys by `/`. Attention has kernels with an axis for the heads there.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from masm_jax import plain_files
from masm_jax.backbones import backbone
from masm_jax.errors import UserError

_BLOCK = 'Transformer/encoderblock_{}/'
SUFFIXES = ('.npz', '.msgpack')
# Where a checkpoint keeps the parameters; big_vision's `.npz` begin their names so, too.
_CONTAINERS = ('params', 'optimizer/target', 'opt/target', 'target')


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Names and arrays of a `.npz` or `.msgpack` file; floats as float32. No pickle is read.

  Raises:
    UserError: it is damaged, or holds no arrays.
  """
  try:
    if path.suffix == '.npz':
      with plain_files.open_file(path) as opened:
        plain_files.refuse_bomb(opened)
        with np.load(opened, allow_pickle=False) as file:
          flat: Mapping[str, Any] = {name: file[name] for name in file.files}
    else:
      tree = serialization.msgpack_restore(
        plain_files.read_bytes(path, max_bytes=plain_files.MAX_ARRAYS_BYTES)
      )
      flat = traverse_util.flatten_dict(tree, sep='/')
    arrays = {name: _as_array(name, value) for name, value in flat.items()}
  except Exception as error:  # Of many types: it may be any file.
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    raise UserError(f'{path} is no whole {path.suffix} file of Flax: {reason}') from error
  for container in _CONTAINERS:
    inside = {
      name.removeprefix(f'{container}/'): value
      for name, value in arrays.items()
      if name.startswith(f'{container}/')
    }
    arrays = inside or arrays
  return {
    name: value.astype(np.float32, copy=False) if value.dtype.kind in 'fV' else value
    for name, value in arrays.items()
  }


def _as_array(name: str, value: Any) -> np.ndarray:
  try:
    return np.asarray(value)
  except ValueError as error:  # Rows of unequal lengths.
    raise ValueError(f'{name} is no array') from error


def _attention(source: str, num_heads: int) -> backbone.Rules:
  """Rules for `MultiHeadDotProductAttention`: q, k, v [D, N, d], out [N, d, D]."""

  def split(axis: int) -> backbone.Transform:
    def load(x: np.ndarray) -> tuple[np.ndarray]:
      shape = list(x.shape)
      return (x.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :]),)

    def export(x: np.ndarray) -> np.ndarray:
      head_dim = x.shape[axis] // num_heads
      return x.reshape(*x.shape[:axis], num_heads, head_dim, *x.shape[axis + 1 :])

    return backbone.Transform(load, export)

  rules: dict[str, tuple[tuple[str, ...], backbone.Transform]] = {}
  for part, name in {'q': 'query', 'k': 'key', 'v': 'value'}.items():
    rules[f'{source}/{name}/kernel'] = ((f'block_{{}}/attn/{part}/kernel',), split(1))
    rules[f'{source}/{name}/bias'] = ((f'block_{{}}/attn/{part}/bias',), split(0))
  rules[f'{source}/out/kernel'] = (('block_{}/attn/out/kernel',), split(0))
  rules[f'{source}/out/bias'] = (('block_{}/attn/out/bias',), backbone.IDENTITY)
  return rules


def _same(source: str, target: str, *leaves: str) -> backbone.Rules:
  return {f'{source}/{leaf}': ((f'{target}/{leaf}',), backbone.IDENTITY) for leaf in leaves}


def vit_keys(num_heads: int) -> tuple[backbone.KeyTable, ...]:
  """A plain ViT with a class token, in the names of vision_transformer, Scenic and big_vision."""
  # Modules are counted together in the first, by their class in the others.
  numbers = ((1, 2, 3, 'Transformer/posembed_input/'), (0, 1, 0, 'Transformer/posembed_input/'))
  return tuple(
    backbone.KeyTable(
      rules={
        'cls': (('cls_token',), backbone.IDENTITY),
        f'{place}pos_embedding': (('pos_embed',), backbone.IDENTITY),
        **_same('embedding', 'patch_embed', 'kernel', 'bias'),
        **_same(_BLOCK + 'LayerNorm_0', 'block_{}/ln_1', 'scale', 'bias'),
        **_attention(f'{_BLOCK}MultiHeadDotProductAttention_{attention}', num_heads),
        **_same(f'{_BLOCK}LayerNorm_{norm}', 'block_{}/ln_2', 'scale', 'bias'),
        **_same(f'{_BLOCK}MlpBlock_{mlp}/Dense_0', 'block_{}/mlp/fc1', 'kernel', 'bias'),
        **_same(f'{_BLOCK}MlpBlock_{mlp}/Dense_1', 'block_{}/mlp/fc2', 'kernel', 'bias'),
        **_same('Transformer/encoder_norm', 'ln_post', 'scale', 'bias'),
      },
      ignored=(r'(head|pre_logits|output_projection)/(kernel|bias)',),
    )
    for attention, norm, mlp, place in (*numbers, (0, 1, 0, ''))
  )


def scenic_clip_keys(num_heads: int) -> backbone.KeyTable:
  """CLIP's vision tower in Scenic's names."""
  block = 'visual/transformer/resblocks.{}/'
  return backbone.KeyTable(
    rules={
      'visual/conv1/kernel': (('patch_embed/kernel',), backbone.IDENTITY),
      'visual/class_embedding': (('cls_token',), backbone.VECTOR_TOKEN),
      'visual/positional_embedding': (('pos_embed',), backbone.EMBEDDING),
      **_same('visual/ln_pre', 'ln_pre', 'scale', 'bias'),
      **_same(block + 'ln_1', 'block_{}/ln_1', 'scale', 'bias'),
      **_attention(block + 'attn', num_heads),
      **_same(block + 'ln_2', 'block_{}/ln_2', 'scale', 'bias'),
      **_same(block + 'mlp/c_fc', 'block_{}/mlp/fc1', 'kernel', 'bias'),
      **_same(block + 'mlp/c_proj', 'block_{}/mlp/fc2', 'kernel', 'bias'),
      **_same('visual/ln_post', 'ln_post', 'scale', 'bias'),
    },
    ignored=(r'text/.+', r'visual/proj/kernel', r'logit_scale'),
  )
