"""The launchers as far as a machine without a cluster can run them: stand-ins for its commands."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / 'launch'
SCRIPTS = [*sorted(LAUNCH.glob('*.sh')), LAUNCH / 'slurm.sbatch']
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
  return [shlex.split(line.removesuffix(' &')) for line in result.stdout.splitlines()]


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


def test_a_dry_run_on_slurm():
  (command,) = printed(launch('slurm.sbatch', '--dry_run', *FLAGS))
  assert command[0] == 'srun' and command[-2:] == list(FLAGS)
  assert command[3:6] == ['launch/slurm_task.sh', 'python', '-m']
  assert command[command.index('-m') + 1 : -2] == ['masm_jax.main', '--distributed']
  (command,) = printed(
    launch('slurm.sbatch', '--dry_run', '--workdir=r/{task}', '--config.seed={task}',
           SLURM_ARRAY_TASK_ID='3')
  )  # fmt: skip
  assert command[-2:] == ['--workdir=r/3', '--config.seed=3']


@pytest.fixture
def slurm(tmp_path):
  """Stand-ins for srun and scontrol: the status that srun shall end with, the state of the job."""

  def make(status, state='RUNNING'):
    log = tmp_path / 'scontrol.log'
    (tmp_path / 'srun').write_text(f'#!/bin/sh\nexit {status}\n')
    (tmp_path / 'scontrol').write_text(
      f'#!/bin/sh\necho "$@" >> {log}\n[ $1 = show ] && echo "JobId=7 JobState={state}"; true\n'
    )
    for name in ('srun', 'scontrol'):
      (tmp_path / name).chmod(0o755)
    return tmp_path, log

  return make


@pytest.mark.parametrize(
  ('status', 'state', 'restarts', 'requeued'),
  [
    (143, 'RUNNING', '500', True),  # Preempted, or out of time: as often as it takes.
    (143, 'CANCELLED', '0', False),  # scancel.
    (75, 'RUNNING', '9', True),  # Another host died: ten times.
    (75, 'RUNNING', '10', False),
    (137, 'RUNNING', '0', True),
    (2, 'RUNNING', '0', False),
    (1, 'RUNNING', '0', False),
    (0, 'RUNNING', '0', False),
  ],
)
def test_slurm_puts_a_job_back_when_going_on_makes_sense(slurm, status, state, restarts, requeued):
  path, log = slurm(status, state)
  result = launch('slurm.sbatch', *FLAGS, path=path, SLURM_JOB_ID='7', SLURM_RESTART_COUNT=restarts)
  assert result.returncode == status
  calls = log.read_text() if log.exists() else ''
  assert ('requeue 7\n' in calls) == requeued


def test_the_batch_shell_outlives_a_sigterm(slurm):
  """SLURM signals it as well; it must be there to put the job back when srun has ended."""
  path, log = slurm(0)
  (path / 'srun').write_text('#!/bin/sh\nkill -TERM $PPID\nsleep 0.2\nexit 143\n')
  result = launch('slurm.sbatch', *FLAGS, path=path, SLURM_JOB_ID='7')
  assert result.returncode == 143, result.stderr
  assert 'requeue 7\n' in log.read_text()


@pytest.fixture
def slurm_tasks(slurm, tmp_path):
  """An srun that starts processes, signals them if asked to, and ends with the highest status."""

  def make(statuses, signalled=''):
    path, log = slurm(0)
    # Stands for masm_jax.main: saves on SIGTERM, each time that it is told to.
    (tmp_path / 'python').write_text(
      f'#!{sys.executable}\n'
      'import os, pathlib, signal, sys, time\n'
      'me, status = os.environ["SLURM_PROCID"], int(os.environ["STATUS"])\n'
      'signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(f"stop{me}").touch())\n'
      'os.chdir(os.environ["SCRATCH"])\n'
      'pathlib.Path(f"up{me}").write_text(str(os.getpid()))\n'
      'while status == 143 and not pathlib.Path(f"stop{me}").exists():\n'
      '  time.sleep(0.02)\n'
      'time.sleep(0.3)\n'
      'os._exit(status) if status >= 0 else os.kill(os.getpid(), -status)\n'
    )
    (tmp_path / 'srun').write_text(
      f'#!{sys.executable}\n'
      'import os, pathlib, signal, subprocess, sys, time\n'
      f'statuses, scratch = {statuses}, pathlib.Path({str(tmp_path)!r})\n'
      'command = [word for word in sys.argv[1:]]\n'
      'while command[0].startswith("--"):\n'
      '  del command[0]\n'
      'tasks = [\n'
      '  subprocess.Popen(command, start_new_session=True, env=os.environ | {\n'
      '    "SLURM_PROCID": str(i), "STATUS": str(status), "SCRATCH": str(scratch)})\n'
      '  for i, status in enumerate(statuses)]\n'
      'while not all((scratch / f"up{i}").exists() for i in range(len(tasks))):\n'
      '  time.sleep(0.02)\n'
      f'for task in tasks if {signalled!r} else ():\n'
      f'  if {signalled!r} == "group":\n'
      '    os.killpg(task.pid, signal.SIGTERM)\n'
      '  else:\n'
      '    task.send_signal(signal.SIGTERM)\n'
      'ends = [task.wait() for task in tasks]\n'
      'sys.exit(max(end if end >= 0 else 128 - end for end in ends))\n'
    )
    (tmp_path / 'python').chmod(0o755)
    return path, log, {'PYTHON': str(tmp_path / 'python'), 'SLURM_JOB_ID': '7'}

  return make


@pytest.mark.parametrize(
  ('statuses', 'expected', 'requeued'),
  [
    ((2, 75), 2, False),
    ((134, 75, 2), 2, False),
    ((2, 2), 2, False),
    ((0, 75), 75, True),
    ((75, -9), 137, True),  # Out of memory, say.
    ((1, 0), 1, False),
    ((0, 0), 0, False),
  ],
)
def test_srun_cannot_hide_an_error_to_mend(slurm_tasks, statuses, expected, requeued):
  path, log, environment = slurm_tasks(statuses)
  result = launch('slurm.sbatch', *FLAGS, path=path, **environment)
  assert result.returncode == expected, result.stderr
  assert log.exists() == requeued


@pytest.mark.parametrize('signalled', ['task', 'group'])
def test_a_sigterm_reaches_the_processes_behind_srun(slurm_tasks, tmp_path, signalled):
  """SLURM may signal the first process of a task alone, or all; and both end after it has saved."""
  path, log, environment = slurm_tasks((143, 143, 0), signalled)
  result = launch('slurm.sbatch', *FLAGS, path=path, **environment)
  assert result.returncode == 143, result.stderr
  assert 'requeue 7\n' in log.read_text()
  for i in range(2):
    assert (tmp_path / f'stop{i}').exists()
    with pytest.raises(ProcessLookupError):
      os.kill(int((tmp_path / f'up{i}').read_text()), 0)


def test_a_dry_run_on_a_tpu_pod():
  commands = printed(launch('tpu_pod.sh', 'run', *TPU, '--spot', '--dry_run', '--', *FLAGS))
  assert [' '.join(command[:5]) for command in commands] == [
    'gcloud compute tpus queued-resources create',
    'git archive --output=masm_jax.tar.gz HEAD',
    'gcloud compute tpus tpu-vm scp',
    'rm masm_jax.tar.gz',
    'gcloud compute tpus tpu-vm ssh',
    'gcloud compute tpus tpu-vm ssh',
    'gcloud compute tpus tpu-vm ssh',
    'gcloud compute tpus queued-resources delete',
  ]
  assert {'--spot', '--accelerator-type=v6e-16', '--node-id=m'} <= set(commands[0])
  train = commands[-2]
  assert '--worker=all' in train
  remote = shlex.split(train[-1].removeprefix('--command='))
  assert remote[-4:] == ['masm_jax.main', '--distributed', *FLAGS]


def test_a_tpu_slice_that_was_taken_away_is_asked_for_again(tmp_path):
  """A stand-in for gcloud: the first training ends early, and the slice is gone then."""
  (tmp_path / 'gcloud').write_text(
    '#!/bin/bash\n'
    f'cd {tmp_path}; echo "$*" >> log\n'
    'case "$*" in\n'
    '  *describe*) cat state 2>/dev/null || exit 1 ;;\n'
    '  *create*) echo ACTIVE > state ;;\n'
    '  *delete*) rm -f state ;;\n'
    '  *masm_jax.main*) [[ -e once ]] || { touch once; echo SUSPENDED > state; exit 1; } ;;\n'
    'esac\n'
  )
  for name in ('git', 'sleep'):
    (tmp_path / name).write_text('#!/bin/sh\ntouch masm_jax.tar.gz\n')
  for name in ('gcloud', 'git', 'sleep'):
    (tmp_path / name).chmod(0o755)
  result = launch('tpu_pod.sh', 'run', *TPU, '--', *FLAGS, path=tmp_path)
  assert result.returncode == 0, result.stderr
  words = ('create', 'delete', 'masm_jax.main')
  calls = [w for line in (tmp_path / 'log').read_text().splitlines() for w in words if w in line]
  assert calls == ['create', 'masm_jax.main', 'delete', 'create', 'masm_jax.main', 'delete']
  assert 'ended early (slice: SUSPENDED); attempt 1' in result.stderr


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
    'ENV',
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
