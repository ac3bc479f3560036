"""Helpers to test locally connected layers: problems, integer data, exact identities, and a reference implementation.

`lcnumba.testing.reference` computes the layer in plain loops, independently of the rest of the library.
"""

from lcnumba.testing import reference
from lcnumba.testing.problems import PROBLEMS, Problem, adjoint_sums, integers, numerical_gradient

__all__ = ["PROBLEMS", "Problem", "adjoint_sums", "integers", "numerical_gradient", "reference"]


def __dir__() -> list[str]:
    return __all__
