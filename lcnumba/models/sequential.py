"""A sequence of layers, which is itself a layer."""

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Self

import numpy as np

from lcnumba import optimizers
from lcnumba.callbacks import Callback, Logs
from lcnumba.layers.backward import ActivityPenalty
from lcnumba.layers.base import Trainable
from lcnumba.layers.dropout import Dropout
from lcnumba.layers.flatten import Flatten
from lcnumba.layers.naming import layer_name
from lcnumba.layers.parameters import as_vector
from lcnumba.layers.tree import Container, flat_layers, models, walk
from lcnumba.models import saving
from lcnumba.models.backward import SequentialBackward, plan_updates
from lcnumba.protocol import Layer, Pullback
from lcnumba.runtime.locks import Mutex
from lcnumba.runtime.memory import require
from lcnumba.runtime.signals import deferred
from lcnumba.training import data, evaluation, loop, run, step
from lcnumba.training.config import TrainingConfig, training_config, warn_of_last_activation
from lcnumba.training.share import Share
from lcnumba.utils.arrays import as_numpy, check_dtype, fresh, reads_lazily
from lcnumba.utils.deprecation import Renamed, plan_method
from lcnumba.utils.display import PublicNames, html_table, parameters_text
from lcnumba.utils.messages import public, public_class, refuse_attribute
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import any_shape, axes_hint, boolean, integer, is_iterable

__all__ = ["Sequential", "load"]


# Columns of the table of layers.
_TABLE = ("Layer (type)", "Output shape", "Parameters")


