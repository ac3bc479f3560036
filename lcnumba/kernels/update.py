"""Each optimizer's formula, once, over flat arrays; `lcnumba.optimizers` gives them a public face.

param, grad and the state arrays are one-dimensional and of equal length and dtype; the scalars are
of that dtype too (a Python float would promote float32 sums to float64). param and state are
updated in place.
"""

import numpy as np
from numba import prange

from lcnumba.kernels.jit import parallel

CHUNK = 1 << 15  # elements of a task, 128 KiB of float32; a single task needs no threads


@parallel
def sgd(param, grad, lr):
    """Update param -= lr * grad."""
    size = len(param)
    for task in prange(0, (size + CHUNK - 1) // CHUNK):
        for e in range(task * CHUNK, min(size, (task + 1) * CHUNK)):
            param[e] -= lr * grad[e]


@parallel
def momentum(param, grad, velocity, lr, rate):
    """Update velocity = rate * velocity - lr * grad; param += velocity."""
    size = len(param)
    for task in prange(0, (size + CHUNK - 1) // CHUNK):
        for e in range(task * CHUNK, min(size, (task + 1) * CHUNK)):
            velocity[e] = rate * velocity[e] - lr * grad[e]
            param[e] += velocity[e]


@parallel
def nesterov(param, grad, velocity, lr, rate):
    """Update velocity = rate * velocity - lr * grad; param += rate * velocity - lr * grad."""
    size = len(param)
    for task in prange(0, (size + CHUNK - 1) // CHUNK):
        for e in range(task * CHUNK, min(size, (task + 1) * CHUNK)):
            change = lr * grad[e]
            velocity[e] = rate * velocity[e] - change
            param[e] += rate * velocity[e] - change


@parallel
def adam(param, grad, first, second, lr, beta_1, beta_2, rest_1, rest_2, epsilon):
    """Update the two moments and param -= lr * first / (sqrt(second) + epsilon).

    rest_i is 1 - beta_i, and lr already holds the correction of the moments' bias.
    """
    size = len(param)
    for task in prange(0, (size + CHUNK - 1) // CHUNK):
        for e in range(task * CHUNK, min(size, (task + 1) * CHUNK)):
            first[e] = beta_1 * first[e] + rest_1 * grad[e]
            second[e] = beta_2 * second[e] + rest_2 * grad[e] * grad[e]
            param[e] -= lr * first[e] / (np.sqrt(second[e]) + epsilon)
