"""What networks are trained on: arrays, files that are read piece by piece, and iterables of batches."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, NamedTuple, Protocol

import numpy as np

from lcnumba.runtime.signals import import_whole
from lcnumba.utils.arrays import as_numpy, check_dtype, reads_lazily
from lcnumba.utils.types import Array
from lcnumba.utils.validation import integer, real

__all__ = ["Batch", "Batches", "Rows", "Samples", "class_weights", "rows", "sample_weights"]

Check = Callable[[Array, Array], None]


class Batch(NamedTuple):
    """Some samples: inputs, targets and, where samples count differently, a weight for each."""

    x: Array
    y: Array
    weights: Array | None = None


class Rows(Protocol):
    """Something of which samples, along the first axis, can be had as NumPy arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole shape, samples first."""
        ...

    def take(self, chosen: Any) -> Array:
        """Return the samples of a slice or of an array of distinct indices."""
        ...


class _InMemory:
    """The samples of a NumPy array (a memory map is one)."""

    def __init__(self, values: Array) -> None:
        self.values = values
        self.shape = values.shape

    def take(self, chosen: Any) -> Array:
        if isinstance(chosen, slice):
            return self.values[chosen]
        return _rows().take(self.values, chosen)


@import_whole
def _rows() -> Any:
    from lcnumba.kernels import rows

    return rows


class _Lazy:
    """The samples of an object that reads what is asked of it: of h5py, netCDF4, zarr, Dask, xarray and the like."""

    def __init__(self, name: str, source: Any) -> None:
        self._name, self._source = name, source
        if any(math.isnan(size) for size in source.shape):
            raise ValueError(f"{name} has the shape {source.shape}; a Dask array needs .compute_chunk_sizes() first")
        self.shape = tuple(map(int, source.shape))

    def take(self, chosen: Any) -> Array:
        if isinstance(chosen, slice):
            return self._read(chosen)
        # Files want indices in increasing order, each once.
        order = np.argsort(chosen)
        part = self._read(chosen[order])
        result = np.empty_like(part)
        result[order] = part
        return result

    def _read(self, chosen: Any) -> Array:
        # zarr's name for indices along one axis; other libraries mean that by [] anyhow.
        part = getattr(self._source, "oindex", self._source)[chosen]
        if isinstance(part, np.ma.MaskedArray):
            if np.ma.is_masked(part):
                raise ValueError(
                    f"{self._name} has missing values; fill them before training, or leave the samples out"
                )
            part = part.data
        return as_numpy(self._name, np.asarray(part))[0]


def rows(name: str, array: Any, *, any_dtype: bool = False) -> Rows:
    """Return the samples of an array of any kind, or of an object that reads lazily.

    Targets may be of any dtype: their loss knows which it takes.

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
        raise ValueError(f"{name} has 0 dimensions; give samples along the first axis")
    return found


class _Part:
    """Samples `begin` to `end` of others."""

    def __init__(self, whole: Rows, begin: int, end: int) -> None:
        self._whole, self._begin = whole, begin
        self.shape = (end - begin, *whole.shape[1:])

    def take(self, chosen: Any) -> Array:
        if isinstance(chosen, slice):
            begin, end, _ = chosen.indices(self.shape[0])
            return self._whole.take(slice(self._begin + begin, self._begin + end))
        return self._whole.take(chosen + self._begin)


