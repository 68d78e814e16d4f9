"""Preprocesses a data set: lists videos, crops what is not done, writes outcomes and manifest."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from masm_jax import files, places, plain_files
from masm_jax.data import crop_settings, storage
from masm_jax.data.crop_settings import CropSettings
from masm_jax.data.manifest import Manifest, build_manifest, write_manifest
from masm_jax.errors import UserError
from masm_jax.parallel import locks
from masm_jax.parallel.ray_actors import Cluster
from masm_jax.preprocess import crops, pool, ray_engine, records
from masm_jax.preprocess.crops import Settings
from masm_jax.preprocess.layouts import Options, list_videos
from masm_jax.preprocess.layouts.base import skipped_text
from masm_jax.preprocess.outcomes import OUTCOME_LINES, Report, outcome_table
from masm_jax.preprocess.raw_video import RawVideo
from masm_jax.preprocess.records import Record
from masm_jax.telemetry.progress import Progress

MANIFEST = 'manifest.parquet'
_CODE_VERSION = 2  # Raised when the same parameters give other crops.
_MAX_MEMORY_BYTES = 2**32  # Of a worker, beside the program: 8K in 10 bits takes 2.3 GB.
_CROP_COLUMNS = (
  'frame',
  'width',
  'height',
  'sha256',
  'face_detected',
  'face_score',
  'face_px',
  'crop_flag',
)


def preprocess(
  input_path: pathlib.Path,
  layout: str,
  output: pathlib.Path,
  *,
  options: Options,
  settings: Settings,
  num_processes: int,
  cluster: Cluster | None = None,
  on_start: Callable[[int, int], None] = lambda total, done: None,
) -> Report:
  """Turns a data set's raw videos into aligned crops and a manifest; resumes where it stopped.

  Args:
    input_path: the data set's folder, or a single file.
    layout: a key of `layouts.LAYOUTS`.
    output: gets `crops/`, `manifest.parquet`, `outcomes.jsonl`, `preprocess.json`.
    options: what the folder does not say by itself.
    settings: what the crops depend on.
    num_processes: workers; 0 does all in this process.
    cluster: where Ray does it instead; None for this machine.
    on_start: called with the count of all videos and of those done before.

  Raises:
    UserError: input that cannot be used, an output folder made with other settings or in use.
  """
  places.refuse_inputs(output, [input_path])
  input_folder = input_path
  if input_path.is_file():
    input_folder = input_path.parent
    options = dataclasses.replace(options, only=input_path.name)
  # The crops of an earlier run, where they lie among the videos, are none of them.
  own = storage.relative(output, input_folder) + '/'
  videos = [
    video for video in list_videos(input_folder, layout, options) if not video.path.startswith(own)
  ]
  skipped = {path for path in options.skipped if not path.startswith(own)}
  dataset = options.dataset or layout
  with locks.held(output):
    _check_folder(output)
    wanted = {'layout': layout, 'dataset': dataset, **_described(settings)}
    _check_parameters(output, wanted | _perturbation(input_folder))
    shutil.rmtree(output / records.PARTIAL, ignore_errors=True)
    origins = {video.video_id: video.origin(input_folder) for video in videos}
    done = _done(output, videos, origins)
    todo = [video for video in videos if video.video_id not in done]
    on_start(len(videos), len(done))
    num_done_before = len(done)

    # Lines come as videos are done; at the end they are put in order.
    _write_lines(output, [done[v.video_id] for v in videos if v.video_id in done])
    folders = [path.absolute() for path in (input_folder, options.masks or input_folder, output)]
    worker = (*folders, settings)
    limit = _MAX_MEMORY_BYTES
    tasks = (
      ray_engine.run(todo, crops.Cropper, worker, cluster, max_memory_bytes=limit)
      if cluster
      else pool.run(
        todo, crops.Cropper, worker, num_processes=num_processes, max_memory_bytes=limit
      )
    )
    work = {video.video_id: _work(origins[video.video_id]) for video in todo}
    with (
      open(output / OUTCOME_LINES, 'ab') as lines,
      Progress(
        len(videos),
        start=num_done_before,
        label='preprocess',
        unit='videos',
        total_work=sum(work.values()),
      ) as progress,
      contextlib.closing(tasks),
    ):
      for video, result in tasks:
        if isinstance(result, pool.Died):
          reasons = [f'the process that read it died twice ({result})']
          result = records.make_record(input_folder, video, 'unreadable', reasons)
          records.commit(output, video, result, {})
        done[video.video_id] = result
        lines.write(records.json_line(_brief(result)))
        lines.flush()
        progress.update(len(done), work=work[video.video_id])

    ordered = [done[video.video_id] for video in videos]
    _write_lines(output, ordered)
    manifest = _make_manifest(output, videos, ordered, settings)
    shutil.rmtree(output / records.PARTIAL, ignore_errors=True)
  return Report(outcome_table(videos, ordered), manifest, num_done_before, skipped_text(skipped))


def _work(origin: Record) -> float:
  """Megabytes to read, and a little for each video: by which the time left is estimated."""
  return max(origin['bytes'], 0) / 2**20 + 0.1


def _check_folder(output: pathlib.Path) -> None:
  try:
    files.remove_unfinished(output)  # Of a start that was killed in its first write.
    if not (output / crop_settings.RECORD).exists() and any(
      not entry.name.startswith('.') for entry in output.iterdir()
    ):
      raise UserError(f'{output} holds other files; give an empty or a new folder as --output')
  except OSError as error:
    raise UserError(f'cannot write {output}: {error.strerror}') from error


def _described(settings: Settings) -> dict[str, Any]:
  """The settings, with the model's content in the place of its path."""
  fields = dataclasses.asdict(settings)
  model = fields.pop('model')
  fields['model_sha256'] = (
    plain_files.sha256(model) if model and settings.detector == 'yunet' else ''
  )
  return {'code_version': _CODE_VERSION, **fields}


