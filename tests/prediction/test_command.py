"""`predict`: lines that resume, shards that merge, a report that needs no network."""

import csv
import dataclasses
import io
import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from masm_jax import predict
from masm_jax.data.manifest import load_manifest
from masm_jax.errors import UserError
from masm_jax.parallel import locks
from masm_jax.prediction import answers, command, inputs, results, words
from tests.prediction.answers_made import ANSWER, check, made
from tests.prediction.clips import write_clip


@pytest.fixture(scope='module')
def folder(val, portraits, tmp_path_factory):
  """Three pictures, a clip and a file that is none of both."""
  place = tmp_path_factory.mktemp('in')
  table, crops = val
  for i, path in enumerate(table['path'][:3]):
    shutil.copy(pathlib.Path(load_manifest(portraits).root) / path, place / f'{i}.png')
  write_clip(place / 'clip.mkv', np.stack(crops[:4] * 3))
  (place / 'broken <b>.mp4').write_bytes(b'\0\0\0\x18ftypmp42nothing')
  (place / 'notes.txt').write_text('no medium')
  return place


@pytest.fixture
def run(whole_engine, trained_run, monkeypatch, folder):
  """Runs the command in this process, with the engine of all tests."""
  monkeypatch.setattr(whole_engine, 'close', lambda **_: None)
  monkeypatch.setattr('masm_jax.prediction.engine.Engine', lambda *_, **__: whole_engine)

  def call(out, *, sources=None, stdin='', **options):
    made_of = {'model': str(trained_run), 'sources': tuple(sources or (str(folder),))}
    chosen = command.Options(out=out, batch_size=8, faces='whole', **made_of, **options)
    return command.run(chosen, start_jax=lambda: None, stdin=io.StringIO(stdin))

  return call


def lines_of(out):
  return (out / results.LINES).read_bytes()


def test_answers_come_as_lines_table_and_report(run, folder, tmp_path, capsys):
  out = tmp_path / 'out'
  assert run(out, form='csv', pictures=True) == 0
  found = [check(json.loads(line)) for line in lines_of(out).splitlines()]
  names = [pathlib.Path(value['input']['name']).name for value in found]
  assert len(found) == 5 and names == sorted(names) and 'notes.txt' not in names
  assert [v['verdict'] for v in found].count('no_answer') == 1
  assert all(value['timing_s'] is None for value in found)
  shown = capsys.readouterr().out
  for value in found:
    found_words = words.describe(answers.from_dict(value))
    reasons = f'  ({", ".join(value["reasons"])})' if value['reasons'] else ''
    end = value['input']['name'] + reasons
    row = next(line for line in shown.splitlines() if line.endswith(end))
    assert row.startswith(found_words.short) and found_words.number in row
  rows = (out / results.TABLE).read_text().splitlines()
  assert len(rows) == 6 and rows[0].startswith('name,sha256,kind,verdict,probability,low,high')
  page = (out / 'report.html').read_text()
  assert 'broken &lt;b&gt;.mp4' in page and 'broken <b>' not in page
  assert page.count('data:image/jpeg;base64,') >= 4 and page.count('<svg') == 1
  places = re.findall(r'(?:src|href)="([^"]*)"', page) + re.findall(r'url\(([^)]*)\)', page)
  assert places and all(place.startswith(('data:', '#')) for place in places)
  assert not re.search(r'https?://(?!www\.w3\.org/)', page) and '<script' not in page
  clip = next(v for v in found if v['tracks'] and v['input']['kind'] == 'video')
  saved = sorted(p.name for p in (out / 'pictures' / clip['input']['sha256'][:16]).iterdir())
  assert saved[0] == 'frame_000000.jpg' and saved[-1] == 'timeline.png' and len(saved) == 7


def test_pictures_are_added_to_answers_that_lack_them(run, whole_engine, tmp_path, monkeypatch):
  out = tmp_path / 'out'
  run(out)
  lines = lines_of(out)
  asked = []
  submit = whole_engine.submit
  record = lambda source, **more: asked.append(source.shown_name) or submit(source, **more)
  monkeypatch.setattr(whole_engine, 'submit', record)
  run(out, pictures=True)
  readable = [v for v in map(json.loads, lines.splitlines()) if v['tracks']]
  assert sorted(asked) == sorted(v['input']['name'] for v in readable) and lines_of(out) == lines
  places = [out / 'pictures' / v['input']['sha256'][:16] for v in readable]
  assert all(list(place.glob('frame_*.jpg')) for place in places)
  asked.clear()
  run(out, pictures=True)
  assert not asked
  (timeline,) = out.glob('pictures/*/timeline.png')
  timeline.unlink()  # A kill came before it.
  run(out, pictures=True)
  assert len(asked) == 1 and timeline.exists()


def test_the_report_is_written_before_the_folder_is_let_go(run, tmp_path, monkeypatch):
  seen = []
  monkeypatch.setattr(
    command, 'write_report', lambda out, _: seen.append((out / locks.NAME).exists())
  )
  run(tmp_path / 'one')
  command.merge([tmp_path / 'one'], tmp_path / 'all', 'jsonl')
  assert seen == [True, True] and not (tmp_path / 'all' / locks.NAME).exists()


