"""What happens with a batch."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from lcnumba import gradients
from lcnumba.layers.dropout import Dropout
from lcnumba.protocol import Model, leaves
from lcnumba.runtime.signals import deferred
from lcnumba.training.config import Recipe, completed, overridden, warn_of_last_activation
from lcnumba.training.data import Batch
from lcnumba.training.evaluation import loss_and_metrics
from lcnumba.training.inputs import class_weighting, dataset
from lcnumba.training.run import BatchResult, Figures, Run
from lcnumba.utils.messages import warn
from lcnumba.utils.types import Array

__all__ = ["Stepper", "train_on_batch", "value_and_gradients"]


class Stepper:
    """What happens with a batch."""

    def __init__(self, model: Model, recipe: Recipe, run: Run, weigh: Callable[[Array], Array] | None = None) -> None:
        self._model, self._recipe, self._run, self._weigh = model, recipe, run, weigh
        self._gradients = gradients.Accumulator()
        self._warned = False
        self._first = True
        self._random = [layer for layer in leaves(model) if isinstance(layer, Dropout)]

    @property
    def waiting(self) -> bool:
        """Whether gradients wait for those of more batches."""
        return self._gradients.count > 0

    def train(self, batch: Batch) -> BatchResult:
        """Take part of a step, or a whole one, on a batch; return its figures.

        A batch that is refused leaves random numbers, and layers that were not built, as they were.
        """
        drawn = [(layer, layer.get_training_state()) for layer in self._random]
        try:
            with self._model.unbuilt_on_failure() if self._first else nullcontext():
                return self._train(batch)
        except BaseException:
            with deferred():
                for layer, state in drawn:
                    layer.plan_training_state(state)()
            raise

    def _train(self, batch: Batch) -> BatchResult:
        if self._weigh is not None:
            weights = self._weigh(batch.y)
            if batch.weights is not None:
                weights = weights.reshape(-1, *[1] * (batch.weights.ndim - 1)) * batch.weights
            batch = batch._replace(weights=weights)
        prediction, backward = self._model.forward(batch.x)
        seen, dy = loss_and_metrics(
            self._model, backward.activity_loss, batch, prediction, self._recipe, first=self._first
        )
        self._first = False
        self._look_at(seen.figures, batch)
        for hook in self._run._callbacks:
            hook.before_step(self._run, dict(seen.figures))
        if self._run.stopped:
            self._gradients = gradients.Accumulator()
        elif self._recipe.plain:
            backward.step(dy, self._run.lr, wants_dx=False)
            self._run.step += 1
        else:
            grads = _of_trainable(self._model, backward(dy)[1])
            if self._recipe.accumulate == 1:
                self._step(grads)
                return seen
            self._gradients.add(grads, len(batch.x))
            if self._gradients.count >= self._recipe.accumulate:
                self.finish()
        return seen

    def finish(self) -> None:
        """Make the step of the gradients that wait, if there are any."""
        if self.waiting:
            self._step(self._gradients.take())

    def _step(self, grads: Any) -> None:
        if self._recipe.clip_value is not None:
            grads = gradients.clip_by_value(grads, self._recipe.clip_value)
        if self._recipe.clip_norm is not None:
            grads = gradients.clip_by_norm(grads, self._recipe.clip_norm)
        self._model.step(grads, self._run.lr)
        self._run.step += 1

    def _look_at(self, figures: Figures, batch: Batch) -> None:
        if self._warned or math.isfinite(figures["loss"]):
            return
        self._warned = True
        arrays = {"x": batch.x, "y": batch.y}
        unknown = {n: np.count_nonzero(np.isnan(a)) if a.dtype.kind == "f" else 0 for n, a in arrays.items()}
        if unknown["y"]:
            remedy = f"y holds {unknown['y']} NaN there: lcnumba.losses.Masked leaves them out"
        elif unknown["x"]:
            remedy = f"look for non-finite inputs: x holds {unknown['x']} NaN there; fill them, or give a kernel_mask"
        else:
            remedy = "look for non-finite inputs, or lower lr"
        warn(f"the loss is {figures['loss']} in epoch {self._run.epoch + 1}, batch {self._run.batch + 1}; {remedy}")


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
) -> Figures:
    """Step a model once; `lcnumba.Sequential.train_on_batch` documents the arguments."""
    recipe = completed(model, overridden(model.recipe, loss, metrics, lr))
    if loss is not None:
        warn_of_last_activation(model, recipe)
    if y is None:
        raise TypeError("y is missing; give targets, as many as inputs")
    data = dataset(model, recipe, x, y, sample_weight, None, None)
    weigh = class_weighting(recipe, class_weight)
    run = Run(model, 0, 1, recipe.lr, ())
    run.step = model.steps_taken
    stepper = Stepper(model, dataclasses.replace(recipe, accumulate=1), run, weigh)
    [batch] = data.batches()
    with deferred():
        seen = stepper.train(batch)
        model.steps_taken = run.step
    return seen.of_batch(recipe.metrics)


def value_and_gradients(model: Model, x: Any, y: Any, loss: Any) -> tuple[float, list[Any]]:
    """Return the loss of a model on data, penalties included, and the gradients of all but the penalties of weights.

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
        As the model's pullback returns them.

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
    recipe = completed(model, overridden(model.recipe, loss, (), None))
    [batch] = dataset(model, recipe, x, y, None, None, None).batches()
    prediction, backward = model.forward(batch.x)
    seen, dy = loss_and_metrics(model, backward.activity_loss, batch, prediction, recipe)
    return seen.figures["loss"], backward(dy)[1]


def _of_trainable(model: Model, grads: Sequence[Any]) -> list[Any]:
    """The gradients of a model, None in place of those of layers that are not trainable: they are no part of a norm."""
    return [
        _of_trainable(layer, grad) if hasattr(layer, "layers") else grad if getattr(layer, "trainable", True) else None
        for layer, grad in zip(model.layers, grads, strict=True)
    ]
