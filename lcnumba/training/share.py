"""What one process does of a training: everything, unless other processes have parts of the model."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from lcnumba.formats import checkpoint
from lcnumba.formats.npz import ModelFile
from lcnumba.training.data import Rows
from lcnumba.utils.types import Array, Shape

__all__ = ["Share"]

Value = TypeVar("Value")


class Share:
    """The part of one process in a training; here it is all of it.

    A model that is divided between processes has a subclass of this as `share`. All processes run the same `fit`; these
    methods are where they differ or meet.
    """

    def together(self) -> AbstractContextManager[None]:
        """Run a block that may fail: if it does so anywhere, it fails everywhere."""
        return nullcontext()

    def committing(self) -> AbstractContextManager[None]:
        """Run a block that must not fail, since everything has been checked."""
        return nullcontext()

    def first(self, value: Value | None) -> Value | None:
        """Return the value of the first process that has one."""
        return value

    def of_root(self, value: Value) -> Value:
        """Return the value of the first process."""
        return value

    def sample_shape(self, model: Any) -> Shape | None:
        """Return the shape of this process' part of a sample; None if it is not known yet."""
        return tuple(model.input_shape[1:]) if model.built else None

    def output_shape(self, model: Any, shape: Shape) -> Shape:
        """Return the shape of this process' part of the prediction, for that of its part of the input."""
        return tuple(model.compute_output_shape(shape))

    def rows(self, name: str, rows: Rows) -> Rows:
        """Return this process' part of samples."""
        return rows

    def array(self, name: str, array: Array) -> Array:
        """Return this process' part of a batch, or of weights of positions."""
        return array

    def batches(self, batches: Iterator[Any], training: bool = False) -> Iterator[Any]:
        """Return batches, which may fail to be read; in training some may be computed elsewhere."""
        return batches

    def takes(self, number: int) -> bool:
        """Whether this process computes a batch of an epoch in training."""
        return True

    def computed(self, compute: Callable[[Any], Value], batch: Any) -> Value:
        """Return what a function computes of a batch, here or elsewhere: its result and gradients."""
        return compute(batch)

    def check(self, loss: Any, y: Array, shape: Shape) -> None:
        """Raise unless targets are valid for predictions of this shape."""
        check = getattr(loss, "check", None)
        if check is not None:
            check(y, shape)

    def transformed(self, transform: Any, grads: Any) -> Any:
        """Return gradients, transformed."""
        return transform(grads)

    def loss(self, loss: Any, y: Array, prediction: Array, weights: Array | None) -> Any:
        """Return a loss and its gradient by this process' part of the prediction."""
        return loss(y, prediction) if weights is None else loss(y, prediction, weights)

    def doubt(self, loss: Any, prediction: Array) -> str | None:
        """Return a warning about predictions, or None."""
        doubt = getattr(loss, "doubt", None)
        return None if doubt is None else doubt(prediction)

    def metric(self, metric: Any, y: Array, prediction: Array) -> Any:
        """Return a metric."""
        return metric(y, prediction)

    def collect(self, metric: Any, y: Array, prediction: Array) -> tuple[Array, ...]:
        """Return what a metric of all samples needs of a batch."""
        found: tuple[Array, ...] = metric.collect(y, prediction)
        return found

    def notify(self, run: Any, method: str, *arguments: Any) -> None:
        """Call a method of all callbacks."""
        for callback in run.callbacks:
            getattr(callback, method)(run, *arguments)

    def stored(self, file: ModelFile) -> Callable[[int], Any]:
        """Return the function by which a checkpoint's arrays are read."""
        return file.read_state

    def loaded(self, tree: Any) -> Any:
        """Return a tree of what `stored` returned with arrays in its place."""
        return tree

    def read_weights(self, file: ModelFile, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """Return the weights in a file, of a model of these shapes."""
        return file.read_weights(shapes)

    def check_read(self) -> None:
        """Raise a ValueError if a file that was read is damaged, unless that has been checked."""

    def set_weights(self, model: Any, weights: list[Array]) -> None:
        """Set the weights of a model to those of `read_weights`."""
        model.set_weights(weights)

    def close(self, callback: Any) -> None:
        """Close a callback at the end of a training."""
        callback.close()

    def save(self, path: str | os.PathLike[str], model: Any, progress: Any) -> None:
        """Write a checkpoint."""
        checkpoint.write(path, model, progress)
