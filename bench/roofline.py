"""How fast a machine could be at best: the work of an operation over the machine's limits.

The arithmetic counts connections that exist, two operations each (a multiplication and an
addition) per sample and filter. The traffic counts each array once for each time that it must
pass, W the kernel, X the input, Y the output; a number that is written counts twice, since its
cache line is read first. A step is the fused one with plain SGD: the weights are read for the
forward, and read and written in place for the update; their gradient is never written.
"""

from typing import Any, NamedTuple

from lcnumba.connectivity.geometry import Geometry

__all__ = ["Work", "geometry", "roofline", "work"]


class Work(NamedTuple):
    """What an operation has to do at least.

    Attributes
    ----------
    flop : int
        Multiplications and additions.
    read, written : int
        Bytes of traffic of arrays that are read, and of those that are written or updated in place.
    held : int
        Bytes of all arrays that take part.
    """

    flop: int
    read: int
    written: int
    held: int


def geometry(case: Any) -> Geometry:
    """Return lcnumba's description of a case."""
    height, width, channels = case.input_size
    return Geometry((height, width), channels, case.filters, case.kernel_size, case.strides, padding=case.padding)


def work(case: Any, operation: str) -> Work:
    """Count the work of "forward" or "step".

    Parameters
    ----------
    case : Case
        The size and the type.
    operation : {"forward", "step"}
        Which.
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
    """Set a time in relation to the limits.

    Parameters
    ----------
    amount : Work
        What was done.
    limits : dict
        "read" and "update", bytes of traffic a second; "gemm", operations a second.
    seconds : float
        What it took.

    Returns
    -------
    dict
        "gflops" and "gbs" that were reached; "roof", the seconds that it takes at best; "bound",
        "memory" or "arithmetic"; "efficiency", roof by time.
    """
    memory = amount.read / limits["read"] + amount.written / limits["update"]
    arithmetic = amount.flop / limits["gemm"]
    roof = max(memory, arithmetic)
    return {
        "gflops": amount.flop / seconds / 1e9,
        "gbs": (amount.read + amount.written) / seconds / 1e9,
        "roof": roof,
        "bound": "memory" if memory > arithmetic else "arithmetic",
        "efficiency": roof / seconds,
    }
