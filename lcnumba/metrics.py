"""Metrics of predictions: ``metric(y_true, y_pred) -> float``.

Targets that are NaN, or that `losses.Masked` ignores, are unknown and ignored. Over an epoch, the values of batches are
averaged, weighted by samples. A metric that is not such a mean, as `AUC`, also implements ``collect(y_true, y_pred) ->
tuple of arrays``, which returns what is needed of a batch, samples first, and ``compute(*arrays) -> float``, which gets
these arrays concatenated over all batches.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import numpy as np

from lcnumba.runtime.signals import deferred
from lcnumba.utils.messages import public_class
from lcnumba.utils.sums import exact_sum, line_sums
from lcnumba.utils.types import Array

__all__ = ["AUC", "accuracy", "binary_accuracy", "get", "mae", "mse"]

Metric = Callable[[Array, Array], float]


def accuracy(y_true: Array, y_pred: Array) -> float:
    """Fraction of predictions whose largest output is the label.

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
    return _mean_of_known(*_accuracy(y_true, y_pred))


def binary_accuracy(y_true: Array, y_pred: Array, threshold: float = 0.5) -> float:
    """Fraction of elements where ``y_pred > threshold`` equals ``y_true > 0.5``.

    Parameters
    ----------
    y_true, y_pred : arrays of one shape
        Targets 0 or 1, and probabilities; for logits use ``threshold=0``.
    threshold : float, default 0.5
        Predictions above it are positive.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.metrics.binary_accuracy(np.array([[1, 0]]), np.array([[0.9, 0.8]]))
    0.5
    """
    return _mean_of_known(*_binary_accuracy(y_true, y_pred, threshold))


def mae(y_true: Array, y_pred: Array) -> float:
    """Mean of abs(y_pred - y_true) over all elements.

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
    return _mean_of_known(*_mae(y_true, y_pred))


def mse(y_true: Array, y_pred: Array) -> float:
    """Mean of (y_pred - y_true)^2 over all elements.

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
    return _mean_of_known(*_mse(y_true, y_pred))


