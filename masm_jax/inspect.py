"""Says what a config trains and what it costs, before a long run: from shapes alone.

python -m masm_jax.inspect --config=ffpp:method=masm,backbone=clip_l14
python -m masm_jax.inspect --config=ffpp:method=fmsd,backbone=clip_l14 --json

No data, weights or accelerator are needed; ViT-L/14 takes about a minute on a laptop's CPU. FMSD
chooses its layers by a probe of the data: here it is given the deepest ones, as many as `mask.keep`
says. What is counted and how stands in `costs.py`.
"""

import json
import os
from collections.abc import Sequence

from absl import flags

from masm_jax import cli
from masm_jax.errors import UserError
from masm_jax.parallel import backend
from masm_jax.terminal import say

_CONFIG = cli.define_config(
  'config',
  'The config: a file, or the name of a shipped one, with its arguments after a colon. '
  '--config.FIELD=VALUE sets a field.',
)
_JSON = flags.DEFINE_bool('json', False, 'Print one JSON object, with a row for each kernel.')


def main(argv: Sequence[str]) -> int:
  """Prints the report; returns the exit status."""
  cli.refuse_arguments(argv)
  config = _CONFIG.value
  if config is None:
    raise UserError('give --config, a file of configs/')
  os.environ['JAX_PLATFORMS'] = 'cpu'  # Read when jax is first imported, hence not above.
  with backend.refusals():
    from masm_jax.training import costs

  report = costs.inspect(config)
  say(json.dumps(report) if _JSON.value else costs.format_report(config, report))
  return 0


if __name__ == '__main__':
  cli.run(main)
