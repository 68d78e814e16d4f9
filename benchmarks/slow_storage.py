"""A folder as network storage shows it: every request to it takes a while.

python -m benchmarks.slow_storage /data/crops /mnt/slow --latency_ms 5

The folder can be read below the mount point until Ctrl-C. Looking up a name, opening a file and
reading from it are a request each, answered after the latency; they wait beside each other, and
there is no limit on bytes per second. The kernel keeps names, sizes and bytes that it has, as it
does of NFS, and reads ahead, so that a new mount is what a first epoch meets. (Linux, libfuse 3:
`apt-get install fuse3`, `pip install mfusepy`.)
"""

import argparse
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

_MAX_REQUESTS = 512  # At a time, as many as a file server takes.
_START_SECONDS = 30.0
_KEPT_SECONDS = 3600  # What the kernel knows of names and sizes: for longer than a measurement.


@contextlib.contextmanager
def mounted(
  folder: str | os.PathLike, mount: str | os.PathLike, latency_ms: float
) -> Iterator[None]:
  """Shows `folder` below `mount`, an empty folder, with every request `latency_ms` late.

  Raises:
    SystemExit: there is no FUSE here.
  """
  command = [sys.executable, '-m', 'benchmarks.slow_storage', str(folder), str(mount)]
  command.append(f'--latency_ms={latency_ms}')
  with tempfile.TemporaryFile('w+') as errors:
    # In a process of its own: neither its time nor its lock are the reader's.
    server = subprocess.Popen(command, stderr=errors)
    try:
      end = time.monotonic() + _START_SECONDS
      while not os.path.ismount(mount):
        if server.poll() is not None or time.monotonic() > end:
          errors.seek(0)
          raise SystemExit(f'no slow storage: {errors.readline().strip() or "no answer"}')
        time.sleep(0.01)
      yield
    finally:
      if os.path.ismount(mount):
        # Lazily: a reader may still hold a shard open.
        subprocess.run(['fusermount3', '-u', '-z', mount], check=True)
      server.kill()
      server.wait()


def main() -> None:
  """Serves until it is unmounted."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('mount', type=pathlib.Path, help='an empty folder')
  parser.add_argument('--latency_ms', type=float, default=5.0)
  args = parser.parse_args()
  try:
    import mfusepy
  except (ImportError, OSError) as error:  # OSError: no libfuse.
    sys.exit(f'{error}; `apt-get install fuse3`, `pip install mfusepy`')

  seconds = args.latency_ms / 1e3
  folder = os.path.abspath(args.folder)

  class Late(mfusepy.Operations):
    """Passes what reading needs through."""

    use_ns = True

    def init_with_config(self, connection, settings) -> None:
      # Of them, what the kernel reads ahead.
      connection.max_background = connection.congestion_threshold = _MAX_REQUESTS

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
      time.sleep(seconds)
      found = os.lstat(folder + path)
      return {name: getattr(found, name) for name in ('st_mode', 'st_nlink', 'st_size')}

    def readdir(self, path: str, fh: int) -> list[str]:
      time.sleep(seconds)
      return ['.', '..', *os.listdir(folder + path)]

    def open(self, path: str, flags: int) -> int:
      time.sleep(seconds)
      return os.open(folder + path, flags)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
      time.sleep(seconds)
      return os.pread(fh, size, offset)

    def release(self, path: str, fh: int) -> int:
      os.close(fh)
      return 0

  mfusepy.FUSE(
    Late(),
    str(args.mount),
    foreground=True,
    ro=True,
    max_threads=_MAX_REQUESTS,
    entry_timeout=_KEPT_SECONDS,
    attr_timeout=_KEPT_SECONDS,
  )


if __name__ == '__main__':
  main()
