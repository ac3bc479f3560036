"""Training data: arrays in memory, data sets that are read lazily, and iterables of batches."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, NamedTuple, Protocol

import numpy as np

from lcnumba.runtime.signals import import_whole
from lcnumba.utils.arrays import as_numpy, check_dtype, reads_lazily
from lcnumba.utils.types import Array
from lcnumba.utils.validation import integer, real

__all__ = ["Batch", "Batches", "Rows", "Samples", "SkippedBatch", "class_weights", "rows", "sample_weights"]

Check = Callable[[Array, Array], None]


class Batch(NamedTuple):
    """Inputs, targets and, optionally, weights of some samples."""

    x: Array
    y: Array
    weights: Array | None = None


class SkippedBatch(NamedTuple):
    """A batch that another process reads."""

    samples: int


class Rows(Protocol):
    """A source of samples, along the first axis, as NumPy arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all samples, (N, ...)."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether all samples can be read at once."""
        ...

    def take(self, chosen: Any) -> Array:
        """Return the samples at a slice, or at an array of distinct indices."""
        ...

    def take_lines(self, chosen: Any, lines: slice) -> Array:
        """Return some lines, the second axis, of these samples, and read no others."""
        ...


class _InMemory:
    """The samples of a NumPy array, which may be memory-mapped."""

    in_memory = True

    def __init__(self, values: Array) -> None:
        self.values = values
        self.shape = values.shape

    def take(self, chosen: Any) -> Array:
        if isinstance(chosen, slice):
            return self.values[chosen]
        return _rows().take(self.values, chosen)

    def take_lines(self, chosen: Any, lines: slice) -> Array:
        return self.values[chosen, lines]


@import_whole
def _rows() -> Any:
    from lcnumba.kernels import rows

    return rows


class _Lazy:
    """The samples of an object that reads on indexing: a data set of h5py, netCDF4, zarr, Dask, xarray etc."""

    in_memory = False

    def __init__(self, name: str, source: Any) -> None:
        self._name, self._source = name, source
        if any(math.isnan(size) for size in source.shape):
            raise ValueError(f"{name} has unknown shape {source.shape}; call .compute_chunk_sizes() of a Dask array")
        self.shape = tuple(map(int, source.shape))

    def take(self, chosen: Any) -> Array:
        return self._take(chosen)

    def take_lines(self, chosen: Any, lines: slice) -> Array:
        return self._take(chosen, lines)

    def _take(self, chosen: Any, *lines: slice) -> Array:
        if isinstance(chosen, slice):
            return self._read((chosen, *lines) if lines else chosen)
        # h5py requires indices in increasing order.
        order = np.argsort(chosen)
        part = self._read((chosen[order], *lines) if lines else chosen[order])
        result = np.empty_like(part)
        result[order] = part
        return result

    def _read(self, chosen: Any) -> Array:
        # zarr indexes orthogonally by .oindex; the others do by [].
        part = getattr(self._source, "oindex", self._source)[chosen]
        if isinstance(part, np.ma.MaskedArray):
            if np.ma.is_masked(part):
                raise ValueError(f"{self._name} has masked values; fill them or drop these samples")
            part = part.data
        return as_numpy(self._name, np.asarray(part))[0]


def rows(name: str, array: Any, *, any_dtype: bool = False) -> Rows:
    """Return the samples of an array of any library, or of an object that reads lazily.

    Targets may have any dtype; the loss checks it.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.training.data import rows
    >>> rows("x", np.arange(6).reshape(3, 2)).take(slice(1, 3))
    array([[2, 3],
           [4, 5]])
    """
    found: Rows = (
        _Lazy(name, array) if reads_lazily(array) else _InMemory(as_numpy(name, array, any_dtype=any_dtype)[0])
    )
    if not found.shape:
        raise ValueError(f"{name} must have at least 1 dimension, with samples along the first axis")
    return found


class _Part:
    """A contiguous range of other samples."""

    def __init__(self, whole: Rows, begin: int, end: int) -> None:
        self._whole, self._begin, self.in_memory = whole, begin, whole.in_memory
        self.shape = (end - begin, *whole.shape[1:])

    def take(self, chosen: Any) -> Array:
        if isinstance(chosen, slice):
            begin, end, _ = chosen.indices(self.shape[0])
            return self._whole.take(slice(self._begin + begin, self._begin + end))
        return self._whole.take(chosen + self._begin)

    def take_lines(self, chosen: Any, lines: slice) -> Array:
        if isinstance(chosen, slice):
            begin, end, _ = chosen.indices(self.shape[0])
            return self._whole.take_lines(slice(self._begin + begin, self._begin + end), lines)
        return self._whole.take_lines(chosen + self._begin, lines)


