import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import lcnumba as lc
from lcnumba import __main__ as command_line
from lcnumba.bridges.keras2 import config as config_
from lcnumba.bridges.keras2 import files
from lcnumba.bridges.keras2 import index as index_
from lcnumba.bridges.keras2.files import KerasFileError

# Of the model "first_axis"; tested in test_norm_constraints_are_translated_or_omitted.
pytestmark = pytest.mark.filterwarnings("ignore:layer 'locally_connected2d_1'. kernel_constraint MaxNorm is omitted")

FOLDER = Path(__file__).parents[2] / "data" / "keras"
NAMES = ("digits", "genes", "first_axis")
with np.load(FOLDER / "predictions.npz") as file:
    PREDICTIONS = {name: file[name] for name in file.files}


@pytest.fixture
def in_process(monkeypatch):
    """List the arrays of files in this process, which saves a fifth of a second."""

    def index(path):
        with h5py.File(path, "r") as file:
            return json.loads(json.dumps(index_.describe(file)))

    monkeypatch.setattr(files, "_index", index)


def assert_predicts(model, name):
    np.testing.assert_allclose(model(PREDICTIONS[f"{name}_x"]), PREDICTIONS[f"{name}_y"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_models_from_keras_make_the_same_predictions(name, suffix):
    model = lc.load_keras(FOLDER / (name + suffix))
    assert_predicts(model, name)
    assert model.name == name


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".h5", ".keras", ".weights.h5", "_weights.h5"])
def test_weights_are_loaded_into_models(name, suffix, rng):
    model = lc.load_keras(FOLDER / f"{name}.keras")
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
    assert lc.load_keras(FOLDER / (name + suffix), model) is model
    assert_predicts(model, name)


def test_names_and_settings_are_loaded():
    model = lc.load_keras(FOLDER / "digits.keras")
    assert [layer.name for layer in model.layers][:3:2] == ["first", "second"]
    assert model.layers[2].implementation == 3
    assert model.layers[1].rate == 0.5
    assert model.layers[4].kernel_regularizer.l2 == pytest.approx(0.01)
    assert isinstance(lc.load_keras(FOLDER / "first_axis.h5").layers[1].kernel_constraint, object)


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
@pytest.mark.parametrize("name", NAMES)
def test_saved_weights_are_loaded(name, suffix, rng, tmp_path):
    model = lc.load_keras(FOLDER / f"{name}.h5")
    weights = [rng.standard_normal(w.shape).astype(np.float32) for w in model.get_weights()]
    model.set_weights(weights)
    expected = model.get_weights()
    lc.save_keras_weights(model, tmp_path / f"w{suffix}")
    model.set_weights([np.zeros_like(w) for w in weights])
    lc.load_keras(tmp_path / f"w{suffix}", model)
    for a, b in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [path.name for path in tmp_path.iterdir()] == [f"w{suffix}"]


def structure(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: getattr(item, "shape", None)}))
        names = [str(v) for v in file.attrs.get("layer_names", [])]
    return {name: shape for name, shape in found.items() if shape is not None}, names


@pytest.mark.parametrize("name", NAMES)
def test_saved_weights_have_the_paths_of_keras(name, tmp_path):
    model = lc.load_keras(FOLDER / f"{name}.keras")
    for mine, theirs in ((".weights.h5", ".weights.h5"), (".h5", "_weights.h5")):
        lc.save_keras_weights(model, tmp_path / f"w{mine}")
        (written, names), (expected, expected_names) = (
            structure(tmp_path / f"w{mine}"),
            structure(FOLDER / (name + theirs)),
        )
        assert written == {n: s for n, s in expected.items() if not n.startswith(("optimizer", "metrics"))}
        assert names == expected_names


def test_the_implementation_of_each_layer_may_be_chosen(tmp_path):
    model = lc.load_keras(FOLDER / "digits.keras")
    lc.save_keras_weights(model, tmp_path / "w.h5", {"second": 2})
    shapes, _ = structure(tmp_path / "w.h5")
    assert len(shapes["second/second/kernel:0"]) == 6
    with pytest.raises(ValueError, match="no implementation 1 with padding='same'"):
        lc.save_keras_weights(model, tmp_path / "other.h5", {"second": 1})
    for layer in model.layers:
        if not isinstance(layer, lc.LocallyConnected2D):
            with pytest.raises(ValueError, match="has no implementations in Keras; leave it out"):
                lc.save_keras_weights(model, tmp_path / "other.h5", {layer.name: 1})
    with pytest.raises(ValueError, match=r"implementation=2 is given for .*, a Dense"):
        lc.export_weights(next(layer for layer in model.layers if isinstance(layer, lc.Dense)), 2)
    assert not (tmp_path / "other.h5").exists()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("file", "layer", "shapes"),
    [
        ("digits.h5", "second", [(120,), (4, 3, 2)]), ("digits.keras", "second", None),
        ("digits.weights.h5", "locally_connected2d_1", None), ("digits_weights.h5", "second", None),
        ("digits.keras", "locally_connected2d", [(12, 18, 3), (4, 3, 3)]),
    ],
)  # fmt: skip
def test_one_layer_of_any_model(file, layer, shapes):
    weights = lc.load_keras_weights(FOLDER / file, layer)
    expected = [w.shape for w in lc.load_keras_weights(FOLDER / "digits.h5", "second")] if shapes is None else shapes
    assert [w.shape for w in weights][1:] == expected[1:]
    assert len(weights) == len(expected)
    with pytest.raises(ValueError, match="there is no layer 'nope'; its layers are"):
        lc.load_keras_weights(FOLDER / file, "nope")


