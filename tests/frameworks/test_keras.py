"""Keras 3 with the backend that KERAS_BACKEND names: `make test-bridges` runs this file once with each."""

import doctest
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from problems import PROBLEMS, spec_of
from training import RATE, Run

import lcnumba as lc
import lcnumba.keras
from lcnumba import reference
from lcnumba.keras import (
    LocallyConnected1D,
    LocallyConnected2D,
    LocallyConnected2DTranspose,
    LocallyConnected3D,
    LocallyDirected1D,
    load_model,
)
from lcnumba.testing import integers

BACKEND = keras.backend.backend()
if BACKEND == "jax":
    import jax

    jax.config.update("jax_enable_x64", True)

trains = pytest.mark.skipif(BACKEND == "numpy", reason="Keras' NumPy backend has no gradients")
LAYERS = {1: LocallyConnected1D, 2: LocallyConnected2D, 3: LocallyConnected3D}
FILES = Path(__file__).parents[1] / "data" / "keras"
PUBLISHED = FILES.with_name("keras_models")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(?!lcnumba)"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:In the future `np.object`"),
]
if BACKEND == "numpy":
    # Keras infers shapes there by calling layers on uninitialised arrays.
    pytestmark.append(pytest.mark.filterwarnings("ignore::RuntimeWarning"))


def layer_of(problem, **rest):
    settings = {"dilation_rate": problem.dilation or 1, "padding_mode": problem.padding_mode, "groups": problem.groups}
    settings["weight_sharing"] = problem.weight_sharing
    kind = LAYERS[len(problem.input_size)]
    return kind(problem.filters, problem.kernel_size, problem.strides, problem.padding, **settings, **rest)


def gradients_of(layer, x, dy):
    """y, dx and the gradients of the weights, by the means of the backend."""
    if BACKEND == "torch":
        given = ops.convert_to_tensor(x).detach().clone().requires_grad_()
        y = layer(given)
        y.backward(ops.convert_to_tensor(dy))
        return [y, given.grad, *(weight.value.grad for weight in layer.weights)]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        given = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(given)
            y = layer(given)
        return [y, *tape.gradient(y, [given, *(weight.value for weight in layer.weights)], tf.convert_to_tensor(dy))]

    def call(x, weights):
        return layer.stateless_call(weights, [], x)[0]

    y, pullback = jax.vjp(call, x, [weight.value for weight in layer.weights])
    dx, rest = pullback(dy)
    return [y, dx, *rest]


def outer(array, data_format):
    return array if data_format == "channels_last" else np.moveaxis(array, -1, 1).copy()


# Each takes long with the others, of whose maps `test_jax.py` runs all.
TABLE = PROBLEMS if BACKEND in ("torch", "numpy") else PROBLEMS[::4]


@pytest.mark.parametrize(("dtype", "data_format"), [("float32", "channels_last"), ("float64", "channels_first")])
@pytest.mark.parametrize("problem", TABLE, ids=str)
def test_value_and_gradients_are_those_of_the_reference(problem, dtype, data_format, rng):
    x, kernel, bias, dy = problem.data(rng, np.dtype(dtype).type)
    layer = layer_of(problem, data_format=data_format, dtype=dtype)
    given = outer(x, data_format)
    layer.build(given.shape)
    layer.set_weights([kernel, bias])
    y = reference.forward(x, kernel, bias, **problem.settings)
    expected = [y, *reference.backward(x, kernel, dy, **problem.settings)]
    expected[:2] = [outer(array, data_format) for array in expected[:2]]
    if BACKEND == "numpy":
        found, expected = [layer(given)], expected[:1]
    else:
        found = gradients_of(layer, given, outer(dy, data_format))
    for array, right in zip(found, expected, strict=True):
        array = ops.convert_to_numpy(array)
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, right)
    assert tuple(layer.compute_output_shape(given.shape)) == expected[0].shape
    assert layer.spec == spec_of(problem)


