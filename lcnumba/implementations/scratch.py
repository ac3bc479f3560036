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


def scratch(dtype: np.dtype[Any], *shapes: tuple[int, ...]) -> list[Array]:
    """Uninitialised arrays in one block of memory, each aligned to a cache line."""
    offsets, size = [], 0
    for shape in shapes:
        offsets.append(size)
        size += -(-math.prod(shape) * dtype.itemsize // LINE_BYTES) * LINE_BYTES
    memory, begin = _memory(size)
    return [np.ndarray(shape, dtype, memory, begin + offset) for shape, offset in zip(shapes, offsets, strict=True)]


def _memory(size: int) -> tuple[npt.NDArray[np.uint8], int]:
    """A buffer of at least `size` bytes from the first cache line on, and the offset of that line."""
    require(size, "an array or workspace of this call", "give fewer samples at a time, or reduce n_threads")
    memory = np.empty(size + LINE_BYTES, np.uint8)
    # Twice as fast as memory.ctypes.data, which matters for small layers.
    return memory, -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % LINE_BYTES  # type: ignore[arg-type]
