"""Answers for any number of files: processes that read them, one thread that scores their faces.

Each file is read by one of `num_workers` child processes, which a thread of this process drives;
the faces of all open files go to one scorer. What a file does to its process is an answer.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from masm_jax.errors import UserError
from masm_jax.prediction import messages, verdicts
from masm_jax.prediction.answers import Answer, InputFacts
from masm_jax.prediction.facts import crop_settings, model_facts
from masm_jax.prediction.jobs import (
  Candidate,
  Explainer,
  Job,
  descriptor_sha256,
  is_unchanged,
  open_source,
)
from masm_jax.prediction.media import Faces, Limits, Source, View
from masm_jax.prediction.policy import Policy, from_detector
from masm_jax.prediction.predictor import Detector
from masm_jax.prediction.reading import Settings
from masm_jax.prediction.scorer import SMALL_BATCH, Scored, Scorer
from masm_jax.prediction.verdicts import ScoredFace
from masm_jax.prediction.worker import Worker
from masm_jax.preprocess import model_file

NUM_VIEWS = 6

OnProgress = Callable[[str, float], None] | None


class Engine:
  """Predicts; close it, or use it as a context.

  Args:
    detector: of `masm_jax.load`; its batch size holds for videos.
    policy: the detector's own by default.
    limits: see there.
    num_workers: processes that read files.
    batch_size: in the place of the detector's.
    faces: how faces are found; `whole` takes every picture and frame for one face crop.
    yunet: YuNet's model file; by default the published one, fetched once.
    explainer: explains a face of each person; None for answers without an explanation.

  Raises:
    UserError: YuNet cannot be had, or a batch size that does not divide over the devices.
  """

  def __init__(
    self,
    detector: Detector,
    *,
    policy: Policy | None = None,
    limits: Limits | None = None,
    num_workers: int = 1,
    batch_size: int | None = None,
    faces: Faces = 'yunet',
    yunet: str | os.PathLike | None = None,
    explainer: Explainer | None = None,
  ):
    self.detector = detector
    self.explainer = explainer
    self.policy = policy or from_detector(detector)
    self.limits = limits or Limits()
    self.model = model_facts(detector)
    size = batch_size or detector.batch_size
    if size < 1 or size % detector.num_devices:
      raise UserError(f'batch size {size}: give a multiple of {detector.num_devices} devices')
    found = {
      'detector': 'haar' if faces == 'haar' else 'yunet',
      'model': (
        model_file.yunet_model(yunet, instead='--faces haar') if faces == 'yunet' else None
      ),
    }
    settings, self._warning = crop_settings(detector, **found)
    self.settings = Settings(settings, detector.image_size, faces == 'whole', self.limits)
    if faces == 'whole':
      self._warning = 'Every picture is taken for one face crop: no face was looked for.'
    small = min(size, max(SMALL_BATCH, detector.num_devices))
    self.scorer = Scorer(detector.dispatch, batch_size=size, small_batch=small)
    self._jobs: queue.Queue[Job | None] = queue.Queue()
    self._is_closed = False
    self._workers = [Worker(self.settings) for _ in range(max(num_workers, 1))]
    self._threads = [
      threading.Thread(target=self._drive, args=(worker,), name=f'reader {i}', daemon=True)
      for i, worker in enumerate(self._workers)
    ]
    self._finisher = concurrent.futures.ThreadPoolExecutor(1, 'answers')
    for thread in self._threads:
      thread.start()

  @property
  def isolation(self) -> dict[str, str]:
    """What is in force in the processes that read files, see `sandbox.enter`; {} before any ran."""
    return next((worker.in_force for worker in self._workers if worker.in_force), {})

  @property
  def num_workers(self) -> int:
    """Processes that read files."""
    return len(self._workers)

  def submit(
    self,
    source: Source,
    on_progress: OnProgress = None,
    *,
    on_view: Callable[[View], None] | None = None,
  ) -> concurrent.futures.Future[Answer]:
    """Takes an input; its answer comes later.

    A running one cannot be cancelled. Its future has an answer whatever the file is; an exception
    only where this program fails, or no process can be started.

    Args:
      source: see there. A path is opened when its turn comes.
      on_progress: called from other threads with `read`, `decode`, `faces` or `score` and a share
        of it.
      on_view: called from another thread with up to `NUM_VIEWS` frames, before the answer is there.
    """
    if self._is_closed:
      raise RuntimeError('the engine is closed')
    job = Job(source, on_progress or (lambda stage, share: None), on_view)
    self._jobs.put(job)
    return job.future

  def predict(self, sources: Iterable[Source]) -> Iterator[Answer]:
    """Answers in the order of the inputs, each as soon as it and those before it are there.

    Inputs are taken as they are needed: few more than there are workers are open at a time.
    """
    window = 2 * len(self._workers) + 2
    waiting: deque[concurrent.futures.Future[Answer]] = deque()
    for source in sources:
      waiting.append(self.submit(source))
      if len(waiting) >= window:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()

  def close(self, *, now: bool = False) -> None:
    """Ends processes and threads; inputs that wait are cancelled, open ones are finished.

    Args:
      now: whether to give up the files that are being read; their answers are worth nothing.
    """
    if self._is_closed:
      return
    self._is_closed = True
    with contextlib.suppress(queue.Empty):
      while job := self._jobs.get_nowait():
        job.future.cancel()
    for _ in self._threads:
      self._jobs.put(None)
    for worker in self._workers if now else ():
      worker.kill()
    for thread in self._threads:
      thread.join()
    self.scorer.close()
    self._finisher.shutdown()
    for worker in self._workers:
      worker.stop()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close(now=kind is not None)

  def _drive(self, worker: Worker) -> None:
    """The life of a thread: gives files to one process."""
    while (job := self._jobs.get()) is not None:
      if not job.future.set_running_or_notify_cancel():
        continue
      try:
        self._read(job, worker)
      except BaseException as error:
        worker.stop()  # It may be in the middle of a file.
        job.future.set_exception(error)

  def _read(self, job: Job, worker: Worker) -> None:
    with contextlib.ExitStack() as stack:
      descriptor, kind, problem = open_source(job.source, self.limits)
      if descriptor is not None:
        stack.callback(os.close, descriptor)
        before = os.fstat(descriptor)
        # What is scored is hashed here: by its name, another file may have been hashed before.
        known = job.source.sha256 if problem else ''
        job.sha256 = known or descriptor_sha256(descriptor)
        job.on_progress('read', 1.0)
      else:
        job.sha256 = job.source.sha256 or hashlib.sha256(b'').hexdigest()
      if problem or descriptor is None:
        job.refuse(*(problem or ('unreadable', 'it cannot be opened')))
      else:
        said = worker.read(
          descriptor,
          kind=kind,
          num_frames=self.policy.num_frames,
          num_views=NUM_VIEWS if job.on_view else 0,
        )
        try:
          for message, crops in said:
            self._hear(job, message, crops)
        except ValueError as error:
          worker.stop()
          job.refuse('unreadable', f'the process that read it sent nonsense: {error}')
        else:
          if not is_unchanged(descriptor, before, job.sha256):
            job.refuse('unreadable', 'it changed while it was read')
        finally:
          if job.is_cutting:
            self.scorer.more_will_come(-1)
    # Scores come in the order in which faces were sent, hence so do answers.
    self._finisher.submit(self._finish, job)

  def _hear(self, job: Job, message: messages.Message, crops: np.ndarray) -> None:
    if isinstance(message, messages.Progress):
      job.on_progress(message.stage, message.share)
    elif isinstance(message, messages.Faces):
      job.faces += message.faces
      if len(job.faces) > self.limits.people * self.policy.num_frames:
        raise ValueError('more faces than there can be')
      if len(crops):
        if not job.is_cutting:
          job.is_cutting = True
          self.scorer.more_will_come(1)
        job.tickets.append(self.scorer.submit(crops, single=message.is_single))
        if self.explainer:
          job.crops.extend(crops)
    elif isinstance(message, messages.View):
      if job.on_view:
        job.on_view(View(message.index, message.time_s, crops[0], message.scale))
    elif isinstance(message, messages.Reading):
      job.reading = message
      if isinstance(message, messages.Refused):
        job.refuse(message.reason, message.text)

  def _finish(self, job: Job) -> None:
    try:
      scored = [ticket.result() for ticket in job.tickets]
      job.on_progress('score', 1.0)
      job.future.set_result(self._answer(job, scored))
    except BaseException as error:
      job.future.set_exception(error)

  def _answer(self, job: Job, scored: list[Scored]) -> Answer:
    reading = job.reading
    facts = InputFacts(job.source.shown_name, sha256=job.sha256, **reading.input.model_dump())
    level: Literal['frame', 'video'] = 'video' if facts.kind == 'video' else 'frame'
    warnings = [*reading.warnings]
    if self._warning and job.faces:
      warnings.append(self._warning)
    judged = [] if job.refused else self._judge(job, scored, level)
    if job.refused:
      reason, text = job.refused
      outcome = verdicts.Outcome('no_answer', None, None, None, (reason,))
      warnings.insert(0, f'{text[:1].upper()}{text[1:]}.')
    elif not judged:
      outcome = verdicts.Outcome('no_answer', None, None, None, ('no_face',))
    else:
      outcome = verdicts.combine(judged, self.policy, level=level)
    return Answer(
      id=f'sha256:{job.sha256}',
      input=facts,
      model=self.model,
      policy=self.policy.facts(level),
      tracks=tuple(one.track for one in judged),
      explanation=self._explanation(job, scored, judged),
      warnings=tuple(text[:2000] for text in warnings),
      timing_s=reading.timing_s | {'score': sum(part.seconds for part in scored)},
      **{f.name: getattr(outcome, f.name) for f in dataclasses.fields(outcome)},
    )

  def _judge(
    self, job: Job, scored: list[Scored], level: Literal['frame', 'video']
  ) -> list[verdicts.Judged]:
    logits = np.concatenate([part.logits for part in scored]) if scored else np.zeros(0)
    if not np.isfinite(logits).all():
      raise UserError('the detector gives numbers that are not finite: its training has diverged')
    distances = self._distances(scored)
    people: dict[int, list[ScoredFace]] = {}
    position = 0
    for face in job.faces:
      logit = distance = None
      if face.scored:
        logit = float(logits[position])
        distance = None if distances is None else float(distances[position])
        position += 1
      fields = face.model_dump(exclude={'person', 'scored', 'flag'})
      people.setdefault(face.person, []).append(ScoredFace(fields, face.flag, logit, distance))
    turned = set(job.reading.upside_down)
    return [
      verdicts.judge(person, faces, self.policy, level=level, upside_down=person in turned)
      for person, faces in sorted(people.items())
    ]

  def _explanation(
    self, job: Job, scored: list[Scored], judged: list[verdicts.Judged]
  ) -> dict[str, Any] | None:
    """Of each person the face with the highest score."""
    if not self.explainer or not judged or not scored:
      return None
    logits = iter(np.concatenate([part.logits for part in scored]).tolist())
    best: dict[int, tuple[float, Candidate]] = {}
    for position, face in enumerate(face for face in job.faces if face.scored):
      logit = next(logits)
      if face.person not in best or logit > best[face.person][0]:
        found = Candidate(face.person, face.index, job.crops[position])
        best[face.person] = (logit, found)
    tracks = [one.track.id for one in judged if one.track.verdict != 'no_answer']
    return self.explainer.document([best[track][1] for track in tracks if track in best])

  def _distances(self, scored: list[Scored]) -> np.ndarray | None:
    """Of each scored face, over the limit; None where the detector has no statistics."""
    validation = self.detector.validation
    statistics = validation.features if validation else None
    features = [part.features for part in scored if part.features is not None]
    if statistics is None or not features or not statistics.threshold > 0:
      return None
    return statistics.distances(np.concatenate(features)) / statistics.threshold
