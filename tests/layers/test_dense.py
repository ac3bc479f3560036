import numpy as np
import pytest

import lcnumba as lc
from lcnumba.testing import integers, numerical_gradient


def test_values_and_gradients_are_exact_on_integers(rng):
    layer = lc.Dense(4, dtype="float64")
    x = integers(rng, (3, 5), np.float64)
    layer.build((None, 5))
    layer.set_weights([integers(rng, w.shape) for w in layer.weights])
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(y, x @ layer.kernel + layer.bias)
    dy = integers(rng, y.shape)
    dx, grads = backward(dy)
    np.testing.assert_array_equal(dx, dy @ layer.kernel.T)
    np.testing.assert_array_equal(grads.kernel, x.T @ dy)
    np.testing.assert_array_equal(grads.bias, dy.sum(axis=0))


@pytest.mark.parametrize("activation", ["relu", "softmax"])
def test_activation_gradients(activation, rng):
    layer = lc.Dense(4, activation=activation, dtype="float64", rng=0)
    x, dy = rng.standard_normal((3, 5)), rng.standard_normal((3, 4))
    dx = layer.forward(x)[1](dy)[0]
    np.testing.assert_allclose(dx, numerical_gradient(lambda v: float(np.sum(layer(v) * dy)), x), atol=1e-9)


def test_attributes_and_config():
    layer = lc.Dense(4, use_bias=False, input_shape=(5,), kernel_initializer="ones")
    assert layer.output_shape == (None, 4)
    with pytest.raises(ValueError, match="has no weights yet; call or build"):
        layer.count_params()
    layer.units = 3
    layer.build((None, 5))
    assert layer.count_params() == 15
    assert layer.bias is None
    assert layer.input_shape == (None, 5)
    config = layer.get_config()
    assert lc.Dense.from_config(config).get_config() == config
    with pytest.raises(AttributeError, match=r"units of Dense .* is locked"):
        layer.units = 4
    assert layer(np.ones((0, 5))).shape == (0, 3)
    with pytest.raises(AttributeError, match="input shape"):
        lc.Dense(3).input_shape  # noqa: B018


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (lambda: lc.Dense(0), ValueError, "units=0"),
        (lambda: lc.Dense(3, input_shape=(2, 2)), ValueError, r"give 1: \(features\), without the batch"),
        (lambda: lc.Dense(3)(np.ones(4)), ValueError, r"Dense needs 2: \(batch, features\); put a Flatten"),
        (lambda: lc.Dense(3)(np.ones((2, 3, 4))), ValueError, r"Dense needs 2: \(batch, features\); put a Flatten"),
        (lambda: lc.Dense(3).build((None, None)), ValueError, "input_shape"),
        (lambda: lc.Dense(3, input_shape=(4,)).step((np.ones(1),), 0.1), RuntimeError, "step before build"),
    ],
)
def test_invalid_use(action, error, message):
    with pytest.raises(error, match=message):
        action()


def test_number_of_features_must_match_build():
    layer = lc.Dense(3)
    layer.build((None, 4))
    with pytest.raises(ValueError, match=r"x has 5 features; .* built for 4"):
        layer(np.ones((2, 5)))


def test_flatten():
    layer = lc.Flatten()
    x = np.arange(24).reshape(2, 3, 4)
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(y, x.reshape(2, 12))
    np.testing.assert_array_equal(backward(y)[0], x)
    assert layer(x[:0]).shape == (0, 12)
    assert layer.count_params() == 0
    assert layer.get_weights() == []
    assert repr(layer) == f"<Flatten {layer.name!r}: data_format='channels_last'>"
    layer.set_weights([])
    with pytest.raises(ValueError, match="Flatten has none"):
        layer.set_weights([x])
    with pytest.raises(ValueError, match="fully defined"):
        layer.compute_output_shape((None, None, 3))
    with pytest.raises(ValueError, match="x has 0 dimensions; its first axis must be the batch"):
        layer(np.float64(3))
    with pytest.raises(ValueError, match=r"dy has shape \(12, 2\); give the shape of y"):
        backward(y.T)
    layer.build((None, 4, 3))
    with pytest.raises(ValueError, match=r"built for \(None, 4, 3\)"):
        layer(x)
    with pytest.raises(AttributeError):
        layer.name = "other"