def _perturbation(input_folder: pathlib.Path) -> dict[str, Any]:
  """What the videos went through, if they are a copy of `masm_jax.perturb_videos`."""
  path = input_folder / crop_settings.PERTURBATION
  if not path.is_file():
    return {}
  try:
    record = files.parse_object(plain_files.read_bytes(path))
    return {'perturbation': {key: record[key] for key in ('key', 'level', 'parameter', 'seed')}}
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} is no record of `python -m masm_jax.perturb_videos`') from error


def _check_parameters(output: pathlib.Path, wanted: dict[str, Any]) -> None:
  path = output / crop_settings.RECORD
  if not path.exists():
    storage.write_bytes(path, (json.dumps(wanted, indent=2) + '\n').encode())
    return
  try:
    there = files.parse_object(plain_files.read_bytes(path))
  except ValueError as error:
    raise UserError(f'{path} is damaged; remove {output} and start again') from error
  changed = [key for key in {**there, **wanted} if there.get(key) != wanted.get(key)]
  if changed:
    cases = ', '.join(f'{key} {there.get(key)!r} -> {wanted.get(key)!r}' for key in changed)
    raise UserError(
      f'{output} was begun with other parameters ({cases}); use the same ones, or another --output'
    )


def _done(
  output: pathlib.Path, videos: list[RawVideo], origins: dict[str, Record]
) -> dict[str, Record]:
  """Records by `video_id` of the videos that are done and whose files are what they were."""
  done = {}
  for video in videos:
    record = records.committed(output, video)
    if record and origins[video.video_id].items() <= record.items():
      done[video.video_id] = record
  return done


def _write_lines(output: pathlib.Path, done: list[Record]) -> None:
  storage.write_bytes(
    output / OUTCOME_LINES, b''.join(records.json_line(_brief(record)) for record in done)
  )


def _brief(record: Record) -> Record:
  return {key: value for key, value in record.items() if key != 'crops'}


def _make_manifest(
  output: pathlib.Path, videos: list[RawVideo], done: list[Record], settings: Settings
) -> Manifest | None:
  how = CropSettings(settings.template, settings.margin, settings.size_px or 0)
  rows = [
    {
      'path': f'{records.CROPS}/{video.video_id}/{crop["file"]}',
      **video.columns,
      **_of_person(video, record, crop['person']),
      **{column: crop[column] for column in _CROP_COLUMNS},
      **how.columns(),
    }
    for video, record in zip(videos, done, strict=True)
    for crop in record['crops']
  ]
  if not rows:
    (output / MANIFEST).unlink(missing_ok=True)
    return None
  manifest = build_manifest(rows, output)
  write_manifest(manifest, output / MANIFEST)
  return manifest


def _of_person(video: RawVideo, record: Record, person: int) -> Record:
  """`video_id` and `source_video_id` of a crop: each person has a video of their own.

  People of one video name it as their source, so that splits and the search for leaks keep them
  together.
  """
  whole = video.video_id
  several = any(crop['person'] > 1 for crop in record['crops'])
  return {
    'video_id': whole if person == 1 else f'{whole}/person_{person}',
    'source_video_id': video.source or (whole if several else ''),
  }
