"""The gradient of a block of weights, stored or applied; and what forward and backward share."""

import functools

import numpy as np

from lcnumba.kernels import update
from lcnumba.kernels.jit import array_at, compiled, specialised
from lcnumba.kernels.movement import pack, transpose
from lcnumba.kernels.rules import GRADIENT, NUMBERS, SGD
from lcnumba.kernels.tile import NEXT_A, SEGMENT, multiply
from lcnumba.kernels.vectors import host_bytes

# Rows of a block whose gradient is made, and applied, at once: the largest tiles divide it, and so does a
# vector.
STRETCH = 48
# Samples over which a block's gradient is summed at once: their x and dy stay in a core's first cache.
BATCH = 64


@functools.cache
def beyond_the_batch(SIZE, VN):
    """Make the function that clears the lanes beyond the batch of turned rows, in vectors of VN.

    They are computed with and thrown away. They must hold numbers all the same: what memory happens to
    hold may be subnormal, which makes a product many times slower.
    """
    number = np.float32 if SIZE == 4 else np.float64

    def beyond_the_batch(turned, row_bytes, rows, count):
        lanes = -(-count // VN) * VN - count
        for r in range(rows if lanes else 0):
            rest = array_at(turned + r * row_bytes + count * SIZE, lanes, number)
            for n in range(lanes):
                rest[n] = 0

    return compiled(specialised(beyond_the_batch, SIZE, VN))


@functools.cache
def apply_at(SIZE):
    """Make `lcnumba.kernels.update.apply` for `count` numbers at addresses."""
    number, apply = np.float32 if SIZE == 4 else np.float64, update.apply

    def apply_at(rule, target, gradient, state_1, state_2, numbers, count):
        apply(
            rule, array_at(target, count, number), array_at(gradient, count, number),
            array_at(state_1, count, number), array_at(state_2, count, number), array_at(numbers, NUMBERS, number),
        )  # fmt: skip

    return compiled(specialised(apply_at, SIZE))


@functools.cache
def take_dy(SIZE, VN):
    """Make the function that copies dy of a position together, and turns it."""
    lanes, clear = host_bytes() // SIZE, beyond_the_batch(SIZE, VN or 1)

    def take_dy(dy, y, y_bytes, copy, row_bytes, first, begin, count, turned, chunk_bytes, F):
        """Copy dy, rectified by y unless its address is 0, of samples from `first`; turn `count` from `begin`.

        dy and y are the addresses of sample 0 at the position, copy that of its copy, which may be dy
        itself; turned is that of the turned rows, or 0 where none are wanted.
        """
        if copy != dy:
            skipped, gate = first * y_bytes, 0
            if y:
                gate = y + skipped
            samples = begin + count - first
            pack(SIZE, lanes, dy + skipped, gate, y_bytes, copy + first * row_bytes, row_bytes, samples, F, row_bytes)
        if turned:
            transpose(SIZE, copy + begin * row_bytes, row_bytes, turned, chunk_bytes, count, F)
            clear(turned, chunk_bytes, F, count)

    return compiled(specialised(take_dy, SIZE, VN))


@functools.cache
def block_gradient(SIZE, VL):
    """Make the function that computes the gradient of a block of weights, or applies it."""
    number = np.float32 if SIZE == 4 else np.float64
    one, bottom, prefetch = number(1), number(-np.inf), NEXT_A
    stretch, batch, apply = STRETCH, BATCH, apply_at(SIZE)

    def block_gradient(
        rule, x, x_bytes, dy, dy_bytes, N, rows, F, target, state_1, state_2, numbers, ranges, zeros, gradient,
        following,
    ):  # fmt: skip
        """Store in target, or apply to it, the sum over n of x[n, r] dy[n, f], `rows` by F.

        All but `rule` and counts are addresses, those of target and states of the block at hand; x and dy
        have rows `x_bytes` and `dy_bytes` apart, `following` is the block to come. The rest is as for
        `backward`.
        """
        row_bytes = F * SIZE
        ahead_k = -(-row_bytes // min(N, batch))
        for r in range(0, rows, stretch if rule > SGD else rows):
            some = min(stretch, rows) if rule > SGD else rows
            some = min(some, rows - r)
            out, init, init_row, factor = target, zeros, 0, one
            if rule == SGD:
                init, init_row, factor = out, row_bytes, -array_at(numbers, 1, number)[0]
            elif rule > SGD:
                out = gradient
            for n in range(0, N, batch):
                # The segment (0, 0, samples, 0): `batch` of them, or what is left.
                segment = ranges + 8 * SEGMENT * (1 if N - n >= batch else 2)
                multiply(
                    SIZE, VL, prefetch, x + r * SIZE + n * x_bytes, SIZE, x_bytes, dy + n * dy_bytes, dy_bytes,
                    segment, 1, out, row_bytes, init, init_row, some, F,
                    following + r * row_bytes, row_bytes, ahead_k, factor, bottom,
                )  # fmt: skip
                init, init_row = out, row_bytes
            if rule > SGD:
                at = r * row_bytes
                apply(rule, target + at, gradient, state_1 + at, state_2 + at, numbers, some * F)

    return compiled(specialised(block_gradient, SIZE, VL))


@functools.cache
def block_gradient_turned(SIZE, VL):
    """Make the same function for few filters, with vectors of VL inputs."""
    number = np.float32 if SIZE == 4 else np.float64
    one, bottom, prefetch = number(1), number(-np.inf), NEXT_A
    stretch, apply = STRETCH, apply_at(SIZE)

    def block_gradient_turned(
        rule, x, x_bytes, dy, dy_bytes, N, rows, F, target, state_1, state_2, numbers, ranges, zeros, gradient,
        following,
    ):  # fmt: skip
        """Do what `block_gradient` does: compute it with the filters first, and turn it."""
        row_bytes, turned_bytes = F * SIZE, stretch * SIZE
        turned = gradient + stretch * row_bytes
        for r in range(0, rows, stretch):
            some, at = min(stretch, rows - r), r * row_bytes
            multiply(
                SIZE, VL, prefetch, dy, SIZE, dy_bytes, x + r * SIZE, x_bytes,
                ranges + 8 * SEGMENT * 3, 1, turned, turned_bytes, zeros, 0, F, some,
                following + at, some * SIZE, -(-some * SIZE // N), one, bottom,
            )  # fmt: skip
            transpose(SIZE, turned, turned_bytes, target + at if rule == GRADIENT else gradient, row_bytes, F, some)
            if rule >= SGD:
                apply(rule, target + at, gradient, state_1 + at, state_2 + at, numbers, some * F)

    return compiled(specialised(block_gradient_turned, SIZE, VL))
