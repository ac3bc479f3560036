import concurrent.futures
import copy
import doctest
import itertools
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from problems import PROBLEMS, spec_of
from torch import nn
from training import RATE, Run

import lcnumba as lc
import lcnumba.torch
from lcnumba import functional, reference
from lcnumba.testing import integers
from lcnumba.torch import (
    LocallyConnected1d,
    LocallyConnected2d,
    LocallyConnected3d,
    LocallyConnectedTranspose2d,
    LocallyDirected1d,
    locally_connected,
)

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch's own compiler

OPS = torch.ops.lcnumba
SMALL = [problem for problem in PROBLEMS if np.prod(problem.geometry.kernel_shape) * problem.batch < 20_000]
MODULES = {1: LocallyConnected1d, 2: LocallyConnected2d, 3: LocallyConnected3d}


def tensors(problem, rng, dtype=np.float32, needs=True):
    return [torch.from_numpy(array).requires_grad_(needs) for array in problem.data(rng, dtype)]


def hand_written(x, weight, bias, stride=1):
    """The layer as torch users write it, by `unfold`: x (N, C, H, W), weight (OH, OW, F, C, KH, KW)."""
    *_, kh, kw = weight.shape
    windows = x.unfold(2, kh, stride).unfold(3, kw, stride)
    y = torch.einsum("nchwij,hwfcij->nfhw", windows, weight)
    return y if bias is None else y + bias


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_value_and_gradients_are_those_of_the_reference(problem, dtype, rng):
    x, kernel, bias, dy = tensors(problem, rng, dtype)
    y = OPS.apply(x, kernel, bias, spec_of(problem).text)
    y.backward(dy.detach())
    arrays = [t.detach().numpy() for t in (x, kernel, bias, dy)]
    np.testing.assert_array_equal(y.detach(), reference.forward(*arrays[:3], **problem.settings))
    expected = reference.backward(arrays[0], arrays[1], arrays[3], **problem.settings)
    for found, right in zip((x.grad, kernel.grad, bias.grad), expected, strict=True):
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("mask_axes", [0, 2, 3])
@pytest.mark.parametrize("problem", SMALL[:4], ids=str)
def test_gradients_of_any_order(problem, mask_axes, rng):
    x, kernel, bias, dy = tensors(problem, rng, np.float64)
    text = spec_of(problem, kernel_mask=rng.random(kernel.shape[:mask_axes]) < 0.5 if mask_axes else None).text
    for op, arguments in ((OPS.apply, (x, kernel, bias)), (OPS.input_gradient, (kernel, dy)),
                          (OPS.weight_gradient, (x, dy)), (OPS.gradients, (x, kernel, dy))):  # fmt: skip
        few = [t[:1] if t is x or t is dy else t for t in arguments]
        few = [t.detach().clone().requires_grad_() for t in few]

        def call(*given, op=op):
            return op(*given, text)

        if sum(t.numel() for t in few) < 400:
            assert torch.autograd.gradcheck(call, few)
            assert torch.autograd.gradgradcheck(call, few)


def test_third_order(rng):
    problem = PROBLEMS[0]
    x, kernel, _, _ = tensors(problem, rng, np.float64)

    def cubes(kernel):
        return OPS.apply(OPS.input_gradient(kernel, OPS.apply(x, kernel, None, text), text), kernel, None, text).sum()

    text = spec_of(problem).text
    # The sum is a polynomial of degree 3, so its third directional derivative is 6 times its value at the direction.
    direction, derivative = torch.randn_like(kernel), cubes(kernel)
    for _ in range(3):
        [gradient] = torch.autograd.grad(derivative, kernel, create_graph=True)
        derivative = (gradient * direction).sum()
    torch.testing.assert_close(derivative, 6 * cubes(direction))


@pytest.mark.parametrize("problem", [PROBLEMS[0], PROBLEMS[5], PROBLEMS[-1]], ids=str)
def test_operators_are_registered_as_torch_expects(problem, rng):
    x, kernel, bias, dy = tensors(problem, rng, np.float64)
    text = spec_of(problem).text
    for op, arguments in ((OPS.apply, (x, kernel, bias)), (OPS.apply, (x, kernel, None)),
                          (OPS.input_gradient, (kernel, dy)), (OPS.weight_gradient, (x, dy)),
                          (OPS.gradients, (x, kernel, dy))):  # fmt: skip
        torch.library.opcheck(op, (*arguments, text))


def strided(dy):
    """The same values with other strides; gradcheck and opcheck try none of them."""
    wide = torch.zeros(*dy.shape[:-1], 2 * dy.shape[-1])
    wide[..., ::2] = dy
    yield "sliced", wide[..., ::2]
    order = range(dy.dim())[::-1]
    yield "permuted", dy.permute(*order).contiguous().permute(*order)
    yield "negated", torch.complex(dy, -dy).conj().imag
    yield "negated in place", torch._neg_view(-dy)
    yield "offset", torch.cat([dy[:1], dy])[1:]


