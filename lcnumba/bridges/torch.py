"""The linear maps as operators of torch, ``torch.ops.lcnumba``, each differentiated by the others.

See `lcnumba.functional`. Their last argument is the text of a spec, which compiled and exported programs contain.
"""
# ruff: noqa: ARG001 - what is registered with torch has the signature that torch wants

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lcnumba import functional
from lcnumba.functional import Spec

__all__ = ["apply", "apply_transpose"]


def _operator(name: str, function: Callable[..., Any]) -> Any:
    """Make an operator of torch from a map of `lcnumba.functional`, whose arguments follow those of the map."""

    def read(tensor: Tensor | None) -> Any:
        # Gradients come with any strides: those of a sum are expanded. (torch itself resolves views that are negated.)
        return None if tensor is None else tensor.detach().contiguous().numpy()

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        *tensors, text = arguments
        try:
            found = getattr(functional, name)(
                Spec.from_text(text), *map(read, tensors), n_threads=torch.get_num_threads()
            )
        except (TypeError, ValueError) as error:  # what torch raises where shapes or dtypes do not fit
            raise RuntimeError(str(error)) from None
        return tuple(map(torch.from_numpy, found)) if isinstance(found, tuple) else torch.from_numpy(found)

    made = torch.library.custom_op(f"lcnumba::{name}", call, mutates_args=(), device_types="cpu")
    made.register_fake(function)
    torch.library.register_autocast(made, "cpu", torch.float32)
    torch.library.register_vmap(made, functools.partial(_vmap, made))
    return made


def _vmap(operator: Any, info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
    """Call an operator for each entry of a mapped dimension, and stack the results."""
    results = []
    for number in range(info.batch_size):
        each = [a if d is None else a.select(d, number) for a, d in zip(arguments, in_dims, strict=True)]
        results.append(operator(*each))
    if not results:
        raise ValueError("the mapped dimension is empty; give at least one entry")
    if isinstance(results[0], tuple):
        return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])
    return torch.stack(results), 0


# These functions say what the results are without computing them, and give torch the signatures.


def _fake_apply(x: Tensor, kernel: Tensor, bias: Tensor | None, spec: str) -> Tensor:
    return x.new_empty((x.shape[0], *Spec.from_text(spec).output_shape))


def _fake_input_gradient(kernel: Tensor, dy: Tensor, spec: str) -> Tensor:
    return dy.new_empty((dy.shape[0], *Spec.from_text(spec).input_shape))


def _fake_weight_gradient(x: Tensor, dy: Tensor, spec: str) -> Tensor:
    return x.new_empty(Spec.from_text(spec).kernel_shape)


def _fake_gradients(x: Tensor, kernel: Tensor, dy: Tensor, spec: str) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(Spec.from_text(spec).kernel_shape)


apply = _operator("apply", _fake_apply)
_input_gradient = _operator("input_gradient", _fake_input_gradient)
_weight_gradient = _operator("weight_gradient", _fake_weight_gradient)
_gradients = _operator("gradients", _fake_gradients)


def _differentiate(operator: Any, backward: Callable[..., Any]) -> None:
    """Register ``backward(wanted, spec, *tensors, *cotangents)``, which returns gradients by the tensors."""

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.spec = inputs
        ctx.save_for_backward(*tensors)

    def run(ctx: Any, *cotangents: Tensor) -> Any:
        return *backward(ctx.needs_input_grad, ctx.spec, *ctx.saved_tensors, *cotangents), None

    operator.register_autograd(run, setup_context=setup)


def _backward_of_apply(wanted: Any, spec: str, x: Tensor, kernel: Tensor, bias: Tensor | None, dy: Tensor) -> Any:
    dx = dkernel = dbias = None
    if wanted[0] and wanted[1]:
        dx, dkernel = _gradients(x, kernel, dy, spec)
    elif wanted[0]:
        dx = _input_gradient(kernel, dy, spec)
    elif wanted[1]:
        dkernel = _weight_gradient(x, dy, spec)
    if wanted[2] and bias is not None:
        dbias = dy.sum(dim=tuple(range(dy.dim() - bias.dim())))
    return dx, dkernel, dbias


def _backward_of_input_gradient(wanted: Any, spec: str, kernel: Tensor, dy: Tensor, u: Tensor) -> Any:
    return (
        _weight_gradient(u, dy, spec) if wanted[0] else None,
        apply(u, kernel, None, spec) if wanted[1] else None,
    )


def _backward_of_weight_gradient(wanted: Any, spec: str, x: Tensor, dy: Tensor, v: Tensor) -> Any:
    return (
        _input_gradient(v, dy, spec) if wanted[0] else None,
        apply(x, v, None, spec) if wanted[1] else None,
    )


def _backward_of_gradients(
    wanted: Any, spec: str, x: Tensor, kernel: Tensor, dy: Tensor, u: Tensor, v: Tensor
) -> tuple[Tensor | None, ...]:
    return (
        _input_gradient(v, dy, spec) if wanted[0] else None,
        _weight_gradient(u, dy, spec) if wanted[1] else None,
        apply(u, kernel, None, spec) + apply(x, v, None, spec) if wanted[2] else None,
    )


_differentiate(apply, _backward_of_apply)
_differentiate(_input_gradient, _backward_of_input_gradient)
_differentiate(_weight_gradient, _backward_of_weight_gradient)
_differentiate(_gradients, _backward_of_gradients)


def apply_transpose(x: Tensor, kernel: Tensor, bias: Tensor | None, spec: str) -> Tensor:
    """Return the adjoint of F(., kernel) at x, plus a bias: a transposed layer."""
    y: Tensor = _input_gradient(kernel, x, spec)
    return y if bias is None else y + bias
