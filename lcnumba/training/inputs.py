"""Arguments of `fit` and `evaluate` as data sets, checked against the model and the loss."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from lcnumba import losses
from lcnumba.protocol import Model
from lcnumba.training.config import TrainingConfig
from lcnumba.training.data import Batches, Samples, class_weights, rows, sample_weights
from lcnumba.utils.arrays import check_dtype, reads_lazily
from lcnumba.utils.types import Array
from lcnumba.utils.validation import axes_hint, integer, real

__all__ = ["Data", "class_weighting", "data_and_validation", "dataset"]

Data = Samples | Batches


def data_and_validation(
    model: Model,
    config: TrainingConfig,
    x: Any,
    y: Any,
    weights: Any,
    size: int,
    steps: int | None,
    pair: Any,
    share: float,
    weigh: Callable[[Array], Array] | None,
) -> tuple[Data, Data | None]:
    """The training data, and the validation data if there are any."""
    fraction = real("validation_split", share)
    if not 0 <= fraction < 1:
        raise ValueError(f"validation_split must be in [0, 1), got {share!r}")
    if fraction and pair is not None:
        raise ValueError("validation_data and validation_split cannot be combined; give one of them")
    data = dataset(model, config, x, y, weights, size, steps, weigh)
    if fraction:
        if isinstance(data, Batches):
            raise TypeError("validation_split needs arrays; use validation_data with an iterable of batches")
        return data.split(fraction)
    if pair is None:
        return data, None
    if isinstance(pair, tuple | list) and len(pair) in (2, 3) and not all(isinstance(part, tuple) for part in pair):
        return data, dataset(model, config, pair[0], pair[1], pair[2] if len(pair) == 3 else None, size, None)
    if not isinstance(pair, Iterable) or isinstance(pair, Iterator) or hasattr(pair, "shape"):
        raise TypeError(
            "validation_data must be a tuple (x, y) or (x, y, weights), or a re-iterable of such batches, "
            f"got {type(pair).__name__}"
        )
    return data, dataset(model, config, pair, None, None, size, None)


def dataset(
    model: Model, config: TrainingConfig, x: Any, y: Any, weights: Any, size: int | None, steps: int | None,
    weigh: Callable[[Array], Array] | None = None,
) -> Data:  # fmt: skip
    """The data set of arrays, or of an iterable of batches."""
    check = partial(_check, model, config.loss, weigh)
    if y is None and isinstance(x, Iterable) and not hasattr(x, "shape") and not reads_lazily(x):
        if weights is not None:
            raise TypeError("sample_weight needs arrays; an iterable of batches must yield (x, y, weights) instead")
        return Batches(x, None if steps is None else integer("steps_per_epoch", steps), check, model.share.array)
    if steps is not None:
        raise TypeError("steps_per_epoch needs an iterable of batches; an epoch of arrays visits all samples")
    if weights is not None:
        _check_weighable(config, "sample_weight")
    if y is None:
        raise TypeError("y is missing; pass one target per sample of x")
    inputs, targets = rows("x", x), rows("y", y, any_dtype=True)
    samples = inputs.shape[0]
    if samples != targets.shape[0]:
        raise ValueError(
            f"x and y must have the same number of samples, got x of shape {inputs.shape} and y of shape "
            f"{targets.shape}"
        )
    if not samples:
        raise ValueError("x and y are empty; at least one sample is required")
    each = None if weights is None else model.share.array("sample_weight", sample_weights(weights, samples))
    return Samples(model.share.rows("x", inputs), model.share.rows("y", targets), each, size, check)


def class_weighting(config: TrainingConfig, weights: Mapping[int, float] | None) -> Callable[[Array], Array] | None:
    """The function from targets to the weights of their classes; None without class weights."""
    if weights is None:
        return None
    _check_weighable(config, "class_weight")
    return class_weights(weights)


def _check_weighable(config: TrainingConfig, name: str) -> None:
    if not losses.takes_weights(config.loss):
        raise TypeError(
            f"{name} needs a loss with weights, loss(y_true, y_pred, weights) -> (value, dy_pred); "
            f"{config.loss!r} has none"
        )


def _check(
    model: Model, loss: Any, weigh: Callable[[Array], Array] | None, inputs: Array, targets: Array
) -> None:  # fmt: skip
    """Raise unless inputs and targets fit the model, the loss and the class weights."""
    check_dtype("x", inputs)
    sample = model.share.sample_shape(model)
    if sample is not None and inputs.shape[1:] != sample:
        raise ValueError(
            f"x has shape {inputs.shape}; the model was built for {(None, *sample)}"
            + axes_hint("x", inputs.shape, (None, *sample))
        )
    model.share.check(loss, targets, model.share.output_shape(model, inputs.shape))
    if weigh is not None:
        weigh(targets)
