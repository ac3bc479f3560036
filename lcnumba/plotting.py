"""Pictures with matplotlib (the extra ``lcnumba[plot]``); every function draws on `ax` and returns it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lcnumba.checks import integer
from lcnumba.layer import LocallyConnected2D

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["filters_by_position", "training_curve"]


def training_curve(history: Mapping[str, Sequence[float]], ax: "Axes | None" = None) -> "Axes":
    """Draw the losses of a training, and its accuracies on a second axis.

    Parameters
    ----------
    history : mapping of str to list of float
        `History.history`, as `fit` returned it.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure, on which `ax.figure.savefig` works without a screen.

    Returns
    -------
    Axes
    """
    from matplotlib.ticker import MaxNLocator

    axes = _axes(ax, (7, 4.5))
    accuracy = axes.twinx() if any(name.endswith("accuracy") for name in history) else axes
    lines: list[Any] = []
    for name, values in history.items():
        side, style = (accuracy, "--") if name.endswith("accuracy") else (axes, "-")
        color = "C1" if name.startswith("val_") else "C0"
        lines += side.plot(range(1, len(values) + 1), values, style, color=color, label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    if accuracy is not axes:
        accuracy.set_ylabel("accuracy (dashed)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.legend(handles=lines, loc="center right")
    return axes


def filters_by_position(
    layer: LocallyConnected2D, filter_index: int = 0, channel: int | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draw one filter at every output position, as a map of windows.

    A convolution would show the same window everywhere; here each position has its own.

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

    Returns
    -------
    Axes
    """
    if not isinstance(layer, LocallyConnected2D):
        raise TypeError(f"layer is a {type(layer).__name__}; give a LocallyConnected2D")
    (KH, KW), F = layer.kernel_size, layer.filters
    if integer("filter_index", filter_index, 0) >= F:
        raise ValueError(f"filter_index={filter_index} does not exist; give 0 to {F - 1}")
    shape = layer.output_shape
    OH, OW = (entry or 0 for entry in (shape[2:] if layer.data_format == "channels_first" else shape[1:3]))
    windows = layer.kernel[:, :, filter_index].reshape(OH, OW, KH, KW, -1)
    if channel is None:
        windows = windows.mean(axis=-1)
    elif integer("channel", channel, 0) < windows.shape[-1]:
        windows = windows[..., channel]
    else:
        raise ValueError(f"channel={channel} does not exist; give 0 to {windows.shape[-1] - 1}")
    # A frame of NaN, drawn as nothing, separates the windows.
    framed = np.full((OH, OW, KH + 1, KW + 1), np.nan)
    framed[:, :, :KH, :KW] = windows
    picture = framed.transpose(0, 2, 1, 3).reshape(framed.shape[0] * (KH + 1), -1)[:-1, :-1]
    axes = _axes(ax, (7, 6))
    limit = float(np.abs(windows).max()) or 1.0
    image = axes.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_xticks([]), axes.set_yticks([])
    axes.set_title(f"{layer.name}: filter {filter_index} at each of {OH} x {OW} positions ({KH} x {KW} windows)")
    axes.get_figure().colorbar(image, ax=axes, shrink=0.8, label="weight")
    return axes


def _axes(ax: "Axes | None", size: tuple[float, float]) -> Any:
    """The axes given, or new ones on a figure that needs no screen and no global state."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained").subplots()
