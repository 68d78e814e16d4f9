"""The launchers as far as a machine without a cluster can run them: stand-ins for its commands."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

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
  return [words(line.removesuffix(' &')) for line in result.stdout.splitlines()]


def words(line):
  """A line in the quotes of bash, which knows some that shlex does not."""
  result = subprocess.run(
    ['bash', '-c', f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
  )
  return result.stdout.split('\0')[:-1]


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
  assert [' '.join(command[:5]).partition(' --')[0] for command in commands] == [
    'git archive',
    'gcloud compute tpus queued-resources create',
    'gcloud compute tpus tpu-vm scp',
    'gcloud compute tpus tpu-vm ssh',
    'gcloud compute tpus tpu-vm ssh',
    'gcloud compute tpus queued-resources delete',
  ]
  assert {'--spot', '--accelerator-type=v6e-16', '--node-id=m'} <= set(commands[1])
  train = commands[-2]
  assert '--worker=all' in train
  assert "; train_worker '--config=configs/demo.py' '--workdir=runs/a b')\n" in train[-1]


# --- A stand-in for Google's cloud: two workers, each a folder in which its commands really run.

# The file `log` gets what was asked for. What is to happen is in files: `states`, those that the
# requests come to, one each; `later`, what describe finds next; `taken`, a step during which the
# slice is taken away; `stuck`, that nothing can be deleted.
GCLOUD = r"""#!/bin/bash
cd "$CLOUD"
case "$*" in
  *--command=setup_worker*) step=setup ;;
  *--command=train_worker*) step=train ;;
  *) step=$4 ;;
esac
[[ $step == describe ]] || echo "$step" >>log
if [[ -e taken && $(<taken) == "$step" ]]; then
  rm taken
  echo SUSPENDED >state
  exit 1
fi
case $step in
  describe)
    if [[ -s later ]]; then
      head --lines=1 later >state && sed -i 1d later
    fi
    [[ $(cat state 2>&1) != 'no network' ]] || { echo 'ERROR: no network' >&2; exit 1; }
    cat state 2>/dev/null || { echo "ERROR: NOT_FOUND: Resource 'm'" >&2; exit 1; }
    ;;
  create)
    [[ ! -e state ]] || { echo 'ERROR: ALREADY_EXISTS' >&2; exit 1; }
    head --lines=1 states >state && sed -i 1d states
    [[ -s state ]] || echo ACTIVE >state
    mkdir worker0 worker1
    ;;
  delete) [[ ! -e stuck ]] && rm -r state worker0 worker1 ;;
  scp) for worker in worker0 worker1; do cp "$5" "$worker"; done ;;
  setup | train)
    command="${!#}"
    for worker in worker0 worker1; do
      (
        cd "$worker"
        export HOME=$PWD WORKER=$worker PATH="$CLOUD/worker:/usr/bin:/bin"
        exec bash -c "${command#--command=}"
      ) &
    done
    wait
    exit "$(cat gcloud_status)"
    ;;
esac
"""

# Each worker has the Pythons in `pythons`, and what apt-get gave it.
PYTHON = r"""#!/bin/bash
me=${0##*/}
case "$*" in
  -c*venv*) cat "$CLOUD/pythons" ~/pythons 2>/dev/null | grep -qx "$me" ;;
  '-m venv --clear .venv')
    rm -rf .venv
    mkdir -p .venv/bin
    cp "$CLOUD/venv_python" .venv/bin/python
    echo "$me" >>~/done
    ;;
  *) exit 1 ;;
esac
"""

# pip fails on the worker that `pip_fails` names, once. Trainings end as WORKER.statuses says.
VENV_PYTHON = r"""#!/bin/bash
case "$*" in
  '-m pip install --quiet -r requirements.txt')
    grep -q 'jax\[tpu\]==1' requirements.txt || exit 1
    if [[ $(cat "$CLOUD/pip_fails" 2>/dev/null) == "$WORKER" ]]; then
      rm "$CLOUD/pip_fails"
      exit 1
    fi
    echo pip >>~/done
    ;;
  '-m masm_jax.main '*)
    printf 'progress, unfinished'
    printf '<%s>' "${@:3}" >~/flags
    status=$(head --lines=1 "$CLOUD/$WORKER.statuses")
    sed -i 1d "$CLOUD/$WORKER.statuses"
    if [[ $status == hang ]]; then
      trap 'touch "$CLOUD/$WORKER.saved"; exit 143' TERM
      touch "$CLOUD/$WORKER.hangs"
      for i in {1..300}; do sleep 0.1; done
    fi
    exit "${status:-0}"
    ;;
  *) exit 1 ;;
