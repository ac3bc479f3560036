import concurrent.futures
import copy
import itertools
import pickle
import threading
import time
import tracemalloc

import array_api_strict
import numpy as np
import pytest

import lcnumba as lc
from lcnumba import activations, regularizers
from lcnumba.testing import integers, numerical_gradient, reference

INPUT = (2, 6, 5, 3)


def make(**settings):
    return lc.LocallyConnected2D(**({"filters": 4, "kernel_size": (3, 2), "rng": 0} | settings))


def filled(rng, shape=INPUT, **settings):
    """A built layer with integer weights and an integer input."""
    layer = make(**settings)
    layer.build(shape)
    layer.set_weights([integers(rng, w.shape) for w in layer.weights])
    return layer, integers(rng, shape, layer.dtype)


def channels_first(array):
    return np.moveaxis(array, -1, 1)


# --- results


@pytest.mark.parametrize(
    ("padding", "implementation", "data_format", "use_bias", "dtype"),
    list(
        itertools.product(
            ["valid", "same"], [1, 2, 3], ["channels_last", "channels_first"], [True, False], ["float32", "float64"]
        )
    ),
)
def test_every_combination_equals_the_reference(padding, implementation, data_format, use_bias, dtype, rng):
    settings = {"strides": (2, 1), "padding": padding, "use_bias": use_bias, "dtype": dtype}
    first = data_format == "channels_first"
    shape = (2, 3, 6, 5) if first else INPUT
    layer, x = filled(rng, shape, **settings, implementation=implementation, data_format=data_format)
    y, backward = layer.forward(x)
    dy = integers(rng, y.shape, dtype)
    dx, grads = backward(dy)

    inner_x, inner_dy = (np.moveaxis(a, 1, -1) if first else a for a in (x, dy))
    windows = {"kernel_size": (3, 2), "strides": (2, 1), "dilation": (1, 1), "padding": padding}
    expected_y = reference.forward(inner_x, layer.kernel, layer.bias, **windows)
    expected_dx, expected_dkernel, expected_dbias = reference.backward(inner_x, layer.kernel, inner_dy, **windows)
    if first:
        expected_y, expected_dx = channels_first(expected_y), channels_first(expected_dx)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_array_equal(layer(x), expected_y)
    np.testing.assert_array_equal(dx, expected_dx)
    np.testing.assert_array_equal(grads.kernel, expected_dkernel)
    assert layer.output_shape[1:] == y.shape[1:]
    assert y.dtype == dx.dtype == grads.kernel.dtype == dtype
    if use_bias:
        np.testing.assert_array_equal(grads.bias, expected_dbias)
    else:
        assert grads.bias is None
        assert layer.bias is None
        assert len(layer.weights) == 1


@pytest.mark.parametrize("implementation", [1, 2, 3])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("activation", ["linear", "relu", "tanh", "sigmoid", "softmax"])
def test_gradients_match_finite_differences(activation, data_format, implementation, rng):
    shape = (2, 2, 4, 4) if data_format == "channels_first" else (2, 4, 4, 2)
    layer = make(
        filters=3, strides=(1, 2), padding="same", activation=activation, data_format=data_format,
        dtype="float64", implementation=implementation,
    )  # fmt: skip
    x = rng.standard_normal(shape)
    layer.build(shape)
    layer.set_weights([rng.standard_normal(w.shape) for w in layer.weights])
    y, backward = layer.forward(x)
    dy = rng.standard_normal(y.shape)
    dx, grads = backward(dy)

    kernel, bias = layer.get_weights()

    def loss(x=x, kernel=kernel, bias=bias):
        layer.set_weights([kernel, bias])
        return float(np.sum(layer(x) * dy))

    np.testing.assert_allclose(dx, numerical_gradient(lambda v: loss(x=v), x), atol=1e-8)
    np.testing.assert_allclose(grads.kernel, numerical_gradient(lambda v: loss(kernel=v), kernel), atol=1e-8)
    np.testing.assert_allclose(grads.bias, numerical_gradient(lambda v: loss(bias=v), bias), atol=1e-8)


def test_kernel_size_and_strides_are_rows_then_columns():
    layer = make(filters=1, kernel_size=(3, 1), strides=(1, 2), use_bias=False, kernel_initializer="ones")
    y = layer(np.arange(20.0).reshape(1, 4, 5, 1))
    np.testing.assert_array_equal(y[0, :, :, 0], [[15, 21, 27], [30, 36, 42]])


def test_documented_example():
    model = lc.Sequential()
    model.add(lc.LocallyConnected2D(64, (3, 3), input_shape=(32, 32, 3)))
    assert model.output_shape == (None, 30, 30, 64)
    assert model.count_params() == (30 * 30) * (3 * 3 * 3 * 64) + (30 * 30) * 64 == 1_612_800
    model.add(lc.LocallyConnected2D(32, (3, 3)))
    assert model.output_shape == (None, 28, 28, 32)


def test_connections_that_do_not_exist_are_not_counted_and_stay_zero(rng):
    layer, _ = filled(rng, padding="same", optimizer="adam", kernel_initializer="ones")
    windows = {"kernel_size": (3, 2), "strides": (1, 1), "dilation": (1, 1), "padding": "same"}
    ones_x, ones_dy = np.ones((1, *INPUT[1:])), np.ones((1, 6, 5, 4))
    exists = reference.backward(ones_x, layer.kernel, ones_dy, **windows)[1] != 0
    assert layer.count_params() == np.count_nonzero(exists) + 6 * 5 * 4
    layer.set_weights([np.ones_like(w) for w in layer.weights])
    np.testing.assert_array_equal(layer.kernel, exists)
    # Gradients given by the user may have any values there.
    layer.step((np.full_like(layer.kernel, np.nan), np.zeros_like(layer.bias)), lr=0.1)
    np.testing.assert_array_equal(np.isnan(layer.kernel), exists)
    layer.build(INPUT)
    layer.step((np.where(exists, 0, 1).astype(np.float32), np.zeros_like(layer.bias)), lr=0.1)
    assert not layer.kernel[~exists].any()


# --- build, config, copies


