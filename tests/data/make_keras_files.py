"""Save small tf_keras models in all formats, with their predictions, as test data.

Run in a separate environment, from this folder:

    pip install tensorflow-cpu==2.21.0 tf-keras==2.21.0
    python make_keras_files.py

Each model is saved as ``NAME.h5`` (model), ``NAME.keras``, ``NAME.weights.h5`` and ``NAME_weights.h5`` (legacy
weights); inputs and predictions are in predictions.npz. Three models cannot be loaded, only their layers: a nested one,
one of a custom class, which is saved in three formats, and one with a softmax over the width.
"""

import os
import pathlib

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tf_keras
from tf_keras import layers

FOLDER = pathlib.Path(__file__).parent / "keras"


def local(rank, *arguments, **settings):
    """A locally connected layer with random weights and biases."""
    cls = {1: layers.LocallyConnected1D, 2: layers.LocallyConnected2D}[rank]
    return cls(*arguments, kernel_initializer="random_normal", bias_initializer="random_normal", **settings)


MODELS = {
    "digits": [
        local(2, 3, 3, activation="relu", input_shape=(6, 5, 2), name="first"), layers.Dropout(0.5),
        local(2, 2, (2, 3), padding="same", implementation=3, activation="gelu", name="second"),
        layers.Flatten(), layers.Dense(4, kernel_regularizer="l2", name="third"), layers.Activation("softmax"),
    ],
    "genes": [
        local(1, 2, 3, strides=2, input_shape=(11, 3), implementation=2, padding="same"), layers.Activation("tanh"),
        local(1, 4, 2, activation="selu", use_bias=False), layers.Flatten(), layers.Dense(1, use_bias=False),
    ],
    "first_axis": [
        layers.InputLayer(input_shape=(2, 6, 5)),
        local(2, 3, 2, data_format="channels_first", activation="elu"),
        local(2, 2, 3, data_format="channels_first", implementation=2, kernel_constraint="max_norm"),
        local(2, 2, 2, data_format="channels_first", implementation=3, padding="same", activity_regularizer="l1"),
        layers.Flatten(data_format="channels_first"), layers.Dense(2),
    ],
}  # fmt: skip


class Own(tf_keras.Model):
    """A model of a custom class, with layers as attributes and in a list."""

    def __init__(self):
        super().__init__()
        self.local = local(1, 2, 3, name="mine")
        self.many = [layers.Flatten(), layers.Dense(3), layers.Dense(2)]
        self.last = tf_keras.Sequential([layers.Dense(1, name="deep")])

    def call(self, x):
        """Apply the layers."""
        x = self.local(x)
        for layer in self.many:
            x = layer(x)
        return self.last(x)


def others() -> None:
    """Write the files of models that cannot be loaded as a whole."""
    inner = [local(1, 2, 3, input_shape=(8, 1), name="sub"), layers.ReLU(), local(1, 1, 2, name="sub2")]
    parts = [tf_keras.Sequential(inner, name="inner"), layers.Flatten(), layers.Dense(1, name="out")]
    nested = tf_keras.Sequential(parts, name="outer")
    own = Own()
    own(np.zeros((1, 8, 1), "float32"))
    width = tf_keras.Sequential([local(2, 2, 2, data_format="channels_first", activation="softmax",
                                       input_shape=(2, 4, 3), name="wide")])  # fmt: skip
    for name, model in (("nested", nested), ("own", own), ("width", width)):
        model.save(FOLDER / f"{name}.keras")
        model.save_weights(FOLDER / f"{name}.weights.h5")
        if model is own:
            model.save_weights(FOLDER / f"{name}_weights.h5", save_format="h5")
        else:
            model.save(FOLDER / f"{name}.h5")


