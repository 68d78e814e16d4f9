"""Pretrains a small backbone on the semantics of synthetic portraits, and ships it as float16.

The demo needs a backbone that knows faces and no forgeries, small enough to come with the package.
It learns to tell identity (a classification), pose and light (regressions) from single portraits.

python -m masm_jax.pretrain --config=demo_pretrain --output=FILE.safetensors
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from masm_jax import cli
from masm_jax.errors import UserError
from masm_jax.terminal import say

_CONFIG = cli.define_config(
  'config', 'The config: demo_pretrain, or a file. --config.FIELD=VALUE sets a field.'
)
_OUTPUT = flags.DEFINE_string('output', None, 'Where the weights go, a .safetensors file.')


def main(argv: Sequence[str]) -> int:
  """Runs the pretraining and prints its metrics; returns the exit status."""
  cli.refuse_arguments(argv)
  if _CONFIG.value is None or not _OUTPUT.value:
    raise UserError('give --config=demo_pretrain and --output=FILE.safetensors')
  cli.start_jax(deterministic=False)
  from masm_jax.training.pretraining import pretrain  # Not above: --help should not wait for it.

  for name, value in pretrain(_CONFIG.value, pathlib.Path(_OUTPUT.value)).items():
    say(f'{name:>24} {value:.4f}')
  return 0


if __name__ == '__main__':
  cli.run(main)
