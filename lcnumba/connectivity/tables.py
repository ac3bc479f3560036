"""The tables by which kernels, and the index maps of matrices, find the input that each weight reads.

An input of any spatial rank is seen as LI *lines*, each a contiguous run of W*C numbers, and an
output as LO lines of OW columns. A window is a set of A *tap lines*; tap line ``a`` of output
line ``o`` reads one input line ``i``, or none where padding would be. So a layer is a list of
triples ``(o, a, i)``, and inside a triple output column ``j`` reads a few *segments* of the line:
runs of neighbouring taps on neighbouring inputs. Everything else follows from these two tables.
"""

import math
from abc import abstractmethod
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lcnumba.utils.lazy import cached_property
from lcnumba.utils.types import Mask

__all__ = ["Index", "Segments", "SetSegments", "Tables", "Triples", "read_only"]

Index = npt.NDArray[np.int64]


class Triples(NamedTuple):
    """Triples (o, a, i), grouped: group g holds entries ``start[g]:start[g + 1]``.

    Attributes
    ----------
    start : (groups + 1,) int64
        Where each group begins.
    tap_line : (triples,) int64
        The tap line a.
    line : (triples,) int64
        The line of the other side: i when grouped by o, and o when grouped by i.

    Examples
    --------
    >>> from lcnumba.connectivity.geometry import Geometry
    >>> triples = Geometry((3, 4), channels=1, filters=1, kernel_size=2).by_output
    >>> triples.start.tolist(), triples.tap_line.tolist(), triples.line.tolist()
    ([0, 2, 4], [0, 1, 0, 1], [0, 1, 1, 2])
    """

    start: Index
    tap_line: Index
    line: Index


class Segments(NamedTuple):
    """Segments, grouped: group g holds entries ``start[g]:start[g + 1]``.

    Attributes
    ----------
    start : (groups + 1,) int64
        Where each group begins.
    column : (segments,) int64
        The output column j that reads the segment.
    first_input : (segments,) int64
        The first input column.
    first_tap : (segments,) int64
        The tap that reads it.
    taps : (segments,) int64
        How many neighbouring taps read as many neighbouring inputs.

    Examples
    --------
    >>> from lcnumba.connectivity.geometry import Geometry
    >>> segments = Geometry((3,), channels=1, filters=1, kernel_size=3, padding="same").columns
    >>> segments.column.tolist(), segments.first_input.tolist(), segments.first_tap.tolist(), segments.taps.tolist()
    ([0, 1, 2], [0, 0, 1], [1, 0, 0], [2, 3, 2])
    """

    start: Index
    column: Index
    first_input: Index
    first_tap: Index
    taps: Index


class SetSegments(NamedTuple):
    """Runs of positions of one weight set, in one line, which read the same taps, a stride further on each time.

    They are grouped by set and kind: group ``set * kinds + kind`` holds entries ``start[g]:start[g + 1]``. A position
    has a run for each of its segments; a kind is the taps of one.

    Attributes
    ----------
    kind_tap, kind_taps : (kinds,) int64
        The first tap of the segments of a kind, and how many there are.
    start : (sets * kinds + 1,) int64
        Where each group begins.
    line, column : (runs,) int64
        Output line and column of the first position.
    first_input : (runs,) int64
        The first input column that it reads.
    length : (runs,) int64
        How many positions.

    Examples
    --------
    >>> from lcnumba.connectivity.geometry import Geometry
    >>> geometry = Geometry((6,), channels=1, filters=1, kernel_size=2, weight_sharing="all")
    >>> geometry.set_segments.length.tolist()
    [5]
    """

    kind_tap: Index
    kind_taps: Index
    start: Index
    line: Index
    column: Index
    first_input: Index
    length: Index


