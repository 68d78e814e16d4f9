"""Files stay readable whatever moment the process dies at, and hold strict JSON only."""

import json
import math
import os
import pathlib
import time

import jax.numpy as jnp
import numpy as np
import pytest

from masm_jax import files as json_files
from masm_jax.errors import UserError
from masm_jax.files import read_json, write_json
from masm_jax.parallel import locks
from tests.disks import unfinished


def strict_loads(text):
  def refuse(constant):
    raise AssertionError(f'{constant} is not JSON')

  return json.loads(text, parse_constant=refuse)


def test_plain_types_from_everything_a_run_holds():
  value = {
    'array': np.arange(3, dtype=np.int32),
    'jax': jnp.array([0.5, -jnp.inf], jnp.bfloat16),
    'scalar': np.float32(0.1),
    'tuple': (1, None, True, 'nan'),
    'path': pathlib.PurePosixPath('a/b'),
    'bad': {'inf': np.inf, 'nan': np.float64('nan')},
  }
  assert json_files.to_json(value) == {
    'array': [0, 1, 2],
    'jax': [0.5, '-inf'],
    'scalar': float(np.float32(0.1)),
    'tuple': [1, None, True, 'nan'],
    'path': 'a/b',
    'bad': {'inf': 'inf', 'nan': 'nan'},
  }
  with pytest.raises(TypeError, match='keys are strings, not 1'):
    json_files.to_json({1: 2})
  with pytest.raises(TypeError, match='no place in JSON'):
    json_files.to_json({'x': {1, 2}})


def test_document_round_trip_is_strict_and_leaves_no_partial_file(tmp_path):
  path = tmp_path / 'new' / 'results.json'
  write_json(path, {'b': math.nan, 'a': 1 / 3, 'name': 'Käse'})
  assert strict_loads(path.read_text()) == {'b': 'nan', 'a': 1 / 3, 'name': 'Käse'}
  assert list(read_json(path)) == ['b', 'a', 'name']
  assert math.isnan(float(read_json(path)['b']))
  assert [p.name for p in path.parent.iterdir()] == ['results.json']
  with pytest.raises(TypeError):
    write_json(path, {'x': object()})
  assert read_json(path)['a'] == 1 / 3  # The old document is untouched.


def test_a_key_that_stands_twice_is_refused(tmp_path):
  path = tmp_path / 'policy.json'
  path.write_text('{"a": [{"b": 1, "threshold": 0.1, "threshold": 0.9}]}')
  with pytest.raises(UserError, match=r"policy\.json: it has the key 'threshold' twice"):
    read_json(path)


def test_replacing_leaves_the_old_file_or_the_new_one(tmp_path):
  path = tmp_path / 'a.txt'
  json_files.write_text(path, 'old')
  with pytest.raises(OSError, match='full'), json_files.replacing(path) as fresh:
    fresh.write_text('half')
    assert path.read_text() == 'old' and fresh.parent == tmp_path
    raise OSError('full')
  assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]
  with json_files.replacing(path) as first, json_files.replacing(path) as second:
    assert first != second  # Two at once do not write into one another's file.
    first.write_text('one')
    second.write_text('two')
  assert path.read_text() == 'one' and list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(tmp_path):
  (tmp_path / 'other').write_text('stays')
  (tmp_path / 'a.txt').symlink_to(tmp_path / 'other')
  json_files.write_bytes(tmp_path / 'a.txt', b'new')
  assert (tmp_path / 'other').read_text() == 'stays'
  assert not (tmp_path / 'a.txt').is_symlink() and (tmp_path / 'a.txt').read_text() == 'new'


