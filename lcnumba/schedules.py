"""Learning rates by step: callables ``schedule(step) -> lr``, step counted from 0. Any such function serves as one."""

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
    """From `lr` down to `final` along half a cosine (Loshchilov and Hutter, 2017), after a linear warm-up if wanted.

    Parameters
    ----------
    lr : float
        The highest rate.
    steps : int
        Steps of the decay; the rate stays at `final` after them.
    warmup : int, default 0
        Steps before it, over which the rate rises linearly from ``lr / (warmup + 1)``.
    final : float, default 0
        The last rate.

    Raises
    ------
    ValueError, TypeError
        If a setting cannot be used.

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
        """Check the settings."""
        lr, final = learning_rate(self.lr), real("final", self.final)
        steps, warmup = integer("steps", self.steps), integer("warmup", self.warmup, 0)
        if not 0 <= final <= lr:
            raise ValueError(f"final={self.final!r} cannot be used; give a rate from 0 to lr={self.lr!r}")
        # NumPy's small integers would overflow with the steps.
        self.__dict__.update(lr=lr, steps=steps, warmup=warmup, final=final)

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        if step < self.warmup:
            return self.lr * (step + 1) / (self.warmup + 1)
        done = min(1.0, (step - self.warmup) / self.steps)
        return self.final + (self.lr - self.final) * (1 + math.cos(math.pi * done)) / 2


@public_class
@dataclass(frozen=True)
class ExponentialDecay:
    """`lr` times `rate` to the power of ``step / steps``: a fall by `rate` in so many steps, as Keras' schedule.

    Parameters
    ----------
    lr : float
        The first rate.
    steps : int
        Steps in which the rate falls by `rate` once.
    rate : float
        What it is multiplied by in so many steps; above 0.
    staircase : bool, default False
        Whether the power is of whole numbers, so that the rate falls once after every so many steps.

    Raises
    ------
    ValueError, TypeError
        If a setting cannot be used.

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
        """Check the settings."""
        lr, steps, rate = learning_rate(self.lr), integer("steps", self.steps), real("rate", self.rate)
        if rate <= 0:
            raise ValueError(f"rate={self.rate!r} cannot be used; give a number above 0")
        self.__dict__.update(lr=lr, steps=steps, rate=rate, staircase=boolean("staircase", self.staircase))

    def __call__(self, step: int) -> float:
        """Return the rate of a step; inf, which no training takes, where that is too large for a float."""
        power = step // self.steps if self.staircase else step / self.steps
        try:
            return self.lr * self.rate**power
        except OverflowError:
            return math.inf


@public_class
@dataclass(frozen=True)
class StepDecay:
    """`lr`, multiplied by `factor` after every so many steps.

    Parameters
    ----------
    lr : float
        The first rate.
    every : int
        Steps between two changes.
    factor : float, default 0.1
        Above 0.

    Raises
    ------
    ValueError, TypeError
        If a setting cannot be used.

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
        """Check the settings."""
        lr, every, factor = learning_rate(self.lr), integer("every", self.every), real("factor", self.factor)
        if factor <= 0:
            raise ValueError(f"factor={self.factor!r} cannot be used; give a number above 0")
        # A power of an integer may have as many digits as there are steps.
        self.__dict__.update(lr=lr, every=every, factor=factor)

    def __call__(self, step: int) -> float:
        """Return the rate of a step; inf, which no training takes, where that is too large for a float."""
        try:
            return self.lr * self.factor ** (step // self.every)
        except OverflowError:
            return math.inf


def __dir__() -> list[str]:
    return __all__
