"""The Ray engine gives the same lines as the local one. Needs Ray; skipped without it."""

import io
import shutil

import numpy as np
import pytest

from masm_jax.prediction import command, ray_engine, results
from tests.prediction.clips import write_clip

pytest.importorskip('ray', reason="needs Ray: pip install 'masm_jax[ray]'")


@pytest.mark.filterwarnings('default')  # Ray's own.
@pytest.mark.skipif(shutil.disk_usage('/dev/shm').free < 2**28, reason='needs shared memory')
def test_lines_are_those_of_the_local_engine(trained_run, tmp_path, monkeypatch):
  monkeypatch.setenv('RAY_worker_niceness', '0')  # 15 by default: a busy machine starves them.
  rng = np.random.default_rng(0)
  (tmp_path / 'in').mkdir()
  for i in range(3):
    frames = rng.integers(0, 256, (4 + i, 64, 64, 3), dtype=np.uint8)
    write_clip(tmp_path / 'in' / f'{i}.mkv', frames)
  for engine in ('local', 'ray'):
    options = command.Options(
      model=str(trained_run), sources=(str(tmp_path / 'in'),), out=tmp_path / engine,
      faces='whole', batch_size=8, engine=engine,
    )  # fmt: skip
    assert command.run(options, start_jax=lambda: None, stdin=io.StringIO()) == 0
  lines = [(tmp_path / engine / results.LINES).read_bytes() for engine in ('local', 'ray')]
  assert lines[0] == lines[1] and lines[0].count(b'\n') == 3


def test_no_input_starts_no_cluster():
  assert list(ray_engine.predict([], ray_engine.Cluster(), loads={}, predicts={})) == []
