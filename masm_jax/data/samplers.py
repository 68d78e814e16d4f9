"""Which record stands at which position of training: pure functions of (seed, position).

A position counts examples from the start of training, over all hosts. Because any position can be
asked for at any time, an iterator's whole state is one number.
"""

import dataclasses
from typing import Literal

import numpy as np

from masm_jax.data.columns import FAKE, REAL
from masm_jax.errors import UserError

_STREAM = 0x5A3  # Keeps these random numbers apart from others of the same seed.


@dataclasses.dataclass(frozen=True)
class Sampler:
  """Takes records from its groups in turn, each group in its own shuffled rounds.

  Position i belongs to group i mod G. A group of n records is shuffled anew for every n visits to
  it, so that each of its records comes once before any comes again.

  Attributes:
    groups: G arrays of record indices, int64 [n_g] each, none of them empty.
    seed: not negative.
  """

  groups: tuple[np.ndarray, ...]
  seed: int
  _rounds: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)

  def __len__(self) -> int:
    """Records that are sampled from."""
    return sum(len(group) for group in self.groups)

  def __call__(self, position: int) -> int:
    """The record index at a position, counted from 0."""
    turn, group = divmod(position, len(self.groups))
    round_, offset = divmod(turn, len(self.groups[group]))
    return int(self._shuffled(group, round_)[offset])

  def _shuffled(self, group: int, round_: int) -> np.ndarray:
    shuffled = self._rounds.get((group, round_))
    if shuffled is None:
      rng = np.random.default_rng((self.seed, _STREAM, group, round_))
      shuffled = rng.permutation(self.groups[group])
      # Prefetching threads work at both sides of a round's end; older rounds are done with. Two
      # threads that do this at once write the same values.
      for key in [key for key in list(self._rounds) if key[0] == group and key[1] < round_ - 1]:
        self._rounds.pop(key, None)
      self._rounds[group, round_] = shuffled
    return shuffled

  def __getstate__(self) -> dict:
    return {'groups': self.groups, 'seed': self.seed, '_rounds': {}}


def make_sampler(kind: Literal['uniform', 'balanced'], labels: np.ndarray, seed: int) -> Sampler:
  """Builds a sampler over N records.

  Args:
    kind: 'uniform' shuffles all records once per epoch (position // N). 'balanced' alternates real
      and fake, real first; each class has rounds of its own, so the smaller one comes round more
      often.
    labels: int32 [N]: 0 real, 1 fake.
    seed: not negative.

  Raises:
    UserError: if there are no records, or 'balanced' lacks a class, or there is no such kind.
  """
  labels = np.asarray(labels)
  if not len(labels):
    raise UserError('the training set is empty; check the split and dataset names')
  if seed < 0:
    raise UserError(f'seed {seed} is negative')
  if kind == 'uniform':
    return Sampler((np.arange(len(labels)),), seed)
  if kind == 'balanced':
    groups = tuple(np.flatnonzero(labels == label) for label in (REAL, FAKE))
    for group, name in zip(groups, ('real', 'fake'), strict=True):
      if not len(group):
        raise UserError(f'no {name} image among the {len(labels)} of the training set')
    return Sampler(groups, seed)
  raise UserError(f'no sampler {kind!r}; there are uniform, balanced')
