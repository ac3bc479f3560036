"""Configuration and diagnosis of problems: ``python -m lcnumba info``."""

import os
import platform
import stat
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import lcnumba
from lcnumba.runtime import memory, threads
from lcnumba.runtime.signals import deferred
from lcnumba.utils.messages import install

__all__ = ["Environment", "cache_folder", "collect", "processor", "usable_processors", "versions"]

NEEDED = ("numba", "llvmlite", "numpy", "scipy", "array-api-compat")
OPTIONAL = ("tbb", "h5py", "matplotlib", "scikit-learn", "tqdm", "torch", "jax")


class Environment(NamedTuple):
    """The configuration, and problems with it.

    Attributes
    ----------
    facts : dict of str
        The configuration, in order of output.
    warnings : list of str
        Problems, each with a hint.
    """

    facts: dict[str, str]
    warnings: list[str]


def collect() -> Environment:
    """Return versions, processor, threads, memory and compiled code, and diagnose problems with them.

    Starts Numba's threads and runs a small layer in all implementations, which compiles kernels that are not cached.

    Examples
    --------
    >>> from lcnumba.tools import info
    >>> found = info.collect()
    >>> found.facts["answers"]
    'right'
    """
    right, problem = False, None
    try:
        right = _answers_are_right()  # first, so that compiled code exists
    except RuntimeError as error:  # threads cannot start
        problem = str(error)
    facts = {
        "lcnumba": lcnumba.__version__,
        "Python": f"{platform.python_version()} {platform.python_implementation()}{_free_threaded()}",
        **versions([*NEEDED, *OPTIONAL]),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        **_vectors(),
        "processors": _processors(),
        "threads": "none" if problem else _threads(),
        "memory": _memory(),
        "compiled code": _compiled_code(),
        "settings": _settings(),
        "answers": "none" if problem else "right" if right else "WRONG",
    }
    problems = [problem] if problem else list(_thread_warnings())
    return Environment(facts, [*problems, *_warnings(facts)])


def usable_processors() -> int:
    """Return the number of processors that this process may use.

    Examples
    --------
    >>> from lcnumba.tools.info import usable_processors
    >>> usable_processors() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the name of the processor.

    Examples
    --------
    >>> from lcnumba.tools.info import processor
    >>> bool(processor())
    True
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return [*names, platform.processor(), platform.machine(), "unknown"][0] or "unknown"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the installed packages among `packages`.

    Examples
    --------
    >>> from lcnumba.tools.info import versions
    >>> list(versions(["numpy", "no such package"]))
    ['numpy']
    """
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _free_threaded() -> str:
    enabled = getattr(sys, "_is_gil_enabled", None)
    return "" if enabled is None or enabled() else ", free-threaded"


def _vectors() -> dict[str, str]:
    with deferred():
        from lcnumba.kernels import vectors

    length = vectors.vector_bytes()
    kernels = "register tile" if vectors.TILED else "plain loops"
    return {
        "features": " ".join(vectors.host_features()) or "unknown",
        "target": vectors.target(),
        "vectors": f"{8 * length} bits, {length // 4} float32 elements; {kernels}",
    }


def _processors() -> str:
    allowed = memory.processors()
    quota = "" if allowed is None else f", limited to {allowed:g} by control groups"
    return f"{usable_processors()} usable{quota}"


def _threads() -> str:
    layer = threads.threading_layer()
    kind = f"Numba's {layer}" if threads.numba_is_safe() else f"Python's instead of Numba's {layer}"
    return f"{threads.count()}, {kind}"


def _memory() -> str:
    found = memory.available()
    return "unknown" if found is None else f"{found[0] / 1e9:.1f} GB free by {found[1]}"


def _settings() -> str:
    prefixes = ("NUMBA_", "LCNUMBA_", "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_")
    return " ".join(f"{name}={os.environ[name]}" for name in sorted(os.environ) if name.startswith(prefixes)) or "none"


