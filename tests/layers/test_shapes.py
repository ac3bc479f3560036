"""Layers that change the shape equal NumPy's functions; integers give the same bits."""

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.testing import integers

FIRST = "channels_first"
CASES = [
    (lc.Reshape((3, -1)), (4, 6), lambda x: x.reshape(-1, 3, 8)),
    (lc.Reshape([24]), (4, 6), lambda x: x.reshape(-1, 24)),
    (lc.Reshape(()), (1,), lambda x: x.reshape(-1)),
    (lc.Reshape((-1,)), (), lambda x: x.reshape(-1, 1)),
    (lc.ZeroPadding1D(2), (4, 3), lambda x: np.pad(x, ((0, 0), (2, 2), (0, 0)))),
    (lc.ZeroPadding1D((0, 1)), (4, 3), lambda x: np.pad(x, ((0, 0), (0, 1), (0, 0)))),
    (lc.ZeroPadding1D(1, FIRST), (4, 3), lambda x: np.pad(x, ((0, 0), (0, 0), (1, 1)))),
    (lc.ZeroPadding2D((1, 2)), (4, 3, 2), lambda x: np.pad(x, ((0, 0), (1, 1), (2, 2), (0, 0)))),
    (lc.ZeroPadding2D(((1, 0), (2, 3)), FIRST), (4, 3, 2), lambda x: np.pad(x, ((0, 0), (0, 0), (1, 0), (2, 3)))),
    (lc.ZeroPadding2D(0), (4, 3, 2), lambda x: x),
    (lc.UpSampling1D(3), (4, 2), lambda x: x.repeat(3, 1)),
    (lc.UpSampling2D((2, 3)), (4, 3, 2), lambda x: x.repeat(2, 1).repeat(3, 2)),
    (lc.UpSampling2D(2, FIRST), (4, 3, 2), lambda x: x.repeat(2, 2).repeat(2, 3)),
    (lc.UpSampling2D(1), (4, 3, 2), lambda x: x),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CASES)))
@pytest.mark.parametrize("batch", [3, 1, 0])
def test_values_and_gradients(number, batch, rng):
    layer, shape, expected = CASES[number]
    x = integers(rng, (batch, *shape))
    for one in (layer, type(layer).from_config(layer.get_config())):
        y, backward = one.forward(x)
        np.testing.assert_array_equal(y, expected(x))
        np.testing.assert_array_equal(one(x), y)
        assert y.dtype == np.float32
        assert not np.may_share_memory(x, y)
        assert one.compute_output_shape((None, *shape)) == (None, *y.shape[1:])
        dy = integers(rng, y.shape)
        dx, grads = backward(dy)
        assert grads is None
        assert dx.shape == x.shape
        assert not np.may_share_memory(dx, dy)
        # The transposed map.
        other = integers(rng, x.shape)
        assert np.sum(dx * other) == np.sum(dy * expected(other))
    assert layer(x.astype(np.float64)).dtype == np.float64
    assert layer(x.astype(np.int32)).dtype == np.float32


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lc.Reshape(5), TypeError, "target_shape=5 is a int; give a tuple"),
        (lambda: lc.Reshape((-1, -1)), ValueError, "several entries -1"),
        (lambda: lc.Reshape((-2,)), ValueError, "target_shape=-2 is too small"),
        (lambda: lc.Reshape((0, 3)), ValueError, "has an entry 0"),
        (lambda: lc.Reshape((1.5,)), TypeError, "target_shape=1.5 is a float"),
        (lambda: lc.ZeroPadding1D(-1), ValueError, "padding=-1 is too small; give an integer of at least 0"),
        (lambda: lc.ZeroPadding1D((1, 2, 3)), ValueError, r"padding=\(1, 2, 3\) has 3 entries"),
        (lambda: lc.ZeroPadding2D((1, -2)), ValueError, "padding=-2 is too small"),
        (lambda: lc.ZeroPadding2D((1, 2, 3)), ValueError, "has 3 entries; give one integer, or 2"),
        (lambda: lc.ZeroPadding2D(((1, 2), (3,))), ValueError, "has 1 entries"),
        (lambda: lc.ZeroPadding2D("same"), TypeError, "padding='same' is a str"),
        (lambda: lc.UpSampling1D(0), ValueError, "size=0 is too small"),
        (lambda: lc.UpSampling2D((1, 2, 3)), ValueError, "size=.* has 3 entries"),
        (lambda: lc.UpSampling2D(interpolation="bilinear"), ValueError, "interpolation='bilinear' .* 'nearest'"),
    ],
)
def test_invalid_settings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (lc.Reshape((5,)), (None, 12), r"target_shape=\(5,\) .* does not fit .* samples have 12 elements"),
        (lc.Reshape((5, -1)), (None, 12), r"target_shape=\(5, -1\) .* does not fit"),
        (lc.Reshape((5, -1)), (None, None, 5), "must be fully defined"),
        (lc.ZeroPadding2D(), (None, 4, 3), r"give 4: \(batch, height, width, channels\)"),
        (lc.UpSampling1D(), (None, None, 3), "must be fully defined"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer.build(shape)
    assert not layer.built


def test_too_large_an_output_is_refused_before_it_is_allocated():
    with pytest.raises(MemoryError, match="the output of <UpSampling2D 'large': size="):
        lc.UpSampling2D(1 << 20, name="large")(np.zeros((1, 2, 2, 3)))
