"""tpu_pod.sh with a stand-in for gcloud, which runs the remote commands in folders for workers."""

import os
import re
import signal
import subprocess
import time

import pytest

from tests.launch.gcloud import done_on, log_of, make_cloud, run_on, statuses
from tests.launch.launching import FLAGS, LAUNCH, REPOSITORY, TPU, launch, printed


@pytest.fixture
def cloud(tmp_path):
  return make_cloud(tmp_path)


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


def test_a_cloud_that_never_answers_ends_the_run(cloud):
  """An expired login, say: no state can be had, for a slice that may or may not be there."""
  (cloud / 'state').write_text('no network\n')
  result = run_on(cloud, 'run', '--restarts=1')
  assert result.returncode == 1
  assert result.stderr.count('error: gcloud has not told the state of m for ten minutes') == 2
  assert result.stderr.count('ERROR: no network') >= 40


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
  assert 'interrupted here; a training on m may resume there\nm is not deleted: ' in said
  assert said.endswith('gcloud compute tpus queued-resources delete m --zone=z --force --quiet\n')
  assert log_of(cloud) == ONCE
  result = run_on(cloud, 'run')
  assert result.returncode == 0, result.stderr
  assert log_of(cloud) == [*ONCE, *ONCE[1:], 'delete']
  # What was left of the first has been told to save, and has ended.
  assert (cloud / 'worker0.saved').exists() and (cloud / 'worker1.saved').exists()