LOCAL, SECOND = [(6, 3, 2), (6, 2)], [(5, 4, 1), (5, 1)]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("file", "shapes"),
    [
        ("nested.keras", {"inner/sub": LOCAL, "sub": LOCAL, "inner/sub2": SECOND, "out": [(5, 1), (1,)],
                          "sequential/locally_connected1d": LOCAL, "locally_connected1d_1": SECOND}),
        ("nested.h5", {"inner/sub": LOCAL, "sub": LOCAL, "sub2": SECOND, "out": [(5, 1), (1,)]}),
        ("nested.weights.h5", {"sequential/locally_connected1d": LOCAL, "locally_connected1d_1": SECOND,
                               "layers/sequential/layers/locally_connected1d": LOCAL, "dense": [(5, 1), (1,)]}),
        ("own.keras", {"local": LOCAL, "many/dense_1": [(3, 2), (2,)], "sequential/dense": [(2, 1), (1,)]}),
        ("own.weights.h5", {"local": LOCAL, "many/dense": [(12, 3), (3,)], "dense_1": [(3, 2), (2,)]}),
        ("own_weights.h5", {"mine": LOCAL, "dense_3": [(3, 2), (2,)], "deep": [(2, 1), (1,)]}),
    ],
)  # fmt: skip
def test_layers_are_found_at_any_depth(file, shapes):
    for name, expected in shapes.items():
        assert [w.shape for w in lc.load_keras_weights(FOLDER / file, name)] == expected, name


@pytest.mark.usefixtures("in_process")
def test_the_same_layer_has_the_same_numbers_in_all_formats():
    """Named by the user, by class and number, and by attribute."""
    for names in (
        {"nested.keras": "inner/sub2", "nested.h5": "inner/sub2", "nested.weights.h5": "locally_connected1d_1"},
        {"own.keras": "local", "own.weights.h5": "local", "own_weights.h5": "mine"},
    ):
        first, *others = [lc.load_keras_weights(FOLDER / file, name) for file, name in names.items()]
        assert np.abs(first[0]).min() > 0
        for other in others:
            np.testing.assert_array_equal(first[0], other[0])
            np.testing.assert_array_equal(first[1], other[1])


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("file", "name", "match"),
    [
        ("nested.keras", "inner", "'inner' is a model; give one of its layers inner/sub, inner/sub2$"),
        ("nested.h5", "inner", "'inner' is a model; give one of its layers inner/sub, inner/sub2$"),
        (
            "nested.weights.h5",
            "sequential",
            "'sequential' is a model; give one of its layers sequential/locally_conn",
        ),
        ("nested.keras", "nope", "there is no layer 'nope'; its layers are out, inner/sub, inner/sub2$"),
        (
            "own.keras",
            "nope",
            "there is no layer 'nope'; its layers are sequential/dense, local, many/dense, many/dense_1$",
        ),
        ("nested.keras", "flatten", "layer 'flatten' has no weights"),
        ("digits.h5", "dropout", "layer 'dropout' has no weights"),
        ("digits.keras", "dropout", "layer 'dropout' has no weights"),
    ],
)
def test_layers_without_weights_are_errors(file, name, match):
    with pytest.raises(KerasFileError, match=match):
        lc.load_keras_weights(FOLDER / file, name)


@pytest.mark.usefixtures("in_process")
def test_a_name_of_several_layers_is_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for outer in ("a", "b"):
            file[f"{outer}/dense/vars/0"] = np.zeros((1, 1), np.float32)
    with pytest.raises(KerasFileError, match="there are 2 layers 'dense'; give one of a/dense, b/dense"):
        lc.load_keras_weights(tmp_path / "w.h5", "dense")
    assert lc.load_keras_weights(tmp_path / "w.h5", "b/dense")[0].shape == (1, 1)


def circular(file):
    """Groups that contain each other."""
    file["layers/a/vars/0"] = np.zeros(3, np.float32)
    file["layers/a/b"] = file["layers"]


def deep(file):
    file["/".join(["layers/x"] * 200) + "/vars/0"] = np.zeros(3, np.float32)


