"""What `compile` fixes: loss, metrics, learning rate, and what is done to gradients."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lcnumba import activations, losses, optimizers
from lcnumba.layers.dropout import Dropout
from lcnumba.layers.flatten import Flatten
from lcnumba.metrics import Metric, binary_accuracy
from lcnumba.metrics import get as get_metrics
from lcnumba.protocol import Model, leaves
from lcnumba.utils.messages import warn
from lcnumba.utils.validation import (
    integer,
    learning_rate,
    real,
)

__all__ = ["Recipe", "completed", "optimizers_of", "overridden", "training_config", "warn_of_last_activation"]


@dataclass(frozen=True)
class Recipe:
    """What a training does with a batch; `Sequential.compile` makes it.

    Attributes
    ----------
    loss : callable or None
        ``loss(y_true, y_pred) -> (value, dy_pred)``.
    metrics : mapping of str to callable
        ``metric(y_true, y_pred) -> float``.
    lr : float, callable or None
        Learning rate, a schedule of it by step, or what is usual with the optimizer.
    clip_value, clip_norm : float or None
        Largest number, and largest norm of all together, that gradients are cut to.
    accumulate : int
        Batches of which the mean gradient makes a step.

    Examples
    --------
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.Dense(3)])
    >>> model.compile("adam", "mse", accumulate=4)
    >>> model.recipe.accumulate
    4
    """

    loss: Any = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    lr: Any = None
    clip_value: float | None = None
    clip_norm: float | None = None
    accumulate: int = 1

    @property
    def plain(self) -> bool:
        """Whether every batch makes a step by its own gradients, as they are."""
        return self.accumulate == 1 and self.clip_value is None and self.clip_norm is None


def training_config(
    loss: Any, metrics: Iterable[Any], lr: Any, clip_value: float | None, clip_norm: float | None, accumulate: int
) -> Recipe:
    """Check what `compile` is given; `lcnumba.Sequential.compile` documents the arguments."""
    recipe = overridden(Recipe(), loss, metrics, lr)
    for name, limit in {"clip_value": clip_value, "clip_norm": clip_norm}.items():
        if limit is not None and real(name, limit) <= 0:
            raise ValueError(f"{name}={limit!r} cannot be used; give a number above 0, or None")
    together = integer("accumulate", accumulate)
    return dataclasses.replace(recipe, clip_value=clip_value, clip_norm=clip_norm, accumulate=together)


def warn_of_last_activation(model: Model, recipe: Recipe) -> None:
    """Warn of a last layer that has done what the loss does once more, and of a metric that is not for logits."""
    last = next((layer for layer in reversed(model.layers) if hasattr(layer, "activation")), None)
    if isinstance(getattr(last, "activation", None), activations.Softmax) and getattr(last, "units", 2) == 1:
        warn("a softmax over one output is always 1: give activation='sigmoid', or as many units as there are classes")
    if not getattr(recipe.loss, "from_logits", getattr(getattr(recipe.loss, "loss", None), "from_logits", False)):
        return
    ending = _last_activation(model)
    if ending is not None:
        warn(
            f"the model ends in activation={ending!r}, and {recipe.loss!r} applies it once more: let the last layer "
            "end without an activation, or give the loss from probabilities"
        )
    elif recipe.metrics.get("binary_accuracy") is binary_accuracy:
        warn(
            "binary_accuracy takes probabilities, and the loss is from logits: give a metric of your own, a function "
            "that returns lcnumba.metrics.binary_accuracy(y_true, y_pred, threshold=0)"
        )


def _last_activation(model: Model) -> str | None:
    """The softmax or sigmoid that a model ends in, if it does."""
    for layer in reversed(model.layers):
        if hasattr(layer, "layers"):
            return _last_activation(layer)
        activation = getattr(layer, "activation", None)
        if isinstance(activation, activations.Softmax | activations.Sigmoid):
            return type(activation).__name__.lower()
        if not isinstance(layer, Flatten | Dropout):
            return None
    return None


def overridden(given: Recipe, loss: Any, wanted: Iterable[Any] | None, lr: Any) -> Recipe:
    """A recipe in which what is given now goes before what was compiled."""
    changes: dict[str, Any] = {}
    if loss is not None:
        changes["loss"] = losses.get(loss)
    if wanted is not None:
        changes["metrics"] = get_metrics(wanted)
    if lr is not None:
        changes["lr"] = lr if callable(lr) else learning_rate(lr)
    return dataclasses.replace(given, **changes)


def completed(model: Model, recipe: Recipe) -> Recipe:
    """A recipe that can be carried out: with a loss and a learning rate."""
    if recipe.loss is None:
        raise ValueError(f"{model.name!r} has no loss; give loss=..., or compile it with one")
    if recipe.lr is not None:
        return recipe
    usual = {optimizers.default_rate(optimizer) for optimizer in optimizers_of(model)} or {0.01}
    if len(usual) > 1 or None in usual:
        raise ValueError("lr is missing; with several optimizers, or one of your own, there is no usual rate")
    return dataclasses.replace(recipe, lr=usual.pop())


def optimizers_of(model: Model) -> Iterator[Any]:
    """The optimizers of the layers that have one."""
    return (layer.optimizer for layer in leaves(model) if hasattr(layer, "optimizer"))