def test_a_run_that_was_stopped_resumes(run, whole_engine, tmp_path, monkeypatch):
  whole, part = tmp_path / 'whole', tmp_path / 'part'
  run(whole)
  run(part)
  first, second, *_ = lines_of(part).splitlines(keepends=True)
  (part / results.LINES).write_bytes(first + second + b'{"schema": "masm_')  # Killed while writing.
  asked = []
  submit = whole_engine.submit
  record = lambda source, **more: asked.append(source) or submit(source, **more)
  monkeypatch.setattr(whole_engine, 'submit', record)
  run(part, form='json')
  assert len(asked) == 3 and lines_of(part) == lines_of(whole)
  values = json.loads((part / results.DOCUMENT).read_text())
  assert values == [json.loads(line) for line in lines_of(whole).splitlines()]
  other = dataclasses.replace(whole_engine.policy, frames='max')
  monkeypatch.setattr(whole_engine, 'policy', other)
  with pytest.raises(UserError, match=r'predictions made otherwise \(policy\)'):
    run(part)


def test_shards_merge_into_the_whole(run, tmp_path, capsys):
  parts = [tmp_path / f'part{i}' for i in range(3)]
  for i, part in enumerate(parts):
    run(part, shard=f'{i}/3')
  run(tmp_path / 'whole')
  words_ = ['merge', *map(str, parts), '--out', str(tmp_path / 'all')]
  assert predict.main(words_) == 0
  assert lines_of(tmp_path / 'all') == lines_of(tmp_path / 'whole')
  assert (tmp_path / 'all' / 'report.html').is_file()
  record = json.loads((parts[0] / results.RECORD).read_text())
  (parts[0] / results.RECORD).write_text(json.dumps(record | {'version': '0.1'}))
  assert predict.main(words_) == 2
  assert 'made otherwise' in capsys.readouterr().err


def test_sources(run, folder, tmp_path):
  pattern = inputs.list_files([f'{folder}/*.mkv', str(folder)], stdin=io.StringIO())
  assert len(pattern) == 5 and pattern == sorted(pattern)
  given = inputs.list_files(['-'], stdin=io.StringIO(f'{folder}/notes.txt\n\n'))
  assert given == [f'{folder}/notes.txt']  # Named, it is taken whatever its suffix.
  shards = [inputs.shard_of(pattern, (i, 2)) for i in range(2)]
  assert sorted(shards[0] + shards[1]) == pattern
  out = tmp_path / 'out'
  assert run(out, sources=['-'], stdin=f'{folder}/notes.txt\n') == 0
  assert json.loads(lines_of(out))['reasons'] == ['unreadable']


@pytest.mark.parametrize(
  ('words_', 'message'),
  [
    (['--source', 'no/such.mp4'], 'no file no/such.mp4'),
    (['--source', '{folder}', '--shard', '3/3'], r'--shard 3/3: give I/N'),
    (['--source', '{empty}'], 'no picture or video in the folder'),
    (['--source', '{folder}', '--max-seconds', '0'], 'limit seconds = 0.0: give more than 0'),
    (['--source', '{folder}', '--model', '{empty}'], 'is no run'),
  ],
)
def test_bad_usage_is_one_line_and_status_2(words_, message, folder, tmp_path, capsys, trained_run):
  empty = tmp_path / 'empty'
  empty.mkdir()
  given = [word.format(folder=folder, empty=empty) for word in words_]
  given = given if '--model' in given else [*given, '--model', str(trained_run)]
  assert predict.main([*given, '--out', str(tmp_path / 'out')]) == 2
  error = capsys.readouterr().err
  assert re.search(message, error) and error.count('\n') == 1
  assert not (tmp_path / 'out').exists()


def test_a_folder_holds_one_kind_of_answers(tmp_path):
  with results.Folder(tmp_path / 'a', {'model': 1}) as one:
    one.append(ANSWER)
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 'thesis.tex').touch()
  with pytest.raises(UserError, match='holds other files'):
    results.Folder(tmp_path / 'b', {})
  (tmp_path / 'a' / results.LINES).write_bytes(b'{}\n')
  (tmp_path / 'a' / '.predictions.jsonl.sha256').unlink()  # As in earlier versions.
  with pytest.raises(UserError, match='line 1: no answer of this version'):
    results.Folder(tmp_path / 'a', {'model': 1})


def hashed(name, digit):
  """An answer about another input."""
  sha256 = digit * 64
  facts = dataclasses.replace(ANSWER.input, name=name, sha256=sha256)
  return made(id=f'sha256:{sha256}', input=facts)


@pytest.fixture
def parts(tmp_path):
  """The folders of two shards, of two answers each."""
  folders = [tmp_path / 'part0', tmp_path / 'part1']
  for i, path in enumerate(folders):
    with results.Folder(path, {'model': 1}) as folder:
      for j in range(2):
        folder.append(hashed(f'{i}{j}.png', str(2 * i + j)))
      folder.finish('jsonl', [f'{i}/2'])
  return folders