def test_build_on_first_call_and_from_input_shape():
    layer = make()
    assert layer.weights == []
    assert layer.get_weights() == []
    assert not layer.built
    with pytest.raises(ValueError, match="has no weights yet; call or build"):
        layer.count_params()
    with pytest.raises(AttributeError, match="has no weights yet"):
        layer.kernel  # noqa: B018
    with pytest.raises(AttributeError, match="input shape"):
        layer.output_shape  # noqa: B018
    assert layer(np.zeros(INPUT)).shape == (2, 4, 4, 4)
    assert layer.input_shape == (None, 6, 5, 3)
    assert layer.kernel.shape == (16, 18, 4)
    assert layer.bias.shape == (4, 4, 4)
    assert make(input_shape=(6, 5, 3)).output_shape == (None, 4, 4, 4)
    assert make().compute_output_shape((None, 6, 5, 3)) == (None, 4, 4, 4)
    assert make().compute_output_shape((7, 6, 5, 3)) == (7, 4, 4, 4)
    assert make(data_format="channels_first").compute_output_shape((None, 3, 6, 5)) == (None, 4, 4, 4)


def test_rebuilding_replaces_the_weights():
    layer = make()
    layer.build(INPUT)
    kernel = layer.get_weights()[0]
    _, backward = layer.forward(np.zeros(INPUT))
    layer.build((None, 8, 8, 3))
    assert layer.kernel.shape != kernel.shape
    with pytest.raises(RuntimeError, match="older weights"):
        backward(np.zeros((2, 4, 4, 4)))


def test_initial_weights_are_applied_by_build(rng):
    kernel, bias = integers(rng, (16, 18, 4)), integers(rng, (4, 4, 4))
    layer = make(weights=[kernel, bias])
    layer.build(INPUT)
    np.testing.assert_array_equal(layer.kernel, kernel)
    np.testing.assert_array_equal(layer.bias, bias)
    layer = make(weights=[kernel, bias[..., :1]])
    with pytest.raises(ValueError, match=r"bias has shape \(4, 4, 1\); .* needs \(4, 4, 4\)"):
        layer.build(INPUT)
    assert not layer.built


def test_settings_are_locked_by_build():
    layer = make()
    layer.filters = np.int64(5)
    layer.activation = "relu"
    layer.dtype = "float64"
    with pytest.raises(ValueError, match="strides=0 is too small"):
        layer.strides = 0
    assert layer(np.zeros(INPUT)).shape == (2, 4, 4, 5)
    assert layer.kernel.dtype == np.float64
    for name in layer.get_config():
        if name != "trainable":
            with pytest.raises(AttributeError, match=f"{name} of LocallyConnected2D .* is locked"):
                setattr(layer, name, getattr(layer, name))
    with pytest.raises(AttributeError, match=r"fans of LocallyConnected2D .* is locked"):
        layer.fans = "window"
    layer.trainable = False
    layer.optimizer = "adam"
    with pytest.raises(AttributeError):
        layer.kernel = 3
    assert layer.filters == 5


def test_weights_are_read_only_views_and_copies():
    layer = make()
    layer.build(INPUT)
    for view in (layer.kernel, layer.bias, *layer.weights, *layer.trainable_weights):
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0
    view = layer.kernel
    copied = layer.get_weights()
    copied[0][...] = 7
    assert not (layer.kernel == 7).any()
    layer.set_weights(copied)
    assert (view == 7).all(), "a view follows later changes"


def test_trainable_false_freezes_step(rng):
    layer, x = filled(rng, trainable=False)
    before = layer.get_weights()
    y, backward = layer.forward(x)
    dx = backward.step(np.ones_like(y), lr=0.5)
    assert dx.shape == x.shape
    backward.step(np.ones_like(y), lr=0.5)  # the weights have not changed, so backward is still valid
    for a, b in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert layer.trainable_weights == []
    assert len(layer.non_trainable_weights) == 2
    with pytest.raises(TypeError, match="trainable=1 is a int"):
        layer.trainable = 1


def test_a_frozen_layer_checks_gradients_if_given(rng):
    layer, _ = filled(rng, trainable=False)
    before = layer.get_weights()
    layer.step(None, lr=0.5)
    layer.step([np.ones_like(w) for w in before], lr=0.5)
    for a, b in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="lr must be finite, got nan"):
        layer.step(None, lr=np.nan)
    with pytest.raises(ValueError, match="grads has 1 arrays"):
        layer.step([before[0]], lr=0.5)


def test_names_are_unique_by_default():
    first, second = make(), make()
    assert first.name != second.name
    assert first.name.startswith("locally_connected2d")
    assert make(name="mine").name == "mine"
    with pytest.raises(TypeError, match="name=3"):
        make(name=3)


def test_repr():
    text = repr(make(name="mine", implementation=2, input_shape=(6, 5, 3)))
    for part in ("LocallyConnected2D", "'mine'", "(None, 6, 5, 3)", "filters=4", "kernel_size=(3, 2)"):
        assert part in text
    assert "Dense" in repr(lc.Sequential([lc.Dense(3)]))


def test_config_round_trip():
    layer = make(
        activation="tanh", padding="same", data_format="channels_first", kernel_initializer="he_normal",
        bias_initializer={"class_name": "RandomNormal", "config": {"stddev": 0.1, "seed": 3}},
        implementation=3, dtype=np.float64, fans="window", input_shape=(3, 6, 5), trainable=False,
    )  # fmt: skip
    config = layer.get_config()
    assert list(config) == [
        "name", "trainable", "dtype", "batch_input_shape", "filters", "kernel_size", "strides", "padding",
        "data_format", "activation", "use_bias", "kernel_initializer", "bias_initializer",
        "kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint",
        "bias_constraint", "implementation", "fans",
    ]  # fmt: skip
    again = lc.LocallyConnected2D.from_config(config)
    assert again.get_config() == config
    assert again.bias_initializer.stddev == 0.1
    assert "fans" not in make().get_config()
    assert "batch_input_shape" not in make().get_config()


def test_defaults_match_keras():
    config = lc.LocallyConnected2D(4, 3).get_config()
    assert config | {"name": "lc"} == {
        "name": "lc", "trainable": True, "dtype": "float32", "filters": 4, "kernel_size": (3, 3), "strides": (1, 1),
        "padding": "valid", "data_format": "channels_last", "activation": "linear", "use_bias": True,
        "kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}},
        "bias_initializer": {"class_name": "Zeros", "config": {}}, "kernel_regularizer": None,
        "bias_regularizer": None, "activity_regularizer": None, "kernel_constraint": None, "bias_constraint": None,
        "implementation": 1,
    }  # fmt: skip


