"""Backward by lines on register tiles; `lcnumba.connectivity.geometry` makes the tables.

Each function here makes the kernel of one number type and of the vector lengths that suit a shape
(`lcnumba.kernels.vectors`); shapes themselves are arguments, so that few kernels are compiled.
"""

import functools

import numpy as np

from lcnumba.kernels.block import block_gradient, block_gradient_turned, take_dy
from lcnumba.kernels.jit import array_at, next_task, specialised, tasks
from lcnumba.kernels.movement import pack, transpose
from lcnumba.kernels.rules import GRADIENT, SGD
from lcnumba.kernels.tile import NEXT_A, SEGMENT, dots, multiply
from lcnumba.kernels.vectors import host_bytes

# Entries of dbias that are summed up at once: they stay in a core's first cache.
BIAS_ENTRIES = 1 << 10
# Samples whose x is asked for before it is copied.
SOON = 4


@functools.cache
def backward(SIZE, VL, VN, TURNED):
    """Make the backward kernel by blocks.

    Vectors of VN samples, or with 0 of few samples, serve dx; of VL filters, or if TURNED inputs, the gradient.
    """
    number = np.float32 if SIZE == 4 else np.float64
    one, bottom, prefetch, soon = number(1), number(-np.inf), NEXT_A, SOON
    settle = block_gradient_turned(SIZE, VL) if TURNED else block_gradient(SIZE, VL)
    lanes, take = host_bytes() // SIZE, take_dy(SIZE, VN)

    def backward(
        slot, counter, x, kernel, dy, y, row_start, row_tap, row_line,
        band_start, band_column, band_input, band_tap, band_taps, edges, C, KW, OW,
        chunk, piece, rule, target, state_1, state_2, numbers, ranges, zeros, xs, packed, dyt, tags, dxt, gradient, dx,
    ):  # fmt: skip
        """Compute dx, and the kernel's gradient or its update, a task for each band of each input line.

        x (N, LI, W*C), kernel (P, K, F), dy (N, P, F); y (N, P, F), or empty, is the output whose
        rectifier dy has yet to pass. `row_*` are the triples by input line, `band_*` the segments
        cut at the band `edges`.

        dx (N, LI, W*C) is left alone if it is empty. target is flat, as are its states: with GRADIENT
        it takes the gradient, of which existing connections alone are written; with a rule of
        `lcnumba.kernels` it is the kernel itself, and each block is updated once its dx is
        done, `piece` rows of it at a time. With NO_GRADIENT there is neither. A block of weights reads one
        input line and belongs to one band, so that no two tasks write the same numbers.

        Scratch of each slot: xs (N, entries of a band), x of the band, or empty; packed (held, N*F), dy of
        the positions that a line reads, or of the one at hand, or empty, where dy has one only; dyt (held,
        F, chunk), the same turned, of `chunk` samples; tags (held), at first -1, which they are, so that the
        next input line, which reads mostly the same, finds them; dxt (entries, chunk), dx of the band;
        gradient (2*STRETCH*F). ranges holds the segments (0, 0, length, 0) of lengths F, BATCH, N % BATCH
        and N, zeros is zeros.
        """
        N, LI, line = x.shape
        P, K, F = kernel.shape
        bands = len(band_start) - 1
        wants_dx, held = dx.size > 0, tags.shape[1]
        row_bytes, chunk_bytes, sample_bytes, y_bytes = F * SIZE, chunk * SIZE, LI * line * SIZE, P * F * SIZE
        in_place = packed.size == 0
        # One sample leaves nothing to sum up: its weights change while they are read.
        at_once = rule == SGD and N == 1 and wants_dx and VN == 0
        source_at, y_at = dy.ctypes.data, y.ctypes.data if y.size else 0
        packed_at = source_at if in_place else packed.ctypes.data + slot * held * N * row_bytes
        dyt_at = dyt.ctypes.data + slot * held * F * chunk_bytes
        dxt_at = dxt.ctypes.data + slot * dxt.shape[1] * chunk_bytes
        gradient_at = gradient.ctypes.data + slot * gradient.shape[1] * SIZE
        # Addresses only in the loops: an array that is handed on is counted, by atomic operations on memory
        # that all threads share.
        target_at, state_1_at, state_2_at = target.ctypes.data, state_1.ctypes.data, state_2.ctypes.data
        numbers_at, ranges_at, zeros_at = numbers.ctypes.data, ranges.ctypes.data, zeros.ctypes.data
        total = LI * bands
        task = next_task(counter, slot, total)
        while task >= 0:
            band = task // LI
            i = task - band * LI
            left = edges[band] * C
            entries = edges[band + 1] * C - left
            x_at, x_bytes = x.ctypes.data + (i * line + left) * SIZE, sample_bytes
            if xs.size:
                x_bytes = xs.shape[2] * SIZE
                copy, source = xs.ctypes.data + slot * N * x_bytes, x_at
                pack(SIZE, lanes, source, 0, sample_bytes, copy, x_bytes, N, entries, soon * sample_bytes)
                x_at = copy
            for begin in range(0, N, chunk):
                count = min(chunk, N - begin)
                # The weights change only after the whole batch has its dx.
                wants_kernel = rule >= GRADIENT and begin + count == N
                if not wants_dx and not wants_kernel:
                    continue
                if wants_dx and VN:
                    dxt[slot, :entries] = 0
                elif wants_dx:
                    dx[begin : begin + count, i, left : left + entries] = 0
                for row in range(row_start[i], row_start[i + 1]):
                    for col in range(band_start[band], band_start[band + 1]):
                        p = row_line[row] * OW + band_column[col]
                        at = band_input[col] * C - left
                        k = (row_tap[row] * KW + band_tap[col]) * C
                        rows = band_taps[col] * C
                        weights = (p * K + k) * F
                        # The block to come, which is asked for meanwhile.
                        coming = weights
                        if col + 1 < band_start[band + 1]:
                            coming = (row_line[row] * OW + band_column[col + 1]) * K * F
                            coming += (row_tap[row] * KW + band_tap[col + 1]) * C * F
                        elif row + 1 < row_start[i + 1]:
                            col_0 = band_start[band]
                            coming = (row_line[row + 1] * OW + band_column[col_0]) * K * F
                            coming += (row_tap[row + 1] * KW + band_tap[col_0]) * C * F
                        # dy of the position, rectified, one sample after the other; and turned.
                        place = p % held
                        dy_at, turned = packed_at + place * N * row_bytes, dyt_at + place * F * chunk_bytes
                        if tags[slot, place] != p * N + begin:
                            first = 0 if held == 1 and wants_kernel else begin
                            take(
                                source_at + p * row_bytes, y_at + p * row_bytes if y_at else 0, y_bytes, dy_at,
                                row_bytes, first, begin, count, turned if wants_dx and VN else 0, chunk_bytes, F,
                            )  # fmt: skip
                            tags[slot, place] = p * N + begin
                        for r in range(0, rows, piece):
                            some = min(piece, rows - r)
                            w = kernel.ctypes.data + (weights + r * F) * SIZE
                            following = (
                                w + piece * row_bytes if r + piece < rows else kernel.ctypes.data + coming * SIZE
                            )
                            if wants_dx and VN:
                                out = dxt_at + (at + r) * chunk_bytes
                                multiply(
                                    SIZE, VN, prefetch, w, row_bytes, SIZE, turned, chunk_bytes,
                                    ranges_at, 1, out, chunk_bytes, out, chunk_bytes,
                                    some, -(-count // VN) * VN, following, row_bytes, SIZE, one, bottom,
                                )  # fmt: skip
                                following = w  # that is enough prefetching
                            elif wants_dx:
                                for n in range(begin, begin + count):
                                    out = dx.ctypes.data + ((n * LI + i) * line + left + at + r) * SIZE
                                    source = x_at + (at + r) * SIZE if at_once else 0
                                    dots(
                                        SIZE, VL, w, row_bytes, dy_at + n * row_bytes, out, some, F,
                                        following, source, -numbers[0],
                                    )  # fmt: skip
                            else:
                                following += target_at - kernel.ctypes.data  # the kernel itself is not read
                            if wants_kernel and not at_once:
                                at_w = (weights + r * F) * SIZE
                                settle(
                                    rule, x_at + (at + r) * SIZE, x_bytes, dy_at, row_bytes, N, some, F,
                                    target_at + at_w, state_1_at + at_w, state_2_at + at_w, numbers_at, ranges_at,
                                    zeros_at, gradient_at, following,
                                )  # fmt: skip
                if wants_dx and VN:
                    out = dx.ctypes.data + ((begin * LI + i) * line + left) * SIZE
                    transpose(SIZE, dxt_at, chunk_bytes, out, sample_bytes, entries, count)
            task = next_task(counter, slot, total)

    return tasks(specialised(backward, SIZE, VL, VN, int(TURNED)))


@functools.cache
def backward_by_inputs(SIZE, VL, VN, TURNED):
    """Make the backward kernel by input columns; the arguments are as for `backward`."""
    number = np.float32 if SIZE == 4 else np.float64
    one, bottom, prefetch, soon = number(1), number(-np.inf), NEXT_A, SOON
    settle = block_gradient_turned(SIZE, VL) if TURNED else block_gradient(SIZE, VL)
    lanes, take = host_bytes() // SIZE, take_dy(SIZE, VN)

    def backward_by_inputs(
        slot, counter, x, kernel, dy, y, row_start, row_tap, row_line, read_start, read_column, read_tap,
        edges, C, KW, OW, chunk, rule, target, state_1, state_2, numbers, ranges, zeros, xs, packed, dyt, tags, readers,
        dxt, gradient, dx,
    ):  # fmt: skip
        """Compute what `backward` computes, a column of the input at a time: for many channels.

        dx of a column of C channels is one sum over all blocks that read it, C by F each, and is written
        once. `read_*` says, grouped by input column, which tap of which output column reads it. Scratch:
        readers (slots, 2, blocks of a column, 4), segments of the column at hand and of the next one,
        whose blocks are asked for meanwhile; packed and dyt hold all positions that a line reads.
        """
        N, LI, line = x.shape
        P, K, F = kernel.shape
        bands = len(edges) - 1
        held = tags.shape[1]
        row_bytes, chunk_bytes, sample_bytes, y_bytes = F * SIZE, chunk * SIZE, LI * line * SIZE, P * F * SIZE
        source_at, y_at = dy.ctypes.data, y.ctypes.data if y.size else 0
        packed_at = packed.ctypes.data + slot * held * N * row_bytes
        dyt_at = dyt.ctypes.data + slot * held * F * chunk_bytes
        dxt_at = dxt.ctypes.data + slot * dxt.shape[1] * chunk_bytes
        gradient_at = gradient.ctypes.data + slot * gradient.shape[1] * SIZE
        # Addresses only in the loops: an array that is handed on is counted, by atomic operations on memory
        # that all threads share.
        target_at, state_1_at, state_2_at = target.ctypes.data, state_1.ctypes.data, state_2.ctypes.data
        numbers_at, ranges_at, zeros_at = numbers.ctypes.data, ranges.ctypes.data, zeros.ctypes.data
        total = LI * bands
        task = next_task(counter, slot, total)
        while task >= 0:
            band = task // LI
            i = task - band * LI
            left, right = edges[band], edges[band + 1]
            triples = row_start[i + 1] - row_start[i]
            x_at, x_bytes = x.ctypes.data + (i * line + left * C) * SIZE, sample_bytes
            if xs.size:
                x_bytes = xs.shape[2] * SIZE
                copy, source, entries = xs.ctypes.data + slot * N * x_bytes, x_at, (right - left) * C
                pack(SIZE, lanes, source, 0, sample_bytes, copy, x_bytes, N, entries, soon * sample_bytes)
                x_at = copy
            for begin in range(0, N, chunk):
                count = min(chunk, N - begin)
                # The weights change only after the whole batch has its dx.
                wants_kernel = rule >= GRADIENT and begin + count == N
                for w in range(left, right):
                    rows = readers.shape[2]
                    readers_at = readers.ctypes.data + slot * 2 * rows * SEGMENT * 8
                    table = array_at(readers_at + w % 2 * rows * SEGMENT * 8, (rows, SEGMENT), np.int64)
                    other = array_at(readers_at + (w + 1) % 2 * rows * SEGMENT * 8, (rows, SEGMENT), np.int64)
                    # In the first round the column's own segments, then always those of the next one.
                    for column in range(w if w == left else w + 1, min(w + 2, right)):
                        filled = table if column == w else other
                        blocks = 0
                        for row in range(row_start[i], row_start[i + 1]):
                            for e in range(read_start[column], read_start[column + 1]):
                                p = row_line[row] * OW + read_column[e]
                                k = (row_tap[row] * KW + read_tap[e]) * C
                                filled[blocks, 0] = (p * K + k) * row_bytes
                                filled[blocks, 1] = p % held * F * chunk_bytes
                                blocks += 1
                    blocks = triples * (read_start[w + 1] - read_start[w])
                    coming = 0 if w + 1 == right else triples * (read_start[w + 2] - read_start[w + 1])
                    for m in range(blocks):
                        p = table[m, 0] // (K * row_bytes)
                        place = p % held
                        table[m, 2], table[m, 3] = F, other[m, 0] if m < coming else table[m, 0]
                        if tags[slot, place] != p * N + begin:
                            take(
                                source_at + p * row_bytes, y_at + p * row_bytes if y_at else 0, y_bytes,
                                packed_at + place * N * row_bytes, row_bytes, begin, begin, count,
                                dyt_at + place * F * chunk_bytes, chunk_bytes, F,
                            )  # fmt: skip
                            tags[slot, place] = p * N + begin
                    out = dxt_at + (w - left) * C * chunk_bytes
                    multiply(
                        SIZE, VN, prefetch, kernel.ctypes.data, row_bytes, SIZE, dyt_at, chunk_bytes,
                        table.ctypes.data, blocks, out, chunk_bytes, zeros_at, 0,
                        C, -(-count // VN) * VN, kernel.ctypes.data, row_bytes, SIZE, one, bottom,
                    )  # fmt: skip
                    if not wants_kernel:
                        continue
                    for m in range(blocks):
                        p = table[m, 0] // (K * row_bytes)
                        dy_at = packed_at + p % held * N * row_bytes
                        at_w = table[m, 0]
                        settle(
                            rule, x_at + (w - left) * C * SIZE, x_bytes, dy_at, row_bytes, N, C, F,
                            target_at + at_w, state_1_at + at_w, state_2_at + at_w, numbers_at, ranges_at,
                            zeros_at, gradient_at, kernel.ctypes.data + at_w,
                        )  # fmt: skip
                out = dx.ctypes.data + ((begin * LI + i) * line + left * C) * SIZE
                transpose(SIZE, dxt_at, chunk_bytes, out, sample_bytes, (right - left) * C, count)
            task = next_task(counter, slot, total)

    return tasks(specialised(backward_by_inputs, SIZE, VL, VN, int(TURNED)))


@tasks
def backward_bias(slot, counter, dy, y, dbias):
    """Compute dbias (P*F), the sum of dy (N, P*F) over n, BIAS_ENTRIES of it a task; y as for `backward`."""
    N, entries = dy.shape
    rectified = y.size > 0
    total = -(-entries // BIAS_ENTRIES)
    task = next_task(counter, slot, total)
    while task >= 0:
        begin, end = task * BIAS_ENTRIES, min(entries, (task + 1) * BIAS_ENTRIES)
        # Slices counted from 0: an index that might be negative would be tested each time.
        sums = dbias[begin:end]
        for e in range(len(sums)):
            sums[e] = 0
        for n in range(N):
            some = dy[n, begin:end]
            if rectified:
                gate = y[n, begin:end]
                for e in range(len(sums)):
                    if gate[e] > 0:
                        sums[e] += some[e]
            else:
                for e in range(len(sums)):
                    sums[e] += some[e]
        task = next_task(counter, slot, total)
