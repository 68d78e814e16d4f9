"""One evaluation: a trained run and a suite of data sets -> a folder of scores and metrics."""

import datetime
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
from absl import logging

from masm_jax import config as config_lib
from masm_jax import files, places, telemetry
from masm_jax.data import crop_settings, storage
from masm_jax.data import sets as sets_lib
from masm_jax.data.crop_settings import read_crop_settings
from masm_jax.data.manifest import Manifest
from masm_jax.errors import UserError
from masm_jax.evaluation import curves, inside, results
from masm_jax.evaluation import suite as suite_lib
from masm_jax.inference import detector_file, steps, trained, validation
from masm_jax.inference.scorer import Evaluator
from masm_jax.metrics import catalogue, metric_tables
from masm_jax.parallel import locks, peers, sharding
from masm_jax.terminal import say, terminal_line


def evaluate(
  workdir: pathlib.Path,
  suite: ml_collections.ConfigDict,
  out: pathlib.Path,
  *,
  step: str = 'best',
  weights: str = '',
  devices: Sequence[jax.Device] | None = None,
  remote: str = '',
  hang_timeout_s: float = 0.0,
) -> None:
  """Scores every set of a suite, and writes `out/results.json`.

  Args:
    workdir: of a training run, or a detector file.
    suite: see `common.get_suite`.
    out: the evaluation's folder; one that was stopped is resumed.
    step: which checkpoint: best, last, or a number.
    weights: the file of the base weights; '' for the one in the run's config.
    remote: the URL of an object store, below which the run's config may name data sets.
    devices: which ones compute; all of all processes by default.
    hang_timeout_s: see `peers.Watchdog`.

  Raises:
    UserError: bad input, or a folder that holds another evaluation, or that another process is at.
  """
  config_lib.validate_suite(suite)
  _refuse_links(out)
  with (
    locks.held(out, kind=places.EVALUATION, enabled=jax.process_index() == 0),
    peers.Watchdog(hang_timeout_s) as watchdog,
  ):
    if jax.process_index() == 0:
      files.remove_unfinished(out, deep=True)
    _evaluate(workdir, suite, out, step, weights, remote, devices, watchdog)