def test_any_strides_of_dy_and_x(rng):
    problem = PROBLEMS[0]
    x, kernel, _, dy = tensors(problem, rng, needs=False)
    text = spec_of(problem).text
    dx, dkernel = OPS.gradients(x, kernel, dy, text)
    seen = []
    for name, view in strided(dy):
        assert torch.equal(view, dy)
        seen.append(name)
        assert torch.equal(OPS.input_gradient(kernel, view, text), dx)
        assert torch.equal(OPS.weight_gradient(x, view, text), dkernel)
        assert all(map(torch.equal, OPS.gradients(x, kernel, view, text), (dx, dkernel)))
    for _, view in strided(x):
        assert torch.equal(OPS.apply(view, kernel, None, text), OPS.apply(x, kernel, None, text))
    for _, view in strided(kernel):
        assert torch.equal(OPS.apply(x, view, None, text), OPS.apply(x, kernel, None, text))
    assert len(seen) == 5


def test_the_gradient_of_a_sum_is_expanded(rng):
    x, kernel, bias, _ = tensors(PROBLEMS[0], rng)
    y = OPS.apply(x, kernel, bias, spec_of(PROBLEMS[0]).text)
    strides = []
    y.register_hook(lambda dy: strides.append(dy.stride()))
    y.sum().backward()
    assert strides == [(0, 0, 0, 0)]
    dx, dkernel = OPS.gradients(x, kernel, torch.ones_like(y), spec_of(PROBLEMS[0]).text)
    assert torch.equal(x.grad, dx)
    assert torch.equal(kernel.grad, dkernel)


@pytest.mark.parametrize("needs", [n for n in itertools.product([False, True], repeat=3) if any(n)])
def test_only_the_gradients_that_are_needed_are_computed(needs, rng, monkeypatch):
    x, kernel, bias, dy = tensors(PROBLEMS[0], rng)
    text = spec_of(PROBLEMS[0]).text
    OPS.apply(x, kernel, bias, text).backward(dy.detach())
    expected = x.grad, kernel.grad, bias.grad
    again = [t.detach().clone().requires_grad_(n) for t, n in zip((x, kernel, bias), needs, strict=True)]
    called = []
    for name in ("input_gradient", "weight_gradient", "gradients"):
        function = getattr(functional, name)
        monkeypatch.setattr(functional, name, lambda *a, f=function, n=name, **k: called.append(n) or f(*a, **k))
    OPS.apply(*again, text).backward(dy.detach())
    for tensor, need, right in zip(again, needs, expected, strict=True):
        assert torch.equal(tensor.grad, right) if need else tensor.grad is None
    assert called == {(False, False): [], (True, True): ["gradients"], (True, False): ["input_gradient"],
                      (False, True): ["weight_gradient"]}[needs[:2]]  # fmt: skip


def test_arrays_are_not_copied(rng, monkeypatch):
    x, kernel, bias, dy = tensors(PROBLEMS[0], rng)
    addresses = []

    def note(function):
        def noted(spec, *arrays, **rest):
            addresses.append([None if a is None else a.ctypes.data for a in arrays])
            return function(spec, *arrays, **rest)

        return noted

    for name in ("apply", "gradients"):
        monkeypatch.setattr(functional, name, note(getattr(functional, name)))
    y = OPS.apply(x, kernel, bias, spec_of(PROBLEMS[0]).text)
    y.backward(dy.detach())
    assert addresses == [[t.data_ptr() for t in (x, kernel, bias)], [t.data_ptr() for t in (x, kernel, dy)]]
    pointers = {t.untyped_storage().data_ptr() for t in (x, kernel, bias, dy, y, x.grad, kernel.grad)}
    assert len(pointers) == 7


@pytest.mark.parametrize("setting", [1, 2, 5])
def test_threads_are_limited_by_torch(setting, rng, monkeypatch):
    seen, function, before = [], functional.apply, torch.get_num_threads()
    monkeypatch.setattr(functional, "apply", lambda *a, n_threads: seen.append(n_threads) or function(*a))
    try:
        torch.set_num_threads(setting)
        x, kernel, _, _ = tensors(PROBLEMS[0], rng)
        OPS.apply(x, kernel, None, spec_of(PROBLEMS[0]).text)
    finally:
        torch.set_num_threads(before)
    assert seen == [setting]


# --- modules


def module_of(problem, **rest):
    """A module for a problem whose padding torch can express."""
    padding = 0 if problem.padding == "valid" else problem.padding
    settings = {"stride": problem.strides, "padding": padding, "dilation": problem.dilation or 1}
    sizes = (problem.channels, problem.filters, problem.kernel_size)
    kind = MODULES[len(problem.input_size)]
    settings |= {"padding_mode": problem.padding_mode, "groups": problem.groups}
    return kind(*sizes, in_shape=problem.input_size, weight_sharing=problem.weight_sharing, **settings, **rest)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.padding != "same"], ids=str)
def test_modules_are_the_reference(problem, channels_last, rng):
    x, kernel, bias, dy = problem.data(rng)
    module = module_of(problem, channels_last=channels_last)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(kernel))
        module.bias.copy_(torch.from_numpy(bias))

    def outer(array):
        return torch.from_numpy(array if channels_last else np.moveaxis(array, -1, 1).copy())

    given = outer(x).requires_grad_()
    y = module(given)
    y.backward(outer(dy))
    assert y.is_contiguous()
    assert torch.equal(y, outer(reference.forward(x, kernel, bias, **problem.settings)))
    dx, dkernel, dbias = reference.backward(x, kernel, dy, **problem.settings)
    assert torch.equal(given.grad, outer(dx))
    assert torch.equal(module.weight.grad, torch.from_numpy(dkernel))
    assert torch.equal(module.bias.grad, torch.from_numpy(dbias))


