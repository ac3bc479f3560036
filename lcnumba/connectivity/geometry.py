"""The geometry of a locally connected layer: its sizes, and which inputs a window reads; `tables.py` has the rest."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lcnumba.connectivity import sharing
from lcnumba.connectivity.stripe import Stripe
from lcnumba.connectivity.tables import Index, Tables, read_only
from lcnumba.runtime.memory import require
from lcnumba.utils.lazy import cached_property
from lcnumba.utils.validation import MAX_SIZE, choice, int_tuple, integer

__all__ = ["Geometry", "Padding", "of_transposed", "output_paddings", "padding_modes", "paddings", "tensorflow_same"]

# Enough tasks to keep many cores busy. The number must not depend on that of threads, which would change the order of
# sums, and with it the result.
TASKS = 64
# Narrower bands would cut most blocks of weights in two; with many channels the parts are long enough anyway.
BAND_COLUMNS, BAND_ENTRIES = 8, 128
# A longer line is cut so that the sums of a task stay in a core's cache.
LINE_ENTRIES = 4096


MODES = ("zeros", "circular")
Padding = str | tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Geometry(Tables):
    """The geometry of a locally connected layer of spatial rank 1, 2 or 3.

    Parameters
    ----------
    input_size : tuple of int
        Spatial size of the input: (W,), (H, W) or (D, H, W).
    channels : int
        Channels C of the input.
    filters : int
        Filters F, the channels of the output.
    kernel_size : int or tuple of int
        Window, one entry a spatial dimension.
    strides : int or tuple of int, default 1
        Distance of neighbouring windows.
    dilation : int or tuple of int, default 1
        Distance of neighbouring taps inside a window.
    padding : {"valid", "same", "tf_same"} or tuple of (int, int), default "valid"
        "valid": only windows inside the input. "same": as in Keras; the window of output o begins at
        input ``o * stride - effective // 2``, where ``effective = dilation * (kernel - 1) + 1``. For
        even kernels and strides this is not the window of TensorFlow's convolutions, which "tf_same" is:
        as many outputs, with the smaller half of the padding before. Or the padding before and after, for
        each dimension, less than `effective`.
    padding_mode : {"zeros", "circular"} or tuple of them, default "zeros"
        What is read beyond the input, in all dimensions or in each: nothing (these connections do not
        exist), or the input from its other end.
    groups : int, default 1
        Parts G of the channels and of the filters, in order: filters read the channels of their part. It
        divides both.
    weight_sharing : None, "all", int, tuple of int or array of int, optional
        Which positions share their weights; see `lcnumba.connectivity.sharing`.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter, and for a kernel larger than the padded input.

    Examples
    --------
    >>> from lcnumba.connectivity.geometry import Geometry
    >>> geometry = Geometry((32, 32), channels=3, filters=64, kernel_size=3)
    >>> geometry.output_size, geometry.kernel_shape
    ((30, 30), (900, 27, 64))
    """

    input_size: tuple[int, ...]
    channels: int
    filters: int
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...] = 1  # type: ignore[assignment]
    dilation: tuple[int, ...] = 1  # type: ignore[assignment]
    padding: Padding = "valid"
    padding_mode: tuple[str, ...] = "zeros"  # type: ignore[assignment]
    groups: int = 1
    weight_sharing: sharing.Sharing = None

    def __post_init__(self) -> None:
        """Normalise and check every field."""
        try:
            rank = len(self.input_size)
        except TypeError:
            raise TypeError(f"input_size={self.input_size!r} must be a tuple of 1 to 3 integers") from None
        if not 1 <= rank <= 3:
            raise ValueError(f"input_size={self.input_size!r} has {rank} entries; give 1, 2 or 3")
        fields = {
            "input_size": int_tuple("input_size", self.input_size, rank),
            "channels": integer("channels", self.channels),
            "filters": integer("filters", self.filters),
            "kernel_size": int_tuple("kernel_size", self.kernel_size, rank),
            "strides": int_tuple("strides", self.strides, rank),
            "dilation": int_tuple("dilation", self.dilation, rank),
            "padding": paddings(self.padding, rank),
            "padding_mode": padding_modes(self.padding_mode, rank),
            "groups": integer("groups", self.groups),
            "weight_sharing": sharing.get(self.weight_sharing, rank),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        if any(max(pair) >= e for pair, e in zip(self.margins, self.effective_size, strict=True) if max(pair)):
            raise ValueError(
                f"padding={self.padding!r} is as large as the kernel, which spans {self.effective_size}; some windows "
                "would read nothing: use less padding"
            )
        if min(self.output_size) < 1:
            raise ValueError(
                f"kernel_size={self.kernel_size}"
                f"{f' with dilation={self.dilation}' if max(self.dilation) > 1 else ''} does not fit input "
                f"{self.input_size} with padding={self.padding!r}; use padding='same' or a smaller kernel"
            )
        for name, size in (("channels", self.channels), ("filters", self.filters)):
            if size % self.groups:
                raise ValueError(
                    f"groups={self.groups} does not divide {name}={size}; give a common divisor of channels and filters"
                )
        if isinstance(self.weight_sharing, tuple | sharing.Regions):
            sharing.sets(self.weight_sharing, self.output_size)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the fields alone; the tables are computed again."""
        fields = (self.input_size, self.channels, self.filters, self.kernel_size, self.strides)
        return Geometry, (*fields, self.dilation, self.padding, self.padding_mode, self.groups, self.weight_sharing)

    @property
    def whole(self) -> Tables:  # type: ignore[override]
        """The layer itself."""
        return self

    @cached_property
    def effective_size(self) -> tuple[int, ...]:
        """Inputs that a window spans in each dimension, including the gaps of a dilation."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))

    @cached_property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """The padding of each dimension, before and after.

        For "same", the padding after does not matter, since the stride determines the last window; it is 0.
        """
        if self.padding == "same":
            return tuple((e // 2, 0) for e in self.effective_size)
        if self.padding == "tf_same":
            return tuple(map(tensorflow_same, self.input_size, self.effective_size, self.strides))
        return ((0, 0),) * self.rank if isinstance(self.padding, str) else self.padding

    @cached_property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        if self.padding == "same":
            return tuple(-(-n // s) for n, s in zip(self.input_size, self.strides, strict=True))
        sizes = zip(self.input_size, self.margins, self.effective_size, self.strides, strict=True)
        return tuple(-(-(before + n + after - e + 1) // s) for n, (before, after), e, s in sizes)

    @cached_property
    def connections(self) -> int:
        """Existing (position, window entry) pairs; each carries F weights."""
        # Without the tables, which may not fit into memory.
        return math.prod(self.connected(dimension) for dimension in range(self.rank)) * (self.channels // self.groups)

    @cached_property
    def sets(self) -> Index | None:
        """The weight set of each position, (P,); None if each position has its own."""
        return None if self._sets is None else self._sets[0]

    @cached_property
    def n_sets(self) -> int:
        """How many sets of weights there are, S; P without sharing."""
        return self.positions if self._sets is None else self._sets[1]

    @cached_property
    def _sets(self) -> tuple[Index, int] | None:
        return sharing.sets(self.weight_sharing, self.output_size)

    @cached_property
    def band_edges(self) -> Index:
        """Input columns at which a line is cut into bands; LI times the bands is the task count."""
        width = self.input_size[-1]
        wanted = max(-(-TASKS // self.input_lines), -(-width * self.channels // LINE_ENTRIES))
        least = min(BAND_COLUMNS, -(-BAND_ENTRIES // self.channels))
        bands = max(1, min(wanted, width // least))
        return read_only(np.arange(bands + 1) * width // bands)[0]

    def connected(self, dimension: int) -> int:
        """How many (output, tap) pairs of a dimension read an input."""
        n, k, d = self.input_size[dimension], self.kernel_size[dimension], self.dilation[dimension]
        outputs = self.output_size[dimension]
        if self.padding_mode[dimension] == "circular":
            return outputs * k
        s, before = self.strides[dimension], self.margins[dimension][0]
        # For each tap, how many outputs read an input through it; or for each output how many taps, if those are more.
        (few, step), (many, stride) = sorted(((k, d), (outputs, s)))
        require(40 * few, "counting the connections", "give a smaller kernel_size or input")
        first = np.arange(few, dtype=np.int64) * step - before
        begin, end = (np.clip(-((first - edge) // stride), 0, many) for edge in (0, n))
        return int(np.sum(end - begin))

    def taps(self, dimension: int) -> Index:
        """Input coordinate (outputs, taps) that each tap of a dimension reads, -1 for none."""
        size = self.input_size[dimension]
        first = np.arange(self.output_size[dimension]) * self.strides[dimension] - self.margins[dimension][0]
        taps = first[:, None] + np.arange(self.kernel_size[dimension]) * self.dilation[dimension]
        if self.padding_mode[dimension] == "circular":
            return taps % size
        return np.where((taps >= 0) & (taps < size), taps, -1)

    def reads_of(self, first: int, last: int) -> Index:
        """The coordinates in the first dimension that outputs `first` to ``last - 1`` span, ascending.

        Between the taps of dilated windows, and between windows, no coordinate is left out.
        """
        size, stride = self.input_size[0], self.strides[0]
        begin = first * stride - self.margins[0][0]
        end = (last - 1) * stride - self.margins[0][0] + self.effective_size[0]
        if self.padding_mode[0] == "circular":
            return np.arange(size) if end - begin >= size else np.sort(np.arange(begin, end) % size)
        return np.arange(max(begin, 0), min(end, size))

    def stripe(self, first: int, last: int) -> Stripe:
        """Return the part of the layer that computes output lines ``first`` to ``last - 1`` of the first dimension.

        Its numbers are those of the whole layer, to the last bit; for one spatial dimension lines are columns.

        Parameters
        ----------
        first, last : int
            With ``0 <= first < last <= output_size[0]``.

        Returns
        -------
        Stripe

        Raises
        ------
        ValueError
            If there are no such lines.

        Examples
        --------
        >>> from lcnumba.connectivity.geometry import Geometry
        >>> stripe = Geometry((8, 5), channels=2, filters=3, kernel_size=3).stripe(2, 4)
        >>> stripe.reads.tolist(), stripe.output_size, stripe.kernel_shape
        ([2, 3, 4, 5], (2, 3), (6, 18, 3))
        """
        return Stripe(self, first, last)


def tensorflow_same(size: int, span: int, stride: int) -> tuple[int, int]:
    """Return the padding, before and after, of TensorFlow's "SAME" for windows that span so many inputs.

    Examples
    --------
    >>> from lcnumba.connectivity.geometry import tensorflow_same
    >>> tensorflow_same(7, 4, 2)
    (1, 2)
    """
    total = max((-(-size // stride) - 1) * stride + span - size, 0)
    return total // 2, total - total // 2


def of_transposed(
    size: tuple[int, ...], channels: int, filters: int, kernel_size: tuple[int, ...], strides: tuple[int, ...],
    padding: Padding, output_padding: tuple[int, ...] | None, dilation: tuple[int, ...],
    padding_mode: tuple[str, ...], groups: int, weight_sharing: sharing.Sharing,
) -> Geometry:  # fmt: skip
    """Return the geometry whose adjoint is a transposed layer: its input is the output of that layer.

    Parameters
    ----------
    size, channels, filters : tuple of int, int, int
        The input's spatial size and channels, and the filters, of the transposed layer.
    kernel_size, strides, dilation, padding_mode, groups, weight_sharing
        As for `Geometry`.
    padding : {"valid", "same", "tf_same"} or tuple of (int, int)
        What is cut off of the output.
    output_padding : tuple of int, optional
        What is added to it; the sizes are those of Keras' ``Conv2DTranspose``.

    Returns
    -------
    Geometry

    Raises
    ------
    ValueError
        If the output is not of a size with as many windows as there are inputs.

    Examples
    --------
    >>> from lcnumba.connectivity.geometry import of_transposed
    >>> of_transposed((3,), 1, 2, (3,), (2,), "valid", None, (1,), ("zeros",), 1, None).input_size
    (7,)
    """
    if padding == "tf_same":
        raise ValueError("padding='tf_same' of a transposed layer is called 'same', whose windows are TensorFlow's")
    spans = [d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    pairs = [(e // 2, e // 2) if padding == "same" else (0, 0) for e in spans]
    added = output_padding or (0,) * len(size)
    output = tuple(
        (n - 1) * s + e - sum(pair) + extra
        for n, s, e, pair, extra in zip(
            size, strides, spans, pairs if isinstance(padding, str) else padding, added, strict=True
        )
    )
    if output_padding is None and padding == "same":
        output = tuple(n * s for n, s in zip(size, strides, strict=True))
    elif output_padding is None and padding == "valid":
        output = tuple(n * s + max(e - s, 0) for n, s, e in zip(size, strides, spans, strict=True))
    settings = (
        f"kernel_size={kernel_size}, strides={strides}, dilation_rate={dilation}, padding={padding!r} and "
        f"output_padding={output_padding}"
    )
    if max(output) > MAX_SIZE:
        raise ValueError(f"{settings} would give an output of size {output}; give at most {MAX_SIZE} in each dimension")
    if min(output) >= 1:
        windows = (kernel_size, strides, dilation, "tf_same" if padding == "same" else padding, padding_mode, groups)
        if Geometry(output, filters, channels, *windows).output_size == size:
            return Geometry(output, filters, channels, *windows, weight_sharing)
    raise ValueError(
        f"input of spatial size {size} with {settings} would give an output of size {output}, whose windows are not as "
        "many as the inputs; leave output_padding out, or change padding"
    )


def output_paddings(value: Any, strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the `output_padding` of a transposed layer, less than its strides.

    Parameters
    ----------
    value : None, int or tuple of int
        The argument.
    strides : tuple of int
        The layer's.

    Returns
    -------
    tuple of int or None

    Raises
    ------
    TypeError, ValueError
        For any other value.

    Examples
    --------
    >>> from lcnumba.connectivity.geometry import output_paddings
    >>> output_paddings(1, (2, 3))
    (1, 1)
    """
    if value is None:
        return None
    padding = int_tuple("output_padding", value, len(strides), 0)
    if any(p >= s for p, s in zip(padding, strides, strict=True)):
        raise ValueError(f"output_padding={value!r} must be less than strides={strides}; leave it out, or use less")
    return padding


