"""Plans the built-in data set and renders it to files once.

Splits share no identity. Each real video of the training and validation splits has two forgeries,
the training mechanisms taking turns; in the test split two further ones come from mechanisms that
occur nowhere else.
"""

import concurrent.futures
import concurrent.futures.process
import glob
import hashlib
import json
import math
import multiprocessing
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator

import cv2

from masm_jax import files, plain_files
from masm_jax.data.synthetic.forgeries import DONOR_METHODS, HELD_OUT_METHODS, TRAINING_METHODS
from masm_jax.data.synthetic.people import Stream, stream_rng
from masm_jax.data.synthetic.portraits import at_least
from masm_jax.data.synthetic.videos import VideoPlan, render_video
from masm_jax.errors import UserError
from masm_jax.parallel import locks, parents

# Raise it with every change of what is drawn: sets made by older code are then not taken for these.
CODE_VERSION = 5
MAX_STRENGTH = 4.0
MANIFEST_NAME = 'manifest.parquet'
_NO_MAIN_GUARD = (
  'synthetic set: a worker process died; call it under `if __name__ == "__main__":` in a '
  'script, or give num_processes=1'
)
MARKER_NAME = 'synthetic.json'
_FAKES_PER_VIDEO = 2
_MIN_IDENTITIES_PER_SPLIT = 2


def split_sizes(num_identities: int) -> dict[str, int]:
  """Identities per split: two ninths test, one ninth validation, at least two each."""
  test = max(round(num_identities * 2 / 9), _MIN_IDENTITIES_PER_SPLIT)
  val = max(round(num_identities / 9), _MIN_IDENTITIES_PER_SPLIT)
  return {'train': num_identities - val - test, 'val': val, 'test': test}


def plan_videos(seed: int, num_identities: int, videos_per_identity: int) -> list[VideoPlan]:
  """Every real video with its forgeries; donors come from the same split.

  Raises:
    UserError: fewer identities than three splits need, or a number out of range.
  """
  at_least(
    'synthetic set',
    seed=(seed, 0),
    num_identities=(num_identities, 3 * _MIN_IDENTITIES_PER_SPLIT),
    videos_per_identity=(videos_per_identity, 1),
  )
  plans = []
  first = 0
  for split, size in split_sizes(num_identities).items():
    pools = [TRAINING_METHODS] + ([HELD_OUT_METHODS] if split == 'test' else [])
    for video in range(size * videos_per_identity):
      identity, number = first + video // videos_per_identity, video % videos_per_identity
      methods = [
        pool[(_FAKES_PER_VIDEO * video + turn) % len(pool)]
        for pool in pools
        for turn in range(_FAKES_PER_VIDEO)
      ]
      rng = stream_rng(Stream.PLAN, seed, identity, number)
      # A step of 1 .. size - 1 round the split's identities never comes back to the target.
      donors = first + (identity - first + rng.integers(1, size, len(methods))) % size
      forgeries = tuple(
        (method, int(donor) if method in DONOR_METHODS else -1)
        for method, donor in zip(methods, donors, strict=True)
      )
      plans.append(VideoPlan(split, identity, number, forgeries))
    first += size
  return plans


def materialize(
  root: str | os.PathLike,
  *,
  seed: int = 0,
  size_px: int = 64,
  num_identities: int = 90,
  videos_per_identity: int = 3,
  frames_per_video: int = 4,
  strength: float = 1.0,
  num_processes: int = 2,
  progress: bool = True,
) -> pathlib.Path:
  """Renders the built-in set to PNG files and a manifest, once.

  The set appears whole or not at all: it is rendered into a hidden folder beside `root`, which then
  takes its name. A set that is there already with the same parameters is used as it is.

  Args:
    root: Folder of the set: new, empty, or made by this function before.
    seed: Seed of everything that is drawn.
    size_px: Height and width of the images.
    num_identities: Over all splits; the default gives 60 train, 10 val and 20 test.
    videos_per_identity: Real videos of each identity.
    frames_per_video: Frames of each video, real or fake.
    strength: Scale of the forgeries' traces, see `forgeries`; above 1 they are easier to find.
    num_processes: Worker processes; 1 renders in this one. The files do not depend on it.
    progress: Whether to show a progress bar.

  Returns:
    The path of the manifest (Parquet): the columns of `masm_jax.data.manifest`, and `donor`
    (identity whose face was put in, or -1) and the attributes of `portrait_sample`.

  Raises:
    UserError: an argument is out of range, or `root` holds something else.
  """
  plans = plan_videos(seed, num_identities, videos_per_identity)
  at_least('synthetic set', size_px=(size_px, 32), frames_per_video=(frames_per_video, 1))
  at_least('synthetic set', num_processes=(num_processes, 1))
  if not 0 < strength <= MAX_STRENGTH:
    raise UserError(f'synthetic set: strength is {strength!r}; above 0 and at most {MAX_STRENGTH}')
  root = pathlib.Path(root).absolute()
  wanted = {
    'code_version': CODE_VERSION,
    'seed': int(seed),
    'size_px': int(size_px),
    'num_identities': int(num_identities),
    'videos_per_identity': int(videos_per_identity),
    'frames_per_video': int(frames_per_video),
    'strength': float(strength),
  }
  if _is_complete(root, wanted):
    return root / MANIFEST_NAME
  # A worker that runs the script which started it is about to be refused, and killed with the
  # others, by multiprocessing: it must not leave a folder behind.
  if getattr(multiprocessing.current_process(), '_inheriting', False) and num_processes > 1:
    raise UserError(_NO_MAIN_GUARD)
  # Who needs the same set at the same time waits for it, and uses it.
  with locks.held_beside(root, waits=True):
    if not _is_complete(root, wanted):
      _render(root, plans, wanted, num_processes, progress)
  return root / MANIFEST_NAME