@pytest.mark.parametrize("sharing", ["position", "region", "filter"])
@pytest.mark.parametrize("axes", [2, 3])
def test_masks_and_shared_biases(axes, sharing, rng):
    mask = rng.random((6 if sharing == "region" else 20, 12, 4)[:axes]) < 0.6
    settings = {"kernel_mask": mask, "bias_sharing": sharing, "padding": ((1, 0), (0, 0))}
    if sharing == "region":
        settings["weight_sharing"] = (2, 2)
    layer = LocallyConnected2D(4, 2, bias_initializer="normal", **settings)
    x = integers(rng, (3, 4, 6, 3))
    y = ops.convert_to_numpy(layer(x))
    exists = np.broadcast_to(layer.spec.exists, layer.spec.kernel_shape)
    kernel = ops.convert_to_numpy(layer.kernel)
    assert not kernel[~exists].any()
    assert kernel[exists].all()
    own = lc.LocallyConnected2D(4, 2, weights=layer.get_weights(), **settings)
    np.testing.assert_array_equal(y, own(x))
    if BACKEND == "numpy":
        return
    _, dx, dkernel, dbias = map(ops.convert_to_numpy, gradients_of(layer, x, np.ones_like(y)))
    own_dx, grads = own.forward(x)[1](np.ones_like(y))
    np.testing.assert_array_equal(dx, own_dx)
    np.testing.assert_array_equal(dkernel, grads.kernel)
    np.testing.assert_array_equal(dbias, grads.bias)


@pytest.mark.parametrize(
    ("settings", "data_format"),
    [
        ({"padding": "same", "strides": 2}, "channels_last"),
        ({"strides": (2, 1), "output_padding": (1, 0), "bias_sharing": "filter"}, "channels_first"),
        ({"padding": ((1, 0), (0, 1)), "groups": 2, "fans": "window"}, "channels_first"),
        ({"weight_sharing": (2, 2), "use_bias": False}, "channels_last"),
    ],
    ids=str,
)
def test_transposed_layers(settings, data_format, rng, tmp_path):
    shape = (4, 5, 2) if data_format == "channels_last" else (2, 4, 5)
    layer = LocallyConnected2DTranspose(4, 3, data_format=data_format, **settings)
    layer.build((None, *shape))
    layer.set_weights([integers(rng, tuple(weight.shape)) for weight in layer.weights])
    own = lc.LocallyConnected2DTranspose(
        4, 3, data_format=data_format, input_shape=shape, weights=layer.get_weights(), **settings
    )
    x = integers(rng, (3, *shape))
    y, backward = own.forward(x)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), y)
    assert tuple(layer.compute_output_shape((None, *shape))) == own.output_shape
    model = keras.Sequential([keras.Input(shape), layer])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), y)
    assert again.layers[0].get_config() == layer.get_config()
    if BACKEND == "numpy":
        return
    dy = integers(rng, y.shape)
    dx, grads = backward(dy)
    _, found_dx, dkernel, *dbias = map(ops.convert_to_numpy, gradients_of(layer, x, dy))
    np.testing.assert_array_equal(found_dx, dx)
    np.testing.assert_array_equal(dkernel, grads.kernel)
    for found in dbias:
        np.testing.assert_array_equal(found, grads.bias)


