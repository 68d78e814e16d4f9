"""What the fuzzers found, case by case."""

import json
import logging
import re
import types

import av
import msgpack
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs import demo
from masm_jax import backbones, cli, files, processes
from masm_jax import config as config_lib
from masm_jax.backbones import flax_names
from masm_jax.data import crop_settings, linking, shards
from masm_jax.data.importers.deepfakebench import import_deepfakebench
from masm_jax.data.importers.folder import import_folder
from masm_jax.data.importers.gend_lists import import_gend_lists
from masm_jax.data.manifest import load_manifest
from masm_jax.errors import UserError
from masm_jax.evaluation import inside
from masm_jax.inference import detector_schema, stored, trained
from masm_jax.methods import chosen_layers
from masm_jax.metrics import scores
from masm_jax.parallel import locks
from masm_jax.perturbations import copies
from masm_jax.prediction import results
from masm_jax.preprocess import raw_video, video
from masm_jax.preprocess import run as preprocess_run
from masm_jax.sweep import plan
from tests.fuzz import runs
from tests.prediction import answers_made
from tests.report.conftest import write_evaluation

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')  # Of ml_collections' own.


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return write_evaluation(tmp_path_factory.mktemp('found') / 'e', num_videos=4)


@pytest.mark.parametrize('field', ['mask.keep[0]', 'backbone.name[0]', 'data.tests.known.root[-1]'])
def test_a_number_in_brackets_behind_a_field_is_one_line(field):
  with pytest.raises(UserError, match='no such config field'):
    cli.read_config('config', ['--config=demo:method=masm', f'--config.{field}='])


@pytest.mark.parametrize('group', ['loss.uniformity', 'regularizer.w_self', 'data.synthetic.root'])
def test_a_stored_config_without_a_field_is_refused(group, tmp_path):
  document = json.loads(demo.get_config('method=masm').to_json())
  place = document
  *parts, last = group.split('.')
  for part in parts:
    place = place[part]
  del place[last]
  with pytest.raises(UserError, match=f'lacks {group}'):
    stored.read_config(document, tmp_path)


def test_people_of_a_synthetic_set_are_bounded():
  config = demo.get_config('method=masm')
  config.data.synthetic.identities = 10**9
  with pytest.raises(UserError, match=r'data\.synthetic\.identities'):
    config_lib.validate(config)


@pytest.mark.parametrize('depth', [101, 900, 100_000])
def test_deep_documents_are_no_json_to_any_reader(depth, tmp_path):
  text = '[' * depth + ']' * depth
  with pytest.raises(ValueError, match='nested too deeply'):
    files.parse_json(text)
  (tmp_path / results.LINES).write_text(text + '\n')
  with pytest.raises(UserError, match='line 1'):
    results.read_lines(tmp_path / results.LINES)


@pytest.mark.parametrize('change', [{'commit_timestamp_nsecs': {}}, {'performance_metrics': []}])
def test_a_note_of_orbax_about_a_checkpoint_decides_nothing(change, tmp_path):
  state = runs._saved(tmp_path)
  note = state['run'] / 'checkpoints' / '00000002' / '_CHECKPOINT_METADATA'
  note.write_text(json.dumps(json.loads(note.read_text()) | change))
  (tmp_path / 'case').mkdir()
  assert runs._restore(state, tmp_path / 'case') == 'read'


def test_what_pandas_notes_in_a_score_table_is_not_read(folder, tmp_path):
  table = pq.read_table(folder / 'scores' / 'val.parquet')
  metadata = {**table.schema.metadata, b'pandas': b'{"columns": [{"name": []}]}'}
  pq.write_table(table.replace_schema_metadata(metadata), tmp_path / 'a.parquet')
  found = scores.read_scores(tmp_path / 'a.parquet')
  assert found['score'].equals(scores.read_scores(folder / 'scores' / 'val.parquet')['score'])


def test_damaged_scores_of_a_validation_set_count_as_none(folder, tmp_path, caplog):
  content = (folder / 'scores' / 'val.parquet').read_bytes()
  (tmp_path / 'val.parquet').write_bytes(content[:-40])
  with caplog.at_level(logging.WARNING):
    assert trained._validation(tmp_path / 'val.parquet', 0) is None
  assert 'val.parquet' in caplog.text
  assert trained._validation(folder / 'scores' / 'val.parquet', 0) is not None


