"""Which lines of a layer each rank has, and which lines travel between ranks. No messages are sent here.

A stripe is some neighbouring output lines along the first dimension: rows of an image, slices of a volume, columns of a
sequence. Weights belong to positions and stay where they are. Lines of the input travel to ranks that read but do not
own them (the halo). Their dx travels the other way: it is summed by the ranks that read the line, in ascending order of
output lines, which is that of ranks, and the last one returns it to the owner.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lcnumba.connectivity.geometry import Geometry
from lcnumba.connectivity.stripe import Stripe
from lcnumba.utils.lazy import cached_property

__all__ = ["LayerStripes", "Transfer", "edges_of", "largest_count"]

Lines = npt.NDArray[np.int64]
# What one rank sends to, or receives from, others: lines by rank.
Transfer = dict[int, Lines]


def edges_of(lines: int, ranks: int) -> tuple[int, ...]:
    """Return where the stripes of so many lines begin, and the end of the last.

    Examples
    --------
    >>> from lcnumba.mpi.stripes import edges_of
    >>> edges_of(10, 4)
    (0, 2, 5, 7, 10)
    """
    return tuple(rank * lines // ranks for rank in range(ranks + 1))


class LayerStripes:
    """The stripes of one layer on some ranks.

    Parameters
    ----------
    geometry : Geometry
        The layer.
    ranks : int
        How many stripes there are.
    owns_input : bool
        Whether each rank owns a stripe of the input, as large as those of the output of a layer before: without it each
        rank reads what it needs from the data, and no dx is wanted.

    Examples
    --------
    >>> from lcnumba.connectivity.geometry import Geometry
    >>> from lcnumba.mpi.stripes import LayerStripes
    >>> layer = LayerStripes(Geometry((10, 4), channels=1, filters=1, kernel_size=3), ranks=2, owns_input=True)
    >>> layer.output_edges, layer.input_edges
    ((0, 4, 8), (0, 5, 10))
    >>> layer.halo(0)  # what the first rank sends to the second, and what it receives
    ({1: array([4])}, {1: array([5])})
    """

    def __init__(self, geometry: Geometry, ranks: int, owns_input: bool) -> None:
        self.geometry, self.ranks, self.owns_input = geometry, ranks, owns_input
        self.output_edges = edges_of(geometry.output_size[0], ranks)
        self.input_edges = edges_of(geometry.input_size[0], ranks)

    @cached_property
    def reads(self) -> list[Lines]:
        """The input lines that each rank has in its arrays, ascending."""
        return [self.geometry.reads_of(*edges) for edges in pairwise(self.output_edges)]

    @cached_property
    def _used(self) -> npt.NDArray[np.bool_]:
        """Which input lines each rank reads, (ranks, lines)."""
        taps = self.geometry.taps(0)
        used = np.zeros((self.ranks, self.geometry.input_size[0]), bool)
        for rank, (first, last) in enumerate(pairwise(self.output_edges)):
            used[rank, np.unique(taps[first:last][taps[first:last] >= 0])] = True
        return used

    @cached_property
    def _stage(self) -> npt.NDArray[np.int64]:
        """In which stage of backward each rank sums dx of a line, (ranks, lines): after how many other ranks.

        A task of backward has a whole input line; with one spatial dimension a band of columns, which is in one stage.
        """
        used, lines = self._used, self.geometry.input_size[0]
        task = np.arange(lines)
        if self.geometry.rank == 1:
            task = np.searchsorted(self.geometry.band_edges, task, side="right") - 1
        by_task = np.zeros((self.ranks, int(task[-1]) + 1), bool)
        for rank in range(self.ranks):
            by_task[rank, task[used[rank]]] = True
        return np.maximum(np.where(by_task, np.cumsum(by_task, axis=0) - 1, 0), 0)[:, task]

    @cached_property
    def _next(self) -> npt.NDArray[np.int64]:
        """The next rank that reads a line that each rank reads, (ranks, lines); -1 for none."""
        found, later = np.full(self._used.shape, -1), np.full(self._used.shape[1], -1)
        for rank in reversed(range(self.ranks)):
            found[rank] = np.where(self._used[rank], later, -1)
            later = np.where(self._used[rank], rank, later)
        return found

    @cached_property
    def _last(self) -> Lines:
        """The last rank that reads each line; the owner for lines that nobody reads."""
        last = self.ranks - 1 - np.argmax(self._used[::-1], axis=0)
        return np.where(self._used.any(axis=0), last, self.owner)

    @cached_property
    def owner(self) -> Lines:
        """The rank that owns each input line."""
        return np.searchsorted(self.input_edges, np.arange(self.geometry.input_size[0]), side="right") - 1

    @cached_property
    def stage_count(self) -> int:
        """In how many stages dx is summed."""
        return int(self._stage.max()) + 1

    def stages(self, rank: int) -> list[list[tuple[int, int]]]:
        """The lines of a rank's arrays by stage, as ranges of indices."""
        stage = self._stage[rank, self.reads[rank]]
        ranges: list[list[tuple[int, int]]] = [[] for _ in range(self.stage_count)]
        joints = (np.diff(stage) != 0) | (np.diff(self.reads[rank]) > 1)
        for begin, end in pairwise([0, *(np.flatnonzero(joints) + 1).tolist(), len(stage)]):
            ranges[stage[begin]].append((begin, end))
        return ranges

    def stripe(self, rank: int) -> Stripe:
        """The part of the layer that a rank computes."""
        return self.geometry.stripe(*self.output_edges[rank : rank + 2])

    def halo(self, rank: int) -> tuple[Transfer, Transfer]:
        """The input lines that a rank sends before forward, and those that it receives."""
        if not self.owns_input:
            return {}, {}
        begin, end = self.input_edges[rank : rank + 2]
        own = self.reads[rank]
        return self._by_rank(
            rank,
            lambda other: self.reads[other][(self.reads[other] >= begin) & (self.reads[other] < end)],
            lambda other: own[self.owner[own] == other],
        )

    def carry(self, rank: int, stage: int) -> tuple[Transfer, Transfer]:
        """The lines whose dx a rank passes on after a stage of backward, and those whose dx it receives."""

        def passed(first: int, second: int) -> Lines:
            return np.flatnonzero((self._next[first] == second) & (self._stage[second] == stage + 1))

        return self._by_rank(rank, lambda other: passed(rank, other), lambda other: passed(other, rank))

    def begun(self, rank: int, stage: int) -> Lines:
        """The lines of a later stage of a rank whose dx no other rank has begun to sum."""
        own = self.reads[rank]
        earlier = self._used[:rank].any(axis=0)
        return own[(self._stage[rank, own] == stage) & ~(earlier & self._used[rank])[own]]

    def home(self, rank: int) -> tuple[Transfer, Transfer]:
        """The lines whose dx a rank returns to their owners, and those that it gets back."""

        def returned(last: int, owner: int) -> Lines:
            return np.flatnonzero((self._last == last) & (self.owner == owner))

        return self._by_rank(rank, lambda other: returned(rank, other), lambda other: returned(other, rank))

    def finished(self, rank: int) -> Lines:
        """The lines of a rank's own whose dx it sums last itself."""
        return np.flatnonzero((self._last == rank) & (self.owner == rank) & self._used[rank])

    def _by_rank(
        self, rank: int, sends: Callable[[int], Lines], gets: Callable[[int], Lines]
    ) -> tuple[Transfer, Transfer]:
        """Two transfers, without ranks that get no lines."""
        others = [other for other in range(self.ranks) if other != rank]
        found = [{other: lines for other in others if len(lines := of(other))} for of in (sends, gets)]
        return found[0], found[1]

    @property
    def output_ranges(self) -> list[tuple[int, int]]:
        """The output lines of each rank."""
        return list(pairwise(self.output_edges))

    def lines_sent_by(self, rank: int) -> int:
        """How many lines a rank sends in a training step: of x before forward, and of dx in backward."""
        return sum(len(lines) for sends in self._sends(rank) for lines in sends.values())

    def messages_sent_by(self, rank: int) -> int:
        """In how many messages."""
        return sum(map(len, self._sends(rank)))

    def _sends(self, rank: int) -> list[Transfer]:
        if not self.owns_input:
            return []
        carried = [self.carry(rank, stage)[0] for stage in range(self.stage_count)]
        return [self.halo(rank)[0], *carried, self.home(rank)[0]]

    @property
    def is_thick(self) -> bool:
        """Whether each rank has lines to compute, and reads no lines but its own and those of ranks next to it."""
        if self.geometry.output_size[0] < self.ranks or self.geometry.input_size[0] < self.ranks:
            return False
        if not self.owns_input:
            return True
        for rank, reads in enumerate(self.reads):
            distance = np.abs(self.owner[reads] - rank)
            if self.geometry.padding_mode[0] == "circular":
                distance = np.minimum(distance, self.ranks - distance)
            if len(reads) and distance.max() > 1:
                return False
        return True


def largest_count(geometries: Sequence[Geometry], ranks: int) -> int:
    """Return the largest number of ranks, up to `ranks`, for whose stripes all layers are large enough.

    Examples
    --------
    >>> from lcnumba.connectivity.geometry import Geometry
    >>> from lcnumba.mpi.stripes import largest_count
    >>> largest_count([Geometry((10, 4), 1, 1, 3), Geometry((8, 2), 1, 1, 1)], 64)
    8
    """
    for count in range(ranks, 0, -1):
        if all(LayerStripes(g, count, owns_input=number > 0).is_thick for number, g in enumerate(geometries)):
            return count
    return 0
