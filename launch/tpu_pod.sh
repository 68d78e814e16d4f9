#!/usr/bin/env bash
# Trains on a Cloud TPU slice of any size: asks for it in the queue, installs, trains on all
# workers, and resumes after a preemption.
#
#   launch/tpu_pod.sh run --name=masm --zone=us-east5-b --type=v6e-16 --runtime=v2-alpha-tpuv6e \
#       --share=10.0.0.2:/runs [--project=ID] [--spot] [--restarts=20] [--keep] [--dry_run] -- \
#       --config=configs/ffpp.py --workdir=/mnt/share/ffpp [flags of masm_jax.main]
#
# Actions: create (queued resource, waits until it is active), setup (the commit that is checked out
# here, and its requirements, on every worker), train, delete, and run: all of them in this order.
# --dry_run prints the commands and runs nothing. --share is an NFS export (Filestore, for one),
# which setup mounts on every worker as /mnt/share: all workers have to see the data and the
# workdir. Needs the gcloud command, logged in.
#
# Where create, setup or train fails, or the slice is taken away, run begins again, --restarts
# times; it asks for a new slice only if the old one is gone. Status 2 of any worker (bad input, a
# full disk: there is an error to mend) ends it at once, with status 2. However run ends, it deletes
# the slice, which would be paid for while it idles, unless --keep is given. Ctrl-C deletes nothing,
# and says what is left; the same command resumes from there.
set -euo pipefail

readonly bad_input=2

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
  exit 2
}

[[ $# -ge 1 ]] || usage
action=$1
shift
case $action in create | setup | train | delete | run) ;; *) usage ;; esac

name='' zone='' type='' runtime='' share='' project='' spot=0 restarts=20 keep=0 dry_run=0
while [[ $# -gt 0 ]]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --share=*) share=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    --spot) spot=1 ;;
    --keep) keep=1 ;;
    --dry_run) dry_run=1 ;;
    --) shift; break ;;
    *) echo "error: unknown option $1; the flags of masm_jax.main stand behind --" >&2; exit 2 ;;
  esac
  shift
done
flags=("$@")
for field in name zone type runtime share; do
  [[ -n ${!field} ]] || { echo "error: give --$field=..." >&2; exit 2; }
done
[[ $restarts =~ ^[0-9]+$ ]] || { echo "error: --restarts=$restarts is no number" >&2; exit 2; }
if [[ $action == train || $action == run ]]; then
  [[ ${#flags[@]} -ge 2 ]] || { echo "error: give -- --config=FILE --workdir=DIR" >&2; exit 2; }
fi
where=("--zone=$zone")
[[ -z $project ]] || where+=("--project=$project")
queue=(gcloud compute tpus queued-resources)
delete_command=("${queue[@]}" delete "$name" "${where[@]}" --force --quiet)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
archive=$scratch/masm_jax.tar.gz

# What follows is called where its failure is looked at, and `set -e` does nothing there: each
# command that may fail says what then.

do_run() {
  if ((dry_run)); then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# --- The slice -----------------------------------------------------------------------------------

state() {
  local found
  if found=$("${queue[@]}" describe "$name" "${where[@]}" --format='value(state.state)' \
    2>"$scratch/errors"); then
    echo "$found"
  elif grep --quiet --ignore-case 'not.found' "$scratch/errors"; then
    echo NONE
  else  # No network, say: that tells nothing about the slice.
    cat "$scratch/errors" >&2
    echo UNKNOWN
  fi
}

request() {
  local options=("--node-id=$name" "--accelerator-type=$type" "--runtime-version=$runtime")
  ((!spot)) || options+=(--spot)
  do_run "${queue[@]}" create "$name" "${where[@]}" "${options[@]}"
}

wait_until_active() {
  local now unknown=0
  while true; do
    now=$(state)
    [[ $now == UNKNOWN ]] && unknown=$((unknown + 1)) || unknown=0
    if ((unknown == 20)); then
      echo "error: gcloud has not told the state of $name for ten minutes" >&2
      return 1
    fi
    case $now in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDED | NONE)
        echo "error: the request for $name was not filled (it is $now)" >&2
        return 1
        ;;
      *) sleep 30 ;;
    esac
  done
}

create() {
  request || return
  ((dry_run)) || wait_until_active
}

# Takes an active slice, or a request that still waits, as it is.
acquire() {
  local now
  if ((dry_run)); then
    create
    return
  fi
  now=$(state)
  while [[ $now == SUSPENDING || $now == DELETING ]]; do
    sleep 30
    now=$(state)
  done
  case $now in
    FAILED | SUSPENDED)  # It stays in the list, and its name taken, until it is deleted.
      delete || return
      request || return
      ;;
    NONE) request || return ;;
    *) ;;
  esac
  wait_until_active
}

delete() {
  do_run "${delete_command[@]}"
}

# --- The workers ---------------------------------------------------------------------------------

