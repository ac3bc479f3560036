"""Training on several processes and machines: a model's weights divided by position, over MPI.

`distribute` makes a model of which each rank has a stripe. docs/distributed.md says when that pays off, and how it is
started.
"""

from lcnumba.mpi.model import DistributedSequential, distribute

__all__ = ["DistributedSequential", "distribute"]


def __dir__() -> list[str]:
    return __all__