def cache_folder() -> Path | None:
    """The folder of compiled code; None if it is not cached."""
    with deferred():
        from lcnumba.kernels import update

    stats = getattr(update.whole().compiled, "stats", None)  # None without JIT
    return None if stats is None or stats.cache_path is None else Path(stats.cache_path)


def _compiled_code() -> str:
    with deferred():
        from lcnumba.kernels.disk_cache import is_usable

    folder = cache_folder()
    if folder is None:
        return "not cached"
    usable = others = size = 0
    for file in folder.glob("*.nb[ic]"):
        try:
            size += file.stat().st_size
            if is_usable(file):
                usable += 1
            else:
                others += 1
        except OSError:  # another process has replaced it
            continue
    rest = f", {others} damaged or of other versions" if others else ""
    return f"{folder}, {usable} files{rest}, {size / 1e6:.1f} MB"


def _answers_are_right() -> bool:
    """Return whether all implementations of a small layer equal the reference on integers."""
    with deferred():
        import numpy as np

        from lcnumba.layers.locally_connected import LocallyConnected2D
        from lcnumba.testing import adjoint_sums, integers, reference

    rng = np.random.default_rng(0)
    size, kernel_size = (6, 7), (3, 2)
    x = integers(rng, (20, *size, 3))
    for implementation in (1, 2, 3):
        layer = LocallyConnected2D(
            5, kernel_size, use_bias=False, implementation=implementation, rng=0, n_threads=2,
            kernel_initializer=lambda shape, dtype, rng: integers(rng, shape, dtype),
        )  # fmt: skip
        y, backward = layer.forward(x)
        dy = integers(rng, y.shape)
        dx, grads = backward(dy)
        expected = reference.forward(
            x, layer.kernel, None, kernel_size=kernel_size, strides=(1, 1), dilation=(1, 1), padding="valid"
        )
        sums = adjoint_sums(x, layer.kernel, dy, y, dx, grads.kernel)
        if len(set(sums)) != 1 or not np.array_equal(y, expected):
            return False
    return True


def _warnings(facts: dict[str, str]) -> Iterator[str]:
    with deferred():
        import numba

        from lcnumba.kernels import vectors

    if facts["answers"] == "WRONG":
        yield "answers are wrong: do not use this installation, and report the output above"
    if numba.config.DISABLE_JIT:
        yield "NUMBA_DISABLE_JIT is set: kernels are interpreted, which is thousands of times slower; unset it"
    elif not vectors.TILED:
        yield "LCNUMBA_TILE=0 is set: plain loops are many times slower; unset it"
    if numba.config.BOUNDSCHECK:
        yield "NUMBA_BOUNDSCHECK is set: every index is checked, which is slow; unset it"
    folder = cache_folder()
    if folder is None and not numba.config.DISABLE_JIT:
        yield "compiled code is not cached, so each process compiles again; set NUMBA_CACHE_DIR to a folder of yours"
    elif folder is not None and folder.is_dir():
        if not os.access(folder, os.W_OK):
            yield f"{folder} is not writable: each process compiles what is missing there; set NUMBA_CACHE_DIR"
        if os.name == "posix" and folder.stat().st_mode & stat.S_IWOTH:
            yield (
                f"{folder} is world-writable, and its files are run as code; set NUMBA_CACHE_DIR to a folder of yours"
            )


def _thread_warnings() -> Iterator[str]:
    layer = threads.threading_layer()
    if layer == "none":
        yield "no threads can be started: a limit of the system or container (ulimit -u, -v, pids) is too low"
    elif layer == "workqueue":
        yield (
            "Numba's threading layer is workqueue, which does not support concurrent parallel functions; kernels run "
            f"on Python threads instead, which start more slowly. Install TBB: {install('threads')}; or OpenMP"
        )
    elif not threads.numba_is_safe():
        yield (
            "kernels run on Python threads, which start more slowly than Numba's: those may have been started in a "
            "parent process. Import lcnumba before the first parallel function runs; a forked child cannot change this"
        )
    if threads.count() > usable_processors():
        yield (
            f"{threads.count()} threads share {usable_processors()} processors, which is slow; reduce NUMBA_NUM_THREADS"
        )
