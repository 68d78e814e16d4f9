r"""LoRA (arXiv 2106.09685) on FaceForensics++ c23. [ours: targets, rank, alpha and the recipe]

python -m masm_jax.main --config=configs/lora.py --workdir=runs/lora \
    --config.backbone.weights=weights/clip_l14.safetensors
"""

from configs import ffpp


def preset(config):
  """Sets what the method is, and the recipe that goes with it."""
  config.mask.kind = 'none'
  config.lora.dropout = 0.05


def get_config(arg=None):
  return ffpp.get_config(f'method=lora,{arg or ""}')
