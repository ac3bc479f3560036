"""Save small tf_keras models of published shapes, with their predictions and losses of training, as test data.

Run in a separate environment, from this folder:

    pip install tensorflow-cpu==2.21.0 tf-keras==2.21.0
    python make_keras_models.py

In the folder keras_models, each model is ``NAME.h5`` and ``NAME.keras``; training.npz has inputs, targets, the losses
of ten steps of training, and predictions before and after them. The sizes are those of `MODELS`, scaled down;
`tests/interop/keras_models.py` takes the published ones.
"""

import json
import os
import pathlib

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers as kl

FOLDER = pathlib.Path(__file__).parent / "keras_models"
FIRST = "channels_first"
STEPS = 10
# The fresh optimizer that goes on with a loaded model: class name, learning rate, other settings.
SGD = ("SGD", 0.01, {"momentum": 0.9})
# With a larger rate, rounding alone moves the predictions of ten layers by more than 1e-3 in ten steps.
SLOW = ("SGD", 0.001, {"momentum": 0.9})
PLAIN = ("SGD", 0.01, {})
NESTEROV = ("SGD", 0.01, {"momentum": 0.5, "nesterov": True})
ADAM = ("Adam", 0.001, {})
LABELS, BINARY, NUMBERS = "sparse_categorical_crossentropy", "binary_crossentropy", "mse"


def deepface(size, windows, filters, hidden, classes):
    """DeepFace: faces, two convolutions and three locally connected layers."""
    first, second, *local = windows
    return [
        kl.Conv2D(filters[0], first, activation="relu", input_shape=(size, size, 3), name="C1"),
        kl.MaxPooling2D(3, 2, "same", name="M2"), kl.Conv2D(filters[1], second, activation="relu", name="C3"),
        kl.LocallyConnected2D(filters[1], local[0], activation="relu", name="L4"),
        kl.LocallyConnected2D(filters[1], local[1], 2, activation="relu", name="L5"),
        kl.LocallyConnected2D(filters[1], local[2], activation="relu", name="L6"),
        kl.Flatten(name="F0"), kl.Dense(hidden, activation="relu", name="F7"), kl.Dropout(0.0, name="D0"),
        kl.Dense(classes, activation="softmax", name="F8"),
    ]  # fmt: skip


def yolo(size, filters, local, outputs):
    """A detector in YOLO's manner, with its locally connected layer before the last."""
    parts = [kl.InputLayer(input_shape=(size, size, 3))]
    for count in filters:
        parts += [
            kl.Conv2D(count, 3, padding="same", use_bias=False), kl.BatchNormalization(), kl.LeakyReLU(0.1),
            kl.MaxPooling2D(),
        ]  # fmt: skip
    return [*parts, kl.LocallyConnected2D(local, 3), kl.LeakyReLU(0.1), kl.Flatten(), kl.Dense(outputs)]


def emg(steps, channels, filters, classes):
    """Sequences of several electrodes."""
    return [
        kl.Conv1D(filters, 5, activation="relu", padding="same", input_shape=(steps, channels)),
        kl.LocallyConnected1D(filters, 3), kl.BatchNormalization(), kl.Activation("relu"), kl.MaxPooling1D(2),
        kl.Dropout(0.0), kl.Conv1D(filters, 3, strides=2), kl.Flatten(),
        kl.Dense(classes, activation="softmax"),
    ]  # fmt: skip


def genomics(variants, window):
    """Genotypes: windows that do not overlap, one after the other."""
    return [
        kl.LocallyConnected1D(1, window, window, activation="tanh", input_shape=(variants, 1)),
        kl.BatchNormalization(center=False, scale=False),
        kl.LocallyConnected1D(2, window, window, activation="relu", implementation=3), kl.Flatten(),
        kl.Dense(1, activation="sigmoid", kernel_regularizer="l2"),
    ]  # fmt: skip