@pytest.mark.parametrize("kernel_size", [2, 3, (2, 3)])
def test_same_padding_is_that_of_torch(kernel_size, rng):
    """With equal windows a convolution: torch's own says where windows lie."""
    convolution = nn.Conv2d(2, 3, kernel_size, padding="same", dilation=2, bias=False)
    module = LocallyConnected2d(2, 3, kernel_size, in_shape=(7, 6), padding="same", dilation=2, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.from_numpy(integers(rng, tuple(convolution.weight.shape))))
    module.load_unfolded(convolution.weight.expand(7, 6, -1, -1, -1, -1))
    x = torch.from_numpy(integers(rng, (2, 2, 7, 6)))
    assert torch.equal(module(x), convolution(x))


@pytest.mark.parametrize(("padding", "mode"), [(1, "zeros"), ((2, 0), "zeros"), (2, "circular")])
def test_padding_is_that_of_torch(padding, mode, rng):
    settings = {"stride": 2, "padding": padding, "padding_mode": mode}
    convolution = nn.Conv2d(2, 3, 3, bias=False, **settings)
    module = LocallyConnected2d(2, 3, 3, in_shape=(7, 6), bias=False, **settings)
    with torch.no_grad():
        convolution.weight.copy_(torch.from_numpy(integers(rng, tuple(convolution.weight.shape))))
    module.load_unfolded(convolution.weight.expand(*module.spec.output_shape[:2], -1, -1, -1, -1))
    x = torch.from_numpy(integers(rng, (2, 2, 7, 6)))
    assert torch.equal(module(x), convolution(x))


