"""Forward and backward by lines as plain loops: the reference for the tuned kernels.

They are also used where the register tile is not available: with LCNUMBA_TILE=0, and without compilation.
"""

from lcnumba.kernels.jit import next_task, tasks


@tasks
def forward(
    worker, counter, x, kernel, bias, row_start, row_tap, row_line, col_start, col_input, col_tap, col_taps,
    C, KW, task_positions, y,
):  # fmt: skip
    """Compute y, `task_positions` positions per task; each W[p] is read once for the whole batch.

    x (N, LI, W*C), kernel (P, K, F), bias (P, F) or (1, F) or (0, 0), y (N, P, F); `row_*` are the triples
    by output line, `col_*` the segments by output column.
    """
    N, P, F = y.shape
    OW = len(col_start) - 1
    total = -(-P // task_positions)
    task = next_task(counter, worker, total)
    while task >= 0:
        for p in range(task * task_positions, min(P, (task + 1) * task_positions)):
            o = p // OW
            j = p - o * OW
            own = p if len(bias) == P else 0
            for n in range(N):
                for f in range(F):
                    y[n, p, f] = bias[own, f] if len(bias) else 0
                for row in range(row_start[o], row_start[o + 1]):
                    i = row_line[row]
                    for col in range(col_start[j], col_start[j + 1]):
                        at = col_input[col] * C
                        k = (row_tap[row] * KW + col_tap[col]) * C
                        for entry in range(col_taps[col] * C):
                            value = x[n, i, at + entry]
                            for f in range(F):
                                y[n, p, f] += value * kernel[p, k + entry, f]
        task = next_task(counter, worker, total)


@tasks
def backward_input(
    worker, counter, kernel, dy, row_start, row_tap, row_line, band_start, band_column, band_input, band_tap, band_taps,
    edges, C, KW, OW, dx,
):  # fmt: skip
    """Compute dx, one task per band of each input line.

    kernel (P, K, F), dy (N, P, F), dx (N, LI, W*C); `row_*` are the triples by input line, `band_*` the segments
    split at the band `edges`. Each task computes the whole dx of its band, in the order of the tables.
    """
    N, _, F = dy.shape
    bands = len(band_start) - 1
    total = dx.shape[1] * bands
    task = next_task(counter, worker, total)
    while task >= 0:
        i = task // bands
        band = task - i * bands
        for n in range(N):
            for at in range(edges[band] * C, edges[band + 1] * C):
                dx[n, i, at] = 0
        for row in range(row_start[i], row_start[i + 1]):
            for col in range(band_start[band], band_start[band + 1]):
                p = row_line[row] * OW + band_column[col]
                at = band_input[col] * C
                k = (row_tap[row] * KW + band_tap[col]) * C
                for n in range(N):
                    for entry in range(band_taps[col] * C):
                        value = dx[n, i, at + entry]
                        for f in range(F):
                            value += kernel[p, k + entry, f] * dy[n, p, f]
                        dx[n, i, at + entry] = value
        task = next_task(counter, worker, total)


@tasks
def backward_kernel(
    worker, counter, x, dy, row_start, row_tap, row_line, band_start, band_column, band_input, band_tap, band_taps,
    C, KW, OW, dkernel,
):  # fmt: skip
    """Compute dkernel, one task per band of each input line: no other task writes its blocks.

    x (N, LI, W*C), dy (N, P, F), dkernel (P, K, F), written only at existing connections; the tables are those of
    `backward_input`.
    """
    N, LI, _ = x.shape
    F = dy.shape[2]
    bands = len(band_start) - 1
    total = LI * bands
    task = next_task(counter, worker, total)
    while task >= 0:
        i = task // bands
        band = task - i * bands
        for row in range(row_start[i], row_start[i + 1]):
            for col in range(band_start[band], band_start[band + 1]):
                p = row_line[row] * OW + band_column[col]
                at = band_input[col] * C
                k = (row_tap[row] * KW + band_tap[col]) * C
                for entry in range(band_taps[col] * C):
                    for f in range(F):
                        dkernel[p, k + entry, f] = 0
                for n in range(N):
                    for entry in range(band_taps[col] * C):
                        value = x[n, i, at + entry]
                        for f in range(F):
                            dkernel[p, k + entry, f] += value * dy[n, p, f]
        task = next_task(counter, worker, total)
