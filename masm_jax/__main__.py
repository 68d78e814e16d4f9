"""`masm-jax COMMAND ...`, the same as `python -m masm_jax.COMMAND ...`.

Nothing but the standard library is imported here before a command is chosen.
"""

import difflib
import os
import pathlib
import runpy
import sys

import masm_jax
from masm_jax.errors import storage_text
from masm_jax.terminal import say, usable_output

# Each is a module of its name, in the order in which a user meets them.
COMMANDS = {
  'demo': 'train three methods on the built-in portraits, and draw one picture',
  'preprocess': 'turn raw videos and photos into face crops and a manifest',
  'data': 'import, check, count, split, sample and convert manifests',
  'main': 'train a detector by a config, and evaluate it',
  'inspect': 'print what a config trains and what it costs, before a long run',
  'evaluate': 'score data sets with a trained detector, with intervals',
  'predict': 'say of pictures and videos whether there are signs of manipulation',
  'perturb_videos': 'write a damaged copy of a folder of videos',
  'compare': 'set evaluations side by side, with paired intervals',
  'report': 'turn evaluations into one HTML file',
  'analysis': 'measure what fine-tuning did to subspaces and features',
  'export': 'write a trained detector as a folder, an adapter, or for other programs',
  'serve': 'answer over HTTP, with a page: uploads in, verdicts out',
  'convert': 'take a detector that another program has trained',
  'sweep': 'run a table of ablations over seeds',
  'explain': 'say which learned change fired, where, and whether that is true',
  'pretrain': "train the demo's backbone on synthetic portraits",
}


def main() -> int:
  """Runs a command in this process; returns the exit status where there is none to run."""
  try:
    with usable_output():
      return _main()
  except OSError as error:
    if not (text := storage_text(error)):
      raise
    say(f'error: {text}', file=sys.stderr)
    return 2


def _main() -> int:
  is_script = pathlib.Path(sys.argv[0]).stem == 'masm-jax'
  program = 'masm-jax' if is_script else 'python -m masm_jax'
  words = sys.argv[1:]
  if words[:1] == ['--version']:
    say(f'masm_jax {masm_jax.__version__}')
    return 0
  if not words or words[0] in ('-h', '--help', 'help'):
    say(_usage(program))
    return 0
  if is_script:  # The processes that it starts do not look for modules in the working folder.
    os.environ['PYTHONSAFEPATH'] = '1'
  command = words[0]
  if command not in COMMANDS:
    near = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.0)[0]
    say(
      f'error: no command {command!r}: did you mean {near}? See {program} --help', file=sys.stderr
    )
    return 2
  from masm_jax import cli  # Not above: the list of commands should not wait for it.

  cli.typed_as(f'{program} ')
  del sys.argv[1]
  runpy.run_module(f'{masm_jax.__name__}.{command}', run_name='__main__', alter_sys=True)
  return 0


def _usage(program: str) -> str:
  width = max(map(len, COMMANDS))
  lines = [f'  {name.ljust(width)}  {about}' for name, about in COMMANDS.items()]
  return '\n'.join(
    (
      f'usage: {program} COMMAND ...\n',
      'Deepfake detection with semantic and artifact subspaces.\n',
      *lines,
      f'\n{program} COMMAND --help tells what a command takes; --version, which version this is.',
    )
  )


if __name__ == '__main__':
  sys.exit(main())
