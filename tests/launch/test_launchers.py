"""The launchers as far as a machine without a cluster can run them; those of one platform have
a file each."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.launch.launching import FLAGS, LAUNCH, REPOSITORY, TPU, launch, printed

SCRIPTS = [*sorted(LAUNCH.glob('*.sh')), LAUNCH / 'slurm.sbatch']


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
  shellcheck = pathlib.Path(sys.executable).with_name('shellcheck')
  result = subprocess.run([shellcheck, '--enable=all', '--exclude=SC2250,SC2310,SC2312', script],
                          capture_output=True, text=True)  # fmt: skip
  assert result.returncode == 0, result.stdout
  assert os.access(script, os.X_OK)


def test_a_dry_run_of_the_local_launcher():
  commands = printed(launch('local.sh', '--dry_run', '2', *FLAGS, PORT='4711'))
  assert commands == [
    ['python', '-m', 'masm_jax.main', '--coordinator=127.0.0.1:4711', '--num_processes=2',
     f'--process_id={i}', *FLAGS]
    for i in range(2)
  ]  # fmt: skip


@pytest.mark.parametrize(
  ('first', 'second', 'expected'),
  [(75, 2, 2), (2, 75, 2), (75, 134, 75), (143, 143, 143), (0, 75, 75), (0, 2, 2), (0, 0, 0)],
)
def test_the_local_launcher_ends_with_the_error_to_mend(tmp_path, first, second, expected):
  """Two stand-ins for masm_jax.main, of which the second ends a moment after the first."""
  python = tmp_path / 'python'
  python.write_text(
    '#!/bin/bash\n'
    f'case "$*" in *process_id=0*) exit {first} ;; *) sleep 0.5; exit {second} ;; esac\n'
  )
  python.chmod(0o755)
  assert launch('local.sh', '2', *FLAGS, PYTHON=str(python)).returncode == expected


@pytest.mark.parametrize(
  ('script', 'arguments', 'message'),
  [
    ('local.sh', ('0', *FLAGS), 'usage: '),
    ('local.sh', (), 'usage: '),
    ('slurm.sbatch', (), 'usage: '),
    ('tpu_pod.sh', (), 'Trains on a Cloud TPU slice'),
    ('tpu_pod.sh', ('train', *TPU, '--bad'), 'error: unknown option --bad'),
    ('tpu_pod.sh', ('train', *TPU[1:], '--', *FLAGS), 'error: give --name=...'),
    ('tpu_pod.sh', ('run', *TPU), 'error: give -- --config=FILE --workdir=DIR'),
  ],
)
def test_bad_arguments_are_named(script, arguments, message):
  result = launch(script, *arguments)
  assert result.returncode == 2
  assert result.stderr.startswith(message)


@pytest.mark.parametrize('kind', ['cpu', 'gpu', 'tpu'])
def test_images_install_what_is_pinned(kind, tmp_path):
  """The instructions of each Dockerfile, and its one change of the requirements, carried out."""
  text = (LAUNCH / 'docker' / f'Dockerfile.{kind}').read_text()
  assert f'docker build --file=launch/docker/Dockerfile.{kind} --tag=masm-jax:{kind} .' in text
  lines = text.replace('\\\n', '').splitlines()
  instructions = [line.split()[0] for line in lines if line and line[0] not in '# ']
  assert instructions == [
    'FROM',
    'WORKDIR',
    'COPY',
    'RUN',
    'COPY',
    'COPY',
    *['ENV'] * (2 if kind == 'cpu' else 1),
    'ENTRYPOINT',
    'CMD',
  ]
  for source in re.findall(r'^COPY (\S+)', text, re.MULTILINE):
    assert (REPOSITORY / source).exists()
    assert f'!{source}' in (REPOSITORY / '.dockerignore').read_text().splitlines()
  shutil.copy(REPOSITORY / 'requirements.txt', tmp_path)
  before = (tmp_path / 'requirements.txt').read_text()
  for command in re.findall(r"sed -i '[^']+' requirements.txt", text):
    subprocess.run(['sh', '-c', command], cwd=tmp_path, check=True)
  after = (tmp_path / 'requirements.txt').read_text()
  extra = {'cpu': 'jax==', 'gpu': 'jax[cuda13]==', 'tpu': 'jax[tpu]=='}[kind]
  assert after == re.sub(r'^jax==', extra, before, flags=re.MULTILINE)
