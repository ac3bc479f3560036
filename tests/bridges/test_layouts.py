"""Layouts of other libraries, against their layers' definitions in NumPy."""

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.bridges.layouts import ORDERS
from lcnumba.testing import integers

LAYERS = {1: lc.LocallyConnected1D, 2: lc.LocallyConnected2D, 3: lc.LocallyConnected3D}
layouts = pytest.mark.parametrize("layout", sorted(ORDERS))


def patches(x, kernel_size):
    """The windows (N, *output, C, *kernel_size) of a channels-last x, with stride 1 and without padding."""
    return np.lib.stride_tricks.sliding_window_view(x, kernel_size, tuple(range(1, x.ndim - 1)))


def computed(layout, x, kernel, bias, kernel_size):
    """What the library computes, (N, *output, F), by the definition of its layer."""
    rank = x.ndim - 2
    p = patches(x, kernel_size)
    output = p.shape[1 : 1 + rank]
    flat = p.reshape(len(x), int(np.prod(output)), -1)  # channels slowest
    P, K = flat.shape[1:]
    if layout == "torch":
        weights = kernel.reshape(P, kernel.shape[rank], K)
        y = np.einsum("npk,pfk->npf", flat, weights) + bias.reshape(-1, P).T
    elif layout == "torch_unfold":
        channels = kernel.shape[2]
        weights = kernel.reshape(kernel.shape[1], channels, P, -1)
        split = flat.reshape(len(x), P, channels, -1)
        y = np.einsum("npck,fcpk->npf", split, weights) + bias.reshape(-1, P).T
    elif layout == "flax":
        y = np.einsum("npk,pkf->npf", flat, kernel.reshape(P, K, -1)) + bias.reshape(P, -1)
    elif layout == "caffe":
        y = np.einsum("npk,fkp->npf", flat, kernel[:, 0]) + bias[0, 0].T
    else:  # lasagne convolves
        flipped = np.flip(kernel, tuple(range(2, 2 + rank))).reshape(len(kernel), K, P)
        y = np.einsum("npk,fkp->npf", flat, flipped) + bias.reshape(-1, P).T
    return y.reshape(len(x), *output, -1)


@layouts
@pytest.mark.parametrize(("size", "kernel_size"), [((7,), (3,)), ((5, 6), (2, 3)), ((3, 4, 5), (2, 1, 3))], ids=str)
def test_a_layer_computes_what_the_library_does(layout, size, kernel_size, rng):
    layer = LAYERS[len(size)](3, kernel_size, input_shape=(*size, 2))
    layer.build((None, *size, 2))
    x = integers(rng, (4, *size, 2))
    weights = [integers(rng, array.shape) for array in lc.to_layout(layer, layout)]
    fresh = LAYERS[len(size)](3, kernel_size, input_shape=(*size, 2))
    lc.from_layout(fresh, weights, layout)
    np.testing.assert_array_equal(fresh(x), computed(layout, x, *weights, kernel_size))
    for found, given in zip(lc.to_layout(fresh, layout), weights, strict=True):
        np.testing.assert_array_equal(found, given)
        assert found.flags.c_contiguous
        assert not any(np.shares_memory(found, weight) for weight in fresh.weights)


@layouts
def test_groups_and_a_bias_of_each_filter(layout, rng):
    layer = lc.LocallyConnected2D(4, 3, groups=2, bias_sharing="filter", padding="same", input_shape=(5, 6, 2), rng=0)
    layer.build((None, 5, 6, 2))
    layer.set_weights([integers(rng, weight.shape) for weight in layer.weights])
    twin = lc.LocallyConnected2D.from_config(layer.get_config())
    lc.from_layout(twin, lc.to_layout(layer, layout), layout)
    x = integers(rng, (2, 5, 6, 2))
    np.testing.assert_array_equal(twin(x), layer(x))
    without = lc.LocallyConnected2D(4, 3, use_bias=False, input_shape=(5, 6, 2))
    without.build((None, 5, 6, 2))
    [kernel] = lc.to_layout(without, layout)
    lc.from_layout(without, [np.zeros_like(kernel)], layout)
    assert not without.kernel.any()


@layouts
def test_what_does_not_fit_leaves_the_layer_as_it_was(layout):
    layer = lc.LocallyConnected1D(3, 2, input_shape=(5, 2), rng=0)
    layer.build((None, 5, 2))
    before = layer.get_weights()
    kernel, bias = lc.to_layout(layer, layout)
    for weights, message in (
        ([kernel], "1 weights given"), ([kernel[..., :-1], bias], r"weights\[0\] has shape"),
        ([2 * kernel, bias[..., :-1]], r"weights\[1\] has shape"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            lc.from_layout(layer, weights, layout)
    for weight, kept in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(weight, kept)


def test_what_is_refused():
    layer = lc.LocallyConnected1D(3, 2, weight_sharing="all", input_shape=(5, 2))
    with pytest.raises(ValueError, match="has weight_sharing, which other libraries' layouts do not know"):
        lc.to_layout(layer, "torch")
    with pytest.raises(ValueError, match="layout='theano' is not known; give one of 'torch'"):
        lc.to_layout(lc.LocallyConnected1D(3, 2), "theano")
    with pytest.raises(TypeError, match=r"layer is a Dense; give a LocallyConnected1D, 2D or 3D"):
        lc.from_layout(lc.Dense(3), [], "torch")
    with pytest.raises(TypeError, match="weights is a dict; give a list"):
        lc.from_layout(lc.LocallyConnected1D(3, 2, input_shape=(5, 2)), {}, "torch")
    with pytest.raises(AttributeError, match=r"the input shape of .* is not known yet"):
        lc.from_layout(lc.LocallyConnected1D(3, 2), [np.zeros(1)], "torch")


@pytest.mark.parametrize("number", [0, 1])
def test_refused_dtypes_leave_the_layer_unbuilt(number):
    layer = lc.LocallyConnected1D(1, 2, input_shape=(3, 1))
    weights = [np.ones((2, 1, 1, 2)), np.ones((1, 2))]
    weights[number] = weights[number].astype(complex)
    with pytest.raises(TypeError, match=rf"weights\[{number}\] has dtype complex128"):
        lc.from_layout(layer, weights, "torch")
    assert not layer.built
    layer.filters = 2  # not locked