def test_the_scores_of_another_set_or_step_are_not_those_of_the_validation_set(
  folder, tmp_path, caplog
):
  table = scores.read_scores(folder / 'scores' / 'val.parquet')
  for of in ({'set': 'known', 'step': '7'}, {'set': 'val', 'step': '6'}):
    scores.write_scores(tmp_path / 'val.parquet', table, of=of)
    assert trained._validation(tmp_path / 'val.parquet', 7) is None
    assert 'is of another' in caplog.text
    caplog.clear()
  scores.write_scores(tmp_path / 'val.parquet', table, of={'set': 'val', 'step': '7'})
  assert trained._validation(tmp_path / 'val.parquet', 7) is not None


@pytest.mark.parametrize('step', [2**63, 10**400, -1, 1.5])
def test_a_mask_of_no_step_is_one_line(step, tmp_path):
  line = {'step': 5, 'rows': ['b'], 'mask': [[0, 1]], 'agreement': 'nan', 'scores': [[0.5, 1e-3]]}
  path = tmp_path / 'masks.jsonl'
  path.write_text(json.dumps(line) + '\n')
  assert inside.read_masks(path)[0]['scores'] == [[0.5, 1e-3]]
  path.write_text(json.dumps(line | {'step': step}) + '\n')
  with pytest.raises(UserError, match=r'masks\.jsonl.*: it is damaged') as caught:
    inside.read_masks(path)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('change', [{'scores': [10**400]}, {'agreement': 10**400}])
def test_a_record_of_chosen_layers_with_numbers_of_400_digits_is_damaged(change, tmp_path):
  record = {'identity': {}, 'names': ['a'], 'scores': [1], 'chosen': [True], 'agreement': 1}
  path, groups = tmp_path / chosen_layers.FILE, types.SimpleNamespace(names=('a',))
  path.write_text(json.dumps(record))
  assert chosen_layers.read(path, groups, {}).layers == ('a',)
  path.write_text(json.dumps(record | change))
  assert chosen_layers.read(path, groups, {}) is None


def test_a_person_without_a_name_is_named_by_the_video():
  table = pd.DataFrame({'dataset': 'd', 'identities': [';', ''], 'video_id': 'd/DF/802_885'})
  assert linking.identities(table) == [['d:802', 'd:885']] * 2


def test_an_empty_file_of_a_process_that_was_killed_before_its_lock_is_removed(tmp_path):
  machine = processes.mark().partition('-')[0]
  gone = tmp_path / f'.lock.{machine}-{2**22 + 1}-123-ab'
  alive = tmp_path / f'.lock.{processes.mark()}-cd'
  for path in (gone, alive):
    path.touch()
  with locks.held(tmp_path):
    assert not gone.exists() and alive.exists()


def test_half_a_surrogate_pair_is_a_name_like_any_other():
  assert raw_video._safe('\ud800\udcff') == '%ED%A0%80%FF'


@pytest.mark.parametrize('name', ['train', 'val'])
def test_a_config_without_a_set_is_refused(name):
  config = demo.get_config('method=masm')
  with config.unlocked():
    del config.data[name]
  with pytest.raises(UserError, match=f'lacks data.{name}|data.{name}: it lacks'):
    config_lib.validate(config.lock())


def test_a_config_file_that_cannot_be_read_is_one_line():
  with pytest.raises(UserError) as caught:
    cli.read_config('config', ['--config=/proc/self/mem', '--config.seed[0].b=7'])
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('number', ['NaN', '1e400'])
def test_an_answer_with_a_number_that_is_none_is_no_answer(number, tmp_path):
  answer = json.dumps(answers_made.ANSWER.to_dict())
  assert '"probability": 0.' in answer
  (tmp_path / results.LINES).write_text(answer + '\n')
  assert len(results.read_lines(tmp_path / results.LINES)) == 1
  damaged = re.sub(r'"probability": 0\.\d+', f'"probability": {number}', answer, count=1)
  (tmp_path / results.LINES).write_text(damaged + '\n')
  with pytest.raises(UserError, match='line 1: no answer of this version'):
    results.read_lines(tmp_path / results.LINES)


