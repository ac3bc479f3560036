"""Checks of single arguments: each error names the parameter, its value and the rule."""

import functools
import math
import operator
import os
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "any_shape",
    "arguments",
    "axes_hint",
    "axes_of",
    "boolean",
    "choice",
    "file_path",
    "generator",
    "hashable",
    "input_shape",
    "int_tuple",
    "integer",
    "is_iterable",
    "learning_rate",
    "real",
    "resolved_axes",
    "sample_shape",
    "thread_count",
]

# Larger integers are taken for mistakes.
MAXIMUM = 2**40
# Each thread allocates scratch memory; no machine has more cores.
MAX_THREADS = 4096
# Of sizes in one dimension, so that index arithmetic stays within 64 bits.
MAX_SIZE = 2**31


def integer(name: str, value: Any, minimum: int = 1, maximum: int = MAXIMUM) -> int:
    """Return `value` as an int in [minimum, maximum].

    Any integral type passes (NumPy's too); a bool or a float does not, as it is more often a mistake than intended.
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}; give an integer of at least {minimum}"
        ) from None
    if number < minimum:
        raise ValueError(f"{name}={value!r} is too small; give an integer of at least {minimum}")
    if number > maximum:
        raise ValueError(f"{name}={value!r} is too large; give an integer of at most {maximum}")
    return number


def thread_count(value: Any) -> int | None:
    """Return `value`, a number of threads, as an int, or None."""
    return None if value is None else integer("n_threads", value, 1, MAX_THREADS)


def int_tuple(name: str, value: Any, rank: int, minimum: int = 1) -> tuple[int, ...]:
    """Return `value`, an integer or a list or tuple of `rank` integers, as a tuple of ints."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return (integer(name, value, minimum, MAX_SIZE),) * rank
    if len(value) != rank:
        raise ValueError(f"{name}={value!r} has {len(value)} entries; give one integer{f' or {rank}' * (rank > 1)}")
    return tuple(integer(name, entry, minimum, MAX_SIZE) for entry in value)


def hashable(name: str, value: Any) -> Any:
    """Return `value`, a string, an integer, or a list or tuple of them, for the key of a cache.

    Other numbers are refused, though they may be equal: 3.0 and True would find what was cached for 3 and 1.

    Examples
    --------
    >>> from lcnumba.utils.validation import hashable
    >>> hashable("padding", [[1, 0], [0, 2]])
    ((1, 0), (0, 2))
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(hashable(name, entry) for entry in value)
    return value if isinstance(value, str) else integer(name, value, 0)


def input_shape(shape: Any, axes: tuple[str, ...], hint: str = "") -> tuple[int | None, ...]:
    """Return a shape, the batch (or None) first, that is fully defined otherwise.

    Parameters
    ----------
    shape : tuple or list
        The caller's shape.
    axes : tuple of str
        Names of its entries, for messages; () for a shape of any length.
    hint : str
        Appended to messages about the number of entries.
    """
    _entries(shape, axes, hint)
    batch = None if shape[0] is None else integer("input_shape", shape[0], 0)
    return batch, *_sample(shape, shape[1:])


def sample_shape(shape: Any, axes: tuple[str, ...]) -> tuple[int | None, ...]:
    """Return None, for the batch, and the shape of a sample; `axes` has the batch first."""
    _entries(shape, axes[1:], ", without the batch")
    return None, *_sample(shape, shape)


def axes_hint(name: str, shape: tuple[Any, ...], wanted: tuple[Any, ...]) -> str:
    """Return a hint for messages if an array has the right entries in another order or shape.

    Parameters
    ----------
    name : str
        Name of the array.
    shape, wanted : tuple of int
        Its shape, and the required one, the batch (of any size) first.

    Returns
    -------
    str
        Text to append, with the call that converts it; empty if there is none.

    Examples
    --------
    >>> from lcnumba.utils.validation import axes_hint
    >>> axes_hint("y", (32,), (None, 1))
    '; y[:, None] has that shape'
    """
    given, sample = shape[1:], tuple(wanted[1:])
    if len(given) == len(sample) > 1:
        if (*given[1:], given[0]) == sample:
            return (
                f"; its channels come first: np.moveaxis({name}, 1, -1), or {name}.movedim(1, -1) of torch, puts them "
                "last, and a layer with data_format='channels_first' takes them as they are"
            )
        if (given[-1], *given[:-1]) == sample:
            return (
                f"; its channels come last: np.moveaxis({name}, -1, 1), or {name}.movedim(-1, 1) of torch, puts them "
                "first, and a layer with data_format='channels_last' takes them as they are"
            )
    view = ""
    if (*given, 1) == sample:
        view = f"{name}[:, None]" if len(given) == 0 else f"{name}[..., None]"
    elif given == (*sample, 1):
        view = f"{name}[:, 0]" if len(sample) == 0 else f"{name}[..., 0]"
    elif tuple(shape) == sample:
        return f"; {name}[None] adds the batch"
    elif min(len(given), len(sample)) == 1 and None not in sample and math.prod(given) == math.prod(sample):
        view = f"{name}.reshape({', '.join(map(str, (-1, *sample)))})"
    return f"; {view} has that shape" if view else ""


def _entries(shape: Any, axes: tuple[str, ...], hint: str) -> None:
    if not isinstance(shape, list | tuple):
        wanted = ", ".join(axes or ("batch", "..."))
        raise TypeError(f"input_shape={shape!r} is a {type(shape).__name__}; give ({wanted}){hint}")
    if axes and len(shape) != len(axes):
        raise ValueError(
            f"input_shape={tuple(shape)} has {len(shape)} entries; give {len(axes)}: ({', '.join(axes)}){hint}"
        )


def _sample(shape: Any, sizes: Any) -> tuple[int, ...]:
    if any(size is None for size in sizes):
        raise ValueError(f"input_shape={tuple(shape)} must be fully defined but for the batch")
    maximum = MAX_SIZE if len(sizes) > 1 else MAXIMUM  # without spatial dimensions there are features alone
    return tuple(integer("input_shape", size, 1, maximum) for size in sizes)


def any_shape(shape: Any) -> tuple[int | None, ...]:
    """Return a shape of any length, the batch first; entries may be None."""
    if not isinstance(shape, list | tuple):
        raise TypeError(f"input_shape={shape!r} is a {type(shape).__name__}; give a tuple, the batch first")
    if not shape:
        raise ValueError("input_shape=() has no entries; give a tuple, the batch first")
    return tuple(None if size is None else integer("input_shape", size, 0) for size in shape)


def axes_of(value: Any) -> int | tuple[int, ...]:
    """Return `value`, an axis or a list or tuple of them, of which negative ones count from the end."""
    if not isinstance(value, list | tuple):
        return integer("axis", value, -MAXIMUM)
    if not value:
        raise ValueError(f"axis={value!r} is empty; give at least one axis")
    return tuple(integer("axis", entry, -MAXIMUM) for entry in value)


def resolved_axes(axis: int | tuple[int, ...], shape: tuple[int | None, ...], owner: str) -> tuple[int, ...]:
    """Return axes as ascending numbers from 1; raise unless a shape has them after the batch.

    Examples
    --------
    >>> from lcnumba.utils.validation import resolved_axes
    >>> resolved_axes((-1, 1), (None, 5, 4, 3), "norm")
    (1, 3)
    """
    given, rank = axis if isinstance(axis, tuple) else (axis,), len(shape)
    found = sorted(number % rank for number in given if -rank <= number < rank)
    if len(found) < len(given) or 0 in found or len(set(found)) < len(found):
        raise ValueError(
            f"axis={axis} of {owner!r} does not fit input_shape={tuple(shape)}; give each axis once, counted from 1, "
            "or from -1 for the last: 0 is the batch"
        )
    return tuple(found)


def is_iterable(value: Any) -> bool:
    """Whether something is iterable and not a string; 0-d arrays, which have ``__iter__`` but raise, are not."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes) and getattr(value, "ndim", 1) > 0