@public_class
class AUC:
    """Area under the ROC curve: the probability that a positive is ranked above a negative, ties counting half.

    Over an epoch it is computed from all samples, at the end, and not averaged over batches. Predictions may be
    probabilities or logits, since only their order matters. Targets that are NaN are ignored. ``metrics=["auc"]`` is
    the same with the name "auc".

    Parameters
    ----------
    name : str, default "auc"
        Name of the metric.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.metrics.AUC()(np.array([0, 0, 1, 1]), np.array([[0.1], [0.4], [0.4], [0.8]])[:, 0])
    0.875
    >>> lc.metrics.AUC()(np.array([0, 1]), np.array([[2.0, 1.0], [0.0, 3.0]]))  # labels, and two outputs
    1.0
    """

    def __init__(self, name: str = "auc") -> None:
        given: Any = name
        if not isinstance(given, str):
            raise TypeError(f"name must be a str, got {name!r}")
        self.__name__ = name

    def collect(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return what is needed of a batch: which samples are positive, and scores.

        Parameters
        ----------
        y_true : array
            0 or 1, of the shape of y_pred; or labels 0 and 1 without its last axis, which then has length 2.
        y_pred : (N, ...) array
            Predictions.

        Returns
        -------
        cases : (M,) bool array
        scores : (M,) array
        """
        if y_true.shape == y_pred.shape:
            truth, scores = y_true.reshape(-1), y_pred.reshape(-1)
        elif y_pred.shape == (*y_true.shape, 2):
            truth, scores = y_true.reshape(-1), (y_pred[..., 1] - y_pred[..., 0]).reshape(-1)
        else:
            raise ValueError(
                "AUC needs targets 0 or 1 of the shape of the predictions, or labels and two outputs per label, got y "
                f"of shape {y_true.shape} and predictions of shape {y_pred.shape}"
            )
        if truth.dtype.kind == "f":
            known = ~np.isnan(truth)
            truth, scores = truth[known], scores[known]
        if not np.all((truth == 0) | (truth == 1)):
            raise ValueError(f"y must be 0 or 1 for AUC, got values from {truth.min()} to {truth.max()}")
        return truth > 0.5, np.array(scores)

    def compute(self, cases: Array, scores: Array) -> float:
        """Return the area for the concatenated results of `collect`; NaN unless both classes occur."""
        with deferred():
            from scipy.stats import rankdata

        count = int(np.count_nonzero(cases))
        pairs = count * (len(cases) - count)
        if not pairs or np.isnan(scores).any():
            return math.nan
        return float((rankdata(scores)[cases].sum() - count * (count + 1) / 2) / pairs)

    def __call__(self, y_true: Array, y_pred: Array) -> float:
        """Return the area for these predictions."""
        return self.compute(*self.collect(y_true, y_pred))

    def __repr__(self) -> str:
        """The constructor call."""
        return f"AUC(name={self.__name__!r})"


def needs_all_samples(metric: Any) -> TypeGuard[AUC]:
    """Whether a metric is computed from all samples of an epoch: it has `collect` and `compute`."""
    return callable(getattr(metric, "collect", None)) and callable(getattr(metric, "compute", None))


# The terms of which each metric is the mean, and targets, of which those that are NaN have none.
Terms = tuple[Array, Array]


def _accuracy(y_true: Array, y_pred: Array) -> Terms:
    shape = y_pred.shape
    if y_pred.ndim < 2 or shape[-1] < 2 or y_true.shape not in (shape, shape[:-1]):
        raise ValueError(
            "accuracy needs predictions (batch, ..., at least 2 classes) and labels (batch, ...) or "
            f"(batch, ..., classes), got y of shape {y_true.shape} and predictions of shape {shape}; for a single "
            "binary output use 'binary_accuracy'"
        )
    if y_true.ndim < y_pred.ndim:
        return np.argmax(y_pred, axis=-1) == y_true, y_true
    return np.argmax(y_pred, axis=-1) == np.argmax(y_true, axis=-1), y_true.sum(axis=-1)


def _binary_accuracy(y_true: Array, y_pred: Array, threshold: float = 0.5) -> Terms:
    _alike("binary_accuracy", y_true, y_pred)
    return (y_pred > threshold) == (y_true > 0.5), y_true


def _mae(y_true: Array, y_pred: Array) -> Terms:
    _alike("mae", y_true, y_pred)
    return np.abs(np.subtract(y_pred, y_true, dtype=np.float64)), y_true


def _mse(y_true: Array, y_pred: Array) -> Terms:
    _alike("mse", y_true, y_pred)
    return np.square(np.subtract(y_pred, y_true, dtype=np.float64)), y_true


_TERMS: dict[Metric, Callable[[Array, Array], Terms]] = {
    accuracy: _accuracy, binary_accuracy: _binary_accuracy, mae: _mae, mse: _mse
}  # fmt: skip


def is_mean_of_terms(metric: Metric) -> bool:
    """Whether `sums_of` knows the metric."""
    return _terms_of(metric) is not None


def sums_of(metric: Metric, y_true: Array, y_pred: Array) -> tuple[Array, int]:
    """Return the sums by line of the terms whose mean the metric is, and their number."""
    terms = _terms_of(metric)
    assert terms is not None
    return _sums_of_known(*terms(y_true, y_pred))


def _terms_of(metric: Metric) -> Callable[[Array, Array], Terms] | None:
    """By identity: a metric of one's own need not be hashable."""
    return next((terms for known, terms in _TERMS.items() if known is metric), None)


def _mean_of_known(values: Array, y_true: Array) -> float:
    """Mean of the values whose target is not NaN; NaN if there are none."""
    sums, count = _sums_of_known(values, y_true)
    return exact_sum(sums) / count if count else math.nan


def _sums_of_known(values: Array, y_true: Array) -> tuple[Array, int]:
    """The sums by line of the values whose target is not NaN, and how many these are."""
    if y_true.dtype.kind == "f" and (unknown := np.isnan(y_true)).any():
        return line_sums(np.where(unknown, 0, values)), values.size - int(np.count_nonzero(unknown))
    return line_sums(values), values.size


def _alike(name: str, y_true: Array, y_pred: Array) -> None:
    if y_true.shape != y_pred.shape:
        raise ValueError(f"{name} needs y and predictions of the same shape, got {y_true.shape} and {y_pred.shape}")


_BY_NAME: dict[str, Metric] = {function.__name__: function for function in (accuracy, binary_accuracy, mae, mse)}
_BY_NAME |= {"auc": AUC(), "AUC": AUC(), "mean_absolute_error": mae, "mean_squared_error": mse}


def get(metrics: Iterable[Any] | None) -> dict[str, Metric]:
    """Return metrics by name, from names and callables.

    Parameters
    ----------
    metrics : iterable of str or callable, or None
        Names and functions ``metric(y_true, y_pred) -> float``.

    Returns
    -------
    dict of str to callable

    Raises
    ------
    ValueError
        If a name is unknown or not unique.

    Examples
    --------
    >>> import lcnumba as lc
    >>> list(lc.metrics.get(["accuracy", "mae"]))
    ['accuracy', 'mae']
    """
    if metrics is None:
        return {}
    given: Any = metrics
    # A 0-d array is an instance of Iterable.
    if isinstance(given, str) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        given = [given]
    found: dict[str, Metric] = {}
    for metric in given:
        if isinstance(metric, str) and metric in _BY_NAME:
            name, function = metric.lower(), _BY_NAME[metric]
        elif callable(metric) and not isinstance(metric, type):
            name, function = getattr(metric, "__name__", type(metric).__name__), metric
        else:
            raise ValueError(f"metric={metric!r} is not known; give one of {', '.join(_BY_NAME)}, or a function")
        if not isinstance(name, str):
            raise TypeError(f"__name__ of metric={metric!r:.80} must be a str, got {name!r:.80}")
        if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ValueError(f"__name__ of metric={metric!r:.80} must be valid Unicode, got {name!r:.80}")
        if name in found or name == "loss" or name.startswith("val_"):
            raise ValueError(
                f"metric name {name!r} is reserved or not unique; give each metric a __name__ of its own, not 'loss' "
                "or 'val_...'"
            )
        found[name] = function
    return found


def __dir__() -> list[str]:
    return __all__
