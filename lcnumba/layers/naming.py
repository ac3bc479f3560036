"""Default names of layers: dense, dense_1, dense_2, ..."""

import re
from collections import defaultdict
from typing import Any

from lcnumba.runtime.locks import Mutex

__all__ = ["layer_name"]

_next: defaultdict[str, int] = defaultdict(int)
_lock = Mutex()


def layer_name(name: Any, default: str) -> str:
    """Return `name`, or for None the next default name not yet used in this process."""
    if name is not None and (not isinstance(name, str) or not name):
        raise TypeError(f"name={name!r} must be a non-empty string")
    match = None if name is None else re.fullmatch(rf"{re.escape(default)}(?:_(\d{{1,9}}))?", name)
    least = 0 if match is None else int(match[1] or 0) + 1
    # No call between read and write: a signal handler that runs there could create a layer.
    with _lock.lock:
        if name is None:
            number = _next[default]
            _next[default] = number + 1
        elif _next[default] < least:
            _next[default] = least
    if name is None:
        return f"{default}_{number}" if number else default
    return name