def test_given_connections(rng, tmp_path):
    pairs = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (4, 1), (5, 1), (0, 3)]
    layer = LocallyDirected1D(pairs, 3, mask_shape=(6, 4), activation="relu")
    model = keras.Sequential([keras.Input((6, 2)), layer])
    layer.set_weights([integers(rng, tuple(weight.shape)) for weight in layer.weights])
    own = lc.LocallyDirected1D(pairs, 3, "relu", mask_shape=(6, 4), input_shape=(6, 2), weights=layer.get_weights())
    x = integers(rng, (5, 6, 2))
    y, backward = own.forward(x)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), y)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), y)
    assert again.layers[0].get_config() == layer.get_config()
    with pytest.raises(ValueError, match=r"the config has mask='genes.npz', which is not the text"):
        LocallyDirected1D.from_config(layer.get_config() | {"mask": "genes.npz"})
    with pytest.raises(ValueError, match=r"the inputs of its mask|incompatible"):
        LocallyDirected1D(pairs, mask_shape=(6, 4)).build((None, 7, 2))
    if BACKEND == "numpy":
        return
    dy = integers(rng, y.shape)
    dx, grads = backward(dy)
    _, found_dx, dkernel, dbias = map(ops.convert_to_numpy, gradients_of(layer, x, dy))
    np.testing.assert_array_equal(found_dx, dx)
    np.testing.assert_array_equal(dkernel, grads.kernel)
    np.testing.assert_array_equal(dbias, grads.bias)


def small_model(**settings):
    return keras.Sequential([
        keras.Input((9, 8, 2)),
        LocallyConnected2D(4, 3, activation="relu", **settings),
        LocallyConnected2D(3, 2, strides=2, activation="tanh", **settings),
        keras.layers.Flatten(),
        keras.layers.Dense(3),
    ])  # fmt: skip


@trains
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.filterwarnings("ignore:Model doesn't support `jit_compile=True`")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Keras' step, compiled by torch
def test_losses_are_those_of_this_librarys_training(jit_compile):
    run, model = Run(), small_model()
    model.set_weights(run.weights)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss, jit_compile=jit_compile)
    run.check([float(model.train_on_batch(x, y)) for x, y in zip(run.x, run.labels, strict=True)])


@trains
def test_fit_equals_this_librarys_fit(rng):
    x, y = rng.standard_normal((64, 9, 8, 2), np.float32), rng.integers(0, 3, 64)
    model, own = small_model(kernel_regularizer="l2"), lc.Sequential([
        lc.LocallyConnected2D(4, 3, activation="relu", kernel_regularizer="l2", input_shape=(9, 8, 2)),
        lc.LocallyConnected2D(3, 2, strides=2, activation="tanh", kernel_regularizer="l2"),
        lc.Flatten(), lc.Dense(3),
    ])  # fmt: skip
    own.set_weights(model.get_weights())
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    own.compile("adam", "softmax_cross_entropy")
    history = model.fit(x, y, epochs=3, batch_size=16, shuffle=False, verbose=0)
    expected = own.fit(x, y, epochs=3, batch_size=16, shuffle=False, progress=False)
    np.testing.assert_allclose(history.history["loss"], expected.history["loss"], atol=1e-5)
    for found, right in zip(model.get_weights(), own.get_weights(), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-4)


def two_branches():
    image = keras.Input((8, 6, 2))
    left = LocallyConnected2D(3, 3, activation="relu", name="left")(image)
    right = LocallyConnected2D(2, 2, 2, "same", padding_mode=("zeros", "circular"), use_bias=False, name="right",
                               kernel_mask=np.arange(12 * 8).reshape(12, 8) % 3 > 0, fans="window")(image)  # fmt: skip
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(left), keras.layers.Flatten()(right)])
    return keras.Model(image, keras.layers.Dense(3, activation="softmax")(joined))


def test_functional_models_are_saved_cloned_and_loaded(tmp_path, rng):
    model = two_branches()
    assert model.get_layer("left").output.shape == (None, 6, 4, 3)
    x = rng.standard_normal((5, 8, 6, 2), np.float32)
    if BACKEND != "numpy":
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(x, np.arange(5) % 3, verbose=0)
    y = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras").predict(x, verbose=0), y)
    np.testing.assert_array_equal(load_model(tmp_path / "model.keras").predict(x, verbose=0), y)
    clone = keras.models.clone_model(model)
    assert not np.array_equal(clone.predict(x, verbose=0), y)
    clone.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(clone.predict(x, verbose=0), y)
    for layer in model.layers:
        again = type(layer).from_config(layer.get_config())
        assert again.get_config() == layer.get_config()


