"""One layer size as all peers see it. It shares no index code with lcnumba, so that it also tests lcnumba.

Dimension letters: N batch, H W input, C channels, KH KW window, F filters, OH OW output,
P = OH*OW positions, K = KH*KW*C window entries. Everything is channels_last.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Case"]


@dataclass(frozen=True)
class Case:
    """A layer size and a floating-point type.

    Attributes
    ----------
    name : str
        Name of the workload.
    batch : int
        Batch size N.
    input_size : (int, int, int)
        H, W and C.
    filters : int
        F.
    kernel_size, strides : (int, int)
        Window size and strides.
    padding : {"valid", "same"}
        "same" uses Keras' windows: output o begins at input ``o * stride - kernel // 2``.
    rank : {1, 2}
        With 1 the layer is one-dimensional: H, KH and OH are 1.
    circular : (bool, bool)
        Whether padding along H and W repeats the other end of the input.
    dtype : {"float32", "float64"}
        Type of all arrays.
    """

    name: str
    batch: int
    input_size: tuple[int, int, int]
    filters: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    padding: str
    dtype: str
    rank: int = 2
    circular: tuple[bool, bool] = (False, False)

    @classmethod
    def of(cls, workload: Any, dtype: str) -> "Case":
        """Make a case from a workload of `lcnumba.tools.bench`."""
        rank = len(workload.input_size) - 1
        of_one = (1,) * (2 - rank)
        modes = workload.padding_mode
        modes = (modes,) * rank if isinstance(modes, str) else modes
        height_circular, width_circular = (mode == "circular" for mode in ("zeros",) * (2 - rank) + tuple(modes))
        return cls(
            workload.name, workload.batch, (*of_one, *workload.input_size), workload.filters,
            (*of_one, *workload.kernel_size), (*of_one, *workload.strides[:rank]), workload.padding, dtype, rank,
            (height_circular, width_circular),
        )  # fmt: skip

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Case":
        """Make a case from the result of `to_json`."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return asdict(self)

    @property
    def output_size(self) -> tuple[int, int]:
        """(OH, OW)."""
        if self.padding == "same":
            return self._per_side(lambda n, _, s: -(-n // s))
        return self._per_side(lambda n, k, s: (n - k) // s + 1)

    @property
    def positions(self) -> int:
        """P, the number of windows."""
        return self.output_size[0] * self.output_size[1]

    @property
    def window(self) -> int:
        """K, the number of inputs of a window."""
        return self.kernel_size[0] * self.kernel_size[1] * self.input_size[2]

    @property
    def itemsize(self) -> int:
        """Bytes of an array element."""
        return np.dtype(self.dtype).itemsize

    @property
    def zero_pad(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The part of `pad` that is not circular."""
        height, width = ((0, 0) if circular else pad for pad, circular in zip(self.pad, self.circular, strict=True))
        return height, width

    @property
    def pad(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Padding (before, after) along H and W that turns the case into one with valid windows."""
        if self.padding == "valid":
            return (0, 0), (0, 0)
        # With strides, no window may read the last inputs: the padding is never negative.
        return self._per_side(lambda n, k, s: (k // 2, max(0, (-(-n // s) - 1) * s - k // 2 + k - n)))

    def input_index(self) -> npt.NDArray[np.int64]:
        """Flat index (P, K) of the input of each window entry, -1 for padding."""
        H, W, C = self.input_size
        index = np.arange(H * W * C).reshape(1, H, W, C)
        index = self.wrapped(index, np.concatenate)[0]
        index = np.pad(index, (*self.zero_pad, (0, 0)), constant_values=-1)
        return self.windows(index[None]).reshape(self.positions, self.window)

    def wrapped(self, x: Any, concatenate: Any) -> Any:
        """Pad the circular dimensions of x (N, H, W, C) by a library's ``concatenate(arrays, axis)``."""
        for axis, ((before, after), circular) in enumerate(zip(self.pad, self.circular, strict=True), 1):
            if circular and before + after:
                n = x.shape[axis]
                ends = [(slice(None),) * axis + (slice(*part),) for part in ((n - before, n), (0, after))]
                x = concatenate([x[ends[0]], x, x[ends[1]]], axis)
        return x

    def unpadded(self, dx: Any) -> Any:
        """The gradient of an input from that of the padded one, to which circular padding is added in place; a view."""
        for axis, ((before, after), circular) in enumerate(zip(self.pad, self.circular, strict=True), 1):
            n, front = dx.shape[axis] - before - after, (slice(None),) * axis
            if circular:
                dx[(*front, slice(n, n + before))] += dx[(*front, slice(0, before))]
                dx[(*front, slice(before, before + after))] += dx[(*front, slice(before + n, None))]
            dx = dx[(*front, slice(before, before + n))]
        return dx

    def windows(self, padded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view (OH, OW, N, KH, KW, C) of the windows of a padded input (N, H, W, C)."""
        N, H, W, C = padded.strides
        rows, columns = self.strides
        shape = (*self.output_size, len(padded), *self.kernel_size, padded.shape[3])
        strides = (rows * H, columns * W, N, H, W, C)
        return np.lib.stride_tricks.as_strided(padded, shape, strides, writeable=False)

    def _per_side(self, rule: Any) -> Any:
        height, width, _ = self.input_size
        sizes = zip((height, width), self.kernel_size, self.strides, strict=True)
        return tuple(rule(*side) for side in sizes)
