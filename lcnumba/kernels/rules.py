"""What kernels are told of an optimizer's formula, and how much work is worth threads."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lcnumba.runtime.threads import count

__all__ = [
    "ABSOLUTE",
    "ADAM",
    "DESCENT",
    "GRADIENT",
    "HUBER",
    "L1",
    "L2",
    "LINE_BYTES",
    "MOMENTUM",
    "NESTEROV",
    "NON_NEGATIVE",
    "NO_GRADIENT",
    "NUMBERS",
    "RMSPROP",
    "SERIAL_WORK",
    "SGD",
    "SQUARED",
    "Rule",
    "slots",
]

# Multiplications and additions up to which threads would cost more than they bring.
SERIAL_WORK = 1 << 20

# Bytes of a cache line. A constant of compiled code must be defined in this folder, which is what the cache
# on disk watches.
LINE_BYTES = 64

# What the backward kernel does with a gradient: nothing, hand it out, or update the weights at once by
# the formula of that name in `lcnumba.kernels.update`.
# SGD alone does without a gradient in memory, where the weights have no penalty or constraint: DESCENT is the
# same formula with them.
NO_GRADIENT, GRADIENT, SGD, MOMENTUM, NESTEROV, ADAM, RMSPROP, DESCENT = range(-1, 7)

# What a difference costs: its square, its absolute value, or half the square up to a bound and a line beyond.
SQUARED, ABSOLUTE, HUBER = range(3)

# Scalars of the formula that has the most; penalties' factors and whether weights stay above 0 come after them.
SCALARS = 7
L1, L2, NON_NEGATIVE = range(SCALARS, SCALARS + 3)
NUMBERS = SCALARS + 3


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
    l1, l2 : float
        Factors of the weights' penalty l1 |w| + l2 w^2, whose slope is added to the gradient.
    non_negative : bool
        Whether weights below 0 become 0 afterwards.
    """

    number: int
    states: tuple[npt.NDArray[Any], ...]
    numbers: tuple[float, ...]
    l1: float = 0.0
    l2: float = 0.0
    non_negative: bool = False

    def restrained(self, l1: float, l2: float, non_negative: bool) -> "Rule":
        """Return the same formula with a penalty and a constraint, or without."""
        restrained = bool(l1 or l2 or non_negative)
        number = DESCENT if restrained and self.number == SGD else self.number
        return self._replace(number=number, l1=l1, l2=l2, non_negative=non_negative)

    def packed(self, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return all scalars in one array of the weights' dtype, as kernels take them."""
        packed = np.zeros(NUMBERS, dtype)
        packed[: len(self.numbers)] = self.numbers
        packed[L1], packed[L2], packed[NON_NEGATIVE] = self.l1, 2 * self.l2, self.non_negative
        return packed


def slots(work: int, threads: int | None) -> int:
    """Return how many threads `work` multiplications and additions are worth: one, or `threads`, or all."""
    return 1 if work <= SERIAL_WORK else threads or count()