def test_n_threads_is_stored_and_passed_on():
    layer = make(n_threads=4096)
    assert layer.n_threads == layer.with_implementation(2).n_threads == 4096
    layer.n_threads = None
    assert layer.n_threads is make().n_threads is None
    with pytest.raises(ValueError, match="n_threads=4097 is too large; give an integer of at most 4096"):
        layer.n_threads = 4097


def test_batch_size_is_in_the_config_but_not_enforced():
    layer = make(input_shape=(6, 5, 3), batch_size=7)
    config = layer.get_config()
    assert config["batch_input_shape"] == (7, 6, 5, 3)
    assert layer.input_shape == (None, 6, 5, 3)
    for again in (lc.LocallyConnected2D.from_config(config), layer.with_implementation(2)):
        assert again.get_config()["batch_input_shape"] == (7, 6, 5, 3)
    assert layer(np.ones((2, 6, 5, 3))).shape[0] == 2


def test_config_includes_regularizers_and_constraints():
    layer = make(kernel_regularizer="l1", bias_regularizer=regularizers.L1L2(0.5), kernel_constraint="max_norm")
    config = layer.get_config()
    assert config["kernel_regularizer"] == {"class_name": "L1", "config": {"l1": 0.01}}
    assert config["bias_regularizer"] == {"class_name": "L1L2", "config": {"l1": 0.5, "l2": 0.0}}
    assert config["kernel_constraint"] == {"class_name": "MaxNorm", "config": {"max_value": 2.0, "axis": 0}}
    assert config["activity_regularizer"] is config["bias_constraint"] is None
    assert lc.LocallyConnected2D.from_config(config).get_config() == config


def test_configs_of_keras_are_read():
    """As tf_keras 2.21 writes them, in either form, with a dtype policy."""

    def entry(module, name, **config):
        return {"module": f"keras.{module}", "class_name": name, "config": config, "registered_name": None}

    config = {
        "name": "lc", "trainable": True, "dtype": {"module": "keras", "config": {"name": "float64"}},
        "batch_input_shape": (None, 6, 5, 3), "filters": 2, "kernel_size": (3, 3), "strides": (1, 1),
        "padding": "valid", "data_format": "channels_last", "activation": "swish", "use_bias": True,
        "kernel_initializer": entry("initializers", "HeNormal", seed=None),
        "bias_initializer": {"class_name": "Zeros", "config": {}},
        "kernel_regularizer": entry("regularizers", "L2", l2=0.009999999776482582), "bias_regularizer": None,
        "activity_regularizer": None, "kernel_constraint": entry("constraints", "MaxNorm", max_value=2, axis=0),
        "bias_constraint": None, "implementation": 1,
    }  # fmt: skip
    layer = lc.LocallyConnected2D.from_config(config)
    assert list(layer.get_config()) == list(config)
    assert layer.dtype == "float64"
    assert isinstance(layer.activation, activations.Swish)
    assert layer.kernel_regularizer.l2 == 0.009999999776482582


