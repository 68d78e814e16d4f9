r"""MASM (arXiv 2601.01041v1) on FaceForensics++ c23, in the form that docs/evidence.md chose.

python -m masm_jax.main --config=configs/masm.py --workdir=runs/masm \
    --config.backbone.weights=weights/clip_l14.safetensors

`masm_v01` has the form of version 0.1.
"""

from configs import ffpp

FIELDS = {
  'mask.kind': 'dynamic',
  'mask.score': 'grad_norm',  # Two halves of the batches agree on it.
  'mask.keep_by': 'score',  # What carries a tenth of the gradient rests, not half of the groups.
  'mask.keep': 0.9,
  'regularizer.mode': 'loss',
  'regularizer.orthogonality': 1.0,
  'regularizer.w_self': 0.0,  # Lengths and directions within a subspace are free,
  'regularizer.w_cross': 2.0,  # subspaces stay apart from each other,
  'regularizer.w_sem': 0.0,  # and may leave the span that they began in.
  'regularizer.spectral': 1.0,
  'regularizer.spectral_kind': 'energy',
  'regularizer.relative_energy': True,
  'regularizer.energy_of': 'artifact',
}


def preset(config):
  """Sets what the method is, and the recipe that goes with it."""
  config.update_from_flattened_dict(FIELDS)


def get_config(arg=None):
  return ffpp.get_config(f'method=masm,{arg or ""}')
