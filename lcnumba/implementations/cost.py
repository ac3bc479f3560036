"""The estimated cost of each implementation, from shapes alone, and the choice of "auto".

Estimates do not depend on the machine, so that `implementation="auto"` chooses the same everywhere and results are
reproducible. `lcnumba.tune` measures.
"""

import math
from typing import NamedTuple

from lcnumba.connectivity.geometry import Geometry
from lcnumba.connectivity.topology import Topology
from lcnumba.utils.messages import warn

__all__ = ["Cost", "choose", "costs", "costs_directed", "explained", "explained_directed"]

# The batch size for which "auto" estimates.
TYPICAL_BATCH = 32
# Fractions of peak arithmetic: the kernels of implementation 1 with full vectors of filters, products with a dense
# matrix, and sparse products, which load a row for every weight.
LOOPS, DENSE, SPARSE = 0.7, 0.7, 0.1
# Filters that fill a vector; fewer leave lanes idle, down to the shortest vectors, of 4.
FULL, SHORTEST = 16, 4
# Multiplications and additions in the time of reading one element from memory, and of writing it.
READ, WRITE = 10, 50
# Bytes at most of a connection in the list of `implementations/directed.py`.
SEGMENT_BYTES = 16
# Bytes that another layout of the weights may always use, regardless of the number of weights.
SMALL = 1 << 26


NAMES = {1: "loops", 2: "dense", 3: "sparse"}


class Cost(NamedTuple):
    """The estimated cost of one implementation for a batch.

    Attributes
    ----------
    implementation : int
        1 loops, 2 dense, 3 sparse.
    flop_forward, flop_step : int
        Multiplications and additions, including those with zeros; a step is forward, dx, the kernel's gradient and
        its update.
    memory : int
        Bytes in addition to weights, gradients, inputs and outputs.
    bytes_step : int
        Bytes of weights, in any layout, that a step reads and writes.
    estimate : float
        Time of a step, in units of a multiplication or addition at peak rate.
    """

    implementation: int
    flop_forward: int
    flop_step: int
    memory: int
    bytes_step: int
    estimate: float

    @property
    def effort(self) -> float:
        """Deprecated; use `estimate`."""
        warn("Cost.effort is deprecated; use estimate", DeprecationWarning)
        return self.estimate


def costs(geometry: Geometry, batch: int, itemsize: int) -> tuple[Cost, Cost, Cost]:
    """Return the cost of each implementation for a step on `batch` samples with elements of `itemsize` bytes."""
    g = geometry
    weights = g.connections * g.filters  # as many as there are connections: of a matrix, even if positions share them
    stored = weights if g.sets is None else math.prod(g.kernel_shape)
    products = 2 * batch * weights  # each of forward, dx and the kernel's gradient
    filters, lanes = g.filters // g.groups, SHORTEST
    while lanes < min(filters, FULL):
        lanes *= 2
    vectors = -(-filters // lanes)
    use = LOOPS * (lanes / FULL) * filters / (vectors * lanes)
    # dx is vectorized along the batch, and with groups forward as well: lanes are idle only for small batches.
    dx_use = LOOPS * min(1.0, batch / FULL)
    if g.groups > 1:
        use = max(use, dx_use)
    # Forward reads the weights; the step reads and writes them.
    loops_traffic = (2 * READ + WRITE) * stored
    loops = products * (2 / use + 1 / dx_use) + loops_traffic
    dense_elements = g.inputs * g.positions * g.filters
    dense_products = 2 * batch * dense_elements
    # Two products read the matrix; every step rewrites it at existing connections.
    dense = 2 * dense_products / DENSE + products / use + loops_traffic + 2 * READ * dense_elements + WRITE * weights
    sparse = products * (2 / SPARSE + 1 / use) + loops_traffic + 4 * READ * weights + WRITE * weights
    index = 4 if max(weights, g.inputs) < 2**31 else 8
    return (
        Cost(1, products, 3 * products, 0, 3 * stored * itemsize, loops),
        Cost(
            2, dense_products, 2 * dense_products + products, dense_elements * itemsize + 8 * g.positions * g.window,
            (2 * dense_elements + 4 * stored) * itemsize, dense,
        ),
        Cost(
            3, products, 3 * products, weights * (itemsize + 3 * index),
            (2 * weights + 4 * stored) * itemsize + 4 * weights * index, sparse,
        ),
    )  # fmt: skip


def costs_directed(topology: Topology, channels: int, filters: int, batch: int, itemsize: int) -> tuple[Cost]:
    """Return the cost of the only implementation of connections that are given one by one."""
    connections, outputs = len(topology.indices), topology.shape[1]
    weights = connections * channels * filters
    products = 2 * batch * weights
    # Both passes read x, whose blocks they transpose, and the weights, most of them in no order.
    estimate = 3 * products / LOOPS + 2 * READ * batch * topology.shape[0] * channels + 3 * WRITE * weights
    # dy is transposed, and connections are listed in the order in which x is read.
    memory = batch * outputs * filters * itemsize + SEGMENT_BYTES * connections
    return (Cost(1, products, 3 * products, memory, 3 * weights * itemsize, estimate),)


def choose(geometry: Geometry, itemsize: int) -> int:
    """Return the implementation with the lowest estimate among those whose memory is proportional to the weights."""
    table = costs(geometry, TYPICAL_BATCH, itemsize)
    allowed = max(SMALL, 2 * geometry.connections * geometry.filters * itemsize)
    return min((cost for cost in table if cost.memory <= allowed), key=lambda cost: cost.estimate).implementation


def explained(geometry: Geometry, batch: int, itemsize: int, setting: int | str, used: int) -> str:
    """Return a table of the costs, and which implementation is used and why."""
    g, why = geometry, f"the lowest estimate for a batch of {TYPICAL_BATCH}" if setting == "auto" else "as set"
    weights = g.connections * g.filters if g.sets is None else math.prod(g.kernel_shape)
    share = g.connections / (g.inputs * g.positions)
    last = f"* in use: implementation {used}, {why}. Estimates depend on shapes alone; lcnumba.tune measures."
    return _text(costs(g, batch, itemsize), used, weights, share, batch, itemsize, last)


def explained_directed(topology: Topology, channels: int, filters: int, batch: int, itemsize: int) -> str:
    """Return the cost of connections that are given one by one, as `explained`."""
    table, (inputs, outputs) = costs_directed(topology, channels, filters, batch, itemsize), topology.shape
    weights, share = len(topology.indices) * channels * filters, len(topology.indices) / (inputs * outputs)
    return _text(table, 1, weights, share, batch, itemsize, "* the only implementation of this layer.")


def _text(table: tuple[Cost, ...], used: int, weights: int, share: float, batch: int, itemsize: int, last: str) -> str:
    head = ("implementation", "GFLOP forward", "GFLOP step", "MB extra", "MB of weights moved", "estimate")
    least = min(cost.estimate for cost in table)
    rows = [
        (
            f"{cost.implementation} {NAMES[cost.implementation]}{' *' if cost.implementation == used else ''}",
            f"{cost.flop_forward / 1e9:.3g}", f"{cost.flop_step / 1e9:.3g}", f"{cost.memory / 1e6:.3g}",
            f"{cost.bytes_step / 1e6:.3g}", f"{cost.estimate / least:.2g}",
        )
        for cost in table
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    percent = f"{share:.2%}" if share >= 1e-4 else f"{100 * share:.2g}%"
    first = (
        f"{weights:,} weights ({weights * itemsize / 1e6:.3g} MB), {percent} of a dense matrix; "
        f"batch of {batch}, {8 * itemsize} bits"
    )
    return "\n".join((first, *lines, last))
