"""A sweep as separate jobs: a SLURM array, a Kubernetes indexed Job, or one command per line."""

import json
import pathlib
import shlex
from collections.abc import Sequence

from masm_jax.sweep.plan import Sweep

KINDS = ('slurm', 'kubernetes', 'commands')
FILES = {'slurm': 'sweep.sbatch', 'kubernetes': 'sweep.yaml', 'commands': 'commands.txt'}

_SLURM = """\
#!/usr/bin/env bash
# {count} runs, one per task of the array; submit it again to do what is unfinished.
#   sbatch {file}
#   {table}     (when they are done)
# Partition, account and time limit are your cluster's: give them to sbatch, or add them here.
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --output={log}
set -euo pipefail
cd {root}
exec {command} --only="$SLURM_ARRAY_TASK_ID"
"""

_KUBERNETES = """\
# {count} runs, a pod each; the finished ones are skipped when the Job is made again.
#   kubectl apply -f {file}
#   {table}     (when they are done)
# Fill in: an image that holds this repository at /masm_jax with its .venv, the volume that keeps
# the runs (mounted at {mount}), and the accelerator of a pod.
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completionMode: Indexed
  completions: {count}
  parallelism: {count}
  backoffLimitPerIndex: 3
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: run
          image: IMAGE
          workingDir: /masm_jax
          command: [bash, -c]
          args:
            - {command_json}
          volumeMounts:
            - name: runs
              mountPath: {mount}
      volumes:
        - name: runs
          persistentVolumeClaim:
            claimName: CLAIM
"""


def job_file(sweep: Sweep, kind: str, command: Sequence[str], root: pathlib.Path) -> str:
  """The text of a job file.

  Args:
    sweep: the sweep.
    kind: one of `KINDS`.
    command: of the whole sweep, which also takes `--only=INDEX` and `--table`.
    root: the repository.

  Returns:
    A batch script, a manifest, or lines; each run of the sweep is one task, pod or line.
  """
  if kind == 'commands':
    return ''.join(
      f'{shlex.join([command[0], "-m", "masm_jax.main", *run.flags()])}\n' for run in sweep.runs
    )
  words = shlex.join(command)
  in_image = shlex.join(['.venv/bin/python', *command[1:]])
  template = {'slurm': _SLURM, 'kubernetes': _KUBERNETES}[kind]
  return template.format(
    count=len(sweep.runs),
    last=len(sweep.runs) - 1,
    name=f'sweep-{sweep.name.replace("_", "-")}',
    file=shlex.quote(str(sweep.workdir / FILES[kind])),
    table=f'{words} --table',
    log=sweep.workdir / 'slurm-%A_%a.log',
    root=shlex.quote(str(root)),
    command=words,
    command_json=json.dumps(f'exec {in_image} --only="$JOB_COMPLETION_INDEX"'),
    mount=pathlib.PurePosixPath('/masm_jax') / sweep.workdir,  # Itself, if it is absolute.
  )
