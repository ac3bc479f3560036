"""Timing of the implementations on a layer size: ``python -m lcnumba bench``.

Results are checked before they are timed. Compilation and the first call are not timed; medians are reported with
quartiles. Compare only times of the same run: they vary by machine, and with its load.
"""

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import lcnumba
from lcnumba.layers.locally_connected import LocallyConnected, LocallyConnected1D, LocallyConnected2D
from lcnumba.runtime.memory import require
from lcnumba.runtime.signals import deferred
from lcnumba.testing import adjoint_sums, integers
from lcnumba.utils import files

__all__ = ["WORKLOADS", "Timing", "Workload", "check", "environment", "measure", "run"]


@dataclass(frozen=True)
class Workload:
    """A layer size from a publication or from Keras' documentation.

    Attributes
    ----------
    name, why : str
        A label, and what the size stands for.
    batch : int
        Samples N, as published or usual.
    input_size : (int, int, int) or (int, int)
        Height, width and channels; or length and channels.
    filters : int
        Filters F.
    kernel_size, strides : tuple of int
        Window and strides.
    padding : str
        "valid", "same" or "tf_same".
    padding_mode : str or (str, str)
        "zeros" or "circular", or one for each dimension.
    groups : int
        Parts of the channels and filters.
    """

    name: str
    why: str
    batch: int
    input_size: tuple[int, ...]
    filters: int
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...] = (1, 1)
    padding: str = "valid"
    padding_mode: str | tuple[str, ...] = "zeros"
    groups: int = 1


WORKLOADS = {
    w.name: w
    for w in (
        Workload("digits", "call overhead: everything fits in L1", 128, (8, 8, 1), 8, (3, 3)),
        Workload("seed1", "first layer of Keras' example", 32, (32, 32, 3), 64, (3, 3)),
        Workload("seed2", "second layer of Keras' example", 32, (30, 30, 64), 32, (3, 3)),
        Workload("seed2_online", "batch 1: bound by memory bandwidth", 1, (30, 30, 64), 32, (3, 3)),
        Workload("seed2_large", "batch 256: compute bound", 256, (30, 30, 64), 32, (3, 3)),
        Workload("deepface_l4", "DeepFace L4, 62.7 M weights", 8, (63, 63, 16), 16, (9, 9)),
        Workload("deepface_l5", "DeepFace L5, stride 2", 32, (55, 55, 16), 16, (7, 7), (2, 2)),
        Workload("yolo_local", "YOLOv1: few positions, K = 9216", 8, (7, 7, 1024), 256, (3, 3), (1, 1), "same"),
        Workload("lagan_d", "LAGAN: 8 filters, half a vector", 100, (29, 29, 32), 8, (5, 5), (2, 2)),
        Workload("alltnn_1", "All-TNN: large image, C = 3", 32, (150, 150, 3), 64, (7, 7), (3, 3)),
        Workload("cudaconvnet", "36 positions, same padding", 128, (6, 6, 64), 32, (3, 3), (1, 1), "same"),
        Workload("bindsnet", "9 positions, 50 filters, batch 1", 1, (20, 20, 1), 50, (12, 12), (4, 4)),
        Workload("snps_dense", "genotypes: windows of 20, 8 filters", 32, (20_000, 1), 8, (20,), (20,)),
        Workload("snps_large", "500,000 genotypes, one filter: bound by x", 32, (500_000, 1), 1, (100,), (100,)),
        Workload("wide", "96 filters: several panels of vectors", 32, (20, 20, 16), 96, (3, 3)),
        Workload(
            "field",
            "a global field, circular longitudes",
            8,
            (180, 360, 4),
            4,
            (3, 3),
            (1, 1),
            "same",
            ("zeros", "circular"),
        ),
    )
}


@dataclass(frozen=True)
class Timing:
    """The time of one operation.

    Attributes
    ----------
    operation : str
        "forward", "backward" (dx and the gradients) or "step" (forward, backward, SGD).
    median, low, high : float
        Seconds: the median and the quartiles.
    repeats : int
        Number of timed calls.
    gflops : float
        1e9 multiplications and additions a second, over existing connections.
    """

    operation: str
    median: float
    low: float
    high: float
    repeats: int
    gflops: float


def measure(
    workload: Workload, implementation: int = 1, dtype: str = "float32", seconds: float = 1.0, least: int = 5
) -> list[Timing]:
    """Time one implementation on one workload.

    Parameters
    ----------
    workload : Workload
        The layer size.
    implementation : {1, 2, 3}
        Implementation of the layer.
    dtype : {"float32", "float64"}
        Of the data and weights.
    seconds : float
        How long each operation is repeated, at least `least` times.

    Raises
    ------
    ArithmeticError
        If the results violate the adjoint identities, which are exact on integers.
    """
    rng = np.random.default_rng(0)
    layer = _layer(workload, implementation, dtype, rng)
    x = integers(rng, (workload.batch, *workload.input_size), dtype)
    y, backward = layer.forward(x)
    dy = integers(rng, y.shape, dtype)
    dx, grads = backward(dy)
    if len(set(adjoint_sums(x, layer.kernel, dy, y, dx, grads.kernel))) != 1:
        raise ArithmeticError(f"implementation {implementation} gives wrong results on {workload.name}")
    flop = 2 * workload.batch * layer.count_params()
    operations: list[tuple[str, Callable[[], Any], int]] = [
        ("forward", lambda: layer(x), flop),
        ("backward", lambda: backward(dy), 2 * flop),
        (
            "step",
            lambda: layer.forward(x)[1].step(dy, 0.0),
            3 * flop,
        ),  # last: a step invalidates `backward`
    ]
    return [_time(name, work, amount, seconds, least) for name, work, amount in operations]


def check(workload: Workload, implementation: int = 1, dtype: str = "float32") -> None:
    """Raise a ValueError if the window does not fit the input, or a MemoryError if memory does not suffice.

    Examples
    --------
    >>> from lcnumba.tools import bench
    >>> bench.check(bench.WORKLOADS["digits"])
    """
    layer = _layer(workload, implementation, dtype, np.random.default_rng(0))
    shape = (workload.batch, *workload.input_size)
    sizes = (*layer.weight_shapes(shape).values(), shape, layer.compute_output_shape(shape))
    elements = 2 * sum(math.prod(size or 0 for size in shape) for shape in sizes)  # arrays and gradients
    memory = next(cost.memory for cost in layer.costs(workload.batch) if cost.implementation == implementation)
    what = f"workload {workload.name} with implementation {implementation}"
    require(elements * np.dtype(dtype).itemsize + memory, what, "give fewer samples, filters or positions")


def _layer(workload: Workload, implementation: int, dtype: str, rng: np.random.Generator) -> LocallyConnected:
    kind = LocallyConnected2D if len(workload.input_size) == 3 else LocallyConnected1D
    return kind(
        workload.filters, workload.kernel_size, workload.strides[: len(workload.kernel_size)], workload.padding,
        padding_mode=workload.padding_mode, groups=workload.groups, use_bias=False, implementation=implementation,
        dtype=dtype, input_shape=workload.input_size, rng=rng,
        kernel_initializer=lambda shape, _, rng: integers(rng, shape, dtype),
    )  # fmt: skip


def environment() -> dict[str, Any]:
    """Return the machine and the versions that the times depend on."""
    with deferred():
        import numba
        import scipy

    versions = {module.__name__: module.__version__ for module in (lcnumba, numba, np, scipy)}
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        **versions,
        "cores": os.cpu_count(),
        "threads": numba.get_num_threads(),
    }


def run(
    workloads: Iterable[Workload],
    implementations: Iterable[int] = (1,),
    dtype: str = "float32",
    seconds: float = 1.0,
    json_path: str | None = None,
) -> list[dict[str, Any]]:
    """Time the operations, print a line for each, and return the rows; optionally write them to a JSON file.

    All arguments are checked before anything is printed.
    """
    workloads, implementations = tuple(workloads), tuple(implementations)
    for workload in workloads:
        for implementation in implementations:
            check(workload, implementation, dtype)
    file = None if json_path is None else files.TextFile(json_path)
    found = environment()
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    print(f"{'workload':<14}{'impl':<6}{'operation':<10}{'median ms':>11}{'quartiles':>20}{'GFLOP/s':>10}")
    rows = []
    for workload in workloads:
        for implementation in implementations:
            for t in measure(workload, implementation, dtype, seconds):
                rows.append({"workload": workload.name, "implementation": implementation, "dtype": dtype, **asdict(t)})
                quartiles = f"{1e3 * t.low:.3f} - {1e3 * t.high:.3f}"
                columns = f"{1e3 * t.median:>11.3f}{quartiles:>20}{t.gflops:>10.1f}"
                print(f"{workload.name:<14}{implementation:<6}{t.operation:<10}{columns}", flush=True)
    if file is not None:
        file.write(json.dumps({"environment": found, "rows": rows}, indent=2))
        file.close()
    return rows


def _time(name: str, work: Callable[[], Any], flop: int, seconds: float, least: int) -> Timing:
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    low, median, high = statistics.quantiles(times, n=4)
    return Timing(name, median, low, high, len(times), flop / median / 1e9)
