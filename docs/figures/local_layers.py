"""The drawings of docs/local-layers.md: which inputs the outputs of each layer read, and through which weights.

A drawing shows layers of one dimension, with inputs at the bottom and outputs at the top. Its lines are not drawn by
hand: a layer whose weights are 1, 2, 3, ... is applied to one input at a time, and the output is the number of the
weight. Lines have one colour for each set of weights, and one style for each weight of a set.

Run with ``python docs/figures/local_layers.py [folder]``; the same version of matplotlib writes the same bytes.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import lcnumba as lc

STYLES = ("-", (0, (4, 1.5)), (0, (1, 1)))
KEEP = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 1]], bool)
VARIANTS = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (5, 2)]


def local(
    inputs: int = 6, filters: int = 1, size: int = 3, channels: int = 1, **settings: object
) -> object:
    """Return a locally connected layer of one dimension."""
    return lc.LocallyConnected1D(
        filters, size, input_shape=(inputs, channels), dtype="float64", **settings
    )


def transposed() -> object:
    """Return a transposed layer of three inputs."""
    return lc.LocallyConnected1DTranspose(1, 3, 2, input_shape=(3, 1), dtype="float64")


def directed() -> object:
    """Return a layer of given connections, from variants to genes."""
    return lc.LocallyDirected1D(
        VARIANTS, mask_shape=(6, 3), input_shape=(6, 1), dtype="float64"
    )


# For each file the panels: a title, a layer, and which of its weights are coloured alike.
DRAWINGS = {
    "unshared": [("", local())],
    "convolution": [("", local(weight_sharing="all"))],
    "blocks": [("", local(8, weight_sharing=3))],
    "regions": [("", local(8, weight_sharing=np.array([0, 0, 1, 0, 1, 1])))],
    "groups": [
        ("groups=1", local(4, 2, 2, 2)),
        ("groups=2", local(4, 2, 2, 2, groups=2)),
    ],
    "padding": [
        ('"same"', local(strides=2, padding="same")),
        ('"tf_same"', local(strides=2, padding="tf_same")),
        ('"same", circular', local(strides=2, padding="same", padding_mode="circular")),
    ],
    "mask": [("", local(kernel_mask=KEEP))],
    "bias": [
        ('"position"', local(size=1, weight_sharing=2)),
        ('"region"', local(size=1, weight_sharing=2, bias_sharing="region")),
        ('"filter"', local(size=1, weight_sharing=2, bias_sharing="filter")),
    ],
    "transposed": [("", transposed())],
    "directed": [("", directed())],
}


def connections(layer: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number from 1 of the weight from each input to each output, the biases, and the shapes of both."""
    inputs, outputs = layer.input_shape[1:], layer.compute_output_shape(layer.input_shape)[1:]
    layer.build(layer.input_shape)
    count = int(np.prod(inputs))
    numbers = np.arange(1.0, layer.kernel.size + 1).reshape(layer.kernel.shape)
    if getattr(layer, "kernel_mask", None) is not None:
        numbers *= layer.kernel_mask[:, :, None]
    layer.set_weights([numbers, np.zeros(layer.bias.shape)])
    lines = layer(np.eye(count).reshape(count, *inputs)).reshape(count, -1)
    layer.set_weights(
        [
            np.zeros(layer.kernel.shape),
            np.arange(1.0, layer.bias.size + 1).reshape(layer.bias.shape),
        ]
    )
    biases = layer(np.zeros((1, *inputs))).reshape(-1)
    return np.rint(lines).astype(int), np.rint(biases).astype(int), np.array([inputs, outputs])


def panel(axes: object, title: str, layer: object, biases_alone: bool) -> None:
    """Draw one layer."""
    lines, biases, ((inputs, channels), (outputs, filters)) = connections(layer)
    in_set = (
        1
        if layer.kernel.ndim == 3 and isinstance(layer, lc.LocallyDirected1D)
        else layer.kernel[0].size
    )
    wide = max(inputs, outputs)

    def place(count: int, each: int) -> np.ndarray:
        """Where positions are, the middle of them above the middle of the others, channels side by side."""
        x = np.arange(count) + (wide - count) / 2
        return (x[:, None] + (np.arange(each) - (each - 1) / 2) * 0.36).reshape(-1)

    below, above = place(inputs, channels), place(outputs, filters)
    for i, o in zip(*np.nonzero(lines), strict=True):
        of_set, within = divmod(int(lines[i, o]) - 1, in_set)
        tap = within // (
            layer.filters if not isinstance(layer, lc.LocallyConnected1DTranspose) else 1
        )
        style = STYLES[tap // max(1, channels // getattr(layer, "groups", 1)) % 3]
        axes.plot(
            [below[i], above[o]],
            [0, 1],
            color=f"C{of_set}",
            linestyle=style,
            linewidth=1.4,
            zorder=1,
        )
    colours = [f"C{bias - 1}" for bias in biases] if biases_alone else ["white"] * len(above)
    for x, y, fill in ((below, 0, ["white"] * len(below)), (above, 1, colours)):
        axes.scatter(
            x, np.full(len(x), y), s=52, c=fill, edgecolors="black", linewidths=1, zorder=2
        )
    axes.set(xlim=(-0.6, wide - 0.4), ylim=(-0.2, 1.2))
    axes.set_title(title, fontsize=9)
    axes.axis("off")


def main(folder: str | Path = Path(__file__).parent) -> list[Path]:
    """Write the drawings, and return their paths."""
    paths = []
    with matplotlib.rc_context(
        {"svg.hashsalt": "lcnumba", "svg.fonttype": "none", "path.simplify": False}
    ):
        for name, panels in DRAWINGS.items():
            picture = Figure(
                figsize=(3.2 if len(panels) == 1 else 2.4 * len(panels), 1.5),
                layout="constrained",
            )
            for axes, (title, layer) in zip(
                picture.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
            ):
                panel(axes, title, layer, name == "bias")
            paths.append(Path(folder) / f"{name}.svg")
            picture.savefig(paths[-1], metadata={"Date": None})
    return paths


if __name__ == "__main__":
    main(*sys.argv[1:2])
