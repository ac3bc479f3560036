"""Backward by lines on register tiles: which blocks of weights, in which order, and dx.

The gradient of each block, stored or applied to the weights, is computed in `weight_gradient.py`. The tables come from
`lcnumba.connectivity.geometry`.

Each factory here makes the kernel for one dtype and vector length (`lcnumba.kernels.vectors`). Shapes are
runtime arguments, so that few kernels are compiled.
"""

import functools

import numpy as np

from lcnumba.kernels.jit import Kernel, next_task, specialised
from lcnumba.kernels.movement import pack, transpose
from lcnumba.kernels.records import BANDS, ROWS, Fields, array_at, reader, tables_3
from lcnumba.kernels.rules import GRADIENT, SGD
from lcnumba.kernels.tile import NEXT_A, SEGMENT, dots, multiply
from lcnumba.kernels.vectors import vector_bytes
from lcnumba.kernels.weight_gradient import ROW_TILE, block_gradient, block_gradient_transposed, pack_dy

# Entries of dbias per task: they fit in L1.
BIAS_ENTRIES = 1 << 10
# How many samples ahead x is prefetched while it is packed.
PREFETCH_SAMPLES = 4


COMMON = (
    "x kernel dy y N P K F LI OW line C KW n_bands batch_tile rule target state_1 state_2 hyper ranges zeros packed_x "
    f"packed_x_row packed_dy dyt cached_rows cache_keys dxt dxt_rows gradient dx {ROWS}"
)
BACKWARD = Fields(f"{COMMON} {BANDS} row_block")
BACKWARD_BY_INPUTS = Fields(f"{COMMON} edges read_start read_column read_tap column_segments most_blocks")
BACKWARD_BIAS = Fields("dy y N entries dbias")

