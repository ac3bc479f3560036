"""Batch normalization; `bridges/keras2/test_companions.py` compares its numbers with tf_keras."""

import copy
import pickle
import threading

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.layers import batch_normalization
from lcnumba.testing import integers, numerical_gradient


def built(shape=(None, 4), dtype="float64", **settings):
    layer = lc.BatchNormalization(dtype=dtype, **settings)
    layer.build(shape)
    return layer


def filled(shape=(None, 4), **settings):
    layer, rng = built(shape, **settings), np.random.default_rng(0)
    layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.get_weights()])
    return layer


def plain(x, mean, variance, gamma, beta, epsilon):
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


@pytest.mark.parametrize("axis", [-1, 1, 2, (1, 3), (-1, -2, -3)])
def test_values(axis, rng):
    layer = filled((None, 3, 4, 2), axis=axis, epsilon=0.1)
    x = rng.standard_normal((5, 3, 4, 2))
    axes = [number % 4 for number in (axis if isinstance(axis, tuple) else (axis,))]
    sizes = [size if number in axes else 1 for number, size in enumerate(x.shape)]
    gamma, beta, mean, variance = (weight.reshape(sizes) for weight in layer.get_weights())
    np.testing.assert_allclose(layer(x), plain(x, mean, variance, gamma, beta, 0.1), rtol=1e-13)
    over = tuple(number for number in range(4) if number not in axes)
    mean, variance = x.mean(over, keepdims=True), x.var(over, keepdims=True)
    np.testing.assert_allclose(layer.forward(x)[0], plain(x, mean, variance, gamma, beta, 0.1), rtol=1e-11, atol=1e-13)
    assert layer.gamma.shape == ((sizes[axes[0]],) if len(axes) == 1 else tuple(sizes))


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize(("center", "scale"), [(True, True), (False, True), (True, False), (False, False)])
def test_gradients(trainable, center, scale, rng):
    layer = filled((None, 3, 2), center=center, scale=scale, trainable=trainable)
    x, dy = rng.standard_normal((2, 4, 3, 2))
    _, backward = layer.forward(x)
    dx, grads = backward(dy)
    expected = numerical_gradient(lambda v: float(np.sum(layer.forward(v)[0] * dy)), x)
    np.testing.assert_allclose(dx, expected, atol=1e-7)
    assert (grads.gamma is not None, grads.beta is not None) == (scale, center)
    vector = layer.get_flat()
    assert vector.size == 2 * (center + scale)

    def value(flat):
        layer.set_flat(flat)
        return float(np.sum(layer.forward(x)[0] * dy))

    if vector.size:
        np.testing.assert_allclose(layer.flat_gradient(grads), numerical_gradient(value, vector), atol=1e-7)
    else:
        assert layer.flat_gradient(grads).size == 0
    assert len(grads.moments) == trainable


def test_weights():
    layer = built((None, 5, 3), dtype="float32")
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    assert list(layer.weight_shapes((None, 5, 3))) == list(names)
    for name, weight, value in zip(names, layer.weights, (1, 0, 0, 1), strict=True):
        np.testing.assert_array_equal(weight, np.full(3, value, np.float32))
        np.testing.assert_array_equal(getattr(layer, name), weight)
        assert not getattr(layer, name).flags.writeable
    assert layer.count_params() == 12
    assert len(layer.trainable_weights) == len(layer.non_trainable_weights) == 2
    np.testing.assert_array_equal(layer.non_trainable_weights[1], layer.moving_variance)
    layer.trainable = False
    assert (len(layer.trainable_weights), len(layer.non_trainable_weights)) == (0, 4)
    assert layer.bias is None
    with pytest.raises(AttributeError, match="has no kernel; it has gamma, beta, moving_mean, moving_variance"):
        layer.kernel  # noqa: B018
    layer.set_flat(np.arange(6))
    np.testing.assert_array_equal(layer.get_weights()[1:3], [[3, 4, 5], [0, 0, 0]])
    bare = built(center=False, scale=False)
    assert bare.gamma is bare.beta is None
    assert [weight.tolist() for weight in bare.get_weights()] == [[0] * 4, [1] * 4]


