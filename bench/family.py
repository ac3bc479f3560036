"""Shared weights and groups: convolutions against torch's, blocks against unshared weights, and per-channel filters.

``python -m bench.family`` times forward and a step of SGD with dx, on the size of the Keras example's second layer
(30 x 30 x 64 inputs, 3 x 3 windows, 32 filters, batch 32) and on 64 per-channel filters of the same inputs. Each form
runs in turn with lcnumba's, in a process of its own; outputs and weights after a first step are compared before
anything is timed. It needs torch. Printed are medians with quartiles over all calls, and the median over the turns of
the ratios of their medians.
"""

import argparse
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.answers import check
from bench.process import Failure, Process
from bench.rounds import quartiles
from lcnumba.kernels.vectors import target, vector_bytes
from lcnumba.tools.info import processor

__all__ = ["measure", "prepare", "times"]

SIZE, CHANNELS, FILTERS, WINDOW, BATCH = 30, 64, 32, 3, 32
POSITIONS = (SIZE - WINDOW + 1) ** 2
RATE = 1e-6
SETTLE, TURN_SECONDS = 0.1, 1.0
# What is compared: lcnumba's form, and the other.
PAIRS = {
    "convolution": ("conv", "torch-conv"),
    "blocks of 2 x 2": ("blocks", "unshared"),
    "per-channel filters": ("depthwise", "torch-unfold"),
}

_calls: dict[str, Callable[[], Any]]


def _own(form: str) -> tuple[dict[str, Callable[[], Any]], Callable[[], Any]]:
    """The calls of a layer of the library, and a function that returns its weights as the other form has them."""
    import lcnumba as lc

    settings: dict[str, dict[str, Any]] = {
        "conv": {"weight_sharing": "all"}, "blocks": {"weight_sharing": (2, 2)}, "unshared": {},
        "depthwise": {"groups": CHANNELS},
    }  # fmt: skip
    filters = CHANNELS if form == "depthwise" else FILTERS
    layer = lc.LocallyConnected2D(filters, WINDOW, use_bias=False, **settings[form])
    x, dy = _arrays(filters)
    layer.build(x.shape)
    first = np.random.default_rng(1).standard_normal(layer.kernel[:1].shape, np.float32)
    layer.set_weights([np.broadcast_to(first, layer.kernel.shape).copy()])

    def step() -> Any:
        y, backward = layer.forward(x)
        backward.step(dy, RATE)
        return y

    # Blocks have the sums of the gradients of their positions: what each has of its own differs, so no weights then.
    kept = layer.kernel if form in ("conv", "depthwise") else layer.kernel[:1]
    return {"forward": lambda: layer(x), "step": step}, lambda: kept if form != "unshared" else first


def _torch(form: str) -> tuple[dict[str, Callable[[], Any]], Callable[[], Any]]:
    """The same of torch: its convolution, or its sum over unfolded windows."""
    import torch

    depthwise = form == "torch-unfold"
    filters = CHANNELS if depthwise else FILTERS
    x, dy = (torch.from_numpy(np.moveaxis(array, -1, 1).copy()) for array in _arrays(filters))
    taps, channels = WINDOW * WINDOW, 1 if depthwise else CHANNELS
    first = np.random.default_rng(1).standard_normal((1, taps * channels, filters), np.float32)
    if depthwise:
        each = np.broadcast_to(first, (POSITIONS, taps, filters)).transpose(2, 1, 0).copy()
    else:
        each = first.reshape(WINDOW, WINDOW, channels, filters).transpose(3, 2, 0, 1).copy()
    weight = torch.from_numpy(each).requires_grad_()

    def layer(given: Any) -> Any:
        if not depthwise:
            return torch.nn.functional.conv2d(given, weight)
        windows = torch.nn.functional.unfold(given, WINDOW).view(BATCH, CHANNELS, taps, POSITIONS)
        size = SIZE - WINDOW + 1
        return (windows * weight).sum(2).view(BATCH, CHANNELS, size, size)

    def forward() -> Any:
        with torch.no_grad():
            return np.moveaxis(layer(x).numpy(), 1, -1)

    def step() -> Any:
        given = x.detach().requires_grad_()
        y = layer(given)
        y.backward(dy)
        with torch.no_grad():
            weight.sub_(RATE * weight.grad)
        weight.grad = None
        return np.moveaxis(y.detach().numpy(), 1, -1)

    def weights() -> Any:
        found = weight.detach().numpy()
        return found.transpose(2, 1, 0) if depthwise else found.transpose(2, 3, 1, 0).reshape(1, -1, filters)

    return {"forward": forward, "step": step}, weights


def _arrays(filters: int) -> tuple[Any, Any]:
    rng, size = np.random.default_rng(0), SIZE - WINDOW + 1
    shapes = (BATCH, SIZE, SIZE, CHANNELS), (BATCH, size, size, filters)
    x, dy = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return x, dy


def prepare(form: str, folder: str) -> None:
    """Make the calls of a form in this process, run them once, and save output and weights in a folder."""
    global _calls
    _calls, weights = (_torch if form.startswith("torch") else _own)(form)
    np.save(Path(folder, "y.npy"), np.ascontiguousarray(_calls["forward"]()))
    _calls["step"]()
    np.save(Path(folder, "kernel.npy"), np.ascontiguousarray(weights()))


def times(operation: str, seconds: float) -> list[float]:
    """Time an operation for about so long, at least three times, after one that is not counted."""
    found: list[float] = []
    _calls[operation]()
    end = time.perf_counter() + seconds
    while len(found) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        _calls[operation]()
        found.append(time.perf_counter() - start)
    return found


def measure(name: str, turns: int) -> list[str]:
    """Run both forms of a comparison in turn; return the rows of the table."""
    forms, rows = PAIRS[name], []
    with tempfile.TemporaryDirectory() as folder, Process(2) as ours, Process(2) as theirs:
        ask = functools.partial(Process.ask, do="run", module="bench.family")
        for form, side in zip(forms, (ours, theirs), strict=True):
            Path(folder, form).mkdir()
            ask(side, function="prepare", arguments={"form": form, "folder": str(Path(folder, form))})
        difference = check(*(str(Path(folder, form)) for form in forms), "float32")
        for operation in ("forward", "step"):
            found: list[list[list[float]]] = []
            for _ in range(turns):
                found.append([])
                for side in (ours, theirs):
                    time.sleep(SETTLE)
                    arguments = {"operation": operation, "seconds": TURN_SECONDS}
                    found[-1].append(ask(side, function="times", arguments=arguments)["value"])
            ratio = statistics.median(statistics.median(b) / statistics.median(a) for a, b in found)
            shown = []
            for number in range(2):
                q = quartiles([1e3 * t for turn in found for t in turn[number]])
                shown.append(f"{q['median']:.2f} ({q['low']:.2f} - {q['high']:.2f})")
            rows.append(
                f"| {name} | {operation} | {shown[0]} | {forms[1]}: {shown[1]} | {ratio:.2f} | {difference:.0e} |"
            )
    return rows


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", choices=PAIRS, default=list(PAIRS), metavar="NAME")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    print(f"{processor()}, code for {target()}, vectors of {8 * vector_bytes()} bits, 2 threads, batch {BATCH}\n")
    print("| layer | operation | lcnumba, ms | other, ms | other / lcnumba | difference |\n|---|---|---|---|---|---|")
    for name in given.names:
        try:
            print("\n".join(measure(name, given.turns)), flush=True)
        except Failure as failure:
            print(f"| {name} | | | {failure} | | |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
