"""Results equal those of tf_keras' layers, recorded by `data/make_companions_golden.py`, and its files load."""

import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest

import lcnumba as lc
from lcnumba.bridges.keras2.config import translate_layer

DATA = Path(__file__).parents[2] / "data"
with np.load(DATA / "companions_golden.npz") as file:
    NUMBERS, CASES = file["numbers"], json.loads(file["cases"].tobytes())["cases"]
# Of these, integers give the same bits.
EXACT = ("MaxPooling", "GlobalMax", "Reshape", "ZeroPadding", "UpSampling")
WEIGHTED = ("BatchNormalization", "Conv1D", "Conv2D", "Sequential")


def record_of(number):
    """The arrays of a case, in its dtype: in the file they are one after the other."""
    at = sum(math.prod(shape) for case in CASES[:number] for shape in case["shapes"].values())
    record = {}
    for name, shape in CASES[number]["shapes"].items():
        size = math.prod(shape)
        record[name] = NUMBERS[at : at + size].reshape(shape).astype(CASES[number]["dtype"])
        at += size
    return record


def check(actual, expected, exact=False):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if exact:
        np.testing.assert_array_equal(actual, expected)
    else:
        # Relative to the largest magnitude.
        largest = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0)))
        limit = {"float32": 1e-6, "float64": 5e-15}[str(expected.dtype)] * largest
        np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)


def numbers_of(*names):
    """The numbers of the cases of these classes."""
    return [number for number, case in enumerate(CASES) if case["class_name"] in names]


@pytest.mark.parametrize("number", sorted(set(range(len(CASES))) - set(numbers_of(*WEIGHTED))))
def test_layers_without_weights(number):
    case, record = CASES[number], record_of(number)
    layer = getattr(lc, case["class_name"])(**case["settings"])
    exact = case["class_name"].startswith(EXACT)
    for one in (layer, type(layer).from_config(layer.get_config())):
        y, backward = one.forward(record["x"])
        check(y, record["y"], exact)
        np.testing.assert_array_equal(one(record["x"]), y)
        assert one.compute_output_shape(record["x"].shape) == y.shape
        dx, grads = backward(record["dy"])
        check(dx, record["dx"], exact)
        assert grads is None


@pytest.mark.parametrize("number", numbers_of("BatchNormalization"))
def test_batch_normalization(number):
    case, record = CASES[number], record_of(number)
    layer = lc.BatchNormalization(**case["settings"], dtype=case["dtype"])
    batches = record["x"]
    layer.build(batches[0].shape)
    layer.set_weights([record[f"weight{n}"] for n in range(len(layer.get_weights()))])
    learned = layer.scale + layer.center
    assert [array.shape for array in layer.get_weights()] == list(layer.weight_shapes(batches[0].shape).values())

    check(layer(batches[0]), record["inference"])
    layer.trainable = False
    y, backward = layer.forward(batches[0])
    check(y, record["inference"])
    check(backward(record["dy_inference"])[0], record["dx_inference"])
    layer.trainable = True

    y, backward = layer.forward(batches[0])
    check(y, record["y"])
    dx, grads = backward(record["dy"])
    check(dx, record["dx"])
    found = [grad for grad in (grads.gamma, grads.beta) if grad is not None]
    assert len(found) == learned
    for n, grad in enumerate(found):
        check(grad, record[f"grad{n}"])

    before = layer.get_weights()
    for batch in batches:
        layer.step(layer.forward(batch)[1](np.zeros_like(batch))[1], lr=0.0)
    check(layer.moving_mean, record["mean"])
    check(layer.moving_variance, record["variance"])
    for one, other in zip(layer.get_weights()[:learned], before, strict=False):
        np.testing.assert_array_equal(one, other)


def listed(record, name):
    """The arrays of a record that are called NAME0, NAME1, ..."""
    return [record[f"{name}{number}"] for number in range(sum(key.startswith(name) for key in record))]