def test_initial_values_are_those_of_keras():
    layer, window = (
        LocallyConnected2D(16, 3, fans=fans, kernel_initializer="he_normal") for fans in ("keras", "window")
    )
    layer.build((None, 12, 12, 4))
    window.build((None, 12, 12, 4))
    own = lc.LocallyConnected2D(16, 3, kernel_initializer="he_normal", input_shape=(12, 12, 4), rng=0)
    own.build((None, 12, 12, 4))
    assert np.std(layer.get_weights()[0]) == pytest.approx(np.std(own.get_weights()[0]), rel=0.02)
    for mode in ("he_normal", "glorot_uniform", keras.initializers.VarianceScaling(2.0, "fan_out", "uniform", seed=3)):
        layer = LocallyConnected2D(16, 3, fans="window", kernel_initializer=mode)
        layer.build((None, 12, 12, 4))
        convolution = keras.layers.Conv2D(512, 3, kernel_initializer=mode)
        convolution.build((None, 12, 12, 4))
        expected = np.std(convolution.get_weights()[0])
        if mode == "he_normal":
            assert np.std(layer.get_weights()[0]) == pytest.approx(expected, rel=0.03)
        else:  # fan_out counts filters
            scale = ((36 + 9 * 512) / (36 + 9 * 16)) if mode == "glorot_uniform" else 512 / 16
            assert np.std(layer.get_weights()[0]) == pytest.approx(expected * scale**0.5, rel=0.03)
    assert window.count_params() == 100 * 36 * 16 + 100 * 16


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"filters": 0}, ValueError, "filters=0 is too small"),
        ({"kernel_size": (3, 3, 3)}, ValueError, "kernel_size=.* has 3 entries"),
        ({"padding": "causal"}, ValueError, "padding='causal' is not known"),
        ({"data_format": "NHWC"}, ValueError, "data_format='NHWC' is not known"),
        ({"implementation": 4}, ValueError, "implementation=4 is not known"),
        (
            {"dtype": "mixed_bfloat16"},
            ValueError,
            "'mixed_bfloat16' computes in bfloat16 with weights in float32; this",
        ),
        ({"dtype": "float16"}, ValueError, "needs 'float32' or 'float64' for both"),
        ({"kernel_mask": np.ones((3, 3))}, TypeError, "kernel_mask has dtype float64; give booleans"),
        ({"stride": 2}, ValueError, "stride"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        LocallyConnected2D(**({"filters": 2, "kernel_size": 3} | arguments))


def test_bad_inputs():
    layer = LocallyConnected2D(2, 3, name="local")
    with pytest.raises(ValueError, match="every size but that of the batch must be known"):
        layer(keras.Input((None, 8, 1)))
    with pytest.raises(ValueError, match="does not fit input"):
        LocallyConnected2D(2, 9)(np.ones((1, 5, 5, 1), np.float32))
    layer(np.ones((2, 5, 5, 1), np.float32))
    for shape in ((2, 5, 6, 1), (2, 5, 5, 2), (5, 5, 1)):
        with pytest.raises(ValueError, match="incompatible with the layer"):
            layer(np.ones(shape, np.float32))


def test_an_unknown_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "openvino")
    with pytest.raises(ValueError, match="backend 'openvino'; choose one of torch, jax, tensorflow, numpy"):
        LocallyConnected1D(1, 2)


def test_the_old_keyword_for_shapes():
    with pytest.warns(UserWarning, match="input_shape"):
        layer = LocallyConnected2D(2, 3, batch_input_shape=(None, 5, 5, 1))
    assert keras.Sequential([layer]).output_shape == (None, 3, 3, 2)


# --- files of Keras 2


def predictions():
    for name in ("predictions.npz", "more_predictions.npz", "companions_predictions.npz"):
        with np.load(FILES / name) as file:
            yield from ((key[:-2], (file[key], file[f"{key[:-2]}_y"])) for key in file if key.endswith("_x"))


