"""Default selection of peers for each workload: a run takes 20 minutes on two cores."""

from collections.abc import Iterable

from bench.peers import PEERS
from lcnumba.tools.bench import WORKLOADS

__all__ = ["chosen"]

# On larger layers, building or calling these peers takes seconds to minutes.
_ONLY_ON = {
    "own2": ("digits", "seed1", "cudaconvnet", "bindsnet"),
    "own3": ("digits", "seed1", "cudaconvnet", "bindsnet"),
    "keras2": ("digits", "seed1"),
    "keras3": ("digits", "seed1"),
    # Its step runs out of memory there, and building the graph of its forward takes almost a minute.
    "keras1": tuple(name for name in WORKLOADS if name not in ("alltnn_1", "snps_large", "field")),
    # XLA compiles a graph of P slices in 40 s for P = 900, and the time grows faster than P.
    "keras1-xla": ("digits", "seed1", "cudaconvnet", "bindsnet"),
}


def chosen(workload: str, named: Iterable[str] | None, everything: bool) -> list[str]:
    """Return the peers to run on a workload, except own1, which always runs.

    Parameters
    ----------
    workload : str
        Name of the workload.
    named : iterable of str, optional
        Peers given on the command line, which run on every workload.
    everything : bool
        Run all peers on all workloads.
    """
    if named is not None:
        return [name for name in PEERS if name in set(named) and name != "own1"]
    candidates = [name for name, peer in PEERS.items() if name != "own1" and not peer.in_training]
    if everything:
        return candidates
    return [name for name in candidates if workload in _ONLY_ON.get(name, (workload,))]
