"""Times the metrics of one big set: every metric, both levels, with intervals.

python -m benchmarks.summarize_scores --frames=100000 --draws=2000 --json=summarize_scores.json

The scores are random; 32 frames to a video, four fake methods, with and without ties, with and
without metrics by group; `--plain` takes the first of these cases alone. Prints a table.
"""

import argparse
import json
import os
import pathlib
import resource
import time

import numpy as np
import pandas as pd

from masm_jax.metrics import summary


def score_table(num_frames: int, *, decimals: int | None) -> pd.DataFrame:
  """Random scores, better than chance; rounded scores tie."""
  rng = np.random.default_rng(0)
  video = np.arange(num_frames) // 32
  method = np.array(['real', 'DF', 'F2F', 'FS', 'NT'])[video % 5]
  label = (method != 'real').astype(int)
  logit = rng.normal(size=num_frames) + rng.normal(size=video.max() + 1)[video] + label
  score = 1 / (1 + np.exp(-logit))
  return pd.DataFrame(
    {
      'video_id': [f'v{i:06d}' for i in video],
      'label': label,
      'score': score if decimals is None else score.round(decimals),
      'logit': logit,
      'method': method,
      'dataset': 'random',
      'identities': [str(i) for i in video // 5],
    }
  )


def main() -> None:
  """Measures, prints and writes."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--frames', type=int, default=100_000)
  parser.add_argument('--draws', type=int, default=2000)
  parser.add_argument('--plain', action='store_true', help='no ties and no groups')
  parser.add_argument('--json', type=pathlib.Path)
  args = parser.parse_args()
  results = []
  for decimals in (None,) if args.plain else (None, 2):
    table = score_table(args.frames, decimals=decimals)
    for groups in ((),) if args.plain else ((), ('method',)):
      settings = summary.Settings(
        thresholds={'frame': 0.6, 'video': 0.6}, draws=args.draws, groups=groups
      )
      start, start_cpu = time.perf_counter(), time.process_time()
      metrics, facts, _ = summary.summarize(table, settings)
      results.append(
        {
          'ties': decimals is not None,
          'groups': len(metrics['groups'].get('method', ())),
          'seconds': time.perf_counter() - start,
          'cpu_seconds': time.process_time() - start_cpu,
          'peak_GB': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
          **facts,
          'auroc': metrics['frame']['metrics']['auroc'],
        }
      )
  document = {'frames': args.frames, 'draws': args.draws, 'cores': len(os.sched_getaffinity(0))}
  document['results'] = results
  print(f'{args.frames} frames, {args.draws} draws of every metric, {document["cores"]} cores')
  print(
    f'{"ties":>5} {"groups":>6} {"unit":>9} {"clusters":>8} {"seconds":>8}'
    f' {"CPU s":>7} {"peak GB":>7}'
  )
  for row in results:
    print(
      f'{row["ties"]!s:>5} {row["groups"]:>6} {row["unit"]:>9} {row["clusters"]:>8}'
      f' {row["seconds"]:>8.1f} {row["cpu_seconds"]:>7.1f} {row["peak_GB"]:>7.2f}'
    )
  if args.json:
    args.json.write_text(json.dumps(document, indent=2) + '\n')


if __name__ == '__main__':
  main()
