"""The analysis of one run: subspaces, spectra and probes, as one JSON document and one picture."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from masm_jax import files as json_files
from masm_jax import telemetry, tree
from masm_jax.analysis import probe, subspaces
from masm_jax.data import sets as sets_lib
from masm_jax.data.manifest import Manifest
from masm_jax.inference import steps, trained
from masm_jax.inference.scorer import Evaluator
from masm_jax.metrics import text_tables
from masm_jax.parallel import sharding
from masm_jax.subspaces import decompose
from masm_jax.subspaces import layer as subspace

FILE = 'analysis.json'
PICTURE = 'analysis.png'
_SIDES = ('U', 'V')
_MODELS = ('before', 'after')


def analyse(
  workdir: pathlib.Path, *, step: str = 'best', weights: str = '', manifest: str = ''
) -> dict[str, Any]:
  """Compares a run's parameters and features with those that it began with.

  Args:
    workdir: of the run; nothing in it changes.
    step: which checkpoint: best, last, or a number.
    weights: the base weights' file, if it is no longer where the config says.
    manifest: whose faces are probed, with the columns `probe.NEEDED`; '' for the built-in set.

  Returns:
    `run`: method, backbone, seed, step; `task_share`: of its normalised steps, `first`, `mean` and
    `last` as far as they were logged up to that step, or None (see `training.steps.task_share`);
    `subspaces`: None for a method without them, or `kernels`
    (see `subspaces.compare_factors`) and `summary`; `spectra`: by kernel (see
    `subspaces.compare_spectra`), and `summary`; `semantics`: `probes` (see `probe.probe_features`)
    and `note`. Plain JSON types.

  Raises:
    UserError: no such run or step, other weights, or faces that cannot be probed.
  """
  mesh = sharding.make_mesh(1)
  run = trained.load_adapted(workdir, mesh, step=step, weights=weights)
  merge = steps.jit_merge(run.method, mesh, run.trainable, run.frozen)
  before = merge(sharding.place(run.initial, sharding.replicated(mesh)), run.frozen)
  after = merge(run.trainable, run.frozen)
  faces, note = _faces(run.config, manifest)
  features = {
    name: _features(run, params, faces, mesh)
    for name, params in zip(_MODELS, (before, after), strict=True)
  }
  facts = {name: run.facts[name] for name in ('method', 'backbone', 'seed', 'step', 'checkpoint')}
  return json_files.to_json(
    {
      'run': facts,
      'task_share': _task_share(workdir, int(facts['step'])),
      'subspaces': _subspaces(run, before),
      'spectra': _spectra(run, before, after),
      'semantics': {'note': note, 'probes': probe.probe_features(features, faces.table)},
    }
  )


def _task_share(workdir: pathlib.Path, step: int) -> dict[str, float] | None:
  """How much of each normalised step the task had, beside the penalties."""
  lines = telemetry.read_lines(workdir / 'metrics.jsonl')
  logged = [x for x in lines if 'train/task_share' in x and x['step'] <= step]
  shares = [float(line['train/task_share']) for line in logged]
  if not shares:
    return None
  return {'first': shares[0], 'mean': float(np.mean(shares)), 'last': shares[-1]}


def _subspaces(run: trained.AdaptedRun, before: Mapping[str, Any]) -> dict[str, Any] | None:
  owners = list(subspace.decomposed_layers(run.frozen))
  if not owners:
    return None
  fixed = tree.flatten(run.frozen)
  initial, final = ({**fixed, **tree.flatten(part)} for part in (run.initial, run.trainable))
  plain = tree.flatten(before)
  kernels = {}
  with telemetry.Progress(len(owners), label='subspaces', unit='kernels') as progress:
    for done, owner in enumerate(owners, start=1):
      factors = [as_svd(subspace.layer_factors(leaves, owner)) for leaves in (initial, final)]
      kernel = np.asarray(plain[f'{owner}/kernel'])
      rank = _semantic_rank(kernel, run.config.subspace)
      kernels[owner] = subspaces.compare_factors(*factors, kernel, semantic_rank=rank)
      progress.update(done)
  sides = {side: [kernel[side] for kernel in kernels.values()] for side in _SIDES}
  artifacts = [kernel['artifact'] for kernel in kernels.values()]
  return {
    'kernels': kernels,
    'summary': {s: _side_summary(parts) for s, parts in sides.items()}
    | {'artifact': _artifact_summary(artifacts)},
  }


def as_svd(factors: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Factors `U`, `S`, `V` of a layer however it was parametrized, with the same product.

  A core M goes to the left factor; where S is not trained, lengths of columns of U and rows of V go
  to S.
  """
  u, v = (np.asarray(factors[name], np.float64) for name in ('U', 'V'))
  if 'M' in factors:
    u = np.einsum('kdp,kpq->kdq', u, np.asarray(factors['M'], np.float64))
    s = np.ones((u.shape[0], u.shape[2]))
  else:
    s = np.asarray(factors['S'], np.float64)
  if 'M' in factors or (s == 1).all():
    lengths = [np.maximum(np.linalg.norm(x, axis=axis), 1e-30) for x, axis in ((u, 1), (v, 2))]
    u, v = u / lengths[0][:, None, :], v / lengths[1][:, :, None]
    s = s * lengths[0] * lengths[1]
  return {'U': u, 'S': s, 'V': v}


