"""How long the vectors are that suit the host, and a shape.

Read off the CPU's features rather than its name: a virtual machine may report an odd one. A wrong
guess costs time, never the answer.
"""

import functools
import os

import llvmlite.binding as llvm
import numba

__all__ = ["REGISTERS", "TILED", "for_batch", "for_filters", "host_bytes", "host_features"]

# Vectors of 128 bits are what every supported CPU has (SSE2, NEON).
LEAST_BYTES = 16


@functools.cache
def _features() -> dict[str, bool]:
    try:
        return dict(llvm.get_host_cpu_features())
    except RuntimeError:  # LLVM cannot tell on this system
        return {}


def host_features() -> list[str]:
    """Those features of the host's CPU that matter here."""
    return [name for name in ("sse2", "avx", "avx2", "fma", "avx512f", "avx512vl", "neon") if _features().get(name)]


def host_bytes() -> int:
    """Bytes of the host's vectors: 64 with AVX-512, 32 with AVX, else 16."""
    features = _features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx") else LEAST_BYTES


# Vector registers that a tile may use: AVX-512 and Arm have 32, older x86 has 16.
REGISTERS = 16 if "sse2" in _features() and not _features().get("avx512vl") else 32

# Whether the tuned kernels are used at all; intrinsics do not exist without compilation.
TILED = os.environ.get("LCNUMBA_TILE", "1") != "0" and not numba.config.DISABLE_JIT


def for_filters(filters: int, size: int) -> int:
    """Return how many numbers of `size` bytes a vector along the filters holds."""
    return _fitting(filters, size)


def for_batch(batch: int, size: int) -> int:
    """Return how many numbers a vector along the batch holds; 0 where it is too small for any.

    A batch of a quarter of a cache line does not fill the shortest vector usefully: sums of whole
    rows are then quicker.
    """
    return 0 if batch * size <= LEAST_BYTES else _fitting(batch, size)


def _fitting(numbers: int, size: int) -> int:
    length = host_bytes() // size
    while length * size > LEAST_BYTES and numbers <= length // 2:
        length //= 2
    return length
