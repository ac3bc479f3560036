"""Forward by lines on register tiles; the tables come from `lcnumba.connectivity.geometry`.

The kernels here depend on neither dtype nor vector length: they compute addresses, and call micro-kernels
(`microkernels.py`) by address. `size` is the bytes of an element.
"""

import functools

import numpy as np

from lcnumba.kernels.jit import Kernel, call, next_task
from lcnumba.kernels.movement import clear
from lcnumba.kernels.records import COLUMNS, NO_CLAMP, ONE, ROWS, Fields, array_at, int_at, reader
from lcnumba.kernels.tile import SEGMENT

EACH_CALL = "x kernel bias y bias_step lower_clamp"
COMMON = (
    "size N P K F LI LO OW line C KW G E entry_step stride task_positions col_run sets set_run set_step segments "
    f"most_segments multiply panel_bytes {ROWS} {COLUMNS}"
)
# Positions that share their weights from which they are the rows of a product: the height of the largest tiles.
ROWS_OF_POSITIONS = 12

FORWARD = Fields(f"{COMMON} width k_block panels pack_panels", each_call=EACH_CALL)
FORWARD_BY_BATCH = Fields(
    f"{COMMON} VN transpose batch_tile most_run xt cached_lines cache_keys yt ones", each_call=EACH_CALL
)
FORWARD_BY_DOTS = Fields(f"{COMMON} dots transpose most_run yt ones", each_call=EACH_CALL)

read_forward, read_forward_by_batch = reader(FORWARD.dtype), reader(FORWARD_BY_BATCH.dtype)
read_forward_by_dots = reader(FORWARD_BY_DOTS.dtype)