def test_what_a_kill_leaves_is_removed(tmp_path):
  json_files.write_text(tmp_path / 'kept.partial', 'a file of the user')
  unfinished(tmp_path / 'a.txt').write_text('ha')
  json_files.remove_unfinished(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['kept.partial']


def test_what_a_process_is_writing_stays(tmp_path):
  """Of a command in a folder above, which removes what was left below it."""
  with json_files.replacing(tmp_path / 'run' / 'a.txt') as own:
    other = unfinished(tmp_path / 'run' / 'b.txt', os.getppid())
    left = unfinished(tmp_path / 'run' / 'c.txt')
    for path in (other, left):
      path.touch()
    json_files.remove_unfinished(tmp_path, deep=True)
    assert {*own.parent.iterdir()} == {own, other}
    own.write_text('whole')
  assert (tmp_path / 'run' / 'a.txt').read_text() == 'whole'


def test_what_another_machine_left_is_removed_when_it_is_old_or_nobody_else_writes(tmp_path):
  elsewhere = tmp_path / '.a.txt.00000000-1-1.0011223344556677.partial'
  earlier = tmp_path / '.a.txt.0011223344556677.partial'  # Of a version that named no process.
  for path in (elsewhere, earlier):
    path.touch()
  json_files.remove_unfinished(tmp_path)
  assert {*tmp_path.iterdir()} == {elsewhere, earlier}
  os.utime(earlier, (0, time.time() - 2 * 3600))
  json_files.remove_unfinished(tmp_path)
  assert {*tmp_path.iterdir()} == {elsewhere}
  json_files.remove_unfinished(tmp_path, alone=True)
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('letter', ['a', '\N{CJK UNIFIED IDEOGRAPH-540D}', '\N{CLAPPER BOARD}'])
def test_every_name_that_a_file_may_have_can_be_written(letter, tmp_path):
  path = tmp_path / (letter * (251 // len(letter.encode())) + '.csv')
  json_files.write_text(path, 'a')
  with locks.held_beside(path):
    assert path.read_text() == 'a'


def test_cut_names_differ():
  found = {json_files.cut_name('x' * 99 + end, 80) for end in 'ab'}
  assert len(found) == 2 and all(len(name) == 80 for name in found)
  assert json_files.cut_name('x' * 80, 80) == 'x' * 80


def test_unreadable_documents_are_one_line(tmp_path):
  with pytest.raises(UserError, match=r'cannot read .*none\.json: No such file'):
    read_json(tmp_path / 'none.json')
  broken = tmp_path / 'broken.json'
  for text, told in (('{"a": ', 'is not JSON'), ('[' * 100_000, 'nested too deeply')):
    broken.write_text(text)
    with pytest.raises(UserError, match=told):
      read_json(broken)


@pytest.mark.parametrize('text', ['[]', '[1]', '3', 'null', '"ab"'])
def test_a_document_that_is_no_object_is_damaged(text, tmp_path):
  path = tmp_path / 'a.json'
  path.write_text(text)
  with pytest.raises(UserError, match=r'a\.json: it is no JSON object'):
    read_json(path)
  json_files.write_sealed(path, {'a': 1}, spare=True)
  path.write_text(text)
  assert read_json(path) == {'a': 1}
  json_files.spare_of(path).unlink()
  assert json_files.read_or_set_aside(path) is None


def flips(data):
  """The bytes with one bit turned, at every third place."""
  for i in range(0, 8 * len(data), 3):
    damaged = bytearray(data)
    damaged[i // 8] ^= 1 << i % 8
    yield bytes(damaged)


def test_every_bit_that_flips_in_a_sealed_document_is_found_or_changes_nothing(tmp_path):
  path, content = tmp_path / 'a.json', {'auroc': 0.75, 'bad': math.nan, 'names': ['é', 1]}
  json_files.write_sealed(path, content)
  read = {'auroc': 0.75, 'bad': 'nan', 'names': ['é', 1]}
  assert read_json(path) == read
  found = 0
  for damaged in flips(path.read_bytes()):
    path.write_bytes(damaged)
    try:
      document = read_json(path)
    except UserError as error:
      assert '\n' not in str(error)
      found += 1
    else:  # White space, the case of a digit's escape, or the name of the digest itself.
      assert {key: document[key] for key in read} == read
  assert found > 0.7 * 8 * len(damaged) / 3


def test_a_spare_copy_takes_the_place_of_a_damaged_document(tmp_path, caplog):
  path = tmp_path / 'a.json'
  json_files.write_sealed(path, {'a': 1}, spare=True)
  whole = path.read_bytes()
  path.write_bytes(whole.replace(b'1', b'7', 1))
  assert read_json(path) == {'a': 1} and path.read_bytes() != whole  # Reading changes nothing.
  assert 'its spare copy is read' in caplog.text
  json_files.mend(path)
  assert path.read_bytes() == whole
  json_files.spare_of(path).write_bytes(b'')
  json_files.mend(path)
  names = {'a.json', '.a.json.spare', 'a.json.damaged', '.a.json.spare.damaged'}
  assert {found.name for found in tmp_path.iterdir()} == names
  assert path.read_bytes() == json_files.spare_of(path).read_bytes() == whole


def test_a_document_without_a_digest_is_read_as_it_is(tmp_path):
  write_json(tmp_path / 'old.json', {'a': 1})
  assert read_json(tmp_path / 'old.json') == {'a': 1}


def test_a_bit_that_flips_in_the_name_of_a_digest_is_found():
  text = json.dumps(json_files.seal({'next_step': 3, 'hash': 'a' * 64})).encode()
  place = text.index(b'"digest"') + 1
  for bit in range(8 * len('digest')):
    damaged = bytearray(text)
    damaged[place + bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError):  # One that is no UTF-8 has a text of its own.
      json_files.unseal(json_files.parse_json(bytes(damaged)))
  assert json_files.unseal({'hash': 'a' * 64}) == {'hash': 'a' * 64}
