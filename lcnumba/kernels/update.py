"""The update formulas of the optimizers, applied to a slice of a flat parameter.

The backward kernel calls a formula for a few rows of weights in cache; `run` updates whole arrays. Every formula
includes the penalties and the elementwise constraint. The formulas take addresses, and scalars in float64, which they
convert to the parameter's dtype: Python floats would promote float32 to float64.
"""

import functools
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba.kernels.jit import Kernel, Launches, call, code_address, compiled, next_task, specialised
from lcnumba.kernels.records import Fields, address, array_at, inlined, reader
from lcnumba.kernels.rules import (
    AdamScalars,
    MomentumScalars,
    NesterovScalars,
    RMSpropScalars,
    Rule,
    Scalars,
    SGDScalars,
)
from lcnumba.runtime.threads import count

__all__ = ["FORMULAS", "addresses_of_states", "formula", "prepare", "run", "scalars_of"]

TASK_SIZE = 1 << 15  # elements per task, 128 KiB of float32; a single task runs without threads

# The formulas by the type of their scalars: the functions that compile them for elements of SIZE bytes, and return the
# address of the code.
FORMULAS: dict[type[Scalars], Callable[[int], int]] = {}
# The scalars that follow those of every formula; `l2` is twice the factor.
PENALTY = ("l1", "l2", "non_negative")
# The signature of a formula: the addresses of the scalars, of the parameter, the gradient and two states, and how many
# elements they have. A state that the formula does not use has the address 0.
ARGUMENTS = 6


def _formula_of(scalars: type[Scalars]) -> Callable[[Any], Callable[[int], int]]:
    """Decorate a function of SIZE and of the reader of the scalars that makes a formula."""

    def registered(make: Callable[[int, Any], Any]) -> Callable[[int], int]:
        read = reader(np.dtype([(name, np.float64) for name in (*scalars._fields, *PENALTY)]))

        @functools.cache
        def made(SIZE: int) -> int:
            return code_address(compiled(specialised(make(SIZE, read), SIZE)), ARGUMENTS)

        FORMULAS[scalars] = made
        return made

    return registered


@inlined
def total_gradient(p, gradient, l1, l2):
    """The gradient of loss and penalty. The branch does not depend on p: LLVM hoists it out of the loop."""
    if l1 == 0 and l2 == 0:
        return gradient
    sign = l1 if p > 0 else -l1 if p < 0 else l1 * 0
    return gradient + sign + l2 * p


@inlined
def clip(p, non_negative):
    """Clip p at 0 if asked to; NaN stays NaN."""
    if non_negative != 0:
        for e in range(len(p)):
            p[e] = max(p[e], 0)


@inlined
def flushed(value, least):
    """The value, or 0 if it is smaller than the smallest normal number: NaN stays NaN.

    The moments of a weight whose gradient has become 0, as behind a dead ReLU, decay until they are subnormal, and
    there they stay, because products are rounded. Computing with subnormal numbers takes a hundred times longer.
    """
    return value * 0 if abs(value) < least else value


@_formula_of(SGDScalars)
def sgd(SIZE, read):
    number = np.float32 if SIZE == 4 else np.float64

    def sgd(scalars, param, gradient, _1, _2, size):
        r = read(scalars)
        lr, l1, l2 = number(r.lr), number(r.l1), number(r.l2)
        p, grad = array_at(param, size, number), array_at(gradient, size, number)
        for e in range(size):
            p[e] -= lr * total_gradient(p[e], grad[e], l1, l2)
        clip(p, r.non_negative)

    return sgd


@_formula_of(MomentumScalars)
def momentum(SIZE, read):
    number = np.float32 if SIZE == 4 else np.float64
    least = number(np.finfo(number).tiny)

    def momentum(scalars, param, gradient, velocity, _, size):
        r = read(scalars)
        lr, momentum, l1, l2 = number(r.lr), number(r.momentum), number(r.l1), number(r.l2)
        p, grad, v = array_at(param, size, number), array_at(gradient, size, number), array_at(velocity, size, number)
        for e in range(size):
            v[e] = flushed(momentum * v[e] - lr * total_gradient(p[e], grad[e], l1, l2), least)
            p[e] += v[e]
        clip(p, r.non_negative)

    return momentum


@_formula_of(NesterovScalars)
def nesterov(SIZE, read):
    number = np.float32 if SIZE == 4 else np.float64
    least = number(np.finfo(number).tiny)

    def nesterov(scalars, param, gradient, velocity, _, size):
        r = read(scalars)
        lr, momentum, l1, l2 = number(r.lr), number(r.momentum), number(r.l1), number(r.l2)
        p, grad, v = array_at(param, size, number), array_at(gradient, size, number), array_at(velocity, size, number)
        for e in range(size):
            change = lr * total_gradient(p[e], grad[e], l1, l2)
            v[e] = flushed(momentum * v[e] - change, least)
            p[e] += momentum * v[e] - change
        clip(p, r.non_negative)

    return nesterov


