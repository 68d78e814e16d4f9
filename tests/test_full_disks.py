"""A disk that is full: one line, status 2, and the same command resumes after room was made.

`MASM_JAX_DISKS=10 pytest -n0 tests/test_full_disks.py` takes ten sizes for each command, and those
commands too that take seconds and write as others do. `inspect` writes nothing; the disk of a
server is in serving/test_api.py.
"""

import dataclasses
import os
import pathlib
import shutil

import cv2
import numpy as np
import pytest
import skimage

from masm_jax.export import __main__ as export
from masm_jax.prediction import results
from tests.disks import grow, leftovers, small_disk
from tests.full_disk_commands import COMMANDS, IS_LONG, LONG, NUM_SIZES
from tests.prediction.answers_made import ANSWER
from tests.report.conftest import write_evaluation

# Of tfds' and ml_collections' own parts.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::ResourceWarning')


# At three sizes, even where few are asked for.
QUICK = ('synthetic', 'tfds', 'preprocess', 'perturb', 'sweep')
# Of these, the files that must be the same; the others note times, versions and their own folder.
SAME = {'train': ('metrics.jsonl', 'results.json', '.parquet')}
NAMES = (*COMMANDS, *(LONG if IS_LONG else ()))
CASES = [
  (name, (i + 0.5) / sizes)
  for name in NAMES
  for sizes in [NUM_SIZES if IS_LONG or name in QUICK else 1]
  for i in range(sizes)
]


@pytest.fixture(scope='module')
def inputs(portraits, trained_run, old_runs, tmp_path_factory):
  folder = tmp_path_factory.mktemp('inputs')
  (folder / 'set').symlink_to(portraits.parent)
  (folder / 'run').symlink_to(trained_run)
  (folder / 'masm').symlink_to(old_runs / 'masm')
  shutil.copytree(trained_run, folder / 'with_masks')
  masks = (old_runs / 'masm' / 'masks.jsonl').read_text().splitlines(keepends=True)
  (folder / 'with_masks' / 'masks.jsonl').write_text(masks[0])
  (folder / 'crops').mkdir()
  for i, path in enumerate(sorted(portraits.parent.rglob('*.png'))[:3]):
    shutil.copy(path, folder / 'crops' / f'{i}.png')
  for name, seed in (('e', 0), ('other', 1)):
    write_evaluation(folder / name, method=name, seed=seed, num_videos=4, frames_per_video=2)
  words = ['--run', folder / 'run', '--format', 'adapter', '--out', folder / 'adapter']
  assert export.main([*map(str, words)]) == 0
  for i in range(2):
    facts = dataclasses.replace(ANSWER.input, name=f'{i}.mp4')
    with results.Folder(folder / f'part{i}', {'model': 'a'}) as part:
      part.append(dataclasses.replace(ANSWER, input=facts))
      part.finish('jsonl')
  for kind in ('faces', 'noise'):
    (folder / kind).mkdir()
  astronaut = cv2.imread(str(pathlib.Path(skimage.__file__).parent / 'data' / 'astronaut.png'))
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  for i in range(4):
    cv2.imwrite(str(folder / 'faces' / f'{i}.png'), astronaut[16:208, 128:320])
    cv2.imwrite(str(folder / 'noise' / f'{i}.png'), noise)
  return folder


def content(folder, name):
  """The files that a command makes, as far as they say the same each time."""
  files = (path for path in folder.rglob('*') if path.is_file())
  found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
  # A manifest of a set remembers where its images were, as seen from its own folder; a program of
  # StableHLO, which line of which file has called for it.
  varies = ('1.0.0/manifest.parquet', 'commands.txt', 'model.stablehlo')
  if name == 'train':
    found = {path.removeprefix('run/'): data for path, data in found.items()}
  if name == 'pretrain':  # The library writes what stands beside the arrays in any order.
    found = {p: data[8 + int.from_bytes(data[:8], 'little') :] for p, data in found.items()}
  return {
    path: data
    for path, data in found.items()
    if not path.endswith(varies) and path.endswith(SAME.get(name, ''))
  }


def place(inputs, name, out):
  """Puts there what a command needs in its own folder: an analysis is written into the run."""
  if name == 'analysis':
    shutil.copytree(inputs / 'run', out / 'run')


def used_kb(folder):
  return sum(4 + path.stat().st_size // 1024 for path in folder.rglob('*'))


@pytest.fixture(scope='module')
def whole(inputs, tmp_path_factory):
  """What each command makes where there is room: content, and kilobytes."""
  found = {}

  def make(name):
    if name == 'train':
      found[name] = content(inputs / 'run', name), used_kb(inputs / 'run')
    if name not in found:
      out = tmp_path_factory.mktemp('same')  # Of a path as long as any disk's: files name it.
      place(inputs, name, out)
      assert (COMMANDS | LONG)[name](inputs, out) == 0
      made = used_kb(out) - (used_kb(inputs / 'run') if name == 'analysis' else 0)
      found[name] = content(out, name), made
    return found[name]

  return make


@pytest.mark.parametrize(('name', 'share'), CASES)
def test_a_full_disk_is_one_line_and_the_same_command_resumes(
  inputs, whole, tmp_path, name, share, capsys
):
  expected, kilobytes = whole(name)
  capsys.readouterr()
  with small_disk(tmp_path / 'disk', 2**16) as disk:
    place(inputs, name, disk)
    usage = os.statvfs(disk)
    taken = (usage.f_blocks - usage.f_bfree) * usage.f_frsize // 1024
    grow(disk, taken + max(4, int(share * kilobytes)))
    status = (COMMANDS | LONG)[name](inputs, disk)
    said = capsys.readouterr().err
    told = [line for line in said.splitlines() if line.startswith('error')]
    assert 'Traceback' not in said, said
    if status:  # The rest of the disk may be just enough.
      assert status == 2, said
      assert len(told) == 1 and told[0].startswith('error: ') and 'space' in told[0], told
    else:
      assert share > 0.3
    grow(disk, taken + 20 * kilobytes + 4096)
    assert (COMMANDS | LONG)[name](inputs, disk) in (0, 2 if not status else 0)
    found = content(disk, name)
    assert found.keys() == expected.keys()
    assert [path for path in expected if found[path] != expected[path]] == []
    assert not leftovers(disk)
