"""Overhead of a call of a small layer beyond its compiled code.

The kernel launches of one call are recorded with their arguments; then calls and replays of these launches are timed
alternately.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

from bench.case import Case
from bench.data import make
from bench.peers import own
from bench.process import Failure, Process

__all__ = ["SMALL", "calls", "measure"]

# Layers small enough to run in the calling thread.
SMALL = ("digits", "bindsnet")
_ROUNDS = 2000

# A launch, the values of its fields, and the arrays whose addresses they are.
Launch = tuple[Any, dict[str, int], list[Any]]


def measure(case: Case) -> dict[str, Any]:
    """Measure a workload in a fresh process; return its row, or one with a "reason"."""
    row = {"workload": case.name, "dtype": case.dtype}
    try:
        with Process(1) as worker:
            request = {"module": "bench.overhead", "function": "calls", "arguments": {"fields": case.to_json()}}
            return row | worker.ask("run", **request)["value"]
    except Failure as failure:
        return row | {"reason": str(failure)}


def calls(fields: dict[str, Any], rounds: int = _ROUNDS) -> dict[str, list[float]]:
    """Time calls and their compiled code.

    Returns
    -------
    dict
        For "forward" and "step", the median seconds of a call, and of its compiled code alone.
    """
    case = Case.from_json(fields)
    operations = own.make(case, make(case), 1, implementation=1)
    result = {}
    for name in ("forward", "step"):
        call = getattr(operations, name)
        call()  # compiles
        with _recorded() as launches:
            call()
        times: list[list[float]] = [[], []]
        for _ in range(rounds):
            for action, seconds in zip((call, lambda launches=launches: _replay(launches)), times, strict=True):
                start = time.perf_counter()
                action()
                seconds.append(time.perf_counter() - start)
        result[name] = [statistics.median(seconds) for seconds in times]
    return result


@contextlib.contextmanager
def _recorded() -> Iterator[list[Launch]]:
    """Record all kernel launches in the context, and what their records hold addresses of."""
    from lcnumba.implementations import loop
    from lcnumba.kernels import jit, records, update

    launches: list[Launch] = []
    alive: list[Any] = []

    def recording(launch: Any, values: dict[str, int]) -> None:
        assert launch._threads == 1, "only kernels in the calling thread can be replayed"
        launches.append((launch, values, alive))
        run(launch, values)

    def keeping(function: Any) -> Any:
        def keep(given: Any) -> Any:
            alive.append(given)
            alive.append(function(given))
            return alive[-1]

        return keep

    run, address = jit.Launch.run, keeping(records.address)
    with (
        mock.patch.object(jit.Launch, "run", recording),
        mock.patch.object(loop, "scratch", keeping(loop.scratch)),
        mock.patch.object(records, "address", address),
        mock.patch.object(loop, "address", address),
        mock.patch.object(update, "address", address),
        mock.patch.object(update, "scalars_of", keeping(update.scalars_of)),
    ):
        yield launches


def _replay(launches: list[Launch]) -> None:
    for launch, values, _ in launches:
        launch.run(values)
