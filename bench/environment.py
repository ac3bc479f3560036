"""Machine and software versions of a run."""

import datetime
import platform
from collections.abc import Sequence
from typing import Any

from llvmlite.binding import get_host_cpu_name

from bench.peers import PEERS
from bench.process import available_memory
from lcnumba.kernels.vectors import target, vector_bytes
from lcnumba.tools.info import processor, usable_processors, versions

__all__ = ["describe"]


def describe(threads: int, command: Sequence[str]) -> dict[str, Any]:
    """Return processor, system, versions, threads, date and command line."""
    packages = {package: None for peer in PEERS.values() for package in peer.packages}
    memory = available_memory()
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(("python -m bench.compare", *command)),
        "cpu": f"{processor()} ({get_host_cpu_name()})",  # LLVM's name tells apart what vendors call by one
        "vector_bits": 8 * vector_bytes(),
        "target": target(),
        "cores": usable_processors(),
        "threads": threads,
        "memory_gb": None if memory is None else round(memory / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **versions([*packages, "scipy"])},
    }
