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
    y_pred : (N, classes), of at least two classes
    """
    if y_pred.ndim != 2 or y_pred.shape[1] < 2 or y_true.shape not in (y_pred.shape, y_pred.shape[:1]):
        raise ValueError(
            f"y has shape {y_true.shape} and the prediction {y_pred.shape}; accuracy needs predictions "
            "(batch, at least 2 classes) and labels (batch,) or (batch, classes)"
        )
    labels = np.argmax(y_true, axis=-1) if y_true.ndim == 2 else y_true
    return float(np.mean(np.argmax(y_pred, axis=-1) == labels))


_BY_NAME = {"accuracy": accuracy}


def get(metrics: Iterable[Any] | None) -> dict[str, Metric]:
    """Return metrics by name, from names and callables."""
    if metrics is None:
        return {}
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        metrics = [metrics]
    found: dict[str, Metric] = {}
    for metric in metrics:
        if isinstance(metric, str) and metric in _BY_NAME:
            name, function = metric, _BY_NAME[metric]
        elif callable(metric):
            name, function = getattr(metric, "__name__", type(metric).__name__), metric
        else:
            raise ValueError(f"metric={metric!r} is not known; give {', '.join(_BY_NAME)} or a callable")
        if name in found or name == "loss":
            raise ValueError(f"two figures would be called {name!r}; give each metric a __name__ of its own")
        found[name] = function
    return found
