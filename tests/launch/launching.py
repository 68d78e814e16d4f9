"""What the tests of the launchers share: starting a script, and reading what it would run."""

import os
import pathlib
import subprocess

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / 'launch'
FLAGS = ('--config=configs/demo.py', '--workdir=runs/a b')
TPU = ('--name=m', '--zone=z', '--type=v6e-16', '--runtime=r', '--share=10.0.0.2:/runs')


def launch(script, *arguments, path=None, **environment):
  environment = os.environ | {'PYTHON': 'python'} | environment
  if path:
    environment['PATH'] = f'{path}:{environment["PATH"]}'
  return subprocess.run(
    [LAUNCH / script, *arguments], capture_output=True, text=True, env=environment, cwd=REPOSITORY,
    timeout=60,
  )  # fmt: skip


def printed(result):
  """The commands that a dry run printed, as words."""
  assert result.returncode == 0, result.stderr
  return [words(line.removesuffix(' &')) for line in result.stdout.splitlines()]


def words(line):
  """A line in the quotes of bash, which knows some that shlex does not."""
  result = subprocess.run(
    ['bash', '-c', f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
  )
  return result.stdout.split('\0')[:-1]
