"""Locks every package that is installed, by version and by the hashes of its files.

`python -m tests.docs.lock --update` makes both files anew from the registry; it needs uv, which
`pip install uv` brings into any environment. `requirements.lock` is the closure of
`requirements.txt`, on CPUs, `requirements-test.lock` of both files, without `BY_VERSION`. They hold
for every platform: what another one needs has a marker.
"""

import argparse
import hashlib
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCKS = {
  'requirements.lock': ('requirements.txt',),
  'requirements-test.lock': ('requirements.txt', 'requirements-test.txt'),
}
# Installed by their versions alone, after the lock. The registry's torch brings 3 GB for GPUs;
# where pip knows a build for CPUs, it takes that one.
BY_VERSION = ('torch',)
_PIN = re.compile(r'(?P<name>[A-Za-z0-9._-]+)(\[[\w,-]+\])?==(?P<version>[^\s;\\]+)')


def normal(name: str) -> str:
  """A package's name as all of its spellings have it (PEP 503)."""
  return re.sub(r'[-_.]+', '-', name).lower()


def pins(text: str) -> dict[str, str]:
  """Versions by normal names, of a file of requirements or a lock."""
  matches = [_PIN.match(line) for line in text.splitlines()]
  return {normal(match['name']): match['version'] for match in matches if match}


def digest(name: str) -> str:
  """SHA-256 of a file of requirements, by which a lock knows it."""
  return hashlib.sha256((ROOT / name).read_bytes()).hexdigest()


def _locked_lines(text: str) -> str:
  """Requirements without those of `BY_VERSION`."""
  lines = text.splitlines(keepends=True)
  return ''.join(line for line in lines if not pins(line).keys() & set(BY_VERSION))


def update() -> None:
  """Makes the locks; what is locked already keeps its version where it can."""
  uv = shutil.which('uv', path=pathlib.Path(sys.executable).parent) or shutil.which('uv')
  if uv is None:
    sys.exit('needs uv: pip install uv')
  for name, sources in LOCKS.items():
    header = (
      '# Made by `python -m tests.docs.lock --update`; do not edit. SHA-256 of its sources:\n'
    )
    header += ''.join(f'#   {digest(source)}  {source}\n' for source in sources)
    with tempfile.TemporaryDirectory() as folder:
      target = pathlib.Path(folder, name)
      if (ROOT / name).exists():
        shutil.copy(ROOT / name, target)
      copies = []
      for source in sources:
        copies.append(pathlib.Path(folder, source))
        copies[-1].write_text(_locked_lines((ROOT / source).read_text()))
      subprocess.run(
        [uv, 'pip', 'compile', '--universal', '--python-version=3.11', '--generate-hashes',
         '--no-header', '--no-annotate', '--quiet', f'--output-file={target}', *copies],
        cwd=ROOT, check=True,
      )  # fmt: skip
      (ROOT / name).write_text(header + target.read_text())


if __name__ == '__main__':
  parser = argparse.ArgumentParser(prog='python -m tests.docs.lock', description=__doc__)
  parser.add_argument('--update', action='store_true', required=True)
  parser.parse_args()
  update()
