"""Config values are checked before anything is loaded; durations become steps."""

import dataclasses
import functools
import operator
import pathlib
import typing

import ml_collections
import pytest

from configs import common as common_config
from configs import demo, effort_published, ffpp, gend, own
from masm_jax import config as config_lib
from masm_jax import fields as fields_lib
from masm_jax.data import samplers
from masm_jax.errors import UserError
from masm_jax.masking import groups, layer_mask
from masm_jax.methods import make_method
from masm_jax.metrics import clusters
from masm_jax.subspaces import decompose, parametrization, regularizers


@pytest.fixture
def common():
  return common_config


def test_the_defaults_pass(common):
  config_lib.validate(common.get_config())


def test_every_field_has_a_comment(common):
  lines = pathlib.Path(common.__file__).read_text().splitlines()
  fields = [
    line
    for line in lines
    if (line.strip().startswith(('config.', 'suite.', "'")) and '=' in line)
    or line.strip().startswith("'")
  ]
  bare = [line for line in fields if '#' not in line and 'ConfigDict()' not in line]
  assert len(fields) > 60 and bare == []


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('mask.kind', 'static', "mask.kind = 'static': choose one of dynamic"),
    ('mask.keep', 0.0, 'mask.keep = 0.0: it must be at least'),
    ('mask.keep', 1.5, 'at most 1.0'),
    ('mask.warmup_steps', 1, 'mask.warmup_steps = 1: it must be at least 2'),
    ('optim.learning_rate', float('nan'), 'optim.learning_rate = nan'),
    ('optim.weight_decay', -1.0, 'optim.weight_decay = -1.0: it must be at least 0'),
    ('train.duration', '3 days', "train.duration = '3 days': a duration is written"),
    ('train.batch_size', 0, 'train.batch_size = 0'),
    ('data.val.split', 'test', 'never on a test set'),
    ('head.class_weights', (1.0, 0.0), 'head.class_weights'),
    ('head.class_weights', ('a', 'b'), 'head.class_weights'),
    ('eval.select_by', 'loss', "eval.select_by = 'loss': choose one of frame_auroc"),
    ('loss.alignment', 0.1, 'for features of length 1: set head.normalize_features'),
    ('lora.dropout', 1.0, 'lora.dropout = 1.0: it must be at least 0.0 and at most 0.999'),
    ('lsda.cross', 2.0, 'lsda.cross = 2.0'),
    ('optim.restart_every', 'often', "optim.restart_every = 'often': a duration is written"),
  ],
)
def test_bad_values_are_named(common, field, value, message):
  config = common.get_config()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=message):
    config_lib.validate(config)


def test_all_problems_come_in_one_line(common):
  config = common.get_config()
  config.mask.kind, config.optim.name, config.seed = 'x', 'sgd', -1
  with pytest.raises(UserError, match=r'mask.kind.*optim.name.*seed = -1') as error:
    config_lib.validate(config)
  assert '\n' not in str(error.value)


def test_a_config_of_something_else_is_refused():
  with pytest.raises(UserError, match=r'no config of a training run, it lacks backbone.dtype'):
    config_lib.validate(ml_collections.ConfigDict({'seed': 0}).lock())


def test_pairs_need_batches_that_hold_them(common):
  config = common.get_config()
  config.train.batch_size, config.data.sampler = 7, 'paired'
  with pytest.raises(UserError, match=r'train.batch_size = 7: data.sampler = paired needs an even'):
    config_lib.validate(config)


def test_reserved_names_of_test_sets(common):
  config = common.get_config()
  with config.unlocked():
    config.data.tests.val = common.dataset('x.csv')
  with pytest.raises(UserError, match=r'data.tests.val: call this test set something else'):
    config_lib.validate(config)


def test_an_unlocked_config_is_refused(common):
  config = common.get_config()
  config.unlock()
  with pytest.raises(UserError, match='not locked'):
    config_lib.validate(config)


@pytest.mark.parametrize(
  ('text', 'steps'),
  [
    ('2000 steps', 2000),
    ('1 step', 1),
    ('3 epochs', 30),
    ('0.5 epochs', 5),
    ('100 examples', 10),
    ('1 example', 1),
    ('0 steps', 0),
    (' 2  epochs ', 20),
  ],
)
def test_durations(text, steps):
  assert config_lib.duration_steps(text, batch_size=10, num_examples=100) == steps


