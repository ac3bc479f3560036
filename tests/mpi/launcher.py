"""Runs programs on several ranks, under a time limit."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MPIEXEC = Path(sys.prefix, "bin", "mpiexec")
# Open MPI refuses to run as root, and more ranks than processors, unless it is told to.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}  # fmt: skip


def has_mpi():
    """Whether there is MPI, or must be."""
    return os.environ.get("LCNUMBA_MPI") == "complete" or (find_spec("mpi4py") is not None and MPIEXEC.exists())


def need_mpi():
    """Skip a file of tests without MPI."""
    if not has_mpi():
        pytest.skip("needs mpi4py and mpiexec; make test-mpi has them", allow_module_level=True)


def environment():
    """The environment of programs on ranks."""
    return {**os.environ, **OPEN_MPI}


def run(program, *arguments, ranks, seconds=120, check=True, environ=None):
    """Run a program of this folder on some ranks; 0 for one process without mpiexec. Return the finished process."""
    program = [str(HERE / program), *map(str, arguments)]
    launched = [str(MPIEXEC), "-n", str(ranks), sys.executable, "-m", "mpi4py", *program]
    command = launched if ranks else [sys.executable, *program]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False,
        env={**environment(), **(environ or {})},
    )  # fmt: skip
    assert not check or found.returncode == 0, found.stdout[-2000:] + found.stderr[-4000:]
    return found
