"""Weights of locally connected layers in the layouts of other libraries.

With the output's size O, the window K of so many taps, and channels C of a group, they keep kernel and bias as follows.
Keras' layouts, which depend on its implementation, are in `keras2/layouts.py`.

=============  ======================  ===========  ==========================================================
layout         kernel                  bias         where
=============  ======================  ===========  ==========================================================
torch          (*O, F, C, *K)          (F, *O)      Torch7 ``SpatialConvolutionLocal``, layers with ``unfold``
torch_unfold   (1, F, C, *O, taps)     (1, F, *O)   the ``LocallyConnected2d`` of PyTorch's forum
flax           (*O, C*taps, F)         (*O, F)      ``ConvLocal``, JAX ``conv_general_dilated_local``
caffe          (F, 1, C*taps, P)       (1, 1, F, P) ``LocalLayer``
lasagne        (F, C, *K, *O)          (F, *O)      ``LocallyConnected2DLayer``, which flips the window
=============  ======================  ===========  ==========================================================
"""

import math
from typing import Any

import numpy as np

from lcnumba.layers.locally_connected import LocallyConnected
from lcnumba.utils.arrays import as_numpy, check_dtype
from lcnumba.utils.messages import public
from lcnumba.utils.types import Array
from lcnumba.utils.validation import choice

__all__ = ["from_layout", "to_layout"]

# The order of the axes: output, window, channels, filters.
ORDERS = {"torch": "OFCK", "torch_unfold": "FCOK", "flax": "OCKF", "caffe": "FCKO", "lasagne": "FCKO"}


@public
def from_layout(layer: LocallyConnected, weights: list[Any], layout: str) -> None:
    """Set a layer's weights from those of the same layer in another library.

    The layer is built if it knows its input shape.

    Parameters
    ----------
    layer : LocallyConnected1D, LocallyConnected2D or LocallyConnected3D
        The layer, without `weight_sharing`.
    weights : list of arrays
        [kernel, bias] or [kernel], of any array type.
    layout : {"torch", "torch_unfold", "flax", "caffe", "lasagne"}
        "torch": kernel (*output, F, C, *kernel_size), bias (F, *output). "torch_unfold": (1, F, C, *output, taps),
        (1, F, *output). "flax": (*output, C*taps, F), channels slowest, (*output, F). "caffe": (F, 1, C*taps, P),
        channels slowest, (1, 1, F, P). "lasagne": (F, C, *kernel_size, *output), (F, *output), with ``flip_filters`` of
        its default. A bias (F,) of all positions is the same in each.

    Raises
    ------
    TypeError, ValueError
        If the weights do not fit, the layout is unknown, or the layer is another one; the layer is unchanged then.
    AttributeError
        If the layer's input shape is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> layer = lc.LocallyConnected1D(1, 2, input_shape=(3, 1))
    >>> kernel = np.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(2, 1, 1, 2)  # (W, F, C, K)
    >>> lc.from_layout(layer, [kernel, np.zeros((1, 2))], "torch")
    >>> layer([[[1.0], [2.0], [3.0]]])[0, :, 0]
    array([  21., 3200.], dtype=float32)
    """
    name = _checked(layer, layout)
    if not isinstance(weights, list | tuple):
        raise TypeError(f"weights is a {type(weights).__name__}; give a list of arrays")
    given = [as_numpy(f"weights[{number}]", weight)[0] for number, weight in enumerate(weights)]
    for number, values in enumerate(given):  # before the layer is built
        check_dtype(f"weights[{number}]", values, layer._dtype)
    shapes = list(layer.weight_shapes(layer.input_shape).values())
    if len(given) != len(shapes):
        raise ValueError(f"{len(given)} weights given; {layer.name!r} needs {len(shapes)}")
    view, rank = layer._geometry_of(layer.input_shape).kernel_view_shape, layer.rank
    order = _axes(name, rank)
    wanted = _kernel_shape(name, view, rank)
    if given[0].shape != wanted:
        raise ValueError(f"weights[0] has shape {given[0].shape}; the layout {name!r} of {layer.name!r} has {wanted}")
    kernel = given[0].reshape([view[axis] for axis in order]).transpose(np.argsort(order))
    new = [_flipped(name, kernel, rank).reshape(shapes[0])]
    for bias in given[1:]:
        expected = _bias_shape(name, shapes[1])
        if bias.shape != expected:
            raise ValueError(f"weights[1] has shape {bias.shape}; the layout {name!r} of {layer.name!r} has {expected}")
        new.append(bias if name == "flax" or bias.ndim == 1 else np.moveaxis(_by_filter(bias, shapes[1]), 0, -1))
    layer.ensure_built(layer.input_shape)
    layer.set_weights(new)


