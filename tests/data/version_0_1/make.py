"""Write small files in every format of the library, as test data, with what their models predict and how they train.

This was run with version 0.1.0, before the package was divided into folders:

    python make.py

Do not run it with a later version: the files are there to show that what was written then can still be read. What they
are to give is in expected.npz, by names that begin with that of the file; "checkpoint" is the training to its end:

- ``model.npz``, ``model_1d.npz``, ``model_3d.npz``: models by `Sequential.save`, of all kinds of layers and optimizers;
- ``settings.npz``: a model with a layer for every activation, initializer, regularizer and constraint;
- ``weights.npz``: the weights of model.npz by `Sequential.save_weights`;
- ``checkpoint_epoch.npz``, ``checkpoint_batch.npz``: one training, broken off after and within an epoch;
- ``keras.weights.h5``: weights by `save_keras_weights`, those of one layer in the form of a sparse matrix.
"""

from pathlib import Path

import numpy as np

import lcnumba as lc

FOLDER = Path(__file__).parent


def model_2d(rng):
    """Layers in two dimensions, one of them within a model of its own, one that reads channels first."""
    valid = np.ones((5, 4), bool)
    valid[2, 1:3] = valid[4, 3] = False
    inner = [
        lc.Dropout(0.25, seed=3, name="dropped"),
        lc.LocallyConnected2D(
            2, 2, padding="same", dilation_rate=(1, 2), padding_mode=("zeros", "circular"), bias_sharing="filter",
            kernel_mask=lc.kernel_mask_from(valid, (2, 2), padding="same", dilation_rate=(1, 2),
                                            padding_mode=("zeros", "circular"), channels=2),
            optimizer=lc.Adam(beta_1=0.8, epsilon=1e-6), rng=rng, name="masked",
        ),
        lc.Activation(lc.activations.LeakyReLU(0.1), name="bent"),
    ]  # fmt: skip
    return lc.Sequential([
        lc.LocallyConnected2D(
            2, 3, padding="same", padding_mode="circular", activation="relu", fans="window",
            kernel_initializer=lc.initializers.HeNormal(seed=5), bias_initializer=lc.initializers.Constant(0.1),
            kernel_regularizer=lc.regularizers.L2(0.001), bias_regularizer="l1",
            kernel_constraint=lc.constraints.MaxNorm(2.5, axis=1), bias_constraint="non_neg",
            optimizer=lc.SGD(momentum=0.9, nesterov=True), input_shape=(5, 4, 2), name="round",
        ),
        lc.Sequential(inner, name="inner"),
        lc.LocallyConnected2D(
            3, (3, 2), (2, 1), ((1, 0), (1, 1)), data_format="channels_first", use_bias=False, trainable=False,
            optimizer="rmsprop", rng=rng, name="first_axis",
        ),
        lc.Flatten(data_format="channels_first", name="flat"),
        lc.Dense(
            4, activation="softmax", kernel_initializer="glorot_normal", activity_regularizer="l2",
            optimizer=lc.AdamW(weight_decay=0.02), rng=rng, name="scores",
        ),
    ], name="model")  # fmt: skip


def model_1d(rng):
    """Layers for sequences, by the other implementations."""
    return lc.Sequential([
        lc.LocallyConnected1D(
            2, 3, 2, activation="tanh", implementation=2, optimizer=lc.RMSprop(rho=0.8), input_shape=(11, 2), rng=rng,
            name="dense_matrix",
        ),
        lc.LocallyConnected1D(3, 2, padding="same", implementation=3, optimizer="adamw", rng=rng, name="sparse_matrix"),
        lc.LocallyConnected1D(1, 2, implementation="auto", rng=rng, name="chosen"),
    ], name="model_1d")  # fmt: skip


def model_3d(rng):
    """A layer for volumes, in float64, with connections that are each filter's own."""
    mask = np.random.default_rng(7).random((3 * 2 * 2, 2 * 2 * 3 * 2, 2)) < 0.6
    return lc.Sequential([
        lc.LocallyConnected3D(
            2, (2, 2, 3), activation="gelu", dtype="float64", kernel_mask=mask, optimizer="adam",
            input_shape=(4, 3, 4, 2), rng=rng, name="volume",
        ),
        lc.Flatten(name="flat"),
        lc.Dense(2, use_bias=False, dtype="float64", rng=rng, name="out"),
    ], name="model_3d")  # fmt: skip


def settings():
    """As many layers as there are activations, all from 3 numbers to 3; each is looked at by itself."""
    activations = [
        "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "softplus", "softsign", "tanh", "sigmoid",
        "hard_sigmoid", "exponential", "swish", "gelu", "mish", "softmax", "log_softmax",
        lc.activations.ReLU(max_value=2.0, alpha=0.1, threshold=0.2), lc.activations.ThresholdedReLU(0.3),
        lc.activations.Softmax(axis=-1), lc.activations.ELU(0.5),
    ]  # fmt: skip
    initializers = [
        "zeros", "ones", lc.initializers.Constant(0.5), lc.initializers.Identity(2.0),
        lc.initializers.RandomNormal(0.1, 0.2, seed=1), lc.initializers.RandomUniform(-0.2, 0.3),
        lc.initializers.TruncatedNormal(0.1, 0.3), lc.initializers.VarianceScaling(2.0, "fan_out", "uniform", seed=2),
        "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "lecun_normal", "lecun_uniform",
        lc.initializers.Orthogonal(1.5),
    ]  # fmt: skip
    regularizers = [lc.regularizers.L1(0.1), lc.regularizers.L2(0.2), lc.regularizers.L1L2(0.3, 0.4), None]
    constraints = [
        lc.constraints.MaxNorm(1.5), lc.constraints.MinMaxNorm(0.2, 0.8, rate=0.5, axis=1), "non_neg", "unit_norm",
        None,
    ]  # fmt: skip
    return lc.Sequential([
        lc.Dense(
            3, activation=activation, kernel_initializer=initializers[number % 15], use_bias=number % 4 == 0,
            kernel_regularizer=regularizers[number % 4], kernel_constraint=constraints[number % 5],
            input_shape=(3,), rng=number, name=f"layer_{number}",
        )
        for number, activation in enumerate(activations)
    ], name="settings")  # fmt: skip


