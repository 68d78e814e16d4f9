"""Flags of the commands that read strangers' files: the limits of a single one."""

import argparse
import dataclasses
from typing import Any

from masm_jax.prediction.media import Limits


def add_limits(parser: argparse.ArgumentParser, **defaults: float) -> None:
  """Adds `--max-NAME` for each limit.

  Args:
    parser: of the command.
    **defaults: of some limits, in the place of their own.
  """
  group = parser.add_argument_group('limits of a single file; beyond one, it gets no answer')
  for field in dataclasses.fields(Limits):
    group.add_argument(
      f'--max-{field.name.replace("_", "-")}',
      type=float if field.type is float else int,
      default=defaults.get(field.name, field.default),
      metavar='N',
      help='%(default)s without it',
    )


def limits(args: argparse.Namespace) -> Limits:
  """The limits that a command line gives.

  Raises:
    UserError: one that is not above 0.
  """
  values: dict[str, Any] = {
    field.name: getattr(args, f'max_{field.name}') for field in dataclasses.fields(Limits)
  }
  return Limits(**values)
