"""Plots with matplotlib (the extra ``lcnumba[plot]``); every function draws on `ax` and returns it."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lcnumba import activations
from lcnumba.layers.activation import Activation
from lcnumba.layers.batch_normalization import BatchNormalization
from lcnumba.layers.convolution import Convolution
from lcnumba.layers.dense import Dense
from lcnumba.layers.dropout import Dropout
from lcnumba.layers.locally_connected import LocallyConnected, LocallyConnected2D
from lcnumba.layers.locally_connected_transpose import LocallyConnectedTranspose
from lcnumba.layers.locally_directed import LocallyDirected1D
from lcnumba.layers.tree import flat_layers
from lcnumba.layers.windowed import Windowed
from lcnumba.models.sequential import Sequential
from lcnumba.runtime.signals import deferred
from lcnumba.training.run import History
from lcnumba.utils.arrays import as_numpy
from lcnumba.utils.coordinates import between, edges, grid_coordinates
from lcnumba.utils.messages import public
from lcnumba.utils.norms import norms_over
from lcnumba.utils.types import Array
from lcnumba.utils.validation import choice, integer

__all__ = [
    "bias_map", "filters_by_position", "model", "receptive_field", "saliency", "sharing_map", "topology",
    "training_curve", "weight_norm_map",
]  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# The label, the coordinates and the borders of the cells of each dimension of a grid.
Grid = list[tuple[str, Array, Array]]
# Width and height in inches of a line plot.
LINES = (7.0, 4.5)
# Colours of layers, light ones of a palette that colour-blind readers can tell apart (M. Okabe and K. Ito, 2008).
OWN, SHARED, DENSE, OTHER = "#a6d1ee", "#f5cf87", "#a5dccb", "#e4e4e4"
# Lines of the same palette, which differ in lightness, too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# The most lines of a topology: with more, neighbouring inputs are drawn as one.
MOST_LINES = 1000


@public
def training_curve(history: Any, ax: "Axes | None" = None, *, yscale: str = "linear") -> "Axes":
    """Plot losses and metrics by epoch, with accuracies and scores on a second y-axis.

    Each metric has its own colour, with a solid line for training and a dashed one for validation. Values that are not
    finite are gaps.

    Parameters
    ----------
    history : History, mapping of str to list of float, or fitted estimator
        The return value of `fit`, or its `history`; or an estimator, whose `loss_curve_` and `validation_scores_` are
        drawn. Names that end in "accuracy" or "score" are on the second axis.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure, which can be saved without a display.
    yscale : {"linear", "log"}, default "linear"
        Scale of the losses; "log" omits values that are not positive.

    Returns
    -------
    Axes
        The axes of the losses.

    Raises
    ------
    TypeError, ValueError
        If the history is not such a mapping or has no epoch, or `yscale` is invalid.

    Examples
    --------
    >>> from lcnumba import plotting
    >>> ax = plotting.training_curve({"loss": [2.0, 1.0], "val_loss": [2.5, 1.5], "accuracy": [0.5, 0.75]})
    >>> [line.get_label() for line in ax.lines]
    ['loss', 'val_loss']
    """
    curves = _curves(history)
    scale = choice("yscale", yscale, ("linear", "log"))
    metrics = list(dict.fromkeys(name.removeprefix("val_") for name in curves))
    right = [metric for metric in metrics if metric.endswith(("accuracy", "score"))]
    left = [metric for metric in metrics if metric not in right] or right
    losses = np.concatenate([values for name, values in curves.items() if name.removeprefix("val_") in left])
    losses = losses[np.isfinite(losses)]
    if scale == "log" and not (losses > 0).any():
        raise ValueError(f"yscale='log' requires positive values, but {', '.join(left)} has none; use yscale='linear'")
    axes = _axes(ax, LINES)
    other = axes.twinx() if right and left != right else axes
    lines: list[Any] = []
    for name, values in curves.items():
        metric = name.removeprefix("val_")
        side, style = axes if metric in left else other, "-" if metric == name else "--"
        color = COLORS[metrics.index(metric) % len(COLORS)]
        # Markers show a single epoch, or a value between two gaps.
        lines += side.plot(range(1, len(values) + 1), values, style, marker=".", color=color, label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel(", ".join(left))
    if other is not axes:
        other.set_ylabel(", ".join(right))
    axes.set_xlim(0.5, max(map(len, curves.values())) + 0.5)  # also epochs without finite values
    _whole_numbers(axes.xaxis)
    if scale == "log":
        axes.set_yscale("log", nonpositive="mask")
    elif not (losses < 0).any():
        axes.set_ylim(bottom=0)
    # Losses fall and accuracies rise, which leaves room between them. The upper axes are drawn last.
    other.legend(handles=lines, loc="best" if other is axes else "center right")
    return axes


@public
def filters_by_position(
    layer: LocallyConnected2D,
    filter_index: int = 0,
    channel: int | None = None,
    ax: "Axes | None" = None,
    *,
    coords: Any = None,
) -> "Axes":
    """Draw one filter at every output position, as an image of windows.

    For a convolution all windows would be equal; a locally connected layer has a different one at each position.

    Parameters
    ----------
    layer : LocallyConnected2D
        A built layer.
    filter_index : int, default 0
        Which filter.
    channel : int, optional
        Which input channel; by default the mean over channels.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.
    coords : xarray.DataArray, or mapping of str to 1-D array, optional
        Coordinates of the layer's input, for the axes: an array that has its dimensions, as the field
        that a model was trained on, or the coordinates of each alone, as {"lat": lat, "lon": lon}. By default axes
        show rows and columns. Outputs are drawn at the centres of their windows.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        If the layer is not a `LocallyConnected2D`, or has no such filter or channel.
    AttributeError
        If the layer has not been built.

    Examples
    --------
    >>> import lcnumba as lc
    >>> from lcnumba import plotting
    >>> layer = lc.LocallyConnected2D(4, 3, input_shape=(6, 7, 1), rng=0)
    >>> layer.build((None, 6, 7, 1))
    >>> ax = plotting.filters_by_position(layer, filter_index=2)
    >>> ax.images[0].get_array().shape  # 4 x 5 windows of 3 x 3, one pixel apart
    (15, 19)
    """
    if not isinstance(layer, LocallyConnected2D):
        raise TypeError(f"layer is a {type(layer).__name__}; give a LocallyConnected2D")
    number = _index("filter_index", filter_index, layer.filters)
    grid = _output_grid(layer, coords)
    (KH, KW), (OH, OW) = layer.kernel_size, _output_size(layer)
    windows = _of_positions(layer, layer.kernel[:, :, number]).reshape(OH, OW, KH, KW, -1)
    chosen = windows.mean(axis=-1) if channel is None else windows[..., _index("channel", channel, windows.shape[-1])]
    # Blank lines of NaN separate the windows.
    framed = np.full((OH, OW, KH + 1, KW + 1), np.nan)
    framed[:, :, :KH, :KW] = chosen
    picture = framed.transpose(0, 2, 1, 3).reshape(OH * (KH + 1), -1)[:-1, :-1]
    axes = _map(ax, picture, "weight", "output", signed=True)
    for axis, positions, taps, dimension in ((axes.xaxis, OW, KW, 1), (axes.yaxis, OH, KH, 0)):
        shown = range(0, positions, -(-positions // 10))
        labels: Sequence[Any] = shown
        if grid is not None:
            name, values, _ = grid[dimension]
            labels = [np.format_float_positional(np.float32(values[position]), trim="-") for position in shown]
            axis.set_label_text(name if dimension else _upright(name))
            if (values[-1] > values[0]) == (dimension == 0):  # larger coordinates are at the top and on the right
                axis.set_inverted(not axis.get_inverted())
        axis.set_ticks([position * (taps + 1) + (taps - 1) / 2 for position in shown], labels=labels)
    axes.set_title(f"{layer.name}: filter {number} at {OH} x {OW} positions", wrap=True)
    return axes


@public
def weight_norm_map(
    layer: LocallyConnected, filter_index: int | None = None, ax: "Axes | None" = None, *, coords: Any = None
) -> "Axes":
    """Draw the norm of the weights at each output position, as an image, or as a line for 1D layers.

    Parameters
    ----------
    layer : LocallyConnected1D or LocallyConnected2D
        A built layer.
    filter_index : int, optional
        Which filter; by default the norm over all filters.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.
    coords : xarray.DataArray, or mapping of str to 1-D array, optional
        Coordinates of the layer's input, for the axes: an array that has its dimensions, as the field
        that a model was trained on, or the coordinates of each alone, as {"lat": lat, "lon": lon}. By default axes
        show rows and columns. Outputs are drawn at the centres of their windows.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        If the layer is neither 1D nor 2D, or has no such filter.
    AttributeError
        If the layer has not been built.

    Notes
    -----
    The norm is Euclidean: the root of the sum of squares over window, channels and filters.

    Examples
    --------
    >>> import lcnumba as lc
    >>> from lcnumba import plotting
    >>> layer = lc.LocallyConnected2D(4, 2, kernel_initializer="ones", input_shape=(3, 4, 1))
    >>> layer.build((None, 3, 4, 1))
    >>> plotting.weight_norm_map(layer).images[0].get_array().tolist()
    [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
    """
    _check_layer(layer)
    number = None if filter_index is None else _index("filter_index", filter_index, layer.filters)
    kernel = layer.kernel if number is None else layer.kernel[:, :, number, None]
    norms = _of_positions(layer, norms_over(kernel, (1, 2))).reshape(_output_size(layer))
    of = "all filters" if number is None else f"filter {number}"
    title = f"{layer.name}: weights of {of}"
    return _by_position(ax, norms, title, "norm of the weights", "output", grid=_output_grid(layer, coords))


@public
def bias_map(
    layer: LocallyConnected | LocallyConnectedTranspose,
    filter_index: int | None = None,
    ax: "Axes | None" = None,
    *,
    coords: Any = None,
) -> "Axes":
    """Draw the bias at each output position, as an image, or as a line for 1D layers.

    Parameters
    ----------
    layer : LocallyConnected1D or LocallyConnected2D, or a transposed one
        A built layer with a bias at each position.
    filter_index : int, optional
        Which filter; by default the mean over filters.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.
    coords : xarray.DataArray, or mapping of str to 1-D array, optional
        Coordinates of the layer's input, for the axes: an array that has its dimensions, as the field
        that a model was trained on, or the coordinates of each alone, as {"lat": lat, "lon": lon}. By default axes
        show rows and columns. Outputs are drawn at the centres of their windows.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        If the layer is neither 1D nor 2D, has no bias or a shared one, or has no such filter.
    AttributeError
        If the layer has not been built.

    Examples
    --------
    >>> import lcnumba as lc
    >>> from lcnumba import plotting
    >>> layer = lc.LocallyConnected2D(4, 2, bias_initializer="ones", input_shape=(3, 4, 1))
    >>> layer.build((None, 3, 4, 1))
    >>> plotting.bias_map(layer).images[0].get_array().tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    _check_layer(layer, LocallyConnected | LocallyConnectedTranspose)
    number = None if filter_index is None else _index("filter_index", filter_index, layer.filters)
    if layer.bias is None:
        raise ValueError(f"{layer.name!r} has no bias (use_bias=False); give a layer with use_bias=True")
    if layer.bias_sharing == "filter":
        raise ValueError(
            f"{layer.name!r} has the same bias at all positions (bias_sharing='filter'); see layer.bias, or give "
            "a layer with bias_sharing='position'"
        )
    bias = layer.bias
    if layer.bias_sharing == "region":
        bias = _of_positions(layer, bias).reshape(*_output_size(layer), -1)
    biases = bias.mean(axis=-1) if number is None else bias[..., number]
    of = "mean over filters" if number is None else f"filter {number}"
    title, grid = f"{layer.name}: bias, {of}", _output_grid(layer, coords)
    return _by_position(ax, biases, title, "bias", "output", signed=True, grid=grid)


@public
def sharing_map(
    layer: LocallyConnected | LocallyConnectedTranspose, ax: "Axes | None" = None, *, coords: Any = None
) -> "Axes":
    """Draw which positions share their weights, as an image, or as a line for 1D layers.

    Positions are those of the output, or of the input of a transposed layer.

    Parameters
    ----------
    layer : LocallyConnected1D or LocallyConnected2D, or a transposed one
        A layer with `weight_sharing`, whose input shape is known.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.
    coords : xarray.DataArray, or mapping of str to 1-D array, optional
        Coordinates of the layer's input, for the axes: an array that has its dimensions, as the field
        that a model was trained on, or the coordinates of each alone, as {"lat": lat, "lon": lon}. By default axes
        show rows and columns. Outputs are drawn at the centres of their windows.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        If the layer is neither 1D nor 2D, or shares no weights.
    AttributeError
        If its input shape is not known.

    Examples
    --------
    >>> import lcnumba as lc
    >>> from lcnumba import plotting
    >>> layer = lc.LocallyConnected2D(4, 1, weight_sharing=(1, 2), input_shape=(2, 4, 1))
    >>> plotting.sharing_map(layer).images[0].get_array().tolist()
    [[0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0]]
    """
    _check_layer(layer, LocallyConnected | LocallyConnectedTranspose)
    geometry = layer._geometry_of(layer.input_shape)
    if geometry.sets is None:
        raise ValueError(f"each position of {layer.name!r} has weights of its own; give a layer with weight_sharing")
    sets = geometry.sets.reshape(geometry.output_size).astype(np.float64)
    title = f"{layer.name}: {geometry.n_sets} sets of weights at {_text(geometry.output_size)} positions"
    transposed = isinstance(layer, LocallyConnectedTranspose)
    grid = _input_grid(coords, sets.shape) if transposed else _output_grid(layer, coords)
    return _by_position(ax, sets, title, "number of the weight set", "input" if transposed else "output", grid=grid)


@public
def receptive_field(
    model: Windowed | Sequential,
    position: int | Sequence[int],
    filter_index: int | None = None,
    ax: "Axes | None" = None,
    *,
    coords: Any = None,
) -> "Axes":
    """Draw which inputs an output position reads, and through how many connections.

    Parameters
    ----------
    model : layer or Sequential
        A locally connected layer, a transposed one or a convolution, in one or two dimensions; or a model, up to the
        last such layer. For an earlier layer, give ``lc.Sequential(model.layers[:n])``. The result depends on shapes
        only, not on weights.
    position : int or (int, int)
        Output position of that layer: (row, column), or an integer for 1D layers.
    filter_index : int, optional
        Which filter; by default all of them.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.
    coords : xarray.DataArray, or mapping of str to 1-D array, optional
        Coordinates of the input, for the axes: an array that has its dimensions, as the field
        that a model was trained on, or the coordinates of each alone, as {"lat": lat, "lon": lon}. By default axes
        show rows and columns.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        If the model has no such layer, or has others than these, `Activation` and `Dropout` before it; or if position
        or filter do not exist.
    AttributeError
        If the input shape of the model is unknown.

    Notes
    -----
    Connections are counted over channels and filters, and over all paths through several layers, from the structure of
    the layers including `kernel_mask`; weights and derivatives that are zero count. Inputs that are not read are blank.
    Softmax and custom activations are assumed to read all channels of a position.

    Examples
    --------
    >>> import lcnumba as lc
    >>> from lcnumba import plotting
    >>> model = lc.Sequential([lc.LocallyConnected1D(1, 2, input_shape=(5, 1)), lc.LocallyConnected1D(1, 2)])
    >>> plotting.receptive_field(model, position=1).lines[0].get_ydata().tolist()
    [nan, 1.0, 2.0, 1.0, nan]
    """
    if isinstance(model, LocallyDirected1D):
        raise TypeError(f"model is a {type(model).__name__}, which has no windows; use lcnumba.plotting.topology")
    layers = _layers(model)
    numbers = [number for number, layer in enumerate(layers) if isinstance(layer, Windowed)]
    if not numbers:
        raise ValueError(f"model {model.name!r} has no locally connected layer, which `position` refers to")
    layers = layers[: numbers[-1] + 1]
    last = layers[-1]
    for layer in layers:
        if not isinstance(layer, Windowed | Activation | Dropout):
            raise TypeError(
                f"model {model.name!r} has {layer.name!r}, a {type(layer).__name__}, before {last.name!r}; only "
                "locally connected, transposed and convolutional layers, Activation and Dropout are supported: give a "
                "Sequential of the layers after it"
            )
        if isinstance(layer, Windowed):
            _check_rank(layer)
    index = _multi_index("position", position, _output_size(last))
    filters = slice(None) if filter_index is None else _index("filter_index", filter_index, last.filters)
    counts = np.zeros((*_output_size(last), last.filters))
    counts[(*index, filters)] = 1
    counts = np.moveaxis(counts, -1, _channel_axis([last]))
    for layer in reversed(layers):
        counts = _connections(layer, counts)
    read = counts.sum(axis=_channel_axis(layers))
    read[read == 0] = np.nan
    of = "" if filter_index is None else f", filter {filters}"
    title = f"{last.name}: receptive field of position {_text(index)}{of}"
    return _by_position(ax, read, title, "connections", "input", grid=_input_grid(coords, read.shape))


@public
def model(model: Sequential, ax: "Axes | None" = None) -> "Axes":
    """Draw a model as a column of boxes: its layers, the shapes of their kernels, and of their outputs.

    Layers whose outputs have weights of their own are blue, those with shared weights orange, `Dense` green, all others
    grey.

    Parameters
    ----------
    model : Sequential
        A model; there are shapes if its input shape is known.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        If it is no `Sequential`, or has no layers.

    Examples
    --------
    >>> import lcnumba as lc
    >>> from lcnumba import plotting
    >>> network = lc.Sequential([lc.LocallyConnected2D(8, 3, input_shape=(12, 12, 3)), lc.Flatten(), lc.Dense(10)])
    >>> ax = plotting.model(network)
    >>> [text.get_text() for text in ax.texts][:3]
    ['input', '(12, 12, 3)', 'LocallyConnected2D, 100 x 27 x 8']
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model is a {type(model).__name__}; give a Sequential")
    layers = list(flat_layers(model))
    if not layers:
        raise ValueError(f"{model.name!r} has no layers; add some")
    shape: Any = model.input_shape if model.built else None
    rows: list[tuple[str, str, str]] = [("input", "" if shape is None else str(shape[1:]), OTHER)]
    for layer in layers:
        weights = {} if shape is None or not hasattr(layer, "weight_shapes") else layer.weight_shapes(shape)
        shape = None if shape is None else tuple(layer.compute_output_shape(shape))
        sizes = " x ".join(map(str, next(iter(weights.values()), ())))
        title = type(layer).__name__ + (f", {sizes}" if sizes else "")
        rows.append((title, "" if shape is None else str(shape[1:]), _color(layer)))
    with deferred():
        from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    axes = _axes(ax, (6.0, 0.7 * len(rows) + 0.6))
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6), title=model.name)
    axes.set_axis_off()
    for row, (title, size, color) in enumerate(rows):
        if row:
            ends = (0.3, row - 0.74), (0.3, row - 0.26)
            axes.add_patch(FancyArrowPatch(*ends, arrowstyle="->", mutation_scale=12, color="0.4"))
        style = {"boxstyle": "round,pad=0.01,rounding_size=0.015", "mutation_aspect": len(rows) / 1.5}
        axes.add_patch(FancyBboxPatch((0.02, row - 0.26), 0.56, 0.52, facecolor=color, edgecolor="0.3", **style))
        axes.text(0.3, row, title, ha="center", va="center", color="black", clip_on=True)
        axes.text(0.64, row, size, ha="left", va="center", family="monospace")
    return axes


def _color(layer: Any) -> str:
    shared = isinstance(layer, Convolution) or getattr(layer, "weight_sharing", None) is not None
    if isinstance(layer, Windowed | LocallyDirected1D):
        return SHARED if shared else OWN
    return DENSE if isinstance(layer, Dense) else OTHER


@public
def topology(
    layer: LocallyDirected1D, most_outputs: int = 20, names: Sequence[str] | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draw given connections: inputs along the left side, outputs along the right, and a line for each weight.

    Parameters
    ----------
    layer : LocallyDirected1D
        A built layer.
    most_outputs : int, default 20
        How many outputs are drawn, those with the largest weights.
    names : sequence of str, optional
        A name for each output of the layer, such as its gene; by default their numbers.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        If the layer is another one, `most_outputs` is less than 1, or there are not as many names as outputs.
    AttributeError
        If the layer has not been built.

    Notes
    -----
    The width and colour of a line are the sum of absolute weights over channels and filters. If there were more than
    1,000 lines, neighbouring inputs are drawn as one line from their middle, with the sum of their weights.

    Examples
    --------
    >>> import lcnumba as lc
    >>> from lcnumba import plotting
    >>> pairs = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1)]
    >>> layer = lc.LocallyDirected1D(pairs, mask_shape=(4, 2), kernel_initializer="ones", input_shape=(4, 1))
    >>> layer.build((None, 4, 1))
    >>> ax = plotting.topology(layer, names=["BRCA1", "TP53"])
    >>> len(ax.collections[0].get_segments())
    5
    """
    if not isinstance(layer, LocallyDirected1D):
        raise TypeError(f"layer is a {type(layer).__name__}; give a LocallyDirected1D")
    (inputs, outputs), kernel = layer.mask.shape, layer.kernel
    count = min(integer("most_outputs", most_outputs), outputs)
    if names is not None and len(names) != outputs:
        raise ValueError(f"names has {len(names)} entries; {layer.name!r} has {outputs} outputs")
    of_output = np.repeat(np.arange(outputs), np.diff(layer.mask.indptr))
    strength = np.abs(kernel).sum(axis=(1, 2), dtype=np.float64)
    totals = np.bincount(of_output, strength, outputs)
    shown = np.sort(np.argsort(-totals, kind="stable")[:count])
    row = np.full(outputs, -1)
    row[shown] = np.arange(count)
    chosen = row[of_output] >= 0
    start, end, strength = layer.mask.indices[chosen], row[of_output[chosen]], strength[chosen]
    size = 1 if len(start) <= MOST_LINES else -(-inputs // max(1, MOST_LINES // count))
    lines, which = np.unique(np.stack([start // size, end]), axis=1, return_inverse=True)
    strength = np.bincount(which.reshape(-1), strength, lines.shape[1])
    return _bipartite(ax, layer, lines, size, strength, shown, names)


@public
def saliency(
    model: LocallyConnected | Sequential,
    x: Any,
    output_index: int | Sequence[int],
    channel: int | None = None,
    ax: "Axes | None" = None,
    *,
    coords: Any = None,
) -> "Axes":
    """Draw the absolute gradient of one output of a sample with respect to its input.

    Parameters
    ----------
    model : Sequential, LocallyConnected1D or LocallyConnected2D
        The model, in inference mode: `Dropout` has no effect, and `BatchNormalization` uses its moving averages.
    x : array, (H, W, C) or (W, C), or (C, H, W) or (C, W) with channels_first
        One sample, without the batch axis, in the data format of the first locally connected layer.
    output_index : int or tuple of int
        Index of the output: a class, or (row, column, filter), for example.
    channel : int, optional
        Which channel of the input; by default the maximum over channels.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.
    coords : xarray.DataArray, or mapping of str to 1-D array, optional
        Coordinates of the input, for the axes: an array that has its dimensions, as the field
        that a model was trained on, or the coordinates of each alone, as {"lat": lat, "lon": lon}. By default axes
        show rows and columns.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        If the model is not one of these, its samples are not a line or grid, or x, output or channel do not fit.
    AttributeError
        If the input shape of the model is unknown.

    References
    ----------
    Simonyan, Vedaldi, Zisserman (2014). Deep inside convolutional networks. arXiv:1312.6034.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> from lcnumba import plotting
    >>> layer = lc.LocallyConnected2D(1, 2, kernel_initializer="ones", input_shape=(3, 3, 1))
    >>> plotting.saliency(layer, np.ones((3, 3, 1)), (0, 1, 0)).images[0].get_array().tolist()
    [[0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    layers = _layers(model)
    shape, values = model.input_shape[1:], as_numpy("x", x)[0]
    if len(shape) not in (2, 3):
        raise ValueError(f"model {model.name!r} takes samples of shape {shape}; must be (W, C) or (H, W, C)")
    if values.shape != shape:
        raise ValueError(f"x has shape {values.shape}; give one sample of shape {shape}, without the batch axis")
    index = _multi_index("output_index", output_index, model.output_shape[1:])
    axis = _channel_axis(layers)
    number = None if channel is None else _index("channel", channel, values.shape[axis])
    gradients = np.abs(_gradient(layers, values, index))
    picture = gradients.max(axis=axis) if number is None else gradients.take(number, axis=axis)
    of = "maximum over channels" if number is None else f"channel {number}"
    title = f"{model.name}: saliency for output {_text(index)}"
    grid = _input_grid(coords, picture.shape)
    return _by_position(ax, picture, title, f"|gradient|, {of}", "input", grid=grid)


def _curves(history: Any) -> dict[str, Array]:
    """Return the metrics of a history as arrays over epochs; at least one epoch."""
    given = history.history if isinstance(history, History) else history
    if hasattr(history, "loss_curve_"):
        given = _of_estimator(history)
    if not isinstance(given, Mapping):
        unfitted = ", which has not been fitted" if hasattr(history, "get_params") else ""
        raise TypeError(
            f"history is a {type(history).__name__}{unfitted}; give what fit returned, a fitted estimator, "
            "or a mapping of lists by name"
        )
    curves = {}
    for name, values in given.items():
        try:
            curves[name] = np.asarray(values, np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"history[{name!r}] is not a list of numbers: {error}") from None
        if curves[name].ndim != 1:
            raise ValueError(f"history[{name!r}] has shape {curves[name].shape}; give a list with a number per epoch")
    if not any(values.size for values in curves.values()):
        raise ValueError(f"history={dict(given)!r} has no epoch; train for at least one")
    return curves


def _of_estimator(estimator: Any) -> dict[str, Any]:
    """Return the losses, and scores if any, of an estimator with the attributes of `MLPClassifier`."""
    losses, scores = list(estimator.loss_curve_), list(getattr(estimator, "validation_scores_", None) or [])
    curves = {"loss": losses}
    if scores:
        scoring, accuracy = getattr(estimator, "scoring", None), hasattr(estimator, "classes_")
        name = "val_accuracy" if accuracy and scoring in (None, "accuracy") else "val_score"
        if isinstance(scoring, str) and scoring == "loss":
            name, scores = "val_loss", [-score for score in scores]
        # Earlier calls of partial_fit may have no scores.
        curves[name] = [math.nan] * (len(losses) - len(scores)) + scores
    return curves


def _check_layer(layer: Any, kinds: Any = LocallyConnected) -> None:
    """Raise unless the layer is of these kinds, and 1D or 2D."""
    if not isinstance(layer, kinds):
        raise TypeError(f"layer is a {type(layer).__name__}; give a LocallyConnected1D or LocallyConnected2D")
    _check_rank(layer)


def _check_rank(layer: Windowed) -> None:
    if layer.rank > 2:
        raise TypeError(
            f"layer {layer.name!r} is a {type(layer).__name__}, which cannot be drawn; give a LocallyConnected1D or "
            "LocallyConnected2D"
        )


def _layers(model: Any) -> list[Any]:
    """Return the layers of a model, with nested models expanded; or the layer itself."""
    if not isinstance(model, Windowed | Sequential):
        raise TypeError(f"model is a {type(model).__name__}; give a Sequential or a locally connected layer")
    return list(flat_layers(model))


def _index(name: str, value: Any, size: int) -> int:
    """Return an index in [0, size)."""
    number = integer(name, value, 0)
    if number >= size:
        raise ValueError(f"{name} must be in [0, {size}), got {value!r}")
    return number


def _multi_index(name: str, value: Any, sizes: Sequence[Any]) -> tuple[int, ...]:
    """Return an index into an array of these sizes; an integer is accepted for one axis."""
    entries = value.tolist() if isinstance(value, np.ndarray) else value
    entries = entries if isinstance(entries, list | tuple) else (entries,)
    if len(entries) != len(sizes):
        raise ValueError(f"{name}={value!r} has {len(entries)} entries; give {len(sizes)}, below {tuple(sizes)}")
    return tuple(_index(f"{name}[{axis}]", entry, sizes[axis]) for axis, entry in enumerate(entries))


def _text(index: tuple[int, ...]) -> str:
    return str(index[0] if len(index) == 1 else index)


def _of_positions(layer: Windowed, values: Array) -> Array:
    """The values of each position, given those of each set of weights."""
    sets = layer._geometry.sets
    return values if sets is None else values[sets]


def _output_size(layer: Windowed) -> tuple[int, ...]:
    """Return the size of a layer's output along each dimension."""
    geometry = layer._geometry_of(layer.input_shape)
    return geometry.input_size if isinstance(layer, LocallyConnectedTranspose) else geometry.output_size


def _channel_axis(layers: Sequence[Any]) -> int:
    """Return the channel axis of a sample, in the data format of the first layer with windows."""
    formats = [layer.data_format for layer in layers if isinstance(layer, Windowed)]
    return 0 if formats[:1] == ["channels_first"] else -1


def _connections(layer: Any, counts: Array) -> Array:
    """Return the connections to each input of a layer, given the `counts` of each output; without the batch axis."""
    axis = _channel_axis([layer])
    if isinstance(layer, Windowed | Activation) and _mixes(layer.activation):
        counts = np.broadcast_to(counts.sum(axis=axis, keepdims=True), counts.shape)
    if not isinstance(layer, Windowed):
        return counts
    geometry, mask = layer._geometry_of(layer.input_shape), layer.kernel_mask
    if mask is not None and geometry.sets is not None:
        mask = mask[geometry.sets]
    exists, counts = geometry.input_index >= 0, np.moveaxis(counts, axis, -1)
    if isinstance(layer, LocallyConnectedTranspose):
        return np.moveaxis(_transposed_connections(geometry, mask, exists, counts.reshape(-1)), -1, axis)
    counts, total = counts.reshape(geometry.positions, geometry.groups, -1), np.zeros(geometry.inputs)
    for group in range(geometry.groups):
        of_group = counts[:, group]
        if mask is not None and mask.ndim == 3:
            own = mask.reshape(*mask.shape[:2], geometry.groups, -1)[:, :, group]
            taps = np.einsum("pkf,pf->pk", own, of_group)
        else:
            taps = of_group.sum(axis=1, keepdims=True) * (np.ones((1, geometry.window)) if mask is None else mask)
        index = geometry.input_index[exists] + group * geometry.tap_entries
        total += np.bincount(index, taps[exists], geometry.inputs)
    return np.moveaxis(total.reshape(*geometry.input_size, geometry.channels), -1, axis)


def _transposed_connections(geometry: Any, mask: Array | None, exists: Array, counts: Array) -> Array:
    """The same of a transposed layer, whose adjoint has the geometry: of each of its inputs, channels last."""
    positions, filters = geometry.positions, geometry.filters
    total = np.empty((positions, geometry.groups, filters // geometry.groups))
    for group in range(geometry.groups):
        taps = np.where(exists, counts[geometry.input_index + group * geometry.tap_entries], 0)
        if mask is not None and mask.ndim == 3:
            own = mask.reshape(*mask.shape[:2], geometry.groups, -1)[:, :, group]
            total[:, group] = np.einsum("pkf,pk->pf", own, taps)
        else:
            total[:, group] = (taps if mask is None else taps * mask).sum(axis=1, keepdims=True)
    return total.reshape(*geometry.output_size, filters)


def _mixes(activation: Any) -> bool:
    """Return whether an output of an activation may depend on other channels."""
    mixing = activations.Softmax | activations.LogSoftmax
    return isinstance(activation, mixing) or not activations.is_built_in(activation)


def _gradient(layers: Sequence[Any], x: Array, index: tuple[int, ...]) -> Array:
    """Return the derivative of the output at `index` with respect to a sample, in inference mode."""
    y, pullbacks = x[None], []
    for layer in layers:
        if not isinstance(layer, Dropout):
            inference = isinstance(layer, BatchNormalization)
            y, pullback = layer._forward(y, by_batch=False) if inference else layer.forward(y)
            pullbacks.append(pullback)

    def vjp(dy: Array) -> Array:
        for pullback in reversed(pullbacks):
            dy = pullback(dy)[0]
        return dy[0]

    dy = np.zeros_like(y)
    dy[(0, *index)] = 1
    dx = vjp(dy)
    # Activity penalties add a gradient that does not depend on dy.
    penalised = any(getattr(layer, "activity_regularizer", None) is not None for layer in layers)
    return dx - vjp(np.zeros_like(y)) if penalised else dx


def _input_grid(coords: Any, size: Sequence[int]) -> Grid | None:
    """The labels, the coordinates and the borders of the cells of an input, for each dimension."""
    if coords is None:
        return None
    return [(label, values, edges(values)) for label, values in grid_coordinates(coords, size)]


def _output_grid(layer: LocallyConnected | LocallyConnectedTranspose, coords: Any) -> Grid | None:
    """The same for a layer's output, whose points are the centres of windows, given the coordinates of its input."""
    if coords is None:
        return None
    geometry = layer._geometry_of(layer.input_shape)
    transposed = isinstance(layer, LocallyConnectedTranspose)
    grid = []
    size, windows = geometry.input_size, geometry.output_size
    named = grid_coordinates(coords, windows if transposed else size)
    for dimension, (label, values) in enumerate(named):
        stride = geometry.strides[dimension]
        first = (geometry.effective_size[dimension] - 1) / 2 - geometry.margins[dimension][0]  # the centre, in points
        count = size[dimension] if transposed else windows[dimension]
        centres, borders = (
            between(values, (of - first) / stride if transposed else first + stride * of)
            for of in (np.arange(count), np.arange(count + 1) - 0.5)
        )
        grid.append((label, centres, borders))
    return grid


def _by_position(
    ax: "Axes | None", values: Array, title: str, label: str, of: str, signed: bool = False, grid: Grid | None = None
) -> Any:
    """Draw values by position of the input or output: an image of (H, W), or a line of (W,)."""
    if values.ndim == 1:
        axes = _axes(ax, LINES)
        name, places, borders = (f"{of} position", np.arange(len(values)), np.array([0, len(values)]) - 0.5)
        if grid is not None:
            [(name, places, borders)] = grid
        axes.plot(places, values, marker=".", drawstyle="steps-mid")
        axes.set_xlim(borders.min(), borders.max())
        axes.set_xlabel(name)
        axes.set_ylabel(label)
        if not signed:
            axes.set_ylim(bottom=0)
    else:
        axes = _map(ax, values, label, of, signed, grid)
        if grid is None:
            _whole_numbers(axes.yaxis)
    if grid is None:
        _whole_numbers(axes.xaxis)
    axes.set_title(title, wrap=True)
    return axes


def _map(ax: "Axes | None", values: Array, label: str, of: str, signed: bool, grid: Grid | None = None) -> Any:
    """Draw an image with a colour bar, from 0, or symmetric around 0 if signed; NaN is blank."""
    height, width = values.shape
    inches = 5 / max(height, width)
    axes = _axes(ax, (max(3, inches * width) + 2, max(2, inches * height) + 1))
    limit = float(np.abs(values[np.isfinite(values)]).max(initial=0)) or 1.0
    colors, least = ("RdBu_r", -limit) if signed else ("viridis", 0)
    style = {"cmap": colors, "vmin": least, "vmax": limit}
    if grid is None:
        image = axes.imshow(values, interpolation="nearest", **style)
        axes.set(xlabel=f"{of} column", ylabel=f"{of} row")
    else:  # cells of any size, with larger coordinates at the top
        (y_name, _, y), (x_name, _, x) = grid
        image = axes.pcolormesh(x, y, values, **style)
        axes.set(xlabel=x_name, ylabel=_upright(y_name))
    # About as high as the image, also if that is low and wide.
    aspect = 20 * min(1, height / width)
    axes.get_figure().colorbar(image, ax=axes, fraction=0.05, pad=0.03, aspect=aspect, label=label)
    return axes


def _upright(label: str) -> str:
    """A label of a vertical axis, in lines that fit beside a low map."""
    return textwrap.fill(label, 20)


def _bipartite(
    ax: "Axes | None", layer: Any, lines: Array, size: int, strength: Array, shown: Array, names: Any
) -> Any:
    """Draw lines from `size` inputs each, at x = 0, to the rows of the outputs shown, at x = 1."""
    with deferred():
        from matplotlib.collections import LineCollection

    (inputs, outputs), count = layer.mask.shape, len(shown)
    axes, limit = _axes(ax, (LINES[0], 6)), float(strength[np.isfinite(strength)].max(initial=0)) or 1.0
    places = (np.arange(count) + 0.5) / count * inputs - 0.5
    order = np.argsort(strength, kind="stable")  # the largest are drawn last
    begins = np.minimum(lines[0] * size + (size - 1) / 2, inputs - 1)
    segments = np.zeros((len(begins), 2, 2))  # (x, y) of the beginning and the end of each
    segments[:, 1, 0], segments[:, 0, 1], segments[:, 1, 1] = 1, begins, places[lines[1]]
    drawn = LineCollection(
        list(segments[order]), array=strength[order], cmap="viridis_r", clim=(0, limit),
        linewidths=0.3 + 2.2 * np.nan_to_num(strength[order]) / limit,
    )  # fmt: skip
    axes.add_collection(drawn, autolim=False)
    axes.set(xlim=(0, 1), ylim=(inputs - 0.5, -0.5), xticks=[])
    axes.set_ylabel("input" if size == 1 else f"input, {size} to a line")
    _whole_numbers(axes.yaxis)
    right = axes.secondary_yaxis("right")
    labelled = range(0, count, -(-count // 40))
    labels = [str(number) if names is None else names[number] for number in shown.tolist()]
    right.set_yticks([places[row] for row in labelled], [labels[row] for row in labelled])
    right.set_ylabel("output")
    axes.get_figure().colorbar(drawn, ax=axes, fraction=0.05, pad=0.03, label="|weight|")
    of = f"{count} of {outputs}" if count < outputs else f"{outputs}"
    axes.set_title(f"{layer.name}: connections of {of} outputs", wrap=True)
    return axes


def _whole_numbers(axis: Any) -> None:
    with deferred():
        from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", integer=True))


def _axes(ax: "Axes | None", size: tuple[float, float]) -> Any:
    """Return the given axes, or new ones on a figure without display or global state."""
    with deferred():
        from matplotlib.axes import Axes
        from matplotlib.figure import Figure

    if ax is None:
        return Figure(figsize=size, layout="constrained").subplots()
    if not isinstance(ax, Axes):
        raise TypeError(f"ax is a {type(ax).__name__}; give matplotlib Axes, as figure.subplots() returns")
    return ax


def __dir__() -> list[str]:
    return __all__