@_formula_of(AdamScalars)
def adam(SIZE, read):
    number = np.float32 if SIZE == 4 else np.float64
    least = number(np.finfo(number).tiny)

    def adam(scalars, param, gradient, first, second, size):
        r = read(scalars)
        lr, epsilon, decay, l1, l2 = number(r.lr), number(r.epsilon), number(r.decay), number(r.l1), number(r.l2)
        beta_1, beta_2 = number(r.beta_1), number(r.beta_2)
        rest_1, rest_2 = number(r.one_minus_beta_1), number(r.one_minus_beta_2)
        p, grad = array_at(param, size, number), array_at(gradient, size, number)
        m, v = array_at(first, size, number), array_at(second, size, number)
        for e in range(size):
            g = total_gradient(p[e], grad[e], l1, l2)
            m[e] = flushed(beta_1 * m[e] + rest_1 * g, least)
            # Only behind a gradient of 0: the quotient below needs v, however small.
            v[e] = flushed(beta_2 * v[e] + rest_2 * g * g, least if m[e] == 0 else least * 0)
            p[e] -= decay * p[e] + lr * m[e] / (np.sqrt(v[e]) + epsilon)
        clip(p, r.non_negative)

    return adam


@_formula_of(RMSpropScalars)
def rmsprop(SIZE, read):
    number = np.float32 if SIZE == 4 else np.float64
    least = number(np.finfo(number).tiny)

    def rmsprop(scalars, param, gradient, mean_square, _, size):
        r = read(scalars)
        lr, rho, rest, epsilon = number(r.lr), number(r.rho), number(r.one_minus_rho), number(r.epsilon)
        l1, l2 = number(r.l1), number(r.l2)
        p, grad = array_at(param, size, number), array_at(gradient, size, number)
        v = array_at(mean_square, size, number)
        for e in range(size):
            g = total_gradient(p[e], grad[e], l1, l2)
            # Only behind a gradient of 0: the quotient below needs v, however small.
            v[e] = flushed(rho * v[e] + rest * g * g, least if g == 0 else least * 0)
            p[e] -= lr * g / (np.sqrt(v[e]) + epsilon)
        clip(p, r.non_negative)

    return rmsprop


def formula(rule: Rule, size: int) -> int:
    """The address of the compiled formula of a rule, for elements of `size` bytes."""
    return FORMULAS[type(rule.scalars)](size)


def scalars_of(rule: Rule) -> "array[float]":
    """The scalars of a rule as formulas read them."""
    return array("d", (*rule.scalars, rule.l1, 2 * rule.l2, rule.non_negative))


UPDATE = Fields("", each_call="formula param grad state_1 state_2 size itemsize scalars")
read_update = reader(UPDATE.dtype)


@functools.cache
def whole() -> Kernel:
    """Make the kernel that updates a whole array."""

    def update_whole(worker, record):
        """Update a flat param, TASK_SIZE elements per task."""
        r = read_update(record)
        total = -(-r.size // TASK_SIZE)
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            begin = task * TASK_SIZE
            at = begin * r.itemsize
            call(
                r.formula, r.scalars, r.param + at, r.grad + at, r.state_1 + at, r.state_2 + at,
                min(r.size - begin, TASK_SIZE),
            )  # fmt: skip
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(update_whole, UPDATE)


def run(rule: Rule, param: npt.NDArray[Any], grad: npt.NDArray[Any], threads: int | None = None) -> None:
    """Update a C-contiguous parameter and the rule's states in place; all have the same shape and dtype."""
    if not param.flags.c_contiguous:
        raise ValueError("param must be C-contiguous, since the kernel takes its address")
    _launch(rule, param, np.ascontiguousarray(grad), _workers(param, threads))


def _launch(rule: Rule, param: npt.NDArray[Any], grad: npt.NDArray[Any], threads: int) -> None:
    scalars = scalars_of(rule)
    state_1, state_2 = addresses_of_states(rule)
    _launches(threads).run({
        "formula": formula(rule, param.itemsize), "param": address(param), "grad": address(grad), "size": param.size,
        "itemsize": param.itemsize, "scalars": scalars.buffer_info()[0], "state_1": state_1, "state_2": state_2,
    })  # fmt: skip


def addresses_of_states(rule: Rule) -> tuple[int, int]:
    """The addresses of a rule's states; 0 for one that it does not have."""
    first, second = (*map(address, rule.states), 0, 0)[:2]
    return first, second


@functools.cache
def _launches(threads: int) -> Launches:
    return Launches(whole(), threads)


def prepare(scalars: Any, param: npt.NDArray[Any], threads: int | None = None) -> None:
    """Compile what `run` needs for such a parameter: compilation may run out of memory, and `run` must not fail."""
    _compile(scalars, param.dtype, min(2, _workers(param, threads)))


@functools.cache
def _compile(scalars: Any, dtype: np.dtype[Any], workers: int) -> None:
    empty = np.empty(0, dtype)
    _launch(Rule(scalars(*[0.0] * len(scalars._fields))), empty, empty, workers)


def _workers(param: npt.NDArray[Any], threads: int | None) -> int:
    return 1 if param.size <= TASK_SIZE else threads or count()
