#!/usr/bin/env bash
# Runs one training as several processes on this machine, which then stand in for hosts.
#
#   launch/local.sh NUM_PROCESSES --config=configs/demo.py --workdir=runs/local [flags of masm_jax.main]
#   MODULE=masm_jax.evaluate launch/local.sh NUM_PROCESSES --checkpoint=... --suite=... --out=...
#
# They meet over the loopback interface (PORT, 12355 by default). Without an accelerator each has one
# CPU device; set XLA_FLAGS=--xla_force_host_platform_device_count=N for N. Ends with the first exit
# status that is not 0, and stops the other processes then.
set -euo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 NUM_PROCESSES --config=FILE --workdir=DIR [flags]" >&2
  exit 2
fi
count=$1
shift
port=${PORT:-12355}
python=${PYTHON:-.venv/bin/python}

pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < count; i++)); do
  "$python" -m "${MODULE:-masm_jax.main}" --coordinator="127.0.0.1:$port" --num_processes="$count" \
    --process_id="$i" "$@" &
  pids+=($!)
done

status=0
for _ in "${pids[@]}"; do
  wait -n || { status=$?; break; }
done
if [[ $status -ne 0 ]]; then
  # After jax.distributed.initialize a process that waits for a dead one does not heed SIGTERM.
  kill -KILL "${pids[@]}" 2>/dev/null || true
fi
exit "$status"
