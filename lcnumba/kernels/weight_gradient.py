"""The gradient of the kernel (the weights), one block at a time, stored or applied by an optimizer's formula.

`backward.py` calls it for each block. Here too: how dy is packed for it.
`plain.py` has the same without register tiles.
"""

import functools

import numpy as np

from lcnumba.kernels.jit import call, code_address, compiled
from lcnumba.kernels.movement import clear
from lcnumba.kernels.records import NO_CLAMP, ONE, ROWS, Fields, array_at, jitted, reader, zero
from lcnumba.kernels.rules import FACTOR, FORMULA, GRADIENT
from lcnumba.kernels.tile import SEGMENT

__all__ = [
    "BATCH",
    "EACH_CALL",
    "FIELDS",
    "ROW_TILE",
    "block_gradient",
    "block_gradient_transposed",
    "clear_absent",
    "pack_dy",
]

# Rows of a block whose gradient is computed and applied at a time: a multiple of the largest tile heights and of a
# vector.
ROW_TILE = 48
# Samples over which a block's gradient is summed at a time: their x and dy fit in L1.
BATCH = 64

# Bytes of a row of dy that are transposed at a time.
TRANSPOSED_BYTES = 256

# The fields that begin the records of `backward.py`: see there.
EACH_CALL = (
    "x kernel dy y rule formula scalars factor target state_1 state_2 dx adds "
    "first_line part_lines first_band part_bands"
)
FIELDS = (
    "size N P K F LI OW line C KW G E entry_step stride n_bands VN batch_tile ranges zeros packed_x packed_x_row "
    "packed_dy dy_row dyt cached_lines cached_columns most_run cache_keys dxt dxt_rows gradient gradient_bytes covered "
    "band_columns exists exists_width clear_absent multiply panel_bytes multiply_dx panel_bytes_dx dots transpose pack "
    f"block_gradient {ROWS}"
)
read = reader(Fields(FIELDS, each_call=EACH_CALL).dtype)

# The arguments of the functions that compute the gradient of a block.
ARGUMENTS = 10


