"""Evaluations whose results were changed, and the content of their report."""

import json

from masm_jax.report import content, runs


def edited(folder, source, change):
  """A copy of an evaluation whose results were changed."""
  results = json.loads((source / 'results.json').read_text())
  change(results)
  folder.mkdir()
  (folder / 'results.json').write_text(json.dumps(results))
  (folder / 'scores').symlink_to(source / 'scores')
  return folder


def built(*folders):
  return content.build(runs.read_runs([str(f) for f in folders]), title='t', tsne_points=0)


def verdict_of(folder):
  (run,) = runs.read_runs([str(folder)])
  return content._verdict(run, [name for name in run.sets if name != runs.VALIDATION])