def _evaluate(
  workdir: pathlib.Path,
  suite: ml_collections.ConfigDict,
  out: pathlib.Path,
  step: str,
  weights: str,
  remote: str,
  devices: Sequence[jax.Device] | None,
  watchdog: peers.Watchdog,
) -> None:
  is_lead = jax.process_index() == 0
  mesh = sharding.make_mesh(suite.fsdp, devices)
  sharding.check_batch_size(suite.batch_size, mesh, 'suite.batch_size')
  run = detector_file.load_detector(
    workdir, mesh, step=step, weights=weights, on_progress=watchdog.stage
  )
  watchdog.stage()

  # ---- Data ----------------------------------------------------------------------------------
  # A detector file brings its thresholds, and names no set: the suite does.
  own = None if run.file else run.config.data
  specs = suite.sets or {name: spec for name, spec in _tests(own).items() if spec.manifest}
  if own is None and not specs:
    raise UserError(
      f'{workdir} is a detector file, which names no test set: name those to score with'
      ' --suite.sets.NAME.manifest=FILE'
    )
  if own is not None:
    followed = {} if suite.sets else dict(specs)
    followed |= {} if suite.val.manifest else {'val': own.val}
    followed |= {} if suite.train.manifest else {'train': own.train}
    _refuse_remote(workdir, followed, remote)
  points = curves.points(suite.robustness, specs)
  # The built-in set is drawn as the run or the suite says: whichever names it.
  load_suite = sets_lib.SetLoader(suite.synthetic)
  load_own = sets_lib.SetLoader(own.synthetic, is_stored=True) if own else load_suite
  load_tests = load_suite if suite.sets else load_own
  load_val, val_spec = load_own, own and own.val
  if suite.val.manifest:
    load_val, val_spec = load_suite, suite.val
  load_train, train_spec = load_own, own and own.train
  if suite.train.manifest:
    load_train, train_spec = load_suite, suite.train
  val = val_spec and load_val('val', val_spec)
  if val:
    sets_lib.refuse_test_rows('val', val)
    sets_lib.refuse_unlabelled('val', val)
  elif suite.video_score != validation.VIDEO_SCORE and run.validation:
    raise UserError(
      f'{workdir} is a detector file, whose thresholds are of videos scored by their'
      f' {validation.VIDEO_SCORE}: leave out --suite.video_score, or give the validation set with'
      ' --suite.val.manifest'
    )
  train, warnings = _training_set(load_train, train_spec, run.facts['train_manifest'])
  if val and val.sha256 != run.facts['val_manifest'] != '':
    text = (
      'the validation set is not the one that chose the checkpoint (hash'
      f' {val.sha256[:12]}, then {run.facts["val_manifest"][:12]}): thresholds are those of the'
      ' present one'
    )
    warnings.append({'set': results.VAL, 'kind': 'manifest_changed', 'text': text})
  tests = {name: _test_set(load_tests, name, spec) for name, spec in specs.items()}
  for name, manifest in (({results.VAL: val} if val else {}) | tests).items():
    if text := crop_settings.difference(run.crops, read_crop_settings(manifest)):
      warnings.append({'set': name, 'kind': 'crops_differ', 'text': f'{name}: {text}'})
  copies, unchecked = curves.load_copies(
    points,
    lambda point: load_tests(
      point.title, _of_copy(specs[point.name], point.copy), allow_empty=True
    ),
  )
  warnings += unchecked
  watchdog.stage()

  # ---- Scores and metrics ----------------------------------------------------------------------
  compiled = [
    steps.jit_eval_step(make(run.detector), mesh, run.params)
    for make in (steps.make_eval_step, steps.make_feature_step)
  ]
  evaluator = Evaluator(
    compiled[0],
    mesh,
    suite.batch_size,
    run.detector.backbone.image_size,
    suite.num_threads,
    compiled[1],
  )
  named_by = ('config_sha256', 'step', 'base_weights', 'trained_weights')
  identity = {name: run.facts[name] for name in named_by}
  if is_lead:
    _claim(out, identity)
  made = suite_lib.SuiteRun(evaluator, run.params, suite, out, identity, is_lead, watchdog).run(
    val or run.validation, train, tests, points, copies
  )
  if not is_lead:
    return
  made['warnings'] = sorted(
    warnings + made['warnings'], key=lambda warning: results.urgency(warning['kind'])
  )
  for name, spec in {**({results.VAL: val_spec} if val else {}), **specs}.items():
    made['protocol']['sets'][name] |= {'manifest': spec.manifest, 'split': spec.split}
  document = _document(workdir, run, suite, made)
  files.write_sealed(out / 'results.json', document)
  _print(document, out)


def _tests(
  data: ml_collections.ConfigDict | None,
) -> Mapping[str, ml_collections.ConfigDict]:
  """The tests of a run's own config."""
  return {} if data is None else dict(data.tests.items())


def _refuse_remote(
  workdir: pathlib.Path, specs: Mapping[str, ml_collections.ConfigDict], remote: str
) -> None:
  """Refuses to follow a run's config to machines that the user has not named."""
  below = remote.rstrip('/') + '/'
  for name, spec in specs.items():
    for place in (spec.manifest, spec.root):
      if storage.is_remote(place) and not (remote and place.startswith(below)):
        raise UserError(
          f'{workdir}: the config of the run names {place!r} for {name}: add'
          ' --remote=gs://BUCKET if you trust it, or name the data in the suite'
        )


def _refuse_links(out: pathlib.Path) -> None:
  """Refuses a folder from which results would be written elsewhere."""
  for folder, folders, names in os.walk(out):
    for name in (*folders, *names):
      if os.path.islink(os.path.join(folder, name)):
        raise UserError(f'--out={out} holds a link, {name}: results would go elsewhere; remove it')


def _test_set(load: sets_lib.SetLoader, name: str, spec: ml_collections.ConfigDict) -> Manifest:
  try:
    return load(f'sets.{name}', spec, allow_empty=True)
  except UserError as error:
    raise UserError(
      f'set {name}: {error} (give its manifest with --suite.sets.{name}.manifest, or choose the'
      ' sets that you have with --suite=cross_eval:sets=NAME+NAME)'
    ) from error


def _of_copy(spec: ml_collections.ConfigDict, manifest: str) -> ml_collections.ConfigDict:
  """The same rows of a perturbed copy's manifest; its images lie beside it."""
  return ml_collections.ConfigDict({**spec.to_dict(), 'manifest': manifest, 'root': ''})


