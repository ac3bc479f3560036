"""Forward and backward as plain loops, by lines and by lists of connections: the reference for the tuned kernels.

They are also used where the register tile is not available: with LCNUMBA_TILE=0, and without compilation. Each factory
here makes the kernel for elements of SIZE bytes; the fields of the records are those of `forward.py`, `backward.py` and
`directed.py`.
"""

import functools

import numpy as np

from lcnumba.kernels.jit import Kernel, next_task, specialised
from lcnumba.kernels.records import BANDS, COLUMNS, ROWS, SEGMENT, Fields, array_at, int_at, reader, tables_3, tables_4

SIZES = "N P K F LI OW line C KW G E entry_step"
FORWARD = Fields(f"x kernel bias bias_rows y {SIZES} LO task_positions sets {ROWS} {COLUMNS}")
SHARED = Fields(f"x dy result S {SIZES} LO task_positions sets {ROWS} {COLUMNS}")
BACKWARD = Fields(
    f"x kernel dy result adds {SIZES} sets n_bands first_line part_lines first_band part_bands {ROWS} {BANDS}"
)
FORWARD_DIRECTED = Fields("x kernel bias y N I C F outputs connections indptr indices")
BACKWARD_DIRECTED = Fields("x kernel dy dx target N I C F outputs connections width blocks block_start table")

read_forward, read_shared, read_backward = reader(FORWARD.dtype), reader(SHARED.dtype), reader(BACKWARD.dtype)
read_forward_directed, read_backward_directed = reader(FORWARD_DIRECTED.dtype), reader(BACKWARD_DIRECTED.dtype)
SEGMENT_BYTES, read_segment = SEGMENT.itemsize, reader(SEGMENT)


@functools.cache
def forward(SIZE):
    """Make the forward kernel."""
    number = np.float32 if SIZE == 4 else np.float64

    def forward(worker, record):
        """Compute y, `task_positions` positions per task; each W[p] is read once for the whole batch.

        x (N, LI, W*C), kernel (P, K, F), bias (bias_rows, F) with 0, 1 or P rows, y (N, P, F); `row_*` are the triples
        by output line, `col_*` the segments by output column. With sets (P), W[p] is kernel[sets[p]], kernel (S, K, F).
        """
        r = read_forward(record)
        N, P, K, F, OW, C, E, M = r.N, r.P, r.K, r.F, r.OW, r.C, r.E, r.F // r.G
        x, y = array_at(r.x, (N, r.LI, r.line), number), array_at(r.y, (N, P, F), number)
        bias = array_at(r.bias, (r.bias_rows, F), number)
        row_start, row_tap, row_line = tables_3(r.LO, r.row_start, r.row_tap, r.row_line)
        col_start, col_input, col_tap, col_taps = tables_4(OW, r.col_start, r.col_input, r.col_tap, r.col_taps)
        total = -(-P // r.task_positions)
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            for p in range(task * r.task_positions, min(P, (task + 1) * r.task_positions)):
                o = p // OW
                j = p - o * OW
                own = int_at(r.sets, p) if r.sets else p
                weights = array_at(r.kernel + own * K * F * SIZE, (K, F), number)
                for n in range(N):
                    for f in range(F):
                        y[n, p, f] = bias[p if len(bias) == P else 0, f] if len(bias) else 0
                    for row in range(row_start[o], row_start[o + 1]):
                        i = row_line[row]
                        for col in range(col_start[j], col_start[j + 1]):
                            at = col_input[col] * C
                            k = (row_tap[row] * r.KW + col_tap[col]) * E
                            for entry in range(col_taps[col] * E):
                                for f in range(F):
                                    value = x[n, i, at + entry * r.entry_step + f // M * E]
                                    y[n, p, f] += value * weights[k + entry, f]
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(forward, SIZE), FORWARD)


@functools.cache
def backward_input(SIZE):
    """Make the kernel for dx."""
    number = np.float32 if SIZE == 4 else np.float64

    def backward_input(worker, record):
        """Compute dx (result), one task per band of each input line of the part.

        kernel (P, K, F), dy (N, P, F), dx (N, LI, W*C); `row_*` are the triples by input line, `band_*` the segments
        split at the band `edges`. Each task computes the whole dx of its band, in the order of the tables; with `adds`
        it starts from what dx holds. sets are as for `forward`.
        """
        r = read_backward(record)
        N, P, K, F, C, E, M, bands = r.N, r.P, r.K, r.F, r.C, r.E, r.F // r.G, r.n_bands
        dy = array_at(r.dy, (N, P, F), number)
        dx = array_at(r.result, (N, r.LI, r.line), number)
        row_start, row_tap, row_line = tables_3(r.LI, r.row_start, r.row_tap, r.row_line)
        band_start, band_column, band_input = tables_3(bands, r.band_start, r.band_column, r.band_input)
        _, band_tap, band_taps = tables_3(bands, r.band_start, r.band_tap, r.band_taps)
        edges = array_at(r.edges, bands + 1, np.int64)
        total = r.part_lines * r.part_bands
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            band, i = r.first_band + task % r.part_bands, r.first_line + task // r.part_bands
            for n in range(N):
                for at in range(edges[band] * C, 0 if r.adds else edges[band + 1] * C):
                    dx[n, i, at] = 0
            for row in range(row_start[i], row_start[i + 1]):
                for col in range(band_start[band], band_start[band + 1]):
                    p = row_line[row] * r.OW + band_column[col]
                    at = band_input[col] * C
                    k = (row_tap[row] * r.KW + band_tap[col]) * E
                    own = int_at(r.sets, p) if r.sets else p
                    weights = array_at(r.kernel + own * K * F * SIZE, (K, F), number)
                    for n in range(N):
                        for entry in range(band_taps[col] * E):
                            for group in range(r.G):
                                place = at + entry * r.entry_step + group * E
                                value = dx[n, i, place]
                                for f in range(group * M, (group + 1) * M):
                                    value += weights[k + entry, f] * dy[n, p, f]
                                dx[n, i, place] = value
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(backward_input, SIZE), BACKWARD)


