"""What a rank does in training: its lines of data and of the loss, callbacks on the root, and agreement."""

import dataclasses
import itertools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np

from lcnumba import gradients, losses, metrics
from lcnumba.formats import checkpoint
from lcnumba.formats.npz import ModelFile, Part, check_parts
from lcnumba.mpi.exchange import World
from lcnumba.mpi.files import Stored, loaded
from lcnumba.training.config import ClipByNorm
from lcnumba.training.data import Batch, Rows, SkippedBatch
from lcnumba.training.evaluation import value_and_slope
from lcnumba.training.share import Share
from lcnumba.utils.arrays import as_numpy, check_dtype, reads_lazily
from lcnumba.utils.norms import norm_of_all
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import axes_hint

__all__ = ["ClipTogether", "RankShare", "digest"]

Value = TypeVar("Value")


class RankShare(Share):
    """The share of one rank in the training of a distributed model.

    Parameters
    ----------
    world : World
        The ranks.
    model : DistributedSequential
        The model.
    reads : array of int64
        The lines of the data that this rank reads.
    edges : sequence of int or None
        The lines at which the stripes of the prediction begin, and the end; None if all ranks have all of it.
    """

    def __init__(self, world: World, model: Any, reads: Any, edges: Sequence[int] | None) -> None:
        self._world, self._model, self._edges = world, model, edges
        self._reads = _slices(reads)
        self._targets = None if edges is None else [slice(*edges[world.rank : world.rank + 2])]
        self._parts: list[Part] = []  # of the file that was read last
        self._closes = False
        self._turns: Any = None  # the result and gradients of this group's batch
        self._noted: list[Any] = []
        self._digests: list[Any] = []  # of the arrays of a batch
        self.leads = False  # whether this is the root, whose callbacks run while the other ranks wait for its commands

    # --- agreement

    def committing(self) -> AbstractContextManager[None]:
        """Run a block that must not fail; if it does, all processes end."""
        return self._world.committed()

    def first(self, value: Value | None) -> Value | None:
        """Return the value of the first rank that has one."""
        return next((found for found in self._world.gather_all(value) if found is not None), None)

    def together(self) -> AbstractContextManager[None]:
        """Run a block that may fail: if it does so on any rank, it fails on all."""
        return self._world.agreed()

    def of_root(self, value: Value) -> Value:
        """Return the root's value."""
        found: Value = self._world.broadcast(value)
        return found

    def notify(self, run: Any, method: str, *arguments: Any) -> None:
        """Call a method of the root's callbacks, and let all ranks know what they have set."""
        if not self._world.is_root:
            self._follow(run)
            return
        error: Exception | None = None
        self.leads = True
        self.note_states()
        try:
            super().notify(run, method, *arguments)
        except Exception as found:  # noqa: BLE001 - raised below
            error = found
        except BaseException:  # this process ends, by Ctrl-C or sys.exit
            self._world.abort()
            raise
        finally:
            self.leads = False
        if error is None and self._states() != self._noted:
            error = RuntimeError(
                f"a callback has changed weights or the optimizer of a layer in {method}, on this rank alone; use "
                "run.model.set_weights, and set the optimizer before fit"
            )
        trainable = [getattr(layer, "trainable", None) for layer in self._model.layers]
        self._world.broadcast(("done", (run.stopped, run.finished, run._lr_override, trainable)))
        self._world.raise_first(error)

    def note_states(self) -> None:
        """Note the present weights and optimizers, which callbacks must not change on one rank alone."""
        self._noted = self._states()

    def _states(self) -> list[Any]:
        layers = [layer for layer in self._model.layers if hasattr(layer, "optimizer")]
        return [(layer._parameters.version, layer.optimizer) for layer in layers]

    def _follow(self, run: Any) -> None:
        """Do what the root's callbacks demand, until they have returned."""
        while True:
            command, argument = self._world.broadcast(None)
            if command == "done":
                break
            getattr(self._model, command)(*argument)
        run.stopped, run.finished, run._lr_override, trainable = argument
        for layer, value in zip(self._model.layers, trainable, strict=True):
            if value is not None:
                layer.trainable = value
        self._world.raise_first(None)

    def close(self, callback: Any) -> None:
        """Close a callback, on the root, which must not need the other ranks."""
        self._closes = True
        try:
            callback.close()
        finally:
            self._closes = False

    def command(self, name: str, *arguments: Any) -> None:
        """Let the other ranks call a method of the model, if they wait for the root's callbacks."""
        if self._closes:
            raise RuntimeError("a callback cannot save or change the model in close(); do so in on_train_end")
        if self.leads:
            self._world.broadcast((name, arguments))

    def save(self, path: str | os.PathLike[str], model: Any, progress: Any) -> None:
        """Write a checkpoint; called by the root's callbacks."""
        model.write_file(lambda: checkpoint.write(path, model, progress))

    # --- files

    def stored(self, file: ModelFile) -> Callable[[int], Any]:
        """Return the function by which a checkpoint's arrays are read: larger ones later, or in part."""

        def array(number: int) -> Any:
            found = Stored(file, number)
            return found if len(found.shape) > 1 else found.read()

        return array

    def loaded(self, tree: Any) -> Any:
        """Return a tree of what `stored` returned with whole arrays in its place."""
        return loaded(tree)

    def read_weights(self, file: ModelFile, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """Return this rank's rows of the weights in a file."""
        self._parts, names = file.parts, file.check_count(len(shapes))
        rows = self._model.weight_rows()
        return [
            file.read_rows(name, row[0], row[1], shape) for name, row, shape in zip(names, rows, shapes, strict=True)
        ]

    def check_read(self) -> None:
        """Raise a ValueError on all ranks if a file, of which each has read some rows, is damaged."""
        check_parts(part for parts in self._world.gather_all(self._parts) for part in parts)

    def set_weights(self, model: Any, weights: list[Array]) -> None:
        """Set this rank's rows of the weights to those of `read_weights`."""
        model.set_own_weights(weights)

    # --- data

    def sample_shape(self, model: Any) -> Shape | None:
        """Return the shape of this rank's part of a sample."""
        return _length(self._reads), *model.input_shape[2:]

    def output_shape(self, model: Any, shape: Shape) -> Shape:
        """Return the shape of this rank's part of the prediction."""
        whole = model.output_shape
        return shape[0], *(whole[1:] if self._targets is None else (_length(self._targets), *whole[2:]))

    def rows(self, name: str, rows: Rows) -> Rows:
        """Return the lines of samples that this rank reads."""
        lines = self._lines(name, rows.shape)
        return rows if lines is None else _LinesOfRows(rows, lines)

    def array(self, name: str, array: Array) -> Array:
        """Return this rank's lines of an array."""
        lines = self._lines(name, array.shape)
        self._digests.append(digest(name, array))
        return array if lines is None else _take(array, lines)

    def _lines(self, name: str, shape: tuple[int, ...]) -> list[slice] | None:
        """The lines of an array that this rank has; None if all ranks have all of it."""
        if name == "x":
            wanted = self._model.input_shape
            if tuple(shape[1:]) != tuple(wanted[1:]):
                hint = axes_hint("x", tuple(shape), wanted)
                raise ValueError(f"x has shape {tuple(shape)}; the model was built for {wanted}{hint}")
            return self._reads
        if self._targets is None or (len(shape) < 2 and name == "sample_weight"):
            return None
        wanted = self._model.output_shape
        if len(shape) < 2 or shape[1] != wanted[1]:
            wanted = (shape[0], *wanted[1:])
            hint = axes_hint(name, tuple(shape), wanted)
            raise ValueError(f"{name} has shape {tuple(shape)}; the model predicts shape {wanted}{hint}")
        return self._targets

    def batches(self, batches: Iterator[Any], training: bool = False) -> Iterator[Any]:
        """Yield batches; an error of reading is raised on all ranks.

        In training each group computes one of as many batches as there are groups: these are yielded one after the
        other as `Turn`.
        """
        groups = self._world.groups if training else 1
        while True:
            self._digests, read = [], []
            with self._world.agreed():
                for batch in itertools.islice(batches, groups):
                    if isinstance(batch, Batch):  # some lines of an array are no contiguous memory
                        batch = batch._replace(x=np.ascontiguousarray(batch.x))
                    read.append(batch)
            sizes = [batch.samples if isinstance(batch, SkippedBatch) else len(batch.x) for batch in read]
            same = sizes, self._digests
            if any(other != same for other in self._world.gather_all(same)):
                raise ValueError("ranks have different batches; give all ranks the same data in the same order")
            if groups == 1:
                yield from read
            else:
                mine = read[self._world.group] if self._world.group < len(read) else None
                yield from (Turn(number, mine, sizes) for number in range(len(read)))
            if len(read) < groups:
                return

    def takes(self, number: int) -> bool:
        """Whether this rank's group computes a batch of an epoch."""
        return number % self._world.groups == self._world.group

    def computed(self, compute: Callable[[Any], Any], batch: Any) -> Any:
        """Return the result and gradients of a batch, computed by this rank's group or another one."""
        if not isinstance(batch, Turn):
            return compute(batch)
        if batch.number == 0:
            with self._world.in_group():
                self._turns = self._compute_own(compute, batch)
        world, own = self._world, self._turns
        result = world.broadcast_from_group(batch.number, own[0] if batch.number == world.group else None)
        grads = own[1] if batch.number == world.group else None
        if batch.number + 1 == len(batch.sizes):
            self._turns = None
        return result, self._model.gradients_of_group(batch.number, grads)

    def _compute_own(self, compute: Callable[[Any], Any], turn: "Turn") -> Any:
        """The result and gradients of this group's batch; other batches' random numbers are skipped."""
        dropouts, found = self._model.dropouts(), (None, None)
        for number, samples in enumerate(turn.sizes):
            if number == self._world.group:
                found = compute(turn.own)
            else:
                for layer, shape in dropouts:
                    layer.skip((samples, *shape))
        return found

    # --- loss and metrics

    def check(self, loss: Any, y: Array, shape: Shape) -> None:
        """Raise unless targets are valid; a loss of one's own, which gets all lines, checks them when it is called."""
        if self._edges is None or losses.is_of_lines(loss):
            super().check(loss, y, shape)

    def transformed(self, transform: Any, grads: Any) -> Any:
        """Return gradients, transformed."""
        if isinstance(transform, ClipTogether):
            return transform(grads)
        with self._world.agreed():
            return transform(grads)

    def loss(self, loss: Any, y: Array, prediction: Array, weights: Array | None) -> Any:
        """Return a loss of all lines, and its gradient by this rank's."""
        if self._edges is None or not losses.is_of_lines(loss):
            y, prediction = self.whole(y), self.whole(prediction)
            each = weights if weights is None or weights.ndim < 2 else self.whole(weights)
            with self._world.agreed():
                value, dy = value_and_slope(loss, super().loss(loss, y, prediction, each))
                if np.shape(dy) != prediction.shape:
                    raise ValueError(f"dy has shape {np.shape(dy)}; give the shape of y, {prediction.shape}")
                slope = as_numpy("dy", dy)[0]
                check_dtype("dy", slope)
                return value, slope if self._targets is None else _take(slope, self._targets)
        with self._world.agreed():
            count = loss.count(y, prediction)
        count = self._world.count(count)
        with self._world.agreed():
            sums, dy = loss.by_line(y, prediction, weights, count)
        return self._world.total(sums) / max(1, count), dy

    def doubt(self, loss: Any, prediction: Array) -> str | None:
        """Return the first rank's warning about predictions, or None."""
        with self._world.agreed():
            found = super().doubt(loss, prediction)
        return self.first(found)

    def metric(self, metric: Any, y: Array, prediction: Array) -> Any:
        """Return a metric of all lines."""
        if self._edges is None or not metrics.is_mean_of_terms(metric):
            whole = [self.whole(array) for array in (y, prediction)]
            with self._world.agreed():
                return metric(*whole)
        with self._world.agreed():
            sums, count = metrics.sums_of(metric, y, prediction)
        count = self._world.count(count)
        return self._world.total(sums) / count if count else float("nan")

    def collect(self, metric: Any, y: Array, prediction: Array) -> tuple[Array, ...]:
        """Return what a metric of all samples needs of a batch, of all lines."""
        whole = [self.whole(array) for array in (y, prediction)]
        with self._world.agreed():
            return super().collect(metric, *whole)

    def whole(self, array: Array) -> Array:
        """All lines of an array, of which each rank has its own."""
        return array if self._edges is None else self._world.gather(array, self._edges)


class Turn:
    """One of the batches that groups compute at the same time.

    Attributes
    ----------
    number : int
        Its group.
    own : Batch or None
        The batch of this rank's group, if there is one for it.
    sizes : list of int
        The samples of each.
    """

    def __init__(self, number: int, own: Batch | None, sizes: list[int]) -> None:
        self.number, self.own, self.sizes = number, own, sizes
        self.x = range(sizes[number])  # whose length is asked for


@dataclasses.dataclass(frozen=True)
class ClipTogether(ClipByNorm):
    """Gradient transform: scale all gradients down together if their norm over all ranks exceeds `limit`."""

    model: Any = None

    def __call__(self, grads: Any) -> Any:
        """Return the clipped gradients."""
        world: World = self.model.share._world
        with world.agreed():
            arrays = self.model.counted(grads)
        scale, norm = norm_of_all(arrays, world.total, world.maximum)
        with world.agreed():
            return gradients.scaled(grads, self.limit, scale, norm)


class _LinesOfRows:
    """Some lines of samples."""

    def __init__(self, whole: Rows, lines: list[slice]) -> None:
        self._whole, self._lines, self.in_memory = whole, lines, whole.in_memory
        self.shape = (whole.shape[0], _length(lines), *whole.shape[2:])

    def take_lines(self, chosen: Any, lines: slice) -> Array:
        return self.take(chosen)[:, lines]

    def take(self, chosen: Any) -> Array:
        parts = [self._whole.take_lines(chosen, lines) for lines in self._lines]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _slices(lines: Any) -> list[slice]:
    """Ascending numbers of lines as slices."""
    joints = np.flatnonzero(np.diff(lines) != 1) + 1
    return [slice(int(part[0]), int(part[-1]) + 1) for part in np.split(lines, joints)]


def _length(slices: list[slice]) -> int:
    return sum(part.stop - part.start for part in slices)


def _take(array: Array, lines: list[slice]) -> Array:
    """Some lines of an array, contiguous."""
    parts = [array[:, part] for part in lines]
    return np.ascontiguousarray(parts[0]) if len(parts) == 1 else np.concatenate(parts, axis=1)


# Of an array so many runs of numbers are compared between ranks, and so many of each: few pages of a memory map.
RUNS, RUN = 16, 16


def digest(name: str, value: Any) -> Any:
    """What is compared of an argument: of an array in memory its shape, dtype, and a check sum of some entries."""
    if isinstance(value, str | int | float | bool):
        return value
    if value is None or reads_lazily(value) or not hasattr(value, "shape"):
        return None
    try:
        values = as_numpy(name, value, any_dtype=True)[0]
    except (TypeError, ValueError):  # raised again where the argument is used
        return None
    if values.dtype.hasobject or not values.size:
        return values.shape
    begins = np.linspace(0, max(0, values.size - RUN), RUNS).astype(np.int64)
    some = values.flat[np.minimum(begins[:, None] + np.arange(RUN), values.size - 1).ravel()]
    return values.shape, values.dtype.str, zlib.crc32(np.ascontiguousarray(some).tobytes())
