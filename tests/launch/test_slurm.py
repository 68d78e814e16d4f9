"""slurm.sbatch with stand-ins for srun and scontrol."""

import os
import sys

import pytest

from tests.launch.launching import FLAGS, launch, printed


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
  """SLURM signals it too; it must be there to put the job back when srun has ended."""
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
