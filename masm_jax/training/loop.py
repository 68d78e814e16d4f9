"""One training run, from config to results: mesh -> data -> model -> state -> restore -> loop."""

import contextlib
import functools
import pathlib
import tempfile
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from masm_jax import config as config_lib
from masm_jax import detector as detector_lib
from masm_jax import files, places, telemetry, tree
from masm_jax.checkpoints import saving as checkpoint_lib
from masm_jax.data import pipeline, presets, samplers
from masm_jax.data.crop_settings import read_crop_settings
from masm_jax.data.sets import DataSets, load_sets
from masm_jax.errors import UserError
from masm_jax.inference import composition
from masm_jax.inference import steps as inference_steps
from masm_jax.inference.scorer import Evaluator
from masm_jax.masking import layer_mask
from masm_jax.methods import make_method
from masm_jax.parallel import locks, peers, sharding, stopping
from masm_jax.training import probe, state, steps, writer
from masm_jax.training import program as program_lib
from masm_jax.training import results as results_lib

# On CPU, more un-awaited collective steps than this can deadlock (jax 0.10, virtual devices).
_CPU_AWAIT_STEPS = 5

_MAX_REPEATS = 4  # Of an example in a batch.


def train(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  *,
  hang_timeout_s: float = 0.0,
  profile: str = '',
) -> int:
  """Trains, evaluates and writes `workdir/results.json`.

  Args:
    config: a full config, see `configs/common.py`.
    workdir: the run's directory; if it holds an unfinished run of this config, that is resumed.
    hang_timeout_s: see `peers.Watchdog`.
    profile: steps to trace, see `telemetry.parse_steps`.

  Returns:
    0, or the number of the signal that stopped the run (which is saved then, and can resume).

  Raises:
    UserError: bad input, a loss that is not finite, or another process that works in `workdir`.
  """
  config_lib.validate(config)
  telemetry.parse_steps(profile)
  places.real_folder(workdir)  # Refused before hours of work, not by the first checkpoint.
  is_lead = jax.process_index() == 0
  with (
    locks.held(workdir, kind=places.TRAINING, enabled=is_lead),
    peers.Watchdog(hang_timeout_s) as watchdog,
  ):
    if is_lead:
      files.remove_unfinished(workdir, deep=True)
    _check_writable(workdir)
    return _train(config, workdir, watchdog, profile)


