import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax.backbones import attention


def operands(num_queries, dtype, seed=0):
  """Query, key, value and a cotangent: 2 images, 3 heads of width 8, 7 keys."""
  rng = np.random.default_rng(seed)
  draw = lambda length: jnp.asarray(rng.normal(size=(2, length, 3, 8)), dtype)
  return draw(num_queries), draw(7), draw(7), draw(num_queries)


def reference(query, key, value, g):
  """Attention and its gradients in float64, from their definition."""
  query, key, value, g = (np.asarray(x, np.float64) for x in (query, key, value, g))
  logits = np.einsum('btnd,bsnd->bnts', query, key) / np.sqrt(query.shape[-1])
  probs = np.exp(logits - logits.max(-1, keepdims=True))
  probs /= probs.sum(-1, keepdims=True)
  d_probs = np.einsum('btnd,bsnd->bnts', g, value)
  d_logits = probs * (d_probs - (probs * d_probs).sum(-1, keepdims=True))
  d_logits /= np.sqrt(query.shape[-1])
  return (
    np.einsum('bnts,bsnd->btnd', probs, value),
    np.einsum('bnts,bsnd->btnd', d_logits, key),
    np.einsum('bnts,btnd->bsnd', d_logits, query),
    np.einsum('bnts,btnd->bsnd', probs, g),
  )


@pytest.mark.parametrize('num_queries', [7, 1])  # Of all tokens, or of the class token alone.
def test_attention_and_its_gradient_are_the_definition_s(num_queries):
  *qkv, g = operands(num_queries, jnp.float32)
  y, pull_back = jax.vjp(attention.attend, *qkv)
  for name, ours, exact in zip('yqkv', (y, *pull_back(g)), reference(*qkv, g), strict=True):
    np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=2e-6, err_msg=name)


def test_bfloat16_is_rounded_about_as_much_as_in_jax_s_own():
  """Which keeps twice the memory: its weights go to the backward pass in float32."""
  *qkv, g = operands(7, jnp.bfloat16)
  exact = reference(*qkv, g)
  errors = {}
  for name, fn in {'ours': attention.attend, 'jax': jax.nn.dot_product_attention}.items():
    with jax.numpy_dtype_promotion('standard'):
      y, pull_back = jax.vjp(fn, *qkv)
      found = (y, *pull_back(g))
    assert all(x.dtype == jnp.bfloat16 for x in found)
    pairs = zip(found, exact, strict=True)
    errors[name] = [np.abs(np.asarray(a, np.float64) - b).mean() for a, b in pairs]
  for ours, theirs in zip(errors['ours'], errors['jax'], strict=True):
    assert 0 < ours < 1.6 * theirs


def test_large_logits_do_not_overflow():
  query, key, value, g = operands(7, jnp.float32)
  query = 1e4 * query  # Logits of tens of thousands: each query sees one key.
  y, pull_back = jax.vjp(attention.attend, query, key, value)
  best = np.einsum('btnd,bsnd->bnts', query, key).argmax(-1)  # [B, N, T]
  expected = np.take_along_axis(
    np.asarray(value).transpose(0, 2, 1, 3), best[..., None], axis=2
  ).transpose(0, 2, 1, 3)
  np.testing.assert_allclose(y, expected, rtol=1e-6)
  assert all(np.isfinite(x).all() for x in pull_back(g))


def test_the_backward_pass_keeps_one_array_of_weights():
  """Of [B, N, T, S] values only the softmax's numerators go from one pass to the other."""
  *qkv, _ = operands(7, jnp.float32)
  _, residuals = jax.eval_shape(attention._attend_fwd, *qkv)
  assert sum(x.shape == (2, 3, 7, 7) for x in residuals) == 1
  assert sum(x.size for x in residuals) == 2 * 3 * (7 * 7 + 4 * 7 * 8 + 7)


def test_attention_that_cudnn_does_not_take_is_left_to_xla(monkeypatch, caplog):
  """On a machine without cuDNN, made to believe that it has a GPU."""
  shape = (5, 2, 8)
  attention.has_fused_attention.cache_clear()
  assert not attention.has_fused_attention(shape, shape, 'bfloat16')  # A CPU.
  attention.has_fused_attention.cache_clear()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert not attention.has_fused_attention(shape, shape, 'float32')  # Not of that type, ever.
  with caplog.at_level('WARNING'):
    assert not attention.has_fused_attention(shape, shape, 'bfloat16')
  assert 'no fused attention for (5, 2, 8) queries, (5, 2, 8) keys' in caplog.text
  attention.has_fused_attention.cache_clear()
