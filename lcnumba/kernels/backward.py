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
from lcnumba.kernels.weight_gradient import EACH_CALL, FIELDS, pack_dy

# Entries of dbias per task: they fit in L1.
BIAS_ENTRIES = 1 << 10
# Samples whose dx is written side by side, as many as a tile has rows: hardware prefetchers follow so few rows.
SAMPLES = 6
# How many samples ahead x is prefetched while it is packed.
PREFETCH_SAMPLES = 4


BACKWARD = Fields(f"{FIELDS} {BANDS} band_run sets set_run set_step row_block", each_call=EACH_CALL)
BACKWARD_BY_INPUTS = Fields(
    f"{FIELDS} edges read_start read_column read_tap sets column_segments most_blocks sums_columns", each_call=EACH_CALL
)
BACKWARD_BIAS = Fields("", each_call="dy y N entries dbias")

read_backward, read_by_inputs = reader(BACKWARD.dtype), reader(BACKWARD_BY_INPUTS.dtype)
read_bias = reader(BACKWARD_BIAS.dtype)


@functools.cache
def backward():
    """Make the backward kernel by blocks."""

    def backward(worker, record):
        """Compute dx, and the kernel's gradient or update, one task per band of each input line of the part.

        The part is `part_lines` input lines from `first_line` on, and `part_bands` bands from `first_band` on.

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

        Neighbouring positions that read the same taps, up to `most_run`, are computed by one call (`band_run`). With
        sets (P), the weights of position p are kernel[sets[p]], kernel (S, K, F), and there is no gradient or update
        of them here. With groups, G > 1, VN is not 0, and all groups' products are one call.

        Scratch per worker: packed_x (N, packed_x_row), a copy of x of the band, or 0; packed_dy (cached_lines, N,
        dy_row bytes), dy of the positions of an output line that the band reads (`band_columns`: first, end), or, with
        `cached_lines` 0, of those computed by one call; dyt (cached_columns, F, batch_tile), the same transposed;
        cache_keys identify the cached lines, which the next input line mostly reads again. If packed_dy is 0, dy is
        read in place, with rows of `dy_row` bytes. dxt (dxt_rows, batch_tile), dx of the band; gradient. ranges holds
        the segments (0, 0, length, 0) of lengths F, BATCH, N % BATCH and N; zeros holds zeros.
        """
        r = read_backward(record)
        N, P, K, F, LI, OW, line, C, KW = r.N, r.P, r.K, r.F, r.LI, r.OW, r.line, r.C, r.KW
        rule, batch_tile, row_block = r.rule, r.batch_tile, r.row_block
        size, VN, wants_dx, dy_row = r.size, r.VN, r.dx != 0, r.dy_row
        row_bytes, tile_bytes, sample_bytes = F * size, batch_tile * size, LI * line * size
        w_step, x_step, dyt_step, kernel_at = K * row_bytes, r.stride * C * tile_bytes, F * tile_bytes, r.kernel
        E, entry, M = r.E, r.entry_step, F // r.G
        if r.sets:
            w_step *= r.set_step
        repeated_w = w_step
        if r.G > 1:
            repeated_w, x_step, dyt_step = M * size, E * tile_bytes, M * tile_bytes
        # The gradient of a single sample is no sum: SGD updates the weights in the pass that reads them.
        update_in_dots = rule == FACTOR and N == 1 and wants_dx and VN == 0 and F > 1
        slots, width = max(r.cached_lines, 1), r.cached_columns
        packed_at = r.packed_dy + worker * slots * N * dy_row
        dyt_at = r.dyt + worker * slots * width * F * tile_bytes
        dxt_at = r.dxt + worker * r.dxt_rows * tile_bytes
        gradient_at = r.gradient + worker * r.gradient_bytes
        cache_keys = array_at(r.cache_keys + worker * slots * 8, slots, np.int64)
        cache_keys[:] = -1
        row_start, row_tap, row_line, edges = r.row_start, r.row_tap, r.row_line, r.edges
        band_start, band_column, band_input = r.band_start, r.band_column, r.band_input
        band_tap, band_taps = r.band_tap, r.band_taps
        total = r.part_lines * r.part_bands
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            band, i = r.first_band + task // r.part_lines, r.first_line + task % r.part_lines
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
                vectors = -(-count // max(VN, 1)) * VN
                # The weights are updated after dx of the whole batch is computed.
                wants_kernel = rule >= GRADIENT and begin + count == N
                if not wants_dx and not wants_kernel:
                    continue
                band_at = r.dx + ((begin * LI + i) * line + left) * size
                if wants_dx and VN and r.adds:
                    call(r.transpose, band_at, sample_bytes, dxt_at, tile_bytes, count, entries)
                    clear(dxt_at + count * size, tile_bytes, entries, (vectors - count) * size)
                elif wants_dx and VN and not r.covered:
                    clear(dxt_at, tile_bytes, entries, tile_bytes)
                elif wants_dx and not r.adds and not r.covered:
                    clear(band_at, sample_bytes, count, entries * size)
                for row in range(int_at(row_start, i), int_at(row_start, i + 1)):
                    line_p = int_at(row_line, row) * OW
                    col, last = int_at(band_start, band), int_at(band_start, band + 1)
                    while col < last:
                        run = min(int_at(r.band_run, col), r.most_run)
                        j = int_at(band_column, col)
                        at = int_at(band_input, col) * C - left
                        k = (int_at(row_tap, row) * KW + int_at(band_tap, col)) * E
                        entries_of_block = int_at(band_taps, col) * E
                        own = line_p + j
                        if r.sets:
                            run, own = min(run, int_at(r.set_run, own)), int_at(r.sets, own)
                        weights = (own * K + k) * F
                        # The next block, which is prefetched.
                        next_weights = weights
                        if r.sets:
                            pass
                        elif col + 1 < last:
                            next_weights = (line_p + int_at(band_column, col + 1)) * K * F
                            next_weights += (int_at(row_tap, row) * KW + int_at(band_tap, col + 1)) * E * F
                        elif row + 1 < int_at(row_start, i + 1):
                            col_0 = int_at(band_start, band)
                            next_weights = (int_at(row_line, row + 1) * OW + int_at(band_column, col_0)) * K * F
                            next_weights += (int_at(row_tap, row + 1) * KW + int_at(band_tap, col_0)) * E * F
                        # dy with the ReLU mask applied, packed and transposed: of the line, or of these positions.
                        cache_slot, packed_j, packed_columns = 0, j, run
                        if r.cached_lines:
                            cache_slot = int_at(row_line, row) % slots
                            packed_j = int_at(r.band_columns, 2 * band)
                            packed_columns = int_at(r.band_columns, 2 * band + 1) - packed_j
                        dy_slot = packed_at + cache_slot * N * dy_row
                        if not r.packed_dy:
                            dy_slot = r.dy + (line_p + packed_j) * row_bytes
                        dyt_slot = dyt_at + cache_slot * width * F * tile_bytes
                        key = (band * P + line_p + packed_j) * N + begin
                        if cache_keys[cache_slot] != key:
                            pack_dy(
                                record, line_p + packed_j, packed_columns, dy_slot,
                                begin if r.cached_lines or not wants_kernel else 0, begin, count,
                                dyt_slot if wants_dx and VN else 0,
                            )  # fmt: skip
                            cache_keys[cache_slot] = key
                        dy_at, dyt_p = dy_slot + (j - packed_j) * row_bytes, dyt_slot + (j - packed_j) * F * tile_bytes
                        for first in range(0, entries_of_block, row_block):
                            n_rows = min(row_block, entries_of_block - first)
                            at_w = (weights + first * F) * size
                            w = kernel_at + at_w
                            next_block = kernel_at + next_weights * size
                            if first + row_block < entries_of_block:
                                next_block = w + row_block * row_bytes
                            if wants_dx and VN:
                                out = dxt_at + (at + first * entry) * tile_bytes
                                init, init_row, init_step = out, entry * tile_bytes, x_step
                                if r.covered and not r.adds:
                                    init, init_row, init_step = r.zeros, 0, 0
                                call(
                                    r.multiply_dx, w, row_bytes, size, dyt_p, tile_bytes, r.panel_bytes_dx,
                                    r.ranges, 1, out, entry * tile_bytes, init, init_row, n_rows, vectors,
                                    next_block, row_bytes, 0, size, ONE, NO_CLAMP,
                                    r.G if r.G > 1 else run, repeated_w, dyt_step, x_step, init_step, repeated_w,
                                )  # fmt: skip
                                next_block = w  # already prefetched
                            elif wants_dx and F == 1:
                                # The weights of a position are a row vector: the products are those of dy and this row.
                                out = band_at + (at + first) * size
                                init, init_row, init_step = out, sample_bytes, r.stride * C * size
                                if r.covered and not r.adds:
                                    init, init_row, init_step = r.zeros, 0, 0
                                for n in range(0, count, SAMPLES):
                                    call(
                                        r.multiply_dx, dy_at + (begin + n) * dy_row, dy_row, size, w, row_bytes,
                                        r.panel_bytes_dx, r.ranges, 1, out + n * sample_bytes, sample_bytes,
                                        init + n * init_row, init_row, min(count - n, SAMPLES), n_rows,
                                        next_block, 0, 0, 0, ONE, NO_CLAMP,
                                        run, row_bytes, w_step, r.stride * C * size, init_step, w_step,
                                    )  # fmt: skip
                            elif wants_dx:
                                for q in range(run):
                                    at_q = at + first + q * r.stride * C
                                    for n in range(begin, begin + count):
                                        out = r.dx + ((n * LI + i) * line + left + at_q) * size
                                        source = x_at + at_q * size if update_in_dots else 0
                                        call(
                                            r.dots, w + q * w_step, row_bytes, dy_at + n * dy_row + q * row_bytes, out,
                                            n_rows, F, next_block + q * w_step, source, r.factor,
                                        )  # fmt: skip
                            else:
                                next_block += r.target - kernel_at  # the kernel is not read
                            if wants_kernel and not update_in_dots:
                                call(
                                    r.block_gradient, record, at_w, run, x_at + (at + first * entry) * size, x_bytes,
                                    dy_at, n_rows, gradient_at, next_block, w_step,
                                )  # fmt: skip
                            if wants_kernel and r.exists:
                                for q in range(run):
                                    call(r.clear_absent, record, at_w + q * w_step, n_rows)
                        col += run
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
        `read_*` lists, by input column, the taps and output columns that read it. With `sums_columns` there is one
        output line, and dx is summed column by column. Scratch: column_segments
        (workers, 2, blocks of a column, 4) for the current column and the next one, whose blocks are prefetched;
        packed_dy and dyt hold all positions that a band of a line reads.
        """
        r = read_by_inputs(record)
        N, P, K, F, LI, OW, line, C, KW = r.N, r.P, r.K, r.F, r.LI, r.OW, r.line, r.C, r.KW
        rule, batch_tile, cached_lines, width = r.rule, r.batch_tile, r.cached_lines, r.cached_columns
        size, VN, most_blocks, dy_row = r.size, r.VN, r.most_blocks, r.dy_row
        row_bytes, tile_bytes, sample_bytes = F * size, batch_tile * size, LI * line * size
        kernel_at = r.kernel
        packed_at = r.packed_dy + worker * cached_lines * N * dy_row
        dyt_at = r.dyt + worker * cached_lines * width * F * tile_bytes
        dxt_at = r.dxt + worker * r.dxt_rows * tile_bytes
        gradient_at = r.gradient + worker * r.gradient_bytes
        cache_keys = array_at(r.cache_keys + worker * cached_lines * 8, cached_lines, np.int64)
        cache_keys[:] = -1
        row_start, row_tap, row_line, edges = r.row_start, r.row_tap, r.row_line, r.edges
        read_start, read_column, read_tap = r.read_start, r.read_column, r.read_tap
        total = r.part_lines * r.part_bands
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            band, i = r.first_band + task // r.part_lines, r.first_line + task % r.part_lines
            left, right = int_at(edges, band), int_at(edges, band + 1)
            triples = int_at(row_start, i + 1) - int_at(row_start, i)
            first_column = int_at(r.band_columns, 2 * band)
            columns = int_at(r.band_columns, 2 * band + 1) - first_column
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
                for row in range(int_at(row_start, i), int_at(row_start, i + 1)):
                    o = int_at(row_line, row)
                    cache_slot, p = o % cached_lines, o * OW + first_column
                    key = (band * P + p) * N + begin
                    if cache_keys[cache_slot] != key:
                        pack_dy(
                            record, p, columns, packed_at + cache_slot * N * dy_row, begin, begin, count,
                            dyt_at + cache_slot * width * F * tile_bytes,
                        )  # fmt: skip
                        cache_keys[cache_slot] = key
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
                                p = int_at(r.sets, p) if r.sets else p
                                k = (int_at(row_tap, row) * KW + int_at(read_tap, e)) * C
                                segments[blocks, 0] = (p * K + k) * row_bytes
                                cached = int_at(row_line, row) % cached_lines * width + int_at(read_column, e)
                                segments[blocks, 1] = (cached - first_column) * F * tile_bytes
                                blocks += 1
                    reads, next_blocks = int_at(read_start, w + 1) - int_at(read_start, w), 0
                    blocks = triples * reads
                    if w + 1 < right:
                        next_blocks = triples * (int_at(read_start, w + 2) - int_at(read_start, w + 1))
                    for m in range(blocks):
                        table[m, 2], table[m, 3] = F, next_table[m, 0] if m < next_blocks else table[m, 0]
                    # One sum for each output line, added to those of the lines before; with one line for each column.
                    out = dxt_at + (w - left) * C * tile_bytes
                    init, init_row = (out, tile_bytes) if r.adds else (r.zeros, 0)
                    step = 1 if r.sums_columns else max(reads, 1)
                    for first in range(0, max(blocks, 1), step):
                        call(
                            r.multiply_dx, kernel_at, row_bytes, size, dyt_at, tile_bytes, r.panel_bytes_dx,
                            table_at + first * SEGMENT * 8, min(step, blocks), out, tile_bytes, init, init_row,
                            C, -(-count // VN) * VN, kernel_at, row_bytes, 0, size, ONE, NO_CLAMP,
                            1, 0, 0, 0, 0, 0,
                        )  # fmt: skip
                        init, init_row = out, tile_bytes
                    if not wants_kernel:
                        continue
                    for m in range(blocks):
                        o = table[m, 0] // (K * row_bytes * OW)
                        j = table[m, 0] // (K * row_bytes) - o * OW
                        dy_at = packed_at + o % cached_lines * N * dy_row + (j - first_column) * row_bytes
                        call(
                            r.block_gradient, record, table[m, 0], 1, x_at + (w - left) * C * size, x_bytes, dy_at, C,
                            gradient_at, kernel_at + table[m, 0], 0,
                        )  # fmt: skip
                        if r.exists:
                            call(r.clear_absent, record, table[m, 0], C)
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
