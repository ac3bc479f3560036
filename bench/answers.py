"""Comparison of the results of two workers, before they are timed."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.process import Failure

__all__ = ["TOLERANCE", "check", "difference"]

# Maximum difference relative to the largest element of an array: sums of up to 10,000 terms in another order.
TOLERANCE = {"float32": 1e-4, "float64": 1e-11}

# Elements compared at a time: results of half a GB are memory-mapped, not loaded.
_CHUNK = 1 << 22


def check(ours: str, theirs: str, dtype: str) -> float:
    """Compare all arrays in the folders `ours` and `theirs`.

    Returns
    -------
    float
        The largest relative difference.

    Raises
    ------
    Failure
        If an array is missing, has another shape or type, or differs by more than `TOLERANCE`.
    """
    largest = 0.0
    for path in sorted(Path(ours).glob("*.npy")):
        other = Path(theirs, path.name)
        if not other.exists():
            raise Failure("wrong", f"{path.stem} is missing")
        expected, given = np.load(path, mmap_mode="r"), np.load(other, mmap_mode="r")
        if (expected.shape, expected.dtype) != (given.shape, given.dtype):
            raise Failure(
                "wrong", f"{path.stem} is {given.dtype}{given.shape}, expected {expected.dtype}{expected.shape}"
            )
        distance = difference(expected, given)
        if not distance <= TOLERANCE[dtype]:  # NaN is wrong too
            raise Failure("wrong", f"{path.stem} differs by {distance:.2g} of its largest element")
        largest = max(largest, distance)
    return largest


def difference(expected: npt.NDArray[np.floating], given: npt.NDArray[np.floating]) -> float:
    """Return max |given - expected| / max |expected|, in float64; NaN if any is NaN."""
    expected, given = expected.reshape(-1), given.reshape(-1)
    size = apart = 0.0
    for start in range(0, len(expected), _CHUNK):
        a = expected[start : start + _CHUNK].astype(np.float64)
        b = given[start : start + _CHUNK].astype(np.float64)
        # np.maximum, unlike max, propagates NaN.
        size = np.maximum(size, np.abs(a).max())
        apart = np.maximum(apart, np.abs(a - b).max())
    return float(apart / size) if size else float(apart)
