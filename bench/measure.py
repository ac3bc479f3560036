"""Measurement of lcnumba and its peers on one case.

lcnumba and one peer at a time run in separate processes with the same data. Each operation is called once, its
results are compared, and then both are timed alternately.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, mode
from typing import Any

from bench.answers import check
from bench.case import Case
from bench.cells import Row
from bench.disturbance import Disturbance
from bench.peers import OPERATIONS, PEERS
from bench.process import Failure, Process
from bench.roofline import roofline, work
from bench.rounds import alternate, beside, quartiles

__all__ = ["Settings", "against", "first", "measure", "run"]


@dataclass(frozen=True)
class Settings:
    """Settings of a measurement.

    Attributes
    ----------
    threads : int
        Threads of each worker.
    seconds : float
        Time to measure each operation, for each of the two.
    memory_limit : int or None
        Resident memory in bytes at which a worker is killed.
    build_limit : float
        Time limit in seconds for building a peer and its first call of an operation.
    """

    threads: int
    seconds: float
    memory_limit: int | None
    build_limit: float


def measure(case: Case, names: Sequence[str], settings: Settings, machine: Process) -> Iterator[Row]:
    """Measure lcnumba and the named peers on a case; yield one row per peer and operation.

    Roofline limits are measured in the worker `machine`, which has the same number of threads.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        Process(settings.threads, settings.memory_limit) as ours,
    ):
        own: dict[str, Row] = {}
        pooled: dict[str, list[float]] = {}
        limits: dict[str, dict[str, float]] = {}
        try:
            for operation in OPERATIONS:
                own[operation] = first(ours, "own1", case, operation, folder if names else None, settings)
                watch = _watch(ours, machine)
                arguments = {"size": work(case, operation).footprint, "dtype": case.dtype}
                run(machine, "bench.limits", "measure", **arguments)  # compiles, and touches the pages
                times, turns = beside(
                    ours, operation, settings.seconds, settings.build_limit,
                    lambda arguments=arguments: run(machine, "bench.limits", "measure", **arguments),
                )  # fmt: skip
                own[operation]["disturbance"] = watch.share()
                own[operation] |= _in_turn(case, operation, times, turns)
                pooled[operation] = [t for turn in times for t in turn]
                limits[operation] = {name: median(turn[name] for turn in turns) for name in turns[0]}
        except Failure as failure:
            yield from (_row(case, "own1", operation, failure) for operation in OPERATIONS)
            return
        for name in names:
            for row, times in against(ours, name, case, folder, settings):
                pooled[row["operation"]] += times
                yield _complete(row, case, limits)
        for operation in OPERATIONS:
            row = _complete(_row(case, "own1", operation) | quartiles(pooled[operation]), case, limits)
            yield row | own[operation]


def _in_turn(case: Case, operation: str, times: list[list[float]], turns: list[dict[str, float]]) -> Row:
    """The efficiency relative to limits measured in the same rounds: the median over the rounds."""
    amount = work(case, operation)
    rounds = [roofline(amount, limits, median(t)) for t, limits in zip(times, turns, strict=True)]
    return {"efficiency": median(r["efficiency"] for r in rounds), "bound": mode(r["bound"] for r in rounds)}


def against(ours: Process, name: str, case: Case, folder: str, settings: Settings) -> Iterator[tuple[Row, list[float]]]:
    """Time a peer against ours, whose results are in a folder; yield its rows, each with our times."""
    with Process(settings.threads, settings.memory_limit) as theirs, tempfile.TemporaryDirectory() as answers:
        for i, operation in enumerate(OPERATIONS):
            row = _row(case, name, operation)
            try:
                _estimate(name, case, operation, settings)
                row |= first(theirs, name, case, operation, answers, settings)
                row["difference"] = check(f"{folder}/{operation}", f"{answers}/{operation}", case.dtype)
                watch = _watch(ours, theirs)
                times = alternate(ours, theirs, operation, settings.seconds, settings.build_limit)
                row["disturbance"] = watch.share()
            except Failure as failure:
                # The worker is dead or gives wrong results.
                yield from ((_row(case, name, later, failure), []) for later in OPERATIONS[i:])
                return
            yield row | quartiles(times.theirs) | {"ratio": times.ratio}, times.ours


def first(worker: Process, name: str, case: Case, operation: str, folder: str | None, settings: Settings) -> Row:
    """Build what an operation needs, call it for the first time, and save its results in a folder, if any is given."""
    start = time.monotonic()
    peer = PEERS[name]
    if operation == OPERATIONS[0]:
        about = {"case": case.to_json(), "module": peer.module, "options": peer.options}
        worker.ask("load", settings.build_limit, **about, threads=settings.threads)
    left = max(1.0, settings.build_limit - (time.monotonic() - start))
    reply = worker.ask("first", left, operation=operation)
    build = time.monotonic() - start
    if folder is not None:
        place = Path(folder, operation)
        place.mkdir()
        # forward does not change the weights.
        worker.ask("save", folder=str(place), weights=operation == "step")
    return {"build": build, "peak": reply["peak"]}


def _watch(*workers: Process) -> Disturbance:
    return Disturbance(lambda: time.process_time() + sum(worker.cpu_seconds() for worker in workers))


def _estimate(name: str, case: Case, operation: str, settings: Settings) -> None:
    needs = PEERS[name].needs(case, operation)
    if settings.memory_limit is not None and needs > settings.memory_limit:
        raise Failure("memory", f"needs at least {needs / 1e9:.1f} GB")


def run(worker: Process, module: str, function: str, **arguments: Any) -> Any:
    """Call a function of a module in a worker; return its result."""
    return worker.ask("run", module=module, function=function, arguments=arguments)["value"]


def _row(case: Case, name: str, operation: str, failure: Failure | None = None) -> Row:
    row = {"workload": case.name, "dtype": case.dtype, "peer": name, "operation": operation, "status": "ok"}
    return row if failure is None else row | {"status": failure.status, "reason": str(failure)}


def _complete(row: Row, case: Case, limits: dict[str, dict[str, float]]) -> Row:
    """Add the roofline to a row with a measured time."""
    if row["status"] != "ok":
        return row
    operation = row["operation"]
    return row | roofline(work(case, operation), limits[operation], row["median"]) | {"limits": limits[operation]}
