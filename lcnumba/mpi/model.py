"""A model whose weights are divided between ranks by position, and `distribute`, which makes one."""

import copy
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from lcnumba import activations, constraints, initializers, optimizers, regularizers
from lcnumba.callbacks import Callback, Logs
from lcnumba.formats import npz
from lcnumba.gradients import Gradients
from lcnumba.layers.activation import Activation
from lcnumba.layers.backward import Backward
from lcnumba.layers.base import Trainable
from lcnumba.layers.dense import Dense
from lcnumba.layers.dropout import Dropout
from lcnumba.layers.flatten import Flatten
from lcnumba.layers.locally_connected import (
    LocallyConnected,
    LocallyConnected1D,
    LocallyConnected2D,
    LocallyConnected3D,
)
from lcnumba.models.backward import SequentialBackward, plan_updates
from lcnumba.models.sequential import Sequential
from lcnumba.mpi.exchange import Lines, World
from lcnumba.mpi.files import Stored, Striped, loaded, writing
from lcnumba.mpi.launch import communicator, prepare
from lcnumba.mpi.layers import Gather, Halo, StripedDropout, striped
from lcnumba.mpi.share import ClipTogether, RankShare, digest
from lcnumba.mpi.stripes import LayerStripes, largest_count
from lcnumba.runtime.memory import require
from lcnumba.runtime.signals import deferred
from lcnumba.training import data, evaluation, loop, run, step
from lcnumba.training.config import ClipByNorm, TrainingConfig, training_config, warn_of_last_activation
from lcnumba.utils import validation
from lcnumba.utils.arrays import as_numpy, check_dtype, read_only, reads_lazily
from lcnumba.utils.display import PublicNames
from lcnumba.utils.messages import public
from lcnumba.utils.sums import exact_sum
from lcnumba.utils.types import Array, Shape

__all__ = ["DistributedSequential", "distribute"]


class _Weight(NamedTuple):
    """A weight of the whole model, and which rows of it each rank has."""

    layer: Any  # of this rank
    name: str
    shape: tuple[int, ...]
    edges: (
        tuple[int, ...] | None
    )  # rows of the first axis at which stripes begin, and the end; None: all ranks have all

    def rows(self, rank: int) -> tuple[int, int]:
        """The rows that a rank has."""
        return (0, self.shape[0]) if self.edges is None else (self.edges[rank], self.edges[rank + 1])


@public
def distribute(
    model: Sequential, comm: Any = None, *, input_shape: Shape | None = None, data_groups: int = 1
) -> "DistributedSequential":
    """Divide a model between the ranks of a communicator: each gets the weights of some lines of positions.

    All ranks call it, and every method of the result, with the same arguments.

    Parameters
    ----------
    model : Sequential
        Of `LocallyConnected1D` to 3D (implementation 1, channels last), `Activation` and `Dropout`, and after them
        optionally `Flatten` and a head of `Dense`, `Activation` and `Dropout`, of which all ranks have all. If it has
        not been built, no rank ever holds all weights. It must not be used afterwards.
    comm : mpi4py.MPI.Intracomm, optional
        By default ``MPI.COMM_WORLD``.
    input_shape : tuple of int or None, optional
        The batch, or None, first; required unless the model has been built or its first layer has an input shape.
    data_groups : int, default 1
        How many groups of ranks have all stripes: in training each computes another batch, and their gradients are
        averaged before a step. So `fit` equals that of one group with as many batches accumulated.

    Returns
    -------
    DistributedSequential

    Raises
    ------
    TypeError
        If the model has a layer or a setting that cannot be divided; the message names it.
    ValueError
        If the stripes would be too thin; the message names the largest number of ranks.
    RuntimeError
        If the process was started by the launcher of another MPI.

    Examples
    --------
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.LocallyConnected2D(4, 3, padding="same", input_shape=(12, 10, 2))])
    >>> model = lc.mpi.distribute(model)  # doctest: +SKIP
    """
    found = communicator(comm)
    world = World(found, validation.integer("data_groups", data_groups))
    prepare(found)
    with world.agreed():
        whole, shape = _unbuilt(model, input_shape)
        stripes = _stripes(whole, shape, world.size)
    _synchronise(whole, model, world)
    return DistributedSequential(whole, shape, model, world, stripes)