@functools.cache
def forward():
    """Make the forward kernel."""

    def forward(worker, record):
        """Compute y, `task_positions` positions and `width` filters (a multiple of a vector, or all) per task.

        x (N, LI, W*C), kernel (P, K, F), bias (P, F), or one row with a bias_step of 0, y (N, P, F); `row_*` are the
        triples by output line, `col_*` the segments by output column. y = max(lower_clamp, ...).

        The sum of a position runs over its segments, in k-blocks of at most `k_block` entries, so that the rows of W
        of a k-block stay in cache for all rows of x. segments (workers, most_segments, SEGMENT) is scratch.

        With sets (P) the weights of position p are kernel[sets[p]], kernel (S, K, F). Where neighbouring positions
        share weights, the rows of a product are positions, repeated for each sample, rather than the reverse. With
        groups, G > 1, all groups' products are one call.
        """
        r = read_forward(record)
        N, P, K, F, C, KW, OW, line, width, k_block = r.N, r.P, r.K, r.F, r.C, r.KW, r.OW, r.line, r.width, r.k_block
        G, E, M = r.G, r.E, F // r.G
        size, x, sample_bytes, y_row, row_bytes = r.size, r.x, r.LI * line * r.size, P * F * r.size, F * r.size
        x_step, entry_bytes = r.stride * C * size, r.entry_step * size
        segments = r.segments + worker * r.most_segments * SEGMENT * 8
        table = array_at(segments, (r.most_segments, SEGMENT), np.int64)
        b_row, b_panel, panels_bytes = row_bytes, r.panel_bytes, 0
        if r.panels:
            b_row, b_panel = r.panel_bytes, k_block * r.panel_bytes
            panels_bytes = -(-min(width, F) * size // r.panel_bytes) * b_panel
        row_start, row_tap, row_line = r.row_start, r.row_tap, r.row_line
        col_start, col_input, col_tap, col_taps = r.col_start, r.col_input, r.col_tap, r.col_taps
        # Neighbouring positions that read the same taps are computed by one call, if there is one k-block.
        whole = r.panels == 0 and k_block >= K
        parts = -(-F // width)
        total = -(-P // r.task_positions) * parts
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            block = task // parts
            left = (task - block * parts) * width
            filters = M if G > 1 else min(F - left, width)
            p, end_of_task = block * r.task_positions, min(P, (block + 1) * r.task_positions)
            while p < end_of_task:
                o = p // OW
                j = p - o * OW
                run, own, w_step = min(int_at(r.col_run, j), end_of_task - p), p, K * row_bytes
                if r.sets:
                    run, own, w_step = min(run, int_at(r.set_run, p)), int_at(r.sets, p), r.set_step * w_step
                out = r.y + (p * F + left) * size
                init, init_row = r.bias + p * r.bias_step + left * size, 0
                # The rows of W that follow are prefetched into the L2 cache; the tiles of all rows of x share this.
                prefetch_row = r.panel_bytes // N
                weights = r.kernel + (own * K * F + left) * size
                # Rows of a product are samples, and it is repeated for groups, or for neighbouring positions; or the
                # reverse.
                if G > 1:
                    run = 1
                    rows, x_row, out_row, repeats = N, sample_bytes, y_row, G
                    a_step, b_step, out_step, init_step = E * size, M * size, M * size, M * size
                elif r.sets and w_step == 0 and run >= min(N, ROWS_OF_POSITIONS):
                    rows, x_row, out_row, init_row, repeats = run, x_step, row_bytes, r.bias_step, N
                    a_step, b_step, out_step, init_step = sample_bytes, 0, y_row, 0
                    prefetch_row = 0
                else:
                    run = run if whole else 1
                    rows, x_row, out_row, repeats = N, sample_bytes, y_row, run
                    a_step, b_step, out_step, init_step = x_step, w_step, row_bytes, r.bias_step
                b = r.panels + worker * panels_bytes if r.panels else weights
                count, entries = 0, 0
                for row in range(int_at(row_start, o), int_at(row_start, o + 1)):
                    row_at = int_at(row_line, row) * line
                    row_k = int_at(row_tap, row) * KW
                    for col in range(int_at(col_start, j), int_at(col_start, j + 1)):
                        at = row_at + int_at(col_input, col) * C
                        k = (row_k + int_at(col_tap, col)) * E
                        end = k + int_at(col_taps, col) * E
                        while k < end:
                            if entries == k_block:
                                ahead = weights + entries * row_bytes
                                call(
                                    r.multiply, x, x_row, entry_bytes, b, b_row, b_panel, segments, count,
                                    out, out_row, init, init_row, rows, filters, ahead, prefetch_row, row_bytes, 0,
                                    ONE, NO_CLAMP, repeats, a_step, b_step, out_step, init_step, 0,
                                )  # fmt: skip
                                init, init_row, init_step, count, entries = out, out_row, out_step, 0, 0
                            length = min(end - k, k_block - entries)
                            offset = k * row_bytes
                            table[count, 0], table[count, 1] = at * size, offset
                            table[count, 2], table[count, 3] = length, offset
                            if r.panels:
                                packed_at = entries * r.panel_bytes
                                call(
                                    r.pack_panels, weights + offset, row_bytes, length, filters, b + packed_at, b_panel
                                )  # fmt: skip
                                table[count, 1] = packed_at
                            count, entries, k = count + 1, entries + length, k + length
                            at += length * r.entry_step
                ahead = weights + entries * row_bytes
                call(
                    r.multiply, x, x_row, entry_bytes, b, b_row, b_panel, segments, count,
                    out, out_row, init, init_row, rows, filters, ahead, prefetch_row, row_bytes, 0,
                    ONE, r.lower_clamp, repeats, a_step, b_step, out_step, init_step, b_step,
                )  # fmt: skip
                p += run
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(forward, FORWARD)


@functools.cache
def forward_by_batch():
    """Make the forward kernel for few filters, with vectors of VN samples."""

    def forward_by_batch(worker, record):
        """Compute the same as `forward`, in batch tiles of `batch_tile` samples, from transposed lines of x.

        Neighbouring positions that read the same taps, up to `most_run`, are computed by one call (`col_run`).

        Scratch per worker: segments (most_segments, SEGMENT); xt (cached_lines, W*C, batch_tile), a cache of transposed
        lines of x, as many as an output line reads, and its cache_keys (cached_lines); yt (most_run, F, batch_tile),
        outputs of as many positions. ones (batch_tile) holds ones, by which the bias is multiplied; zeros follow it.
        """
        r = read_forward_by_batch(record)
        N, P, K, F, C, KW, OW, LI, line = r.N, r.P, r.K, r.F, r.C, r.KW, r.OW, r.LI, r.line
        G, E, M = r.G, r.E, r.F // r.G
        size, batch_tile, cached_lines, VN = r.size, r.batch_tile, r.cached_lines, r.VN
        tile_bytes, x_row, y_row = batch_tile * size, LI * line * size, P * F * size
        xt = r.xt + worker * cached_lines * line * tile_bytes
        yt = r.yt + worker * r.most_run * F * tile_bytes
        cache_keys = array_at(r.cache_keys + worker * cached_lines * 8, cached_lines, np.int64)
        cache_keys[:] = -1
        segments = r.segments + worker * r.most_segments * SEGMENT * 8
        table = array_at(segments, (r.most_segments, SEGMENT), np.int64)
        row_start, row_tap, row_line = r.row_start, r.row_tap, r.row_line
        col_start, col_input, col_tap, col_taps = r.col_start, r.col_input, r.col_tap, r.col_taps
        parts = -(-P // r.task_positions)
        total = -(-N // batch_tile) * parts
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            begin = task // parts * batch_tile
            count, part = min(batch_tile, N - begin), task % parts
            vectors = -(-count // VN) * VN
            p, end_of_task = part * r.task_positions, min(P, (part + 1) * r.task_positions)
            while p < end_of_task:
                o = p // OW
                j = p - o * OW
                run, weights, w_step = min(int_at(r.col_run, j), end_of_task - p, r.most_run), p, K * F * size
                if r.sets:
                    run, weights, w_step = min(run, int_at(r.set_run, p)), int_at(r.sets, p), r.set_step * w_step
                repeats, x_step, y_step = run, r.stride * C * tile_bytes, F * tile_bytes
                if G > 1:
                    run, repeats, w_step, x_step, y_step = 1, G, M * size, E * tile_bytes, M * tile_bytes
                weights = r.kernel + weights * K * F * size
                blocks = 0
                for row in range(int_at(row_start, o), int_at(row_start, o + 1)):
                    i, tap = int_at(row_line, row), int_at(row_tap, row)
                    cache_slot = i % cached_lines
                    if cache_keys[cache_slot] != i * N + begin:
                        source = r.x + (begin * LI + i) * line * size
                        transposed = xt + cache_slot * line * tile_bytes
                        call(r.transpose, source, x_row, transposed, tile_bytes, count, line)
                        clear(transposed + count * size, tile_bytes, line, (vectors - count) * size)
                        cache_keys[cache_slot] = i * N + begin
                    for col in range(int_at(col_start, j), int_at(col_start, j + 1)):
                        table[blocks, 0] = (tap * KW + int_at(col_tap, col)) * E * F * size
                        table[blocks, 1] = (cache_slot * line + int_at(col_input, col) * C) * tile_bytes
                        table[blocks, 2], table[blocks, 3] = int_at(col_taps, col) * E, 0
                        blocks += 1
                # The bias of each filter, in all lanes: the sum starts from its product with ones.
                table[blocks, 0], table[blocks, 1], table[blocks, 2], table[blocks, 3] = 0, 0, 1, 0
                joined = run if r.bias_step == F * size else 1
                call(
                    r.multiply, r.bias + p * r.bias_step, size, 0, r.ones, 0, r.panel_bytes,
                    segments + blocks * SEGMENT * 8, 1, yt, tile_bytes, r.ones + tile_bytes, 0, joined * F, vectors,
                    weights, 0, 0, 0, ONE, NO_CLAMP, run // joined, r.bias_step, 0, F * tile_bytes, 0, 0,
                )  # fmt: skip
                call(
                    r.multiply, weights, size, F * size, xt, r.entry_step * tile_bytes, r.panel_bytes, segments, blocks,
                    yt, tile_bytes, yt, tile_bytes, M, vectors, weights, 0, 0, 0, ONE, r.lower_clamp,
                    repeats, w_step, x_step, y_step, y_step, 0,
                )  # fmt: skip
                call(r.transpose, yt, tile_bytes, r.y + (begin * P + p) * F * size, y_row, run * F, count)
                p += run
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(forward_by_batch, FORWARD_BY_BATCH)


@functools.cache
def forward_by_dots():
    """Make the forward kernel for a single filter, whose weights are a row vector along the inputs."""

    def forward_by_dots(worker, record):
        """Compute the same as `forward` for F = 1, as dot products of rows of x and of the weights.

        Scratch per worker: yt (most_run, N). ones (N) holds ones, by which the bias is multiplied, and zeros follow it.
        """
        r = read_forward_by_dots(record)
        N, P, K, C, KW, OW, line, size = r.N, r.P, r.K, r.C, r.KW, r.OW, r.line, r.size
        x_row, y_row, yt_row = r.LI * line * size, P * size, N * size
        yt = r.yt + worker * r.most_run * yt_row
        one = r.segments + worker * r.most_segments * SEGMENT * 8
        table = array_at(one, (1, SEGMENT), np.int64)
        table[0, 0], table[0, 1], table[0, 2], table[0, 3] = 0, 0, 1, 0
        row_start, row_tap, row_line = r.row_start, r.row_tap, r.row_line
        col_start, col_input, col_tap, col_taps = r.col_start, r.col_input, r.col_tap, r.col_taps
        total = -(-P // r.task_positions)
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            end_of_task = min(P, (task + 1) * r.task_positions)
            for begin in range(task * r.task_positions, end_of_task, r.most_run):
                run = min(r.most_run, end_of_task - begin)
                # Each sum starts from its bias.
                call(
                    r.multiply, r.bias + begin * r.bias_step, r.bias_step, 0, r.ones, 0, r.panel_bytes, one, 1,
                    yt, yt_row, r.ones + yt_row, 0, run, N, yt, 0, 0, 0, ONE, NO_CLAMP, 1, 0, 0, 0, 0, 0,
                )  # fmt: skip
                for p in range(begin, begin + run):
                    o = p // OW
                    j = p - o * OW
                    weights = r.kernel + (int_at(r.sets, p) if r.sets else p) * K * size
                    for row in range(int_at(row_start, o), int_at(row_start, o + 1)):
                        for col in range(int_at(col_start, j), int_at(col_start, j + 1)):
                            at = r.x + (int_at(row_line, row) * line + int_at(col_input, col) * C) * size
                            k = (int_at(row_tap, row) * KW + int_at(col_tap, col)) * C
                            call(
                                r.dots, at, x_row, weights + k * size, yt + (p - begin) * yt_row,
                                N, int_at(col_taps, col) * C, at + r.stride * C * size, 0, ONE,
                            )  # fmt: skip
                if r.lower_clamp != NO_CLAMP:
                    call(
                        r.multiply, 0, 0, 0, 0, 0, 0, one, 0, yt, yt_row, yt, yt_row, run, N, yt, 0, 0, 0,
                        ONE, r.lower_clamp, 1, 0, 0, 0, 0, 0,
                    )  # fmt: skip
                call(r.transpose, yt, yt_row, r.y + begin * size, y_row, run, N)
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(forward_by_dots, FORWARD_BY_DOTS)
