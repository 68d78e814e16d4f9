"""scikit-learn's metrics, imported when one is asked for: that takes half a second."""

from typing import Any


def __getattr__(name: str) -> Any:
  from sklearn import metrics

  return getattr(metrics, name)
