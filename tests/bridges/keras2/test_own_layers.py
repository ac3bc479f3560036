"""The checks of Keras' own tests of the layer."""

import itertools

import numpy as np
import pytest

import lcnumba as lc

FORMATS = ("channels_last", "channels_first")


def sample(data_format, shape=(8, 6, 10, 4)):
    """Batch 8, 6 by 10 points, 4 channels."""
    return shape if data_format == "channels_last" else (shape[0], shape[3], *shape[1:3])


@pytest.mark.parametrize("implementation", [1, 2, 3])
@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize(("padding", "strides"), [("valid", (1, 1)), ("valid", (2, 2)), ("same", (1, 1))])
def test_shapes_configs_weights_and_training(padding, strides, data_format, implementation, rng):
    layer = lc.LocallyConnected2D(
        3, 3, strides, padding, data_format, implementation=implementation, rng=0, input_shape=sample(data_format)[1:]
    )
    model = lc.Sequential([layer])
    x = rng.standard_normal(sample(data_format)).astype(np.float32)
    y = model.predict(x)
    size = tuple(n if padding == "same" else -(-(n - 2) // s) for n, s in zip((6, 10), strides, strict=True))
    assert y.shape == ((8, *size, 3) if data_format == "channels_last" else (8, 3, *size))
    assert y.dtype == np.float32
    assert model.output_shape == (None, *y.shape[1:])
    again = lc.Sequential.from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again.predict(x), y)
    target = rng.standard_normal(y.shape).astype(np.float32)
    losses = model.fit(x, target, loss="mse", epochs=3, lr=1.0, progress=False).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("implementation", [1, 2, 3])
@pytest.mark.parametrize("data_format", FORMATS)
def test_losses_of_regularized_layers(data_format, implementation, rng):
    layer = lc.LocallyConnected2D(
        3, 3, data_format=data_format, kernel_regularizer="l2", bias_regularizer="l2", activity_regularizer="l2",
        implementation=implementation,
    )  # fmt: skip
    layer.build(sample(data_format))
    assert len(layer.losses) == 2
    layer(rng.standard_normal(sample(data_format)))
    assert len(layer.losses) == 3


def test_constraints_are_attributes():
    kernel, bias = lc.constraints.MaxNorm(0.01), lc.constraints.MaxNorm(0.01)
    layer = lc.LocallyConnected2D(3, 3, kernel_constraint=kernel, bias_constraint=bias, input_shape=(6, 10, 4))
    layer.build((None, 6, 10, 4))
    assert layer.kernel_constraint is kernel
    assert layer.bias_constraint is bias


@pytest.mark.parametrize("implementation", [1, 2, 3])
def test_a_kernel_larger_than_its_input_is_refused(implementation):
    layer = lc.LocallyConnected2D(1, 10, implementation=implementation)
    with pytest.raises(ValueError, match="does not fit input"):
        layer.build((None, 5, 5, 2))


@pytest.mark.parametrize(("data_format", "padding"), [*itertools.product(FORMATS, ("valid", "same"))])
def test_implementations_agree_before_and_after_training(data_format, padding, rng, tmp_path):
    """Two stacked layers, a Dense one, two epochs of RMSprop; and saved models make the same predictions."""
    shape = sample(data_format, (4, 8, 13, 2))
    x, y = rng.standard_normal(shape).astype(np.float32), rng.standard_normal((4, 3)).astype(np.float32)

    def network(implementation):
        settings = {
            "padding": padding, "data_format": data_format, "activation": "relu", "implementation": implementation,
            "kernel_initializer": "random_normal", "bias_initializer": "random_normal",
        }  # fmt: skip
        layers = [lc.LocallyConnected2D(2, (3, 2), (1, 3), **settings) for _ in range(2)]
        return lc.Sequential([*layers, lc.Flatten(), lc.Dense(3)])

    models = [network(implementation) for implementation in (1, 2, 3)]
    for model in models:
        model.build(shape)
        model.set_weights(models[0].get_weights())
        model.set_optimizer("rmsprop")
    first = models[0].predict(x)
    for model in models:
        np.testing.assert_allclose(model.predict(x), first, atol=1e-5)
        model.fit(x, y, loss="mse", epochs=2, batch_size=2, lr=0.01, rng=0, progress=False)
    trained = models[0].predict(x)
    assert np.abs(trained - first).max() > 1e-3
    for number, model in enumerate(models):
        np.testing.assert_allclose(model.predict(x), trained, atol=2e-4)
        model.save(tmp_path / f"{number}.npz")
        np.testing.assert_array_equal(lc.load(tmp_path / f"{number}.npz").predict(x), model.predict(x))