def choice(name: str, value: Any, options: Iterable[Any]) -> Any:
    """Return the one of `options` that equals `value`; case does not matter."""
    options = tuple(options)
    wanted = value.lower() if isinstance(value, str) else value
    for option in options:
        if type(wanted) is type(option) and wanted == option:
            return option
    raise ValueError(f"{name}={value!r} is not known; give one of {', '.join(map(repr, options))}")


def boolean(name: str, value: Any) -> bool:
    """Return `value` if it is a bool."""
    if type(value) is not bool:
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; give True or False")
    return value


def real(name: str, value: Any) -> float:
    """Return `value`, a finite real number, as a float."""
    # NumPy registers timedelta64 as an integer.
    if isinstance(value, bool | np.bool_ | np.timedelta64) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; give a finite number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return number


@functools.cache
def _largest(dtype: Any) -> float:
    return float(np.finfo(dtype).max)


def learning_rate(value: Any, dtype: Any = np.float64, name: str = "lr") -> float:
    """Return the learning rate `value`, a number of at least 0 that is finite in `dtype`."""
    rate = real(name, value)
    if rate < 0 or rate > _largest(dtype):
        raise ValueError(f"{name} must be at least 0 and finite in {np.dtype(dtype)}, got {value!r}")
    return rate


def arguments(config: Any) -> dict[str, Any]:
    """Return a config, a mapping of arguments by name, as a dict."""
    if not isinstance(config, Mapping) or not all(isinstance(name, str) for name in config):
        raise TypeError(f"config must be a dict of keyword arguments, as returned by get_config, got {config!r}")
    return dict(config)


def file_path(value: Any, name: str = "path") -> Path:
    """Return the path of a file; an error if no file can have that name."""
    if not isinstance(value, str | os.PathLike) or not isinstance(text := os.fspath(value), str):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; give a str or a pathlib.Path")
    if not text:
        raise ValueError(f"{name}={value!r} is empty; give the path of a file")
    try:
        possible = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ValueError(f"{name}={value!r} contains characters that are not allowed in file names")
    return Path(text)


def generator(rng: Any) -> np.random.Generator:
    """Return a random generator for `rng`: None, a seed or a Generator."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rng must be None, a seed or a Generator, got {rng!r}: {error}") from None