def paddings(value: Any, rank: int) -> Padding:
    """Return a padding in its canonical form.

    Parameters
    ----------
    value : str or pairs
        "valid", "same", "tf_same", or (before, after) for each dimension; for one dimension also a single pair.
    rank : int
        Spatial dimensions.

    Returns
    -------
    str or tuple of (int, int)

    Raises
    ------
    TypeError, ValueError
        For any other value.

    Examples
    --------
    >>> from lcnumba.connectivity.geometry import paddings
    >>> paddings("Same", 2), paddings([2, 0], 1), paddings([[2, 0], [1, 1]], 2)
    ('same', ((2, 0),), ((2, 0), (1, 1)))
    """
    if isinstance(value, str):
        found: str = choice("padding", value, ("valid", "same", "tf_same"))
        return found
    pairs = value.tolist() if isinstance(value, np.ndarray) else value
    if rank == 1 and isinstance(pairs, list | tuple) and not any(isinstance(pair, list | tuple) for pair in pairs):
        pairs = (pairs,)
    if not isinstance(pairs, list | tuple) or len(pairs) != rank:
        raise ValueError(
            f"padding={value!r} is not known; give 'valid', 'same', 'tf_same', or {rank} pairs (before, after)"
        )
    if not all(isinstance(pair, list | tuple) for pair in pairs):
        raise TypeError(f"padding must hold a pair (before, after) for each dimension, got {value!r}")
    return tuple((before, after) for before, after in (int_tuple("padding", pair, 2, 0) for pair in pairs))


def padding_modes(value: Any, rank: int) -> tuple[str, ...]:
    """Return a padding mode for each dimension.

    Parameters
    ----------
    value : str or tuple of str
        "zeros" or "circular", for all dimensions or for each.
    rank : int
        Spatial dimensions.

    Returns
    -------
    tuple of str

    Raises
    ------
    ValueError
        For any other value.

    Examples
    --------
    >>> from lcnumba.connectivity.geometry import padding_modes
    >>> padding_modes("circular", 2), padding_modes(("zeros", "circular"), 2)
    (('circular', 'circular'), ('zeros', 'circular'))
    """
    modes = (value,) * rank if isinstance(value, str) else value
    if not isinstance(modes, list | tuple) or len(modes) != rank:
        raise ValueError(f"padding_mode={value!r} is not known; give one of {MODES}, or {rank} of them")
    return tuple(choice("padding_mode", mode, MODES) for mode in modes)
