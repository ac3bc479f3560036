"""Input data of all peers, generated from a seed: the same in each process."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.case import Case

__all__ = ["LEARNING_RATE", "Data", "make"]

Array = npt.NDArray[Any]

# Large enough that a wrong gradient is visible in the weights after one step.
LEARNING_RATE = 0.1


class Data(NamedTuple):
    """Arrays of a case, C-contiguous.

    Attributes
    ----------
    x : (N, H, W, C)
        The input.
    kernel : (P, K, F)
        Weights; K runs over (KH, KW, C). Zero where a window extends beyond the input.
    bias : (OH, OW, F)
        Biases.
    dy : (N, OH, OW, F)
        Gradient of the loss with respect to the output, constant so that steps can be compared.
    """

    x: Array
    kernel: Array
    bias: Array
    dy: Array


def make(case: Case) -> Data:
    """Draw the data of a case from the uniform distribution on [-1, 1)."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Array:
        array = rng.random(shape, case.dtype)
        array *= 2
        array -= 1
        return array

    x = draw(case.batch, *case.input_size)
    kernel = draw(case.positions, case.window, case.filters)
    if case.padding == "same":
        kernel[case.input_index() < 0] = 0
    bias = draw(*case.output_size, case.filters)
    return Data(x, kernel, bias, draw(case.batch, *case.output_size, case.filters))
