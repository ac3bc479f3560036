"""Losses and their gradients: ``loss(y_true, y_pred) -> (value, dy_pred)``.

The value is the mean over the samples of a batch and over the elements or positions of each sample. The optional third
argument is a weight per sample or per position, by which its part of the loss is multiplied before the mean is taken
(as in Keras, weights are not normalised). A loss may also implement ``check(y_true, shape)``, which raises unless the
targets are valid for predictions of that shape; `fit` calls it before the first step.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from lcnumba.kernels.rules import ABSOLUTE, HUBER, SQUARED
from lcnumba.runtime.signals import import_whole
from lcnumba.utils import registry
from lcnumba.utils.arrays import FLOATS, normalise
from lcnumba.utils.messages import public_class
from lcnumba.utils.sums import exact_sum, ordered_sum
from lcnumba.utils.types import Array, Mask
from lcnumba.utils.validation import MAXIMUM, axes_hint, boolean, integer, real

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Huber",
    "Masked",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "SoftmaxCrossEntropy",
    "SparseCategoricalCrossentropy",
    "get",
    "takes_weights",
]

Loss = Callable[..., tuple[float, Array]]

# Elements processed at a time, so that temporary arrays stay in the cache.
BLOCK = 1 << 13
# Tolerance for probabilities above 1 and for sums of probabilities; larger than any rounding error.
TOLERANCE = 1e-3


class _OfLines:
    """A mean of terms, whose sums are known line by line, so that lines may be in several processes."""

    def count(self, y_true: Array, y_pred: Array) -> int:
        """Return the number of terms that are averaged."""
        raise NotImplementedError

    def by_line(
        self, y_true: Array, y_pred: Array, weights: Array | None = None, count: int | None = None
    ) -> tuple[Array, Array]:
        """Return the sum of the terms of each line, the second axis, and the gradient of their mean.

        Parameters
        ----------
        y_true, y_pred, weights
            As for the loss.
        count : int, optional
            The number of terms that are averaged, if there are more than those of these arrays.
        """
        raise NotImplementedError

    def __call__(self, y_true: Array, y_pred: Array, weights: Array | None = None) -> tuple[float, Array]:
        """Return the loss and its gradient by y_pred.

        Parameters
        ----------
        y_true : array
            Targets, as described in the class.
        y_pred : (N, ...) array
            Predictions.
        weights : (N,) array, or (N, ...) by position, optional
            A weight per sample or, with the leading axes of y_pred, per position.

        Returns
        -------
        value : float
            Summed up in float64.
        dy_pred : array
            Of the shape of y_pred, and of its dtype if that is float32 or float64.

        Raises
        ------
        ValueError, TypeError
            If the targets or weights do not match the predictions, or these should be probabilities but are not.
        """
        sums, gradient = self.by_line(y_true, y_pred, weights)
        return exact_sum(sums) / max(1, self.count(y_true, gradient)), gradient


class _Mean(_OfLines):
    """A mean of terms, one per row (last axis) or per element of the predictions, computed in blocks."""

    def check(self, y_true: Array, shape: tuple[int, ...]) -> None:
        """Raise unless the targets are valid for predictions of this shape."""
        raise NotImplementedError

    def _terms(self, t: Array, p: Array, derivative: Array) -> Array:
        """The terms of a block; their derivative by p is written to `derivative`."""
        raise NotImplementedError

    def _rows(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Targets and predictions, reshaped: one row or number for each of the places, along the first axis."""
        raise NotImplementedError

    def _places(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The leading axes of the predictions that weights may have."""
        return shape

    def _refuse_logits(self, y_pred: Array) -> None:
        """Raise if predictions should be probabilities but are not."""

    def doubt(self, y_pred: Array) -> str | None:
        """Return a warning about predictions that are valid but suspicious, or None."""
        return None

    def by_line(
        self, y_true: Array, y_pred: Array, weights: Array | None = None, count: int | None = None
    ) -> tuple[Array, Array]:
        """Return the sum of the terms of each line, and the gradient of their mean."""
        _refuse_masks(y_true, y_pred, weights)
        self.check(y_true, y_pred.shape)
        self._refuse_logits(y_pred)
        places = self._places(y_pred.shape)
        y_pred, weights = _floats(y_pred), _flat_weights(weights, places)
        targets, rows = self._rows(y_true, y_pred)
        gradient = np.empty(y_pred.shape, y_pred.dtype)
        derivatives = gradient.reshape(rows.shape)
        terms = max(1, self.count(y_true, y_pred) if count is None else count)
        if weights is not None:
            weights = np.repeat(weights, len(rows) // max(1, weights.size)).astype(y_pred.dtype, copy=False)
        samples, lines, each = len(y_pred), math.prod(places[1:2]), math.prod(places[2:])
        sums = np.zeros(lines)
        for part, first, shape in _blocks(samples, lines, each, max(1, BLOCK * len(rows) // max(1, rows.size))):
            derivative = derivatives[part]
            values = self._terms(targets[part], rows[part], derivative)
            if weights is not None:
                values = values * weights[part].reshape(-1, *[1] * (values.ndim - 1))
                derivative *= weights[part].reshape(-1, *[1] * (derivative.ndim - 1))
            of_lines = slice(first, first + shape[1])
            sums[of_lines] = ordered_sum(
                np.add.reduce(values.astype(np.float64).reshape(shape), axis=-1), sums[of_lines]
            )
            derivative *= derivative.dtype.type(1 / terms)
        return sums, gradient


def _blocks(samples: int, lines: int, each: int, size: int) -> Iterator[tuple[slice, int, tuple[int, int, int]]]:
    """The blocks of (samples, lines, each) rows: a slice of the rows, the first line, and the block's shape.

    How a line is divided depends on its own length alone, so that its sum does not depend on the number of lines.
    """
    if each > size:
        for line in range(samples * lines):
            for at in range(0, each, size):
                length = min(size, each - at)
                yield slice(line * each + at, line * each + at + length), line % lines, (1, 1, length)
    elif lines * each > size:
        for sample in range(samples):
            for line in range(0, lines, size // each):
                number = min(size // each, lines - line)
                at = (sample * lines + line) * each
                yield slice(at, at + number * each), line, (1, number, each)
    else:
        number = size // max(1, lines * each)
        for sample in range(0, samples, number):
            count = min(number, samples - sample)
            yield slice(sample * lines * each, (sample + count) * lines * each), 0, (count, lines, each)


def _refuse_masks(*arrays: Any) -> None:
    """Raise for masked arrays, whose mask would be ignored; `fit` does the same for its arguments."""
    for name, array in zip(("y_true", "y_pred", "weights"), arrays, strict=True):
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(
                f"{name} is a numpy MaskedArray; its mask would be ignored; use .filled(np.nan) with "
                "lcnumba.losses.Masked"
            )


def _check_numbers(y_true: Array, shape: tuple[int, ...]) -> None:
    """Raise unless targets are real and have the shape of the predictions."""
    if y_true.shape != shape:
        raise ValueError(
            f"y has shape {y_true.shape}; the model predicts shape {shape}{axes_hint('y', y_true.shape, shape)}"
        )
    if y_true.dtype.kind not in "biuf":
        raise TypeError(f"y has dtype {y_true.dtype}; give real numbers")


def _floats(y_pred: Array) -> Array:
    """Predictions in native byte order and a dtype that is computed in: float64 for integers."""
    native = y_pred.dtype.newbyteorder("=")
    return normalise("y_pred", y_pred, native if native in FLOATS else FLOATS[1])


def _flat_weights(weights: Any, shape: tuple[int, ...]) -> Array | None:
    """Validated weights of samples or positions as a vector; kernels do not check its length."""
    if weights is None:
        return None
    values = np.asarray(weights)
    if not values.ndim or values.shape != shape[: values.ndim]:
        raise ValueError(
            f"sample_weight or weights must have one weight for each of {shape[0]} samples"
            + (f", or for each position of {shape}" if len(shape) > 1 else "")
            + f", got shape {values.shape}"
        )
    return normalise("weights", values, FLOATS[1]).reshape(-1)


def _refused(predicted: float, loss: str, activation: str, instead: str) -> ValueError:
    """The error for a prediction that is not a probability."""
    return ValueError(
        f"the model predicts {predicted:.4g}, but {loss} needs probabilities in [0, 1]; end the model in "
        f"activation={activation!r}, or use {instead} with a last layer without activation"
    )


class _Elementwise(_OfLines):
    """A mean over elements of a function of y_pred - y_true; computed by a kernel on all threads."""

    _kind: ClassVar[int]

    def check(self, y_true: Array, shape: tuple[int, ...]) -> None:
        """Raise unless the targets are valid for predictions of this shape."""
        _check_numbers(y_true, shape)

    def count(self, y_true: Array, y_pred: Array) -> int:
        """Return the number of elements."""
        return y_pred.size

    def by_line(
        self, y_true: Array, y_pred: Array, weights: Array | None = None, count: int | None = None
    ) -> tuple[Array, Array]:
        """Return the sum of the terms of each line, and the gradient of their mean."""
        _refuse_masks(y_true, y_pred, weights)
        self.check(y_true, y_pred.shape)
        p = _floats(y_pred)
        t = np.require(y_true, dtype=p.dtype, requirements=("C", "A"))
        terms = p.size if count is None else count
        return _differences().run(self._kind, getattr(self, "delta", 0.0), t, p, _flat_weights(weights, p.shape), terms)


@import_whole
def _differences() -> Any:
    from lcnumba.kernels import differences

    return differences


@public_class
@dataclass(frozen=True)
class MeanSquaredError(_Elementwise):
    """Mean of (y_pred - y_true)^2 over all elements of the batch.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> value, dy = lc.losses.MeanSquaredError()(np.array([[1, 2]]), np.array([[2.0, 4.0]]))
    >>> value, dy
    (2.5, array([[1., 2.]]))
    """

    _kind: ClassVar[int] = SQUARED


@public_class
@dataclass(frozen=True)
class MeanAbsoluteError(_Elementwise):
    """Mean of abs(y_pred - y_true) over all elements of the batch; its derivative at 0 is 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.losses.MeanAbsoluteError()(np.array([[1, 2]]), np.array([[2.0, 0.0]]))
    (1.5, array([[ 0.5, -0.5]]))
    """

    _kind: ClassVar[int] = ABSOLUTE


@public_class
@dataclass(frozen=True)
class Huber(_Elementwise):
    """Mean of the Huber loss over all elements: half the squared difference up to `delta`, linear beyond.

    Parameters
    ----------
    delta : float, default 1
        Above 0.

    Raises
    ------
    ValueError
        If it is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.losses.Huber()(np.array([[0, 0]]), np.array([[1.0, -3.0]]))
    (1.5, array([[ 0.5, -0.5]]))
    """

    _kind: ClassVar[int] = HUBER
    delta: float = 1.0

    def __post_init__(self) -> None:
        """Validate the parameter."""
        delta = real("delta", self.delta)
        if delta <= 0:
            raise ValueError(f"delta must be > 0, got {self.delta!r}")
        self.__dict__.update(delta=delta)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal loss."""
        return asdict(self)


@public_class
@dataclass(frozen=True)
class BinaryCrossentropy(_Mean):
    """Mean of the binary cross-entropy over all elements of the prediction.

    Targets are probabilities, 0 or 1 for instance, of the shape of the prediction.

    Parameters
    ----------
    from_logits : bool, default False
        Whether predictions are logits (no last activation), which is numerically more accurate, or probabilities (a
        sigmoid as last activation).

    Notes
    -----
    Keras clips probabilities to [1e-7, 1 - 1e-7], where the gradient becomes 0; here they are clipped only where the
    logarithm would be infinite.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> value, dy = lc.losses.BinaryCrossentropy(from_logits=True)(np.array([[1, 0]]), np.array([[0.0, 0.0]]))
    >>> round(value, 4), dy
    (0.6931, array([[-0.25,  0.25]]))
    """

    from_logits: bool = False

    def __post_init__(self) -> None:
        """Validate the parameter."""
        boolean("from_logits", self.from_logits)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal loss."""
        return asdict(self)

    def check(self, y_true: Array, shape: tuple[int, ...]) -> None:
        """Raise unless the targets are probabilities for predictions of this shape."""
        _check_numbers(y_true, shape)
        # By min and max, without a boolean array: y may be a memory map larger than memory.
        if y_true.size and not (y_true.min() >= 0 and y_true.max() <= 1):
            raise ValueError("y must be in [0, 1] for binary cross-entropy")

    def _refuse_logits(self, y_pred: Array) -> None:
        if self.from_logits or not y_pred.size:
            return
        for value in (y_pred.min(), y_pred.max()):
            if value < 0 or value > 1 + TOLERANCE:
                instead = "lcnumba.losses.BinaryCrossentropy(from_logits=True)"
                raise _refused(value, "binary cross-entropy", "sigmoid", instead)

    def count(self, y_true: Array, y_pred: Array) -> int:
        """Return the number of elements."""
        return y_pred.size

    def _rows(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        return y_true.reshape(-1), y_pred.reshape(-1)

    def _terms(self, t: Array, p: Array, derivative: Array) -> Array:
        t = t.astype(p.dtype, copy=False)
        if self.from_logits:
            small = np.exp(-np.abs(p))
            np.subtract(np.where(p >= 0, 1, small) / (1 + small), t, out=derivative)
            return np.maximum(p, 0) - p * t + np.log1p(small)
        yes, no = _positive(p), _positive(1 - p)
        np.subtract((1 - t) / no, t / yes, out=derivative)
        return -(t * np.log(yes) + (1 - t) * np.log(no))


@public_class
@dataclass(frozen=True)
class _Categorical(_Mean):
    """Mean of the categorical cross-entropy, over all axes but the last, that of the classes."""

    takes_labels: ClassVar[bool] = True
    takes_rows: ClassVar[bool] = True
    from_logits: bool = False

    def __post_init__(self) -> None:
        """Validate the parameter."""
        boolean("from_logits", self.from_logits)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal loss."""
        return asdict(self)

    def check(self, y_true: Array, shape: tuple[int, ...]) -> None:
        """Raise unless the targets are valid for predictions of this shape."""
        if len(shape) < 2:
            raise ValueError(f"predictions must have shape (batch, ..., classes) for cross-entropy, got {shape}")
        *places, classes = shape
        wanted = {f"labels {tuple(places)}": (*places,)} if self.takes_labels else {}
        wanted |= {f"probabilities {shape}": shape} if self.takes_rows else {}
        if y_true.shape not in wanted.values():
            raise ValueError(f"y must be {' or '.join(wanted)}, got shape {y_true.shape}{self._hint(y_true, shape)}")
        if y_true.ndim == len(shape):
            if y_true.dtype.kind not in "biuf" or (y_true.size and not y_true.min() >= 0):
                raise ValueError("rows of y must be probabilities >= 0")
        elif y_true.dtype.kind not in "iu":
            raise TypeError(f"labels y must be integers, got dtype {y_true.dtype}; or give rows of probabilities")
        elif y_true.size and not (y_true.min() >= 0 and y_true.max() < classes):
            raise ValueError(f"labels y must be in [0, {classes - 1}], got {y_true.min()} to {y_true.max()}")

    def _hint(self, y_true: Array, shape: tuple[int, ...]) -> str:
        """What to do with targets of this shape."""
        *places, classes = shape
        if y_true.shape == shape:
            return "; use 'categorical_crossentropy', or convert y to labels with y.argmax(axis=-1)"
        if y_true.shape == (*places,):
            return f"; use 'sparse_categorical_crossentropy', or convert y to rows with np.eye({classes})[y]"
        return axes_hint("y", y_true.shape, (*places,) if self.takes_labels else shape)

    def _places(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:-1]

    def _refuse_logits(self, y_pred: Array) -> None:
        if not self.from_logits and y_pred.size and (value := y_pred.min()) < 0:
            raise _refused(value, "categorical cross-entropy", "softmax", f"loss={self._from_logits()}")

    def _from_logits(self) -> str:
        """The loss from logits for the same targets."""
        if not self.takes_rows:
            return "'softmax_cross_entropy'"
        return f"lcnumba.losses.{type(self).__name__}(from_logits=True)"

    def doubt(self, y_pred: Array) -> str | None:
        """Return a warning if rows of probabilities do not sum to 1, or None."""
        if self.from_logits or not y_pred.size:
            return None
        sums = y_pred.sum(axis=-1, dtype=np.float64)
        if not np.any(np.abs(sums - 1) > TOLERANCE):
            return None
        return (
            f"predictions sum to {sums.min():.4g} ... {sums.max():.4g} over the classes and are divided by their sum, "
            f"as in Keras; end the model in activation='softmax', or use loss={self._from_logits()} with a last layer "
            "without activation"
        )

    def count(self, y_true: Array, y_pred: Array) -> int:
        """Return the number of positions."""
        return math.prod(y_pred.shape[:-1])

    def _rows(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        rows = y_pred.reshape(-1, y_pred.shape[-1])
        return (y_true.reshape(rows.shape) if y_true.ndim == y_pred.ndim else y_true.reshape(-1)), rows

    def _terms(self, t: Array, p: Array, derivative: Array) -> Array:
        if t.ndim == 1:
            target = np.zeros(p.shape, p.dtype)
            target[np.arange(len(t)), t] = 1
        else:
            target = t.astype(p.dtype, copy=False)
        weight = target.sum(axis=-1, keepdims=True)
        if self.from_logits:
            shifted = p - np.max(p, axis=-1, keepdims=True)
            powers = np.exp(shifted)
            total = np.sum(powers, axis=-1, keepdims=True)
            np.subtract(powers / total * weight, target, out=derivative)
            logarithm = np.log(total) - shifted
        else:
            total, chance = _positive(np.sum(p, axis=-1, keepdims=True)), _positive(p)
            np.subtract(weight / total, target / chance, out=derivative)
            logarithm = np.log(total) - np.log(chance)
        # np.where, since a class of probability 0 may have a logit of -inf.
        return np.sum(target * np.where(target > 0, logarithm, 0), axis=-1)


@public_class
class SoftmaxCrossEntropy(_Categorical):
    """Cross-entropy of the softmax of y_pred, which are logits (no last activation).

    Targets are integers from 0 to classes - 1, (N, ...), or rows of probabilities, (N, ..., classes). It is computed
    by log-sum-exp, so that large logits neither overflow nor lose precision.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> value, dy = lc.losses.SoftmaxCrossEntropy()(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(value, 4), dy
    (0.6931, array([[ 0.5, -0.5]]))
    """

    def __init__(self) -> None:
        super().__init__(from_logits=True)

    def get_config(self) -> dict[str, Any]:
        """Return no arguments."""
        return {}


class SparseCategoricalCrossentropy(_Categorical):
    """Cross-entropy for integer labels (N, ...) and predictions (N, ..., classes).

    Parameters
    ----------
    from_logits : bool, default False
        Whether predictions are logits (no last activation), which is numerically more accurate, or probabilities (a
        softmax as last activation), which are divided by their sum.

    Notes
    -----
    Keras clips probabilities at 1e-7, where the gradient becomes 0; here they are clipped only where the logarithm
    would be infinite.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> value, dy = lc.losses.SparseCategoricalCrossentropy()(np.array([1]), np.array([[0.5, 0.5]]))
    >>> round(value, 4), dy
    (0.6931, array([[ 1., -1.]]))
    """

    takes_rows = False


class CategoricalCrossentropy(_Categorical):
    """Cross-entropy for rows of probabilities, one-hot for instance; targets and predictions are (N, ..., classes).

    Parameters
    ----------
    from_logits : bool, default False
        As for `SparseCategoricalCrossentropy`.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> value, dy = lc.losses.CategoricalCrossentropy()(np.array([[0, 1]]), np.array([[0.5, 0.5]]))
    >>> round(value, 4), dy
    (0.6931, array([[ 1., -1.]]))
    """

    takes_labels = False


def _positive(p: Array) -> Array:
    """Probabilities, clipped at the smallest normal number of the dtype."""
    return np.maximum(p, np.finfo(p.dtype).tiny)


@public_class
@dataclass(frozen=True)
class Masked:
    """A loss that ignores unknown targets, which are NaN (land in a field of the sea for instance).

    The value is the mean over the elements, or for categorical losses the positions, whose target is known; the
    gradient is 0 at the others. If no target is known, the value is 0.

    Parameters
    ----------
    loss : str, dict or callable
        As for `get`. A custom function gets the known targets and predictions as vectors.
    ignore_class : int, optional
        A label, or value, that also marks unknown targets, since integers have no NaN.

    Raises
    ------
    ValueError, TypeError
        If the loss is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> value, dy = lc.losses.Masked("mse")(np.array([[1.0, np.nan]]), np.array([[3.0, 5.0]]))
    >>> value, dy
    (4.0, array([[4., 0.]]))
    """

    loss: Any
    ignore_class: int | None = None

    def __post_init__(self) -> None:
        """Validate the parameters."""
        label = self.ignore_class
        if label is not None:
            label = integer("ignore_class", label, -MAXIMUM)
        loss = get(self.loss)
        if isinstance(loss, Masked):
            raise TypeError(f"loss must not be Masked itself, got {self.loss!r}")
        self.__dict__.update(loss=loss, ignore_class=label)

    def check(self, y_true: Array, shape: tuple[int, ...]) -> None:
        """Raise unless the known targets are valid for predictions of this shape."""
        check = getattr(self.loss, "check", None)
        if check is None:
            return
        places = self._places(shape)
        if y_true.shape in (shape, places):
            known, targets = self._known(y_true, y_true.ndim == len(places))
            count = int(np.count_nonzero(known))
            check(targets[known], (count, *shape[len(places) :]))
        else:
            check(y_true, shape)  # raises

    def with_unknown(self, y_true: Array, y_pred: Array) -> Array:
        """Return the targets with NaN in place of unknown ones, for metrics."""
        places = self._places(y_pred.shape)
        known, targets = self._known(y_true, y_true.ndim == len(places))
        if known.all():
            return y_true
        return np.where(known.reshape(known.shape + (1,) * (targets.ndim - known.ndim)), targets, np.nan)

    def doubt(self, y_pred: Array) -> str | None:
        """Return the warning of the masked loss, or None."""
        doubt = getattr(self.loss, "doubt", None)
        return None if doubt is None else doubt(y_pred)

    def __call__(self, y_true: Array, y_pred: Array, weights: Array | None = None) -> tuple[float, Array]:
        """Return the loss over known targets, and its gradient by y_pred.

        Parameters
        ----------
        y_true, y_pred, weights
            As for the masked loss; targets may be NaN.

        Returns
        -------
        value : float
        dy_pred : array
            Of the shape of y_pred.
        """
        _refuse_masks(y_true, y_pred, weights)
        if isinstance(self.loss, _OfLines):
            sums, gradient = self.by_line(y_true, y_pred, weights)
            return exact_sum(sums) / max(1, self.count(y_true, y_pred)), gradient
        self.check(y_true, y_pred.shape)
        y_pred = _floats(y_pred)
        known, targets = self._known(y_true, True)
        gradient = np.zeros(y_pred.shape, y_pred.dtype)
        if not known.any():
            return 0.0, gradient
        given = [targets[known], y_pred[known]]
        if weights is not None:
            given.append(self._by_place(weights, y_pred.shape)[known])
        value, gradient[known] = self.loss(*given)
        return value, gradient

    def count(self, y_true: Array, y_pred: Array) -> int:
        """Return the number of terms that are averaged: those of known targets."""
        return int(np.count_nonzero(self._known(y_true, y_true.ndim == len(self._places(y_pred.shape)))[0]))

    def by_line(
        self, y_true: Array, y_pred: Array, weights: Array | None = None, count: int | None = None
    ) -> tuple[Array, Array]:
        """Return the sum of the terms of each line, and the gradient of their mean; see `_OfLines`."""
        self.check(y_true, y_pred.shape)
        p, places = _floats(y_pred), self._places(y_pred.shape)
        known, targets = self._known(y_true, y_true.ndim == len(places))
        # Unknown targets get a valid value and the weight 0.
        each = known.astype(p.dtype)
        if weights is not None:
            each = np.where(known, self._by_place(weights, y_pred.shape), 0).astype(p.dtype)
        extra = known.reshape(known.shape + (1,) * (p.ndim - known.ndim))
        neutral = p.dtype.type(1 / p.shape[-1] if len(places) < p.ndim else 0.5)
        targets = np.where(known if targets.ndim == known.ndim else extra, targets, 0).astype(targets.dtype)
        terms = int(np.count_nonzero(known)) if count is None else count
        inner: Any = self.loss
        return inner.by_line(targets, np.where(extra, p, neutral), each, terms)

    def _by_place(self, weights: Array, shape: tuple[int, ...]) -> Array:
        """Weights of samples or positions as an array of the leading axes of the predictions."""
        places, each = self._places(shape), np.asarray(weights)
        _flat_weights(each, places)
        return np.broadcast_to(each.reshape(each.shape + (1,) * (len(places) - each.ndim)), places)

    def _places(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of targets per position: without the axis of classes."""
        return shape[:-1] if isinstance(self.loss, _Categorical) else shape

    def _known(self, y_true: Array, single: bool) -> tuple[Mask, Array]:
        """A mask of known targets, by position; and the targets, with labels as integers."""
        known: Mask = np.ones(y_true.shape, bool)
        if y_true.dtype.kind == "f":
            known &= ~np.isnan(y_true)
        if not single:  # rows of probabilities
            known = np.asarray(known.all(axis=-1))
            if self.ignore_class is not None:
                known &= np.argmax(np.where(known[..., None], y_true, 0), axis=-1) != self.ignore_class
            return known, y_true
        if self.ignore_class is not None:
            known &= y_true != self.ignore_class
        if isinstance(self.loss, _Categorical) and y_true.dtype.kind == "f":
            labels = np.where(known, y_true, 0).astype(np.int64)
            if np.array_equal(labels[known], y_true[known]):
                return known, labels
        return known, y_true

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal loss, unless it masks a custom function."""
        return {"loss": registry.config_of(self.loss), "ignore_class": self.ignore_class}


_BY_NAME: dict[str, Callable[..., Loss]] = {
    "mse": MeanSquaredError,
    "mean_squared_error": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "mean_absolute_error": MeanAbsoluteError,
    "huber": Huber,
    "masked": Masked,
    "binary_crossentropy": BinaryCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "softmax_cross_entropy": SoftmaxCrossEntropy,
}


def get(identifier: Any) -> Loss:
    """Return the loss for a name or config dict; a callable unchanged.

    Parameters
    ----------
    identifier : str, dict or callable
        A name, a config, or ``loss(y_true, y_pred) -> (value, dy_pred)``.

    Returns
    -------
    callable

    Raises
    ------
    ValueError, TypeError
        If the name is unknown, or the object is not callable.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.losses.get("huber")
    Huber(delta=1.0)
    """
    found = registry.build("loss", _BY_NAME, identifier)
    if not callable(found):
        raise TypeError(f"loss must be a name or a callable (y_true, y_pred) -> (value, dy_pred), got {identifier!r}")
    return found


def is_of_lines(loss: Any) -> bool:
    """Whether a loss has `count` and `by_line`: it is built in, or masks one that is."""
    return isinstance(loss.loss if isinstance(loss, Masked) else loss, _OfLines)


def takes_weights(loss: Loss) -> bool:
    """Whether a loss takes a third argument, weights of samples or positions.

    The third parameter of a custom function must be named "weights" or "sample_weight", or have no default.

    Parameters
    ----------
    loss : callable
        A loss.

    Returns
    -------
    bool

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.losses.takes_weights(lc.losses.get("mse"))
    True
    """
    if isinstance(loss, Masked):
        return takes_weights(loss.loss)
    if isinstance(loss, _OfLines):
        return True
    try:
        signature = inspect.signature(loss)
        signature.bind(None, None, None)
    except (TypeError, ValueError):
        return False
    third = [*signature.parameters.values(), None, None][2]
    return third is None or third.name in ("weights", "sample_weight") or third.default is third.empty


def __dir__() -> list[str]:
    return __all__