PREDICTIONS = dict(predictions())
MODELS = [path.name for path in sorted(FILES.glob("*.keras")) + sorted(FILES.glob("*.h5"))]
if BACKEND == "numpy":  # in which Keras' own Softmax cannot take several axes
    MODELS = [name for name in MODELS if not name.startswith("planes")]
WHOLE = [name for name in MODELS if not name.startswith("own") and "weights" not in name]
if BACKEND in ("jax", "tensorflow"):  # which take long to build a model; the test of weights reads all kinds of files
    WHOLE = [name for name in WHOLE if name.endswith(".keras")]
omitted = pytest.mark.filterwarnings("ignore:.*MaxNorm is omitted:RuntimeWarning")


@omitted
@pytest.mark.parametrize("name", WHOLE)
def test_models_of_keras_2_predict_the_same(name):
    x, y = PREDICTIONS[name.partition(".")[0]]
    np.testing.assert_allclose(load_model(FILES / name).predict(x, verbose=0), y, atol=1e-5)


@omitted
@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("own")])
def test_weights_of_keras_2_files(name, tmp_path):
    """Into a model with other weights; from a file of any name."""
    base = name.removesuffix("_weights.h5").partition(".")[0]
    x, y = PREDICTIONS[base]
    model = keras.models.clone_model(load_model(FILES / f"{base}.keras"))
    for weight in model.weights:
        weight.assign(np.ones(weight.shape))
    shutil.copy(FILES / name, tmp_path / "file")
    assert load_model(tmp_path / "file", model) is model
    np.testing.assert_allclose(model.predict(x, verbose=0), y, atol=1e-5)


# What a backend computes is tested above; building all of them takes long.
NAMES = sorted(path.stem for path in PUBLISHED.glob("*.keras"))


@pytest.mark.parametrize("name", NAMES if BACKEND == "torch" else NAMES[::6])
def test_models_of_published_shapes_predict_the_same(name):
    if BACKEND == "torch" and name == "averages":
        pytest.skip("in torch, Keras repeats the border for averages with padding 'same'")
    with np.load(PUBLISHED / "training.npz") as file:
        y = file[f"{name}_y"]
        x = file[f"{name}_x"][: len(y)] / np.float32(8)
    model, same = (load_model(PUBLISHED / f"{name}{suffix}") for suffix in (".keras", ".h5"))
    np.testing.assert_allclose(model.predict(x, verbose=0), y, atol=1e-5)
    for one, other in zip(model.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


class Own(keras.Model):
    """As that of `make_keras_files.py`."""

    def __init__(self):
        super().__init__()
        self.local = LocallyConnected1D(2, 3, name="mine")
        self.many = [keras.layers.Flatten(), keras.layers.Dense(3), keras.layers.Dense(2)]
        self.last = keras.Sequential([keras.layers.Dense(1, name="deep")])

    def call(self, x):
        x = self.local(x)
        for layer in self.many:
            x = layer(x)
        return self.last(x)


@pytest.mark.parametrize("name", ["own.weights.h5", "own.keras", "own_weights.h5"])
def test_weights_of_a_subclassed_model(name):
    model = Own()
    model(np.zeros((1, 8, 1), np.float32))
    load_model(FILES / name, model)
    layer = lc.LocallyConnected1D(2, 3, input_shape=(8, 1))
    lc.import_weights(layer, lc.load_keras_weights(FILES / "own.weights.h5", "local"))
    np.testing.assert_array_equal(model.local.get_weights()[0], layer.kernel)
    with pytest.raises((ValueError, TypeError), match=r"Own|weights"):
        load_model(FILES / name)


def test_a_file_that_does_not_fit_leaves_the_model_unchanged(tmp_path):
    model = small_model()
    before = model.get_weights()
    for name in ("digits.h5", "digits.weights.h5", "digits.keras", "first_axis_weights.h5", "predictions.npz"):
        with pytest.raises(ValueError):
            load_model(FILES / name, model)
        assert all(map(np.array_equal, before, model.get_weights()))
    # The last layer does not fit, after others have been set.
    other = keras.models.clone_model(load_model(FILES / "digits.keras"))
    other = keras.Sequential([*other.layers[:4], keras.layers.Dense(5)])
    other.build((None, 6, 5, 2))
    before = other.get_weights()
    for name in ("digits.h5", "digits.weights.h5"):
        with pytest.raises(ValueError):
            load_model(FILES / name, other)
        assert all(map(np.array_equal, before, other.get_weights()))
    with pytest.raises(ValueError, match="it holds only weights; give their model"):
        load_model(FILES / "digits.weights.h5")
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "none.keras")


