"""The demo: MASM, a linear probe and full fine-tuning on the built-in synthetic portraits.

python -m masm_jax.demo --workdir=runs/demo        (all three methods, one table, one picture)
python -m masm_jax.main --config=configs/demo.py:method=masm --workdir=runs/demo_masm

Trained on four forgery mechanisms, tested on three others that are held out. The portraits are
drawn by the program: the metrics show that it works, and prove nothing about real deepfakes.
"""

from configs import common

_KNOWN = ('swap', 'upsample', 'reenact', 'texture')
HELD_OUT = ('checkerboard', 'poisson', 'regenerate')


def set_data(config):
  """The built-in portraits: four mechanisms to train on, these and three others to test on."""
  config.backbone.name = 'demo_vit'  # Its weights ship with the package.
  config.data.synthetic.identities = 180  # Of 90, the model learns the 60 it trains on by heart.
  config.data.synthetic.strength = 3.0  # At 1 so small a model needs far longer to find a trace.
  config.data.train = common.dataset('synthetic', split='train')
  config.data.val = common.dataset('synthetic', split='val')
  with config.unlocked():
    config.data.tests.known = common.dataset('synthetic', split='test', methods=_KNOWN)
    for method in HELD_OUT:
      config.data.tests[method] = common.dataset('synthetic', split='test', methods=(method,))
  config.data.sampler = 'balanced'
  config.data.augment = 'flip'  # At 64 px the gend preset hides most of what is to be found.


def get_config(arg=None):
  config = common.get_config()
  common.with_arguments(config, arg, {'method': 'method'})  # The recipe below is for all methods.
  set_data(config)
  config.train.batch_size = 32
  config.train.duration = '5 epochs'
  config.optim.warmup = '0.5 epochs'
  config.optim.schedule = 'cosine'
  config.optim.clip_norm = 1.0
  # One rate does not fit all. At 5e-3 the factors were still guessing after 480 steps.
  rates = {'full': 5e-4, 'bvg_ls': 5e-4}
  rates |= dict.fromkeys(('linear', 'ln', 'gend', 'bitfit'), 5e-3)
  config.optim.learning_rate = rates.get(config.method, 1e-3)
  return config
