"""Moving numbers through registers: transposed copies, and packed ones."""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from lcnumba.kernels.emit import I32, I64, Emitter, const, loop
from lcnumba.kernels.vectors import REGISTERS

__all__ = ["pack", "transpose"]

# Rows and columns that `transpose` exchanges in registers, as large as they come.
BLOCKS = (16, 8, 1) if REGISTERS == 32 else (8, 1)


def exchange(b, rows):
    """The transpose of as many vectors as they have lanes, by exchanging ever larger parts of pairs of them."""
    half = 1
    while half < len(rows):
        for i in range(len(rows)):
            if i & half:
                continue
            first, second = rows[i], rows[i | half]
            lanes = range(len(rows))
            low = [lane + len(rows) - half if lane & half else lane for lane in lanes]
            high = [lane + len(rows) if lane & half else lane + half for lane in lanes]
            kind = ir.VectorType(I32, len(rows))
            rows[i] = b.shuffle_vector(first, second, ir.Constant(kind, low))
            rows[i | half] = b.shuffle_vector(first, second, ir.Constant(kind, high))
        half *= 2
    return rows


@intrinsic(prefer_literal=True)
def transpose(typingctx, SIZE, source, source_row, target, target_row, rows, cols):
    """target[c, r] = source[r, c]; rows lie `source_row` and `target_row` bytes apart."""
    size = SIZE.literal_value
    signature = types.void(SIZE, *[types.intp] * 6)

    def codegen(context, b, signature, arguments):
        b.call(transposed(b.module, size, BLOCKS), arguments[1:])
        return context.get_dummy_value()

    return signature, codegen


def transposed(module, size, blocks):
    """The function that transposes by blocks of the first size, and by the next what is left over."""
    lanes, *smaller = blocks
    e = Emitter(module, size, lanes)

    def body(b, source, source_row, target, target_row, rows, cols):
        def at(base, row_size, row, column):
            return b.add(base, b.add(b.mul(row, row_size), b.mul(column, const(size))))

        def block(i, j):
            r, c = b.mul(i, const(lanes)), b.mul(j, const(lanes))
            if lanes == 1:
                pointers = (
                    b.inttoptr(p, e.number.as_pointer())
                    for p in (at(source, source_row, r, c), at(target, target_row, c, r))
                )
                b.store(b.load(next(pointers), align=size), next(pointers), align=size)
                return
            vectors = [e.load(b, at(source, source_row, b.add(r, const(n)), c)) for n in range(lanes)]
            for n, vector in enumerate(exchange(b, vectors)):
                e.store(b, vector, at(target, target_row, b.add(c, const(n)), r))

        def each(count, action):
            loop(b, count, [], lambda i, _: action(i) or [])

        block_rows, block_cols = (b.sdiv(n, const(lanes)) for n in (rows, cols))
        # The side whose rows lie farther apart is passed along its rows, few at a time: each is in pages of
        # its own.
        with b.if_else(b.icmp_signed("<", source_row, target_row)) as (along_target, along_source):
            with along_target:
                each(block_cols, lambda j: each(block_rows, lambda i: block(i, j)))
            with along_source:
                each(block_rows, lambda i: each(block_cols, lambda j: block(i, j)))
        if not smaller:
            return
        # What is left: the columns beyond the blocks of all rows, then the rows below the blocks.
        rest = transposed(module, size, smaller)
        done_rows, done_cols = (b.mul(n, const(lanes)) for n in (block_rows, block_cols))
        for r, c, some_rows, some_cols in (
            (const(0), done_cols, rows, b.sub(cols, done_cols)),
            (done_rows, const(0), b.sub(rows, done_rows), done_cols),
        ):
            some = b.and_(b.icmp_signed(">", some_rows, const(0)), b.icmp_signed(">", some_cols, const(0)))
            with b.if_then(some):
                first, to = at(source, source_row, r, c), at(target, target_row, c, r)
                b.call(rest, [first, source_row, to, target_row, some_rows, some_cols])

    return e.function("transpose", [I64] * 6, body)


@intrinsic(prefer_literal=True)
def pack(typingctx, SIZE, VL, source, gate, source_row, target, target_row, rows, cols, ahead):
    """target[r, c] = source[r, c] or, where there is a gate and not gate[r, c] > 0, 0.

    Rows of source, and of the gate at its address `gate` or with 0 none, lie `source_row` bytes apart, those
    of target `target_row`. What lies `ahead` bytes beyond is asked for early: no processor foresees short rows
    far apart.
    """
    size, lanes = SIZE.literal_value, VL.literal_value
    signature = types.void(SIZE, VL, *[types.intp] * 8)

    def codegen(context, b, signature, arguments):
        e = Emitter(b.module, size, lanes)
        width = const(size * lanes)

        def every_row(gated):
            def body(b, source, gate, source_row, target, target_row, rows, cols, ahead):
                whole, left = b.sdiv(cols, const(lanes)), b.srem(cols, const(lanes))
                mask = e.first_lanes(b, left)

                def row(r, _):
                    first, to = b.mul(r, source_row), b.add(target, b.mul(r, target_row))

                    def vector(offset, mask=None):
                        at = b.add(first, offset)
                        value = e.load(b, b.add(source, at), mask)
                        e.prefetch(b, b.add(b.add(source, at), ahead), 2)
                        if gated:
                            positive = b.fcmp_ordered(">", e.load(b, b.add(gate, at), mask), e.zero)
                            value = b.select(positive, value, e.zero)
                            e.prefetch(b, b.add(b.add(gate, at), ahead), 2)
                        e.store(b, value, b.add(to, offset), mask)

                    loop(b, whole, [], lambda i, _: vector(b.mul(i, width)) or [])
                    with b.if_then(b.icmp_signed(">", left, const(0))):
                        vector(b.mul(whole, width), mask)
                    return []

                loop(b, rows, [], row)

            return e.function("pack_gated" if gated else "pack", [I64] * 8, body)

        with b.if_else(b.icmp_signed("!=", arguments[3], const(0))) as (gated, plain):
            with gated:
                b.call(every_row(True), arguments[2:])
            with plain:
                b.call(every_row(False), arguments[2:])
        return context.get_dummy_value()

    return signature, codegen
