r"""MASM (arXiv 2601.01041v1) on FaceForensics++ c23, the defaults of `common.py`.

python -m masm_jax.main --config=configs/masm.py --workdir=runs/masm \
    --config.backbone.weights=weights/clip_l14.safetensors

docs/evidence.md says what they rest on; `masm_v01` has the form of version 0.1.
"""

from configs import ffpp


def preset(config):
  """Sets what the method is, and the recipe that goes with it."""
  config.mask.kind = 'dynamic'


def get_config(arg=None):
  return ffpp.get_config(f'method=masm,{arg or ""}')
