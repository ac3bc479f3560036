"""The linear maps as functions of JAX, each differentiated by the others.

See `lcnumba.functional`. Their first argument is the text of a spec, which compiled programs contain.
"""

import functools
from typing import Any

import jax

from lcnumba.bridges.xla import call
from lcnumba.functional import Spec

__all__ = ["apply", "apply_transpose"]


def _like(shape: tuple[int, ...], array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, array.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apply(text: str, x: Any, kernel: Any, bias: Any) -> Any:
    arrays = (x, kernel) if bias is None else (x, kernel, bias)
    return call("apply", text, [_like((x.shape[0], *Spec.from_text(text).output_shape), x)], *arrays)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_gradient(text: str, kernel: Any, dy: Any) -> Any:
    return call("input_gradient", text, [_like((dy.shape[0], *Spec.from_text(text).input_shape), dy)], kernel, dy)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weight_gradient(text: str, x: Any, dy: Any) -> Any:
    return call("weight_gradient", text, [_like(Spec.from_text(text).kernel_shape, x)], x, dy)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(text: str, x: Any, kernel: Any, dy: Any) -> Any:
    return tuple(call("gradients", text, [_like(x.shape, x), _like(kernel.shape, x)], x, kernel, dy))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _bias_gradient(text: str, dy: Any) -> Any:
    """The sum over the batch, for which XLA takes several times as long as for all the rest."""
    return call("bias_gradient", text, [_like(Spec.from_text(text).output_shape, dy)], dy)[0]


def _forward_of_apply(text: str, x: Any, kernel: Any, bias: Any) -> Any:
    # Only what the wanted gradients need is kept, and a scalar in place of the rest tells backward which are wanted:
    # XLA cannot see that half of a result is not used. None would not do: JAX remembers one structure for all calls.
    kept = [_kept(x, kernel.perturbed), _kept(kernel, x.perturbed)]
    if bias is not None:
        kept.append(_kept(bias, bias.perturbed))
    return _apply(text, x.value, kernel.value, None if bias is None else bias.value), kept


def _kept(primal: Any, wanted: bool) -> Any:
    return primal.value if wanted else jax.numpy.zeros((), primal.value.dtype)


def _backward_of_apply(text: str, kept: Any, dy: Any) -> Any:
    dx = dkernel = dbias = None
    if isinstance(dy, jax.custom_derivatives.SymbolicZero):
        return dx, dkernel, dbias
    x, kernel, *bias = kept
    if x.ndim and kernel.ndim:
        dx, dkernel = _gradients(text, x, kernel, dy)
    elif kernel.ndim:
        dx = _input_gradient(text, kernel, dy)
    elif x.ndim:
        dkernel = _weight_gradient(text, x, dy)
    if bias and bias[0].ndim:
        dbias = _bias_gradient(text, dy)
        dbias = dbias.sum(axis=tuple(range(dbias.ndim - bias[0].ndim)))
    return dx, dkernel, dbias


_apply.defvjp(_forward_of_apply, _backward_of_apply, symbolic_zeros=True)
_input_gradient.defvjp(
    lambda text, kernel, dy: (_input_gradient(text, kernel, dy), (kernel, dy)),
    lambda text, kept, u: (_weight_gradient(text, u, kept[1]), _apply(text, u, kept[0], None)),
)
_weight_gradient.defvjp(
    lambda text, x, dy: (_weight_gradient(text, x, dy), (x, dy)),
    lambda text, kept, v: (_input_gradient(text, v, kept[1]), _apply(text, kept[0], v, None)),
)
_bias_gradient.defvjp(
    lambda text, dy: (_bias_gradient(text, dy), dy),  # of which only the shape is used
    lambda text, dy, u: (jax.numpy.broadcast_to(u, dy.shape),),
)
_gradients.defvjp(
    lambda text, x, kernel, dy: (_gradients(text, x, kernel, dy), (x, kernel, dy)),
    lambda text, kept, cotangents: _backward_of_gradients(text, *kept, *cotangents),
)


def _backward_of_gradients(text: str, x: Any, kernel: Any, dy: Any, u: Any, v: Any) -> Any:
    return (
        _input_gradient(text, v, dy),
        _weight_gradient(text, u, dy),
        _apply(text, u, kernel, None) + _apply(text, x, v, None),
    )


# Without `jit` a call takes several times longer.
_jitted_apply = jax.jit(_apply, static_argnums=0, inline=True)
_jitted_input_gradient = jax.jit(_input_gradient, static_argnums=0, inline=True)


def apply(x: Any, kernel: Any, bias: Any, spec: str) -> Any:
    """Return y = F(x, kernel) + bias, for arrays or tracers whose shapes and dtypes fit; bias may be None."""
    return _jitted_apply(spec, x, kernel, bias)


def apply_transpose(x: Any, kernel: Any, bias: Any, spec: str) -> Any:
    """Return the adjoint of F(., kernel) at x, plus a bias: a transposed layer."""
    y = _jitted_input_gradient(spec, kernel, x)
    return y if bias is None else y + bias
