"""Samplers: the record at each position of training, a pure function of (seed, position).

A position counts examples from the start of training, over all hosts. Because any position can be
asked for at any time, an iterator's whole state is one number.
"""

import collections
import dataclasses
import logging
from collections.abc import Callable

import numpy as np
import pandas as pd

from masm_jax.data.columns import FAKE, REAL
from masm_jax.errors import UserError

_STREAM = 0x5A3  # Keeps these random numbers apart from others of the same seed.
_PARTNER_STREAM = 0x5A4

KINDS = ('uniform', 'balanced', 'per_method', 'paired')

Sampler = Callable[[int], int]  # Position -> record, both counted from 0; travels to workers.

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Rounds:
  """Takes records from its groups in turn, each group in its own shuffled rounds.

  Position i belongs to group turns[i mod T]. A group of n records is shuffled anew for every n
  visits to it, so that each of its records comes once before any comes again.

  Attributes:
    groups: G arrays of record indices, int64 [n_g] each, none of them empty.
    seed: not negative.
    turns: T indices of groups; every group has one turn at least.
  """

  groups: tuple[np.ndarray, ...]
  seed: int
  turns: tuple[int, ...] = (0,)
  _rounds: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)

  def __len__(self) -> int:
    """Records that are sampled from."""
    return sum(len(group) for group in self.groups)

  def __call__(self, position: int) -> int:
    """The record index at a position, counted from 0."""
    cycle, turn = divmod(position, len(self.turns))
    group = self.turns[turn]
    visit = cycle * self.turns.count(group) + self.turns[:turn].count(group)
    round_, offset = divmod(visit, len(self.groups[group]))
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
    return self.__dict__ | {'_rounds': {}}


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Each real record, and after it a fake that was made from it.

  Attributes:
    reals: the order of the real records, one for each pair.
    partners: for each real record, the fakes that go with it.
    seed: of the choice among them.
  """

  reals: Rounds
  partners: dict[int, np.ndarray]
  seed: int

  def __len__(self) -> int:
    """Records that are sampled from."""
    fakes = {int(fake) for fakes in self.partners.values() for fake in fakes}
    return len(self.reals) + len(fakes)

  def __call__(self, position: int) -> int:
    """The record index at a position, counted from 0; real ones at even positions."""
    pair, is_fake = divmod(position, 2)
    real = self.reals(pair)
    if not is_fake:
      return real
    rng = np.random.default_rng((self.seed, _PARTNER_STREAM, pair))
    return int(rng.choice(self.partners[real]))


@dataclasses.dataclass(frozen=True)
class Doubled:
  """Each real record twice in succession: as it is, and to make a fake of.

  Attributes:
    reals: the order of the real records, one for each pair.
  """

  reals: Rounds

  def __len__(self) -> int:
    """Records that are sampled from."""
    return len(self.reals)

  def __call__(self, position: int) -> int:
    """The record index at a position, counted from 0."""
    return self.reals(position // 2)


def make_sampler(
  kind: str, table: pd.DataFrame, seed: int, *, self_blending: bool = False
) -> Sampler:
  """Builds a sampler over the N records of a manifest's table.

  Args:
    kind: 'uniform' shuffles all records once per epoch (position // N). 'balanced' alternates real
      and fake, real first; each class has rounds of its own, so the smaller one comes round more
      often. 'per_method' alternates real and fake too, and among the fakes the methods of each data
      set take turns. 'paired' puts behind each real record a fake that was made from its video
      (`source_video_id`), each such fake video as likely as the others, in the frame nearest to
      its own; reals that nothing was made from are left out.
    table: a manifest's table; 'uniform' and 'balanced' need its column `label` alone.
    seed: not negative.
    self_blending: the fakes are made from the real records while they are loaded (`sbi`): pairs of
      the same real record, whatever fakes there are.

  Raises:
    UserError: if there are no records, a class is missing, no fake's source is there, or there is
      no such kind.
  """
  if kind not in KINDS:
    raise UserError(f'no sampler {kind!r}; there are {", ".join(KINDS)}')
  if not len(table):
    raise UserError('the training set is empty; check the split and dataset names')
  if seed < 0:
    raise UserError(f'seed {seed} is negative')
  if self_blending and kind != 'paired':
    raise UserError(
      f'self-blended fakes stand beside the reals that they are made from: the sampler is paired, '
      f'not {kind}'
    )
  labels = table['label'].to_numpy()
  if kind == 'uniform':
    return Rounds((np.arange(len(labels)),), seed)
  reals, fakes = (np.flatnonzero(labels == label) for label in (REAL, FAKE))
  for group, name in ((reals, 'real'), (fakes, 'fake')):
    if not len(group) and not (self_blending and name == 'fake'):
      raise UserError(f'no {name} image among the {len(labels)} of the training set')
  if self_blending:
    return Doubled(Rounds((reals,), seed))
  if kind == 'balanced':
    return Rounds((reals, fakes), seed, turns=(0, 1))
  if kind == 'per_method':
    by_method = table.iloc[fakes].groupby(['dataset', 'method'], sort=True).indices
    groups = (reals, *(fakes[rows] for rows in by_method.values()))
    turns = [turn for group in range(1, len(groups)) for turn in (0, group)]
    return Rounds(groups, seed, tuple(turns))
  return _pairs(table, reals, fakes, seed)


def _pairs(table: pd.DataFrame, reals: np.ndarray, fakes: np.ndarray, seed: int) -> Pairs:
  frames = table['frame'].to_numpy()
  videos = table.iloc[fakes].groupby(['source_video_id', 'video_id'], sort=True).indices
  made_from = collections.defaultdict(list)  # Source video -> the records of each fake video.
  for (source, _), rows in videos.items():
    made_from[source].append(fakes[rows])
  partners = {}
  for real, video in zip(reals.tolist(), table['video_id'].iloc[reals], strict=True):
    if nearest := [
      int(records[np.argmin(np.abs(frames[records] - frames[real]))])
      for records in made_from.get(video, ())
    ]:
      partners[real] = np.array(nearest)
  if not partners:
    raise UserError(
      'sampler paired: no fake names the video of a real row as its source_video_id; choose '
      'another sampler, or an import that knows what fakes were made from'
    )
  if len(partners) < len(reals):
    _logger.warning(
      'paired: %d of %d real images have no fake made from them, and are left out',
      len(reals) - len(partners),
      len(reals),
    )
  order = Rounds((np.array(list(partners)),), seed)
  return Pairs(order, partners, seed)
