"""How long first calls take: whole processes, with an empty and with a warm cache of compiled code.

``python -m bench.first_calls`` prints a table of medians in seconds, from the start of the process. The processes take
turns. The network is that of ``python -m lcnumba train``, on images of 28 x 28, and its first step that of `fit` with
Adam on one batch of 32.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from bench.cells import table

__all__ = ["PROGRAMS", "main", "seconds"]

_STEP = """
import numpy as np
import lcnumba as lc
model = lc.Sequential([
    lc.LocallyConnected2D(8, 5, strides=2, activation="relu", dtype="DTYPE"),
    lc.LocallyConnected2D(16, 3, activation="relu", dtype="DTYPE"),
    lc.Flatten(),
    lc.Dense(10, dtype="DTYPE"),
])
model.compile("adam", loss="softmax_cross_entropy")
x = np.random.default_rng(0).random((32, 28, 28, 1)).astype("DTYPE")
model.fit(x, np.arange(32) % 10, progress=False)
"""

PROGRAMS = {
    "import numba, and load one compiled function": """
import sys
from pathlib import Path
module = Path(sys.argv[1], "trivial.py")
module.write_text("import numba\\n@numba.njit(cache=True)\\ndef add(a, b):\\n    return a + b\\n")
sys.path.insert(0, sys.argv[1])
import trivial
trivial.add(1, 2)
""",
    "first output of seed1": """
import numpy as np
import lcnumba as lc
lc.LocallyConnected2D(64, 3, rng=0)(np.ones((32, 32, 32, 3), np.float32))
""",
    "first training step": _STEP.replace("DTYPE", "float32"),
    "first training step in float64": _STEP.replace("DTYPE", "float64"),
}


def seconds(program: str, cache: str) -> float:
    """The time of a process that runs one of the programs, with its compiled code in the folder `cache`."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as elsewhere:  # outside the checkout, to import the installed package
        subprocess.run(
            [sys.executable, "-c", PROGRAMS[program], cache], cwd=elsewhere, check=True,
            env={**os.environ, "NUMBA_CACHE_DIR": cache},
        )  # fmt: skip
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.first_calls", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    given = parser.parse_args(arguments)
    cold: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    warm: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    after: list[float] = []
    last = list(PROGRAMS)[-1]
    with tempfile.TemporaryDirectory() as full:
        for name in PROGRAMS:
            seconds(name, full)
        for _ in range(given.rounds):
            for name in PROGRAMS:
                with tempfile.TemporaryDirectory() as empty:
                    cold[name].append(seconds(name, empty))
                    if name == "first training step":
                        after.append(seconds(last, empty))
                warm[name].append(seconds(name, full))
    rows = [[name, f"{statistics.median(cold[name]):.2f}", f"{statistics.median(warm[name]):.2f}"] for name in PROGRAMS]
    rows.append([f"{last}, after one in float32", f"{statistics.median(after):.2f}", ""])
    print(table(["process", "empty cache, s", "warm cache, s"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
