"""Tables of metrics as a command prints them."""

import json
import math

from masm_jax.metrics import metric_tables

METRICS = {'auroc': 0.98765, 'ap': 0.9, 'eer': 0.01234, 'num': 1234}
RESULTS = {
  'celebdf_v2': {'frame': METRICS, 'video': {**METRICS, 'num': 40, 'auroc': 1.0}},
  'x': {'frame': {**METRICS, 'auroc': math.nan}},
}


def test_table_is_exact():
  assert metric_tables.format_table(RESULTS).splitlines() == [
    '             ---------- frame -----------   --------- video ----------',
    'data set      AUROC      AP     EER     n    AUROC      AP     EER   n',
    'celebdf_v2   0.9877  0.9000  0.0123  1234   1.0000  0.9000  0.0123  40',
    'x               nan  0.9000  0.0123  1234        -       -       -   -',
  ]


def test_table_of_results_read_from_json_is_the_same():
  stored = json.loads(json.dumps(RESULTS).replace('NaN', '"nan"'))
  assert metric_tables.format_table(stored) == metric_tables.format_table(RESULTS)


def test_comparison_is_exact():
  results = {'masm': RESULTS, 'linear': {'x': RESULTS['x'], 'new': RESULTS['celebdf_v2']}}
  assert metric_tables.format_comparison(results).splitlines() == [
    'AUROC, video level',
    'method  celebdf_v2  x     new',
    'masm        1.0000  -       -',
    'linear           -  -  1.0000',
  ]
  assert metric_tables.format_comparison(results, metric='num', level='frame').splitlines() == [
    'num, frame level',
    'method  celebdf_v2     x   new',
    'masm          1234  1234     -',
    'linear           -  1234  1234',
  ]
