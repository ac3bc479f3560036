"""Each optimizer's formula, once: on a stretch of a flat parameter whose gradient is at hand.

`apply` serves the backward kernel, where the stretch is a few rows of weights in cache, and `whole`,
which goes over arrays. Penalties and the one elementwise constraint belong to every formula. The states
are the optimizer's arrays, of the shape of the parameter, or empty where it has fewer. Numbers are of the
parameter's dtype (a Python float would promote float32 sums to float64).
"""

import functools
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from lcnumba.kernels.jit import next_task, tasks
from lcnumba.kernels.rules import DESCENT, L1, L2, MOMENTUM, NESTEROV, NON_NEGATIVE, RMSPROP, SGD, Rule
from lcnumba.runtime.threads import count
from lcnumba.utils.arrays import read_only

CHUNK = 1 << 15  # elements of a task, 128 KiB of float32; a single task needs no threads


@numba.njit(error_model="numpy", nogil=True)
def _slope(p, grad, e, restrained, numbers):
    """The gradient of the loss and of the penalty; the choice is the same for all e and leaves the loop."""
    if not restrained:
        return grad[e]
    zero = numbers[0] * 0
    sign = numbers[L1] if p[e] > 0 else -numbers[L1] if p[e] < 0 else zero
    return grad[e] + sign + numbers[L2] * p[e]


@numba.njit(error_model="numpy", nogil=True)
def apply(rule, p, grad, first, second, numbers):
    """Update a stretch p of a parameter by its gradient, and as long stretches of the rule's states.

    numbers is (lr, ...): then the rate (MOMENTUM, NESTEROV), or beta_1, beta_2, 1 - beta_1, 1 -
    beta_2, epsilon, share that decays (ADAM, whose lr already holds the correction of the moments' bias), or
    rho, 1 - rho, epsilon (RMSPROP); and, by the names of `lcnumba.kernels`, the penalty's factors, l2 twice, and
    whether the parameter stays above 0.
    """
    lr = numbers[0]
    restrained = numbers[L1] != 0 or numbers[L2] != 0
    if rule in (SGD, DESCENT):
        for e in range(len(grad)):
            p[e] -= lr * _slope(p, grad, e, restrained, numbers)
    elif rule == MOMENTUM:
        for e in range(len(grad)):
            first[e] = numbers[1] * first[e] - lr * _slope(p, grad, e, restrained, numbers)
            p[e] += first[e]
    elif rule == NESTEROV:
        for e in range(len(grad)):
            change = lr * _slope(p, grad, e, restrained, numbers)
            first[e] = numbers[1] * first[e] - change
            p[e] += numbers[1] * first[e] - change
    elif rule == RMSPROP:
        for e in range(len(grad)):
            slope = _slope(p, grad, e, restrained, numbers)
            first[e] = numbers[1] * first[e] + numbers[2] * slope * slope
            p[e] -= lr * slope / (np.sqrt(first[e]) + numbers[3])
    else:
        for e in range(len(grad)):
            slope = _slope(p, grad, e, restrained, numbers)
            first[e] = numbers[1] * first[e] + numbers[3] * slope
            second[e] = numbers[2] * second[e] + numbers[4] * slope * slope
            p[e] -= numbers[6] * p[e] + lr * first[e] / (np.sqrt(second[e]) + numbers[5])
    if numbers[NON_NEGATIVE] != 0:
        for e in range(len(p)):
            p[e] = max(p[e], 0)


@tasks
def whole(slot, counter, rule, param, grad, state_1, state_2, numbers):
    """Update all of a flat param, CHUNK elements a task."""
    size = len(param)
    total = -(-size // CHUNK)
    task = next_task(counter, slot, total)
    while task >= 0:
        end = min(size, (task + 1) * CHUNK)
        begin = task * CHUNK
        apply(rule, param[begin:end], grad[begin:end], state_1[begin:end], state_2[begin:end], numbers)
        task = next_task(counter, slot, total)


def run(rule: Rule, param: npt.NDArray[Any], grad: npt.NDArray[Any], threads: int | None = None) -> None:
    """Change a C-contiguous parameter and the rule's states, all of one shape and dtype, by its gradient."""
    empty = np.empty(0, param.dtype)
    states = [*(state.reshape(-1) for state in rule.states), empty, empty][:2]
    numbers = rule.packed(param.dtype)
    slots = _slots(param, threads)
    whole(rule.number, param.reshape(-1), read_only(grad.reshape(-1)), *states, numbers, threads=slots)


def prepare(param: npt.NDArray[Any], threads: int | None = None) -> None:
    """Have compiled what `run` takes for such a parameter: for want of memory that may fail, which `run` must not."""
    _compile(param.dtype, min(2, _slots(param, threads)))


@functools.cache
def _compile(dtype: np.dtype[Any], slots: int) -> None:
    empty = np.empty(0, dtype)
    whole(SGD, empty, read_only(empty), empty, empty, empty, threads=slots)


def _slots(param: npt.NDArray[Any], threads: int | None) -> int:
    return 1 if param.size <= CHUNK else threads or count()
