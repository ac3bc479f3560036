"""Samples picked out of an array: what shuffling does with every batch."""

from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba.kernels.jit import next_task, tasks
from lcnumba.kernels.rules import slots
from lcnumba.utils.arrays import read_only

__all__ = ["take"]

PIECE = 1 << 16  # bytes of a task
LARGE = 1 << 13  # bytes of a sample from which all threads are faster than NumPy's one


@tasks
def copy(slot, counter, source, chosen, pieces, out):
    """Copy the rows of bytes that are chosen, each in so many pieces, one a task."""
    size = source.shape[1]
    total = len(chosen) * pieces
    task = next_task(counter, slot, total)
    while task >= 0:
        row, piece = task // pieces, task % pieces
        begin, end = piece * size // pieces, (piece + 1) * size // pieces
        # Stretches, and not source[i, e]: an index that might be negative keeps loops from vectors.
        read, written = source[chosen[row], begin:end], out[row, begin:end]
        for e in range(len(written)):
            written[e] = read[e]
        task = next_task(counter, slot, total)


def take(source: npt.NDArray[Any], chosen: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return source[chosen], for indices from 0 to its length; large samples are copied by all threads."""
    size = source.nbytes // max(1, len(source))
    threads = slots(size * len(chosen) // 2, None)
    if threads == 1 or size < LARGE or not source.flags.c_contiguous:
        return source[chosen]
    out = np.empty((len(chosen), *source.shape[1:]), source.dtype)
    rows, copies = (array.reshape(len(array), -1).view(np.uint8) for array in (source, out))
    copy(read_only(rows), read_only(chosen.astype(np.int64)), max(1, size // PIECE), copies, threads=threads)
    return out
