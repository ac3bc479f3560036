import numpy as np
import pytest

import lcnumba as lc
from lcnumba import activations
from lcnumba.testing import numerical_gradient

NAMES = list(activations._BY_NAME)
CLASSES = list(activations._CLASSES.values())
OTHERS = [
    activations.ReLU(alpha=0.25, max_value=1.5, threshold=0.5), activations.ReLU(max_value=1.0),
    activations.ReLU(threshold=0.5),
    activations.ELU(0.5), activations.LeakyReLU(0.0), activations.ThresholdedReLU(0.25),
]  # fmt: skip
ALL = [*NAMES, *OTHERS]


def slope(activation, dy, z):
    """The gradient by what the activation asks for."""
    y, kept = activations.apply(activation, z.copy(), for_backward=True)
    assert (kept is y) != activation.uses_input or isinstance(activation, activations.Linear)
    return activations.vjp(activation, dy, kept)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("alpha", [0.0, 1e-8, 0.1, 0.3, 0.7, 1.0, 1.5])
def test_leaky_relu_selects(alpha, dtype, rng):
    """To the bits of a choice by sign, also where x or dy is not finite; with alpha 0 it is Keras' ReLU."""
    z = np.concatenate([rng.standard_normal(200), [0.0, -0.0, np.inf, np.nan, *([-np.inf] if alpha else [])]])
    z, dy = z.astype(dtype), rng.standard_normal(len(z)).astype(dtype)
    dy[:3] = np.inf, -np.inf, np.nan
    number = np.dtype(dtype).type(np.float32(alpha))
    leaky = activations.LeakyReLU(alpha)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(leaky(z), np.where(z > 0, z, z * number))
        np.testing.assert_array_equal(leaky.gradient(dy, z), np.where(z > 0, dy, dy * number))
    assert activations.LeakyReLU(0.0)(np.array([-np.inf])) == 0


@pytest.mark.parametrize("name", ALL, ids=repr)
def test_gradient_is_that_of_finite_differences(name, rng):
    activation = activations.get(name)
    z, dy = 2 * rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 3, 4, 5))
    expected = numerical_gradient(lambda v: float(np.sum(activation(v) * dy)), z)
    np.testing.assert_allclose(slope(activation, dy, z), expected, atol=1e-8)


@pytest.mark.parametrize("name", ALL, ids=repr)
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
    gradient = slope(activation, np.ones_like(y), z)
    assert gradient.dtype == dtype
    assert activation(z, out=z) is z
    np.testing.assert_array_equal(z, y)


@pytest.mark.parametrize("name", NAMES)
def test_large_arrays_are_worked_on_in_blocks(name, rng, monkeypatch):
    activation = activations.get(name)
    z, dy = rng.standard_normal((7, 5, 3)), rng.standard_normal((7, 5, 3))
    y, gradient = activation(z), slope(activation, dy, z)
    monkeypatch.setattr(activations, "BLOCK", 8)
    np.testing.assert_array_equal(activations.apply(activation, z.copy())[0], y)
    np.testing.assert_array_equal(slope(activation, dy, z), gradient)


def test_known_values():
    z = np.array([-np.inf, -2.0, 0.0, 3.0, np.inf, np.nan])
    np.testing.assert_array_equal(activations.ReLU()(z), [0, 0, 0, 3, np.inf, np.nan])
    np.testing.assert_array_equal(activations.ReLU().gradient(np.full(6, np.inf), z), [0, 0, 0, np.inf, np.inf, 0])
    np.testing.assert_array_equal(activations.ReLU6()(z), [0, 0, 0, 3, 6, np.nan])
    np.testing.assert_allclose(activations.Sigmoid()(z), [0, 0.11920292, 0.5, 0.95257413, 1, np.nan], rtol=1e-7)
    np.testing.assert_allclose(
        activations.Softmax()(np.array([[1e4, 1e4], [0, np.log(3)]])), [[0.5, 0.5], [0.25, 0.75]]
    )
    for name in ("swish", "gelu"):
        assert np.isnan(activations.apply(activations.get(name), z[:1].copy())[0][0])
    for name in NAMES:
        assert np.isnan(activations.apply(activations.get(name), z[-1:].copy())[0][0])


@pytest.mark.parametrize(
    ("name", "z", "expected"),
    [
        ("relu", [0], [0]), ("leaky_relu", [0], [np.float32(0.2)]),
        ("LeakyReLU", [0], [np.float32(0.3)]), ("relu6", [0, 6], [0, 0]),
        ("elu", [0], [1]), ("selu", [0], [1.0507009873554805]), ("hard_sigmoid", [-2.5, 2.5], [0.2, 0.2]),
        ("hard_sigmoid", [-2.6, 2.6], [0, 0]),
        (activations.ReLU(alpha=0.5, max_value=2.0, threshold=1.0), [0, 1, 2, 2.5], [0.5, 0, 1, 0]),
        (activations.ReLU(alpha=0.5, max_value=6.0), [-1, 0, 5, 6], [0.5, 0, 1, 0]),
        ("ThresholdedReLU", [1, 1.5], [0, 1]), ("softplus", [0], [0.5]),
    ],
)  # fmt: skip
def test_slopes_at_kinks_are_those_of_keras(name, z, expected):
    z = np.array(z, np.float64)
    np.testing.assert_allclose(slope(activations.get(name), np.ones_like(z), z), expected, rtol=1e-12)


