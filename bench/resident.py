"""Current and peak resident memory of this process."""

import resource
import sys
from pathlib import Path

__all__ = ["peak", "status"]


def peak() -> int:
    """Return the peak resident memory in bytes."""
    try:
        return status("VmHWM")
    except FileNotFoundError:
        # Not on Linux, where it would include the memory of the parent at the fork.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def status(entry: str) -> int:
    """Return an entry of /proc/self/status in bytes: "VmRSS" is the current memory, "VmHWM" the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry + ":"))
