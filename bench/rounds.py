"""Times two workers alternately, so that what else happens on the machine hits both alike."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from bench.process import Process

__all__ = ["Times", "alternate", "beside", "quartiles"]

_LEAST, _MOST = 3, 6  # rounds
# Seconds before a turn in which the threads of the last one may stop waiting actively for more work.
_SETTLE = 0.1
_CALLS = 500  # at most, a round
# After a turn of the other one, caches hold the other's data: a first call below these seconds is not counted.
_COLD_CALL = 0.1


class Times(NamedTuple):
    """What alternating calls took.

    Attributes
    ----------
    ours, theirs : list of float
        Seconds of each call.
    ratio : float
        Median over the rounds of their median time by ours.
    """

    ours: list[float]
    theirs: list[float]
    ratio: float


def alternate(ours: Process, theirs: Process, operation: str, seconds: float, limit: float) -> Times:
    """Time an operation of both, round by round, for about `seconds` each, and for at least three rounds."""
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
    """Time an operation of one worker in the same manner; return each round's times and what `other` returned."""
    pilot = _pilot(worker, operation, limit)
    rounds = _rounds(pilot, seconds)
    turns = [(_turn(worker, operation, pilot, seconds / rounds, limit), other()) for _ in range(rounds)]
    times, others = zip(*turns, strict=True)
    return list(times), list(others)


def quartiles(times: list[float]) -> dict[str, Any]:
    """Return median, quartiles and number."""
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high, "repeats": len(times)}


def _pilot(worker: Process, operation: str, limit: float) -> float:
    """Seconds of a call, to plan by: the least of several where that is cheap, since one may be disturbed."""
    first = worker.ask("repeat", limit, operation=operation, calls=1)["times"][0]
    if first > _COLD_CALL:
        return first
    return min(worker.ask("repeat", limit, operation=operation, calls=5)["times"])


def _rounds(slowest: float, seconds: float) -> int:
    return min(_MOST, max(_LEAST, int(seconds / slowest)))


def _turn(worker: Process, operation: str, pilot: float, seconds: float, limit: float) -> list[float]:
    calls = min(_CALLS, max(1, int(seconds / pilot)))
    warm = int(pilot < _COLD_CALL)
    time.sleep(_SETTLE)
    return worker.ask("repeat", limit, operation=operation, calls=calls, warm=warm)["times"]