@pytest.mark.parametrize('text', ['', '10', 'epochs', '-1 epochs', '1e3 steps', '3 epoch(s)'])
def test_what_is_no_duration(text):
  with pytest.raises(UserError, match='a duration is written'):
    config_lib.duration_steps(text, batch_size=10, num_examples=100)


def test_differences_and_fingerprint_leave_out_what_may_change(common):
  config, other = common.get_config(), common.get_config()
  other.data.num_workers, other.mesh.fsdp = 7, 2
  assert config_lib.differences(config.to_dict(), other) == []
  assert config_lib.fingerprint(config) == config_lib.fingerprint(other)
  other.optim.learning_rate = 1.0
  assert config_lib.differences(config.to_dict(), other) == ['optim.learning_rate: 0.0002 -> 1.0']
  assert config_lib.fingerprint(config) != config_lib.fingerprint(other)
  assert config_lib.differences({'seed': 0}, ml_collections.ConfigDict({'seed': 0, 'x': 1})) == [
    "x: '(absent)' -> 1"
  ]


def test_arguments_of_a_config_file(common):
  config = common.with_arguments(common.get_config(), 'method=full', {'method': 'method'})
  assert config.method == 'full'
  with pytest.raises(ValueError, match=r"config argument 'colour=red': there are method=\.\.\."):
    common.with_arguments(config, 'colour=red', {'method': 'method'})


def test_a_method_brings_all_that_it_is():
  config = ffpp.get_config('method=gend,backbone=clip_b16')
  assert (config.method, config.backbone.name) == ('gend', 'clip_b16')
  assert config.head.normalize_features and config.optim.name == 'adamw'
  assert (config.loss.uniformity, config.loss.alignment, config.train.batch_size) == (0.5, 0.1, 128)
  assert config == gend.get_config('backbone=clip_b16')
  config = effort_published.get_config()
  assert (config.subspace.num_subspaces, config.subspace.rank) == (1, 1)
  assert (config.subspace.targets, config.mask.kind) == ('attention', 'none')
  assert (config.regularizer.orthogonality, config.regularizer.spectral) == (1.0, 1.0)
  # The demo trains every method by one recipe.
  assert demo.get_config('method=gend').train.duration == demo.get_config().train.duration
  with pytest.raises(ValueError, match="there is no method 'gendd': choose one of masm"):
    ffpp.get_config('method=gendd')


@pytest.mark.parametrize(
  ('method', 'message'),
  [
    ('gend', 'method = gend means head.normalize_features = True, not False: start from configs/g'),
    ('effort', 'method = effort means subspace.num_subspaces = 1, not 4'),
    ('effort_published', 'or configs/ffpp.py:method=effort_published, which set all of it'),
    ('bvg_ls', 'method = bvg_ls means mask.score = bvr, not grad_norm: start from'),
  ],
)
def test_a_methods_name_alone_does_not_make_it(common, method, message):
  config = common.get_config()
  config.method = method
  with pytest.raises(UserError, match=message):
    make_method(config)


@pytest.mark.parametrize('method', ['linear', 'ln', 'bitfit', 'lora', 'full', 'gend'])
def test_a_mask_is_refused_where_nothing_can_be_masked(method):
  config = ffpp.get_config(f'method={method}')
  assert make_method(config)
  config.mask.kind = 'random'
  with pytest.raises(UserError, match=rf'= {method} means mask\.kind = none, not random'):
    make_method(config)


def test_bvg_ls_chooses_its_layer_in_every_step():
  config = ffpp.get_config('method=bvg_ls')
  assert make_method(config).name == 'bvg_ls'
  config.mask.refresh_steps = 20
  with pytest.raises(UserError, match=r'= bvg_ls means mask\.refresh_steps = 1, not 20') as info:
    make_method(config)
  assert '\n' not in str(info.value)