def _train(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, watchdog: peers.Watchdog, profile: str
) -> int:
  profiled_steps = telemetry.parse_steps(profile)
  is_lead = jax.process_index() == 0

  # ---- Mesh ----------------------------------------------------------------------------------
  mesh = sharding.make_mesh(config.mesh.fsdp)
  sharding.check_batch_size(config.train.batch_size, mesh, 'train.batch_size')
  sharding.check_batch_size(config.eval.batch_size, mesh, 'eval.batch_size')

  # ---- Data ----------------------------------------------------------------------------------
  sets = load_sets(config.data)
  if config.train.batch_size > _MAX_REPEATS * len(sets.train):
    raise UserError(
      f'train.batch_size = {config.train.batch_size}: data.train has {len(sets.train)} rows; use at'
      f' most {_MAX_REPEATS * len(sets.train)}, or each would stand in a batch many times'
    )
  if config.lsda.weight and config.lsda.cross and sets.train.method_ids.max() < 2:
    raise UserError(
      'lsda.cross mixes fakes of different methods, but data.train has only one: set lsda.cross=0'
    )
  backbone, detector_config = detector_lib.from_config(config)
  in_steps = functools.partial(
    config_lib.duration_steps, batch_size=config.train.batch_size, num_examples=len(sets.train)
  )
  total_steps = in_steps(config.train.duration)
  if profiled_steps and profiled_steps[-1] > total_steps:
    raise UserError(f'--profile={profile}: this run has {total_steps} steps')
  sampler = samplers.make_sampler(
    config.data.sampler,
    sets.train.table,
    config.seed,
    self_blending=config.data.augment == presets.SBI,
  )
  make_batches = functools.partial(
    pipeline.train_iterator,
    sets.train,
    batch_size=config.train.batch_size,
    image_size=backbone.config.image_size,
    sampler=sampler,
    augment=config.data.augment,
    seed=config.seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    num_workers=config.data.num_workers,
    num_threads=config.data.num_threads,
    max_replaced_share=config.data.max_replaced_share,
  )
  batches = make_batches(num_steps=total_steps)
  watchdog.stage()

  # ---- Model ---------------------------------------------------------------------------------
  params, base_hash = detector_lib.load_params(
    backbone, config.backbone.weights, detector_config, jax.random.key(config.seed)
  )
  method = make_method(
    config,
    cache_dir=config.subspace.cache_dir or str(workdir / 'decomposition'),
    on_progress=writer.decomposition_progress(is_lead, watchdog.stage),
  )
  # Another run's checkpoints are refused here, before this one leaves anything beside them.
  checkpoints = checkpoint_lib.Checkpoints(
    workdir,
    config=config,
    base_hash=base_hash,
    manifest_hash=sets.train.sha256,
    val_hash=sets.val.sha256,
  )
  method, selected = probe.choose_layers(
    method,
    params,
    config=config,
    detector_config=detector_config,
    mesh=mesh,
    make_batches=functools.partial(
      make_batches, num_steps=config.mask.head_batches + config.mask.probe_batches
    ),
    workdir=workdir,
    hashes={'base_weights': base_hash, 'train_manifest': sets.train.sha256},
    resuming=checkpoints.latest_step() is not None,
    on_progress=watchdog.stage,
  )
  # All of it lies on the host, and each device is given its own part alone.
  parts = sharding.agree(method.init(params, jax.random.key(config.seed)))
  del params
  frozen, reference = sharding.place_frozen((parts.frozen, parts.reference), mesh)
  watchdog.stage()

  # ---- State ---------------------------------------------------------------------------------
  program = program_lib.make_program(
    config,
    method=method,
    detector_config=detector_config,
    parts=parts,
    total_steps=total_steps,
    warmup_steps=in_steps(config.optim.warmup),
    restart_steps=in_steps(config.optim.restart_every),
    mesh=mesh,
  )
  train_state = program.place_state(parts.trainable, mesh)
  del parts
  train_step = steps.jit_train_step(program.train_step, mesh, frozen, reference)
  merge = inference_steps.jit_merge(method, mesh, train_state.trainable, frozen)
  evaluator = Evaluator(
    inference_steps.jit_eval_step(
      inference_steps.make_eval_step(detector_config),
      mesh,
      jax.eval_shape(merge, train_state.trainable, frozen),
    ),
    mesh,
    config.eval.batch_size,
    backbone.config.image_size,
    config.data.num_threads,
  )

  # ---- Restore: an unfinished run in the workdir, or the pretrained weights ----------
  train_state, batches, best = checkpoints.restore(train_state, batches)
  watchdog.stage()
  start = int(train_state.step)
  report = writer.RunReport(workdir, enabled=is_lead, groups=program.groups, selected=selected)
  report.begin(
    config=config,
    hashes=sets.hashes() | {'base_weights': base_hash},
    crops=read_crop_settings(sets.train),
    training=composition.describe(sets.train).model_dump(mode='json'),
    step=start,
    overview=writer.overview(train_state.trainable, frozen, reference),
  )

  # ---- Loop ----------------------------------------------------------------------------------
  log_every = config.log.every_steps
  eval_every = in_steps(config.eval.every) or total_steps
  save_every = in_steps(config.checkpoint.every) or total_steps
  waits = telemetry.InputWaits()
  progress = telemetry.Progress(
    total_steps, start=start, images_per_step=config.train.batch_size, enabled=is_lead
  )
  with (
    stopping.StopRequests() as stop,
    telemetry.Profiler(profiled_steps, workdir / 'profile') as profiler,
    contextlib.closing(batches),
    progress,
    report,
  ):
    for step in range(start + 1, total_steps + 1):
      with profiler.step(step):
        with waits.watch(train_state.step):
          batch = next(batches)
        inputs = {name: batch[name] for name in steps.INPUTS}
        placed = sharding.place_batch(inputs, mesh)
        train_state = train_step(train_state, frozen, reference, placed)
      profiler.end_step(step, train_state.step)
      if jax.default_backend() == 'cpu' and step % _CPU_AWAIT_STEPS == 0:
        jax.block_until_ready(train_state.step)
      if program.groups and layer_mask.is_refresh(step, program.mask_config):
        report.note_mask(step, train_state.mask)

      watchdog.beat()
      is_last = step == total_steps
      stopping_now = stop.requested(step)
      logs = step % log_every == 0 or is_last
      evaluates = step % eval_every == 0 or is_last
      saves = step % save_every == 0 or evaluates or stopping_now
      if logs or saves:
        _check_finite(train_state, sampler, sets, config, checkpoints, workdir)
      if logs:
        train_state, values = steps.take_metrics(train_state, mesh)
        report.write_training(step, values, batch, progress.images_per_second, waits.take_share())
        progress.update(step, loss=values['loss'])
      else:
        progress.update(step)
      if evaluates:
        with progress.pause():
          params = merge(train_state.trainable, frozen)
          table = evaluator.scores(params, sets.val, on_progress=watchdog.beat)
          value = report.write_validation(step, table, config.eval.select_by)
        if value > best.value or not best.step:  # The earliest of equals; nan never wins.
          best = checkpoint_lib.Best(step, value if value == value else float('-inf'))
      if saves:
        report.flush()
        checkpoints.save(train_state, batches, best)
      if stopping_now and not is_last:
        checkpoints.close()
        logging.warning(
          'stopped by signal %d after step %d of %d; it is saved, and the same '
          'command resumes from there',
          stop.signal_number,
          step,
          total_steps,
        )
        return stop.signal_number
    checkpoints.wait()

    # ---- Results: the last step, and the one that validation chose -------------------------------
    steps_by_name = {'last': total_steps, 'best': best.step}
    test_sets = dict(sets.tests) | ({'train': sets.train} if config.eval.on_train else {})
    results: dict[str, Any] = {}
    for name, set_name, metrics in results_lib.score_checkpoints(
      steps_by_name,
      {'val': sets.val, **test_sets},
      score=lambda params, manifest: evaluator.scores(params, manifest, on_progress=watchdog.beat),
      params_at=lambda step: merge(
        train_state.trainable
        if step == total_steps
        else checkpoints.restore_trainable(train_state, step),
        frozen,
      ),
      report=report,
    ):
      made = results.setdefault(name, {'step': steps_by_name[name], 'sets': {}})
      made['sets'][set_name] = metrics
      # Counted on: jax's preemption service lets processes agree on numbers that rise.
      num_evaluated = sum(len(result['sets']) for result in results.values())
      if stop.requested(total_steps + num_evaluated):
        checkpoints.close()
        logging.warning(
          'stopped while evaluating; the training is saved, and the same command evaluates it'
        )
        return stop.signal_number
    checkpoints.close()
    watchdog.stop()  # The first process draws alone; the others wait for it as they end.
    report.finish(results, config=config, num_trainable=tree.param_count(train_state.trainable))
    return 0


