"""Material for tests of local layers, the library's own and yours: problems, exact identities, and the slow oracle.

`lcnumba.testing.reference` computes the layer in plain loops, independently of all else here.
"""

from lcnumba.testing.problems import PROBLEMS, Problem, adjoint_sums, integers, numerical_gradient

__all__ = ["PROBLEMS", "Problem", "adjoint_sums", "integers", "numerical_gradient"]


def __dir__() -> list[str]:
    return __all__
