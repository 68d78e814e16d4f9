r"""Pretraining of the demo's tiny ViT on what synthetic portraits show: who, which way, what light.

python -m masm_jax.pretrain --config=configs/demo_pretrain.py \
    --output=masm_jax/assets/demo_vit.safetensors

Seeded; about 15 minutes on 2 CPU cores. No forgery is ever shown: the demo's detectors meet them
on top of a backbone that knows faces alone, as a published backbone knows pictures alone.
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 1_000_003  # Another population of faces than the demo's.
  config.backbone = 'demo_vit'  # A preset of masm_jax/backbones.
  config.num_images = 18_000  # Portraits drawn for training.
  config.num_test_images = 1_000  # Drawn apart, for the closing metrics.
  config.num_identities = 300  # People among them.
  config.batch_size = 64  # Images per step.
  config.num_steps = 2_600  # Steps of AdamW.
  config.learning_rate = 1e-3  # Peak, after a linear warm-up, then cosine to 0.
  config.warmup_steps = 100  # Of the learning rate.
  config.weight_decay = 0.05  # On kernels alone.
  config.shift_px = 4  # Each image is moved by up to so many pixels either way.
  config.num_processes = 2  # That draw portraits.
  return config.lock()
