"""The gradient of the kernel (the weights), one block at a time, stored or applied by an optimizer's formula.

`backward.py` calls it for each block. Here too: how dy is packed for it.
`plain.py` has the same without register tiles.
"""

import functools

import numpy as np

from lcnumba.kernels import update
from lcnumba.kernels.jit import compiled, specialised
from lcnumba.kernels.movement import pack, transpose, zero_padding_lanes
from lcnumba.kernels.records import array_at
from lcnumba.kernels.rules import GRADIENT, N_HYPERPARAMETERS, SGD
from lcnumba.kernels.tile import NEXT_A, SEGMENT, multiply
from lcnumba.kernels.vectors import vector_bytes

# Rows of a block whose gradient is computed and applied at a time: a multiple of the largest tile heights and of a
# vector.
ROW_TILE = 48
# Samples over which a block's gradient is summed at a time: their x and dy fit in L1.
BATCH = 64


@functools.cache
def apply_at(SIZE):
    """Make a version of `lcnumba.kernels.update.apply` that takes addresses of `count` elements."""
    number, apply = np.float32 if SIZE == 4 else np.float64, update.apply

    def apply_at(rule, target, gradient, state_1, state_2, hyper, count):
        apply(
            rule, array_at(target, count, number), array_at(gradient, count, number),
            array_at(state_1, count, number), array_at(state_2, count, number),
            array_at(hyper, N_HYPERPARAMETERS, number),
        )  # fmt: skip

    return compiled(specialised(apply_at, SIZE))


@functools.cache
def pack_dy(SIZE, VN):
    """Make the function that packs dy of a position, and transposes it."""
    lanes, clear = vector_bytes() // SIZE, zero_padding_lanes(SIZE, VN or 1)

    def pack_dy(dy, y, y_bytes, packed, row_bytes, first_sample, begin, count, transposed, tile_bytes, F):
        """Pack dy of the samples from `first_sample`, and transpose `count` samples from `begin`.

        dy and y are the addresses of sample 0 at the position; with y (0: none) the ReLU mask y > 0 is applied.
        packed is the address of the copy, or dy itself; transposed that of the transposed rows, or 0 for none.
        """
        if packed != dy:
            skipped, relu_mask = first_sample * y_bytes, 0
            if y:
                relu_mask = y + skipped
            samples = begin + count - first_sample
            pack(
                SIZE, lanes, dy + skipped, relu_mask, y_bytes, packed + first_sample * row_bytes, row_bytes,
                samples, F, row_bytes,
            )  # fmt: skip
        if transposed:
            transpose(SIZE, packed + begin * row_bytes, row_bytes, transposed, tile_bytes, count, F)
            clear(transposed, tile_bytes, F, count)

    return compiled(specialised(pack_dy, SIZE, VN))


@functools.cache
def block_gradient(SIZE, VL):
    """Make the function that computes the gradient of a block of weights, and stores or applies it."""
    number = np.float32 if SIZE == 4 else np.float64
    one, no_clamp, mode = number(1), number(-np.inf), NEXT_A
    row_tile, batch, apply = ROW_TILE, BATCH, apply_at(SIZE)

    def block_gradient(
        rule, x, x_bytes, dy, dy_bytes, N, rows, F, target, state_1, state_2, hyper, ranges, zeros, gradient,
        next_block,
    ):  # fmt: skip
        """Store in target, or apply to it, the sum over n of x[n, r] dy[n, f], `rows` by F.

        All arguments but `rule`, strides and counts are addresses; target and states are those of the block.
        `x_bytes` and `dy_bytes` are the row strides of x and dy, `next_block` is the block to prefetch. The other
        arguments are as for `backward`.
        """
        row_bytes = F * SIZE
        prefetch_k = -(-row_bytes // min(N, batch))
        for r in range(0, rows, row_tile if rule > SGD else rows):
            n_rows = min(row_tile, rows) if rule > SGD else rows
            n_rows = min(n_rows, rows - r)
            out, init, init_row, factor = target, zeros, 0, one
            if rule == SGD:
                init, init_row, factor = out, row_bytes, -array_at(hyper, 1, number)[0]
            elif rule > SGD:
                out = gradient
            for n in range(0, N, batch):
                # The segment (0, 0, samples, 0) of `batch` samples, or of the remainder.
                segment = ranges + 8 * SEGMENT * (1 if N - n >= batch else 2)
                multiply(
                    SIZE, VL, mode, x + r * SIZE + n * x_bytes, SIZE, x_bytes, dy + n * dy_bytes, dy_bytes,
                    segment, 1, out, row_bytes, init, init_row, n_rows, F,
                    next_block + r * row_bytes, row_bytes, prefetch_k, factor, no_clamp,
                )  # fmt: skip
                init, init_row = out, row_bytes
            if rule > SGD:
                at = r * row_bytes
                apply(rule, target + at, gradient, state_1 + at, state_2 + at, hyper, n_rows * F)

    return compiled(specialised(block_gradient, SIZE, VL))


@functools.cache
def block_gradient_transposed(SIZE, VL):
    """Make the variant of `block_gradient` for few filters, with vectors of VL inputs."""
    number = np.float32 if SIZE == 4 else np.float64
    one, no_clamp, mode = number(1), number(-np.inf), NEXT_A
    row_tile, apply = ROW_TILE, apply_at(SIZE)

    def block_gradient_transposed(
        rule, x, x_bytes, dy, dy_bytes, N, rows, F, target, state_1, state_2, hyper, ranges, zeros, gradient,
        next_block,
    ):  # fmt: skip
        """Do the same as `block_gradient`: compute the transposed gradient, then transpose it."""
        row_bytes, transposed_bytes = F * SIZE, row_tile * SIZE
        transposed = gradient + row_tile * row_bytes
        for r in range(0, rows, row_tile):
            n_rows, at = min(row_tile, rows - r), r * row_bytes
            multiply(
                SIZE, VL, mode, dy, SIZE, dy_bytes, x + r * SIZE, x_bytes,
                ranges + 8 * SEGMENT * 3, 1, transposed, transposed_bytes, zeros, 0, F, n_rows,
                next_block + at, n_rows * SIZE, -(-n_rows * SIZE // N), one, no_clamp,
            )  # fmt: skip
            transpose(
                SIZE, transposed, transposed_bytes, target + at if rule == GRADIENT else gradient, row_bytes, F, n_rows
            )
            if rule >= SGD:
                apply(rule, target + at, gradient, state_1 + at, state_2 + at, hyper, n_rows * F)

    return compiled(specialised(block_gradient_transposed, SIZE, VL))
