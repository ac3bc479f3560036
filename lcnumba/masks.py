"""Which connections of a layer exist: a boolean array, and how a config holds it."""

import base64
import binascii
import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba.arrays import frozen, ingest

__all__ = ["check", "get", "serialize"]

Mask = npt.NDArray[np.bool_]


def get(identifier: Any) -> Mask | None:
    """Return the mask that a layer's argument stands for.

    Parameters
    ----------
    identifier : bool array, (P, K) or (P, K, F), dict or None
        A mask, what `serialize` made of one, or None for none.

    Returns
    -------
    bool array or None
        A read-only copy.

    Raises
    ------
    TypeError
        If it holds no booleans.
    ValueError
        If it has not two or three axes, or a config is damaged.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba import masks
    >>> mask = masks.get(np.eye(3) != 0)
    >>> mask.shape, mask.flags.writeable
    ((3, 3), False)
    """
    if identifier is None:
        return None
    if isinstance(identifier, Mapping):
        return frozen(_decoded(identifier))
    values, _ = ingest("kernel_mask", identifier)
    if values.dtype != np.bool_:
        raise TypeError(f"kernel_mask has dtype {values.dtype}; give booleans, such as kernel_mask != 0")
    if values.ndim not in (2, 3):
        raise ValueError(
            f"kernel_mask has shape {values.shape}; give (P, K), or (P, K, F) where filters differ: positions, window "
            "entries and filters of the kernel"
        )
    return frozen(np.array(values, order="C"))


def check(mask: Mask, kernel_shape: tuple[int, int, int]) -> None:
    """Raise unless a mask fits a kernel.

    Parameters
    ----------
    mask : bool array, (P, K) or (P, K, F)
        As `get` returns it.
    kernel_shape : (int, int, int)
        (P, K, F).

    Raises
    ------
    ValueError
        If it does not.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba import masks
    >>> masks.check(np.ones((9, 4), bool), (4, 9, 2))
    Traceback (most recent call last):
    ...
    ValueError: kernel_mask has shape (9, 4); the kernel has shape (4, 9, 2): give (4, 9) or (4, 9, 2)
    """
    if mask.shape != kernel_shape[: mask.ndim]:
        raise ValueError(
            f"kernel_mask has shape {mask.shape}; the kernel has shape {kernel_shape}: give {kernel_shape[:2]} or "
            f"{kernel_shape}"
        )


def serialize(mask: Mask | None) -> dict[str, Any] | None:
    """Return the shape of a mask and its bits, eight in a byte, in base64: what JSON can hold.

    Parameters
    ----------
    mask : bool array or None
        As `get` returns it.

    Returns
    -------
    dict or None

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba import masks
    >>> masks.serialize(np.array([[True, False, True]]))
    {'shape': [1, 3], 'bits': 'oA=='}
    """
    if mask is None:
        return None
    return {"shape": list(mask.shape), "bits": base64.b64encode(np.packbits(mask).tobytes()).decode("ascii")}


def _decoded(config: Mapping[str, Any]) -> Mask:
    try:
        shape = tuple(operator.index(size) for size in config["shape"])
        bits = np.frombuffer(base64.b64decode(config["bits"], validate=True), np.uint8)
        size = math.prod(shape)
        if len(shape) not in (2, 3) or min(shape) < 0 or bits.size != -(-size // 8):
            raise ValueError(f"{bits.size} bytes are no mask of shape {shape}")
        return np.unpackbits(bits, count=size).astype(np.bool_).reshape(shape)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"kernel_mask is no config of a mask: {error}") from error
