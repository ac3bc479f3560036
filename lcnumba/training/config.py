"""What `compile` sets: loss, metrics, learning rate, gradient transforms and accumulation."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lcnumba import activations, gradients, losses, optimizers
from lcnumba.layers.dropout import Dropout
from lcnumba.layers.flatten import Flatten
from lcnumba.metrics import Metric, binary_accuracy
from lcnumba.metrics import get as get_metrics
from lcnumba.protocol import Model, leaves
from lcnumba.utils.deprecation import Renamed
from lcnumba.utils.messages import warn
from lcnumba.utils.validation import integer, learning_rate, real

__all__ = [
    "ClipByNorm",
    "ClipByValue",
    "TrainingConfig",
    "completed",
    "config_of_call",
    "optimizers_of",
    "overridden",
    "training_config",
    "warn_of_last_activation",
]


@dataclass(frozen=True)
class ClipByValue:
    """Gradient transform: clip each element to [-limit, limit]."""

    limit: float

    def __call__(self, grads: Any) -> Any:
        """Return the clipped gradients."""
        return gradients.clip_by_value(grads, self.limit)


@dataclass(frozen=True)
class ClipByNorm:
    """Gradient transform: scale all gradients down together if their global norm exceeds `limit`."""

    limit: float

    def __call__(self, grads: Any) -> Any:
        """Return the clipped gradients."""
        return gradients.clip_by_norm(grads, self.limit)


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained; set by `Sequential.compile`.

    Attributes
    ----------
    loss : callable or None
        ``loss(y_true, y_pred) -> (value, dy_pred)``.
    metrics : mapping of str to callable
        ``metric(y_true, y_pred) -> float``.
    lr : float, callable or None
        Learning rate, or a schedule by step; None for the optimizer's default.
    gradient_transforms : tuple of callable
        ``transform(grads) -> grads``, applied in order before each step.
    accumulate : int
        Number of batches whose mean gradient makes a step.

    Examples
    --------
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.Dense(3)])
    >>> model.compile("adam", "mse", clip_norm=1.0, accumulate=4)
    >>> model.training_config.accumulate
    4
    >>> model.training_config.gradient_transforms
    (ClipByNorm(limit=1.0),)
    """

    loss: Any = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    lr: Any = None
    gradient_transforms: tuple[Callable[[Any], Any], ...] = ()
    accumulate: int = 1

    @property
    def clip_value(self) -> float | None:
        """Limit of the gradients' elements; None if there is none."""
        return self._limit(ClipByValue)

    @property
    def clip_norm(self) -> float | None:
        """Limit of the gradients' global norm; None if there is none."""
        return self._limit(ClipByNorm)

    plain = Renamed("allows_fused_step")

    def _limit(self, kind: type[ClipByValue] | type[ClipByNorm]) -> float | None:
        return next((transform.limit for transform in self.gradient_transforms if isinstance(transform, kind)), None)

    @property
    def allows_fused_step(self) -> bool:
        """Whether each batch's gradients are used as they are, so that backward can update the weights directly."""
        return not self.gradient_transforms and self.accumulate == 1


def training_config(
    loss: Any, metrics: Iterable[Any], lr: Any, clip_value: float | None, clip_norm: float | None, accumulate: int
) -> TrainingConfig:
    """Validate the arguments of `compile`, which `lcnumba.Sequential.compile` documents."""
    config = overridden(TrainingConfig(), loss, metrics, lr)
    transforms: list[Callable[[Any], Any]] = []
    if clip_value is not None:
        transforms.append(ClipByValue(_limit("clip_value", clip_value)))
    if clip_norm is not None:
        transforms.append(ClipByNorm(_limit("clip_norm", clip_norm)))
    count = integer("accumulate", accumulate)
    return dataclasses.replace(config, gradient_transforms=tuple(transforms), accumulate=count)


def _limit(name: str, limit: float) -> float:
    if real(name, limit) <= 0:
        raise ValueError(f"{name} must be > 0 or None, got {limit!r}")
    return limit


def warn_of_last_activation(model: Model, config: TrainingConfig) -> None:
    """Warn if the last activation does not fit the loss, or binary accuracy gets logits."""
    last = next((layer for layer in reversed(model.layers) if hasattr(layer, "activation")), None)
    if isinstance(getattr(last, "activation", None), activations.Softmax) and getattr(last, "units", 2) == 1:
        warn("softmax over a single output is always 1; use activation='sigmoid', or one unit per class")
    if not getattr(config.loss, "from_logits", getattr(getattr(config.loss, "loss", None), "from_logits", False)):
        return
    name = _last_activation(model)
    if name is not None:
        warn(
            f"the model ends in activation={name!r} and {config.loss!r} expects logits, so it would be applied twice; "
            "remove the last activation or use the loss from probabilities"
        )
    elif config.metrics.get("binary_accuracy") is binary_accuracy:
        warn(
            "binary_accuracy expects probabilities, but the loss is from logits; use a custom metric that returns "
            "lcnumba.metrics.binary_accuracy(y_true, y_pred, threshold=0)"
        )


def _last_activation(model: Model) -> str | None:
    """Name of the softmax or sigmoid that the model ends in, or None."""
    for layer in reversed(model.layers):
        if hasattr(layer, "layers"):
            return _last_activation(layer)
        activation = getattr(layer, "activation", None)
        if isinstance(activation, activations.Softmax | activations.Sigmoid):
            return type(activation).__name__.lower()
        if not isinstance(layer, Flatten | Dropout):
            return None
    return None


def overridden(config: TrainingConfig, loss: Any, metrics: Iterable[Any] | None, lr: Any) -> TrainingConfig:
    """The config with those of the arguments that are not None in place of its own."""
    changes: dict[str, Any] = {}
    if loss is not None:
        changes["loss"] = losses.get(loss)
    if metrics is not None:
        changes["metrics"] = get_metrics(metrics)
    if lr is not None:
        changes["lr"] = lr if callable(lr) else learning_rate(lr)
    return dataclasses.replace(config, **changes)


def config_of_call(model: Model, loss: Any, metrics: Iterable[Any] | None, lr: Any = None) -> TrainingConfig:
    """The model's config, completed, with the arguments of a call that are not None in place of its own.

    Warns if a loss that is given does not fit the model's last activation; `compile` has warned of its own.
    """
    config = completed(model, overridden(model.training_config, loss, metrics, lr))
    if loss is not None:
        warn_of_last_activation(model, config)
    return config


def completed(model: Model, config: TrainingConfig) -> TrainingConfig:
    """The config with a loss (required) and a learning rate (by default the optimizer's)."""
    if config.loss is None:
        raise ValueError(
            f"{model.name!r} has no loss; pass loss=..., or compile the model with one: files do not keep what compile "
            "was given"
        )
    if config.lr is not None:
        return config
    defaults = {optimizers.default_lr(optimizer) for optimizer in optimizers_of(model)} or {0.01}
    if len(defaults) > 1 or None in defaults:
        raise ValueError("lr is required with a custom optimizer, or with optimizers whose default lr differs")
    return dataclasses.replace(config, lr=defaults.pop())


def optimizers_of(model: Model) -> Iterator[Any]:
    """The optimizers of the layers that have one."""
    return (layer.optimizer for layer in leaves(model) if hasattr(layer, "optimizer"))
