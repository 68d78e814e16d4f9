"""Tables of a model's parameters, trainable and frozen apart."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BLOCK = re.compile(r'(^|.*/)block_(\d+)(/.*|$)')


@dataclasses.dataclass(frozen=True)
class _Row:
  """A line of the table: one leaf, or the same leaf of several blocks."""

  name: str
  shape: tuple[int, ...]
  dtype: str
  leaves: int
  parameters: int
  bytes: int


def parameter_overview(
  trainable: Mapping[str, Any], frozen: Mapping[str, Any], *, collapse_blocks: bool = True
) -> str:
  """Two tables and exact totals.

  Args:
    trainable: nested dict of arrays, or of `jax.ShapeDtypeStruct`.
    frozen: the same, for leaves that are never updated. It holds what is stored, so a decomposed
      kernel counts with all of its factors.
    collapse_blocks: leaves that differ in nothing but the block share a line:
      `block_00..block_23/attn/q/kernel`.

  Returns:
    Text for a terminal or a log, without a line break at its end.
  """
  groups = {'Trainable': _leaves(trainable), 'Frozen': _leaves(frozen)}
  counts = {title: sum(row.parameters for row in rows) for title, rows in groups.items()}
  sizes = {title: sum(row.bytes for row in rows) for title, rows in groups.items()}
  parts = []
  for title, rows in groups.items():
    parts += [
      f'{title} parameters',
      _table(_collapse(rows) if collapse_blocks else rows),
      f'{title}: {counts[title]:,} parameters, {_size(sizes[title])}',
      '',
    ]
  total = sum(counts.values())
  share = 100 * counts['Trainable'] / max(total, 1)
  parts.append(
    f'Total: {total:,} parameters, {_size(sum(sizes.values()))}; {share:.3g} % trainable'
  )
  return '\n'.join(parts)


def count_parameters(tree: Mapping[str, Any]) -> int:
  """Exact number of elements in a nested dict of arrays."""
  return sum(row.parameters for row in _leaves(tree))


def _leaves(tree: Mapping[str, Any]) -> list[_Row]:
  from clu import parameter_overview as clu_overview  # Imports jax and flax.

  rows = []
  for name, leaf in sorted(clu_overview.flatten_dict(tree).items()):
    parameters = math.prod(leaf.shape)
    rows.append(
      _Row(
        name=name,
        shape=tuple(leaf.shape),
        dtype=str(leaf.dtype),
        leaves=1,
        parameters=parameters,
        bytes=parameters * leaf.dtype.itemsize,
      )
    )
  return rows


def _collapse(rows: Sequence[_Row]) -> list[_Row]:
  """Joins rows that are equal but for the block's number, at the place of the first of them."""
  groups: dict[tuple[Any, ...], list[_Row]] = {}
  blocks: dict[tuple[Any, ...], list[str]] = {}
  for row in rows:
    match = _BLOCK.fullmatch(row.name)
    if match is None:
      groups[(row.name,)] = [row]
      continue
    key = (match[1], match[3], row.shape, row.dtype)
    groups.setdefault(key, []).append(row)
    blocks.setdefault(key, []).append(match[2])
  joined = []
  for key, members in groups.items():
    name = f'{key[0]}{_block_names(blocks[key])}{key[1]}' if key in blocks else key[0]
    joined.append(
      dataclasses.replace(
        members[0],
        name=name,
        leaves=len(members),
        parameters=sum(row.parameters for row in members),
        bytes=sum(row.bytes for row in members),
      )
    )
  return joined


def _block_names(numbers: Sequence[str]) -> str:
  """`block_00..block_23` for one run of numbers, `block_{00..03,07}` for several."""
  runs: list[list[str]] = []
  for number in numbers:
    if runs and int(number) == int(runs[-1][-1]) + 1:
      runs[-1].append(number)
    else:
      runs.append([number])
  if len(runs) == 1:
    first, last = runs[0][0], runs[0][-1]
    return f'block_{first}' if first == last else f'block_{first}..block_{last}'
  parts = [run[0] if len(run) == 1 else f'{run[0]}..{run[-1]}' for run in runs]
  return f'block_{{{",".join(parts)}}}'


def _table(rows: Sequence[_Row]) -> str:
  from clu import parameter_overview as clu_overview

  names = [field.name for field in dataclasses.fields(_Row)]
  return clu_overview.make_table(list(rows), column_names=names)


def _size(num_bytes: int) -> str:
  """Exact bytes, and the same in a unit that can be read at a glance."""
  for unit, factor in (('GiB', 2**30), ('MiB', 2**20), ('KiB', 2**10)):
    if num_bytes >= factor:
      return f'{num_bytes:,} bytes ({num_bytes / factor:.2f} {unit})'
  return f'{num_bytes:,} bytes'
