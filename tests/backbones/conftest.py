"""Reference models in PyTorch with every parameter away from its initial value."""

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
