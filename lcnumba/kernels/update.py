"""The update formulas of the optimizers, applied to slices of a flat parameter.

The backward kernel calls `apply` for a few rows of weights in cache; `apply_all` updates whole arrays. Every
formula includes the penalties and the elementwise constraint. State arrays have the shape of the parameter; those
that a formula does not use are empty. Hyperparameters have the parameter's dtype (a Python float would promote
float32 to float64).
"""

import functools
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from lcnumba.kernels.jit import next_task, tasks
from lcnumba.kernels.rules import L1, L2, MOMENTUM, NESTEROV, NON_NEGATIVE, RMSPROP, SGD, SGD_REGULARIZED, Rule
from lcnumba.runtime.threads import count
from lcnumba.utils.arrays import read_only

TASK_SIZE = 1 << 15  # elements per task, 128 KiB of float32; a single task runs without threads


@numba.njit(error_model="numpy", nogil=True)
def _regularized_gradient(p, grad, e, regularized, hyper):
    """The gradient of loss and penalty. The branch does not depend on e: LLVM hoists it out of the loop."""
    if not regularized:
        return grad[e]
    zero = hyper[0] * 0
    sign = hyper[L1] if p[e] > 0 else -hyper[L1] if p[e] < 0 else zero
    return grad[e] + sign + hyper[L2] * p[e]


@numba.njit(error_model="numpy", nogil=True)
def apply(rule, p, grad, m, v, hyper):
    """Update a slice p of a parameter, and the same slices m and v of its states, by the gradient.

    m is the velocity (MOMENTUM, NESTEROV), the first moment (ADAM) or the mean square (RMSPROP), v the second
    moment. hyper is (lr, ...), then the momentum (MOMENTUM, NESTEROV); or beta_1, beta_2, 1 - beta_1, 1 - beta_2,
    epsilon, weight decay times lr (ADAM, whose lr includes the bias correction); or rho, 1 - rho, epsilon (RMSPROP).
    At L1, L2 and NON_NEGATIVE it holds l1, 2 * l2 and whether to clip the parameter at 0.
    """
    lr = hyper[0]
    regularized = hyper[L1] != 0 or hyper[L2] != 0
    if rule in (SGD, SGD_REGULARIZED):
        for e in range(len(grad)):
            p[e] -= lr * _regularized_gradient(p, grad, e, regularized, hyper)
    elif rule == MOMENTUM:
        for e in range(len(grad)):
            m[e] = hyper[1] * m[e] - lr * _regularized_gradient(p, grad, e, regularized, hyper)
            p[e] += m[e]
    elif rule == NESTEROV:
        for e in range(len(grad)):
            change = lr * _regularized_gradient(p, grad, e, regularized, hyper)
            m[e] = hyper[1] * m[e] - change
            p[e] += hyper[1] * m[e] - change
    elif rule == RMSPROP:
        for e in range(len(grad)):
            gradient = _regularized_gradient(p, grad, e, regularized, hyper)
            m[e] = hyper[1] * m[e] + hyper[2] * gradient * gradient
            p[e] -= lr * gradient / (np.sqrt(m[e]) + hyper[3])
    else:
        for e in range(len(grad)):
            gradient = _regularized_gradient(p, grad, e, regularized, hyper)
            m[e] = hyper[1] * m[e] + hyper[3] * gradient
            v[e] = hyper[2] * v[e] + hyper[4] * gradient * gradient
            p[e] -= hyper[6] * p[e] + lr * m[e] / (np.sqrt(v[e]) + hyper[5])
    if hyper[NON_NEGATIVE] != 0:
        for e in range(len(p)):
            p[e] = max(p[e], 0)


@tasks
def apply_all(worker, counter, rule, param, grad, state_1, state_2, hyper):
    """Update a whole flat param, TASK_SIZE elements per task."""
    size = len(param)
    total = -(-size // TASK_SIZE)
    task = next_task(counter, worker, total)
    while task >= 0:
        end = min(size, (task + 1) * TASK_SIZE)
        begin = task * TASK_SIZE
        apply(rule, param[begin:end], grad[begin:end], state_1[begin:end], state_2[begin:end], hyper)
        task = next_task(counter, worker, total)


def run(rule: Rule, param: npt.NDArray[Any], grad: npt.NDArray[Any], threads: int | None = None) -> None:
    """Update a C-contiguous parameter and the rule's states in place; all have the same shape and dtype."""
    empty = np.empty(0, param.dtype)
    states = [*(state.reshape(-1) for state in rule.states), empty, empty][:2]
    hyper = rule.packed(param.dtype)
    workers = _workers(param, threads)
    apply_all(rule.number, param.reshape(-1), read_only(grad.reshape(-1)), *states, hyper, threads=workers)


def prepare(param: npt.NDArray[Any], threads: int | None = None) -> None:
    """Compile what `run` needs for such a parameter: compilation may run out of memory, and `run` must not fail."""
    _compile(param.dtype, min(2, _workers(param, threads)))


@functools.cache
def _compile(dtype: np.dtype[Any], workers: int) -> None:
    empty = np.empty(0, dtype)
    apply_all(SGD, empty, read_only(empty), empty, empty, empty, threads=workers)


def _workers(param: npt.NDArray[Any], threads: int | None) -> int:
    return 1 if param.size <= TASK_SIZE else threads or count()
