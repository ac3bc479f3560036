"""Training steps on single batches: forward, loss, and the step of all layers.

`training/loop.py` calls it for each batch, and says where the weights change from here on.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from lcnumba import gradients, losses
from lcnumba.callbacks import Logs
from lcnumba.layers.dropout import Dropout
from lcnumba.layers.tree import is_model
from lcnumba.protocol import Model, leaves
from lcnumba.runtime.signals import deferred
from lcnumba.training.config import TrainingConfig, completed, config_of_call, overridden
from lcnumba.training.data import Batch
from lcnumba.training.evaluation import BatchResult, loss_and_metrics
from lcnumba.training.inputs import class_weighting, dataset
from lcnumba.training.run import Run
from lcnumba.utils.messages import warn
from lcnumba.utils.types import Array

__all__ = ["Stepper", "train_on_batch", "value_and_gradients"]


class Stepper:
    """Steps a model batch by batch, as its training config says."""

    def __init__(
        self, model: Model, config: TrainingConfig, run: Run, weigh: Callable[[Array], Array] | None = None
    ) -> None:
        self._model, self._config, self._run, self._weigh = model, config, run, weigh
        self._accumulator = gradients.Accumulator()
        self._warned_of_loss = False
        self._is_first = True
        self._dropouts = [layer for layer in leaves(model) if isinstance(layer, Dropout)]

    @property
    def has_pending_gradients(self) -> bool:
        """Whether gradients of past batches are accumulated and not yet used."""
        return self._accumulator.count > 0

    def train(self, batch: Batch) -> BatchResult:
        """Step the model on a batch, or accumulate its gradients; return loss and metrics before the step.

        If anything fails, random states and layers that were not built are left as they were.
        """
        states = [(layer, layer.get_training_state()) for layer in self._dropouts]
        try:
            with self._model.unbuilt_on_failure() if self._is_first else nullcontext():
                return self._train(batch)
        except BaseException:
            with deferred():
                for layer, state in states:
                    layer.plan_training_state(state)()
            raise

    def _train(self, batch: Batch) -> BatchResult:
        share = self._model.share
        if not self._config.allows_fused_step:
            result, grads = share.computed(self._gradients, batch)
            share.notify(self._run, "before_step", dict(result.logs))
            if self._run.stopped:
                self._accumulator = gradients.Accumulator()
            elif self._config.accumulate == 1:
                self._step(grads)
            else:
                with share.together():
                    self._accumulator.add(grads, len(batch.x))
                if self._accumulator.count >= self._config.accumulate:
                    self.finish()
            return result
        result, backward, dy = self._forward(batch)
        share.notify(self._run, "before_step", dict(result.logs))
        if not self._run.stopped:
            with share.together():  # a schedule may be the user's
                lr = self._run.lr
            backward.step(dy, lr, wants_dx=False)
            self._run.step += 1
        return result

    def _gradients(self, batch: Batch) -> tuple[BatchResult, Any]:
        """Loss and metrics of a batch, and its gradients."""
        result, backward, dy = self._forward(batch)
        return result, _of_trainable(self._model, backward(dy)[1])

    def _forward(self, batch: Batch) -> tuple[BatchResult, Any, Array]:
        """Loss and metrics of a batch, the pullback, and the gradient of the loss by the prediction."""
        if self._weigh is not None:
            weights = self._weigh(batch.y)
            if batch.weights is not None:
                weights = weights.reshape(-1, *[1] * (batch.weights.ndim - 1)) * batch.weights
            batch = batch._replace(weights=weights)
        prediction, backward = self._model.forward(batch.x)
        result, dy = loss_and_metrics(
            self._model, backward.activity_loss, batch, prediction, self._config, warn_of_loss=self._is_first
        )
        self._is_first = False
        self._warn_if_not_finite(result.logs["loss"], batch)
        return result, backward, dy

    def finish(self) -> None:
        """Step with the accumulated gradients, if there are any."""
        if self.has_pending_gradients:
            self._step(self._accumulator.take())

    def _step(self, grads: Any) -> None:
        share = self._model.share
        for transform in self._config.gradient_transforms:
            grads = share.transformed(transform, grads)
        with share.together():
            lr = self._run.lr
        self._model.step(grads, lr)
        self._run.step += 1

    def _warn_if_not_finite(self, loss: float, batch: Batch) -> None:
        """Warn, once, of a loss that is not finite."""
        if self._warned_of_loss or math.isfinite(loss):
            return
        self._warned_of_loss = True
        nans = {
            name: np.count_nonzero(np.isnan(array)) if array.dtype.kind == "f" else 0
            for name, array in {"x": batch.x, "y": batch.y}.items()
        }
        hints = []
        if nans["y"] and not isinstance(self._config.loss, losses.Masked):
            hints.append(f"y has {nans['y']} NaN there; lcnumba.losses.Masked ignores them")
        if nans["x"]:
            hints.append(
                f"x has {nans['x']} NaN there; fill them with 0, and if they are always the same inputs, leave these "
                "out by kernel_mask=lcnumba.kernel_mask_from(...)"
            )
        hint = self._model.share.first("; ".join(hints) or None) or "check for non-finite inputs, or lower lr"
        warn(f"the loss is {loss} in epoch {self._run.epoch + 1}, batch {self._run.batch + 1}; {hint}")


def train_on_batch(
    model: Model,
    x: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    loss: Any = None,
    metrics: Iterable[Any] | None = None,
    lr: Any = None,
) -> Logs:
    """Step a model once; `lcnumba.Sequential.train_on_batch` documents the arguments."""
    with model.share.together():
        config = config_of_call(model, loss, metrics, lr)
        if y is None:
            raise TypeError("y is missing; pass one target per sample of x")
        data = dataset(model, config, x, y, sample_weight, None, None)
        weigh = class_weighting(config, class_weight)
        run = Run(model, 0, 1, config.lr, ())
        run.step = model.steps_taken
        stepper = Stepper(model, dataclasses.replace(config, accumulate=1), run, weigh)
    [batch] = model.share.batches(data.batches())
    with deferred():
        result = stepper.train(batch)
        model.steps_taken = run.step
    return result.all_logs(config.metrics)


def value_and_gradients(model: Model, x: Any, y: Any, loss: Any) -> tuple[float, list[Any]]:
    """Return the loss of a model on data, penalties included, and its gradients without the weights' penalties.

    Parameters
    ----------
    model : Sequential
        The model.
    x, y, loss
        As for `fit`.

    Returns
    -------
    value : float
    gradients : list
        As returned by the model's pullback.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> from lcnumba.training.step import value_and_gradients
    >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="ones", dtype="float64")])
    >>> value, [grads] = value_and_gradients(model, np.array([[3.0]]), np.array([[1.0]]), "mse")
    >>> value, grads.kernel
    (4.0, array([[12.]]))
    """
    config = completed(model, overridden(model.training_config, loss, (), None))
    [batch] = dataset(model, config, x, y, None, None, None).batches()
    prediction, backward = model.forward(batch.x)
    result, dy = loss_and_metrics(model, backward.activity_loss, batch, prediction, config)
    return result.logs["loss"], backward(dy)[1]


def _of_trainable(model: Model, grads: Sequence[Any]) -> list[Any]:
    """The gradients with None in place of those of frozen layers, which do not count towards a norm."""
    return [
        _of_trainable(layer, grad) if is_model(layer) else grad if getattr(layer, "trainable", True) else None
        for layer, grad in zip(model.layers, grads, strict=True)
    ]
