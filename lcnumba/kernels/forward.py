"""Forward by lines on register tiles; `lcnumba.connectivity.geometry` makes the tables.

Each function here makes the kernel of one number type and of the vector lengths that suit a shape
(`lcnumba.kernels.vectors`); shapes themselves are arguments, so that few kernels are compiled.
"""

import functools

import numpy as np

from lcnumba.kernels.block import beyond_the_batch
from lcnumba.kernels.jit import next_task, specialised, tasks
from lcnumba.kernels.movement import transpose
from lcnumba.kernels.tile import B_ROWS, NEXT_A, PANEL, multiply

# Rows of W that are asked for before they are needed; 16 to 64 do equally well, fewer do not.
AHEAD = 32


@functools.cache
def forward(SIZE, VL):
    """Make the forward kernel."""
    number = np.float32 if SIZE == 4 else np.float64
    one, bottom, prefetch, panel = number(1), number(-np.inf), B_ROWS, PANEL * VL

    def forward(
        slot, counter, x, kernel, bias, row_start, row_tap, row_line, col_start, col_input, col_tap, col_taps,
        C, KW, chunk, width, piece, floor, segments, y,
    ):  # fmt: skip
        """Compute y, `chunk` positions and `width` filters, a multiple of VL or all, a task.

        x (N, LI, W*C), kernel (P, K, F), bias (P, F) or, of zeros, (1, F), y (N, P, F); `row_*`
        are the triples by output line, `col_*` the segments by output column. y = max(floor, ...).

        The sum of a position runs over its segments, in pieces of at most `piece` entries, so that
        what one pass over the rows of x leaves of W in cache serves the next pass; segments
        (slots, taps + 1, SEGMENT) is scratch.
        """
        N, P, F = y.shape
        K, line = kernel.shape[1], x.shape[2]
        OW = len(col_start) - 1
        bias_row = 0 if len(bias) < P else F * SIZE
        table = segments[slot]
        parts = -(-F // width)
        total = -(-P // chunk) * parts
        task = next_task(counter, slot, total)
        while task >= 0:
            block = task // parts
            left = (task - block * parts) * width
            columns = min(F - left, width)
            for p in range(block * chunk, min(P, (block + 1) * chunk)):
                o = p // OW
                j = p - o * OW
                out = y.ctypes.data + (p * F + left) * SIZE
                init, init_row = bias.ctypes.data + p * bias_row + left * SIZE, 0
                weights = kernel.ctypes.data + (p * K * F + left) * SIZE
                count, entries = 0, 0
                for row in range(row_start[o], row_start[o + 1]):
                    for col in range(col_start[j], col_start[j + 1]):
                        at = row_line[row] * line + col_input[col] * C
                        k = (row_tap[row] * KW + col_tap[col]) * C
                        end = k + col_taps[col] * C
                        while k < end:
                            length = min(end - k, piece - entries)
                            table[count, 0], table[count, 1], table[count, 2] = at * SIZE, k * F * SIZE, length
                            count, entries, k, at = count + 1, entries + length, k + length, at + length
                            if entries == piece:
                                ahead = (entries if columns > panel else AHEAD) * F * SIZE
                                multiply(
                                    SIZE, VL, prefetch, x.ctypes.data, x.shape[1] * line * SIZE, SIZE,
                                    weights, F * SIZE, table.ctypes.data, count, out, P * F * SIZE,
                                    init, init_row, N, columns, ahead, 0, 0, one, bottom,
                                )  # fmt: skip
                                init, init_row, count, entries = out, P * F * SIZE, 0, 0
                ahead = (entries if columns > panel else AHEAD) * F * SIZE
                multiply(
                    SIZE, VL, prefetch, x.ctypes.data, x.shape[1] * line * SIZE, SIZE,
                    weights, F * SIZE, table.ctypes.data, count, out, P * F * SIZE,
                    init, init_row, N, columns, ahead, 0, 0, one, floor,
                )  # fmt: skip
            task = next_task(counter, slot, total)

    return tasks(specialised(forward, SIZE, VL))


@functools.cache
def forward_by_batch(SIZE, VN):
    """Make the forward kernel for few filters, with vectors of VN samples."""
    number = np.float32 if SIZE == 4 else np.float64
    one, prefetch, clear = number(1), NEXT_A, beyond_the_batch(SIZE, VN)

    def forward_by_batch(
        slot, counter, x, kernel, bias, row_start, row_tap, row_line, col_start, col_input, col_tap, col_taps,
        C, KW, positions, chunk, floor, segments, xt, tags, yt, y,
    ):  # fmt: skip
        """Compute what `forward` computes, for `chunk` samples at a time, whose lines of x are turned.

        Scratch of each slot: segments (segments, 4); xt (held, W*C, chunk), lines of x turned, as many as an
        output line reads, and tags (held), at first -1, which they are; yt (F, chunk).
        """
        N, P, F = y.shape
        K, LI, line = kernel.shape[1], x.shape[1], x.shape[2]
        OW = len(col_start) - 1
        held, chunk_bytes = tags.shape[1], chunk * SIZE
        xt_at, out = xt.ctypes.data + slot * held * line * chunk_bytes, yt.ctypes.data + slot * F * chunk_bytes
        table = segments[slot]
        parts = -(-P // positions)
        total = -(-N // chunk) * parts
        task = next_task(counter, slot, total)
        while task >= 0:
            begin = task // parts * chunk
            count, part = min(chunk, N - begin), task % parts
            for p in range(part * positions, min(P, (part + 1) * positions)):
                o = p // OW
                j = p - o * OW
                blocks = 0
                for row in range(row_start[o], row_start[o + 1]):
                    i = row_line[row]
                    place = i % held
                    if tags[slot, place] != i * N + begin:
                        source = x.ctypes.data + (begin * LI + i) * line * SIZE
                        turned = xt_at + place * line * chunk_bytes
                        transpose(SIZE, source, LI * line * SIZE, turned, chunk_bytes, count, line)
                        clear(turned, chunk_bytes, line, count)
                        tags[slot, place] = i * N + begin
                    for col in range(col_start[j], col_start[j + 1]):
                        table[blocks, 0] = (row_tap[row] * KW + col_tap[col]) * C * F * SIZE
                        table[blocks, 1] = (place * line + col_input[col] * C) * chunk_bytes
                        table[blocks, 2], table[blocks, 3] = col_taps[col] * C, 0
                        blocks += 1
                for f in range(F):
                    first = bias[p, f] if len(bias) == P else bias[0, f]
                    for n in range(chunk):
                        yt[slot, f, n] = first
                weights = kernel.ctypes.data + p * K * F * SIZE
                multiply(
                    SIZE, VN, prefetch, weights, SIZE, F * SIZE, xt_at, chunk_bytes,
                    table.ctypes.data, blocks, out, chunk_bytes, out, chunk_bytes,
                    F, -(-count // VN) * VN, weights, 0, 0, one, floor,
                )  # fmt: skip
                target = y.ctypes.data + (begin * P + p) * F * SIZE
                transpose(SIZE, out, chunk_bytes, target, P * F * SIZE, F, count)
            task = next_task(counter, slot, total)

    return tasks(specialised(forward_by_batch, SIZE, VN))
