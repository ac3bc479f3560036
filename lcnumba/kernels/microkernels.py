"""Micro-kernels: the register tile and the copies as functions of their own, called by address.

Each is compiled once per dtype and vector length. The kernels that call them (`forward.py`, `backward.py`,
`weight_gradient.py`) depend on neither, and are compiled once.
"""

import functools

from lcnumba.kernels import movement, tile
from lcnumba.kernels.jit import code_address, compiled, specialised

__all__ = ["dots", "multiply", "pack", "pack_panels", "transpose"]


@functools.cache
def multiply(SIZE: int, VL: int) -> int:
    """The address of `lcnumba.kernels.tile.multiply`."""

    def multiply(
        a, a_row, a_k, b, b_k, b_panel, segments, count, c, c_row, init, init_row, rows, cols, prefetch, prefetch_row,
        prefetch_k, prefetch_row_k, factor, lower_clamp, repeats, a_step, b_step, c_step, init_step, prefetch_step,
    ):  # fmt: skip
        tile.multiply(
            SIZE, VL, a, a_row, a_k, b, b_k, b_panel, segments, count, c, c_row, init, init_row, rows, cols, prefetch,
            prefetch_row, prefetch_k, prefetch_row_k, factor, lower_clamp, repeats, a_step, b_step, c_step, init_step,
            prefetch_step,
        )  # fmt: skip

    return code_address(compiled(specialised(multiply, SIZE, VL)), len(tile.Operands._fields))


@functools.cache
def dots(SIZE: int, VL: int) -> int:
    """The address of `lcnumba.kernels.tile.dots`."""

    def dots(a, a_row, vector, c, rows, cols, next_block, x, factor):
        tile.dots(SIZE, VL, a, a_row, vector, c, rows, cols, next_block, x, factor)

    return code_address(compiled(specialised(dots, SIZE, VL)), 9)


@functools.cache
def transpose(SIZE: int) -> int:
    """The address of `lcnumba.kernels.movement.transpose`."""

    def transpose(source, source_row, target, target_row, rows, cols):
        movement.transpose(SIZE, source, source_row, target, target_row, rows, cols)

    return code_address(compiled(specialised(transpose, SIZE)), 6)


@functools.cache
def pack(SIZE: int) -> int:
    """The address of `lcnumba.kernels.movement.pack`."""

    def pack(source, relu_mask, source_row, target, target_row, rows, cols, prefetch_offset):
        movement.pack(SIZE, source, relu_mask, source_row, target, target_row, rows, cols, prefetch_offset)

    return code_address(compiled(specialised(pack, SIZE)), 8)


@functools.cache
def pack_panels(SIZE: int, VL: int) -> int:
    """The address of `lcnumba.kernels.movement.pack_panels`."""

    def pack_panels(source, source_row, rows, cols, target, panel):
        movement.pack_panels(SIZE, VL, source, source_row, rows, cols, target, panel)

    return code_address(compiled(specialised(pack_panels, SIZE, VL)), 6)
