"""Record results of tf_keras' layers that stand beside locally connected ones, as golden data for the tests.

Run in a separate environment, from this folder:

    pip install tensorflow-cpu==2.21.0 tf-keras==2.21.0
    python make_companions_golden.py

Each case holds x, dy, and Keras' y and dx; of BatchNormalization also the weights, the gradients of gamma and beta, the
output for inference, and the moving averages after three steps. Inputs are small integers, so that maxima have ties,
or multiples of 1/8. TensorFlow has no gradient of channels-first maxima on the CPU: there x is transposed around the
layer.
"""

import itertools
import json
import os
import pathlib

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
import tf_keras

FIRST, LAST = "channels_first", "channels_last"
LOWEST, NAN, INF = float(np.finfo(np.float32).min), float("nan"), float("inf")


def pooling():
    """Yield (class name, settings, shape of x) of poolings."""
    sizes = {1: [(2, None), (3, 2), (3, 1), (2, 3)], 2: [((2, 2), None), ((3, 3), (2, 2)), ((3, 2), (1, 2))]}
    shapes = {1: [(7, 3), (4, 1)], 2: [(7, 6, 2), (3, 5, 1)]}
    for kind, rank, padding, data_format in itertools.product(
        ("MaxPooling", "AveragePooling"), (1, 2), ("valid", "same"), (LAST, FIRST)
    ):
        for (pool_size, strides), shape in itertools.product(sizes[rank], shapes[rank]):
            settings = {"pool_size": pool_size, "strides": strides, "padding": padding, "data_format": data_format}
            yield f"{kind}{rank}D", settings, (2, *moved(shape, data_format))
    for kind, rank, data_format, keepdims in itertools.product(
        ("Max", "Average"), (1, 2), (LAST, FIRST), (True, False)
    ):
        shape = (2, *moved(shapes[rank][0], data_format))
        for keepdims in (True, False):
            yield f"Global{kind}Pooling{rank}D", {"data_format": data_format, "keepdims": keepdims}, shape


def moved(shape, data_format):
    """The shape of a sample with the channels where the data format has them."""
    return shape if data_format == LAST else (shape[-1], *shape[:-1])


OTHERS = [
    ("Reshape", {"target_shape": (3, 4)}, (2, 12)),
    ("Reshape", {"target_shape": (2, -1)}, (2, 3, 4)),
    ("Reshape", {"target_shape": (-1,)}, (2, 2, 3, 2)),
    ("ZeroPadding1D", {"padding": 2}, (2, 4, 3)),
    ("ZeroPadding1D", {"padding": (0, 1)}, (2, 4, 3)),
    ("ZeroPadding2D", {"padding": 1}, (2, 3, 4, 2)),
    ("ZeroPadding2D", {"padding": (1, 2), "data_format": FIRST}, (2, 3, 4, 2)),
    ("ZeroPadding2D", {"padding": ((0, 1), (2, 3))}, (2, 3, 4, 2)),
    ("UpSampling1D", {"size": 3}, (2, 4, 3)),
    ("UpSampling2D", {"size": 2}, (2, 3, 4, 2)),
    ("UpSampling2D", {"size": (1, 3), "data_format": FIRST}, (2, 3, 4, 2)),
    ("LeakyReLU", {}, (2, 24)),
    ("LeakyReLU", {"alpha": 0.1}, (2, 24)),
    ("ReLU", {}, (2, 24)),
    ("ReLU", {"max_value": 6.0}, (2, 24)),
    ("ReLU", {"max_value": 2.0}, (2, 24)),
    ("ReLU", {"negative_slope": 0.25}, (2, 24)),
    ("ReLU", {"threshold": 1.0}, (2, 24)),
    ("ReLU", {"max_value": 6.0, "negative_slope": 0.1, "threshold": 1.0}, (2, 24)),
    ("ReLU", {"max_value": 6.0, "negative_slope": 0.1}, (2, 24)),
    ("ReLU", {"max_value": 3.0, "negative_slope": 0.1}, (2, 24)),
    ("ELU", {}, (2, 24)),
    ("ELU", {"alpha": 0.3}, (2, 24)),
    ("Softmax", {}, (2, 3, 4)),
    ("Softmax", {"axis": 1}, (2, 3, 4)),
    ("Softmax", {"axis": [1, 2]}, (2, 3, 4)),
    ("Softmax", {"axis": [-1, 1]}, (2, 3, 2, 4)),
]

# What is not finite: values of x in place of random ones.
SPECIAL = [
    ("MaxPooling1D", {"pool_size": 3}, [1, NAN, 2, NAN, 1, 2, 2, 1, NAN, NAN, NAN, NAN, -INF, -INF, -INF]),
    ("MaxPooling1D", {"pool_size": 3, "strides": 2, "padding": "same"}, [NAN, 1, NAN, -INF, -INF, INF, NAN, INF]),
    ("AveragePooling1D", {"pool_size": 2, "strides": 1, "padding": "same"}, [1, NAN, 2, 5, INF, 1, -INF]),
    ("GlobalMaxPooling1D", {}, [1, NAN, 3]),
    ("GlobalMaxPooling1D", {}, [-INF, -INF, 3, 3]),
    ("GlobalAveragePooling1D", {}, [1, NAN, 3]),
    ("LeakyReLU", {}, [NAN, INF, -INF, 0]),
    ("ReLU", {}, [NAN, INF, -INF, 0]),
    ("ReLU", {"max_value": 6.0}, [NAN, INF, -INF, 0]),
    ("ReLU", {"negative_slope": 0.5}, [NAN, INF, -INF, 0]),
    ("ELU", {}, [NAN, INF, -INF, 0]),
]

