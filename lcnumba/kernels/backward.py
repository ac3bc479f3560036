"""Backward by lines on register tiles; the tables come from `lcnumba.connectivity.geometry`.

The gradient of one block of weights is in `block.py`.

Each factory here makes the kernel for one dtype and vector length (`lcnumba.kernels.vectors`). Shapes are
runtime arguments, so that few kernels are compiled.
"""

import functools

import numpy as np

from lcnumba.kernels.block import block_gradient, block_gradient_transposed, pack_dy
from lcnumba.kernels.jit import array_at, next_task, specialised, tasks
from lcnumba.kernels.movement import pack, transpose
from lcnumba.kernels.rules import GRADIENT, SGD
from lcnumba.kernels.tile import NEXT_A, SEGMENT, dots, multiply
from lcnumba.kernels.vectors import vector_bytes

# Entries of dbias per task: they fit in L1.
BIAS_ENTRIES = 1 << 10
# How many samples ahead x is prefetched while it is packed.
PREFETCH_SAMPLES = 4


@functools.cache
def backward(SIZE, VL, VN, TRANSPOSED):
    """Make the backward kernel by blocks.

    dx uses vectors of VN samples, or of VL filters with VN = 0; the gradient vectors of VL filters, or if TRANSPOSED
    of VL inputs.
    """
    number = np.float32 if SIZE == 4 else np.float64
    one, no_clamp, mode, prefetch_samples = number(1), number(-np.inf), NEXT_A, PREFETCH_SAMPLES
    apply_block_gradient = block_gradient_transposed(SIZE, VL) if TRANSPOSED else block_gradient(SIZE, VL)
    lanes, pack_position = vector_bytes() // SIZE, pack_dy(SIZE, VN)

    def backward(
        worker, counter, x, kernel, dy, y, row_start, row_tap, row_line,
        band_start, band_column, band_input, band_tap, band_taps, edges, C, KW, OW,
        batch_tile, row_block, rule, target, state_1, state_2, hyper, ranges, zeros, packed_x, packed_dy, dyt,
        cache_keys, dxt, gradient, dx,
    ):  # fmt: skip
        """Compute dx, and the kernel's gradient or update, one task per band of each input line.

        x (N, LI, W*C), kernel (P, K, F), dy (N, P, F). y (N, P, F) is the output of a ReLU whose mask y > 0 is
        applied to dy, or empty. `row_*` are the triples by input line, `band_*` the segments split at the band
        `edges`.

        dx (N, LI, W*C) is not computed if it is empty. target and its states are flat. With GRADIENT target
        receives the gradient, only at existing connections; with an update rule of `lcnumba.kernels.rules` it is
        the kernel itself, and each block is updated after its dx is computed, `row_block` rows at a time; with
        NO_GRADIENT it is not used. A block of weights reads one input line and belongs to one band, so that
        tasks write disjoint memory.

        Scratch per worker: packed_x (N, entries of a band), a copy of x of the band, or empty; packed_dy
        (cached_rows, N*F), dy of the positions that a line reads, or of the current one, or empty if there is only
        one position; dyt (cached_rows, F, batch_tile), the same transposed; cache_keys (cached_rows), initially -1,
        identify the cached rows, which the next input line mostly reads again; dxt (entries, batch_tile), dx of
        the band; gradient (2*ROW_TILE*F). ranges holds the segments (0, 0, length, 0) of lengths F, BATCH,
        N % BATCH and N; zeros holds zeros.
        """
        N, LI, line = x.shape
        P, K, F = kernel.shape
        bands = len(band_start) - 1
        wants_dx, cached_rows = dx.size > 0, cache_keys.shape[1]
        row_bytes, tile_bytes, sample_bytes, y_bytes = F * SIZE, batch_tile * SIZE, LI * line * SIZE, P * F * SIZE
        in_place = packed_dy.size == 0
        # The gradient of a single sample is no sum: SGD updates the weights in the pass that reads them.
        update_in_dots = rule == SGD and N == 1 and wants_dx and VN == 0
        source_at, y_at = dy.ctypes.data, y.ctypes.data if y.size else 0
        packed_dy_at = source_at if in_place else packed_dy.ctypes.data + worker * cached_rows * N * row_bytes
        dyt_at = dyt.ctypes.data + worker * cached_rows * F * tile_bytes
        dxt_at = dxt.ctypes.data + worker * dxt.shape[1] * tile_bytes
        gradient_at = gradient.ctypes.data + worker * gradient.shape[1] * SIZE
        # The loops use addresses only: passing arrays would update reference counts, which are atomic and shared by
        # all threads.
        target_at, state_1_at, state_2_at = target.ctypes.data, state_1.ctypes.data, state_2.ctypes.data
        hyper_at, ranges_at, zeros_at = hyper.ctypes.data, ranges.ctypes.data, zeros.ctypes.data
        total = LI * bands
        task = next_task(counter, worker, total)
        while task >= 0:
            band = task // LI
            i = task - band * LI
            left = edges[band] * C
            entries = edges[band + 1] * C - left
            x_at, x_bytes = x.ctypes.data + (i * line + left) * SIZE, sample_bytes
            if packed_x.size:
                x_bytes = packed_x.shape[2] * SIZE
                copy, source = packed_x.ctypes.data + worker * N * x_bytes, x_at
                pack(SIZE, lanes, source, 0, sample_bytes, copy, x_bytes, N, entries, prefetch_samples * sample_bytes)
                x_at = copy
            for begin in range(0, N, batch_tile):
                count = min(batch_tile, N - begin)
                # The weights are updated after dx of the whole batch is computed.
                wants_kernel = rule >= GRADIENT and begin + count == N
                if not wants_dx and not wants_kernel:
                    continue
                if wants_dx and VN:
                    dxt[worker, :entries] = 0
                elif wants_dx:
                    dx[begin : begin + count, i, left : left + entries] = 0
                for row in range(row_start[i], row_start[i + 1]):
                    for col in range(band_start[band], band_start[band + 1]):
                        p = row_line[row] * OW + band_column[col]
                        at = band_input[col] * C - left
                        k = (row_tap[row] * KW + band_tap[col]) * C
                        rows = band_taps[col] * C
                        weights = (p * K + k) * F
                        # The next block, which is prefetched.
                        next_weights = weights
                        if col + 1 < band_start[band + 1]:
                            next_weights = (row_line[row] * OW + band_column[col + 1]) * K * F
                            next_weights += (row_tap[row] * KW + band_tap[col + 1]) * C * F
                        elif row + 1 < row_start[i + 1]:
                            col_0 = band_start[band]
                            next_weights = (row_line[row + 1] * OW + band_column[col_0]) * K * F
                            next_weights += (row_tap[row + 1] * KW + band_tap[col_0]) * C * F
                        # dy of the position, with the ReLU mask applied, packed and transposed.
                        cache_slot = p % cached_rows
                        dy_at, dyt_p = packed_dy_at + cache_slot * N * row_bytes, dyt_at + cache_slot * F * tile_bytes
                        if cache_keys[worker, cache_slot] != p * N + begin:
                            first_sample = 0 if cached_rows == 1 and wants_kernel else begin
                            pack_position(
                                source_at + p * row_bytes, y_at + p * row_bytes if y_at else 0, y_bytes, dy_at,
                                row_bytes, first_sample, begin, count, dyt_p if wants_dx and VN else 0, tile_bytes,
                                F,
                            )  # fmt: skip
                            cache_keys[worker, cache_slot] = p * N + begin
                        for r in range(0, rows, row_block):
                            n_rows = min(row_block, rows - r)
                            w = kernel.ctypes.data + (weights + r * F) * SIZE
                            next_block = (
                                w + row_block * row_bytes
                                if r + row_block < rows
                                else kernel.ctypes.data + next_weights * SIZE
                            )
                            if wants_dx and VN:
                                out = dxt_at + (at + r) * tile_bytes
                                multiply(
                                    SIZE, VN, mode, w, row_bytes, SIZE, dyt_p, tile_bytes,
                                    ranges_at, 1, out, tile_bytes, out, tile_bytes,
                                    n_rows, -(-count // VN) * VN, next_block, row_bytes, SIZE, one, no_clamp,
                                )  # fmt: skip
                                next_block = w  # already prefetched
                            elif wants_dx:
                                for n in range(begin, begin + count):
                                    out = dx.ctypes.data + ((n * LI + i) * line + left + at + r) * SIZE
                                    source = x_at + (at + r) * SIZE if update_in_dots else 0
                                    dots(
                                        SIZE, VL, w, row_bytes, dy_at + n * row_bytes, out, n_rows, F,
                                        next_block, source, -hyper[0],
                                    )  # fmt: skip
                            else:
                                next_block += target_at - kernel.ctypes.data  # the kernel is not read
                            if wants_kernel and not update_in_dots:
                                at_w = (weights + r * F) * SIZE
                                apply_block_gradient(
                                    rule, x_at + (at + r) * SIZE, x_bytes, dy_at, row_bytes, N, n_rows, F,
                                    target_at + at_w, state_1_at + at_w, state_2_at + at_w, hyper_at, ranges_at,
                                    zeros_at, gradient_at, next_block,
                                )  # fmt: skip
                if wants_dx and VN:
                    out = dx.ctypes.data + ((begin * LI + i) * line + left) * SIZE
                    transpose(SIZE, dxt_at, tile_bytes, out, sample_bytes, entries, count)
            task = next_task(counter, worker, total)

    return tasks(specialised(backward, SIZE, VL, VN, int(TRANSPOSED)))


@functools.cache
def backward_by_inputs(SIZE, VL, VN, TRANSPOSED):
    """Make the backward kernel by input columns; the arguments are as for `backward`."""
    number = np.float32 if SIZE == 4 else np.float64
    one, no_clamp, mode, prefetch_samples = number(1), number(-np.inf), NEXT_A, PREFETCH_SAMPLES
    apply_block_gradient = block_gradient_transposed(SIZE, VL) if TRANSPOSED else block_gradient(SIZE, VL)
    lanes, pack_position = vector_bytes() // SIZE, pack_dy(SIZE, VN)

    def backward_by_inputs(
        worker, counter, x, kernel, dy, y, row_start, row_tap, row_line, read_start, read_column, read_tap,
        edges, C, KW, OW, batch_tile, rule, target, state_1, state_2, hyper, ranges, zeros, packed_x, packed_dy, dyt,
        cache_keys, column_segments, dxt, gradient, dx,
    ):  # fmt: skip
        """Compute the same as `backward`, one input column at a time: for many channels.

        dx of a column of C channels is one sum over all blocks that read it, C by F each, and is written once.
        `read_*` lists, by input column, the taps and output columns that read it. Scratch: column_segments
        (workers, 2, blocks of a column, 4) for the current column and the next one, whose blocks are prefetched;
        packed_dy and dyt hold all positions that a line reads.
        """
        N, LI, line = x.shape
        P, K, F = kernel.shape
        bands = len(edges) - 1
        cached_rows = cache_keys.shape[1]
        row_bytes, tile_bytes, sample_bytes, y_bytes = F * SIZE, batch_tile * SIZE, LI * line * SIZE, P * F * SIZE
        source_at, y_at = dy.ctypes.data, y.ctypes.data if y.size else 0
        packed_dy_at = packed_dy.ctypes.data + worker * cached_rows * N * row_bytes
        dyt_at = dyt.ctypes.data + worker * cached_rows * F * tile_bytes
        dxt_at = dxt.ctypes.data + worker * dxt.shape[1] * tile_bytes
        gradient_at = gradient.ctypes.data + worker * gradient.shape[1] * SIZE
        # The loops use addresses only: passing arrays would update reference counts, which are atomic and shared by
        # all threads.
        target_at, state_1_at, state_2_at = target.ctypes.data, state_1.ctypes.data, state_2.ctypes.data
        hyper_at, ranges_at, zeros_at = hyper.ctypes.data, ranges.ctypes.data, zeros.ctypes.data
        total = LI * bands
        task = next_task(counter, worker, total)
        while task >= 0:
            band = task // LI
            i = task - band * LI
            left, right = edges[band], edges[band + 1]
            triples = row_start[i + 1] - row_start[i]
            x_at, x_bytes = x.ctypes.data + (i * line + left * C) * SIZE, sample_bytes
            if packed_x.size:
                x_bytes = packed_x.shape[2] * SIZE
                copy, source, entries = packed_x.ctypes.data + worker * N * x_bytes, x_at, (right - left) * C
                pack(SIZE, lanes, source, 0, sample_bytes, copy, x_bytes, N, entries, prefetch_samples * sample_bytes)
                x_at = copy
            for begin in range(0, N, batch_tile):
                count = min(batch_tile, N - begin)
                # The weights are updated after dx of the whole batch is computed.
                wants_kernel = rule >= GRADIENT and begin + count == N
                for w in range(left, right):
                    rows = column_segments.shape[2]
                    tables_at = column_segments.ctypes.data + worker * 2 * rows * SEGMENT * 8
                    table = array_at(tables_at + w % 2 * rows * SEGMENT * 8, (rows, SEGMENT), np.int64)
                    next_table = array_at(tables_at + (w + 1) % 2 * rows * SEGMENT * 8, (rows, SEGMENT), np.int64)
                    # Fill the table of the next column, and first that of this one if it is the leftmost.
                    for column in range(w if w == left else w + 1, min(w + 2, right)):
                        segments = table if column == w else next_table
                        blocks = 0
                        for row in range(row_start[i], row_start[i + 1]):
                            for e in range(read_start[column], read_start[column + 1]):
                                p = row_line[row] * OW + read_column[e]
                                k = (row_tap[row] * KW + read_tap[e]) * C
                                segments[blocks, 0] = (p * K + k) * row_bytes
                                segments[blocks, 1] = p % cached_rows * F * tile_bytes
                                blocks += 1
                    blocks = triples * (read_start[w + 1] - read_start[w])
                    next_blocks = 0 if w + 1 == right else triples * (read_start[w + 2] - read_start[w + 1])
                    for m in range(blocks):
                        p = table[m, 0] // (K * row_bytes)
                        cache_slot = p % cached_rows
                        table[m, 2], table[m, 3] = F, next_table[m, 0] if m < next_blocks else table[m, 0]
                        if cache_keys[worker, cache_slot] != p * N + begin:
                            pack_position(
                                source_at + p * row_bytes, y_at + p * row_bytes if y_at else 0, y_bytes,
                                packed_dy_at + cache_slot * N * row_bytes, row_bytes, begin, begin, count,
                                dyt_at + cache_slot * F * tile_bytes, tile_bytes, F,
                            )  # fmt: skip
                            cache_keys[worker, cache_slot] = p * N + begin
                    out = dxt_at + (w - left) * C * tile_bytes
                    multiply(
                        SIZE, VN, mode, kernel.ctypes.data, row_bytes, SIZE, dyt_at, tile_bytes,
                        table.ctypes.data, blocks, out, tile_bytes, zeros_at, 0,
                        C, -(-count // VN) * VN, kernel.ctypes.data, row_bytes, SIZE, one, no_clamp,
                    )  # fmt: skip
                    if not wants_kernel:
                        continue
                    for m in range(blocks):
                        p = table[m, 0] // (K * row_bytes)
                        dy_at = packed_dy_at + p % cached_rows * N * row_bytes
                        at_w = table[m, 0]
                        apply_block_gradient(
                            rule, x_at + (w - left) * C * SIZE, x_bytes, dy_at, row_bytes, N, C, F,
                            target_at + at_w, state_1_at + at_w, state_2_at + at_w, hyper_at, ranges_at,
                            zeros_at, gradient_at, kernel.ctypes.data + at_w,
                        )  # fmt: skip
                out = dx.ctypes.data + ((begin * LI + i) * line + left * C) * SIZE
                transpose(SIZE, dxt_at, tile_bytes, out, sample_bytes, (right - left) * C, count)
            task = next_task(counter, worker, total)

    return tasks(specialised(backward_by_inputs, SIZE, VL, VN, int(TRANSPOSED)))


@tasks
def backward_bias(worker, counter, dy, y, dbias):
    """Compute dbias (P*F), the sum of dy (N, P*F) over n, BIAS_ENTRIES entries per task; y as for `backward`."""
    N, entries = dy.shape
    rectified = y.size > 0
    total = -(-entries // BIAS_ENTRIES)
    task = next_task(counter, worker, total)
    while task >= 0:
        begin, end = task * BIAS_ENTRIES, min(entries, (task + 1) * BIAS_ENTRIES)
        # Slices indexed from 0: indices that may be negative would be checked in each iteration.
        sums = dbias[begin:end]
        for e in range(len(sums)):
            sums[e] = 0
        for n in range(N):
            values = dy[n, begin:end]
            if rectified:
                relu_output = y[n, begin:end]
                for e in range(len(sums)):
                    if relu_output[e] > 0:
                        sums[e] += values[e]
            else:
                for e in range(len(sums)):
                    sums[e] += values[e]
        task = next_task(counter, worker, total)
