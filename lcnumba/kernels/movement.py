"""Copies through vector registers: transposing and packing."""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from lcnumba.kernels.emit import I32, I64, Emitter, const, loop
from lcnumba.kernels.records import jitted, zero
from lcnumba.kernels.tile import PANEL
from lcnumba.kernels.vectors import REGISTERS, vector_bytes

__all__ = ["clear", "pack", "pack_panels", "transpose"]

# Sizes of the square blocks that `transpose` transposes in registers, in descending order.
BLOCKS = (16, 8, 1) if REGISTERS == 32 else (8, 1)


def transpose_vectors(b, rows):
    """The transpose of a square block of vectors, by shuffling pairs of them with growing strides."""
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
    """target[c, r] = source[r, c]; the row strides in bytes are `source_row` and `target_row`."""
    size = SIZE.literal_value
    signature = types.void(SIZE, *[types.intp] * 6)

    def codegen(context, b, signature, arguments):
        b.call(emit_transpose(b.module, size, BLOCKS), arguments[1:])
        return context.get_dummy_value()

    return signature, codegen


def emit_transpose(module, size, blocks):
    """The function that transposes in blocks of the first size, and the remainder in blocks of the next."""
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
            for n, vector in enumerate(transpose_vectors(b, vectors)):
                e.store(b, vector, at(target, target_row, b.add(c, const(n)), r))

        def loop_over(count, action):
            loop(b, count, [], lambda i, _: action(i) or [])

        block_rows, block_cols = (b.sdiv(n, const(lanes)) for n in (rows, cols))
        # Traverse the array with the larger row stride row by row: each of its rows is on other memory pages.
        with b.if_else(b.icmp_signed("<", source_row, target_row)) as (along_target, along_source):
            with along_target:
                loop_over(block_cols, lambda j: loop_over(block_rows, lambda i: block(i, j)))
            with along_source:
                loop_over(block_rows, lambda i: loop_over(block_cols, lambda j: block(i, j)))
        if not smaller:
            return
        # The remainder: the columns after the blocks in all rows, then the rows below the blocks.
        rest = emit_transpose(module, size, smaller)
        done_rows, done_cols = (b.mul(n, const(lanes)) for n in (block_rows, block_cols))
        for r, c, n_rows, n_cols in (
            (const(0), done_cols, rows, b.sub(cols, done_cols)),
            (done_rows, const(0), b.sub(rows, done_rows), done_cols),
        ):
            nonempty = b.and_(b.icmp_signed(">", n_rows, const(0)), b.icmp_signed(">", n_cols, const(0)))
            with b.if_then(nonempty):
                source_at, target_at = at(source, source_row, r, c), at(target, target_row, c, r)
                b.call(rest, [source_at, source_row, target_at, target_row, n_rows, n_cols])

    return e.function("transpose", [I64] * 6, body)