class Tables:
    """The tables of a layer, or of a part of one, by the coordinates that its taps read in each dimension.

    A subclass has these attributes, and implements `taps`, `reads_of`, `connections`, `band_edges`, `sets`, `n_sets`.

    Attributes
    ----------
    input_size, output_size : tuple of int
        Spatial sizes.
    channels, filters : int
        Channels C of the input, and filters F, the channels of the output.
    kernel_size, strides : tuple of int
        Window, and distance of neighbouring windows.
    groups : int
        Parts of the channels and filters; filters read the channels of their part.
    whole : Tables
        The layer that this is a part of, or itself.
    """

    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    channels: int
    filters: int
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    groups: int
    whole: "Tables"

    @abstractmethod
    def taps(self, dimension: int) -> Index:
        """Input coordinate (outputs, taps) that each tap of a dimension reads, -1 for none."""
        ...

    @abstractmethod
    def reads_of(self, first: int, last: int) -> Index:
        """The coordinates in the first dimension that outputs `first` to ``last - 1`` span, ascending."""
        ...

    @property
    @abstractmethod
    def connections(self) -> int:
        """Existing (position, window entry) pairs; each carries F weights."""
        ...

    @property
    @abstractmethod
    def band_edges(self) -> Index:
        """Input columns at which a line is cut into bands; LI times the bands is the task count."""
        ...

    @property
    @abstractmethod
    def sets(self) -> Index | None:
        """The weight set of each position, (P,); None if each position has its own."""
        ...

    @property
    @abstractmethod
    def n_sets(self) -> int:
        """How many sets of weights there are, S; P without sharing."""
        ...

    @property
    def rank(self) -> int:
        """Number of spatial dimensions."""
        return len(self.input_size)

    @cached_property
    def positions(self) -> int:
        """Number of output positions P."""
        return math.prod(self.output_size)

    @property
    def tap_entries(self) -> int:
        """Inputs that a filter reads at a tap: the channels of a group."""
        return self.channels // self.groups

    @property
    def entry_step(self) -> int:
        """How far neighbouring entries of a segment are apart in a line; C for groups of one channel, else 1."""
        return self.channels if self.tap_entries == 1 else 1

    @cached_property
    def window(self) -> int:
        """Inputs that a filter reads in a whole window: K = product of the kernel size times channels of a group."""
        return math.prod(self.kernel_size) * self.tap_entries

    @property
    def kernel_shape(self) -> tuple[int, int, int]:
        """Shape (P, K, F) of the canonical kernel, or (S, K, F) with shared weights; K runs over (taps, channels)."""
        return self.n_sets, self.window, self.filters

    @property
    def kernel_view_shape(self) -> tuple[int, ...]:
        """Shape (*output, *kernel_size, C, F) of the kernel by position and tap; (S, ...) with shared weights."""
        first = self.output_size if self.sets is None else (self.n_sets,)
        return (*first, *self.kernel_size, self.tap_entries, self.filters)

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """Shape (OH, OW, F) of the bias."""
        return (*self.output_size, self.filters)

    @cached_property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape (H, W, C) of a sample."""
        return (*self.input_size, self.channels)

    @cached_property
    def inputs(self) -> int:
        """Elements of one input sample."""
        return math.prod(self.input_size) * self.channels

    @cached_property
    def input_lines(self) -> int:
        """Number of input lines LI."""
        return math.prod(self.input_size[:-1])

    @property
    def complete(self) -> bool:
        """Whether every window lies wholly inside the input."""
        return self.connections == self.positions * self.window

    @cached_property
    def by_output(self) -> Triples:
        """The triples grouped by output line o, ordered by a; `line` is i."""
        o, a = np.nonzero(self.line_table >= 0)
        return Triples(_starts(o, len(self.line_table)), *read_only(a, self.line_table[o, a]))

    @cached_property
    def by_input(self) -> Triples:
        """The triples grouped by input line i, ordered by (o, a); `line` is o."""
        o, a = np.nonzero(self.line_table >= 0)
        i = self.line_table[o, a]
        order = np.argsort(i, kind="stable")
        return Triples(_starts(i[order], self.input_lines), *read_only(a[order], o[order]))

    @cached_property
    def columns(self) -> Segments:
        """The segments of one line, grouped by output column."""
        taps = self.taps(-1)
        exists = taps >= 0
        follows = np.zeros_like(exists)
        if self.groups == 1 or self.tap_entries == 1:  # else other groups' channels lie between those of two taps
            follows[:, 1:] = exists[:, 1:] & exists[:, :-1] & (taps[:, 1:] == taps[:, :-1] + 1)
        column, first_tap = np.nonzero(exists & ~follows)
        segment = np.cumsum((exists & ~follows).ravel())[exists.ravel()] - 1
        length = np.bincount(segment, minlength=len(column))
        return Segments(_starts(column, len(taps)), *read_only(column, taps[column, first_tap], first_tap, length))

    @cached_property
    def bands(self) -> Segments:
        """The segments of one line cut at the band edges, grouped by band, ordered by column."""
        _, column, first_input, first_tap, taps = self.columns
        parts = []
        for band, (left, right) in enumerate(zip(self.band_edges, self.band_edges[1:], strict=False)):
            begin = np.maximum(first_input, left)
            length = np.minimum(first_input + taps, right) - begin
            inside = length > 0
            tap = first_tap + begin - first_input
            band_of = np.full(np.count_nonzero(inside), band)
            parts.append((band_of, column[inside], begin[inside], tap[inside], length[inside]))
        of_band, *table = (np.concatenate(entries) for entries in zip(*parts, strict=True))
        return Segments(_starts(of_band, len(self.band_edges) - 1), *read_only(*table))

    @cached_property
    def column_runs(self) -> Index:
        """For each output column, how many from it on read the same taps, one stride further on each time."""
        start, column, first_input, first_tap, taps = self.columns
        counts = np.diff(start)
        follows = np.append(counts[1:] == counts[:-1], False)
        # A segment is compared with the one of the same rank in the next column.
        at = np.flatnonzero(follows[column])
        other = at + counts[column[at]]
        for values in (first_tap, taps, first_input - column * self.strides[-1]):
            follows[column[at[values[at] != values[other]]]] = False
        return _runs(follows[:-1])

    @cached_property
    def band_runs(self) -> Index:
        """The same for each entry of `bands`."""
        start, column, first_input, first_tap, taps = self.bands
        follows = np.diff(column) == 1
        for values in (first_input - column * self.strides[-1], first_tap, taps):
            follows &= np.diff(values) == 0
        follows[start[(start > 0) & (start < len(column))] - 1] = False
        return _runs(follows)[: len(column)]

    @cached_property
    def set_runs(self) -> tuple[int, Index]:
        """How far the sets of neighbouring positions mostly are apart, 0 or 1, and the runs of such positions.

        That is for each position how many from it on, in its line, have sets that far apart.
        """
        assert self.sets is not None
        lines = self.sets.reshape(-1, self.output_size[-1])
        steps = np.diff(lines, axis=1)
        step = int(np.count_nonzero(steps == 1) > np.count_nonzero(steps == 0))
        follows = np.zeros(lines.shape, bool)
        follows[:, :-1] = steps == step
        return step, _runs(follows.reshape(-1)[:-1])

    @cached_property
    def set_segments(self) -> "SetSegments":
        """What the positions of each weight set read, for the gradient of shared weights."""
        assert self.sets is not None
        sets, stride = self.sets.reshape(-1, self.output_size[-1]), self.strides[-1]
        _, column, first_input, first_tap, taps = self.columns
        kinds, kind_of = np.unique(np.stack([first_tap, taps]), axis=1, return_inverse=True)
        parts = [(np.zeros(0, np.int64),) * 5]  # windows in the gaps of a dilation may read nothing at all
        for kind in range(kinds.shape[1]):
            own = kind_of.reshape(-1) == kind
            reads = np.full(sets.shape[1], -1)
            reads[column[own]] = first_input[own]
            follows = (reads[1:] >= 0) & (reads[:-1] >= 0) & (np.diff(reads) == stride) & (np.diff(sets, axis=1) == 0)
            begins = np.broadcast_to(reads >= 0, sets.shape).copy()
            begins[:, 1:] &= ~follows
            o, j = np.nonzero(begins)
            ends = np.ones(sets.shape, bool)
            ends[:, :-1] = ~follows
            positions = o * sets.shape[1] + j
            last = np.flatnonzero(ends)[np.searchsorted(np.flatnonzero(ends), positions)]
            parts.append((sets[o, j] * kinds.shape[1] + kind, o, j, reads[j], last - positions + 1))
        of_set, *table = (np.concatenate(entries) for entries in zip(*parts, strict=True))
        order = np.argsort(of_set, kind="stable")
        start = _starts(of_set[order], self.n_sets * kinds.shape[1])
        kind_tap, kind_taps = read_only(*kinds)
        return SetSegments(kind_tap, kind_taps, start, *read_only(*(entries[order] for entries in table)))

    @cached_property
    def band_columns(self) -> Index:
        """The first output column that reads each band, and the end of the last, (bands, 2)."""
        start, column = self.bands[:2]
        ends = [(column[a:b].min(), column[a:b].max() + 1) if b > a else (0, 0) for a, b in pairwise(start)]
        return read_only(np.array(ends))[0]

    def tasks(self, begin: int, end: int) -> dict[str, int]:
        """The part of backward that has dx of the input lines ``begin`` to ``end - 1`` of the first dimension.

        For one spatial dimension the lines are columns, at which bands begin and end.
        """
        if self.rank == 1:
            first, last = map(int, np.searchsorted(self.band_edges, (begin, end)))
            return {"first_line": 0, "part_lines": 1, "first_band": first, "part_bands": last - first}
        lines = self.input_lines // self.input_size[0]
        bands = len(self.band_edges) - 1
        return {
            "first_line": begin * lines, "part_lines": (end - begin) * lines, "first_band": 0, "part_bands": bands
        }  # fmt: skip

    @cached_property
    def covered(self) -> bool:
        """Whether each input is read exactly once by each filter."""
        return bool((np.diff(self.by_input.start) == 1).all() and (np.diff(self.inverse_map[0]) == 1).all())

    @cached_property
    def inverse_map(self) -> tuple[Index, Index, Index]:
        """The taps that read each input column of a line: starts by input column, output column, tap."""
        taps = self.taps(-1)
        column, tap = np.nonzero(taps >= 0)
        order = np.argsort(taps[column, tap], kind="stable")
        starts = _starts(taps[column, tap][order], self.input_size[-1])
        columns, tap_of = read_only(column[order], tap[order])
        return starts, columns, tap_of

    @cached_property
    def output_cycle(self) -> int:
        """The least modulus that gives all output lines which read one input line different remainders.

        So output line o can be cached in slot ``o % output_cycle`` without overwriting another one that
        the same input line needs.
        """
        return _cycle(self.by_input)

    @cached_property
    def input_cycle(self) -> int:
        """The same for the input lines that one output line reads."""
        return _cycle(self.by_output)

    @cached_property
    def input_index(self) -> Index:
        """Flat index (P, K) of the input that each window entry reads, -1 for none.

        That is for filters of the first group; those of group g read g times `tap_entries` inputs further on.
        """
        lines, taps = self.line_table, self.taps(-1)
        i = lines[:, None, :, None, None]
        w = taps[None, :, None, :, None]
        index = (i * self.input_size[-1] + w) * self.channels + np.arange(self.tap_entries)
        index = np.where((i >= 0) & (w >= 0), index, -1)
        return read_only(index.reshape(self.positions, self.window))[0]

    @cached_property
    def exists(self) -> Mask:
        """Which (P, K) connections exist."""
        lines, taps = self.line_table >= 0, self.taps(-1) >= 0
        pairs = lines[:, None, :, None] & taps[None, :, None, :]
        exists = np.repeat(pairs.reshape(self.positions, -1), self.tap_entries, axis=1)
        exists.flags.writeable = False
        return exists

    @cached_property
    def weight_exists(self) -> Mask:
        """Which (S, K) weights exist: those with a connection at any position of their set; (P, K) without sharing."""
        if self.sets is None:
            return self.exists
        order = np.argsort(self.sets, kind="stable")
        starts = np.searchsorted(self.sets[order], np.arange(self.n_sets))
        exists = np.logical_or.reduceat(self.exists[order], starts, axis=0)
        exists.flags.writeable = False
        return exists

    def csr_index(self, pattern: Mask | None = None) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the pattern of the sparse form, a CSR matrix of shape (P*F, inputs).

        Parameters
        ----------
        pattern : (P, F, K) bool, optional
            Which weights exist; by default all, for a `complete` geometry.

        Returns
        -------
        indptr, indices : arrays of int32, or of int64 where int32 would overflow
            Rows run over (position, filter), and values are in the order of
            ``kernel.transpose(0, 2, 1)[pattern]``.

        Examples
        --------
        >>> from lcnumba.connectivity.geometry import Geometry
        >>> indptr, indices = Geometry((4,), channels=1, filters=1, kernel_size=2).csr_index()
        >>> indptr.tolist(), indices.tolist()
        ([0, 2, 4, 6], [0, 1, 1, 2, 2, 3])
        """
        shape = (self.positions, self.filters, self.window)
        values = math.prod(shape) if pattern is None else int(np.count_nonzero(pattern))
        dtype = np.int32 if max(values, self.inputs) < 2**31 else np.int64
        indptr = np.zeros(self.positions * self.filters + 1, dtype)
        rows = self.input_index.astype(dtype)[:, None, :]
        if self.groups > 1:
            group = np.arange(self.filters) // (self.filters // self.groups)
            rows = np.add(rows, (group * self.tap_entries)[:, None], dtype=dtype)
        rows = np.broadcast_to(rows, shape)
        if pattern is None:
            indptr[1:] = np.arange(1, len(indptr), dtype=np.int64) * self.window
            return indptr, np.ascontiguousarray(rows.reshape(-1))  # with one filter it is a view
        np.cumsum(np.count_nonzero(pattern, axis=2).reshape(-1), out=indptr[1:])
        return indptr, rows[pattern]

    @cached_property
    def line_table(self) -> Index:
        """Input line (LO, A) that each tap line of each output line reads, -1 for none."""
        table = np.zeros((1, 1), np.int64)
        for dimension in range(self.rank - 1):
            outer, inner = table[:, None, :, None], self.taps(dimension)[None, :, None, :]
            line = np.where((outer >= 0) & (inner >= 0), outer * self.input_size[dimension] + inner, -1)
            table = line.reshape(line.shape[0] * line.shape[1], -1)
        return table


def _cycle(triples: Triples) -> int:
    groups = [np.unique(triples.line[a:b]) for a, b in pairwise(triples.start)]
    cycle = max(1, *(len(group) for group in groups))
    while any(len(np.unique(group % cycle)) < len(group) for group in groups):
        cycle += 1
    return cycle


def _runs(follows: Any) -> Index:
    """For each of n entries, how many follow from it on; ``follows[i]``: entry i + 1 follows entry i."""
    ends = np.flatnonzero(~np.append(np.asarray(follows, bool), False))
    entries = np.arange(ends[-1] + 1)
    return read_only(ends[np.searchsorted(ends, entries)] - entries + 1)[0]


def _starts(group: Index, groups: int) -> Index:
    """Where each of `groups` groups begins in the sorted list `group` of group numbers."""
    return read_only(np.searchsorted(group, np.arange(groups + 1)))[0]


def read_only(*arrays: Index) -> tuple[Index, ...]:
    """Return arrays as contiguous, read-only int64, so that one compiled specialisation serves all tables."""
    tables = tuple(np.ascontiguousarray(array, dtype=np.int64) for array in arrays)
    for array in tables:
        array.flags.writeable = False
    return tables