@functools.cache
def backward_kernel(SIZE):
    """Make the kernel for dkernel."""
    number = np.float32 if SIZE == 4 else np.float64

    def backward_kernel(worker, record):
        """Compute dkernel (result), one task per band of each input line of the part: no other task writes its blocks.

        x (N, LI, W*C), dy (N, P, F), dkernel (P, K, F), written only at existing connections; the tables are those of
        `backward_input`.
        """
        r = read_backward(record)
        N, P, F, C, E, M, bands = r.N, r.P, r.F, r.C, r.E, r.F // r.G, r.n_bands
        x, dy = array_at(r.x, (N, r.LI, r.line), number), array_at(r.dy, (N, P, F), number)
        dkernel = array_at(r.result, (P, r.K, F), number)
        row_start, row_tap, row_line = tables_3(r.LI, r.row_start, r.row_tap, r.row_line)
        band_start, band_column, band_input = tables_3(bands, r.band_start, r.band_column, r.band_input)
        _, band_tap, band_taps = tables_3(bands, r.band_start, r.band_tap, r.band_taps)
        total = r.part_lines * r.part_bands
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            band, i = r.first_band + task % r.part_bands, r.first_line + task // r.part_bands
            for row in range(row_start[i], row_start[i + 1]):
                for col in range(band_start[band], band_start[band + 1]):
                    p = row_line[row] * r.OW + band_column[col]
                    at = band_input[col] * C
                    k = (row_tap[row] * r.KW + band_tap[col]) * E
                    for entry in range(band_taps[col] * E):
                        for f in range(F):
                            dkernel[p, k + entry, f] = 0
                    for n in range(N):
                        for entry in range(band_taps[col] * E):
                            for f in range(F):
                                value = x[n, i, at + entry * r.entry_step + f // M * E]
                                dkernel[p, k + entry, f] += value * dy[n, p, f]
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(backward_kernel, SIZE), BACKWARD)


