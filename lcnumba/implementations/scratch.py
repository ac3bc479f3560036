"""Arrays for kernels, aligned to cache lines, so that no vector crosses a line boundary."""

import ctypes
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba.kernels.rules import LINE_BYTES
from lcnumba.runtime.memory import require
from lcnumba.utils.types import Array

__all__ = ["aligned", "scratch"]

# Size in bytes from which alignment pays off.
SMALL_BYTES = 1 << 14


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialised array, aligned unless it is small."""
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL_BYTES:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, *_memory(size))


def scratch(sizes: dict[str, int]) -> tuple[Array, dict[str, int]]:
    """One block of uninitialised memory, and the addresses in it of parts of these sizes in bytes, on cache lines."""
    places, size = {}, 0
    for name, part in sizes.items():
        places[name] = size
        size += -(-part // LINE_BYTES) * LINE_BYTES
    memory, begin = _memory(size)
    start = memory.ctypes.data + begin
    return memory, {name: start + place for name, place in places.items()}


def _memory(size: int) -> tuple[npt.NDArray[np.uint8], int]:
    """A buffer of at least `size` bytes from the first cache line on, and the offset of that line."""
    require(size, "an array or workspace of this call", "give fewer samples at a time, or reduce n_threads")
    memory = np.empty(size + LINE_BYTES, np.uint8)
    # Twice as fast as memory.ctypes.data, which matters for small layers.
    return memory, -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % LINE_BYTES  # type: ignore[arg-type]
