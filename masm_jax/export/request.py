"""What the command asks of every format."""

import dataclasses
import pathlib
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Request:
  """A detector and where it goes.

  Attributes:
    run: folder of a training run.
    out: what is written.
    step: 'best' (chosen by validation), 'last', or the number of a checkpoint.
    base_weights: the file of base weights; '' where the run found it.
    name: what people call the detector; '' for the name of the run's folder.
    weights: of a detector file: 'merged', or 'adapter', which needs the base weights beside it.
    licence_note: under what terms its weights may be used.
    explanations: whether what training added goes along; `auto`: where it is smaller than the
      weights.
    benchmark: `benchmark.json` of `masm_jax.explain --benchmark`, if the maps were measured.
  """

  run: pathlib.Path
  out: pathlib.Path
  step: str = 'best'
  base_weights: str = ''
  name: str = ''
  weights: str = 'merged'
  licence_note: str = ''
  explanations: Literal['auto', 'always', 'never'] = 'auto'
  benchmark: pathlib.Path | None = None
