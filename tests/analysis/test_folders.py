"""Which runs `--workdir` names: the project's own sweeps have commas in their folders."""

import subprocess
import sys

CODE = (
  'import sys\nfrom masm_jax.analysis.__main__ import split_folders\n'
  'print([str(folder) for folder in split_folders(sys.argv[1])])'
)


def split(text):
  return eval(subprocess.run([sys.executable, '-c', CODE, text], capture_output=True).stdout)


def test_a_comma_in_the_name_of_a_folder_is_part_of_it(tmp_path):
  one, two = tmp_path / 'K=4,q=8' / 'seed0', tmp_path / 'K=8,q=4' / 'seed0'
  for folder in (one, two):
    folder.mkdir(parents=True)
  assert split(str(one)) == [str(one)]
  assert split(f'{one},{two}') == [str(one), str(two)]
  assert split(f'runs/a,{one},runs/b') == ['runs/a', str(one), 'runs/b']


def test_commas_stand_between_folders():
  assert split('runs/a,runs/b') == ['runs/a', 'runs/b']
  assert split('runs/a,') == ['runs/a'] and split('') == []