@pytest.mark.parametrize("implementation", [1, 2, 3])
def test_with_implementation_keeps_weights_and_optimizer_state(implementation, rng):
    layer, x = filled(rng, optimizer=lc.SGD(momentum=0.5), padding="same")
    y, backward = layer.forward(x)
    backward.step(np.ones_like(y), lr=0.25)
    other = layer.with_implementation(implementation)
    assert other.implementation == implementation
    for one in (layer, other):
        y, backward = one.forward(x)
        backward.step(np.ones_like(y), lr=0.25)
    for a, b in zip(layer.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not make().with_implementation(2).built


@pytest.mark.parametrize("built", [False, True])
def test_with_implementation_copies_all_settings(built):
    """Objects too: a custom activation may be called like a built-in one."""

    class ReLU(activations.ReLU):
        def __call__(self, z, out=None):
            return np.where(z > 0, z, np.float32(0.25) * z)

    layer = make(activation=ReLU(), kernel_initializer=lambda s, d, r: r.integers(-4, 5, s), rng=7)
    x = np.ones(INPUT)
    if built:
        layer(x)
    other = layer.with_implementation(3)
    np.testing.assert_array_equal(other(x), layer(x))
    assert other(x).min() < 0
    given = make(weights=[np.ones((16, 18, 4)), np.ones((4, 4, 4))], input_shape=INPUT[1:])
    np.testing.assert_array_equal(given.with_implementation(2)(x), given(x))


def test_initial_weights_are_copied():
    kernel = np.ones((16, 18, 4), np.float32)
    layer = make(weights=[kernel], use_bias=False)
    kernel[:] = 7
    layer.build(INPUT)
    assert (layer.kernel == 1).all()
    assert layer._initial_weights is None
    layer.build(INPUT)
    assert not (layer.kernel == 1).all(), "a second build makes fresh weights"


def test_a_declared_input_shape_is_enforced():
    for action in (
        lambda layer: layer(np.ones((1, 9, 9, 1))),
        lambda layer: layer.build((None, 9, 9, 1)),
        lambda layer: lc.Sequential([layer]).build((None, 9, 9, 1)),
    ):
        with pytest.raises(ValueError, match=r"was created with input_shape=\(8, 8, 1\)|was built for"):
            action(make(input_shape=(8, 8, 1)))
    with pytest.raises(ValueError, match="was created with"):
        lc.Dense(2, input_shape=(5,))(np.ones((1, 7)))
    config = make(input_shape=tuple(np.array([8, 8, 1]))).get_config()
    assert lc.LocallyConnected2D(**config).input_shape == (None, 8, 8, 1)
    assert {type(n) for n in config["batch_input_shape"]} == {int, type(None)}


def test_gradients_may_alias_the_weights():
    layer = lc.Dense(3, kernel_initializer="ones")
    layer.build((None, 2))
    layer.step((layer.kernel, layer.kernel[0]), 1.0)
    np.testing.assert_array_equal(layer.kernel, 0)
    np.testing.assert_array_equal(layer.bias, -1)


def test_copies_and_pickles_are_independent(rng):
    layer, x = filled(rng, implementation=3)
    y = layer(x)
    for twin in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(twin(x), y)
        twin.set_weights([np.zeros_like(w) for w in twin.weights])
        assert not twin(x).any()
        np.testing.assert_array_equal(layer(x), y)


# --- training


def test_two_forwards_before_a_backward_are_independent(rng):
    layer, x = filled(rng, activation="relu")
    other = integers(rng, INPUT)
    y1, backward1 = layer.forward(x)
    _, backward2 = layer.forward(other)
    dy = integers(rng, y1.shape)
    first, second = backward1(dy)[1], backward2(dy)[1]
    np.testing.assert_array_equal(layer.forward(x)[1](dy)[1].kernel, first.kernel)
    np.testing.assert_array_equal(layer.forward(other)[1](dy)[1].kernel, second.kernel)
    assert not np.array_equal(first.kernel, second.kernel)


def test_gradients_add_up_and_scale(rng):
    layer, x = filled(rng)
    y, backward = layer.forward(x)
    _, whole = backward(np.ones_like(y))
    parts = [layer.forward(x[n : n + 1])[1](np.ones_like(y[:1]))[1] for n in range(2)]
    total = parts[0] + parts[1]
    np.testing.assert_array_equal(total.kernel, whole.kernel)
    np.testing.assert_array_equal(total.bias, whole.bias)
    half = np.float64(0.5) * total
    assert isinstance(half, lc.Gradients)
    np.testing.assert_array_equal(half.kernel * 2, total.kernel)
    assert (total * 0.5).bias.dtype == np.float32
    with pytest.raises(ValueError, match="gradients must be of the same layer"):
        total + lc.Gradients(total.kernel)
    with pytest.raises(TypeError):
        total + 1
    np.testing.assert_array_equal(sum(parts).kernel, whole.kernel)
    for factor in (None, "2", np.arange(4), True):
        with pytest.raises(TypeError, match="factor"):
            total * factor
    with pytest.raises(ValueError, match="factor must be finite, got nan"):
        total * np.nan
    with pytest.raises(ValueError, match="gradients must be of the same layer"):
        total + lc.Gradients(total.kernel, total.bias[:1])
    assert total != whole
    no_bias = lc.Gradients(total.kernel) + lc.Gradients(total.kernel)
    assert (2 * no_bias).bias is None


@pytest.mark.parametrize("implementation", [1, 2, 3])
def test_fused_step_equals_the_pair(implementation, rng):
    one, x = filled(rng, implementation=implementation, activation="relu")
    two = one.with_implementation(implementation)
    y, backward = one.forward(x)
    dy = integers(rng, y.shape)
    dx, grads = backward(dy)
    one.step(grads, lr=0.125)
    np.testing.assert_array_equal(two.forward(x)[1].step(dy, lr=0.125), dx)
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_step_accepts_a_tuple_and_reduces_the_loss(rng):
    layer, _ = filled(rng)
    kernel, bias = layer.get_weights()
    grads = np.ones_like(kernel), np.full_like(bias, 2)
    layer.step(grads, lr=np.float32(0.5))
    np.testing.assert_array_equal(layer.kernel, kernel - 0.5)
    np.testing.assert_array_equal(layer.bias, bias - 1)


def test_learning_rates_at_their_limits(rng):
    layer, _ = filled(rng)
    before = layer.get_weights()
    most = float(np.finfo(np.float32).max)
    layer.step([np.ones_like(w) for w in before], lr=0)
    layer.step([np.zeros_like(w) for w in before], lr=most)
    for a, b in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_backward_refuses_to_run_after_the_weights_changed(rng):
    layer, x = filled(rng)
    y, backward = layer.forward(x)
    _, grads = backward(np.ones_like(y))
    layer.step(grads, lr=0.1)
    before = layer.get_weights()
    for late in (lambda: backward(y), lambda: backward.step(y, lr=0.1)):
        with pytest.raises(RuntimeError, match=r"older weights .* call forward again"):
            late()
    _, backward = layer.forward(x)
    other = [2 * weight for weight in before]  # setting equal weights does not count as a change
    layer.set_weights(other)
    with pytest.raises(RuntimeError, match="older weights"):
        backward(y)
    for a, b in zip(layer.get_weights(), other, strict=True):
        np.testing.assert_array_equal(a, b)


class Plain:
    """Gradient descent as a custom optimizer, which is not fused."""

    def init(self, param):
        return {}

    def update(self, param, grad, state, lr):
        param -= lr * grad


@pytest.mark.parametrize("optimizer", ["sgd", Plain()], ids=["fused", "unfused"])
def test_a_step_between_backward_and_its_step_is_detected(optimizer, rng):
    """Another thread may step while this one computes its gradients."""
    layer, x = filled(rng, optimizer=optimizer)
    y, backward = layer.forward(x)
    vjp = backward._vjp
    name = "fused_update" if layer.optimizer == lc.SGD() else "gradients"
    real, (_, grads) = getattr(vjp, name), backward(np.ones_like(y))

    def interrupted(*arguments):
        result = real(*arguments)
        layer.step(grads, lr=0.5)
        return result

    setattr(vjp, name, interrupted)
    before = layer.get_weights()[0]
    with pytest.raises(RuntimeError, match="older weights"):
        backward.step(np.ones_like(y), lr=0.5)
    np.testing.assert_array_equal(layer.kernel, before - 0.5 * layer.forward(x)[1](np.ones_like(y))[1].kernel)


def unchanged(layer, action, error, message):
    before, version = layer.get_weights(), layer._parameters.version
    states = copy.deepcopy(layer._parameters._states)
    with pytest.raises(error, match=message):
        action()
    assert layer._parameters.version == version
    for a, b in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert states.keys() == layer._parameters._states.keys()
    for name in states:
        for key in states[name]:
            np.testing.assert_array_equal(states[name][key], layer._parameters._states[name][key])


def test_a_refused_step_changes_nothing(rng):
    layer, x = filled(rng, optimizer="adam")
    y, backward = layer.forward(x)
    backward.step(np.ones_like(y), lr=0.1)
    y, backward = layer.forward(x)
    _, good = backward(np.ones_like(y))
    kernel, bias = good.kernel, good.bias
    cases = [
        ((kernel[:-1], bias), 0.1, ValueError, r"grads of kernel has shape \(15, 18, 4\); give shape \(16, 18, 4\)"),
        ((kernel, bias.ravel()), 0.1, ValueError, r"grads of bias has shape \(64,\); give shape \(4, 4, 4\)"),
        ((kernel.astype(np.float64), bias), 0.1, TypeError, r"dtype float64; cast it with .astype\('float32'\)"),
        ((kernel.astype(int), bias), 0.1, TypeError, r"grads of kernel has dtype int64"),
        (kernel, 0.1, TypeError, r"grads is a ndarray; give the Gradients"),
        (None, 0.1, TypeError, r"grads is a NoneType"),
        ((kernel,), 0.1, ValueError, r"grads has 1 arrays; .* needs 2: kernel, bias"),
        (lc.Gradients(kernel), 0.1, ValueError, r"grads has 1 arrays"),
        (good, np.nan, ValueError, r"lr must be finite, got nan"),
        (good, np.inf, ValueError, r"lr must be finite, got inf"),
        (good, 1e39, ValueError, r"lr must be at least 0 and finite in float32, got 1e\+39"),
        (good, 10**400, ValueError, r"lr must be finite, got 10+"),
        (good, -0.1, ValueError, r"lr must be at least 0 .*, got -0.1"),
        (good, "fast", TypeError, r"lr='fast' is a str"),
        (good, True, TypeError, r"lr=True is a bool"),
        (good, None, TypeError, r"lr=None"),
    ]
    for grads, lr, error, message in cases:
        unchanged(layer, lambda grads=grads, lr=lr: layer.step(grads, lr), error, message)
    unchanged(layer, lambda: backward.step(y, np.nan), ValueError, "lr must be finite, got nan")
    unchanged(layer, lambda: backward.step(y[1:], 0.1), ValueError, r"dy has shape \(1, 4, 4, 4\); give the shape of y")
    unchanged(layer, lambda: backward(y.astype(complex)), TypeError, "dy has dtype complex128")
    unchanged(layer, lambda: backward(y[..., 0]), ValueError, "dy has shape")
    with pytest.raises(RuntimeError, match="step before build"):
        make().step(good, lr=0.1)
    with pytest.raises(RuntimeError, match="before build"):
        make().set_weights([kernel])


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (lambda k, b: [k], ValueError, r"1 weights given; .* needs 2: kernel, bias"),
        (lambda k, b: [k, b, b], ValueError, r"3 weights given"),
        (lambda k, b: [b, k], ValueError, r"kernel has shape \(4, 4, 4\)"),
        (lambda k, b: [k, b[0]], ValueError, r"bias has shape \(4, 4\)"),
        (lambda k, b: [k, b.astype(complex)], TypeError, r"bias has dtype complex128"),
    ],
)
def test_refused_weights_change_nothing(weights, error, message, rng):
    layer, _ = filled(rng)
    new = weights(*[w + 1 for w in layer.weights])
    unchanged(layer, lambda: layer.set_weights(new), error, message)


