"""Choosing between a number and 0."""

import numpy as np

from lcnumba.utils.types import Array

__all__ = ["selected"]


def selected(mask: Array, values: Array, out: Array | None = None) -> Array:
    """Return the values where the mask is true, and 0 elsewhere, also where they are not finite.

    By their bits: a product would be NaN for 0 times infinity, and `numpy.where` takes three times as long.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.utils.selection import selected
    >>> selected(np.array([True, False]), np.array([3.0, np.inf]))
    array([3., 0.])
    """
    bits = np.dtype(f"u{values.itemsize}")
    ones = mask.astype(bits)
    np.negative(ones, out=ones)
    found: Array = np.bitwise_and(values.view(bits), ones, out=ones if out is None else out.view(bits))
    return found.view(values.dtype)
