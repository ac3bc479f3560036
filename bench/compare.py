"""Benchmark lcnumba against other implementations of the same layer: ``python -m bench.compare``.

The default run takes about 20 minutes on two cores. The machine should be otherwise idle.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from bench import environment, memory, overhead, startup, tables
from bench.case import Case
from bench.cells import Row, ms, threads
from bench.measure import Settings, measure, run
from bench.peers import PEERS
from bench.process import Process, available_memory
from bench.results import path_of, save
from bench.roofline import geometry
from bench.selection import chosen
from lcnumba.implementations.cost import choose
from lcnumba.tools.bench import WORKLOADS
from lcnumba.tools.info import usable_processors

__all__ = ["main"]

# Seconds per operation, and those of `--share`.
_SECONDS, _SHARE_SECONDS = 0.4, 0.15


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers = [*PEERS, "none"]
    workloads = "default all of: " + ", ".join(WORKLOADS)
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, metavar="NAME", help=workloads)
    parser.add_argument("--peers", nargs="+", choices=peers, metavar="NAME", help="some of: " + ", ".join(peers))
    parser.add_argument("--dtype", choices=("float32", "float64"), help="default float32; both with --all")
    parser.add_argument("--threads", type=int, default=usable_processors(), metavar="N", help="default all processors")
    parser.add_argument("--seconds", type=float, metavar="S", help="per operation, default 0.4, with --share 0.15")
    parser.add_argument("--all", action="store_true", help="all peers on all workloads in both dtypes; takes hours")
    parser.add_argument("--memory-limit", type=float, metavar="GB", help="per worker, default 80 %% of free memory")
    parser.add_argument("--build-limit", type=float, default=300.0, metavar="S", help="to build a peer, default 300")
    parser.add_argument(
        "--share", action="store_true", help="print only lcnumba's share of the roofline, in four minutes"
    )
    parser.add_argument("--json", metavar="FILE", help="write all results to this file")
    parser.add_argument("--keep", action="store_true", help="keep the results, for pages and charts, in bench/results")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; return 1 if lcnumba failed or a peer's results differ, otherwise 0."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    given = parser.parse_args(arguments)
    partial = [name for name in ("workload", "peers", "dtype", "seconds", "share") if getattr(given, name)]
    if given.keep and partial:
        parser.error(f"--keep replaces earlier results, so it is for whole runs; leave out --{', --'.join(partial)}")
    free = available_memory()
    limit = given.memory_limit * 1e9 if given.memory_limit else free and 0.8 * free
    seconds = given.seconds or (_SHARE_SECONDS if given.share else _SECONDS)
    settings = Settings(given.threads, seconds, limit and int(limit), given.build_limit)
    dtypes = [given.dtype] if given.dtype else ["float32", "float64"] if given.all else ["float32"]
    if given.share:
        return _share(settings, [WORKLOADS[name] for name in given.workload or WORKLOADS], dtypes[0])
    results: dict[str, Any] = {"environment": environment.describe(settings.threads, arguments), "rows": []}
    workloads = [WORKLOADS[name] for name in given.workload or WORKLOADS]
    start = time.monotonic()
    with Process(settings.threads) as machine:
        for dtype in dtypes:
            for workload in workloads:
                names = _present(chosen(workload.name, given.peers, given.all), results["rows"])
                for row in measure(Case.of(workload, dtype), names, settings, machine):
                    print(tables.line(row), flush=True)
                    results["rows"].append(row)
                _save(results, given.json)
        results["auto"] = {workload.name: _automatic(workload) for workload in workloads}
        results["tile"] = {dtype: run(machine, "bench.fma", "rate", dtype=dtype) for dtype in dtypes}
    names = _present(chosen("seed1", given.peers, False), results["rows"])
    results["startup"] = startup.measure(names, Case.of(WORKLOADS["seed1"], "float32"), settings.threads)
    results["memory"] = [memory.measure(Case.of(workload, dtypes[0]), settings.threads) for workload in workloads]
    small = [workload for workload in workloads if workload.name in overhead.SMALL]
    results["overhead"] = [overhead.measure(Case.of(workload, dtypes[0])) for workload in small]
    results["minutes"] = round((time.monotonic() - start) / 60, 1)
    _save(results, given.json)
    failed = any(
        row["status"] == "wrong" or (row["peer"] == "own1" and row["status"] != "ok") for row in results["rows"]
    )
    if given.keep and not failed:
        save(results, path_of(results))
    return int(failed)


def _share(settings: Settings, workloads: list[Any], dtype: str) -> int:
    """Print lcnumba's share of the roofline on each workload, and the geometric means; return 1 if it failed."""
    about = environment.describe(settings.threads, ["--share"])
    print(
        f"{about['cpu']}, {threads(about)}, vectors of {about['vector_bits']} bits (target {about['target']}), {dtype}"
    )
    print(f"{'layer':<14}{'forward':>9}{'step':>9}  (milliseconds, share of the roofline, bound)")
    shares: dict[str, list[float]] = {}
    with Process(settings.threads) as machine:
        for workload in workloads:
            rows = list(measure(Case.of(workload, dtype), [], settings, machine))
            failed = [row for row in rows if row["status"] != "ok"]
            if failed:
                print(f"{workload.name:<14}{failed[0]['operation']} {failed[0]['status']}: {failed[0]['reason']}")
                return 1
            cells = (f"{ms(row['median']):>8} {row['efficiency']:4.2f} {row['bound'][:6]}" for row in rows)
            print(f"{workload.name:<14}{'   '.join(cells)}", flush=True)
            for row in rows:
                if row["median"] > 1e-3:
                    shares.setdefault(row["operation"], []).append(row["efficiency"])
    for operation, values in shares.items():
        print(f"{operation}, layers over 1 ms: least {min(values):.2f}, geometric mean {geometric_mean(values):.2f}")
    return 0


def _automatic(workload: Any) -> int:
    """Return the implementation that implementation="auto" selects for a workload in float32."""
    return choose(geometry(Case.of(workload, "float32")), 4)


def _present(names: list[str], rows: list[Row]) -> list[str]:
    """Leave out peers that are not installed."""
    missing = {row["peer"] for row in rows if row["status"] == "missing"}
    return [name for name in names if name not in missing]


def _save(results: dict[str, Any], path: str | None) -> None:
    if path is not None:
        Path(path).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
