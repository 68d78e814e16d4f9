"""Runs every block of README and docs that says nothing of a need, in order, on small data.

A block with a title such as "needs data" is not run; its modules and flags must exist. Words of a
command are taken as they stand; behind them come flags that make the run small.
"""

import importlib.util
import pathlib
import re
import shutil

import pandas as pd
import pytest

from configs import common
from masm_jax.__main__ import COMMANDS
from masm_jax.data import synthetic
from tests.docs import blocks, running

REPOSITORY = blocks.REPOSITORY
ALL = [block for page in blocks.PAGES for block in blocks.read_blocks(page)]
RUN = [block for block in ALL if block.language in ('sh', 'python') and not block.title]
NOT_RUN = [block for block in ALL if block.language == 'sh' and block.title]

# One block of a tiny backbone is decomposed: a step of all 36 kernels compiles for half a minute.
_SMALL_BACKBONE = {
  'backbone.name': 'demo_vit',
  'backbone.weights': '',
  'subspace.targets': '.*/block_05/attn/.*',
}
_OTHERS = ('docker', 'pip', 'make', 'sbatch')  # Programs whose flags are not ours.
_SMALL_RUN = _SMALL_BACKBONE | {
  'data.augment': 'none',
  'train.batch_size': 8,
  'train.duration': '4 steps',
  'eval.every': '4 steps',
  'eval.batch_size': 16,
  'checkpoint.every': '4 steps',
  'log.every_steps': 2,
  'mask.warmup_steps': 2,
  'mask.refresh_steps': 1,
}


def _config(fields):
  return [f'--config.{name}={value}' for name, value in fields.items()]


_CACHE = f'--compilation_cache={REPOSITORY / ".pytest_cache" / "xla"}'
# What makes a command of masm-jax small: flags behind its own.
_SMALL = {
  'main': [_CACHE, *_config(_SMALL_RUN)],
  'inspect': _config(_SMALL_BACKBONE),
  'evaluate': [_CACHE, '--suite.bootstrap.draws=20', '--suite.batch_size=16'],
  'report': ['--tsne-points=20'],
  'analysis': [_CACHE, '--manifest=portraits/manifest.parquet'],
}


@pytest.fixture(scope='module')
def sandbox(tmp_path_factory):
  """A folder with the checkout's programs and a small set of face crops in plain folders."""
  folder = tmp_path_factory.mktemp('docs')
  for name in ('configs', 'launch', 'masm_jax'):
    (folder / name).symlink_to(REPOSITORY / name)
  manifest = synthetic.materialize(
    folder / 'portraits', num_identities=12, videos_per_identity=2, frames_per_video=3,
    num_processes=1, progress=False,
  )  # fmt: skip
  for row in pd.read_parquet(manifest).itertuples():
    kind = pathlib.Path('fake', row.method) if row.label else pathlib.Path('real')
    target = folder / 'crops' / kind / row.video_id.replace('/', '_') / f'{row.frame:03}.png'
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(manifest.parent / row.path, target)
  shutil.copyfile(target, folder / 'crop.png')
  return folder


@pytest.fixture(scope='module')
def done(sandbox):
  """Blocks of the sandbox that have run, by place; those of README come before any other page."""
  finished = {}

  def do(block):
    for earlier in [b for b in RUN if b.where.startswith('README.md:')] + [block]:
      if earlier not in finished:
        finished[earlier] = 'an earlier block failed'
        finished[earlier] = _run_block(earlier, sandbox)
      assert not finished[earlier], f'{earlier.where}: {finished[earlier]}'

  return do


def _run_block(block, sandbox):
  """Runs a block; returns what went wrong, or ''."""
  if block.language == 'python':
    (sandbox / 'docs_block.py').write_text(block.text)
    commands = [['python', '-m', 'docs_block']]
  else:
    commands = blocks.commands(block)
  for words in commands:
    small = _SMALL.get(words[1], []) if words[0] == 'masm-jax' else []
    status, output = running.run([*words, *small], sandbox)
    if status:
      return f'status {status} of {" ".join(words)}\n{output[-4000:]}'
  return ''


@pytest.mark.parametrize('block', RUN, ids=lambda block: block.where)
def test_the_block_runs(block, done):
  done(block)


def test_what_the_commands_leave_is_what_the_docs_name(sandbox, done):
  for block in RUN:
    done(block)
  for name in (
    'crops/split.parquet', 'runs/own/results.json', 'runs/own/masks.jsonl', 'runs/own/run.json',
    'runs/own/perf.jsonl', 'runs/own/metrics.jsonl', 'runs/own/masks.png',
    'runs/own/scores/best/test.parquet', 'runs/own/evaluation/results.json',
    'runs/own/evaluation/scores/test.parquet', 'runs/own/analysis.json', 'runs/own/analysis.png',
    'report.html', 'both.html', 'comparison/comparison.md', 'comparison/comparison.tex',
    'tfds/face_crops/two/1.0.0', 'runs/components/commands.txt',
  ):  # fmt: skip
    assert (sandbox / name).exists(), name


def test_every_block_has_a_language_and_a_known_title():
  assert len(RUN) >= 8
  for block in ALL:
    assert block.language in blocks.LANGUAGES, block.where
    assert not block.rest, block.where
    assert block.title in blocks.NEEDS | {''}, f'{block.where}: is it run, or what does it need?'


def test_a_block_with_neither_language_nor_title_is_seen(tmp_path, monkeypatch):
  monkeypatch.setattr(blocks, 'REPOSITORY', tmp_path)
  page = tmp_path / 'page.md'
  page.write_text(
    '```\nrm\n```\n```console\n$ ls\n```\n```sh title="needs luck" x\nls a \\\n b\n```\n'
  )
  found = blocks.read_blocks(page)
  assert [b.language for b in found] == ['', 'console', 'sh']
  assert (found[2].title, found[2].rest, found[2].where) == ('needs luck', ' x', 'page.md:7')
  assert blocks.commands(found[2]) == [['ls', 'a', 'b']]
  page.write_text('```sh\nls\n')
  with pytest.raises(AssertionError, match='does not end'):
    blocks.read_blocks(page)


@pytest.mark.parametrize('block', NOT_RUN, ids=lambda block: block.where)
def test_commands_that_are_not_run_name_what_exists(block):
  sources = '\n'.join(path.read_text() for path in _sources())
  for words in blocks.commands(block):
    if words[:2] == ['python', '-m']:
      assert importlib.util.find_spec(words[2]) is not None, words
    if words[0] == 'masm-jax':
      assert words[1] in COMMANDS, words
    for word in words:
      _check_word(block, words[0], word, sources)


def _check_word(block, program, word, sources):
  """A word that names a file, a shipped config, a field or a flag names one that exists."""
  if word.startswith('launch/'):
    assert (REPOSITORY / word).exists(), word
  flag, _, value = word.partition('=')
  if flag in ('--config', '--suite', '--base'):
    assert (REPOSITORY / 'configs' / f'{value.partition(":")[0]}.py').exists(), word
  if flag.startswith('--config.'):
    assert flag.split('.')[1] in common.get_config(), word
  elif flag.startswith('--suite.'):
    assert flag.split('.')[1] in common.get_suite(), word
  elif flag.startswith('--') and flag != '--' and program not in _OTHERS:
    name = flag.removeprefix('--')
    assert re.search(rf"""'(--)?{name}'|--{name}\b""", sources), (block.where, flag)


def _sources():
  for folder in ('masm_jax', 'launch', 'benchmarks'):
    yield from (REPOSITORY / folder).rglob('*.py')
    yield from (REPOSITORY / folder).rglob('*.s[bh]*')
