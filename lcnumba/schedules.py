"""Learning rate schedules: callables ``schedule(step) -> lr``, step counted from 0. Any such function can be used."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from lcnumba.utils.messages import public_class
from lcnumba.utils.validation import boolean, integer, learning_rate, real

__all__ = ["CosineDecay", "ExponentialDecay", "Schedule", "StepDecay"]

Schedule = Callable[[int], float]


@public_class
@dataclass(frozen=True)
class CosineDecay:
    """Cosine decay from `lr` to `final` (Loshchilov and Hutter, 2017), after an optional linear warm-up.

    Parameters
    ----------
    lr : float
        The maximum learning rate.
    steps : int
        Number of steps of the decay; afterwards the learning rate stays at `final`.
    warmup : int, default 0
        Number of steps before it, over which the learning rate rises linearly from ``lr / (warmup + 1)``.
    final : float, default 0
        The final learning rate.

    Raises
    ------
    ValueError, TypeError
        If a parameter is invalid.

    Examples
    --------
    >>> import lcnumba as lc
    >>> schedule = lc.schedules.CosineDecay(1.0, steps=4, warmup=1)
    >>> [round(schedule(step), 3) for step in range(7)]
    [0.5, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    lr: float
    steps: int
    _: KW_ONLY
    warmup: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        """Validate the parameters."""
        lr, final = learning_rate(self.lr), real("final", self.final)
        steps, warmup = integer("steps", self.steps), integer("warmup", self.warmup, 0)
        if not 0 <= final <= lr:
            raise ValueError(f"final must be in [0, lr={self.lr!r}], got {self.final!r}")
        # Python ints, since small NumPy integers would overflow.
        self.__dict__.update(lr=lr, steps=steps, warmup=warmup, final=final)

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step < self.warmup:
            return self.lr * (step + 1) / (self.warmup + 1)
        done = min(1.0, (step - self.warmup) / self.steps)
        return self.final + (self.lr - self.final) * (1 + math.cos(math.pi * done)) / 2


@public_class
@dataclass(frozen=True)
class ExponentialDecay:
    """``lr * rate ** (step / steps)``, as in Keras.

    Parameters
    ----------
    lr : float
        The initial learning rate.
    steps : int
        Number of steps of a decay by `rate`.
    rate : float
        Decay rate, above 0.
    staircase : bool, default False
        Whether the exponent is ``step // steps``, so that the learning rate falls at discrete intervals.

    Raises
    ------
    ValueError, TypeError
        If a parameter is invalid.

    Examples
    --------
    >>> import lcnumba as lc
    >>> schedule = lc.schedules.ExponentialDecay(1.0, 2, 0.25)
    >>> [schedule(step) for step in range(5)]
    [1.0, 0.5, 0.25, 0.125, 0.0625]
    """

    lr: float
    steps: int
    rate: float
    staircase: bool = False

    def __post_init__(self) -> None:
        """Validate the parameters."""
        lr, steps, rate = learning_rate(self.lr), integer("steps", self.steps), real("rate", self.rate)
        if rate <= 0:
            raise ValueError(f"rate must be > 0, got {self.rate!r}")
        self.__dict__.update(lr=lr, steps=steps, rate=rate, staircase=boolean("staircase", self.staircase))

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step; inf, which training refuses, on overflow."""
        power = step // self.steps if self.staircase else step / self.steps
        try:
            return self.lr * self.rate**power
        except OverflowError:
            return math.inf


@public_class
@dataclass(frozen=True)
class StepDecay:
    """``lr * factor ** (step // every)``.

    Parameters
    ----------
    lr : float
        The initial learning rate.
    every : int
        Number of steps between two changes.
    factor : float, default 0.1
        Above 0.

    Raises
    ------
    ValueError, TypeError
        If a parameter is invalid.

    Examples
    --------
    >>> import lcnumba as lc
    >>> schedule = lc.schedules.StepDecay(1.0, every=2, factor=0.5)
    >>> [schedule(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    lr: float
    every: int
    _: KW_ONLY
    factor: float = 0.1

    def __post_init__(self) -> None:
        """Validate the parameters."""
        lr, every, factor = learning_rate(self.lr), integer("every", self.every), real("factor", self.factor)
        if factor <= 0:
            raise ValueError(f"factor must be > 0, got {self.factor!r}")
        # A float, since the power of a Python int may have thousands of digits.
        self.__dict__.update(lr=lr, every=every, factor=factor)

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step; inf, which training refuses, on overflow."""
        try:
            return self.lr * self.factor ** (step // self.every)
        except OverflowError:
            return math.inf


def __dir__() -> list[str]:
    return __all__
