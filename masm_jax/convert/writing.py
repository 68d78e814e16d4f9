"""Writes a converted detector as a detector file."""

import pathlib

import masm_jax
from masm_jax import backbones, files, tree
from masm_jax.convert import adapter
from masm_jax.convert.formats import FORMATS
from masm_jax.errors import UserError
from masm_jax.inference import composition, detector_file, detector_schema
from masm_jax.metrics import text_tables
from masm_jax.terminal import say


def convert(
  source_format: str,
  path: pathlib.Path,
  out: pathlib.Path,
  *,
  name: str = '',
  licence_note: str = '',
  whole_images: bool = False,
  base_weights: str = '',
) -> None:
  """Reads a file of another program, writes a detector file, and prints what it holds.

  Args:
    source_format: a key of `formats.FORMATS`, or `adapter`.
    path: the file, or a folder of transformers.
    out: a new or empty folder, or an older detector file.
    name: what people call the detector; the file's name by default.
    licence_note: under what terms its weights may be used.
    whole_images: it scores whole images: nothing is said of how faces are cut.
    base_weights: of an adapter, the file of its base weights.

  Raises:
    UserError: the file is of another kind, or the folder cannot be written.
  """
  if source_format == 'adapter':
    found = adapter.read(path, base_weights)
  elif base_weights:
    raise UserError(f'a file of {source_format} needs no base weights: leave them out')
  else:
    found = FORMATS[source_format](path)
  family, fields = detector_schema.describe(found.backbone.config)
  file = path / 'model.safetensors' if path.is_dir() else path
  crops = () if whole_images else found.crops
  note = detector_file.write_detector_file(
    out,
    params=found.params,
    validation=None,
    name=text_tables.one_line(name or path.absolute().stem),
    licence_note=text_tables.one_line(licence_note),
    code=detector_schema.Code(version=masm_jax.__version__, commit=None),
    method=found.method,
    backbone=detector_schema.Backbone(
      preset=found.backbone.name,
      family=family,
      architecture=files.to_json(fields),
      dtype='auto',
    ),
    head=detector_schema.Head(normalize_features=found.normalize_features),
    crops=tuple(detector_schema.Crops(**way.to_json()) for way in crops),
    training=composition.UNKNOWN,
    origin=found.origin
    or detector_schema.Origin(
      seed=0,
      checkpoint='last',
      step=0,
      best_step=None,
      last_step=0,
      selected_by='unknown',
      config_sha256='',
      base_weights=f'converted from {source_format}, file {backbones.weights_hash(file)}',
      trained_weights=tree.content_hash(found.params),
      trainable_parameters=found.trainable_parameters,
      train_manifest='',
      val_manifest='',
    ),
    config=dict(found.config),
  )
  say(f'{note.name}: {note.method} on {note.backbone.preset}, converted from {source_format}')
  say(f'  weights     {note.weights.bytes / 1e6:.1f} MB, SHA-256 {note.weights.sha256[:12]}')
  say(f'  crops       {", ".join(map(str, crops)) or "not known"}')
  say('  thresholds  none: evaluate it on a validation set of yours')
  say(f'Detector file: {out}')
