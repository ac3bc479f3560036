"""Alternating measurement of two workers, so that other load on the machine affects both."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from bench.process import Process

__all__ = ["Times", "alternate", "beside", "best", "quartiles"]

_MIN_ROUNDS, _MAX_ROUNDS = 3, 6
# Pause in seconds before each turn, for idle threads of the other worker to stop spinning.
_PAUSE = 0.1
_CALLS = 500  # at most, per round
_BEST_SECONDS, _BEST_REPEATS = 0.04, 3
# After a turn of the other worker the caches are cold: the first call is not counted if it takes less than this.
_COLD_CALL = 0.1


class Times(NamedTuple):
    """Times of alternating calls.

    Attributes
    ----------
    ours, theirs : list of float
        Seconds of each call.
    ratio : float
        Median over the rounds of their median time divided by ours.
    """

    ours: list[float]
    theirs: list[float]
    ratio: float


def alternate(ours: Process, theirs: Process, operation: str, seconds: float, limit: float) -> Times:
    """Time an operation of both alternately, for about `seconds` each and at least three rounds."""
    pilots = [_pilot(side, operation, limit) for side in (ours, theirs)]
    rounds = _rounds(max(pilots), seconds)
    turns: list[list[list[float]]] = [
        [
            _turn(side, operation, pilot, seconds / rounds, limit)
            for side, pilot in zip((ours, theirs), pilots, strict=True)
        ]
        for _ in range(rounds)
    ]
    ratio = statistics.median(statistics.median(b) / statistics.median(a) for a, b in turns)
    return Times([t for a, _ in turns for t in a], [t for _, b in turns for t in b], ratio)


def beside(
    worker: Process, operation: str, seconds: float, limit: float, other: Callable[[], Any]
) -> tuple[list[list[float]], list[Any]]:
    """Time an operation of one worker alternately with `other`; return the times and results of each round."""
    pilot = _pilot(worker, operation, limit)
    rounds = _rounds(pilot, seconds)
    turns = [(_turn(worker, operation, pilot, seconds / rounds, limit), other()) for _ in range(rounds)]
    times, others = zip(*turns, strict=True)
    return list(times), list(others)


def quartiles(times: list[float]) -> dict[str, Any]:
    """Return median, quartiles and number of times."""
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high, "repeats": len(times)}


def _pilot(worker: Process, operation: str, limit: float) -> float:
    """Estimated seconds of a call: the minimum of several if that is fast, since a single one may be disturbed."""
    first = worker.ask("repeat", limit, operation=operation, calls=1)["times"][0]
    if first > _COLD_CALL:
        return first
    return min(worker.ask("repeat", limit, operation=operation, calls=5)["times"])


def _rounds(slowest: float, seconds: float) -> int:
    return min(_MAX_ROUNDS, max(_MIN_ROUNDS, int(seconds / slowest)))


def _turn(worker: Process, operation: str, pilot: float, seconds: float, limit: float) -> list[float]:
    calls = min(_CALLS, max(1, int(seconds / pilot)))
    warm = int(pilot < _COLD_CALL)
    time.sleep(_PAUSE)
    return worker.ask("repeat", limit, operation=operation, calls=calls, warm=warm)["times"]


def best(work: Callable[[], Any]) -> float:
    """Return the minimum time of several calls in seconds, after a warm-up."""
    work()  # compiles, and touches every page
    times: list[float] = []
    end = time.perf_counter() + _BEST_SECONDS
    while len(times) < _BEST_REPEATS or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
