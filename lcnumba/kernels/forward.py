"""Forward by lines on register tiles; the tables come from `lcnumba.connectivity.geometry`.

Each factory here makes the kernel for one dtype and vector length (`lcnumba.kernels.vectors`). Shapes are
runtime arguments, so that few kernels are compiled.
"""

import functools

import numpy as np

from lcnumba.kernels.block import zero_padding_lanes
from lcnumba.kernels.jit import next_task, specialised, tasks
from lcnumba.kernels.movement import transpose
from lcnumba.kernels.tile import B_ROWS, NEXT_A, PANEL, multiply

# How many rows of W to prefetch; 16 to 64 are equally fast, fewer are slower.
PREFETCH_ROWS = 32


@functools.cache
def forward(SIZE, VL):
    """Make the forward kernel."""
    number = np.float32 if SIZE == 4 else np.float64
    one, no_clamp, mode, panel = number(1), number(-np.inf), B_ROWS, PANEL * VL

    def forward(
        worker, counter, x, kernel, bias, row_start, row_tap, row_line, col_start, col_input, col_tap, col_taps,
        C, KW, task_positions, width, k_block, lower_clamp, segments, y,
    ):  # fmt: skip
        """Compute y, `task_positions` positions and `width` filters (a multiple of VL, or all) per task.

        x (N, LI, W*C), kernel (P, K, F), bias (P, F) or zeros (1, F), y (N, P, F); `row_*` are the triples by output
        line, `col_*` the segments by output column. y = max(lower_clamp, ...).

        The sum of a position runs over its segments, in k-blocks of at most `k_block` entries, so that the rows of W
        of a k-block stay in cache for all rows of x. segments (workers, taps + 1, SEGMENT) is scratch.
        """
        N, P, F = y.shape
        K, line = kernel.shape[1], x.shape[2]
        OW = len(col_start) - 1
        bias_row = 0 if len(bias) < P else F * SIZE
        table = segments[worker]
        parts = -(-F // width)
        total = -(-P // task_positions) * parts
        task = next_task(counter, worker, total)
        while task >= 0:
            block = task // parts
            left = (task - block * parts) * width
            columns = min(F - left, width)
            for p in range(block * task_positions, min(P, (block + 1) * task_positions)):
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
                            length = min(end - k, k_block - entries)
                            table[count, 0], table[count, 1], table[count, 2] = at * SIZE, k * F * SIZE, length
                            count, entries, k, at = count + 1, entries + length, k + length, at + length
                            if entries == k_block:
                                prefetch = (entries if columns > panel else PREFETCH_ROWS) * F * SIZE
                                multiply(
                                    SIZE, VL, mode, x.ctypes.data, x.shape[1] * line * SIZE, SIZE,
                                    weights, F * SIZE, table.ctypes.data, count, out, P * F * SIZE,
                                    init, init_row, N, columns, prefetch, 0, 0, one, no_clamp,
                                )  # fmt: skip
                                init, init_row, count, entries = out, P * F * SIZE, 0, 0
                prefetch = (entries if columns > panel else PREFETCH_ROWS) * F * SIZE
                multiply(
                    SIZE, VL, mode, x.ctypes.data, x.shape[1] * line * SIZE, SIZE,
                    weights, F * SIZE, table.ctypes.data, count, out, P * F * SIZE,
                    init, init_row, N, columns, prefetch, 0, 0, one, lower_clamp,
                )  # fmt: skip
            task = next_task(counter, worker, total)

    return tasks(specialised(forward, SIZE, VL))


@functools.cache
def forward_by_batch(SIZE, VN):
    """Make the forward kernel for few filters, with vectors of VN samples."""
    number = np.float32 if SIZE == 4 else np.float64
    one, mode, clear = number(1), NEXT_A, zero_padding_lanes(SIZE, VN)

    def forward_by_batch(
        worker, counter, x, kernel, bias, row_start, row_tap, row_line, col_start, col_input, col_tap, col_taps,
        C, KW, task_positions, batch_tile, lower_clamp, segments, xt, cache_keys, yt, y,
    ):  # fmt: skip
        """Compute the same as `forward`, in batch tiles of `batch_tile` samples, from transposed lines of x.

        Scratch per worker: segments (segments, 4); xt (cached_lines, W*C, batch_tile), a cache of transposed lines
        of x, as many as an output line reads, and its cache_keys (cached_lines), initially -1; yt (F, batch_tile).
        """
        N, P, F = y.shape
        K, LI, line = kernel.shape[1], x.shape[1], x.shape[2]
        OW = len(col_start) - 1
        cached_lines, tile_bytes = cache_keys.shape[1], batch_tile * SIZE
        xt_at, out = (
            xt.ctypes.data + worker * cached_lines * line * tile_bytes,
            yt.ctypes.data + worker * F * tile_bytes,
        )
        table = segments[worker]
        parts = -(-P // task_positions)
        total = -(-N // batch_tile) * parts
        task = next_task(counter, worker, total)
        while task >= 0:
            begin = task // parts * batch_tile
            count, part = min(batch_tile, N - begin), task % parts
            for p in range(part * task_positions, min(P, (part + 1) * task_positions)):
                o = p // OW
                j = p - o * OW
                blocks = 0
                for row in range(row_start[o], row_start[o + 1]):
                    i = row_line[row]
                    cache_slot = i % cached_lines
                    if cache_keys[worker, cache_slot] != i * N + begin:
                        source = x.ctypes.data + (begin * LI + i) * line * SIZE
                        transposed = xt_at + cache_slot * line * tile_bytes
                        transpose(SIZE, source, LI * line * SIZE, transposed, tile_bytes, count, line)
                        clear(transposed, tile_bytes, line, count)
                        cache_keys[worker, cache_slot] = i * N + begin
                    for col in range(col_start[j], col_start[j + 1]):
                        table[blocks, 0] = (row_tap[row] * KW + col_tap[col]) * C * F * SIZE
                        table[blocks, 1] = (cache_slot * line + col_input[col] * C) * tile_bytes
                        table[blocks, 2], table[blocks, 3] = col_taps[col] * C, 0
                        blocks += 1
                for f in range(F):
                    bias_value = bias[p, f] if len(bias) == P else bias[0, f]
                    for n in range(batch_tile):
                        yt[worker, f, n] = bias_value
                weights = kernel.ctypes.data + p * K * F * SIZE
                multiply(
                    SIZE, VN, mode, weights, SIZE, F * SIZE, xt_at, tile_bytes,
                    table.ctypes.data, blocks, out, tile_bytes, out, tile_bytes,
                    F, -(-count // VN) * VN, weights, 0, 0, one, lower_clamp,
                )  # fmt: skip
                target = y.ctypes.data + (begin * P + p) * F * SIZE
                transpose(SIZE, out, tile_bytes, target, P * F * SIZE, F, count)
            task = next_task(counter, worker, total)

    return tasks(specialised(forward_by_batch, SIZE, VN))
