"""Small evaluation folders, drawn at random in the form that `masm_jax.evaluate` writes."""

import io
import json
import pathlib

import numpy as np
import pandas as pd
import pytest
import scipy.special
from PIL import Image

from masm_jax.metrics import binary as metrics
from masm_jax.metrics import risk_coverage, scores, selective
from masm_jax.perturbations import catalogue as robustness
from masm_jax.report import __main__ as report
from tests.report.building import built

HOSTILE = '<script>alert("x")</script> $\\frac{1}{0}$ & \u202e\x07 名前'
BAND = {'frame': (0.3, 0.7), 'video': (0.35, 0.65)}
NOTE = (
  'Synthetic portraits: these metrics show that the program works; they prove nothing '
  'about real deepfakes.'
)


@pytest.fixture(scope='session')
def make_evaluation():
  return write_evaluation


@pytest.fixture(scope='session')
def evaluation(tmp_path_factory):
  """An evaluation with everything in it: leaks, hostile names, robustness, features, masks."""
  return write_evaluation(tmp_path_factory.mktemp('evaluation') / 'masm')


def write_evaluation(
  folder: pathlib.Path,
  *,
  method: str = 'masm',
  seed: int = 0,
  skill: float = 2.0,
  num_videos: int = 36,
  frames_per_video: int = 4,
) -> pathlib.Path:
  """Writes `results.json` and the score files of a made-up run.

  Args:
    folder: made.
    method: what the run was.
    seed: of everything.
    skill: mean log-odds of fakes less the mean of real faces on the easiest set.
    num_videos: of each set.
    frames_per_video: of each.
  """
  rng = np.random.default_rng(seed)
  document: dict = {'sets': {}, 'robustness': {}, 'protocol_sets': {}}
  tables = {}
  for name, methods, share in (
    ('ffpp', ('DF', 'F2F', 'FS', 'NT'), 1.0),
    ('celebdf_v2', ('Celeb-synthesis', HOSTILE), 0.4),
    ('reals_only', (), 0.0),
    ('val', ('DF', 'F2F', 'FS', 'NT'), 1.0),
  ):
    table = _table(rng, name, methods, skill * share, num_videos, frames_per_video)
    tables[name] = table
    scores.write_scores(folder / 'scores' / f'{name}.parquet', table, of={'set': name})
  threshold = {
    'frame': _metrics(tables['val'])['eer_threshold'],
    'video': _metrics(metrics.video_scores(tables['val']))['eer_threshold'],
  }
  for name, table in tables.items():
    document['sets'][name] = _both(table, threshold) | {'groups': _groups(table, threshold)}
    if method == 'masm':
      for level in scores.LEVELS:
        document['sets'][name][level]['calibrated'] = _calibrated()
    document['protocol_sets'][name] = {
      'manifest': f'data/{name} <b>.parquet',
      'split': 'val' if name == 'val' else 'test',
      'manifest_sha256': f'{abs(hash_of(name)):064x}',
      'frames': len(table),
      'videos': table['video_id'].nunique(),
      'undecodable': 0,
      'frames_per_video': {'min': frames_per_video, 'median': 4.0, 'max': frames_per_video},
      'methods': {},
      'unit': 'video',
      'clusters': table['video_id'].nunique(),
    }
  for name in ('ffpp', 'celebdf_v2'):
    document['robustness'][name] = {
      key: [
        {
          'level': level,
          'parameter': value,
          'file': f'robustness/{name}/{key}_{level}.parquet',
          **_both(_worse(tables[name], rng, level), threshold),
        }
        for level, value in enumerate(robustness.CATALOGUE[of].parameters, start=1)
      ]
      for key, of in (
        *((key, key) for key in ('CS', 'GNC', 'gend_blur', 'gend_resize')),
        *(('VC', 'VC'), ('video_GB', 'GB')),
      )
    }
  text = json.dumps(_document(document, method, seed, threshold, rng), indent=1)
  (folder / 'results.json').write_text(text)
  return folder


def hash_of(name: str) -> int:
  return int.from_bytes(name.encode().ljust(24, b'.')[:24], 'big')


