"""Vector lengths for a shape and the CPU that Numba generates code for.

That is the host, or what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES ask for: an older one that all nodes of a cluster have
in common, for instance. The lengths follow the code that LLVM generates for it, not its name, which a virtual
machine may change. An unsuitable length is slower but correct.
"""

import functools
import os

import llvmlite.binding as llvm
import numba
from numba.core.codegen import get_host_cpu_features

__all__ = ["REGISTERS", "TILED", "for_batch", "for_filters", "host_features", "target", "vector_bytes"]

# Every supported CPU has vectors of 128 bits (SSE2, NEON).
LEAST_BYTES = 16

# Adds vectors of 512 bits, which LLVM splits into registers of the target.
_PROBE = """
define <16 x float> @add(<16 x float> %a, <16 x float> %b) {
  %sum = fadd <16 x float> %a, %b
  ret <16 x float> %sum
}
"""


def host_features() -> list[str]:
    """The relevant features of the host CPU."""
    try:
        features = dict(llvm.get_host_cpu_features())
    except RuntimeError:  # LLVM does not support it on this system
        return []
    return [name for name in ("sse2", "avx", "avx2", "fma", "avx512f", "avx512vl", "neon") if features.get(name)]


def target() -> str:
    """The CPU that code is generated for, "host" unless Numba's settings name another one."""
    settings = (numba.config.CPU_NAME, numba.config.CPU_FEATURES)
    return " ".join(setting for setting in settings if setting) or "host"


@functools.cache
def _registers() -> tuple[int, int]:
    """The bytes of a vector register of the target, and how many there are: x86 has 16 below AVX-512, others 32."""
    cpu, features = numba.config.CPU_NAME, numba.config.CPU_FEATURES
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name() if cpu is None else cpu,
        features=get_host_cpu_features() if features is None else features,
    )
    code = machine.emit_assembly(llvm.parse_assembly(_PROBE))
    if "zmm" in code:
        return 64, 32
    if "ymm" in code:
        return 32, 16
    return LEAST_BYTES, 16 if "xmm" in code else 32


def vector_bytes() -> int:
    """Bytes of the target's vectors: 64 with AVX-512, 32 with AVX, otherwise 16."""
    return _registers()[0]


REGISTERS = _registers()[1]

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
    length = vector_bytes() // size
    while length * size > LEAST_BYTES and n <= length // 2:
        length //= 2
    return length
