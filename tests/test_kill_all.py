"""A few of the kills of `python -m tests.kill_all`, of the command that starts fastest."""

import random

from tests.kill_all import Killer, make_commands


def test_a_set_that_was_killed_in_its_first_write_and_later_ends_as_any_other(tmp_path):
  command = make_commands(tmp_path, ['synthetic'])['synthetic']
  killer = Killer(command, tmp_path / 'work', random.Random(0))
  killer.kill(2)
  assert not killer.problems
  assert killer.counts['killed'] + killer.counts['done before'] == 2
  assert killer.counts['at a first write'] == killer.counts['run to the end'] == 1
