"""The JSON of an answer keeps to its schema, and the schema refuses what an answer never is."""

import copy
import json

import jsonschema
import pytest

from masm_jax.prediction import answers
from tests.prediction.answers_made import ANSWER, check, made


@pytest.mark.parametrize('verdict', answers.VERDICTS)
def test_every_verdict_is_valid_json_and_comes_back(verdict):
  value = check(made(verdict, ('near_threshold',)))
  assert json.loads(json.dumps(value)) == value
  assert (value['probability'] is None) == (verdict == 'no_answer')


def test_the_schema_is_one_and_closed_everywhere():
  schema = answers.schema()
  jsonschema.Draft202012Validator.check_schema(schema)
  assert set(schema['properties']['verdict']['enum']) == set(answers.VERDICTS)
  assert set(schema['properties']['reasons']['items']['enum']) == set(answers.REASONS)

  def visit(node, path):
    if isinstance(node, dict):
      if 'properties' in node and 'type' in node:
        assert node['additionalProperties'] is False, path
        assert set(node['required']) == set(node['properties']), path
      kinds = node.get('type', ())
      kinds = {kinds} if isinstance(kinds, str) else set(kinds)
      is_rule = not {'if', 'then', 'else'}.isdisjoint(path)
      if kinds & {'number', 'integer'} and not is_rule:
        assert {'minimum', 'exclusiveMinimum'} & node.keys() and 'maximum' in node, path
      if 'string' in kinds:
        assert {'maxLength', 'pattern'} & node.keys(), path
      for key, item in node.items():
        visit(item, (*path, key))
    elif isinstance(node, list):
      for item in node:
        visit(item, path)

  visit(schema, ())


@pytest.mark.parametrize(
  ('path', 'value'),
  [
    (('probability',), 1.01),
    (('probability',), None),
    (('verdict',), 'maybe'),
    (('reasons',), ['bad_light']),
    (('status',), 'queued'),
    (('more',), 1),
    (('input', 'path'), '/etc/passwd'),
    (('tracks', 0, 'frames', 0, 'quality', 'blur'), -0.1),
    (('policy', 'calibration', 'T'), 0),
    (('timing_s', 'decode'), 'long'),
  ],
)
def test_what_is_no_answer_is_refused(path, value):
  document = copy.deepcopy(check(ANSWER))
  place = document
  for key in path[:-1]:
    place = place[key]
  place[path[-1]] = value
  with pytest.raises(jsonschema.ValidationError):
    check(document)


def test_no_answer_has_no_probability():
  document = check(made('no_answer', ('no_face',), tracks=()))
  for change in ({'probability': 0.0}, {'reasons': []}, {'interval': [0.1, 0.2]}):
    with pytest.raises(jsonschema.ValidationError):
      check(document | change)


def test_numbers_are_rounded_and_finite():
  value = made(probability=0.123456789, score_raw=-0.0).to_dict()
  assert value['probability'] == 0.123457 and str(value['score_raw']) == '0.0'
  with pytest.raises(ValueError, match='nan'):
    made(score_raw=float('nan')).to_dict()