class DistributedSequential(PublicNames):
    """A `Sequential` whose weights are divided between ranks; `distribute` makes it.

    It has the methods of `Sequential` that are listed here, with the same arguments and, to the last bit, the same
    results on any number of ranks. All ranks must call them, with the same arguments. Callbacks and progress run on
    rank 0, and what they do to the model (`save`, `get_weights`, `set_weights`, ``layer.trainable``) on all.

    Attributes
    ----------
    layers : tuple of layers
        The layers, with this rank's rows of their weights.
    input_shape, output_shape : tuple of int or None
        Of the whole model, None for the batch.
    history : History or None
        Of the last fit.

    Examples
    --------
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.LocallyConnected2D(4, 3, padding="same", rng=0)])
    >>> model.compile("adam", "mse")
    >>> model = lc.mpi.distribute(model, input_shape=(None, 12, 10, 2))  # doctest: +SKIP
    """

    def __init__(
        self, whole: Sequential, input_shape: Shape, given: Sequential, world: World, stripes: list[LayerStripes]
    ) -> None:
        self.name, self._whole, self._world, self._stripes = whole.name, whole, world, stripes
        self.history, self.steps_taken = given.history, given.steps_taken
        self._input_shape = input_shape
        self._weights: list[_Weight] = []
        self._own: list[Any] = []  # the layers of this rank
        self._sample_shapes: list[tuple[Any, ...]] = []  # of their inputs on this rank
        self._model = Sequential(name=self.name)  # with layers that exchange lines between them
        self._make(given.live_weights() if given.built else None)
        if given.built:
            with world.agreed():
                plan = self.plan_training_state(given.get_training_state())
            plan()
        self._parameter_count = world.count(sum(self._counts()))
        self.training_config = self._together(given.training_config)

    # --- construction

    def _make(self, weights: list[Array] | None) -> None:
        """Make this rank's layers, with their weights: drawn, or taken from those of a built model."""
        world, shape = self._world, self._input_shape
        rank, stripes = world.rank, iter(self._stripes)
        lines: Any = self._stripes[0].reads[rank]  # that this rank has at this layer; None: all
        edges: Sequence[int] = ()
        for layer in self._whole.layers:
            own: Any = layer
            if isinstance(layer, LocallyConnected):
                of_layer = next(stripes)
                exchange = Lines(of_layer, rank, world.transfer) if of_layer.owns_input else None
                if exchange is not None:
                    self._append(Halo(f"halo of {layer.name}", world, exchange))
                stripe, edges = of_layer.stripe(rank), of_layer.output_edges
                lines = np.arange(*edges[rank : rank + 2])
                own = striped(layer, stripe, world, exchange)
                each = stripe.positions // stripe.output_size[0]
                rows = {"kernel": tuple(edge * each for edge in edges), "bias": edges}
                if layer.bias_sharing == "filter":
                    del rows["bias"]
                self._add_weights(layer, own, shape, (None, *stripe.sample_shape), rows, weights)
            elif isinstance(layer, Flatten) and lines is not None:
                self._append(Gather(f"gather for {layer.name}", world, edges))
                lines = None
            elif isinstance(layer, Dropout) and lines is not None:
                own = StripedDropout(layer, shape[1:], lines)
            elif isinstance(layer, Dense):
                own = copy.deepcopy(layer)
                self._add_weights(layer, own, shape, shape, {}, weights)
            self._append(own)
            self._own.append(own)
            self._sample_shapes.append(shape[1:] if lines is None else (len(lines), *shape[2:]))
            shape = tuple(layer.compute_output_shape(shape))
        self._output_shape = shape
        self.share = RankShare(world, self, self._stripes[0].reads[rank], None if lines is None else edges)

    def _append(self, layer: Any) -> None:
        self._model._layers.append(layer)

    def _add_weights(
        self, layer: Any, own: Any, shape: Shape, own_shape: Shape, rows: dict[str, tuple[int, ...]],
        given: list[Array] | None,
    ) -> None:  # fmt: skip
        """Build a layer of this rank with its rows of the weights."""
        arrays: list[Array] = []
        draw = {"kernel": layer.kernel_initializer, "bias": layer.bias_initializer}
        fans, dtype = {"kernel": layer._kernel_fans(shape)}, np.dtype(layer.dtype)
        with self._world.agreed():
            shapes = layer.weight_shapes(shape)
            if given is not None:
                given = given[len(self._weights) :]
            elif layer._initial_weights is not None:
                given = list(layer._parameters.checked(layer._initial_weights, shapes, dtype).values())
            for name, whole in shapes.items():
                weight = _Weight(own, name, tuple(whole), rows.get(name))
                first, last = weight.rows(self._world.rank)
                if given is not None:
                    found = given[len(arrays)][first:last]
                else:
                    found = initializers.draw_rows(draw[name], whole, first, last, dtype, layer._rng, fans.get(name))
                arrays.append(found if found.base is None else np.array(found, dtype, order="C"))
                self._weights.append(weight)
            own.build_with(own_shape, arrays)

    def _together(self, config: TrainingConfig) -> TrainingConfig:
        """A training config whose gradients are clipped by their norm over all ranks."""
        transforms = tuple(
            ClipTogether(each.limit, self) if isinstance(each, ClipByNorm) else each
            for each in config.gradient_transforms
        )
        accumulate = config.accumulate * self._world.groups
        return dataclasses.replace(config, gradient_transforms=transforms, accumulate=accumulate)

    # --- what training needs; see `lcnumba.protocol.Model`

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers, with this rank's rows of their weights."""
        return tuple(self._own)

    @property
    def built(self) -> bool:
        """True: the layers have weights."""
        return True

    @property
    def input_shape(self) -> Shape:
        """Shape of the input, None for the batch."""
        return (None, *self._input_shape[1:])

    @property
    def output_shape(self) -> Shape:
        """Shape of the output, None for the batch."""
        return (None, *self._output_shape[1:])

    def build(self, input_shape: Any) -> None:
        """Do nothing: the model has been built."""

    def unbuilt_on_failure(self) -> AbstractContextManager[None]:
        """Do nothing: the model has been built."""
        return nullcontext()

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the output shape for an input shape."""
        return self._whole.compute_output_shape(input_shape)

    def call_penalised(self, x: Array) -> tuple[Array, float]:
        """Return this rank's lines of the output for its lines of the input, and 0 for activity penalties."""
        return self._through(x, lambda layer, values: (_inside(layer)(values), None))[0], 0.0

    def forward(self, x: Array) -> tuple[Array, SequentialBackward]:
        """Return this rank's lines of the output for its lines of the input, and the pullback."""
        y, pullbacks = self._through(x, lambda layer, values: _inside(layer, "forward")(values))
        return y, _DistributedBackward(self._model._layers, pullbacks, self._world)

    def _through(self, x: Array, call: Callable[[Any, Array], tuple[Array, Any]]) -> tuple[Array, list[Any]]:
        """Pass values through the layers; what may fail is agreed on before lines are exchanged."""
        values, found = x, []
        for exchange, layers in self._between_exchanges:
            if exchange is not None:
                values, pullback = call(exchange, values)
                found.append(pullback)
            with self._world.agreed():
                for layer in layers:
                    values, pullback = call(layer, values)
                    found.append(pullback)
        return values, found

    @property
    def _between_exchanges(self) -> list[tuple[Any, list[Any]]]:
        """The layers that exchange lines, None at first, each with the layers up to the next of them."""
        groups: list[tuple[Any, list[Any]]] = [(None, [])]
        for layer in self._model._layers:
            if isinstance(layer, Halo | Gather):
                groups.append((layer, []))
            else:
                groups[-1][1].append(layer)
        return groups

    def step(self, grads: Any, lr: float) -> None:
        """Step every layer, or none."""
        with self._world.agreed():
            plan = plan_updates(self._own, [None] * len(grads), grads, lr)
        with self._world.committed():
            plan()

    def penalties(self) -> float:
        """Return the sum of the penalties of all layers' weights."""
        total = []
        for layer in self._own:
            found = []
            for weight in self._weights_of(layer):
                regularizer = getattr(layer, f"{weight.name}_regularizer")
                if regularizer is None:
                    continue
                array = layer._parameters[weight.name]
                with self._world.agreed():
                    sums = regularizer.row_sums(array)
                total_of = exact_sum if weight.edges is None else self._world.total
                found.append(regularizer.of_sums(*map(total_of, sums)))
            total.append(sum(found))
        return sum(total)

    def counted(self, grads: Any) -> list[Array]:
        """Return the arrays of gradients that this rank counts: the root alone those that all ranks have."""
        arrays = []
        for layer, grad in zip(self._own, grads, strict=True):
            if grad is None:
                continue
            for weight in self._weights_of(layer):
                if weight.edges is not None or self._world.rank == 0:
                    arrays.append(getattr(grad, weight.name))
        return arrays

    def gradients_of_group(self, group: int, grads: Any) -> list[Any]:
        """Return the gradients of a group's batch, given them in that group."""
        mine = group == self._world.group
        present = self._world.broadcast_from_group(group, [grad is not None for grad in grads] if mine else None)
        found: list[Any] = []
        for number, (layer, is_present) in enumerate(zip(self._own, present, strict=True)):
            if not is_present:
                found.append(None)
                continue
            arrays = {}
            for weight in self._weights_of(layer):
                own = weight.layer._parameters[weight.name]
                array = np.ascontiguousarray(getattr(grads[number], weight.name)) if mine else np.empty_like(own)
                self._world.copy_from_group(group, array)
                arrays[weight.name] = array
            found.append(Gradients(**arrays))
        return found

    def dropouts(self) -> list[tuple[Dropout, tuple[Any, ...]]]:
        """Return the Dropout layers, and the shape of a sample that each gets on this rank."""
        return [(layer, shape) for layer, shape in zip(self._own, self._sample_shapes, strict=True)
                if isinstance(layer, Dropout)]  # fmt: skip

    def get_config(self) -> dict[str, Any]:
        """Return the config of the whole model, as `Sequential.get_config` does."""
        for whole, own in zip(self._whole.layers, self._own, strict=True):
            if isinstance(whole, Trainable):
                whole.trainable, whole.optimizer = own.trainable, own.optimizer
        return {**self._whole.get_config(), "build_input_shape": self.input_shape}

    def weight_shapes(self, input_shape: Shape) -> list[tuple[int, ...]]:
        """Return the shapes of the weights of the whole model, in order."""
        return [weight.shape for weight in self._weights]

    def _weights_of(self, layer: Any) -> list[_Weight]:
        """The weights of a layer of this rank."""
        return [weight for weight in self._weights if weight.layer is layer]

    def weight_rows(self) -> list[tuple[int, int]]:
        """Return which rows of each weight this rank has."""
        return [weight.rows(self._world.rank) for weight in self._weights]

    def live_weights(self) -> list[Any]:
        """Return the weights, as arrays that can be written to a file."""
        return [self._part((number,), w, w.layer._parameters[w.name]) for number, w in enumerate(self._weights)]

    def _part(self, key: Any, weight: _Weight, array: Array) -> Any:
        """An array of the shape of this rank's part of a weight, as part of the whole."""
        return read_only(array) if weight.edges is None else Striped(self._world, key, array, weight.edges)

    def get_training_state(self) -> list[Any]:
        """Return the training state of each layer of the whole model, for a checkpoint."""
        states = []
        for number, layer in enumerate(self._own):
            state: Any = layer.get_training_state() if hasattr(layer, "get_training_state") else None
            if isinstance(layer, LocallyConnected):
                state = {
                    w.name: {
                        key: self._part((number, w.name, key), w, array) if array.ndim > 1 else array
                        for key, array in state[w.name].items()
                    }
                    for w in self._weights_of(layer) if w.name in state
                }  # fmt: skip
            states.append(state)
        return states

    def plan_training_state(self, state: Any) -> Callable[[], None]:
        """Check a training state of the whole model; return a function that restores this rank's part."""
        if not isinstance(state, list) or len(state) != len(self._own):
            raise ValueError(f"the state must be a list with one entry for each of {len(self._own)} layers")
        plans = []
        for layer, mine in zip(self._own, state, strict=True):
            if mine is None:
                continue
            weights = {w.name: w for w in self._weights_of(layer)}
            if weights and isinstance(mine, dict) and mine.keys() <= weights.keys():
                mine = {name: self._own_state(weights[name], arrays) for name, arrays in mine.items()}
            plans.append(layer.plan_training_state(loaded(mine)))

        def restore() -> None:
            for plan in plans:
                plan()

        return restore

    def _own_state(self, weight: _Weight, arrays: Any) -> Any:
        """The rows of this rank of an optimizer's state of one weight."""
        first, last = weight.rows(self._world.rank)

        def own(array: Any) -> Any:
            if weight.edges is None or getattr(array, "shape", None) != weight.shape:
                return copy.copy(array)
            return array.read_rows(first, last) if isinstance(array, Stored) else array[first:last].copy()

        return {key: own(array) for key, array in arrays.items()} if isinstance(arrays, dict) else arrays

    def striped_arrays(self) -> list[Striped]:
        """Return the arrays of a checkpoint of which each rank has some rows."""
        states = [array for state in self.get_training_state() for array in _arrays(state)]
        return [array for array in (*self.live_weights(), *states) if isinstance(array, Striped)]

    # --- the public methods

    def set_optimizer(self, optimizer: Any) -> None:
        """Set the optimizer, a name or an object, of every layer; its state is reset."""
        self._refuse_in_callback("set_optimizer")
        with self._world.agreed():
            found = optimizers.get(optimizer)
            if not optimizers.is_built_in(found):
                raise TypeError(_refusal("optimizer", optimizer, "of one's own"))
        for layer in self._own:
            if isinstance(layer, Trainable):
                layer.optimizer = found

    @public
    def compile(
        self, optimizer: Any = None, loss: Any = None, metrics: Iterable[Any] = (), *, lr: Any = None,
        clip_value: float | None = None, clip_norm: float | None = None, accumulate: int = 1,
    ) -> None:  # fmt: skip
        """Configure training; as `Sequential.compile`."""
        self._refuse_in_callback("compile")
        with self._world.agreed():
            config = training_config(loss, metrics, lr, clip_value, clip_norm, accumulate)
            warn_of_last_activation(self, config)
        if optimizer is not None:
            self.set_optimizer(optimizer)
        self.training_config, self.steps_taken = self._together(config), 0

    @public
    def fit(
        self, x: Any, y: Any = None, *, loss: Any = None, epochs: int = 1, batch_size: int = 32, lr: Any = None,
        metrics: Iterable[Any] | None = None, sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None, validation_data: Any = None, validation_split: float = 0.0,
        shuffle: bool | str = True, rng: Any = None, initial_epoch: int = 0, steps_per_epoch: int | None = None,
        callbacks: Iterable[Callback] = (), resume: str | os.PathLike[str] | None = None, progress: bool = True,
    ) -> run.History:  # fmt: skip
        """Train the model; as `Sequential.fit`.

        Callbacks and progress run on rank 0 alone. Of what reads lazily each rank reads its own lines; arrays and
        batches are given whole to all ranks, which must have the same. Without `rng` all ranks take rank 0's.
        """
        self._refuse_in_callback("fit")
        with self._world.agreed():
            generator = validation.generator(rng)
        generator.bit_generator.state = self._world.broadcast(generator.bit_generator.state)
        held_out = validation_data if isinstance(validation_data, tuple | list) else ()
        self._check_same(
            x, y, sample_weight, *held_out, epochs, batch_size, lr, shuffle, initial_epoch, steps_per_epoch
        )
        self._check_class_weight(class_weight)
        return loop.fit(
            self, x, y, loss=loss, epochs=epochs, batch_size=batch_size, lr=lr, metrics=metrics,
            sample_weight=sample_weight, class_weight=class_weight, validation_data=validation_data,
            validation_split=validation_split, shuffle=shuffle, rng=generator, initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch, callbacks=callbacks if self._world.is_root else (), resume=resume,
            progress=progress and self._world.is_root,
        )  # fmt: skip

    @public
    def evaluate(
        self, x: Any, y: Any = None, *, loss: Any = None, metrics: Iterable[Any] | None = None,
        sample_weight: Any = None, batch_size: int = 256,
    ) -> Logs:  # fmt: skip
        """Return loss and metrics of the model on data; as `Sequential.evaluate`."""
        self._refuse_in_callback("evaluate")
        self._check_same(x, y, sample_weight, batch_size)
        return evaluation.evaluate(
            self, x, y, loss=loss, metrics=metrics, sample_weight=sample_weight, batch_size=batch_size
        )

    @public
    def train_on_batch(
        self, x: Any, y: Any, *, sample_weight: Any = None, class_weight: Mapping[int, float] | None = None,
        loss: Any = None, metrics: Iterable[Any] | None = None, lr: Any = None,
    ) -> Logs:  # fmt: skip
        """Step the model once; as `Sequential.train_on_batch`."""
        self._refuse_in_callback("train_on_batch")
        self._check_same(x, y, sample_weight, lr)
        self._check_class_weight(class_weight)
        return step.train_on_batch(
            self, x, y, sample_weight=sample_weight, class_weight=class_weight, loss=loss, metrics=metrics, lr=lr
        )

    @public
    def predict(self, x: Any, batch_size: int = 256) -> Any:
        """Return the whole output on all ranks, computed in batches; as `Sequential.predict`."""
        self._refuse_in_callback("predict")
        self._check_same(x, batch_size)
        with self._world.agreed():
            size = validation.integer("batch_size", batch_size)
            values, like = (x, lambda y: y) if reads_lazily(x) else as_numpy("x", x)
            rows = self.share.rows("x", data.rows("x", values))
            samples = rows.shape[0]
            shape: Any = (samples, *self.output_shape[1:])
        y: Any = None
        for at in range(0, max(1, samples), size):
            with self._world.agreed():
                part = np.ascontiguousarray(rows.take(slice(at, min(samples, at + size))))
                check_dtype("x", part)
            found = self.share.whole(self.call_penalised(part)[0])
            with self._world.agreed():
                if y is None:
                    require(found[:1].nbytes * samples, "the output for all samples", "call predict on fewer samples")
                    y = np.empty(shape, found.dtype)
            y[at : at + size] = found
        return like(y)

    __call__ = predict

    @public
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write structure and weights to one ordinary file, which `lcnumba.load` reads; as `Sequential.save`.

        It returns when the file is complete.
        """
        self.write_file(lambda: npz.write_model(path, self.get_config(), self.live_weights()))

    @public
    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write only the weights to one ordinary file; as `Sequential.save_weights`."""
        self.write_file(lambda: npz.write_weights(path, self.live_weights()))

    def write_file(self, write: Callable[[], None]) -> None:
        """Write a file on the root, with the rows of all ranks."""
        self.share.command("send_state")
        error = None
        with writing(self._world, self.striped_arrays) as writes:
            if writes:
                try:
                    write()
                except Exception as found:  # noqa: BLE001 - raised below
                    error = found
        if self.share.leads and error is not None:
            raise error
        if not self.share.leads:
            self._world.raise_first(error)

    def send_state(self) -> None:
        """Send the root what it asks for while it writes a file within a callback."""
        with writing(self._world, self.striped_arrays):
            pass

    @public
    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Load the weights of a file; each rank reads its own rows; as `Sequential.load_weights`."""
        self._refuse_in_callback("load_weights")
        with self._world.agreed(), npz.ModelFile(path) as file:
            own = self.share.read_weights(file, self.weight_shapes(self.input_shape))
        self.share.check_read()
        self.set_own_weights(own)

    def get_weights(self) -> list[Array]:
        """Return copies of all weights of the whole model, in order, on all ranks, which must have the memory."""
        self.share.command("get_weights")
        found = []
        for weight in self._weights:
            array = weight.layer._parameters[weight.name]
            # Rows are the lines of one sample.
            found.append(array.copy() if weight.edges is None else self._world.gather(array[None], weight.edges)[0])
        return found

    def set_weights(self, weights: Sequence[Array]) -> None:
        """Set all weights, given those of the whole model, in the order of `get_weights`; all or none."""
        if self.share.leads:
            arrays = self._checked(weights)
            self.share.command("receive_weights")
            self.receive_weights(arrays)
            return
        with self._world.agreed():
            own = [
                array[slice(*weight.rows(self._world.rank))]
                for array, weight in zip(self._checked(weights), self._weights, strict=True)
            ]
        self.set_own_weights(own)

    def set_own_weights(self, weights: list[Array]) -> None:
        """Set this rank's rows of all weights, on all ranks or none."""
        rest, plans = list(weights), []
        with self._world.agreed():
            for layer in self._own:
                count = len(self._weights_of(layer))
                if count:
                    plans.append(layer.plan_weights(rest[:count]))
                    rest = rest[count:]
        with self._world.committed():
            for plan in plans:
                plan()

    def receive_weights(self, weights: list[Array] | None = None) -> None:
        """Set this rank's rows of weights that the root sends."""
        with self._world.agreed():
            ranges = [weight.rows(self._world.rank) for weight in self._weights]
            own = [
                np.empty((last - first, *weight.shape[1:]), weight.layer.dtype)
                for weight, (first, last) in zip(self._weights, ranges, strict=True)
            ]
        for number, (weight, mine) in enumerate(zip(self._weights, own, strict=True)):
            if self._world.group:  # which gets them from the first group
                continue
            if weights is None:
                self._world.transfer({}, {0: mine})
            else:
                others = range(1, self._world.size)
                parts = {rank: np.ascontiguousarray(weights[number][slice(*weight.rows(rank))]) for rank in others}
                self._world.transfer(parts, {})
                mine[...] = weights[number][slice(*ranges[number])]
        for mine in own:
            self._world.copy_from_group(0, mine)
        self.set_own_weights(own)
        self.share.note_states()

    def _checked(self, weights: Any) -> list[Array]:
        """Weights of the whole model, cast to the layers' dtypes."""
        if not isinstance(weights, list | tuple):
            raise TypeError(f"weights is a {type(weights).__name__}; give a list of arrays")
        if len(weights) != len(self._weights):
            raise ValueError(f"{len(weights)} weights given; {self.name!r} has {len(self._weights)}")
        arrays = [as_numpy(f"weights[{number}]", array)[0] for number, array in enumerate(weights)]
        for array, weight in zip(arrays, self._weights, strict=True):
            if array.shape != weight.shape:
                raise ValueError(f"{weight.name} has shape {array.shape}; {weight.layer.name!r} needs {weight.shape}")
            check_dtype(weight.name, array)
        return [array.astype(weight.layer.dtype) for array, weight in zip(arrays, self._weights, strict=True)]

    @property
    def bytes_sent(self) -> int:
        """How many bytes of lines, and of gradients to other groups, this rank has sent since `distribute`."""
        return self._world.bytes_sent

    def count_params(self) -> int:
        """Return the number of weights of the whole model."""
        return self._parameter_count

    def _counts(self) -> Iterator[int]:
        """How many weights exist, of those that this rank counts."""
        for layer in self._own:
            counts = layer._parameters.counts() if isinstance(layer, Trainable) else {}
            for weight in self._weights_of(layer):
                if weight.edges is not None or self._world.rank == 0:
                    yield counts[weight.name]

    def _refuse_in_callback(self, method: str) -> None:
        if self.share.leads:
            raise RuntimeError(
                f"{method} cannot be called by a callback: the other ranks do not call it; give validation_data to fit"
            )

    def __repr__(self) -> str:
        """Name and shapes, and the ranks."""
        shapes = f"{self.input_shape} -> {self.output_shape}"
        return f"<DistributedSequential {self.name!r} on {self._world.size} ranks: {shapes}>"

    def _check_same(self, *arguments: Any) -> None:
        """Raise unless all ranks were given the same, as far as numbers and some of the entries of arrays show."""
        found = self._world.gather_all([digest("x", argument) for argument in arguments])
        if any(other != found[0] for other in found):
            raise ValueError("ranks were given different data; all must get the same, such as from one seed or file")

    def _check_class_weight(self, class_weight: Any) -> None:
        """Refuse weights of classes where ranks have lines of the targets."""
        if class_weight is not None and len(self.output_shape) > 2:
            raise TypeError(
                f"class_weight needs one label a sample; the model predicts shape {self.output_shape}: give "
                "sample_weight by position"
            )


