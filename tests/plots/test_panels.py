"""The drawings of the report, each by itself."""

import re

import numpy as np
import pandas as pd

from masm_jax.metrics import binary as metrics
from masm_jax.plots import masks, panels, roc, style, svg


def test_thinned_curves_stay_where_they_were():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 2, 20_000)
  fpr, tpr = metrics.roc_curve(labels, np.clip(0.3 * labels + rng.random(20_000) / 1.5, 0, 1))
  keep = roc._thinned(fpr, tpr)
  assert len(keep) < 900 < len(fpr) and keep[0] == 0 and keep[-1] == len(fpr) - 1
  along = fpr + tpr  # Rises with every point, where the curve itself may jump.
  assert np.abs(np.interp(along, along[keep], tpr[keep]) - tpr).max() < 1 / 200
  assert roc._thinned(np.array([0.0, 1.0]), np.array([0.0, 1.0])).tolist() == [0, 1]


def test_operating_point_is_that_of_the_threshold():
  curve = roc.Scores(
    'x',
    0,
    'frame',
    np.array([0, 0, 0, 0, 1, 1]),
    np.array([0.1, 0.4, 0.6, 0.2, 0.6, 0.3]),
    0.5,
    0.4,
  )
  assert curve.operating_point == (0.5, 0.5)


def test_masks_resampled_over_time_keep_their_share():
  rng = np.random.default_rng(0)
  history = (rng.random((700, 5)) < 0.4).astype(float)
  edges = np.cumsum(np.r_[3, rng.integers(1, 9, 700)]).astype(float)
  shares = masks.resampled(history, edges)
  assert shares.shape == (160, 5)
  np.testing.assert_allclose(shares.mean(0), np.average(history, axis=0, weights=np.diff(edges)))
  exact = masks.resampled(np.array([[1.0], [0.0], [1.0]]), np.array([0.0, 2.0, 3.0, 6.0]))
  assert exact[:, 0].tolist() == [1, 1, 0, 1, 1, 1]


def test_drawings_take_the_pages_colours_and_leave_texts_alone():
  name = 'font-family: x; 0.12345 #010201 <b>&'
  with svg.panel() as (figure, axes):
    axes.plot([0, 1], [0.123456, 1], color=style.PAGE.series[2])
    axes.set_title(name)
    text = svg.to_svg(figure, 'k', f'about "{name}"')
  assert '>font-family: x; 0.12345 #010201 &lt;b&gt;&amp;</text>' in text
  assert 'stroke: var(--s2)' in text and 'fill: var(--ink)' in text
  assert 'DejaVu' not in text and '<metadata' not in text and '#0506' not in text
  assert 'aria-label="about &#34;font-family: x; 0.12345 #010201 &lt;b&gt;&amp;&#34;"' in text or (
    'aria-label="about &quot;font-family: x; 0.12345 #010201 &lt;b&gt;&amp;&quot;"' in text
  )


def test_long_names_are_shortened_in_the_middle():
  assert style.label('short') == 'short'
  assert style.label('a' * 20 + 'b' * 20, 11) == 'aaaaaa…bbbb'
  assert style.label('x\u202ey\x00z') == 'x�y�z'


def test_histogram_shares_are_of_each_class():
  frame = pd.DataFrame({'label': [0, 0, 1, 1], 'score': [0.1, 0.2, 0.8, 1.0]})
  curve = roc.Scores(
    'x', 0, 'frame', frame['label'].to_numpy(), frame['score'].to_numpy(), 1.0, float('nan')
  )
  drawn = panels.histogram('s', curve, 'score', key='k')  # A score of 1 has no finite log-odds.
  assert '>50%</text>' in drawn and 'threshold' not in drawn


def test_histogram_ticks_say_where_they_stand():
  labels = np.repeat([0, 1], 16)
  curve = roc.Scores('x', 0, 'frame', labels, np.linspace(0.1, 0.9, 32), 0.5, float('nan'))
  drawn = str(panels.histogram('s', curve, 'score', key='k'))
  ticks = [float(text) for text in re.findall(r'>([\d.]+)%</text>', drawn)]
  assert len(ticks) > 3 and np.allclose(np.diff(ticks), ticks[1] - ticks[0])
