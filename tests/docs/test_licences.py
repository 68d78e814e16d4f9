"""The table of licences is current, and every licence lets the program be used by anybody."""

import importlib.metadata

import pytest

from tests.docs import licences


def test_the_table_is_current():
  how = 'run python -m tests.docs.licences --update'
  assert licences.PAGE.read_text() == licences.updated(), how


def test_every_licence_is_permissive():
  assert licences.problems() == []


@pytest.mark.parametrize('terms', ['GPL-3.0-only', 'MIT AND LGPL-2.1', 'Free for research'])
def test_another_licence_is_found(terms, monkeypatch):
  monkeypatch.setattr(licences, 'licence', lambda name: terms if name == 'numpy' else 'MIT')
  assert licences.problems() == [f'numpy: {terms}']


def test_the_lists_of_exceptions_hold_what_is_there():
  for name, terms in licences.WEAK.items():
    assert terms in licences.licence(name), name
    assert importlib.metadata.version(name)
