"""A few spoilt inputs at every border, always the same ones; `python -m tests.fuzz` tries more."""

import pathlib
import tempfile

import hypothesis
import pytest
from hypothesis import HealthCheck

from tests.fuzz.border import PIPE, run_case
from tests.fuzz.borders import BORDERS
from tests.waiting import ends_within

pytestmark = pytest.mark.filterwarnings('ignore')  # Libraries warn of much that is spoilt.


@pytest.mark.parametrize('name', BORDERS)
def test_border(name, tmp_path):
  border = BORDERS[name]
  home = tmp_path / 'home'
  home.mkdir()
  state = border.prepare(home)
  outcomes = set()

  @hypothesis.settings(
    max_examples=border.examples, derandomize=True, database=None, deadline=None,
    suppress_health_check=list(HealthCheck), print_blob=False,
    phases=[hypothesis.Phase.generate],
  )  # fmt: skip
  @hypothesis.given(border.cases(state))
  def attack(case):
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
      outcomes.add(run_case(border, state, case, pathlib.Path(folder)))

  attack()

  @hypothesis.settings(
    max_examples=3, derandomize=True, database=None, deadline=None,
    suppress_health_check=list(HealthCheck), phases=[hypothesis.Phase.generate],
  )  # fmt: skip
  @hypothesis.given(border.cases(state))
  def put_pipes(case):
    for name in sorted(case)[:8]:
      # Nobody waits for a pipe; 120 s is what a report may take on a busy machine.
      with tempfile.TemporaryDirectory(dir=tmp_path) as folder, ends_within(120):
        run_case(border, state, {**case, name: PIPE}, pathlib.Path(folder))

  put_pipes()
  # Neither is all refused, which would test nothing, nor all taken.
  assert 'refused' in outcomes and len(outcomes) > 1, outcomes