class FailsOnBias:
    """An optimizer that changes its arguments and then fails on the bias."""

    def init(self, param):
        return {"calls": 0}

    def update(self, param, grad, state, lr):
        state["calls"] += 1
        param -= lr * grad
        if param.ndim == 3 and param.shape[0] == 4:
            raise FloatingPointError("no")


def test_a_failing_custom_optimizer_changes_nothing(rng):
    layer, x = filled(rng, optimizer=FailsOnBias())
    y, backward = layer.forward(x)
    _, grads = backward(np.ones_like(y))
    unchanged(layer, lambda: layer.step(grads, 0.1), FloatingPointError, "no")
    backward(np.ones_like(y))  # the weights have not changed since forward


class Signs:
    def init(self, param):
        return {"steps": np.zeros(())}

    def update(self, param, grad, state, lr):
        param -= lr * np.sign(grad)
        state["steps"] += 1


def test_a_custom_optimizer_keeps_its_state_after_a_failure(rng):
    class FailsAtThird(Signs):
        def update(self, param, grad, state, lr):
            super().update(param, grad, state, lr)
            if state["steps"] == 3 and param.ndim == 3 and param.shape[0] == 4:
                raise FloatingPointError("no")

    layer, x = filled(rng, optimizer=FailsAtThird())
    _, grads = layer.forward(x)[1](np.ones((2, 4, 4, 4), np.float32))
    layer.step(grads, 0.5)
    layer.step(grads, 0.5)
    unchanged(layer, lambda: layer.step(grads, 0.5), FloatingPointError, "no")
    assert layer._parameters._states["kernel"]["steps"] == 2


def test_a_custom_optimizer_that_resizes_is_refused(rng):
    class Resizes(Signs):
        def update(self, param, grad, state, lr):
            param.resize((1,), refcheck=False)

    layer, x = filled(rng, optimizer=Resizes())
    _, grads = layer.forward(x)[1](np.ones((2, 4, 4, 4), np.float32))
    unchanged(
        layer,
        lambda: layer.step(grads, 0.5),
        ValueError,
        r"changed kernel from float32 \(16, 18, 4\) to float32 \(1,\); it must change values only",
    )


def test_a_custom_optimizer_works(rng):
    layer, x = filled(rng, optimizer=Signs())
    kernel = layer.get_weights()[0]
    y, backward = layer.forward(x)
    _, grads = backward(np.ones_like(y))
    layer.step(grads, lr=0.5)
    layer.step(grads, lr=0.5)
    np.testing.assert_array_equal(layer.kernel, kernel - np.sign(grads.kernel))
    assert layer._parameters._states["kernel"]["steps"] == 2


def test_setting_an_optimizer_resets_the_state(rng):
    layer, x = filled(rng, optimizer="adam")
    y, backward = layer.forward(x)
    backward.step(np.ones_like(y), lr=0.1)
    assert layer._parameters._states
    layer.optimizer = lc.Adam(beta_1=0.5)
    assert not layer._parameters._states
    assert layer.optimizer.beta_1 == 0.5


@pytest.mark.parametrize("implementation", [1, 2, 3])
def test_steps_are_atomic_for_calls_from_other_threads(implementation):
    """All weights are equal at any time, so an output that mixes two versions is detected; cached layouts too."""
    layer = lc.LocallyConnected2D(
        32, 3, kernel_initializer="zeros", use_bias=False, implementation=implementation, input_shape=(16, 16, 8)
    )
    x = np.ones((2, 16, 16, 8), np.float32)
    layer(x)
    grads = (np.ones_like(layer.kernel),)
    seen, done = [], threading.Event()

    def call():
        while not done.is_set():
            y = layer(x)
            seen.append((float(y.min()), float(y.max())))

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(call) for _ in range(3)]
        try:
            for turn in range(150):
                if turn % 2:
                    layer.step(grads, 1.0)
                else:
                    _, backward = layer.forward(x)
                    backward.step(np.full((2, 14, 14, 32), 0.5, np.float32), 1.0)
        finally:
            done.set()
        for future in calls:
            future.result()
    np.testing.assert_array_equal(layer.kernel, -150)
    assert all(low == high for low, high in seen)
    assert len({low for low, _ in seen}) > 10  # calls ran in between


