"""The roofline model: the minimum time of an operation, from its work and the machine's limits.

The arithmetic counts existing connections, with two operations (a multiplication and an addition) per sample and
filter. The memory traffic counts each necessary pass over an array: W the kernel, X the input, Y the output.
Written elements count twice, since their cache lines are read first. A step is the fused one with plain SGD: the
weights are read by forward, and read and written in place by the update; their gradient is never written.
"""

from typing import Any, NamedTuple

from lcnumba.connectivity.geometry import Geometry

__all__ = ["Work", "geometry", "roofline", "work"]


class Work(NamedTuple):
    """The minimum work of an operation.

    Attributes
    ----------
    flop : int
        Multiplications and additions.
    read, written : int
        Memory traffic in bytes of arrays that are read, and of those that are written or updated in place.
    held : int
        Total bytes of the arrays.
    """

    flop: int
    read: int
    written: int
    footprint: int


def geometry(case: Any) -> Geometry:
    """Return the `Geometry` of a case."""
    height, width, channels = case.input_size
    modes = tuple("circular" if circular else "zeros" for circular in case.circular)
    return Geometry(
        (height, width), channels, case.filters, case.kernel_size, case.strides, padding=case.padding,
        padding_mode=modes,
    )  # fmt: skip


def work(case: Any, operation: str) -> Work:
    """Count the work of "forward" or "step".

    Parameters
    ----------
    case : Case
        Layer size and dtype.
    operation : {"forward", "step"}
        The operation.
    """
    g = geometry(case)
    product = 2 * case.batch * g.connections * case.filters
    W = g.connections * case.filters * case.itemsize
    X = case.batch * g.inputs * case.itemsize
    b = g.positions * case.filters * case.itemsize
    Y = case.batch * b
    if operation == "forward":
        return Work(product, W + X + b, 2 * Y, W + X + Y + b)
    return Work(3 * product, W + 2 * X + 2 * Y, 2 * W + 2 * (X + Y), W + 2 * X + 2 * Y + b)


def roofline(amount: Work, limits: dict[str, float], seconds: float) -> dict[str, Any]:
    """Compare a measured time with the roofline.

    Parameters
    ----------
    amount : Work
        The work of the operation.
    limits : dict
        "read" and "update", bytes per second; "products", operations per second.
    seconds : float
        The measured time.

    Returns
    -------
    dict
        Achieved "gflops" and "gbs"; "roof", the roofline time in seconds; "bound", "memory" or "arithmetic";
        "efficiency", roof divided by time.
    """
    memory = amount.read / limits["read"] + amount.written / limits["update"]
    arithmetic = amount.flop / limits["products"]
    roof = max(memory, arithmetic)
    return {
        "gflops": amount.flop / seconds / 1e9,
        "gbs": (amount.read + amount.written) / seconds / 1e9,
        "roof": roof,
        "bound": "memory" if memory > arithmetic else "arithmetic",
        "efficiency": roof / seconds,
    }
