"""The table of outcomes by data set, split and method."""

import dataclasses
from collections.abc import Sequence

import pandas as pd

from masm_jax.data.manifest import Manifest
from masm_jax.preprocess.raw_video import RawVideo, readable
from masm_jax.preprocess.records import ALL_FAKE, OUTCOMES, Record
from masm_jax.terminal import terminal_line

OUTCOME_LINES = 'outcomes.jsonl'
_SHOWN = 5  # Cases of each kind.
_COUNTS = {  # Of a video's record -> title in the summary.
  'num_crops': 'crops',
  'num_kept_boxes': 'kept boxes',
  'num_left_out': 'left out',
  'num_people_not_taken': 'people not taken',
}


@dataclasses.dataclass(frozen=True)
class Report:
  """What has become of the videos.

  Attributes:
    outcomes: of `outcome_table`.
    manifest: the crops; None where there is none.
    num_done_before: videos that an earlier run had done already.
    skipped: one line on files that were passed by; '' without any.
  """

  outcomes: pd.DataFrame
  manifest: Manifest | None
  num_done_before: int
  skipped: str = ''


def outcome_table(videos: Sequence[RawVideo], records: Sequence[Record]) -> pd.DataFrame:
  """One row per video: what is known of it (`RawVideo.columns`), `outcome`, `num_crops`,
  `num_kept_boxes` (crops in which no face was found), `num_left_out` (crops with a flag, those
  among them), `num_people_not_taken`, `reasons`, and its path as `input`."""
  return pd.DataFrame(
    {
      **video.columns,
      'outcome': record['outcome'],
      **{column: record[column] for column in _COUNTS},
      'reasons': record['reasons'],
      'input': readable(video.path),
    }
    for video, record in zip(videos, records, strict=True)
  )


def summary(report: Report) -> str:
  """The outcome table for people: videos by outcome, crops, those left out; and what went wrong."""
  table = report.outcomes
  names = ['dataset', 'split', 'method']
  # Flags are rare: their outcomes have a column where there are some.
  there = [name for name in OUTCOMES if name in _ALWAYS or (table['outcome'] == name).any()]
  counts = pd.crosstab([table[name] for name in names], table['outcome'])
  counts = counts.reindex(columns=there, fill_value=0)
  sums = table.groupby(names)[list(_COUNTS)].sum().rename(columns=_COUNTS)
  shown = counts.join(sums)
  shown.loc[('all', '', ''), :] = shown.sum()
  lines = [shown.astype(int).reset_index().to_string(index=False)]
  for outcome in OUTCOMES[1:]:
    lines += _cases(outcome, table[table['outcome'] == outcome])
  crowded = (table['outcome'] == 'ok') & (table['num_people_not_taken'] > 0)
  left = (table['outcome'] == 'ok') & (table['num_left_out'] > 0)
  assumed = table['reasons'].map(lambda reasons: any(ALL_FAKE in text for text in reasons))
  lines += _cases('ok', table[crowded | left | (assumed & (table['outcome'] == 'ok'))])
  if assumed.any():
    lines.append(
      f'warning: in {int(assumed.sum())} fake videos all people {ALL_FAKE}: whoever is real in them'
      ' has a wrong label; give --masks, or --people one'
    )
  if report.skipped:
    lines.append(terminal_line(report.skipped))
  return '\n'.join(lines)


_ALWAYS = ('ok', 'too_short', 'no_face', 'unreadable')


def _cases(outcome: str, cases: pd.DataFrame) -> list[str]:
  lines = [
    terminal_line(f'{outcome}: {case["input"]}: {"; ".join(case["reasons"])}')
    for _, case in cases.head(_SHOWN).iterrows()
  ]
  if len(cases) > _SHOWN:
    lines.append(f'{outcome}: ... and {len(cases) - _SHOWN} more, in {OUTCOME_LINES}')
  return lines
