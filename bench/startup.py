"""Startup time: processes from start to the first output, with a cold and with a warm cache."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from bench.case import Case
from bench.peers import PEERS
from bench.process import Failure, Process

__all__ = ["measure"]

_REPEATS = 3
# The imported module of each peer.
_IMPORTS = {"own1": "lcnumba", "torch": "torch", "jax": "jax", "keras1": "tf_keras"}


def measure(names: Sequence[str], case: Case, threads: int) -> list[dict[str, Any]]:
    """Measure lcnumba and the frameworks among the named peers.

    Returns
    -------
    list of dict
        One per peer and cache: "peer", "cache" ("cold", "warm", or "" for peers without a disk cache), "seconds" to
        the first output, "import" seconds, "peak" bytes of the process; or "reason".
    """
    rows = []
    with tempfile.TemporaryDirectory() as warm:
        _to_first_output("own1", case, threads, {"NUMBA_CACHE_DIR": warm})
        for name in _IMPORTS:
            if name != "own1" and name not in names:
                continue
            try:
                if name == "own1":
                    rows.append(_row(name, "cold", case, threads, None))
                    rows.append(_row(name, "warm", case, threads, {"NUMBA_CACHE_DIR": warm}))
                else:
                    rows.append(_row(name, "", case, threads, {}))
            except Failure as failure:
                rows.append({"peer": name, "cache": "", "reason": str(failure)})
    return rows


def _row(name: str, cache: str, case: Case, threads: int, variables: dict[str, str] | None) -> dict[str, Any]:
    """Return medians; without `variables`, each process gets an empty cache."""
    runs = []
    for _ in range(_REPEATS):
        with tempfile.TemporaryDirectory() as empty:
            added = {"NUMBA_CACHE_DIR": empty} if variables is None else variables
            runs.append(_to_first_output(name, case, threads, added))
    seconds, peaks = zip(*runs, strict=True)
    imports = statistics.median(_import_seconds(_IMPORTS[name]) for _ in range(_REPEATS))
    return {
        "peer": name, "cache": cache, "seconds": statistics.median(seconds), "import": imports,
        "peak": int(statistics.median(peaks)),
    }  # fmt: skip


def _to_first_output(name: str, case: Case, threads: int, variables: dict[str, str]) -> tuple[float, int]:
    """Seconds from the start of the process to its first output, and its peak memory.

    They include making the data and importing NumPy: 0.1 to 0.2 s, the same for all peers.
    """
    peer = PEERS[name]
    start = time.perf_counter()
    with Process(threads, environment=variables) as worker:
        worker.ask("load", case=case.to_json(), module=peer.module, options=peer.options, threads=threads)
        peak = worker.ask("first", operation="forward")["peak"]
        return time.perf_counter() - start, peak


def _import_seconds(module: str) -> float:
    """Seconds of importing a module in a fresh process, without the start of Python."""
    code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    with tempfile.TemporaryDirectory() as elsewhere:  # outside the checkout, to import the installed package
        done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, check=True)
    return float(done.stdout)
