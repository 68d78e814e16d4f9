r"""Effort (arXiv 2411.15633) as its authors released it, on FaceForensics++ c23.

[kin] One rank-1 residual per attention kernel, no mask, no regularizer; L2 5e-4 in the gradient;
Adam, learning rate 2e-4, batch 32 are the defaults of `common.py`.

python -m masm_jax.main --config=configs/effort.py --workdir=runs/effort \
    --config.backbone.weights=weights/clip_l14.safetensors
"""

from configs import ffpp


def preset(config):
  """Sets what the method is, and the recipe that goes with it."""
  config.subspace.num_subspaces = 1
  config.subspace.rank = 1
  config.subspace.targets = 'attention'
  config.mask.kind = 'none'
  config.regularizer.orthogonality = 0.0
  config.regularizer.spectral = 0.0
  config.data.augment = 'effort'
  config.optim.weight_decay = 5e-4  # [kin] The authors' L2, in Adam's gradient.


def get_config(arg=None):
  return ffpp.get_config(f'method=effort,{arg or ""}')
