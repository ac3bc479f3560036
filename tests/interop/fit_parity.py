"""Compare training with tf_keras: the same network, data and settings, epoch by epoch.

In an environment of its own, with this library installed:

    pip install tensorflow-cpu==2.21.0 tf-keras==2.21.0
    python tests/interop/fit_parity.py

Every loss, optimizer, way to weight samples and way to clip is taken in turn, in float64, without shuffling. Compared
are the whole history, validation included, the weights at the end, `evaluate` and `train_on_batch`, to 1e-7 of the
largest magnitude.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tf_keras

import lcnumba as lc

TOLERANCE = 1e-7
# Rates and coefficients are exact in float32; a small epsilon would amplify the rounding of gradients near 0.
RATE, EPSILON = 0.0625, 2.0**-10
LOSSES = {
    "mse": (lambda: "mse", lambda: "mse", "numbers", None),
    "mae": (lambda: "mae", lambda: "mae", "numbers", None),
    "huber": (lambda: lc.losses.Huber(0.5), lambda: tf_keras.losses.Huber(0.5), "numbers", None),
    "binary": (lambda: "binary_crossentropy", lambda: "binary_crossentropy", "binary", "sigmoid"),
    "binary logits": (
        lambda: lc.losses.BinaryCrossentropy(True), lambda: tf_keras.losses.BinaryCrossentropy(True), "binary", None
    ),
    "sparse": (
        lambda: "sparse_categorical_crossentropy", lambda: "sparse_categorical_crossentropy", "labels", "softmax"
    ),
    "sparse logits": (
        lambda: "softmax_cross_entropy", lambda: tf_keras.losses.SparseCategoricalCrossentropy(True), "labels", None
    ),
    "categorical": (lambda: "categorical_crossentropy", lambda: "categorical_crossentropy", "one-hot", "softmax"),
}  # fmt: skip
OPTIMIZERS = {
    "sgd": (lambda: "sgd", lambda **clip: tf_keras.optimizers.SGD(RATE, **clip)),
    "nesterov": (
        lambda: lc.SGD(momentum=0.5, nesterov=True),
        lambda **clip: tf_keras.optimizers.SGD(RATE, momentum=0.5, nesterov=True, **clip)
    ),
    "adam": (
        lambda: lc.Adam(beta_1=0.875, beta_2=0.96875, epsilon=EPSILON),
        lambda **clip: tf_keras.optimizers.Adam(RATE, 0.875, 0.96875, EPSILON, **clip),
    ),
    "adamw": (
        lambda: lc.AdamW(beta_1=0.875, beta_2=0.96875, epsilon=EPSILON, weight_decay=0.25),
        lambda **clip: tf_keras.optimizers.AdamW(RATE, 0.25, 0.875, 0.96875, EPSILON, **clip),
    ),
    "rmsprop": (
        lambda: lc.RMSprop(rho=0.875, epsilon=EPSILON),
        lambda **clip: tf_keras.optimizers.legacy.RMSprop(RATE, 0.875, epsilon=EPSILON, **clip),
    ),
}  # fmt: skip
CLIPS = ({}, {"clip_value": 0.001}, {"clip_norm": 0.01})
CLIP_NAMES = {"clip_value": "clipvalue", "clip_norm": "global_clipnorm"}


def networks(activation, regularized):
    """Return the same network in both libraries, with equal weights."""
    penalty = "l2" if regularized else None
    mine = lc.Sequential(
        [
            lc.LocallyConnected2D(3, 2, strides=2, activation="tanh", kernel_regularizer=penalty, dtype="float64",
                                  activity_regularizer=penalty, input_shape=(5, 4, 2), fans="window", rng=0),
            lc.Flatten(),
            lc.Dense(3, activation=activation, dtype="float64", rng=0),
        ]
    )  # fmt: skip
    layers = tf_keras.layers
    theirs = tf_keras.Sequential(
        [
            layers.LocallyConnected2D(3, 2, strides=2, activation="tanh", kernel_regularizer=penalty,
                                      activity_regularizer=penalty, input_shape=(5, 4, 2)),
            layers.Flatten(),
            layers.Dense(3, activation=activation),
        ]
    )  # fmt: skip
    theirs.set_weights(mine.get_weights())
    return mine, theirs


def targets(kind, rng, n):
    """Return targets of a kind."""
    labels = rng.integers(0, 3, n)
    return {"numbers": rng.standard_normal((n, 3)), "binary": rng.integers(0, 2, (n, 3)).astype(float),
            "labels": labels, "one-hot": np.eye(3)[labels]}[kind]  # fmt: skip


def difference(a, b):
    """Return the largest difference, relative to the largest magnitude."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return float(np.max(np.abs(a - b)) / max(1e-12, np.max(np.abs(b))))


def compare(loss, optimizer, clip, weighting, regularized):
    """Return the largest difference between the two trainings."""
    rng = np.random.default_rng(3)
    my_loss, their_loss, kind, activation = LOSSES[loss]
    my_optimizer, their_optimizer = OPTIMIZERS[optimizer]
    mine, theirs = networks(activation, regularized)
    x, y = rng.standard_normal((26, 5, 4, 2)), targets(kind, rng, 26)
    data, settings = (x, y), {"batch_size": 6, "epochs": 3, "shuffle": False}
    if weighting == "samples":
        settings["sample_weight"] = rng.random(26)
    if weighting == "classes":
        settings["class_weight"] = {0: 0.5, 1: 2.0, 2: 1.0}
    if weighting == "split":
        settings["validation_split"] = 0.25
    if weighting == "validation":
        settings["validation_data"] = (x[:9], y[:9], rng.random(9))
    mine.compile(my_optimizer(), my_loss(), ["mae"] if kind == "numbers" else [], lr=RATE, **clip)
    theirs.compile(their_optimizer(**{CLIP_NAMES[name]: value for name, value in clip.items()}), their_loss(),
                   metrics=["mae"] if kind == "numbers" else [])  # fmt: skip
    my_history = mine.fit(*data, **settings, progress=False).history
    their_history = theirs.fit(*data, **settings, verbose=0).history
    found = [difference(my_history[name], their_history[name]) for name in their_history]
    found += [difference(a, b) for a, b in zip(mine.get_weights(), theirs.get_weights(), strict=True)]
    found.append(difference(mine.evaluate(x, y)["loss"], np.ravel(theirs.evaluate(x, y, verbose=0))[0]))
    found.append(difference(mine.train_on_batch(x, y)["loss"], np.ravel(theirs.train_on_batch(x, y))[0]))
    return max(found)


def main() -> int:
    tf_keras.backend.set_floatx("float64")
    tf.config.experimental.enable_op_determinism()
    cases = [(loss, "adam", {}, weighting, False) for loss in LOSSES for weighting in ("", "samples", "validation")]
    cases += [("mse", optimizer, clip, "", False) for optimizer in OPTIMIZERS for clip in CLIPS]
    cases += [("sparse logits", "nesterov", {}, weighting, True) for weighting in ("", "classes", "split", "samples")]
    cases += [("categorical", "adam", {}, "classes", False)]
    bad = 0
    for case in cases:
        found = compare(*case)
        if not found <= TOLERANCE:
            bad += 1
            print(*case, f"differs by {found:.1e}")
    print(f"{len(cases)} trainings compared, {bad} differences")
    return bad


if __name__ == "__main__":
    tf_keras.utils.set_random_seed(0)
    sys.exit(bool(main()))
