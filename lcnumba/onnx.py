"""Export of layers and models to ONNX (the extra ``lcnumba[onnx]``), for inference without this library.

A locally connected layer becomes a gather of windows and a product for each position: standard operators, which every
runtime has. The layer in modules of `lcnumba.torch` is exported by `torch.onnx` with `torch_translations`.
"""

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lcnumba import activations
from lcnumba.connectivity.geometry import Geometry
from lcnumba.functional import DirectedSpec, Spec
from lcnumba.layers.activation import Activation
from lcnumba.layers.advanced_activations import ELU, LeakyReLU, ReLU, Softmax
from lcnumba.layers.batch_normalization import BatchNormalization
from lcnumba.layers.convolution import Conv1D, Conv2D, Convolution
from lcnumba.layers.dense import Dense
from lcnumba.layers.dropout import Dropout
from lcnumba.layers.flatten import Flatten
from lcnumba.layers.locally_connected import (
    LocallyConnected,
    LocallyConnected1D,
    LocallyConnected2D,
    LocallyConnected3D,
)
from lcnumba.layers.locally_connected_transpose import (
    LocallyConnected1DTranspose,
    LocallyConnected2DTranspose,
    LocallyConnected3DTranspose,
    LocallyConnectedTranspose,
)
from lcnumba.layers.locally_directed import LocallyDirected1D
from lcnumba.layers.pooling import (
    AveragePooling1D,
    AveragePooling2D,
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    MaxPooling1D,
    MaxPooling2D,
)
from lcnumba.layers.shapes import Reshape, UpSampling1D, UpSampling2D, ZeroPadding1D, ZeroPadding2D
from lcnumba.layers.tree import flat_layers
from lcnumba.layers.windowed import Windowed
from lcnumba.models.sequential import Sequential
from lcnumba.runtime.signals import deferred
from lcnumba.utils.files import atomic_write
from lcnumba.utils.messages import install, public
from lcnumba.utils.types import Array
from lcnumba.utils.validation import file_path, integer, resolved_axes

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise ImportError(f"{error}; lcnumba.onnx needs the package onnx: {install('onnx')}") from error

__all__ = ["export", "torch_translations"]

# The lowest version of ONNX' operators that has all that are used.
LEAST_OPSET = 13
# The lowest that adds numbers by index.
SCATTER_OPSET = 16
# Bytes of weights and tables from which they are stored beside the file: a file of ONNX holds less than 2 GB.
EXTERNAL_BYTES = 1_500_000_000


class _Graph:
    """Nodes and constants of a graph. Values are names; numbers among the inputs of a node become constants."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, kind: str, *inputs: str | float, **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        given = [value if isinstance(value, str) else self.constant(np.array(value, self.dtype)) for value in inputs]
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, given, [name], name=name, **attributes))
        return name

    def constant(self, array: Array) -> str:
        """Add a constant, and return its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def _integers(graph: Any, *numbers: int) -> Any:
    return graph.constant(np.array(numbers, np.int64))


# --- layers


