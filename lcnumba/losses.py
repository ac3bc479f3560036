"""Losses, each with its gradient: ``loss(y_true, y_pred) -> (mean over the batch, dy_pred)``."""

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

    def __call__(self, y_true: Array, y_pred: Array) -> tuple[float, Array]:
        """Return the loss and its gradient by y_pred.

        Parameters
        ----------
        y_true, y_pred : (N, ...) arrays of equal shape
        """
        if y_true.shape != y_pred.shape:
            raise ValueError(f"y has shape {y_true.shape}; the model predicts shape {y_pred.shape}")
        difference = y_pred - y_true.astype(y_pred.dtype, copy=False)
        loss = float(np.mean(np.square(difference), dtype=np.float64))
        difference *= difference.dtype.type(2 / max(1, difference.size))
        return loss, difference


class SoftmaxCrossEntropy:
    """Cross-entropy of the softmax of y_pred (logits: the last layer has no activation).

    Computed through log-sum-exp, so that large logits neither overflow nor lose the loss.
    """

    def __call__(self, y_true: Array, y_pred: Array) -> tuple[float, Array]:
        """Return the loss and its gradient by y_pred.

        Parameters
        ----------
        y_true : (N,) integers from 0 to classes - 1, or (N, classes) probabilities
        y_pred : (N, classes)
        """
        target = self._probabilities(y_true, y_pred)
        shifted = y_pred - np.max(y_pred, axis=-1, keepdims=True)
        weight = np.exp(shifted)
        total = np.sum(weight, axis=-1, keepdims=True)
        loss = np.sum(target * (np.log(total) - shifted), axis=-1)
        gradient = weight / total * np.sum(target, axis=-1, keepdims=True) - target
        gradient /= gradient.dtype.type(max(1, len(gradient)))
        return float(np.mean(loss, dtype=np.float64)), gradient

    @staticmethod
    def _probabilities(y_true: Array, y_pred: Array) -> Array:
        if y_pred.ndim != 2:
            raise ValueError(f"the model predicts shape {y_pred.shape}; cross-entropy needs (batch, classes)")
        n, classes = y_pred.shape
        if y_true.shape == (n, classes):
            return y_true.astype(y_pred.dtype, copy=False)
        if y_true.shape != (n,):
            raise ValueError(f"y has shape {y_true.shape}; give labels ({n},) or probabilities {(n, classes)}")
        if y_true.dtype.kind not in "iu":
            raise TypeError(f"y holds labels of dtype {y_true.dtype}; give integers, or one row of probabilities each")
        if n and not (y_true.min() >= 0 and y_true.max() < classes):
            raise ValueError(f"y holds labels from {y_true.min()} to {y_true.max()}; give 0 to {classes - 1}")
        target = np.zeros((n, classes), y_pred.dtype)
        target[np.arange(n), y_true] = 1
        return target


_BY_NAME = {
    "mse": MeanSquaredError,
    "mean_squared_error": MeanSquaredError,
    "softmax_cross_entropy": SoftmaxCrossEntropy,
}


def get(identifier: Any) -> Loss:
    """Return the loss of a name, or a callable of the documented signature itself."""
    found = named.build("loss", _BY_NAME, identifier)
    if isinstance(found, type) or not callable(found):
        raise TypeError(f"loss={identifier!r} is neither a name nor a callable loss(y_true, y_pred) -> (value, dy)")
    return found