@public
def to_layout(layer: LocallyConnected, layout: str) -> list[Array]:
    """Return a layer's weights in the layout of another library.

    Parameters
    ----------
    layer : LocallyConnected1D, LocallyConnected2D or LocallyConnected3D
        A built layer, without `weight_sharing`.
    layout : {"torch", "torch_unfold", "flax", "caffe", "lasagne"}
        As for `from_layout`.

    Returns
    -------
    list of arrays
        [kernel, bias] or [kernel], new arrays.

    Raises
    ------
    TypeError, ValueError
        If the layout is unknown, or the layer is another one.
    AttributeError
        If the layer has not been built.

    Examples
    --------
    >>> import lcnumba as lc
    >>> layer = lc.LocallyConnected2D(8, 3, input_shape=(28, 28, 2))
    >>> layer.build((None, 28, 28, 2))
    >>> [array.shape for array in lc.to_layout(layer, "torch")]
    [(26, 26, 8, 2, 3, 3), (8, 26, 26)]
    """
    name = _checked(layer, layout)
    view, bias = layer.kernel_view(), layer.bias
    kernel = _flipped(name, view, layer.rank).transpose(_axes(name, layer.rank))
    arrays = [np.array(kernel.reshape(_kernel_shape(name, view.shape, layer.rank)), order="C")]
    if bias is not None:
        moved = bias if name == "flax" or bias.ndim == 1 else np.moveaxis(bias, -1, 0)
        arrays.append(np.array(moved.reshape(_bias_shape(name, bias.shape)), order="C"))
    return arrays


def _checked(layer: Any, layout: Any) -> str:
    """The name of a layout; raise unless the layer has weights that it can hold."""
    if not isinstance(layer, LocallyConnected):
        raise TypeError(f"layer is a {type(layer).__name__}; give a LocallyConnected1D, 2D or 3D")
    if layer.weight_sharing is not None:
        raise ValueError(
            f"{layer.name!r} has weight_sharing, which other libraries' layouts do not know; use layer.kernel_view()"
        )
    name: str = choice("layout", layout, tuple(ORDERS))
    return name


def _axes(name: str, rank: int) -> list[int]:
    """The axes of `kernel_view` in the order of a layout."""
    groups = {"O": range(rank), "K": range(rank, 2 * rank), "C": [2 * rank], "F": [2 * rank + 1]}
    return [axis for letter in ORDERS[name] for axis in groups[letter]]


def _kernel_shape(name: str, view: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """The shape of a kernel, given that of `kernel_view`."""
    output, window, (channels, filters) = view[:rank], view[rank : 2 * rank], view[2 * rank :]
    taps = math.prod(window)
    shapes = {
        "torch": (*output, filters, channels, *window),
        "torch_unfold": (1, filters, channels, *output, taps),
        "flax": (*output, channels * taps, filters),
        "caffe": (filters, 1, channels * taps, math.prod(output)),
        "lasagne": (filters, channels, *window, *output),
    }
    return shapes[name]


def _bias_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a bias, given that of the layer's, (*output, F) or (F,)."""
    *output, filters = shape
    if not output or name == "flax":
        return shape
    shapes = {"torch_unfold": (1, filters, *output), "caffe": (1, 1, filters, math.prod(output))}
    return shapes.get(name, (filters, *output))


def _by_filter(bias: Array, shape: tuple[int, ...]) -> Array:
    return bias.reshape(shape[-1], *shape[:-1])


def _flipped(name: str, kernel: Array, rank: int) -> Array:
    """A `kernel_view` with the window flipped, for libraries that convolve rather than correlate."""
    return np.flip(kernel, tuple(range(rank, 2 * rank))) if name == "lasagne" else kernel
