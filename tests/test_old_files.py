"""Files of earlier versions are still read; `data/version_0_1/make.py` wrote these."""

import json
from pathlib import Path

import numpy as np
import pytest

import lcnumba as lc

FOLDER = Path(__file__).parent / "data" / "version_0_1"

with np.load(FOLDER / "expected.npz") as file:
    EXPECTED = {name: file[name] for name in file.files}


def expected(file):
    """The results of the old version for one of its files."""
    return {name.removeprefix(f"{file}."): a for name, a in EXPECTED.items() if name.startswith(f"{file}.")}


def joined(model):
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


def same_weights(model, record):
    """Bitwise equal, with the same dtype."""
    weights = joined(model)
    assert weights.dtype == record["weights"].dtype
    np.testing.assert_array_equal(weights, record["weights"])


def same_predictions(y, record):
    """Up to the last digits, which depend on the CPU."""
    assert y.dtype == record["y"].dtype
    np.testing.assert_allclose(y, record["y"], rtol=1e-5, atol=1e-6)


def config_in(name):
    """The config in a file."""
    with np.load(FOLDER / name) as file:
        return json.loads(file["config"].tobytes())["model"]


def holds(config, old, place="config"):
    """Raise unless a config has all entries of an old one; a later version may have more."""
    if isinstance(old, dict):
        for key, value in old.items():
            assert key in config, f"{place} has lost {key!r}"
            holds(config[key], value, f"{place}[{key!r}]")
    elif isinstance(old, list):
        assert len(config) == len(old), place
        for number, (mine, theirs) in enumerate(zip(config, old, strict=True)):
            holds(mine, theirs, f"{place}[{number}]")
    else:
        assert config == old, place
        assert type(config) is type(old), place


@pytest.mark.parametrize("name", ["model", "model_1d", "model_3d"])
def test_models_make_the_same_predictions(name):
    model, record = lc.load(FOLDER / f"{name}.npz"), expected(name)
    same_weights(model, record)
    same_predictions(model(record["x"]), record)


@pytest.mark.parametrize("name", ["model", "model_1d", "model_3d", "settings", "checkpoint_epoch", "checkpoint_batch"])
def test_all_settings_are_loaded(name):
    file = f"{name}.npz"
    holds(json.loads(json.dumps(lc.load(FOLDER / file).get_config())), config_in(file))


def test_layers_and_optimizers_are_loaded():
    model = lc.load(FOLDER / "model.npz")
    assert [type(layer) for layer in model] == [
        lc.LocallyConnected2D, lc.Sequential, lc.LocallyConnected2D, lc.Flatten, lc.Dense
    ]  # fmt: skip
    assert [type(layer) for layer in model["inner"]] == [lc.Dropout, lc.LocallyConnected2D, lc.Activation]
    optimizers = {
        "round": lc.SGD(momentum=0.9, nesterov=True),
        "inner/masked": lc.Adam(beta_1=0.8, epsilon=1e-6),
        "first_axis": lc.RMSprop(),
        "scores": lc.AdamW(weight_decay=0.02),
    }
    for name, optimizer in optimizers.items():
        assert model.get_layer(name).optimizer == optimizer
    assert [model.get_layer(name).trainable for name in optimizers] == [True, True, False, True]
    mask = model.get_layer("inner/masked").kernel_mask
    assert mask.shape == (20, 8)
    assert not model.get_layer("inner/masked").kernel[~mask].any()
    first, second, third = lc.load(FOLDER / "model_1d.npz")
    assert [layer.implementation for layer in (first, second, third)] == [2, 3, "auto"]
    assert [layer.optimizer for layer in (first, second, third)] == [lc.RMSprop(rho=0.8), lc.AdamW(), lc.SGD()]
    [volume, *_] = lc.load(FOLDER / "model_3d.npz")
    assert type(volume) is lc.LocallyConnected3D
    assert volume.kernel_mask.shape == volume.kernel.shape


def test_loaded_models_can_be_trained():
    """With the optimizers, regularizers and constraints of the file."""
    model, record = lc.load(FOLDER / "model.npz"), expected("model")
    frozen = model["first_axis"].kernel.copy()
    model.fit(record["x"], np.arange(3), loss="sparse_categorical_crossentropy", lr=0.01, progress=False)
    assert not np.array_equal(joined(model), record["weights"])
    np.testing.assert_array_equal(model["first_axis"].kernel, frozen)
    assert model["round"].bias.min() >= 0
    assert np.linalg.norm(model["round"].kernel, axis=1).max() <= 2.5 * (1 + 1e-6)