REGIONS = np.array([[0, 0, 1, 1], [2, 2, 1, 0], [2, 2, 0, 0]])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("regions", ["all", (2, 2), REGIONS, torch.from_numpy(REGIONS)], ids=str)
@pytest.mark.parametrize("bias_sharing", ["position", "region", "filter"])
def test_shared_weights_and_groups(regions, bias_sharing, channels_last, rng):
    """The module is the layer: output, gradients, both conversions, state_dict, and torch.compile's trace."""
    given = regions.numpy() if isinstance(regions, torch.Tensor) else regions
    shape = (4, 5, 4) if channels_last else (4, 4, 5)
    layer = lc.LocallyConnected2D(
        6, 2, groups=2, weight_sharing=given, bias_sharing=bias_sharing, input_shape=shape,
        data_format="channels_last" if channels_last else "channels_first",
    )  # fmt: skip
    layer.build((None, *shape))
    layer.set_weights([integers(rng, weight.shape) for weight in layer.weights])
    module = LocallyConnected2d(
        4, 6, 2, in_shape=(4, 5), groups=2, weight_sharing=regions, bias_sharing=bias_sharing,
        channels_last=channels_last,
    )  # fmt: skip
    copied = LocallyConnected2d.from_layer(layer)
    assert copied.spec == module.spec
    module.load_state_dict(copied.state_dict())
    x = integers(rng, (3, *shape))
    y, backward = layer.forward(x)
    dy = integers(rng, y.shape)
    dx, grads = backward(dy)
    traced = [torch.compile(module, backend="aot_eager")] if bias_sharing == "region" and channels_last else []
    for each in (module, copied, *traced):
        inputs = torch.from_numpy(x).requires_grad_()
        each.zero_grad()
        found = each(inputs)
        found.backward(torch.from_numpy(dy))
        np.testing.assert_array_equal(found.detach(), y)
        np.testing.assert_array_equal(inputs.grad, dx)
        weight, bias = each.weight.grad, each.bias.grad
        np.testing.assert_array_equal(weight, grads.kernel)
        np.testing.assert_array_equal(bias, grads.bias)
    back = module.to_layer(name=layer.name)
    assert (back.groups, back.bias_sharing) == (2, bias_sharing)
    np.testing.assert_array_equal(back(x), y)
    assert tuple(module.unfolded_weight.shape[-4:]) == (6, 2, 2, 2)
    assert torch.equal(copied.load_unfolded(2 * module.unfolded_weight).weight, 2 * module.weight)
    assert "groups=2" in repr(module)
    assert "weight_sharing=" in repr(module)


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"stride": 2}, {"stride": (2, 3), "output_padding": (1, 2)}, {"padding": 1}, {"dilation": 2, "groups": 2},
        {"stride": 3, "padding": (2, 0), "output_padding": 1},
    ],
    ids=str,
)  # fmt: skip
def test_transposed_modules_are_those_of_torch(settings, rng):
    """With one set of weights, which torch keeps as (C, F, *kernel_size)."""
    convolution = nn.ConvTranspose2d(4, 6, (3, 4), **settings)
    module = LocallyConnectedTranspose2d(
        4, 6, (3, 4), in_shape=(5, 4), weight_sharing="all", bias_sharing="filter", **settings
    )
    groups = settings.get("groups", 1)
    with torch.no_grad():
        convolution.weight.copy_(torch.from_numpy(integers(rng, tuple(convolution.weight.shape))))
        convolution.bias.copy_(torch.from_numpy(integers(rng, (6,))))
        by_tap = convolution.weight.permute(2, 3, 1, 0).reshape(module.weight.shape)
        module.weight.copy_(by_tap)
        module.bias.copy_(convolution.bias)
    x = torch.from_numpy(integers(rng, (2, 4, 5, 4)))
    assert torch.equal(module(x), convolution(x))
    assert module.weight.shape == (1, 12 * 6 // groups, 4)


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@pytest.mark.parametrize(
    "settings",
    [
        {"padding": "same", "strides": 2}, {"strides": (2, 1), "output_padding": (1, 0)}, {"strides": 4},
        {"padding": ((1, 0), (0, 1)), "bias_sharing": "filter", "groups": 2}, {"weight_sharing": (2, 2)},
        {"padding": "same", "padding_mode": ("zeros", "circular"), "use_bias": False},
    ],
    ids=str,
)  # fmt: skip
def test_transposed_modules_are_the_layers(settings, data_format, rng):
    shape = (4, 5, 2) if data_format == "channels_last" else (2, 4, 5)
    layer = lc.LocallyConnected2DTranspose(4, 3, data_format=data_format, input_shape=shape, **settings)
    layer.build((None, *shape))
    layer.set_weights([integers(rng, weight.shape) for weight in layer.weights])
    module = LocallyConnectedTranspose2d.from_layer(layer)
    x = integers(rng, (3, *shape))
    y, backward = layer.forward(x)
    dy = integers(rng, y.shape)
    dx, grads = backward(dy)
    for each in (module, *([torch.compile(module, backend="aot_eager")] if data_format == "channels_last" else [])):
        given = torch.from_numpy(x).requires_grad_()
        module.zero_grad()
        found = each(given)
        found.backward(torch.from_numpy(dy))
        np.testing.assert_array_equal(found.detach(), y)
        np.testing.assert_array_equal(given.grad, dx)
        np.testing.assert_array_equal(module.weight.grad, grads.kernel)
        if module.bias is not None:
            np.testing.assert_array_equal(module.bias.grad, grads.bias)
    back = module.to_layer()
    np.testing.assert_array_equal(back(x), y)
    assert back.kernel_size == layer.kernel_size
    with pytest.raises(TypeError, match="needs a LocallyConnected2D"):
        LocallyConnected2d.from_layer(layer)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_given_connections(channels_last, bias, rng):
    pairs = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (4, 1), (5, 1), (0, 3)]
    module = LocallyDirected1d(pairs, 2, 3, mask_shape=(6, 4), bias=bias, channels_last=channels_last)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(integers(rng, tuple(parameter.shape))))
    layer = module.to_layer()
    x, dy = integers(rng, (5, 6, 2)), integers(rng, (5, 4, 3))
    y, backward = layer.forward(x)
    dx, grads = backward(dy)

    def outer(array):
        return torch.from_numpy(array if channels_last else np.moveaxis(array, -1, 1).copy())

    for each in (module, torch.compile(module, backend="aot_eager")):
        given = outer(x).requires_grad_()
        module.zero_grad()
        found = each(given)
        found.backward(outer(dy))
        assert torch.equal(found, outer(y))
        assert torch.equal(given.grad, outer(dx))
        np.testing.assert_array_equal(module.weight.grad, grads.kernel)
        if bias:
            np.testing.assert_array_equal(module.bias.grad, grads.bias)
    copied = LocallyDirected1d.from_layer(layer)
    assert copied.spec == module.spec
    assert torch.equal(copied.weight, module.weight)
    assert "6 inputs, 4 outputs, 8 connections" in repr(module)
    fresh = LocallyDirected1d(pairs, 2, 3, mask_shape=(6, 4))
    assert 0 < fresh.weight.abs().max() <= 1 / np.sqrt(8 / 3 * 2)


