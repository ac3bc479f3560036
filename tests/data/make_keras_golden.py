"""Record results of tf_keras' LocallyConnected2D as golden data for the tests.

Run in a separate environment, from this folder:

    pip install tensorflow-cpu==2.21.0 tf-keras==2.21.0
    python make_keras_golden.py

Each case holds x, kernel, bias, dy, and Keras' y, dx, dkernel, dbias: implementation 1, padding
"valid", channels_last. Inputs are multiples of 1/8, so that they are exact in float32.
"""

import json
import os
import pathlib

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
import tf_keras

# batch, input (H, W, C), filters, kernel, strides, activation, use_bias, dtype
CASES = [
    (2, (6, 5, 3), 4, (3, 3), (1, 1), "linear", True, "float32"),
    (2, (6, 5, 3), 4, (3, 3), (1, 1), "linear", False, "float32"),
    (2, (6, 5, 3), 4, (3, 3), (1, 1), "relu", True, "float32"),
    (2, (6, 5, 3), 4, (3, 3), (1, 1), "tanh", True, "float32"),
    (2, (6, 5, 3), 4, (3, 3), (1, 1), "sigmoid", True, "float32"),
    (2, (6, 5, 3), 4, (3, 3), (1, 1), "softmax", True, "float32"),
    (1, (7, 4, 2), 3, (2, 3), (1, 1), "linear", True, "float32"),
    (3, (7, 4, 2), 3, (3, 2), (2, 1), "linear", True, "float32"),
    (2, (8, 9, 1), 2, (2, 3), (3, 2), "relu", True, "float32"),
    (2, (9, 9, 2), 3, (2, 2), (4, 3), "linear", True, "float32"),
    (2, (4, 4, 5), 1, (1, 1), (1, 1), "linear", True, "float32"),
    (2, (5, 5, 5), 6, (1, 1), (2, 2), "tanh", True, "float32"),
    (4, (3, 4, 2), 5, (3, 4), (1, 1), "linear", True, "float32"),
    (2, (3, 4, 1), 1, (2, 2), (1, 1), "linear", True, "float32"),
    (2, (5, 4, 2), 19, (2, 2), (1, 1), "softmax", True, "float32"),
    (1, (4, 12, 3), 8, (4, 3), (1, 2), "sigmoid", False, "float32"),
    (5, (12, 4, 1), 7, (5, 1), (1, 1), "relu", True, "float32"),
    (2, (8, 6, 4), 3, (3, 3), (2, 2), "linear", True, "float32"),
    (2, (6, 5, 3), 4, (3, 3), (1, 1), "linear", True, "float64"),
    (2, (6, 5, 3), 4, (3, 2), (1, 2), "tanh", True, "float64"),
    (2, (6, 5, 3), 4, (2, 3), (2, 1), "softmax", True, "float64"),
    (1, (5, 6, 2), 3, (3, 3), (1, 1), "relu", False, "float64"),
    (3, (5, 6, 2), 3, (2, 2), (1, 1), "sigmoid", True, "float64"),
    (2, (10, 10, 1), 2, (7, 7), (3, 3), "linear", True, "float64"),
]


def main() -> None:
    """Write keras_golden.npz beside this file."""
    rng = np.random.default_rng(2021)
    arrays, cases = {}, []
    for number, (batch, shape, filters, kernel, strides, activation, use_bias, dtype) in enumerate(CASES):
        layer = tf_keras.layers.LocallyConnected2D(
            filters, kernel, strides, activation=activation, use_bias=use_bias, dtype=dtype
        )
        layer.build((None, *shape))
        weights = [rng.integers(-8, 9, w.shape) / 8 for w in layer.get_weights()]
        layer.set_weights(weights)
        x = tf.Variable((rng.integers(-8, 9, (batch, *shape)) / 8).astype(dtype))
        with tf.GradientTape() as tape:
            y = layer(x)
            dy = (rng.integers(-8, 9, y.shape) / 8).astype(dtype)
            total = tf.reduce_sum(y * dy)
        dx, *dweights = tape.gradient(total, [x, *layer.trainable_weights])
        record = {"x": x.numpy(), "dy": dy, "y": y.numpy(), "dx": dx.numpy()}
        for name, weight, gradient in zip(("kernel", "bias"), layer.get_weights(), dweights, strict=False):
            record[name], record[f"d{name}"] = weight, gradient.numpy()
        arrays |= {f"{number}_{name}": value for name, value in record.items()}
        config = layer.get_config()
        keys = ("filters", "kernel_size", "strides", "activation", "use_bias", "dtype")
        cases.append({key: config[key] for key in keys})
    cases_json = json.dumps({"versions": [tf.__version__, tf_keras.__version__], "cases": cases})
    arrays["cases"] = np.frombuffer(cases_json.encode(), np.uint8)
    np.savez_compressed(pathlib.Path(__file__).with_name("keras_golden.npz"), **arrays)


if __name__ == "__main__":
    main()
