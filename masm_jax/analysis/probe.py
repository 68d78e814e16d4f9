"""Linear probes of features for identity and pose: how well semantics survive fine-tuning.

A probe is a logistic regression on frozen features. What it can read off the features of real
faces before fine-tuning and no longer after it, fine-tuning has lost.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import ArrayLike
from sklearn import linear_model, pipeline, preprocessing

from masm_jax.errors import UserError

POSES = ('yaw', 'pitch')
NEEDED = ('identity', *POSES, 'label', 'split', 'source_video_id')
_THIRDS = (1 / 3, 2 / 3)


def linear_probe(
  train: tuple[ArrayLike, ArrayLike], test: tuple[ArrayLike, ArrayLike]
) -> dict[str, Any]:
  """Accuracy of a logistic regression on standardised features.

  Args:
    train: features [N, D] and integer classes [N].
    test: features [M, D] and classes [M].

  Returns:
    `accuracy`, `low` and `high` (95 % Wilson interval over the test examples, which takes them for
    independent), `chance` (share of the commonest class of the test examples), `classes`,
    `num_train`, `num_test`.
  """
  model = pipeline.make_pipeline(
    preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=2000)
  )
  model.fit(np.asarray(train[0], np.float64), train[1])
  labels = np.asarray(test[1])
  correct = int((model.predict(np.asarray(test[0], np.float64)) == labels).sum())
  interval = scipy.stats.binomtest(correct, len(labels)).proportion_ci(method='wilson')
  return {
    'accuracy': correct / len(labels),
    'low': float(interval.low),
    'high': float(interval.high),
    'chance': float(np.unique(labels, return_counts=True)[1].max() / len(labels)),
    'classes': len(np.unique(train[1])),
    'num_train': len(train[1]),
    'num_test': len(labels),
  }


def tasks(table: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """What is probed: classes of rows, and which rows train the probe and which test it.

  `identity`: the people of the test split, whom the detector has never trained on; the probe learns
  from the first video of each, and is tested on the others. `yaw` and `pitch`: thirds of the angle
  among the real faces of the training split, tested on those of the test split. Real faces only.

  Args:
    table: rows of a manifest with `NEEDED` columns, as the built-in set has them.

  Returns:
    `{task: (rows to train, rows to test, classes of all rows)}`, positions int [..] and int [N].

  Raises:
    UserError: columns are missing, or there are too few people, videos or rows.
  """
  if missing := [name for name in NEEDED if name not in table]:
    raise UserError(
      f'the probe needs a manifest with the column {missing[0]!r}, as the built-in set has it'
    )
  real = (table['label'] == 0).to_numpy()
  splits = table['split'].to_numpy()
  test = real & (splits == 'test')
  videos = table['source_video_id']
  first = (videos == videos.groupby(table['identity']).transform('min')).to_numpy()
  identity = table['identity'].astype('category').cat.codes.to_numpy(np.int64)  # Any names.
  found = {'identity': (test & first, test & ~first, identity)}
  learn = real & (splits == 'train')
  for name in POSES:
    angles = pd.to_numeric(table[name], errors='coerce').to_numpy(np.float64)
    if not np.isfinite(angles[real]).all():
      raise UserError(f'the probe needs the {name} of every real face, in degrees')
    if learn.any():
      found[name] = (learn, test, np.digitize(angles, np.quantile(angles[learn], _THIRDS)))
  result = {}
  for name, (train_rows, test_rows, classes) in found.items():
    test_rows = test_rows & np.isin(classes, classes[train_rows])
    if len(np.unique(classes[train_rows])) < 2 or not test_rows.any():
      raise UserError(
        f'the probe for {name} finds too few real faces: it needs two people with two videos each '
        'in the test split, and a training split'
      )
    result[name] = (np.flatnonzero(train_rows), np.flatnonzero(test_rows), classes)
  return result


def probe_features(
  features: Mapping[str, np.ndarray], table: pd.DataFrame
) -> dict[str, dict[str, dict[str, Any]]]:
  """Probes several models' features of the same rows.

  Args:
    features: `{model: [N, D]}`, of the rows of `table`.
    table: see `tasks`.

  Returns:
    `{task: {model: linear_probe}}`.
  """
  return {
    task: {
      model: linear_probe((values[fit], classes[fit]), (values[test], classes[test]))
      for model, values in features.items()
    }
    for task, (fit, test, classes) in tasks(table).items()
  }
