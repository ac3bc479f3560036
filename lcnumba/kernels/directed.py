"""Kernels of connections that are given as a list, on vectors of samples: forward and backward by blocks of inputs.

A block of inputs is transposed to rows of samples, from which any connection reads contiguous vectors. So x is read
once, in order, and no transposed copy of it is kept. Forward goes through all blocks for a few samples, one vector,
whose outputs stay in cache: a task owns them. Backward has a task for each block, which owns dx of its inputs, and all
weights that read them.

The table has the segments of `lcnumba.connectivity.topology`. Sums of y and dx are chains of multiply-adds in the order
of the table, so they depend on nothing else. `plain.py` has the same as bare loops.
"""

import functools

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from lcnumba.kernels.emit import I64, Emitter, const, loop
from lcnumba.kernels.jit import Kernel, call, code_address, compiled, next_task, specialised
from lcnumba.kernels.records import SEGMENT, Fields, array_at, int_at, jitted, reader, zero
from lcnumba.kernels.rules import FORMULA, LINE_BYTES
from lcnumba.kernels.tile import DOTS_PREFETCH_ROWS, emit_dots

__all__ = ["backward", "cast", "dx", "fill", "forward", "gradient", "transpose", "y"]

SEGMENT_BYTES = SEGMENT.itemsize
LAYOUT = {name: field[:2] for name, field in (SEGMENT.fields or {}).items()}
read_segment = reader(SEGMENT)
# How many segments ahead rows of y and dy are prefetched.
AHEAD = 16
# Rows that are summed together.
GROUPS = (4, 1)


def segment(b, table, s):
    """Output, first connection, first input in its block, and length of a segment."""
    at, fields = b.add(table, b.mul(s, const(SEGMENT_BYTES))), []
    for name in ("output", "connection", "input", "length"):
        kind, offset = LAYOUT[name]
        integer = ir.IntType(8 * kind.itemsize).as_pointer()
        value = b.load(b.inttoptr(b.add(at, const(offset)), integer), align=kind.itemsize)
        fields.append(value if kind.itemsize == 8 else b.sext(value, I64))
    return fields


def segment_ahead(b, table, s, count):
    """The output and the first connection of a segment further on, of the last one at the end."""
    later, last = b.add(s, const(AHEAD)), b.sub(count, const(1))
    return segment(b, table, b.select(b.icmp_signed("<", later, last), later, last))[:2]


def by_groups(b, rows, action):
    """``action(first, G)`` for all rows, in groups of `GROUPS`."""
    done = const(0)
    for G in GROUPS:
        times = b.sdiv(b.sub(rows, done), const(G))

        def group(_, carried, G=G):
            action(carried[0], G)
            return [b.add(carried[0], const(G))]

        (done,) = loop(b, times, [done], group)


def emit_y(e, b, C, F, table, count, kernel, xt, yt, output_0):
    """yt[o, f] += sum over k of kernel[k, f] xt[k], for each segment; rows of one vector."""
    width, row_bytes = const(e.size * e.lanes), b.mul(F, const(e.size))

    def one(s, _):
        o, weight, i, length = segment(b, table, s)
        rows = b.mul(length, C)
        w_at = b.add(kernel, b.mul(b.mul(weight, C), row_bytes))
        x_at = b.add(xt, b.mul(b.mul(i, C), width))
        y_bytes = b.mul(F, width)
        y_at = b.add(yt, b.mul(b.sub(o, output_0), y_bytes))
        next_o, next_weight = segment_ahead(b, table, s, count)
        e.prefetch(b, b.add(yt, b.mul(b.sub(next_o, output_0), y_bytes)), 3)
        e.prefetch(b, b.add(kernel, b.mul(b.mul(next_weight, C), row_bytes)), 3)

        def filters(f, G):
            at = [b.add(y_at, b.mul(b.add(f, const(g)), width)) for g in range(G)]

            def add(k, carried):
                w, x, *sums = carried
                vector = e.load(b, x)
                weights = [e.splat(b, e.scalar(b, b.add(w, const(g * e.size)))) for g in range(G)]
                sums = [e.fma(b, weights[g], vector, sums[g]) for g in range(G)]
                return [b.add(w, row_bytes), b.add(x, width), *sums]

            begin = [b.add(w_at, b.mul(f, const(e.size))), x_at, *(e.load(b, a) for a in at)]
            for a, total in zip(at, loop(b, rows, begin, add)[2:], strict=True):
                e.store(b, total, a)

        by_groups(b, F, filters)
        return []

    loop(b, count, [], one)


