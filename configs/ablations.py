"""Named sweeps: what one row of an ablation table changes, and nothing else.

python launch/sweep.py --list
python launch/sweep.py components --workdir=runs/components
python launch/sweep.py mask --workdir=runs/mask --base=configs/ffpp.py:backbone=clip_b16 \
    --config.backbone.weights=weights/clip_b16.safetensors

A row is a mapping from fields of `configs/common.py` to values; what it does not name is as the
base config has it. `method` goes to the base config as its argument, so that the config may fit
other fields to it. All sweeps and what their rows mean are [ours]: the paper's own tables are not
known.

What to know when reading them: without a mask, K subspaces of rank q and one of rank K*q are the
same model. Their factors are the same numbers, sorted into other arrays; so are the loss, the
gradients, Adam's steps and, with the default weights (w_self = 1, w_cross = 2), the orthogonality
loss (`tests/sweep/test_ablations.py` holds that). How components are dealt out (`split`) then has
no effect either. K matters through the layer mask, which switches (block, subspace) groups, and
through how many components K*q are trained at all.
"""

from configs import masm_v01

BASE = 'demo'

# The demo in a third of the time, on the two mechanisms that its small model can learn by then.
_EASY = ('swap', 'upsample')
BASE_FIELDS = {
  'data.train.methods': _EASY,
  'data.val.methods': _EASY,
  'data.tests.known.methods': _EASY,
  'train.duration': '240 steps',
  'eval.every': '60 steps',
  'checkpoint.every': '60 steps',
  'optim.warmup': '30 steps',
}

# What takes each component of the method away; a component that is there is as the base has it.
_WITHOUT = {
  'mask': {'mask.kind': 'none'},
  'subspaces': {'subspace.num_subspaces': 1},
  'orthogonality': {'regularizer.orthogonality': 0.0},
  'spectrum': {'regularizer.spectral': 0.0},
}


def _with(*components):
  """The base config with these components alone."""
  absent = (fields for name, fields in _WITHOUT.items() if name not in components)
  return {field: value for fields in absent for field, value in fields.items()}


def _values(field, *values, name=''):
  """A row per value of one field."""
  return {f'{name}{value}': {field: value} for value in values}


# No mask and no loss: what is left are the factors.
_SKELETON = {
  'mask.kind': 'none',
  'regularizer.orthogonality': 0.0,
  'regularizer.spectral': 0.0,
}


def _form(fields, *groups):
  """The skeleton with those of the fields that begin so."""
  return _SKELETON | {name: value for name, value in fields.items() if name.startswith(groups)}


def _alone(field):
  """The skeleton with the part that this field switches as the base config has it."""
  return {name: value for name, value in _SKELETON.items() if name != field}


# Which fields make up each named part of the method.
_ORTHOGONAL = (
  'regularizer.orthogonality', 'regularizer.w_', 'regularizer.mode', 'regularizer.squared'
)  # fmt: skip
_SPECTRAL = (
  'regularizer.spectral', 'regularizer.energy_of', 'regularizer.relative_energy'
)  # fmt: skip


