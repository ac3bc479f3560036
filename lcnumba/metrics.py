"""Figures of merit of predictions: ``metric(y_true, y_pred) -> mean over the batch``."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["accuracy", "get"]

Array = npt.NDArray[Any]
Metric = Callable[[Array, Array], float]


def accuracy(y_true: Array, y_pred: Array) -> float:
    """Share of samples whose largest output is the label.

    Parameters
    ----------
    y_true : (N,) integer labels, or (N, classes)
    y_pred : (N, classes)
    """
    if y_true.ndim == y_pred.ndim:
        y_true = np.argmax(y_true, axis=-1)
    return float(np.mean(np.argmax(y_pred, axis=-1) == y_true))


_BY_NAME = {"accuracy": accuracy}


def get(metrics: Iterable[Any]) -> dict[str, Metric]:
    """Return metrics by name, from names and callables."""
    if isinstance(metrics, str):
        metrics = [metrics]
    found: dict[str, Metric] = {}
    for metric in metrics:
        if isinstance(metric, str) and metric in _BY_NAME:
            found[metric] = _BY_NAME[metric]
        elif callable(metric):
            found[getattr(metric, "__name__", type(metric).__name__)] = metric
        else:
            raise ValueError(f"metric={metric!r} is not known; give {', '.join(_BY_NAME)} or a callable")
    return found