def test_arguments_of_transposed_modules_that_are_refused():
    for settings, message in (
        ({"padding": "same"}, "padding='same'"), ({"output_padding": 1}, "output_padding=1 must be less than strides"),
        ({"bias_sharing": "region"}, "bias_sharing='region'"), ({"groups": 3}, "groups=3 does not divide"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            LocallyConnectedTranspose2d(2, 4, 3, in_shape=(4, 5), **settings)


def test_groups_are_those_of_torch(rng):
    convolution = nn.Conv2d(4, 6, 3, groups=2, padding=1)
    module = LocallyConnected2d(
        4, 6, 3, groups=2, in_shape=(7, 6), padding=1, weight_sharing="all", bias_sharing="filter"
    )
    with torch.no_grad():
        convolution.weight.copy_(torch.from_numpy(integers(rng, tuple(convolution.weight.shape))))
    module.load_unfolded(convolution.weight[None], convolution.bias)
    x = torch.from_numpy(integers(rng, (2, 4, 7, 6)))
    torch.testing.assert_close(module(x), convolution(x))


def test_the_layout_of_hand_written_layers(rng):
    weight = torch.from_numpy(integers(rng, (3, 2, 5, 4, 3, 2))).requires_grad_()
    bias = torch.from_numpy(integers(rng, (5, 3, 2))).requires_grad_()
    x = torch.from_numpy(integers(rng, (2, 4, 7, 4))).requires_grad_()
    module = LocallyConnected2d(4, 5, (3, 2), in_shape=(7, 4), stride=2).load_unfolded(weight, bias)
    expected = hand_written(x, weight, bias, 2)
    assert torch.equal(module(x), expected)
    assert torch.equal(module.unfolded_weight, weight)
    expected.square().sum().backward()
    dx, x.grad = x.grad, None
    module(x).square().sum().backward()
    assert torch.equal(x.grad, dx)
    by_window = weight.grad.permute(0, 1, 4, 5, 3, 2).reshape(module.weight.shape)
    assert torch.equal(module.weight.grad, by_window)
    assert torch.equal(module.bias.grad.movedim(-1, 0), bias.grad)


@pytest.mark.parametrize("shape", [(3, 2, 5, 4, 3, 3), (5, 4, 3, 2)])
def test_other_layouts_are_refused(shape):
    module = LocallyConnected2d(4, 5, (3, 2), in_shape=(7, 4), stride=2)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=r"weight has shape .*; give shape \(3, 2, 5, 4, 3, 2\)"):
        module.load_unfolded(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"bias has shape \(3, 2, 5\); this module has \(5, 3, 2\)"):
        module.load_unfolded(module.unfolded_weight * 2, torch.zeros(3, 2, 5))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("mask_width", [0, 2, 3])
@pytest.mark.parametrize("sharing", ["position", "filter"])
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@pytest.mark.parametrize("padding", ["same", "valid", ((1, 0), (0, 1))])
def test_from_and_to_layers(padding, data_format, sharing, mask_width, rng):
    shape = (5, 6, 2) if data_format == "channels_last" else (2, 5, 6)
    settings = {"padding": padding, "data_format": data_format, "bias_sharing": sharing, "input_shape": shape}
    layer = lc.LocallyConnected2D(3, 2, bias_initializer="normal", padding_mode=("circular", "zeros"), **settings) \
        if padding != "valid" else lc.LocallyConnected2D(3, 2, bias_initializer="normal", **settings)  # fmt: skip
    layer.build((None, *shape))
    if mask_width:
        mask = rng.random(layer.kernel.shape[:mask_width]) < 0.7
        layer = type(layer).from_config({**layer.get_config(), "kernel_mask": mask})
        layer.build((None, *shape))
    module = LocallyConnected2d.from_layer(layer)
    x = rng.standard_normal((4, *shape), np.float32)
    np.testing.assert_array_equal(module(torch.from_numpy(x)).detach(), layer(x))
    again = module.to_layer(activation="relu", name="again")
    np.testing.assert_array_equal(again(x), np.maximum(layer(x), 0))
    assert not np.may_share_memory(again.kernel, module.weight.detach().numpy())
    assert again.get_config()["bias_sharing" if sharing == "filter" else "filters"] in ("filter", 3)


def test_layers_with_parts_that_modules_lack_are_refused():
    settings = {"activation": "relu", "kernel_regularizer": "l2", "bias_constraint": "non_neg"}
    layer = lc.LocallyConnected1D(2, 3, **settings, input_shape=(5, 1))
    with pytest.raises(ValueError, match="has no weights yet"):
        LocallyConnected1d.from_layer(layer, linear=True)
    layer.build((None, 5, 1))
    message = r"has activation=ReLU, kernel_regularizer=L2, bias_constraint=NonNeg; .*from_layer\(layer, linear=True\)"
    with pytest.raises(ValueError, match=message):
        LocallyConnected1d.from_layer(layer)
    with pytest.raises(TypeError, match="linear"):
        LocallyConnected1d.from_layer(layer, linear="relu")
    module = LocallyConnected1d.from_layer(layer, linear=True)
    x = np.arange(-5, 5, dtype=np.float32).reshape(2, 5, 1)
    np.testing.assert_array_equal(module(torch.from_numpy(x)).relu().detach(), layer(x))
    with pytest.raises(TypeError, match="LocallyConnected2d needs a LocallyConnected2D"):
        LocallyConnected2d.from_layer(layer)


def test_masks_and_clipped_windows(rng):
    mask = torch.from_numpy(rng.random((42, 18)) < 0.5)
    module = LocallyConnected2d(2, 3, 3, in_shape=(7, 6), padding=1, kernel_mask=mask)
    exists = torch.tensor(np.broadcast_to(module.spec.exists, module.weight.shape))
    assert not module.weight[~exists].any()
    assert module.weight[exists].all()
    module(torch.randn(5, 2, 7, 6)).square().sum().backward()
    assert not module.weight.grad[~exists].any()
    assert module.weight.grad[exists].all()
    assert exists.sum() < mask.sum() * 3
    x = torch.randn(1, 2, 7, 6)
    x[0, 0, 3, 3] = torch.nan  # reaches only the outputs that are connected to it
    blind = LocallyConnected2d(2, 3, 3, in_shape=(7, 6), padding=1, kernel_mask=torch.zeros(42, 18, dtype=torch.bool))
    assert torch.isfinite(blind(x)).all()


def test_initial_values_are_those_of_convolutions():
    torch.manual_seed(0)
    module = LocallyConnected2d(4, 16, 3, in_shape=20)
    bound = 1 / 6
    for parameter in (module.weight, module.bias):
        assert parameter.abs().max() < bound
        assert abs(parameter.std().item() - bound / 3**0.5) < 0.01 * bound
    torch.manual_seed(0)
    assert torch.equal(LocallyConnected2d(4, 16, 3, in_shape=20).weight, module.weight)


def test_memory_formats(rng):
    module = LocallyConnected2d(3, 4, 2, in_shape=5)
    x = torch.randn(2, 3, 5, 5)
    y = module(x)
    assert y.is_contiguous()
    z = module(x.to(memory_format=torch.channels_last))
    assert z.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, z)
    y.view(2, -1)


