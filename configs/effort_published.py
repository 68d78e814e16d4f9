r"""Effort (arXiv 2411.15633) as published, with both of its losses, on FaceForensics++ c23.

[kin] Weight 1 for each loss, averaged over the kernels, singular values kept in their own scale.

python -m masm_jax.main --config=configs/effort_published.py --workdir=runs/effort_published \
    --config.backbone.weights=weights/clip_l14.safetensors
"""

from configs import effort, ffpp


def preset(config):
  """Sets what the method is, and the recipe that goes with it."""
  effort.preset(config)
  config.regularizer.orthogonality = 1.0
  config.regularizer.w_sem = 2.0
  config.regularizer.spectral = 1.0
  config.regularizer.spectral_kind = 'energy'
  config.regularizer.relative_energy = False
  config.regularizer.squared = False


def get_config(arg=None):
  return ffpp.get_config(f'method=effort_published,{arg or ""}')
