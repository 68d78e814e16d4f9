import numpy as np
import pytest

from masm_jax.backbones import backbone

PUBLISHED = {
  'IDENTITY': (4,),
  'LINEAR': (6, 4),
  'CONV': (5, 3, 2, 2),
  'VECTOR_TOKEN': (4,),
  'EMBEDDING': (7, 4),
  'FUSED_LINEAR': (12, 4),
  'FUSED_BIAS': (12,),
  'PAIRED_LINEAR': (8, 4),
  'PAIRED_BIAS': (8,),
  'WITHOUT_CLASS_ROW': (1, 9, 4),
}


def test_every_transform_is_tested():
  names = {name for name, value in vars(backbone).items() if isinstance(value, backbone.Transform)}
  assert names == set(PUBLISHED)


@pytest.mark.parametrize('name', PUBLISHED)
def test_export_is_the_inverse_of_load(name):
  transform = getattr(backbone, name)
  shape = PUBLISHED[name]
  array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  np.testing.assert_array_equal(transform.export(*transform.load(array)), array)


def test_layouts():
  linear = np.arange(12.0).reshape(6, 2)
  assert [part.tolist() for part in backbone.FUSED_LINEAR.load(linear)] == [
    [[0, 2], [1, 3]],
    [[4, 6], [5, 7]],
    [[8, 10], [9, 11]],
  ]
  conv = np.arange(60.0).reshape(5, 3, 2, 2)
  (kernel,) = backbone.CONV.load(conv)
  assert kernel.shape == (2, 2, 3, 5)
  assert kernel[1, 0, 2, 4] == conv[4, 2, 1, 0]


def test_expand_fills_in_the_blocks():
  table = backbone.KeyTable(
    rules={
      'norm': (('ln',), backbone.IDENTITY),
      'b.{}.w': (('block_{}/q', 'block_{}/k'), backbone.IDENTITY),
    }
  )
  assert {name: targets for name, (targets, _) in table.expand(11).items()} == {
    'norm': ('ln',),
    **{f'b.{i}.w': (f'block_{i:02d}/q', f'block_{i:02d}/k') for i in range(11)},
  }
