"""Which peers run on which workloads when nobody says: what fits into 20 minutes on two cores."""

from collections.abc import Iterable

from bench.peers import PEERS
from lcnumba.tools.bench import WORKLOADS

__all__ = ["chosen"]

# Each takes seconds to minutes to build, or to call, on layers larger than these.
_ONLY_ON = {
    "own2": ("digits", "seed1", "cudaconvnet", "bindsnet"),
    "own3": ("digits", "seed1", "cudaconvnet", "bindsnet"),
    "keras2": ("digits", "seed1"),
    "keras3": ("digits", "seed1"),
    # Its step does not fit into memory there, and the graph of its forward takes most of a minute.
    "keras1": tuple(name for name in WORKLOADS if name != "alltnn_1"),
    # XLA compiles a graph of P slices in 40 s where P = 900, and more than proportionally beyond.
    "keras1-xla": ("digits", "seed1", "cudaconvnet", "bindsnet"),
}


def chosen(workload: str, named: Iterable[str] | None, everything: bool) -> list[str]:
    """Return the peers to run on a workload, own1 left out since it always runs.

    Parameters
    ----------
    workload : str
        Its name.
    named : iterable of str, optional
        Peers that the command line names: these run on every workload.
    everything : bool
        Whether to run all peers on all workloads.
    """
    if named is not None:
        return [name for name in PEERS if name in set(named) and name != "own1"]
    candidates = [name for name in PEERS if name != "own1"]
    if everything:
        return candidates
    return [name for name in candidates if workload in _ONLY_ON.get(name, (workload,))]
