"""A trained detector on other data sets, with intervals: the protocols of the field.

python -m masm_jax.evaluate --checkpoint=runs/ffpp --out=runs/eval --suite=configs/cross_eval.py

    --suite=configs/cross_eval.py:protocol=within             (or cross_manipulation)
    --suite=configs/cross_eval.py:protocol=run                (the tests of the run's own config)
    --suite=configs/cross_eval.py:sets=cdfv2+dfdc             (only these; any NAME will do)
    --suite=configs/cross_eval.py:robustness=deeperforensics  (or gend, or CS+GB+VC+...)

A set NAME is read from data/NAME/manifest.parquet, or from --suite.sets.NAME.manifest=...; that
flag alone adds the set to those of the protocol (with protocol=run, the run's own tests are then
left out). `python -m masm_jax.data import` makes a manifest. Thresholds come from the run's own
validation set.

Names are those of the published tables, so that `python -m masm_jax.compare` can set them beside.
VC and video_CS, ... are of whole videos: crops of perturbed copies, see suite.robustness.copies.
"""

from configs import common

_CROSS_DATASET = (
  *('cdfv1', 'cdfv2', 'cdfv3', 'dfd', 'dfdc', 'dfdcp', 'dfo', 'wdf', 'ffiw', 'uadfv'),
  *('faceshifter', 'kodf', 'fakeavceleb', 'dfdm', 'polyglotfake', 'idforge'),
  *('deepspeak_v1', 'deepspeak_v2', 'deepfake_eval_2024'),
)
_PROTOCOLS = ('within', 'cross_dataset', 'cross_manipulation')  # Beside run.
_FFPP_METHODS = ('DF', 'F2F', 'FS', 'NT')
_DF40_GROUPS = ('known', 'unknown', 'fs', 'fr', 'efs', 'fe')
_PERTURBATIONS = {
  'deeperforensics': ('CS', 'CC', 'BW', 'GNC', 'GB', 'PX'),
  'gend': ('gend_jpeg', 'gend_blur', 'gend_resize', 'gend_noise'),
}


def _sets(protocol):
  """{name: dataset(...)} of a protocol."""
  if protocol == 'run':
    return {}
  if protocol == 'cross_dataset':
    return {name: _test(name) for name in _CROSS_DATASET}
  by_method = {
    f'ffpp_{name}': common.dataset(_path('ffpp_c23'), 'test', (name,)) for name in _FFPP_METHODS
  }
  if protocol == 'within':
    return {name: _test(name) for name in ('ffpp_c23', 'ffpp_c40')} | by_method
  if protocol == 'cross_manipulation':
    return by_method | {f'df40_{name}': _test(f'df40_{name}') for name in _DF40_GROUPS}
  raise ValueError(f'no protocol {protocol!r}; there are run, {", ".join(_PROTOCOLS)}')


def _test(name):
  return common.dataset(_path(name), split='test')


def _path(name):
  return f'data/{name}/manifest.parquet'


def get_config(arg=None):
  options = {'protocol': 'cross_dataset', 'sets': '', 'robustness': ''}
  for part in filter(None, (arg or '').split(',')):
    name, equals, value = part.partition('=')
    if name not in options or not equals:
      raise ValueError(f'suite argument {part!r}: there are {"=..., ".join(options)}=...')
    options[name] = value
  suite = common.get_suite()
  sets = _sets(options['protocol'])
  named = [name for name in options['sets'].split('+') if name]
  published = {name: spec for protocol in _PROTOCOLS for name, spec in _sets(protocol).items()}
  with suite.unlocked():
    for name in named or sets:
      suite.sets[name] = sets.get(name) or published.get(name) or _test(name)
  keys = [key for key in options['robustness'].split('+') if key not in ('', 'none')]
  suite.robustness.perturbations = tuple(
    dict.fromkeys(name for key in keys for name in _PERTURBATIONS.get(key, (key,)))
  )
  return suite
