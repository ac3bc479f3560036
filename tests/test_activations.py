import numpy as np
import pytest

import lcnumba as lc
from lcnumba import activations
from lcnumba.testing import numerical_gradient

NAMES = ["linear", "relu", "tanh", "sigmoid", "softmax"]


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_finite_differences(name, rng):
    activation = activations.get(name)
    z, dy = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 3, 4, 5))
    y = activation(z)
    assert activation.name == name
    expected = numerical_gradient(lambda v: float(np.sum(activation(v) * dy)), z)
    np.testing.assert_allclose(activation.gradient(dy, y), expected, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_in_place_out_and_dtype(name, dtype, rng):
    activation = activations.get(name)
    z = rng.standard_normal((3, 4)).astype(dtype)
    kept = z.copy()
    y = activation(z)
    assert y.dtype == dtype
    np.testing.assert_array_equal(z, kept)
    out = np.empty_like(z)
    assert activation(z, out=out) is out
    np.testing.assert_array_equal(out, y)
    assert activation(z, out=z) is z
    np.testing.assert_array_equal(z, y)
    gradient = activation.gradient(np.ones_like(y), y)
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(z, y)


def test_known_values():
    z = np.array([-np.inf, -2.0, 0.0, 3.0, np.inf, np.nan])
    np.testing.assert_array_equal(activations.ReLU()(z), [0, 0, 0, 3, np.inf, np.nan])
    np.testing.assert_array_equal(activations.ReLU().gradient(np.full(6, np.inf), z), [0, 0, 0, np.inf, np.inf, 0])
    np.testing.assert_allclose(activations.Sigmoid()(z), [0, 0.11920292, 0.5, 0.95257413, 1, np.nan], rtol=1e-7)
    np.testing.assert_allclose(
        activations.Softmax()(np.array([[1e4, 1e4], [0, np.log(3)]])), [[0.5, 0.5], [0.25, 0.75]]
    )


def test_get():
    assert isinstance(activations.get(None), activations.Linear)
    assert isinstance(activations.get("ReLU"), activations.ReLU)
    mine = activations.Tanh()
    assert activations.get(mine) is mine
    with pytest.raises(ValueError, match="give one of linear, relu, sigmoid, softmax, tanh"):
        activations.get("nope")
    with pytest.raises(TypeError, match=r"brings no gradient; give a name .* or an object with"):
        activations.get(lambda z: z)


class Square:
    """A custom activation: y = z^2, by way of |z| = sqrt(y) only for z >= 0."""

    name = "square"

    def __call__(self, z, out=None):
        return np.square(z, out=out)

    def gradient(self, dy, y):
        return 2 * np.sqrt(y).astype(np.float64) * dy


@pytest.mark.parametrize("make", [lambda a: lc.LocallyConnected2D(2, 1, activation=a), lambda a: lc.Dense(2, a)])
def test_a_custom_activation_trains(make):
    """Also one whose gradient comes in another dtype."""
    layer = make(Square())
    x = np.ones((1, 3)) if isinstance(layer, lc.Dense) else np.ones((1, 3, 3, 1))
    layer.build(x.shape)
    layer.set_weights([np.ones_like(w) for w in layer.weights])
    y, backward = layer.forward(x)
    dx, grads = backward(np.ones_like(y))
    np.testing.assert_array_equal(grads.bias, 2 * np.sqrt(y[0]))
    assert dx.dtype == grads.kernel.dtype == grads.bias.dtype == np.float32
    backward.step(np.ones_like(y), lr=0.5)
    np.testing.assert_array_equal(layer.bias, 1 - np.sqrt(y[0]))


@pytest.mark.parametrize("make", [lambda a: lc.LocallyConnected2D(2, 2, activation=a), lambda a: lc.Dense(2, a)])
def test_a_custom_gradient_is_held_to_its_contract(make):
    class Flat(Square):
        def gradient(self, dy, y):
            return dy.reshape(1, -1)[:, :1]

    class Writes(Square):
        def gradient(self, dy, y):
            dy *= 2
            return dy

    for activation, message in ((Flat(), "return an array of the same shape"), (Writes(), "read-only")):
        layer = make(activation)
        y, backward = layer.forward(np.ones((1, 3) if isinstance(layer, lc.Dense) else (1, 3, 3, 1)))
        dy = np.ones_like(y)
        with pytest.raises(ValueError, match=message):
            backward(dy)
        np.testing.assert_array_equal(dy, 1)


def test_a_custom_activation_is_held_to_its_shape():
    class Sum(Square):
        def __call__(self, z, out=None):
            return z.sum(axis=-1)

    layer = lc.LocallyConnected2D(2, 2, activation=Sum())
    with pytest.raises(ValueError, match="return an array of the same shape"):
        layer(np.ones((1, 3, 3, 1)))


def test_a_custom_activation_may_use_its_own_buffer_again():
    class Buffered(Square):
        buffer = np.empty((1, 2, 2, 2), np.float32)

        def __call__(self, z, out=None):
            return np.square(z, out=self.buffer)

    layer = lc.LocallyConnected2D(2, 2, activation=Buffered(), kernel_initializer="ones")
    first = layer(np.ones((1, 3, 3, 1)))
    layer(np.zeros((1, 3, 3, 1)))
    np.testing.assert_array_equal(first, 16)