class _DistributedBackward(SequentialBackward):
    """The pullback of a forward call: what may fail is agreed on before lines of dx are exchanged."""

    def __init__(self, layers: Sequence[Any], pullbacks: Sequence[Any], world: World) -> None:
        super().__init__(layers, pullbacks)
        self._world = world

    def __call__(self, dy: Any) -> tuple[Any, list[Any]]:
        """Return dx and the list of the layers' gradients."""
        with self._world.agreed():
            self._reserve(gradients=True)
        with self._world.committed():
            dx, grads = super().__call__(dy)
        pairs = zip(self._layers, grads, strict=True)
        return dx, [grad for layer, grad in pairs if not isinstance(layer, Halo | Gather)]

    def step(self, dy: Any, lr: float, *, wants_dx: bool = True) -> Any:
        """Step all layers or none."""
        with deferred():
            with self._world.agreed():
                plan = self.plan_step(lr)
                assert plan is not None
                self._reserve()
            with self._world.committed():
                return plan(dy, wants_dx)

    def _reserve(self, gradients: bool = False) -> None:
        """Raise a MemoryError if there is not enough memory for dx of all layers, and their gradients."""
        backwards = [pullback for pullback in self._pullbacks if isinstance(pullback, Backward)]
        # An array of dx, and a copy for messages.
        needed = sum(2 * pullback.bytes_of_step + gradients * pullback.bytes_of_weights for pullback in backwards)
        require(needed, "the gradients of this rank", "give fewer samples at a time, or use more ranks")
        np.empty(needed, np.uint8)


