#!/usr/bin/env bash
# One process of a job: runs the command that it is given, and ends with 250 where that ends with 2.
#
# srun ends with the highest status of its processes. The others miss one that ends with 2 (bad
# input, a full disk), and end with 75 or 134: srun would tell of them alone, and the job would be
# tried again. launch/slurm.sbatch, which starts this, turns 250 back into 2.
set -euo pipefail

readonly bad_input=2 above_all=250

# SLURM signals either this shell alone or all processes of the task; it is passed on in any case,
# as a second SIGTERM changes nothing.
pid=''
interrupted=0
pass_on() {
  interrupted=1
  [[ -z $pid ]] || kill -TERM "$pid" 2>/dev/null || true
}
trap pass_on TERM
"$@" &
pid=$!
((!interrupted)) || pass_on  # It came before there was a process to pass it to.

while true; do
  interrupted=0
  status=0
  wait "$pid" || status=$?
  ((interrupted)) || break  # Otherwise it was the signal that ended `wait`.
done
((status != bad_input)) || status=$above_all
exit "$status"
