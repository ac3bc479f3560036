"""One layer size as all peers see it; shares no index code with lcnumba, so that it checks lcnumba too.

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
        Of the workload.
    batch : int
        Samples N.
    input_size : (int, int, int)
        H, W and C.
    filters : int
        F.
    kernel_size, strides : (int, int)
        Window and steps.
    padding : {"valid", "same"}
        "same" means Keras' windows: output o begins at input ``o * stride - kernel // 2``.
    dtype : {"float32", "float64"}
        Of all arrays.
    """

    name: str
    batch: int
    input_size: tuple[int, int, int]
    filters: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    padding: str
    dtype: str

    @classmethod
    def of(cls, workload: Any, dtype: str) -> "Case":
        """Take the sizes of a workload of `lcnumba.tools.bench`."""
        sizes = {name: getattr(workload, name) for name in cls.__dataclass_fields__ if name != "dtype"}
        return cls(**sizes, dtype=dtype)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Case":
        """Undo `to_json`."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)

    @property
    def output_size(self) -> tuple[int, int]:
        """OH and OW."""
        if self.padding == "same":
            return self._per_side(lambda n, _, s: -(-n // s))
        return self._per_side(lambda n, k, s: (n - k) // s + 1)

    @property
    def positions(self) -> int:
        """P, the number of windows."""
        return self.output_size[0] * self.output_size[1]

    @property
    def window(self) -> int:
        """K, the inputs that a whole window reads."""
        return self.kernel_size[0] * self.kernel_size[1] * self.input_size[2]

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    @property
    def pad(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros (before, after) along H and W with which valid windows equal the case's own."""
        if self.padding == "valid":
            return (0, 0), (0, 0)
        # A stride can leave inputs at the end that no window reads: nothing is cut off there.
        return self._per_side(lambda n, k, s: (k // 2, max(0, (-(-n // s) - 1) * s - k // 2 + k - n)))

    def input_index(self) -> npt.NDArray[np.int64]:
        """Flat index (P, K) of the input that each window entry reads, -1 where there is none."""
        H, W, C = self.input_size
        index = np.pad(np.arange(H * W * C).reshape(H, W, C), (*self.pad, (0, 0)), constant_values=-1)
        return self.windows(index[None]).reshape(self.positions, self.window)

    def windows(self, padded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """View the windows (OH, OW, N, KH, KW, C) of a padded input (N, H, W, C)."""
        N, H, W, C = padded.strides
        rows, columns = self.strides
        shape = (*self.output_size, len(padded), *self.kernel_size, padded.shape[3])
        strides = (rows * H, columns * W, N, H, W, C)
        return np.lib.stride_tricks.as_strided(padded, shape, strides, writeable=False)

    def _per_side(self, rule: Any) -> Any:
        height, width, _ = self.input_size
        sizes = zip((height, width), self.kernel_size, self.strides, strict=True)
        return tuple(rule(*side) for side in sizes)