read_backward, read_by_inputs, read_bias = reader(BACKWARD), reader(BACKWARD_BY_INPUTS), reader(BACKWARD_BIAS)


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

    def backward(worker, record):
        """Compute dx, and the kernel's gradient or update, one task per band of each input line.

        x (N, LI, W*C), kernel (P, K, F), dy (N, P, F). y (N, P, F) is the output of a ReLU whose mask y > 0 is
        applied to dy, or 0. `row_*` are the triples by input line, `band_*` the segments split at the band
        `edges`.

        dx (N, LI, W*C) is not computed if it is 0. target and its states are flat. With GRADIENT target
        receives the gradient, only at existing connections; with an update rule of `lcnumba.kernels.rules` it is
        the kernel itself, and each block is updated after its dx is computed, `row_block` rows at a time; with
        NO_GRADIENT it is not used. A block of weights reads one input line and belongs to one band, so that
        tasks write disjoint memory.

        Scratch per worker: packed_x (N, packed_x_row), a copy of x of the band, or 0; packed_dy (cached_rows, N*F), dy
        of the positions that a line reads, or of the current one, or 0 if there is only one position; dyt (cached_rows,
        F, batch_tile), the same transposed; cache_keys (cached_rows), initially -1, identify the cached rows, which the
        next input line mostly reads again; dxt (dxt_rows, batch_tile), dx of the band; gradient (2*ROW_TILE*F). ranges
        holds the segments (0, 0, length, 0) of lengths F, BATCH, N % BATCH and N; zeros holds zeros.
        """
        r = read_backward(record)
        N, P, K, F, LI, OW, line, C, KW = r.N, r.P, r.K, r.F, r.LI, r.OW, r.line, r.C, r.KW
        rule, bands, batch_tile, cached_rows, row_block = r.rule, r.n_bands, r.batch_tile, r.cached_rows, r.row_block
        wants_dx, in_place = r.dx != 0, r.packed_dy == 0
        row_bytes, tile_bytes, sample_bytes, y_bytes = F * SIZE, batch_tile * SIZE, LI * line * SIZE, P * F * SIZE
        # The gradient of a single sample is no sum: SGD updates the weights in the pass that reads them.
        update_in_dots = rule == SGD and N == 1 and wants_dx and VN == 0
        source_at, y_at, kernel_at, target_at = r.dy, r.y, r.kernel, r.target
        packed_dy_at = source_at if in_place else r.packed_dy + worker * cached_rows * N * row_bytes
        dyt_at = r.dyt + worker * cached_rows * F * tile_bytes
        dxt_at = r.dxt + worker * r.dxt_rows * tile_bytes
        dxt = array_at(dxt_at, r.dxt_rows * batch_tile, number)
        gradient_at = r.gradient + worker * 2 * ROW_TILE * row_bytes
        cache_keys = array_at(r.cache_keys + worker * cached_rows * 8, cached_rows, np.int64)
        row_start, row_tap, row_line = tables_3(LI, r.row_start, r.row_tap, r.row_line)
        band_start, band_column, band_input = tables_3(bands, r.band_start, r.band_column, r.band_input)
        _, band_tap, band_taps = tables_3(bands, r.band_start, r.band_tap, r.band_taps)
        edges, lr = array_at(r.edges, bands + 1, np.int64), array_at(r.hyper, 1, number)[0]
        total = LI * bands
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            band = task // LI
            i = task - band * LI
            left = edges[band] * C
            entries = edges[band + 1] * C - left
            x_at, x_bytes = r.x + (i * line + left) * SIZE, sample_bytes
            if r.packed_x:
                x_bytes = r.packed_x_row * SIZE
                copy, source = r.packed_x + worker * N * x_bytes, x_at
                pack(SIZE, lanes, source, 0, sample_bytes, copy, x_bytes, N, entries, prefetch_samples * sample_bytes)
                x_at = copy
            for begin in range(0, N, batch_tile):
                count = min(batch_tile, N - begin)
                # The weights are updated after dx of the whole batch is computed.
                wants_kernel = rule >= GRADIENT and begin + count == N
                if not wants_dx and not wants_kernel:
                    continue
                if wants_dx and VN:
                    dxt[: entries * batch_tile] = 0
                elif wants_dx:
                    for n in range(begin, begin + count):
                        array_at(r.dx + ((n * LI + i) * line + left) * SIZE, entries, number)[:] = 0
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
                        if cache_keys[cache_slot] != p * N + begin:
                            first_sample = 0 if cached_rows == 1 and wants_kernel else begin
                            pack_position(
                                source_at + p * row_bytes, y_at + p * row_bytes if y_at else 0, y_bytes, dy_at,
                                row_bytes, first_sample, begin, count, dyt_p if wants_dx and VN else 0, tile_bytes,
                                F,
                            )  # fmt: skip
                            cache_keys[cache_slot] = p * N + begin
                        for first in range(0, rows, row_block):
                            n_rows = min(row_block, rows - first)
                            w = kernel_at + (weights + first * F) * SIZE
                            next_block = (
                                w + row_block * row_bytes
                                if first + row_block < rows
                                else kernel_at + next_weights * SIZE
                            )
                            if wants_dx and VN:
                                out = dxt_at + (at + first) * tile_bytes
                                multiply(
                                    SIZE, VN, mode, w, row_bytes, SIZE, dyt_p, tile_bytes,
                                    r.ranges, 1, out, tile_bytes, out, tile_bytes,
                                    n_rows, -(-count // VN) * VN, next_block, row_bytes, SIZE, one, no_clamp,
                                )  # fmt: skip
                                next_block = w  # already prefetched
                            elif wants_dx:
                                for n in range(begin, begin + count):
                                    out = r.dx + ((n * LI + i) * line + left + at + first) * SIZE
                                    source = x_at + (at + first) * SIZE if update_in_dots else 0
                                    dots(
                                        SIZE, VL, w, row_bytes, dy_at + n * row_bytes, out, n_rows, F,
                                        next_block, source, -lr,
                                    )  # fmt: skip
                            else:
                                next_block += target_at - kernel_at  # the kernel is not read
                            if wants_kernel and not update_in_dots:
                                at_w = (weights + first * F) * SIZE
                                apply_block_gradient(
                                    rule, x_at + (at + first) * SIZE, x_bytes, dy_at, row_bytes, N, n_rows, F,
                                    target_at + at_w, r.state_1 + at_w, r.state_2 + at_w, r.hyper, r.ranges,
                                    r.zeros, gradient_at, next_block,
                                )  # fmt: skip
                if wants_dx and VN:
                    out = r.dx + ((begin * LI + i) * line + left) * SIZE
                    transpose(SIZE, dxt_at, tile_bytes, out, sample_bytes, entries, count)
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(backward, SIZE, VL, VN, int(TRANSPOSED)), BACKWARD)