@functools.cache
def shared_kernel(SIZE):
    """Make the kernel for dkernel of weights that positions share."""
    number = np.float32 if SIZE == 4 else np.float64

    def shared_kernel(worker, record):
        """Compute dkernel (result), (S, K, F), one task per set, which visits the positions of this set.

        x (N, LI, W*C), dy (N, P, F); the tables are those of `forward`.
        """
        r = read_shared(record)
        N, P, K, F, OW, C, E, M = r.N, r.P, r.K, r.F, r.OW, r.C, r.E, r.F // r.G
        x, dy = array_at(r.x, (N, r.LI, r.line), number), array_at(r.dy, (N, P, F), number)
        dkernel = array_at(r.result, (r.S, K, F), number)
        row_start, row_tap, row_line = tables_3(r.LO, r.row_start, r.row_tap, r.row_line)
        col_start, col_input, col_tap, col_taps = tables_4(OW, r.col_start, r.col_input, r.col_tap, r.col_taps)
        task = next_task(r.counter, r.workers, worker, r.S)
        while task >= 0:
            for k in range(K):
                for f in range(F):
                    dkernel[task, k, f] = 0
            for p in range(P):
                if int_at(r.sets, p) != task:
                    continue
                o = p // OW
                j = p - o * OW
                for row in range(row_start[o], row_start[o + 1]):
                    for col in range(col_start[j], col_start[j + 1]):
                        k = (row_tap[row] * r.KW + col_tap[col]) * E
                        for n in range(N):
                            for entry in range(col_taps[col] * E):
                                for f in range(F):
                                    at = col_input[col] * C + entry * r.entry_step + f // M * E
                                    dkernel[task, k + entry, f] += x[n, row_line[row], at] * dy[n, p, f]
            task = next_task(r.counter, r.workers, worker, r.S)

    return Kernel(specialised(shared_kernel, SIZE), SHARED)


@functools.cache
def forward_directed(SIZE):
    """Make the forward kernel of connections that are given as a list."""
    number = np.float32 if SIZE == 4 else np.float64

    def forward_directed(worker, record):
        """Compute y (N, outputs, F), an output per task.

        x (N, I, C), kernel (connections, C, F), bias (outputs, F) or 0; the connections of output o, to the inputs
        indices, are ``indptr[o]:indptr[o + 1]``.
        """
        r = read_forward_directed(record)
        N, C, F, outputs = r.N, r.C, r.F, r.outputs
        x, y = array_at(r.x, (N, r.I, C), number), array_at(r.y, (N, outputs, F), number)
        kernel = array_at(r.kernel, (r.connections, C, F), number)
        bias = array_at(r.bias, (outputs if r.bias else 0, F), number)
        indptr, indices = array_at(r.indptr, outputs + 1, np.int64), array_at(r.indices, r.connections, np.int64)
        o = next_task(r.counter, r.workers, worker, outputs)
        while o >= 0:
            for n in range(N):
                for f in range(F):
                    y[n, o, f] = bias[o, f] if len(bias) else 0
                for at in range(indptr[o], indptr[o + 1]):
                    for c in range(C):
                        for f in range(F):
                            y[n, o, f] += x[n, indices[at], c] * kernel[at, c, f]
            o = next_task(r.counter, r.workers, worker, outputs)

    return Kernel(specialised(forward_directed, SIZE), FORWARD_DIRECTED)


@functools.cache
def backward_directed(SIZE):
    """Make the kernel for dx, or for the gradient of the kernel, of connections that are given as a list."""
    number = np.float32 if SIZE == 4 else np.float64

    def backward_directed(worker, record):
        """Compute dx (N, I, C) and target, the gradient (connections, C, F), each unless it is 0, a block per task."""
        r = read_backward_directed(record)
        N, inputs, C, F = r.N, r.I, r.C, r.F
        x, dx = (
            array_at(r.x, (N if r.target else 0, inputs, C), number),
            array_at(r.dx, (N if r.dx else 0, inputs, C), number),
        )
        dy = array_at(r.dy, (N, r.outputs, F), number)
        kernel = array_at(r.kernel, (r.connections if r.dx else 0, C, F), number)
        target = array_at(r.target, (r.connections if r.target else 0, C, F), number)
        block_start = array_at(r.block_start, r.blocks + 1, np.int64)
        task = next_task(r.counter, r.workers, worker, r.blocks)
        while task >= 0:
            dx[:, task * r.width : min(inputs, (task + 1) * r.width)] = 0
            for s in range(block_start[task], block_start[task + 1]):
                segment = read_segment(r.table + s * SEGMENT_BYTES)
                o, first = segment.output, task * r.width + segment.input
                for k in range(segment.length):
                    at, i = segment.connection + k, first + k
                    for c in range(C):
                        for n in range(len(dx)):
                            for f in range(F):
                                dx[n, i, c] += kernel[at, c, f] * dy[n, o, f]
                        for f in range(F if r.target else 0):
                            value = number(0)
                            for n in range(N):
                                value += x[n, i, c] * dy[n, o, f]
                            target[at, c, f] = value
            task = next_task(r.counter, r.workers, worker, r.blocks)

    return Kernel(specialised(backward_directed, SIZE), BACKWARD_DIRECTED)
