"""How much memory this process holds, and held at most."""

import resource
import sys
from pathlib import Path

__all__ = ["peak", "status"]


def peak() -> int:
    """Return the most bytes that this process held so far."""
    try:
        return status("VmHWM")
    except FileNotFoundError:
        # Not so on Linux, where this would count what the parent held when it started this process.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def status(entry: str) -> int:
    """Return an entry of /proc/self/status in bytes: "VmRSS" is what is held now, "VmHWM" the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry + ":"))