def for_keras(rng):
    """Nothing that Keras does not have."""
    return lc.Sequential([
        lc.LocallyConnected2D(2, 2, activation="relu", input_shape=(4, 4, 1), rng=rng, name="loops"),
        lc.LocallyConnected2D(1, 2, padding="same", implementation=3, rng=rng, name="sparse"),
        lc.Flatten(name="flat"),
        lc.Dense(2, rng=rng, name="out"),
    ], name="keras")  # fmt: skip


def trained(rng):
    """A model whose layers have optimizers of all kinds, which is to be trained."""
    inner = [
        lc.LocallyConnected2D(2, 2, activation="relu", fans="window", optimizer="adam", rng=rng, name="local"),
        lc.Dropout(0.25, seed=2, name="dropped"),
    ]
    model = lc.Sequential([
        lc.Sequential(inner, name="inner"),
        lc.LocallyConnected2D(2, 2, fans="window", optimizer=lc.SGD(momentum=0.9), rng=rng, name="second"),
        lc.Flatten(name="flat"),
        lc.Dense(3, "tanh", kernel_constraint="max_norm", optimizer="adamw", rng=rng, name="hidden"),
        lc.Dense(2, kernel_regularizer=lc.regularizers.L2(0.01), optimizer="rmsprop", rng=rng, name="scores"),
    ], name="trained")  # fmt: skip
    model.compile(loss="softmax_cross_entropy", metrics=["accuracy", "auc"], lr=0.01)
    return model


class Stop(lc.callbacks.Callback):
    """Break the training off after so many steps, not for good."""

    def __init__(self, step):
        self.step = step

    def on_batch_end(self, run, figures):
        """Look at the number of the step."""
        if run.step == self.step:
            run.stop()


def train(x, labels, epochs, *others):
    """Five batches an epoch; return the model and the callbacks that have a state.

    The one that watches the AUC never stops: its best epoch lies before the checkpoints, and comes from them alone.
    """
    model = trained(np.random.default_rng(4))
    stopping = lc.callbacks.EarlyStopping("val_loss", patience=4, min_delta=0.001)
    watching = lc.callbacks.EarlyStopping("val_auc", patience=100, min_delta=0.01, restore_best=False)
    lowering = lc.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=0.01)
    model.fit(
        x, labels, epochs=epochs, batch_size=8, validation_split=0.25, rng=np.random.Generator(np.random.MT19937(6)),
        callbacks=[*others, stopping, watching, lowering], progress=False,
    )  # fmt: skip
    return model, stopping, watching, lowering


def checkpoints():
    """Write both checkpoints; return what the training gives that is not broken off."""
    rng = np.random.default_rng(24)
    x = rng.standard_normal((52, 4, 3, 1), np.float32)
    labels = (x[:, 1:3, :, 0].sum(axis=(1, 2)) + rng.standard_normal(52) > 0).astype(np.int64)
    checkpoint, within = (lc.callbacks.Checkpoint(FOLDER / f"checkpoint_{name}.npz") for name in ("epoch", "batch"))
    train(x, labels, 5, checkpoint)
    train(x, labels, 30, Stop(28), within)
    model, stopping, watching, lowering = train(x, labels, 30)
    figures = {f"history_{name}": values for name, values in model.history.history.items()}
    best = {"best": stopping.best, "best_epochs": [stopping.best_epoch, watching.best_epoch], "lr": lowering.lr}
    return {"x": x, "labels": labels, "y": model(x), "weights": joined(model), **figures, **best}


def joined(model):
    """All weights of a model in one array; a member of a file for each would be larger than they are."""
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


def main():
    """Write the files."""
    rng, expected = np.random.default_rng(2), {}
    for model in (model_2d(rng), model_1d(rng), model_3d(rng), for_keras(rng)):
        x = rng.standard_normal((3, *model.input_shape[1:])).astype(np.float32)
        # Biases are not all 0, nor is a weight what its initializer would give again.
        model.set_weights([weight + 0.4 * rng.standard_normal(weight.shape) for weight in model.get_weights()])
        expected[model.name] = {"x": x, "y": model(x), "weights": joined(model)}
        if model.name == "keras":
            lc.save_keras_weights(model, FOLDER / "keras.weights.h5")
            continue
        model.save(FOLDER / f"{model.name}.npz")
        if model.name == "model":
            model.save_weights(FOLDER / "weights.npz")
    model, x = settings(), rng.standard_normal((3, 3)).astype(np.float32)
    model.set_weights([rng.standard_normal(weight.shape) for weight in model.get_weights()])
    model.save(FOLDER / "settings.npz")
    y = np.stack([layer(x) for layer in model.layers])
    expected["settings"] = {"x": x, "y": y, "weights": joined(model)}
    expected["checkpoint"] = checkpoints()
    arrays = {f"{file}.{name}": array for file, entries in expected.items() for name, array in entries.items()}
    np.savez_compressed(FOLDER / "expected.npz", **arrays)


if __name__ == "__main__":
    main()
