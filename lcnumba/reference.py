"""The slow reference implementation, `lcnumba.testing.reference`, under a short name."""

from lcnumba.testing.reference import backward, forward, output_size

__all__ = ["backward", "forward", "output_size"]


def __dir__() -> list[str]:
    return __all__