def _local(graph: Any, x: Any, kernel: Any, bias: Any, geometry: Geometry) -> Any:
    """The nodes of a layer on channels-last x; kernel (P, K, F), with 0 where a mask excludes, and bias are values."""
    g, G, E = geometry, geometry.groups, geometry.tap_entries
    pixels = graph.op("Reshape", x, _integers(graph, 0, math.prod(g.input_size), g.channels))
    windows = graph.op("Gather", _with_zeros(graph, pixels, g), graph.constant(_pixel_index(g)), axis=1)
    # (groups, positions, samples, window), times (groups, positions, window, filters of a group)
    windows = graph.op("Reshape", windows, _integers(graph, 0, g.positions, g.window // E, G, E))
    windows = graph.op("Transpose", windows, perm=[3, 1, 0, 2, 4])
    windows = graph.op("Reshape", windows, _integers(graph, 0, 0, 0, g.window))
    y = graph.op("MatMul", windows, _by_group(graph, kernel, g))
    y = graph.op("Transpose", y, perm=[2, 1, 0, 3])
    y = graph.op("Reshape", y, _integers(graph, 0, *g.output_size, g.filters))
    return y if bias is None else graph.op("Add", y, bias)


def _transposed(graph: Any, x: Any, kernel: Any, bias: Any, geometry: Geometry) -> Any:
    """The nodes of a transposed layer, whose adjoint has the geometry, on channels-last x."""
    g, G, M = geometry, geometry.groups, geometry.filters // geometry.groups
    inputs = graph.op("Reshape", x, _integers(graph, 0, g.positions, G, M))
    inputs = graph.op("Transpose", inputs, perm=[2, 1, 0, 3])
    weights = graph.op("Transpose", _by_group(graph, kernel, g), perm=[0, 1, 3, 2])
    products = graph.op("MatMul", inputs, weights)  # (groups, positions, samples, window)
    taps = g.window // g.tap_entries
    products = graph.op("Reshape", products, _integers(graph, 0, 0, 0, taps, g.tap_entries))
    products = graph.op("Transpose", products, perm=[2, 1, 3, 0, 4])
    products = graph.op("Reshape", products, _integers(graph, 0, g.positions * taps, g.channels))
    # Each output is the sum of those products that lead there; the list of each is filled up with a row of zeros.
    products = graph.op("Pad", products, _integers(graph, 0, 0, 0, 0, 1, 0))
    target = g.input_index[:, :: g.tap_entries] // g.channels
    place, source = target[g.exists[:, :: g.tap_entries]], np.flatnonzero(g.exists[:, :: g.tap_entries])
    order = np.argsort(place, kind="stable")
    counts = np.bincount(place, minlength=math.prod(g.input_size))
    lists = np.full((len(counts), max(1, counts.max())), g.positions * taps)
    lists[np.arange(lists.shape[1]) < counts[:, None]] = source[order]
    y = graph.op("ReduceSum", graph.op("Gather", products, graph.constant(lists), axis=1), _integers(graph, 2),
                 keepdims=0)  # fmt: skip
    y = graph.op("Reshape", y, _integers(graph, 0, *g.input_size, g.channels))
    return y if bias is None else graph.op("Add", y, bias)


def _directed(graph: Any, x: Any, kernel: Any, bias: Any, spec: DirectedSpec) -> Any:
    """The nodes of connections that are given one by one, on x (N, inputs, C): a product each, added by output."""
    mask = spec.mask
    by_connection = graph.op("Gather", graph.op("Transpose", x, perm=[1, 0, 2]), graph.constant(mask.indices), axis=0)
    products = graph.op("MatMul", by_connection, kernel)  # (connections, N, F)
    shape = graph.op("Concat", _integers(graph, mask.shape[1]), graph.op("Shape", products, start=1), axis=0)
    zeros = graph.op("CastLike", graph.op("ConstantOfShape", shape), products)
    outputs = np.repeat(np.arange(mask.shape[1]), np.diff(mask.indptr))
    y = graph.op("ScatterND", zeros, graph.constant(outputs[:, None]), products, reduction="add")
    y = graph.op("Transpose", y, perm=[1, 0, 2])
    return y if bias is None else graph.op("Add", y, bias)


def _pixel_index(g: Geometry) -> Array:
    """The flat pixel (P, taps) that each tap reads; where it reads none the row of zeros behind all of them."""
    index = g.input_index[:, :: g.tap_entries] // g.channels
    return np.where(g.exists[:, :: g.tap_entries], index, math.prod(g.input_size))


def _with_zeros(graph: Any, pixels: Any, g: Geometry) -> Any:
    """The pixels (N, inputs, C), with a row of zeros behind them if some taps read none."""
    return pixels if g.complete else graph.op("Pad", pixels, _integers(graph, 0, 0, 0, 0, 1, 0))


def _by_group(graph: Any, kernel: Any, g: Geometry) -> Any:
    """The weights (groups, positions, K, filters of a group); of one position if all share them."""
    if g.n_sets > 1 and g.sets is not None:
        kernel = graph.op("Gather", kernel, graph.constant(np.array(g.sets)), axis=0)
    split = graph.op("Reshape", kernel, _integers(graph, 0, g.window, g.groups, g.filters // g.groups))
    return graph.op("Transpose", split, perm=[2, 0, 1, 3])


def _convolution(graph: _Graph, layer: Convolution, x: str) -> str:
    rank, g, first = layer.rank, layer._geometry, layer.data_format == "channels_first"
    if not first:
        x = graph.op("Transpose", x, perm=[0, rank + 1, *range(1, rank + 1)])
    kernel = np.moveaxis(layer.kernel, (-1, -2), (0, 1))
    parts = [graph.constant(kernel)] + ([] if layer.bias is None else [graph.constant(layer.bias)])
    before, after = zip(*g.margins, strict=True)
    y = graph.op(
        "Conv", x, *parts, strides=layer.strides, dilations=layer.dilation_rate, group=layer.groups,
        pads=[*before, *after], kernel_shape=layer.kernel_size,
    )  # fmt: skip
    y = graph.op("Transpose", y, perm=[0, *range(2, rank + 2), 1])
    y = _activated(graph, layer, y)
    return graph.op("Transpose", y, perm=[0, rank + 1, *range(1, rank + 1)]) if first else y


def _windowed(graph: _Graph, layer: LocallyConnected | LocallyConnectedTranspose, x: str) -> str:
    rank, first = layer.rank, layer.data_format == "channels_first"
    if first:
        x = graph.op("Transpose", x, perm=[0, *range(2, rank + 2), 1])
    kernel, bias = graph.constant(layer.kernel), layer.bias
    if bias is not None and layer.bias_sharing == "region":
        bias = bias[layer._geometry.sets].reshape(layer._geometry.bias_shape)
    nodes = _local if isinstance(layer, LocallyConnected) else _transposed
    z = nodes(graph, x, kernel, None if bias is None else graph.constant(bias), layer._geometry)
    y = _activated(graph, layer, z)
    return graph.op("Transpose", y, perm=[0, rank + 1, *range(1, rank + 1)]) if first else y


def _dense(graph: _Graph, layer: Dense, x: str) -> str:
    parts = [graph.constant(weight) for weight in layer.weights]
    return _activated(graph, layer, graph.op("Gemm", x, *parts))


def _flatten(graph: _Graph, layer: Flatten, x: str, shape: Sequence[Any]) -> str:
    if layer.get_config()["data_format"] == "channels_first" and len(shape) > 2:
        x = graph.op("Transpose", x, perm=[0, *range(2, len(shape)), 1])
    return graph.op("Reshape", x, _integers(graph, 0, math.prod(shape[1:])))


def _normalised(graph: _Graph, layer: BatchNormalization, x: str, shape: Sequence[Any]) -> str:
    """The nodes for inference, by the moving averages."""
    axes = resolved_axes(layer.axis, tuple(shape), layer.name)
    sizes = [size if axis in axes else 1 for axis, size in enumerate(shape)]
    scale = 1 / np.sqrt(layer.moving_variance + graph.dtype.type(layer.epsilon))
    if layer.gamma is not None:
        scale = scale * layer.gamma
    centred = graph.op("Sub", x, graph.constant(layer.moving_mean.reshape(sizes)))
    y = graph.op("Mul", centred, graph.constant(scale.reshape(sizes)))
    return y if layer.beta is None else graph.op("Add", y, graph.constant(layer.beta.reshape(sizes)))


def _pooled(graph: _Graph, layer: Any, x: str, shape: Sequence[Any], kind: str) -> str:
    out, rank, last = layer.compute_output_shape(shape), layer._rank, layer._axes[0] == 1
    if last:
        x = graph.op("Transpose", x, perm=[0, rank + 1, *range(1, rank + 1)])
    if kind.startswith("Global"):
        return graph.op("Reshape", graph.op(kind, x), _integers(graph, 0, *out[1:]))
    windows = zip(layer._axes, layer._pool_size, layer._strides, strict=True)
    # Beyond the input, on both sides together: none with "valid".
    pads = [max((out[axis] - 1) * stride + size - shape[axis], 0) for axis, size, stride in windows]
    settings = {"kernel_shape": layer._pool_size, "strides": layer._strides}
    y = graph.op(kind, x, pads=[pad // 2 for pad in pads] + [pad - pad // 2 for pad in pads], **settings)
    return graph.op("Transpose", y, perm=[0, *range(2, rank + 2), 1]) if last else y


def _padded(graph: _Graph, layer: Any, x: str, shape: Sequence[Any]) -> str:
    zeros = dict(zip(layer._axes, layer._padding, strict=True))
    pads = [zeros.get(axis, (0, 0))[end] for end in (0, 1) for axis in range(len(shape))]
    return graph.op("Pad", x, _integers(graph, *pads))


def _repeated(graph: _Graph, layer: Any, x: str, shape: Sequence[Any]) -> str:
    """The nodes of an upsampling: a new axis after each that is repeated."""
    counts = dict(zip(layer._axes, layer._size, strict=True))
    split: list[int] = []
    repeated: list[int] = []
    for axis in range(1, len(shape)):
        split += [shape[axis], 1] if axis in counts else [shape[axis]]
        repeated += [shape[axis], counts[axis]] if axis in counts else [shape[axis]]
    x = graph.op("Expand", graph.op("Reshape", x, _integers(graph, 0, *split)), _integers(graph, 1, *repeated))
    return _reshaped(graph, layer, x, shape)


def _reshaped(graph: _Graph, layer: Any, x: str, shape: Sequence[Any]) -> str:
    return graph.op("Reshape", x, _integers(graph, 0, *layer.compute_output_shape(shape)[1:]))


def _softmax(graph: _Graph, layer: Softmax, x: str, shape: Sequence[Any]) -> str:
    """The nodes of a softmax over several axes: they are put last, and made one."""
    axes = resolved_axes(layer.axis, tuple(shape), layer.name)
    order = [axis for axis in range(len(shape)) if axis not in axes] + list(axes)
    moved = [shape[axis] for axis in order[1:]]
    rest = len(moved) - len(axes)
    rows = _integers(graph, 0, *moved[:rest], math.prod(moved[rest:]))
    x = graph.op("Reshape", graph.op("Transpose", x, perm=order), rows)
    y = graph.op("Reshape", graph.op("Softmax", x, axis=-1), _integers(graph, 0, *moved))
    return graph.op("Transpose", y, perm=np.argsort(order).tolist())


# Of layers whose nodes depend on the input shape.
_LAYERS: dict[type, Callable[..., str]] = {
    Flatten: _flatten,
    BatchNormalization: _normalised,
    MaxPooling1D: partial(_pooled, kind="MaxPool"),
    MaxPooling2D: partial(_pooled, kind="MaxPool"),
    AveragePooling1D: partial(_pooled, kind="AveragePool"),
    AveragePooling2D: partial(_pooled, kind="AveragePool"),
    GlobalMaxPooling1D: partial(_pooled, kind="GlobalMaxPool"),
    GlobalMaxPooling2D: partial(_pooled, kind="GlobalMaxPool"),
    GlobalAveragePooling1D: partial(_pooled, kind="GlobalAveragePool"),
    GlobalAveragePooling2D: partial(_pooled, kind="GlobalAveragePool"),
    ZeroPadding1D: _padded,
    ZeroPadding2D: _padded,
    UpSampling1D: _repeated,
    UpSampling2D: _repeated,
    Reshape: _reshaped,
    Softmax: _softmax,
}


def _activated(graph: _Graph, layer: Any, z: str) -> str:
    activation = layer.activation
    write = _ACTIVATIONS.get(type(activation))
    if write is None:
        raise TypeError(
            f"layer {layer.name!r} has the activation {activation!r:.80}, which is not one of the library and has no "
            "counterpart in ONNX; use a built-in one, or export the layers before it"
        )

    return write(graph, z, activation)


# Of operators that onnxruntime has in float64, too, but for the error function.


def _relu(g: _Graph, z: str, activation: activations.ReLU) -> str:
    if activation.plain:
        return g.op("Relu", z)
    above = z if activation.max_value is None else g.op("Min", z, activation.max_value)
    below: Any = 0.0
    if activation.alpha:
        below = g.op("Mul", g.op("Sub", z, activation.threshold), activation.alpha)
    return g.op("Where", g.op("LessOrEqual", z, activation.threshold), below, above)


def _elu(g: _Graph, z: str, alpha: float, scale: float = 1.0) -> str:
    below = g.op("Mul", g.op("Sub", g.op("Exp", g.op("Min", z, 0.0)), 1.0), alpha * scale)
    return g.op("Where", g.op("Greater", z, 0.0), g.op("Mul", z, scale), below)


def _softplus(g: _Graph, z: str) -> str:
    small = g.op("Log", g.op("Add", g.op("Exp", g.op("Neg", g.op("Abs", z))), 1.0))
    return g.op("Add", g.op("Max", z, 0.0), small)


def _gelu(g: _Graph, z: str) -> str:
    doubled = g.op("Add", g.op("Erf", g.op("Mul", z, math.sqrt(0.5))), 1.0)
    return g.op("Mul", g.op("Mul", z, 0.5), doubled)


_ACTIVATIONS: dict[type, Callable[[_Graph, str, Any], str]] = {
    activations.Linear: lambda g, z, _: z,
    activations.ReLU: _relu,
    activations.ReLU6: lambda g, z, _: g.op("Clip", z, 0.0, 6.0),
    activations.LeakyReLU: lambda g, z, a: g.op("LeakyRelu", z, alpha=float(a.alpha)),
    activations.ThresholdedReLU: lambda g, z, a: g.op("Where", g.op("LessOrEqual", z, a.theta), 0.0, z),
    activations.ELU: lambda g, z, a: _elu(g, z, a.alpha),
    activations.SELU: lambda g, z, _: _elu(g, z, activations.SELU_ALPHA, activations.SELU_SCALE),
    activations.Softplus: lambda g, z, _: _softplus(g, z),
    activations.Softsign: lambda g, z, _: g.op("Div", z, g.op("Add", g.op("Abs", z), 1.0)),
    activations.Tanh: lambda g, z, _: g.op("Tanh", z),
    activations.Sigmoid: lambda g, z, _: g.op("Sigmoid", z),
    activations.HardSigmoid: lambda g, z, _: g.op("Clip", g.op("Add", g.op("Mul", z, 0.2), 0.5), 0.0, 1.0),
    activations.Exponential: lambda g, z, _: g.op("Exp", z),
    activations.Swish: lambda g, z, _: g.op("Mul", z, g.op("Sigmoid", z)),
    activations.GELU: lambda g, z, _: _gelu(g, z),
    activations.Mish: lambda g, z, _: g.op("Mul", z, g.op("Tanh", _softplus(g, z))),
    activations.Softmax: lambda g, z, _: g.op("Softmax", z, axis=-1),
    activations.LogSoftmax: lambda g, z, _: g.op("LogSoftmax", z, axis=-1),
}


# --- models

_WINDOWED = (
    LocallyConnected1D, LocallyConnected2D, LocallyConnected3D, LocallyConnected1DTranspose,
    LocallyConnected2DTranspose, LocallyConnected3DTranspose,
)  # fmt: skip


def _written(graph: _Graph, layer: Any, x: str, shape: Sequence[Any]) -> str:
    """Add the nodes of a layer or model for an input of this shape."""
    kind = type(layer)
    if kind is Sequential:
        for inner in layer.layers:
            x = _written(graph, inner, x, shape)
            shape = inner.compute_output_shape(shape)
        return x
    if kind in _WINDOWED:
        return _windowed(graph, layer, x)
    if kind is LocallyDirected1D:
        bias = None if layer.bias is None else graph.constant(layer.bias)
        spec = DirectedSpec(layer.mask, layer.input_shape[2], layer.filters)
        return _activated(graph, layer, _directed(graph, x, graph.constant(layer.kernel), bias, spec))
    if kind in (Conv1D, Conv2D):
        return _convolution(graph, layer, x)
    if kind is Dense:
        return _dense(graph, layer, x)
    if kind in _LAYERS:
        return _LAYERS[kind](graph, layer, x, shape)
    if kind in (Activation, LeakyReLU, ReLU, ELU):
        return _activated(graph, layer, x)
    if kind is Dropout:  # which only training applies
        return x
    raise TypeError(
        f"layer {getattr(layer, 'name', layer)!r:.80} is a {kind.__name__}, which is not one of the library and has no "
        "counterpart in ONNX; export the layers before and after it"
    )


@public
def export(model: Any, path: str | os.PathLike[str], opset: int = 17) -> None:
    r"""Write a layer or model to an ONNX file, for inference.

    The graph has one input ``x`` and one output ``y``, with a batch of any size. Its weights are those of now. Where
    they and the tables of windows take more than 1.5 GB they are in a second file beside it, ``NAME.data``.

    Connections that a `kernel_mask` excludes are products with 0: unlike here, they spread values of x that are not
    finite. Maxima of windows with NaN are the runtime's. In float64 onnxruntime lacks the error function of GELU, and
    average pooling.

    Parameters
    ----------
    model : Sequential, LocallyConnected1D, 2D, 3D, their transposes, Conv1D, Conv2D, Dense, or another layer of \
    the library within a Sequential
        Built, with built-in activations.
    path : path
        The file; an existing one is replaced when all is written.
    opset : int, default 17
        Version of ONNX' operators, at least 13, and 16 for `LocallyDirected1D`.

    Raises
    ------
    TypeError
        If a layer or an activation is not one of the library.
    ValueError
        If the model has not been built, its layers differ in dtype, or `opset` is not supported by the installed
        package onnx.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import lcnumba as lc
    >>> import lcnumba.onnx
    >>> model = lc.Sequential([lc.LocallyConnected2D(8, 3, activation="relu", input_shape=(12, 12, 3)), lc.Flatten()])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lc.onnx.export(model, Path(folder, "model.onnx"))
    """
    path = file_path(path)
    version = integer("opset", opset, LEAST_OPSET, onnx.defs.onnx_opset_version())
    if not isinstance(model, Sequential | Windowed | LocallyDirected1D | Dense):
        hint = (
            "; torch.onnx.export writes modules of torch, with torch_translations()"
            if hasattr(model, "modules")
            else ""
        )
        raise TypeError(
            f"model is a {type(model).__name__}; give an lcnumba.Sequential, a locally connected layer or a Dense{hint}"
        )
    if not model.built:
        raise ValueError(f"{model.name!r} has no weights yet; call or build it first")
    if version < SCATTER_OPSET and any(isinstance(layer, LocallyDirected1D) for layer in flat_layers(model)):
        raise ValueError(f"opset={opset!r} has no sums of given connections; give at least {SCATTER_OPSET}")
    shape = model.input_shape
    graph = _Graph(_dtype_of(model))
    graph.op("Identity", _written(graph, model, "x", shape))
    graph.nodes[-1].output[0] = "y"
    dtype = helper.np_dtype_to_tensor_dtype(graph.dtype)
    ends = [
        helper.make_tensor_value_info(name, dtype, ["N", *sizes[1:]])
        for name, sizes in (("x", shape), ("y", model.compute_output_shape(shape)))
    ]
    opsets = [helper.make_opsetid("", version)]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, model.name, ends[:1], ends[1:], graph.constants), producer_name="lcnumba",
        opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets),
    )  # fmt: skip
    if sum(len(constant.raw_data) for constant in graph.constants) < EXTERNAL_BYTES:
        onnx.checker.check_model(proto, full_check=True)
        with atomic_write(path) as temporary:
            onnx.save_model(proto, temporary)
        return
    _save_with_data(proto, path)


def _save_with_data(proto: Any, path: Path) -> None:
    """Save the graph and, in a second file that it names, its constants: first the latter."""
    data = f"{path.name}.data"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder, deferred():
        onnx.save_model(
            proto, Path(folder, path.name), save_as_external_data=True, all_tensors_to_one_file=True, location=data
        )
        for name in (data, path.name):
            Path(folder, name).replace(path.with_name(name))


def _dtype_of(model: Any) -> np.dtype[Any]:
    """The dtype of the layers with weights."""
    found = {layer.dtype for layer in flat_layers(model) if hasattr(layer, "dtype")}
    if len(found) > 1:
        raise ValueError(f"{model.name!r} has layers of float32 and of float64; give layers of one dtype")
    return np.dtype(*found or ["float32"])


# --- torch


class _TorchGraph:
    """A graph that torch.onnx traces. Values are those of onnxscript."""

    def __init__(self, opset: Any) -> None:
        self._opset = opset

    def op(self, kind: str, *inputs: Any, **attributes: Any) -> Any:
        return getattr(self._opset, kind)(*inputs, **attributes)

    def constant(self, array: Array) -> Any:
        return self._opset.Constant(value=numpy_helper.from_array(np.ascontiguousarray(array)))


def torch_translations() -> dict[Any, Callable[..., Any]]:
    """Return what `torch.onnx.export` needs to export modules of `lcnumba.torch`.

    Returns
    -------
    dict
        For ``torch.onnx.export(module, (x,), path, dynamo=True, custom_translation_table=torch_translations())``, which
        needs the package onnxscript.

    Raises
    ------
    ImportError
        If torch or onnxscript is not installed.

    Examples
    --------
    >>> from lcnumba.onnx import torch_translations
    >>> [str(operator) for operator in torch_translations()]
    ['lcnumba.apply.default']
    """
    with deferred():
        import torch
        from onnxscript import opset18

        import lcnumba.bridges.torch  # noqa: F401 - registers the operator

    def apply(x: Any, kernel: Any, bias: Any, spec: str) -> Any:
        graph, known = _TorchGraph(opset18), Spec.from_text(spec)
        if isinstance(known, DirectedSpec):
            return _directed(graph, x, kernel, bias, known)
        if known.kernel_mask is not None:
            exists = graph.constant(np.atleast_3d(known.kernel_mask))
            zero = graph.op("CastLike", graph.constant(np.zeros((), np.float32)), kernel)
            kernel = graph.op("Where", exists, kernel, zero)
        return _local(graph, x, kernel, bias, known._geometry)

    return {torch.ops.lcnumba.apply.default: apply}


def __dir__() -> list[str]:
    return __all__
