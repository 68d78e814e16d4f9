r"""What a fair comparison searches for each row: equally many runs for all.

python -m masm_jax.sweep fair --base=protocols:protocol=across --workdir=runs/fair_across \
    --methods=masm,lora,full,linear --seeds=0,1,2,3,4

A row has `fields` (its method, and what makes it a row of its own), five learning `rates`, and
`own`: one or two fields of the method itself with the values that are tried at the best rate; the
first one stands before. Rates are those that published recipes of such methods span.
"""

from configs import masm_v01

BASE = 'protocols:protocol=across'

# Half a decade apart: the best one should lie within.
_FACTORS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # Of low-rank factors.
_SMALL = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # Of few parameters: norms, biases, heads.
_ALL = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)  # Of whole networks.
_MORE = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)  # Of whole networks, a layer at a time.
_SMOOTHING = {'head.label_smoothing': (0.0, 0.1)}
_L2 = {'optim.weight_decay': (5e-4, 0.0)}
_SKELETON = {
  'method': 'masm',
  'mask.kind': 'none',
  'regularizer.orthogonality': 0.0,
  'regularizer.spectral': 0.0,
}

ROWS = {
  'masm': {'fields': {'method': 'masm'}, 'rates': _FACTORS, 'own': {'mask.keep': (0.9, 0.75)}},
  'masm_v01': {
    'fields': {'method': 'masm', **masm_v01.FIELDS},
    'rates': _FACTORS,
    'own': {'mask.keep': (0.5, 0.75)},
  },
  'skeleton': {'fields': _SKELETON, 'rates': _FACTORS, 'own': _SMOOTHING},
  'fmsd': {'fields': {'method': 'fmsd'}, 'rates': _FACTORS, 'own': {'mask.keep': (0.5, 0.75)}},
  'fmsd_random': {
    'fields': {'method': 'fmsd', 'mask.kind': 'random'},
    'rates': _FACTORS,
    'own': {'mask.keep': (0.5, 0.75)},
  },
  'fmsd_inverse': {
    'fields': {'method': 'fmsd', 'mask.kind': 'inverse'},
    'rates': _FACTORS,
    'own': {'mask.keep': (0.5, 0.75)},
  },
  'effort': {'fields': {'method': 'effort'}, 'rates': _FACTORS, 'own': _L2},
  'effort_published': {
    'fields': {'method': 'effort_published'},
    'rates': _FACTORS,
    'own': _L2,
  },
  'gend': {'fields': {'method': 'gend'}, 'rates': _SMALL, 'own': _SMOOTHING},
  'ln': {'fields': {'method': 'ln'}, 'rates': _SMALL, 'own': _SMOOTHING},
  'bitfit': {'fields': {'method': 'bitfit'}, 'rates': _SMALL, 'own': _SMOOTHING},
  'lora': {
    'fields': {'method': 'lora'},
    'rates': _FACTORS,
    'own': {'lora.targets': ('attention', 'all')},
  },
  'linear': {'fields': {'method': 'linear'}, 'rates': _SMALL, 'own': _SMOOTHING},
  'full': {'fields': {'method': 'full'}, 'rates': _ALL, 'own': {'optim.weight_decay': (0.0, 5e-4)}},
  'bvg_ls': {'fields': {'method': 'bvg_ls'}, 'rates': _MORE, 'own': {'mask.decay': (0.9, 0.99)}},
}