esac
"""

SUDO = r"""#!/bin/bash
case "$*" in
  'mkdir -p /mnt/share') ;;
  'mount -t nfs 10.0.0.2:/runs /mnt/share')
    [[ ! -e $CLOUD/no_share ]] || exit 32
    touch ~/mounted
    echo mount >>~/done
    ;;
  *apt-get*update) touch ~/updated ;;
  *apt-get*install*python3.11\ python3.11-venv)
    [[ -e ~/updated && ! -e $CLOUD/no_python ]] || exit 100
    echo python3.11 >~/pythons
    echo apt >>~/done
    ;;
  *apt-get*install\ nfs-common) ;;
  *) exit 1 ;;
esac
"""


@pytest.fixture
def cloud(tmp_path):
  commands = {
    'gcloud': GCLOUD,
    'git': '#!/bin/bash\ntar -C "$CLOUD/commit" -czf "${2#--output=}" masm_jax requirements.txt\n',
    'sleep': '#!/bin/sh\n',
    'venv_python': VENV_PYTHON,
    'worker/sudo': SUDO,
    'worker/python3.11': PYTHON,
    'worker/python3.12': PYTHON,
    'worker/mountpoint': '#!/bin/sh\n[ -e ~/mounted ]\n',
    'worker/apt-cache': '#!/bin/sh\n[ "$(cat "$CLOUD/no_python")" != unknown ]\n',
  }
  (tmp_path / 'worker').mkdir()
  (tmp_path / 'commit' / 'masm_jax').mkdir(parents=True)
  (tmp_path / 'commit' / 'masm_jax' / 'main.py').touch()
  (tmp_path / 'commit' / 'requirements.txt').write_text('jax==1\njaxlib==1\n')
  for name, text in commands.items():
    (tmp_path / name).write_text(text)
    (tmp_path / name).chmod(0o755)
  files = {'states': '', 'pythons': 'python3.11\n', 'gcloud_status': '0'}
  for name, text in (files | {f'worker{i}.statuses': '' for i in range(2)}).items():
    (tmp_path / name).write_text(text)
  return tmp_path


def statuses(cloud, *attempts):
  """What the two workers' trainings end with, attempt by attempt."""
  for i in range(2):
    lines = ''.join(f'{attempt[i]}\n' for attempt in attempts)
    (cloud / f'worker{i}.statuses').write_text(lines)


def run_on(cloud, action, *options, flags=FLAGS):
  return launch('tpu_pod.sh', action, *TPU, *options, '--', *flags, path=cloud, CLOUD=str(cloud))


def log_of(cloud):
  return (cloud / 'log').read_text().split()


def done_on(cloud, worker=0):
  return (cloud / f'worker{worker}' / 'done').read_text().split()


ONCE = ['create', 'scp', 'setup', 'train']


def test_a_tpu_pod_is_set_up_trained_on_and_deleted(cloud):
  flags = (*FLAGS, "--config.x=it's $HOME")
  result = run_on(cloud, 'run', '--keep', flags=flags)
  assert result.returncode == 0, result.stderr
  assert log_of(cloud) == ONCE
  assert result.stdout.count('progress, unfinished') == 2
  assert result.stdout.count(' ended with status 0\n') == 4
  for i in range(2):
    assert done_on(cloud, i) == ['mount', 'python3.11', 'pip']
    given = (cloud / f'worker{i}' / 'flags').read_text()
    assert given == ''.join(f'<{flag}>' for flag in ('--distributed', *flags))
  assert 'gcloud compute tpus queued-resources delete m --zone=z --force --quiet' in result.stderr
  result = run_on(cloud, 'run')
  assert result.returncode == 0, result.stderr
  assert log_of(cloud) == [*ONCE, *ONCE[1:], 'delete']
  assert not (cloud / 'worker0').exists()