# Settings, shape of x, dtype.
NORMALIZATIONS = [
    ({"axis": axis, "momentum": momentum, "epsilon": epsilon, "center": center, "scale": scale}, shape, dtype)
    for shape, axes, dtype in [
        ((6, 3), (-1,), "float32"), ((5, 4, 3), (-1, 1), "float32"), ((3, 4, 2, 3), (-1, 1, 2, (1, 3)), "float32"),
        ((2, 2, 3, 2, 3), (-1, 1, 3), "float32"), ((3, 4, 2, 3), (-1,), "float64"), ((1, 3), (-1,), "float32"),
        ((1, 1, 1, 3), (-1,), "float32"),
    ]
    for axis in axes
    for momentum, epsilon, center, scale in [
        (0.5, 1e-3, True, True), (0.9, 1e-5, False, True), (0.75, 0.1, True, False),
    ]
    if (momentum == 0.5) or axis in (-1, 1)
]  # fmt: skip


def layer_of(name, settings, dtype="float32"):
    """The Keras layer; an axis list is one of several, as in files."""
    axis = settings.get("axis")
    if name == "Softmax" and isinstance(axis, list):
        settings = {**settings, "axis": tuple(axis)}
    fused = {"fused": False} if name == "BatchNormalization" and axis == 2 else {}
    return getattr(tf_keras.layers, name)(**settings, **fused, dtype=dtype)


def gradients(layer, x, dy_of, *weights, **call):
    """Y, dy, dx and the gradients of weights."""
    x = tf.Variable(x)
    turned = getattr(layer, "data_format", LAST) == FIRST and type(layer).__name__.startswith("MaxPooling")
    if turned:
        config = {**layer.get_config(), "data_format": LAST, "name": None}
        last = type(layer).from_config(config)
        first_to_last = [0, *range(2, x.shape.rank), 1]
        back = [0, x.shape.rank - 1, *range(1, x.shape.rank - 1)]
    with tf.GradientTape() as tape:
        y = tf.transpose(last(tf.transpose(x, first_to_last)), back) if turned else layer(x, **call)
        dy = dy_of(y.shape).astype(x.dtype.as_numpy_dtype)
        total = tf.reduce_sum(y * dy)
    if turned:
        assert np.array_equal(y, layer(x))
    return y.numpy(), dy, *(g.numpy() for g in tape.gradient(total, [x, *weights]))


def main() -> None:
    """Write companions_golden.npz beside this file."""
    rng = np.random.default_rng(2021)
    numbers, cases = [], []

    def integers(shape):
        return rng.integers(-3, 4, shape)

    def counted(shape):
        return np.arange(1, np.prod(shape) + 1).reshape(shape)

    def add(name, settings, dtype, **record):
        assert all(array.dtype == dtype for array in record.values())
        numbers.extend(array.ravel() for array in record.values())
        shapes = {key: array.shape for key, array in record.items()}
        cases.append({"class_name": name, "settings": settings, "dtype": dtype, "shapes": shapes})

    for name, settings, shape in [*pooling(), *OTHERS]:
        low, high = (-9, -1) if len(cases) % 3 else (-2, 6)  # all negative in part: padding must not count as 0
        if name.endswith("LU"):
            low, high = -3, 8  # all kinks
        x = rng.integers(low, high, shape).astype("float32")
        y, dy, dx = gradients(layer_of(name, settings), x, integers)
        add(name, settings, "float32", x=x, y=y, dy=dy, dx=dx)
    for name, settings, values in SPECIAL:
        x = np.array(values, "float32").reshape(1, -1, 1)
        y, dy, dx = gradients(
            layer_of(name, settings), x, lambda shape: np.arange(1, np.prod(shape) + 1).reshape(shape)
        )
        add(name, settings, "float32", x=x, y=y, dy=dy, dx=dx)
    for settings, shape, dtype in NORMALIZATIONS:
        layer = layer_of("BatchNormalization", settings, dtype)
        layer.build((None, *shape[1:]))
        weights = [(rng.integers(1, 9, w.shape) / 8).astype(dtype) for w in layer.get_weights()]
        layer.set_weights(weights)
        batches = (rng.integers(-16, 17, (3, *shape)) / 8).astype(dtype)
        inference, dy_inference, dx_inference, *_ = gradients(layer, batches[0], integers, *layer.trainable_weights)
        record = {f"weight{number}": w for number, w in enumerate(layer.get_weights())}
        y, dy, dx, *grads = gradients(layer, batches[0], integers, *layer.trainable_weights, training=True)
        for batch in batches[1:]:
            layer(batch, training=True)
        record |= {f"grad{number}": g for number, g in enumerate(grads)}
        record |= dict(zip(("mean", "variance"), layer.get_weights()[-2:], strict=True))
        add("BatchNormalization", settings, dtype, x=batches, y=y, dy=dy, dx=dx, inference=inference,
            dy_inference=dy_inference, dx_inference=dx_inference, **record)  # fmt: skip
    info = json.dumps({"versions": [tf.__version__, tf_keras.__version__], "cases": cases}).encode()
    path = pathlib.Path(__file__).with_name("companions_golden.npz")
    # The arrays one after the other, as float64: small integers take little room.
    np.savez_compressed(path, numbers=np.concatenate(numbers, dtype=np.float64), cases=np.frombuffer(info, np.uint8))
    print(f"{len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
