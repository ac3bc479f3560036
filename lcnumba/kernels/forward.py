"""Forward by lines on register tiles; the tables come from `lcnumba.connectivity.geometry`.

Each factory here makes the kernel for one dtype and vector length (`lcnumba.kernels.vectors`). Shapes are
runtime arguments, so that few kernels are compiled.
"""

import functools

import numpy as np

from lcnumba.kernels.jit import Kernel, next_task, specialised
from lcnumba.kernels.movement import transpose, zero_padding_lanes
from lcnumba.kernels.records import COLUMNS, ROWS, Fields, array_at, reader, tables_3, tables_4
from lcnumba.kernels.tile import B_ROWS, NEXT_A, PANEL, SEGMENT, multiply

# How many rows of W to prefetch; 16 to 64 are equally fast, fewer are slower.
PREFETCH_ROWS = 32


COMMON = f"x kernel bias y bias_step N P K F LI LO OW line C KW task_positions segments most_segments {ROWS} {COLUMNS}"
FORWARD = Fields(f"{COMMON} width k_block", "lower_clamp")
FORWARD_BY_BATCH = Fields(f"{COMMON} batch_tile xt cached_lines cache_keys yt", "lower_clamp")

read_forward, read_forward_by_batch = reader(FORWARD), reader(FORWARD_BY_BATCH)


