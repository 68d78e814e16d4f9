"""What `masm_jax.predict` does: inputs to answers, lines, a table and a report."""

import dataclasses
import hashlib
import pathlib
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Literal, TextIO

import masm_jax
from masm_jax import files, plain_files
from masm_jax.errors import UserError
from masm_jax.parallel import locks
from masm_jax.prediction import inputs, results, words
from masm_jax.prediction.answers import SCHEMA, Answer
from masm_jax.prediction.media import Limits, Source, View
from masm_jax.terminal import say

Found = Iterator[tuple[Answer, list[View]]]  # With the frames to be shown.

_WIDTHS = (14, 34, 6)  # Of the table's columns; the name comes last.


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of the command; see its help."""

  model: str
  sources: tuple[str, ...]
  out: pathlib.Path
  form: str = 'jsonl'
  policy: str | None = None
  num_frames: int | None = None
  pictures: bool = False
  explain: Literal['', 'measured', 'always'] = ''
  shard: str = '0/1'
  step: str = 'best'
  weights: str = ''
  faces: Literal['yunet', 'haar', 'whole'] = 'yunet'
  yunet: str | None = None
  num_workers: int = 1
  batch_size: int = 32
  limits: Limits = dataclasses.field(default_factory=Limits)
  engine: Literal['local', 'ray'] = 'local'
  address: str = ''


def run(options: Options, *, start_jax: Callable[[], None], stdin: TextIO | None = None) -> int:
  """Predicts; returns the exit status.

  Args:
    options: see there.
    start_jax: called once the flags are known to be good.
    stdin: the list of files for `-`.

  Raises:
    UserError: bad input.
  """
  if options.engine == 'ray' and options.pictures:
    raise UserError('--save pictures needs --engine local: frames stay on the nodes')
  shard = inputs.parse_shard(options.shard)
  listed = inputs.list_files(options.sources, stdin=stdin or sys.stdin, out=options.out)
  names = inputs.shard_of(listed, shard)
  start_jax()
  # Not above: they import jax.
  from masm_jax.prediction import policy as policies
  from masm_jax.prediction.engine import Engine
  from masm_jax.prediction.predictor import load

  loads: dict[str, Any] = {
    'source': options.model,
    'step': options.step,
    'weights': options.weights,
    'batch_size': options.batch_size,
  }
  detector = load(**loads)
  policy = (
    policies.read_policy(options.policy, detector)
    if options.policy
    else policies.from_detector(detector)
  )
  if options.num_frames is not None:
    changed = policies.from_fields({'num_frames': options.num_frames}, detector).num_frames
    policy = dataclasses.replace(policy, num_frames=changed)
  explainer = None
  if options.explain and options.engine == 'local':
    from masm_jax.prediction.explaining import FaceExplainer

    explainer = FaceExplainer(
      options.model, step=options.step, weights=options.weights, maps=options.explain
    )
  predicts: dict[str, Any] = {
    'policy': policy,
    'limits': options.limits,
    'faces': options.faces,
    'yunet': options.yunet,
  }
  with (
    Engine(detector, explainer=explainer, num_workers=options.num_workers, **predicts) as engine,
    results.Folder(options.out, _identity(engine, options)) as folder,
  ):
    todo = _todo(names, folder, pictures=options.pictures)
    if options.engine == 'ray':
      from masm_jax.prediction import ray_engine

      cluster = ray_engine.Cluster(options.address, options.num_workers)
      alone = ray_engine.predict(
        todo, cluster, loads=loads, predicts=predicts, maps=options.explain
      )
      found: Found = ((answer, []) for answer in alone)
    else:
      found = _local(engine, todo, pictures=options.pictures)
    _take(found, folder, num_inputs=len(names), pictures=options.pictures)
    answers = folder.finish(options.form, ['{}/{}'.format(*shard)])
    write_report(options.out, answers)  # Here, where no other process writes its own.
  _say_where(options.out, answers)
  return 0


def merge(parts: Sequence[pathlib.Path], out: pathlib.Path, form: str) -> int:
  """Joins the folders of shards; returns the exit status.

  Raises:
    UserError: see `results.merge`.
  """
  with locks.held(out):
    answers = results.merge(parts, out, form)
    write_report(out, answers)
  _say_where(out, answers)
  return 0


def remove(out: pathlib.Path) -> None:
  """Removes the answers in a folder, for others in their place; all else in it stays.

  Args:
    out: a folder of answers without pictures; one without their record is left as it is.
  """
  if (out / results.RECORD).is_file():
    # The record last: a kill in between leaves a folder that is still known for what it is.
    lines = (results.LINES, results.SUMS, results.TABLE, results.DOCUMENT)
    for name in (*lines, results.REPORT, results.RECORD):
      (out / name).unlink(missing_ok=True)


def write_report(out: pathlib.Path, answers: Sequence[Answer]) -> None:
  """Writes the report for people."""
  from masm_jax.prediction import report  # It imports matplotlib.

  files.write_text(out / results.REPORT, report.render(answers, out))


def _identity(engine: Any, options: Options) -> dict[str, Any]:
  """All that an answer depends on beside its input."""
  settings = dataclasses.asdict(engine.settings)
  del settings['crops']['model']
  identity = {
    'schema': SCHEMA,
    'version': masm_jax.__version__,
    'model': dataclasses.asdict(dataclasses.replace(engine.model, code='')),
    'policy': engine.policy.sha256(),
    'faces': options.faces,
    'explain': options.explain,
    'batch_size': engine.scorer.batch_size,
    'settings': settings,
  }
  return files.to_json(identity)


def _todo(names: Sequence[str], folder: results.Folder, *, pictures: bool) -> Iterator[Source]:
  """Inputs without a line, or without the pictures that are asked for; their hashes are known."""
  for name in names:
    source = Source(name, name=name)
    sha256 = _sha256(name)
    answer = folder.answers.get((source.shown_name, sha256))
    if answer is None or (pictures and not _are_drawn(folder, answer)):
      yield dataclasses.replace(source, sha256=sha256)


def _are_drawn(folder: results.Folder, answer: Answer) -> bool:
  from masm_jax.prediction import pictures  # It imports matplotlib.

  return pictures.are_saved(folder.path, answer)


def _sha256(path: str) -> str:
  """Of a file; of nothing, where it cannot be read: the engine says why."""
  try:
    return plain_files.sha256(path)
  except OSError:
    return hashlib.sha256(b'').hexdigest()


def _local(engine: Any, todo: Iterator[Source], *, pictures: bool) -> Found:
  """Answers in order, with the frames to be shown; few inputs are open at a time."""
  waiting: deque[tuple[Future[Answer], list[View]]] = deque()
  for source in todo:
    views: list[View] = []
    waiting.append((engine.submit(source, on_view=views.append if pictures else None), views))
    if len(waiting) > 2 * engine.num_workers + 2:
      future, views = waiting.popleft()
      yield future.result(), views
  for future, views in waiting:
    yield future.result(), views


def _take(
  found: Found,
  folder: results.Folder,
  *,
  num_inputs: int,
  pictures: bool,
) -> None:
  """Writes answers as they come, and shows them."""
  from masm_jax.telemetry.progress import Progress

  out = sys.stdout  # While a bar is on a terminal, `sys.stdout` prints above it.
  say(_columns('result', 'probability of a fake', 'people', 'file'), file=out)
  start = len(folder.answers)
  with Progress(max(num_inputs, start), start=start, label='predict', unit='files') as progress:
    for answer, views in found:
      if pictures or answer.explanation:
        from masm_jax.prediction import pictures as drawing
      if pictures:
        drawing.save(folder.path, answer, views)
      if answer.explanation:
        drawing.save_explanation(folder.path, answer)
      folder.append(answer)
      said = words.describe(answer)
      line = _columns(said.short, said.number, str(len(answer.tracks)), answer.input.name)
      line += f'  ({", ".join(answer.reasons)})' if answer.reasons else ''
      say(line, file=sys.stdout if out.isatty() else out)
      progress.update(len(folder.answers))


def _columns(*cells: str) -> str:
  return '  '.join(
    (*(cell.ljust(width) for cell, width in zip(cells[:-1], _WIDTHS, strict=True)), cells[-1])
  )


def _say_where(out: pathlib.Path, answers: Sequence[Answer]) -> None:
  count = f'{len(answers)} answer{"" if len(answers) == 1 else "s"}'
  say(f'\n{count}: {out / results.LINES}\nfor people: {out / results.REPORT}')
