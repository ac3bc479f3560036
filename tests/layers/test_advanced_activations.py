"""Activations as layers; `bridges/keras2/test_companions.py` compares them with tf_keras."""

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.testing import numerical_gradient

LAYERS = [lc.LeakyReLU(0.25), lc.ReLU(3, 0.5, 1), lc.ELU(0.5), lc.Softmax(), lc.Softmax(1), lc.Softmax((3, 1))]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_gradients(layer, rng):
    x, dy = rng.standard_normal((2, 2, 3, 2, 3)) * 2
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(layer(x), y)
    assert not np.may_share_memory(x, y)
    expected = numerical_gradient(lambda v: float(np.sum(layer(v) * dy)), x)
    np.testing.assert_allclose(backward(dy)[0], expected, atol=1e-8)
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(again(x), y)
    assert layer.compute_output_shape((None, 3, 2, 3)) == (None, 3, 2, 3)


def test_values():
    x = np.array([[-4.0, 0.0, 1.0, 2.0, 5.0]])
    np.testing.assert_array_equal(lc.LeakyReLU(negative_slope=0.25)(x), [[-1, 0, 1, 2, 5]])
    np.testing.assert_array_equal(lc.ReLU(3, 0.5, 1)(x), [[-2.5, -0.5, 0, 2, 3]])
    np.testing.assert_array_equal(lc.ELU(2)(x)[0, 1:], [0, 1, 2, 5])
    np.testing.assert_array_equal(lc.Softmax((1, 2))(np.zeros((1, 2, 2))), np.full((1, 2, 2), 0.25))
    # As Keras rounds it.
    assert lc.LeakyReLU().get_config()["alpha"] == float(np.float32(0.3))
    assert lc.ReLU().get_config().items() >= {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}.items()


def test_names_are_those_of_keras():
    for kind, name in ((lc.LeakyReLU, "leaky_re_lu"), (lc.ReLU, "re_lu"), (lc.ELU, "elu"), (lc.Softmax, "softmax")):
        assert kind().name.startswith(name)


@pytest.mark.parametrize("axis", [0, 3, -3, (1, -2), (1, 5)])
def test_axes_that_do_not_fit_are_refused(axis):
    layer = lc.Softmax(axis)
    with pytest.raises(ValueError, match=r"axis=.* does not fit input_shape=\(.*, 3, 4\); .* 0 is the batch"):
        layer(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="does not fit"):
        layer.build((None, 3, 4))
    assert not layer.built


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lc.LeakyReLU(0.1, negative_slope=0.2), ValueError, "are the same; give one of them"),
        (lambda: lc.LeakyReLU(-1), ValueError, "alpha"),
        (lambda: lc.LeakyReLU("a"), TypeError, "alpha='a'"),
        (lambda: lc.ReLU(negative_slope=None), TypeError, "negative_slope=None"),
        (lambda: lc.ReLU(-1), ValueError, "max_value"),
        (lambda: lc.LeakyReLU(negative_slope=-1), ValueError, "negative_slope must be at least 0"),
        (lambda: lc.ELU(np.inf), ValueError, "alpha must be finite"),
        (lambda: lc.ELU(1e39), ValueError, "alpha must be at least 0 and finite in float32, got 1e"),
        (lambda: lc.Softmax([]), ValueError, "is empty"),
        (lambda: lc.Softmax(1.5), TypeError, "axis=1.5"),
    ],
)
def test_invalid_settings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_empty_batches(layer):
    y, backward = layer.forward(np.zeros((0, 3, 2, 3)))
    assert y.shape == backward(y)[0].shape == (0, 3, 2, 3)


def test_a_softmax_before_a_loss_from_logits_is_a_warning():
    model = lc.Sequential([lc.Dense(3, input_shape=(2,)), lc.Softmax()])
    with pytest.warns(RuntimeWarning, match="ends in activation='softmax'"):
        model.compile("sgd", "softmax_cross_entropy")
