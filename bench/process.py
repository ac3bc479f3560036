"""Parent side of a worker process: requests with a time limit and a memory limit."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from bench import ROOT

__all__ = ["Failure", "Process", "available_memory", "settings", "vector_limit"]

# Interval of checking a worker's memory, in seconds: Linux allocates at most a few GB per second.
_POLL = 0.02


class Failure(Exception):  # noqa: N818 - not an error: that a peer does not run is a result
    """A peer could not be measured.

    Attributes
    ----------
    status : {"missing", "memory", "time", "error", "wrong"}
        Not installed; over the memory limit; over the time limit; raised or died; wrong results.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Process:
    """A worker process, as a context manager that kills it.

    Parameters
    ----------
    threads : int
        Number of threads of each library in it.
    memory_limit : int, optional
        Bytes of resident memory at which it is killed. Not RLIMIT_AS: frameworks reserve far more address space
        than they use.
    environment : dict of str
        Additional environment variables.
    """

    def __init__(
        self, threads: int, memory_limit: int | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._memory_limit = memory_limit
        self._chatter = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._chatter, text=True, cwd=ROOT,
            env={**_inherited(), **settings(threads), **vector_limit(threads), **(environment or {})},
        )  # fmt: skip
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._process.stdout, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._ready.close()
        for stream in (self._process.stdin, self._process.stdout, self._chatter):
            with contextlib.suppress(BrokenPipeError):  # a request that was not read
                stream.close()

    def ask(self, do: str, limit: float = 300, **arguments: Any) -> dict[str, Any]:
        """Send a request and return the reply. At a limit the worker is killed and `Failure` is raised."""
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._died() from None
        end = time.monotonic() + limit
        while not self._ready.select(_POLL):
            held = _resident(self._process.pid)
            if self._memory_limit is not None and held > self._memory_limit:
                self._process.kill()
                raise Failure("memory", f"needs more than {self._memory_limit / 1e9:.3g} GB")
            if time.monotonic() > end:
                self._process.kill()
                raise Failure("time", f"took more than {limit:.3g} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        reply = json.loads(line)
        if "error" in reply:
            missing = reply["kind"] == "ModuleNotFoundError"
            first_line = (reply["error"].splitlines() or [""])[0][:200]
            raise Failure(
                "missing" if missing else "error",
                "not installed: " + first_line if missing else f"{reply['kind']}: {first_line}",
            )
        return reply

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far; 0 if the system does not report it."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _died(self) -> Failure:
        code = self._process.wait()
        self._chatter.seek(0)
        lines = self._chatter.read().strip().splitlines()
        return Failure("error", f"died with code {code}" + (f": {lines[-1][:200]}" if lines else ""))


def _inherited() -> dict[str, str]:
    """The environment of this process, without settings of OpenBLAS that would choose slower code."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}


def vector_limit(threads: int) -> dict[str, str]:
    """The settings by which the peers use no more than vectors of 256 bits, if Numba generates code for such a CPU."""
    from lcnumba.kernels.vectors import target, vector_bytes

    if target() == "host" or vector_bytes() != 32:
        return {}
    return {
        "OPENBLAS_CORETYPE": "Haswell",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch
        "ONEDNN_MAX_CPU_ISA": "AVX2",  # PyTorch and TensorFlow
        "XLA_FLAGS": f"{_xla_flags(threads)} --xla_cpu_max_isa=AVX2",
    }


def settings(threads: int) -> dict[str, str]:
    """Return environment variables that limit all libraries to the CPU and to a number of threads."""
    number = str(threads)
    names = (
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
    )  # fmt: skip
    return {
        **dict.fromkeys(names, number),
        "XLA_FLAGS": _xla_flags(threads),
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def _xla_flags(threads: int) -> str:
    eigen = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    return f"{os.environ.get('XLA_FLAGS', '')} {eigen}".strip()


def available_memory() -> int | None:
    """Bytes that can be used without swapping; None if the system is not Linux."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _resident(process: int) -> int:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