def _table(rng, name, methods, skill, num_videos, frames_per_video):
  rows = []
  for video in range(num_videos):
    is_fake = video % 2 == 1 and bool(methods)
    method = methods[video // 2 % len(methods)] if is_fake else 'real'
    centre = rng.normal(skill * (1 if is_fake else -1), 1.0)
    for frame in range(frames_per_video):
      logit = float(centre + rng.normal(0, 0.5))
      rows.append(
        {
          'video_id': f'{name}/{method}/{video:03d}',
          'path': f'{name}/{method}/{video:03d}/{frame:03d}.png',
          'frame': frame,
          'label': int(is_fake),
          'score': float(scipy.special.expit(logit)),
          'logit': logit,
          'method': method,
          'dataset': name,
          'split': 'val' if name == 'val' else 'test',
          'compression': 'c23',
          'source_video_id': '',
          'identities': f'id{video % 9}',
          'feature': rng.normal(0, 1, 12).astype(np.float32) + 2.0 * is_fake,
          'thumbnail': None,
        }
      )
  table = pd.DataFrame(rows)
  wrong = table[(table['label'] == 1) != (table['score'] > 0.5)].index[:9]
  pictures = [_jpeg(rng) if i in wrong else None for i in table.index]
  table['thumbnail'] = pictures
  return table


def _jpeg(rng):
  small = Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8))
  stream = io.BytesIO()
  small.resize((96, 96), Image.Resampling.BICUBIC).save(stream, 'JPEG', quality=80)
  return stream.getvalue()


def _worse(table, rng, level):
  noise = rng.normal(0, 0.6 * level, len(table))
  return table.assign(score=scipy.special.expit(0.8**level * table['logit'] + noise))


def _both(table, threshold):
  videos = metrics.video_scores(table)
  return {
    'frame': _metrics(table, threshold['frame'], BAND['frame']),
    'video': _metrics(videos, threshold['video'], BAND['video']),
  }


def _groups(table, threshold):
  fakes = [method for method in table['method'].unique() if method != 'real']
  if len(fakes) < 2:
    return {}
  of = {m: table[table['method'].isin(['real', m])] for m in fakes}
  return {'method': {method: _both(rows, threshold) for method, rows in of.items()}}


def _metrics(table, threshold=None, band=risk_coverage.NO_BAND):
  labels, values = table['label'].to_numpy(), table['score'].to_numpy()
  found = metrics.binary_metrics(labels, values, threshold=threshold, band=band)
  counts = {key: found.pop(key) for key in ('num', 'num_real', 'num_fake')}
  own = found.pop('eer_threshold')
  found.pop('threshold', None)
  if threshold is not None:
    called = values >= threshold
    for kind, label in (('fpr', 0), ('tpr', 1)):
      of_class = called[labels == label]
      found[f'{kind}@threshold'] = float(of_class.mean()) if len(of_class) else float('nan')
  found['ece'] = 0.06
  entries = {
    key: {'value': _json(value), 'low': _json(value - 0.04), 'high': _json(value + 0.03)}
    for key, value in found.items()
  }
  order = np.argsort(values)
  bins = [
    {
      'mean_score': float(values[part].mean()),
      'fake_share': float(labels[part].mean()),
      'weight': len(part),
    }
    for part in np.array_split(order, min(15, len(order)))
  ]
  curve = [] if threshold is None else selective.risk_curve(labels, values, threshold)
  return {
    **counts,
    'risk_coverage': curve,
    'metrics': entries,
    'reliability': bins,
    'eer_threshold': _json(own) if np.isnan(own) else own,
  }


def _calibrated():
  """What a temperature makes of three metrics."""
  metrics_ = {
    name: {'value': value, 'low': value - 0.01, 'high': value + 0.01}
    for name, value in (('log_loss', 0.413), ('brier', 0.127), ('ece', 0.031))
  }
  bins = [{'mean_score': x, 'fake_share': x, 'weight': 10.0} for x in (0.1, 0.4, 0.8)]
  return {'metrics': metrics_, 'reliability': bins}


def _json(value):
  return float(value) if np.isfinite(value) else 'nan'


