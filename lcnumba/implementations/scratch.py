"""Arrays for kernels, which begin with a cache line, so that no vector of them lies across two."""

import ctypes
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba.kernels.rules import LINE_BYTES
from lcnumba.runtime.memory import require
from lcnumba.utils.types import Array

__all__ = ["aligned", "scratch"]

# Bytes from which an array of its own is worth being aligned.
SMALL_BYTES = 1 << 14


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialised array, aligned unless it is small: that would cost more than it brings."""
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL_BYTES:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, *_memory(size))


def scratch(dtype: np.dtype[Any], *shapes: tuple[int, ...]) -> list[Array]:
    """Uninitialised arrays in one piece of memory, each of which begins with a cache line."""
    offsets, size = [], 0
    for shape in shapes:
        offsets.append(size)
        size += -(-math.prod(shape) * dtype.itemsize // LINE_BYTES) * LINE_BYTES
    memory, begin = _memory(size)
    return [np.ndarray(shape, dtype, memory, begin + offset) for shape, offset in zip(shapes, offsets, strict=True)]


def _memory(size: int) -> tuple[npt.NDArray[np.uint8], int]:
    """So many bytes and somewhat more, and where in them a cache line begins."""
    require(size, "an array or workspace of this call", "give fewer samples at a time, or a layer fewer n_threads")
    memory = np.empty(size + LINE_BYTES, np.uint8)
    # Half the time of memory.ctypes.data, of which a small layer would feel the rest.
    return memory, -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % LINE_BYTES  # type: ignore[arg-type]
