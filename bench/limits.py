"""Roofline limits of the machine: measured memory bandwidth and rate of matrix products.

Clock frequencies and the load of a shared machine change within seconds. So the limits are measured alternately
with the operations that are compared with them, each time as the best of several calls.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import fma
from bench.rounds import best

__all__ = ["measure", "memory", "products"]

# Minimum bytes per launch, so that the launch overhead is negligible.
_AT_LEAST = 1 << 26
_MATRIX = 1024


def measure(size: int, dtype: str) -> dict[str, float]:
    """Measure the limits "read", "update" and "products" for arrays of `size` bytes."""
    return {**memory(size, dtype), "products": products(dtype)}


def memory(size: int, dtype: str) -> dict[str, float]:
    """Measure the bandwidth of reading, and of updating in place, a buffer of `size` bytes with all threads.

    Returns
    -------
    dict
        "read" and "update", bytes per second; an update reads and writes each byte.
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
    """Measure products in operations per second: NumPy's of large matrices, or the register tile if that is faster."""
    return max(_gemm(dtype), fma.rate(dtype))


def _gemm(dtype: str) -> float:
    a = _buffer(_MATRIX**2, dtype).reshape(_MATRIX, _MATRIX)
    out = np.empty_like(a)
    return 2 * _MATRIX**3 / best(lambda: np.matmul(a, a, out=out))


@functools.lru_cache(maxsize=2)
def _buffer(numbers: int, dtype: str) -> Any:
    """Ones, cached for the next call: touching their pages takes longer than the measurement."""
    return np.ones(numbers, dtype)


@functools.cache
def _kernels() -> tuple[Callable[..., None], Callable[..., None]]:
    import numba

    # Each thread processes its part of the buffer. The loops vectorise because of: fastmath, for the sum; the signed
    # index of prange(0, n), since the unsigned one of prange(n) would turn the bounds into floats; slices indexed
    # from 0, since indices that may be negative would be checked in each iteration.

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
