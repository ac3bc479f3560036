"""Roofline limits of the machine: measured memory bandwidth and rate of matrix products.

Clock frequencies and the load of a shared machine change within seconds. So the limits are measured alternately
with the operations that are compared with them, each time as the best of several calls.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["bandwidth", "best", "gemm", "measure"]

_SECONDS = 0.04
_REPEATS = 3
# Minimum bytes per launch, so that the launch overhead is negligible.
_AT_LEAST = 1 << 26
_MATRIX = 1024


def measure(size: int, dtype: str) -> dict[str, float]:
    """Measure the limits "read", "update" and "gemm" for arrays of `size` bytes."""
    return {**bandwidth(size, dtype), "gemm": gemm(dtype)}


def bandwidth(size: int, dtype: str) -> dict[str, float]:
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


def gemm(dtype: str) -> float:
    """Measure NumPy's product of large matrices, in operations per second."""
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


def best(work: Callable[[], Any]) -> float:
    """Return the minimum time of several calls in seconds, after a warm-up."""
    work()  # compiles, and touches every page
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(times) < _REPEATS or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
