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

from lcnumba.kernels.jit import Kernel, next_task, specialised
from lcnumba.kernels.records import Fields, address, array_at, reader
from lcnumba.kernels.rules import (
    L1,
    L2,
    MOMENTUM,
    N_HYPERPARAMETERS,
    NESTEROV,
    NON_NEGATIVE,
    RMSPROP,
    SGD,
    SGD_REGULARIZED,
    Rule,
)
from lcnumba.runtime.threads import count

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


UPDATE = Fields("rule param grad size state_1 state_1_size state_2 state_2_size hyper")
read = reader(UPDATE)
_EMPTY = UPDATE.template({})


@functools.cache
def apply_all(SIZE):
    """Make the kernel for elements of SIZE bytes."""
    number = np.float32 if SIZE == 4 else np.float64

    def apply_all(worker, record):
        """Update a whole flat param, TASK_SIZE elements per task; unused states have size 0."""
        r = read(record)
        param, grad = array_at(r.param, r.size, number), array_at(r.grad, r.size, number)
        state_1, state_2 = array_at(r.state_1, r.state_1_size, number), array_at(r.state_2, r.state_2_size, number)
        hyper = array_at(r.hyper, N_HYPERPARAMETERS, number)
        total = -(-r.size // TASK_SIZE)
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            begin, end = task * TASK_SIZE, min(r.size, (task + 1) * TASK_SIZE)
            apply(r.rule, param[begin:end], grad[begin:end], state_1[begin:end], state_2[begin:end], hyper)
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(apply_all, SIZE), UPDATE)


def run(rule: Rule, param: npt.NDArray[Any], grad: npt.NDArray[Any], threads: int | None = None) -> None:
    """Update a C-contiguous parameter and the rule's states in place; all have the same shape and dtype."""
    if not param.flags.c_contiguous:
        raise ValueError("param must be C-contiguous, since the kernel takes its address")
    _launch(rule, param, np.ascontiguousarray(grad), _workers(param, threads))


def _launch(rule: Rule, param: npt.NDArray[Any], grad: npt.NDArray[Any], threads: int) -> None:
    hyper, size = rule.packed(param.dtype), param.size
    values = {
        "rule": rule.number,
        "param": address(param),
        "grad": address(grad),
        "size": size,
        "hyper": address(hyper),
    }
    for name, state in zip(("state_1", "state_2"), rule.states, strict=False):
        values[name], values[f"{name}_size"] = address(state), size
    apply_all(param.itemsize).launch(_EMPTY, values, threads)


def prepare(param: npt.NDArray[Any], threads: int | None = None) -> None:
    """Compile what `run` needs for such a parameter: compilation may run out of memory, and `run` must not fail."""
    _compile(param.dtype, min(2, _workers(param, threads)))


@functools.cache
def _compile(dtype: np.dtype[Any], workers: int) -> None:
    empty = np.empty(0, dtype)
    _launch(Rule(SGD, (), ()), empty, empty, workers)


def _workers(param: npt.NDArray[Any], threads: int | None) -> int:
    return 1 if param.size <= TASK_SIZE else threads or count()
