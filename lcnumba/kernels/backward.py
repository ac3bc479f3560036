"""Backward by lines on register tiles: which blocks of weights, in which order, and dx.

The gradient of each block, stored or applied to the weights, is computed in `weight_gradient.py`. The tables come from
`lcnumba.connectivity.geometry`. The kernels here depend on neither dtype nor vector length: they compute addresses, and
call micro-kernels (`microkernels.py`) by address. `size` is the bytes of an element.
"""

import functools

import numpy as np

from lcnumba.kernels.jit import Kernel, call, next_task, specialised
from lcnumba.kernels.movement import clear
from lcnumba.kernels.records import BANDS, NO_CLAMP, ONE, Fields, array_at, int_at, reader
from lcnumba.kernels.rules import FACTOR, GRADIENT
from lcnumba.kernels.tile import SEGMENT
from lcnumba.kernels.weight_gradient import FIELDS, ROW_TILE, clear_absent, pack_dy

# Entries of dbias per task: they fit in L1.
BIAS_ENTRIES = 1 << 10
# How many samples ahead x is prefetched while it is packed.
PREFETCH_SAMPLES = 4


BACKWARD = Fields(f"{FIELDS} {BANDS} row_block")
BACKWARD_BY_INPUTS = Fields(f"{FIELDS} edges read_start read_column read_tap column_segments most_blocks")
BACKWARD_BIAS = Fields("dy y N entries dbias")

read_backward, read_by_inputs = reader(BACKWARD.dtype), reader(BACKWARD_BY_INPUTS.dtype)
read_bias = reader(BACKWARD_BIAS.dtype)


