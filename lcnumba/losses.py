"""Losses, each with its gradient: ``loss(y_true, y_pred) -> (mean over the batch, dy_pred)``.

A loss may also bring ``check(y_true, shape)``, which raises unless the targets fit predictions of
that shape: `fit` asks it before the first step.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba import named

__all__ = ["MeanSquaredError", "SoftmaxCrossEntropy", "get"]

Array = npt.NDArray[Any]
Loss = Callable[[Array, Array], tuple[float, Array]]


class MeanSquaredError:
    """Mean of (y_pred - y_true)^2 over all numbers of the batch."""

    def check(self, y_true: Array, shape: tuple[int, ...]) -> None:
        """Raise unless the targets fit predictions of this shape."""
        if y_true.shape != shape:
            raise ValueError(f"y has shape {y_true.shape}; the model predicts shape {shape}")
        if y_true.dtype.kind not in "biuf":
            raise TypeError(f"y has dtype {y_true.dtype}; give real numbers")

    def __call__(self, y_true: Array, y_pred: Array) -> tuple[float, Array]:
        """Return the loss and its gradient by y_pred.

        Parameters
        ----------
        y_true, y_pred : (N, ...) arrays of equal shape
        """
        self.check(y_true, y_pred.shape)
        difference = y_pred - y_true.astype(y_pred.dtype, copy=False)
        loss = float(np.mean(np.square(difference), dtype=np.float64))
        difference *= difference.dtype.type(2 / max(1, difference.size))
        return loss, difference


class SoftmaxCrossEntropy:
    """Cross-entropy of the softmax of y_pred (logits: the last layer has no activation).

    Computed through log-sum-exp, so that large logits neither overflow nor lose the loss.
    """

    def check(self, y_true: Array, shape: tuple[int, ...]) -> None:
        """Raise unless the targets are labels or probabilities for predictions of this shape."""
        if len(shape) != 2:
            raise ValueError(f"the model predicts shape {shape}; cross-entropy needs (batch, classes)")
        n, classes = shape
        if y_true.shape not in ((n,), (n, classes)):
            raise ValueError(f"y has shape {y_true.shape}; give labels ({n},) or probabilities {(n, classes)}")
        if y_true.ndim == 2:
            if y_true.dtype.kind not in "biuf" or not np.all(y_true >= 0):
                raise ValueError("y holds rows that are no probabilities; give numbers of at least 0")
        elif y_true.dtype.kind not in "iu":
            raise TypeError(f"y holds labels of dtype {y_true.dtype}; give integers, or one row of probabilities each")
        elif n and not (y_true.min() >= 0 and y_true.max() < classes):
            raise ValueError(f"y holds labels from {y_true.min()} to {y_true.max()}; give 0 to {classes - 1}")

    def __call__(self, y_true: Array, y_pred: Array) -> tuple[float, Array]:
        """Return the loss and its gradient by y_pred.

        Parameters
        ----------
        y_true : (N,) integers from 0 to classes - 1, or (N, classes) probabilities
        y_pred : (N, classes)
        """
        self.check(y_true, y_pred.shape)
        if y_true.ndim == 1:
            target = np.zeros(y_pred.shape, y_pred.dtype)
            target[np.arange(len(y_true)), y_true] = 1
        else:
            target = y_true.astype(y_pred.dtype, copy=False)
        shifted = y_pred - np.max(y_pred, axis=-1, keepdims=True)
        weight = np.exp(shifted)
        total = np.sum(weight, axis=-1, keepdims=True)
        # Selected, since a class of probability 0 may have a logit of -inf.
        loss = np.sum(target * np.where(target > 0, np.log(total) - shifted, 0), axis=-1)
        gradient = weight / total * np.sum(target, axis=-1, keepdims=True) - target
        gradient /= gradient.dtype.type(max(1, len(gradient)))
        return float(np.mean(loss, dtype=np.float64)), gradient


_BY_NAME = {
    "mse": MeanSquaredError,
    "mean_squared_error": MeanSquaredError,
    "softmax_cross_entropy": SoftmaxCrossEntropy,
}


def get(identifier: Any) -> Loss:
    """Return the loss of a name, or a callable of the documented signature itself."""
    found = named.build("loss", _BY_NAME, identifier)
    if not callable(found):
        raise TypeError(f"loss={identifier!r} is neither a name nor a callable loss(y_true, y_pred) -> (value, dy)")
    return found
