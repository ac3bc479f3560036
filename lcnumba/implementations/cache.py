"""Another form of the kernel, kept until the kernel's version changes."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from lcnumba.runtime.locks import Mutex

__all__ = ["FormCache"]

Form = TypeVar("Form")


class FormCache(Generic[Form]):
    """Holds one form of the kernel and refills it in place when the version has changed.

    Refilling in place is safe: a version changes only while nobody computes, so the first call
    after the change refills under the lock and the others wait for it.
    """

    def __init__(self) -> None:
        self._lock = Mutex()
        self._form: Form | None = None
        self._version: int | None = None

    def get(self, version: int | None, fill: Callable[[Form | None], Form]) -> Form:
        """Return the form of this version; `fill` takes the old form, or None the first time.

        Of no version (None) the form is made anew and not kept.
        """
        if version is None:
            return fill(None)
        with self._lock.lock:
            if self._form is None or self._version != version:
                self._version = None  # a fill that fails half-way leaves nothing valid behind
                self._form = fill(self._form)
                self._version = version
            return self._form

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as an empty cache: the form can be rebuilt."""
        return FormCache, ()
