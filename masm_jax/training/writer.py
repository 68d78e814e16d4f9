"""Writes the record, metrics, masks, scores and results of a training run."""

import pathlib
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pandas as pd
from absl import logging

from masm_jax import config as config_lib
from masm_jax import files, telemetry, tree
from masm_jax.data import sets
from masm_jax.data.crop_settings import CropSettings
from masm_jax.masking import grad_stats
from masm_jax.masking.groups import Groups
from masm_jax.masking.layer_mask import LayerMask, MaskConfig, find_doubt
from masm_jax.methods.chosen_layers import Selection
from masm_jax.metrics import metric_tables, scores
from masm_jax.telemetry.lines import JsonLines
from masm_jax.terminal import say

FORMAT = 'masm_jax training 1'  # Of `results.json`; runs of version 0.1 do not say it.

_LATE_SHARE = 0.25  # Of the batches: a warning says that more than these were late.


def decomposition_progress(
  enabled: bool, on_progress: Callable[[int, int], None]
) -> Callable[[int, int], None]:
  """A function of (kernels decomposed, in all): calls another one, and draws a bar if enabled."""
  bar: list[telemetry.Progress] = []

  def show(done: int, total: int) -> None:
    on_progress(done, total)
    if not enabled:
      return
    if not bar:
      bar.append(telemetry.Progress(total, label='SVD', unit='kernels').__enter__())
    bar[0].update(done)
    if done == total:
      bar.pop().__exit__(None, None, None)

  return show


def overview(
  trainable: Mapping[str, Any], frozen: Mapping[str, Any], reference: Mapping[str, Any]
) -> str:
  """The parameter overview of the model; what a method keeps beside it is one line of bytes."""
  text = telemetry.parameter_overview(trainable, frozen)
  if reference:
    text += (
      f'\nBeside the model: the decomposition at its start, {tree.param_bytes(reference):,} bytes, '
      'read by the regularizers alone'
    )
  return text