def test_every_activation_is_unchanged():
    model, record = lc.load(FOLDER / "settings.npz"), expected("settings")
    same_weights(model, record)
    same_predictions(np.stack([layer(record["x"]) for layer in model]), record)


@pytest.mark.parametrize("name", ["weights.npz", "model.npz"])
def test_weights_are_loaded_into_a_model_with_the_same_layers(name):
    model, record = lc.Sequential.from_config(config_in("model.npz")), expected("model")
    assert not np.array_equal(joined(model), record["weights"])
    model.load_weights(FOLDER / name)
    same_weights(model, record)
    same_predictions(model(record["x"]), record)


def test_weights_for_keras():
    pytest.importorskip("h5py")
    model, record = lc.Sequential([
        lc.LocallyConnected2D(2, 2, activation="relu", input_shape=(4, 4, 1)),
        lc.LocallyConnected2D(1, 2, padding="same"),
        lc.Flatten(),
        lc.Dense(2),
    ]), expected("keras")  # fmt: skip
    names = {"locally_connected2d": model[0], "locally_connected2d_1": model[1], "dense": model[3]}
    for name, layer in names.items():
        lc.import_weights(layer, lc.load_keras_weights(FOLDER / "keras.weights.h5", name))
    same_weights(model, record)
    same_predictions(model(record["x"]), record)


def network(_):
    """The model as a restarted script builds it, with other weights than in the checkpoint."""
    inner = [
        lc.LocallyConnected2D(2, 2, activation="relu", fans="window", optimizer="adam", rng=9),
        lc.Dropout(0.25, seed=2),
    ]
    return lc.Sequential([
        lc.Sequential(inner),
        lc.LocallyConnected2D(2, 2, fans="window", optimizer=lc.SGD(momentum=0.9), rng=9),
        lc.Flatten(),
        lc.Dense(3, "tanh", kernel_constraint="max_norm", optimizer="adamw", rng=9),
        lc.Dense(2, kernel_regularizer=lc.regularizers.L2(0.01), optimizer="rmsprop", rng=9),
    ])  # fmt: skip


@pytest.mark.parametrize("make", [network, lc.load])
@pytest.mark.parametrize("name", ["checkpoint_epoch.npz", "checkpoint_batch.npz"])
def test_training_resumes(name, make):
    """It equals uninterrupted training: weights, order of samples, dropout, learning rate, metrics, best epoch."""
    record, model = expected("checkpoint"), make(FOLDER / name)
    model.compile(loss="softmax_cross_entropy", metrics=["accuracy", "auc"], lr=0.01)
    stopping = lc.callbacks.EarlyStopping("val_loss", patience=4, min_delta=0.001)
    watching = lc.callbacks.EarlyStopping("val_auc", patience=100, min_delta=0.01, restore_best=False)
    lowering = lc.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=0.01)
    seen = []

    class Look(lc.callbacks.Callback):
        def on_epoch_begin(self, run):
            seen.append((run.epoch, run.batch, run.step))

    model.fit(
        record["x"], record["labels"], epochs=30, batch_size=8, validation_split=0.25, progress=False,
        rng=np.random.Generator(np.random.MT19937(0)), callbacks=[Look(), stopping, watching, lowering],
        resume=FOLDER / name,
    )  # fmt: skip
    assert seen[0] == ((5, 0, 25) if name == "checkpoint_epoch.npz" else (5, 3, 28))
    figures = {key.removeprefix("history_"): values for key, values in record.items() if key.startswith("history_")}
    assert model.history.epoch == list(range(12))
    assert set(model.history.history) == set(figures)
    for key, values in figures.items():
        np.testing.assert_allclose(model.history.history[key], values, rtol=1e-4, err_msg=key)
    assert [stopping.best_epoch, watching.best_epoch] == record["best_epochs"].tolist() == [7, 4]
    assert stopping.best == pytest.approx(record["best"], rel=1e-4)
    assert lowering.lr == record["lr"]
    np.testing.assert_allclose(joined(model), record["weights"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model(record["x"]), record["y"], rtol=1e-4, atol=1e-5)
