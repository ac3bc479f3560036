"""A part of a layer: some output lines, and the inputs that they read."""

import math

import numpy as np

from lcnumba.connectivity.tables import Index, Tables, read_only
from lcnumba.utils.lazy import cached_property

__all__ = ["Stripe"]


class Stripe(Tables):
    """Output lines `first` to ``last - 1`` of a layer, along its first dimension, and the input lines that they read.

    Arrays of a stripe hold these lines alone: x and dx the lines `reads`, y, dy and the weights those of the output.
    Kernels compute the same numbers as for the whole layer, to the last bit: segments and bands of columns are those of
    the whole, and `implementations/loop.py` chooses how to compute by the whole as well.

    Parameters
    ----------
    whole : Geometry
        The layer.
    first, last : int
        The output lines; for one spatial dimension output columns.

    Attributes
    ----------
    reads : array of int64
        The input lines of the whole from the first to the last that is read, ascending; a window at the border of
        circular padding reads the first and the last ones.
    """

    def __init__(self, whole: Tables, first: int, last: int) -> None:
        if not 0 <= first < last <= whole.output_size[0]:
            raise ValueError(
                f"a stripe of output lines {first} to {last} must hold at least one of the layer's "
                f"{whole.output_size[0]} lines"
            )
        self.whole, self.first, self.last = whole, first, last
        self.channels, self.filters = whole.channels, whole.filters
        self.kernel_size, self.strides, self.groups = whole.kernel_size, whole.strides, whole.groups
        self.output_size = (last - first, *whole.output_size[1:])
        self.reads = whole.reads_of(first, last)
        self.input_size = (len(self.reads), *whole.input_size[1:])

    def reads_of(self, first: int, last: int) -> Index:
        """The coordinates of the whole that these outputs of the whole span."""
        return self.whole.reads_of(first, last)

    def taps(self, dimension: int) -> Index:
        """Input coordinate (outputs, taps) that each tap of a dimension reads, -1 for none."""
        taps = self.whole.taps(dimension)
        if dimension % self.rank:
            return taps
        own = taps[self.first : self.last]
        return np.where(own >= 0, np.searchsorted(self.reads, own), -1)

    @cached_property
    def connections(self) -> int:
        """Existing (position, window entry) pairs; each carries F weights."""
        counts = (np.count_nonzero(self.taps(dimension) >= 0) for dimension in range(self.rank))
        return math.prod(map(int, counts)) * self.tap_entries

    @property
    def sets(self) -> None:
        """None: a set of weights that positions share belongs to no stripe, and has none."""
        return

    @property
    def n_sets(self) -> int:
        """The positions, each of which has weights of its own."""
        return self.positions

    @cached_property
    def band_edges(self) -> Index:
        """Input columns at which a line is cut into bands: where those of the whole are cut."""
        if self.rank > 1:
            return self.whole.band_edges
        band = np.searchsorted(self.whole.band_edges, self.reads, side="right")
        begins = (np.diff(band) > 0) | (np.diff(self.reads) > 1)
        return read_only(np.concatenate([[0], np.flatnonzero(begins) + 1, [len(self.reads)]]))[0]