def _document(parts, method, seed, threshold, rng):
  config = {'method': method, 'note': HOSTILE, 'optim': {'learning_rate': 1e-4}}
  mask = [(rng.random((6, 4)) < 0.5).astype(int).tolist() for _ in range(12)]
  rows = [f'block_{i:02d}' for i in range(6)]
  return {
    'format': 'masm_jax evaluation 1',
    'warnings': [
      {'set': 'val', 'kind': 'few_clusters', 'text': 'val has 36 videos: intervals are wide'},
      {
        'set': 'celebdf_v2',
        'kind': 'leak_identities',
        'text': 'celebdf_v2 shares 3 identities with the training manifest (id1, id2, id3)',
      },
    ],
    'note': NOTE,
    'run': {
      'method': method,
      'backbone': 'clip_l14',
      'seed': seed,
      'checkpoint': 'best',
      'step': 408,
      'best_step': 408,
      'last_step': 472,
      'selected_by': 'video_auroc',
      'workdir': f'runs/{method}',
      'config_sha256': '28ec' * 16,
      'base_weights': '0ab1' * 16,
      'trainable_parameters': 333122,
      'train_manifest': '1234' * 16,
      'val_manifest': '5678' * 16,
      'config': config,
    },
    'suite': {'sets': ['ffpp', 'celebdf_v2', 'reals_only'], 'bootstrap': {'draws': 2000}},
    'protocol': {
      'image_size': 224,
      'video_score': 'mean',
      'threshold': {
        'origin': 'EER threshold of the validation set',
        'set': 'val',
        'manifest_sha256': '5678' * 16,
        **threshold,
      },
      'band': {
        'origin': 'thresholds of the validation set at these rates',
        'fpr': 0.01,
        'fnr': 0.01,
        **{level: {'low': low, 'high': high} for level, (low, high) in BAND.items()},
      },
      'temperature': {'origin': 'least log-loss on the frames of the validation set', 'frame': 1.73}
      if method == 'masm'
      else None,
      'bootstrap': {'draws': 2000, 'confidence': 0.95, 'seed': 0, 'unit': 'auto'},
      'sets': parts['protocol_sets'],
    },
    'sets': parts['sets'],
    'robustness': parts['robustness'],
    'masks': [
      {'step': 20 * (i + 1), 'rows': rows, 'mask': on, 'scores': on} for i, on in enumerate(mask)
    ]
    if method == 'masm'
    else None,
    'subspaces': _analysis(rng) if method == 'masm' else None,
  }


def _analysis(rng):
  """What `masm_jax.analysis` leaves, of two blocks and two subspaces."""
  side = lambda: {
    'angles_deg': rng.uniform(0, 9, (2, 3)).tolist(),
    'overlap': [[1.0, 0.25], [0.25, 1.0]],
    'semantic_share': [0.5, 'nan'],
  }
  owners = [f'backbone/block_{i:02d}/attn/{kind}' for i in range(2) for kind in ('q', 'v')]
  probe = lambda value: {
    'accuracy': value, 'low': value - 0.1, 'high': value + 0.05, 'chance': 0.2
  }  # fmt: skip
  return {
    'run': {},
    'subspaces': {'kernels': {owner: {'U': side(), 'V': side()} for owner in owners}},
    'spectra': {
      'kernels': {
        owner: {'change': 0.01 * (i + 1), 'principal_kept': {'U': 0.9, 'V': 1.0}}
        for i, owner in enumerate(owners)
      }
    },
    'semantics': {'note': NOTE, 'probes': {'yaw': {'before': probe(0.8), 'after': probe(0.7)}}},
  }


@pytest.fixture(scope='session')
def html(evaluation, tmp_path_factory):
  out = tmp_path_factory.mktemp('html') / 'new' / 'report.html'
  assert report.main([str(evaluation), f'--out={out}', '--tsne-points=30']) == 0
  return out.read_text()


@pytest.fixture(scope='session')
def whole(evaluation):
  return built(evaluation)


@pytest.fixture(scope='session')
def other(make_evaluation, tmp_path_factory):
  folder = tmp_path_factory.mktemp('other') / 'seed1'
  return make_evaluation(folder, seed=1, num_videos=12)
