"""Loss and metrics of a model on data."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from lcnumba import losses
from lcnumba.metrics import is_of_all
from lcnumba.protocol import Model
from lcnumba.training.config import Recipe, completed, overridden, warn_of_last_activation
from lcnumba.training.data import Batch
from lcnumba.training.inputs import Data, dataset
from lcnumba.training.run import BatchResult, Figures, RunningMean
from lcnumba.utils.arrays import read_only
from lcnumba.utils.messages import warn
from lcnumba.utils.types import Array
from lcnumba.utils.validation import integer

__all__ = ["evaluate", "evaluate_batches", "loss_and_metrics"]


def evaluate(
    model: Model,
    x: Any,
    y: Any = None,
    *,
    loss: Any = None,
    metrics: Iterable[Any] | None = None,
    sample_weight: Any = None,
    batch_size: int = 256,
) -> Figures:
    """Loss and metrics of a model on data; `lcnumba.Sequential.evaluate` documents the arguments."""
    recipe = completed(model, overridden(model.recipe, loss, metrics, None))
    if loss is not None:
        warn_of_last_activation(model, recipe)
    size = integer("batch_size", batch_size)
    return evaluate_batches(model, dataset(model, recipe, x, y, sample_weight, size, None), recipe, doubts=True)


def loss_and_metrics(
    model: Model, activity: float, batch: Batch, prediction: Array, recipe: Recipe, first: bool = False
) -> tuple[BatchResult, Array]:
    """Loss, penalties included, and metrics of a batch, and the gradient of the loss alone by the prediction.

    At the first batch of several, what the loss doubts of the prediction is a warning.

    The prediction is what backward refers to, and y may be the caller's own: loss and metrics may
    only read them.
    """
    y, view = read_only(batch.y), read_only(prediction)
    found: Any = recipe.loss(y, view) if batch.weights is None else recipe.loss(y, view, batch.weights)
    try:
        value, dy = found
        value = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"loss {recipe.loss!r} returned {found!r:.80}; return a pair (value, dy_pred), and one number as value"
        ) from error
    doubt = getattr(recipe.loss, "doubt", None) if first else None
    if doubt is not None and (text := doubt(view)) is not None:
        warn(text)
    penalty = model.penalties() + activity
    figures, kept = {"loss": value + penalty}, {}
    if isinstance(recipe.loss, losses.Masked) and recipe.metrics:
        y = read_only(recipe.loss.with_unknown(y, view))
    for name, metric in recipe.metrics.items():
        if is_of_all(metric):
            # Copies: whoever gives batches may fill the same arrays again.
            kept[name] = tuple(np.array(array) for array in metric.collect(y, view))
            continue
        found = metric(y, view)
        try:
            figures[name] = float(found)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"metric {name!r} returned {found!r:.80}, a {type(found).__name__}; return one number"
            ) from error
    return BatchResult(figures, kept, penalty), dy


def evaluate_batches(model: Model, data: Data, recipe: Recipe, doubts: bool = False) -> Figures:
    """Loss and metrics over all batches of the data."""
    mean = RunningMean()
    for batch in data.batches():
        prediction, activity = model.call_penalised(batch.x)
        first = doubts and not mean.samples
        mean.add(len(batch.x), loss_and_metrics(model, activity, batch, prediction, recipe, first=first)[0])
    if not mean.samples:
        raise ValueError("the data to evaluate on gave no batches; give at least one")
    return mean.result(recipe.metrics)
