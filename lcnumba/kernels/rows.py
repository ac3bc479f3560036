"""Gathering of samples, as shuffling does for every batch."""

from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba.kernels.jit import next_task, tasks
from lcnumba.kernels.rules import workers
from lcnumba.utils.arrays import read_only

__all__ = ["take"]

TASK_BYTES = 1 << 16  # bytes per task
MIN_SAMPLE_BYTES = 1 << 13  # sample size from which threads are faster than NumPy


@tasks
def copy(worker, counter, source, indices, parts, out):
    """Copy the rows source[indices], bytes, each split into `parts` tasks."""
    size = source.shape[1]
    total = len(indices) * parts
    task = next_task(counter, worker, total)
    while task >= 0:
        row, part = task // parts, task % parts
        begin, end = part * size // parts, (part + 1) * size // parts
        # Slices, not source[i, e]: indices that may be negative prevent vectorization.
        read, written = source[indices[row], begin:end], out[row, begin:end]
        for e in range(len(written)):
            written[e] = read[e]
        task = next_task(counter, worker, total)


def take(source: npt.NDArray[Any], indices: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return source[indices] for indices in [0, len(source)); large samples are copied by all threads."""
    size = source.nbytes // max(1, len(source))
    threads = workers(size * len(indices) // 2, None)
    if threads == 1 or size < MIN_SAMPLE_BYTES or not source.flags.c_contiguous:
        return source[indices]
    out = np.empty((len(indices), *source.shape[1:]), source.dtype)
    rows, copies = (array.reshape(len(array), -1).view(np.uint8) for array in (source, out))
    copy(read_only(rows), read_only(indices.astype(np.int64)), max(1, size // TASK_BYTES), copies, threads=threads)
    return out
