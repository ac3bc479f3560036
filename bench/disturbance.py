"""CPU usage of other processes during a measurement.

A library whose threads synchronise becomes ten times slower if another process occupies one processor, while
single-threaded code is not affected. Alternating the measurements does not correct for that, so results from a
busy machine are marked.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["TOLERATED", "Disturbance"]

# Tables mark a row above this share of all processors.
TOLERATED = 0.05

# Fields of /proc/stat: user, nice, system, irq, softirq and steal, but not idle and iowait.
_BUSY = (1, 2, 3, 6, 7, 8)


class Disturbance:
    """CPU usage of other processes from now on.

    Parameters
    ----------
    own_seconds : () -> float
        CPU time so far of all processes that are measured.
    """

    def __init__(self, own_seconds: Callable[[], float]) -> None:
        self._own_seconds = own_seconds
        self._start = time.monotonic(), _busy_seconds(), own_seconds()

    def share(self) -> float | None:
        """Return the usage as a share of all processors; None if the system does not report it."""
        began, busy_before, own_before = self._start
        busy = _busy_seconds()
        if busy is None or busy_before is None:
            return None
        others = busy - busy_before - (self._own_seconds() - own_before)
        return max(0.0, others) / (time.monotonic() - began) / (os.cpu_count() or 1)


def _busy_seconds() -> float | None:
    try:
        fields = Path("/proc/stat").read_text().split(maxsplit=9)
    except FileNotFoundError:
        return None
    return sum(int(fields[i]) for i in _BUSY) / os.sysconf("SC_CLK_TCK")
