"""Vector lengths for the host CPU and a shape.

They depend on the CPU's features, not its name, which a virtual machine may change. An unsuitable length is slower
but correct.
"""

import functools
import os

import llvmlite.binding as llvm
import numba

__all__ = ["REGISTERS", "TILED", "for_batch", "for_filters", "host_bytes", "host_features"]

# Every supported CPU has vectors of 128 bits (SSE2, NEON).
LEAST_BYTES = 16


@functools.cache
def _features() -> dict[str, bool]:
    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:  # LLVM does not support it on this system
        return {}


def host_features() -> list[str]:
    """The relevant features of the host CPU."""
    return [name for name in ("sse2", "avx", "avx2", "fma", "avx512f", "avx512vl", "neon") if _features().get(name)]


def host_bytes() -> int:
    """Bytes of the host's vectors: 64 with AVX-512, 32 with AVX, otherwise 16."""
    features = _features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx") else LEAST_BYTES


# Number of vector registers: AVX-512 and Arm have 32, older x86 has 16.
REGISTERS = 16 if "sse2" in _features() and not _features().get("avx512vl") else 32

# Whether the tuned kernels are used. Intrinsics need compilation.
TILED = os.environ.get("LCNUMBA_TILE", "1") != "0" and not numba.config.DISABLE_JIT


def for_filters(filters: int, size: int) -> int:
    """Return the length of vectors along the filters, for elements of `size` bytes."""
    return _fitting(filters, size)


def for_batch(batch: int, size: int) -> int:
    """Return the length of vectors along the batch, for elements of `size` bytes; 0 for small batches.

    If the batch is not larger than the shortest vector, sums over rows of weights are faster.
    """
    return 0 if batch * size <= LEAST_BYTES else _fitting(batch, size)


def _fitting(n: int, size: int) -> int:
    length = host_bytes() // size
    while length * size > LEAST_BYTES and n <= length // 2:
        length //= 2
    return length
