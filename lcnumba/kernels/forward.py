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

COMMON = (
    "size x kernel bias y bias_step lower_clamp N P K F LI LO OW line C KW task_positions segments most_segments "
    f"multiply panel_bytes {ROWS} {COLUMNS}"
)
FORWARD = Fields(f"{COMMON} width k_block panels pack_panels")
FORWARD_BY_BATCH = Fields(f"{COMMON} VN transpose batch_tile xt cached_lines cache_keys yt ones")

read_forward, read_forward_by_batch = reader(FORWARD.dtype), reader(FORWARD_BY_BATCH.dtype)


@functools.cache
def forward():
    """Make the forward kernel."""

    def forward(worker, record):
        """Compute y, `task_positions` positions and `width` filters (a multiple of a vector, or all) per task.

        x (N, LI, W*C), kernel (P, K, F), bias (P, F), or one row with a bias_step of 0, y (N, P, F); `row_*` are the
        triples by output line, `col_*` the segments by output column. y = max(lower_clamp, ...).

        The sum of a position runs over its segments, in k-blocks of at most `k_block` entries, so that the rows of W
        of a k-block stay in cache for all rows of x. segments (workers, most_segments, SEGMENT) is scratch.
        """
        r = read_forward(record)
        N, P, K, F, C, KW, OW, line, width, k_block = r.N, r.P, r.K, r.F, r.C, r.KW, r.OW, r.line, r.width, r.k_block
        size, x, x_row, y_row, row_bytes = r.size, r.x, r.LI * line * r.size, P * F * r.size, F * r.size
        segments = r.segments + worker * r.most_segments * SEGMENT * 8
        table = array_at(segments, (r.most_segments, SEGMENT), np.int64)
        b_row, b_panel, panels_bytes = row_bytes, r.panel_bytes, 0
        if r.panels:
            b_row, b_panel = r.panel_bytes, k_block * r.panel_bytes
            panels_bytes = -(-min(width, F) * size // r.panel_bytes) * b_panel
        # The rows of W that follow are prefetched into the L2 cache; the tiles of all rows of x share this.
        prefetch_row = r.panel_bytes // N
        row_start, row_tap, row_line = r.row_start, r.row_tap, r.row_line
        col_start, col_input, col_tap, col_taps = r.col_start, r.col_input, r.col_tap, r.col_taps
        parts = -(-F // width)
        total = -(-P // r.task_positions) * parts
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            block = task // parts
            left = (task - block * parts) * width
            filters = min(F - left, width)
            for p in range(block * r.task_positions, min(P, (block + 1) * r.task_positions)):
                o = p // OW
                j = p - o * OW
                out = r.y + (p * F + left) * size
                init, init_row = r.bias + p * r.bias_step + left * size, 0
                weights = r.kernel + (p * K * F + left) * size
                b = r.panels + worker * panels_bytes if r.panels else weights
                count, entries = 0, 0
                for row in range(int_at(row_start, o), int_at(row_start, o + 1)):
                    row_at = int_at(row_line, row) * line
                    row_k = int_at(row_tap, row) * KW
                    for col in range(int_at(col_start, j), int_at(col_start, j + 1)):
                        at = row_at + int_at(col_input, col) * C
                        k = (row_k + int_at(col_tap, col)) * C
                        end = k + int_at(col_taps, col) * C
                        while k < end:
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
                            count, entries, k, at = count + 1, entries + length, k + length, at + length
                            if entries == k_block:
                                ahead = weights + entries * row_bytes
                                call(
                                    r.multiply, x, x_row, size, b, b_row, b_panel, segments, count,
                                    out, y_row, init, init_row, N, filters, ahead, prefetch_row, row_bytes, 0,
                                    ONE, NO_CLAMP,
                                )  # fmt: skip
                                init, init_row, count, entries = out, y_row, 0, 0
                ahead = weights + entries * row_bytes
                call(
                    r.multiply, x, x_row, size, b, b_row, b_panel, segments, count,
                    out, y_row, init, init_row, N, filters, ahead, prefetch_row, row_bytes, 0,
                    ONE, r.lower_clamp,
                )  # fmt: skip
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(forward, FORWARD)


@functools.cache
def forward_by_batch():
    """Make the forward kernel for few filters, with vectors of VN samples."""

    def forward_by_batch(worker, record):
        """Compute the same as `forward`, in batch tiles of `batch_tile` samples, from transposed lines of x.

        Scratch per worker: segments (most_segments, SEGMENT); xt (cached_lines, W*C, batch_tile), a cache of transposed
        lines of x, as many as an output line reads, and its cache_keys (cached_lines); yt (F,
        batch_tile). ones (batch_tile) holds ones, by which the bias is multiplied, and zeros follow it.
        """
        r = read_forward_by_batch(record)
        N, P, K, F, C, KW, OW, LI, line = r.N, r.P, r.K, r.F, r.C, r.KW, r.OW, r.LI, r.line
        size, batch_tile, cached_lines, VN = r.size, r.batch_tile, r.cached_lines, r.VN
        tile_bytes, x_row, y_row = batch_tile * size, LI * line * size, P * F * size
        xt, yt = r.xt + worker * cached_lines * line * tile_bytes, r.yt + worker * F * tile_bytes
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
            for p in range(part * r.task_positions, min(P, (part + 1) * r.task_positions)):
                o = p // OW
                j = p - o * OW
                weights = r.kernel + p * K * F * size
                # The bias is the first entry of the sum.
                table[0, 0], table[0, 1] = r.bias + p * r.bias_step - weights, r.ones - xt
                table[0, 2], table[0, 3] = 1, 0
                blocks = 1
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
                        table[blocks, 0] = (tap * KW + int_at(col_tap, col)) * C * F * size
                        table[blocks, 1] = (cache_slot * line + int_at(col_input, col) * C) * tile_bytes
                        table[blocks, 2], table[blocks, 3] = int_at(col_taps, col) * C, 0
                        blocks += 1
                call(
                    r.multiply, weights, size, F * size, xt, tile_bytes, r.panel_bytes, segments, blocks,
                    yt, tile_bytes, r.ones + tile_bytes, 0, F, vectors, weights, 0, 0, 0, ONE, r.lower_clamp,
                )  # fmt: skip
                call(r.transpose, yt, tile_bytes, r.y + (begin * P + p) * F * size, y_row, F, count)
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(forward_by_batch, FORWARD_BY_BATCH)