def test_a_sample_without_a_batch_and_none():
    module = LocallyConnected2d(3, 4, 2, in_shape=5)
    x = torch.randn(3, 5, 5)
    assert torch.equal(module(x), module(x[None])[0])
    empty = torch.randn(0, 3, 5, 5, requires_grad=True)
    y = module(empty)
    assert y.shape == (0, 4, 4, 4)
    y.sum().backward()
    assert empty.grad.shape == empty.shape
    assert not module.weight.grad.any()


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_function_is_the_module(channels_last):
    settings = {"stride": 2, "padding": (1, 0), "dilation": (1, 2)}
    module = LocallyConnected2d(3, 4, 2, in_shape=(6, 5), channels_last=channels_last, **settings)
    x = torch.randn((2, 6, 5, 3) if channels_last else (2, 3, 6, 5))
    y = locally_connected(x, module.weight, module.bias, kernel_size=2, channels_last=channels_last, **settings)
    assert torch.equal(module(x), y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"groups": 3}, ValueError, "groups=3 does not divide"),
        ({"weight_sharing": (9, 9)}, ValueError, "blocks larger than the positions"),
        ({"bias_sharing": "region"}, ValueError, "bias_sharing='region' shares the bias as weight_sharing shares"),
        ({"in_shape": (5, 5, 5)}, ValueError, r"in_shape=\(5, 5, 5\) has 3 entries; give one integer or 2"),
        ({"in_channels": 0}, ValueError, "in_channels=0 is too small"),
        ({"out_channels": 2.0}, TypeError, "out_channels=2.0 is a float"),
        ({"stride": 0}, ValueError, "stride=0 is too small"),
        ({"padding": 3}, ValueError, "padding=.* is as large as the kernel"),
        ({"padding": "same", "stride": 2}, ValueError, "padding='same' needs stride=1, as in torch"),
        ({"padding": "full"}, ValueError, "padding='full' is not known; give one of 'valid', 'same'"),
        ({"kernel_size": 3.0}, TypeError, "kernel_size=3.0 is a float"),
        ({"padding": (True, 0)}, TypeError, "padding=True is a bool"),
        ({"padding": -1}, ValueError, "padding=-1 is too small"),
        ({"padding_mode": "reflect"}, ValueError, "'reflect'"),
        ({"padding": ((-1, 0), (0, 0))}, ValueError, "padding=-1 is too small"),
        ({"padding": ((0, 0, 0), (0, 0))}, ValueError, "padding=.* has 3 entries"),
        ({"padding": (1, 1, 1)}, ValueError, r"padding=\(1, 1, 1\) has 3 entries; give one value or 2"),
        ({"kernel_size": 6}, ValueError, "does not fit input"),
        ({"bias_sharing": "no"}, ValueError, "bias_sharing='no' is not known"),
        ({"bias": 1}, TypeError, "bias=1 is a int; give True or False"),
        ({"kernel_mask": np.ones((3, 3), bool)}, ValueError, r"kernel_mask has shape \(3, 3\); the kernel has shape"),
        ({"kernel_mask": torch.ones(9, 27)}, TypeError, "kernel_mask has dtype float32; give booleans"),
        ({"dtype": torch.int32}, RuntimeError, "float"),
        ({"strides": 2}, TypeError, r"LocallyConnected2d\(\) got an unexpected keyword argument 'strides'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    given = {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "in_shape": 5} | arguments
    with pytest.raises(error, match=message):
        LocallyConnected2d(**given)


def test_bad_tensors():
    module = LocallyConnected2d(3, 4, 3, in_shape=5)
    x = torch.randn(2, 3, 5, 5)

    def refused(call, message):
        with pytest.raises(RuntimeError, match=message):
            call()

    refused(lambda: module(x[..., :4]), r"x has shape \(2, 3, 5, 4\); this LocallyConnected2d needs \(N, 3, 5, 5\)")
    refused(lambda: module(x.movedim(1, -1)), r"needs \(N, 3, 5, 5\)")
    refused(lambda: module(x[0, 0]), "x has shape")
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64):
        refused(lambda dtype=dtype: module(x.to(dtype)), f"x has dtype {dtype}, and the weights torch.float32; give")
    half = LocallyConnected2d(3, 4, 3, in_shape=5, dtype=torch.float16)
    refused(lambda: half(x.half()), r"the weights have dtype torch.float16; call .float\(\) of the module")
    refused(lambda: half.bfloat16()(x.bfloat16()), r"the weights have dtype torch.bfloat16; call .float\(\)")
    with pytest.raises(TypeError, match=r"x is a ndarray; give a torch\.Tensor"):
        module(x.numpy())
    last = LocallyConnected2d(3, 4, 3, in_shape=5, channels_last=True)
    refused(lambda: last(x), r"needs \(N, 5, 5, 3\).*movedim\(1, -1\) of torch, puts them last$")
    locally_connected(x, module.weight, kernel_size=3)
    with pytest.raises(TypeError, match=r"kernel_size=3\.0 is a float"):
        locally_connected(x, module.weight, kernel_size=3.0)
    refused(
        lambda: OPS.apply(x, module.weight, None, module._text),
        r"x has shape \(2, 3, 5, 5\); give shape \(N, 5, 5, 3\)",
    )
    refused(lambda: OPS.apply(x.movedim(1, -1), module.weight, None, "text"), "is not the text of a Spec")
    refused(lambda: OPS.apply(x.movedim(1, -1), module.weight.double(), None, module._text), "kernel has dtype float64")
    refused(lambda: locally_connected(x[0], module.weight, kernel_size=3), "kernel has shape|give shape|x has shape")
    with pytest.raises(NotImplementedError):
        module(x.to_sparse())


