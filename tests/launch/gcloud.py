"""A stand-in for Google's cloud, which runs the remote commands in folders for its workers."""

from tests.launch.launching import FLAGS, TPU, launch

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


def make_cloud(folder):
  """Two workers, each a folder in which its commands really run, and `log` of what was asked."""
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
  (folder / 'worker').mkdir()
  (folder / 'commit' / 'masm_jax').mkdir(parents=True)
  (folder / 'commit' / 'masm_jax' / 'main.py').touch()
  (folder / 'commit' / 'requirements.txt').write_text('jax==1\njaxlib==1\n')
  for name, text in commands.items():
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
  files = {'states': '', 'pythons': 'python3.11\n', 'gcloud_status': '0'}
  for name, text in (files | {f'worker{i}.statuses': '' for i in range(2)}).items():
    (folder / name).write_text(text)
  return folder


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
