"""The whole command: list the videos, do those that are not done, write outcomes and manifest."""

import contextlib
import dataclasses
import fcntl
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from masm_jax.data import storage
from masm_jax.data.manifest import Manifest, build_manifest, write_manifest
from masm_jax.errors import UserError
from masm_jax.preprocess import crops, pool
from masm_jax.preprocess.crops import OUTCOMES, Settings
from masm_jax.preprocess.files import PARAMETERS, PERTURBATION
from masm_jax.preprocess.layouts import Options, list_videos
from masm_jax.preprocess.model_file import file_sha256
from masm_jax.preprocess.raw_video import RawVideo, readable
from masm_jax.telemetry.progress import Progress

MANIFEST, OUTCOME_LINES = 'manifest.parquet', 'outcomes.jsonl'
_CODE_VERSION = 1  # Raised when the same parameters give other crops.
_LOCK = '.lock'
_CROP_COLUMNS = ('frame', 'width', 'height', 'sha256', 'face_detected', 'face_score', 'face_px')

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Report:
  """What has become of the videos.

  Attributes:
    outcomes: one row per video, sorted by `video_id`: dataset, split, method, label, outcome,
      num_crops, num_kept_boxes, input, reasons.
    manifest: the crops; None where there is none.
    num_done_before: videos that an earlier run had done already.
  """

  outcomes: pd.DataFrame
  manifest: Manifest | None
  num_done_before: int


def preprocess(
  input_folder: pathlib.Path,
  layout: str,
  output: pathlib.Path,
  *,
  options: Options,
  settings: Settings,
  num_processes: int,
  on_start: Callable[[int, int], None] = lambda total, done: None,
) -> Report:
  """Turns a data set's raw videos into aligned crops and a manifest; goes on where it stopped.

  Args:
    input_folder: the data set.
    layout: a key of `layouts.LAYOUTS`.
    output: gets `crops/`, `manifest.parquet`, `outcomes.jsonl`, `preprocess.json`.
    options: what the folder does not say by itself.
    settings: what the crops depend on.
    num_processes: workers; 0 does all in this process.
    on_start: called with the count of all videos and of those done before.

  Raises:
    UserError: input that cannot be used, an output folder made with other settings or in use.
  """
  # The crops of an earlier run, where they lie among the videos, are none of them.
  own = storage.relative(output, input_folder) + '/'
  videos = [
    video for video in list_videos(input_folder, layout, options) if not video.path.startswith(own)
  ]
  dataset = options.dataset or layout
  _make_folder(output)
  with _locked(output):
    wanted = {'layout': layout, 'dataset': dataset, **_described(settings)}
    _check_parameters(output, wanted | _perturbation(input_folder))
    shutil.rmtree(output / crops.PARTIAL, ignore_errors=True)
    records = _done(output, input_folder, videos)
    todo = [video for video in videos if video.video_id not in records]
    on_start(len(videos), len(records))
    num_done_before = len(records)

    # Lines come as videos are done; at the end they are put in order.
    _write_lines(output, [records[v.video_id] for v in videos if v.video_id in records])
    worker = (input_folder, options.masks or input_folder, output, settings)
    tasks = pool.run(todo, crops.Cropper, worker, num_processes=num_processes)
    with (
      open(output / OUTCOME_LINES, 'ab') as lines,
      Progress(len(videos), start=num_done_before, label='preprocess', unit='videos') as progress,
      contextlib.closing(tasks),
    ):
      for video, result in tasks:
        if isinstance(result, pool.Died):
          reasons = [f'the process that read it died twice ({result})']
          result = crops.make_record(input_folder, video, 'unreadable', reasons)
          crops.commit(output, video, result, {})
        records[video.video_id] = result
        lines.write(crops.json_line(_brief(result)))
        lines.flush()
        progress.update(len(records))

    ordered = [records[video.video_id] for video in videos]
    _write_lines(output, ordered)
    manifest = _make_manifest(output, videos, ordered)
    shutil.rmtree(output / crops.PARTIAL, ignore_errors=True)
  return Report(_outcome_table(videos, ordered), manifest, num_done_before)


def _make_folder(output: pathlib.Path) -> None:
  try:
    output.mkdir(parents=True, exist_ok=True)
    if not (output / PARAMETERS).exists() and any(
      entry.name != _LOCK for entry in output.iterdir()
    ):
      raise UserError(f'{output} holds other files; give an empty or a new folder as --output')
  except OSError as error:
    raise UserError(f'cannot write {output}: {error.strerror}') from error


