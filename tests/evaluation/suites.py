"""Suites of whole evaluations, and what is read off their folders."""

import os
import pathlib

import markupsafe
import ml_collections
import numpy as np

from configs import cross_eval
from masm_jax import telemetry
from masm_jax.metrics import scores
from masm_jax.report import __main__ as report

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def make_suite(**fields):
  suite = cross_eval.get_config('protocol=run')
  suite.update_from_flattened_dict({'batch_size': 16, 'bootstrap.draws': 30, **fields})
  return suite


def own_suite(portraits, **sets):
  """A suite of sets of its own, each a choice of rows of the portraits."""
  suite = make_suite(features_per_set=0, mistakes_per_set=0)
  base = suite.val.to_dict() | {'manifest': str(portraits)}
  with suite.unlocked():
    suite.sets = ml_collections.ConfigDict(
      {name: base | {'split': 'test'} | fields for name, fields in sets.items()}
    )
  return suite


def metric_of(document, name, level, metric):
  found = document['sets'][name][level]['metrics'][metric]
  return tuple(float(found[key]) for key in ('value', 'low', 'high'))


def report_shows_all(out, page, *, curves):
  """The report of a real evaluation: its metrics, its curves, its warnings, nothing else asked."""
  assert report.main([str(out), f'--out={page}', '--tsne-points=12']) == 0
  html, found = page.read_text(), telemetry.read_json(out / 'results.json')
  for sets in found['sets'].values():
    for level in scores.LEVELS:
      for part in (sets[level], sets[level].get('calibrated', {'metrics': {}})):
        for metric in part['metrics'].values():
          value, low, high = (float(metric[key]) for key in ('value', 'low', 'high'))
          if np.isfinite(low):
            assert f'{value:.3f}<small>{low:.3f}–{high:.3f}</small>' in html
  for curve in curves:
    aurocs = [found['sets']['known']['video']['metrics']['auroc']['value']]
    aurocs += [
      point['video']['metrics']['auroc']['value'] for point in found['robustness']['known'][curve]
    ]
    listed = ', '.join(f'{float(value):.3f}' for value in aurocs)
    assert f'AUROC of known under {curve}: videos, video: {listed}' in html
  shown = html[html.index('<body>') :]
  places = [shown.index(markupsafe.escape(w['text'])) for w in found['warnings']]
  assert places and max(places) < shown.index('<h1>')
  for name in ('config_sha256', 'base_weights', 'trained_weights', 'val_manifest'):
    assert found['run'][name] in html


def environment(**variables):
  return (
    os.environ
    | {'XLA_FLAGS': '--xla_backend_optimization_level=0', 'JAX_PLATFORMS': 'cpu'}
    | variables
  )