@trains
def test_a_loaded_model_trains(rng):
    model = load_model(FILES / "branches.keras")
    model.compile("adam", "sparse_categorical_crossentropy")
    x = rng.standard_normal((32, 8, 6, 2), np.float32)
    losses = model.fit(x, (x.mean(axis=(1, 2, 3)) > 0).astype(int), epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@keras.saving.register_keras_serializable(package="mine")
class Double(keras.layers.Layer):
    def call(self, x):
        return 2 * x


@pytest.mark.parametrize("form", ["new", "legacy"])
def test_registered_classes_and_wrappers_in_configs(form):
    """As tf_keras writes them, in `.keras` and in `.h5` files."""
    local = {"class_name": "LocallyConnected1D", "config": {"name": "local", "filters": 2, "kernel_size": [3]}}
    mine = {"class_name": "Double", "module": None, "registered_name": "mine>Double", "config": {"name": "double"}}
    if form == "legacy":
        mine = {"class_name": "mine>Double", "config": {"name": "double"}}
    wrapper = {"class_name": "TimeDistributed", "config": {"name": "each", "layer": local}}
    layers = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 4, 7, 1], "name": "in"}},
        mine,
        wrapper,
    ]
    config = lcnumba.keras._translated({"class_name": "Sequential", "config": {"name": "model", "layers": layers}})
    model = keras.saving.deserialize_keras_object(config)
    assert [type(layer).__name__ for layer in model.layers] == ["Double", "TimeDistributed"]
    assert isinstance(model.layers[1].layer, LocallyConnected1D)
    assert model.output_shape == (None, 4, 5, 2)


@trains
def test_many_steps_keep_memory_flat_and_end(tmp_path):
    """In a process of its own, under a time limit: a leak of one small array a step would be seen."""
    code = """
import resource, keras, numpy as np
from lcnumba.keras import LocallyConnected2D
model = keras.Sequential([keras.Input((12, 12, 1)), LocallyConnected2D(4, 3, activation="relu"), keras.layers.Flatten(),
                          keras.layers.Dense(3)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
x, y = np.ones((4000, 12, 12, 1), "float32"), np.arange(4000) % 3
def epochs(number):
    model.fit(x, y, batch_size=4, epochs=number, verbose=0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = epochs(2)
print(epochs(8) - before)
"""
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    run = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
                         timeout=300, env=environment)  # fmt: skip
    assert int(run.stdout.split()[-1]) < 12_000  # KiB: of 8,000 steps; one array of the weights has 14


def test_the_backend_is_imported_alone(tmp_path):
    others = {"jax": "jax", "torch": "torch", "tensorflow": "tensorflow"}
    others.pop(BACKEND, None)
    code = (
        "import sys, keras, numpy as np, lcnumba.keras; "
        "lcnumba.keras.LocallyConnected1D(1, 2)(np.ones((1, 3, 1), 'float32')); "
        "print([m for m in sys.modules if m.startswith('lcnumba.bridges.') and 'keras2' not in m])"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not any(f"bridges.{other}" in run.stdout for other in others)


def test_examples_in_docstrings():
    result = doctest.testmod(lcnumba.keras, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed
