"""Kernels of connections that are given as a list, on register tiles: forward by outputs, backward by inputs.

Samples are innermost: inputs are transposed to rows of samples, so that any connection reads contiguous vectors. Forward
needs the rows of all inputs at once, for as many samples as fit into `xt`. Backward goes by blocks of inputs, whose rows
it transposes for itself: a block owns dx of its inputs, and all weights that read them.

`plain.py` has the same without register tiles. The tables are those of `lcnumba.connectivity.topology.Segments`.
"""

import functools

import numpy as np

from lcnumba.kernels.jit import Kernel, call, code_address, compiled, next_task, specialised
from lcnumba.kernels.records import NO_CLAMP, ONE, Fields, array_at, int_at, jitted, reader, zero
from lcnumba.kernels.rules import FORMULA
from lcnumba.kernels.tile import SEGMENT

__all__ = ["backward", "cast", "forward", "transpose"]

# What all three read of an array of samples: the bytes of an element and of a row, and `cast`, the address of the
# function that casts it to floating point; 0 if it needs none.
SAMPLES = "size itemsize row cast packed transpose"
TRANSPOSE = Fields(f"{SAMPLES} entries width tile_row", each_call="source target count")
FORWARD = Fields(
    "size C F outputs start input weight task_start tasks tile_row y_row ones segments most_segments yt most_run "
    "multiply panel_bytes transpose",
    each_call="xt kernel bias y count",
)
BACKWARD = Fields(
    f"{SAMPLES} N I C F width blocks block_start by_block xt dxt gradient gradient_bytes filters multiply panel_bytes "
    "dots",
    each_call="x kernel dyt dx rule formula scalars target state_1 state_2",
)
read_transpose, read_forward, read_backward = (reader(f.dtype) for f in (TRANSPOSE, FORWARD, BACKWARD))


@functools.cache
def cast(SIZE, signed):
    """Compile the function that casts rows of integers of 8 bits, or booleans, to elements of SIZE bytes."""
    number, integer = np.float32 if SIZE == 4 else np.float64, np.int8 if signed else np.uint8

    def cast(source, source_row, target, target_row, rows, cols):
        for r in range(rows):
            given = array_at(source + r * source_row, cols, integer)
            made = array_at(target + r * target_row, cols, number)
            for e in range(cols):
                made[e] = given[e]

    return code_address(compiled(specialised(cast, SIZE, signed)), 6)


@jitted
def transposed(r, worker, source, count, entries, target, target_row, most):
    """Transpose `entries` columns of `count` samples at `source`; `most` bytes of scratch per worker for a cast."""
    if r.cast:
        packed, packed_row = r.packed + worker * most, entries * r.size
        call(r.cast, source, r.row, packed, packed_row, count, entries)
        call(r.transpose, packed, packed_row, target, target_row, count, entries)
    else:
        call(r.transpose, source, r.row, target, target_row, count, entries)


@functools.cache
def transpose():
    """Make the kernel that transposes samples."""

    def transpose_samples(worker, record):
        """target (entries, count), with rows of `tile_row` bytes, from source (count, entries); `width` per task.

        Scratch per worker: packed (tile_row / size, width), for a cast.
        """
        r = read_transpose(record)
        total = -(-r.entries // r.width)
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            first = task * r.width
            transposed(
                r, worker, r.source + first * r.itemsize, r.count, min(r.width, r.entries - first),
                r.target + first * r.tile_row, r.tile_row, r.tile_row * r.width,
            )  # fmt: skip
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(transpose_samples, TRANSPOSE)


@functools.cache
def forward():
    """Make the forward kernel."""

    def forward_directed(worker, record):
        """Compute y of `count` samples, the outputs ``task_start[t]:task_start[t + 1]`` per task.

        xt (inputs*C, count) has rows of `tile_row` bytes, kernel (connections, C, F), bias (outputs, F) or 0.

        Scratch per worker: segments (most_segments + 1, SEGMENT); yt (most_run, F, count), outputs that are transposed
        together. ones (count) holds ones, by which the bias is multiplied, and zeros follow it.
        """
        r = read_forward(record)
        C, F, size, tile_row = r.C, r.F, r.size, r.tile_row
        yt = r.yt + worker * r.most_run * F * tile_row
        segments = r.segments + worker * (r.most_segments + 1) * SEGMENT * 8
        table = array_at(segments, (r.most_segments + 1, SEGMENT), np.int64)
        zeros = r.ones + tile_row
        task = next_task(r.counter, r.workers, worker, r.tasks)
        while task >= 0:
            end_of_task = int_at(r.task_start, task + 1)
            for first in range(int_at(r.task_start, task), end_of_task, r.most_run):
                run = min(r.most_run, end_of_task - first)
                for o in range(first, first + run):
                    out = yt + (o - first) * F * tile_row
                    init, init_row = zeros, 0
                    s, end = int_at(r.start, o), int_at(r.start, o + 1)
                    weights = r.kernel + int_at(r.weight, s) * C * F * size
                    count = 0
                    if r.bias:
                        table[0, 0], table[0, 1] = r.bias + o * F * size - weights, r.ones - r.xt
                        table[0, 2], table[0, 3] = 1, 0
                        count = 1
                    while True:
                        # Sums over very many segments are split, always at the same places.
                        last = min(end, s + r.most_segments)
                        while s < last:
                            weight = int_at(r.weight, s)
                            table[count, 0] = r.kernel + weight * C * F * size - weights
                            table[count, 1] = int_at(r.input, s) * C * tile_row
                            table[count, 2], table[count, 3] = (int_at(r.weight, s + 1) - weight) * C, 0
                            s, count = s + 1, count + 1
                        call(
                            r.multiply, weights, size, F * size, r.xt, tile_row, r.panel_bytes, segments, count,
                            out, tile_row, init, init_row, F, r.count, out, 0, 0, 0, ONE, NO_CLAMP, 1, 0, 0, 0, 0, 0,
                        )  # fmt: skip
                        init, init_row, count = out, tile_row, 0
                        if s == end:
                            break
                call(r.transpose, yt, tile_row, r.y + first * F * size, r.y_row, run * F, r.count)
            task = next_task(r.counter, r.workers, worker, r.tasks)

    return Kernel(forward_directed, FORWARD)


@functools.cache
def backward():
    """Make the kernel of both gradients."""

    def backward_directed(worker, record):
        """Compute dx, unless its address is 0, and the gradient in target, unless that is 0, a block of inputs per task.

        x and dx (N, I*C), kernel and target (connections, C, F), dyt (outputs*F, N). The gradient is stored in target,
        or target is updated by it if the rule is FORMULA, after dx of the same weights.

        Scratch per worker: xt and dxt (width*C, N), the block's x and dx; gradient (width*C, F), that of a segment;
        packed (N, width*C), for a cast.
        """
        r = read_backward(record)
        N, C, F, size = r.N, r.C, r.F, r.size
        tile_row, most, dx_row = N * size, r.width * C * N * size, r.I * C * size
        xt, dxt, gradient = r.xt + worker * most, r.dxt + worker * most, r.gradient + worker * r.gradient_bytes
        task = next_task(r.counter, r.workers, worker, r.blocks)
        while task >= 0:
            begin = task * r.width
            entries = min(r.width, r.I - begin) * C
            if r.target:
                transposed(r, worker, r.x + begin * C * r.itemsize, N, entries, xt, tile_row, most)
            if r.dx:
                zero(dxt, entries * tile_row)
            for s in range(int_at(r.block_start, task), int_at(r.block_start, task + 1)):
                row = r.by_block + s * 32
                dy = r.dyt + int_at(row, 0) * F * tile_row
                at = int_at(row, 1) * C * F * size
                here = (int_at(row, 2) - begin) * C * tile_row
                rows = int_at(row, 3) * C
                if r.dx:
                    call(
                        r.multiply, r.kernel + at, F * size, size, dy, tile_row, r.panel_bytes, r.filters, 1,
                        dxt + here, tile_row, dxt + here, tile_row, rows, N, dy, 0, 0, 0,
                        ONE, NO_CLAMP, 1, 0, 0, 0, 0, 0,
                    )  # fmt: skip
                if r.target:
                    out = gradient if r.rule == FORMULA else r.target + at
                    zero(out, rows * F * size)
                    if F == 1:
                        call(r.dots, xt + here, tile_row, dy, out, rows, N, xt + here, 0, ONE)
                    else:
                        for e in range(rows):
                            call(r.dots, dy, tile_row, xt + here + e * tile_row, out + e * F * size, F, N, dy, 0, ONE)
                    if r.rule == FORMULA:
                        call(r.formula, r.scalars, r.target + at, out, r.state_1 + at, r.state_2 + at, rows * F)
            if r.dx:
                call(r.transpose, dxt, tile_row, r.dx + begin * C * size, dx_row, entries, N)
            task = next_task(r.counter, r.workers, worker, r.blocks)

    return Kernel(backward_directed, BACKWARD)
