"""Default names of layers: dense, dense_1, dense_2, ..."""

import itertools
import threading
from collections import defaultdict
from typing import Any

__all__ = ["layer_name"]

_counters: defaultdict[str, "itertools.count[int]"] = defaultdict(itertools.count)
_lock = threading.Lock()


def layer_name(name: Any, default: str) -> str:
    """Return `name`, or the next free default name of this process for None."""
    if name is None:
        with _lock:
            number = next(_counters[default])
        return f"{default}_{number}" if number else default
    if not isinstance(name, str) or not name:
        raise TypeError(f"name={name!r} must be a non-empty string")
    return name
