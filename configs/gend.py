r"""GenD (arXiv 2508.06248) on FaceForensics++ c23: LayerNorms, features of length 1, three losses.

[kin] The recipe: AdamW without decay, one warm-up epoch from 1e-5 to 3e-4, then a cosine to 1e-5
that begins anew every 10 epochs, 30 epochs of batches of 128.

python -m masm_jax.main --config=configs/gend.py --workdir=runs/gend \
    --config.backbone.weights=weights/clip_l14.safetensors
"""

from configs import ffpp


def preset(config):
  """Sets what the method is, and the recipe that goes with it."""
  config.head.normalize_features = True
  config.loss.uniformity = 0.5
  config.loss.alignment = 0.1
  config.mask.kind = 'none'
  config.optim.name = 'adamw'
  config.optim.weight_decay = 0.0
  config.optim.learning_rate = 3e-4
  config.optim.warmup = '1 epochs'
  config.optim.warmup_from = 1e-5
  config.optim.schedule = 'cosine'
  config.optim.final_learning_rate = 1e-5
  config.optim.restart_every = '10 epochs'
  config.train.batch_size = 128
  config.train.duration = '30 epochs'
  config.data.augment = 'gend'


def get_config(arg=None):
  return ffpp.get_config(f'method=gend,{arg or ""}')
