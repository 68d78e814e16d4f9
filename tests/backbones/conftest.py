"""Reference models in PyTorch with every parameter away from its initial value."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types

import numpy as np
import pytest
import torch


@pytest.fixture
def randomize():
  """Gives a torch module weights under which no bias, scale or transposition can hide."""

  def apply(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
      for name, value in module.named_parameters():
        if value.ndim > 1:
          value.normal_(0, value[0].numel() ** -0.5, generator=generator)
        else:
          value.normal_(0, 0.3, generator=generator)
          if 'norm' in name and name.endswith('weight'):
            value.add_(1)
    return module.eval()

  return apply


@pytest.fixture
def assert_parity():
  """Fails unless two arrays agree to 1e-5 of the largest value."""

  def check(stage: str, ours, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape, stage
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error < tolerance, f'{stage}: relative error {error:.1e}'

  return check


class _NoTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """An empty package in the place of torchvision, of which timm's transformers use nothing."""

  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] == 'torchvision':
      return importlib.machinery.ModuleSpec(name, self, is_package=True)
    return None

  def create_module(self, spec):
    return _Empty(spec.name)

  def exec_module(self, module):
    pass


class _Names(type):
  def __getattr__(cls, name):
    return name


class _Empty(types.ModuleType):
  def __getattr__(self, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return _Names(name, (), {})


@pytest.fixture(scope='session')
def timm():
  """The timm library; without torchvision, which has no build for this torch, nothing is lost."""
  pytest.importorskip('transformers')  # First: it asks for torchvision, and must not find ours.
  finder = _NoTorchvision()
  if importlib.util.find_spec('torchvision') is None:
    sys.meta_path.append(finder)
  try:
    return pytest.importorskip('timm')
  finally:
    if finder in sys.meta_path:
      sys.meta_path.remove(finder)
      for name in [name for name in sys.modules if name.partition('.')[0] == 'torchvision']:
        del sys.modules[name]
