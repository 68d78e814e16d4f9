"""Probes find what is in the features, at chance what is not, and on the right rows."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from masm_jax.analysis import probe
from masm_jax.errors import UserError


def table(num_identities=8, videos=3, frames=4, split=lambda identity: 'train'):
  rng = np.random.default_rng(0)
  rows = [
    {
      'identity': identity, 'yaw': float(rng.normal(0, 15)), 'pitch': float(rng.normal(0, 5)),
      'label': label, 'split': split(identity), 'source_video_id': f's/real/{identity}_v{video}',
    }
    for identity in range(num_identities)
    for video in range(videos)
    for label in (0, 1)
    for _ in range(frames)
  ]  # fmt: skip
  return pd.DataFrame(rows)


HALF = table(split=lambda identity: 'test' if identity >= 4 else 'train')


def test_rows_of_each_task():
  found = probe.tasks(HALF)
  assert list(found) == ['identity', 'yaw', 'pitch']
  fit, test, classes = found['identity']
  assert set(HALF['label'].iloc[np.append(fit, test)]) == {0}
  assert set(classes[fit]) == set(classes[test]) == {4, 5, 6, 7}
  assert {name[-1] for name in HALF['source_video_id'].iloc[fit]} == {'0'}
  assert {name[-1] for name in HALF['source_video_id'].iloc[test]} == {'1', '2'}
  assert len(fit) == 4 * 4 and len(test) == 4 * 2 * 4
  fit, test, classes = found['yaw']
  assert set(HALF['split'].iloc[fit]) == {'train'} and set(HALF['split'].iloc[test]) == {'test'}
  assert np.bincount(classes[fit]).tolist() == [16, 16, 16]
  yaw = HALF['yaw'].to_numpy()
  assert yaw[fit][classes[fit] == 0].max() < yaw[fit][classes[fit] == 1].min()


def test_features_that_hold_identity_or_nothing():
  rng = np.random.default_rng(1)
  one_hot = np.eye(8)[HALF['identity']]
  features = {
    'before': one_hot + 0.05 * rng.normal(size=one_hot.shape),
    'after': rng.normal(size=(len(HALF), 8)),
  }
  found = probe.probe_features(features, HALF)['identity']
  assert found['before']['accuracy'] == 1.0 and found['before']['chance'] == 0.25
  assert found['after']['accuracy'] < 0.7
  assert found['before']['classes'] == 4
  assert (found['before']['num_train'], found['before']['num_test']) == (16, 32)
  # Wilson's interval of 32 of 32: the upper end is 1, the lower n / (n + z^2).
  z = scipy.stats.norm.ppf(0.975)
  assert found['before']['low'] == pytest.approx(32 / (32 + z**2))
  assert found['before']['high'] == pytest.approx(1)


def test_people_may_have_names():
  named = HALF.assign(identity=[f'p{number}' for number in HALF['identity']])
  for name, found in probe.tasks(HALF).items():
    for one, other in zip(found, probe.tasks(named)[name], strict=True):
      np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('angle', ['left', None, float('nan'), float('inf')])
def test_an_angle_that_is_no_number_is_one_line(angle):
  angles = HALF['pitch'].astype(object)
  angles[0] = angle
  with pytest.raises(UserError, match='needs the pitch of every real face'):
    probe.tasks(HALF.assign(pitch=angles))


def test_what_cannot_be_probed():
  with pytest.raises(UserError, match="needs a manifest with the column 'yaw'"):
    probe.tasks(HALF.drop(columns='yaw'))
  with pytest.raises(UserError, match='the probe for identity finds too few real faces'):
    probe.tasks(table())  # No test split.
  one_video = table(videos=1, split=lambda identity: 'test')
  with pytest.raises(UserError, match='the probe for identity finds too few real faces'):
    probe.tasks(one_video)
