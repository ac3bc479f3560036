"""The layers within frameworks, against the best forms that these have of their own: ``python -m bench.bridges``.

Each form is timed alternately with the bridge, after its results have been compared, on the public layer sizes whose
step takes more than a millisecond. Steps are those of the framework: its autograd, its optimizer. With ``--write`` the
tables go to docs/frameworks.md. All takes about 20 minutes on two cores; the machine should be otherwise idle.
``--calls`` times calls of a tiny layer instead, beside those of the kernels alone.
"""

import argparse
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from statistics import geometric_mean
from typing import Any

from bench import ROOT, environment
from bench.case import Case
from bench.cells import Row, threads
from bench.measure import Settings, against, first, run
from bench.peers import OPERATIONS, PEERS
from bench.process import Failure, Process, available_memory
from lcnumba.tools.bench import WORKLOADS
from lcnumba.tools.info import usable_processors

__all__ = ["main"]

# Each bridge, the forms that its framework has of its own, and the library's own layer with its fused step.
FORMS = {
    "torch-bridge": ("torch-unfold", "torch-gather", "own1"),
    "jax-bridge": ("jax", "own1"),
    "keras3-jax-bridge": ("keras3-jax-patches",),
    "keras3-torch-bridge": ("keras3-torch-patches",),
    "keras3-tensorflow-bridge": ("keras3-tensorflow-patches",),
}
# Layers whose step takes less than a millisecond are left out: there the calls themselves are measured.
FEW = ("seed1", "seed2", "snps_dense")  # for Keras, whose backends take long to start
SIZES = [name for name in WORKLOADS if name not in ("digits", "bindsnet")]
PAGE = ROOT / "docs" / "frameworks.md"
BETWEEN = r"(?s)(<!-- bridges: begin -->\n).*(<!-- bridges: end -->)"


