"""The register tile: small matrix products whose sums stay in vector registers.

Numba's own loops keep sums in memory, or in vectors half as wide as the CPU's. These intrinsics emit LLVM
vector instructions directly: a tile of MR x NV accumulators is carried through the loops over segments
and over k, so that each step is NV loads, MR broadcasts and MR * NV multiply-adds.

Operands are rows of larger arrays, so all strides are in bytes. SIZE (bytes of an element, 4 or 8) and VL
(elements of a vector) are compile-time constants. LLVM splits vectors that are longer than the CPU's: an
unsuitable length is slower but correct.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from lcnumba.kernels.emit import I32, I64, Emitter, const, loop, loop_some
from lcnumba.kernels.rules import LINE_BYTES
from lcnumba.kernels.vectors import REGISTERS

__all__ = ["B_ROWS", "NEXT_A", "PANEL", "SEGMENT", "dots", "multiply"]

# Tile heights MR for each number of vectors NV, by the number of vector registers: the largest first, then those for
# the remaining rows. 24 sums, the row of B and a broadcast fill 32 registers; 12 sums fill 16. Few heights keep
# compilation short.
ROWS_BY_REGISTERS: dict[int, dict[int, tuple[int, ...]]] = {
    32: {4: (6, 3, 2, 1), 2: (12, 9, 8, 4, 3, 2, 1), 1: (16, 8, 4, 1)},
    16: {2: (6, 2, 1), 1: (12, 4, 1)},
}
ROWS = ROWS_BY_REGISTERS[REGISTERS]
# The most vectors of columns in a tile.
PANEL = max(ROWS)
# Independent sums that hide the latency of a multiply-add: 4 cycles at 2 per cycle.
IN_FLIGHT = 8
# Rows of A addressed from one pointer: x86 addressing modes reach base, base + stride and base + 2 * stride.
GROUP = 3
# How many rows ahead `dots` prefetches; 16 to 32 are equally fast.
DOTS_PREFETCH_ROWS = 32
# Fields of a segment; see `multiply`.
SEGMENT = 4
# What `multiply` prefetches: later columns of B, or the block that will be A in the next call.
B_ROWS, NEXT_A = 1, 2


class Operands(NamedTuple):
    """The arguments of `multiply` that are addresses, strides in bytes, and counts."""

    a: Any
    a_row: Any
    a_k: Any
    b: Any
    b_k: Any
    segments: Any
    count: Any
    c: Any
    c_row: Any
    init: Any
    init_row: Any
    rows: Any
    cols: Any
    prefetch: Any
    prefetch_row: Any
    prefetch_k: Any


def tile(e, b, o, MR, NV, mask, row, factor, lower_clamp, mode):
    """One tile: rows `row` to `row + MR` by NV vectors of columns, the last vector masked."""
    width = e.size * e.lanes
    masks = [None] * (NV - 1) + [mask]
    a = b.add(o.a, b.mul(row, o.a_row))
    twice = b.shl(o.a_row, const(1))
    groups = [b.add(a, b.mul(o.a_row, const(r))) for r in range(0, MR, GROUP)]
    unroll = 1 if MR * NV >= IN_FLIGHT else 1 << (IN_FLIGHT // (MR * NV)).bit_length() - 1
    sums = [e.zero] * (MR * NV * unroll)

    def steps(number, prefetch):
        def body(k, carried):
            at_a, at_b, acc = carried[: len(groups)], carried[len(groups)], carried[len(groups) + 1 :]
            at_a = [e.opaque(b, at) for at in at_a]
            new = list(acc)
            if mode == NEXT_A:
                lines = -(-MR * e.size * number // LINE_BYTES)
                at = b.add(prefetch, b.mul(k, b.mul(o.prefetch_k, const(MR * number))))
                for n in range(lines):
                    e.prefetch(b, b.add(at, const(LINE_BYTES * n)), 2)
            for u in range(number):
                ap, bp = [b.add(at, b.mul(o.a_k, const(u))) for at in at_a], b.add(at_b, b.mul(o.b_k, const(u)))
                vectors = [e.load(b, b.add(bp, const(width * j)), masks[j]) for j in range(NV)]
                if mode == B_ROWS:
                    for j in range(0, width * NV, LINE_BYTES):
                        e.prefetch(b, b.add(b.add(bp, o.prefetch), const(j)), 3)
                for r in range(MR):
                    at = ap[r // GROUP]
                    if r % GROUP:
                        at = b.add(at, (o.a_row, twice)[r % GROUP - 1])
                    broadcast = e.splat(b, e.scalar(b, at))
                    for j in range(NV):
                        s = (u * MR + r) * NV + j
                        new[s] = e.fma(b, broadcast, vectors[j], new[s])
            step = b.mul(o.a_k, const(number))
            return [*(b.add(at, step) for at in at_a), b.add(at_b, b.mul(o.b_k, const(number))), *new]

        return body

    def segment(s, acc):
        entry = b.add(o.segments, b.mul(s, const(8 * SEGMENT)))
        at_a, at_b, length, prefetch = (
            b.load(b.inttoptr(b.add(entry, const(8 * n)), I64.as_pointer()), align=8) for n in range(SEGMENT)
        )
        prefetch = b.add(b.add(o.prefetch, prefetch), b.mul(row, o.prefetch_row))
        carried = [*(b.add(group, at_a) for group in groups), b.add(o.b, at_b), *acc]
        if unroll == 1:
            return loop_some(b, length, carried, steps(1, prefetch))[len(groups) + 1 :]
        carried = loop(b, b.sdiv(length, const(unroll)), carried, steps(unroll, prefetch))
        return loop(b, b.srem(length, const(unroll)), carried, steps(1, prefetch))[len(groups) + 1 :]

    sums = loop(b, o.count, sums, segment)
    tiles = [sums[u * MR * NV : (u + 1) * MR * NV] for u in range(unroll)]
    at, init = b.add(o.c, b.mul(row, o.c_row)), b.add(o.init, b.mul(row, o.init_row))
    for r in range(MR):
        for j in range(NV):
            parts = [part[r * NV + j] for part in tiles]
            while len(parts) > 1:
                parts = [b.fadd(x, y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
            value = e.fma(b, factor, parts[0], e.load(b, b.add(init, const(width * j)), masks[j]))
            value = b.select(b.fcmp_ordered(">", lower_clamp, value), lower_clamp, value)
            e.store(b, value, b.add(at, const(width * j)), masks[j])
        at, init = b.add(at, o.c_row), b.add(init, o.init_row)


def panel(e, NV, masked, mode):
    """The function of all rows by NV vectors of columns; if masked, `cols` is the number of valid lanes."""

    def body(b, *arguments):
        o = Operands(*arguments[:-2])
        mask = e.first_lanes(b, o.cols) if masked else None
        factor, lower_clamp = (e.splat(b, scalar) for scalar in arguments[-2:])
        done = const(0)
        for MR in ROWS[NV]:
            times = b.sdiv(b.sub(o.rows, done), const(MR))

            def rows(_, carried, MR=MR):
                tile(e, b, o, MR, NV, mask, carried[0], factor, lower_clamp, mode)
                return [b.add(carried[0], const(MR))]

            (done,) = loop(b, times, [done], rows)

    arguments = [I64] * len(Operands._fields) + [e.number] * 2
    return e.function(f"panel{NV}{'masked' if masked else ''}.{mode}", arguments, body)


@intrinsic(prefer_literal=True)
def multiply(
    typingctx, SIZE, VL, PREFETCH, a, a_row, a_k, b, b_k, segments, count, c, c_row, init, init_row, rows, cols,
    prefetch, prefetch_row, prefetch_k, factor, lower_clamp,
):  # fmt: skip
    """C[r, v] = max(lower_clamp, init[r, v] + factor * sum over segments s and k < length(s) of A[r, k] B[k, v]).

    ``A[r, k]`` is at ``a + offset_a(s) + r * a_row + k * a_k``; row k of B, contiguous, at ``b + offset_b(s) + k *
    b_k``; rows of C and init, contiguous, at ``c + r * c_row`` and ``init + r * init_row``. `segments` is the address
    of `count` rows of int64 (offset_a, offset_b, length >= 1, offset_prefetch). `lower_clamp` is 0 for ReLU and -inf
    otherwise; NaN is propagated. PREFETCH selects what is prefetched: with B_ROWS the next columns of B and, at the
    last columns, those `prefetch` bytes after the first; with NEXT_A the block at ``prefetch + offset_prefetch(s)``
    with row stride `prefetch_row`, `prefetch_k` bytes of each row per step.
    """
    size, lanes, mode = (literal.literal_value for literal in (SIZE, VL, PREFETCH))
    number = types.float32 if size == 4 else types.float64
    signature = types.void(SIZE, VL, PREFETCH, *[types.intp] * 16, number, number)

    def codegen(context, b, signature, arguments):
        e = Emitter(b.module, size, lanes)
        o, scalars = Operands(*arguments[3:-2]), arguments[-2:]
        width = const(size * lanes)

        # A panel prefetches the rows of B of the next panel, the last one those at `prefetch`.
        def run(NV, masked, at, cols):
            prefetch = o.prefetch
            if mode == B_ROWS:
                end = b.add(b.udiv(at, const(size)), const(NV * lanes))
                prefetch = b.select(b.icmp_signed(">=", end, o.cols), b.sub(o.prefetch, at), const(NV * size * lanes))
            shifted = o._replace(
                b=b.add(o.b, at), c=b.add(o.c, at), init=b.add(o.init, at), cols=cols, prefetch=prefetch
            )
            b.call(panel(e, NV, masked, mode), [*shifted, *scalars])

        def full(i, _):
            run(PANEL, False, b.mul(i, b.mul(width, const(PANEL))), o.cols)
            return []

        vectors = b.sdiv(o.cols, const(lanes))
        panels = b.sdiv(vectors, const(PANEL))
        loop(b, panels, [], full)
        done, NV = b.mul(panels, const(PANEL)), PANEL // 2
        while NV:
            with b.if_then(b.icmp_signed("!=", b.and_(vectors, const(NV)), const(0))):
                run(NV, False, b.mul(done, width), o.cols)
            done, NV = b.add(done, b.and_(vectors, const(NV))), NV // 2
        left = b.srem(o.cols, const(lanes))
        with b.if_then(b.icmp_signed(">", left, const(0))):
            run(1, True, b.mul(vectors, width), left)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def dots(typingctx, SIZE, VL, a, a_row, vector, c, rows, cols, next_block, x, factor):
    """c[r] += sum over v of A[r, v] vector[v]; then A[r, v] += factor * x[r] * vector[v] if x is not 0.

    All arguments but factor, a_row and counts are addresses; `a_row` is the row stride of A. Rows are prefetched,
    at the end of A those of `next_block`, which has the same stride.
    """
    size, lanes = SIZE.literal_value, VL.literal_value
    signature = types.void(SIZE, VL, *[types.intp] * 8, types.float32 if size == 4 else types.float64)

    def codegen(context, b, signature, arguments):
        e = Emitter(b.module, size, lanes)
        kinds = [*[I64] * 8, e.number]

        def function_of(name, updates):
            return e.function(name, kinds, lambda b, *rest: emit_dots(e, b, updates, *rest))

        with b.if_else(b.icmp_signed("!=", arguments[-2], const(0))) as (updates_a, only_dots):
            with updates_a:
                b.call(function_of("dots_updating", True), arguments[2:])
            with only_dots:
                b.call(function_of("dots", False), arguments[2:])
        return context.get_dummy_value()

    return signature, codegen


def emit_dots(e, b, updates, a, a_row, vector, c, rows, cols, next_block, x, factor):
    width = const(e.size * e.lanes)
    whole, left = b.sdiv(cols, const(e.lanes)), b.srem(cols, const(e.lanes))
    mask = e.first_lanes(b, left)
    edge = b.mul(whole, width)
    factor = e.splat(b, factor)

    def over_columns(carried, visit):
        """Visit the full vectors of a row, then the remainder under the mask."""
        carried = loop(b, whole, carried, lambda i, carried: visit(b.mul(i, width), carried, None))
        rest = b.zext(b.icmp_signed(">", left, const(0)), I64)
        return loop(b, rest, carried, lambda _, carried: visit(edge, carried, mask))

    def group(G, first):
        at = [b.add(a, b.mul(b.add(first, const(r)), a_row)) for r in range(G)]
        fetched = b.add(first, const(DOTS_PREFETCH_ROWS))
        in_next = b.icmp_signed(">=", fetched, rows)
        base, fetched = b.select(in_next, next_block, a), b.select(in_next, b.sub(fetched, rows), fetched)
        fetched = [b.add(base, b.mul(b.add(fetched, const(r)), a_row)) for r in range(G)]

        def add(offset, sums, mask):
            for row in fetched:
                e.prefetch(b, b.add(row, offset), 3)
            v = e.load(b, b.add(vector, offset), mask)
            return [e.fma(b, e.load(b, b.add(at[r], offset), mask), v, sums[r]) for r in range(G)]

        total = fold(e, b, over_columns([e.zero] * G, add))
        target = b.inttoptr(b.add(c, b.mul(first, const(e.size))), total.type.as_pointer())
        b.store(b.fadd(b.load(target, align=e.size), total), target, align=e.size)
        if not updates:
            return
        xs = [e.splat(b, e.scalar(b, b.add(x, b.mul(b.add(first, const(r)), const(e.size))))) for r in range(G)]

        def change(offset, _, mask):
            v = e.load(b, b.add(vector, offset), mask)
            for r in range(G):
                place = b.add(at[r], offset)
                e.store(b, e.fma(b, factor, b.fmul(xs[r], v), e.load(b, place, mask)), place, mask)
            return []

        over_columns([], change)

    done = const(0)
    for G in sorted({e.lanes, 4, 1}, reverse=True):
        if e.lanes < G:
            continue
        times = b.sdiv(b.sub(rows, done), const(G))

        def groups(_, carried, G=G):
            group(G, carried[0])
            return [b.add(carried[0], const(G))]

        (done,) = loop(b, times, [done], groups)


def fold(e, b, sums):
    """The vector of the horizontal sums of 2^m vectors."""
    lanes, half = range(e.lanes), 1
    kind = ir.VectorType(I32, e.lanes)
    count = len(sums)
    while len(sums) > 1:
        low = ir.Constant(kind, [lane + e.lanes - half if lane & half else lane for lane in lanes])
        high = ir.Constant(kind, [lane + e.lanes if lane & half else lane + half for lane in lanes])
        sums = [
            b.fadd(b.shuffle_vector(x, y, low), b.shuffle_vector(x, y, high))
            for x, y in zip(sums[::2], sums[1::2], strict=True)
        ]
        half *= 2
    (total,) = sums
    while half < e.lanes:
        rotated = ir.Constant(kind, [(lane + half) % e.lanes for lane in lanes])
        total = b.fadd(total, b.shuffle_vector(total, total, rotated))
        half *= 2
    if count == e.lanes:
        return total
    return b.shuffle_vector(total, total, ir.Constant(ir.VectorType(I32, count), list(range(count))))