SWEEPS = {
  'forms': {
    'about': (
      'The named parts of MASM, each on top of the skeleton (factors alone), in the form of '
      'version 0.1 and in the present one; all of them in both.'
    ),
    'rows': {
      'skeleton': _form(masm_v01.FIELDS, 'subspace'),
      'all_v01': masm_v01.FIELDS,
      'all': {},
      'skeleton_balanced': _SKELETON | {'subspace.parametrization': 'balanced'},
      'all_balanced': {'subspace.parametrization': 'balanced'},
      'mask_v01': _form(masm_v01.FIELDS, 'subspace', 'mask'),
      'mask': _alone('mask.kind'),
      'orthogonality_v01': _form(masm_v01.FIELDS, 'subspace', *_ORTHOGONAL),
      'orthogonality': _alone('regularizer.orthogonality'),
      'spectrum_v01': _form(masm_v01.FIELDS, 'subspace', *_SPECTRAL),
      'spectrum': _alone('regularizer.spectral'),
      'decay_v01': _form(masm_v01.FIELDS, 'subspace', 'optim'),
    },
  },
  'scale': {
    'about': (
      'What holds the artifact part to its first energy: bases of length 1 (w_self) and the '
      'spectral loss, each as it is, in a softer form, or let go; with plain and balanced factors.'
    ),
    'rows': {
      f'{name}{suffix}': fields | form
      for suffix, form in (('', {}), ('_balanced', {'subspace.parametrization': 'balanced'}))
      for name, fields in {
        'skeleton': _SKELETON,
        'all': {},
        'no_mask': {'mask.kind': 'none'},
        'any_length': {'regularizer.w_self': 0.0},
        'values': {'regularizer.spectral_kind': 'singular_values'},
        'any_length,values': {
          'regularizer.w_self': 0.0,
          'regularizer.spectral_kind': 'singular_values',
        },
        'any_length,kernel': {'regularizer.w_self': 0.0, 'regularizer.energy_of': 'kernel'},
      }.items()
    },
  },
  'components': {
    'about': (
      'Each component alone. none: one artifact subspace of rank q, every layer updated, no '
      'regularizer. +mask: the layer mask over its blocks. +subspaces: K subspaces of rank q, '
      'hence K times the components. +orthogonality, +spectrum: one regularizer on the one '
      'subspace. all: the base config.'
    ),
    'rows': {
      'none': _with(),
      **{f'+{name}': _with(name) for name in _WITHOUT},
      'all': {},
    },
  },
  'leave_one_out': {
    'about': 'The base config, and the base config without one component.',
    'rows': {
      'all': {},
      **{f'no_{name}': fields for name, fields in _WITHOUT.items()},
    },
  },
  'num_subspaces': {
    'about': 'K subspaces of the base rank: more of them are more trained components.',
    'rows': _values('subspace.num_subspaces', 1, 2, 4, 8, name='K='),
  },
  'equal_size': {
    'about': 'K subspaces of rank 32/K: the same components under a finer and finer mask.',
    'rows': {
      f'K={count},q={32 // count}': {
        'subspace.num_subspaces': count,
        'subspace.rank': 32 // count,
      }
      for count in (1, 2, 4, 8)
    },
  },
  'rank': {
    'about': 'Rank q of each subspace.',
    'rows': _values('subspace.rank', 1, 2, 4, 8, 16, name='q='),
  },
  'split': {
    'about': 'How components are dealt to subspaces; without a mask it makes no difference.',
    'rows': _values('subspace.split', 'interleaved', 'contiguous'),
  },
  'targets': {
    'about': 'Which kernels are decomposed.',
    'rows': _values('subspace.targets', 'attention', 'mlp', 'all'),
  },
  'mask': {
    'about': (
      'The layer mask and its controls: dynamic keeps the highest scores, inverse the lowest, '
      'random ranks by chance, all and none keep every group on (they must agree).'
    ),
    'rows': _values('mask.kind', 'dynamic', 'inverse', 'random', 'all', 'none'),
  },
  'score': {
    'about': 'What ranks the groups.',
    'rows': _values('mask.score', 'grad_norm', 'forgery', 'rgn', 'bvr', 'bvr_unbiased', 'gsnr'),
  },
  'masking': {
    'about': (
      'How a mask changes: drawn every 20 steps from a short memory, as before version 0.2, or '
      'seldom from a long one; with or without a margin for what is on; closing at once or slowly; '
      'a share of the groups or of their score.'
    ),
    'rows': {
      'often': {
        'mask.warmup_steps': 20,
        'mask.refresh_steps': 20,
        'mask.decay': 0.9,
        'mask.hysteresis': 0.0,
        'mask.close_steps': 0,
      },
      'no_hysteresis': {'mask.hysteresis': 0.0},
      'at_once': {},
      'slowly': {'mask.close_steps': 120},
      'score=0.7': {'mask.keep': 0.7},
      **{f'share={share}': {'mask.keep_by': 'share', 'mask.keep': share} for share in (0.5, 0.75)},
    },
  },
  'select': {
    'about': 'Within what groups are ranked.',
    'rows': _values('mask.select', 'per_subspace', 'global', 'per_layer'),
  },
  'granularity': {
    'about': (
      'What a group is: a block with all its subspaces, a (block, subspace) pair, or one subspace '
      'of one kernel.'
    ),
    'rows': _values('mask.granularity', 'block', 'block_subspace', 'kernel_subspace'),
  },
  'oneshot': {
    'about': (
      'FMSD: layers chosen once by a probe, and its controls. oneshot keeps the highest scores, '
      'inverse the lowest, random ranks by chance, all decomposes every layer.'
    ),
    'rows': {
      kind: {'method': 'fmsd', 'mask.kind': kind}
      for kind in ('oneshot', 'inverse', 'random', 'all')
    },
  },
  'keep': {
    'about': 'Share of the groups that stay on.',
    'rows': {
      f'keep={share}': {'mask.keep_by': 'share', 'mask.keep': share}
      for share in (0.25, 0.5, 0.75, 1.0)
    },
  },
  'spectral_kind': {
    'about': 'Which spectral-consistency loss.',
    'rows': _values('regularizer.spectral_kind', 'energy', 'singular_values'),
  },
  'energy_of': {
    'about': 'What the spectral loss is relative to: the artifact part, or the whole kernel.',
    'rows': _values('regularizer.energy_of', 'artifact', 'kernel'),
  },
  'semantic': {
    'about': (
      'How much of a kernel the artifact subspaces are kept off: all that is not artifact (two '
      'parts), or the first components that hold a share of the energy (three parts).'
    ),
    'rows': {
      row: fields | {'regularizer.w_sem': 2.0}
      for row, fields in _values(
        'subspace.semantic_energy', 1.0, 0.9, 0.7, 0.5, 0.3, name='energy='
      ).items()
    },
  },
  'orthogonality': {
    'about': (
      'How orthogonality is kept, in two parts and in three (energy .5): as a loss, decoupled from '
      'Adam, exactly; of the artifact bases alone; to the semantic part alone; not at all.'
    ),
    'rows': {
      'none': {'regularizer.orthogonality': 0.0},
      'artifact_alone': {},
      **{
        f'{mode}{parts}': {
          'regularizer.mode': mode,
          'subspace.semantic_energy': energy,
          'regularizer.w_sem': 2.0,
        }
        for mode in ('loss', 'decoupled', 'exact')
        for parts, energy in ((2, 1.0), (3, 0.5))
      },
      **{
        f'{mode}3_semantic_alone': {
          'regularizer.mode': mode,
          'subspace.semantic_energy': 0.5,
          'regularizer.w_self': 0.0,
          'regularizer.w_cross': 0.0,
          'regularizer.w_sem': 2.0,
        }
        for mode in ('loss', 'exact')
      },
    },
  },
  'parametrization': {
    'about': (
      'What is trained of the factors: U, S and V; U sqrt(S) and sqrt(S) V; a core between U and '
      'V. Without regularizers, which say different things of them; each needs its own learning '
      'rate.'
    ),
    'rows': {
      form: {
        'subspace.parametrization': form,
        'regularizer.orthogonality': 0.0,
        'regularizer.spectral': 0.0,
      }
      for form in ('svd', 'balanced', 'core')
    },
  },
  'decay': {
    'about': (
      'Weight decay of the factors: none; L2 in the gradient, as before version 0.2; decoupled; '
      'both towards 0 or towards where they began (L2-SP).'
    ),
    'rows': {
      'none': {'optim.weight_decay': 0.0},
      **{
        f'{name}_{towards}': {
          'optim.name': name,
          'optim.decay_towards': towards,
          'optim.weight_decay': 5e-4 if name == 'adam' else 0.05,
        }
        for name in ('adam', 'adamw')
        for towards in ('zero', 'start')
      },
    },
  },
  'forward': {
    'about': 'How adapted kernels are multiplied: equal metrics up to rounding, at another cost.',
    'rows': _values('subspace.forward', 'auto', 'factored', 'materialized'),
  },
  'methods': {
    'about': 'The methods of the comparison table, each with the preset of the base config.',
    'rows': _values(
      'method',
      'masm',
      'fmsd',
      'effort',
      'effort_published',
      'gend',
      'ln',
      'linear',
      'bitfit',
      'lora',
      'full',
      'bvg_ls',
    ),
  },
}