@pytest.mark.parametrize("shape", [(0, 3), (5, 3), (64, 3), (3, 7, 11, 5), (2, 64, 1)])
def test_sums_of_rows(shape, rng):
    """Those of all leading axes, in groups of rows and a remainder, and those of others."""
    x = integers(rng, shape)
    for over in (tuple(range(len(shape) - 1)), tuple(range(1, len(shape)))):
        found = batch_normalization._sums(x, over)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, x.astype(np.float64).sum(axis=over, keepdims=True))


def test_forward_is_pure_and_a_step_takes_the_statistics(rng):
    layer = filled(momentum=0.75)
    x, before = rng.standard_normal((6, 4)), layer.get_weights()
    _, backward = layer.forward(x)
    layer(x)
    dx, grads = backward(x)
    for one, other in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    layer.step(grads, lr=0.5)
    gamma, beta, mean, variance = before
    np.testing.assert_array_equal(layer.gamma, gamma - 0.5 * grads.gamma)
    np.testing.assert_array_equal(layer.beta, beta - 0.5 * grads.beta)
    np.testing.assert_allclose(layer.moving_mean, 0.75 * mean + 0.25 * x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(layer.moving_variance, 0.75 * variance + 0.25 * x.var(0), rtol=1e-14)
    with pytest.raises(RuntimeError, match="belongs to older weights"):
        backward(dx)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "custom"])
def test_all_ways_of_a_step_are_equal(optimizer, rng):
    class Custom:
        def init(self, param):
            return {}

        def update(self, param, grad, state, lr):
            param -= lr * grad

    made = Custom() if optimizer == "custom" else optimizer
    first = filled((None, 3, 3, 4), dtype="float32", optimizer=made, gamma_regularizer="l2", beta_constraint="non_neg")
    second = copy.deepcopy(first)
    for _ in range(2):
        x, dy = rng.standard_normal((2, 5, 3, 3, 4)).astype(np.float32)
        first.step(first.forward(x)[1](dy)[1], 0.1)
        second.forward(x)[1].step(dy, 0.1)
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert first.beta.min() >= 0
    assert len(first.losses) == 1


@pytest.mark.parametrize(
    ("shape", "axis", "dtype", "unbiased"),
    [
        ((4, 2), -1, "float32", False), ((4, 3, 2), -1, "float32", False), ((2, 3, 2, 2), -1, "float32", True),
        ((2, 3, 2, 2), 1, "float32", True), ((2, 3, 2, 2), 2, "float32", False), ((2, 3, 2, 2), -1, "float64", False),
        ((2, 2, 2, 2, 2), 4, "float32", True), ((2, 2, 2, 2, 2), 3, "float32", False),
        ((1, 1, 1, 2), -1, "float32", True),
    ],
)  # fmt: skip
def test_the_variance_of_the_moving_average(shape, axis, dtype, unbiased, rng):
    layer = built((None, *shape[1:]), axis=axis, momentum=0, dtype=dtype)
    x = integers(rng, shape).astype(dtype)
    layer.forward(x)[1].step(x, 0.0)
    over = tuple(number for number in range(len(shape)) if number != axis % len(shape))
    count = x.size // shape[axis]
    np.testing.assert_allclose(layer.moving_variance, x.var(over, ddof=int(unbiased and count > 1)), rtol=1e-6)


