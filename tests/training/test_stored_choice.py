"""The stored choice of layers: it holds for its run, and nothing else takes its place."""

import jax
import pytest

from masm_jax import detector as detector_lib
from masm_jax import files, telemetry
from masm_jax.errors import UserError
from tests.training.probing import DETECTOR, HASHES, choose, make_config, stored


@pytest.fixture(scope='module')
def params():
  return detector_lib.init_params(DETECTOR, jax.random.key(0))


def test_the_stored_choice_holds_even_where_the_data_would_choose_otherwise(params, tmp_path):
  choose(params, tmp_path)
  record = telemetry.read_json(tmp_path / 'selection.json')
  record['chosen'] = [1, 0, 0, 0]
  telemetry.write_json(tmp_path / 'selection.json', record)
  _, selected = choose(params, tmp_path)
  assert selected.layers == ('block_00',)
  # Another base, or another config, is another run: before its first checkpoint it measures anew.
  _, other = choose(params, tmp_path, hashes=HASHES | {'base_weights': 'c'})
  assert len(other.layers) == 2


DAMAGES = {
  'missing': lambda file: file.unlink(),
  'cut in half': lambda file: file.write_bytes(file.read_bytes()[:-200]),
  'no JSON object': lambda file: file.write_text('[]'),
  'without scores': lambda file: edit(file, lambda record: record.pop('scores')),
  'shorter': lambda file: edit(file, lambda record: record['chosen'].pop()),
  'of other base weights': lambda file: edit(file, of_other_weights),
}


def edit(file, change):
  record = telemetry.read_json(file)
  change(record)
  telemetry.write_json(file, record)


def of_other_weights(record):
  record['identity']['base_weights'] = 'c'


@pytest.mark.parametrize('damage', DAMAGES)
def test_checkpoints_without_their_choice_are_refused_not_probed_anew(params, tmp_path, damage):
  file = tmp_path / 'selection.json'
  choose(params, tmp_path)
  files.spare_of(file).unlink()  # A spare copy would take the damaged one's place.
  DAMAGES[damage](file)
  before = file.read_bytes() if file.exists() else None
  message = r'selection\.json, which says what layers .* is missing, damaged or .* of another run'
  with pytest.raises(UserError, match=message):
    choose(params, tmp_path, batches=None, resuming=True)
  with pytest.raises(UserError, match=message):
    stored(params, tmp_path)
  assert (file.read_bytes() if file.exists() else None) == before


def test_a_choice_is_that_of_one_config(params, tmp_path):
  choose(params, tmp_path)
  with pytest.raises(UserError, match='of another run'):
    stored(params, tmp_path, make_config(keep=0.25))
  with pytest.raises(UserError, match='of another run'):
    stored(params, tmp_path, hashes=HASHES | {'train_manifest': 'c'})
  # What may change in a run's life does not matter.
  config = make_config()
  config.data.num_workers = 3
  assert stored(params, tmp_path, config) == stored(params, tmp_path)
