"""The machine's limits, measured by kernels that do nothing else: memory rates and matrix products.

Processors change their clock, and a shared machine its mood, within seconds. So limits are measured in
turn with what is compared with them, and each turn is the best of several calls.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["best", "memory", "now", "products"]

_SECONDS = 0.04
_REPEATS = 3
# Bytes that one launch passes over at least, so that the launch itself does not count.
_AT_LEAST = 1 << 26
_MATRIX = 1024


def now(size: int, dtype: str) -> dict[str, float]:
    """Measure all limits for arrays of `size` bytes: "read", "update" and "gemm"."""
    return {**memory(size, dtype), "gemm": products(dtype)}


def memory(size: int, dtype: str) -> dict[str, float]:
    """Measure how fast all threads read, and update in place, a buffer of `size` bytes.

    Returns
    -------
    dict
        "read" and "update", bytes of traffic a second: an update reads and writes each byte.
    """
    import numba

    read, update = _kernels()
    threads = numba.get_num_threads()
    buffer = _buffer(max(size // np.dtype(dtype).itemsize, 64 * threads), dtype)
    sums = np.zeros((threads, 64), dtype)  # a cache line for each thread
    passes = max(1, _AT_LEAST // buffer.nbytes)
    factor = buffer.dtype.type(1.0)
    return {
        "read": passes * buffer.nbytes / best(lambda: read(buffer, sums, passes)),
        "update": 2 * passes * buffer.nbytes / best(lambda: update(buffer, factor, threads, passes)),
    }


def products(dtype: str) -> float:
    """Measure how fast NumPy multiplies large matrices, in operations a second."""
    a = _buffer(_MATRIX**2, dtype).reshape(_MATRIX, _MATRIX)
    out = np.empty_like(a)
    return 2 * _MATRIX**3 / best(lambda: np.matmul(a, a, out=out))


@functools.lru_cache(maxsize=2)
def _buffer(numbers: int, dtype: str) -> Any:
    """Ones, kept for the next turn: to touch their pages takes longer than to measure."""
    return np.ones(numbers, dtype)


@functools.cache
def _kernels() -> tuple[Callable[..., None], Callable[..., None]]:
    import numba

    # Each thread keeps to its part of the buffer. What vectorises the loops: fastmath, for the sum; the signed
    # index of prange(0, n), where that of prange(n) would make the bounds floats; a slice counted from 0, where
    # an index that might be negative would be tested each time.

    @numba.njit(parallel=True, fastmath=True)
    def read(buffer: Any, sums: Any, passes: int) -> None:
        threads = len(sums)
        for t in numba.prange(0, threads):
            part = buffer[t * len(buffer) // threads : (t + 1) * len(buffer) // threads]
            for _ in range(passes):
                total = sums[t, 0]
                for i in range(len(part)):
                    total += part[i]
                sums[t, 0] = total

    @numba.njit(parallel=True)
    def update(buffer: Any, factor: Any, threads: int, passes: int) -> None:
        for t in numba.prange(0, threads):
            part = buffer[t * len(buffer) // threads : (t + 1) * len(buffer) // threads]
            for _ in range(passes):
                for i in range(len(part)):
                    part[i] *= factor

    return read, update


def best(work: Callable[[], Any]) -> float:
    """Return the least seconds of several calls, after one that is not counted."""
    work()  # compiles, and touches every page
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(times) < _REPEATS or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