def test_a_ranking_of_one_is_no_mask(common):
  config = common.get_config()
  config.mask.select = 'per_layer'
  config_lib.validate(config)
  config.subspace.num_subspaces = 1
  with pytest.raises(UserError, match=r'subspace\.num_subspaces = 1 leaves nothing to rank'):
    config_lib.validate(config)
  config.mask.kind = 'none'
  config_lib.validate(config)
  config.mask.granularity = 'block'
  with pytest.raises(UserError, match=r'which mask\.granularity = block switches as one'):
    config_lib.validate(config)


def test_own_manifest_is_divided_by_its_splits():
  config = own.get_config('manifest=a/b.parquet,root=a,method=linear,backbone=clip_b16')
  specs = [config.data.train, config.data.val, config.data.tests.test]
  assert [(spec.manifest, spec.root, spec.split) for spec in specs] == [
    ('a/b.parquet', 'a', split) for split in ('train', 'val', 'test')
  ]
  assert config.method == 'linear' and config.backbone.name == 'clip_b16'
  config_lib.validate(config)


def test_a_config_stored_before_a_field_was_means_what_the_program_did_then(common):
  """Such a run is evaluated, and its fingerprint is what it was."""
  config = common.get_config()
  config.update_from_flattened_dict(config_lib._BEFORE)
  stored = config.to_dict()
  for name in config_lib._BEFORE:
    *groups, field = name.split('.')
    del functools.reduce(operator.getitem, groups, stored)[field]
  with pytest.raises(UserError, match='it lacks'):
    config_lib.validate(ml_collections.ConfigDict(stored).lock())
  completed = config_lib.completed(stored)
  config_lib.validate(completed)
  assert completed == config
  assert make_method(completed) == make_method(config)
  assert config_lib.fingerprint(completed) == config_lib.fingerprint(stored)
  assert config_lib.differences(stored, config) == []
  config.regularizer.mode = 'exact'
  assert config_lib.fingerprint(config) != config_lib.fingerprint(stored)
  assert config_lib.differences(stored, config) == ["regularizer.mode: '(absent)' -> 'exact'"]


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'subspace.semantic_rank': 4, 'subspace.semantic_energy': 0.5}, 'give one of them'),
    ({'regularizer.mode': 'exact', 'regularizer.w_cross': 0.0}, 'or neither'),
    (
      {'regularizer.mode': 'exact', 'subspace.parametrization': 'balanced'},
      'not for balanced factors',
    ),
    ({'mask.keep_by': 'score', 'mask.keep_count': 2}, r'set mask\.keep_count = 0'),
  ],
)
def test_constraints_that_contradict_each_other_are_refused(common, fields, message):
  config = common.get_config()
  config.update_from_flattened_dict(fields)
  with pytest.raises(UserError, match=message):
    config_lib.validate(config)


def test_choices_are_those_of_the_code_that_takes_them():
  """A config is checked before anything heavy is imported: hence a second list, held here."""
  fields = lambda of: {field.name: field.type for field in dataclasses.fields(of)}
  owners = {
    'subspace.split': decompose.Split,
    'subspace.forward': fields(decompose.SubspaceConfig)['forward'],
    'subspace.parametrization': parametrization.Parametrization,
    'mask.kind': layer_mask.Kind,
    'mask.score': layer_mask.Score,
    'mask.select': layer_mask.Select,
    'mask.keep_by': layer_mask.KeepBy,
    'mask.granularity': groups.Granularity,
    'regularizer.spectral_kind': fields(regularizers.RegularizerConfig)['spectral_kind'],
    'regularizer.energy_of': fields(regularizers.RegularizerConfig)['energy_of'],
    'regularizer.mode': fields(regularizers.RegularizerConfig)['mode'],
  }
  for name, of in owners.items():
    assert fields_lib.CHOICES[name] == typing.get_args(of), name
  assert fields_lib.CHOICES['data.sampler'] == samplers.KINDS
  assert config_lib._SUITE_CHOICES['bootstrap.unit'] == clusters.UNITS


def test_a_set_is_named_by_what_a_file_may_be_called():
  letter = '\N{CJK UNIFIED IDEOGRAPH-540D}'
  assert fields_lib.is_set_name(letter * 66) and fields_lib.is_set_name('a' * 100)
  for name in (letter * 67, 'a' * 101, '..', 'a/b', ''):
    assert not fields_lib.is_set_name(name)
