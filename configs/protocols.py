r"""The protocols of docs/evidence.md: what is trained on, chosen on and tested on, for all methods.

python -m masm_jax.sweep fair --base=protocols:protocol=within --workdir=runs/within \
    --config.backbone.weights=weights/vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors

`protocol=` is one of

- `within`: real and fake crops of DFDC; tested on other pairs;
- `unseen`: self-blended fakes of the same real crops alone; tested on the DFDC fakes;
- `across`: the built-in portraits; trained on four mechanisms, tested on them and three more.

`launch/dfdc_crops.py` makes the manifests of the first two. `recipe=equal`, the default, gives
every method the same sampler, augmentation, batches, schedule and number of steps; `published`
leaves each method the recipe of its own config file.
"""

from configs import common, demo

_PROTOCOLS = ('within', 'unseen', 'across')
_RECIPES = ('equal', 'published')
_FOLDER = 'data/dfdc'


def _dfdc(config, manifest):
  """Sets of DFDC crops; a run at 112 px takes seconds per step on a CPU core."""
  path = f'{_FOLDER}/{manifest}.parquet'
  config.backbone.name = 'augreg_ti16'
  config.backbone.image_size = 112
  config.data.train = common.dataset(path, split='train')
  config.data.val = common.dataset(path, split='val')
  with config.unlocked():
    config.data.tests.dfdc = common.dataset(path, split='test')
  config.data.sampler = 'paired'


def _equal(config, protocol):
  """The same for every method; learning rates are searched, see configs/fair.py."""
  steps = 400 if protocol == 'across' else 300
  config.train.batch_size = 32
  config.train.duration = f'{steps} steps'
  config.eval.every = f'{steps} steps'  # A cosine is best at its end: no step before it is scored.
  config.checkpoint.every = '100 steps'
  config.optim.schedule = 'cosine'
  config.optim.warmup = f'{steps // 10} steps'
  config.optim.warmup_from = 0.0
  config.optim.final_learning_rate = 0.0
  config.optim.restart_every = '0 epochs'
  # Clipping would shrink the gradient beside the L2 that some methods are published with.
  config.optim.clip_norm = 0.0
  config.mask.warmup_steps = min(config.mask.warmup_steps, 100)
  config.mask.refresh_steps = min(config.mask.refresh_steps, 100)
  if protocol != 'unseen':  # Which is its augmentation.
    config.data.augment = 'flip' if protocol == 'across' else 'none'


def get_config(arg=None):
  options = {'protocol': 'within', 'recipe': 'equal', 'method': 'masm'}
  for part in filter(None, (arg or '').split(',')):
    name, equals, value = part.partition('=')
    if name not in options or not equals:
      raise ValueError(f'config argument {part!r}: there are {"=..., ".join(options)}=...')
    options[name] = value
  protocol, recipe = options['protocol'], options['recipe']
  if protocol not in _PROTOCOLS:
    raise ValueError(f'no protocol {protocol!r}: choose one of {", ".join(_PROTOCOLS)}')
  if recipe not in _RECIPES:
    raise ValueError(f'no recipe {recipe!r}: choose one of {", ".join(_RECIPES)}')
  config = common.get_config()
  common.set_method(config, options['method'])
  if protocol == 'across':
    demo.set_data(config)
    with config.unlocked():
      config.data.tests.unseen = common.dataset('synthetic', split='test', methods=demo.HELD_OUT)
  else:
    _dfdc(config, protocol)
  if protocol == 'unseen':
    config.data.augment = 'sbi'
  if recipe == 'equal':
    _equal(config, protocol)
  return config
