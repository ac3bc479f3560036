"""Update rules of the optimizers as kernels take them, and the least work that is worth threads."""

from typing import Any, NamedTuple

import numpy.typing as npt

from lcnumba.runtime.threads import count

__all__ = [
    "ABSOLUTE",
    "FACTOR",
    "FORMULA",
    "GRADIENT",
    "HUBER",
    "LINE_BYTES",
    "NO_GRADIENT",
    "SERIAL_WORK",
    "SQUARED",
    "AdamScalars",
    "MomentumScalars",
    "NesterovScalars",
    "RMSpropScalars",
    "Rule",
    "SGDScalars",
    "Scalars",
    "workers",
]

# Multiplications and additions below which a single thread is faster.
SERIAL_WORK = 1 << 20

# Bytes of a cache line. Constants of compiled code must be defined in this folder, which the stamp of the disk cache
# covers.
LINE_BYTES = 64

# What the backward kernel does with a gradient: nothing, store it, subtract its multiple from the weights as it is
# computed (plain SGD, which needs no gradient in memory), or update the weights by a formula of
# `lcnumba.kernels.update`.
NO_GRADIENT, GRADIENT, FACTOR, FORMULA = range(-1, 3)

# Loss of a difference: squared, absolute, or Huber (half the square up to delta, linear beyond).
SQUARED, ABSOLUTE, HUBER = range(3)


class SGDScalars(NamedTuple):
    """The scalars of SGD without momentum."""

    lr: float


class MomentumScalars(NamedTuple):
    """The scalars of SGD with momentum; its state is the velocity."""

    lr: float
    momentum: float


class NesterovScalars(NamedTuple):
    """The scalars of SGD with Nesterov momentum; its state is the velocity."""

    lr: float
    momentum: float


class AdamScalars(NamedTuple):
    """The scalars of Adam and AdamW; the states are the first and the second moment.

    `lr` includes the bias correction, `decay` is the weight decay times the learning rate. Differences from 1 are
    computed in float64.
    """

    lr: float
    beta_1: float
    beta_2: float
    one_minus_beta_1: float
    one_minus_beta_2: float
    epsilon: float
    decay: float


class RMSpropScalars(NamedTuple):
    """The scalars of RMSprop; its state is the mean square."""

    lr: float
    rho: float
    one_minus_rho: float
    epsilon: float


# A formula is chosen by the type of its scalars.
Scalars = SGDScalars | MomentumScalars | NesterovScalars | AdamScalars | RMSpropScalars


class Rule(NamedTuple):
    """One optimizer's update formula with its states and scalars.

    Attributes
    ----------
    scalars : Scalars
        The learning rate and the other scalars; their type is the formula.
    states : tuple of arrays
        The optimizer's state arrays, two at most, of the parameter's shape.
    l1, l2 : float
        Factors of the penalty l1 |w| + l2 w^2, whose gradient is added to that of the loss.
    non_negative : bool
        Whether weights are clipped at 0 after the update.
    """

    scalars: Scalars
    states: tuple[npt.NDArray[Any], ...] = ()
    l1: float = 0.0
    l2: float = 0.0
    non_negative: bool = False

    def regularized(self, l1: float, l2: float, non_negative: bool) -> "Rule":
        """Return the rule with the penalty and constraint replaced."""
        return self._replace(l1=l1, l2=l2, non_negative=non_negative)

    @property
    def is_factor(self) -> bool:
        """Whether the update subtracts a multiple of the gradient and does nothing else."""
        return type(self.scalars) is SGDScalars and not (self.l1 or self.l2 or self.non_negative)


def workers(work: int, threads: int | None) -> int:
    """Return the number of workers for `work` multiplications and additions: 1, or `threads` (None: all)."""
    return 1 if work <= SERIAL_WORK else threads or count()