def test_frozen_layers_use_and_keep_the_moving_averages(rng):
    layer = filled(trainable=False)
    x, before = rng.standard_normal((6, 4)), layer.get_weights()
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(y, layer(x))
    dx = backward.step(x, 0.5)
    np.testing.assert_allclose(dx, x * layer.gamma / np.sqrt(layer.moving_variance + 1e-3), rtol=1e-14)
    layer.step(layer.forward(x)[1](x)[1], 0.5)
    for one, other in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("x", [np.full((1, 4), 3.0), np.full((5, 4), 1e4), np.zeros((0, 4)), np.full((2, 4), np.nan)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inputs_without_variance_and_without_numbers(x, dtype):
    layer = built(momentum=0.5, dtype=dtype)
    y, backward = layer.forward(x)
    dx, _ = backward(np.ones_like(x))
    backward.step(np.ones_like(x), 0.0)
    if not len(x):  # Keras' averages become NaN
        np.testing.assert_array_equal(layer.moving_mean, np.zeros(4))
        np.testing.assert_array_equal(layer.moving_variance, np.ones(4))
        assert y.shape == dx.shape == (0, 4)
        return
    np.testing.assert_array_equal(y, np.where(np.isnan(x), x, 0))
    np.testing.assert_array_equal(dx, np.where(np.isnan(x), x, 0))
    np.testing.assert_array_equal(layer.moving_mean, x[0] / 2)
    np.testing.assert_array_equal(layer.moving_variance, np.where(np.isnan(x[0]), x[0], 0.5))


def test_a_tuple_of_gradients_leaves_the_averages(rng):
    layer = filled()
    before = layer.get_weights()
    layer.step((np.ones(4), np.ones(4)), 0.5)
    np.testing.assert_array_equal(layer.get_weights()[2:], before[2:])
    np.testing.assert_array_equal(layer.gamma, before[0] - 0.5)


@pytest.mark.parametrize(
    "grads",
    [
        lambda grads: (grads.gamma,),
        lambda grads: (grads.gamma, grads.beta, grads.beta, grads.beta),
        lambda grads: lc.gradients.BatchNormalizationGradients(grads.gamma, grads.beta, ((grads.gamma, np.ones(3)),)),
        lambda grads: lc.gradients.BatchNormalizationGradients(grads.gamma, grads.beta, ((grads.gamma,),)),
    ],
)
def test_a_refused_step_changes_nothing(grads, rng):
    layer = filled()
    before = layer.get_weights()
    with pytest.raises(ValueError, match=r"grads has|of moments has shape|moments has 1"):
        layer.step(grads(layer.forward(rng.standard_normal((6, 4)))[1](np.ones((6, 4)))[1]), 0.5)
    for one, other in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def network(**settings):
    return lc.Sequential([
        lc.BatchNormalization(input_shape=(6, 5, 2), momentum=0.5), lc.ZeroPadding2D(1),
        lc.LocallyConnected2D(3, 3, rng=0, **settings), lc.BatchNormalization(momentum=0.9), lc.LeakyReLU(0.1),
        lc.MaxPooling2D(2), lc.UpSampling2D(2), lc.AveragePooling2D(2), lc.Reshape((-1,)), lc.Dense(3, rng=1),
        lc.Softmax(),
    ])  # fmt: skip


def data(rng, samples=12):
    x = rng.standard_normal((samples, 6, 5, 2)).astype(np.float32)
    return x, np.eye(3, dtype=np.float32)[np.arange(samples) % 3]


def test_if_another_layer_refuses_a_step_the_averages_stay(rng):
    class Failing:
        def __init__(self):
            self.fails = False

        def init(self, param):
            return {}

        def update(self, param, grad, state, lr):
            if self.fails:
                raise ValueError("refused")

    model, optimizer = network(), Failing()
    model[2].optimizer = optimizer
    model.compile(loss="mse", lr=0.1)
    x, y = data(rng)
    model.train_on_batch(x, y)
    before, optimizer.fails = model.get_weights(), True
    with pytest.raises(ValueError, match="refused"):
        model.train_on_batch(x, y)
    backward = model.forward(x)[1]
    with pytest.raises(ValueError, match="refused"):
        model.step(backward(np.zeros((12, 3)))[1], 0.1)
    with pytest.raises(ValueError, match="refused"):
        backward.step(np.zeros((12, 3)), 0.1)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 1e3}, {"clip_value": 1e3}])