def _semantic_rank(kernel: np.ndarray, config: ml_collections.ConfigDict) -> int:
  """r' of one kernel, see `decompose.decompose_kernel`."""
  rank = min(kernel.shape) - config.num_subspaces * config.rank
  if config.semantic_energy < 1.0:
    energy = np.cumsum(np.square(np.linalg.svd(kernel, compute_uv=False)))
    return min(int(np.sum(energy < config.semantic_energy * energy[-1])) + 1, rank)
  return config.semantic_rank or rank


def _artifact_summary(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Means over the kernels of what `subspaces.compare_artifacts` says."""
  mean = lambda get: float(np.mean([get(part) for part in parts]))
  return {
    'norm_kept': mean(lambda part: part['norm'][1] / max(part['norm'][0], 1e-30)),
    'effective_rank': [mean(lambda part, i=i: part['effective_rank'][i]) for i in range(2)],
    'outside': {side: mean(lambda part, s=side: part['outside'][s]) for side in _SIDES},
    'semantic': {side: mean(lambda part, s=side: part['semantic'][s]) for side in _SIDES},
  }


def _side_summary(parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Means over the kernels of one side."""
  angles = np.concatenate([np.concatenate(part['angles_deg']) for part in parts])
  count = len(parts[0]['overlap'])
  between = ~np.eye(count, dtype=bool)
  overlap = np.mean([part['overlap'][between].mean() for part in parts]) if count > 1 else np.nan
  return {
    'mean_angle_deg': float(angles.mean()),
    'max_angle_deg': float(angles.max()),
    'overlap_between': float(overlap),
    'semantic_share': float(np.mean([part['semantic_share'].mean() for part in parts])),
  }


def _spectra(
  run: trained.AdaptedRun, before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
  owners = decompose.find_targets(before, decompose.TARGETS['all'])
  num_artifact = run.config.subspace.num_subspaces * run.config.subspace.rank
  flat = [tree.flatten(params) for params in (before, after)]
  kernels = {}
  with telemetry.Progress(len(owners), label='spectra', unit='kernels') as progress:
    for done, owner in enumerate(owners, start=1):
      pair = [np.asarray(leaves[f'{owner}/kernel']) for leaves in flat]
      rank = max(min(pair[0].shape) - num_artifact, 1)
      kernels[owner] = subspaces.compare_spectra(*pair, rank)
      progress.update(done)
  mean = lambda get: float(np.mean([get(kernel) for kernel in kernels.values()]))
  summary = {
    'change': mean(lambda kernel: kernel['change']),
    'energy_change': mean(lambda kernel: abs(kernel['energy_change'])),
    'principal_kept': {
      side: mean(lambda kernel, side=side: kernel['principal_kept'][side]) for side in _SIDES
    },
  }
  return {'kernels': kernels, 'summary': summary}


def _faces(config: ml_collections.ConfigDict, manifest: str) -> tuple[Manifest, str]:
  """The real faces to probe, and what to say of them."""
  spec = {
    'manifest': manifest or sets_lib.SYNTHETIC, 'root': '', 'split': '', 'dataset': '',
    'methods': (),
  }  # fmt: skip
  load = sets_lib.SetLoader(config.data.synthetic, is_stored=True)
  faces = load('the probe', ml_collections.ConfigDict(spec)).select(label=0)
  datasets = set(faces.table['dataset'])
  note = sets_lib.SYNTHETIC_NOTE if datasets == {sets_lib.SYNTHETIC} else ''
  return faces, note


def _features(
  run: trained.AdaptedRun, params: Mapping[str, Any], faces: Manifest, mesh: Mesh
) -> np.ndarray:
  """Features [N, D] of every face."""
  step = steps.jit_eval_step(
    steps.make_feature_step(run.detector), mesh, jax.eval_shape(lambda: params)
  )
  size = run.config.eval.batch_size
  sharding.check_batch_size(size, mesh, 'eval.batch_size')
  evaluator = Evaluator(
    eval_step=step, mesh=mesh, batch_size=size, image_size=run.detector.backbone.image_size,
    num_threads=run.config.data.num_threads, feature_step=step,
  )  # fmt: skip
  return evaluator.features(params, faces)[1]


def format_comparison(documents: Mapping[str, Mapping[str, Any]]) -> str:
  """One table of several runs.

  Args:
    documents: `{name of the run: analyse(...)}`.

  Returns:
    Aligned text. Angles are means over kernels, subspaces and principal angles; `outside` is the
    share of the artifact energy beyond the span that it began in, `rank used` its effective rank
    before and after, `task share` the task's mean share of a normalised step.
  """
  tasks = list(next(iter(documents.values()))['semantics']['probes'])
  header = [
    'run',
    'method',
    'turned U',
    'turned V',
    'overlap',
    'outside',
    'rank used',
    'task share',
    'spectrum',
    'principal kept',
    *tasks,
  ]
  rows = [header]
  for name, document in documents.items():
    parts, spectra = document['subspaces'], document['spectra']['summary']
    turned, overlap, outside, used = ['-', '-'], '-', '-', '-'
    if parts:
      turned = [f'{float(parts["summary"][side]["mean_angle_deg"]):.2f} deg' for side in _SIDES]
      between = [float(parts['summary'][side]['overlap_between']) for side in _SIDES]
      overlap = f'{np.mean(between):.4f}'
      artifact = parts['summary']['artifact']
      outside = f'{np.mean([float(artifact["outside"][side]) for side in _SIDES]):.4f}'
      used = ' -> '.join(f'{float(rank):.1f}' for rank in artifact['effective_rank'])
    share = document['task_share']
    task_share = f'{float(share["mean"]):.2f}' if share else '-'
    kept = np.mean([float(spectra['principal_kept'][side]) for side in _SIDES])
    row = [name, document['run']['method'], *turned, overlap, outside, used,
           task_share, f'{float(spectra["change"]):.4f}', f'{kept:.4f}']  # fmt: skip
    for task in tasks:
      found = document['semantics']['probes'][task]
      row.append(' -> '.join(f'{found[model]["accuracy"]:.3f}' for model in _MODELS))
    rows.append(row)
  lines = text_tables.align(rows, num_left=2)
  chance = ', '.join(
    f'{task} {found["after"]["chance"]:.3f}'
    for task, found in next(iter(documents.values()))['semantics']['probes'].items()
  )
  lines.append(f'\nProbes: accuracy before -> after fine-tuning, on real faces; chance: {chance}.')
  lines += sorted({d['semantics']['note'] for d in documents.values()} - {''})
  return '\n'.join(lines)
