"""Files of a distributed model: ordinary model files and checkpoints, written and read by stripes.

The root writes the file and asks the other ranks for their rows as it comes to them, so that it never holds the model.
Every rank reads its own rows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from lcnumba.formats.npz import ModelFile, Streamed
from lcnumba.mpi.exchange import World
from lcnumba.utils.types import Array

__all__ = ["Stored", "Striped", "loaded", "writing"]

# Bytes that are sent to the root at a time.
PART_BYTES = 1 << 26


class Striped(Streamed):
    """An array of which each rank has some rows of the first axis.

    Parameters
    ----------
    world : World
        The ranks.
    key : tuple
        By which the other ranks find their rows.
    own : array
        The rows of this rank.
    edges : sequence of int
        The rows at which the stripes begin, and the end of the last.
    """

    def __init__(self, world: World, key: Any, own: Array, edges: Sequence[int]) -> None:
        self._world, self.key, self.own, self._edges = world, key, own, edges
        self.shape, self.dtype = (edges[-1], *own.shape[1:]), own.dtype

    def parts(self) -> Iterator[Array]:
        """Yield the rows of all ranks, in order; for the root, within `writing`."""
        for rank in range(self._world.size):
            count = self._edges[rank + 1] - self._edges[rank]
            rows = max(1, PART_BYTES // max(1, math.prod(self.shape[1:]) * self.dtype.itemsize))
            for first in range(0, count, rows):
                last = min(count, first + rows)
                if rank == self._world.rank:
                    yield np.ascontiguousarray(self.own[first:last])
                    continue
                part = np.empty((last - first, *self.shape[1:]), self.dtype)
                self._world.request(rank, (self.key, first, last))
                self._world.receive(rank, part)
                yield part


@contextmanager
def writing(world: World, arrays: Callable[[], Sequence[Striped]]) -> Iterator[bool]:
    """Run a block on the root, while the other ranks send the rows of arrays that it asks for.

    Yields whether this is the root; the other ranks' block comes when all has been sent.
    """
    if world.group:  # the first group writes
        yield False
        return
    if not world.is_root:
        with world.committed():  # the root waits for it
            own = {array.key: array.own for array in arrays()}
        world.serve(lambda what: own[what[0]][what[1] : what[2]])
        yield False
        return
    try:
        yield True
    finally:
        for rank in range(1, world.size):
            world.request(rank, None)


class Stored:
    """An array in a file, which is read later: as a whole, or some rows of it."""

    def __init__(self, file: ModelFile, number: int) -> None:
        self._file, self._number = file, number
        self.shape, self.dtype = file.header(f"state_{number}")

    def read(self) -> Array:
        """Return the whole array."""
        return self._file.read_state(self._number)

    def read_rows(self, first: int, last: int) -> Array:
        """Return some rows."""
        return self._file.read_rows(f"state_{self._number}", first, last, self.shape)


def loaded(tree: Any) -> Any:
    """Return a tree of lists, tuples and dicts with the arrays in place of `Stored` ones."""
    if isinstance(tree, Stored):
        return tree.read()
    if isinstance(tree, dict):
        return {key: loaded(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(loaded(value) for value in tree)
    return tree
