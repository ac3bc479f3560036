"""What belongs to an array beside its gradient: its penalty, and its constraint."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lcnumba import constraints, regularizers
from lcnumba.kernels.rules import Rule
from lcnumba.utils.arrays import like_model, read_only
from lcnumba.utils.types import Array

__all__ = ["Restraint"]


@dataclass(frozen=True)
class Restraint:
    """What belongs to an array beside its gradient: its penalty, and what it is brought back to after a step."""

    regularizer: regularizers.Regularizer | None = None
    constraint: constraints.Constraint | None = None

    @property
    def built_in(self) -> bool:
        """Whether no code of users is involved, which could fail."""
        return regularizers.is_built_in(self.regularizer) and constraints.is_built_in(self.constraint)

    def check(self, name: str, dtype: np.dtype[Any]) -> None:
        """Raise if the slope of the penalty would be infinite at any weight."""
        if isinstance(self.regularizer, regularizers.L1L2):
            for factor, value in (("l1", self.regularizer.l1), ("l2", self.regularizer.l2)):
                if 2 * value > float(np.finfo(dtype).max):
                    raise ValueError(
                        f"{factor}={value!r} of {name}_regularizer cannot be used; give a number that is finite in "
                        f"{dtype}"
                    )

    def on(self, rule: Rule) -> Rule:
        """Return the formula of a step with the penalty, and with a constraint of single numbers."""
        l1, l2 = (
            (self.regularizer.l1, self.regularizer.l2) if isinstance(self.regularizer, regularizers.L1L2) else (0, 0)
        )
        return rule.regularized(l1, l2, isinstance(self.constraint, constraints.NonNeg))

    def finish(self, array: Array) -> None:
        """Bring norms back, in place, after a step by `on`."""
        if isinstance(self.constraint, constraints.Norm):
            self.constraint.apply(array)

    def total(self, array: Array, grad: Array) -> Array:
        """Return the gradient of loss and penalty, whoever wrote the penalty."""
        if self.regularizer is None:
            return grad
        gradient = self.regularizer.gradient(read_only(array))
        return grad + like_model(f"the gradient of regularizer {self.regularizer!r}", gradient, array)

    def bring_back(self, array: Array) -> None:
        """Let the constraint change an array, whoever wrote it."""
        if self.constraint is None:
            return
        array[...] = like_model(f"what constraint {self.constraint!r} returned", self.constraint(array), array)
