"""What the fuzzers found, case by case."""

import json
import logging
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs import demo
from masm_jax import backbones, cli, files
from masm_jax import config as config_lib
from masm_jax.data import crop_settings, shards
from masm_jax.data.importers.deepfakebench import import_deepfakebench
from masm_jax.errors import UserError
from masm_jax.inference import detector_schema, stored, trained
from masm_jax.metrics import scores
from masm_jax.parallel import locks
from masm_jax.prediction import results
from masm_jax.preprocess import raw_video
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
    assert trained._validation(tmp_path / 'val.parquet') is None
  assert 'val.parquet' in caplog.text
  assert trained._validation(folder / 'scores' / 'val.parquet') is not None


def test_an_empty_file_of_a_process_that_was_killed_before_its_lock_is_removed(tmp_path):
  machine = locks._mark().partition('-')[0]
  gone = tmp_path / f'.lock.{machine}-{2**22 + 1}-123-ab'
  alive = tmp_path / f'.lock.{locks._mark()}-cd'
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