# Runs a function of this file, with its arguments, on all workers, in the home directory there.
# Ends with 2 if it did so on any worker, and with 0 only if it did so on all.
on_all_workers() {
  local function=$1 status=0 command
  shift
  # What gcloud ends with is the status of some worker, or its own: each worker prints its status.
  # Something unfinished may stand before that on the line, of this worker or another.
  command="$(declare -f "$function")
(set -euo pipefail; $function ${*@Q})
status=\$?
printf '\\n[tpu_pod] %s on %s ended with status %s\\n' $function \"\$(hostname)\" \"\$status\"
exit \"\$status\""
  local ssh=(gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all "--command=$command")
  if ((dry_run)); then
    do_run "${ssh[@]}"
    return
  fi
  "${ssh[@]}" | tee "$scratch/output" || status=1
  if grep --quiet '\[tpu_pod\] .* ended with status 2$' "$scratch/output"; then
    status=$bad_input
  elif grep --quiet '\[tpu_pod\] .* ended with status [^0]' "$scratch/output"; then
    status=1
  fi
  return "$status"
}

# Runs on a worker. All of it may be done again, whether the last time was cut off or not.
setup_worker() {
  local share=$1 python candidate
  install_packages() {
    local apt=(sudo env DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes
      # A new machine updates itself, and holds the lock meanwhile.
      --option=DPkg::Lock::Timeout=600)
    "${apt[@]}" install "$@" || { "${apt[@]}" update && "${apt[@]}" install "$@"; }
  }

  if ! mountpoint --quiet /mnt/share; then
    install_packages nfs-common
    sudo mkdir -p /mnt/share
    if ! sudo mount -t nfs "$share" /mnt/share; then
      echo "error: $(hostname) cannot mount --share=$share" >&2
      return 2
    fi
  fi

  # Modules of another commit go, what a run has written stays.
  mkdir -p masm_jax
  tar -xzf masm_jax.tar.gz -C masm_jax --recursive-unlink
  cd masm_jax
  # Only the line of jax differs from what the requirements pin.
  sed -i 's/^jax==/jax[tpu]==/' requirements.txt
  # Copied when all is installed, and so the sign of it.
  if cmp --quiet requirements.txt .venv/installed.txt; then
    return
  fi

  python=''
  for candidate in python3.12 python3.11; do
    # Where the package of venv is missing, ensurepip is.
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
  if [[ -z $python ]]; then
    python=python3.11
    if ! install_packages python3.11 python3.11-venv; then
      echo "error: $(hostname) has neither Python 3.12 nor 3.11 with venv, and apt-get cannot" \
        "install 3.11: try another --runtime" >&2
      # That a package exists and cannot be had now may be the network.
      apt-cache show python3.11-venv >/dev/null 2>&1 && return 1
      return 2
    fi
  fi
  "$python" -m venv --clear .venv
  .venv/bin/python -m pip install --quiet -r requirements.txt
  cp requirements.txt .venv/installed.txt
}

# Runs on a worker.
train_worker() {
  local old second
  cd masm_jax
  # Ctrl-C, or a connection that broke, may have left a training here, which holds the chips. It
  # saves, and ends.
  old=$(cat train.pid 2>/dev/null || true)
  if [[ -n $old ]] && grep --quiet --text masm_jax.main "/proc/$old/cmdline" 2>/dev/null; then
    kill -TERM "$old" || true
    for ((second = 0; second < 300; second++)); do
      kill -0 "$old" 2>/dev/null || break
      sleep 1
    done
    kill -KILL "$old" 2>/dev/null || true
  fi
  .venv/bin/python -m masm_jax.main --distributed "$@" &
  echo $! >train.pid
  wait $!
}

pack() {
  do_run git archive --output="$archive" HEAD
}

install() {
  do_run gcloud compute tpus tpu-vm scp "$archive" "$name:" "${where[@]}" --worker=all || return 1
  on_all_workers setup_worker "$share"
}

setup() {
  pack || return
  install
}

train() {
  on_all_workers train_worker "${flags[@]}"
}

# --- All in one ----------------------------------------------------------------------------------

attempt() {
  doing=create
  acquire || return 1
  doing=setup
  install || return
  doing=train
  train
}

run() {
  local restart=0 status
  pack || return  # Once, and early: all attempts train this commit, and no slice waits for it.
  while true; do
    status=0
    attempt || status=$?
    ((status != 0 && status != bad_input)) || break
    if ((restart == restarts)); then
      echo "error: $doing failed; gave up after $restarts restarts" >&2
      break
    fi
    # A preempted slice needs a minute or so to say that it is gone.
    sleep 60
    restart=$((restart + 1))
    echo "$doing on $name ended early (slice: $(state)); restart $restart of $restarts" >&2
  done
  if ((keep)); then
    say_what_is_left
  elif ((dry_run)) || [[ $(state) != NONE ]]; then
    if ! delete; then
      echo "error: could not delete $name" >&2
      say_what_is_left
      ((status)) || status=1
    fi
  fi
  return "$status"
}

say_what_is_left() {
  cat >&2 <<END
$name is not deleted: a request may yet be filled, and an active slice is paid for. To delete it:
  ${delete_command[*]}
END
}

interrupted() {
  printf '\ninterrupted here; a training on %s may resume there\n' "$name" >&2
  say_what_is_left
  exit 130
}

if ((!dry_run)); then
  command -v gcloud >/dev/null || { echo 'error: there is no gcloud command here' >&2; exit 2; }
  trap interrupted INT
fi
"$action"
