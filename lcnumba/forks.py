"""What begins anew in a forked child, where none of its parent's other threads exist."""

import os
from collections.abc import Callable

__all__ = ["in_children"]


def in_children(function: Callable[[], None]) -> Callable[[], None]:
    """Let a function run in each child that is forked from now on, before anything else does and on its only thread.

    Examples
    --------
    >>> from lcnumba.forks import in_children
    >>> @in_children
    ... def begin_anew():
    ...     print("a child")
    """
    if hasattr(os, "register_at_fork"):  # Windows does not fork
        os.register_at_fork(after_in_child=function)
    return function
