"""The Ray engine makes the same crops as the local one. Needs Ray; skipped without it."""

import pathlib
import shutil

import pytest

from masm_jax.errors import UserError
from masm_jax.parallel.ray_actors import Cluster
from masm_jax.preprocess import outcomes, pool, ray_engine, run
from masm_jax.preprocess.layouts import Options
from tests.preprocess.test_pool import make as make  # A fixture.


def test_an_actor_survives_what_kills_its_process(make, tmp_path):
  """Without Ray: what an actor does with one item after the other."""
  actor = ray_engine._Reader(make, (tmp_path,), 2**32)
  results = {}
  for number, task in enumerate(['a', 'kill', 'kill once', 'full']):
    row = ray_engine.item(number, task)
    batch = actor({key: [value] for key, value in row.items()})
    assert batch['number'] == [number]
    try:
      results[task] = ray_engine.result({key: value[0] for key, value in batch.items()})
    except UserError as error:
      results[task] = str(error)
  died = results.pop('kill')
  assert isinstance(died, pool.Died) and str(died) == 'signal SIGKILL'
  assert results == {'a': 'A', 'kill once': 'KILL ONCE', 'full': 'the disk is full'}


@pytest.mark.filterwarnings('default')  # Ray's own.
@pytest.mark.skipif(shutil.disk_usage('/dev/shm').free < 2**28, reason='needs shared memory')
def test_crops_are_those_of_the_local_engine(clips, settings, tmp_path, monkeypatch):
  monkeypatch.setenv('RAY_worker_niceness', '0')  # 15 by default: a busy machine starves them.
  pytest.importorskip('ray', reason="needs Ray: pip install 'masm_jax[ray]'")
  here = tmp_path / 'here'  # The working folder, a stranger's: Ray would put it on the path.
  here.mkdir()
  (here / 'av.py').write_text("raise SystemExit('it was run')")
  monkeypatch.chdir(here)
  monkeypatch.setenv('PYTHONPATH', str(pathlib.Path(run.__file__).parents[2]))  # As if installed.
  raw = tmp_path / 'raw'
  (raw / 'real').mkdir(parents=True)
  for name, path in clips.items():
    shutil.copy(path, raw / 'real' / f'{name}{path.suffix}')
  (raw / 'real' / 'broken.mp4').write_bytes(b'no video')
  made = {}
  for name, cluster in (('local', None), ('ray', Cluster(num_actors=1))):
    output = tmp_path / name
    report = run.preprocess(
      raw, 'folder', output, options=Options(split='test'), settings=settings, num_processes=0,
      cluster=cluster,
    )  # fmt: skip
    assert set(report.outcomes['outcome']) >= {'ok', 'unreadable'}
    made[name] = {
      str(path.relative_to(output)): path.read_bytes()
      for path in sorted(output.rglob('*'))
      if path.is_file() and path.suffix in ('.png', '.jsonl', '.json')
    }
    assert outcomes.OUTCOME_LINES in made[name]
    made[name]['manifest'] = report.manifest.sha256
  assert made['local'] == made['ray']