def test_get():
    assert isinstance(activations.get(None), activations.Linear)
    assert isinstance(activations.get("ReLU"), activations.ReLU)
    assert activations.get("leaky_relu") == activations.LeakyReLU(0.2)
    assert activations.get("LeakyReLU") == activations.LeakyReLU(0.3)
    assert activations.get("silu") == activations.get("swish") != activations.get("gelu")
    mine = activations.Tanh()
    assert activations.get(mine) is mine
    with pytest.raises(ValueError, match=r"give one of .*elu, .*linear, .*tanh"):
        activations.get("nope")
    with pytest.raises(
        TypeError, match=r"must implement __call__\(z, out=None\) and gradient\(dy, y\); otherwise give a name"
    ):
        activations.get(lambda z: z)
    with pytest.raises(ValueError, match="alpha must be >= 0, got -1"):
        activations.ELU(-1)


def test_configs_come_back_and_keras_own_are_read():
    for activation in map(activations.get, ALL):
        assert activations.get(activations.serialize(activation)) == activation
        assert hash(activations.get(activations.serialize(activation))) == hash(activation)
    assert [activations.serialize(activations.get(name)) for name in NAMES] == [
        "swish" if name == "silu" else name for name in NAMES
    ]
    layer = {"name": "re_lu", "trainable": True, "dtype": "float32"}
    for config, expected in (
        ({"class_name": "ReLU", "config": layer | {"max_value": 6.0, "negative_slope": 0.1, "threshold": 0.0}},
         activations.ReLU(alpha=0.1, max_value=6.0)),
        ({"module": "keras.layers", "class_name": "LeakyReLU", "config": layer | {"alpha": 0.5}},
         activations.LeakyReLU(0.5)),
        ({"module": "builtins", "class_name": "function", "config": "gelu", "registered_name": "function"},
         activations.GELU()),
    ):  # fmt: skip
        assert activations.get(config) == expected
    for bad in (
        {"class_name": "os.system", "config": {}}, {"class_name": "__lambda__", "config": ["4wE", None, None]},
        {"class_name": "function", "config": "system", "module": "os"},
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=r"not known|activation must be a config with"):
            activations.get(bad)
    with pytest.raises(TypeError, match=r"cannot create activation from .*: .*beta"):
        activations.get({"class_name": "ELU", "config": {"beta": 1}})


@pytest.mark.parametrize("make", [lambda a: lc.LocallyConnected2D(2, 2, activation=a), lambda a: lc.Dense(2, a)])
@pytest.mark.parametrize("name", ["gelu", "softplus", activations.ReLU(alpha=0.5, max_value=1.0)], ids=repr)
def test_layers_differentiate_through_them(name, make, rng):
    """Also through those whose gradient asks for z; a call for inference gives the same y."""
    layer = make(name)
    x = rng.standard_normal((3, 4) if isinstance(layer, lc.Dense) else (3, 4, 4, 1))
    layer.dtype = "float64"
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(layer(x), y)
    dy = rng.standard_normal(y.shape)
    dx, _ = backward(dy)
    expected = numerical_gradient(lambda v: float(np.sum(layer(v) * dy)), x)
    np.testing.assert_allclose(dx, expected, atol=1e-8)


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

    for activation, message in (
        (Flat(), r"not \(1, 2(, 2, 2)?\); return an array of the same shape"),
        (Writes(), "read-only"),
    ):
        layer = make(activation)
        y, backward = layer.forward(np.ones((1, 3) if isinstance(layer, lc.Dense) else (1, 3, 3, 1)))
        dy = np.ones_like(y)
        with pytest.raises(ValueError, match=message):
            backward(dy)
        np.testing.assert_array_equal(dy, 1)


def test_a_custom_activation_may_ask_for_its_input(rng):
    class Cube:
        uses_input = True

        def __call__(self, z, out=None):
            return z**3

        def gradient(self, dy, z):
            return 3 * z * z * dy

    layer = lc.LocallyConnected2D(2, 2, activation=Cube(), dtype="float64", kernel_initializer="random_normal")
    x, dy = rng.standard_normal((2, 3, 3, 1)), rng.standard_normal((2, 2, 2, 2))
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(layer(x), y)
    expected = numerical_gradient(lambda v: float(np.sum(layer(v) * dy)), x)
    np.testing.assert_allclose(backward(dy)[0], expected, atol=1e-8)


def test_a_custom_activation_is_held_to_its_shape():
    class Sum(Square):
        def __call__(self, z, out=None):
            return z.sum(axis=-1)

    layer = lc.LocallyConnected2D(2, 2, activation=Sum())
    with pytest.raises(
        ValueError, match=r"has shape \(1, 2, 2\), not \(1, 2, 2, 2\); return an array of the same shape"
    ):
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


@pytest.mark.parametrize("axis", [0, 1, None, "-1", np.array([]), np.array([-1, -1])])
def test_softmax_is_over_the_channels(axis):
    with pytest.raises((TypeError, ValueError), match="axis"):
        activations.Softmax(axis)
