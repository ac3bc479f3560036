import copy
import pickle

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.testing import numerical_gradient


@pytest.mark.parametrize("name", ["relu", "gelu", "softmax", "linear"])
def test_activation(name, rng):
    layer = lc.Activation(name)
    x, dy = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 4))
    kept = x.copy()
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_array_equal(x, kept)
    assert not np.may_share_memory(x, y)
    dx, grads = backward(dy)
    assert grads is None
    expected = numerical_gradient(lambda v: float(np.sum(layer(v) * dy)), x)
    np.testing.assert_allclose(dx, expected, atol=1e-8)
    assert layer(x.astype(np.float32)).dtype == np.float32
    assert layer(np.ones((1, 2), np.int64)).dtype == np.float32
    assert lc.Activation(**layer.get_config()).get_config() == layer.get_config()


def test_dropout_drops_only_in_training(rng):
    layer, x = lc.Dropout(0.25, seed=3), rng.standard_normal((100, 40)) + 10
    np.testing.assert_array_equal(layer(x), x)
    y, backward = layer.forward(x)
    kept = y != 0
    assert 0.7 < kept.mean() < 0.8
    np.testing.assert_allclose(y[kept], x[kept] / 0.75)
    dx, _ = backward(np.ones_like(x))
    np.testing.assert_allclose(dx, kept / 0.75)
    assert not np.array_equal(layer.forward(x)[0], y)
    np.testing.assert_array_equal(lc.Dropout(0.25, seed=3).forward(x)[0], y)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(other.forward(x)[0], copy.deepcopy(layer).forward(x)[0])
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\), got 1"):
        lc.Dropout(1)


@pytest.mark.parametrize("make", [lambda: lc.Activation("tanh"), lambda: lc.Dropout(0.5), lambda: lc.Flatten()])
def test_layers_without_weights(make, rng):
    layer = make()
    assert layer.count_params() == 0
    assert layer.get_weights() == []
    with pytest.raises(ValueError, match="has none"):
        layer.set_weights([1])
    with pytest.raises(AttributeError, match="is not known yet"):
        _ = layer.input_shape
    y, backward = layer.forward(rng.standard_normal((2, 3)))
    with pytest.raises(ValueError, match="give the shape of y"):
        backward(y[:1])
    layer.step(None, 0.1)
    layer.build((None, 3))
    assert layer.built
    assert layer.input_shape == (None, 3)


def test_models_with_stateless_layers_train_save_and_load(rng, tmp_path):
    model = lc.Sequential([
        lc.LocallyConnected2D(2, 3, input_shape=(6, 6, 1), data_format="channels_last"), lc.Activation("relu"),
        lc.Dropout(0.25, seed=0), lc.Flatten(), lc.Dense(3),
    ])  # fmt: skip
    x, y = rng.standard_normal((32, 6, 6, 1)), np.arange(32) % 3
    history = model.fit(x, y, loss="softmax_cross_entropy", epochs=30, lr=0.1, rng=0, progress=False)
    assert history.history["loss"][-1] < history.history["loss"][0]
    model.save(tmp_path / "model.npz")
    np.testing.assert_array_equal(lc.load(tmp_path / "model.npz")(x), model(x))


def test_flatten_of_channels_first_matches_keras(rng):
    """The channels are moved last before flattening."""
    x = rng.standard_normal((2, 3, 4, 5))
    layer = lc.Flatten(data_format="channels_first")
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(y, np.moveaxis(x, 1, -1).reshape(2, -1))
    np.testing.assert_array_equal(backward(y)[0], x)
    assert lc.Flatten(**layer.get_config())(x).tolist() == y.tolist()
    with pytest.raises(ValueError, match="data_format='sideways'"):
        lc.Flatten(data_format="sideways")


@pytest.mark.parametrize("name", ["relu", "softmax", "gelu"])
@pytest.mark.parametrize("shape", [(3, 0), (0,), (0, 3)])
def test_empty_input_gives_empty_output(name, shape):
    assert lc.Activation(name)(np.zeros(shape)).shape == shape


def test_settings_are_read_only():
    for layer, name in ((lc.Activation("relu"), "activation"), (lc.Dropout(0.5), "rate")):
        with pytest.raises(AttributeError):
            setattr(layer, name, 2.0)


@pytest.mark.parametrize("make", [lc.Flatten, lambda: lc.Activation("relu"), lambda: lc.Dropout(0.5)])
@pytest.mark.parametrize(
    "shape", [None, "", "Same", {}, np.int8(3), np.ones(2), np.dtype("f8"), (), (None, -1), (2, "a")]
)
def test_invalid_shapes_are_refused(make, shape):
    layer = make()
    for method in (layer.compute_output_shape, layer.build):
        with pytest.raises((TypeError, ValueError), match="input_shape="):
            method(shape)
    assert not layer.built


@pytest.mark.parametrize("weights", [None, True, np.zeros(0), [1]])
def test_layers_without_weights_refuse_weights(weights):
    with pytest.raises((TypeError, ValueError), match="weights"):
        lc.Flatten().set_weights(weights)
