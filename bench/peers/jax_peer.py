"""JAX: `conv_general_dilated_local`, or this library's function, under jit, with donated parameters in the step."""

from typing import Any

import numpy as np

from bench.case import Case
from bench.data import LEARNING_RATE, Data
from bench.peers import Operations

__all__ = ["make"]


def make(case: Case, data: Data, threads: int, form: str = "conv_local") -> Operations:  # noqa: ARG001
    """Make the layer; XLA uses one thread per available processor. `form` may be "lcnumba"."""
    import jax

    jax.config.update("jax_enable_x64", case.dtype == "float64")
    C, K, F = case.input_size[2], case.window, case.filters
    taps = K // C

    def apply(x: Any, kernel: Any, bias: Any) -> Any:
        return bias + jax.lax.conv_general_dilated_local(
            case.wrapped(x, jax.numpy.concatenate), kernel, case.strides, case.zero_pad, case.kernel_size,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    def apply_own(x: Any, kernel: Any, bias: Any) -> Any:
        from lcnumba.jax import locally_connected

        modes = tuple("circular" if circular else "zeros" for circular in case.circular)
        return locally_connected(
            x, kernel.reshape(-1, K, F), bias, kernel_size=case.kernel_size, strides=case.strides,
            padding="valid" if case.padding == "valid" else case.pad, padding_mode=modes,
        )  # fmt: skip

    if form == "lcnumba":
        apply, taps, C = apply_own, 1, K  # in the order of this library

    def update(x: Any, kernel: Any, bias: Any, dy: Any) -> Any:
        y, pullback = jax.vjp(apply, x, kernel, bias)
        # As that of a loss, dy follows from y. Else XLA may update the weights before it computes y, and copies them.
        dx, dkernel, dbias = pullback(dy + 0 * y[:1, :1, :1, :1])
        return y, dx, kernel - LEARNING_RATE * dkernel, bias - LEARNING_RATE * dbias

    forward, update = jax.jit(apply), jax.jit(update, donate_argnums=(1, 2))
    x, dy = jax.device_put(data.x), jax.device_put(data.dy)
    # JAX orders window entries (C, KH, KW), we use (KH, KW, C).
    kernel = data.kernel.reshape(-1, taps, C, F).transpose(0, 2, 1, 3).reshape(*case.output_size, K, F)
    weights = [jax.device_put(kernel), jax.device_put(data.bias)]

    def step() -> tuple[Any, Any]:
        y, dx, *weights[:] = jax.block_until_ready(update(x, *weights, dy))
        return y, dx

    def canonical() -> tuple[Any, Any]:
        kernel, bias = map(np.asarray, weights)
        return kernel.reshape(-1, C, taps, F).transpose(0, 2, 1, 3).reshape(-1, K, F), bias

    return Operations(lambda: jax.block_until_ready(forward(x, *weights)), step, canonical)
