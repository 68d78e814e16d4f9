"""The contract between a method of adaptation and the rest of the program.

Training, evaluation, checkpoints and export know a method by the members of `Method` alone: no
other file asks which method it has.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import flax.linen as nn
import jax
import ml_collections

from masm_jax.errors import UserError
from masm_jax.masking.groups import Groups

Params = Mapping[str, Any]
OnProgress = Callable[[int, int], None] | None


class Parts(NamedTuple):
  """What a method makes of plain parameters; nested dicts with disjoint leaves.

  Attributes:
    trainable: what is updated, and stored in checkpoints.
    frozen: the rest of the model, which the forward pass reads.
    reference: where training began, as far as the regularizers compare with it: no part of the
      model, empty for methods that compare with nothing.
  """

  trainable: dict
  frozen: dict
  reference: dict


class Method(Protocol):
  """What is trained, what is frozen, and what keeps the trained part in order.

  `params` are the plain parameters of a `Detector`: `{'backbone': ..., 'head': ...}`, nested dicts
  of float32 arrays; the parts are those of `Parts`.
  """

  name: str

  @property
  def dense_cls(self) -> Callable[..., nn.Module]:
    """Builds the backbone's dense layers on `combine(trainable, frozen)`."""

  def init(self, params: Params, rng: jax.Array) -> Parts:
    """Splits plain parameters; `merge` undoes it, to rounding."""

  def regularize(
    self, trainable: Params, frozen: Params, reference: Params
  ) -> dict[str, jax.Array]:
    """Weighted penalties, float32 scalars by name; they are added to the task loss."""

  def penalty_pull(self, reference: Params) -> float:
    """0 where the penalties' gradient goes through the optimizer; above 0 it moves the parameters
    beside it, by so many times the learning rate."""

  def constrain(self, trainable: Params, reference: Params, on: Params | None) -> dict:
    """Trainable leaves after an update, put back where the method's constraints hold.

    `on` says which slices of the leaves may move (`Groups.expand`); None for all.
    """

  def merge(self, trainable: Params, frozen: Params) -> dict:
    """Plain parameters that compute what the adapted ones do."""

  def groups(self, trainable: Params) -> Groups | None:
    """Which leaves a layer mask switches, or None where the method has nothing to mask."""


class Unconstrained:
  """The part of a `Method` that has neither penalties nor constraints nor a mask."""

  def regularize(
    self, trainable: Params, frozen: Params, reference: Params
  ) -> dict[str, jax.Array]:
    """Nothing."""
    del trainable, frozen, reference
    return {}

  def penalty_pull(self, reference: Params) -> float:
    """There are no penalties."""
    del reference
    return 0.0

  def constrain(self, trainable: Params, reference: Params, on: Params | None) -> dict:
    """As they are."""
    del reference, on
    return dict(trainable)

  def groups(self, trainable: Params) -> Groups | None:
    """Nothing to mask."""
    del trainable
    return None


@runtime_checkable
class ChoosesLayers(Method, Protocol):
  """A method that chooses its layers before `init`; `training.probe.choose_layers` does it."""

  def candidates(self, params: Params) -> Groups:
    """The leaves of plain parameters whose gradients are measured, each layer a row of `[L, 1]`."""

  def with_layers(self, params: Params, layers: Iterable[str]) -> Self:
    """The same method, which adapts these rows of `candidates(params)` and no others."""


def check_definition(config: ml_collections.ConfigDict, fields: Mapping[str, Any]) -> None:
  """Holds a config to what its method is: no result carries the name of a method that it is not.

  Args:
    config: the run's config.
    fields: dotted name -> the value that the method has by definition.

  Raises:
    UserError: a field has another value, as after `--config.method=NAME` without the rest.
  """
  for name, wanted in fields.items():
    group, _, field = name.rpartition('.')
    value = config[group][field]
    if value != wanted:
      raise UserError(
        f'method = {config.method} means {name} = {wanted}, not {value}: start from '
        f'configs/{config.method}.py or configs/ffpp.py:method={config.method}, which set all of it'
      )
