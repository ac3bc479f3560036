"""Memory of a fused training step beyond parameters and activations.

Compilation needs far more memory than the step, and the peak (VmHWM) never decreases by itself. So a second layer of
the same size makes a step first and is deleted; freed memory is returned to the system; and the peak is reset. The
memory of a step is the increase of the peak, minus the output and the input gradient that it returns.
"""

import ctypes
import gc
from pathlib import Path
from typing import Any

from bench.case import Case
from bench.data import LEARNING_RATE, make
from bench.peers.own import make_layer
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
    """Make a step and measure the memory of this process.

    Returns
    -------
    dict
        Bytes of "parameters", "activations" (x, y, dy and dx) and "extra", everything else.

    Raises
    ------
    OSError
        If the system is not Linux.
    """
    case = Case.from_json(fields)
    data = make(case)

    def fresh() -> Any:
        return make_layer(case, data)  # touches every page

    def step(layer: Any) -> tuple[Any, Any]:
        y, backward = layer.forward(data.x.reshape(len(data.x), *layer.input_shape[1:]))
        return y, backward.step(data.dy.reshape(y.shape), LEARNING_RATE)

    step(fresh())
    layer = fresh()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current memory
    before = status("VmRSS")
    y, dx = step(layer)
    risen = status("VmHWM") - before
    return {
        "parameters": data.kernel.nbytes + data.bias.nbytes,
        "activations": data.x.nbytes + y.nbytes + data.dy.nbytes + dx.nbytes,
        "extra": max(0, risen - y.nbytes - dx.nbytes),
    }
