"""Sequential models of published shapes, written by tf_keras, predict and train on as there.

`data/make_keras_models.py` wrote them; `interop/keras_models.py` compares models of the published sizes with tf_keras.
"""

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import lcnumba as lc
from lcnumba import __main__ as command_line

FOLDER = Path(__file__).parents[2] / "data" / "keras_models"
with np.load(FOLDER / "training.npz") as file:
    RECORDED = {name: file[name] for name in file.files}
INFO = json.loads(RECORDED.pop("info").tobytes())
BATCH = 8


@pytest.mark.parametrize("name", INFO)
def test_models_predict_and_train_on_as_in_keras(name):
    x = RECORDED[f"{name}_x"] / np.float32(8)
    targets, y, losses, trained = (RECORDED[f"{name}_{what}"] for what in ("targets", "y", "losses", "trained"))
    model, same = (lc.load_keras(FOLDER / f"{name}{suffix}") for suffix in (".h5", ".keras"))
    assert model.get_config() == same.get_config()
    for one, other in zip(model.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for loaded in (model, same):
        np.testing.assert_allclose(loaded.predict(x[:BATCH]), y, rtol=0, atol=1e-5)

    kind, lr, settings = INFO[name]["optimizer"]
    model.compile(getattr(lc, kind)(**settings), INFO[name]["loss"], lr=lr)
    found = []
    for step in range(len(losses)):
        at = step * BATCH % len(x)
        found.append(model.train_on_batch(x[at : at + BATCH], targets[at : at + BATCH])["loss"])
    np.testing.assert_allclose(found, losses, rtol=1e-4)
    np.testing.assert_allclose(model.predict(x[:BATCH]), trained, rtol=0, atol=1e-4)


def datasets(file):
    """The weights in an HDF5 file by path; without the state of optimizers and metrics."""
    found = {}
    file.visititems(lambda path, item: found.update({path: item}) if isinstance(item, h5py.Dataset) else None)
    return {path: item[()] for path, item in found.items() if not path.startswith(("optimizer", "metrics"))}


@pytest.mark.parametrize("name", ["deepface", "discriminator", "planes", "sequence", "yolo"])
def test_weights_are_written_as_keras_writes_them(name, tmp_path):
    model = lc.load_keras(FOLDER / f"{name}.keras")
    lc.save_keras_weights(model, tmp_path / "new.weights.h5")
    lc.save_keras_weights(model, tmp_path / "old.h5")
    with zipfile.ZipFile(FOLDER / f"{name}.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
    with h5py.File(tmp_path / "model.weights.h5") as theirs, h5py.File(tmp_path / "new.weights.h5") as mine:
        np.testing.assert_equal(datasets(mine), datasets(theirs))
    with h5py.File(FOLDER / f"{name}.h5") as theirs, h5py.File(tmp_path / "old.h5") as mine:
        there = theirs["model_weights"]
        assert list(mine.attrs["layer_names"]) == list(there.attrs["layer_names"])
        for layer in mine.attrs["layer_names"]:
            assert list(mine[layer].attrs["weight_names"]) == list(there[layer].attrs["weight_names"])
            np.testing.assert_equal(datasets(mine[layer]), datasets(there[layer]))


def test_the_command_line_converts_and_inspects_convolutions(tmp_path, capsys):
    source, model, back = (str(path) for path in (FOLDER / "emg.keras", tmp_path / "m.npz", tmp_path / "w.h5"))
    assert command_line.main(["convert", source, model]) == 0
    assert command_line.main(["convert", model, back]) == 0
    kernel, bias = lc.load_keras_weights(back, lc.load(model).layers[0].name)
    np.testing.assert_array_equal(kernel, lc.load_keras(source).get_weights()[0])
    assert kernel.shape == (5, 4, 4)
    assert bias.shape == (4,)
    assert command_line.main(["inspect", source]) == 0
    shown = capsys.readouterr().out
    assert "(Conv1D): can be loaded" in shown
    assert "model: can be loaded with lcnumba.load_keras" in shown


def test_the_models_have_all_layers_that_stand_beside_locally_connected_ones():
    found = set()
    for name in INFO:
        with zipfile.ZipFile(FOLDER / f"{name}.keras") as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
        found |= {layer["class_name"] for layer in layers}
    assert len(INFO) >= 12
    assert found >= {
        "Activation", "AveragePooling1D", "AveragePooling2D", "BatchNormalization", "Conv1D", "Conv2D", "Dense",
        "Dropout", "ELU", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "LeakyReLU",
        "LocallyConnected1D", "LocallyConnected2D", "MaxPooling1D", "MaxPooling2D", "ReLU", "Reshape", "Softmax",
        "UpSampling1D", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D",
    }  # fmt: skip