def test_training_moves_the_averages_however_it_steps(settings, rng):
    x, y = data(rng)
    model = network()
    model.compile("adam", "categorical_crossentropy", lr=0.01, **settings)
    for _ in range(2):
        model.train_on_batch(x, y)
    first, mean = model[0], x.mean((0, 1, 2))
    np.testing.assert_allclose(first.moving_mean, 0.75 * mean, rtol=1e-5)
    expected = 0.25 + 0.75 * x.var((0, 1, 2), dtype=np.float64) * 360 / 359
    np.testing.assert_allclose(first.moving_variance, expected, rtol=1e-6)


def test_clipping_leaves_the_statistics_out(rng):
    x, y = data(rng)
    model = network()
    grads = model.forward(100 * x)[1](y)[1]
    clipped = lc.gradients.clip_by_norm(lc.gradients.clip_by_value(grads, 1e-3), 1e-2)
    np.testing.assert_array_equal(clipped[0].moments, grads[0].moments)
    assert np.abs(clipped[0].gamma).max() <= 1e-3
    assert lc.gradients.global_norm(clipped) <= 1.0001e-2
    assert np.max(grads[0].moments) > 1


def test_accumulation_takes_the_statistics_of_each_batch(rng):
    x, y = data(rng)
    model = network()
    model.compile("sgd", "mse", lr=0.0, accumulate=3)
    model.fit(x, y, batch_size=4, shuffle=False, progress=False)
    expected = np.zeros(2)
    for batch in x.reshape(3, 4, 6, 5, 2):
        expected += 0.5 * (batch.mean((0, 1, 2)) - expected)
    np.testing.assert_allclose(model[0].moving_mean, expected, rtol=1e-5)


def test_sums_of_gradients():
    layer = built((None, 1), momentum=0.5)
    first, second = (layer.forward([[value], [value + 2]])[1](np.ones((2, 1)))[1] for value in (1.0, 5.0))
    total = 0.5 * (first + second)
    np.testing.assert_array_equal(total.beta, [2])
    assert [float(mean[0]) for mean, _ in total.moments] == [2, 6]
    assert repr(total).startswith("<BatchNormalizationGradients: gamma: ")
    assert lc.gradients.add(first, second).moments == total.moments
    layer.step(total, 0.0)
    np.testing.assert_array_equal(layer.moving_mean, [3.5])
    with pytest.raises(TypeError):
        first + lc.Gradients(np.ones(1))
    with pytest.raises(ValueError, match="of the same layer"):
        first + lc.gradients.BatchNormalizationGradients(np.ones(2), np.ones(2))