def slow_ones(shape, dtype, rng):
    """An initializer that gives other threads time to run."""
    time.sleep(0.2)
    return np.ones(shape, dtype)


def test_a_layer_is_built_once_by_many_threads():
    layer = make(filters=8, kernel_initializer=slow_ones)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: layer(np.ones(INPUT)), range(16)))
    for y in results:
        np.testing.assert_array_equal(y, results[0])
    assert layer._parameters.version == 1


class Gate:
    """An initializer that stays inside build until it is released."""

    def __init__(self):
        self.entered, self.released = threading.Event(), threading.Event()

    def __call__(self, shape, dtype, rng):
        self.entered.set()
        assert self.released.wait(60)
        return np.ones(shape, dtype)


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_concurrent_first_calls_with_different_shapes():
    gate = Gate()
    layer = make(kernel_size=2, kernel_initializer=gate)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(layer, np.ones((1, 4, 9, 1)))
        assert gate.entered.wait(60)
        second = pool.submit(layer, np.ones((1, 6, 6, 1)))  # of the same size
        time.sleep(0.1)  # there is no way to observe that it waits
        gate.released.set()
        assert first.result(60).shape == (1, 3, 8, 4)
        with pytest.raises(ValueError, match=r"x has shape \(1, 6, 6, 1\); .* built for \(None, 4, 9, 1\)"):
            second.result(60)


def test_a_step_during_a_rebuild_is_checked_against_the_new_shape():
    """Its gradients fit the weights at the time of the call."""
    gate = Gate()
    gate.released.set()
    layer = lc.Dense(4, use_bias=False, kernel_initializer=gate)
    layer.build((None, 3))
    gate.entered.clear()
    gate.released.clear()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        build = pool.submit(layer.build, (None, 4000))
        assert gate.entered.wait(60)
        step = pool.submit(layer.step, (np.ones((3, 4), np.float32),), 1.0)
        wait_until(lambda: layer._parameters.lock._waiting)
        gate.released.set()
        build.result(60)
        with pytest.raises(ValueError, match=r"grads of kernel has shape \(3, 4\)"):
            step.result(60)
    np.testing.assert_array_equal(layer.kernel, np.ones((4000, 4)))


