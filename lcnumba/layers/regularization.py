"""The penalty and the constraint of one weight array."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lcnumba import constraints, regularizers
from lcnumba.kernels.rules import Rule
from lcnumba.utils.arrays import like_model, read_only
from lcnumba.utils.types import Array, Mask

__all__ = ["Regularization"]

# Entries of a mask that are negated at a time: running out of memory half-way could not be undone.
ABSENT = 1 << 16


@dataclass(frozen=True)
class Regularization:
    """The penalty of one weight array, and the constraint applied after each step."""

    regularizer: regularizers.Regularizer | None = None
    constraint: constraints.Constraint | None = None

    @property
    def built_in(self) -> bool:
        """Whether both are built in: user code may raise."""
        return regularizers.is_built_in(self.regularizer) and constraints.is_built_in(self.constraint)

    def check(self, name: str, dtype: np.dtype[Any]) -> None:
        """Raise if the derivative of the penalty overflows the dtype."""
        if isinstance(self.regularizer, regularizers.L1L2):
            for factor, value in (("l1", self.regularizer.l1), ("l2", self.regularizer.l2)):
                if 2 * value > float(np.finfo(dtype).max):
                    raise ValueError(f"{factor}={value!r} of {name}_regularizer is too large for {dtype}")

    def extend_rule(self, rule: Rule) -> Rule:
        """Return the update rule with the penalty and any element-wise constraint included."""
        if self.regularizer is None and self.constraint is None:
            return rule
        l1, l2 = (
            (self.regularizer.l1, self.regularizer.l2) if isinstance(self.regularizer, regularizers.L1L2) else (0, 0)
        )
        return rule.regularized(l1, l2, isinstance(self.constraint, constraints.NonNeg))

    def apply_norm_constraint(self, array: Array, exists: Mask | None) -> None:
        """Apply a norm constraint in place, after a step by the rule of `extend_rule`.

        Where `exists`, of the array's shape or without its last axis, is False, 0 stays 0: times the factor of a norm
        that is infinite or NaN it would be NaN.
        """
        if not isinstance(self.constraint, constraints.Norm):
            return
        self.constraint.apply(array)
        if exists is None:
            return
        exists = exists if exists.ndim == array.ndim else exists[..., None]
        length = max(1, ABSENT // max(1, math.prod(exists.shape[1:])))
        for begin in range(0, len(array), length):
            rows = slice(begin, begin + length)
            np.copyto(array[rows], 0, where=~exists[rows])

    def total_gradient(self, array: Array, grad: Array) -> Array:
        """Return the gradient of loss and penalty; the penalty may be user code."""
        if self.regularizer is None:
            return grad
        gradient = self.regularizer.gradient(read_only(array))
        return grad + like_model(f"the gradient of regularizer {self.regularizer!r}", gradient, array)

    def project(self, array: Array) -> None:
        """Apply the constraint in place; it may be user code."""
        if self.constraint is None:
            return
        array[...] = like_model(f"the result of constraint {self.constraint!r}", self.constraint(array), array)
