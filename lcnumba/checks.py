"""Checks of single values at the public edge: each names the parameter, its value and the rule."""

import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """Return `value` as an int of at least `minimum`.

    Any integral type passes (NumPy's too); a bool or a float does not, since both are more
    often a slip than an intention.
    """
    try:
        if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}; give an integer of at least {minimum}"
        ) from None
    if number < minimum:
        raise ValueError(f"{name}={value!r} is too small; give an integer of at least {minimum}")
    return number


def int_tuple(name: str, value: Any, rank: int, minimum: int = 1) -> tuple[int, ...]:
    """Return `value`, an integer or `rank` integers, as a tuple of `rank` ints."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return (integer(name, value, minimum),) * rank
    numbers = tuple(integer(name, entry, minimum) for entry in value)
    if len(numbers) != rank:
        raise ValueError(f"{name}={value!r} has {len(numbers)} entries; give one integer or {rank}")
    return numbers


def choice(name: str, value: Any, options: Iterable[Any]) -> Any:
    """Return `value` if it is one of `options`; strings are compared in lower case."""
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


def learning_rate(value: Any) -> float:
    """Return the learning rate `value` as a finite float of at least 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"lr={value!r} is a {type(value).__name__}; give a finite number such as 0.01")
    rate = float(value)
    if not math.isfinite(rate) or rate < 0:
        raise ValueError(f"lr={value!r} cannot be used; give a finite number of at least 0")
    return rate
