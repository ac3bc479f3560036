"""Overhead of Numba's threading layers: calls of one small layer, on an idle and on a busy machine.

``python -m bench.launch`` alternates between the threading layers, each time in a new process, and prints a table of
medians and quartiles in microseconds. On the busy machine, one other process per processor runs an endless loop.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import lcnumba as lc
from lcnumba.tools.info import usable_processors, versions

__all__ = ["LAYERS", "installed", "main"]

LAYERS = ("tbb", "omp", "workqueue")
ROUNDS, CALLS = 20, 25


def installed(layer: str) -> bool:
    """Whether Numba can use this threading layer here; only TBB is a separate package."""
    return layer != "tbb" or bool(versions([layer]))


def _times() -> dict[str, list[float]]:
    """Microseconds of a forward and of a step in each round."""
    layer = lc.LocallyConnected2D(64, 3, rng=0)
    x = np.random.default_rng(0).standard_normal((8, 14, 14, 16), np.float32)
    dy = np.ones_like(layer(x))

    def step() -> Any:
        return layer.forward(x)[1].step(dy, lr=0.0)

    times: dict[str, list[float]] = {"forward": [], "step": []}
    work: Sequence[tuple[str, Callable[[], Any]]] = (("forward", lambda: layer(x)), ("step", step))
    for _, call in work:
        call()
    for _ in range(ROUNDS):
        for name, call in work:
            begin = time.perf_counter()
            for _ in range(CALLS):
                call()
            times[name].append((time.perf_counter() - begin) / CALLS * 1e6)
    return times


def _measured(layer: str) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "bench.launch", "--here"]
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer}
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.launch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=5, help="processes per threading layer (default: 5)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # run in the process of one layer
    given = parser.parse_args(arguments)
    if given.here:
        print(json.dumps(_times()))
        return 0
    found: dict[tuple[str, str, str], list[float]] = {}
    for load in ("quiet", "busy"):
        busy = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"])
            for _ in range(usable_processors() if load == "busy" else 0)
        ]
        try:
            for _ in range(given.turns):
                for layer in filter(installed, LAYERS):
                    for name, times in _measured(layer).items():
                        found.setdefault((layer, load, name), []).extend(times)
        finally:
            for process in busy:
                process.kill()
                process.wait()
    columns = [(load, name) for load in ("quiet", "busy") for name in ("forward", "step")]
    print("| threads | " + " | ".join(f"{name}, {load} (us)" for load, name in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for layer in filter(installed, LAYERS):
        cells = []
        for column in columns:
            low, middle, high = statistics.quantiles(found[(layer, *column)], n=4)
            cells.append(f"{middle:.0f} ({low:.0f} - {high:.0f})")
        name = "Python's (for workqueue)" if layer == "workqueue" else f"Numba's, {layer}"
        print(f"| {name} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
