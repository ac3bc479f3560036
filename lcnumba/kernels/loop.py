"""Forward and backward by lines on register tiles; `lcnumba.geometry` makes the tables.

Each function here makes the kernel of one number type and of the vector lengths that suit a shape
(`lcnumba.kernels.vectors`); shapes themselves are arguments, so that few kernels are compiled.
"""

import functools

import numpy as np

from lcnumba.kernels import GRADIENT, NUMBERS, SGD, update
from lcnumba.kernels.jit import array_at, compiled, next_task, specialised, tasks
from lcnumba.kernels.tile import B_ROWS, NEXT_A, PANEL, SEGMENT, dots, multiply, pack, transpose
from lcnumba.kernels.vectors import host_bytes

# Rows of W that are asked for before they are needed; 16 to 64 do equally well, fewer do not.
AHEAD = 32
# Rows of a block whose gradient is made, and applied, at once: the largest tiles divide it, and so does a
# vector.
STRETCH = 48
# Entries of dbias that are summed up at once: they stay in a core's first cache.
BIAS_ENTRIES = 1 << 10
# Samples whose x is asked for before it is copied.
SOON = 4
# Samples over which a block's gradient is summed at once: their x and dy stay in a core's first cache.
BATCH = 64


@functools.cache
def forward(SIZE, VL):
    """Make the forward kernel."""
    number = np.float32 if SIZE == 4 else np.float64
    one, bottom, prefetch, panel = number(1), number(-np.inf), B_ROWS, PANEL * VL

    def forward(
        slot, counter, x, kernel, bias, row_start, row_tap, row_line, col_start, col_input, col_tap, col_taps,
        C, KW, chunk, width, piece, floor, segments, y,
    ):  # fmt: skip
        """Compute y, `chunk` positions and `width` filters, a multiple of VL or all, a task.

        x (N, LI, W*C), kernel (P, K, F), bias (P, F) or, of zeros, (1, F), y (N, P, F); `row_*`
        are the triples by output line, `col_*` the segments by output column. y = max(floor, ...).

        The sum of a position runs over its segments, in pieces of at most `piece` entries, so that
        what one pass over the rows of x leaves of W in cache serves the next pass; segments
        (slots, taps + 1, SEGMENT) is scratch.
        """
        N, P, F = y.shape
        K, line = kernel.shape[1], x.shape[2]
        OW = len(col_start) - 1
        bias_row = 0 if len(bias) < P else F * SIZE
        table = segments[slot]
        parts = -(-F // width)
        total = -(-P // chunk) * parts
        task = next_task(counter, slot, total)
        while task >= 0:
            block = task // parts
            left = (task - block * parts) * width
            columns = min(F - left, width)
            for p in range(block * chunk, min(P, (block + 1) * chunk)):
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
                            length = min(end - k, piece - entries)
                            table[count, 0], table[count, 1], table[count, 2] = at * SIZE, k * F * SIZE, length
                            count, entries, k, at = count + 1, entries + length, k + length, at + length
                            if entries == piece:
                                ahead = (entries if columns > panel else AHEAD) * F * SIZE
                                multiply(
                                    SIZE, VL, prefetch, x.ctypes.data, x.shape[1] * line * SIZE, SIZE,
                                    weights, F * SIZE, table.ctypes.data, count, out, P * F * SIZE,
                                    init, init_row, N, columns, ahead, 0, 0, one, bottom,
                                )  # fmt: skip
                                init, init_row, count, entries = out, P * F * SIZE, 0, 0
                ahead = (entries if columns > panel else AHEAD) * F * SIZE
                multiply(
                    SIZE, VL, prefetch, x.ctypes.data, x.shape[1] * line * SIZE, SIZE,
                    weights, F * SIZE, table.ctypes.data, count, out, P * F * SIZE,
                    init, init_row, N, columns, ahead, 0, 0, one, floor,
                )  # fmt: skip
            task = next_task(counter, slot, total)

    return tasks(specialised(forward, SIZE, VL))


@functools.cache
def beyond_the_batch(SIZE, VN):
    """Make the function that clears the lanes beyond the batch of turned rows, in vectors of VN.

    They are computed with and thrown away. They must hold numbers all the same: what memory happens to
    hold may be subnormal, which makes a product many times slower.
    """
    number = np.float32 if SIZE == 4 else np.float64

    def beyond_the_batch(turned, row_bytes, rows, count):
        lanes = -(-count // VN) * VN - count
        for r in range(rows if lanes else 0):
            rest = array_at(turned + r * row_bytes + count * SIZE, lanes, number)
            for n in range(lanes):
                rest[n] = 0

    return compiled(specialised(beyond_the_batch, SIZE, VN))


@functools.cache
def apply_at(SIZE):
    """Make `lcnumba.kernels.update.apply` for `count` numbers at addresses."""
    number, apply = np.float32 if SIZE == 4 else np.float64, update.apply

    def apply_at(rule, target, gradient, state_1, state_2, numbers, count):
        apply(
            rule, array_at(target, count, number), array_at(gradient, count, number),
            array_at(state_1, count, number), array_at(state_2, count, number), array_at(numbers, NUMBERS, number),
        )  # fmt: skip

    return compiled(specialised(apply_at, SIZE))


@functools.cache
def take_dy(SIZE, VN):
    """Make the function that copies dy of a position together, and turns it."""
    lanes, clear = host_bytes() // SIZE, beyond_the_batch(SIZE, VN or 1)

    def take_dy(dy, y, y_bytes, copy, row_bytes, first, begin, count, turned, chunk_bytes, F):
        """Copy dy, rectified by y unless its address is 0, of samples from `first`; turn `count` from `begin`.

        dy and y are the addresses of sample 0 at the position, copy that of its copy, which may be dy
        itself; turned is that of the turned rows, or 0 where none are wanted.
        """
        if copy != dy:
            skipped, gate = first * y_bytes, 0
            if y:
                gate = y + skipped
            samples = begin + count - first
            pack(SIZE, lanes, dy + skipped, gate, y_bytes, copy + first * row_bytes, row_bytes, samples, F, row_bytes)
        if turned:
            transpose(SIZE, copy + begin * row_bytes, row_bytes, turned, chunk_bytes, count, F)
            clear(turned, chunk_bytes, F, count)

    return compiled(specialised(take_dy, SIZE, VN))


@functools.cache
def forward_by_batch(SIZE, VN):
    """Make the forward kernel for few filters, with vectors of VN samples."""
    number = np.float32 if SIZE == 4 else np.float64
    one, prefetch, clear = number(1), NEXT_A, beyond_the_batch(SIZE, VN)

    def forward_by_batch(
        slot, counter, x, kernel, bias, row_start, row_tap, row_line, col_start, col_input, col_tap, col_taps,
        C, KW, positions, chunk, floor, segments, xt, tags, yt, y,
    ):  # fmt: skip
        """Compute what `forward` computes, for `chunk` samples at a time, whose lines of x are turned.

        Scratch of each slot: segments (segments, 4); xt (held, W*C, chunk), lines of x turned, as many as an
        output line reads, and tags (held), at first -1, which they are; yt (F, chunk).
        """
        N, P, F = y.shape
        K, LI, line = kernel.shape[1], x.shape[1], x.shape[2]
        OW = len(col_start) - 1
        held, chunk_bytes = tags.shape[1], chunk * SIZE
        xt_at, out = xt.ctypes.data + slot * held * line * chunk_bytes, yt.ctypes.data + slot * F * chunk_bytes
        table = segments[slot]
        parts = -(-P // positions)
        total = -(-N // chunk) * parts
        task = next_task(counter, slot, total)
        while task >= 0:
            begin = task // parts * chunk
            count, part = min(chunk, N - begin), task % parts
            for p in range(part * positions, min(P, (part + 1) * positions)):
                o = p // OW
                j = p - o * OW
                blocks = 0
                for row in range(row_start[o], row_start[o + 1]):
                    i = row_line[row]
                    place = i % held
                    if tags[slot, place] != i * N + begin:
                        source = x.ctypes.data + (begin * LI + i) * line * SIZE
                        turned = xt_at + place * line * chunk_bytes
                        transpose(SIZE, source, LI * line * SIZE, turned, chunk_bytes, count, line)
                        clear(turned, chunk_bytes, line, count)
                        tags[slot, place] = i * N + begin
                    for col in range(col_start[j], col_start[j + 1]):
                        table[blocks, 0] = (row_tap[row] * KW + col_tap[col]) * C * F * SIZE
                        table[blocks, 1] = (place * line + col_input[col] * C) * chunk_bytes
                        table[blocks, 2], table[blocks, 3] = col_taps[col] * C, 0
                        blocks += 1
                for f in range(F):
                    first = bias[p, f] if len(bias) == P else bias[0, f]
                    for n in range(chunk):
                        yt[slot, f, n] = first
                weights = kernel.ctypes.data + p * K * F * SIZE
                multiply(
                    SIZE, VN, prefetch, weights, SIZE, F * SIZE, xt_at, chunk_bytes,
                    table.ctypes.data, blocks, out, chunk_bytes, out, chunk_bytes,
                    F, -(-count // VN) * VN, weights, 0, 0, one, floor,
                )  # fmt: skip
                target = y.ctypes.data + (begin * P + p) * F * SIZE
                transpose(SIZE, out, chunk_bytes, target, P * F * SIZE, F, count)
            task = next_task(counter, slot, total)

    return tasks(specialised(forward_by_batch, SIZE, VN))


@functools.cache
def block_gradient(SIZE, VL):
    """Make the function that computes the gradient of a block of weights, or applies it."""
    number = np.float32 if SIZE == 4 else np.float64
    one, bottom, prefetch = number(1), number(-np.inf), NEXT_A
    stretch, batch, apply = STRETCH, BATCH, apply_at(SIZE)

    def block_gradient(
        rule, x, x_bytes, dy, dy_bytes, N, rows, F, target, state_1, state_2, numbers, ranges, zeros, gradient,
        following,
    ):  # fmt: skip
        """Store in target, or apply to it, the sum over n of x[n, r] dy[n, f], `rows` by F.

        All but `rule` and counts are addresses, those of target and states of the block at hand; x and dy
        have rows `x_bytes` and `dy_bytes` apart, `following` is the block to come. The rest is as for
        `backward`.
        """
        row_bytes = F * SIZE
        ahead_k = -(-row_bytes // min(N, batch))
        for r in range(0, rows, stretch if rule > SGD else rows):
            some = min(stretch, rows) if rule > SGD else rows
            some = min(some, rows - r)
            out, init, init_row, factor = target, zeros, 0, one
            if rule == SGD:
                init, init_row, factor = out, row_bytes, -array_at(numbers, 1, number)[0]
            elif rule > SGD:
                out = gradient
            for n in range(0, N, batch):
                # The segment (0, 0, samples, 0): `batch` of them, or what is left.
                segment = ranges + 8 * SEGMENT * (1 if N - n >= batch else 2)
                multiply(
                    SIZE, VL, prefetch, x + r * SIZE + n * x_bytes, SIZE, x_bytes, dy + n * dy_bytes, dy_bytes,
                    segment, 1, out, row_bytes, init, init_row, some, F,
                    following + r * row_bytes, row_bytes, ahead_k, factor, bottom,
                )  # fmt: skip
                init, init_row = out, row_bytes
            if rule > SGD:
                at = r * row_bytes
                apply(rule, target + at, gradient, state_1 + at, state_2 + at, numbers, some * F)

    return compiled(specialised(block_gradient, SIZE, VL))


@functools.cache
def block_gradient_turned(SIZE, VL):
    """Make the same function for few filters, with vectors of VL inputs."""
    number = np.float32 if SIZE == 4 else np.float64
    one, bottom, prefetch = number(1), number(-np.inf), NEXT_A
    stretch, apply = STRETCH, apply_at(SIZE)

    def block_gradient_turned(
        rule, x, x_bytes, dy, dy_bytes, N, rows, F, target, state_1, state_2, numbers, ranges, zeros, gradient,
        following,
    ):  # fmt: skip
        """Do what `block_gradient` does: compute it with the filters first, and turn it."""
        row_bytes, turned_bytes = F * SIZE, stretch * SIZE
        turned = gradient + stretch * row_bytes
        for r in range(0, rows, stretch):
            some, at = min(stretch, rows - r), r * row_bytes
            multiply(
                SIZE, VL, prefetch, dy, SIZE, dy_bytes, x + r * SIZE, x_bytes,
                ranges + 8 * SEGMENT * 3, 1, turned, turned_bytes, zeros, 0, F, some,
                following + at, some * SIZE, -(-some * SIZE // N), one, bottom,
            )  # fmt: skip
            transpose(SIZE, turned, turned_bytes, target + at if rule == GRADIENT else gradient, row_bytes, F, some)
            if rule >= SGD:
                apply(rule, target + at, gradient, state_1 + at, state_2 + at, numbers, some * F)

    return compiled(specialised(block_gradient_turned, SIZE, VL))


@functools.cache
def backward(SIZE, VL, VN, TURNED):
    """Make the backward kernel by blocks.

    Vectors of VN samples, or with 0 of few samples, serve dx; of VL filters, or if TURNED inputs, the gradient.
    """
    number = np.float32 if SIZE == 4 else np.float64
    one, bottom, prefetch, soon = number(1), number(-np.inf), NEXT_A, SOON
    settle = block_gradient_turned(SIZE, VL) if TURNED else block_gradient(SIZE, VL)
    lanes, take = host_bytes() // SIZE, take_dy(SIZE, VN)

    def backward(
        slot, counter, x, kernel, dy, y, row_start, row_tap, row_line,
        band_start, band_column, band_input, band_tap, band_taps, edges, C, KW, OW,
        chunk, piece, rule, target, state_1, state_2, numbers, ranges, zeros, xs, packed, dyt, tags, dxt, gradient, dx,
    ):  # fmt: skip
        """Compute dx, and the kernel's gradient or its update, a task for each band of each input line.

        x (N, LI, W*C), kernel (P, K, F), dy (N, P, F); y (N, P, F), or empty, is the output whose
        rectifier dy has yet to pass. `row_*` are the triples by input line, `band_*` the segments
        cut at the band `edges`.

        dx (N, LI, W*C) is left alone if it is empty. target is flat, as are its states: with GRADIENT
        it takes the gradient, of which existing connections alone are written; with a rule of
        `lcnumba.kernels` it is the kernel itself, and each block is updated once its dx is
        done, `piece` rows of it at a time. With NO_GRADIENT there is neither. A block of weights reads one
        input line and belongs to one band, so that no two tasks write the same numbers.

        Scratch of each slot: xs (N, entries of a band), x of the band, or empty; packed (held, N*F), dy of
        the positions that a line reads, or of the one at hand, or empty, where dy has one only; dyt (held,
        F, chunk), the same turned, of `chunk` samples; tags (held), at first -1, which they are, so that the
        next input line, which reads mostly the same, finds them; dxt (entries, chunk), dx of the band;
        gradient (2*STRETCH*F). ranges holds the segments (0, 0, length, 0) of lengths F, BATCH, N % BATCH
        and N, zeros is zeros.
        """
        N, LI, line = x.shape
        P, K, F = kernel.shape
        bands = len(band_start) - 1
        wants_dx, held = dx.size > 0, tags.shape[1]
        row_bytes, chunk_bytes, sample_bytes, y_bytes = F * SIZE, chunk * SIZE, LI * line * SIZE, P * F * SIZE
        in_place = packed.size == 0
        # One sample leaves nothing to sum up: its weights change while they are read.
        at_once = rule == SGD and N == 1 and wants_dx and VN == 0
        source_at, y_at = dy.ctypes.data, y.ctypes.data if y.size else 0
        packed_at = source_at if in_place else packed.ctypes.data + slot * held * N * row_bytes
        dyt_at = dyt.ctypes.data + slot * held * F * chunk_bytes
        dxt_at = dxt.ctypes.data + slot * dxt.shape[1] * chunk_bytes
        gradient_at = gradient.ctypes.data + slot * gradient.shape[1] * SIZE
        # Addresses only in the loops: an array that is handed on is counted, by atomic operations on memory
        # that all threads share.
        target_at, state_1_at, state_2_at = target.ctypes.data, state_1.ctypes.data, state_2.ctypes.data
        numbers_at, ranges_at, zeros_at = numbers.ctypes.data, ranges.ctypes.data, zeros.ctypes.data
        total = LI * bands
        task = next_task(counter, slot, total)
        while task >= 0:
            band = task // LI
            i = task - band * LI
            left = edges[band] * C
            entries = edges[band + 1] * C - left
            x_at, x_bytes = x.ctypes.data + (i * line + left) * SIZE, sample_bytes
            if xs.size:
                x_bytes = xs.shape[2] * SIZE
                copy, source = xs.ctypes.data + slot * N * x_bytes, x_at
                pack(SIZE, lanes, source, 0, sample_bytes, copy, x_bytes, N, entries, soon * sample_bytes)
                x_at = copy
            for begin in range(0, N, chunk):
                count = min(chunk, N - begin)
                # The weights change only after the whole batch has its dx.
                wants_kernel = rule >= GRADIENT and begin + count == N
                if not wants_dx and not wants_kernel:
                    continue
                if wants_dx and VN:
                    dxt[slot, :entries] = 0
                elif wants_dx:
                    dx[begin : begin + count, i, left : left + entries] = 0
                for row in range(row_start[i], row_start[i + 1]):
                    for col in range(band_start[band], band_start[band + 1]):
                        p = row_line[row] * OW + band_column[col]
                        at = band_input[col] * C - left
                        k = (row_tap[row] * KW + band_tap[col]) * C
                        rows = band_taps[col] * C
                        weights = (p * K + k) * F
                        # The block to come, which is asked for meanwhile.
                        coming = weights
                        if col + 1 < band_start[band + 1]:
                            coming = (row_line[row] * OW + band_column[col + 1]) * K * F
                            coming += (row_tap[row] * KW + band_tap[col + 1]) * C * F
                        elif row + 1 < row_start[i + 1]:
                            col_0 = band_start[band]
                            coming = (row_line[row + 1] * OW + band_column[col_0]) * K * F
                            coming += (row_tap[row + 1] * KW + band_tap[col_0]) * C * F
                        # dy of the position, rectified, one sample after the other; and turned.
                        place = p % held
                        dy_at, turned = packed_at + place * N * row_bytes, dyt_at + place * F * chunk_bytes
                        if tags[slot, place] != p * N + begin:
                            first = 0 if held == 1 and wants_kernel else begin
                            take(
                                source_at + p * row_bytes, y_at + p * row_bytes if y_at else 0, y_bytes, dy_at,
                                row_bytes, first, begin, count, turned if wants_dx and VN else 0, chunk_bytes, F,
                            )  # fmt: skip
                            tags[slot, place] = p * N + begin
                        for r in range(0, rows, piece):
                            some = min(piece, rows - r)
                            w = kernel.ctypes.data + (weights + r * F) * SIZE
                            following = (
                                w + piece * row_bytes if r + piece < rows else kernel.ctypes.data + coming * SIZE
                            )
                            if wants_dx and VN:
                                out = dxt_at + (at + r) * chunk_bytes
                                multiply(
                                    SIZE, VN, prefetch, w, row_bytes, SIZE, turned, chunk_bytes,
                                    ranges_at, 1, out, chunk_bytes, out, chunk_bytes,
                                    some, -(-count // VN) * VN, following, row_bytes, SIZE, one, bottom,
                                )  # fmt: skip
                                following = w  # that is enough prefetching
                            elif wants_dx:
                                for n in range(begin, begin + count):
                                    out = dx.ctypes.data + ((n * LI + i) * line + left + at + r) * SIZE
                                    source = x_at + (at + r) * SIZE if at_once else 0
                                    dots(
                                        SIZE, VL, w, row_bytes, dy_at + n * row_bytes, out, some, F,
                                        following, source, -numbers[0],
                                    )  # fmt: skip
                            else:
                                following += target_at - kernel.ctypes.data  # the kernel itself is not read
                            if wants_kernel and not at_once:
                                at_w = (weights + r * F) * SIZE
                                settle(
                                    rule, x_at + (at + r) * SIZE, x_bytes, dy_at, row_bytes, N, some, F,
                                    target_at + at_w, state_1_at + at_w, state_2_at + at_w, numbers_at, ranges_at,
                                    zeros_at, gradient_at, following,
                                )  # fmt: skip
                if wants_dx and VN:
                    out = dx.ctypes.data + ((begin * LI + i) * line + left) * SIZE
                    transpose(SIZE, dxt_at, chunk_bytes, out, sample_bytes, entries, count)
            task = next_task(counter, slot, total)

    return tasks(specialised(backward, SIZE, VL, VN, int(TURNED)))


@functools.cache
def backward_by_inputs(SIZE, VL, VN, TURNED):
    """Make the backward kernel by input columns; the arguments are as for `backward`."""
    number = np.float32 if SIZE == 4 else np.float64
    one, bottom, prefetch, soon = number(1), number(-np.inf), NEXT_A, SOON
    settle = block_gradient_turned(SIZE, VL) if TURNED else block_gradient(SIZE, VL)
    lanes, take = host_bytes() // SIZE, take_dy(SIZE, VN)

    def backward_by_inputs(
        slot, counter, x, kernel, dy, y, row_start, row_tap, row_line, read_start, read_column, read_tap,
        edges, C, KW, OW, chunk, rule, target, state_1, state_2, numbers, ranges, zeros, xs, packed, dyt, tags, readers,
        dxt, gradient, dx,
    ):  # fmt: skip
        """Compute what `backward` computes, a column of the input at a time: for many channels.

        dx of a column of C channels is one sum over all blocks that read it, C by F each, and is written
        once. `read_*` says, grouped by input column, which tap of which output column reads it. Scratch:
        readers (slots, 2, blocks of a column, 4), segments of the column at hand and of the next one,
        whose blocks are asked for meanwhile; packed and dyt hold all positions that a line reads.
        """
        N, LI, line = x.shape
        P, K, F = kernel.shape
        bands = len(edges) - 1
        held = tags.shape[1]
        row_bytes, chunk_bytes, sample_bytes, y_bytes = F * SIZE, chunk * SIZE, LI * line * SIZE, P * F * SIZE
        source_at, y_at = dy.ctypes.data, y.ctypes.data if y.size else 0
        packed_at = packed.ctypes.data + slot * held * N * row_bytes
        dyt_at = dyt.ctypes.data + slot * held * F * chunk_bytes
        dxt_at = dxt.ctypes.data + slot * dxt.shape[1] * chunk_bytes
        gradient_at = gradient.ctypes.data + slot * gradient.shape[1] * SIZE
        # Addresses only in the loops: an array that is handed on is counted, by atomic operations on memory
        # that all threads share.
        target_at, state_1_at, state_2_at = target.ctypes.data, state_1.ctypes.data, state_2.ctypes.data
        numbers_at, ranges_at, zeros_at = numbers.ctypes.data, ranges.ctypes.data, zeros.ctypes.data
        total = LI * bands
        task = next_task(counter, slot, total)
        while task >= 0:
            band = task // LI
            i = task - band * LI
            left, right = edges[band], edges[band + 1]
            triples = row_start[i + 1] - row_start[i]
            x_at, x_bytes = x.ctypes.data + (i * line + left * C) * SIZE, sample_bytes
            if xs.size:
                x_bytes = xs.shape[2] * SIZE
                copy, source, entries = xs.ctypes.data + slot * N * x_bytes, x_at, (right - left) * C
                pack(SIZE, lanes, source, 0, sample_bytes, copy, x_bytes, N, entries, soon * sample_bytes)
                x_at = copy
            for begin in range(0, N, chunk):
                count = min(chunk, N - begin)
                # The weights change only after the whole batch has its dx.
                wants_kernel = rule >= GRADIENT and begin + count == N
                for w in range(left, right):
                    rows = readers.shape[2]
                    readers_at = readers.ctypes.data + slot * 2 * rows * SEGMENT * 8
                    table = array_at(readers_at + w % 2 * rows * SEGMENT * 8, (rows, SEGMENT), np.int64)
                    other = array_at(readers_at + (w + 1) % 2 * rows * SEGMENT * 8, (rows, SEGMENT), np.int64)
                    # In the first round the column's own segments, then always those of the next one.
                    for column in range(w if w == left else w + 1, min(w + 2, right)):
                        filled = table if column == w else other
                        blocks = 0
                        for row in range(row_start[i], row_start[i + 1]):
                            for e in range(read_start[column], read_start[column + 1]):
                                p = row_line[row] * OW + read_column[e]
                                k = (row_tap[row] * KW + read_tap[e]) * C
                                filled[blocks, 0] = (p * K + k) * row_bytes
                                filled[blocks, 1] = p % held * F * chunk_bytes
                                blocks += 1
                    blocks = triples * (read_start[w + 1] - read_start[w])
                    coming = 0 if w + 1 == right else triples * (read_start[w + 2] - read_start[w + 1])
                    for m in range(blocks):
                        p = table[m, 0] // (K * row_bytes)
                        place = p % held
                        table[m, 2], table[m, 3] = F, other[m, 0] if m < coming else table[m, 0]
                        if tags[slot, place] != p * N + begin:
                            take(
                                source_at + p * row_bytes, y_at + p * row_bytes if y_at else 0, y_bytes,
                                packed_at + place * N * row_bytes, row_bytes, begin, begin, count,
                                dyt_at + place * F * chunk_bytes, chunk_bytes, F,
                            )  # fmt: skip
                            tags[slot, place] = p * N + begin
                    out = dxt_at + (w - left) * C * chunk_bytes
                    multiply(
                        SIZE, VN, prefetch, kernel.ctypes.data, row_bytes, SIZE, dyt_at, chunk_bytes,
                        table.ctypes.data, blocks, out, chunk_bytes, zeros_at, 0,
                        C, -(-count // VN) * VN, kernel.ctypes.data, row_bytes, SIZE, one, bottom,
                    )  # fmt: skip
                    if not wants_kernel:
                        continue
                    for m in range(blocks):
                        p = table[m, 0] // (K * row_bytes)
                        dy_at = packed_at + p % held * N * row_bytes
                        at_w = table[m, 0]
                        settle(
                            rule, x_at + (w - left) * C * SIZE, x_bytes, dy_at, row_bytes, N, C, F,
                            target_at + at_w, state_1_at + at_w, state_2_at + at_w, numbers_at, ranges_at,
                            zeros_at, gradient_at, kernel.ctypes.data + at_w,
                        )  # fmt: skip
                out = dx.ctypes.data + ((begin * LI + i) * line + left * C) * SIZE
                transpose(SIZE, dxt_at, chunk_bytes, out, sample_bytes, (right - left) * C, count)
            task = next_task(counter, slot, total)

    return tasks(specialised(backward_by_inputs, SIZE, VL, VN, int(TURNED)))


@tasks
def backward_bias(slot, counter, dy, y, dbias):
    """Compute dbias (P*F), the sum of dy (N, P*F) over n, BIAS_ENTRIES of it a task; y as for `backward`."""
    N, entries = dy.shape
    rectified = y.size > 0
    total = -(-entries // BIAS_ENTRIES)
    task = next_task(counter, slot, total)
    while task >= 0:
        begin, end = task * BIAS_ENTRIES, min(entries, (task + 1) * BIAS_ENTRIES)
        # Slices counted from 0: an index that might be negative would be tested each time.
        sums = dbias[begin:end]
        for e in range(len(sums)):
            sums[e] = 0
        for n in range(N):
            some = dy[n, begin:end]
            if rectified:
                gate = y[n, begin:end]
                for e in range(len(sums)):
                    if gate[e] > 0:
                        sums[e] += some[e]
            else:
                for e in range(len(sums)):
                    sums[e] += some[e]
        task = next_task(counter, slot, total)
