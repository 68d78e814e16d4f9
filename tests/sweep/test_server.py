"""The server of a sweep's runs ends with the sweep."""

import importlib
import os
import runpy
import subprocess
import sys
import time

import pytest

from masm_jax.parallel import parents
from masm_jax.sweep import server
from tests.kill_all import members

_SWEEP = """
import time
from masm_jax.sweep import local
print('starts', flush=True)
local.start_process(time.sleep, (60,))
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='asks the kernel of Linux')
def test_it_ends_at_once_though_it_is_importing():
  process = subprocess.Popen(
    [sys.executable, '-c', _SWEEP], stdout=subprocess.PIPE, start_new_session=True
  )
  with process:
    assert process.stdout.readline() == b'starts\n'
    deadline = time.monotonic() + 20
    while len(members(process.pid)) < 3 and time.monotonic() < deadline:
      time.sleep(0.01)
    time.sleep(0.3)  # It needs seconds for its imports.
    assert len(members(process.pid)) == 3  # The sweep, its server, multiprocessing's tracker.
    process.kill()
  deadline = time.monotonic() + 1
  while (left := members(process.pid)) and time.monotonic() < deadline:
    time.sleep(0.01)
  assert not left


def test_what_it_cannot_import_is_left_to_the_runs(monkeypatch):
  """They tell it in one line; a server that ends takes the sweep along."""

  def import_module(name):
    raise ValueError(f'{name} takes no such variable')

  monkeypatch.setattr(parents, 'end_at_once_with', lambda pid: None)
  monkeypatch.setattr(importlib, 'import_module', import_module)
  monkeypatch.setenv(server.PARENT, '1')
  runpy.run_path(server.__file__)
  assert server.PARENT not in os.environ
