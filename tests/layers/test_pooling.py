"""Poolings equal loops over their windows; `bridges/keras2/test_companions.py` compares them with tf_keras."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lcnumba as lc
from lcnumba.testing import integers

WINDOWS = {"Max": {1: lc.MaxPooling1D, 2: lc.MaxPooling2D}, "Average": {1: lc.AveragePooling1D, 2: lc.AveragePooling2D}}
GLOBAL = {
    "Max": {1: lc.GlobalMaxPooling1D, 2: lc.GlobalMaxPooling2D},
    "Average": {1: lc.GlobalAveragePooling1D, 2: lc.GlobalAveragePooling2D},
}


def window(at, size, stride, length, padding):
    """The inputs of one output along one axis."""
    outputs = -(-length // stride)
    missing = max((outputs - 1) * stride + size - length, 0) if padding == "same" else 0
    begin = at * stride - missing // 2
    return [number for number in range(begin, begin + size) if 0 <= number < length]


def by_loops(kind, x, dy, size, strides, padding):
    """Y and dx of a pooling, channels last, in plain loops."""
    y, dx = np.zeros(dy.shape), np.zeros(x.shape)
    for index in np.ndindex(dy.shape):
        n, *at, c = index
        axes = zip(at, size, strides, x.shape[1:-1], strict=True)
        cells = [(n, *cell, c) for cell in product_of([window(*axis, padding) for axis in axes])]
        values = [x[cell] for cell in cells]
        if kind == "Max":
            y[index] = max(values)
            dx[cells[values.index(max(values))]] += dy[index]
        else:
            y[index] = sum(values) / len(values)
            for cell in cells:
                dx[cell] += dy[index] / len(values)
    return y, dx


def product_of(lists):
    """All choices of one entry of each list, the last one changing fastest."""
    if not lists:
        return [()]
    return [(first, *rest) for first in lists[0] for rest in product_of(lists[1:])]


@st.composite
def problems(draw):
    rank = draw(st.sampled_from([1, 2]))
    sizes = st.integers(1, 4)
    size, strides = (tuple(draw(sizes) for _ in range(rank)) for _ in range(2))
    shape = tuple(draw(st.integers(1, 6)) for _ in range(rank))
    padding = draw(st.sampled_from(["valid", "same"]))
    if padding == "valid":
        shape = tuple(map(max, shape, size))
    return (
        rank,
        size,
        strides,
        padding,
        (draw(st.integers(0, 2)), *shape, draw(st.integers(1, 2))),
        draw(st.integers(0)),
    )


@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("first", [False, True])
@given(problem=problems())
def test_windows_equal_loops(kind, first, problem):
    rank, size, strides, padding, shape, seed = problem
    rng = np.random.default_rng(seed)
    layer = WINDOWS[kind][rank](size, strides, padding, "channels_first" if first else "channels_last")

    def turned(array):
        return np.moveaxis(array, -1, 1) if first else array

    x = rng.integers(-5, -1, shape).astype(np.float64)  # ties, and nothing that padding with 0 would leave
    y, backward = layer.forward(turned(x))
    dy = rng.integers(-4, 5, y.shape).astype(np.float64)
    dx, grads = backward(dy)
    expected, expected_dx = by_loops(kind, x, np.moveaxis(dy, 1, -1) if first else dy, size, strides, padding)
    np.testing.assert_array_equal(y, turned(expected))
    np.testing.assert_allclose(dx, turned(expected_dx), rtol=0, atol=0 if kind == "Max" else 1e-13)
    np.testing.assert_array_equal(layer(turned(x)), y)
    assert grads is None
    assert layer.compute_output_shape((None, *turned(x).shape[1:])) == (None, *y.shape[1:])


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("rank", [1, 2])
def test_global_pooling(rank, data_format, keepdims, rng):
    shape = (3, 4, 2) if rank == 1 else (3, 4, 8, 2)
    x = integers(rng, shape)
    axes = (1, 2)[:rank]
    given = np.moveaxis(x, -1, 1) if data_format == "channels_first" else x
    spatial = tuple(axis + (data_format == "channels_first") for axis in axes)
    highest, mean = (kinds[rank](data_format, keepdims) for kinds in GLOBAL.values())

    y, backward = highest.forward(given)
    np.testing.assert_array_equal(y, given.max(spatial, keepdims=keepdims))
    dy = integers(rng, y.shape)
    spread = dy if keepdims else np.expand_dims(dy, spatial)
    ties = given == given.max(spatial, keepdims=True)
    np.testing.assert_allclose(backward(dy)[0], ties / ties.sum(spatial, keepdims=True) * spread, rtol=1e-6)

    y, backward = mean.forward(given)
    np.testing.assert_array_equal(y, given.mean(spatial, keepdims=keepdims))
    count = x.size // (x.shape[0] * x.shape[-1])
    np.testing.assert_array_equal(backward(dy)[0], np.broadcast_to(spread / np.float32(count), given.shape))
    for layer in (highest, mean):
        assert layer.compute_output_shape((None, *given.shape[1:])) == (None, *y.shape[1:])
        assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


def test_the_gradient_of_equal_maxima_is_divided_equally():
    _, backward = lc.GlobalMaxPooling1D().forward([[[1.0], [4.0], [4.0], [0.0]]])
    np.testing.assert_array_equal(backward([[3.0]])[0][0, :, 0], [0, 1.5, 1.5, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_that_are_not_finite_stay_where_they_belong(dtype):
    _, backward = lc.MaxPooling1D(2).forward(np.array([[[1], [2], [4], [3], [5], [5]]], dtype))
    dx, _ = backward(np.array([[[np.inf], [np.nan], [-0.0]]], dtype))
    np.testing.assert_array_equal(dx[0, :, 0], [0, np.inf, np.nan, 0, 0, 0])


@pytest.mark.parametrize(
    "layer", [lc.AveragePooling1D(2), lc.GlobalAveragePooling1D(), lc.GlobalMaxPooling1D(), lc.UpSampling1D(2)]
)
def test_what_is_not_finite_causes_no_warning(layer):
    """Warnings are errors in the tests."""
    x = np.array([[[np.inf], [-np.inf]]])
    y, backward = layer.forward(x)
    dy = np.full(y.shape, np.inf)
    dy[:, ::2] = -np.inf
    assert backward(dy)[0].shape == x.shape
    assert layer(x * np.nan).shape == y.shape


def test_defaults_are_those_of_keras():
    assert lc.MaxPooling2D(name="pool").get_config() == {
        "name": "pool", "pool_size": (2, 2), "padding": "valid", "strides": (2, 2), "data_format": "channels_last",
    }  # fmt: skip
    assert lc.AveragePooling1D(3).get_config()["strides"] == (3,)
    assert lc.MaxPooling1D(padding="SAME").get_config()["padding"] == "same"
    for kind, name in ((lc.GlobalMaxPooling1D, "global_max_pooling1d"), (lc.AveragePooling2D, "average_pooling2d")):
        assert kind().name.startswith(name)


@pytest.mark.parametrize("layer", [lc.MaxPooling1D(2), lc.AveragePooling1D(2), lc.GlobalMaxPooling1D()])
def test_inputs_are_cast_and_left_alone(layer):
    x = np.arange(6).reshape(1, 3, 2)
    assert layer(x).dtype == np.float32
    assert layer(x > 2).dtype == np.float32
    assert layer(x.astype(np.float64)).dtype == np.float64
    fixed = x.astype(np.float32)
    fixed.flags.writeable = False
    y, backward = layer.forward(fixed)
    assert not np.may_share_memory(y, fixed)
    assert backward(y)[0].shape == x.shape


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lc.MaxPooling2D(0), ValueError, "pool_size=0 is too small"),
        (lambda: lc.MaxPooling2D((2, 2, 2)), ValueError, "pool_size=.* has 3 entries"),
        (lambda: lc.MaxPooling2D(2.5), TypeError, "pool_size=2.5 is a float"),
        (lambda: lc.MaxPooling1D(strides=-1), ValueError, "strides=-1 is too small"),
        (lambda: lc.AveragePooling1D(padding="full"), ValueError, "padding='full' is not known"),
        (lambda: lc.AveragePooling2D(data_format="NHWC"), ValueError, "data_format='NHWC' is not known"),
        (lambda: lc.GlobalMaxPooling2D(keepdims=1), TypeError, "keepdims=1 is a int"),
        (lambda: lc.MaxPooling2D(stride=1), TypeError, "it is called strides here"),
    ],
)
def test_invalid_settings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (lc.MaxPooling2D(3), (None, 2, 5, 1), r"pool_size=\(3, 3\) .* padding='valid'; use padding='same'"),
        (lc.MaxPooling2D(), (None, 4, 1), r"has 3 entries; give 4: \(batch, height, width, channels\)"),
        (lc.MaxPooling1D(data_format="channels_first"), (None, 4), r"give 3: \(batch, channels, steps\)"),
        (lc.AveragePooling2D(), (None, None, 4, 1), "must be fully defined but for the batch"),
        (lc.GlobalMaxPooling1D(), (None, 0, 4), "input_shape=0 is too small"),
        (lc.GlobalAveragePooling2D(), (None, 4), "has 2 entries; give 4"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(layer, shape, message):
    for method in (layer.compute_output_shape, layer.build):
        with pytest.raises(ValueError, match=message):
            method(shape)
    assert not layer.built
    if None not in shape[1:]:
        with pytest.raises(ValueError, match=message):
            layer(np.zeros((2, *shape[1:])))


def test_a_built_layer_takes_its_shape_alone():
    layer = lc.MaxPooling1D(2)
    layer.build((None, 4, 1))
    with pytest.raises(ValueError, match=r"x has shape \(1, 5, 1\); .* was built for \(None, 4, 1\)"):
        layer(np.zeros((1, 5, 1)))
    with pytest.raises(ValueError, match="give the shape of y"):
        layer.forward(np.zeros((1, 4, 1)))[1](np.zeros((1, 4, 1)))


def test_empty_batches():
    for layer in (lc.MaxPooling2D(2), lc.AveragePooling2D(2, padding="same"), lc.GlobalMaxPooling2D()):
        y, backward = layer.forward(np.zeros((0, 4, 4, 3)))
        assert len(y) == 0
        assert backward(y)[0].shape == (0, 4, 4, 3)
