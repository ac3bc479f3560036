"""What `fit` and `evaluate` are given, as batches that fit the model and the loss."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from lcnumba import losses
from lcnumba.protocol import Model
from lcnumba.training.config import Recipe
from lcnumba.training.data import Batches, Samples, class_weights
from lcnumba.utils.arrays import check_dtype, reads_lazily
from lcnumba.utils.types import Array
from lcnumba.utils.validation import axes_hint, integer, real

__all__ = ["Data", "class_weighting", "data_and_validation", "dataset"]

Data = Samples | Batches


def data_and_validation(
    model: Model,
    recipe: Recipe,
    x: Any,
    y: Any,
    weights: Any,
    size: int,
    steps: int | None,
    pair: Any,
    share: float,
    weigh: Callable[[Array], Array] | None,
) -> tuple[Data, Data | None]:
    """What to train on, and what to validate with."""
    fraction = real("validation_split", share)
    if not 0 <= fraction < 1:
        raise ValueError(f"validation_split={share!r} cannot be used; give a number of at least 0 and below 1")
    if fraction and pair is not None:
        raise ValueError("give validation_data or validation_split, not both")
    data = dataset(model, recipe, x, y, weights, size, steps, weigh)
    if fraction:
        if isinstance(data, Batches):
            raise TypeError("validation_split needs arrays; give an iterable of batches its own validation_data")
        return data.split(fraction)
    if pair is None:
        return data, None
    if isinstance(pair, tuple | list) and len(pair) in (2, 3) and not all(isinstance(part, tuple) for part in pair):
        return data, dataset(model, recipe, pair[0], pair[1], pair[2] if len(pair) == 3 else None, size, None)
    if not isinstance(pair, Iterable) or isinstance(pair, Iterator) or hasattr(pair, "shape"):
        raise TypeError(
            "validation_data must be a pair (x, y), or (x, y, weights), or an iterable of such batches that can be "
            "gone through again"
        )
    return data, dataset(model, recipe, pair, None, None, size, None)


def dataset(
    model: Model, recipe: Recipe, x: Any, y: Any, weights: Any, size: int | None, steps: int | None,
    weigh: Callable[[Array], Array] | None = None,
) -> Data:  # fmt: skip
    """Arrays, or an iterable of batches, each checked against the model, the loss and the weights of classes."""
    check = partial(_check, model, recipe.loss, weigh)
    if y is None and isinstance(x, Iterable) and not hasattr(x, "shape") and not reads_lazily(x):
        if weights is not None:
            raise TypeError("sample_weight is for arrays; let the iterable give (x, y, weights)")
        return Batches(x, None if steps is None else integer("steps_per_epoch", steps), check)
    if steps is not None:
        raise TypeError("steps_per_epoch is for iterables of batches; arrays are gone through as a whole")
    if weights is not None:
        _check_weighable(recipe, "sample_weight")
    return Samples(x, y, weights, size, check)


def class_weighting(recipe: Recipe, weights: Mapping[int, float] | None) -> Callable[[Array], Array] | None:
    """The function that gives samples the weights of their classes, if there are any."""
    if weights is None:
        return None
    _check_weighable(recipe, "class_weight")
    return class_weights(weights)


def _check_weighable(recipe: Recipe, name: str) -> None:
    if not losses.takes_weights(recipe.loss):
        raise TypeError(
            f"{name} needs a loss that takes weights, loss(y_true, y_pred, weights) -> (value, dy_pred); "
            f"{recipe.loss!r} does not"
        )


def _check(
    model: Model, loss: Any, weigh: Callable[[Array], Array] | None, inputs: Array, targets: Array
) -> None:  # fmt: skip
    """Raise unless inputs and targets fit the model and the loss, and targets have classes to be weighed by."""
    check_dtype("x", inputs)
    if model.built and inputs.shape[1:] != model.input_shape[1:]:
        raise ValueError(
            f"x has shape {inputs.shape}; the model was built for {model.input_shape}"
            + axes_hint("x", inputs.shape, model.input_shape)
        )
    check = getattr(loss, "check", None)
    if check is not None:
        check(targets, tuple(model.compute_output_shape(inputs.shape)))
    if weigh is not None:
        weigh(targets)