def _unbuilt(model: Any, input_shape: Shape | None) -> tuple[Sequential, Shape]:
    """The layers of a model, not built, and its input shape; raise if it cannot be divided."""
    if not isinstance(model, Sequential):
        raise TypeError(f"model={model!r:.200} is a {type(model).__name__}; give a Sequential")
    flat = False
    for layer in model.layers:
        _check_layer(layer, flat)
        flat = flat or isinstance(layer, Flatten)
    if not any(isinstance(layer, LocallyConnected) for layer in model.layers):
        raise TypeError(f"{model.name!r} has no locally connected layer, whose positions could be divided")
    shape: Any = model.input_shape if model.built else input_shape
    if shape is None:
        raise ValueError("input_shape is missing; give that of the model, the batch first: (None, 721, 1440, 8)")
    shape = (None, *validation.any_shape(shape)[1:])
    if model.built and input_shape is not None and validation.any_shape(input_shape)[1:] != shape[1:]:
        raise ValueError(f"input_shape={input_shape!r} differs from that of the model, {shape}")
    whole = Sequential(name=model.name)
    layers: list[Any] = list(model.layers)
    for layer in layers:
        whole._layers.append(_without_weights(layer) if isinstance(layer, Trainable) and layer.built else layer)
    whole.compute_output_shape(shape)
    return whole, shape