@pytest.mark.parametrize("make_layer", [lambda: make(activation="tanh", kernel_size=1), lambda: lc.Dense(4)])
def test_backward_during_steps_succeeds_or_reports_older_weights(make_layer):
    layer = make_layer()
    x = np.ones((4, 3) if isinstance(layer, lc.Dense) else (4, 8, 8, 1), np.float32)
    layer(x)
    done = []  # append is atomic, where += is not

    def train():
        for _ in range(60):
            y, backward = layer.forward(x)
            try:
                backward.step(np.ones_like(y), 1e-6)
                done.append("step")
            except RuntimeError as error:  # another thread stepped first
                assert "older weights" in str(error)  # noqa: PT017
                done.append("late")

    threads = [threading.Thread(target=train, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "deadlock"
    assert len(done) == 180
    assert layer._parameters.version == 1 + done.count("step") > 1


@pytest.mark.parametrize("implementation", [1, 2, 3])
def test_an_interrupt_inside_a_step_leaves_no_stale_cache(implementation, rng, monkeypatch):
    from lcnumba.kernels import update

    layer, x = filled(rng, implementation=implementation)
    y, backward = layer.forward(x)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(update, "run", interrupted)  # the kernel has changed by then, and the bias has not
    with pytest.raises(KeyboardInterrupt):
        backward.step(np.ones_like(y), lr=1.0)
    with pytest.raises(RuntimeError, match="older weights"):
        backward(np.ones_like(y))
    fresh = make()
    fresh.build(INPUT)
    fresh.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(x), fresh(x))


def test_a_custom_optimizer_may_read_its_layer(rng):
    """Its update runs outside the layer's lock."""

    class Looks(Signs):
        def update(self, param, grad, state, lr):
            layer.get_weights()
            layer(x)
            super().update(param, grad, state, lr)

    layer, x = filled(rng)
    layer.optimizer = Looks()
    y, backward = layer.forward(x)
    version = layer._parameters.version
    thread = threading.Thread(target=backward.step, args=(np.ones_like(y), 0.5), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "deadlock"
    assert layer._parameters.version == version + 1


def test_weights_may_change_while_a_custom_penalty_is_computed():
    """It is called outside the layer's lock, with a copy."""

    class Waits(regularizers.L2):
        def __call__(self, values):
            thread = threading.Thread(target=layer.set_weights, args=([np.zeros((3, 2)), np.zeros(2)],), daemon=True)
            thread.start()
            thread.join(30)
            assert not thread.is_alive(), "deadlock"
            return float(values.sum())

    layer = lc.Dense(2, kernel_initializer="ones", kernel_regularizer=Waits())
    layer.build((None, 3))
    assert layer.losses == [6]
    assert not layer.kernel.any()


def test_an_empty_optimizer_state_can_be_restored(rng):
    one, other = (filled(rng, optimizer="adam")[0] for _ in range(2))
    other.set_weights(one.get_weights())
    other.plan_training_state({name: lc.Adam().init(w) for name, w in one._parameters.views().items()})()
    for layer in (one, other):
        layer.step([np.ones_like(w) for w in layer.weights], lr=0.5)
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_step_of_a_custom_optimizer_is_lost_with_many_threads(rng):
    layer, _ = filled(rng, optimizer=Signs())
    before = layer.get_weights()[0]
    grads = np.ones_like(layer.kernel), np.ones_like(layer.bias)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for step in [pool.submit(layer.step, grads, 0.5) for _ in range(20)]:
            step.result(60)
    np.testing.assert_array_equal(layer.kernel, before - 10)
    assert layer._parameters._states["kernel"]["steps"] == 20


def test_copies_are_consistent_snapshots():
    """All weights are equal at any time, so a copy that mixes two steps is detected."""
    layer = lc.Dense(200, kernel_initializer="zeros", optimizer="adam")
    layer.build((None, 200))
    other = lc.LocallyConnected2D(8, 1, input_shape=(8, 8, 8), kernel_initializer="zeros", optimizer="adam")
    other.build((None, 8, 8, 8))
    stop = threading.Event()

    def train(one):
        grads = tuple(np.full(w.shape, -1, np.float32) for w in one.weights)
        while not stop.is_set():
            one.step(grads, 1.0)

    threads = [threading.Thread(target=train, args=(one,), daemon=True) for one in (layer, other)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other.with_implementation(2)):
                values = np.unique(np.concatenate([w.ravel() for w in twin.weights]))
                assert len(values) == 1
                state = twin._parameters._states.get("kernel", {"t": 0})
                assert round(float(values[0])) == state["t"], "each step of Adam adds 1 here"
    finally:
        stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_set_weights_may_alias_the_weights():
    layer = lc.Dense(3)
    layer.build((None, 1))
    layer.set_weights([[[1, 2, 3]], [4, 5, 6]])
    layer.set_weights([layer.bias.reshape(1, 3), layer.kernel.reshape(3)])
    np.testing.assert_array_equal(layer.kernel, [[4, 5, 6]])
    np.testing.assert_array_equal(layer.bias, [1, 2, 3])


def test_an_optimizer_set_between_plan_and_run_starts_with_new_state():
    optimizer = lc.SGD(momentum=0.9)
    layer = lc.Dense(1, kernel_initializer="zeros", optimizer=optimizer, use_bias=False)
    layer.build((None, 1))
    grads = (np.ones((1, 1), np.float32),)
    layer.step(grads, 1.0)
    commit = layer.plan_update(grads, 1.0)
    layer.optimizer = optimizer
    commit()
    np.testing.assert_array_equal(layer.kernel, -2)


def test_weights_set_between_plan_and_run_raise(rng):
    layer, x = filled(rng)
    y, backward = layer.forward(x)
    commit = backward.plan_update(backward(np.ones_like(y))[1], 1.0)
    layer.set_weights([np.ones_like(w) for w in layer.weights])
    with pytest.raises(RuntimeError, match="older weights"):
        commit()
    for weight in layer.weights:
        np.testing.assert_array_equal(weight, 1)


def test_set_weights_waits_for_calls(rng):
    layer, _ = filled(rng)
    new = [np.zeros_like(w) for w in layer.weights]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with layer._parameters.lock.shared():
            change = pool.submit(layer.set_weights, new)
            time.sleep(0.05)
            assert not change.done()
            assert layer._parameters["kernel"].any()
        change.result(20)
    assert not layer.kernel.any()


# --- arrays


def test_a_plain_call_saves_nothing_for_backward():
    """For an activation such as gelu that would be an array as large as the output."""
    layer = make(filters=16, activation="gelu")
    x = np.ones((64, 20, 20, 1), np.float32)
    layer(x)
    tracemalloc.start()
    y = layer(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * y.nbytes


def test_outputs_have_the_array_type_of_the_input(rng):
    layer, x = filled(rng)
    y, backward = layer.forward(array_api_strict.asarray(x))
    assert isinstance(y, type(array_api_strict.asarray(x)))
    dx, grads = backward(array_api_strict.ones(y.shape))
    assert isinstance(dx, type(y))
    assert isinstance(grads.kernel, np.ndarray)
    assert isinstance(backward(np.ones(y.shape))[0], np.ndarray)
    np.testing.assert_array_equal(np.from_dlpack(y), layer(x))
    assert isinstance(layer(x.tolist()), np.ndarray)
    np.testing.assert_array_equal(layer(x.tolist()), layer(x))


@pytest.mark.parametrize("implementation", [1, 2, 3])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_outputs_alias_nothing(implementation, data_format, rng):
    """Also where the layer is the identity."""
    layer = make(filters=1, kernel_size=1, use_bias=False, kernel_initializer="ones", data_format=data_format,
                 implementation=implementation)  # fmt: skip
    x = rng.standard_normal((2, 1, 4, 4) if data_format == "channels_first" else (2, 4, 4, 1), np.float32)
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(y, x)
    dx, grads = backward(y)
    for output in (y, layer(x), dx, grads.kernel):
        assert not any(np.may_share_memory(output, a) for a in (x, layer.kernel))
        assert output.flags.writeable
    assert not np.may_share_memory(dx, y)


# --- bad input


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"filters": 0}, ValueError, "filters=0 is too small; give an integer of at least 1"),
        ({"filters": -1}, ValueError, "filters=-1"),
        ({"filters": 4.5}, TypeError, "filters=4.5 is a float"),
        ({"kernel_size": 0}, ValueError, "kernel_size=0"),
        ({"kernel_size": (1, 2, 3)}, ValueError, r"kernel_size=\(1, 2, 3\) has 3 entries; give one integer or 2"),
        ({"kernel_size": True}, TypeError, "kernel_size=True is a bool"),
        ({"strides": 0}, ValueError, "strides=0"),
        ({"strides": (1, 1, 1)}, ValueError, "strides"),
        ({"padding": "causal"}, ValueError, "padding='causal' is not known; give one of 'valid', 'same'"),
        ({"padding": None}, ValueError, "padding=None"),
        ({"data_format": "x"}, ValueError, "data_format='x' is not known"),
        ({"data_format": ""}, ValueError, "data_format=''"),
        ({"implementation": 7}, ValueError, "implementation=7 is not known; give one of 1, 2, 3, 'auto'"),
        ({"implementation": "loop"}, ValueError, "implementation='loop' is not known; give one of 1, 2, 3, 'auto'"),
        ({"implementation": 1.0}, TypeError, "implementation=1.0 is a float"),
        ({"n_threads": 0}, ValueError, "n_threads=0 is too small"),
        ({"n_threads": 1.5}, TypeError, "n_threads=1.5 is a float"),
        ({"implementation": True}, TypeError, "implementation=True"),
        ({"activation": "nope"}, ValueError, "activation='nope' is not known; give one of .*linear, .*relu"),
        ({"activation": np.tanh}, TypeError, "must implement __call__.* and gradient"),
        ({"use_bias": 1}, TypeError, "use_bias=1"),
        ({"kernel_initializer": "nope"}, ValueError, "initializer='nope' is not known"),
        ({"kernel_initializer": 3}, TypeError, "initializer must be .*, got 3"),
        (
            {"bias_initializer": {"name": "zeros"}},
            TypeError,
            "initializer must be a config with 'class_name' and 'config', got",
        ),
        ({"kernel_regularizer": "nope"}, ValueError, "regularizer='nope' is not known; give one of"),
        ({"bias_regularizer": lambda w: 0.0}, TypeError, "must implement __call__.* and gradient"),
        ({"activity_regularizer": regularizers.L2}, TypeError, "is a class; give an instance"),
        ({"kernel_constraint": "nope"}, ValueError, "constraint='nope' is not known"),
        ({"bias_constraint": 3}, TypeError, "constraint must be a name .*, got 3"),
        ({"dtype": "float16"}, ValueError, "dtype='float16' is not supported; give 'float32' or 'float64'"),
        ({"dtype": "f4,("}, ValueError, "is not supported"),
        ({"dtype": "nope"}, ValueError, "dtype='nope'"),
        ({"fans": "many"}, ValueError, "fans='many'"),
        ({"optimizer": "nope"}, ValueError, "optimizer='nope' is not known; give one of adam, adamw, rmsprop, sgd"),
        ({"optimizer": 3}, TypeError, "optimizer=3 must implement init"),
        ({"optimizer": lc.SGD}, TypeError, r"is a class; give an instance, SGD\(\.\.\.\)"),
        ({"foo": 1}, TypeError, "unexpected keyword argument 'foo'"),
        ({"input_shape": (2, 9, 3)}, ValueError, r"kernel_size=\(3, 2\).*does not fit input \(2, 9\)"),
        ({"input_shape": (None, 9, 3)}, ValueError, "must be fully defined"),
        ({"input_shape": (9, 3)}, ValueError, r"has 2 entries; give 3: \(height, width, channels\), without"),
        ({"input_shape": 5}, TypeError, "input_shape=5 is a int"),
        (
            {"input_shape": (9, 9, 1), "batch_input_shape": (None, 9, 9, 1)},
            ValueError,
            "give only one of input_shape, b",
        ),
        ({"batch_input_shape": 5}, TypeError, "batch_input_shape=5"),
        ({"batch_input_shape": (None, 9, 9, 1), "batch_size": 3}, ValueError, "one of batch_input_shape, batch_size"),
        ({"batch_input_shape": ()}, ValueError, "has 0 entries"),
        ({"input_shape": (9, 9, 1), "batch_size": 0}, ValueError, "batch_size=0"),
        ({"input_dim": 9}, ValueError, "has 1 entries; give 3"),
        ({"rng": "x"}, TypeError, "rng must be None, a seed or a Generator, got 'x'"),
        ({"rng": -1}, ValueError, "rng must be None, a seed or a Generator, got -1"),
        ({"weights": 5}, TypeError, "weights is a int; give a list"),
        ({"kernel_size": {3, 4}}, TypeError, "kernel_size={3, 4} is a set"),
        ({"kernel_size": itertools.repeat(3)}, TypeError, "kernel_size=repeat"),
        ({"strides": 2**63}, ValueError, "too large"),
        ({"activation": activations.ReLU}, TypeError, "is a class; give an instance"),
        ({"input_shape": (9, 9, 0)}, ValueError, "input_shape=0"),
    ],
)
def test_invalid_settings(settings, error, message):
    with pytest.raises(error, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            np.zeros((6, 5, 3)),
            ValueError,
            r"x has 3 dimensions \(shape \(6, 5, 3\)\); .* needs 4.*x\[None\] adds the batch",
        ),
        (3.0, ValueError, "x has 0 dimensions"),
        (np.zeros((2, 6, 5, 4)), ValueError, r"x has shape \(2, 6, 5, 4\); .* built for \(None, 6, 5, 3\)"),
        (np.zeros((2, 7, 5, 3)), ValueError, "every sample must have that shape"),
        (np.zeros((2, 5, 5, 3)), ValueError, "every sample must have that shape"),
        (np.zeros(INPUT, np.float16), TypeError, r"x has dtype float16, .* cast it with .astype\('float32'\)"),
        (np.zeros(INPUT, complex), TypeError, "x has dtype complex128.*real part"),
        (np.zeros(INPUT, object), TypeError, "x has dtype object"),
        (np.full(INPUT, "a"), TypeError, "x has dtype <U1"),
        (None, TypeError, "x is a NoneType, not an array of numbers"),
    ],
)
def test_invalid_inputs(x, error, message):
    layer = make()
    layer.build(INPUT)
    for call in (layer, layer.forward):
        with pytest.raises(error, match=message):
            call(x)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((None, None, 5, 3), "must be fully defined"),
        ((None, 6, 5, None), "must be fully defined"),
        ((None, 6, 5), "has 3 entries"),
        ((None, 2, 5, 3), "does not fit input"),
    ],
)
def test_invalid_build_shapes(shape, message):
    layer = make()
    with pytest.raises(ValueError, match=message):
        layer.build(shape)
    assert not layer.built
    layer.filters = 7  # not locked


