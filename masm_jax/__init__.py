"""masm_jax: deepfake detection with semantic and artifact subspaces, in JAX/Flax."""

__version__ = '0.1.0'
