"""What pyproject.toml cannot say: the configs lie in the package where it is installed."""

import setuptools

setuptools.setup(
  packages=[*setuptools.find_packages(include=['masm_jax*']), 'masm_jax.shipped.configs'],
  package_dir={'masm_jax.shipped.configs': 'configs'},
)
