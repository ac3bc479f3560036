"""How much of the processors other programs had while something was timed.

A library whose threads wait for each other becomes ten times slower where one processor is taken,
while one that computes with a single thread does not notice. Taking turns does not repair that: figures
from a machine that was not quiet have to be marked.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["TOLERATED", "Disturbance"]

# Above this share of all processors, tables mark a row.
TOLERATED = 0.05

# Fields of /proc/stat: user, nice, system, irq, softirq and steal; not idle and waiting for disks.
_BUSY = (1, 2, 3, 6, 7, 8)


class Disturbance:
    """Watch the machine from now on.

    Parameters
    ----------
    own_seconds : () -> float
        Processor time so far of all processes that take part.
    """

    def __init__(self, own_seconds: Callable[[], float]) -> None:
        self._own_seconds = own_seconds
        self._start = time.monotonic(), _busy_seconds(), own_seconds()

    def share(self) -> float | None:
        """Return what others had since, as a share of all processors; None where the system does not tell."""
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