def test_models_train_save_and_resume(rng, tmp_path):
    x, y = data(rng, 24)
    model = network()
    model.compile("adam", "categorical_crossentropy", ["accuracy"], lr=0.05)
    history = model.fit(x, y, epochs=4, batch_size=8, rng=0, progress=False)
    assert history.history["loss"][-1] < history.history["loss"][0]
    # Inference does not depend on the batch, but for the rounding of BLAS in `Dense`.
    np.testing.assert_allclose(model(x[:5]), model(x)[:5], rtol=1e-5)

    model.save(tmp_path / "model.npz")
    for again in (lc.load(tmp_path / "model.npz"), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(again(x), model(x))
        np.testing.assert_array_equal(again[0].moving_variance, model[0].moving_variance)
    again = network()
    again.compile("adam", "categorical_crossentropy", ["accuracy"], lr=0.05)
    checkpoint = lc.callbacks.Checkpoint(tmp_path / "half")
    again.fit(x, y, epochs=2, batch_size=8, rng=0, progress=False, callbacks=[checkpoint])
    resumed = network()
    resumed.compile("adam", "categorical_crossentropy", ["accuracy"], lr=0.05)
    resumed.fit(x, y, epochs=4, batch_size=8, rng=0, progress=False, resume=tmp_path / "half")
    for one, other in zip(resumed.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert f"{model.count_params():,}" in repr(model)
    lines = []
    model.summary(lines.append)
    assert any("(BatchNormalization)" in line and line.endswith(" 8") for line in lines)


def test_the_vector_of_a_model_leaves_the_averages_out(rng):
    x, y = data(rng)
    model = lc.Sequential([
        lc.BatchNormalization(input_shape=(6, 5, 2), dtype="float64"), lc.GlobalAveragePooling2D(),
        lc.BatchNormalization(dtype="float64", scale=False, center=False), lc.Dense(3, dtype="float64", rng=0),
    ])  # fmt: skip
    vector, before = model.get_flat(), model.get_weights()
    assert vector.size == 4 + 0 + 9
    value, gradient = model.value_and_gradient(x, y, "mse")

    def loss(flat):
        model.set_flat(flat)
        return model.value_and_gradient(x, y, "mse")[0]

    np.testing.assert_allclose(gradient, numerical_gradient(loss, vector), atol=1e-7)
    model.set_flat(vector)
    assert model.value_and_gradient(x, y, "mse")[0] == value
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"needs \(13,\)"):
        model.set_flat(np.zeros(21))


def test_calls_and_steps_of_several_threads(rng):
    layer, x = filled(momentum=0.5), rng.standard_normal((8, 4))
    grads = layer.forward(x)[1](np.zeros((8, 4)))[1]
    threads = [threading.Thread(target=layer.step, args=(grads, 0.0)) for _ in range(4)]
    before = layer.moving_mean.copy()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(layer.moving_mean, x.mean(0) + (before - x.mean(0)) / 16, rtol=1e-12)


def test_configs():
    layer = lc.BatchNormalization(name="norm", gamma_regularizer="l2", beta_constraint="non_neg", axis=[1, -1])
    config = layer.get_config()
    assert list(config) == [
        "name", "trainable", "dtype", "axis", "momentum", "epsilon", "center", "scale", "beta_initializer",
        "gamma_initializer", "moving_mean_initializer", "moving_variance_initializer", "beta_regularizer",
        "gamma_regularizer", "beta_constraint", "gamma_constraint",
    ]  # fmt: skip
    assert lc.BatchNormalization.from_config(config).get_config() == config
    assert config["axis"] == (1, -1)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"momentum": 1.5}, ValueError, r"momentum must be in \[0, 1\], got 1.5"),
        ({"momentum": None}, TypeError, "momentum=None"),
        ({"epsilon": -1}, ValueError, "epsilon must be >= 0, got -1"),
        ({"center": 1}, TypeError, "center=1"),
        ({"axis": 1.5}, TypeError, "axis=1.5 is a float"),
        ({"axis": ()}, ValueError, "is empty"),
        ({"gamma_initializer": "nope"}, ValueError, "nope"),
        ({"input_shape": (None, 3)}, ValueError, "must be fully defined"),
        ({"input_shape": (4,), "axis": 2}, ValueError, r"axis=2 of .* does not fit input_shape=\(None, 4\)"),
    ],
)
def test_invalid_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        lc.BatchNormalization(**settings)


@pytest.mark.parametrize("shape", [(None,), (), "ab", None, (None, None), (None, 0), 3])
def test_invalid_shapes_are_refused(shape):
    layer = lc.BatchNormalization()
    for method in (layer.build, layer.compute_output_shape, layer.weight_shapes):
        with pytest.raises((TypeError, ValueError), match=r"input_shape|axis"):
            method(shape)
    assert not layer.built


@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 4), (3,), ()])
def test_inputs_of_another_shape_are_refused(shape):
    layer = built((None, 4))
    for call in (layer, layer.forward):
        with pytest.raises(ValueError, match=r"x has shape .* was built for \(None, 4\)"):
            call(np.zeros(shape))


def test_inputs_are_cast():
    layer = built((None, 2), dtype="float32")
    for x in (np.ones((2, 2), np.int8), np.ones((2, 2), bool), [[1.0, 1.0]], np.ones((2, 2))):
        assert layer(x).dtype == np.float32
    with pytest.raises(TypeError, match="complex"):
        layer(np.ones((2, 2), complex))
