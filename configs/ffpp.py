"""MASM and its rivals on FaceForensics++ c23, tested on Celeb-DF v2.

python -m masm_jax.main --config=configs/ffpp.py --workdir=runs/ffpp \
    --config.backbone.weights=weights/clip_l14.safetensors
python -m masm_jax.main --config=configs/ffpp.py:method=linear,backbone=clip_b16 ...

Manifests come from `python -m masm_jax.data import`; set their paths here or with
`--config.data.train.manifest=...`. No metric of MASM on these sets is verified by us yet.
"""

from configs import common

_FFPP = 'data/ffpp_c23/manifest.parquet'
_CELEBDF = 'data/celebdf_v2/manifest.parquet'


def get_config(arg=None):
  config = common.get_config()
  common.with_arguments(config, arg, {'method': 'method', 'backbone': 'backbone.name'})
  config.data.train = common.dataset(_FFPP, split='train')
  config.data.val = common.dataset(_FFPP, split='val')
  with config.unlocked():
    config.data.tests.ffpp = common.dataset(_FFPP, split='test')
    config.data.tests.celebdf_v2 = common.dataset(_CELEBDF, split='test')
  config.data.sampler = 'balanced'
  return config