class RunReport:
  """Writes below the run's directory; only the lead process does.

  `run.json` (resolved config, versions, commit, hashes), `metrics.jsonl`, `masks.jsonl`,
  `selection.png`, `masks.png`, `perf.jsonl`, `tensorboard/`, `scores/{last,best}/SET.parquet` and
  `results.json`.

  Args:
    workdir: the run's directory.
    enabled: False on every process but the lead.
    groups: what the layer mask switches, None for no mask.
    selected: the layers that were chosen before training, None where there was no choice.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    enabled: bool,
    groups: Groups | None,
    selected: Selection | None = None,
  ):
    self._workdir, self._enabled, self._groups = workdir, enabled, groups
    self._selected = selected
    self._writer = telemetry.MetricWriter(workdir, enabled=enabled)
    self._masks = JsonLines(workdir / 'masks.jsonl', spare=True) if enabled and groups else None
    self._pending_masks: list[tuple[int, LayerMask]] = []
    self._said_late = False

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self._writer.close()
    if self._masks:
      self._masks.close()

  def begin(
    self,
    *,
    config: ml_collections.ConfigDict,
    hashes: Mapping[str, str],
    crops: Iterable[CropSettings],
    training: Mapping[str, Any],
    step: int,
    overview: str,
  ) -> None:
    """Records what is run, and forgets what an earlier attempt wrote after `step`.

    Args:
      config: the run's config.
      hashes: of data sets and base weights.
      crops: how the training crops were made, as far as their manifest tells.
      training: what the training set holds, see `inference.composition`.
      step: where the run begins or resumes.
      overview: the table of parameters.
    """
    if not self._enabled:
      return
    logging.info('config:\n%s', config)
    say(overview)
    self._mask_config = MaskConfig(**config.mask.to_dict())
    record = telemetry.run_record(config, hashes) | {
      'config_sha256': config_lib.fingerprint(config),
      'crops': [way.to_json() for way in crops],
      'training': dict(training),
    }
    files.write_sealed(self._workdir / 'run.json', record, spare=True)
    self._hashes = dict(hashes)
    self._writer.truncate(step)
    if self._masks:
      self._masks.truncate(step)
    self._writer.write_text(step, 'parameters', overview)
    self._writer.write_text(step, 'config', str(config))
    if self._selected:
      from masm_jax.plots import layers as layer_plots

      layer_plots.selection_figure(
        self._selected.names,
        self._selected.scores,
        self._selected.chosen,
        self._workdir / 'selection.png',
        score_name=config.mask.score,
      )

  def note_mask(self, step: int, mask: LayerMask) -> None:
    """Remembers a mask that was just drawn; it is read from the device at the next `flush`."""
    if self._masks:
      self._pending_masks.append((step, jax.tree.map(jnp.copy, mask)))

  def write_training(
    self,
    step: int,
    values: Mapping[str, float],
    batch: Mapping[str, np.ndarray],
    images_per_second: float | None,
    late_share: float | None,
  ) -> None:
    """Means of the training metrics since the last call, and a checksum of this step's batch.

    Two runs whose `data/crc32` agree saw the same pixels in the same order.

    Args:
      step: steps done.
      values: the metrics.
      batch: of this step.
      images_per_second: over all devices, where it is known.
      late_share: of the steps, those that waited for their batch, where it is known; a warning
        says once that it is large.
    """
    crc = zlib.crc32(batch['image'], zlib.crc32(batch['record']))
    self._writer.write(
      step, {f'train/{name}': value for name, value in values.items()} | {'data/crc32': crc}
    )
    rates = {'images_per_second': images_per_second, 'late_batches': late_share}
    known = {f'train/{name}': rate for name, rate in rates.items() if rate is not None}
    if known:
      self._writer.write_perf(step, known)
    if self._enabled and not self._said_late and (late_share or 0) > _LATE_SHARE:
      self._said_late = True
      logging.warning(
        'training waits for images: %.0f %% of the last batches came when the device was idle;'
        ' raise data.num_threads, or data.num_workers where there are cores left (docs/data.md)',
        100 * late_share,
      )

  def write_validation(self, step: int, table: pd.DataFrame, select_by: str) -> float:
    """Metrics of the validation set; returns the one that chooses the checkpoint."""
    metrics = scores.summarize(table, name='validation')
    flat = {
      f'{level}_{name}': value for level, part in metrics.items() for name, value in part.items()
    }
    self._writer.write(step, {f'val/{name}': value for name, value in flat.items()})
    if self._enabled:
      logging.info(
        'step %d: validation AUROC %.4f by frame, %.4f by video',
        step,
        flat['frame_auroc'],
        flat['video_auroc'],
      )
    return flat[select_by]

  def flush(self) -> None:
    """Everything so far to the disk, before a checkpoint says that it is there."""
    for drawn_at, mask in self._pending_masks:
      on, values = np.asarray(mask.mask), np.asarray(mask.scores)
      duty = np.asarray(mask.steps_on) / drawn_at
      record = {'step': drawn_at, 'rows': self._groups.names, 'mask': on.astype(int)}
      score, decay = self._mask_config.score, self._mask_config.decay
      record |= {'scores': values, 'agreement': float(mask.agreement)}
      floor = grad_stats.noise_floor(score, decay=decay, count=drawn_at)
      self._masks.append(record | {'noise_floor': floor, 'duty': duty})
    if self._pending_masks:  # Of many masks since the last flush, TensorBoard gets the latest.
      from masm_jax.plots import masks

      images = {'on': on, 'score_rank': _rank(values), 'duty': duty}
      for name, image in images.items():
        self._writer.write_image(drawn_at, f'mask/{name}', masks.mask_image(image))
    self._pending_masks.clear()
    self._writer.flush()
    if self._masks:
      self._masks.sync()

  def write_scores(
    self, checkpoint: str, name: str, table: pd.DataFrame, *, step: int
  ) -> dict[str, Any]:
    """Writes the frame scores of a data set, and returns its metrics at both levels."""
    if self._enabled:
      path = self._workdir / 'scores' / checkpoint / f'{name}.parquet'
      scores.write_scores(path, table, of={'set': name, 'step': str(step)})
    return scores.summarize(table, name=name)

  def copy_scores(self, source: str, checkpoint: str, name: str) -> None:
    """The scores of one checkpoint under the name of another that is the same."""
    if self._enabled:
      folder = self._workdir / 'scores'
      (folder / checkpoint).mkdir(parents=True, exist_ok=True)
      shutil.copyfile(folder / source / f'{name}.parquet', folder / checkpoint / f'{name}.parquet')

  def finish(
    self, results: Mapping[str, Any], *, config: ml_collections.ConfigDict, num_trainable: int
  ) -> None:
    """Writes `results.json` and prints the table of results."""
    if not self._enabled:
      return
    is_synthetic = any(
      spec.manifest == sets.SYNTHETIC
      for spec in (config.data.train, config.data.val, *config.data.tests.values())
    )
    document = {
      'format': FORMAT,
      'method': config.method,
      'backbone': config.backbone.name,
      'seed': config.seed,
      'trainable_parameters': num_trainable,
      'select_by': config.eval.select_by,
      'config_sha256': config_lib.fingerprint(config),
      'inputs': config_lib.inputs(config),
      'hashes': self._hashes,
    }
    if is_synthetic:
      document['note'] = sets.SYNTHETIC_NOTE
    shown = {'best': f'best by validation {config.eval.select_by}', 'last': 'last step'}
    if results['best']['step'] == results['last']['step']:
      shown = {'last': f'{shown["best"]} and last step'}
    for name, what in shown.items():
      say(f'\n{config.method} on {config.backbone.name}, {what} (step {results[name]["step"]})')
      say(metric_tables.format_table(results[name]['sets']))
    if is_synthetic:
      say(f'\n{sets.SYNTHETIC_NOTE}')
    self._draw_masks(results['last']['step'])
    self._judge_masks()
    # Last: a run with this file is finished.
    files.write_sealed(self._workdir / 'results.json', document | dict(results))

  def _judge_masks(self) -> None:
    """Says so where the masks were drawn from noise, or never."""
    if not self._groups:
      return
    lines = telemetry.read_lines(self._workdir / 'masks.jsonl')
    masks = [line for line in lines if 'agreement' in line]
    agreed = [line['agreement'] for line in masks]
    kept = [float(np.mean(line['mask'])) for line in masks]
    if doubt := find_doubt(self._mask_config, agreed, kept):
      logging.warning('%s', doubt)

  def _draw_masks(self, last_step: int) -> None:
    """`masks.png`: the mask over time, and how often each group was on."""
    masks = telemetry.read_lines(self._workdir / 'masks.jsonl') if self._groups else []
    if not masks:
      return
    from masm_jax.plots import curves as plots

    history, drawn_at = [line['mask'] for line in masks], [line['step'] for line in masks]
    if drawn_at[0] > 1:  # Until the first mask everything is on.
      history, drawn_at = [np.ones_like(history[0]), *history], [1, *drawn_at]
    plots.mask_figure(
      np.array(history),
      drawn_at,
      self._workdir / 'masks.png',
      names=masks[0]['rows'],
      end_step=last_step + 1,  # A mask holds from the step that drew it on.
    )


def _rank(values: np.ndarray) -> np.ndarray:
  """Ranks within [0, 1] of an array's entries, so that scores of any scale make a picture."""
  order = values.ravel().argsort(kind='stable').argsort(kind='stable')
  return order.reshape(values.shape) / max(values.size - 1, 1)
