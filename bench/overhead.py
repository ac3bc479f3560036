"""Overhead of a call of a small layer beyond its compiled code.

The kernel launches of one call are recorded with their arguments; then calls and replays of these launches are timed
alternately.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from bench.case import Case
from bench.data import make
from bench.peers import own
from bench.process import Failure, Process

__all__ = ["SMALL", "calls", "measure"]

# Layers small enough to run in the calling thread.
SMALL = ("digits", "bindsnet")
_ROUNDS = 2000

Launch = tuple[Callable[..., None], tuple[Any, ...]]


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
    """Record all kernel launches in the context."""
    from lcnumba.kernels import backward, forward, update

    launches: list[Launch] = []

    def recording(launch: Any) -> Callable[..., None]:
        def run(*arguments: Any, threads: int) -> None:
            assert threads == 1, "only kernels in the calling thread can be replayed"
            launches.append((launch.compiled[0], arguments))
            launch(*arguments, threads=threads)

        return run

    with contextlib.ExitStack() as stack:
        makers = [(forward, "forward"), (forward, "forward_by_batch"), (backward, "backward")]
        for module, name in [*makers, (backward, "backward_by_inputs")]:
            maker = getattr(module, name)
            made = mock.patch.object(module, name, lambda *kind, maker=maker: recording(maker(*kind)))
            stack.enter_context(made)
        for module, name in ((backward, "backward_bias"), (update, "apply_all")):
            stack.enter_context(mock.patch.object(module, name, recording(getattr(module, name))))
        yield launches


def _replay(launches: list[Launch]) -> None:
    for compiled, arguments in launches:
        compiled(0, np.zeros((1, 1), np.int64), *arguments)