def _training_set(
  load: sets_lib.SetLoader, spec: ml_collections.ConfigDict | None, sha256: str
) -> tuple[Manifest | None, list[dict[str, str]]]:
  """The training set, None if it is not at hand, and what is to be said of it."""
  if spec is None:
    return None, []
  try:
    train = load('train', spec)
  except UserError as error:
    logging.warning('%s', error)
    return None, []
  if sha256 in (train.sha256, ''):  # '': a detector of another program does not say.
    return train, []
  text = (
    f'the training set at hand (hash {train.sha256[:12]}) is not the one that was trained on'
    f' ({sha256[:12]}): the search for leaks may miss some'
  )
  return train, [{'set': '', 'kind': 'manifest_changed', 'text': text}]


def _claim(out: pathlib.Path, identity: Mapping[str, Any]) -> None:
  """Marks a folder as one checkpoint's; refuses another checkpoint's folder."""
  path = out / results.CLAIM_FILE
  if path.is_file():
    files.mend(path)
    if (found := results.read_claim(out)) != identity:
      raise UserError(_taken(out, found, identity))
    # Unfinished from here on, until it is written anew.
    (out / 'results.json').unlink(missing_ok=True)
    return
  try:
    started = datetime.datetime.now(datetime.UTC).date().isoformat()
    files.write_sealed(
      path, {'format': results.CLAIM_FORMAT, 'started': started, **identity}, spare=True
    )
  except OSError as error:
    raise UserError(f'cannot write to --out={out}: {error.strerror}') from error


def _taken(out: pathlib.Path, found: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
  """Why a folder is not free for a checkpoint: it holds the scores of another."""
  if all(found.get(name) == identity[name] for name in ('config_sha256', 'step')):
    if 'trained_weights' in found:
      text = f'{out} holds the evaluation of other weights: this run was trained anew since then'
    else:
      text = (
        f'{out} holds an evaluation made by an earlier version, which did not note the trained'
        ' weights'
      )
  else:
    text = (
      f'{out} holds the evaluation of another checkpoint (step {found.get("step")} of config'
      f' {str(found.get("config_sha256"))[:12]})'
    )
  return f'{text}; give another --out, or remove that folder'


def _document(
  workdir: pathlib.Path,
  run: trained.TrainedRun,
  suite: ml_collections.ConfigDict,
  made: Mapping[str, Any],
) -> dict[str, Any]:
  """`results.json`; warnings stand first."""
  is_synthetic = any(
    facts['manifest'] == sets_lib.SYNTHETIC for facts in made['protocol']['sets'].values()
  )
  masks, analysis = workdir / 'masks.jsonl', workdir / 'analysis.json'
  return {
    'format': results.FORMAT,
    'warnings': made['warnings'],
    **({'note': sets_lib.SYNTHETIC_NOTE} if is_synthetic else {}),
    'run': run.facts | {'config': run.file.config if run.file else run.config.to_dict()},
    'suite': suite.to_dict(),
    'protocol': made['protocol'],
    'sets': made['sets'],
    'robustness': made['robustness'],
    'masks': inside.read_masks(masks) if masks.is_file() and not run.file else None,
    'subspaces': telemetry.read_json(analysis) if analysis.is_file() and not run.file else None,
  }


def _print(document: Mapping[str, Any], out: pathlib.Path) -> None:
  run, confidence = document['run'], document['protocol']['bootstrap']['confidence']
  for warning in document['warnings']:
    say(terminal_line(f'WARNING: {warning["text"]}'))
  say(
    f'\n{run["method"]} on {run["backbone"]}, {run["checkpoint"]} (step {run["step"]});'
    f' intervals of {100 * confidence:g} %'
  )
  say(metric_tables.format_intervals(document['sets']))
  band = document['protocol']['band']
  say(
    f'\nUndecided within the band (validation: FPR {band["fpr"]:.1%}, FNR {band["fnr"]:.1%}):'
    f' {band["frame"]["low"]:.3f} to {band["frame"]["high"]:.3f} for frames,'
    f' {band["video"]["low"]:.3f} to {band["video"]["high"]:.3f} for videos'
  )
  say(metric_tables.format_intervals(document['sets'], ('coverage', 'selective_accuracy', 'aurc')))
  if temperature := document['protocol']['temperature']:
    say(f'\nWith temperature {temperature["frame"]:.3f} ({temperature["origin"]}):')
    say(metric_tables.format_calibration(document['sets'], catalogue.RESCALED))
  if 'note' in document:
    say(f'\n{document["note"]}')
  say(f'\nMetrics: {out / "results.json"}')
