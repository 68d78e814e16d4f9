#!/usr/bin/env bash
# Trains on a Cloud TPU slice of any size: asks for it in the queue, installs, trains on all workers,
# and goes on after a preemption.
#
#   launch/tpu_pod.sh run --name=masm --zone=us-east5-b --type=v6e-16 --runtime=v2-alpha-tpuv6e \
#       --share=10.0.0.2:/runs [--project=ID] [--spot] [--restarts=20] [--dry_run] -- \
#       --config=configs/ffpp.py --workdir=/mnt/share/ffpp [flags of masm_jax.main]
#
# Actions: create (queued resource, waits until it is active), setup (the commit that is checked out
# here, and its requirements, on every worker), train, delete, and run: all of them in this order,
# from the start again when the slice was taken away; a slice that is done with is deleted.
# --dry_run prints the commands and runs nothing. --share is an NFS export (Filestore, for one), which
# setup mounts on every worker as /mnt/share: all workers have to see the data and the workdir.
# Needs the gcloud command, logged in.
set -euo pipefail

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
  exit 2
}

[[ $# -ge 1 ]] || usage
action=$1
shift
case $action in create | setup | train | delete | run) ;; *) usage ;; esac

name='' zone='' type='' runtime='' share='' project='' spot=0 restarts=20 dry_run=0
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

do_run() {
  if ((dry_run)); then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

on_all_workers() {
  do_run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"
}

state() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
    --format='value(state.state)' 2>/dev/null || echo NONE
}

create() {
  local options=("--node-id=$name" "--accelerator-type=$type" "--runtime-version=$runtime")
  ((spot)) && options+=(--spot)
  do_run gcloud compute tpus queued-resources create "$name" "${where[@]}" "${options[@]}"
  ((dry_run)) && return
  until [[ $(state) == ACTIVE ]]; do
    case $(state) in
      FAILED | SUSPENDED) echo "error: the request for $name was not filled" >&2; return 1 ;;
      *) sleep 30 ;;
    esac
  done
}

setup() {
  local archive=masm_jax.tar.gz
  do_run git archive --output="$archive" HEAD
  do_run gcloud compute tpus tpu-vm scp "$archive" "$name:" "${where[@]}" --worker=all
  do_run rm "$archive"
  on_all_workers "sudo apt-get install --quiet --yes nfs-common && sudo mkdir -p /mnt/share && \
sudo mount -t nfs '$share' /mnt/share"
  # Only the line of jax differs from what the requirements pin.
  on_all_workers "mkdir -p masm_jax && tar -xzf $archive -C masm_jax && cd masm_jax && \
python3.11 -m venv .venv && sed -i 's/^jax==/jax[tpu]==/' requirements.txt && \
.venv/bin/python -m pip install --quiet -r requirements.txt"
}

train() {
  on_all_workers "cd masm_jax && .venv/bin/python -m masm_jax.main --distributed ${flags[*]@Q}"
}

delete() {
  do_run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

run() {
  local attempt
  for ((attempt = 0; attempt <= restarts; attempt++)); do
    if ((dry_run)) || [[ $(state) != ACTIVE ]]; then
      # What was preempted stays in the list until it is deleted.
      ((dry_run)) || [[ $(state) == NONE ]] || delete
      create
      setup
    fi
    if train; then
      delete
      return
    fi
    # A preempted slice needs a minute or so to say that it is gone.
    sleep 60
    echo "training on $name ended early (slice: $(state)); attempt $((attempt + 1))" >&2
  done
  echo "error: gave up after $restarts restarts; $name is still there" >&2
  return 1
}

"$action"
