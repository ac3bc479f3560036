"""Gathering of samples, as shuffling does for every batch."""

from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba.kernels.jit import Kernel, next_task
from lcnumba.kernels.records import Fields, array_at, reader
from lcnumba.kernels.rules import workers

__all__ = ["take"]

TASK_BYTES = 1 << 16  # bytes per task
MIN_SAMPLE_BYTES = 1 << 13  # sample size from which threads are faster than NumPy


COPY = Fields("source rows size indices n parts out")
read = reader(COPY.dtype)


def _copy(worker, record):
    """Copy the rows source[indices], `size` bytes each, split into `parts` tasks; indices (n) are int64."""
    r = read(record)
    size, parts = r.size, r.parts
    source, out = array_at(r.source, (r.rows, size), np.uint8), array_at(r.out, (r.n, size), np.uint8)
    indices = array_at(r.indices, r.n, np.int64)
    total = r.n * parts
    task = next_task(r.counter, r.workers, worker, total)
    while task >= 0:
        row, part = task // parts, task % parts
        begin, end = part * size // parts, (part + 1) * size // parts
        # Slices, not source[i, e]: indices that may be negative prevent vectorization.
        loaded, stored = source[indices[row], begin:end], out[row, begin:end]
        for e in range(len(stored)):
            stored[e] = loaded[e]
        task = next_task(r.counter, r.workers, worker, total)


copy = Kernel(_copy, COPY)


def take(source: npt.NDArray[Any], indices: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return source[indices] for indices in [0, len(source)); large samples are copied by all threads."""
    size = source.nbytes // max(1, len(source))
    threads = workers(size * len(indices) // 2, None)
    if threads == 1 or size < MIN_SAMPLE_BYTES or not source.flags.c_contiguous:
        return source[indices]
    out = np.empty((len(indices), *source.shape[1:]), source.dtype)
    copy(
        source=source, rows=len(source), size=size, indices=np.ascontiguousarray(indices, np.int64), n=len(indices),
        parts=max(1, size // TASK_BYTES), out=out, threads=threads,
    )  # fmt: skip
    return out