@jitted
def pack_dy(record, p, run, packed, first_sample, begin, count, transposed):
    """Pack dy of `run` neighbouring positions from p on, and transpose it.

    Samples are packed from `first_sample` on, and `count` transposed from `begin` on. The ReLU mask y > 0 is applied.
    packed is the address of sample 0 of the copy, or of dy itself, which is then not copied; transposed that of the
    transposed rows (run*F, batch_tile), or 0 for none.
    """
    r = read(record)
    size, F = r.size, r.F
    row_bytes, dy_bytes, tile_bytes, at = F * size, r.P * F * size, r.batch_tile * size, p * F * size
    if r.packed_dy:
        at += first_sample * dy_bytes
        relu_mask = 0
        if r.y:
            relu_mask = r.y + at
        call(
            r.pack, r.dy + at, relu_mask, dy_bytes, packed + first_sample * r.dy_row, r.dy_row,
            begin + count - first_sample, run * F, dy_bytes,
        )  # fmt: skip
    if transposed:
        # As many positions at a time as lie in a few cache lines.
        step = -(-TRANSPOSED_BYTES // row_bytes)
        for q in range(0, run, step):
            rows_at, columns = transposed + q * F * tile_bytes, min(step, run - q) * F
            call(
                r.transpose, packed + begin * r.dy_row + q * row_bytes, r.dy_row, rows_at, tile_bytes, count, columns
            )  # fmt: skip
            clear(rows_at + count * size, tile_bytes, columns, (-(-count // r.VN) * r.VN - count) * size)


@functools.cache
def clear_absent():
    """Compile the function that clears absent connections; only layers with a mask need it."""

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
                zero(r.target + at + e * unit, unit)
                if r.state_1:
                    zero(r.state_1 + at + e * unit, unit)
                if r.state_2:
                    zero(r.state_2 + at + e * unit, unit)

    return code_address(compiled(clear_absent), 3)


@functools.cache
def block_gradient():
    """Compile the function that computes the gradient of a block of weights, and stores or applies it."""

    def block_gradient(record, at, run, x, x_bytes, dy, rows, gradient, next_block, next_bytes):
        """Store in target, or apply to it, the sum over n of x[n, r] dy[n, f], `rows` by F, for `run` positions.

        All arguments but counts and strides are addresses. `at` is the offset of the block in target and in the states,
        x and dy are those of sample 0, `x_bytes` the row stride of x; gradient (2*ROW_TILE*F, or the rows of a single
        filter) is scratch, `next_block` the block to prefetch, `next_bytes` further for each position. Blocks of
        neighbouring positions are a window of weights, a stride of inputs, and F columns of dy apart. With groups,
        where `run` is 1, all groups' products are one call.
        """
        r = read(record)
        N, F, size, rule, row_bytes, target = r.N, r.F, r.size, r.rule, r.F * r.size, r.target + at
        prefetch_k, entry_bytes, filters = -(-row_bytes // min(N, BATCH)), r.entry_step * size, F // r.G
        w_step, x_step, dy_step = r.K * row_bytes, r.stride * r.C * size, row_bytes
        row_tile, repeats = rows, run
        if rule == FORMULA:
            row_tile, repeats = ROW_TILE, 1
        if r.G > 1:
            repeats, w_step, x_step, dy_step = r.G, filters * size, r.E * size, filters * size
        for q in range(0, run, repeats):  # once, with groups
            for first in range(0, rows, row_tile):
                n_rows, done = min(row_tile, rows - first), first * row_bytes + q * w_step
                out, init, init_row, factor = target + done, r.zeros, 0, ONE
                init_step = 0
                if rule == FACTOR:
                    init, init_row, init_step, factor = out, row_bytes, w_step, r.factor
                elif rule == FORMULA:
                    out = gradient
                for n in range(0, N, BATCH):
                    # The segment (0, 0, samples, 0) of BATCH samples, or of the remainder.
                    segment = r.ranges + 8 * SEGMENT * (1 if N - n >= BATCH else 2)
                    call(
                        r.multiply, x + first * entry_bytes + q * x_step + n * x_bytes, entry_bytes, x_bytes,
                        dy + q * row_bytes + n * r.dy_row, r.dy_row, r.panel_bytes, segment, 1,
                        out, row_bytes, init, init_row, n_rows, filters,
                        next_block + first * row_bytes + q * next_bytes, row_bytes, 0, prefetch_k, factor, NO_CLAMP,
                        repeats, x_step, dy_step, w_step, init_step, next_bytes,
                    )  # fmt: skip
                    init, init_row, init_step = out, row_bytes, w_step
                if rule == FORMULA:
                    call(
                        r.formula, r.scalars, target + done, gradient, r.state_1 + at + done, r.state_2 + at + done,
                        n_rows * F,
                    )  # fmt: skip

    return code_address(compiled(block_gradient), ARGUMENTS)


@functools.cache
def block_gradient_transposed():
    """Compile the variant of `block_gradient` for few filters, with vectors of inputs."""

    def block_gradient_transposed(record, at, run, x, x_bytes, dy, rows, gradient, next_block, next_bytes):
        """Do the same as `block_gradient`: compute the transposed gradient, then transpose it."""
        r = read(record)
        N, F, size, rule, row_bytes, target = r.N, r.F, r.size, r.rule, r.F * r.size, r.target + at
        transposed, transposed_bytes = gradient + ROW_TILE * row_bytes, ROW_TILE * size
        w_step, x_step = r.K * row_bytes, r.stride * r.C * size
        # A row vector is its own transpose, and has few bytes: x is prefetched, not the weights.
        repeats = 1 if rule == FORMULA else run
        for q in range(0, run if F == 1 else 0, repeats):
            out, init, init_step, factor = target + q * w_step, r.zeros, 0, ONE
            if rule == FACTOR:
                init, init_step, factor = out, w_step, r.factor
            elif rule == FORMULA:
                out = gradient
            call(
                r.multiply, dy + q * size, size, r.dy_row, x + q * x_step, x_bytes, r.panel_bytes,
                r.ranges + 8 * SEGMENT * 3, 1, out, 0, init, 0, 1, rows, x + (q + 1) * x_step, 0, x_bytes, 0,
                factor, NO_CLAMP, repeats, size, x_step, w_step, init_step, x_step,
            )  # fmt: skip
            if rule == FORMULA:
                at_q = at + q * w_step
                call(r.formula, r.scalars, target + q * w_step, gradient, r.state_1 + at_q, r.state_2 + at_q, rows)
        for q in range(0 if F == 1 else run):
            for first in range(0, rows, ROW_TILE):
                n_rows, done = min(ROW_TILE, rows - first), first * row_bytes + q * w_step
                stored = rule == GRADIENT
                out = target + done if stored else gradient
                call(
                    r.multiply, dy + q * row_bytes, size, r.dy_row, x + first * size + q * x_step, x_bytes,
                    r.panel_bytes, r.ranges + 8 * SEGMENT * 3, 1, transposed, transposed_bytes, r.zeros, 0, F, n_rows,
                    next_block + first * row_bytes + q * next_bytes, n_rows * size, 0, -(-n_rows * size // N),
                    ONE, NO_CLAMP, 1, 0, 0, 0, 0, 0,
                )  # fmt: skip
                call(r.transpose, transposed, transposed_bytes, out, row_bytes, F, n_rows)
                if not stored:
                    call(
                        r.formula, r.scalars, target + done, gradient, r.state_1 + at + done, r.state_2 + at + done,
                        n_rows * F,
                    )  # fmt: skip

    return code_address(compiled(block_gradient_transposed), ARGUMENTS)
