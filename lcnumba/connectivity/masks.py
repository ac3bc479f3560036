"""Masks of the existing connections: boolean arrays, and their serialization."""

import base64
import binascii
import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from lcnumba.connectivity.geometry import Geometry, padding_modes, paddings
from lcnumba.runtime.memory import require
from lcnumba.utils.arrays import as_numpy, read_only
from lcnumba.utils.messages import public
from lcnumba.utils.types import Mask
from lcnumba.utils.validation import int_tuple, integer

__all__ = ["check", "get", "kernel_mask_from", "serialize"]


def get(identifier: Any) -> Mask | None:
    """Return the mask for a layer's argument.

    Parameters
    ----------
    identifier : bool array, (P, K) or (P, K, F), dict or None
        A mask, the result of `serialize`, or None.

    Returns
    -------
    bool array or None
        A read-only copy.

    Raises
    ------
    TypeError
        If it is not boolean.
    ValueError
        If it does not have two or three axes, or a config is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.connectivity import masks
    >>> mask = masks.get(np.eye(3) != 0)
    >>> mask.shape, mask.flags.writeable
    ((3, 3), False)
    """
    if identifier is None:
        return None
    if isinstance(identifier, Mapping):
        return read_only(_decoded(identifier))
    values, _ = as_numpy("kernel_mask", identifier, any_dtype=True)
    if values.dtype != np.bool_:
        raise TypeError(f"kernel_mask has dtype {values.dtype}; give booleans, such as kernel_mask != 0")
    if values.ndim not in (2, 3):
        raise ValueError(
            f"kernel_mask has shape {values.shape}; give (P, K), or (P, K, F) where filters differ: positions, window "
            "entries and filters of the kernel"
        )
    return read_only(np.array(values, order="C"))


def check(mask: Mask, kernel_shape: tuple[int, int, int], plain: bool = True) -> None:
    """Raise unless a mask fits a kernel.

    Parameters
    ----------
    mask : bool array, (P, K) or (P, K, F)
        As `get` returns it.
    kernel_shape : (int, int, int)
        (P, K, F), or (S, K, F).
    plain : bool, default True
        Whether the layer has neither shared weights nor groups, so that `kernel_mask_from` can make a mask of it.

    Raises
    ------
    ValueError
        If it does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.connectivity import masks
    >>> masks.check(np.ones((9, 4), bool), (4, 9, 2))
    Traceback (most recent call last):
    ...
    ValueError: kernel_mask has shape (9, 4); the kernel has shape (4, 9, 2): give (4, 9) or (4, 9, 2);
        lcnumba.kernel_mask_from creates it from an array of valid inputs
    """
    if mask.shape != kernel_shape[: mask.ndim]:
        hint = "; lcnumba.kernel_mask_from creates it from an array of valid inputs" if plain else ""
        raise ValueError(
            f"kernel_mask has shape {mask.shape}; the kernel has shape {kernel_shape}: give {kernel_shape[:2]} or "
            f"{kernel_shape}{hint}"
        )


@public
def kernel_mask_from(
    valid: Any,
    kernel_size: int | tuple[int, ...],
    strides: int | tuple[int, ...] = 1,
    padding: Any = "valid",
    *,
    dilation_rate: int | tuple[int, ...] = 1,
    padding_mode: str | tuple[str, ...] = "zeros",
    channels: int = 1,
) -> Mask:
    """Return the mask of a layer that ignores invalid inputs, such as land in ocean data or dead detector pixels.

    Parameters
    ----------
    valid : bool array, (H, W), or (H, W, C) where channels differ
        Which inputs are valid; with as many dimensions as the layer, or one more for the channels.
    kernel_size, strides, padding, dilation_rate, padding_mode
        As for the layer, in channels_last order. An integer `kernel_size` applies to all axes of `valid`; give a tuple
        if the last axis is that of channels.
    channels : int, default 1
        Channels of the input, if `valid` is the same for all of them.

    Returns
    -------
    bool array, (P, K)
        For ``kernel_mask=``: whether each window entry (row, column, channel) of each position lies on a valid input.

    Raises
    ------
    TypeError, ValueError
        If `valid` is not boolean, or the windows do not fit; also if `kernel_size` is an integer and the last of
        several axes of `valid` has length 1.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> sea = np.array([[True, True, False], [True, True, True]])
    >>> mask = lc.kernel_mask_from(sea, (2, 2))
    >>> mask.astype(int)  # two positions, each with its four entries
    array([[1, 1, 1, 1],
           [1, 0, 1, 1]])
    >>> layer = lc.LocallyConnected2D(4, (2, 2), kernel_mask=mask, input_shape=(2, 3, 1))
    """
    values, _ = as_numpy("valid", valid, any_dtype=True)
    if values.dtype != np.bool_:
        raise TypeError(f"valid has dtype {values.dtype}; give booleans, such as np.isfinite(field)")
    rank = len(kernel_size) if isinstance(kernel_size, list | tuple) else values.ndim
    if values.ndim == rank > 1 == values.shape[-1] and not isinstance(kernel_size, list | tuple):
        raise ValueError(
            f"valid has shape {values.shape}, whose last axis may be that of channels; give kernel_size as a tuple, "
            f"with a number for each other axis: {(kernel_size,) * (rank - 1)}"
        )
    if not 1 <= rank <= 3 or values.ndim not in (rank, rank + 1):
        raise ValueError(
            f"valid has shape {values.shape} and kernel_size={kernel_size!r} has {rank} dimensions; give an array of "
            "as many dimensions, 1 to 3, or with a last axis of channels"
        )
    many = integer("channels", channels)
    if values.ndim > rank:
        if many not in (1, values.shape[-1]):
            raise ValueError(f"channels={channels!r}, and valid has {values.shape[-1]}; leave channels out")
        many = 1
    else:
        values = values[..., None]
    geometry = Geometry(
        values.shape[:-1],
        values.shape[-1],
        1,
        int_tuple("kernel_size", kernel_size, rank),
        int_tuple("strides", strides, rank),
        int_tuple("dilation_rate", dilation_rate, rank),
        paddings(padding, rank),
        padding_modes(padding_mode, rank),
    )
    mask: Mask = geometry.exists & values.reshape(-1)[geometry.input_index]
    require(many * mask.size, "the mask", "give fewer channels or larger strides")
    return np.repeat(mask, many, axis=1) if many > 1 else mask


def serialize(mask: Mask | None) -> dict[str, Any] | None:
    """Return the shape of a mask and its packed bits in base64, for JSON.

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
    >>> from lcnumba.connectivity import masks
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
            raise ValueError(f"{bits.size} bytes do not match shape {shape}")
        return np.unpackbits(bits, count=size).astype(np.bool_).reshape(shape)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"invalid config of kernel_mask: {error}") from error