def emit_dx(e, b, C, F, table, count, kernel, dyt, dxt, row):
    """dxt[k] += sum over f of kernel[k, f] dyt[o, f], for each segment; rows of `row` bytes, whole vectors."""
    width, row_bytes = e.size * e.lanes, b.mul(F, const(e.size))
    vectors = b.sdiv(row, const(width))

    def one(s, _):
        o, weight, i, length = segment(b, table, s)
        w_at = b.add(kernel, b.mul(b.mul(weight, C), row_bytes))
        x_at = b.add(dxt, b.mul(b.mul(i, C), row))
        y_at = b.add(dyt, b.mul(b.mul(o, F), row))
        next_o, next_weight = segment_ahead(b, table, s, count)
        ahead = b.add(dyt, b.mul(b.mul(next_o, F), row))
        e.prefetch(b, b.add(kernel, b.mul(b.mul(next_weight, C), row_bytes)), 3)

        def entries(k, G):
            weights = [b.add(w_at, b.mul(b.add(k, const(g)), row_bytes)) for g in range(G)]

            def column(v, _):
                offset = b.mul(v, const(width))
                e.prefetch(b, b.add(ahead, offset), 3)
                at = [b.add(x_at, b.add(b.mul(b.add(k, const(g)), row), offset)) for g in range(G)]

                def add(f, carried):
                    y, *sums = carried
                    vector, shift = e.load(b, y), b.mul(f, const(e.size))
                    sums = [
                        e.fma(b, e.splat(b, e.scalar(b, b.add(weights[g], shift))), vector, sums[g]) for g in range(G)
                    ]
                    return [b.add(y, row), *sums]

                begin = [b.add(y_at, offset), *(e.load(b, a) for a in at)]
                for a, total in zip(at, loop(b, F, begin, add)[1:], strict=True):
                    e.store(b, total, a)
                return []

            loop(b, vectors, [], column)

        by_groups(b, b.mul(length, C), entries)
        return []

    loop(b, count, [], one)


def emit_gradient(e, b, C, F, table, count, target, xt, dyt, row, packed):
    """target[k, f] += the dot product of xt[k] and dyt[o, f], for each segment.

    target is the kernel's gradient or, if `packed`, has the segments one after the other.
    """
    row_bytes = b.mul(F, const(e.size))
    cols = b.sdiv(row, const(e.size))
    dots = e.function("directed_dots", [I64] * 9, lambda b, *rest: emit_dots(e, b, False, *rest))
    single = b.icmp_signed("==", F, const(1))

    def one(s, carried):
        o, weight, i, length = segment(b, table, s)
        rows = b.mul(length, C)
        here = b.add(target, b.mul(b.mul(weight, C), row_bytes))
        here = b.select(b.icmp_signed("!=", packed, const(0)), carried[0], here)
        x_at = b.add(xt, b.mul(b.mul(i, C), row))
        y_at = b.add(dyt, b.mul(b.mul(o, F), row))
        with b.if_else(single) as (one_filter, filters):
            with one_filter:
                # What `dots` prefetches after the last row is at a distance from the last one.
                next_o, next_weight = segment_ahead(b, table, s, count)
                ahead = b.add(dyt, b.mul(next_o, row))
                e.prefetch(b, b.add(target, b.mul(b.mul(next_weight, C), row_bytes)), 3)
                missing = b.sub(const(DOTS_PREFETCH_ROWS), rows)
                missing = b.select(b.icmp_signed(">", missing, const(0)), missing, const(0))
                ahead = b.sub(ahead, b.mul(missing, row))
                b.call(dots, [x_at, row, y_at, here, rows, cols, ahead, const(0), const(0)])
            with filters:

                def entry(k, _):
                    vector, c = b.add(x_at, b.mul(k, row)), b.add(here, b.mul(k, row_bytes))
                    b.call(dots, [y_at, row, vector, c, F, cols, y_at, const(0), const(0)])
                    return []

                loop(b, rows, [], entry)
        return [b.add(carried[0], b.mul(rows, row_bytes))]

    loop(b, count, [target], one)


def _micro_kernel(emit, arguments):
    """The function that compiles an emitted function of so many integers for SIZE and VL, and returns its address.

    The first are C and F. If both are 1, as for genotypes, it is compiled for that: their products and loops are gone.
    """
    name, kinds = emit.__name__.removeprefix("emit_"), [I64] * arguments

    @intrinsic(prefer_literal=True)
    def emitted(typingctx, SIZE, VL, given):
        def codegen(context, b, signature, values):
            e = Emitter(b.module, SIZE.literal_value, VL.literal_value)
            given = [b.extract_value(values[2], n) for n in range(arguments)]
            single = b.icmp_signed("==", b.mul(given[0], given[1]), const(1))
            with b.if_else(single) as (of_one, of_any):
                with of_one:
                    ones = const(1), const(1)
                    function = e.function(f"directed_{name}_1", kinds, lambda b, *rest: emit(e, b, *ones, *rest[2:]))
                    b.call(function, given)
                with of_any:
                    b.call(e.function(f"directed_{name}", kinds, lambda b, *rest: emit(e, b, *rest)), given)
            return context.get_dummy_value()

        return types.void(SIZE, VL, given), codegen

    return emitted


_y, _dx, _gradient = (_micro_kernel(emit, n) for emit, n in ((emit_y, 8), (emit_dx, 8), (emit_gradient, 9)))


@functools.cache
def y(SIZE):
    """The address of `emit_y` for vectors of a cache line."""
    VL = LINE_BYTES // SIZE

    def directed_y(C, F, table, count, kernel, xt, yt, output_0):
        _y(SIZE, VL, (C, F, table, count, kernel, xt, yt, output_0))

    return code_address(compiled(specialised(directed_y, SIZE, VL)), 8)


@functools.cache
def dx(SIZE):
    """The address of `emit_dx`."""
    VL = LINE_BYTES // SIZE

    def directed_dx(C, F, table, count, kernel, dyt, dxt, row):
        _dx(SIZE, VL, (C, F, table, count, kernel, dyt, dxt, row))

    return code_address(compiled(specialised(directed_dx, SIZE, VL)), 8)


@functools.cache
def gradient(SIZE):
    """The address of `emit_gradient`."""
    VL = LINE_BYTES // SIZE

    def directed_gradient(C, F, table, count, target, xt, dyt, row, packed):
        _gradient(SIZE, VL, (C, F, table, count, target, xt, dyt, row, packed))

    return code_address(compiled(specialised(directed_gradient, SIZE, VL)), 9)


@functools.cache
def cast(SIZE, signed):
    """The address of the function that casts rows of integers of 8 bits, or booleans, to elements of SIZE bytes."""
    number, integer = np.float32 if SIZE == 4 else np.float64, np.int8 if signed else np.uint8

    def directed_cast(source, source_row, target, target_row, rows, cols):
        for r in range(rows):
            given = array_at(source + r * source_row, cols, integer)
            made = array_at(target + r * target_row, cols, number)
            for e in range(cols):
                made[e] = given[e]

    return code_address(compiled(specialised(directed_cast, SIZE, signed)), 6)


@functools.cache
def fill(SIZE):
    """The address of the function that fills rows of a cache line with a bias each."""
    number, lanes = np.float32 if SIZE == 4 else np.float64, LINE_BYTES // SIZE

    def directed_fill(bias, target, rows):
        values, made = array_at(bias, rows, number), array_at(target, (rows, lanes), number)
        for r in range(rows):
            for lane in range(lanes):
                made[r, lane] = values[r]

    return code_address(compiled(specialised(directed_fill, SIZE)), 3)


# What all three read of an array of samples: the bytes of an element and of a row, and `cast`, the address of the
# function that casts it to floating point, into `packed`; 0 if it needs none.
SAMPLES = "size itemsize row cast packed transpose"
TRANSPOSE = Fields(f"{SAMPLES} entries width tile_row", each_call="source target count")
FORWARD = Fields(
    f"{SAMPLES} N I C F outputs width blocks parts part_output part_start table most_outputs xt yt y_segments fill",
    each_call="x kernel bias y",
)
BACKWARD = Fields(
    f"{SAMPLES} N I C F width blocks block_start table tile_row xt dxt most gradient dx_segments gradient_segments",
    each_call="x kernel dyt dx rule formula scalars target state_1 state_2",
)
read_transpose, read_forward, read_backward = (reader(f.dtype) for f in (TRANSPOSE, FORWARD, BACKWARD))


@jitted
def transposed(r, source, count, entries, target, target_row, packed):
    """Transpose `entries` columns of `count` samples at `source`; `packed` is scratch of as many, for a cast."""
    if r.cast:
        packed_row = entries * r.size
        call(r.cast, source, r.row, packed, packed_row, count, entries)
        call(r.transpose, packed, packed_row, target, target_row, count, entries)
    else:
        call(r.transpose, source, r.row, target, target_row, count, entries)