def branches() -> None:
    """Write the files of a functional model of two branches, and predictions of it and of some of the others."""
    tf_keras.utils.set_random_seed(2021)
    image = layers.Input((8, 6, 2), name="image")
    left = layers.Flatten()(local(2, 3, 3, activation="hard_sigmoid", name="left")(image))
    right = local(2, 2, 2, padding="same", implementation=3, strides=2, kernel_regularizer="l2", name="right")(image)
    right = layers.Flatten()(layers.BatchNormalization()(right))
    inner_input = layers.Input((6, 4))
    inner = local(1, 2, 3, implementation=2, activation="tanh")(layers.ReLU()(inner_input))
    middle = layers.Reshape((6, 4))(layers.AveragePooling2D((4, 2))(layers.Conv2D(4, 1)(image)))
    middle = layers.Flatten()(tf_keras.Model(inner_input, inner, name="encoder")(middle))
    y = layers.Dense(3, activation="softmax")(layers.Concatenate()([left, right, middle]))
    model = tf_keras.Model(image, y, name="branches")
    model.compile("adam", "mse")
    rng, arrays = np.random.default_rng(2021), {}
    x = rng.standard_normal((16, 8, 6, 2)).astype("float32")
    model.fit(x, np.zeros((16, 3)), epochs=20, verbose=0)  # so that moving statistics differ from their initial values
    model.save(FOLDER / "branches.h5")
    model.save(FOLDER / "branches.keras")
    model.save_weights(FOLDER / "branches.weights.h5")
    model.save_weights(FOLDER / "branches_weights.h5", save_format="h5")
    for name in ("branches", "nested", "width"):
        model = tf_keras.models.load_model(FOLDER / f"{name}.keras", compile=False)
        arrays[f"{name}_x"] = rng.standard_normal((3, *model.input_shape[1:])).astype("float32")
        arrays[f"{name}_y"] = model.predict(arrays[f"{name}_x"], verbose=0)
    np.savez_compressed(FOLDER / "more_predictions.npz", **arrays)


COMPANIONS = {
    "companions": [
        layers.ZeroPadding2D(((1, 0), (0, 1)), input_shape=(8, 6, 2)), local(2, 3, 2, name="local"),
        layers.BatchNormalization(momentum=0.5), layers.LeakyReLU(0.1), layers.MaxPooling2D(2, padding="same"),
        layers.UpSampling2D((2, 1)), layers.AveragePooling2D((2, 1), 1), layers.BatchNormalization(scale=False),
        layers.ReLU(6.0, 0.1, 0.25), layers.GlobalAveragePooling2D(), layers.Dense(4), layers.Softmax(),
    ],
    "sequence": [
        layers.Reshape((12, -1), input_shape=(24,)), layers.ZeroPadding1D((0, 2)), local(1, 3, 3, name="local"),
        layers.BatchNormalization(axis=1, momentum=0.5, gamma_regularizer="l2"), layers.ELU(0.5),
        layers.MaxPooling1D(2, 1, "same"), layers.AveragePooling1D(3), layers.UpSampling1D(2),
        layers.GlobalMaxPooling1D(keepdims=True), layers.Flatten(), layers.BatchNormalization(center=False),
        layers.Dense(3), layers.Softmax(axis=-1),
    ],
    "planes": [
        local(2, 4, 3, data_format="channels_first", input_shape=(2, 8, 7)), layers.BatchNormalization(axis=1),
        layers.ZeroPadding2D(1, data_format="channels_first"), layers.Softmax(axis=(1, 2)),
        layers.MaxPooling2D(3, 2, "same", data_format="channels_first"),
        layers.UpSampling2D(2, data_format="channels_first"), layers.GlobalMaxPooling2D("channels_first"),
    ],
}  # fmt: skip


def companions() -> None:
    """Write the files of models with all layers that stand beside locally connected ones, and their predictions."""
    tf_keras.utils.set_random_seed(2021)
    rng, arrays = np.random.default_rng(2021), {}
    for name, parts in COMPANIONS.items():
        model = tf_keras.Sequential(parts, name=name)
        model.set_weights([rng.integers(1, 9, w.shape) / 8 for w in model.get_weights()])
        model.save(FOLDER / f"{name}.h5")
        model.save(FOLDER / f"{name}.keras")
        model.save_weights(FOLDER / f"{name}.weights.h5")
        model.save_weights(FOLDER / f"{name}_weights.h5", save_format="h5")
        x = rng.standard_normal((3, *model.input_shape[1:])).astype("float32")
        arrays[f"{name}_x"], arrays[f"{name}_y"] = x, model.predict(x, verbose=0)
    np.savez_compressed(FOLDER / "companions_predictions.npz", **arrays)


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    others()
    branches()
    companions()
    tf_keras.utils.set_random_seed(2021)
    rng, arrays = np.random.default_rng(2021), {}
    for name, parts in MODELS.items():
        model = tf_keras.Sequential(parts, name=name)
        model.compile("adam", "mse")
        x = rng.standard_normal((3, *model.input_shape[1:])).astype("float32")
        model.fit(x, np.zeros((3, *model.output_shape[1:])), verbose=0)  # so that the optimizer has state
        model.save(FOLDER / f"{name}.h5")
        model.save(FOLDER / f"{name}.keras")
        model.save_weights(FOLDER / f"{name}.weights.h5")
        model.save_weights(FOLDER / f"{name}_weights.h5", save_format="h5")
        arrays[f"{name}_x"], arrays[f"{name}_y"] = x, model.predict(x, verbose=0)
    np.savez_compressed(FOLDER / "predictions.npz", **arrays)


if __name__ == "__main__":
    main()
