"""Default names of layers: dense, dense_1, dense_2, ..."""

import re
from typing import Any

from lcnumba.locks import Mutex

__all__ = ["layer_name"]

_next: dict[str, int] = {}
_lock = Mutex()


def layer_name(name: Any, default: str) -> str:
    """Return `name`, or for None the next default name that no layer of this process has had."""
    if name is not None and (not isinstance(name, str) or not name):
        raise TypeError(f"name={name!r} must be a non-empty string")
    with _lock.lock:
        if name is None:
            number = _next.get(default, 0)
            name = f"{default}_{number}" if number else default
        match = re.fullmatch(rf"{re.escape(default)}(?:_(\d{{1,9}}))?", name)
        if match:
            _next[default] = max(_next.get(default, 0), int(match[1] or 0) + 1)
    return name
