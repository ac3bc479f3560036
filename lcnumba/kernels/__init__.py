"""Numba kernels: bare loops over contiguous arrays, without a word of validation.

The contract: a kernel takes C-contiguous arrays and integers, writes into arrays it is given,
allocates nothing, raises nothing, and knows no strings. Arrays that are only read come as read-only
views (`lcnumba.arrays.frozen`), so that one compiled specialisation a dtype is enough. A kernel's work
is cut into tasks by shapes alone, every output element is written by exactly one task, and no sum is
divided among tasks: results do not depend on who computes which task, nor on how many threads there
are. Below a fixed amount of work a kernel runs in the calling thread.

Dimensions, in every file of this folder::

    N  batch                       P  output positions (LO * OW)
    LI input lines   W  columns    LO output lines   OW output columns
    C  channels                    F  filters
    A  tap lines     KW taps       K  window entries (A * KW * C)

Backward mirrors forward: x, kernel, bias, y / dx, dkernel, dbias, dy.
"""

from typing import Any, NamedTuple

import numpy.typing as npt

__all__ = ["ADAM", "LINE_BYTES", "MOMENTUM", "NESTEROV", "NUMBERS", "RMSPROP", "SERIAL_WORK", "SGD", "Rule", "slots"]

# Multiplications and additions up to which threads would cost more than they bring.
SERIAL_WORK = 1 << 20

# Bytes of a cache line. A constant of compiled code must be defined in this folder, which is what the cache
# on disk watches.
LINE_BYTES = 64

# What the backward kernel does with a gradient: nothing, hand it out, or update the weights at once by
# the formula of that name in `lcnumba.kernels.update`.
NO_GRADIENT, GRADIENT, SGD, MOMENTUM, NESTEROV, ADAM, RMSPROP = range(-1, 6)

# Scalars of the formula that has the most.
NUMBERS = 6


class Rule(NamedTuple):
    """One optimizer's formula, ready to be applied.

    Attributes
    ----------
    number : int
        Which formula.
    states : tuple of arrays
        The arrays that it changes beside the parameter, of the parameter's shape.
    numbers : tuple of float
        Its scalars, the learning rate first.
    """

    number: int
    states: tuple[npt.NDArray[Any], ...]
    numbers: tuple[float, ...]


def slots(work: int, threads: int | None) -> int:
    """Return how many threads `work` multiplications and additions are worth: one, or `threads`, or all."""
    if work <= SERIAL_WORK:
        return 1
    import numba

    return threads or int(numba.get_num_threads())