def _without_weights(layer: Any) -> Any:
    """A layer of the same settings that has not been built."""
    other = type(layer).from_config(layer.get_config())
    other.optimizer = layer.optimizer
    if isinstance(layer, LocallyConnected):
        other.n_threads = layer.n_threads
    return other


_LAYERS = (
    LocallyConnected1D, LocallyConnected2D, LocallyConnected3D, Activation, Dropout, Flatten, Dense,
)  # fmt: skip


def _check_layer(layer: Any, flat: bool) -> None:
    """Raise unless a layer can be divided."""
    name = getattr(layer, "name", layer)
    if type(layer) not in _LAYERS:
        raise TypeError(
            f"layer {name!r} is a {type(layer).__name__}; a distributed model can have LocallyConnected1D to 3D, "
            "Activation, Dropout, Flatten and Dense"
        )
    if isinstance(layer, Dense) and not flat:
        raise TypeError(f"layer {name!r} is a Dense before a Flatten; put a Flatten before it")
    if isinstance(layer, LocallyConnected):
        if layer.implementation != 1:
            raise TypeError(
                f"implementation={layer.implementation!r} of {name!r} cannot be divided; use implementation=1"
            )
        if layer.weight_sharing is not None:
            raise TypeError(
                f"weight_sharing of {name!r} cannot be divided: its weights belong to positions of several ranks; use "
                "weight_sharing=None, or train with data-parallel ranks in a framework"
            )
        if layer.data_format != "channels_last":
            raise TypeError(f"data_format={layer.data_format!r} of {name!r} cannot be divided; use 'channels_last'")
    if not activations.is_built_in(getattr(layer, "activation", None) or activations.get(None)):
        raise TypeError(_refusal("activation", layer.activation, f"of {name!r}"))
    if not isinstance(layer, Trainable):
        return
    if not optimizers.is_built_in(layer.optimizer):
        raise TypeError(_refusal("optimizer", layer.optimizer, f"of {name!r}"))
    if layer.activity_regularizer is not None:
        raise TypeError(f"activity_regularizer of {name!r} cannot be divided; use kernel_regularizer")
    for weight in ("kernel", "bias"):
        regularizer, constraint = getattr(layer, f"{weight}_regularizer"), getattr(layer, f"{weight}_constraint")
        if not regularizers.is_built_in(regularizer):
            raise TypeError(_refusal(f"{weight}_regularizer", regularizer, f"of {name!r}"))
        if not constraints.is_built_in(constraint):
            raise TypeError(_refusal(f"{weight}_constraint", constraint, f"of {name!r}"))


