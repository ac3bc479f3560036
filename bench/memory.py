"""What a fused training step needs beyond parameters and activations.

Compiling takes far more memory than computing, and a high-water mark never falls by itself. So a
twin of the layer, of the same size, makes a step first and is thrown away; freed memory goes back
to the system; and then the mark is set to where the process stands. What a step needs is how far
it rises from there, less the output and the derivative that it returns.
"""

import ctypes
import gc
from pathlib import Path
from typing import Any

from bench.case import Case
from bench.data import LEARNING_RATE, make
from bench.process import Failure, Process
from bench.resident import status

__all__ = ["measure", "training_step"]


def measure(case: Case, threads: int) -> dict[str, Any]:
    """Measure a workload in a fresh process; return its row, or one with a "reason"."""
    row = {"workload": case.name, "dtype": case.dtype}
    try:
        with Process(threads) as worker:
            request = {"module": "bench.memory", "function": "training_step", "arguments": {"fields": case.to_json()}}
            return row | worker.ask("run", **request)["value"]
    except Failure as failure:
        return row | {"reason": str(failure)}


def training_step(fields: dict[str, Any]) -> dict[str, int]:
    """Make a step and watch this process' memory.

    Returns
    -------
    dict
        In bytes: "parameters"; "activations", which are x, y, dy and dx; and "extra", the rest.

    Raises
    ------
    OSError
        Where the system is not Linux.
    """
    from lcnumba import LocallyConnected2D

    case = Case.from_json(fields)
    data = make(case)

    def fresh() -> Any:
        layer = LocallyConnected2D(
            case.filters, case.kernel_size, case.strides, case.padding,
            dtype=case.dtype, input_shape=case.input_size, kernel_initializer="zeros",
        )  # fmt: skip
        layer.build((None, *case.input_size))
        layer.set_weights([data.kernel, data.bias])  # touches every page
        return layer

    def step(layer: Any) -> tuple[Any, Any]:
        y, backward = layer.forward(data.x)
        return y, backward.step(data.dy, LEARNING_RATE)

    step(fresh())
    layer = fresh()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the mark falls to what is held now
    before = status("VmRSS")
    y, dx = step(layer)
    risen = status("VmHWM") - before
    return {
        "parameters": data.kernel.nbytes + data.bias.nbytes,
        "activations": data.x.nbytes + y.nbytes + data.dy.nbytes + dx.nbytes,
        "extra": max(0, risen - y.nbytes - dx.nbytes),
    }