@intrinsic(prefer_literal=True)
def pack(typingctx, SIZE, source, relu_mask, source_row, target, target_row, rows, cols, prefetch_offset):
    """target[r, c] = source[r, c], or 0 where relu_mask[r, c] > 0 does not hold.

    `relu_mask` is the address of the ReLU's output, with the row stride of source, or 0 for no mask. The row strides
    in bytes are `source_row` and `target_row`. Addresses `prefetch_offset` bytes further on are prefetched: hardware
    prefetchers do not follow short rows with a large stride.
    """
    size = SIZE.literal_value
    lanes = vector_bytes() // size
    signature = types.void(SIZE, *[types.intp] * 8)

    def codegen(context, b, signature, arguments):
        e = Emitter(b.module, size, lanes)
        width = const(size * lanes)

        def emit_pack(masked):
            def body(b, source, relu_mask, source_row, target, target_row, rows, cols, prefetch_offset):
                whole, left = b.sdiv(cols, const(lanes)), b.srem(cols, const(lanes))
                mask = e.first_lanes(b, left)

                def row(r, _):
                    row_offset, to = b.mul(r, source_row), b.add(target, b.mul(r, target_row))

                    def vector(offset, mask=None):
                        at = b.add(row_offset, offset)
                        value = e.load(b, b.add(source, at), mask)
                        e.prefetch(b, b.add(b.add(source, at), prefetch_offset), 2)
                        if masked:
                            positive = b.fcmp_ordered(">", e.load(b, b.add(relu_mask, at), mask), e.zero)
                            value = b.select(positive, value, e.zero)
                            e.prefetch(b, b.add(b.add(relu_mask, at), prefetch_offset), 2)
                        e.store(b, value, b.add(to, offset), mask)

                    loop(b, whole, [], lambda i, _: vector(b.mul(i, width)) or [])
                    with b.if_then(b.icmp_signed(">", left, const(0))):
                        vector(b.mul(whole, width), mask)
                    return []

                loop(b, rows, [], row)

            return e.function("pack_masked" if masked else "pack", [I64] * 8, body)

        with b.if_else(b.icmp_signed("!=", arguments[2], const(0))) as (masked, unmasked):
            with masked:
                b.call(emit_pack(True), arguments[1:])
            with unmasked:
                b.call(emit_pack(False), arguments[1:])
        return context.get_dummy_value()

    return signature, codegen


@jitted
def clear(rows_at, row_bytes, rows, count):
    """Set the first `count` bytes of each row to 0.

    That is for the padding lanes of transposed rows. Results of these lanes are discarded, but uninitialised memory may
    hold subnormal numbers, which make products many times slower.
    """
    for r in range(rows if count else 0):
        zero(rows_at + r * row_bytes, count)


@intrinsic(prefer_literal=True)
def pack_panels(typingctx, SIZE, VL, source, source_row, rows, cols, target, panel):
    """Copy a matrix into panels of PANEL vectors of columns, as `lcnumba.kernels.tile.multiply` reads them.

    Row r of the panel j is at ``target + j * panel + r * (bytes of PANEL vectors)``. `source_row` is the row stride of
    the source in bytes. Rows are read from front to back, so that hardware prefetchers follow.
    """
    size, lanes = SIZE.literal_value, VL.literal_value
    signature = types.void(SIZE, VL, *[types.intp] * 6)

    def codegen(context, b, signature, arguments):
        e = Emitter(b.module, size, lanes)
        width = size * lanes

        def body(b, source, source_row, rows, cols, target, panel):
            whole, left = b.sdiv(cols, const(lanes)), b.srem(cols, const(lanes))
            panels, vectors = b.sdiv(whole, const(PANEL)), b.srem(whole, const(PANEL))
            mask = e.first_lanes(b, left)

            def copy_row(r, _):
                at, to = b.add(source, b.mul(r, source_row)), b.add(target, b.mul(r, const(PANEL * width)))

                def copy_panel(j, _):
                    first, second = b.add(at, b.mul(j, const(PANEL * width))), b.add(to, b.mul(j, panel))
                    found = [e.load(b, b.add(first, const(width * v))) for v in range(PANEL)]
                    for v, vector in enumerate(found):
                        e.store(b, vector, b.add(second, const(width * v)))
                    return []

                loop(b, panels, [], copy_panel)
                first, second = b.add(at, b.mul(panels, const(PANEL * width))), b.add(to, b.mul(panels, panel))

                def copy_vector(v, _):
                    e.store(b, e.load(b, b.add(first, b.mul(v, const(width)))), b.add(second, b.mul(v, const(width))))
                    return []

                loop(b, vectors, [], copy_vector)
                with b.if_then(b.icmp_signed(">", left, const(0))):
                    done = b.mul(vectors, const(width))
                    e.store(b, e.load(b, b.add(first, done), mask), b.add(second, done), mask)
                return []

            loop(b, rows, [], copy_row)

        b.call(e.function("pack_panels", [I64] * 6, body), arguments[2:])
        return context.get_dummy_value()

    return signature, codegen
