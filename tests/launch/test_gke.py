"""The JobSet manifests: against the published schema, and in what they ask for."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
GKE = REPOSITORY / 'launch' / 'gke'
# The fields that the manifests use, cut out of the custom resource definition of JobSet v0.12.0
# (Apache-2.0) by `test_the_whole_published_schema`, which holds the two together.
FIELDS = pathlib.Path(__file__).with_name('jobset_v0_12_0_fields.json')
FLAGS = ('--config=configs/demo.py', '--workdir=/share/runs/a b', '--config.head.x=$(HOME)')
COMMANDS = {
  'gpu': ('gpu', '--name=ffpp', '--image=r/m:gpu', '--hosts=3', '--chips=4', '--claim=nfs'),
  'tpu': (
    'tpu', '--name=ffpp', '--image=r/m:tpu', '--hosts=8', '--topology=4x8',
    '--accelerator=tpu-v5-lite-podslice',
  ),
}  # fmt: skip


def load(name):
  spec = importlib.util.spec_from_file_location(
    name, pathlib.Path(__file__).with_name(f'{name}.py')
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


schema = load('schema')


def submit(*arguments):
  return subprocess.run(
    [sys.executable, GKE / 'submit.py', *arguments], capture_output=True, text=True
  )


def documents():
  """The two manifests as they stand."""
  return {kind: yaml.safe_load((GKE / f'{kind}.yaml').read_text()) for kind in COMMANDS}


@pytest.fixture(scope='module')
def submitted():
  """What submit.py would hand to kubectl."""
  jobsets = {}
  for kind, command in COMMANDS.items():
    result = submit(*command, '--dry_run', '--', *FLAGS)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith('# would be given to: kubectl apply --filename=-\n')
    jobsets[kind] = yaml.safe_load(result.stdout)
  return jobsets


def test_manifests_fit_the_published_schema(submitted):
  fields = json.loads(FIELDS.read_text())
  for kind in COMMANDS:
    assert schema.problems(documents()[kind], fields) == []
    assert schema.problems(submitted[kind], fields) == []


def test_the_schema_finds_what_is_wrong():
  fields = json.loads(FIELDS.read_text())
  jobset = documents()['gpu']
  jobset['spec']['network']['enableDNSHostname'] = True
  jobset['spec']['failurePolicy']['rules'][0]['action'] = 'FailJob'
  del jobset['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']['containers']
  jobset['spec']['replicatedJobs'][0]['replicas'] = 'one'
  assert schema.problems(jobset, fields) == [
    '.spec.network.enableDNSHostname: no such field',
    ".spec.failurePolicy.rules[0].action: 'FailJob' is none of ['FailJobSet', 'RestartJobSet', "
    "'RestartJobSetAndIgnoreMaxRestarts', 'RestartJob', 'RestartJobAndIgnoreMaxRestarts']",
    ".spec.replicatedJobs[0].replicas: 'one' is no integer",
    '.spec.replicatedJobs[0].template.spec.template.spec.containers: missing',
  ]


@pytest.mark.skipif('JOBSET_CRD' not in os.environ, reason='JOBSET_CRD names no file')
def test_the_whole_published_schema(submitted):
  """JOBSET_CRD names jobset.x-k8s.io_jobsets.yaml, of kubernetes-sigs/jobset at v0.12.0.

  With JOBSET_CRD_WRITE=1 it writes the excerpt that the other tests read."""
  definition = yaml.safe_load(pathlib.Path(os.environ['JOBSET_CRD']).read_text())
  (version,) = definition['spec']['versions']
  whole = version['schema']['openAPIV3Schema']
  # The definition leaves metadata to the API server.
  metadata = {'name': {'type': 'string'}, 'annotations': {
    'type': 'object', 'additionalProperties': {'type': 'string'}}}  # fmt: skip
  whole['properties']['metadata'] = {
    'type': 'object', 'required': ['name'], 'properties': metadata}  # fmt: skip
  every = [*documents().values(), *submitted.values()]
  for jobset in every:
    assert jobset['apiVersion'] == f'{definition["spec"]["group"]}/{version["name"]}'
    assert schema.problems(jobset, whole) == []
  excerpt = schema.cut_down(whole, every)
  if 'JOBSET_CRD_WRITE' in os.environ:
    FIELDS.write_text(json.dumps(excerpt, indent=1) + '\n')
  assert excerpt == json.loads(FIELDS.read_text())


def test_submit_fills_in_the_options(submitted):
  for kind, hosts, chips, label in (
    ('gpu', 3, {'nvidia.com/gpu': 4}, 'nvidia-h200-141gb'),
    ('tpu', 8, {'google.com/tpu': 4}, 'tpu-v5-lite-podslice'),
  ):
    jobset = submitted[kind]
    assert jobset['metadata']['name'] == 'ffpp'
    job = jobset['spec']['replicatedJobs'][0]['template']['spec']
    assert (job['parallelism'], job['completions']) == (hosts, hosts)
    pod = job['template']['spec']
    (container,) = pod['containers']
    assert container['image'] == f'r/m:{kind}'
    assert container['resources']['limits'] == chips
    assert label in pod['nodeSelector'].values()
  pods = [
    j['spec']['replicatedJobs'][0]['template']['spec']['template'] for j in submitted.values()
  ]
  gpu, tpu = (pod['spec']['containers'][0]['args'] for pod in pods)
  escaped = [*FLAGS[:2], '--config.head.x=$$(HOME)']
  assert gpu == [
    '--coordinator=$(COORDINATOR):8476', '--num_processes=3', '--process_id=$(PROCESS_ID)', *escaped
  ]  # fmt: skip
  assert tpu == ['--distributed', *escaped]
  assert pods[1]['spec']['nodeSelector']['cloud.google.com/gke-tpu-topology'] == '4x8'
  assert pods[0]['spec']['volumes'][0]['persistentVolumeClaim']['claimName'] == 'nfs'


def test_preemption_restarts_for_ever_bad_input_never_and_a_crash_a_few_times():
  """What Kubernetes says of a job that failed, and what the rules make of it."""
  import re

  # The texts are those of the job controller: reason, and message.
  text = 'Container train for pod default/masm-jax-workers-0-1-x failed with exit code {} matching '
  for jobset in documents().values():
    policy = jobset['spec']['failurePolicy']
    job = jobset['spec']['replicatedJobs'][0]['template']['spec']
    assert job['backoffLimit'] == 0

    def outcome(code, policy=policy, job=job):
      rules = [rule['onExitCodes']['values'] for rule in job['podFailurePolicy']['rules'][:2]]
      matched = any(code in values for values in rules)
      reason = 'PodFailurePolicy' if matched else 'BackoffLimitExceeded'
      message = text.format(code) + 'FailJob rule at index 0' if matched else 'Job has reached ...'
      for rule in policy['rules']:
        patterns = rule.get('onJobFailureMessagePatterns', [''])
        if reason in rule['onJobFailureReasons'] and any(re.search(p, message) for p in patterns):
          return rule['action']
      return f'RestartJobSet at most {policy["maxRestarts"]} times'

    assert outcome(2) == 'FailJobSet'
    assert outcome(143) == 'RestartJobSetAndIgnoreMaxRestarts'
    assert {outcome(code) for code in (1, 75, 134, 137)} == {'RestartJobSet at most 10 times'}
    third = job['podFailurePolicy']['rules'][2]['onPodConditions'][0]['type']
    assert third == 'DisruptionTarget'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('gpu', '--name=Ffpp', '--image=i', '--hosts=1', '--', 'x'), '--name=Ffpp: at most 40 of'),
    (('gpu', '--name=a', '--image=i', '--hosts=0', '--', 'x'), '--hosts=0: at least 1'),
    (('tpu', '--name=a', '--image=i', '--hosts=1', '--', 'x'), '--topology belongs to tpu'),
    (('gpu', '--name=a', '--image=i', '--hosts=1'), 'the following arguments are required: flags'),
  ],
)
def test_bad_options_are_named(arguments, message):
  result = submit(*arguments)
  assert result.returncode == 2
  assert message in result.stderr.splitlines()[-1]