@pytest.mark.parametrize('name', ['3', '"\\ud800"', 'null', '["a"]'])
def test_an_answer_whose_fields_are_of_other_types_is_no_answer(name, tmp_path):
  answer = json.dumps(answers_made.ANSWER.to_dict()).replace('"clip.mp4"', name)
  (tmp_path / results.LINES).write_text(answer + '\n')
  with pytest.raises(UserError, match='line 1: no answer of this version'):
    results.read_lines(tmp_path / results.LINES)


@pytest.mark.parametrize('column', ['dataset', 'identities'])
def test_a_score_table_whose_names_are_truth_values_is_damaged(column, folder, tmp_path):
  table = scores.read_scores(folder / 'scores' / 'val.parquet')
  table[column] = True
  pq.write_table(pa.Table.from_pandas(table), tmp_path / 'a.parquet')
  with pytest.raises(UserError, match=f'column {column} holds other values'):
    scores.read_scores(tmp_path / 'a.parquet')


def test_a_crop_of_infinite_size_is_of_no_known_kind():
  assert crop_settings.from_json({'template': 'a', 'margin': 1, 'size_px': float('inf')}) is None


@pytest.mark.parametrize('origin', [None, 3, {'seed': 0}, {'step': 1, 'no such field': 1}])
def test_a_note_that_does_not_say_where_an_adapter_comes_from_is_one_line(origin):
  with pytest.raises(UserError, match=r'^origin\.') as caught:
    detector_schema.parse_origin(origin)
  assert '\n' not in str(caught.value)


def test_a_shard_whose_name_is_too_long_for_any_file_is_missing(tmp_path):
  with pytest.raises(UserError, match='no such file'):
    shards.own_file(tmp_path, 'x' * 300)


@pytest.mark.parametrize('number', [10**400, 1e300, -1])
def test_an_architecture_of_any_number_is_one_line(number):
  family, fields = detector_schema.describe(backbones.get_preset('demo_vit').config)
  backbone = detector_schema.Backbone.model_construct(
    family=family, architecture=fields | {'width': number}
  )
  with pytest.raises(UserError, match=r"^backbone\.architecture\.'width' holds .{1,40}: a number"):
    detector_schema.build(backbone)


def test_half_a_surrogate_pair_in_a_name_of_a_video_is_one_line(tmp_path):
  (tmp_path / 'rgb').mkdir()
  for name in ('0.png', '1.png'):
    (tmp_path / 'rgb' / name).write_bytes(b'')
  by_level = {'c23': {'\ud800': {'label': 'FF-DF', 'frames': ['0.png', '1.png']}}}
  (tmp_path / 'FF-DF.json').write_text(json.dumps({'FF-DF': {'FF-DF': {'train': by_level}}}))
  with pytest.raises(UserError, match=r'video_id is not UTF-8: row 1 .*\\ud800') as caught:
    import_deepfakebench([tmp_path / 'FF-DF.json'], tmp_path)
  assert '\n' not in str(caught.value)


_EXPLAINED = {
  'parts': ['all changes'], 'measured': '', 'maps_shown': False,
  'faces': [
    {'track': 0, 'frame': 0, 'base_logit': 0, 'logit': 1.5, 'shapley': [1.5], 'maps': None,
     'standard_errors': [0.0], 'token_share': 1, 'completeness_error': 0.0, 'picture': ''}
  ],
}  # fmt: skip


@pytest.mark.parametrize(
  ('field', 'sound', 'damaged'),
  [
    ('explanation', _EXPLAINED, {}),
    ('explanation', _EXPLAINED, _EXPLAINED | {'faces': [{}]}),
    ('explanation', _EXPLAINED, _EXPLAINED | {'parts': []}),
    ('training_videos', {'real': {'videos': 1, 'identities': None}}, {'real': {}}),
  ],
)
def test_an_answer_that_does_not_say_all_is_no_answer(field, sound, damaged, tmp_path):
  answer = answers_made.ANSWER.to_dict()
  place = answer if field in answer else answer['model']
  for value, is_sound in ((sound, True), (damaged, False)):
    place[field] = value if field == 'explanation' else {'fake': sound['real']} | value
    (tmp_path / results.LINES).write_text(json.dumps(answer) + '\n')
    if is_sound:
      assert len(results.read_lines(tmp_path / results.LINES)) == 1
      continue
    with pytest.raises(UserError, match='line 1: no answer of this version'):
      results.read_lines(tmp_path / results.LINES)


