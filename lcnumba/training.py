"""Training a network on arrays: epochs, batches, shuffling, progress, history."""

import math
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lcnumba import losses
from lcnumba.arrays import check_dtype, frozen, ingest
from lcnumba.checks import generator, integer, learning_rate
from lcnumba.metrics import Metric
from lcnumba.metrics import get as get_metrics

__all__ = ["History", "evaluate", "fit"]

Array = npt.NDArray[Any]


@dataclass
class History:
    """What `fit` saw, an entry an epoch.

    Attributes
    ----------
    history : dict of str to list of float
        "loss" and the metrics, averaged over the samples as they were seen during the epoch; with
        validation data also "val_loss" and so on, computed at its end.
    """

    history: dict[str, list[float]] = field(default_factory=dict)

    def add(self, figures: dict[str, float]) -> None:
        """Append one epoch."""
        for name, value in figures.items():
            self.history.setdefault(name, []).append(value)


class _Mean:
    """Running means of figures, weighted by the number of samples."""

    def __init__(self) -> None:
        self.samples = 0
        self.sums: dict[str, float] = {}

    def add(self, samples: int, figures: dict[str, float]) -> None:
        self.samples += samples
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * samples

    def result(self) -> dict[str, float]:
        return {name: total / self.samples for name, total in self.sums.items()}


