"""What validation carries over to every test set: thresholds, abstention bands, a temperature."""

import math
from typing import Any

import ml_collections
import pandas as pd

from masm_jax.data.manifest import Manifest
from masm_jax.evaluation import results
from masm_jax.inference import validation
from masm_jax.inference.validation import Validation
from masm_jax.metrics import risk_coverage, scores
from masm_jax.metrics.summary import Settings, Warning_


def carry_over(
  val: Manifest | Validation | None, table: pd.DataFrame | None, suite: ml_collections.ConfigDict
) -> tuple[Settings, dict[str, Any], list[Warning_]]:
  """Fixes thresholds, bands and temperature on the validation scores.

  Args:
    val: the validation set; or what it fixed, as a detector file holds it; or nothing.
    table: the scores of the set; None where there is no set, and on hosts but the lead.
    suite: see `common.get_suite`.

  Returns:
    Settings of every metric, of nan where there are no scores; `threshold`, `band` and
    `temperature` of the protocol in `results.json`; warnings.
  """
  is_stored = not isinstance(val, Manifest)
  found = val if isinstance(val, Validation) else None
  if table is not None:
    found = validation.from_scores(table, suite.video_score)
  fitted = found.calibration if found and suite.temperature else None
  thresholds = found.thresholds if found else {}
  rates = {'fpr': suite.abstention.fpr, 'fnr': suite.abstention.fnr}
  settings = Settings(
    thresholds={level: thresholds.get(level, {}).get('eer', math.nan) for level in scores.LEVELS},
    bands={
      level: found.band(level, **rates) if found else risk_coverage.NO_BAND
      for level in scores.LEVELS
    },
    temperature=fitted.temperature if fitted else None,
    video_score=suite.video_score,
    draws=suite.bootstrap.draws,
    confidence=suite.bootstrap.confidence,
    unit=suite.bootstrap.unit,
    seed=suite.bootstrap.seed,
    groups=tuple(suite.groups),
    max_groups=suite.max_groups,
  )
  warnings = []
  if any(map(math.isnan, settings.thresholds.values())):
    also = ', nor a temperature' if suite.temperature else ''
    why = 'the validation scores lack a class' if found else 'the detector file holds none'
    text = f'{why}: there is no threshold to carry over{also}'
    warnings.append({'set': results.VAL, 'kind': 'one_class', 'text': text})
  from_file = ', as the detector file holds it' if is_stored else ''
  origin = {
    'threshold': {
      'origin': f'EER threshold of the validation set{from_file}',
      'set': results.VAL,
      'manifest_sha256': '' if is_stored else val.sha256,
      **settings.thresholds,
    },
    'band': {
      'origin': f'thresholds of the validation set at these rates{from_file}',
      **rates,
      **{
        level: dict(zip(('low', 'high'), settings.bands[level], strict=True))
        for level in scores.LEVELS
      },
    },
    'temperature': None,
  }
  if fitted:
    how = f'least log-loss on the frames of the validation set{from_file}'
    origin['temperature'] = {'origin': how, 'frame': fitted.temperature}
  return settings, origin, warnings