@public_class
class Sequential(PublicNames, Container):
    """Layers applied in order.

    Parameters
    ----------
    layers : iterable of layers, optional
        Any objects that implement `lcnumba.protocol.Layer`.
    name : str, optional
        "sequential", "sequential_1", ... by default.

    Notes
    -----
    If the first layer has an input shape, each layer is built as it is added; otherwise the first call builds all.

    Examples
    --------
    >>> import lcnumba as lc
    >>> model = lc.Sequential()
    >>> model.add(lc.LocallyConnected2D(64, (3, 3), input_shape=(32, 32, 3)))
    >>> model.add(lc.LocallyConnected2D(32, (3, 3)))
    >>> model.output_shape
    (None, 28, 28, 32)
    """

    __module__ = "lcnumba"

    share = Share()

    def __init__(self, layers: Iterable[Layer] = (), name: str | None = None) -> None:
        if not is_iterable(layers) or isinstance(layers, Sequential):
            raise TypeError(f"layers={layers!r} is a {type(layers).__name__}; give a list of layers")
        self.name = layer_name(name, "sequential")
        self._layers: list[Layer] = []
        self._input_shape: Shape | None = None
        self._output_shape: Shape | None = None
        self._building = Mutex()
        self._built_names: set[str] = set()  # names of built layers without a `built` attribute
        self._nested = False
        self.training_config = TrainingConfig()
        self.steps_taken = 0  # by train_on_batch, since compile
        self.history: run.History | None = None  # of the last fit, even if it was interrupted
        for layer in layers:
            self.add(layer)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in order."""
        return tuple(self._layers)

    def __len__(self) -> int:
        """The number of layers."""
        return len(self._layers)

    def __bool__(self) -> bool:
        """True, also without layers."""
        return True

    def __iter__(self) -> Iterator[Layer]:
        """Iterate over the layers, in order."""
        return iter(self.layers)

    def __getitem__(self, index: int | slice | str) -> Any:
        """A layer by index or name, or a tuple of layers for a slice: ``model[0]``, ``model["scores"]``."""
        if isinstance(index, str):
            return self.get_layer(index)
        return self.layers[index]

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse attributes of Keras' models that would have no effect here."""
        refuse_attribute(self, name)
        object.__setattr__(self, name, value)

    @property
    def trainable(self) -> bool:
        """Whether `step` changes the weights of all layers; setting it sets it for all layers, also in inner models."""
        return all(getattr(layer, "trainable", True) for layer in flat_layers(self))

    @trainable.setter
    def trainable(self, value: bool) -> None:
        boolean("trainable", value)
        layers = list(flat_layers(self))
        for layer in layers:
            if not hasattr(layer, "trainable") and saving.weights_of(layer):
                raise TypeError(f"layer {layer.name!r} has weights but no trainable attribute; add one to its class")
        for layer in layers:
            if hasattr(layer, "trainable"):
                layer.trainable = value

    @public
    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """Return a layer by name or index.

        Parameters
        ----------
        name : str, optional
            Its name; for a layer of an inner model, the path: "inner/scores".
        index : int, optional
            Its index, from 0; negative from the end. Give either this or a name.

        Returns
        -------
        layer

        Raises
        ------
        ValueError
            If there is no such layer; the message lists the existing ones.

        Examples
        --------
        >>> import lcnumba as lc
        >>> model = lc.Sequential([lc.Flatten(), lc.Dense(3, name="scores")])
        >>> model.get_layer("scores").units, model[-1].units, len(model)
        (3, 3, 2)
        """
        if (name is None) == (index is None):
            raise ValueError(f"give either name or index; name={name!r}, index={index!r}")
        if index is not None:
            number = integer("index", index, -len(self._layers))
            if number >= len(self._layers):
                raise ValueError(f"index={index!r} is too large; {self.name!r} has {len(self._layers)} layers")
            return self._layers[number]
        own = {layer.name: layer for layer in self._layers}
        if name in own:
            return own[name]
        first, _, rest = str(name).partition("/")
        if rest and isinstance(inner := own.get(first), Sequential):
            return inner.get_layer(rest)
        raise ValueError(f"{self.name!r} has no layer named {name!r}; its layers are {', '.join(own) or 'none'}")

    @public
    def add(self, layer: Layer) -> None:
        """Append a layer, and build it if its input shape is known.

        A layer that has been built for that shape keeps its weights. An invalid layer is not appended.
        """
        self._check_layer(layer)
        shape = self._output_shape
        if not self._layers:
            shape = getattr(layer, "input_shape", None)
        if shape is None:
            self._append(layer)
            return
        output_shape = _checked_output_shape(layer, shape)
        self._build_missing(layer, shape)
        self._append(layer)
        self._input_shape, self._output_shape = self._input_shape or tuple(shape), output_shape

    def _append_unbuilt(self, layer: Any) -> None:
        """Append a layer without building it; for a model that is being created from a config."""
        self._check_layer(layer)
        self._append(layer)

    def _append(self, layer: Any) -> None:
        if isinstance(layer, Sequential):
            layer._nested = True
        self._layers.append(layer)

    def _check_layer(self, layer: Any) -> None:
        """Raise unless the layer can be added."""
        if isinstance(layer, type):
            raise TypeError(f"{layer.__name__} is a class; give an instance, {layer.__name__}(...)")
        if not isinstance(layer, Layer):
            missing = [] if hasattr(layer, "name") else ["name"]
            missing += [f"{method}()" for method in _METHODS if not hasattr(layer, method)]
            raise TypeError(f"{layer!r} is not a layer; a layer must implement {', '.join(missing)}")
        if isinstance(layer, Sequential) and layer._contains(self):
            raise ValueError(f"{layer.name!r} contains {self.name!r}; a model cannot contain itself")
        if self._nested:
            raise RuntimeError(f"{self.name!r} is part of another model; add layers to it before that")
        shared = {id(leaf) for leaf in flat_layers(self)} & {id(leaf) for leaf in flat_layers(layer)}
        if shared:
            raise ValueError(
                f"{layer.name!r} is or contains a layer that is already in the model; weights cannot be shared"
            )
        if any(layer.name == other.name for other in self._layers):
            raise ValueError(f"a layer named {layer.name!r} is already in the model; layer names must be unique")

    def _contains(self, model: Any) -> bool:
        return self is model or any(isinstance(x, Sequential) and x._contains(model) for x in self._layers)

    @property
    def built(self) -> bool:
        """Whether the shapes are known and all layers have weights."""
        return self._input_shape is not None

    @public
    def build(self, input_shape: Any) -> None:
        """Build the layers that have no weights yet, for an input shape, the batch size (or None) first.

        If one of them fails, the built-in layers that were built before it are unbuilt again.

        Raises
        ------
        ValueError
            If a layer does not fit, or was built for another shape.
        """
        if not (isinstance(input_shape, list | tuple) and input_shape):
            raise TypeError(f"input_shape={input_shape!r} must be a tuple, the batch first")
        shapes: list[Shape] = [(None, *(n if n is None else integer("input_shape", n) for n in input_shape[1:]))]
        for layer in self._layers:
            shapes.append(_checked_output_shape(layer, shapes[-1]))
        with self._building.lock, self.unbuilt_on_failure():
            for layer, shape in zip(self._layers, shapes, strict=False):
                self._build_missing(layer, shape)
            self._input_shape, self._output_shape = shapes[0], shapes[-1]

    @contextmanager
    def unbuilt_on_failure(self) -> Iterator[None]:
        """If the block fails, unbuild the built-in layers that it has built."""
        undo = [plan() for leaf in flat_layers(self) if (plan := plan_method(leaf, "unbuild")) and not leaf.built]
        shapes = [(m, m._input_shape, m._output_shape, set(m._built_names)) for m in models(self)]
        try:
            yield
        except BaseException:
            with deferred():
                for unbuild in undo:
                    unbuild()
                for model, input_shape, output_shape, names in shapes:
                    model._input_shape, model._output_shape, model._built_names = input_shape, output_shape, names
            raise

    def _build_missing(self, layer: Any, shape: Shape) -> None:
        """Build a layer that has no weights yet."""
        if hasattr(layer, "ensure_built"):
            layer.ensure_built(shape)
        elif not getattr(layer, "built", layer.name in self._built_names):
            layer.build(shape)
            self._built_names.add(layer.name)

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
        """Return the output shape for an input shape, the batch size (or None) first."""
        shape = any_shape(input_shape)
        for layer in self._layers:
            shape = tuple(layer.compute_output_shape(shape))
        return shape

    @public
    def __call__(self, x: Any) -> Any:
        """Return the output for inference, an array of the type of x."""
        values, like = self._as_numpy(x)
        y = values
        for layer in self._layers:
            y = _call(layer, y)
        return like(fresh(y, values))

    def call_penalised(self, x: Any) -> tuple[Any, float]:
        """Return the output for inference and the activity penalties of this call.

        `losses` has those of the last call of any thread.
        """
        values, like = self._as_numpy(x)
        y, total = values, 0.0
        for layer in self._layers:
            if isinstance(layer, Sequential):
                y, inner = layer.call_penalised(y)
                total += inner
                continue
            y = _call(layer, y)
            regularizer = getattr(layer, "activity_regularizer", None)
            total += 0.0 if regularizer is None else ActivityPenalty(regularizer, y).loss
        return like(fresh(y, values)), total

    @public
    def forward(self, x: Any) -> tuple[Any, "SequentialBackward"]:
        """Return the output and the pullback of this call, for training.

        Leave x and the output unchanged until the pullback has run.
        """
        values, like = self._as_numpy(x)
        y, pullbacks = values, []
        for layer in self._layers:
            y, pullback = _forward(layer, y)
            pullbacks.append(pullback)
        return like(fresh(y, values)), SequentialBackward(self.layers, pullbacks)

    @public
    def step(self, grads: Sequence[Any], lr: float) -> None:
        """Step all layers or none, given the list of their gradients in order.

        If several threads step the same model, guard the calls with a lock: each layer stays consistent, but the steps
        of two threads may interleave between layers.

        Custom layers without ``plan_update`` are stepped first, one by one: if one of them fails, the built-in layers
        have not changed.
        """
        self.plan_update(grads, lr)()

    def plan_update(self, grads: Sequence[Any], lr: float) -> Callable[[], None]:
        """Check a step as `step` does; return a function that runs it and cannot fail."""
        if not isinstance(grads, list | tuple) or len(grads) != len(self._layers):
            raise ValueError(f"grads must be a list with one entry for each of {len(self._layers)} layers")
        return plan_updates(self._layers, [None] * len(grads), grads, lr)

    def set_optimizer(self, optimizer: Any) -> None:
        """Set the optimizer, a name or an object, of every layer that has one; its state is reset."""
        found = optimizers.get(optimizer)
        layers = [leaf for leaf in flat_layers(self) if hasattr(leaf, "optimizer")]
        # Custom layers may refuse it, so they come before any built-in layer has lost its state.
        others = [leaf for leaf in layers if not isinstance(leaf, Trainable)]
        with deferred():
            _all_or_none((partial(setattr, x, "optimizer", found), partial(setattr, x, "optimizer", x.optimizer))
                         for x in others)  # fmt: skip
            for leaf in layers:
                if isinstance(leaf, Trainable):
                    leaf.optimizer = found

    @public
    def compile(
        self,
        optimizer: Any = None,
        loss: Any = None,
        metrics: Iterable[Any] = (),
        *,
        lr: Any = None,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
    ) -> None:
        """Configure training for `fit`, `evaluate` and `train_on_batch`.

        Parameters
        ----------
        optimizer : str or object, optional
            For all layers, with new state; by default each keeps its own.
        loss : str or callable, optional
            "mse", "mae", "huber"; "softmax_cross_entropy" (from logits, labels or probabilities),
            "sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy" (of probabilities); an
            object of `lcnumba.losses`, such as ``lc.losses.BinaryCrossentropy(from_logits=True)``; or
            ``loss(y_true, y_pred) -> (value, dy_pred)``.
        metrics : iterable of str or callable
            "accuracy", "binary_accuracy", "auc", "mae", "mse", or ``metric(y_true, y_pred) -> float``.
        lr : float or callable, optional
            Learning rate, or a schedule ``lr(step)``; by default as in Keras: 0.01 for SGD, 0.001 for the other
            optimizers.
        clip_value : float, optional
            Each element of the gradients is clipped to [-clip_value, clip_value].
        clip_norm : float, optional
            Gradients are scaled down if their global norm, over all layers, exceeds it (after `clip_value`).
        accumulate : int, default 1
            Number of batches per step, whose gradients are averaged, weighted by samples.

        Raises
        ------
        ValueError, TypeError
            If a parameter is invalid; nothing has changed then.

        Warns
        -----
        RuntimeWarning
            If the model ends in a softmax or sigmoid but the loss is from logits, which would apply it twice.

        Notes
        -----
        Weight penalties (regularizers) are sums over all weights, while a loss is a mean over samples and positions: a
        common regularization factor may dominate the loss of a grid. Gradients are clipped before weight penalties are
        added (in Keras afterwards). Clipping and accumulation need the gradients of all layers at once, while a plain
        step computes them block by block.

        Examples
        --------
        >>> import numpy as np
        >>> import lcnumba as lc
        >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="zeros")])
        >>> model.compile("sgd", "mse", ["mae"], lr=0.1)
        >>> x, y = np.array([[1.0], [2.0]]), np.array([[2.0], [4.0]])
        >>> history = model.fit(x, y, epochs=2, progress=False)
        >>> model.evaluate(x, y)["mae"] < history.history["mae"][0]
        True
        """
        config = training_config(loss, metrics, lr, clip_value, clip_norm, accumulate)
        warn_of_last_activation(self, config)  # before anything changes: a warning may be an error
        if optimizer is not None:
            self.set_optimizer(optimizer)
        self.training_config, self.steps_taken = config, 0

    @public
    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        loss: Any = None,
        epochs: int = 1,
        batch_size: int = 32,
        lr: Any = None,
        metrics: Iterable[Any] | None = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        validation_data: Any = None,
        validation_split: float = 0.0,
        shuffle: bool | str = True,
        rng: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        callbacks: Iterable[Callback] = (),
        resume: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> run.History:
        """Train the model on batches.

        Parameters
        ----------
        x, y : arrays, (N, ...)
            Inputs and targets: arrays in memory or memory-mapped, or datasets of h5py, netCDF4, zarr, Dask, xarray and
            the like, read batch by batch. Or `x` is an iterable of batches ``(x, y)`` or ``(x, y, weights)``, and `y`
            is omitted: a re-iterable or a generator.
        loss, metrics, lr
            As for `compile`, which they override. "softmax_cross_entropy": y holds labels (N,), integers from 0, or
            probabilities (N, classes), and the model ends in (N, classes) without an activation. "mse": y has the
            shape of the output, and the mean is over all its elements, as in Keras; on a large grid the gradient of
            each position is small, so use "adam" or a larger lr.
        epochs : int
            Index of the last epoch plus 1; with `initial_epoch` 0, the number of epochs.
        batch_size : int
            Samples per step; the last batch of an epoch may be smaller.
        sample_weight : array, (N,) or (N, ...) by position, optional
            Weights of samples in the loss, or of positions: an array of the shape of the first axes of the output, such
            as (N, H, W). Metrics are not weighted.
        class_weight : dict of int to float, optional
            Weights by label; 1 for labels without an entry.
        validation_data : (x, y), (x, y, weights) or iterable of such batches, optional
            Evaluated after each epoch, not trained on.
        validation_split : float, default 0
            Fraction of the samples, from the end, that is used for validation.
        shuffle : bool or "batch"
            Whether to shuffle the samples in each epoch; "batch" shuffles only the order of batches of contiguous
            samples, which is much faster to read from files.
        rng : None, int or numpy.random.Generator
            Source of the random order.
        initial_epoch : int, default 0
            Index of the first epoch.
        steps_per_epoch : int, optional
            For an iterable: number of batches per epoch. The next epoch continues where the last one ended.
        callbacks : iterable of Callback
            See `lcnumba.callbacks`.
        resume : path, optional
            A file of the callback `Checkpoint`, from which training resumes as if it had not been interrupted, given
            the same arguments. If the file does not exist, training starts from the beginning; a ValueError if that
            would overwrite the file of a `Checkpoint` at another path.
        progress : bool
            Whether to show a progress bar on stderr (with tqdm installed; else one line per epoch). The logger
            "lcnumba" always gets one line per epoch.

        Returns
        -------
        History
            Its ``history["loss"]`` etc. have one entry per epoch. Also in ``model.history``, even after an error.

        Raises
        ------
        ValueError, TypeError
            If an argument is invalid. Arrays are checked before the first step; lazily read data and iterables batch by
            batch.
        KeyboardInterrupt
            After the current batch: either all layers have made its step, or none.

        Warns
        -----
        RuntimeWarning
            Once, if the loss is not finite: the weights are, or will be, unusable. If an iterable is exhausted before
            the last epoch, which ends training. If penalties exceed the loss a hundredfold in the first epoch. If the
            loss does not fit the last activation.

        Examples
        --------
        >>> import numpy as np
        >>> import lcnumba as lc
        >>> model = lc.Sequential([lc.LocallyConnected2D(2, 3, rng=0), lc.Flatten(), lc.Dense(2, rng=0)])
        >>> x, y = np.random.default_rng(0).random((64, 5, 5, 1)), np.arange(64) % 2
        >>> x[y == 1, 0, 0] += 3
        >>> history = model.fit(x, y, loss="softmax_cross_entropy", epochs=20, lr=0.2, metrics=["accuracy"], rng=0,
        ...                     validation_split=0.25, progress=False)
        >>> history.history["val_accuracy"][-1]
        1.0
        """
        return loop.fit(
            self,
            x,
            y,
            loss=loss,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            metrics=metrics,
            sample_weight=sample_weight,
            class_weight=class_weight,
            validation_data=validation_data,
            validation_split=validation_split,
            shuffle=shuffle,
            rng=rng,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            callbacks=callbacks,
            resume=resume,
            progress=progress,
        )

    @public
    def evaluate(
        self,
        x: Any,
        y: Any = None,
        *,
        loss: Any = None,
        metrics: Iterable[Any] | None = None,
        sample_weight: Any = None,
        batch_size: int = 256,
    ) -> Logs:
        """Return the mean loss, penalties included, and metrics of the model on data.

        Parameters
        ----------
        x, y, loss, metrics, sample_weight, batch_size
            As for `fit`.

        Returns
        -------
        dict of str to float
            "loss" and the metrics.

        Raises
        ------
        ValueError, TypeError
            If an argument is invalid.

        Examples
        --------
        >>> import numpy as np
        >>> import lcnumba as lc
        >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="ones")])
        >>> model.evaluate(np.array([[1.0], [3.0]]), np.array([[0.0], [0.0]]), loss="mse", metrics=["mae"])
        {'loss': 5.0, 'mae': 2.0}
        """
        return evaluation.evaluate(
            self, x, y, loss=loss, metrics=metrics, sample_weight=sample_weight, batch_size=batch_size
        )

    @public
    def train_on_batch(
        self,
        x: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        loss: Any = None,
        metrics: Iterable[Any] | None = None,
        lr: Any = None,
    ) -> Logs:
        """Step the model once on these samples, and return their loss and metrics before the step.

        Parameters
        ----------
        x, y, sample_weight, class_weight, loss, metrics, lr
            As for `fit`; a schedule counts the calls since `compile`. Gradients are clipped as set in `compile`, but
            not accumulated.

        Returns
        -------
        dict of str to float
            "loss" and the metrics.

        Raises
        ------
        ValueError, TypeError
            If an argument is invalid.

        Examples
        --------
        >>> import numpy as np
        >>> import lcnumba as lc
        >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="zeros")])
        >>> model.train_on_batch(np.array([[1.0]]), np.array([[2.0]]), loss="mse", lr=0.5)
        {'loss': 4.0}
        >>> model.train_on_batch(np.array([[1.0]]), np.array([[2.0]]), loss="mse", lr=0.5)
        {'loss': 4.0}
        """
        return step.train_on_batch(
            self, x, y, sample_weight=sample_weight, class_weight=class_weight, loss=loss, metrics=metrics, lr=lr
        )

    @public
    def predict(self, x: Any, batch_size: int = 256) -> Any:
        """Return the output, computed in batches.

        Parameters
        ----------
        x : array, or an object that is read lazily
            An array of any type, or a dataset of h5py, netCDF4, zarr and the like, read batch by batch.
        batch_size : int, default 256
            Samples per batch.

        Returns
        -------
        array of the type of x
            A NumPy array if x is read lazily.

        Examples
        --------
        >>> import numpy as np
        >>> import lcnumba as lc
        >>> model = lc.Sequential([lc.Flatten(), lc.Dense(3, kernel_initializer="ones")])
        >>> model.predict(np.ones((2, 4, 5)), batch_size=1)
        array([[20., 20., 20.],
               [20., 20., 20.]], dtype=float32)
        """
        size = integer("batch_size", batch_size)
        if reads_lazily(x):
            source = data.rows("x", x)
            return self._predict(source.take, source.shape[0], size)
        values, like = self._as_numpy(x)
        return like(self._predict(values.__getitem__, len(values), size))

    def _predict(self, take: Callable[[slice], Any], samples: int, size: int) -> Array:
        """The outputs for all samples; `take` returns a slice of them."""
        first: Array = self(take(slice(0, size)))
        if samples <= size:
            return first
        require(first.nbytes // len(first) * samples, "the output for all samples", "call predict on fewer samples")
        y = np.empty((samples, *first.shape[1:]), first.dtype)
        y[:size] = first
        for at in range(size, samples, size):
            y[at : at + size] = self(take(slice(at, at + size)))
        return y

    def get_weights(self) -> list[Array]:
        """Return copies of the weights of all layers, in order."""
        return [weight for weights in self._weights_by_layer() for weight in weights]

    def set_weights(self, weights: Sequence[Array]) -> None:
        """Set the weights of all layers, in the order of `get_weights`; all or none."""
        if not isinstance(weights, list | tuple):
            raise TypeError(f"weights is a {type(weights).__name__}; give a list of arrays")
        # Copy arrays that alias weights of the model: they would change while layers are set one by one.
        own, given = self.live_weights(), [as_numpy(f"weights[{n}]", w)[0] for n, w in enumerate(weights)]
        weights = [w.copy() if any(np.may_share_memory(w, mine) for mine in own) else w for w in given]
        layers = list(flat_layers(self))
        counts = [len(leaf.weights) if isinstance(leaf, Trainable) else len(saving.weights_of(leaf)) for leaf in layers]
        if len(weights) != sum(counts):
            raise ValueError(f"{len(weights)} weights given; {self.name!r} has {sum(counts)}")
        rest, planned, others = list(weights), [], []
        for leaf, count in zip(layers, counts, strict=True):
            mine, rest = rest[:count], rest[count:]
            if count and type(leaf).set_weights is Trainable.set_weights:
                planned.append(leaf.plan_weights(mine))
            elif count:
                others.append((partial(leaf.set_weights, mine), partial(leaf.set_weights, saving.weights_of(leaf))))
        with deferred():
            _all_or_none(others)  # custom layers, which may fail; built-in layers have been checked
            for run in planned:
                run()

    def live_weights(self) -> list[Array]:
        """Return the weights of all layers, in order; those of built-in layers as read-only views."""
        own = (
            layer.weights if isinstance(layer, Trainable) else saving.weights_of(layer) for layer in flat_layers(self)
        )
        return [weight for weights in own for weight in weights]

    def weight_shapes(self, input_shape: Shape) -> list[tuple[int, ...]]:
        """Return the shapes of the weights of all layers, in order, for an input shape, the batch size (or None) first.

        Built-in layers need not be built; custom layers are built if they are not.
        """
        return [shape for _, _, shapes in saving.weights_plan(self, any_shape(input_shape)) for shape in shapes]

    def get_training_state(self) -> list[Any]:
        """Return the training state of each layer for a checkpoint; None for layers without."""
        states = (getattr(layer, "get_training_state", None) for layer in self._layers)
        return [None if state is None else state() for state in states]

    def plan_training_state(self, state: Any) -> Callable[[], None]:
        """Check a result of `get_training_state` of an equal model; return a function that restores it."""
        if not isinstance(state, list) or len(state) != len(self._layers):
            raise ValueError(f"the state must be a list with one entry for each of {len(self._layers)} layers")
        pairs: list[tuple[Any, Any]] = list(zip(self._layers, state, strict=True))
        planned = [(layer, plan_method(layer, "training_state")(mine)) for layer, mine in pairs if mine is not None]

        def undo(layer: Any, before: Any) -> None:
            plan_method(layer, "training_state")(before)()

        def run() -> None:
            with deferred():
                _all_or_none((restore, partial(undo, layer, _state_of(layer))) for layer, restore in planned)

        return run

    prepare_step, prepare_training_state = Renamed("plan_update"), Renamed("plan_training_state")
    recipe = Renamed("training_config")

    def get_flat(self) -> Array:
        """Return the weights of all trainable layers as one vector, for `scipy.optimize`."""
        return np.concatenate([np.empty(0, np.float64), *(layer.get_flat() for layer in self._trainable_leaves())])

    def set_flat(self, vector: Array) -> None:
        """Set those weights from a vector like that of `get_flat`; all or none."""
        layers = self._trainable_leaves()
        sizes = [layer._parameters.flat_size for layer in layers]
        values = as_vector(vector)
        if values.shape != (sum(sizes),):
            raise ValueError(f"the vector has shape {values.shape}; {self.name!r} needs ({sum(sizes)},)")
        parts = zip(layers, np.split(values, np.cumsum(sizes)[:-1]), strict=True)
        planned = [layer.plan_flat(part) for layer, part in parts]
        with deferred():
            for layer in layers:
                layer._parameters.lock.check()
            for run in planned:
                run()

    @public
    def value_and_gradient(self, x: Any, y: Any, loss: Any) -> tuple[float, Array]:
        """Return the loss on data, penalties included, and its gradient with respect to `get_flat`.

        For `scipy.optimize.minimize(..., jac=True)`; use float64 layers: quasi-Newton methods need the precision.

        Parameters
        ----------
        x, y : arrays, (N, ...)
            Inputs and targets.
        loss : str or callable
            As for `fit`.

        Returns
        -------
        value : float
            The loss plus `losses`.
        gradient : (get_flat().size,) float64
            With respect to the weights of the trainable layers.
        """
        random = [layer.name for layer in flat_layers(self) if isinstance(layer, Dropout) and layer.rate]
        if random:
            raise ValueError(f"the loss would be random with {', '.join(random)}; remove Dropout layers or set rate=0")
        value, grads = step.value_and_gradients(self, x, y, loss)
        by_layer = {id(layer): grad for layer, grad in walk(self, grads)}
        parts = [layer.flat_gradient(by_layer[id(layer)]) for layer in self._trainable_leaves()]
        return value, np.concatenate([np.empty(0, np.float64), *parts])

    def _trainable_leaves(self) -> list[Trainable]:
        """The trainable layers; raise if a custom layer has weights."""
        layers = list(flat_layers(self))
        for layer in layers:
            if not isinstance(layer, Trainable) and hasattr(layer, "get_weights") and layer.get_weights():
                raise TypeError(f"layer {layer.name!r} has weights but no get_flat; only built-in layers can be used")
        return [layer for layer in layers if isinstance(layer, Trainable) and layer.trainable]

    def penalties(self) -> float:
        """Return the sum of the penalties of all layers' weights."""
        return sum(sum(leaf.penalties()) for leaf in flat_layers(self) if isinstance(leaf, Trainable))

    @property
    def losses(self) -> list[float]:
        """The `losses` of all layers, in order."""
        return [loss for layer in self._layers for loss in getattr(layer, "losses", [])]

    def count_params(self) -> int:
        """Return the number of weights of all layers."""
        return sum(layer.count_params() for layer in self._layers if hasattr(layer, "count_params"))

    @public
    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the layers, their output shapes and parameter counts."""
        rows = self._rows(self.input_shape)
        head = _TABLE
        widths = [max(map(len, column)) + 2 for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            print_fn("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print_fn(f"Total parameters: {self.count_params():,}")

    def get_config(self) -> dict[str, Any]:
        """Return the name, the layers' classes, configs and built-in optimizers, and the input shape if built.

        For a custom optimizer only the name of its class is included.
        """
        return {
            "name": self.name,
            "layers": [saving.layer_entry(layer) for layer in self._layers],
            "build_input_shape": self._input_shape,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], layers: Mapping[str, Any] | None = None) -> Self:
        """Create a model from the result of `get_config`, with newly initialised weights.

        A custom optimizer is replaced by "sgd", with a warning.

        Parameters
        ----------
        config : mapping
            A result of `get_config`.
        layers : mapping of str to class, optional
            Classes of custom layers, by class name.
        """
        model: Self = saving.from_config(cls, config, layers)
        saving.warn_of_optimizers("the config", config)
        shape = config.get("build_input_shape")
        if shape is not None:
            model.build(shape)
        return model

    @public
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write structure and weights to one file, which `lcnumba.load` reads.

        If saving fails, an existing file is left unchanged. Built-in optimizers are saved with their settings but not
        their state; for a custom optimizer only the name of its class is saved, with a warning. The arguments of
        `compile`, random states and `n_threads` are not saved: `Checkpoint` and ``fit(resume=)`` keep the training
        state, `pickle` keeps everything.

        Parameters
        ----------
        path : path
            The file, by convention ``.npz``; nothing is appended to the name. Symbolic links are followed.

        Raises
        ------
        RuntimeError
            If the model has not been built.
        TypeError
            If a layer has a custom function, which cannot be saved.
        ValueError
            If the name has the extension of another format: ``.h5``, ``.keras``.
        OSError
            If the file cannot be written, or the path is a folder, a device or a pipe.
        """
        saving.save(self, path)

    @public
    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write only the weights to a file, for `load_weights` of a model with the same layers.

        Parameters
        ----------
        path : path
            As for `save`.

        Raises
        ------
        RuntimeError
            If the model has not been built.
        ValueError, OSError
            As for `save`.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> import lcnumba as lc
        >>> first, second = (lc.Sequential([lc.Dense(3, input_shape=(2,))]) for _ in range(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first.save_weights(pathlib.Path(folder, "weights.npz"))
        ...     second.load_weights(pathlib.Path(folder, "weights.npz"))
        >>> bool((second.layers[0].kernel == first.layers[0].kernel).all())
        True
        """
        saving.save_weights(self, path)

    @public
    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Load the weights of a file written by `save_weights`, `save` or `Checkpoint`; all or none.

        Weights are matched by order, not by layer name. `lcnumba.load_keras` reads Keras files.

        Parameters
        ----------
        path : path
            The file.

        Raises
        ------
        RuntimeError
            If the model has not been built.
        OSError
            If the file cannot be read.
        ValueError
            If the file is invalid or its weights have other shapes; the model has not changed then.
        """
        saving.load_weights(self, path)

    def _rows(self, input_shape: Shape | None) -> list[tuple[str, str, str]]:
        """The table of layers: name and class, output shape, number of parameters; without shapes if None."""
        rows, shape, layers = [], input_shape, list[Any](self._layers)
        for layer in layers:
            shape = None if shape is None else tuple(layer.compute_output_shape(shape))
            built = getattr(layer, "built", True) and hasattr(layer, "count_params")
            count = f"{layer.count_params():,}" if built else "0" if shape is not None else ""
            rows.append((f"{layer.name} ({type(layer).__name__})", "" if shape is None else str(shape), count))
        return rows

    def _title(self) -> str:
        """Name, number of layers, shapes and number of parameters, and what it was compiled with."""
        number = len(self._layers)
        parts = [f"{type(self).__name__} {self.name!r}, {number} layer{'s' if number != 1 else ''}"]
        if self.built:
            parts += [f"{self.input_shape} -> {self.output_shape}", parameters_text(self.count_params())]
        elif number:
            parts.append("not built")
        if self.training_config.loss is not None:
            parts.append(f"loss {self.training_config.loss!r}")
        return ", ".join(parts)

    def __repr__(self) -> str:
        """Name, shapes and number of parameters; then a line for each layer."""
        layers = "".join(f"\n  {layer!r}" for layer in self._layers)
        return f"<{self._title()}{layers}>"

    def _repr_html_(self) -> str:
        """The table of layers."""
        return html_table(_TABLE, self._rows(self._input_shape), self._title())

    def __copy__(self) -> Self:
        """Return a deep copy: a shallow one would share the list of layers."""
        return copy.deepcopy(self)

    def _weights_by_layer(self) -> list[list[Array]]:
        return [saving.weights_of(layer) for layer in self._layers]

    def _as_numpy(self, x: Any) -> tuple[Array, Callable[[Array], Any]]:
        """The input as NumPy, checked; builds the model if necessary."""
        if not self._layers:
            raise RuntimeError(f"{self.name!r} has no layers; add some first")
        values, like = as_numpy("x", x)
        check_dtype("x", values)
        if values.ndim < 1:
            raise ValueError("x has 0 dimensions; its first axis must be the batch")
        if self._input_shape is None:
            with self._building.lock:
                if self._input_shape is None:  # another thread may have built it
                    self.build(values.shape)
        elif values.shape[1:] != self._input_shape[1:]:
            raise ValueError(
                f"x has shape {values.shape}; {self.name!r} was built for {self._input_shape}"
                + axes_hint("x", values.shape, self._input_shape)
            )
        return values, like


@public
def load(path: str | os.PathLike[str], layers: Mapping[str, Any] | None = None) -> Sequential:
    """Read a model written by `Sequential.save`.

    Parameters
    ----------
    path : path
        The file.
    layers : mapping of str to class, optional
        Classes of custom layers, by class name.

    Returns
    -------
    Sequential
        With the saved weights, and optimizers without state; a custom optimizer is replaced by "sgd", with a warning.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the file is invalid, or its weights do not fit its config.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.LocallyConnected2D(2, 3, input_shape=(5, 5, 1))])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(pathlib.Path(folder, "model.npz"))
    ...     again = lc.load(pathlib.Path(folder, "model.npz"))
    >>> bool((again.layers[0].kernel == model.layers[0].kernel).all())
    True
    """
    model: Sequential = saving.load(Sequential, path, layers)
    return model


def _checked_output_shape(layer: Layer, shape: Shape) -> Shape:
    """The output shape of a layer for an input shape; raise if it was built for another."""
    output_shape = tuple(layer.compute_output_shape(shape))
    if getattr(layer, "built", False):
        mine = tuple(layer.input_shape)  # type: ignore[attr-defined]
        if mine[1:] != tuple(shape)[1:]:
            raise ValueError(f"layer {layer.name!r} was built for input {mine}, not {tuple(shape)}")
    return output_shape


def _all_or_none(changes: Iterable[tuple[Callable[[], Any], Callable[[], Any]]]) -> None:
    """Apply (change, undo) pairs; if a change fails, undo it and those before it."""
    done: list[Callable[[], Any]] = []
    try:
        for change, undo in changes:
            done.append(undo)
            change()
    except BaseException:
        for undo in reversed(done):
            with suppress(BaseException):  # the first error is raised
                undo()
        raise


def _state_of(layer: Any) -> Any:
    """A layer's training state, copied if it is a custom layer, which may change it in place."""
    state = layer.get_training_state()
    return state if isinstance(layer, Trainable | Sequential) else copy.deepcopy(state)


def _call(layer: Layer, x: Any) -> Any:
    """A layer's output for inference; inside a model Flatten need not copy."""
    return layer.reshaped(x)[0] if type(layer) is Flatten else layer(x)


def _forward(layer: Layer, x: Any) -> tuple[Any, Pullback]:
    """A layer's output and pullback for training; inside a model Flatten need not copy."""
    return layer.reshaped(x) if type(layer) is Flatten else layer.forward(x)


_METHODS = ("build", "compute_output_shape", "__call__", "forward", "step", "get_config")
