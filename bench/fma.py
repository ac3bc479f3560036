"""Peak arithmetic rate of the processors: a register tile of fused multiply-adds on data in L1.

An intrinsic that emits LLVM code: MR x 2 vectors of accumulators stay in registers while a loop over k loads two
vectors and broadcasts MR scalars. Products of arrays in memory are not faster.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.rounds import best

__all__ = ["rate"]

_VECTORS = 2  # per row of the tile
_STEPS = 128  # along k: operands of 22 KB at most, in float32
_REPEATS = 2000


def rate(dtype: str) -> float:
    """Measure floating-point operations per second with all threads."""
    import numba

    threads = numba.get_num_threads()
    lanes, rows = _shape(np.dtype(dtype).itemsize)
    a = np.ones((threads, rows * _STEPS), dtype)
    b = np.ones((threads, _STEPS * _VECTORS * lanes), dtype)
    c = np.zeros((threads, rows * _VECTORS * lanes), dtype)
    run = _kernel(dtype, lanes, rows)
    seconds = best(lambda: run(a, b, c, _REPEATS))
    if not (c == _STEPS).all():
        raise ArithmeticError("the tile computes wrong products")
    return 2 * threads * rows * _VECTORS * lanes * _STEPS * _REPEATS / seconds


def _shape(itemsize: int) -> tuple[int, int]:
    """Lanes of a vector, and rows of the tile that fill the registers, of the CPU that Numba generates code for."""
    from lcnumba.kernels.vectors import REGISTERS, vector_bytes

    return vector_bytes() // itemsize, 12 if REGISTERS == 32 else 6


def _kernel(dtype: str, lanes: int, rows: int) -> Callable[..., None]:
    import numba

    tile = _tile(dtype, lanes, rows)

    @numba.njit(parallel=True)
    def run(a: Any, b: Any, c: Any, repeats: int) -> None:
        for t in numba.prange(0, len(a)):
            for _ in range(repeats):
                tile(a[t].ctypes.data, b[t].ctypes.data, c[t].ctypes.data)

    return run


def _tile(dtype: str, lanes: int, rows: int) -> Any:
    """c[rows, columns] = a[steps, rows].T @ b[steps, columns], given addresses."""
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    scalar = ir.FloatType() if dtype == "float32" else ir.DoubleType()
    itemsize = np.dtype(dtype).itemsize
    vector, i32, i64 = ir.VectorType(scalar, lanes), ir.IntType(32), ir.IntType(64)

    def load(builder: Any, address: Any, offset: int, kind: Any) -> Any:
        place = builder.add(address, i64(offset))
        return builder.load(builder.inttoptr(place, kind.as_pointer()), align=itemsize)

    @intrinsic
    def tile(typing_context: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001 - Numba calls it
        def generate(context: Any, builder: Any, signature: Any, addresses: Any) -> Any:  # noqa: ARG001
            a, b, c = (builder.bitcast(address, i64) for address in addresses)
            name = f"llvm.fma.v{lanes}f{8 * itemsize}"
            fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
            before = builder.block
            loop, after = (builder.append_basic_block(name) for name in ("loop", "after"))
            builder.branch(loop)
            builder.position_at_end(loop)
            # Carried around the loop: the step, the two addresses, and the accumulators.
            start = [i64(0), a, b, *[vector([scalar(0)] * lanes)] * (rows * _VECTORS)]
            carried = [builder.phi(value.type) for value in start]
            step, at_a, at_b, *sums = carried
            columns = [load(builder, at_b, j * lanes * itemsize, vector) for j in range(_VECTORS)]
            new = [builder.add(step, i64(1)), builder.add(at_a, i64(rows * itemsize))]
            new.append(builder.add(at_b, i64(_VECTORS * lanes * itemsize)))
            undefined, lane = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(i32, lanes), [0] * lanes)
            for r in range(rows):
                one = builder.insert_element(undefined, load(builder, at_a, r * itemsize, scalar), i32(0))
                row = builder.shuffle_vector(one, undefined, lane)
                new += [builder.call(fma, [row, columns[j], sums[r * _VECTORS + j]]) for j in range(_VECTORS)]
            for phi, first, next_value in zip(carried, start, new, strict=True):
                phi.add_incoming(first, before)
                phi.add_incoming(next_value, loop)
            builder.cbranch(builder.icmp_signed("<", new[0], i64(_STEPS)), loop, after)
            builder.position_at_end(after)
            for i, total in enumerate(new[3:]):
                place = builder.add(c, i64(i * lanes * itemsize))
                builder.store(total, builder.inttoptr(place, vector.as_pointer()), align=itemsize)
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp, types.uintp), generate

    return tile