def _check_writable(workdir: pathlib.Path) -> None:
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=workdir):
      pass
  except OSError as error:
    raise UserError(f'cannot write to --workdir={workdir}: {error.strerror}') from error


def _check_finite(
  train_state: state.TrainState,
  sampler: samplers.Sampler,
  sets: DataSets,
  config: ml_collections.ConfigDict,
  checkpoints: checkpoint_lib.Checkpoints,
  workdir: pathlib.Path,
) -> None:
  """Ends the run if some step's loss or gradient was not finite.

  Nothing is saved between that step and this check, so that the newest checkpoint is a good one.
  """
  step = int(train_state.nonfinite_step)
  if not step:
    return
  checkpoints.wait()
  size = config.train.batch_size
  records = np.array([sampler(position) for position in range((step - 1) * size, step * size)])
  paths = list(sets.train.table['path'].iloc[records])
  telemetry.write_json(
    workdir / 'nonfinite.json', {'step': step, 'records': records.tolist(), 'paths': paths}
  )
  good = checkpoints.latest_step()
  raise UserError(
    f'the loss of step {step} is not finite; its batch is records '
    f'{", ".join(map(str, records[:4]))}, ... ({paths[0]}, ...), all in '
    f'{workdir / "nonfinite.json"}; last good checkpoint: '
    f'{"none" if good is None else f"step {good}"}; look at the images, or lower '
    'optim.learning_rate in a new --workdir'
  )
