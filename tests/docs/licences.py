"""The table of licences in the docs, made from the metadata of every locked package.

`python -m tests.docs.licences --update` writes it anew, where both locks are installed;
`test_licences.py` compares, and refuses licences that are not permissive.
"""

import importlib.metadata
import re
import sys

from tests.docs import lock

PAGE = lock.ROOT / 'docs' / 'licences.md'
BEGIN = '<!-- licences:begin (python -m tests.docs.licences --update) -->'
END = '<!-- licences:end -->'

# What packages write where SPDX has a name for it.
_NAMES = {
  'apache 2.0': 'Apache-2.0',
  'apache software license': 'Apache-2.0',
  'apache license': 'Apache-2.0',
  'apache license 2.0': 'Apache-2.0',
  'apache license, version 2.0': 'Apache-2.0',
  'apache 2.0 license': 'Apache-2.0',
  'apache': 'Apache-2.0',
  'mit license': 'MIT',
  'the mit license (mit)': 'MIT',
  'bsd license': 'BSD',
  'bsd': 'BSD',
  'new bsd': 'BSD-3-Clause',
  'bsd 3-clause': 'BSD-3-Clause',
  'bsd 3-clause license': 'BSD-3-Clause',
  '3-clause bsd license': 'BSD-3-Clause',
  'isc license (iscl)': 'ISC',
  'isc license': 'ISC',
  'mozilla public license 2.0 (mpl 2.0)': 'MPL-2.0',
  'python software foundation license': 'PSF-2.0',
  'the unlicense (unlicense)': 'Unlicense',
}

PERMISSIVE = frozenset((
  *('Apache-2.0', 'MIT', 'MIT-0', 'MIT-CMU', 'BSD', 'BSD-2-Clause', 'BSD-3-Clause', '0BSD', 'ISC'),
  *('PSF-2.0', 'Python-2.0', 'CNRI-Python', 'Zlib', 'CC0-1.0', 'Unlicense', 'AFL-2.1', 'BSL-1.0'),
  *('HPND', 'Apache-2.0-WITH-LLVM-exception'),
))  # fmt: skip
# Copyleft by file: what these packages are changed into has to be passed on under the MPL, what
# uses them has not. They are used as they are, and nothing of them is copied.
WEAK = {'certifi': 'MPL-2.0', 'tqdm': 'MPL-2.0', 'hypothesis': 'MPL-2.0', 'pathspec': 'MPL-2.0'}


def packages() -> dict[str, tuple[str, bool]]:
  """Name -> version, and whether it is needed to run the program, of every locked package."""
  runs = lock.pins((lock.ROOT / 'requirements.lock').read_text())
  every = lock.pins((lock.ROOT / 'requirements-test.lock').read_text())
  return {name: (version, name in runs) for name, version in sorted((every | runs).items())}


def licence(name: str) -> str:
  """An SPDX expression of an installed package; '' where its metadata do not say, None elsewhere.

  Raises:
    importlib.metadata.PackageNotFoundError: it is not installed, for it is for another platform.
  """
  metadata = importlib.metadata.metadata(name)
  if expression := metadata.get('License-Expression'):
    return re.sub(r' WITH ', '-WITH-', expression)
  classifiers = [
    _spdx(text.rpartition(' :: ')[2])
    for text in metadata.get_all('Classifier') or []
    if text.startswith('License :: ') and text != 'License :: OSI Approved'
  ]
  text = (metadata.get('License') or '').strip()
  own = _spdx(text.splitlines()[0]) if text and len(text.splitlines()[0]) < 60 else ''
  if own in PERMISSIVE or re.fullmatch(r'[\w.-]+( (OR|AND) [\w.-]+)+', own):
    return own
  return ' OR '.join(dict.fromkeys(classifiers)) or own or _of_file(name)


def _spdx(text: str) -> str:
  return _NAMES.get(text.strip().lower(), text.strip())


def _of_file(name: str) -> str:
  """By the first words of the licence that is installed with it."""
  for file in importlib.metadata.files(name) or []:
    if re.search(r'licen[cs]e', file.name, re.IGNORECASE) and file.locate().is_file():
      start = ' '.join(file.locate().read_text(errors='replace')[:400].split())
      if found := re.search(r'Apache License|MIT License', start):
        return _spdx(found[0])
  return ''


def problems() -> list[str]:
  """Packages whose licence is neither permissive nor in the list of `WEAK`."""
  found = []
  for name in packages():
    try:
      terms = licence(name)
    except importlib.metadata.PackageNotFoundError:
      continue
    allowed = PERMISSIVE | ({WEAK[name]} if name in WEAK else set())
    parts = [re.split(r' AND ', part.strip('() ')) for part in re.split(r' OR ', terms)]
    if not any(all(one.strip('() ') in allowed for one in part) for part in parts):
      found.append(f'{name}: {terms or "no licence"}')
  return found


def table() -> str:
  """The tables as Markdown: what the program runs with, and what its tests need beside that."""
  rows: dict[bool, list[str]] = {True: [], False: []}
  elsewhere = []
  for name, (version, is_needed) in packages().items():
    try:
      rows[is_needed].append(f'| {name} | {version} | {licence(name)} |')
    except importlib.metadata.PackageNotFoundError:
      elsewhere.append(name)
  head = '| Package | Version | Licence |\n| --- | --- | --- |\n'
  return (
    f'## The program ({len(rows[True])} packages)\n\n{head}' + '\n'.join(rows[True])
    + f'\n\n## Its tests ({len(rows[False])} more)\n\n{head}' + '\n'.join(rows[False])
    + f'\n\nFor other platforms alone, hence not looked at: {", ".join(elsewhere)}.'
  )  # fmt: skip


def updated() -> str:
  """The page with its tables made anew."""
  head, rest = PAGE.read_text().split(BEGIN)
  return f'{head}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}'


if __name__ == '__main__':
  if sys.argv[1:] == ['--update']:
    PAGE.write_text(updated())
  else:
    print(table())
