"""How the folder of an evaluation is named on the command line."""

import pytest

from masm_jax.evaluation import results


@pytest.mark.parametrize(
  ('text', 'named'),
  [
    ('eval', ('', 'eval')),
    ('masm=eval', ('masm', 'eval')),
    ('there/K=4/eval', ('', 'there/K=4/eval')),  # The project's own sweeps make such folders.
    ('there/K=4,q=8', ('', 'there/K=4,q=8')),
    ('K=4=there', ('K=4', 'there')),
    ('all=there/K=4/eval', ('all', 'there/K=4/eval')),
    ('missing/K=4/eval', ('', 'missing/K=4/eval')),
    ('K=4', ('', 'K=4')),
    ('K=missing', ('K', 'missing')),
    ('=there', ('', '=there')),
  ],
)
def test_the_name_of_a_folder_and_the_folder(text, named, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for folder in ('eval', 'there/K=4/eval', 'there/K=4,q=8', 'K=4'):
    (tmp_path / folder).mkdir(parents=True)
  name, folder = results.named_folder(text)
  assert (name, str(folder)) == named
