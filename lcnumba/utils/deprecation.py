"""Deprecated aliases of renamed attributes and methods."""

from typing import Any

from lcnumba.utils.messages import warn

__all__ = ["Renamed", "RenamedMethods", "plan_method"]


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
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner, self._old = owner, name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:  # accessed on the class, as documentation tools do
            return self
        self._warn(owner)
        if self.is_overridden(owner):  # by the old name, whose method calls super()
            return getattr(self._owner, self.new).__get__(instance, owner)
        return getattr(instance, self.new)

    def __set__(self, instance: Any, value: Any) -> None:
        self._warn(type(instance))
        setattr(instance, self.new, value)

    def is_overridden(self, owner: type) -> bool:
        """Whether a subclass defines the old name itself."""
        return any(self._old in vars(cls) for cls in owner.__mro__[: owner.__mro__.index(self._owner)])

    def _warn(self, owner: type) -> None:
        warn(f"{owner.__name__}.{self._old} is deprecated; use {self.new}", DeprecationWarning)


class RenamedMethods:
    """Base of classes whose renamed methods a subclass may override by the old name."""

    def __init_subclass__(cls) -> None:
        """Let an override by the old name count, and warn."""
        super().__init_subclass__()
        for old, method in list(vars(cls).items()):
            alias = next((vars(base)[old] for base in cls.__mro__[1:] if old in vars(base)), None)
            if not isinstance(alias, Renamed) or not (callable(method) and callable(getattr(cls, alias.new, None))):
                continue
            if alias.new not in vars(cls):
                warn(f"{cls.__name__}.{old} is deprecated; name the method {alias.new}", DeprecationWarning)
                setattr(cls, alias.new, method)


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
        warn(f"{name} is deprecated; name the method plan_{what}", DeprecationWarning)
    return found