@contextlib.contextmanager
def _locked(output: pathlib.Path) -> Iterator[None]:
  """Two runs at once would write each other's files; the lock goes with the process that has it."""
  with open(output / _LOCK, 'w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise UserError(f'{output} is in use by another run of this command') from error
    yield


def _described(settings: Settings) -> dict[str, Any]:
  """The settings, with the model's content in the place of its path."""
  fields = dataclasses.asdict(settings)
  model = fields.pop('model')
  fields['model_sha256'] = file_sha256(model) if model and settings.detector == 'yunet' else ''
  return {'code_version': _CODE_VERSION, **fields}


def _perturbation(input_folder: pathlib.Path) -> dict[str, Any]:
  """What the videos went through, if they are a copy of `masm_jax.perturb_videos`."""
  path = input_folder / PERTURBATION
  if not path.is_file():
    return {}
  try:
    record = json.loads(path.read_bytes())
    return {'perturbation': {key: record[key] for key in ('key', 'level', 'parameter', 'seed')}}
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} is no record of `python -m masm_jax.perturb_videos`') from error


def _check_parameters(output: pathlib.Path, wanted: dict[str, Any]) -> None:
  path = output / PARAMETERS
  if not path.exists():
    storage.write_bytes(path, (json.dumps(wanted, indent=2) + '\n').encode())
    return
  try:
    there = json.loads(path.read_bytes())
  except ValueError as error:
    raise UserError(f'{path}: not JSON; remove {output} and start again') from error
  changed = [key for key in {**there, **wanted} if there.get(key) != wanted.get(key)]
  if changed:
    cases = ', '.join(f'{key} {there.get(key)!r} -> {wanted.get(key)!r}' for key in changed)
    raise UserError(
      f'{output} was begun with other parameters ({cases}); use the same ones, or another --output'
    )


def _done(
  output: pathlib.Path, input_folder: pathlib.Path, videos: list[RawVideo]
) -> dict[str, Record]:
  """Records by `video_id` of the videos that are done and whose files are what they were."""
  records = {}
  for video in videos:
    record = crops.committed(output, video)
    if record and video.origin(input_folder).items() <= record.items():
      records[video.video_id] = record
  return records


def _write_lines(output: pathlib.Path, records: list[Record]) -> None:
  storage.write_bytes(
    output / OUTCOME_LINES, b''.join(crops.json_line(_brief(record)) for record in records)
  )


def _brief(record: Record) -> Record:
  return {key: value for key, value in record.items() if key != 'crops'}


def _make_manifest(
  output: pathlib.Path, videos: list[RawVideo], records: list[Record]
) -> Manifest | None:
  rows = [
    {
      'path': f'{crops.CROPS}/{video.video_id}/{crop["file"]}',
      **video.columns,
      'video_id': video.video_id,
      'source_video_id': video.source,
      **{column: crop[column] for column in _CROP_COLUMNS},
    }
    for video, record in zip(videos, records, strict=True)
    for crop in record['crops']
  ]
  if not rows:
    (output / MANIFEST).unlink(missing_ok=True)
    return None
  manifest = build_manifest(rows, output)
  write_manifest(manifest, output / MANIFEST)
  return manifest


def _outcome_table(videos: list[RawVideo], records: list[Record]) -> pd.DataFrame:
  columns = ('outcome', 'num_crops', 'num_kept_boxes', 'reasons')
  return pd.DataFrame(
    {
      **video.columns,
      **{column: record[column] for column in columns},
      'input': readable(video.path),
    }
    for video, record in zip(videos, records, strict=True)
  )


def summary(report: Report) -> str:
  """The outcome table for people: videos by outcome, crops, kept boxes; and what went wrong."""
  table = report.outcomes
  counts = pd.crosstab(
    [table['dataset'], table['split'], table['method']], table['outcome']
  ).reindex(columns=list(OUTCOMES), fill_value=0)
  sums = table.groupby(['dataset', 'split', 'method'])[['num_crops', 'num_kept_boxes']].sum()
  shown = counts.join(sums.rename(columns={'num_crops': 'crops', 'num_kept_boxes': 'kept boxes'}))
  shown.loc[('all', '', ''), :] = shown.sum()
  lines = [shown.astype(int).reset_index().to_string(index=False)]
  for outcome in OUTCOMES[1:]:
    cases = table[table['outcome'] == outcome]
    for _, case in cases.head(5).iterrows():
      lines.append(_line(f'{outcome}: {case["input"]}: {"; ".join(case["reasons"])}'))
    if len(cases) > 5:
      lines.append(f'{outcome}: ... and {len(cases) - 5} more, in {OUTCOME_LINES}')
  return '\n'.join(lines)


def _line(text: str) -> str:
  return ' '.join(text.encode(errors='backslashreplace').decode().split())
