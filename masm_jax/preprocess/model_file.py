"""YuNet's model file: the user's own, or one download from its publisher, checked by its hash."""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Sequence

from masm_jax import places, plain_files
from masm_jax.data import storage
from masm_jax.errors import UserError

NAME = 'face_detection_yunet_2026may.onnx'
SHA256 = 'ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0'
URLS = (  # OpenCV Zoo, MIT; whichever answers first with the right bytes.
  'https://github.com/opencv/opencv_zoo/raw/47534e27c9851bb1128ccc0102f1145e27f23f98/models/'
  f'face_detection_yunet/{NAME}',
  f'https://huggingface.co/opencv/face_detection_yunet/resolve/main/{NAME}',
)
_MAX_BYTES = 10_000_000
_TIMEOUT_SECONDS = 30


def yunet_model(
  path: str | os.PathLike | None = None,
  *,
  urls: Sequence[str] = URLS,
  instead: str = '--detector haar',
) -> str:
  """The path of YuNet's model: the one given, the one in the cache, or a new download into it.

  Args:
    path: the user's own file, taken as it is; None for the published one.
    urls: where to fetch it from, tried in turn.
    instead: the flag of the command that needs no model.

  Raises:
    UserError: there is no such file, or none of the addresses gives the published one.
  """
  if path is not None:
    if not os.path.isfile(path):
      raise UserError(f'no model file at {path}')
    return os.fspath(path)
  cached = places.cache_folder() / 'models' / NAME
  if cached.is_file() and plain_files.sha256(cached) == SHA256:
    return os.fspath(cached)
  problems = []
  for url in urls:
    try:
      content = _fetch(url)
    except urllib.error.HTTPError as error:
      problems.append(f'{url}: {error}')
      continue
    except (OSError, ValueError) as error:
      problems.append(f'{url}: {getattr(error, "reason", error)}')
      continue
    if hashlib.sha256(content).hexdigest() != SHA256:
      problems.append(f'{url}: not the file that is expected (its SHA-256 differs)')
      continue
    storage.write_bytes(cached, content)
    return os.fspath(cached)
  raise UserError(
    f'cannot fetch the face detector {NAME} ({"; ".join(problems)}); get it from OpenCV Zoo by '
    f'hand and give --yunet FILE, or ask for the weaker {instead}'
  )


def _fetch(url: str) -> bytes:
  with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
    return response.read(_MAX_BYTES)
