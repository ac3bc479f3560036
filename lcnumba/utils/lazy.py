"""Attributes that are computed on first access."""

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

__all__ = ["cached_property"]

Value = TypeVar("Value")


class cached_property(Generic[Value]):  # noqa: N801 - used like that of functools
    """`functools.cached_property` without its lock, as it is from Python 3.12 on.

    In Python 3.11 one lock serves all instances of a class: threads wait for each other, and a child forked meanwhile
    waits forever. Here two threads may both compute a value; they then get the same one.

    Parameters
    ----------
    function : callable
        The method that computes the value.

    Examples
    --------
    >>> from lcnumba.utils.lazy import cached_property
    >>> class Square:
    ...     side = 3
    ...     @cached_property
    ...     def area(self):
    ...         print("computed")
    ...         return self.side ** 2
    >>> square = Square()
    >>> square.area, square.area
    computed
    (9, 9)
    """

    def __init__(self, function: Callable[[Any], Value]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...

    def __get__(self, instance: object | None, owner: type) -> Self | Value:
        if instance is None:
            return self
        # There is no __set__, so this entry takes precedence from now on.
        return instance.__dict__.setdefault(self._name, self._function(instance))