@functools.cache
def backward_by_inputs(SIZE, VL, VN, TRANSPOSED):
    """Make the backward kernel by input columns; the arguments are as for `backward`."""
    number = np.float32 if SIZE == 4 else np.float64
    one, no_clamp, mode, prefetch_samples = number(1), number(-np.inf), NEXT_A, PREFETCH_SAMPLES
    apply_block_gradient = block_gradient_transposed(SIZE, VL) if TRANSPOSED else block_gradient(SIZE, VL)
    lanes, pack_position = vector_bytes() // SIZE, pack_dy(SIZE, VN)

    def backward_by_inputs(worker, record):
        """Compute the same as `backward`, one input column at a time: for many channels.

        dx of a column of C channels is one sum over all blocks that read it, C by F each, and is written once.
        `read_*` lists, by input column, the taps and output columns that read it. Scratch: column_segments
        (workers, 2, blocks of a column, 4) for the current column and the next one, whose blocks are prefetched;
        packed_dy and dyt hold all positions that a line reads.
        """
        r = read_by_inputs(record)
        N, P, K, F, LI, OW, line, C, KW = r.N, r.P, r.K, r.F, r.LI, r.OW, r.line, r.C, r.KW
        rule, bands, batch_tile, cached_rows, rows = r.rule, r.n_bands, r.batch_tile, r.cached_rows, r.most_blocks
        row_bytes, tile_bytes, sample_bytes, y_bytes = F * SIZE, batch_tile * SIZE, LI * line * SIZE, P * F * SIZE
        source_at, y_at, kernel_at, target_at = r.dy, r.y, r.kernel, r.target
        packed_dy_at = r.packed_dy + worker * cached_rows * N * row_bytes
        dyt_at = r.dyt + worker * cached_rows * F * tile_bytes
        dxt_at = r.dxt + worker * r.dxt_rows * tile_bytes
        gradient_at = r.gradient + worker * 2 * ROW_TILE * row_bytes
        cache_keys = array_at(r.cache_keys + worker * cached_rows * 8, cached_rows, np.int64)
        row_start, row_tap, row_line = tables_3(LI, r.row_start, r.row_tap, r.row_line)
        read_start, read_column, read_tap = tables_3(line // C, r.read_start, r.read_column, r.read_tap)
        edges = array_at(r.edges, bands + 1, np.int64)
        total = LI * bands
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            band = task // LI
            i = task - band * LI
            left, right = edges[band], edges[band + 1]
            triples = row_start[i + 1] - row_start[i]
            x_at, x_bytes = r.x + (i * line + left * C) * SIZE, sample_bytes
            if r.packed_x:
                x_bytes = r.packed_x_row * SIZE
                copy, source, entries = r.packed_x + worker * N * x_bytes, x_at, (right - left) * C
                pack(SIZE, lanes, source, 0, sample_bytes, copy, x_bytes, N, entries, prefetch_samples * sample_bytes)
                x_at = copy
            for begin in range(0, N, batch_tile):
                count = min(batch_tile, N - begin)
                # The weights are updated after dx of the whole batch is computed.
                wants_kernel = rule >= GRADIENT and begin + count == N
                for w in range(left, right):
                    tables_at = r.column_segments + worker * 2 * rows * SEGMENT * 8
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
                        if cache_keys[cache_slot] != p * N + begin:
                            pack_position(
                                source_at + p * row_bytes, y_at + p * row_bytes if y_at else 0, y_bytes,
                                packed_dy_at + cache_slot * N * row_bytes, row_bytes, begin, begin, count,
                                dyt_at + cache_slot * F * tile_bytes, tile_bytes, F,
                            )  # fmt: skip
                            cache_keys[cache_slot] = p * N + begin
                    out = dxt_at + (w - left) * C * tile_bytes
                    multiply(
                        SIZE, VN, mode, kernel_at, row_bytes, SIZE, dyt_at, tile_bytes,
                        table.ctypes.data, blocks, out, tile_bytes, r.zeros, 0,
                        C, -(-count // VN) * VN, kernel_at, row_bytes, SIZE, one, no_clamp,
                    )  # fmt: skip
                    if not wants_kernel:
                        continue
                    for m in range(blocks):
                        p = table[m, 0] // (K * row_bytes)
                        dy_at = packed_dy_at + p % cached_rows * N * row_bytes
                        at_w = table[m, 0]
                        apply_block_gradient(
                            rule, x_at + (w - left) * C * SIZE, x_bytes, dy_at, row_bytes, N, C, F,
                            target_at + at_w, r.state_1 + at_w, r.state_2 + at_w, r.hyper, r.ranges,
                            r.zeros, gradient_at, kernel_at + at_w,
                        )  # fmt: skip
                out = r.dx + ((begin * LI + i) * line + left * C) * SIZE
                transpose(SIZE, dxt_at, tile_bytes, out, sample_bytes, (right - left) * C, count)
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(backward_by_inputs, SIZE, VL, VN, int(TRANSPOSED)), BACKWARD_BY_INPUTS)


@functools.cache
def backward_bias(SIZE):
    """Make the kernel of the bias gradient."""
    number = np.float32 if SIZE == 4 else np.float64

    def backward_bias(worker, record):
        """Compute dbias (entries), the sum of dy (N, entries) over n, BIAS_ENTRIES per task; y as for `backward`."""
        r = read_bias(record)
        N, entries = r.N, r.entries
        dy, dbias = array_at(r.dy, (N, entries), number), array_at(r.dbias, entries, number)
        y = array_at(r.y, (N if r.y else 0, entries), number)
        total = -(-entries // BIAS_ENTRIES)
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            begin, end = task * BIAS_ENTRIES, min(entries, (task + 1) * BIAS_ENTRIES)
            # Slices indexed from 0: indices that may be negative would be checked in each iteration.
            sums = dbias[begin:end]
            for e in range(len(sums)):
                sums[e] = 0
            for n in range(N):
                values = dy[n, begin:end]
                if len(y):
                    relu_output = y[n, begin:end]
                    for e in range(len(sums)):
                        if relu_output[e] > 0:
                            sums[e] += values[e]
                else:
                    for e in range(len(sums)):
                        sums[e] += values[e]
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(backward_bias, SIZE), BACKWARD_BIAS)
