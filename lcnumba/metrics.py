"""Figures of merit of predictions: ``metric(y_true, y_pred) -> mean over the batch``."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["accuracy", "binary_accuracy", "get", "mae", "mse"]

Array = npt.NDArray[Any]
Metric = Callable[[Array, Array], float]


def accuracy(y_true: Array, y_pred: Array) -> float:
    """Share of predictions whose largest output is the label.

    Parameters
    ----------
    y_true : (N, ...) integer labels, or (N, ..., classes)
    y_pred : (N, ..., classes), of at least two classes

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.metrics.accuracy(np.array([1, 0]), np.array([[0.1, 0.9], [0.3, 0.7]]))
    0.5
    """
    shape = y_pred.shape
    if y_pred.ndim < 2 or shape[-1] < 2 or y_true.shape not in (shape, shape[:-1]):
        raise ValueError(
            f"y has shape {y_true.shape} and the prediction {shape}; accuracy needs predictions "
            "(batch, ..., at least 2 classes) and labels (batch, ...) or (batch, ..., classes)"
        )
    labels = np.argmax(y_true, axis=-1) if y_true.ndim == y_pred.ndim else y_true
    return float(np.mean(np.argmax(y_pred, axis=-1) == labels))


def binary_accuracy(y_true: Array, y_pred: Array, threshold: float = 0.5) -> float:
    """Share of numbers that lie on the same side of the threshold as their targets do of a half.

    Parameters
    ----------
    y_true, y_pred : arrays of one shape
        Targets 0 or 1, and probabilities; for logits give ``threshold=0``.
    threshold : float, default 0.5
        Predictions above it are yes.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.metrics.binary_accuracy(np.array([[1, 0]]), np.array([[0.9, 0.8]]))
    0.5
    """
    _alike("binary_accuracy", y_true, y_pred)
    return float(np.mean((y_pred > threshold) == (y_true > 0.5)))


def mae(y_true: Array, y_pred: Array) -> float:
    """Mean of abs(y_pred - y_true) over all numbers.

    Parameters
    ----------
    y_true, y_pred : arrays of one shape

    Returns
    -------
    float

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.metrics.mae(np.array([[1, 2]]), np.array([[2.0, 0.0]]))
    1.5
    """
    _alike("mae", y_true, y_pred)
    return float(np.mean(np.abs(np.subtract(y_pred, y_true, dtype=np.float64))))


def mse(y_true: Array, y_pred: Array) -> float:
    """Mean of (y_pred - y_true)^2 over all numbers.

    Parameters
    ----------
    y_true, y_pred : arrays of one shape

    Returns
    -------
    float

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.metrics.mse(np.array([[1, 2]]), np.array([[2.0, 0.0]]))
    2.5
    """
    _alike("mse", y_true, y_pred)
    return float(np.mean(np.square(np.subtract(y_pred, y_true, dtype=np.float64))))


def _alike(name: str, y_true: Array, y_pred: Array) -> None:
    if y_true.shape != y_pred.shape:
        raise ValueError(f"y has shape {y_true.shape} and the prediction {y_pred.shape}; {name} needs equal shapes")


_BY_NAME = {function.__name__: function for function in (accuracy, binary_accuracy, mae, mse)}
_BY_NAME |= {"mean_absolute_error": mae, "mean_squared_error": mse}


def get(metrics: Iterable[Any] | None) -> dict[str, Metric]:
    """Return metrics by name, from names and callables.

    Parameters
    ----------
    metrics : iterable of str or callable, or None
        Names, and functions ``metric(y_true, y_pred) -> float``.

    Returns
    -------
    dict of str to callable

    Raises
    ------
    ValueError
        If a name is not known, or two figures would have the same.

    Examples
    --------
    >>> import lcnumba as lc
    >>> list(lc.metrics.get(["accuracy", "mae"]))
    ['accuracy', 'mae']
    """
    if metrics is None:
        return {}
    given: Any = metrics
    # An array without dimensions calls itself iterable.
    if isinstance(given, str) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        given = [given]
    found: dict[str, Metric] = {}
    for metric in given:
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