@functools.cache
def forward(SIZE, VL):
    """Make the forward kernel."""
    number = np.float32 if SIZE == 4 else np.float64
    one, no_clamp, mode, panel = number(1), number(-np.inf), B_ROWS, PANEL * VL

    def forward(worker, record):
        """Compute y, `task_positions` positions and `width` filters (a multiple of VL, or all) per task.

        x (N, LI, W*C), kernel (P, K, F), bias (P, F), or one row with a bias_step of 0, y (N, P, F); `row_*` are the
        triples by output line, `col_*` the segments by output column. y = max(lower_clamp, ...).

        The sum of a position runs over its segments, in k-blocks of at most `k_block` entries, so that the rows of W
        of a k-block stay in cache for all rows of x. segments (workers, most_segments, SEGMENT) is scratch.
        """
        r = read_forward(record)
        N, P, K, F, C, KW, OW, line, width, k_block = r.N, r.P, r.K, r.F, r.C, r.KW, r.OW, r.line, r.width, r.k_block
        x, x_row, y_row, row_bytes, lower_clamp = r.x, r.LI * line * SIZE, P * F * SIZE, F * SIZE, number(r.lower_clamp)
        table = array_at(r.segments + worker * r.most_segments * SEGMENT * 8, (r.most_segments, SEGMENT), np.int64)
        row_start, row_tap, row_line = tables_3(r.LO, r.row_start, r.row_tap, r.row_line)
        col_start, col_input, col_tap, col_taps = tables_4(OW, r.col_start, r.col_input, r.col_tap, r.col_taps)
        parts = -(-F // width)
        total = -(-P // r.task_positions) * parts
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            block = task // parts
            left = (task - block * parts) * width
            columns = min(F - left, width)
            for p in range(block * r.task_positions, min(P, (block + 1) * r.task_positions)):
                o = p // OW
                j = p - o * OW
                out = r.y + (p * F + left) * SIZE
                init, init_row = r.bias + p * r.bias_step + left * SIZE, 0
                weights = r.kernel + (p * K * F + left) * SIZE
                count, entries = 0, 0
                for row in range(row_start[o], row_start[o + 1]):
                    row_at = row_line[row] * line
                    row_k = row_tap[row] * KW
                    for col in range(col_start[j], col_start[j + 1]):
                        at = row_at + col_input[col] * C
                        k = (row_k + col_tap[col]) * C
                        end = k + col_taps[col] * C
                        while k < end:
                            length = min(end - k, k_block - entries)
                            table[count, 0], table[count, 1], table[count, 2] = at * SIZE, k * row_bytes, length
                            count, entries, k, at = count + 1, entries + length, k + length, at + length
                            if entries == k_block:
                                prefetch = (entries if columns > panel else PREFETCH_ROWS) * row_bytes
                                multiply(
                                    SIZE, VL, mode, x, x_row, SIZE, weights, row_bytes, table.ctypes.data, count,
                                    out, y_row, init, init_row, N, columns, prefetch, 0, 0, one, no_clamp,
                                )  # fmt: skip
                                init, init_row, count, entries = out, y_row, 0, 0
                prefetch = (entries if columns > panel else PREFETCH_ROWS) * row_bytes
                multiply(
                    SIZE, VL, mode, x, x_row, SIZE, weights, row_bytes, table.ctypes.data, count,
                    out, y_row, init, init_row, N, columns, prefetch, 0, 0, one, lower_clamp,
                )  # fmt: skip
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(forward, SIZE, VL), FORWARD)


@functools.cache
def forward_by_batch(SIZE, VN):
    """Make the forward kernel for few filters, with vectors of VN samples."""
    number = np.float32 if SIZE == 4 else np.float64
    one, mode, clear = number(1), NEXT_A, zero_padding_lanes(SIZE, VN)

    def forward_by_batch(worker, record):
        """Compute the same as `forward`, in batch tiles of `batch_tile` samples, from transposed lines of x.

        Scratch per worker: segments (most_segments, SEGMENT); xt (cached_lines, W*C, batch_tile), a cache of transposed
        lines of x, as many as an output line reads, and its cache_keys (cached_lines), initially -1; yt (F,
        batch_tile).
        """
        r = read_forward_by_batch(record)
        N, P, K, F, C, KW, OW, LI, line = r.N, r.P, r.K, r.F, r.C, r.KW, r.OW, r.LI, r.line
        batch_tile, cached_lines, lower_clamp = r.batch_tile, r.cached_lines, number(r.lower_clamp)
        tile_bytes, x_row, y_row = batch_tile * SIZE, LI * line * SIZE, P * F * SIZE
        xt, yt_at = r.xt + worker * cached_lines * line * tile_bytes, r.yt + worker * F * tile_bytes
        yt = array_at(yt_at, (F, batch_tile), number)
        cache_keys = array_at(r.cache_keys + worker * cached_lines * 8, cached_lines, np.int64)
        table = array_at(r.segments + worker * r.most_segments * SEGMENT * 8, (r.most_segments, SEGMENT), np.int64)
        row_start, row_tap, row_line = tables_3(r.LO, r.row_start, r.row_tap, r.row_line)
        col_start, col_input, col_tap, col_taps = tables_4(OW, r.col_start, r.col_input, r.col_tap, r.col_taps)
        parts = -(-P // r.task_positions)
        total = -(-N // batch_tile) * parts
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            begin = task // parts * batch_tile
            count, part = min(batch_tile, N - begin), task % parts
            for p in range(part * r.task_positions, min(P, (part + 1) * r.task_positions)):
                o = p // OW
                j = p - o * OW
                blocks = 0
                for row in range(row_start[o], row_start[o + 1]):
                    i, tap = row_line[row], row_tap[row]
                    cache_slot = i % cached_lines
                    if cache_keys[cache_slot] != i * N + begin:
                        source = r.x + (begin * LI + i) * line * SIZE
                        transposed = xt + cache_slot * line * tile_bytes
                        transpose(SIZE, source, x_row, transposed, tile_bytes, count, line)
                        clear(transposed, tile_bytes, line, count)
                        cache_keys[cache_slot] = i * N + begin
                    for col in range(col_start[j], col_start[j + 1]):
                        table[blocks, 0] = (tap * KW + col_tap[col]) * C * F * SIZE
                        table[blocks, 1] = (cache_slot * line + col_input[col] * C) * tile_bytes
                        table[blocks, 2], table[blocks, 3] = col_taps[col] * C, 0
                        blocks += 1
                bias = array_at(r.bias + p * r.bias_step, F, number)
                for f in range(F):
                    for n in range(batch_tile):
                        yt[f, n] = bias[f]
                weights = r.kernel + p * K * F * SIZE
                multiply(
                    SIZE, VN, mode, weights, SIZE, F * SIZE, xt, tile_bytes,
                    table.ctypes.data, blocks, yt_at, tile_bytes, yt_at, tile_bytes,
                    F, -(-count // VN) * VN, weights, 0, 0, one, lower_clamp,
                )  # fmt: skip
                transpose(SIZE, yt_at, tile_bytes, r.y + (begin * P + p) * F * SIZE, y_row, F, count)
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(forward_by_batch, SIZE, VN), FORWARD_BY_BATCH)
