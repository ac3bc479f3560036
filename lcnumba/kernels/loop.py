"""Forward and backward by lines on register tiles; `lcnumba.geometry` makes the tables.

Each function here makes the kernel of one number type and of the vector lengths that suit a shape
(`lcnumba.kernels.vectors`); shapes themselves are arguments, so that few kernels are compiled.
"""

import functools

import numpy as np

from lcnumba.kernels import GRADIENT, SGD, update
from lcnumba.kernels.jit import next_task, specialised, tasks
from lcnumba.kernels.tile import B_ROWS, NEXT_A, dots, multiply, transpose

# Rows of W that are asked for before they are needed; 16 to 64 do equally well, fewer do not.
AHEAD = 32
# Rows of a block whose gradient is made, and applied, at once: all row counts of a tile divide it.
STRETCH = 48


@functools.cache
def forward(SIZE, VL):
    """Make the forward kernel."""
    number = np.float32 if SIZE == 4 else np.float64
    one, bottom, prefetch = number(1), number(-np.inf), B_ROWS

    def forward(
        slot, counter, x, kernel, bias, row_start, row_tap, row_line, col_start, col_input, col_tap, col_taps,
        C, KW, chunk, parts, piece, floor, segments, y,
    ):  # fmt: skip
        """Compute y, `chunk` positions and one of `parts` parts of the filters a task.

        x (N, LI, W*C), kernel (P, K, F), bias (P, F) or, of zeros, (1, F), y (N, P, F); `row_*`
        are the triples by output line, `col_*` the segments by output column. y = max(floor, ...).

        The sum of a position runs over its segments, in pieces of at most `piece` entries, so that
        what one pass over the rows of x leaves of W in cache serves the next pass; segments
        (slots, piece) is scratch.
        """
        N, P, F = y.shape
        K, line = kernel.shape[1], x.shape[2]
        OW = len(col_start) - 1
        width = -(-F // (VL * parts)) * VL
        bias_row = 0 if len(bias) < P else F * SIZE
        table = segments[slot]
        task = next_task(counter)
        while task * chunk < P * parts:
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
                                multiply(
                                    SIZE, VL, prefetch, x.ctypes.data, x.shape[1] * line * SIZE, SIZE,
                                    weights, F * SIZE, table.ctypes.data, count, out, P * F * SIZE,
                                    init, init_row, N, columns, AHEAD * F * SIZE, 0, one, bottom,
                                )  # fmt: skip
                                init, init_row, count, entries = out, P * F * SIZE, 0, 0
                multiply(
                    SIZE, VL, prefetch, x.ctypes.data, x.shape[1] * line * SIZE, SIZE,
                    weights, F * SIZE, table.ctypes.data, count, out, P * F * SIZE,
                    init, init_row, N, columns, AHEAD * F * SIZE, 0, one, floor,
                )  # fmt: skip
            task = next_task(counter)

    return tasks(specialised(forward, SIZE, VL))


@functools.cache
def backward(SIZE, VL, VN):
    """Make the backward kernel, for vectors of VL filters, and of VN samples or, with 0, few samples."""
    number = np.float32 if SIZE == 4 else np.float64
    one, bottom, prefetch = number(1), number(-np.inf), NEXT_A
    stretch, apply = STRETCH, update.apply

    def backward(
        slot, counter, x, kernel, dy, y, row_start, row_tap, row_line,
        band_start, band_column, band_input, band_tap, band_taps, edges, C, KW, OW,
        chunk, rule, target, state_1, state_2, numbers, ranges, zeros, rows_of_dy, dyt, dxt, gradient, dx,
    ):  # fmt: skip
        """Compute dx, and the kernel's gradient or its update, a task for each band of each input line.

        x (N, LI, W*C), kernel (P, K, F), dy (N, P, F); y (N, P, F), or empty, is the output whose
        rectifier dy has yet to pass. `row_*` are the triples by input line, `band_*` the segments
        cut at the band `edges`.

        dx (N, LI, W*C) is left alone if it is empty. target is flat, as are its states: with GRADIENT
        it takes the gradient, of which existing connections alone are written; with a rule of
        `lcnumba.kernels` it is the kernel itself, and each block is updated once its dx is
        done. With NO_GRADIENT there is neither. A block of weights reads one input line and belongs to
        one band, so that no two tasks write the same numbers.

        Scratch of each slot: rows_of_dy (N*F), dy of the position at hand; dyt (F, chunk), the same
        of `chunk` samples, turned; dxt (entries of a band, chunk), dx of the band; gradient
        (STRETCH*F). ranges holds the segments (0, 0, F) and (0, 0, N), zeros (F) zeros.
        """
        N, LI, line = x.shape
        P, K, F = kernel.shape
        bands = len(band_start) - 1
        wants_dx, rectified = dx.size > 0, y.size > 0
        dy_rows, dy_turned, turned = rows_of_dy[slot], dyt[slot], dxt[slot]
        block = gradient[slot]
        row_bytes, chunk_bytes, sample_bytes = F * SIZE, chunk * SIZE, LI * line * SIZE
        task = next_task(counter)
        while task < LI * bands:
            i = task // bands
            band = task - i * bands
            left = edges[band] * C
            entries = edges[band + 1] * C - left
            for begin in range(0, N, chunk):
                count = min(chunk, N - begin)
                # The weights change only after the whole batch has its dx.
                wants_kernel = rule >= GRADIENT and begin + count == N
                if not wants_dx and not wants_kernel:
                    continue
                if wants_dx and VN:
                    for r in range(entries):
                        for n in range(chunk):
                            turned[r, n] = 0
                elif wants_dx:
                    for n in range(begin, begin + count):
                        for at in range(left, left + entries):
                            dx[n, i, at] = 0
                for row in range(row_start[i], row_start[i + 1]):
                    for col in range(band_start[band], band_start[band + 1]):
                        p = row_line[row] * OW + band_column[col]
                        at = band_input[col] * C
                        k = (row_tap[row] * KW + band_tap[col]) * C
                        rows = band_taps[col] * C
                        weights = (p * K + k) * F
                        following = weights
                        if col + 1 < band_start[band + 1]:
                            following = (row_line[row] * OW + band_column[col + 1]) * K * F
                            following += (row_tap[row] * KW + band_tap[col + 1]) * C * F
                        elif row + 1 < row_start[i + 1]:
                            col_0 = band_start[band]
                            following = (row_line[row + 1] * OW + band_column[col_0]) * K * F
                            following += (row_tap[row + 1] * KW + band_tap[col_0]) * C * F
                        following = kernel.ctypes.data + following * SIZE
                        for n in range(0 if wants_kernel else begin, begin + count):
                            for f in range(F):
                                value = dy[n, p, f]
                                if rectified and not y[n, p, f] > 0:
                                    value = number(0)
                                dy_rows[n * F + f] = value
                        w = kernel.ctypes.data + weights * SIZE
                        if wants_dx and VN:
                            transpose(
                                SIZE, dy_rows.ctypes.data + begin * row_bytes, row_bytes,
                                dy_turned.ctypes.data, chunk_bytes, count, F,
                            )  # fmt: skip
                            out = turned.ctypes.data + (at - left) * chunk_bytes
                            multiply(
                                SIZE, VN, prefetch, w, row_bytes, SIZE, dy_turned.ctypes.data, chunk_bytes,
                                ranges.ctypes.data, 1, out, chunk_bytes, out, chunk_bytes,
                                rows, -(-count // VN) * VN, following, row_bytes, one, bottom,
                            )  # fmt: skip
                        elif wants_dx:
                            for n in range(begin, begin + count):
                                out = dx.ctypes.data + ((n * LI + i) * line + at) * SIZE
                                dots(SIZE, VL, w, row_bytes, dy_rows.ctypes.data + n * row_bytes, out, rows, F)
                        if not wants_kernel:
                            continue
                        read = x.ctypes.data + (i * line + at) * SIZE
                        if wants_dx:
                            following = w  # in cache by now
                        if rule <= SGD:
                            out = target.ctypes.data + weights * SIZE
                            init, init_row, factor = zeros.ctypes.data, 0, one
                            if rule == SGD:
                                init, init_row, factor = out, row_bytes, -numbers[0]
                            multiply(
                                SIZE, VL, prefetch, read, SIZE, sample_bytes, dy_rows.ctypes.data, row_bytes,
                                ranges.ctypes.data + 24, 1, out, row_bytes, init, init_row,
                                rows, F, following, row_bytes, factor, bottom,
                            )  # fmt: skip
                            continue
                        for r in range(0, rows, stretch):
                            some = min(stretch, rows - r)
                            multiply(
                                SIZE, VL, prefetch, read + r * SIZE, SIZE, sample_bytes, dy_rows.ctypes.data,
                                row_bytes, ranges.ctypes.data + 24, 1, block.ctypes.data, row_bytes,
                                zeros.ctypes.data, 0, some, F, following + r * row_bytes, row_bytes, one, bottom,
                            )  # fmt: skip
                            apply(rule, target, weights + r * F, block[: some * F], state_1, state_2, numbers)
                if wants_dx and VN:
                    out = dx.ctypes.data + ((begin * LI + i) * line + left) * SIZE
                    transpose(SIZE, turned.ctypes.data, chunk_bytes, out, sample_bytes, entries, count)
            task = next_task(counter)

    return tasks(specialised(backward, SIZE, VL, VN))


@tasks
def backward_bias(slot, counter, dy, y, chunk, dbias):
    """Compute dbias (P, F), the sum of dy (N, P, F) over n, `chunk` positions a task; y as for `backward`."""
    N, P, F = dy.shape
    rectified = y.size > 0
    task = next_task(counter)
    while task * chunk < P:
        first, last = task * chunk, min(P, (task + 1) * chunk)
        for p in range(first, last):
            for f in range(F):
                dbias[p, f] = 0
        for n in range(N):
            for p in range(first, last):
                for f in range(F):
                    if not rectified or y[n, p, f] > 0:
                        dbias[p, f] += dy[n, p, f]
        task = next_task(counter)