class Samples:
    """Inputs, targets and optional weights, split into batches.

    Parameters
    ----------
    x, y : Rows
        Of equal length, at least 1.
    weights : array, optional
        A weight per sample or per position, as `sample_weights` returns them.
    batch_size : int or None
        Samples per batch; the last one may be smaller. None: a single batch.
    check : callable
        ``check(x, y)`` raises unless inputs and targets are valid. Arrays are checked as a whole when the
        object is made, lazy data batch by batch.
    """

    def __init__(self, x: Rows, y: Rows, weights: Array | None, batch_size: int | None, check: Check) -> None:
        self._x, self._y, self._weights, self._check = x, y, weights, check
        self.samples, self.sample = x.shape[0], tuple(x.shape[1:])
        self._batch_size = batch_size or max(1, self.samples)
        self._checked = x.in_memory and y.in_memory
        # Of the inputs only shape and dtype are checked.
        first = self._x.take(slice(0, 1))
        if self._checked:
            check(np.broadcast_to(first, self._x.shape), self._y.take(slice(None)))
        else:
            check(first, self._y.take(slice(0, 1)))

    def __len__(self) -> int:
        """Number of batches."""
        return math.ceil(self.samples / self._batch_size)

    def batches(
        self, shuffle: bool | str = False, rng: Any = None, done: int = 0, earlier: int = 0,
        takes: Callable[[int], bool] | None = None,
    ) -> Iterator[Any]:  # fmt: skip
        """Yield the batches of an epoch after the first `done`.

        ``shuffle=True`` shuffles the samples, "batch" the batches, each of consecutive samples. Batches of whose number
        `takes` is false are not read, but yielded as `SkippedBatch`.
        """
        starts = np.arange(0, self.samples, self._batch_size)
        if shuffle == "batch":
            rng.shuffle(starts)
        order = rng.permutation(self.samples) if shuffle is True else None
        for number, at in enumerate(map(int, starts[done:]), done):
            part = slice(at, min(self.samples, at + self._batch_size))
            if takes is not None and not takes(number):
                yield SkippedBatch(part.stop - part.start)
                continue
            chosen = part if order is None else order[part]
            x, y = self._x.take(chosen), self._y.take(chosen)
            if not self._checked:
                self._check(x, y)
            yield Batch(x, y, None if self._weights is None else self._weights[chosen])

    def split(self, fraction: float) -> tuple["Samples", "Samples"]:
        """Split off a fraction of the samples, from the end."""
        border = math.floor(self.samples * (1 - fraction))  # as Keras rounds
        if not 0 < border < self.samples:
            raise ValueError(
                f"validation_split={fraction!r} of {self.samples} samples leaves one side empty; use another fraction"
            )
        return self._part(0, border), self._part(border, self.samples)

    def _part(self, begin: int, end: int) -> "Samples":
        part = object.__new__(Samples)
        part.__dict__.update(self.__dict__, samples=end - begin)
        part._x, part._y = _Part(self._x, begin, end), _Part(self._y, begin, end)
        part._weights = None if self._weights is None else self._weights[begin:end]
        return part


