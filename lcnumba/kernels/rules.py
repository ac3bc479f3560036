"""Update rules of the optimizers as kernels take them, and the least work that is worth threads."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lcnumba.runtime.threads import count

__all__ = [
    "ABSOLUTE",
    "ADAM",
    "GRADIENT",
    "HUBER",
    "L1",
    "L2",
    "LINE_BYTES",
    "MOMENTUM",
    "NESTEROV",
    "NON_NEGATIVE",
    "NO_GRADIENT",
    "N_HYPERPARAMETERS",
    "RMSPROP",
    "SERIAL_WORK",
    "SGD",
    "SGD_REGULARIZED",
    "SQUARED",
    "Rule",
    "workers",
]

# Multiplications and additions below which a single thread is faster.
SERIAL_WORK = 1 << 20

# Bytes of a cache line. Constants of compiled code must be defined in this folder, which the stamp of the disk cache
# covers.
LINE_BYTES = 64

# What the backward kernel does with a gradient: nothing, store it, or update the weights by the formula of that
# name in `lcnumba.kernels.update`. Only SGD needs no gradient in memory; SGD_REGULARIZED is the same formula with a
# penalty or constraint. Numbers above SGD are formulas that need it (`weight_gradient.py`): a new one is appended, and
# has two states and N_SCALARS scalars at most.
NO_GRADIENT, GRADIENT, SGD, MOMENTUM, NESTEROV, ADAM, RMSPROP, SGD_REGULARIZED = range(-1, 7)

# Loss of a difference: squared, absolute, or Huber (half the square up to delta, linear beyond).
SQUARED, ABSOLUTE, HUBER = range(3)

# The most scalars of any formula. The penalty factors and the non-negativity flag follow them.
N_SCALARS = 7
L1, L2, NON_NEGATIVE = range(N_SCALARS, N_SCALARS + 3)
N_HYPERPARAMETERS = N_SCALARS + 3


class Rule(NamedTuple):
    """One optimizer's update formula with its states and hyperparameters.

    Attributes
    ----------
    number : int
        The formula, one of the constants of this module.
    states : tuple of arrays
        The optimizer's state arrays, of the parameter's shape.
    hyperparameters : tuple of float
        The learning rate and the other scalars of the formula.
    l1, l2 : float
        Factors of the penalty l1 |w| + l2 w^2, whose gradient is added to that of the loss.
    non_negative : bool
        Whether weights are clipped at 0 after the update.
    """

    number: int
    states: tuple[npt.NDArray[Any], ...]
    hyperparameters: tuple[float, ...]
    l1: float = 0.0
    l2: float = 0.0
    non_negative: bool = False

    def regularized(self, l1: float, l2: float, non_negative: bool) -> "Rule":
        """Return the rule with the penalty and constraint replaced."""
        regularized = bool(l1 or l2 or non_negative)
        number = SGD_REGULARIZED if regularized and self.number == SGD else self.number
        return self._replace(number=number, l1=l1, l2=l2, non_negative=non_negative)

    def packed(self, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return all scalars in one array of the weights' dtype, the form that kernels take."""
        packed = np.zeros(N_HYPERPARAMETERS, dtype)
        packed[: len(self.hyperparameters)] = self.hyperparameters
        packed[L1], packed[L2], packed[NON_NEGATIVE] = self.l1, 2 * self.l2, self.non_negative
        return packed


def workers(work: int, threads: int | None) -> int:
    """Return the number of workers for `work` multiplications and additions: 1, or `threads` (None: all)."""
    return 1 if work <= SERIAL_WORK else threads or count()