@pytest.mark.parametrize('text', ['3', '[]', '[1]', '"ab"'])
def test_a_note_of_earlier_work_that_is_no_object_is_one_line(text, tmp_path):
  for name in (results.RECORD, crop_settings.PERTURBATION, crop_settings.RECORD, 'run.json'):
    (tmp_path / name).write_text(text)
  with pytest.raises(UserError, match=r'predict\.json: it is no JSON object'):
    results.merge([tmp_path], tmp_path / 'out', 'csv')
  with pytest.raises(UserError, match=r'perturbation\.json: it is no JSON object'):
    copies._begin(tmp_path, {'key': 'CS'})
  with pytest.raises(UserError, match=r'preprocess\.json is damaged; remove'):
    preprocess_run._check_parameters(tmp_path, {'template': 'gend'})
  found = plan.Run('a', 0, tmp_path, (), demo.get_config('method=masm'))
  assert found.progress() is plan.Progress.NEW


def test_a_link_to_what_cannot_be_read_is_one_line(tmp_path):
  (tmp_path / 'real').mkdir()
  (tmp_path / 'real' / 'a.png').symlink_to('/proc/self/mem')
  with pytest.raises(UserError, match=r'cannot read .*a\.png: '):
    import_folder(tmp_path, split='test')


@pytest.mark.parametrize(
  ('number', 'kind'), [(200, pa.uint8()), (-7, pa.int16()), (3, pa.uint64())]
)
def test_whole_numbers_of_a_manifest_have_one_type(number, kind, tmp_path):
  row = {'path': '0.png', 'label': 0, 'dataset': 'd', 'split': 'test', 'video_id': 'v'}
  columns = {name: pa.array([value]) for name, value in row.items()}
  pq.write_table(pa.table(columns | {'x': pa.array([number], kind)}), tmp_path / 'm.parquet')
  found = load_manifest(tmp_path / 'm.parquet', check_files=False).table['x']
  assert found.dtype == 'int64' and found.tolist() == [number]


def test_whole_numbers_that_no_64_bits_hold_are_text(tmp_path):
  row = {'path': '0.png', 'label': 0, 'dataset': 'd', 'split': 'test', 'video_id': 'v'}
  columns = {name: pa.array([value]) for name, value in row.items()}
  pq.write_table(
    pa.table(columns | {'x': pa.array([2**64 - 1], pa.uint64())}), tmp_path / 'm.parquet'
  )
  found = load_manifest(tmp_path / 'm.parquet', check_files=False).table['x']
  assert found.tolist() == ['18446744073709551615']


def test_colours_that_nobody_can_convert_make_a_video_unreadable():
  frame = av.VideoFrame(48, 32, 'yuvj420p')
  frame.colorspace = 15  # IPT-C2, which FFmpeg can name alone.
  clip = video.Clip((video.Frame(0, frame),), 1)
  with pytest.raises(video.UnreadableError, match=r'^its colours cannot be converted: '):
    clip.frames[0].rgb()
  with pytest.raises(video.UnreadableError, match=r'^its colours cannot be converted: '):
    clip.converted(2**20)


@pytest.mark.parametrize('line', ['/p\0/FF/real/000/0.png', '../p\0/FF/real/000/0.png'])
def test_a_list_of_crops_with_a_name_that_no_file_has_is_one_line(line, tmp_path):
  (tmp_path / 'train.txt').write_text(f'{line}\n')
  with pytest.raises(UserError, match='leaves the root'):
    import_gend_lists({'train': [tmp_path / 'train.txt']}, tmp_path / 'root')


def test_rows_of_unequal_lengths_in_a_file_of_weights_are_one_line(tmp_path):
  file = tmp_path / 'a.msgpack'
  file.write_bytes(msgpack.packb({'params': {'cls': [[1, 2], [3], 'x']}}))
  with pytest.raises(UserError, match=r'no whole \.msgpack file of Flax: params/cls is no array'):
    flax_names.read_arrays(file)