# --- what torch does with modules


class Net(nn.Module):
    def __init__(self, **rest):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.local = LocallyConnected2d(4, 4, 3, in_shape=6, **rest)
        self.head = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x):
        return self.head(torch.relu(self.local(torch.relu(self.first(x)))).flatten(1))


def gradients_of(net, x):
    net.zero_grad()
    y = net(x)
    y.square().sum().backward()
    return [y.detach(), *(parameter.grad.clone() for parameter in net.parameters())]


@pytest.mark.parametrize("mask", [False, True])
def test_compile(mask, rng):
    torch._dynamo.reset()
    net = Net(kernel_mask=rng.random((16, 36, 4)) < 0.5 if mask else None)
    x = torch.randn(5, 1, 8, 8)
    expected = gradients_of(net, x)
    for found, right in zip(gradients_of(torch.compile(net, fullgraph=True), x), expected, strict=True):
        torch.testing.assert_close(found, right)
    # Another batch size compiles again, with a symbol in its place.
    again = torch.compile(net, fullgraph=True)
    for size in (2, 7, 9):
        torch.testing.assert_close(again(torch.ones(size, 1, 8, 8)), net(torch.ones(size, 1, 8, 8)))


def test_compile_the_function():
    torch._dynamo.reset()
    module = LocallyConnected2d(3, 4, 2, in_shape=5, stride=2)

    @torch.compile(fullgraph=True)
    def loss(x, weight):
        return locally_connected(x, weight, module.bias, kernel_size=2, stride=2).square().sum()

    x = torch.randn(2, 3, 5, 5)
    loss(x, module.weight).backward()
    found, module.weight.grad = module.weight.grad, None
    module(x).square().sum().backward()
    torch.testing.assert_close(module.weight.grad, found)


def test_compile_the_function_for_several_sizes():
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def call(x, weight):
        return locally_connected(x, weight, kernel_size=[2, 2])

    for size in (4, 5, 6):
        x, weight = torch.randn(2, 1, size, size), torch.randn((size - 1) ** 2, 4, 3)
        assert torch.equal(call(x, weight), locally_connected(x, weight, kernel_size=2))


@pytest.mark.parametrize("mask", [False, True])
def test_export_and_load_in_another_process(mask, tmp_path, rng):
    net = Net(kernel_mask=rng.random((16, 36)) < 0.5 if mask else None).eval()
    x = torch.randn(5, 1, 8, 8)
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, (x,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(x[:3]), net(x[:3]))
    torch.export.save(program, tmp_path / "net.pt2")
    torch.save((x, net(x).detach()), tmp_path / "data.pt")
    code = (
        "import torch, lcnumba.torch; program = torch.export.load('net.pt2'); x, y = torch.load('data.pt'); "
        "torch.testing.assert_close(program.module()(x), y)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True)


def test_copies_pickles_and_state_dicts(rng):
    module = LocallyConnected2d(3, 4, 3, in_shape=5, kernel_mask=rng.random((9, 27)) < 0.5)
    x = torch.randn(2, 3, 5, 5)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x))
        assert other.weight.data_ptr() != module.weight.data_ptr()
        assert other.spec == module.spec
    fresh = LocallyConnected2d(3, 4, 3, in_shape=5, kernel_mask=module.spec.kernel_mask)
    assert not torch.equal(fresh(x), module(x))
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(x), module(x))
    assert list(module.state_dict()) == ["weight", "bias"]
    assert repr(module) == ("LocallyConnected2d(3, 4, kernel_size=(3, 3), in_shape=(5, 5), kernel_mask=<(9, 27)>)")


def test_on_the_meta_device():
    module = LocallyConnected2d(3, 4, 3, in_shape=5, padding=1, device="meta")
    assert module(torch.empty(2, 3, 5, 5, device="meta")).shape == (2, 4, 5, 5)
    module = module.to_empty(device="cpu")
    module.reset_parameters()
    assert torch.isfinite(module(torch.ones(2, 3, 5, 5))).all()


def test_autocast():
    module, x = LocallyConnected2d(3, 4, 3, in_shape=5), torch.randn(2, 3, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x.bfloat16())
    assert y.dtype == torch.float32
    assert torch.equal(y, module(x.bfloat16().float()))