@pytest.mark.parametrize("number", numbers_of("Conv1D", "Conv2D"))
def test_convolutions(number):
    case, record = CASES[number], record_of(number)
    layer = getattr(lc, case["class_name"])(**case["settings"], dtype=case["dtype"])
    layer.build(record["x"].shape)
    lc.import_weights(layer, listed(record, "weight"))
    for one, other in zip(lc.export_weights(layer), listed(record, "weight"), strict=True):
        np.testing.assert_array_equal(one, other)
    exact = case["settings"]["activation"] in ("linear", "relu")  # sums of integers
    y, backward = layer.forward(record["x"])
    check(y, record["y"], exact)
    np.testing.assert_array_equal(layer(record["x"]), y)
    dx, grads = backward(record["dy"])
    check(dx, record["dx"], exact)
    found = [grad for grad in (grads.kernel, grads.bias) if grad is not None]
    for mine, theirs in zip(found, listed(record, "grad"), strict=True):
        check(mine, theirs, exact)


@pytest.mark.parametrize("number", numbers_of("Sequential"))
def test_models_are_trained(number):
    case, record = CASES[number], record_of(number)
    settings = case["settings"]
    layers = [
        getattr(lc, name)(**given, **({"dtype": case["dtype"]} if name in (*WEIGHTED, "Dense") else {}))
        for name, given in settings["layers"]
    ]
    model = lc.Sequential(layers)
    model.build(record["x"][0].shape)
    model.set_weights(listed(record, "weight"))
    model.compile(lc.SGD(momentum=settings["momentum"]), "mse", lr=settings["lr"])
    losses = [model.train_on_batch(*batch)["loss"] for batch in zip(record["x"], record["targets"], strict=True)]
    check(np.array(losses, case["dtype"]), record["losses"])
    for mine, theirs in zip(model.get_weights(), listed(record, "after"), strict=True):
        check(mine, theirs)


MODELS = ("companions", "sequence", "planes")
with np.load(DATA / "keras" / "companions_predictions.npz") as file:
    PREDICTIONS = {name: file[name] for name in file.files}


