r"""MASM as version 0.1 had it by default, for comparison: see docs/evidence.md for what it costs.

python -m masm_jax.main --config=configs/masm_v01.py --workdir=runs/masm_v01 \
    --config.backbone.weights=weights/clip_l14.safetensors

A mask of half the groups by `bvr`, drawn anew every 20 steps from a short memory; both losses as
published, the spectral one relative to the whole kernel; L2 in Adam's gradient.
"""

from configs import ffpp

FIELDS = {
  'subspace.parametrization': 'svd',
  'mask.kind': 'dynamic',
  'mask.score': 'bvr',
  'mask.select': 'per_subspace',
  'mask.keep_by': 'share',
  'mask.keep': 0.5,
  'mask.hysteresis': 0.0,
  'mask.warmup_steps': 20,
  'mask.close_steps': 0,
  'mask.refresh_steps': 20,
  'mask.decay': 0.9,
  'regularizer.mode': 'loss',
  'regularizer.orthogonality': 1.0,
  'regularizer.w_self': 1.0,
  'regularizer.w_cross': 2.0,
  'regularizer.w_sem': 2.0,
  'regularizer.squared': True,
  'regularizer.spectral': 1.0,
  'regularizer.spectral_kind': 'energy',
  'regularizer.relative_energy': True,
  'regularizer.energy_of': 'kernel',
  'optim.name': 'adam',
  'optim.weight_decay': 5e-4,
  'optim.decay_towards': 'zero',
}


def get_config(arg=None):
  config = ffpp.get_config(f'method=masm,{arg or ""}')
  config.update_from_flattened_dict(FIELDS)
  return config
