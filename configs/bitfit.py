r"""BitFit (arXiv 2106.10199) on FaceForensics++ c23. [ours: the recipe, as in `common.py`]

python -m masm_jax.main --config=configs/bitfit.py --workdir=runs/bitfit \
    --config.backbone.weights=weights/clip_l14.safetensors
"""

from configs import ffpp


def preset(config):
  """Sets what the method is, and the recipe that goes with it."""
  config.mask.kind = 'none'


def get_config(arg=None):
  return ffpp.get_config(f'method=bitfit,{arg or ""}')