class Samples:
    """Inputs, targets and perhaps weights of the same length, cut into batches.

    Parameters
    ----------
    x, y : arrays, or objects that read lazily
        Of one length, at least 1.
    weights : array, optional
        A weight for each sample, or each position of it, finite and at least 0.
    batch_size : int or None
        Samples of a batch; the last one may be smaller. None: all of them are one.
    check : callable
        ``check(x, y)`` raises unless inputs and targets of these samples fit. Arrays are checked as a whole at
        once, what is read lazily as it comes.
    """

    def __init__(self, x: Any, y: Any, weights: Any, batch_size: int | None, check: Check) -> None:
        if y is None:
            raise TypeError("y is missing; give targets, as many as inputs")
        self._x, self._y, self._check = rows("x", x), rows("y", y, any_dtype=True), check
        self.samples, self.sample = self._x.shape[0], tuple(self._x.shape[1:])
        self._batch_size = batch_size or max(1, self.samples)
        if self.samples != self._y.shape[0]:
            raise ValueError(
                f"x has shape {self._x.shape} and y {self._y.shape}; give as many targets as inputs, along the first "
                "axis"
            )
        if not self.samples:
            raise ValueError("x and y are empty; give at least one sample")
        self._weights = None if weights is None else sample_weights(weights, self.samples)
        self._checked = isinstance(self._x, _InMemory) and isinstance(self._y, _InMemory)
        probe = slice(None) if self._checked else slice(0, 1)
        check(self._x.take(probe), self._y.take(probe))

    def __len__(self) -> int:
        """How many batches there are."""
        return math.ceil(self.samples / self._batch_size)

    def batches(self, shuffle: bool | str = False, rng: Any = None, done: int = 0, earlier: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, but for those that are done.

        With ``shuffle=True`` samples come in a random order, with "batch" batches do, each of neighbours.
        """
        starts = np.arange(0, self.samples, self._batch_size)
        if shuffle == "batch":
            rng.shuffle(starts)
        order = rng.permutation(self.samples) if shuffle is True else None
        for at in map(int, starts[done:]):
            part = slice(at, min(self.samples, at + self._batch_size))
            chosen = part if order is None else order[part]
            x, y = self._x.take(chosen), self._y.take(chosen)
            if not self._checked:
                self._check(x, y)
            yield Batch(x, y, None if self._weights is None else self._weights[chosen])

    def split(self, fraction: float) -> tuple["Samples", "Samples"]:
        """Return the first samples, and the last ones that make up this fraction of all."""
        border = math.floor(self.samples * (1 - fraction))  # as Keras rounds
        if not 0 < border < self.samples:
            raise ValueError(
                f"validation_split={fraction!r} of {self.samples} samples leaves none on one side; give another share"
            )
        return self._part(0, border), self._part(border, self.samples)

    def _part(self, begin: int, end: int) -> "Samples":
        part = object.__new__(Samples)
        part.__dict__.update(self.__dict__, samples=end - begin)
        part._x, part._y = _Part(self._x, begin, end), _Part(self._y, begin, end)
        part._weights = None if self._weights is None else self._weights[begin:end]
        return part


class Batches:
    """An iterable of batches ``(x, y)`` or ``(x, y, weights)``, which are checked as they come.

    Parameters
    ----------
    iterable : iterable
        Of batches. Without `steps`, each epoch goes through it anew.
    steps : int or None
        Batches of an epoch, if epochs are to go on in it where the last one ended; begun again where it ends, unless
        it is an iterator.
    check : callable
        As for `Samples`.

    Attributes
    ----------
    ended : bool
        Whether the last epoch got fewer batches than `steps`.
    """

    def __init__(self, iterable: Any, steps: int | None, check: Check) -> None:
        if not isinstance(iterable, Iterable):
            raise TypeError(f"x is a {type(iterable).__name__}; give an array, or an iterable of batches (x, y)")
        self._iterable, self._steps, self._check = iterable, steps, check
        self._going: Iterator[Any] | None = None
        self.ended = False

    @property
    def once(self) -> bool:
        """Whether there is one epoch in it only."""
        return self._steps is None and isinstance(self._iterable, Iterator)

    def __len__(self) -> int:
        """How many batches an epoch has; 0 if nobody knows."""
        if self._steps is not None:
            return self._steps
        return len(self._iterable) if isinstance(self._iterable, Sized) else 0

    def batches(self, shuffle: Any = False, rng: Any = None, done: int = 0, earlier: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch; the order is the iterable's own.

        Of an epoch that was broken off, `done` batches are passed over, and so are `earlier` ones of the epochs
        before it if it goes on from one to the next.
        """
        if self._steps is None:
            going, skipped = iter(self._iterable), done
        else:
            going, skipped = self._going or self._endless(), 0 if self._going else earlier + done
            self._going = going
        for _ in itertools.islice(going, skipped):
            pass
        number, end = done, math.inf if self._steps is None else self._steps
        while number < end:
            try:
                given = next(going)
            except StopIteration:
                self.ended = self._steps is not None
                return
            number += 1
            yield self._batch(given, number)

    def _endless(self) -> Iterator[Any]:
        """Its batches, over and over if it can be begun again."""
        while True:
            empty = True
            for batch in self._iterable:
                empty = False
                yield batch
            if empty or isinstance(self._iterable, Iterator):
                return

    def _batch(self, given: Any, number: int) -> Batch:
        """One batch, looked at."""
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            many = f" of {len(given)}" if isinstance(given, tuple | list) else ""
            raise TypeError(
                f"batch {number} is a {type(given).__name__}{many}; an iterable must give (x, y) or (x, y, weights)"
            )
        x, y = as_numpy("x", given[0])[0], as_numpy("y", given[1], any_dtype=True)[0]
        if x.ndim < 1 or y.ndim < 1 or len(x) != len(y) or not len(x):
            raise ValueError(
                f"batch {number} has x of shape {x.shape} and y of shape {y.shape}; give as many of both, at least one"
            )
        self._check(x, y)
        weights = given[2] if len(given) == 3 else None
        return Batch(x, y, None if weights is None else sample_weights(weights, len(x)))


def sample_weights(weights: Any, samples: int) -> Array:
    """Return weights of samples, or of positions of them, as an array, or an error."""
    values, _ = as_numpy("sample_weight", np.asarray(weights) if reads_lazily(weights) else weights)
    if values.shape[:1] != (samples,):
        by_position = (
            f", or np.broadcast_to(sample_weight, ({samples}, ...)) for each position" if values.ndim > 1 else ""
        )
        raise ValueError(
            f"sample_weight has shape {values.shape}; give one weight for each of {samples} samples{by_position}"
        )
    check_dtype("sample_weight", values)
    if not np.all((values >= 0) & np.isfinite(values)):
        raise ValueError("sample_weight holds numbers below 0, or that are not finite; give weights of at least 0")
    return values


def class_weights(weights: Mapping[Any, Any]) -> Callable[[Array], Array]:
    """Return the function that gives each sample the weight of its class, 1 if the class has none.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.training.data import class_weights
    >>> class_weights({1: 2.0})(np.array([0, 1, 2]))
    array([1., 2., 1.])
    """
    if not isinstance(weights, Mapping):
        raise TypeError(f"class_weight={weights!r} is a {type(weights).__name__}; give a dict of label to weight")
    table = {integer("class_weight's label", label, 0): real("class_weight", value) for label, value in weights.items()}
    if any(value < 0 for value in table.values()):
        raise ValueError(f"class_weight={weights!r} has weights below 0; give weights of at least 0")

    def of(y: Array) -> Array:
        if y.dtype.kind not in "biuf":
            raise TypeError(f"class_weight needs labels that are numbers; y has dtype {y.dtype}")
        one_hot = y.ndim == 2 and y.shape[1] > 1
        labels = np.argmax(y, axis=-1) if one_hot else y.reshape(-1)
        sure = np.allclose(y.sum(axis=1), 1) if one_hot else np.all(labels == np.rint(labels))
        if len(labels) != len(y) or not sure:
            raise ValueError(
                "class_weight needs labels, (N,) or (N, 1), or rows of probabilities, (N, classes); y has shape "
                f"{y.shape}"
            )
        result = np.ones(len(y))
        for label, value in table.items():
            result[labels == label] = value
        return result

    return of
