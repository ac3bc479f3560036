"""Attributes that are computed when they are first asked for."""

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

__all__ = ["cached_property"]

Value = TypeVar("Value")


class cached_property(Generic[Value]):  # noqa: N801 - it is used like functools' own
    """As functools' own, without the lock that it has in Python 3.11.

    There one lock serves all instances of a class: threads wait for each other's tables, and a process that is forked
    meanwhile waits for ever. Here two threads may compute a value twice; both then have the same one.

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
        # Without __set__, the entry is found before this method from now on.
        return instance.__dict__.setdefault(self._name, self._function(instance))