def predicts_as_keras(model, name):
    np.testing.assert_allclose(model(PREDICTIONS[f"{name}_x"]), PREDICTIONS[f"{name}_y"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("name", MODELS)
def test_models_load_and_predict(name, suffix):
    model = lc.load_keras(DATA / "keras" / f"{name}{suffix}")
    predicts_as_keras(model, name)
    for layer in model.layers:
        if isinstance(layer, lc.BatchNormalization):
            assert layer.moving_variance.min() > 0
            assert not layer.optimizer.momentum
    again = lc.Sequential.from_config(model.get_config())
    again.set_weights(model.get_weights())
    predicts_as_keras(again, name)


@pytest.mark.parametrize("suffix", [".weights.h5", "_weights.h5"])
@pytest.mark.parametrize("name", MODELS)
def test_weights_load_and_are_written(name, suffix, tmp_path):
    model = lc.load_keras(DATA / "keras" / f"{name}.keras")
    expected = model.get_weights()
    for path in (DATA / "keras" / f"{name}{suffix}", tmp_path / f"own{suffix}"):
        if path.parent == tmp_path:
            model.set_weights(expected)
            lc.save_keras_weights(model, path)
        model.set_weights([np.zeros_like(weight) for weight in expected])
        lc.load_keras(path, model)
        for one, other in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    if suffix == "_weights.h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(DATA / "keras" / f"{name}{suffix}") as theirs, h5py.File(path) as mine:
            for layer in model.layers:
                one, other = (list(file[layer.name].attrs["weight_names"]) for file in (mine, theirs))
                assert [each.rpartition("/")[2] for each in one] == [each.rpartition("/")[2] for each in other]


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_model_of_keras_3_loads_and_predicts(suffix):
    model = lc.load_keras(DATA / "keras3" / f"companions{suffix}")
    with np.load(DATA / "keras3" / "companions.npz") as file:
        x, y = file["x"], file["y"]
    np.testing.assert_allclose(model(x), y, rtol=0, atol=1e-6)
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    lc.load_keras(DATA / "keras3" / "companions.weights.h5", model)
    np.testing.assert_allclose(model(x), y, rtol=0, atol=1e-6)


def test_one_layer_of_a_model_is_imported_and_exported():
    weights = lc.load_keras_weights(DATA / "keras" / "companions.h5", "batch_normalization")
    assert [array.shape for array in weights] == [(3,)] * 4
    layer = lc.BatchNormalization(input_shape=(8, 6, 3))
    lc.import_weights(layer, weights)
    for one, other in zip(lc.export_weights(layer), weights, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(layer.moving_variance, weights[3])
    with pytest.raises(ValueError, match=r"2 arrays given; .* has 4"):
        lc.import_weights(layer, weights[:2])


def entry(name, **settings):
    return {"class_name": name, "config": {"name": "one", "trainable": True, "dtype": "float32", **settings}}


def test_a_beta_is_not_taken_for_a_gamma(tmp_path):
    path = tmp_path / "model.h5"
    model, other = (
        lc.Sequential([lc.BatchNormalization(**{absent: False}, input_shape=(3,))]) for absent in ("scale", "center")
    )
    for each in (model, other):
        each.build((None, 3))
    lc.save_keras_weights(model, path)
    config = {"class_name": "Sequential", "config": {"layers": [entry("BatchNormalization", scale=False)]}}
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(ValueError, match="'one' has center=True in the file, but 'batch_"):
        lc.load_keras(path, other)
    np.testing.assert_array_equal(other.layers[0].gamma, np.ones(3))
    assert lc.load_keras(path, model) is model


def conv_entry(name, **settings):
    """Of a convolution, as Keras 3 writes it."""
    default = {
        "filters": 2, "kernel_size": [3], "strides": [1], "padding": "valid", "data_format": "channels_last",
        "dilation_rate": [1], "groups": 1, "activation": "linear", "use_bias": True,
        "kernel_initializer": {"module": "keras.initializers", "class_name": "GlorotUniform", "registered_name": None,
                               "config": {"seed": None}},
        "bias_initializer": {"module": "keras.initializers", "class_name": "Zeros", "registered_name": None,
                             "config": {}},
        "kernel_regularizer": None, "bias_regularizer": None, "activity_regularizer": None, "kernel_constraint": None,
        "bias_constraint": None,
    }  # fmt: skip
    given = entry(name, **(default | settings))
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None}
    given["config"]["dtype"] = policy
    return given


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (entry("BatchNormalization", axis=-1, renorm=True), "has renorm=True, which BatchNormalization"),
        (entry("BatchNormalization", virtual_batch_size=2), "has virtual_batch_size=2, which"),
        (entry("BatchNormalization", own=2), "has settings that the Keras layer does not have"),
        (entry("Dense", units=2, quantization_config={"a": 1}), "has quantization_config=.*, which Dense"),
        (entry("UpSampling2D", size=2, interpolation="bilinear"), r"interpolation='bilinear'; .* 'nearest' alone"),
        (entry("MaxPooling3D", pool_size=2), r"is a 'MaxPooling3D'; must be one of .*MaxPooling2D"),
        (
            conv_entry("Conv1D", padding="causal"),
            r"has padding='causal'; ZeroPadding1D\(padding=\(2, 0\)\) before the layer, and padding='valid'",
        ),
        (
            conv_entry("Conv1D", padding="causal", kernel_size=[5], dilation_rate=[3]),
            r"ZeroPadding1D\(padding=\(12, 0\)\)",
        ),
        (
            conv_entry("Conv2D", activation="softmax", data_format="channels_first"),
            r"has softmax with channels_first, which is over the width .*Activation\('softmax'\)",
        ),
        (conv_entry("Conv2D", own=1), "has settings that the Keras layer does not have"),
        ({"class_name": "Conv2D", "config": {"name": "one"}}, "lacks settings of Keras' Conv2D"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(entry, message):
    with pytest.raises(ValueError, match=message):
        translate_layer(entry, "2.15.0")


@pytest.mark.parametrize(
    "name",
    [
        "Add", "AlphaDropout", "Attention", "AveragePooling3D", "Bidirectional", "Concatenate", "Conv1DTranspose",
        "Conv2DTranspose", "Conv3D", "Cropping1D", "Cropping2D", "DepthwiseConv1D", "DepthwiseConv2D", "Embedding",
        "Functional", "GRU", "GaussianDropout", "GaussianNoise", "LSTM", "Lambda", "LayerNormalization", "Masking",
        "PReLU", "Permute", "RepeatVector", "SeparableConv1D", "SeparableConv2D", "SimpleRNN", "SpatialDropout1D",
        "SpatialDropout2D", "ThresholdedReLU", "TimeDistributed", "UpSampling3D", "ZeroPadding3D",
    ],
)  # fmt: skip
def test_other_layers_of_keras_are_refused_by_name(name):
    message = (
        rf"layer 'one' is a '{name}'; must be one of .*Conv1D, Conv2D, .*import_weights.*lcnumba\.keras\.load_model"
    )
    with pytest.raises(ValueError, match=message):
        translate_layer(entry(name), "2.15.0")


def test_a_causal_convolution_equals_the_layers_that_the_message_proposes():
    x = np.arange(24, dtype=np.float32).reshape(2, 6, 2)
    valid = lc.Conv1D(3, 3, dilation_rate=2, rng=0)
    y = lc.Sequential([lc.ZeroPadding1D((4, 0)), valid])(x)
    assert y.shape == (2, 6, 3)
    for position in range(6):  # the output at a position reads that position, two before and four before
        seen = [x[:, at] if at >= 0 else np.zeros((2, 2)) for at in (position - 4, position - 2, position)]
        expected = sum(part @ tap for part, tap in zip(seen, valid.kernel, strict=True))
        np.testing.assert_allclose(y[:, position], expected, rtol=1e-5)


def test_weights_for_a_softmax_over_the_width_are_a_warning():
    layer = lc.Conv2D(2, 3, data_format="channels_first", activation="softmax", input_shape=(2, 5, 4))
    layer.build((None, 2, 5, 4))
    for action in (lambda: lc.export_weights(layer), lambda: lc.import_weights(layer, layer.get_weights())):
        with pytest.warns(UserWarning, match="channels_first is over the width in Keras, but over the channels in"):
            action()


@pytest.mark.parametrize(
    ("entry", "settings"),
    [
        (entry("LeakyReLU", negative_slope=0.25), {"alpha": 0.25}),
        (entry("BatchNormalization", axis=-1, synchronized=False, renorm=False, fused=None), {"axis": -1}),
        (
            entry(
                "Dense",
                units=2,
                activation="relu",
                use_bias=True,
                quantization_config=None,
                kernel_initializer={
                    "module": "keras.initializers",
                    "class_name": "HeNormal",
                    "registered_name": None,
                    "config": {"seed": 3, "input_axes": None, "output_axes": None},
                },
            ),
            {"units": 2, "kernel_initializer": {"class_name": "HeNormal", "config": {"seed": 3}}},
        ),
        (entry("ZeroPadding1D", padding=(1, 2), data_format="channels_first"), {"data_format": "channels_first"}),
        (conv_entry("Conv1D", dilation_rate=[2]), {"kernel_size": (3,), "dilation_rate": (2,), "groups": 1}),
        (
            conv_entry("Conv2D", kernel_size=[3, 2], strides=[2, 1], dilation_rate=[1, 1], groups=2, padding="same"),
            {"kernel_size": (3, 2), "strides": (2, 1), "groups": 2, "padding": "same", "filters": 2},
        ),
    ],
)
def test_settings_of_other_versions_of_keras(entry, settings):
    config = translate_layer(entry, "3.10.0")[0]["config"]
    layer = getattr(lc, entry["class_name"]).from_config(config)
    assert settings.items() <= layer.get_config().items()


def test_there_are_enough_cases():
    assert len(CASES) >= 300
    assert len({case["class_name"] for case in CASES}) == 21
