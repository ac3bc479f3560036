"""Deprecated aliases of renamed attributes and methods."""

import warnings
from typing import Any

__all__ = ["Renamed", "plan_method"]


class Renamed:
    """A deprecated alias of an attribute or method: a descriptor that warns.

    Parameters
    ----------
    new : str
        The new name.

    Examples
    --------
    >>> import warnings
    >>> from lcnumba.utils.deprecation import Renamed
    >>> class Cost:
    ...     estimate = 3.0
    ...     price = Renamed("estimate")
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     Cost().price
    3.0
    >>> str(caught[0].message)
    'Cost.price is deprecated; use estimate'
    """

    def __init__(self, new: str) -> None:
        self._new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self._old = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:  # accessed on the class, as documentation tools do
            return self
        self._warn(owner)
        return getattr(instance, self._new)

    def __set__(self, instance: Any, value: Any) -> None:
        self._warn(type(instance))
        setattr(instance, self._new, value)

    def _warn(self, owner: type) -> None:
        warnings.warn(f"{owner.__name__}.{self._old} is deprecated; use {self._new}", DeprecationWarning, stacklevel=3)


def plan_method(thing: Any, what: str, old: str | None = None) -> Any:
    """Return the method ``plan_{what}`` of a layer or pullback, or that of its deprecated name, or None.

    Parameters
    ----------
    thing : object
        The layer or pullback.
    what : str
        "update", "training_state" or "unbuild".
    old : str, optional
        The deprecated name; by default ``prepare_{what}``.

    Examples
    --------
    >>> import lcnumba as lc
    >>> from lcnumba.utils.deprecation import plan_method
    >>> plan_method(lc.Dense(3), "update").__name__
    'plan_update'
    >>> plan_method(object(), "update") is None
    True
    """
    found = getattr(thing, f"plan_{what}", None)
    if found is None and (found := getattr(thing, old or f"prepare_{what}", None)) is not None:
        name = f"{type(thing).__name__}.{old or f'prepare_{what}'}"
        warnings.warn(f"{name} is deprecated; name the method plan_{what}", DeprecationWarning, stacklevel=3)
    return found
