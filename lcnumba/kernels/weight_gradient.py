"""The gradient of the kernel (the weights), one block at a time, stored or applied by an optimizer's formula.

`backward.py` calls it for each block. Here too: how dy is packed for it.
`plain.py` has the same without register tiles.
"""

import functools

import numpy as np

from lcnumba.kernels.jit import call, code_address, compiled
from lcnumba.kernels.movement import clear
from lcnumba.kernels.records import NO_CLAMP, ONE, ROWS, Fields, array_at, jitted, reader
from lcnumba.kernels.rules import FACTOR, FORMULA, GRADIENT
from lcnumba.kernels.tile import SEGMENT

__all__ = ["BATCH", "FIELDS", "ROW_TILE", "block_gradient", "block_gradient_transposed", "clear_absent", "pack_dy"]

# Rows of a block whose gradient is computed and applied at a time: a multiple of the largest tile heights and of a
# vector.
ROW_TILE = 48
# Samples over which a block's gradient is summed at a time: their x and dy fit in L1.
BATCH = 64

# The fields that begin the records of `backward.py`: see there.
FIELDS = (
    "size x kernel dy y N P K F LI OW line C KW n_bands VN batch_tile rule formula scalars factor target state_1 "
    "state_2 ranges zeros packed_x packed_x_row packed_dy dyt cached_rows cache_keys dxt dxt_rows gradient dx adds "
    f"exists exists_width multiply panel_bytes multiply_dx panel_bytes_dx dots transpose pack block_gradient {ROWS}"
)
read = reader(Fields(FIELDS).dtype)

# The arguments of the functions that compute the gradient of a block.
ARGUMENTS = 9


@jitted
def pack_dy(record, dy, y, packed, first_sample, begin, count, transposed):
    """Pack dy of a position from the sample `first_sample` on, and transpose `count` samples from `begin`.

    dy and y are the addresses of sample 0 at the position; with y (0: none) the ReLU mask y > 0 is applied. packed is
    the address of the copy, or dy itself; transposed that of the transposed rows, or 0 for none.
    """
    r = read(record)
    size, F = r.size, r.F
    row_bytes, y_bytes, tile_bytes = F * size, r.P * F * size, r.batch_tile * size
    if packed != dy:
        skipped, relu_mask = first_sample * y_bytes, 0
        if y:
            relu_mask = y + skipped
        samples = begin + count - first_sample
        call(
            r.pack, dy + skipped, relu_mask, y_bytes, packed + first_sample * row_bytes, row_bytes, samples, F,
            row_bytes,
        )  # fmt: skip
    if transposed:
        call(r.transpose, packed + begin * row_bytes, row_bytes, transposed, tile_bytes, count, F)
        clear(transposed + count * size, tile_bytes, F, (-(-count // r.VN) * r.VN - count) * size)


@jitted
def clear_absent(record, at, rows):
    """Set absent connections of a block to 0 in target and in its states, which would move them in a later step.

    exists has a byte for each row, or for each weight.
    """
    r = read(record)
    row_bytes = r.F * r.size
    first, width = at // row_bytes, r.exists_width
    unit = row_bytes // width
    exists = array_at(r.exists + first * width, rows * width, np.uint8)
    for e in range(rows * width):
        if not exists[e]:
            array_at(r.target + at + e * unit, unit, np.uint8)[:] = 0
            if r.state_1:
                array_at(r.state_1 + at + e * unit, unit, np.uint8)[:] = 0
            if r.state_2:
                array_at(r.state_2 + at + e * unit, unit, np.uint8)[:] = 0


@functools.cache
def block_gradient():
    """Compile the function that computes the gradient of a block of weights, and stores or applies it."""

    def block_gradient(record, at, x, x_bytes, dy, dy_bytes, rows, gradient, next_block):
        """Store in target, or apply to it, the sum over n of x[n, r] dy[n, f], `rows` by F.

        All arguments but strides and `rows` are addresses. `at` is the offset of the block in target and in the states,
        x and dy are those of sample 0, `x_bytes` and `dy_bytes` their row strides; gradient (2*ROW_TILE*F) is scratch,
        `next_block` the block to prefetch.
        """
        r = read(record)
        N, F, size, rule, row_bytes, target = r.N, r.F, r.size, r.rule, r.F * r.size, r.target + at
        prefetch_k = -(-row_bytes // min(N, BATCH))
        row_tile = ROW_TILE if rule == FORMULA else rows
        for first in range(0, rows, row_tile):
            n_rows, done = min(row_tile, rows - first), first * row_bytes
            out, init, init_row, factor = target + done, r.zeros, 0, ONE
            if rule == FACTOR:
                init, init_row, factor = out, row_bytes, r.factor
            elif rule == FORMULA:
                out = gradient
            for n in range(0, N, BATCH):
                # The segment (0, 0, samples, 0) of BATCH samples, or of the remainder.
                segment = r.ranges + 8 * SEGMENT * (1 if N - n >= BATCH else 2)
                call(
                    r.multiply, x + first * size + n * x_bytes, size, x_bytes, dy + n * dy_bytes, dy_bytes,
                    r.panel_bytes, segment, 1, out, row_bytes, init, init_row, n_rows, F,
                    next_block + done, row_bytes, 0, prefetch_k, factor, NO_CLAMP,
                )  # fmt: skip
                init, init_row = out, row_bytes
            if rule == FORMULA:
                call(
                    r.formula, r.scalars, target + done, gradient, r.state_1 + at + done, r.state_2 + at + done,
                    n_rows * F,
                )  # fmt: skip

    return code_address(compiled(block_gradient), ARGUMENTS)


@functools.cache
def block_gradient_transposed():
    """Compile the variant of `block_gradient` for few filters, with vectors of inputs."""

    def block_gradient_transposed(record, at, x, x_bytes, dy, dy_bytes, rows, gradient, next_block):
        """Do the same as `block_gradient`: compute the transposed gradient, then transpose it."""
        r = read(record)
        N, F, size, rule, row_bytes, target = r.N, r.F, r.size, r.rule, r.F * r.size, r.target + at
        transposed, transposed_bytes = gradient + ROW_TILE * row_bytes, ROW_TILE * size
        for first in range(0, rows, ROW_TILE):
            n_rows, done = min(ROW_TILE, rows - first), first * row_bytes
            call(
                r.multiply, dy, size, dy_bytes, x + first * size, x_bytes, r.panel_bytes, r.ranges + 8 * SEGMENT * 3, 1,
                transposed, transposed_bytes, r.zeros, 0, F, n_rows,
                next_block + done, n_rows * size, 0, -(-n_rows * size // N), ONE, NO_CLAMP,
            )  # fmt: skip
            stored = rule == GRADIENT
            call(r.transpose, transposed, transposed_bytes, target + done if stored else gradient, row_bytes, F, n_rows)
            if not stored:
                call(
                    r.formula, r.scalars, target + done, gradient, r.state_1 + at + done, r.state_2 + at + done,
                    n_rows * F,
                )  # fmt: skip

    return code_address(compiled(block_gradient_transposed), ARGUMENTS)