def rows(bridge: str, workload: str, settings: Settings) -> Iterator[Row]:
    """Time the forms of a framework against its bridge on a layer size; each row has the bridge's times, too."""
    case = Case.of(WORKLOADS[workload], "float32")
    with Process(settings.threads, settings.memory_limit) as ours, tempfile.TemporaryDirectory() as folder:
        for operation in OPERATIONS:
            first(ours, bridge, case, operation, folder, settings)
        for form in FORMS[bridge]:
            # A step of Keras has no y and dx to compare with those of others.
            for row, times in against(ours, form, case, folder, settings):
                yield row | {"bridge": bridge, "ours": sorted(times)[len(times) // 2] if times else None}


def table(bridge: str, found: list[Row]) -> list[str]:
    """The lines of a table of a bridge: its times, and the relative times of the forms."""
    labels = [PEERS[form].label for form in FORMS[bridge]]
    lines = [
        f"| layer | {PEERS[bridge].label}: forward, step (ms) | " + " | ".join(labels) + " |",
        "| --- |" + " --- |" * (len(labels) + 1),
    ]
    ratios: dict[tuple[str, str], list[float]] = {}
    best: dict[str, list[float]] = {operation: [] for operation in OPERATIONS}
    for workload in dict.fromkeys(row["workload"] for row in found):
        cells = []
        of_layer = [row for row in found if row["workload"] == workload]
        ours = {row["operation"]: row["ours"] for row in of_layer if row["ours"]}
        for form in FORMS[bridge]:
            both = []
            for operation in OPERATIONS:
                [row] = [r for r in of_layer if r["peer"] == form and r["operation"] == operation]
                if row["status"] == "ok":
                    ratios.setdefault((form, operation), []).append(row["ratio"])
                both.append(f"{row['ratio']:.3g}" if row["status"] == "ok" else row["status"])
            cells.append(", ".join(both))
        for operation in OPERATIONS:
            own = [
                r["ratio"]
                for r in of_layer
                if r["operation"] == operation and r["status"] == "ok" and r["peer"] != "own1"
            ]
            best[operation] += [min(own)] if own else []
        times = ", ".join(f"{1e3 * ours[operation]:.3g}" if operation in ours else "-" for operation in OPERATIONS)
        lines.append(f"| `{workload}` | {times} | " + " | ".join(cells) + " |")
    means = [
        ", ".join(f"{geometric_mean(ratios[form, op]):.3g}" if ratios.get((form, op)) else "-" for op in OPERATIONS)
        for form in FORMS[bridge]
    ]
    least = ", ".join(f"{geometric_mean(best[op]):.3g} (least {min(best[op]):.3g})" for op in OPERATIONS if best[op])
    return [
        *lines,
        f"| geometric mean | | {' | '.join(means)} |",
        "",
        f"Against the best form of each layer: {least}.",
        "",
    ]


def calls(framework: str) -> dict[str, float]:
    """Microseconds of a call of a tiny layer in a framework, and of the map that it calls: medians of rounds."""
    import numpy as np

    from lcnumba.functional import Spec

    spec = Spec((4, 4, 1), 2, 2)
    x, kernel = np.ones((2, 4, 4, 1), np.float32), np.ones(spec.kernel_shape, np.float32)
    bias = np.ones(spec.output_shape, np.float32)
    flat = x.reshape(2, -1), kernel, bias.reshape(-1, 2)
    map_ = spec._implementation.apply
    if framework == "torch":
        import torch

        from lcnumba.torch import LocallyConnected2d

        module = LocallyConnected2d(1, 2, 2, in_shape=4, channels_last=True).requires_grad_(False)
        given = torch.from_numpy(x)

        def call() -> Any:
            return module(given)
    else:
        import jax

        from lcnumba.jax import locally_connected

        function = jax.jit(lambda *arrays: locally_connected(*arrays, kernel_size=2))
        arrays = list(map(jax.numpy.asarray, (x, kernel, bias)))

        def call() -> Any:
            return function(*arrays).block_until_ready()

    rounds = [[_mean(call), _mean(lambda: map_(*flat))] for _ in range(21)]
    whole, alone = (statistics.median(times) for times in zip(*rounds, strict=True))
    return {"call": 1e6 * whole, "map": 1e6 * alone}


def _mean(work: Any, number: int = 500) -> float:
    start = time.perf_counter()
    for _ in range(number):
        work()
    return (time.perf_counter() - start) / number


def main() -> int:
    """Measure and print the tables; return 1 if a result differs."""
    parser = argparse.ArgumentParser(prog="python -m bench.bridges", description=__doc__)
    parser.add_argument("--bridges", nargs="+", choices=FORMS, default=list(FORMS), metavar="NAME")
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, metavar="NAME", help="default all; for Keras three")
    parser.add_argument("--threads", type=int, default=usable_processors(), metavar="N")
    parser.add_argument("--seconds", type=float, default=0.3, metavar="S", help="per operation, default 0.3")
    parser.add_argument("--write", action="store_true", help="write the tables to docs/frameworks.md")
    parser.add_argument("--calls", action="store_true", help="time calls of a tiny layer")
    given = parser.parse_args()
    if given.calls:
        for framework in ("torch", "jax"):
            with Process(1) as worker:
                found = run(worker, "bench.bridges", "calls", framework=framework)
            print(f"{framework}: {found['call']:.0f} us a call, of which the map takes {found['map']:.0f}")
        return 0
    free = available_memory()
    settings = Settings(given.threads, given.seconds, int(0.8 * free) if free else None, 300.0)
    lines: list[str] = []
    wrong = False
    for bridge in given.bridges:
        found: list[Row] = []
        for workload in given.workload or (FEW if bridge.startswith("keras3") else SIZES):
            try:
                found += rows(bridge, workload, settings)
            except Failure as failure:
                print(f"{bridge} {workload}: {failure.status}: {failure}", flush=True)
                wrong = True
                continue
            for row in found[-len(FORMS[bridge]) * len(OPERATIONS) :]:
                about = f"{row['ratio']:.3g}" if row["status"] == "ok" else f"{row['status']}: {row['reason']}"
                print(f"{bridge} {workload} {row['peer']} {row['operation']}: {about}", flush=True)
        wrong = wrong or any(row["status"] == "wrong" for row in found)
        if found:
            lines += table(bridge, found)
    about: dict[str, Any] = environment.describe(given.threads, sys.argv[1:])
    lines.append(
        f"Times of the bridge, and relative times of the others (forward, step); {about['cpu']}, vectors of "
        f"{about['vector_bits']} bits, {threads(about)}, {about['date']}; `python -m bench.bridges`."
    )
    print("\n".join(lines))
    if given.write:
        text = PAGE.read_text()
        PAGE.write_text(re.sub(BETWEEN, lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
