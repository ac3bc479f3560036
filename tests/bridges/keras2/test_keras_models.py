"""Sequential models of published shapes, written by tf_keras, predict and train on as there.

`data/make_keras_models.py` wrote them; `interop/keras_models.py` compares models of the published sizes with tf_keras.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import lcnumba as lc

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