class Batches:
    """An iterable of batches ``(x, y)`` or ``(x, y, weights)``, checked one by one.

    Parameters
    ----------
    iterable : iterable
        The batches. Without `steps`, each epoch iterates over it anew.
    steps : int or None
        Batches per epoch; each epoch then continues where the last one ended, and the iterable is restarted when it
        is exhausted, unless it is an iterator.
    check : callable
        As for `Samples`.
    part : callable, optional
        ``part(name, array)`` returns this process' part of each array of a batch.

    Attributes
    ----------
    ended : bool
        Whether the last epoch had fewer batches than `steps`.
    """

    def __init__(
        self, iterable: Any, steps: int | None, check: Check, part: Callable[[str, Array], Array] | None = None
    ) -> None:
        if not isinstance(iterable, Iterable):
            raise TypeError(f"x must be an array or an iterable of batches (x, y), got {type(iterable).__name__}")
        self._iterable, self._steps, self._check, self._part = iterable, steps, check, part or _whole
        self._iterator: Iterator[Any] | None = None
        self.ended = False

    @property
    def is_one_shot(self) -> bool:
        """Whether it is enough for one epoch only."""
        return self._steps is None and isinstance(self._iterable, Iterator)

    def __len__(self) -> int:
        """Number of batches per epoch; 0 if unknown."""
        if self._steps is not None:
            return self._steps
        return len(self._iterable) if isinstance(self._iterable, Sized) else 0

    def batches(
        self, shuffle: Any = False, rng: Any = None, done: int = 0, earlier: int = 0, takes: Any = None
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch, in the order of the iterable.

        When an interrupted epoch is resumed, its first `done` batches are skipped, and so are the `earlier` ones of
        past epochs if epochs continue one another.
        """
        if self._steps is None:
            iterator, skipped = iter(self._iterable), done
        else:
            iterator, skipped = self._iterator or self._endless(), 0 if self._iterator else earlier + done
            self._iterator = iterator
        for _ in itertools.islice(iterator, skipped):
            pass
        number, end = done, math.inf if self._steps is None else self._steps
        while number < end:
            try:
                given = next(iterator)
            except StopIteration:
                self.ended = self._steps is not None
                return
            number += 1
            yield self._batch(given, number)

    def _endless(self) -> Iterator[Any]:
        """The batches, repeated unless the iterable is an iterator."""
        while True:
            empty = True
            for batch in self._iterable:
                empty = False
                yield batch
            if empty or isinstance(self._iterable, Iterator):
                return

    def _batch(self, given: Any, number: int) -> Batch:
        """One batch, validated."""
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            length = f" of {len(given)}" if isinstance(given, tuple | list) else ""
            raise TypeError(
                f"batch {number} must be a tuple (x, y) or (x, y, weights), got {type(given).__name__}{length}"
            )
        x, y = as_numpy("x", given[0])[0], as_numpy("y", given[1], any_dtype=True)[0]
        if x.ndim < 1 or y.ndim < 1 or len(x) != len(y) or not len(x):
            raise ValueError(
                f"batch {number} must have as many targets as inputs, at least one, got x of shape {x.shape} and y of "
                f"shape {y.shape}"
            )
        x, y, samples = self._part("x", x), self._part("y", y), len(x)
        self._check(x, y)
        weights = given[2] if len(given) == 3 else None
        return Batch(x, y, None if weights is None else self._part("sample_weight", sample_weights(weights, samples)))


def _whole(_: str, array: Array) -> Array:
    return array


def sample_weights(weights: Any, samples: int) -> Array:
    """Return validated weights of samples, or of their positions, as an array."""
    values, _ = as_numpy("sample_weight", np.asarray(weights) if reads_lazily(weights) else weights)
    if values.shape[:1] != (samples,):
        by_position = (
            f"; for weights by position use np.broadcast_to(sample_weight, ({samples}, ...))" if values.ndim > 1 else ""
        )
        raise ValueError(
            f"sample_weight must have one weight for each of {samples} samples, got shape {values.shape}{by_position}"
        )
    check_dtype("sample_weight", values)
    if not np.all((values >= 0) & np.isfinite(values)):
        raise ValueError("sample_weight must be finite and >= 0")
    return values


def class_weights(weights: Mapping[Any, Any]) -> Callable[[Array], Array]:
    """Return the function from targets to the weights of their classes, 1 for a class without one.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.training.data import class_weights
    >>> class_weights({1: 2.0})(np.array([0, 1, 2]))
    array([1., 2., 1.])
    """
    if not isinstance(weights, Mapping):
        raise TypeError(f"class_weight must be a dict of label to weight, got {weights!r}")
    table = {integer("class_weight's label", label, 0): real("class_weight", value) for label, value in weights.items()}
    if any(value < 0 for value in table.values()):
        raise ValueError(f"class_weight must have weights >= 0, got {weights!r}")

    def weights_of(y: Array) -> Array:
        if y.dtype.kind not in "biuf":
            raise TypeError(f"class_weight needs numeric labels; y has dtype {y.dtype}")
        one_hot = y.ndim == 2 and y.shape[1] > 1
        labels = np.argmax(y, axis=-1) if one_hot else y.reshape(-1)
        valid = np.allclose(y.sum(axis=1), 1) if one_hot else np.all(labels == np.rint(labels))
        if len(labels) != len(y) or not valid:
            raise ValueError(
                "class_weight needs integer labels (N,) or (N, 1), or rows of probabilities (N, classes); y has shape "
                f"{y.shape}"
            )
        result = np.ones(len(y))
        for label, value in table.items():
            result[labels == label] = value
        return result

    return weights_of
