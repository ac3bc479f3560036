"""A network of layers, one after the other; itself a layer."""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lcnumba import io, optimizers, training
from lcnumba.arrays import ingest
from lcnumba.checks import integer, learning_rate
from lcnumba.dense import Dense
from lcnumba.flatten import Flatten
from lcnumba.layer import LocallyConnected2D
from lcnumba.naming import layer_name
from lcnumba.protocol import Layer, Pullback

__all__ = ["Sequential", "load"]

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]


class Sequential:
    """Layers applied in order.

    Parameters
    ----------
    layers : iterable of layers, optional
        Any objects with the layer Protocol (`lcnumba.protocol.Layer`).
    name : str, optional
        "sequential", "sequential_1", ... by default.

    Notes
    -----
    If the first layer knows its input shape, each layer is built as it is added; otherwise all are
    built by the first call.

    Examples
    --------
    >>> import lcnumba as lc
    >>> model = lc.Sequential()
    >>> model.add(lc.LocallyConnected2D(64, (3, 3), input_shape=(32, 32, 3)))
    >>> model.add(lc.LocallyConnected2D(32, (3, 3)))
    >>> model.output_shape
    (None, 28, 28, 32)
    """

    def __init__(self, layers: Iterable[Layer] = (), name: str | None = None) -> None:
        self.name = layer_name(name, "sequential")
        self._layers: list[Layer] = []
        self._input_shape: Shape | None = None
        self._output_shape: Shape | None = None
        self._building = threading.Lock()
        for layer in layers:
            self.add(layer)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in order."""
        return tuple(self._layers)

    def add(self, layer: Layer) -> None:
        """Append a layer, and build it if the shape of its input is known.

        Nothing is appended if the layer is refused or does not fit.
        """
        if isinstance(layer, type):
            raise TypeError(f"{layer.__name__} is a class; give an instance, {layer.__name__}(...)")
        if not isinstance(layer, Layer):
            missing = [member for member in ("name", *_METHODS) if not hasattr(layer, member)]
            raise TypeError(f"{layer!r} is no layer: it lacks {', '.join(missing)}")
        if any(layer.name == other.name for other in self._layers):
            raise ValueError(f"a layer named {layer.name!r} is in the model already; give each layer a name of its own")
        shape = self._output_shape
        if not self._layers:
            shape = getattr(layer, "input_shape", None)
        if shape is not None:
            output_shape = tuple(layer.compute_output_shape(shape))
            layer.build(shape)
            self._output_shape = output_shape
            self._input_shape = self._input_shape or tuple(shape)
        self._layers.append(layer)

    def build(self, input_shape: Shape) -> None:
        """Build all layers, with fresh weights, for an input shape, the batch (or None) first."""
        shapes = [(None, *input_shape[1:])]
        for layer in self._layers:
            shapes.append(tuple(layer.compute_output_shape(shapes[-1])))
        for layer, shape in zip(self._layers, shapes, strict=False):
            layer.build(shape)
        self._input_shape, self._output_shape = shapes[0], shapes[-1]

    @property
    def input_shape(self) -> Shape:
        """Shape of the input, None for the batch."""
        if self._input_shape is None:
            raise AttributeError(f"{self.name!r} has not been built; give its first layer an input_shape, or call it")
        return self._input_shape

    @property
    def output_shape(self) -> Shape:
        """Shape of the output, None for the batch."""
        if self._output_shape is None:
            raise AttributeError(f"{self.name!r} has not been built; give its first layer an input_shape, or call it")
        return self._output_shape

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the output shape for an input shape, the batch (or None) first."""
        shape = tuple(input_shape)
        for layer in self._layers:
            shape = tuple(layer.compute_output_shape(shape))
        return shape

    def __call__(self, x: Any) -> Any:
        """Return the output for inference, an array of the kind of x."""
        values, like = self._ingest(x)
        y = values
        for layer in self._layers:
            y = layer(y)
        return like(_fresh(y, values))

    def forward(self, x: Any) -> tuple[Any, "SequentialBackward"]:
        """Return the output and the pullback of this very call, for training.

        Leave x unchanged until the pullback has run.
        """
        values, like = self._ingest(x)
        y, pullbacks = values, []
        for layer in self._layers:
            y, pullback = layer.forward(y)
            pullbacks.append(pullback)
        return like(_fresh(y, values)), SequentialBackward(self, pullbacks)

    def step(self, grads: Sequence[Any], lr: float) -> None:
        """Step every layer, given the list of their gradients in order.

        All gradients are checked before the first layer changes (layers without
        ``check_gradients`` are trusted).
        """
        rate = learning_rate(lr)
        self.check_gradients(grads)
        for layer, grad in zip(self._layers, grads, strict=True):
            layer.step(grad, rate)

    def check_gradients(self, grads: Sequence[Any]) -> None:
        """Raise what `step` would raise for these gradients, and change nothing."""
        if not isinstance(grads, list | tuple) or len(grads) != len(self._layers):
            raise ValueError(f"grads must be a list with one entry for each of {len(self._layers)} layers")
        for layer, grad in zip(self._layers, grads, strict=True):
            check = getattr(layer, "check_gradients", None)
            if check is not None:
                check(grad)

    @property
    def optimizer(self) -> list[Any]:
        """The optimizers of the layers that have one; assign one to set it on all of them."""
        return [layer.optimizer for layer in self._layers if hasattr(layer, "optimizer")]

    @optimizer.setter
    def optimizer(self, value: Any) -> None:
        optimizer = optimizers.get(value)
        for layer in self._layers:
            if hasattr(layer, "optimizer"):
                layer.optimizer = optimizer

    fit = training.fit
    evaluate = training.evaluate

    def predict(self, x: Any, batch_size: int = 256) -> Any:
        """Return the output, computed in batches, as an array of the kind of x."""
        size = integer("batch_size", batch_size)
        values, like = self._ingest(x)
        if len(values) <= size:
            return like(self(values))
        return like(np.concatenate([self(values[at : at + size]) for at in range(0, len(values), size)]))

    def get_weights(self) -> list[Array]:
        """Return copies of the weights of all layers, in order."""
        return [weight for weights in self._weights_by_layer() for weight in weights]

    def set_weights(self, weights: Sequence[Array]) -> None:
        """Replace the weights of all layers, given in the order of `get_weights`; all or none."""
        old = self._weights_by_layer()
        if len(weights) != sum(map(len, old)):
            raise ValueError(f"{len(weights)} weights given; {self.name!r} has {sum(map(len, old))}")
        rest, changed = list(weights), []
        try:
            for layer, before in zip(self._layers, old, strict=True):
                if before:
                    mine, rest = rest[: len(before)], rest[len(before) :]
                    layer.set_weights(mine)  # type: ignore[attr-defined]
                    changed.append((layer, before))
        except Exception:
            for layer, before in changed:
                layer.set_weights(before)  # type: ignore[attr-defined]
            raise

    def count_params(self) -> int:
        """Return the number of weights of all layers."""
        return sum(layer.count_params() for layer in self._layers if hasattr(layer, "count_params"))

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the layers, their output shapes and numbers of parameters."""
        rows, shape = [], self.input_shape
        for layer in self._layers:
            shape = tuple(layer.compute_output_shape(shape))
            count = layer.count_params() if hasattr(layer, "count_params") else 0
            rows.append((f"{layer.name} ({type(layer).__name__})", str(shape), f"{count:,}"))
        head = ("Layer (type)", "Output shape", "Parameters")
        widths = [max(map(len, column)) + 2 for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            print_fn("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print_fn(f"Total parameters: {self.count_params():,}")

    def get_config(self) -> dict[str, Any]:
        """Return the name, the layers' classes and configs, and the input shape if built."""
        layers = [{"class_name": type(layer).__name__, "config": layer.get_config()} for layer in self._layers]
        return {"name": self.name, "layers": layers, "build_input_shape": self._input_shape}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], layers: Mapping[str, Any] | None = None) -> Self:
        """Make a model from the result of `get_config`; its weights are fresh.

        Parameters
        ----------
        config : mapping
            What `get_config` returned.
        layers : mapping of str to class, optional
            Classes of layers that are not the library's, by class name.
        """
        known = {c.__name__: c for c in (Dense, Flatten, LocallyConnected2D)} | dict(layers or {})
        model = cls(name=config["name"])
        for entry in config["layers"]:
            name, arguments = entry["class_name"], entry["config"]
            if name == "Sequential":
                model.add(cls.from_config(arguments, layers))
                continue
            if name not in known:
                raise ValueError(f"layer class {name!r} is not known; pass layers={{{name!r}: the class}}")
            make = getattr(known[name], "from_config", None)
            model.add(make(arguments) if make else known[name](**arguments))
        if config.get("build_input_shape") and model._input_shape is None:
            model.build(tuple(config["build_input_shape"]))
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write structure and weights to one file, which `lcnumba.load` reads.

        The file is complete or, if saving fails, as it was before. Optimizer state is not saved.

        Parameters
        ----------
        path : path
            The file, by convention ``.npz``; nothing is appended to the name.

        Raises
        ------
        RuntimeError
            If the model has not been built.
        TypeError
            If a layer has a custom function, which no file can hold.
        OSError
            If the file cannot be written.
        """
        if self._input_shape is None:
            raise RuntimeError(f"save before build: {self.name!r} has no weights yet; call or build it first")
        io.write_model(path, self.get_config(), self.get_weights())

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle without the lock, which cannot travel."""
        return {key: value for key, value in self.__dict__.items() if key != "_building"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state and make a fresh lock."""
        self.__dict__.update(state, _building=threading.Lock())

    def _weights_by_layer(self) -> list[list[Array]]:
        return [list(layer.get_weights()) if hasattr(layer, "get_weights") else [] for layer in self._layers]

    def _ingest(self, x: Any) -> tuple[Array, Callable[[Array], Any]]:
        """The input as NumPy, for a model that has layers and is built."""
        if not self._layers:
            raise RuntimeError(f"{self.name!r} has no layers; add some first")
        values, like = ingest("x", x)
        if self._input_shape is None:
            with self._building:
                if self._input_shape is None:  # another thread may have come first
                    self.build(values.shape)
        return values, like


def load(path: str | os.PathLike[str], layers: Mapping[str, Any] | None = None) -> Sequential:
    """Read a model that `Sequential.save` wrote.

    Parameters
    ----------
    path : path
        The file.
    layers : mapping of str to class, optional
        Classes of layers that are not the library's, by class name.

    Returns
    -------
    Sequential
        With the saved weights and fresh optimizer state.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no such file, or its weights do not fit its config.
    """
    config, weights = io.read_model(path)
    try:
        model = Sequential.from_config(config, layers)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{os.fspath(path)!r} holds no config of a model: {error}") from error
    model.set_weights(weights)
    return model


class SequentialBackward:
    """Derivatives at one forward call of a `Sequential`."""

    def __init__(self, model: Sequential, pullbacks: list[Pullback]) -> None:
        self._model = model
        self._pullbacks = pullbacks

    def __call__(self, dy: Any) -> tuple[Any, list[Any]]:
        """Return dx, of the kind of dy, and the list of the layers' gradients."""
        values, like = ingest("dy", dy)
        grads = []
        for pullback in reversed(self._pullbacks):
            values, grad = pullback(values)
            grads.append(grad)
        return like(values), grads[::-1]

    def step(self, dy: Any, lr: float) -> Any:
        """Backward and the model's `step` in one: return dx, and change the parameters."""
        rate = learning_rate(lr)
        dx, grads = self(dy)
        self._model.step(grads, rate)
        return dx


def _fresh(y: Array, x: Array) -> Array:
    """Y, or a copy where it is a view of the input (a model that only reshapes)."""
    return y.copy() if np.may_share_memory(y, x) else y


_METHODS = ("build", "compute_output_shape", "__call__", "forward", "step", "get_config")
