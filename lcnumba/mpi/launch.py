"""What a process needs before it trains with others: the communicator, threads, and an end for all if one fails."""

import os
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from lcnumba.runtime.signals import deferred, import_whole
from lcnumba.utils.messages import install

__all__ = ["check_launcher", "communicator", "prepare", "threads_per_rank"]

# Where launchers tell a process how many there are: MPICH and Slurm's PMI, Open MPI, MVAPICH2, Intel MPI.
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")


@import_whole
def _mpi() -> Any:
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(f"lcnumba.mpi needs mpi4py: {install('mpi')}") from error
    except RuntimeError as error:
        raise RuntimeError(
            f"mpi4py finds no MPI library ({error}); load the MPI of your cluster, module load mpich for instance, or "
            "pip install mpich"
        ) from error
    return MPI


@import_whole
def _numba() -> Any:
    import numba

    return numba


def communicator(comm: Any = None) -> Any:
    """Return the communicator, by default of all processes; raise if the launcher is that of another MPI."""
    if comm is None:
        comm = _mpi().COMM_WORLD
    if not all(hasattr(comm, name) for name in ("Get_rank", "Get_size", "Dup")):
        raise TypeError(f"comm={comm!r:.80} is a {type(comm).__name__}; give an mpi4py communicator, MPI.COMM_WORLD")
    if comm.Get_size() == 1 and _mpi().COMM_WORLD.Get_size() == 1:
        check_launcher(os.environ)
    return comm


def check_launcher(environ: Mapping[str, str]) -> None:
    """Raise if a launcher has started several processes, each of which takes itself for the only one.

    Examples
    --------
    >>> from lcnumba.mpi.launch import check_launcher
    >>> check_launcher({"PMI_SIZE": "1"})
    """
    for name in _SIZES:
        value = environ.get(name, "")
        if value.isdigit() and int(value) > 1:
            raise RuntimeError(
                f"the launcher started {value} processes ({name}), but MPI sees only this one: mpiexec and the library "
                "that mpi4py loads belong to different MPIs; use the mpiexec of that library"
            )


def threads_per_rank(processors: int, node_processors: int, node_ranks: int) -> int:
    """Return how many threads a rank has: those it may run on, or its share of the node's processors if that is less.

    Examples
    --------
    >>> from lcnumba.mpi.launch import threads_per_rank
    >>> threads_per_rank(processors=64, node_processors=64, node_ranks=4)  # all ranks may run on all processors
    16
    >>> threads_per_rank(processors=8, node_processors=64, node_ranks=4)  # bound to 8
    8
    """
    return max(1, min(processors, node_processors // max(1, node_ranks)))


def prepare(comm: Any) -> None:
    """Limit the threads of this process to its share of the node, and let an error end all processes.

    Threads are left as they are if NUMBA_NUM_THREADS is set, or `numba.set_num_threads` has been called.
    """
    if comm.Get_size() == 1:
        return
    _install_hook()
    node_ranks = _ranks_on_node(comm)
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit_threads(threads_per_rank(affinity, os.cpu_count() or 1, node_ranks))


def _ranks_on_node(comm: Any) -> int:
    """How many ranks of the communicator are on this node."""
    node = comm.Split_type(_mpi().COMM_TYPE_SHARED)
    ranks = int(node.Get_size())
    node.Free()
    return ranks


def limit_threads(number: int) -> None:
    """Let kernels, and BLAS if threadpoolctl is installed, use at most so many threads in this process."""
    numba = _numba()
    if "NUMBA_NUM_THREADS" not in os.environ and numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS:
        numba.set_num_threads(min(number, numba.config.NUMBA_NUM_THREADS))
    if not any(name in os.environ for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")):
        try:
            with deferred():
                from threadpoolctl import threadpool_limits
        except ImportError:
            return
        threadpool_limits(number, "blas")


def _install_hook() -> None:
    """Let an error that ends this process end all: the others would wait for it forever."""
    before = sys.excepthook
    if getattr(before, "ends_all", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        before(kind, error, trace)
        sys.stdout.flush()
        sys.stderr.flush()
        _mpi().COMM_WORLD.Abort(1)

    hook.ends_all = True  # type: ignore[attr-defined]
    sys.excepthook = hook