def discriminator(size, filters):
    """The discriminator of a generative network of calorimeter images."""
    parts = [kl.Conv2D(filters, 5, padding="same", input_shape=(size, size, 1)), kl.LeakyReLU()]
    for padding, window, strides in ((2, 5, 2), (2, 5, 1), (1, 3, 1)):
        parts += [
            kl.ZeroPadding2D(padding), kl.LocallyConnected2D(filters // 2, window, strides), kl.LeakyReLU(),
            kl.BatchNormalization(), kl.Dropout(0.0),
        ]  # fmt: skip
    return [*parts, kl.AveragePooling2D(2), kl.Flatten(), kl.Dense(1, activation="sigmoid")]


def autoencoder(size, filters):
    """Images that are made smaller and larger again."""
    return [
        kl.Conv2D(filters, 3, 2, "same", activation="relu", input_shape=(size, size, 1)),
        kl.LocallyConnected2D(filters, 3, activation="elu"), kl.ZeroPadding2D(1), kl.UpSampling2D(2),
        kl.Conv2D(filters, 4, padding="same", activation="relu"),
        kl.ZeroPadding2D(((0, 1), (1, 0))), kl.Conv2D(1, 2, activation="sigmoid"),
    ]  # fmt: skip


def generator(size, filters, noise):
    """Images from noise."""
    return [
        kl.Dense(size * size * filters, input_shape=(noise,)), kl.Reshape((size, size, filters)), kl.LeakyReLU(0.2),
        kl.BatchNormalization(), kl.UpSampling2D(2),
        kl.LocallyConnected2D(filters, 3, activation="relu", use_bias=False),
        kl.ZeroPadding2D(1), kl.Conv2D(1, 3, padding="same", activation="tanh"),
    ]  # fmt: skip


def averages(size, filters, classes):
    """Images, averaged."""
    return [
        kl.Conv2D(filters, 3, activation="tanh", input_shape=(size, size, 1)), kl.AveragePooling2D(2),
        kl.LocallyConnected2D(filters, 3, activation="tanh", padding="same", implementation=3),
        kl.AveragePooling2D(3, 2, "same"), kl.Conv2D(classes, 1), kl.GlobalAveragePooling2D(),
        kl.Activation("softmax"),
    ]  # fmt: skip


def sequence(steps, channels, filters, classes):
    """Sequences: the maximum over time."""
    return [
        kl.ZeroPadding1D((4, 0), input_shape=(steps, channels)), kl.Conv1D(filters, 3, dilation_rate=2), kl.ReLU(),
        kl.AveragePooling1D(2), kl.UpSampling1D(2), kl.LocallyConnected1D(filters, 4, 2, activation="selu"),
        kl.GlobalMaxPooling1D(), kl.Dense(classes, activation="softmax"),
    ]  # fmt: skip


def activations(size, filters, classes):
    """Activations as layers."""
    return [
        kl.LocallyConnected2D(filters, 3, input_shape=(size, size, 2)), kl.ELU(0.5),
        kl.Conv2D(filters, 3, groups=2, padding="same"), kl.ReLU(6.0, 0.1), kl.BatchNormalization(momentum=0.9),
        kl.Activation("swish"), kl.GlobalMaxPooling2D(), kl.Dense(classes), kl.Softmax(),
    ]  # fmt: skip


def planes(height, width, filters, classes):
    """Channels first."""
    return [
        kl.InputLayer(input_shape=(2, height, width)),
        kl.Conv2D(filters, 3, padding="same", data_format=FIRST, activation="relu"), kl.BatchNormalization(axis=1),
        kl.ZeroPadding2D(1, data_format=FIRST), kl.LocallyConnected2D(filters, 3, 2, data_format=FIRST),
        kl.LeakyReLU(), kl.UpSampling2D((1, 2), data_format=FIRST), kl.Flatten(data_format=FIRST),
        kl.Dense(classes, activation="softmax"),
    ]  # fmt: skip


def cortex(size, filters, classes):
    """An input layer first, and locally connected layers with padding "same"."""
    same = {"padding": "same", "activation": "relu"}
    return [
        kl.InputLayer(input_shape=(size, size, 3), name="retina"), kl.BatchNormalization(),
        kl.LocallyConnected2D(filters, 3, 2, implementation=2, **same), kl.MaxPooling2D(),
        kl.LocallyConnected2D(filters, 3, implementation=3, **same), kl.BatchNormalization(),
        kl.GlobalAveragePooling2D(), kl.Dense(classes, activation="softmax"),
    ]  # fmt: skip


def activation_only(size):
    """No weights."""
    return [kl.Activation("tanh", input_shape=(size, size, 1))]


# Function; its arguments, scaled down and published; optimizer, loss.
MODELS = {
    "deepface": (deepface, (28, (5, 3, 3, 3, 3), (4, 3), 16, 6),
                 (152, (11, 9, 9, 7, 5), (32, 16), 4096, 8631), PLAIN, LABELS),
    "yolo": (yolo, (16, (3, 4), 4, 6), (224, (16, 32, 64, 128, 256), 64, 1470), SLOW, NUMBERS),
    "emg": (emg, (20, 4, 4, 5), (150, 16, 64, 52), ADAM, LABELS),
    "genomics": (genomics, (225, 5), (20_000, 10), ADAM, BINARY),
    "discriminator": (discriminator, (11, 4), (25, 32), ADAM, BINARY),
    "autoencoder": (autoencoder, (12, 3), (64, 16), SGD, NUMBERS),
    "generator": (generator, (4, 3, 8), (14, 32, 100), ADAM, NUMBERS),
    "averages": (averages, (14, 4, 4), (64, 8, 10), NESTEROV, LABELS),
    "sequence": (sequence, (20, 3, 4, 5), (128, 9, 64, 6), SGD, LABELS),
    "activations": (activations, (8, 4, 4), (32, 32, 10), ADAM, LABELS),
    "planes": (planes, (8, 7, 4, 5), (32, 28, 16, 10), SGD, LABELS),
    "cortex": (cortex, (8, 3, 4), (32, 8, 10), ADAM, LABELS),
    "activation_only": (activation_only, (5,), (64,), PLAIN, NUMBERS),
}  # fmt: skip


def make(name, arguments, rng):
    """A model of random weights, moving averages included."""
    model = tf_keras.Sequential(MODELS[name][0](*arguments), name=name)
    for layer in model.layers:
        weights = layer.get_weights()
        channels = layer.input_shape[1 if getattr(layer, "data_format", "") == FIRST else -1]
        connections = np.prod(getattr(layer, "kernel_size", 1)) * channels
        for number, weight in enumerate(weights):
            if isinstance(layer, kl.BatchNormalization):
                weights[number] = rng.integers(4, 12, weight.shape) / 8
            elif number:
                weights[number] = rng.integers(-2, 3, weight.shape) / 8
            else:
                weights[number] = rng.standard_normal(weight.shape, "float32") * np.float32((2 / connections) ** 0.5)
        layer.set_weights(weights)
    return model


def data(model, loss, batches, size, rng):
    """Inputs, in eighths as int8, and targets."""
    n = batches * size
    x = rng.integers(-8, 9, (n, *model.input_shape[1:])).astype("int8")
    if loss == LABELS:
        return x, rng.integers(0, model.output_shape[-1], n)
    if loss == BINARY:
        return x, rng.integers(0, 2, (n, 1)).astype("float32")
    return x, rng.integers(-4, 5, (n, *model.output_shape[1:])).astype("float32") / 4


def losses(model, name, x, targets, steps, size):
    """The losses of steps on one batch after the other, from the beginning again after the last."""
    kind, rate, settings = MODELS[name][3]
    # Channels first, TensorFlow's CPU convolves eagerly alone.
    model.compile(getattr(tf_keras.optimizers, kind)(rate, **settings), MODELS[name][4], run_eagerly=name == "planes")
    found = []
    for step in range(steps):
        at = step * size % len(x)
        found.append(model.train_on_batch(x[at : at + size] / np.float32(8), targets[at : at + size]))
    return np.array(found)


def predictions(model, x):
    """The output for inputs in eighths."""
    return np.asarray(model(tf.constant(x / np.float32(8)), training=False))


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    rng, arrays, size = np.random.default_rng(2021), {}, 8
    for name, (_, arguments, *_) in MODELS.items():
        model = make(name, arguments, rng)
        model.save(FOLDER / f"{name}.h5")
        model.save(FOLDER / f"{name}.keras")
        x, targets = data(model, MODELS[name][4], 3, size, rng)
        arrays |= {f"{name}_x": x, f"{name}_targets": targets, f"{name}_y": predictions(model, x[:size])}
        arrays[f"{name}_losses"] = losses(model, name, x, targets, STEPS, size)
        arrays[f"{name}_trained"] = predictions(model, x[:size])
        print(name, model.count_params(), arrays[f"{name}_losses"].round(3))
    info = {name: {"optimizer": optimizer, "loss": loss} for name, (*_, optimizer, loss) in MODELS.items()}
    arrays["info"] = np.frombuffer(json.dumps(info).encode(), np.uint8)
    np.savez_compressed(FOLDER / "training.npz", **arrays)
    print(sum(path.stat().st_size for path in FOLDER.iterdir()), "bytes")


if __name__ == "__main__":
    main()