@pytest.mark.parametrize('step', ['scp', 'setup', 'train'])
def test_a_tpu_slice_that_was_taken_away_is_asked_for_again(cloud, step):
  (cloud / 'taken').write_text(step)
  result = run_on(cloud, 'run')
  assert result.returncode == 0, result.stderr
  assert log_of(cloud) == [*ONCE[: ONCE.index(step) + 1], 'delete', *ONCE, 'delete']
  doing = 'train' if step == 'train' else 'setup'
  assert f'{doing} on m ended early (slice: SUSPENDED); restart 1 of 20' in result.stderr


def test_a_request_that_is_not_filled_is_made_again(cloud):
  (cloud / 'states').write_text('FAILED\nSUSPENDED\n')
  result = run_on(cloud, 'run')
  assert result.returncode == 0, result.stderr
  assert log_of(cloud) == ['create', 'delete', 'create', 'delete', *ONCE, 'delete']
  assert 'error: the request for m was not filled (it is FAILED)' in result.stderr
  (cloud / 'log').unlink()
  (cloud / 'states').write_text('FAILED\n' * 3)
  result = run_on(cloud, 'run', '--restarts=1')
  assert result.returncode == 1
  assert log_of(cloud) == ['create', 'delete', 'create', 'delete']
  assert 'error: create failed; gave up after 1 restarts' in result.stderr


@pytest.mark.parametrize(
  ('states', 'first'),
  [
    (('WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE'), []),
    (('no network', 'ACTIVE'), []),
    (('SUSPENDING', 'SUSPENDING', 'SUSPENDED'), ['delete', 'create']),
  ],
)
def test_what_is_there_already_is_taken_as_it_is(cloud, states, first):
  assert run_on(cloud, 'create').returncode == 0
  (cloud / 'later').write_text(''.join(f'{state}\n' for state in states))
  result = run_on(cloud, 'run', '--restarts=0')
  assert result.returncode == 0, result.stderr
  assert log_of(cloud) == ['create', *first, *ONCE[1:], 'delete']


def test_a_slice_that_cannot_be_deleted_is_named(cloud):
  (cloud / 'stuck').touch()
  result = run_on(cloud, 'run')
  assert result.returncode == 1
  assert 'error: could not delete m\nm is not deleted: ' in result.stderr


def test_a_failed_setup_is_done_again_on_the_same_slice(cloud):
  (cloud / 'pip_fails').write_text('worker1')
  result = run_on(cloud, 'run', '--keep')
  assert result.returncode == 0, result.stderr
  assert log_of(cloud) == [*ONCE[:3], *ONCE[1:]]
  assert done_on(cloud, 0) == ['mount', 'python3.11', 'pip']
  assert done_on(cloud, 1) == ['mount', 'python3.11', 'python3.11', 'pip']


def test_another_commit_takes_the_place_of_the_last(cloud):
  assert run_on(cloud, 'create').returncode == run_on(cloud, 'setup').returncode == 0
  source = cloud / 'commit' / 'masm_jax'
  (source / 'main.py').rename(source / 'new.py')
  (cloud / 'worker0' / 'masm_jax' / 'runs').mkdir()
  assert run_on(cloud, 'setup').returncode == 0
  assert [path.name for path in (cloud / 'worker0/masm_jax/masm_jax').iterdir()] == ['new.py']
  assert (cloud / 'worker0' / 'masm_jax' / 'runs').exists()
  assert done_on(cloud) == ['mount', 'python3.11', 'pip']
  (cloud / 'commit' / 'requirements.txt').write_text('jax==1\njaxlib==2\n')
  assert run_on(cloud, 'setup').returncode == 0
  assert done_on(cloud) == ['mount', 'python3.11', 'pip', 'python3.11', 'pip']


