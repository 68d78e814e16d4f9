r"""Full fine-tuning on FaceForensics++ c23. [ours: the learning rate]

python -m masm_jax.main --config=configs/full.py --workdir=runs/full \
    --config.backbone.weights=weights/clip_l14.safetensors
"""

from configs import ffpp


def preset(config):
  """Sets what the method is, and the recipe that goes with it."""
  config.mask.kind = 'none'
  config.optim.learning_rate = 1e-5
  config.optim.weight_decay = 5e-4  # L2 in the gradient: kernels of full size bear it.


def get_config(arg=None):
  return ffpp.get_config(f'method=full,{arg or ""}')