def _refusal(what: str, value: Any, where: str) -> str:
    return f"{what}={value!r:.80} {where} is not built in; only built-in ones can be divided"


def _stripes(whole: Sequential, shape: Shape, ranks: int) -> list[LayerStripes]:
    """The stripes of each locally connected layer."""
    geometries = []
    for layer in whole.layers:
        if isinstance(layer, LocallyConnected):
            geometries.append(layer._geometry_of(shape))
        shape = tuple(layer.compute_output_shape(shape))
    found = [LayerStripes(geometry, ranks, owns_input=number > 0) for number, geometry in enumerate(geometries)]
    if not all(stripes.is_thick for stripes in found):
        raise ValueError(
            f"{whole.name!r} has too few lines for {ranks} ranks: each must own as many as a window reaches over; "
            f"it can be divided between at most {largest_count(geometries, ranks)}"
        )
    return found


def _synchronise(whole: Sequential, model: Sequential, world: World) -> None:
    """Give all ranks the root's random states; raise if a built model differs between ranks."""
    found = (getattr(layer, "_rng", None) for layer in whole.layers)
    generators = list({id(rng): rng for rng in found if rng is not None}.values())
    states = world.broadcast([rng.bit_generator.state for rng in generators])
    with world.agreed():
        for rng, state in zip(generators, states, strict=True):
            rng.bit_generator.state = state
    digests = world.gather_all([digest("weights", weight) for weight in model.live_weights()] if model.built else None)
    if any(other != digests[0] for other in digests):
        raise ValueError(
            "the weights of the model differ between ranks; build it with rng=..., or not before distribute"
        )


def _inside(layer: Any, method: str = "__call__") -> Callable[[Array], Any]:
    """A method of a layer; inside a model Flatten need not copy."""
    if type(layer) is Flatten:
        return layer.reshaped if method == "forward" else lambda x: layer.reshaped(x)[0]
    found: Callable[[Array], Any] = getattr(layer, method)
    return found


def _arrays(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [array for value in tree.values() for array in _arrays(value)]
    return [tree]