def test_vmap_and_vectorised_jacobians():
    module, x = LocallyConnected1d(3, 4, 3, in_shape=6).double(), torch.randn(5, 3, 6, dtype=torch.float64)
    weights = torch.stack([module.weight.detach(), 2 * module.weight.detach()])
    both = torch.func.vmap(lambda weight: locally_connected(x, weight, kernel_size=3))(weights)
    assert torch.equal(both, torch.stack([locally_connected(x, weight, kernel_size=3) for weight in weights]))
    slow, fast = (torch.autograd.functional.jacobian(module, x[:1], vectorize=v) for v in (False, True))
    assert fast.shape == (1, 4, 4, 1, 3, 6)
    assert torch.equal(slow, fast)
    hessians = [torch.autograd.functional.hessian(lambda x: module(x).pow(3).sum(), x[:1], vectorize=v)
                for v in (False, True)]  # fmt: skip
    torch.testing.assert_close(*hessians)


def test_forward_mode_and_transforms_of_torch_func_are_refused():
    """Of an operator that is differentiated by `torch.library.register_autograd`, torch has none."""
    module = LocallyConnected1d(3, 4, 3, in_shape=6)
    x = torch.ones(1, 3, 6)
    for call in (lambda: torch.func.jvp(module, (x,), (x,)), lambda: torch.func.jacfwd(module)(x)):
        with pytest.raises(NotImplementedError, match="no forward-mode derivatives; use reverse mode"):
            call()
    with torch.autograd.forward_ad.dual_level():
        module(x)
        for enabled in (True, False):
            with torch.set_grad_enabled(enabled), pytest.raises(NotImplementedError, match="no forward-mode"):
                module(torch.autograd.forward_ad.make_dual(x, x))
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda x: module(x).sum())(torch.ones(1, 3, 6))


def test_checkpointing():
    net = nn.Sequential(LocallyConnected1d(3, 4, 3, in_shape=8), nn.Tanh(), LocallyConnected1d(4, 2, 3, in_shape=6))
    x = torch.randn(5, 3, 8, requires_grad=True)
    net(x).square().sum().backward()
    expected, x.grad = x.grad, None
    torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False).square().sum().backward()
    assert torch.equal(x.grad, expected)


class Images(torch.utils.data.Dataset):
    """Computes with the layer in the workers, too, which torch forks after OpenMP has begun."""

    def __init__(self, module):
        self.module = module

    def __len__(self):
        return 12

    def __getitem__(self, number):
        with torch.no_grad():
            return self.module(torch.full((3, 5, 5), float(number)))


def test_workers_of_a_data_loader():
    module = LocallyConnected2d(3, 4, 3, in_shape=5)
    wide = LocallyConnected2d(8, 32, 3, in_shape=34)
    with torch.no_grad():
        wide(torch.randn(32, 8, 34, 34))  # starts the threads of both
    loader = torch.utils.data.DataLoader(Images(module), batch_size=4, num_workers=2, multiprocessing_context="fork",
                                         timeout=60)  # fmt: skip
    found = torch.cat(list(loader))
    with torch.no_grad():
        expected = module(torch.arange(12.0)[:, None, None, None].expand(12, 3, 5, 5))
    torch.testing.assert_close(found, expected)


def test_two_threads(rng):
    net = Net()
    inputs = [torch.randn(6, 1, 8, 8) for _ in range(20)]
    expected = [net(x) for x in inputs]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(net, inputs))
    assert all(map(torch.equal, found, expected))


def test_losses_are_those_of_this_librarys_training():
    run = Run()
    net = nn.Sequential(
        LocallyConnected2d(2, 4, 3, in_shape=(9, 8), channels_last=True), nn.ReLU(),
        LocallyConnected2d(4, 3, 2, in_shape=(7, 6), stride=2, channels_last=True), nn.Tanh(),
        nn.Flatten(), nn.Linear(27, 3),
    )  # fmt: skip
    with torch.no_grad():
        for parameter, weight in zip(net.parameters(), run.weights, strict=True):
            parameter.copy_(torch.from_numpy(weight.T if weight.ndim == 2 and parameter.dim() == 2 else weight))
    optimizer = torch.optim.SGD(net.parameters(), RATE)
    losses = []
    for x, labels in zip(map(torch.from_numpy, run.x), map(torch.from_numpy, run.labels), strict=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    run.check(losses)


@pytest.mark.parametrize("workers", [0, 2])
def test_many_steps_keep_memory_flat_and_end(workers, tmp_path):
    """In a process of its own, under a time limit: a leak of one small array a step would be seen."""
    start = {"num_workers": workers, "multiprocessing_context": "fork"} if workers else {}
    code = f"""
import resource, torch
from torch import nn
from lcnumba.torch import LocallyConnected2d
torch.manual_seed(0)
net = nn.Sequential(LocallyConnected2d(1, 4, 3, in_shape=12), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))
data = torch.utils.data.TensorDataset(torch.randn(4000, 1, 12, 12), torch.randint(3, (4000,)))
optimizer = torch.optim.SGD(net.parameters(), 0.01)
def epochs(number):
    for _ in range(number):
        for x, labels in torch.utils.data.DataLoader(data, 4, **{start}):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), labels).backward()
            optimizer.step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = epochs(2)
print(epochs(8) - before)
"""
    # Other tests run meanwhile: threads that wait actively would take most of the time.
    found = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
                           timeout=300, env={**os.environ, "OMP_WAIT_POLICY": "passive"})  # fmt: skip
    assert int(found.stdout) < 8000  # KiB: of 8,000 steps; one array of the weights has 14


def test_examples_in_docstrings():
    result = doctest.testmod(lcnumba.torch, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed
