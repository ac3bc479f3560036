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

__all__ = ["PANEL", "SEGMENT", "dots", "multiply"]

# Tile heights MR for each number of vectors NV, by the number of vector registers: the largest first, then those for
# the remaining rows. 24 sums, the row of B and a broadcast fill 32 registers; 12 sums fill 16. Few heights keep
# compilation short.
ROWS_BY_REGISTERS: dict[int, dict[int, tuple[int, ...]]] = {
    32: {4: (6, 3, 2, 1), 2: (12, 9, 8, 4, 3, 2, 1), 1: (16, 8, 4, 1)},
    16: {2: (6, 5, 4, 2, 1), 1: (12, 4, 1)},
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


class Operands(NamedTuple):
    """The arguments of `multiply` that are addresses, strides in bytes, and counts."""

    a: Any
    a_row: Any
    a_k: Any
    b: Any
    b_k: Any
    b_panel: Any
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
    prefetch_row_k: Any
    factor: Any
    lower_clamp: Any
    repeats: Any
    a_step: Any
    b_step: Any
    c_step: Any
    init_step: Any
    prefetch_step: Any


# The operands that move by their step from one product to the next.
MOVING = ("a", "b", "c", "init", "prefetch")


def tile(e, b, o, MR, NV, mask, row, factor, lower_clamp):
    """One tile: rows `row` to `row + MR` by NV vectors of columns, the last vector masked."""
    width = e.size * e.lanes
    masks = [None] * (NV - 1) + [mask]
    a = b.add(o.a, b.mul(row, o.a_row))
    twice = b.shl(o.a_row, const(1))
    groups = [b.add(a, b.mul(o.a_row, const(r))) for r in range(0, MR, GROUP)]
    unroll = 1 if MR * NV >= IN_FLIGHT else 1 << (IN_FLIGHT // (MR * NV)).bit_length() - 1
    sums = [e.zero] * (MR * NV * unroll)
    prefetch_k = b.add(o.prefetch_k, b.mul(o.prefetch_row_k, const(MR)))
    # The tiles of a panel share the prefetching of what lies below its columns.
    prefetched = -(-max(e.size * MR, width * NV // MR) // LINE_BYTES)
    # Short rows of B share cache lines.
    rows_per_line = max(1, LINE_BYTES // (width * NV))

    def steps(number, prefetch):
        def body(k, carried):
            at_a, at_b, acc = carried[: len(groups)], carried[len(groups)], carried[len(groups) + 1 :]
            at_a = [e.opaque(b, at) for at in at_a]
            new = list(acc)
            ahead = b.add(prefetch, b.mul(k, b.mul(prefetch_k, const(number))))
            for u in range(number):
                for n in range(0 if u % rows_per_line else prefetched):
                    e.prefetch(b, b.add(ahead, const(LINE_BYTES * n)), 2)
                ahead = b.add(ahead, prefetch_k)
                ap, bp = [b.add(at, b.mul(o.a_k, const(u))) for at in at_a], b.add(at_b, b.mul(o.b_k, const(u)))
                vectors = [e.load(b, b.add(bp, const(width * j)), masks[j]) for j in range(NV)]
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


def tiles_of(b, rows, heights):
    """The tile heights, each with the number of tiles; None for as many as fit into the rows that are left.

    If the largest heights are h, h - 1 and h - 2, all rows are divided among the fewest tiles, where that is possible:
    a tile of few rows takes almost as long as a full one.
    """
    largest = heights[0]
    if heights[:3] != (largest, largest - 1, largest - 2):
        return [(height, None) for height in heights]
    fewest = b.sdiv(b.add(rows, const(largest - 1)), const(largest))
    missing = b.sub(b.mul(fewest, const(largest)), rows)
    by_2, by_1 = b.lshr(missing, const(1)), b.and_(missing, const(1))
    full = b.sub(fewest, b.add(by_2, by_1))
    fits = b.icmp_signed(">=", full, const(0))
    counts = (b.select(fits, full, b.sdiv(rows, const(largest))), *(b.select(fits, n, const(0)) for n in (by_1, by_2)))
    return [*zip(heights, counts, strict=False), *((height, None) for height in heights[3:])]


def repeat(b, o, times, action):
    """``action(operands)`` so many times, with the addresses moved by their steps from one to the next."""

    def body(_, carried):
        action(o._replace(**dict(zip(MOVING, carried, strict=True))))
        return [b.add(at, getattr(o, f"{name}_step")) for name, at in zip(MOVING, carried, strict=True)]

    loop(b, times, [getattr(o, name) for name in MOVING], body)


def panel(e, NV, masked):
    """The function of all rows by NV vectors of columns; if masked, `cols` is the number of valid lanes."""

    def body(b, *arguments):
        given = Operands(*arguments)
        mask = e.first_lanes(b, given.cols) if masked else None
        factor, lower_clamp = (e.splat(b, e.from_bits(b, scalar)) for scalar in (given.factor, given.lower_clamp))
        repeat(b, given, given.repeats, lambda o: all_rows(b, o, mask, factor, lower_clamp))

    def all_rows(b, o, mask, factor, lower_clamp):
        done = const(0)
        for MR, times in tiles_of(b, o.rows, ROWS[NV]):
            times = b.sdiv(b.sub(o.rows, done), const(MR)) if times is None else times

            def rows(_, carried, MR=MR):
                tile(e, b, o, MR, NV, mask, carried[0], factor, lower_clamp)
                return [b.add(carried[0], const(MR))]

            (done,) = loop(b, times, [done], rows)

    return e.function(f"panel{NV}{'masked' if masked else ''}", [I64] * len(Operands._fields), body)


def products(e, b, o):
    """All products, one after the other, each with all its panels of columns; a single panel repeats itself."""
    lanes = e.lanes
    single = b.or_(*(b.icmp_signed(how, o.cols, const(n)) for how, n in (("<=", lanes), ("==", PANEL * lanes))))
    inner, outer = b.select(single, o.repeats, const(1)), b.select(single, const(1), o.repeats)
    repeat(b, o._replace(repeats=inner), outer, lambda o: product(e, b, o))


def product(e, b, o):
    """One product: all its panels of columns."""
    lanes, width = e.lanes, const(e.size * e.lanes)

    def run(NV, masked, first, b_at, cols):
        """Run a panel whose first column is `first` bytes from the first of all, in B at `b_at`."""
        shifted = o._replace(
            b=b_at, c=b.add(o.c, first), init=b.add(o.init, first), cols=cols, prefetch=b.add(o.prefetch, first)
        )
        b.call(panel(e, NV, masked), list(shifted))

    def full(i, _):
        run(PANEL, False, b.mul(i, b.mul(width, const(PANEL))), b.add(o.b, b.mul(i, o.b_panel)), o.cols)
        return []

    vectors = b.sdiv(o.cols, const(lanes))
    panels = b.sdiv(vectors, const(PANEL))
    loop(b, panels, [], full)
    # The rest is less than a panel, and its rows are contiguous.
    begin, b_at = b.mul(panels, const(PANEL)), b.add(o.b, b.mul(panels, o.b_panel))
    done, NV = begin, PANEL // 2

    def rest(NV, masked, done, cols):
        run(NV, masked, b.mul(done, width), b.add(b_at, b.mul(b.sub(done, begin), width)), cols)

    while NV:
        with b.if_then(b.icmp_signed("!=", b.and_(vectors, const(NV)), const(0))):
            rest(NV, False, done, o.cols)
        done, NV = b.add(done, b.and_(vectors, const(NV))), NV // 2
    left = b.srem(o.cols, const(lanes))
    with b.if_then(b.icmp_signed(">", left, const(0))):
        rest(1, True, vectors, left)


@intrinsic(prefer_literal=True)
def multiply(
    typingctx, SIZE, VL, a, a_row, a_k, b, b_k, b_panel, segments, count, c, c_row, init, init_row, rows, cols,
    prefetch, prefetch_row, prefetch_k, prefetch_row_k, factor, lower_clamp, repeats, a_step, b_step, c_step, init_step,
    prefetch_step,
):  # fmt: skip
    """C[r, v] = max(lower_clamp, init[r, v] + factor * sum over segments s and k < length(s) of A[r, k] B[k, v]).

    ``A[r, k]`` is at ``a + offset_a(s) + r * a_row + k * a_k``; rows of C and init, contiguous, at ``c + r * c_row``
    and ``init + r * init_row``. B lies in panels of PANEL vectors of columns: row k of the panel j, contiguous, is at
    ``b + offset_b(s) + j * b_panel + k * b_k``; with ``b_panel`` the bytes of those vectors, whole rows are contiguous.
    `segments` is the address of `count` rows of int64 (offset_a, offset_b, length >= 1, offset_prefetch). `factor` and
    `lower_clamp` are the bits of float64 numbers; the clamp is 0 for ReLU and -inf otherwise; NaN is propagated.

    That is computed `repeats` times, with the addresses a, b, c, init and prefetch moved by their `*_step` each time.

    A tile of `h` rows from row r of the panel j prefetches, at step k of a segment, ``prefetch + offset_prefetch(s) +
    j * (bytes of a row of the panel) + r * prefetch_row + k * (prefetch_k + h * prefetch_row_k)``.
    """
    size, lanes = SIZE.literal_value, VL.literal_value
    signature = types.void(SIZE, VL, *[types.intp] * len(Operands._fields))

    def codegen(context, b, signature, arguments):
        e = Emitter(b.module, size, lanes)
        products(e, b, Operands(*arguments[2:]))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def dots(typingctx, SIZE, VL, a, a_row, vector, c, rows, cols, next_block, x, factor):
    """c[r] += sum over v of A[r, v] vector[v]; then A[r, v] += factor * x[r] * vector[v] if x is not 0.

    All arguments but a_row, counts and factor are addresses; `a_row` is the row stride of A, factor the bits of a
    float64 number. Rows are prefetched, at the end of A those of `next_block`, which has the same stride.
    """
    size, lanes = SIZE.literal_value, VL.literal_value
    signature = types.void(SIZE, VL, *[types.intp] * 9)

    def codegen(context, b, signature, arguments):
        e = Emitter(b.module, size, lanes)

        def function_of(name, updates):
            return e.function(name, [I64] * 9, lambda b, *rest: emit_dots(e, b, updates, *rest))

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
    factor = e.splat(b, e.from_bits(b, factor))

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
