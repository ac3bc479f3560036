"""Which output positions share their weights: the sets of positions of `weight_sharing`."""

import base64
import binascii
import math
import operator
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from lcnumba.connectivity.tables import Index, read_only
from lcnumba.utils.arrays import as_numpy
from lcnumba.utils.arrays import read_only as read_only_view
from lcnumba.utils.types import Array
from lcnumba.utils.validation import choice, int_tuple

__all__ = ["Regions", "Sharing", "as_argument", "check_bias", "get", "serialize", "sets"]


class Regions:
    """The number of the set of each output position: an array that compares and hashes by its values.

    Parameters
    ----------
    array : array of int, of the output's spatial shape
        Numbers 0 to S - 1.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.connectivity.sharing import Regions
    >>> Regions(np.array([0, 1])) == Regions(np.array([0, 1]))
    True
    """

    def __init__(self, array: Array) -> None:
        self.array = read_only_view(np.array(array, np.int64, order="C"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Regions) and np.array_equal(self.array, other.array)

    def __hash__(self) -> int:
        return hash((self.array.shape, zlib.crc32(self.array.tobytes())))

    def __repr__(self) -> str:
        """The shape and the number of sets."""
        return f"<regions {self.array.shape}>"


# None: each position has its own weights; "all": one set; the size of blocks of neighbours; the set of each position.
Sharing = str | tuple[int, ...] | Regions | None


def get(value: Any, rank: int) -> Sharing:
    """Return the canonical form of a `weight_sharing` argument.

    Parameters
    ----------
    value : None, "all", int, tuple of int, array of int, or the result of `serialize`
        As for `lcnumba.LocallyConnected2D`.
    rank : int
        Spatial dimensions.

    Returns
    -------
    None, "all", tuple of int, or Regions

    Raises
    ------
    TypeError, ValueError
        For any other value: numbers of sets must be 0 to S - 1, each used.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.connectivity import sharing
    >>> sharing.get("all", 2), sharing.get(2, 2), sharing.get(np.array([0, 1, 0]), 1)
    ('all', (2, 2), <regions (3,)>)
    """
    if value is None or isinstance(value, Regions):
        return value
    if isinstance(value, str):
        if value.lower() != "all":
            raise ValueError(
                f"weight_sharing={value!r} is not known; give None, 'all', the size of blocks, or an array of ints"
            )
        return "all"
    if isinstance(value, Mapping):
        return _checked(_decoded(value), rank)
    if isinstance(value, int | np.integer | tuple) or _is_block(value, rank):
        return int_tuple("weight_sharing", value, rank)
    array, _ = as_numpy("weight_sharing", value, any_dtype=True)
    return _checked(array, rank)


def sets(sharing: Sharing, output_size: tuple[int, ...]) -> tuple[Index, int] | None:
    """Return the set of each position in row-major order, and how many sets there are; None without sharing.

    Parameters
    ----------
    sharing : None, "all", tuple of int, or Regions
        As `get` returns it.
    output_size : tuple of int
        Spatial size of the output.

    Returns
    -------
    ((P,) int64, int) or None

    Raises
    ------
    ValueError
        If blocks are larger than the output, or an array has another shape.

    Examples
    --------
    >>> from lcnumba.connectivity import sharing
    >>> sharing.sets((2, 2), (3, 4))
    (array([0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3]), 4)
    """
    if sharing is None:
        return None
    if isinstance(sharing, Regions):
        if sharing.array.shape != output_size:
            raise ValueError(
                f"weight_sharing has shape {sharing.array.shape}; there are {output_size} positions: give the number "
                "of the weight set of each (outputs, or inputs of a transposed layer)"
            )
        return read_only(sharing.array.reshape(-1))[0], int(sharing.array.max()) + 1
    blocks = output_size if isinstance(sharing, str) else sharing
    if any(block > size for block, size in zip(blocks, output_size, strict=True)):
        raise ValueError(
            f"weight_sharing={sharing} has blocks larger than the positions, {output_size}; give smaller ones, or 'all'"
        )
    numbers, count = np.zeros(1, np.int64), 1
    for size, block in zip(output_size, blocks, strict=True):
        parts = -(-size // block)
        numbers = (numbers[:, None] * parts + np.arange(size) // block).reshape(-1)
        count *= parts
    return read_only(numbers)[0], count


def as_argument(sharing: Sharing) -> Any:
    """Return the value of a layer's attribute: arrays instead of `Regions`."""
    return sharing.array if isinstance(sharing, Regions) else sharing


def check_bias(value: Any, weight_sharing: Any) -> str:
    """Return `bias_sharing`; raise unless there are sets of weights with which a bias "region" can be shared.

    Parameters
    ----------
    value : {"position", "region", "filter"}
        Whether each output has its own bias, each set of weights, or each filter.
    weight_sharing : None, or anything else
        As `as_argument` returns it.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it is another value, or "region" without `weight_sharing`.

    Examples
    --------
    >>> from lcnumba.connectivity import sharing
    >>> sharing.check_bias("region", (2, 2))
    'region'
    """
    found: str = choice("bias_sharing", value, ("position", "region", "filter"))
    if found == "region" and weight_sharing is None:
        raise ValueError(
            "bias_sharing='region' shares the bias as weight_sharing shares the weights, which is None; give "
            "weight_sharing, or bias_sharing='position' or 'filter'"
        )
    return found


def serialize(sharing: Any) -> Any:
    """Return the canonical form as JSON values: arrays as their shape and compressed numbers in base64.

    Parameters
    ----------
    sharing : None, "all", tuple of int, Regions, or array
        As `get` or `as_argument` returns it.

    Returns
    -------
    None, str, tuple of int or dict

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.connectivity import sharing
    >>> config = sharing.serialize(sharing.get(np.array([0, 1, 0]), 1))
    >>> config["shape"], sharing.get(config, 1).array
    ([3], array([0, 1, 0]))
    """
    array = as_argument(sharing)
    if not isinstance(array, np.ndarray):
        return array
    packed = zlib.compress(array.astype("<i4").tobytes())
    return {"shape": list(array.shape), "regions": base64.b64encode(packed).decode("ascii")}


def _is_block(value: Any, rank: int) -> bool:
    """Whether a list, as JSON has it, is the size of a block rather than an array: [0] is an array, [2] a size."""
    if not isinstance(value, list) or len(value) != rank:
        return False
    sizes = all(isinstance(size, int | np.integer) for size in value)
    return sizes and (rank > 1 or value[0] != 0)  # arrays of more dimensions are nested lists


def _checked(array: Array, rank: int) -> Regions:
    if array.dtype.kind not in "iu":
        raise TypeError(f"weight_sharing has dtype {array.dtype}; give integers, the number of each position's set")
    if array.ndim != rank or array.size == 0:
        raise ValueError(
            f"weight_sharing has shape {array.shape}; give the spatial shape of the output, with {rank} dimensions, or "
            "a tuple for the size of blocks"
        )
    if array.min() < 0:
        place = tuple(int(i) for i in np.unravel_index(np.argmin(array), array.shape))
        raise ValueError(
            f"weight_sharing is {array.min()} at {place}; number the sets from 0: "
            "numpy.unique(regions, return_inverse=True)[1]"
        )
    highest = int(array.max())
    # A number beyond the positions cannot do without gaps, and would ask for a long count.
    if highest < array.size:
        missing = np.flatnonzero(np.bincount(array.reshape(-1).astype(np.int64)) == 0)
    else:
        missing = np.setdiff1d(np.arange(array.size), array)
    if missing.size:
        raise ValueError(
            f"weight_sharing uses numbers up to {highest}, but not {missing[0]}; number the sets from 0 without gaps: "
            "numpy.unique(regions, return_inverse=True)[1]"
        )
    return Regions(array)


def _decoded(config: Mapping[str, Any]) -> Array:
    try:
        shape = tuple(operator.index(size) for size in config["shape"])
        size = math.prod(shape)
        decoder = zlib.decompressobj()
        packed = base64.b64decode(config["regions"], validate=True)
        numbers = np.frombuffer(decoder.decompress(packed, 4 * size + 1), "<i4")
        if min(shape, default=-1) < 0 or numbers.size != size:
            raise ValueError(f"{numbers.size} numbers do not match shape {shape}")
        return numbers.reshape(shape)
    except (KeyError, OverflowError, TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise ValueError(f"invalid config of weight_sharing: {error}") from error