@pytest.mark.parametrize(
  ('found', 'apt', 'expected'),
  [
    ('python3.12\npython3.11\n', '', ['mount', 'python3.12', 'pip']),
    ('python3.10\n', '', ['mount', 'apt', 'python3.11', 'pip']),
    ('python3.10\n', 'unknown', 2),  # No try will find it.
    ('python3.10\n', 'out of reach', 1),
  ],
)
def test_a_worker_takes_or_installs_a_python(cloud, found, apt, expected):
  (cloud / 'pythons').write_text(found)
  if apt:
    (cloud / 'no_python').write_text(apt)
  assert run_on(cloud, 'create').returncode == 0
  result = run_on(cloud, 'setup')
  if isinstance(expected, list):
    assert result.returncode == 0, result.stderr
    assert done_on(cloud) == expected
  else:
    assert result.returncode == expected
    assert len(re.findall('^error: .* has neither Python 3.12 nor', result.stderr, re.M)) == 2
    assert not (cloud / 'worker0' / 'masm_jax' / '.venv').exists()


@pytest.mark.parametrize('gcloud_status', ['0', '75', '255'])
@pytest.mark.parametrize('ends', [(2, 75), (134, 2), (2, 2)])
def test_an_error_to_mend_ends_the_run_on_a_tpu_pod(cloud, ends, gcloud_status):
  assert run_on(cloud, 'create').returncode == run_on(cloud, 'setup').returncode == 0
  statuses(cloud, (143, 143), ends)
  assert run_on(cloud, 'train').returncode == 1
  (cloud / 'gcloud_status').write_text(gcloud_status)
  assert run_on(cloud, 'train').returncode == 2


def test_a_slice_does_not_idle_after_an_error_to_mend(cloud):
  statuses(cloud, (75, 134), (143, 143), (75, 2))
  result = run_on(cloud, 'run')
  assert result.returncode == 2
  assert log_of(cloud) == [*ONCE, *ONCE[1:], *ONCE[1:], 'delete']
  (cloud / 'no_share').touch()
  result = run_on(cloud, 'run', '--keep')
  assert result.returncode == 2
  assert 'cannot mount --share=10.0.0.2:/runs' in result.stderr
  assert 'm is not deleted' in result.stderr
  assert log_of(cloud)[-3:] == ['create', 'scp', 'setup']


def test_ctrl_c_says_what_it_leaves_and_the_same_command_goes_on(cloud):
  statuses(cloud, ('hang', 'hang'))
  # The trainings that are left would hold pipes open.
  with open(cloud / 'out', 'w') as out, open(cloud / 'err', 'w') as err:
    process = subprocess.Popen(
      # A shell starts background jobs, such as these tests may be, with SIGINT ignored.
      ['env', '--default-signal=INT', LAUNCH / 'tpu_pod.sh', 'run', *TPU, '--', *FLAGS],
      stdout=out, stderr=err, cwd=REPOSITORY,
      env=os.environ | {'CLOUD': str(cloud), 'PATH': f'{cloud}:{os.environ["PATH"]}'},
      start_new_session=True,
    )  # fmt: skip
    try:
      give_up = time.monotonic() + 30
      while (
        not all((cloud / f'worker{i}.hangs').exists() for i in range(2))
        or (cloud / 'out').read_text().count('progress, unfinished') < 2  # Seen while it runs.
      ):
        assert time.monotonic() < give_up
        time.sleep(0.05)
      os.killpg(process.pid, signal.SIGINT)
      assert process.wait(10) == 130
    finally:
      process.kill()
      process.wait()
  said = (cloud / 'err').read_text()
  assert 'interrupted here; a training on m may go on there\nm is not deleted: ' in said
  assert said.endswith('gcloud compute tpus queued-resources delete m --zone=z --force --quiet\n')
  assert log_of(cloud) == ONCE
  result = run_on(cloud, 'run')
  assert result.returncode == 0, result.stderr
  assert log_of(cloud) == [*ONCE, *ONCE[1:], 'delete']
  # What was left of the first has been told to save, and has ended.
  assert (cloud / 'worker0.saved').exists() and (cloud / 'worker1.saved').exists()


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
