"""The estimated cost of each implementation, from shapes alone, and the choice of "auto".

An estimate knows no machine, so that `implementation="auto"` chooses the same everywhere and results stay
reproducible. `lcnumba.tune` measures.
"""

from typing import NamedTuple

from lcnumba.connectivity.geometry import Geometry
from lcnumba.utils.messages import warn

__all__ = ["Cost", "choose", "costs", "explained"]

# The batch size for which "auto" estimates.
TYPICAL_BATCH = 32
# The share of peak arithmetic that each reaches: the kernels of implementation 1 with full vectors of filters,
# products with a dense matrix, and sparse products, whose every weight loads a row.
LOOPS, DENSE, SPARSE = 0.7, 0.7, 0.1
# Filters that fill a vector. Fewer leave lanes idle, down to the shortest vectors, of 4.
FULL, SHORTEST = 16, 4
# Multiplications and additions in the time of reading a number from memory, and of writing it.
READ, WRITE = 10, 50
# Bytes that another layout of the weights may always take, however few the weights are.
SMALL = 1 << 26


NAMES = {1: "loops", 2: "dense", 3: "sparse"}


class Cost(NamedTuple):
    """What one implementation needs for a batch.

    Attributes
    ----------
    implementation : int
        1 loops, 2 dense, 3 sparse.
    flop_forward, flop_step : int
        Multiplications and additions, those with zeros included; a step is forward, dx, the
        kernel's gradient and its application.
    memory : int
        Bytes beside weights, gradients, inputs and outputs.
    bytes_step : int
        Bytes of weights, in any layout, that a step reads and writes.
    estimate : float
        The time of a step, in multiplications and additions at peak rate.
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
    """Return what each implementation needs for a step on `batch` samples of numbers of `itemsize` bytes."""
    g = geometry
    weights = g.connections * g.filters
    products = 2 * batch * weights  # of forward, of dx, and of the kernel's gradient
    lanes = SHORTEST
    while lanes < min(g.filters, FULL):
        lanes *= 2
    vectors = -(-g.filters // lanes)
    use = LOOPS * (lanes / FULL) * g.filters / (vectors * lanes)
    # dx runs along the batch, where lanes are idle only if that is small.
    dx_use = LOOPS * min(1.0, batch / FULL)
    # Forward reads the weights, and so does the step, which writes them too; with it come x and y.
    loops_traffic = (2 * READ + WRITE) * weights
    loops = products * (2 / use + 1 / dx_use) + loops_traffic
    dense_numbers = g.inputs * g.positions * g.filters
    dense_products = 2 * batch * dense_numbers
    # The matrix is read by two products, and rewritten at existing connections after every step.
    dense = 2 * dense_products / DENSE + products / use + loops_traffic + 2 * READ * dense_numbers + WRITE * weights
    sparse = products * (2 / SPARSE + 1 / use) + loops_traffic + 4 * READ * weights + WRITE * weights
    index = 4 if max(weights, g.inputs) < 2**31 else 8
    return (
        Cost(1, products, 3 * products, 0, 3 * weights * itemsize, loops),
        Cost(
            2, dense_products, 2 * dense_products + products, dense_numbers * itemsize + 8 * g.positions * g.window,
            (2 * dense_numbers + 4 * weights) * itemsize, dense,
        ),
        Cost(
            3, products, 3 * products, weights * (itemsize + 3 * index),
            (2 * weights + 4 * weights) * itemsize + 4 * weights * index, sparse,
        ),
    )  # fmt: skip


def choose(geometry: Geometry, itemsize: int) -> int:
    """Return the implementation with the lowest estimate among those whose memory is in proportion to the weights."""
    table = costs(geometry, TYPICAL_BATCH, itemsize)
    allowed = max(SMALL, 2 * geometry.connections * geometry.filters * itemsize)
    return min((cost for cost in table if cost.memory <= allowed), key=lambda cost: cost.estimate).implementation


def explained(geometry: Geometry, batch: int, itemsize: int, setting: int | str, used: int) -> str:
    """Return the costs as a table, and what was chosen by which setting."""
    head = ("implementation", "GFLOP forward", "GFLOP step", "MB extra", "MB of weights moved", "estimate")
    table = costs(geometry, batch, itemsize)
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
    weights = geometry.connections * geometry.filters
    share = geometry.connections / (geometry.inputs * geometry.positions)
    first = (
        f"{weights:,} weights ({weights * itemsize / 1e6:.3g} MB), {share:.2%} of a dense matrix; "
        f"batch of {batch}, {8 * itemsize} bits"
    )
    why = f"the lowest estimate for a batch of {TYPICAL_BATCH}" if setting == "auto" else "as set"
    last = f"* in use: implementation {used}, {why}. The estimate is of shapes alone; lcnumba.tune measures."
    return "\n".join((first, *lines, last))
