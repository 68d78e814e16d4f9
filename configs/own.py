"""Your own face crops: one manifest that has the splits train, val and test.

python -m masm_jax.data import --format folder --input crops/ --output crops/all.parquet
python -m masm_jax.data split crops/all.parquet --output crops/split.parquet
python -m masm_jax.main --config=configs/own.py:manifest=crops/split.parquet,backbone=clip_b16 \
    --config.backbone.weights=weights/clip_b16.safetensors --workdir=runs/own

`root=FOLDER` says where the manifest's paths start, if that is not its own folder; `method=METHOD`
chooses the method.
"""

from configs import common

_ARGUMENTS = {
  'method': 'method',
  'backbone': 'backbone.name',
  'manifest': 'data.train.manifest',
  'root': 'data.train.root',
}


def get_config(arg=None):
  config = common.get_config()
  common.with_arguments(config, arg, _ARGUMENTS)
  manifest, root = config.data.train.manifest, config.data.train.root
  config.data.train = common.dataset(manifest, split='train')
  config.data.val = common.dataset(manifest, split='val')
  with config.unlocked():
    config.data.tests.test = common.dataset(manifest, split='test')
  for spec in (config.data.train, config.data.val, config.data.tests.test):
    spec.root = root
  config.data.sampler = 'balanced'
  return config