def fit(
    model: Any,
    x: Any,
    y: Any,
    *,
    loss: Any,
    epochs: int = 1,
    batch_size: int = 32,
    lr: float = 0.01,
    metrics: Iterable[Any] = (),
    validation_data: tuple[Any, Any] | None = None,
    shuffle: bool = True,
    rng: Any = None,
    progress: bool = True,
) -> History:
    """Train a model by stepping it on batches.

    Parameters
    ----------
    model : Sequential
        The network; its layers hold their optimizers.
    x, y : arrays, (N, ...)
        Inputs and targets.
    loss : str or callable
        "softmax_cross_entropy": y holds labels (N,), integers from 0, or probabilities (N, classes),
        and the model ends in (N, classes) without an activation. "mse": y has the shape of the
        output, and the mean is over all its numbers, as in Keras; on a grid of many positions each
        one's gradient is small, so take "adam" (`Sequential.set_optimizer`) or a larger lr.
        Or ``loss(y_true, y_pred) -> (value, dy_pred)``.
    epochs, batch_size : int
        Passes over the data, and samples of a step; the last batch of an epoch may be smaller.
    lr : float
        Learning rate, handed to the layers' optimizers; about 0.001 for "adam".
    metrics : iterable of str or callable
        "accuracy", or ``metric(y_true, y_pred) -> float``.
    validation_data : (x, y), optional
        Evaluated after each epoch, not trained on.
    shuffle : bool
        Whether each epoch visits the samples in a new random order.
    rng : None, int or numpy.random.Generator
        Source of that order.
    progress : bool
        Whether to show a bar on the standard error stream (with tqdm installed; else a line an
        epoch).

    Returns
    -------
    History
        Its ``history["loss"]`` and so on hold a number an epoch.

    Warns
    -----
    RuntimeWarning
        Once, if the loss is not finite: the weights are then lost, or will be.
    """
    epochs, batch_size = integer("epochs", epochs, 0), integer("batch_size", batch_size)
    rate, criterion, wanted = learning_rate(lr), losses.get(loss), get_metrics(metrics)
    x, y = _data(model, x, y, criterion)
    validation = None
    if validation_data is not None:
        try:
            x_val, y_val = validation_data
        except (TypeError, ValueError):
            raise TypeError("validation_data must be a pair (x, y)") from None
        validation = _data(model, x_val, y_val, criterion)
    order_rng = generator(rng)
    history, warned = History(), False
    for epoch in range(epochs):
        order = order_rng.permutation(len(x)) if shuffle else np.arange(len(x))
        mean = _Mean()
        report = _Progress(f"epoch {epoch + 1}/{epochs}", -(-len(x) // batch_size), progress)
        with report:
            for at in range(0, len(x), batch_size):
                chosen = order[at : at + batch_size]
                seen = _train_on_batch(model, x[chosen], y[chosen], criterion, wanted, rate)
                if not (warned or math.isfinite(seen["loss"])):
                    warned = True
                    warnings.warn(
                        f"the loss is {seen['loss']} in epoch {epoch + 1}, batch {at // batch_size + 1}; look for "
                        "non-finite inputs, or lower lr",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                mean.add(len(chosen), seen)
                report.advance(mean.result())
            figures = mean.result()
            if validation is not None:
                scores = _evaluate(model, *validation, criterion, wanted, batch_size)
                figures |= {f"val_{name}": value for name, value in scores.items()}
            report.finish(figures)
        history.add(figures)
    return history


def evaluate(
    model: Any, x: Any, y: Any, *, loss: Any, metrics: Iterable[Any] = (), batch_size: int = 256
) -> dict[str, float]:
    """Return the mean loss and metrics of a model on data; parameters as for `fit`."""
    criterion, wanted, size = losses.get(loss), get_metrics(metrics), integer("batch_size", batch_size)
    return _evaluate(model, *_data(model, x, y, criterion), criterion, wanted, size)


def value_and_gradients(model: Any, x: Any, y: Any, loss: Any) -> tuple[float, list[Any]]:
    """Return the loss of a model on data, penalties included, and the gradients of all but the penalties of weights."""
    criterion = losses.get(loss)
    inputs, targets = _data(model, x, y, criterion)
    prediction, backward = model.forward(inputs)
    figures, dy = _figures(model, backward.activity_loss, targets, prediction, criterion, {})
    return figures["loss"], backward(dy)[1]


def _train_on_batch(
    model: Any, x: Array, y: Array, loss: losses.Loss, wanted: dict[str, Metric], lr: float
) -> dict[str, float]:
    prediction, backward = model.forward(x)
    figures, dy = _figures(model, backward.activity_loss, y, prediction, loss, wanted)
    backward.step(dy, lr, wants_dx=False)
    return figures


def _figures(
    model: Any, activity: float, y: Array, prediction: Array, loss: losses.Loss, wanted: dict[str, Metric]
) -> tuple[dict[str, float], Array]:
    """Loss, penalties included, and metrics of a batch, and the gradient of the loss alone by the prediction.

    The prediction is what backward refers to, and y may be the caller's own: loss and metrics may
    only read them.
    """
    y, view = frozen(y), frozen(prediction)
    value, dy = loss(y, view)
    total = float(value) + model.penalties() + activity
    return {"loss": total} | {name: float(metric(y, view)) for name, metric in wanted.items()}, dy


def _evaluate(
    model: Any, x: Array, y: Array, loss: losses.Loss, wanted: dict[str, Metric], batch_size: int
) -> dict[str, float]:
    mean = _Mean()
    for at in range(0, len(x), batch_size):
        part = slice(at, at + batch_size)
        prediction, activity = model.call_penalised(x[part])
        mean.add(len(x[part]), _figures(model, activity, y[part], prediction, loss, wanted)[0])
    return mean.result()


def _data(model: Any, x: Any, y: Any, loss: losses.Loss) -> tuple[Array, Array]:
    """Inputs and targets as NumPy arrays that fit the model and the loss, or an error."""
    inputs, _ = ingest("x", x)
    targets, _ = ingest("y", y)
    if inputs.ndim < 1 or targets.ndim < 1 or len(inputs) != len(targets):
        raise ValueError(
            f"x has shape {inputs.shape} and y {targets.shape}; give as many targets as inputs, along the first axis"
        )
    if not len(inputs):
        raise ValueError("x and y are empty; give at least one sample")
    check_dtype("x", inputs)
    if model.built and inputs.shape[1:] != model.input_shape[1:]:
        raise ValueError(f"x has shape {inputs.shape}; the model was built for {model.input_shape}")
    check = getattr(loss, "check", None)
    if check is not None:
        check(targets, tuple(model.compute_output_shape(inputs.shape)))
    return inputs, targets


class _Progress:
    """One epoch's progress: a tqdm bar if tqdm is there, else one line; or nothing."""

    def __init__(self, title: str, batches: int, wanted: bool) -> None:
        self._title = title
        self._bar: Any = None
        self._line = wanted
        if wanted:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return
            self._line = False
            self._bar = tqdm(total=batches, desc=title, unit="batch")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, figures: dict[str, float]) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(_text(figures), refresh=False)
            self._bar.update()

    def finish(self, figures: dict[str, float]) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(_text(figures))
        elif self._line:
            print(f"{self._title}: {_text(figures)}", file=sys.stderr)


def _text(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
