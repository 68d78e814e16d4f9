"""The results of a run: every set scored with the last checkpoint and with the chosen one."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd

from masm_jax.data.manifest import Manifest
from masm_jax.training.writer import RunReport


def score_checkpoints(
  steps_by_name: Mapping[str, int],
  manifests: Mapping[str, Manifest],
  *,
  score: Callable[[Any, Manifest], pd.DataFrame],
  params_at: Callable[[int], Any],
  report: RunReport,
) -> Iterator[tuple[str, str, dict[str, Any]]]:
  """Scores every set with each checkpoint, and writes the score tables.

  Args:
    steps_by_name: `last` and `best`, and their steps; one step is scored once.
    manifests: the sets.
    score: scores one set with plain parameters.
    params_at: the plain parameters at a step.
    report: of the run.

  Yields:
    (name of the checkpoint, name of the set, its metrics at both levels), one set after the other.
  """
  scored: dict[int, tuple[str, dict[str, dict[str, Any]]]] = {}
  for name, step in steps_by_name.items():
    if step in scored:
      source, known = scored[step]
      for set_name, metrics in known.items():
        report.copy_scores(source, name, set_name)
        yield name, set_name, metrics
      continue
    params = params_at(step)
    scored[step] = name, {}
    for set_name, manifest in manifests.items():
      metrics = report.write_scores(name, set_name, score(params, manifest), step=step)
      scored[step][1][set_name] = metrics
      yield name, set_name, metrics
