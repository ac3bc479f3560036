"""One process with all threads against ranks of MPI with one thread each: ``python -m bench.distributed``.

Both run in turn, in fresh processes, on the same data, of which each rank reads its lines. Each training step is timed
by itself, and losses must be equal to the last bit. Printed are medians with quartiles over all turns, the ratio of
medians turn by turn, and the peak of the memory of the largest rank, above that of a process that only imports the
library and Numba. Needs ``pip install '.[mpi]' mpich h5py``.
"""

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import lcnumba as lc
from bench import ROOT
from lcnumba.kernels.vectors import vector_bytes
from lcnumba.tools.info import processor

RING = {"padding": "same", "padding_mode": ("zeros", "circular")}
# Shape of a sample, batch size, and the layers: filters, window and settings.
NETWORKS: dict[str, tuple[tuple[int, ...], int, list[tuple[int, Any, dict[str, Any]]]]] = {
    "keras_example": ((32, 32, 3), 32, [(64, 3, {}), (32, 3, {})]),
    "deepface": ((63, 63, 16), 8, [(16, 9, {}), (16, 7, {"strides": 2})]),
    "field": ((240, 480, 4), 8, [(4, 3, RING)] * 3),
}


def network(name: str) -> Any:
    """The network, not built."""
    return lc.Sequential([lc.LocallyConnected2D(f, k, rng=n, **s) for n, (f, k, s) in enumerate(NETWORKS[name][2])])


def write_data(name: str, folder: str) -> None:
    """Write a batch of inputs and targets."""
    shape, batch, _ = NETWORKS[name]
    rng, sizes = np.random.default_rng(0), (shape, network(name).compute_output_shape((None, *shape))[1:])
    with h5py.File(Path(folder, "data.h5"), "w") as file:
        for part, size in zip("xy", sizes, strict=True):
            file[part] = rng.standard_normal((batch, *size), np.float32)


def worker(name: str, seconds: float) -> None:
    """Time training steps of a network, in one process or on ranks; the first rank prints the result."""
    if name == "import":
        importlib.import_module("lcnumba.implementations.loop")  # which imports Numba
        print(json.dumps({"peaks": [peak()]}))
        return
    shape, model = NETWORKS[name][0], network(name)
    comm: Any = None
    if "MPI_RANKS" in os.environ:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
        model = lc.mpi.distribute(model, comm, input_shape=(None, *shape))
    else:
        model.build((None, *shape))
    model.compile("adam", "mse", lr=1e-4)
    file = h5py.File(Path(os.environ["DATA"], "data.h5"))
    x, y = file["x"], file["y"]
    losses = [model.train_on_batch(x, y)["loss"] for _ in range(2)]
    times: list[float] = []
    begin = time.perf_counter()
    model.train_on_batch(x, y)
    steps = max(3, int(seconds / (time.perf_counter() - begin)))
    steps = steps if comm is None else comm.bcast(steps)
    for _ in range(steps):
        if comm is not None:
            comm.Barrier()
        begin = time.perf_counter()
        model.train_on_batch(x, y)
        times.append(1e3 * (time.perf_counter() - begin))
    peaks = [peak()] if comm is None else comm.allgather(peak())
    if comm is None or comm.rank == 0:
        print(json.dumps({"losses": losses, "times": times, "peaks": peaks}))


def peak() -> float:
    """The peak of this process' memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def run(name: str, folder: str, seconds: float, ranks: int, threads: int) -> dict[str, Any]:
    """Run a worker; 0 ranks for one process without MPI."""
    command = [sys.executable, "-m", "bench.distributed", "--worker", name, "--seconds", str(seconds)]
    environment = {
        **os.environ,
        "DATA": folder,
        "NUMBA_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
    }
    if ranks:
        command = [str(Path(sys.prefix, "bin", "mpiexec")), "-n", str(ranks), *command]
        environment["MPI_RANKS"] = str(ranks)
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    return json.loads(found.stdout.splitlines()[-1])


def compare(name: str, turns: int, seconds: float, ranks: int) -> str:
    """Run both forms in turn, and return a row of the table."""
    alone, divided = [], []
    with tempfile.TemporaryDirectory() as folder:
        write_data(name, folder)
        base = run("import", folder, seconds, 0, 1)["peaks"][0]
        for turn in range(turns):
            for form, count in ((alone, 0), (divided, ranks)) if turn % 2 else ((divided, ranks), (alone, 0)):
                form.append(run(name, folder, seconds, count, 1 if count else ranks))
    losses = {str(each["losses"]) for each in alone + divided}
    if len(losses) > 1:
        raise SystemExit(f"{name}: losses differ: {losses}")
    ratios = [
        statistics.median(b["times"]) / statistics.median(a["times"]) for a, b in zip(alone, divided, strict=True)
    ]
    memory = [max(max(each["peaks"]) for each in form) - base for form in (alone, divided)]
    return (
        f"| {name} | {spread([t for each in alone for t in each['times']])} | "
        f"{spread([t for each in divided for t in each['times']])} | {spread(ratios)} | {memory[0]:.0f} | "
        f"{memory[1]:.0f} | {memory[1] / memory[0]:.2f} |"
    )


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    first, median, third = statistics.quantiles(values, n=4) if len(values) > 1 else [*values * 3]
    return f"{median:.3g} ({first:.3g}-{third:.3g})"


def main() -> None:
    """Compare networks, or run a worker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--turns", type=int, default=5, help="how often each form runs")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each run")
    parser.add_argument("--ranks", type=int, default=2, help="ranks of one thread, against as many threads")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker, given.seconds)
        return
    print(f"{processor()}, vectors of {8 * vector_bytes()} bits; ms a step, Adam, float32; MB above an import\n")
    print(f"| network | 1 x {given.ranks} threads | {given.ranks} ranks x 1 | ratio | MB | MB a rank | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in given.networks:
        print(compare(name, given.turns, given.seconds, given.ranks), flush=True)


if __name__ == "__main__":
    main()