def _render(
  root: pathlib.Path, plans: list[VideoPlan], wanted: dict[str, int], num_processes: int, progress
) -> None:
  """Renders the set into a folder beside `root`, which then takes its name."""
  prefix = f'.{root.name}.partial-'
  for left in root.parent.glob(f'{glob.escape(prefix)}*'):  # By processes that were killed.
    shutil.rmtree(left, ignore_errors=True)
  try:
    partial = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=root.parent))
  except OSError as error:
    raise UserError(f'cannot write to {root.parent}: {error.strerror}') from error
  try:
    _write_set(partial, plans, wanted, num_processes, progress)
    partial.chmod(0o755)  # mkdtemp's folders are private
    try:
      os.replace(partial, root)
    except OSError as error:
      raise UserError(f'cannot create {root}: {error.strerror}') from error
  except OSError as error:
    raise UserError(f'cannot write to {root.parent}: {error.strerror or error}') from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _is_complete(root: pathlib.Path, wanted: dict[str, float]) -> bool:
  """True for the wanted set, False where nothing is; anything else is an error."""
  if not root.exists():
    return False
  if not root.is_dir():
    raise UserError(f'{root} is not a folder; give the folder that the synthetic set goes to')
  try:
    marker = files.parse_object(plain_files.read_text(root / MARKER_NAME))
  except (OSError, ValueError):
    if next(root.iterdir(), None) is None:
      return False
    raise UserError(f'{root} holds other files; give an empty or a new folder') from None
  marker = {'strength': 1.0} | marker  # Sets that were drawn before there was a strength.
  if {key: marker.get(key) for key in wanted} != wanted:
    differing = [f'{key}={marker.get(key)}' for key in wanted if marker.get(key) != wanted[key]]
    raise UserError(
      f'{root} holds a synthetic set with other parameters ({", ".join(differing)}); '
      'delete it or give another folder'
    )
  manifest = root / MANIFEST_NAME
  if (
    not manifest.is_file()
    or plain_files.sha256(manifest) != marker.get('manifest_sha256')
    or sum(1 for _ in root.glob('synthetic/*/*/*.png')) != marker.get('num_images')
  ):
    raise UserError(f'{root}: the synthetic set is damaged; delete the folder and run this again')
  return True


def _write_set(
  folder: pathlib.Path,
  plans: list[VideoPlan],
  wanted: dict[str, float],
  num_processes: int,
  progress,
) -> None:
  # Only this function needs pandas, and worker processes do without.
  from masm_jax.data.manifest import build_manifest, write_manifest

  jobs = [
    (
      str(folder),
      plan,
      wanted['seed'],
      wanted['size_px'],
      wanted['frames_per_video'],
      wanted['strength'],
    )
    for plan in plans
  ]
  rows = [row for batch in _shown(_run(jobs, num_processes), len(jobs), progress) for row in batch]
  manifest = folder / MANIFEST_NAME
  write_manifest(build_manifest(rows, folder), manifest)
  marker = {
    **wanted,
    'num_images': len(rows),
    'manifest_sha256': plain_files.sha256(manifest),
  }
  (folder / MARKER_NAME).write_text(json.dumps(marker, indent=2) + '\n')


def _run(jobs: list[tuple], num_processes: int) -> Iterator[list[dict]]:
  num_processes = min(num_processes, len(jobs))
  if num_processes == 1:
    yield from map(_write_video, jobs)
    return
  # Not fork: the parent may hold JAX's threads.
  pool = concurrent.futures.ProcessPoolExecutor(
    num_processes,
    multiprocessing.get_context('spawn'),
    initializer=_start_worker,
  )
  try:
    chunk = max(math.ceil(len(jobs) / (8 * num_processes)), 1)
    with parents.deaf_to_ctrl_c():
      found = pool.map(_write_video, jobs, chunksize=chunk)
    yield from found
  except concurrent.futures.process.BrokenProcessPool:
    raise UserError(_NO_MAIN_GUARD) from None
  finally:
    pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
  parents.end_with_parent()
  cv2.setNumThreads(1)


def _write_video(job: tuple) -> list[dict]:
  folder, plan, seed, size_px, num_frames, strength = job
  rows = []
  for image, row in render_video(plan, seed, size_px, num_frames, strength):
    path = pathlib.Path(folder, str(row['path']))
    path.parent.mkdir(parents=True, exist_ok=True)
    _, code = cv2.imencode('.png', image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    content = code.tobytes()
    path.write_bytes(content)
    facts = {'width': size_px, 'height': size_px, 'sha256': hashlib.sha256(content).hexdigest()}
    rows.append(row | facts)
  return rows


def _shown(batches: Iterable[list[dict]], total: int, progress: bool) -> Iterable[list[dict]]:
  if not progress:
    return batches
  import rich.console
  import rich.progress

  console = rich.console.Console(stderr=True)
  return rich.progress.track(batches, 'drawing videos', total=total, console=console)
