#!/usr/bin/env bash
# Runs one training as several processes on this machine, which then stand in for hosts.
#
#   launch/local.sh [--dry_run] NUM_PROCESSES --config=configs/demo.py --workdir=runs/local [flags]
#   MODULE=masm_jax.evaluate launch/local.sh NUM_PROCESSES --checkpoint=... --suite=... --out=...
#
# The flags are those of masm_jax.main, or of MODULE; --dry_run prints the commands and runs
# nothing. The processes meet over the loopback interface (PORT, 12355 by default). Without an
# accelerator each has one CPU device; set XLA_FLAGS=--xla_force_host_platform_device_count=N for N.
#
# When one process ends with a status that is not 0, the others get 20 s to end, and are stopped
# then. Ends with that status, or with 2 if any process ended with 2: there is an error to mend.
# SIGTERM and Ctrl-C are passed on: the run saves and ends with 143, and the same command resumes
# from there.
set -euo pipefail

readonly bad_input=2

dry_run=0
if [[ ${1:-} == --dry_run ]]; then
  dry_run=1
  shift
fi
if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 [--dry_run] NUM_PROCESSES --config=FILE --workdir=DIR [flags]" >&2
  exit 2
fi
count=$1
shift
port=${PORT:-12355}
python=${PYTHON:-.venv/bin/python}
# Huge pages for the arrays of a step on CPUs: with small ones a fifth of its time goes into page
# faults.
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}

pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < count; i++)); do
  command=("$python" -m "${MODULE:-masm_jax.main}" --coordinator="127.0.0.1:$port"
    --num_processes="$count" --process_id="$i" "$@")
  if ((dry_run)); then
    printf '%q ' "${command[@]}"
    echo '&'
    continue
  fi
  "${command[@]}" &
  pids+=($!)
done
((dry_run)) && exit 0

# A signal ends `wait` early with a status above 128, though the processes still run: ask again then.
status=0
remaining=$count
while ((remaining)); do
  code=0
  wait -n -p ended || code=$?
  [[ -n ${ended:-} ]] || continue
  remaining=$((remaining - 1))
  if ((code)); then
    status=$code
    break
  fi
done
if ((status)); then
  # What follows from the first failure ends by itself; a process that waits for a dead one may not
  # heed SIGTERM (jax.distributed takes it), so that after a while it is killed.
  for ((second = 0; second < 20; second++)); do
    kill -0 "${pids[@]}" 2>/dev/null || break
    sleep 1
  done
  kill -KILL "${pids[@]}" 2>/dev/null || true
  # The process with the error need not end first: the others may miss it before it has gone.
  for pid in "${pids[@]}"; do
    code=0
    wait "$pid" 2>/dev/null || code=$?
    ((code != bad_input)) || status=$bad_input
  done
fi
exit "$status"