def test_kernel_may_exceed_the_input_with_same():
    assert make(kernel_size=10, padding="same")(np.ones((1, 5, 5, 1))).shape == (1, 5, 5, 4)
    with pytest.raises(ValueError, match="does not fit"):
        make(kernel_size=10)(np.ones((1, 5, 5, 1)))


def test_shape_of_a_custom_initializer_is_checked():
    layer = make(kernel_initializer=lambda shape, dtype, rng: np.ones((1, 2, 3)))
    with pytest.raises(ValueError, match=r"must return shape .*, got \(1, 2, 3\)"):
        layer.build(INPUT)
    assert not layer.built
    layer = make(kernel_initializer=lambda shape, dtype, rng: rng.integers(0, 3, shape).astype("f8"))
    layer.build(INPUT)
    assert layer.kernel.dtype == np.float32


@pytest.mark.parametrize("weights", [True, (1, 2), [np.ones(3), np.ones(3)], np.ones(2)])
def test_build_with_invalid_weights_changes_nothing(weights):
    layer = lc.LocallyConnected1D(2, 2, weights=[np.ones((4, 4, 2)), np.ones((4, 2))])
    with pytest.raises((TypeError, ValueError), match=r"weights|kernel"):
        layer.build_with((None, 5, 2), weights)
    assert not layer.built
    np.testing.assert_array_equal(layer(np.ones((1, 5, 2))), np.full((1, 4, 2), 5.0))


@pytest.mark.parametrize("config", [None, 3, [("filters", 1)], {1: 2}])
def test_invalid_configs(config):
    for make in (lc.LocallyConnected2D, lc.Dense, lc.Sequential):
        with pytest.raises(TypeError, match=r"config must be a dict of keyword arguments, .*, got"):
            make.from_config(config)