@functools.cache
def backward():
    """Make the backward kernel by blocks."""

    def backward(worker, record):
        """Compute dx, and the kernel's gradient or update, one task per band of each input line.

        x (N, LI, W*C), kernel (P, K, F), dy (N, P, F). y (N, P, F) is the output of a ReLU whose mask y > 0 is
        applied to dy, or 0. With VN, vectors of dx run along the batch, with VN = 0 along the filters. `row_*` are the
        triples by input line, `band_*` the segments split at the band `edges`.

        dx (N, LI, W*C) is not computed if it is 0; with `adds` the sum starts from what it holds. It is summed output
        line by output line in ascending order, so that it may be continued with the next lines.

        target and its states are flat. With exists (P, K), or (P, K, F) for an exists_width of F, weights for which it
        is 0 become 0. With GRADIENT target receives the gradient, only at existing connections; with
        FACTOR or FORMULA it is the kernel itself, and each block is updated after its dx is computed, `row_block` rows
        at a time; with NO_GRADIENT it is not used. A block of weights reads one input line and belongs to one band, so
        that tasks write disjoint memory.

        Scratch per worker: packed_x (N, packed_x_row), a copy of x of the band, or 0; packed_dy (cached_rows, N*F), dy
        of the positions that a line reads, or of the current one, or 0 if there is only one position; dyt (cached_rows,
        F, batch_tile), the same transposed; cache_keys (cached_rows) identify the cached rows, which the
        next input line mostly reads again; dxt (dxt_rows, batch_tile), dx of the band; gradient (2*ROW_TILE*F). ranges
        holds the segments (0, 0, length, 0) of lengths F, BATCH, N % BATCH and N; zeros holds zeros.
        """
        r = read_backward(record)
        N, K, F, LI, OW, line, C, KW = r.N, r.K, r.F, r.LI, r.OW, r.line, r.C, r.KW
        rule, bands, batch_tile, cached_rows, row_block = r.rule, r.n_bands, r.batch_tile, r.cached_rows, r.row_block
        size, VN, wants_dx, in_place = r.size, r.VN, r.dx != 0, r.packed_dy == 0
        row_bytes, tile_bytes, sample_bytes = F * size, batch_tile * size, LI * line * size
        # The gradient of a single sample is no sum: SGD updates the weights in the pass that reads them.
        update_in_dots = rule == FACTOR and N == 1 and wants_dx and VN == 0
        source_at, y_at, kernel_at = r.dy, r.y, r.kernel
        packed_dy_at = source_at if in_place else r.packed_dy + worker * cached_rows * N * row_bytes
        dyt_at = r.dyt + worker * cached_rows * F * tile_bytes
        dxt_at = r.dxt + worker * r.dxt_rows * tile_bytes
        gradient_at = r.gradient + worker * 2 * ROW_TILE * row_bytes
        cache_keys = array_at(r.cache_keys + worker * cached_rows * 8, cached_rows, np.int64)
        cache_keys[:] = -1
        row_start, row_tap, row_line, edges = r.row_start, r.row_tap, r.row_line, r.edges
        band_start, band_column, band_input = r.band_start, r.band_column, r.band_input
        band_tap, band_taps = r.band_tap, r.band_taps
        total = LI * bands
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            band = task // LI
            i = task - band * LI
            left = int_at(edges, band) * C
            entries = int_at(edges, band + 1) * C - left
            x_at, x_bytes = r.x + (i * line + left) * size, sample_bytes
            if r.packed_x:
                x_bytes = r.packed_x_row * size
                copy, source = r.packed_x + worker * N * x_bytes, x_at
                call(
                    r.pack, source, 0, sample_bytes, copy, x_bytes, N, entries, PREFETCH_SAMPLES * sample_bytes
                )  # fmt: skip
                x_at = copy
            for begin in range(0, N, batch_tile):
                count = min(batch_tile, N - begin)
                # The weights are updated after dx of the whole batch is computed.
                wants_kernel = rule >= GRADIENT and begin + count == N
                if not wants_dx and not wants_kernel:
                    continue
                band_at = r.dx + ((begin * LI + i) * line + left) * size
                if wants_dx and VN and r.adds:
                    call(r.transpose, band_at, sample_bytes, dxt_at, tile_bytes, count, entries)
                    clear(dxt_at + count * size, tile_bytes, entries, (-(-count // VN) * VN - count) * size)
                elif wants_dx and VN:
                    clear(dxt_at, tile_bytes, entries, tile_bytes)
                elif wants_dx and not r.adds:
                    clear(band_at, sample_bytes, count, entries * size)
                for row in range(int_at(row_start, i), int_at(row_start, i + 1)):
                    for col in range(int_at(band_start, band), int_at(band_start, band + 1)):
                        p = int_at(row_line, row) * OW + int_at(band_column, col)
                        at = int_at(band_input, col) * C - left
                        k = (int_at(row_tap, row) * KW + int_at(band_tap, col)) * C
                        entries_of_block = int_at(band_taps, col) * C
                        weights = (p * K + k) * F
                        # The next block, which is prefetched.
                        next_weights = weights
                        if col + 1 < int_at(band_start, band + 1):
                            next_weights = (int_at(row_line, row) * OW + int_at(band_column, col + 1)) * K * F
                            next_weights += (int_at(row_tap, row) * KW + int_at(band_tap, col + 1)) * C * F
                        elif row + 1 < int_at(row_start, i + 1):
                            col_0 = int_at(band_start, band)
                            next_weights = (int_at(row_line, row + 1) * OW + int_at(band_column, col_0)) * K * F
                            next_weights += (int_at(row_tap, row + 1) * KW + int_at(band_tap, col_0)) * C * F
                        # dy of the position, with the ReLU mask applied, packed and transposed.
                        cache_slot = p % cached_rows
                        dy_at, dyt_p = packed_dy_at + cache_slot * N * row_bytes, dyt_at + cache_slot * F * tile_bytes
                        if cache_keys[cache_slot] != p * N + begin:
                            first_sample = 0 if cached_rows == 1 and wants_kernel else begin
                            pack_dy(
                                record, source_at + p * row_bytes, y_at + p * row_bytes if y_at else 0, dy_at,
                                first_sample, begin, count, dyt_p if wants_dx and VN else 0,
                            )  # fmt: skip
                            cache_keys[cache_slot] = p * N + begin
                        for first in range(0, entries_of_block, row_block):
                            n_rows = min(row_block, entries_of_block - first)
                            at_w = (weights + first * F) * size
                            w = kernel_at + at_w
                            next_block = kernel_at + next_weights * size
                            if first + row_block < entries_of_block:
                                next_block = w + row_block * row_bytes
                            if wants_dx and VN:
                                out = dxt_at + (at + first) * tile_bytes
                                call(
                                    r.multiply_dx, w, row_bytes, size, dyt_p, tile_bytes, r.panel_bytes_dx,
                                    r.ranges, 1, out, tile_bytes, out, tile_bytes, n_rows, -(-count // VN) * VN,
                                    next_block, row_bytes, 0, size, ONE, NO_CLAMP,
                                )  # fmt: skip
                                next_block = w  # already prefetched
                            elif wants_dx:
                                for n in range(begin, begin + count):
                                    out = r.dx + ((n * LI + i) * line + left + at + first) * size
                                    source = x_at + (at + first) * size if update_in_dots else 0
                                    call(
                                        r.dots, w, row_bytes, dy_at + n * row_bytes, out, n_rows, F, next_block,
                                        source, r.factor,
                                    )  # fmt: skip
                            else:
                                next_block += r.target - kernel_at  # the kernel is not read
                            if wants_kernel and not update_in_dots:
                                call(
                                    r.block_gradient, record, at_w, x_at + (at + first) * size, x_bytes, dy_at,
                                    row_bytes, n_rows, gradient_at, next_block,
                                )  # fmt: skip
                            if wants_kernel and r.exists:
                                clear_absent(record, at_w, n_rows)
                if wants_dx and VN:
                    call(r.transpose, dxt_at, tile_bytes, band_at, sample_bytes, entries, count)
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(backward, BACKWARD)


@functools.cache
def backward_by_inputs():
    """Make the backward kernel by input columns."""

    def backward_by_inputs(worker, record):
        """Compute the same as `backward`, one input column at a time: for many channels.

        dx of a column of C channels is summed over all blocks that read it, C by F each, while it is in cache.
        `read_*` lists, by input column, the taps and output columns that read it. Scratch: column_segments
        (workers, 2, blocks of a column, 4) for the current column and the next one, whose blocks are prefetched;
        packed_dy and dyt hold all positions that a line reads.
        """
        r = read_by_inputs(record)
        N, K, F, LI, OW, line, C, KW = r.N, r.K, r.F, r.LI, r.OW, r.line, r.C, r.KW
        rule, bands, batch_tile, cached_rows = r.rule, r.n_bands, r.batch_tile, r.cached_rows
        size, VN, most_blocks = r.size, r.VN, r.most_blocks
        row_bytes, tile_bytes, sample_bytes = F * size, batch_tile * size, LI * line * size
        source_at, y_at, kernel_at = r.dy, r.y, r.kernel
        packed_dy_at = r.packed_dy + worker * cached_rows * N * row_bytes
        dyt_at = r.dyt + worker * cached_rows * F * tile_bytes
        dxt_at = r.dxt + worker * r.dxt_rows * tile_bytes
        gradient_at = r.gradient + worker * 2 * ROW_TILE * row_bytes
        cache_keys = array_at(r.cache_keys + worker * cached_rows * 8, cached_rows, np.int64)
        cache_keys[:] = -1
        row_start, row_tap, row_line, edges = r.row_start, r.row_tap, r.row_line, r.edges
        read_start, read_column, read_tap = r.read_start, r.read_column, r.read_tap
        total = LI * bands
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            band = task // LI
            i = task - band * LI
            left, right = int_at(edges, band), int_at(edges, band + 1)
            triples = int_at(row_start, i + 1) - int_at(row_start, i)
            x_at, x_bytes = r.x + (i * line + left * C) * size, sample_bytes
            if r.packed_x:
                x_bytes = r.packed_x_row * size
                copy, source, entries = r.packed_x + worker * N * x_bytes, x_at, (right - left) * C
                call(
                    r.pack, source, 0, sample_bytes, copy, x_bytes, N, entries, PREFETCH_SAMPLES * sample_bytes
                )  # fmt: skip
                x_at = copy
            for begin in range(0, N, batch_tile):
                count = min(batch_tile, N - begin)
                # The weights are updated after dx of the whole batch is computed.
                wants_kernel = rule >= GRADIENT and begin + count == N
                band_at = r.dx + ((begin * LI + i) * line + left * C) * size
                if r.adds:
                    call(r.transpose, band_at, sample_bytes, dxt_at, tile_bytes, count, (right - left) * C)
                    padding = (-(-count // VN) * VN - count) * size
                    clear(dxt_at + count * size, tile_bytes, (right - left) * C, padding)
                for w in range(left, right):
                    tables_at = r.column_segments + worker * 2 * most_blocks * SEGMENT * 8
                    table_at = tables_at + w % 2 * most_blocks * SEGMENT * 8
                    next_table_at = tables_at + (w + 1) % 2 * most_blocks * SEGMENT * 8
                    table = array_at(table_at, (most_blocks, SEGMENT), np.int64)
                    next_table = array_at(next_table_at, (most_blocks, SEGMENT), np.int64)
                    # Fill the table of the next column, and first that of this one if it is the leftmost.
                    for column in range(w if w == left else w + 1, min(w + 2, right)):
                        segments = table if column == w else next_table
                        blocks = 0
                        for row in range(int_at(row_start, i), int_at(row_start, i + 1)):
                            for e in range(int_at(read_start, column), int_at(read_start, column + 1)):
                                p = int_at(row_line, row) * OW + int_at(read_column, e)
                                k = (int_at(row_tap, row) * KW + int_at(read_tap, e)) * C
                                segments[blocks, 0] = (p * K + k) * row_bytes
                                segments[blocks, 1] = p % cached_rows * F * tile_bytes
                                blocks += 1
                    reads, next_blocks = int_at(read_start, w + 1) - int_at(read_start, w), 0
                    blocks = triples * reads
                    if w + 1 < right:
                        next_blocks = triples * (int_at(read_start, w + 2) - int_at(read_start, w + 1))
                    for m in range(blocks):
                        p = table[m, 0] // (K * row_bytes)
                        cache_slot = p % cached_rows
                        table[m, 2], table[m, 3] = F, next_table[m, 0] if m < next_blocks else table[m, 0]
                        if cache_keys[cache_slot] != p * N + begin:
                            pack_dy(
                                record, source_at + p * row_bytes, y_at + p * row_bytes if y_at else 0,
                                packed_dy_at + cache_slot * N * row_bytes, begin, begin, count,
                                dyt_at + cache_slot * F * tile_bytes,
                            )  # fmt: skip
                            cache_keys[cache_slot] = p * N + begin
                    # One sum for each output line, added to those of the lines before.
                    out = dxt_at + (w - left) * C * tile_bytes
                    init, init_row = (out, tile_bytes) if r.adds else (r.zeros, 0)
                    reads = min(reads, blocks)  # 0 if no line reads this one
                    for row in range(triples if blocks else 1):
                        call(
                            r.multiply_dx, kernel_at, row_bytes, size, dyt_at, tile_bytes, r.panel_bytes_dx,
                            table_at + row * reads * SEGMENT * 8, reads, out, tile_bytes, init, init_row,
                            C, -(-count // VN) * VN, kernel_at, row_bytes, 0, size, ONE, NO_CLAMP,
                        )  # fmt: skip
                        init, init_row = out, tile_bytes
                    if not wants_kernel:
                        continue
                    for m in range(blocks):
                        p = table[m, 0] // (K * row_bytes)
                        dy_at = packed_dy_at + p % cached_rows * N * row_bytes
                        call(
                            r.block_gradient, record, table[m, 0], x_at + (w - left) * C * size, x_bytes, dy_at,
                            row_bytes, C, gradient_at, kernel_at + table[m, 0],
                        )  # fmt: skip
                        if r.exists:
                            clear_absent(record, table[m, 0], C)
                call(r.transpose, dxt_at, tile_bytes, band_at, sample_bytes, (right - left) * C, count)
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(backward_by_inputs, BACKWARD_BY_INPUTS)


@functools.cache
def backward_bias(SIZE):
    """Make the kernel of the bias gradient."""
    number = np.float32 if SIZE == 4 else np.float64

    def backward_bias(worker, record):
        """Compute dbias (entries), the sum of dy (N, entries) over n, BIAS_ENTRIES per task; y as for `backward`."""
        r = read_bias(record)
        total = -(-r.entries // BIAS_ENTRIES)
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            begin = task * BIAS_ENTRIES
            count = min(r.entries - begin, BIAS_ENTRIES)
            sums = array_at(r.dbias + begin * SIZE, count, number)
            for e in range(count):
                sums[e] = 0
            for n in range(r.N):
                at = (n * r.entries + begin) * SIZE
                values = array_at(r.dy + at, count, number)
                if r.y:
                    relu_output = array_at(r.y + at, count, number)
                    for e in range(count):
                        if relu_output[e] > 0:
                            sums[e] += values[e]
                else:
                    for e in range(count):
                        sums[e] += values[e]
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(backward_bias, SIZE), BACKWARD_BIAS)
