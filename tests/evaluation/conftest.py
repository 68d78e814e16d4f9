"""What the tests of evaluations share."""

import pytest


@pytest.fixture(scope='session')
def run(trained_run):
  """The run that is evaluated. Not to be changed."""
  return trained_run
