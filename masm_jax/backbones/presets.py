"""Every backbone by its name in the config."""

from masm_jax.backbones import augreg, clip, dinov2, dinov3, perception, siglip
from masm_jax.backbones.backbone import Backbone
from masm_jax.errors import UserError

PRESETS: dict[str, Backbone] = {
  **clip.PRESETS,
  **dinov2.PRESETS,
  **dinov3.PRESETS,
  **perception.PRESETS,
  **siglip.PRESETS,
  **augreg.PRESETS,
}


def get_preset(name: str) -> Backbone:
  """The backbone called `name`.

  Raises:
    UserError: there is none of that name.
  """
  if name not in PRESETS:
    raise UserError(f'unknown backbone {name!r}: choose one of {", ".join(PRESETS)}')
  return PRESETS[name]