@functools.cache
def transpose():
    """Make the kernel that transposes samples."""

    def directed_transpose(worker, record):
        """Transpose source (count, entries) to target, with rows of `tile_row` bytes; `width` entries per task."""
        r = read_transpose(record)
        total = -(-r.entries // r.width)
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            first = task * r.width
            transposed(
                r, r.source + first * r.itemsize, r.count, min(r.width, r.entries - first),
                r.target + first * r.tile_row, r.tile_row, 0,
            )  # fmt: skip
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(directed_transpose, TRANSPOSE)


@functools.cache
def forward():
    """Make the forward kernel."""

    def directed_forward(worker, record):
        """Compute y of a vector of samples and a part of the outputs per task.

        x (N, I*C), kernel (connections, C, F), bias (outputs, F) or 0, y (N, outputs*F). Part p has the outputs
        part_output[p:p + 2] and of block b the segments part_start[p, b] to part_start[p + 1, b]. How samples and
        outputs are divided has no influence on the sums.

        Scratch per worker: xt (width*C, a vector), yt (most_outputs*F, a vector), packed (samples, width*C).
        """
        r = read_forward(record)
        C, F, size, blocks, width = r.C, r.F, r.size, r.blocks, r.width
        lanes = LINE_BYTES // size
        block_bytes = width * C * LINE_BYTES
        xt, packed, yt = r.xt + worker * block_bytes, r.packed, r.yt + worker * r.most_outputs * F * LINE_BYTES
        if r.cast:
            packed += worker * block_bytes
        zero(xt, block_bytes)  # lanes that never have a sample
        total = -(-r.N // lanes) * r.parts
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            part = task % r.parts
            sample = task // r.parts * lanes
            count = min(lanes, r.N - sample)
            begin = int_at(r.part_output, part)
            rows = (int_at(r.part_output, part + 1) - begin) * F
            if r.bias:
                call(r.fill, r.bias + begin * F * size, yt, rows)
            else:
                zero(yt, rows * LINE_BYTES)
            source = r.x + sample * r.row
            for block in range(blocks):
                first = int_at(r.part_start, part * blocks + block)
                last = int_at(r.part_start, (part + 1) * blocks + block)
                if first < last:
                    at = block * width
                    transposed(
                        r, source + at * C * r.itemsize, count, min(width, r.I - at) * C, xt, LINE_BYTES, packed
                    )  # fmt: skip
                    call(
                        r.y_segments, C, F, r.table + first * SEGMENT_BYTES, last - first, r.kernel, xt, yt, begin
                    )  # fmt: skip
            y_row = r.outputs * F * size
            call(r.transpose, yt, LINE_BYTES, r.y + sample * y_row + begin * F * size, y_row, rows, count)
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(directed_forward, FORWARD)


@functools.cache
def backward():
    """Make the kernel of both gradients."""

    def directed_backward(worker, record):
        """Compute dx and the gradient in target, each unless its address is 0, a block of inputs per task.

        x and dx (N, I*C), kernel and target (connections, C, F), dyt (outputs*F, N) with rows of `tile_row` bytes,
        whole vectors. The gradient is added to target, or target is updated by it if the rule is FORMULA, after dx of
        the same weights: some segments at a time, `most` weights or a single segment.

        Scratch per worker: xt and dxt (width*C, N), the block's x and dx; gradient (most); packed (N, width*C), for a
        cast.
        """
        r = read_backward(record)
        N, C, F, size, tile_row, most_bytes = r.N, r.C, r.F, r.size, r.tile_row, r.most * r.size
        block_bytes, dx_row, entries = r.width * C * tile_row, r.I * C * size, C * F
        xt, dxt, gradient = r.xt + worker * block_bytes, r.dxt + worker * block_bytes, r.gradient + worker * most_bytes
        packed = r.packed
        if r.cast:
            packed += worker * block_bytes
        if r.target:
            zero(xt, block_bytes)  # lanes without a sample stay 0
        task = next_task(r.counter, r.workers, worker, r.blocks)
        while task >= 0:
            begin = task * r.width
            rows = min(r.width, r.I - begin) * C
            s, end = int_at(r.block_start, task), int_at(r.block_start, task + 1)
            if r.target and s < end:
                transposed(r, r.x + begin * C * r.itemsize, N, rows, xt, tile_row, packed)
            if r.dx:
                zero(dxt, rows * tile_row)
                call(
                    r.dx_segments, C, F, r.table + s * SEGMENT_BYTES, end - s, r.kernel, r.dyt, dxt, tile_row
                )  # fmt: skip
            if r.target and r.rule != FORMULA:
                call(
                    r.gradient_segments, C, F, r.table + s * SEGMENT_BYTES, end - s, r.target, xt, r.dyt, tile_row, 0,
                )  # fmt: skip
            while r.target and r.rule == FORMULA and s < end:
                table, count, weights = r.table + s * SEGMENT_BYTES, 0, 0
                while s < end:
                    more = read_segment(table + count * SEGMENT_BYTES).length * entries
                    if count and weights + more > r.most:
                        break
                    s, count, weights = s + 1, count + 1, weights + more
                zero(gradient, weights * size)
                call(r.gradient_segments, C, F, table, count, gradient, xt, r.dyt, tile_row, 1)
                done = 0
                for e in range(count):
                    segment = read_segment(table + e * SEGMENT_BYTES)
                    at = segment.connection * entries * size
                    many = segment.length * entries
                    call(
                        r.formula, r.scalars, r.target + at, gradient + done * size, r.state_1 + at, r.state_2 + at,
                        many,
                    )  # fmt: skip
                    done += many
            if r.dx:
                call(r.transpose, dxt, tile_row, r.dx + begin * C * size, dx_row, rows, N)
            task = next_task(r.counter, r.workers, worker, r.blocks)

    return Kernel(directed_backward, BACKWARD)
