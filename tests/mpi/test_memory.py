"""A model that exceeds the memory of a process trains on several ranks."""

import shlex
import subprocess
import sys

import pytest
from launcher import HERE, MPIEXEC, environment, need_mpi

need_mpi()
if sys.platform != "linux":
    pytest.skip("limits the address space", allow_module_level=True)

# Of each process, in kB: Python, Numba and MPI take 400 MB of it.
LIMIT = 900_000


def run(*command):
    text = f"ulimit -v {LIMIT}; exec {shlex.join(map(str, command))}"
    return subprocess.run(
        ["bash", "-c", text], capture_output=True, text=True, timeout=120, check=False,
        env={**environment(), "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


def test_three_ranks_train_what_one_process_cannot():
    alone = run(sys.executable, HERE / "limited.py")
    assert alone.returncode != 0
    assert "MemoryError" in alone.stderr
    found = run(MPIEXEC, "-n", 3, sys.executable, "-m", "mpi4py", HERE / "limited.py", "--mpi")
    assert found.returncode == 0, found.stderr[-3000:]
    assert "3 ranks, 49,619,968 weights" in found.stdout
