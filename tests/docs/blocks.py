"""The fenced blocks of README and docs, and what their titles say."""

import dataclasses
import pathlib
import re
import shlex

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# README first: it makes the runs that the other pages name.
PAGES = [REPOSITORY / 'README.md', *sorted((REPOSITORY / 'docs').glob('*.md'))]
LANGUAGES = {'sh', 'python', 'text'}
# What a block needs that a test cannot give; a block with none of these titles is run.
NEEDS = {'needs data', 'needs the network', 'needs a cluster', 'needs hours'}

_FENCE = re.compile(r'```(?P<language>\w*)(?: title="(?P<title>[^"]*)")?(?P<rest>.*)')


@dataclasses.dataclass(frozen=True)
class Block:
  """One fenced block.

  Attributes:
    where: page and line, `docs/runs.md:12`.
    language: the first word of its info string.
    title: what its title says; '' for none.
    rest: what else the info string holds.
    text: its lines.
  """

  where: str
  language: str
  title: str
  rest: str
  text: str


def read_blocks(page: pathlib.Path) -> list[Block]:
  """The fenced blocks of a page, in order."""
  blocks, opened, lines = [], None, []
  for number, line in enumerate(page.read_text().splitlines(), 1):
    match = _FENCE.fullmatch(line.strip())
    if opened is None and match:
      opened, lines = (number, match), []
    elif opened is not None and line.strip() == '```':
      begin, found = opened
      where = f'{page.relative_to(REPOSITORY)}:{begin}'
      title = found['title'] or ''
      text = '\n'.join(lines) + '\n'
      blocks.append(Block(where, found['language'], title, found['rest'], text))
      opened = None
    elif opened is not None:
      lines.append(line)
  assert opened is None, f'{page}: a block that does not end'
  return blocks


def commands(block: Block) -> list[list[str]]:
  """The commands of a shell block as words; its comments are left out."""
  lines = block.text.replace('\\\n', ' ').splitlines()
  return [words for line in lines if (words := shlex.split(line, comments=True))]
