r"""FMSD (arXiv 2601.01041v3) on FaceForensics++ c23. [ours: the share kept, the probe's length]

python -m masm_jax.main --config=configs/fmsd.py --workdir=runs/fmsd \
    --config.backbone.weights=weights/clip_l14.safetensors

Controls: `--config.mask.kind=random`, `inverse` or `all` choose other layers by the same probe.
"""

from configs import ffpp


def preset(config):
  """Sets what the method is, and the recipe that goes with it."""
  config.mask.kind = 'oneshot'
  config.mask.granularity = 'block'
  config.mask.score = 'bvr_unbiased'
  config.mask.keep_by = 'share'
  config.mask.keep = 0.5
  config.mask.probe_batches = 32
  config.mask.head_batches = 32


def get_config(arg=None):
  return ffpp.get_config(f'method=fmsd,{arg or ""}')
