"""Charts of the results, as SVG files in docs/figures: the times of all peers, and the roofline.

The same version of matplotlib writes the same bytes from the same results.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from bench.cells import Row, threads

__all__ = ["PEERS", "layers", "machine", "relative", "roofline", "times", "write"]

# Name, peers of which the fastest counts, marker and colour; a palette that colour-blind readers can tell apart.
PEERS = (
    ("PyTorch", ("torch",), "o", "#D55E00"),
    ("NumPy", ("numpy",), "s", "#009E73"),
    ("Keras' own", ("keras1", "keras1-xla", "keras2", "keras3"), "D", "#0072B2"),
    ("JAX", ("jax",), "^", "#CC79A7"),
)


def relative(results: dict[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Return for each layer the time of a step relative to lcnumba's, of the fastest of some peers that computed it."""
    found: dict[str, float] = {}
    for row in _steps(results):
        if row["peer"] in names and row["status"] == "ok":
            found[row["workload"]] = min(row["ratio"], found.get(row["workload"], np.inf))
    return found


def layers(results: dict[str, Any]) -> list[str]:
    """Return the layers whose steps were measured, in the order of the run."""
    return list(dict.fromkeys(row["workload"] for row in _steps(results)))


def machine(results: dict[str, Any]) -> str:
    """Return the CPU, the length of vectors and the number of threads as a title."""
    about = results["environment"]
    cpu = about["cpu"].replace("(R)", "").replace("(TM)", "").replace(" Processor", "")
    return f"{cpu}, vectors of {about['vector_bits']} bits, {threads(about)}"


def times(runs: Sequence[dict[str, Any]]) -> Figure:
    """Draw the times of a training step relative to lcnumba, a panel for each run."""
    figure, panels = _panels(runs, 4.6)
    names = list(dict.fromkeys(name for results in runs for name in layers(results)))
    for axes, results in zip(panels, runs, strict=False):
        axes.axvline(1, color="black", linewidth=1.5)
        for label, peers, marker, color in PEERS:
            points = relative(results, peers)
            axes.plot(list(points.values()), [names.index(name) for name in points], marker, color=color, label=label)
        axes.set_xscale("log")
        axes.set_xticks([1, 3, 10, 30, 100], ["1x", "3x", "10x", "30x", "100x"])
        axes.tick_params(axis="x", which="minor", bottom=False)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.set_title(machine(results), fontsize="medium")
    figure.supxlabel("time of a training step; lcnumba is 1", fontsize="medium")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(PEERS))
    return figure


def roofline(runs: Sequence[dict[str, Any]]) -> Figure:
    """Draw the rate of forward and step of each layer by arithmetic intensity, under the limits of memory and units."""
    figure, panels = _panels(runs, 3.8)
    for axes, results in zip(panels, runs, strict=False):
        rows = [row for row in results["rows"] if row["peer"] == "own1" and row["status"] == "ok"]
        intensity = np.geomspace(0.2, 100, 200)
        units = max(row["limits"]["products"] for row in rows) / 1e9
        for bandwidth, style in ((max, ":"), (min, "-")):
            rate = bandwidth(row["limits"]["read"] for row in rows) / 1e9
            where = "memory" if bandwidth is min else "caches"
            label = f"{where}: {rate:.0f} GB/s, arithmetic: {units:.0f} GFLOP/s"
            axes.plot(intensity, np.minimum(units, rate * intensity), style, color="0.3", label=label)
        for operation, marker, color in (("forward", "o", "#0072B2"), ("step", "D", "#D55E00")):
            of = [row for row in rows if row["operation"] == operation]
            x, y = [row["gflops"] / row["gbs"] for row in of], [row["gflops"] for row in of]
            axes.vlines(x, y, [row["gflops"] / row["efficiency"] for row in of], color=color, alpha=0.35)
            axes.plot(x, y, marker, color=color, label=operation)
        axes.set(xscale="log", yscale="log", title=machine(results))
        axes.title.set_fontsize("medium")
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.legend(fontsize="x-small", loc="lower right")
    figure.supxlabel("arithmetic intensity, FLOP a byte", fontsize="medium")
    figure.supylabel("GFLOP/s", fontsize="medium")
    return figure


def write(runs: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Write the charts of all runs, and that of the first alone; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"times": times(runs[:1]), "times-all": times(runs), "roofline": roofline(runs)}
    paths = []
    with matplotlib.rc_context({"svg.hashsalt": "lcnumba"}):
        for name, figure in drawn.items():
            paths.append(folder / f"benchmark-{name}.svg")
            figure.savefig(paths[-1], metadata={"Date": None})
    return paths


def _panels(runs: Sequence[dict[str, Any]], height: float) -> tuple[Figure, list[Any]]:
    """A figure as wide as a page, with one or two columns of panels."""
    columns = min(2, len(runs))
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(5.4 if columns == 1 else 8.4, height * rows + 0.5), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes in panels[len(runs) :]:
        axes.set_visible(False)
    return figure, panels


def _steps(results: dict[str, Any]) -> list[Row]:
    """The rows of steps in float32, in which all peers were measured."""
    return [row for row in results["rows"] if row["operation"] == "step" and row["dtype"] == "float32"]