def test_a_merge_misses_no_answer_without_a_word(parts, tmp_path, caplog):
  assert len(results.merge(parts, tmp_path / 'all', 'jsonl')) == 4 and not caplog.text
  assert len(results.merge([tmp_path / 'all'], tmp_path / 'again', 'jsonl')) == 4
  assert len(results.merge(parts[1:], tmp_path / 'one', 'jsonl')) == 2
  assert 'shards are missing (0/2)' in caplog.text
  lines = parts[1] / results.LINES
  sound = lines.read_bytes()
  for content, told in (
    (sound[:-1], 'holds 1 of its 2 answers'),
    (None, 'holds 0 of its 2 answers'),
    (sound.replace(b'0.91', b'0.19', 1), 'holds other answers than were written'),
  ):
    lines.unlink() if content is None else lines.write_bytes(content)
    with pytest.raises(UserError, match=f'part1 {told}.*: type the same command again'):
      results.merge(parts, tmp_path / 'cut', 'jsonl')
  # The same command makes it whole; answers that are no longer what they were are asked for anew.
  for content, kept in ((sound.replace(b'0.91', b'0.19', 1), 0), (sound[:-1], 1)):
    lines.write_bytes(content)
    with results.Folder(parts[1], {'model': 1}) as folder:
      assert len(folder.answers) == kept
      with pytest.raises(UserError, match='part1 was not finished'):
        results.merge(parts, tmp_path / 'cut', 'jsonl')
      for j in range(2):
        folder.append(hashed(f'1{j}.png', str(2 + j)))
      folder.finish('jsonl')
    assert len(results.merge(parts, tmp_path / 'all', 'jsonl')) == 4


def test_a_bit_that_flips_in_an_unfinished_line_is_asked_for_again(tmp_path, caplog):
  asked = [hashed(f'{j}.png', str(j)) for j in range(3)]
  path = tmp_path / 'part'
  with results.Folder(path, {'model': 1}) as folder:
    for answer in asked:
      folder.append(answer)
  lines = (path / results.LINES).read_bytes()
  for damaged, kept in (
    (lines.replace(b'0.91', b'0.81', 1), asked[1:]),
    (lines.replace(b'\n', b'\x0b', 1), asked[2:]),
    (lines + b'{"schema": ', asked),
  ):
    (path / results.LINES).write_bytes(damaged)
    with results.Folder(path, {'model': 1}) as folder:
      assert list(folder.answers) == list(map(results.key_of, kept))
      for answer in asked:
        if results.key_of(answer) not in folder.answers:
          folder.append(answer)
  assert caplog.text.count('damaged lines are left out, and answered again') == 2
  (path / '.predictions.jsonl.sha256').unlink()  # As in earlier versions: believed.
  with results.Folder(path, {'model': 1}) as folder:
    assert len(folder.answers) == 3


@pytest.mark.parametrize('sha256', ['/etc', '../' * 5, '', 'AB' * 32, 'ab' * 32 + '\n'])
def test_a_hash_that_is_none_is_no_answer(parts, sha256):
  line = json.loads((parts[0] / results.LINES).read_bytes().splitlines()[0])
  line['input']['sha256'], line['id'] = sha256, f'sha256:{sha256}'
  (parts[0] / results.LINES).write_text(json.dumps(line) + '\n')
  with pytest.raises(UserError, match='line 1: no answer of this version'):
    results.read_lines(parts[0] / results.LINES)


def test_the_pictures_of_a_run_are_not_its_inputs(tmp_path):
  for name in ('a.png', 'b/c.png', 'out/pictures/x/frame.jpg', 'outer/d.png'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  (tmp_path / 'link').symlink_to(tmp_path / 'out')
  for source in (tmp_path, tmp_path / '**' / '*.[jp]*g'):
    found = inputs.list_files([str(source)], stdin=io.StringIO(), out=tmp_path / 'link')
    assert [str(pathlib.Path(path).relative_to(tmp_path)) for path in found] == [
      'a.png', 'b/c.png', 'outer/d.png'
    ]  # fmt: skip
  frame = str(tmp_path / 'out/pictures/x/frame.jpg')
  assert inputs.list_files([frame], stdin=io.StringIO(), out=tmp_path / 'out') == [frame]


def test_names_are_no_formulas_of_a_spreadsheet(tmp_path):
  named = made(input=dataclasses.replace(ANSWER.input, name='=HYPERLINK("x").mp4'))
  results.write_form(tmp_path, [named], 'csv')
  assert '\n"\'=HYPERLINK(""x"").mp4",' in (tmp_path / results.TABLE).read_text()
  model = dataclasses.replace(ANSWER.model, sha256='=1+1')
  facts = dataclasses.replace(ANSWER.input, name='\t=1+1', sha256='-1')
  results.write_form(tmp_path, [made(input=facts, model=model, warnings=('\xa0@x',))], 'csv')
  (row,) = csv.DictReader(io.StringIO((tmp_path / results.TABLE).read_text()))
  assert (row['name'], row['sha256'], row['model'], row['warnings']) == (
    "'\t=1+1", "'-1", "'=1+1", "'\xa0@x"
  )  # fmt: skip
