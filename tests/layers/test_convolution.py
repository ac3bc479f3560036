import copy
import json
import pickle

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.testing import integers, reference

pytestmark = pytest.mark.kernels

CASES = [
    # class, filters, kernel_size, settings, shape of a sample
    (lc.Conv2D, 4, 3, {}, (7, 8, 3)),
    (lc.Conv2D, 5, (2, 4), {"padding": "same", "strides": (2, 3)}, (7, 8, 2)),
    (lc.Conv2D, 6, 3, {"padding": "same", "groups": 3, "dilation_rate": 2}, (7, 8, 3)),
    (lc.Conv2D, 3, (9, 2), {"padding": "same"}, (3, 8, 2)),
    (lc.Conv1D, 4, 3, {"padding": "same", "strides": 2}, (11, 5)),
    (lc.Conv1D, 1, 4, {"dilation_rate": 2, "groups": 1}, (30, 2)),
]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("kind", "filters", "kernel_size", "settings", "shape"), CASES)
def test_values_and_gradients(kind, filters, kernel_size, settings, shape, data_format, rng):
    moved = (lambda a: np.moveaxis(a, -1, 1)) if data_format == "channels_first" else np.asarray
    layer = kind(filters, kernel_size, data_format=data_format, **settings)
    x = integers(rng, (5, *shape))
    layer.build(moved(x).shape)
    groups = settings.get("groups", 1)
    assert layer.kernel.shape == (*layer.kernel_size, shape[-1] // groups, filters)
    kernel, bias = integers(rng, layer.kernel.shape), integers(rng, (filters,))
    layer.set_weights([kernel, bias])
    kernel = layer.kernel.copy()  # 0 where no window reads an input through a tap
    windows = {
        "kernel_size": layer.kernel_size, "strides": layer.strides, "dilation": layer.dilation_rate, "groups": groups,
        "padding": "tf_same" if layer.padding == "same" else "valid", "weight_sharing": "all",
    }  # fmt: skip
    flat = kernel.reshape(1, -1, filters)
    expected = reference.forward(x, flat, bias, **windows)
    y, backward = layer.forward(moved(x))
    np.testing.assert_array_equal(y, moved(expected))
    dy = integers(rng, expected.shape)
    dx, grads = backward(moved(dy))
    expected_dx, dkernel, dbias = reference.backward(x, flat, dy, **windows)
    np.testing.assert_array_equal(dx, moved(expected_dx))
    np.testing.assert_array_equal(grads.kernel, dkernel.reshape(kernel.shape))
    np.testing.assert_array_equal(grads.bias, dbias.reshape(-1, filters).sum(axis=0))
    np.testing.assert_array_equal(backward.step(moved(dy), lr=0.5), dx)
    np.testing.assert_array_equal(layer.kernel, kernel - grads.kernel / 2)
    assert layer.output_shape == (None, *y.shape[1:])


def test_it_is_the_locally_connected_layer_that_shares_all(rng):
    conv = lc.Conv2D(4, 3, padding="same", activation="relu", rng=0)
    x = rng.random((3, 6, 7, 2), np.float32)
    y = conv(x)
    local = lc.LocallyConnected2D(
        4, 3, padding="tf_same", activation="relu", weight_sharing="all", bias_sharing="filter",
        weights=[conv.kernel.reshape(1, -1, 4), conv.bias],
    )  # fmt: skip
    np.testing.assert_array_equal(local(x), y)
    for implementation in (2, 3):
        np.testing.assert_allclose(conv.with_implementation(implementation)(x), y, atol=1e-6)


def test_regularizers_and_constraints_see_the_axes_of_keras(rng):
    conv = lc.Conv2D(4, 3, kernel_constraint=lc.constraints.MaxNorm(0.1, axis=[0, 1, 2]), kernel_regularizer="l2")
    y, backward = conv.forward(rng.random((3, 6, 7, 2), np.float32))
    assert conv.losses == [pytest.approx(0.01 * np.sum(conv.kernel.astype(float) ** 2))]
    backward.step(y, lr=0.1)
    assert (np.sqrt(np.sum(conv.kernel**2, axis=(0, 1, 2))) <= 0.1 + 1e-6).all()


def test_config_copies_and_files(rng, tmp_path):
    model = lc.Sequential([lc.Conv2D(4, 3, padding="same", input_shape=(6, 7, 2)), lc.Flatten(), lc.Dense(3)])
    layer, x = model.layers[0], rng.random((3, 6, 7, 2))
    assert list(layer.get_config()) == [
        "name", "trainable", "dtype", "batch_input_shape", "filters", "kernel_size", "strides", "padding",
        "data_format", "dilation_rate", "groups", "activation", "use_bias", "kernel_initializer", "bias_initializer",
        "kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint",
    ]  # fmt: skip
    again = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    assert again.get_config() == layer.get_config()
    model.save(tmp_path / "model.npz")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), lc.load(tmp_path / "model.npz")):
        np.testing.assert_array_equal(twin(x), model(x))
    assert layer.count_params() == 9 * 2 * 4 + 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding": "causal"}, "padding='causal' is not known; give one of 'valid', 'same'"),
        ({"padding": "tf_same"}, "padding='tf_same' is not known"),
        ({"groups": 2}, "groups=2 does not divide channels=3"),
        ({"kernel_size": 9}, "does not fit input"),
        ({"filters": 0}, "filters=0 is too small"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        lc.Conv2D(**({"filters": 4, "kernel_size": 3, "input_shape": (6, 7, 3)} | settings))


def test_causal_padding_is_refused_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"padding='causal' is not supported; give padding='valid', and ZeroPadding1D\("
    ):
        lc.Conv1D(2, 3, padding="causal")


def test_samples_of_another_shape_are_refused():
    layer = lc.Conv1D(2, 3)
    layer(np.ones((1, 6, 2)))
    with pytest.raises(ValueError, match="built for samples of one shape; create another layer with the same weights"):
        layer(np.ones((1, 7, 2)))
