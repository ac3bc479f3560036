"""The gradient of weights that positions share, one block of a set's weights at a time, stored or applied.

`backward.py` has it for positions with weights of their own, where each block of weights reads one input line. The sum
for a block of shared weights runs over all positions of its set, so tasks here own blocks of weights, not input lines.
"""

import functools

import numpy as np

from lcnumba.kernels.jit import Kernel, call, next_task
from lcnumba.kernels.movement import clear
from lcnumba.kernels.records import NO_CLAMP, ONE, Fields, array_at, int_at, reader
from lcnumba.kernels.rules import FACTOR, GRADIENT
from lcnumba.kernels.tile import SEGMENT
from lcnumba.kernels.weight_gradient import EACH_CALL, FIELDS

__all__ = ["AHEAD_ROWS", "shared_gradient"]

# How many rows of the weights are prefetched ahead: those of two tiles.
AHEAD_ROWS = 24

SETS = "kind_tap kind_taps set_start set_line set_column set_input set_length"
SHARED_GRADIENT = Fields(
    f"{FIELDS} {SETS} S kinds tap_lines line_table row_block width most_segments most_summed segments transposed ahead",
    each_call=EACH_CALL,
)
read = reader(SHARED_GRADIENT.dtype)


@functools.cache
def shared_gradient():
    """Make the kernel."""

    def shared_gradient(worker, record):
        """Compute the kernel's gradient or update; one task per set, tap line, `row_block` of its rows, and filters.

        x (N, LI, W*C), dy (N, P, F), target and its states (S, K, F). The rows of a tap line are its KW*E entries.
        `line_table` (LO, tap_lines) is the input line that a tap line of an output line reads, or -1; `kind_*` and
        `set_*` are the table of what the positions of each set read (`SetSegments`). rule, exists and factor are as
        for `backward`; there is no dx here. A task has `width` filters, all of them if there are groups or a mask.

        Each sum runs over samples, then over the runs of positions, `most_summed` terms or `most_segments` runs at a
        time, so that what a tile reads again for its next rows is in cache. For few filters (`transposed`) the
        product is that of filters and rows. Short runs of dy, whose samples are far apart, are packed.

        A plain step of SGD adds to the weights as it computes if each sum is one product (for each kind), of which
        every run prefetches `ahead` bytes of weights; else `ahead` is 0, and the sums are finished first: to add them
        part by part would round each part to the precision of a weight.

        Scratch per worker: segments (most_segments, SEGMENT), packed_dy (2*most_summed, width) or 0, and gradient: the
        block (row_block, width), followed by its transpose.
        """
        r = read(record)
        N, P, K, F, LI, OW, line, C, KW = r.N, r.P, r.K, r.F, r.LI, r.OW, r.line, r.C, r.KW
        G, E, M, size, rule, row_block = r.G, r.E, r.F // r.G, r.size, r.rule, r.row_block
        row_bytes, entry_bytes, step_bytes = F * size, r.entry_step * size, r.stride * C * size
        segments = r.segments + worker * r.most_segments * SEGMENT * 8
        table = array_at(segments, (r.most_segments, SEGMENT), np.int64)
        scratch = r.gradient + worker * r.gradient_bytes
        flipped, flipped_row = scratch + row_block * r.width * size, row_block * size
        kind_tap, kind_taps, set_start = r.kind_tap, r.kind_taps, r.set_start
        set_line, set_column, set_input, set_length = r.set_line, r.set_column, r.set_input, r.set_length
        dy, dy_row = r.dy, row_bytes
        if r.packed_dy:
            dy, dy_row = r.packed_dy + worker * 2 * r.most_summed * r.width * size, r.width * size
        adds = rule == FACTOR and r.ahead > 0
        factor = r.factor if adds else ONE
        entries = KW * E
        row_parts, column_parts = -(-entries // row_block), -(-F // r.width)
        total = r.S * r.tap_lines * row_parts * column_parts
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            block, left = task // column_parts, task % column_parts * r.width
            row_part, tap_line = block % row_parts, block // row_parts % r.tap_lines
            of_set = block // (row_parts * r.tap_lines)
            first, width = row_part * row_block, min(r.width, F - left)
            rows = min(row_block, entries - first)
            at = ((of_set * K + tap_line * entries + first) * F + left) * size
            out, out_row = r.target + at, row_bytes
            if rule != GRADIENT and not adds:
                out, out_row = scratch, width * size
            if r.transposed:
                clear(flipped, flipped_row, F, rows * size)
            elif not adds:
                clear(out, out_row, rows, width * size)
            for kind in range(r.kinds):
                begin_of_kind = int_at(kind_tap, kind) * E
                begin = max(first, begin_of_kind)
                n_rows = min(first + rows, begin_of_kind + int_at(kind_taps, kind) * E) - begin
                if n_rows <= 0:
                    continue
                x_at = r.x + (begin - begin_of_kind) * entry_bytes
                count, summed, group = 0, 0, of_set * r.kinds + kind
                last = int_at(set_start, group + 1) - 1
                for n in range(N):
                    for m in range(int_at(set_start, group), last + 1):
                        o = int_at(set_line, m)
                        i = int_at(r.line_table, o * r.tap_lines + tap_line)
                        length, done = int_at(set_length, m), 0
                        if i < 0:
                            length = 0
                        source = ((n * LI + i) * line + int_at(set_input, m) * C) * size
                        products = ((n * P + o * OW + int_at(set_column, m)) * F + left) * size
                        finished = n == N - 1 and m == last
                        while done < length or (finished and count):
                            if done < length:
                                piece = min(length - done, r.most_summed)
                                table[count, 0] = source + done * step_bytes
                                table[count, 1] = products + done * row_bytes
                                if r.packed_dy:
                                    call(
                                        r.pack, r.dy + table[count, 1], 0, row_bytes, dy + summed * dy_row, dy_row,
                                        piece, width, P * row_bytes,
                                    )  # fmt: skip
                                    table[count, 1] = summed * dy_row
                                table[count, 2], table[count, 3] = piece, count * r.ahead
                                count, summed, done = count + 1, summed + piece, done + piece
                            if count < r.most_segments and summed < r.most_summed and (done < length or not finished):
                                continue
                            if r.transposed:
                                for e in range(count):
                                    table[e, 0], table[e, 1] = table[e, 1], table[e, 0]
                                c = flipped + (begin - first) * size
                                call(
                                    r.multiply, r.dy, size, row_bytes, x_at, step_bytes, r.panel_bytes, segments, count,
                                    c, flipped_row, c, flipped_row, F, n_rows, r.dy, 0, 0, 0, ONE, NO_CLAMP,
                                    1, 0, 0, 0, 0, 0,
                                )  # fmt: skip
                            else:
                                c = out + (begin - first) * out_row
                                call(
                                    r.multiply, x_at, entry_bytes, step_bytes, dy, dy_row, r.panel_bytes, segments,
                                    count, c, out_row, c, out_row, n_rows, M if G > 1 else width,
                                    c + AHEAD_ROWS * out_row, out_row, 0, 0, factor, NO_CLAMP,
                                    G, E * size, M * size, M * size, M * size, 0,
                                )  # fmt: skip
                            count, summed = 0, 0
            if r.transposed:
                call(r.transpose, flipped, flipped_row, out, out_row, F, rows)
            if rule != GRADIENT and not adds:
                # Whole rows are contiguous in the weights, parts of them are not.
                pieces, numbers = (1, rows * F) if width == F else (rows, width)
                for row in range(pieces):
                    place = at + row * row_bytes
                    call(
                        r.formula, r.scalars, r.target + place, out + row * out_row, r.state_1 + place,
                        r.state_2 + place, numbers,
                    )  # fmt: skip
            if r.exists:
                call(r.clear_absent, record, at, rows)
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(shared_gradient, SHARED_GRADIENT)
