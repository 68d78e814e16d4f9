r"""BVG-LS (ACCV 2024) on FaceForensics++ c23. [ours: the learning rate, what a layer is]

python -m masm_jax.main --config=configs/bvg_ls.py --workdir=runs/bvg_ls \
    --config.backbone.weights=weights/clip_l14.safetensors
"""

from configs import ffpp


def preset(config):
  """Sets what the method is, and the recipe that goes with it."""
  config.mask.kind = 'dynamic'
  config.mask.granularity = 'block'
  config.mask.score = 'bvr'
  config.mask.select = 'global'
  config.mask.keep_by = 'share'
  config.mask.keep_count = 1
  config.mask.warmup_steps = 2
  config.mask.refresh_steps = 1
  config.mask.decay = 0.9
  config.mask.hysteresis = 0.0
  config.optim.learning_rate = 1e-5
  config.optim.weight_decay = 5e-4  # L2 in the gradient: kernels of full size bear it.


def get_config(arg=None):
  return ffpp.get_config(f'method=bvg_ls,{arg or ""}')