def many(file):
    for number in range(index_.MAX_NAMES // 64):
        file.create_group(f"layers/{number}/vars")
    for number in range(200):
        file[f"more_{number}"] = file["layers"]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("make", [circular, deep, many])
def test_the_traversal_of_a_file_is_bounded(make, tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        make(file)
    with pytest.raises(KerasFileError, match="too many groups, or too deeply nested ones"):
        lc.load_keras_weights(tmp_path / "w.h5", "a")


@pytest.mark.usefixtures("in_process")
def test_links_within_the_layers_of_a_file_are_not_followed(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["layers/a/vars/0"] = np.zeros(3, np.float32)
        file["layers/soft"] = h5py.SoftLink("/layers/a")
        file["layers/outside"] = h5py.ExternalLink("/etc/passwd", "/x")
    for name in ("soft", "outside"):
        with pytest.raises(KerasFileError, match=r"is a link|there is no"):
            lc.load_keras_weights(tmp_path / "w.h5", name)
    assert lc.load_keras_weights(tmp_path / "w.h5", "a")[0].shape == (3,)


# --- what Keras computes differently


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_softmax_over_the_width_is_refused(suffix):
    message = "'wide' has softmax with channels_first, which is over the width in Keras, but over the channels here"
    with pytest.raises(KerasFileError, match=message):
        lc.load_keras(FOLDER / f"width{suffix}")


@pytest.mark.usefixtures("in_process")
def test_the_network_that_the_message_proposes_is_equivalent(rng):
    """To an explicit softmax over the width."""
    layers = [
        lc.LocallyConnected2D(2, 2, data_format="channels_first", input_shape=(2, 4, 3)),
        lc.Activation("softmax"),
    ]
    model = lc.load_keras(FOLDER / "width.keras", lc.Sequential(layers))
    x = rng.standard_normal((3, 2, 4, 3)).astype(np.float32)
    z = np.exp(model.layers[0](x))
    np.testing.assert_allclose(model(x), z / z.sum(axis=3, keepdims=True), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("in_process")
def test_weights_for_a_softmax_over_the_width_are_a_warning(tmp_path):
    layer = lc.LocallyConnected2D(2, 2, data_format="channels_first", activation="softmax", input_shape=(2, 4, 3))
    model = lc.Sequential([layer])
    for action in (
        lambda: lc.load_keras(FOLDER / "width.keras", model), lambda: lc.export_weights(layer),
        lambda: lc.import_weights(layer, lc.load_keras_weights(FOLDER / "width.keras", "wide")),
        lambda: lc.save_keras_weights(model, tmp_path / "w.h5"),
    ):  # fmt: skip
        with pytest.warns(UserWarning, match="channels_first is over the width in Keras, but over the channels in"):
            action()


def first_settings(**settings):
    return lambda entries: entries[1]["config"].update(settings)


def without_settings(entries):
    for name in ("activation", "use_bias"):
        del entries[1]["config"][name]


DIFFERENT = {
    "softmax first": (first_settings(activation="softmax", data_format="channels_first"), "over the width"),
    "log_softmax first": (first_settings(activation="log_softmax", data_format="channels_first"), "over the width"),
    "Softmax first": (
        first_settings(activation={"class_name": "Softmax", "config": {"axis": -1}}, data_format="channels_first"),
        "over the width",
    ),
    "Softmax of an axis": (
        first_settings(activation={"class_name": "Softmax", "config": {"axis": 1}}),
        r"axis of softmax must be -1, .*, got 1",
    ),
    "mixed precision": (
        first_settings(dtype={"class_name": "Policy", "config": {"name": "mixed_float16"}}),
        "has dtype 'mixed_float16'; must be float32 or float64",
    ),
    "half input": (lambda entries: entries[0]["config"].update(dtype="float16"), "has dtype 'float16'"),
    "half activation": (lambda entries: entries[-1]["config"].update(dtype="bfloat16"), "has dtype 'bfloat16'"),
    "noise_shape": (
        lambda entries: entries[2]["config"].update(noise_shape=[1]),
        r"has noise_shape=\[1\], which",
    ),
    "Dense on a grid": (lambda entries: entries.pop(4), r"is a Dense on inputs of shape \(None, 4, 3, 2\)"),
    "custom class": (
        lambda entries: entries[1].update(module=None, registered_name="Mine>LocallyConnected2D"),
        r"'LocallyConnected2D' that is a custom class \(.*\), not one of Keras",
    ),
    "custom module": (lambda entries: entries[1].update(module="mine.layers"), "not one of Keras"),
    "custom regularizer": (
        first_settings(
            kernel_regularizer={"module": None, "class_name": "L2", "config": {"l2": 0.5}, "registered_name": "L2"}
        ),
        r"'first' is, or has, a 'L2' that is a custom class \(.*\), not one of Keras",
    ),
    "namesake": (without_settings, "lacks settings of Keras' LocallyConnected2D"),
}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", DIFFERENT)
def test_what_keras_computes_differently_is_refused_with_a_hint(name, tmp_path):
    change, match = DIFFERENT[name]
    changed("digits.h5", tmp_path / "model.h5", config_changed(change))
    with pytest.raises(KerasFileError, match=match):
        lc.load_keras(tmp_path / "model.h5")
    assert len(lc.load_keras_weights(tmp_path / "model.h5", "first")) == 2


@pytest.mark.usefixtures("in_process")
def test_compile_settings_are_ignored(tmp_path):
    """A custom loss, say; and so is a registered name of Keras' own classes."""
    with zipfile.ZipFile(FOLDER / "digits.keras") as archive:
        config, weights = json.loads(archive.read("config.json")), archive.read("model.weights.h5")
    config["compile_config"] = {"loss": {"module": None, "class_name": "Mine", "config": {}, "registered_name": "Mine"}}
    config["registered_name"] = "Sequential"
    zipped(tmp_path / "m.keras", [("config.json", json.dumps(config)), ("model.weights.h5", weights)])
    assert_predicts(lc.load_keras(tmp_path / "m.keras"), "digits")
    config |= {"module": "tf_keras.src.engine.functional", "class_name": "Functional", "registered_name": "Functional"}
    zipped(tmp_path / "m.keras", [("config.json", json.dumps(config)), ("model.weights.h5", weights)])
    with pytest.raises(KerasFileError, match="the model is a 'Functional'; only a Sequential is supported"):
        lc.load_keras(tmp_path / "m.keras")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("version", "known"), [("2.15.0", True), ("3.0.1", False), ("x", True)])
def test_the_hard_sigmoid_of_keras_3_is_refused(version, known, tmp_path):
    def change(file):
        config_changed(first_settings(activation="hard_sigmoid"))(file)
        file.attrs["keras_version"] = version

    changed("digits.h5", tmp_path / "model.h5", change)
    if known:
        assert lc.load_keras(tmp_path / "model.h5").layers[0].activation == lc.activations.HardSigmoid()
        return
    with pytest.raises(KerasFileError, match=r"'first' has the hard_sigmoid of Keras 3\.0\.1, relu6"):
        lc.load_keras(tmp_path / "model.h5")


MAX_NORM = {"class_name": "MaxNorm", "config": {"max_value": 2, "axis": 0}}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("entry", "part", "settings", "axis"),
    [
        (1, "kernel", {}, 0),  # implementation 1: the same axes
        (3, "kernel", {}, [0, 1, 2]),  # implementation 3: one axis for all weights
        (1, "bias", {}, 0), (1, "bias", {"data_format": "channels_first"}, None),
        (1, "bias", {"data_format": "channels_first", "config": {"max_value": 2, "axis": [0, 1, 2]}}, [0, 1, 2]),
        (3, "kernel", {"implementation": 2}, None),
    ],
)  # fmt: skip
def test_norm_constraints_are_translated_or_omitted(entry, part, settings, axis, recwarn):
    given = {**MAX_NORM, **{key: value for key, value in settings.items() if key == "config"}}
    with h5py.File(FOLDER / "digits.h5") as file:
        layer = json.loads(file.attrs["model_config"])["config"]["layers"][entry]
    others = {key: value for key, value in settings.items() if key != "config"}
    layer["config"] |= {f"{part}_constraint": given, **others}
    translated, warnings = config_.translate_layer(layer, None)
    found = translated["config"][f"{part}_constraint"]
    if axis is None:
        assert found is None
        assert f"{part}_constraint MaxNorm is omitted" in warnings[0]
    else:
        assert (found["config"]["axis"], found["config"]["max_value"], warnings) == (axis, 2, [])


@pytest.mark.usefixtures("in_process")
@pytest.mark.filterwarnings("default")
def test_an_omitted_constraint_is_a_warning():
    """NonNeg is the same in any storage."""
    with pytest.warns(UserWarning, match=r"kernel_constraint MaxNorm is omitted: with implementation 2"):
        model = lc.load_keras(FOLDER / "first_axis.h5")
    assert model.layers[1].kernel_constraint is None
    assert_predicts(model, "first_axis")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_weights_are_not_loaded_into_another_data_format(suffix):
    """The weights have the same shapes, but another order."""

    def network(data_format, flatten="channels_last"):
        layer = lc.LocallyConnected2D(2, 2, data_format=data_format, padding="valid", name="here")
        model = lc.Sequential([layer, lc.Flatten(data_format=flatten)])
        model.build((None, 2, 4, 3) if data_format == "channels_first" else (None, 4, 3, 2))
        return model

    model = network("channels_last")
    before = model.get_weights()
    with pytest.raises(KerasFileError, match="'wide' has data_format='channels_first' in the file, but 'here' has"):
        lc.load_keras(FOLDER / f"width{suffix}", model)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    lc.load_keras(FOLDER / f"width{suffix}", network("channels_first"))


# --- import and export


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("implementation", [1, 2, 3])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("rank", [1, 2])
def test_export_and_import_are_inverse(rank, padding, implementation, data_format, rng):
    if implementation == 1 and padding == "same":
        return
    cls = (lc.LocallyConnected1D, lc.LocallyConnected2D)[rank - 1]
    layer = cls(3, 3, padding=padding, data_format=data_format)
    layer.build((None, *((2, 7, 5)[: rank + 1] if data_format == "channels_first" else (7, 5, 2)[2 - rank :])))
    weights = [rng.standard_normal(w.shape).astype(np.float32) for w in layer.weights]
    weights[0][:, 0] = 0  # a weight may be exactly zero
    layer.set_weights(weights)
    expected = layer.get_weights()
    stored = lc.export_weights(layer, implementation)
    if implementation == 2:
        dense = stored[0]
        dense[dense == 0] = np.where(rng.random((dense == 0).sum()) < 2, np.nan, 0)  # arbitrary without a connection
        stored[0] = np.where(np.isnan(dense) & (lc.export_weights(layer, 2)[0] == 0) & _inside(layer), 0, dense)
    layer.set_weights([np.zeros_like(w) for w in weights])
    lc.import_weights(layer, stored)
    for a, b in zip(layer.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def _inside(layer):
    """Where connections exist, in the dense layout."""
    twin = type(layer).from_config(layer.get_config() | {"name": None})
    twin.build(layer.input_shape)
    twin.set_weights([np.ones_like(w) for w in layer.weights])
    return lc.export_weights(twin, 2)[0] != 0


def test_a_refused_import_changes_nothing(rng):
    layer = lc.LocallyConnected2D(2, 3)
    with pytest.raises(RuntimeError, match=r"input shape .* is unknown"):
        lc.import_weights(layer, [])
    layer.build((None, 5, 5, 1))
    before = layer.get_weights()
    kernel, bias = before
    for weights, match in (
        ([kernel], "1 arrays given; .* has 2"), ([kernel[:2], bias], r"weights\[0\] has shape \(2, 9, 2\)"),
        ([kernel[..., None], bias], "it must have 3 axes"), ([kernel, bias[0]], r"weights\[1\] has shape"),
        ([np.ones(7), bias], r"weights\[0\] has shape \(7,\); the Keras layer has \(162,\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            lc.import_weights(layer, weights)
    with pytest.raises(TypeError, match="weights is a int"):
        lc.import_weights(layer, 5)
    for a, b in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(RuntimeError, match="has not been built"):
        lc.export_weights(lc.LocallyConnected2D(2, 3))
    with pytest.raises(ValueError, match="implementation=4 is not known"):
        lc.export_weights(layer, 4)


@pytest.mark.filterwarnings("ignore:padding_mode='circular' has no effect")
@pytest.mark.parametrize(
    "settings",
    [
        {"dilation_rate": 2}, {"padding": ((1, 1), (0, 0))}, {"padding_mode": "circular"}, {"bias_sharing": "filter"},
        {"kernel_mask": np.ones((9, 9), bool)},
    ],
)  # fmt: skip
def test_settings_that_keras_does_not_have_are_named(settings):
    layer = lc.LocallyConnected2D(2, 3, **settings)
    layer.build((None, 5, 5, 1))
    with pytest.raises(ValueError, match=f"Keras 2 has no {next(iter(settings))}"):
        lc.export_weights(layer)
    volume = lc.LocallyConnected3D(1, 1)
    volume.build((None, 2, 2, 2, 1))
    with pytest.raises(TypeError, match="does not exist in Keras"):
        lc.export_weights(volume)


# --- damaged and hostile files


def changed(source, target, change):
    """Write a copy of a Keras file with one change."""
    shutil.copy(FOLDER / source, target)
    with h5py.File(target, "r+") as file:
        change(file)


def config_changed(change):
    def apply(file):
        config = json.loads(file.attrs["model_config"])
        change(config["config"]["layers"])
        file.attrs["model_config"] = json.dumps(config)

    return apply


def replaced(path, make):
    def apply(file):
        name = f"model_weights/{path}"
        old = file[name][...]
        del file[name]
        make(file, name, old)

    return apply


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


KERNEL = "first/first/kernel:0"


def compressed(file, name, old):
    file.create_dataset(name, data=old, compression="gzip")


def declared_only(file, name, old):
    """A dataset without data, which reads as zeros of any size."""
    file.create_dataset(name, shape=old.shape, dtype="f4")


def virtual(file, name, old):
    layout = h5py.VirtualLayout(old.shape, "f4")
    layout[...] = h5py.VirtualSource("/etc/passwd", "x", old.shape)
    file.create_virtual_dataset(name, layout)


def external(file, name, old):
    file.create_dataset(name, shape=old.shape, dtype="f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def linked(file, name, old):
    file["other"] = old
    file[name] = h5py.SoftLink("/other")


def linked_outside(file, name, old):
    file[name] = h5py.ExternalLink("/etc/passwd", "/x")


def grouped(file, name, old):
    file.create_group(name)


def of_type(dtype):
    return lambda file, name, old: file.create_dataset(name, data=old.astype(dtype))


def shaped(change):
    return lambda file, name, old: file.create_dataset(name, data=change(old))


def without(name):
    def apply(file):
        del file["model_weights"].attrs[name]

    return apply


def names(group, attribute_name, value):
    def apply(file):
        file[group].attrs[attribute_name] = value

    return apply


def shaped_input(entries, shape):
    for entry in entries[:2]:
        entry["config"]["batch_input_shape"] = shape


BROKEN = {
    "compressed": (replaced(KERNEL, compressed), "is not contiguous"),
    "declared only": (replaced(KERNEL, declared_only), "declares .* bytes but stores 0"),
    "virtual": (replaced(KERNEL, virtual), "is not contiguous|cannot be read"),
    "external": (replaced(KERNEL, external), "is not contiguous|cannot be read"),
    "soft link": (replaced(KERNEL, linked), "is a link"),
    "external link": (replaced(KERNEL, linked_outside), "is a link|there is no"),
    "group for a dataset": (replaced(KERNEL, grouped), "is not a dataset"),
    "strings": (replaced(KERNEL, of_type("S4")), "weights are float32 or float64"),
    "integers": (replaced(KERNEL, of_type("i4")), "weights are float32 or float64"),
    "half": (replaced(KERNEL, of_type("f2")), "weights are float32 or float64"),
    "complex": (replaced(KERNEL, of_type("c8")), "weights are float32 or float64"),
    "transposed": (replaced(KERNEL, shaped(np.transpose)), "has shape"),
    "two axes": (replaced(KERNEL, shaped(lambda a: a[0])), "it must have 3 axes"),
    "scalar": (replaced(KERNEL, shaped(lambda a: a[0, 0, 0])), "it must have 3 axes"),
    "empty": (replaced(KERNEL, shaped(lambda a: a[:0])), "too small for|has shape"),
    "long bias": (replaced("first/first/bias:0", shaped(lambda a: np.ones((4, 3, 9), "f4"))), "has shape"),
    "no names": (without("layer_names"), "there is no|holds no|cannot be read|has weights of 0"),
    "one name": (names("model_weights", "layer_names", [b"first"]), "weights of 1 layers; the model has 3"),
    "unknown name": (names("model_weights", "layer_names", [b"nope"]), "there is no 'nope'"),
    "name that climbs": (names("model_weights", "layer_names", [b".."]), r"there is no '\.\.'"),
    "name that is root": (names("model_weights", "layer_names", [b"/"]), "there is no|is not a group|cannot be read"),
    "number for names": (names("model_weights", "layer_names", 3), "is not a name"),
    "many names": (names("model_weights", "layer_names", np.zeros(20_000, "S1")), "is too long"),
    "bytes that are no text": (names("model_weights", "layer_names", [b"\xff"]), "cannot be read"),
    "weight elsewhere": (names("model_weights/first", "weight_names", [b"a/b", b"c"]), "there is no 'a'"),
    "weight that is a link's name": (names("model_weights/first", "weight_names", [b"", b""]), "there is no ''"),
    "three weights": (names("model_weights/first", "weight_names", [b"first/kernel:0"] * 3), "3 arrays given"),
    "no json": (attribute("model_config", "{"), "cannot be read"),
    "json list": (attribute("model_config", "[]"), "is not a JSON object"),
    "deep json": (attribute("model_config", "[" * 60_000), "cannot be read"),
    "config number": (attribute("model_config", 3), "is not a name|is not a text"),
    "functional": (
        attribute("model_config", '{"class_name": "Functional", "config": {}}'),
        "only a Sequential is supported",
    ),
    "empty config": (attribute("model_config", '{"class_name": "Sequential"}'), "cannot be read"),
    "lambda": (config_changed(lambda entries: entries[2].update(class_name="Lambda")), "'Lambda'; must be one of"),
    "convolution": (config_changed(lambda entries: entries[2].update(class_name="Conv3D")), "import_weights"),
    "foreign class": (config_changed(lambda entries: entries[2].update(class_name="os.system")), "'os.system'"),
    "class that is a list": (config_changed(lambda entries: entries[2].update(class_name=[])), "cannot be read"),
    "foreign activation": (
        config_changed(lambda entries: entries[1]["config"].update(activation="eval")),
        "'eval' is not known",
    ),
    "lambda activation": (
        config_changed(
            lambda entries: entries[1]["config"].update(activation={"class_name": "__lambda__", "config": ["x"]})
        ),
        "activation",
    ),
    "foreign initializer": (
        config_changed(
            lambda entries: entries[1]["config"].update(kernel_initializer={"class_name": "exec", "config": {}})
        ),
        "'exec' is not known",
    ),
    "huge filters": (
        config_changed(lambda entries: entries[1]["config"].update(filters=10**9)),
        "too small for|has shape",
    ),
    "more than huge": (config_changed(lambda entries: entries[1]["config"].update(filters=10**30)), "too large"),
    "huge kernel": (
        config_changed(lambda entries: entries[3]["config"].update(kernel_size=[10**6, 10**6])),
        "too small for",
    ),
    "huge input": (
        config_changed(lambda entries: shaped_input(entries, [None, 10**5, 10**5, 2])),
        r"kernel has shape \(12, 18, 3\), too small for \(9999600004, 18, 3\)",
    ),
    "no input": (config_changed(lambda entries: shaped_input(entries, [])), "cannot be read|entries"),
    "negative input": (
        config_changed(lambda entries: shaped_input(entries, [None, -1, 5, 2])),
        "too small",
    ),
    "unknown setting": (config_changed(lambda entries: entries[1]["config"].update(foo=1)), "foo"),
    "name twice": (
        config_changed(lambda entries: entries[3]["config"].update(name="first")),
        "is already in the model",
    ),
    "no layers": (config_changed(lambda entries: entries.clear()), "has no input shape|has weights of"),
}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", BROKEN)
def test_damaged_and_hostile_models_are_refused(name, tmp_path):
    change, match = BROKEN[name]
    path = tmp_path / "broken.h5"
    changed("digits.h5", path, change)
    with pytest.raises(KerasFileError, match=match):
        lc.load_keras(path)


@pytest.mark.parametrize("name", [n for n in BROKEN if n in ("compressed", "soft link", "transposed", "three weights")])
def test_a_refused_file_does_not_change_the_model(name, tmp_path):
    model = lc.load_keras(FOLDER / "digits.h5")
    before = model.get_weights()
    changed("digits.h5", tmp_path / "broken.h5", BROKEN[name][0])
    with pytest.raises(ValueError):
        lc.load_keras(tmp_path / "broken.h5", model)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_arrays_linked_many_times_are_read_once_at_most(tmp_path, monkeypatch):
    path = tmp_path / "many.h5"
    shutil.copy(FOLDER / "digits.h5", path)
    monkeypatch.setattr(files.os, "fstat", lambda _: type("Stat", (), {"st_size": 900}))
    with pytest.raises(KerasFileError, match="declares more weights than it has bytes"):
        lc.load_keras(path)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".h5", ".keras", ".weights.h5"])
def test_truncated_files_are_refused(share, suffix, tmp_path):
    content = (FOLDER / f"digits{suffix}").read_bytes()
    path = tmp_path / "short"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(KerasFileError):
        lc.load_keras(path, lc.load_keras(FOLDER / "digits.h5"))


def zipped(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)


def test_invalid_keras_archives(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(FOLDER / "digits.keras") as archive:
        config, weights = archive.read("config.json"), archive.read("model.weights.h5")
    good = [("config.json", config), ("model.weights.h5", weights)]
    zipped(path, good)
    assert_predicts(lc.load_keras(path), "digits")
    bomb = [("config.json", b" " * 10_000_000), good[1]]
    for members, compression, match in (
        ([good[0]], 0, "holds 0 members model.weights.h5"), ([good[1]], 0, "holds 0 members config.json"),
        (good, zipfile.ZIP_DEFLATED, "is compressed"), (bomb, zipfile.ZIP_DEFLATED, "is compressed"),
        (bomb, 0, "at most 8388608 are allowed"), ([good[0], ("model.weights.h5", b"no")], 0, "cannot be read"),
        ([("config.json", b"\x80\x04."), good[1]], 0, "cannot be read"),
        ([("config.json", b"null"), good[1]], 0, "is not a JSON object"),
    ):  # fmt: skip
        zipped(path, members, compression)
        with pytest.raises(KerasFileError, match=match):
            lc.load_keras(path)


def test_other_files(tmp_path):
    for content in (b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x80\x04\x95", b"text", b"\x93NUMPY"):
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(KerasFileError, match="cannot be read"):
            lc.load_keras(path)
    model = lc.Sequential([lc.Dense(1, input_shape=(2,))])
    model.save(path)
    for read in (lc.load_keras, lambda path: lc.load_keras(path, model), lambda path: lc.load_keras_weights(path, "d")):
        with pytest.raises(KerasFileError, match=r"it is an lcnumba file: lcnumba\.load reads models"):
            read(path)
    with pytest.raises(OSError, match="perhaps a TensorFlow SavedModel"):
        lc.load_keras(tmp_path)
    with pytest.raises(FileNotFoundError):
        lc.load_keras(tmp_path / "nothing")
    with pytest.raises(OSError, match="director"):
        lc.load_keras(tmp_path)
    with pytest.raises(KerasFileError, match="it holds only weights; give their model"):
        lc.load_keras(FOLDER / "digits.weights.h5")


def test_a_frozen_program_does_not_run_itself(monkeypatch):
    """`sys.executable` is the program there, not Python."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(files.subprocess, "run", lambda *_, **__: pytest.fail("it was run"))
    with pytest.raises(
        KerasFileError,
        match=r"a frozen program cannot start the Python .*; run 'python -m lcnumba convert",
    ):
        lc.load_keras(FOLDER / "digits.keras")


def test_a_package_in_a_zip_reads_keras_files(tmp_path):
    """There is no file of its code to run in the other process."""
    package = shutil.make_archive(tmp_path / "library", "zip", Path(lc.__file__).parents[1], "lcnumba")
    code = "import sys, lcnumba as lc; print(lc.__file__, len(lc.load_keras(sys.argv[1]).layers))"
    result = subprocess.run(
        [sys.executable, "-P", "-c", code, FOLDER / "digits.keras"], cwd=tmp_path, capture_output=True, text=True,
        timeout=100, check=False, env={**os.environ, "PYTHONPATH": package},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    file, layers = result.stdout.split()
    assert file.startswith(package)
    assert int(layers) > 1


@pytest.mark.usefixtures("in_process")
def test_files_for_another_model_are_refused():
    model = lc.load_keras(FOLDER / "digits.h5")
    before = model.get_weights()
    for name in ("genes.h5", "genes.weights.h5", "first_axis.keras", "first_axis_weights.h5"):
        with pytest.raises(KerasFileError):
            lc.load_keras(FOLDER / name, model)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_h5_files_are_written(tmp_path):
    model = lc.load_keras(FOLDER / "digits.h5")
    with pytest.raises(ValueError, match="must end in"):
        lc.save_keras_weights(model, tmp_path / "weights.keras")
    outer = lc.Sequential([model])
    with pytest.raises(ValueError, match="has a nested model"):
        lc.save_keras_weights(outer, tmp_path / "weights.h5")
    assert list(tmp_path.iterdir()) == []


# --- command line


def test_convert_and_inspect(tmp_path, capsys):
    ours, theirs = str(tmp_path / "model.npz"), str(tmp_path / "model.weights.h5")
    assert command_line.main(["convert", str(FOLDER / "digits.keras"), ours]) == 0
    assert_predicts(lc.load(ours), "digits")
    assert command_line.main(["convert", ours, theirs]) == 0
    assert_predicts(lc.load_keras(theirs, lc.load_keras(FOLDER / "digits.h5")), "digits")
    capsys.readouterr()
    for path, expected in (
        (ours, "layer second (LocallyConnected2D)"), (theirs, "weights of dense: (24, 4), (4,)"),
        (FOLDER / "digits.h5", "layer second (LocallyConnected2D)"),
        (FOLDER / "digits.keras", "weights of locally_connected2d_1"),
    ):  # fmt: skip
        assert command_line.main(["inspect", str(path)]) == 0
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["convert", "nothing", "x.npz"], "No such file"), (["convert", "nothing", "x.txt"], "must end in"),
        (["convert", str(FOLDER / "digits.keras"), "x.h5"], "is not an lcnumba model file"),
        (["inspect", str(FOLDER / "predictions.npz")], "cannot be read"), (["inspect", "nothing"], "No such file"),
    ],
)  # fmt: skip
def test_invalid_files_are_errors_with_code_2(arguments, match, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    assert ended.value.code == 2
    assert match in capsys.readouterr().err


def test_inspect_of_keras_files(capsys):
    for file, expected in (
        ("digits.keras", ["Keras 2.21.0 model, v3 format", "layer second (LocallyConnected2D): can be loaded",
                          "model: can be loaded with lcnumba.load_keras",
                          "weights of locally_connected2d_1 (second): (294,), (4, 3, 2)"]),
        ("nested.h5", ["layer inner (Sequential): cannot be loaded: layer 'inner' is a 'Sequential'",
                       "layer out (Dense): can be loaded", "model: cannot be loaded: ", "weights of inner/sub: "]),
        ("own.keras", ["model: cannot be loaded: the model is, or has, a 'Own'", "weights of local: (6, 3, 2)"]),
        ("width.h5", ["layer wide (LocallyConnected2D): cannot be loaded: layer 'wide' has softmax"]),
        ("first_axis.h5", ["can be loaded; layer 'locally_connected2d_1': kernel_constraint MaxNorm is omitted"]),
    ):  # fmt: skip
        assert command_line.main(["inspect", str(FOLDER / file)]) == 0
        shown = capsys.readouterr().out
        for text in expected:
            assert text in shown, (file, text)


def test_inspect_of_our_own_files(tmp_path, capsys):
    model = lc.Sequential(
        [lc.LocallyConnected1D(2, 3, padding="same", activation="relu", input_shape=(4, 1), name="snps"),
         lc.Sequential([lc.Flatten(), lc.Dense(1, kernel_regularizer="l2", name="sum")], name="head")], name="net",
    )  # fmt: skip
    model.compile("adam", "mse", lr=0.5)
    settings = {"epochs": 2, "batch_size": 2, "progress": False}
    model.fit(np.ones((4, 4, 1)), np.ones((4, 1)), callbacks=[lc.callbacks.Checkpoint(tmp_path / "run")], **settings)
    model.save(tmp_path / "model")
    model.save_weights(tmp_path / "weights")
    for name, expected in (
        ("model", ["lcnumba model, net", "input (None, 4, 1)", "activation=relu", "optimizer=Adam(",
                   "layer snps (LocallyConnected1D): output (None, 4, 2), 32 weights [(4, 3, 2), (4, 2)]; dtype=",
                   "layer head/sum (Dense): output (None, 1), 9 weights ", "kernel_regularizer=L2(l2=0.01)",
                   "weights: (4, 3, 2), (4, 2), (8, 1), (1,); 41 in total"]),
        ("run", ["lcnumba checkpoint, net", "training: 2 epochs, 4 steps", "last loss: "]),
        ("weights", ["lcnumba weights", "weight 0: (4, 3, 2)", "total: 41 weights"]),
    ):  # fmt: skip
        assert command_line.main(["inspect", str(tmp_path / name)]) == 0
        shown = capsys.readouterr().out
        for text in expected:
            assert text in shown, (name, text)


def test_version_and_help(capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"lcnumba {lc.__version__}\n"
    assert command_line.main([]) == 0
    assert "{info,train,bench,warm-up,convert,inspect,mpi-plan}" in capsys.readouterr().out


def test_bench_checks_its_arguments_before_it_prints(capsys, tmp_path):
    for arguments, match in (
        (["--input", "4", "4", "1", "--kernel", "5", "5"], "kernel"),
        (["--input", "100000", "100000", "9", "--filters", "99"], "workload own with implementation 1 needs"),
        (["--input", "8", "8", "1", "--json", str(tmp_path)], "Is a directory"),
    ):
        with pytest.raises(SystemExit) as ended:
            command_line.main(["bench", *arguments])
        assert ended.value.code == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert match in shown.err


# --- odd sizes, names and files


def test_windows_far_larger_than_the_image_are_exported_and_imported(rng):
    layer = lc.LocallyConnected2D(1, (10, 10), padding="same", implementation=3, input_shape=(2, 2, 1))
    layer.build((None, 2, 2, 1))
    expected = layer.get_weights()
    stored = lc.export_weights(layer)
    assert stored[0].shape == (16,)
    layer.set_weights([np.zeros_like(w) for w in expected])
    lc.import_weights(layer, stored)
    np.testing.assert_array_equal(layer.kernel, expected[0])


def test_a_refused_import_does_not_build():
    layer = lc.LocallyConnected2D(2, 2, input_shape=(4, 4, 1))
    for weights, settings in (([np.ones(3)] * 2, {}), ([], {}), ([np.ones(3)] * 2, {"data_format": "bogus"})):
        with pytest.raises(ValueError):
            lc.import_weights(layer, weights, **settings)
    assert not layer.built
    for wrong in (None, lc.Flatten()):
        with pytest.raises(TypeError, match="give a locally connected layer, Conv1D, Conv2D, Dense or BatchNorm"):
            lc.import_weights(wrong, [])


def test_arrays_of_other_layers_need_not_be_readable(tmp_path):
    path = tmp_path / "other.h5"
    changed("digits.h5", path, BROKEN["integers"][0])
    assert len(lc.load_keras_weights(path, "second")) == 2
    with pytest.raises(KerasFileError, match="weights are float32 or float64"):
        lc.load_keras_weights(path, "first")
    assert command_line.main(["inspect", str(path)]) == 0


def test_floats_of_another_layout_are_refused(tmp_path):
    """Their dtype is float64, but with another bit layout."""

    def odd(file, name, old):
        kind = h5py.h5t.IEEE_F64LE.copy()
        kind.set_fields(63, 55, 8, 3, 52)
        kind.set_ebias(127)
        space = h5py.h5s.create_simple(old.shape)
        h5py.h5d.create(file.id, name.encode(), kind, space).write(space, space, old.astype(np.float64))

    changed("digits.h5", tmp_path / "odd.h5", replaced(KERNEL, odd))
    with pytest.raises(KerasFileError, match="weights are float32 or float64"):
        lc.load_keras(tmp_path / "odd.h5")


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_weights_of_convolutions_are_written(suffix, tmp_path):
    def network(seed):
        layers = [lc.Conv2D(4, 3, groups=2, input_shape=(6, 5, 2), rng=seed), lc.Reshape((12, 4)), lc.Conv1D(2, 3)]
        return lc.Sequential([*layers, lc.LocallyConnected1D(1, 2, rng=seed)])

    first, second = network(0), network(1)
    lc.save_keras_weights(first, tmp_path / f"model{suffix}")
    lc.load_keras(tmp_path / f"model{suffix}", second)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with h5py.File(tmp_path / f"model{suffix}") as file:
        shapes = []
        file.visititems(lambda _, item: shapes.append(item.shape) if isinstance(item, h5py.Dataset) else None)
    assert {(3, 3, 1, 4), (4,), (3, 4, 2)} <= set(shapes)
    lc.import_weights(second[0], [2 * weight for weight in lc.export_weights(first[0])])
    np.testing.assert_array_equal(second[0].kernel, 2 * first[0].kernel)


def keras_file(path, name, **settings):
    """A .keras file of one layer on (8, 8, 1) or (1, 8, 8), as Keras 2 writes it, with weights of ones."""
    shape = (None, 1, 8, 8) if settings.get("data_format") == "channels_first" else (None, 8, 8, 1)
    layer = getattr(lc, name)(2, 3, name="local", kernel_initializer="ones", input_shape=shape[1:], **settings)
    layer.build(shape)
    config = {"name": "local", "batch_input_shape": shape, **layer.get_config()}
    for entry in ("implementation", "groups", "dilation_rate"):
        config.pop(entry, None)
    model = {"class_name": "Sequential", "config": {"name": "s", "layers": [{"class_name": name, "config": config}]}}
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for number, weight in enumerate(layer.get_weights()):
            file[f"layers/{name.lower()}/vars/{number}"] = weight
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(model))
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        archive.write(path.with_suffix(".h5"), "model.weights.h5")
    return layer


def test_a_convolution_is_read(tmp_path, rng):
    layer = keras_file(tmp_path / "model.keras", "Conv2D", padding="same", activation="relu")
    x = rng.random((2, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(lc.load_keras(tmp_path / "model.keras")(x), layer(x))


def test_softmax_of_a_convolution_over_the_width_is_refused(tmp_path):
    layer = keras_file(tmp_path / "model.keras", "Conv2D", data_format="channels_first", activation="softmax")
    with pytest.raises(KerasFileError, match=r"'local'.* has softmax with channels_first, which is over the width"):
        lc.load_keras(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="softmax with channels_first is over the width in Keras"):
        lc.export_weights(layer)


def test_layers_that_keras_does_not_have_are_named(tmp_path):
    for layer in (lc.LocallyConnected1DTranspose(1, 2, name="up"), lc.LocallyDirected1D(np.eye(5), name="up")):
        model = lc.Sequential([layer])
        model.build((None, 5, 1))
        with pytest.raises(TypeError, match=f"layer 'up' is a {type(layer).__name__}, which does not exist in Keras"):
            lc.save_keras_weights(model, tmp_path / "model.weights.h5")


def test_permissions_and_names_of_saved_files(tmp_path):
    model = lc.load_keras(FOLDER / "digits.h5")
    (tmp_path / "plain").touch()
    lc.save_keras_weights(model, tmp_path / "w.h5")
    assert (tmp_path / "w.h5").stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(ValueError, match="names a layer that"):
        lc.save_keras_weights(model, tmp_path / "w.h5", {"typo": 2})
    named = lc.Sequential([lc.Dense(2, input_shape=(3,), name="a/b")])
    with pytest.raises(ValueError, match="to the legacy format under this name"):
        lc.save_keras_weights(named, tmp_path / "n.h5")

    class Mine(lc.Flatten):
        def get_weights(self):
            return [np.ones(3)]

    with pytest.raises(TypeError, match="is a custom layer with weights; only built-in layers"):
        lc.save_keras_weights(lc.Sequential([lc.Dense(2, input_shape=(3,)), Mine()]), tmp_path / "m.h5")
    with pytest.raises(RuntimeError, match="has not been built"):
        lc.load_keras(FOLDER / "digits.h5", lc.Sequential([lc.Dense(3)]))
    with pytest.raises(TypeError, match="give a Sequential"):
        lc.load_keras(FOLDER / "digits.h5", 5)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("entry", ["n_threads", "rng", "weights", "optimizer", "kernel_mask"])
def test_settings_beyond_those_of_keras_are_refused(entry, tmp_path):
    changed("digits.h5", tmp_path / "b.h5", config_changed(lambda entries: entries[1]["config"].update({entry: 1})))
    with pytest.raises(KerasFileError, match=f"settings that the Keras layer does not have: .*{entry}"):
        lc.load_keras(tmp_path / "b.h5")


def test_names_are_printed_without_control_characters(tmp_path, capsys):
    name = "\x1b[2Jevil\nweights of x: ok"
    changed("digits.h5", tmp_path / "b.h5", config_changed(lambda entries: entries[1]["config"].update(name=name)))
    assert command_line.main(["inspect", str(tmp_path / "b.h5")]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\nweights of x" not in shown
