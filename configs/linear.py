r"""Linear probe on FaceForensics++ c23. [ours: the learning rate]

python -m masm_jax.main --config=configs/linear.py --workdir=runs/linear \
    --config.backbone.weights=weights/clip_l14.safetensors
"""

from configs import ffpp


def preset(config):
  """Sets what the method is, and the recipe that goes with it."""
  config.mask.kind = 'none'
  config.optim.learning_rate = 1e-3
  config.optim.weight_decay = 5e-4  # L2 of the head.


def get_config(arg=None):
  return ffpp.get_config(f'method=linear,{arg or ""}')
