"""Fills in a JobSet manifest and hands it to kubectl.

python launch/gke/submit.py gpu --name=ffpp --image=REGISTRY/masm-jax:gpu --hosts=2 \
    -- --config=configs/ffpp.py --workdir=/share/runs/ffpp
python launch/gke/submit.py tpu --name=ffpp --image=REGISTRY/masm-jax:tpu --hosts=4 --topology=4x4 \
    --accelerator=tpu-v6e-slice -- --config=configs/ffpp.py --workdir=/share/runs/ffpp

The cluster needs JobSet v0.12 or later (https://jobset.sigs.k8s.io) and a ReadWriteMany claim,
which the pods see as /share. --dry_run prints the manifest and the command, and submits nothing.
"""

import argparse
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import yaml

_FOLDER = pathlib.Path(__file__).resolve().parent
_COMMAND = ('kubectl', 'apply', '--filename=-')
# What an accelerator's nodes are chosen by, and what a pod asks for.
_NODES = {
  'gpu': ('cloud.google.com/gke-accelerator', 'nvidia.com/gpu'),
  'tpu': ('cloud.google.com/gke-tpu-accelerator', 'google.com/tpu'),
}
_TOPOLOGY = 'cloud.google.com/gke-tpu-topology'


def main(arguments: Sequence[str]) -> int:
  """Submits or prints; returns kubectl's exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
  )
  parser.add_argument('kind', choices=sorted(_NODES))
  parser.add_argument('--name', required=True, help='of the JobSet; lower case, digits and -')
  parser.add_argument('--image', required=True, help='built from launch/docker/Dockerfile.KIND')
  parser.add_argument('--hosts', type=int, required=True, help='pods, one per node')
  parser.add_argument('--accelerator', help="the nodes' label, like nvidia-h200-141gb")
  parser.add_argument('--chips', type=int, help='GPUs or TPU chips of a node (8 and 4)')
  parser.add_argument('--topology', help='of a TPU slice, like 4x4')
  parser.add_argument('--claim', default='masm-jax-share', help='of the shared volume')
  parser.add_argument('--dry_run', action='store_true')
  parser.add_argument('flags', nargs='+', help='flags of masm_jax.main, behind --')
  options = parser.parse_args(arguments)
  # JobSet's own limit: a pod's name is NAME-workers-0-INDEX-xxxxx, of at most 63 characters.
  if not re.fullmatch(r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?', options.name):
    parser.error(f'--name={options.name}: at most 40 of a-z, 0-9 and -, beginning with a letter')
  if options.hosts < 1:
    parser.error(f'--hosts={options.hosts}: at least 1')
  if (options.topology is None) != (options.kind == 'gpu'):
    parser.error('--topology belongs to tpu, and tpu needs it')
  text = yaml.safe_dump(manifest(options), sort_keys=False)
  if options.dry_run:
    print(text + f'# would be given to: {" ".join(_COMMAND)}')
    return 0
  return subprocess.run(_COMMAND, input=text, text=True, check=False).returncode


def manifest(options: argparse.Namespace) -> dict[str, Any]:
  """The JobSet of `KIND.yaml` with the options filled in."""
  jobset = yaml.safe_load((_FOLDER / f'{options.kind}.yaml').read_text())
  jobset['metadata']['name'] = options.name
  (workers,) = jobset['spec']['replicatedJobs']
  job = workers['template']['spec']
  job['parallelism'] = job['completions'] = options.hosts
  pod = job['template']['spec']
  label, resource = _NODES[options.kind]
  if options.accelerator:
    pod['nodeSelector'][label] = options.accelerator
  if options.topology:
    pod['nodeSelector'][_TOPOLOGY] = options.topology
  pod['volumes'][0]['persistentVolumeClaim']['claimName'] = options.claim
  (container,) = pod['containers']
  container['image'] = options.image
  if options.chips:
    container['resources']['limits'][resource] = options.chips
  ours = ('--coordinator=', '--num_processes=', '--process_id=', '--distributed')
  kept = [arg for arg in container['args'] if arg.startswith(ours)]
  kept = [re.sub(r'(--num_processes=).*', rf'\g<1>{options.hosts}', arg) for arg in kept]
  # Kubernetes replaces $(NAME) in arguments; $$ stands for one dollar.
  container['args'] = kept + [flag.replace('$', '$$') for flag in options.flags]
  return jobset


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
