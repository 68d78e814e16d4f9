"""`masm-jax sweep` in a checkout: runs a named sweep of configs/ablations.py over seeds."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from masm_jax.sweep import __main__ as sweep

if __name__ == '__main__':
  sys.exit(sweep.main(program='python launch/sweep.py'))
