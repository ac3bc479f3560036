"""A cache for another layout of the kernel, valid until the kernel's version changes."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from lcnumba.runtime.locks import Mutex

__all__ = ["LayoutCache"]

Layout = TypeVar("Layout")


class LayoutCache(Generic[Layout]):
    """Holds one layout of the kernel and refills it in place when the version has changed.

    Refilling in place is safe: the version changes only while nothing is computed, and the first call after the change
    refills under the lock while others wait for it.
    """

    def __init__(self) -> None:
        self._lock = Mutex()
        self._layout: Layout | None = None
        self._version: int | None = None

    def get(self, version: int | None, fill: Callable[[Layout | None], Layout]) -> Layout:
        """Return the layout for this version; `fill` takes the old one to overwrite, or None the first time.

        Without a version (None) the layout is computed and not cached.
        """
        if version is None:
            return fill(None)
        with self._lock.lock:
            if self._layout is None or self._version != version:
                self._version = None  # a failing fill must not leave a half-filled layout marked as valid
                self._layout = fill(self._layout)
                self._version = version
            return self._layout

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as an empty cache, which is refilled on demand."""
        return LayoutCache, ()
