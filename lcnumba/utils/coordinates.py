"""Coordinates of a grid, as xarray's arrays carry them; xarray itself is not imported."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from lcnumba.utils.arrays import refuse_masked
from lcnumba.utils.types import Array

__all__ = ["between", "edges", "grid_coordinates"]


def grid_coordinates(coords: Any, size: Sequence[int]) -> list[tuple[str, Array]]:
    """Return the label and the coordinates of each dimension of a grid.

    Parameters
    ----------
    coords : xarray.DataArray, or mapping of str to 1-D array
        An array with the dimensions of the grid, and others; or the coordinates alone, in the order of the dimensions.
        Labels are the names, or the attributes `long_name` or `standard_name`, with `units` in brackets.
    size : sequence of int
        The size of the grid.

    Raises
    ------
    TypeError, ValueError
        If it is neither, if the dimensions do not fit, or if coordinates are no numbers, a single one or not in order.
    """
    if hasattr(coords, "dims") and hasattr(coords, "coords"):
        if isinstance(coords, Mapping):
            raise TypeError(f"coords is a {type(coords).__name__}; give one of its arrays, as coords=dataset['name']")
        coords = {str(name): coords[name] for name in _grid_dimensions(coords, size)}
    if not isinstance(coords, Mapping):
        raise TypeError(
            f"coords is a {type(coords).__name__}; give an xarray.DataArray, or the coordinates of each dimension, as "
            "in {'lat': lat, 'lon': lon}"
        )
    if len(coords) != len(size):
        raise ValueError(
            f"coords has {list(coords)}; give those of the dimensions of size {tuple(size)} alone, in their order, as "
            "in {'lat': field.lat, 'lon': field.lon}"
        )
    return [
        (_label(str(name), values), _checked(f"coords[{name!r}]", values, n))
        for (name, values), n in zip(coords.items(), size, strict=True)
    ]


def _grid_dimensions(array: Any, size: Sequence[int]) -> Sequence[Any]:
    """The dimensions of an array of xarray that have these sizes, in this order."""
    sizes = dict(zip(array.dims, array.shape, strict=True))
    found = [dims for dims in combinations(sizes, len(size)) if tuple(sizes[name] for name in dims) == tuple(size)]
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"coords has the dimensions {sizes}, {'none' if not found else 'several'} of which are a grid of size "
        f"{tuple(size)}; give the coordinates of each dimension, as in {{'lat': field.lat, 'lon': field.lon}}"
    )


def _checked(name: str, given: Any, size: int) -> Array:
    refuse_masked(**{name: given})
    values = np.asarray(given)
    if values.dtype.kind not in "iuf":
        times = ", such as the hours since the first" if values.dtype.kind in "mM" else ""
        raise TypeError(f"{name} has dtype {values.dtype}; give numbers{times}")
    values = values.astype(np.float64)
    if values.shape != (size,):
        raise ValueError(f"{name} has shape {values.shape}; the grid needs ({size},)")
    if size == 1:
        raise ValueError(f"{name} is a single point, which does not say how large its cell is; leave coords out")
    steps = np.diff(values)
    if not (np.isfinite(values).all() and (np.all(steps > 0) or np.all(steps < 0))):
        raise ValueError(f"{name} neither rises nor falls throughout; sort the field by it, as with field.sortby")
    return values


def _label(name: str, values: Any) -> str:
    attributes = getattr(values, "attrs", {})
    text = attributes.get("long_name") or attributes.get("standard_name") or name
    return f"{text} [{units}]" if (units := attributes.get("units")) else str(text)


def between(values: Array, places: Array) -> Array:
    """Return the coordinates of places given in units of grid points, which may lie between points or beyond them."""
    before = np.clip(np.floor(places), 0, len(values) - 2).astype(np.intp)
    return values[before] + (places - before) * np.diff(values)[before]


def edges(values: Array) -> Array:
    """Return the n + 1 edges of n cells around these coordinates."""
    return between(values, np.arange(len(values) + 1) - 0.5)
