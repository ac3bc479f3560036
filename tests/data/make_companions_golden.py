"""Record results of tf_keras' layers that stand beside locally connected ones, as golden data for the tests.

Run in a separate environment, from this folder:

    pip install tensorflow-cpu==2.21.0 tf-keras==2.21.0
    python make_companions_golden.py

Each case holds x, dy, and Keras' y and dx; of BatchNormalization also the weights, the gradients of gamma and beta, the
output for inference, and the moving averages after three steps; of convolutions the weights and their gradients.
Inputs are small integers, so that maxima have ties, or multiples of 1/8. TensorFlow has no gradient of channels-first
maxima on the CPU: there x is transposed around the layer. A case named Sequential is a model: its batches and targets,
the weights before and after a step of SGD with each batch, and the losses.
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


def convolutions():
    """Yield (class name, settings, shape of x, dtype) of convolutions."""
    shapes = {1: [(9, 4), (4, 4)], 2: [(7, 6, 4), (5, 4, 4)]}
    sizes = {1: [(3,), (4,), (1,)], 2: [(3, 3), (2, 4), (1, 1)]}
    steps = {1: [((1,), (1,)), ((2,), (1,)), ((3,), (1,)), ((1,), (2,))],
             2: [((1, 1), (1, 1)), ((2, 2), (1, 1)), ((3, 1), (1, 1)), ((1, 1), (1, 2))]}  # fmt: skip
    count = 0
    for rank, padding, data_format in itertools.product((1, 2), ("valid", "same"), (LAST, FIRST)):
        for kernel_size, (strides, dilation), shape in itertools.product(sizes[rank], steps[rank], shapes[rank]):
            spans = [1 + step * (size - 1) for size, step in zip(kernel_size, dilation, strict=True)]
            if padding == "valid" and any(span > n for span, n in zip(spans, shape, strict=False)):
                continue
            settings = {
                "filters": (4, 6, 2)[count % 3], "kernel_size": kernel_size, "strides": strides, "padding": padding,
                "data_format": data_format, "dilation_rate": dilation, "groups": (1, 2, 1, 1)[count % 4],
                "activation": ("linear", "relu")[count % 2], "use_bias": count % 5 != 0,
            }  # fmt: skip
            count += 1
            yield f"Conv{rank}D", settings, (2, *moved(shape, data_format)), "float32"
    for rank, activation in itertools.product((1, 2), ("tanh", "elu", "sigmoid", "softmax", "leaky_relu")):
        settings = {"filters": 3, "kernel_size": 3, "activation": activation, "padding": "same"}
        yield f"Conv{rank}D", settings, (2, *shapes[rank][1]), "float64"


# Layers as (class name, settings), shape of x, dtype, momentum of SGD. The loss is the mean squared error.
MODELS = [
    (
        [
            ("Conv2D", {"filters": 4, "kernel_size": 3, "padding": "same", "strides": 2, "activation": "relu"}),
            ("BatchNormalization", {"momentum": 0.5}), ("MaxPooling2D", {"pool_size": 2}), ("Flatten", {}),
            ("Dense", {"units": 3}),
        ],
        (6, 8, 9, 2), "float64", 0.0,
    ),
    (
        [
            ("Conv1D", {"filters": 4, "kernel_size": 4, "padding": "same", "use_bias": False}),
            ("BatchNormalization", {"momentum": 0.75}), ("Activation", {"activation": "relu"}),
            ("AveragePooling1D", {"pool_size": 3, "strides": 2, "padding": "same"}),
            ("Conv1D", {"filters": 2, "kernel_size": 2, "dilation_rate": 2, "groups": 2, "activation": "tanh"}),
            ("GlobalAveragePooling1D", {}),
        ],
        (5, 12, 3), "float64", 0.5,
    ),
    (
        [
            ("Conv2D", {"filters": 3, "kernel_size": (2, 3), "data_format": FIRST, "kernel_regularizer": "l2"}),
            ("BatchNormalization", {"axis": 1}), ("AveragePooling2D", {"pool_size": 2, "data_format": FIRST}),
            ("Conv2D", {"filters": 2, "kernel_size": 2, "data_format": FIRST, "padding": "same",
                        "kernel_constraint": {"class_name": "MaxNorm",
                                              "config": {"max_value": 0.5, "axis": [0, 1, 2]}}}),
            ("GlobalAveragePooling2D", {"data_format": FIRST}),
        ],
        (4, 2, 7, 8), "float32", 0.0,
    ),
    (
        [
            ("ZeroPadding1D", {"padding": (4, 0)}),
            ("Conv1D", {"filters": 3, "kernel_size": 3, "dilation_rate": 2, "activation": "relu"}),
            ("BatchNormalization", {}), ("MaxPooling1D", {"pool_size": 2}), ("Flatten", {}), ("Dense", {"units": 2}),
        ],
        (4, 8, 2), "float64", 0.0,
    ),
]  # fmt: skip
RATE = 0.0625


def train(layers, shape, dtype, momentum, rng):
    """Three steps of SGD: batches, targets, weights before and after, losses."""
    tf_keras.backend.set_floatx(dtype)  # that of the loss
    model = tf_keras.Sequential([layer_of(name, settings, dtype) for name, settings in layers])
    model.build((None, *shape[1:]))
    model.set_weights([rng.integers(1, 9, w.shape) / 8 - (w.ndim > 1) / 2 for w in model.get_weights()])
    record = {f"weight{number}": w for number, w in enumerate(model.get_weights())}
    x = (rng.integers(-8, 9, (3, *shape)) / 8).astype(dtype)
    targets = (rng.integers(-8, 9, (3, shape[0], *model.output_shape[1:])) / 8).astype(dtype)
    # Channels first, TensorFlow's CPU computes in float32 and eagerly alone.
    model.compile(tf_keras.optimizers.SGD(RATE, momentum), "mse", run_eagerly=dtype == "float32")
    losses = np.array([model.train_on_batch(batch, target) for batch, target in zip(x, targets, strict=True)], dtype)
    record |= {f"after{number}": w for number, w in enumerate(model.get_weights())}
    return {"x": x, "targets": targets, "losses": losses, **record}


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
    for name, settings, shape, dtype in convolutions():
        layer = layer_of(name, settings, dtype)
        layer.build((None, *shape[1:]))
        layer.set_weights([integers(w.shape).astype(dtype) for w in layer.get_weights()])
        x = integers(shape).astype(dtype)
        y, dy, dx, *grads = gradients(layer, x, integers, *layer.trainable_weights)
        record = {f"weight{number}": w for number, w in enumerate(layer.get_weights())}
        record |= {f"grad{number}": g for number, g in enumerate(grads)}
        add(name, settings, dtype, x=x, y=y, dy=dy, dx=dx, **record)
    for layers, shape, dtype, momentum in MODELS:
        settings = {"layers": layers, "momentum": momentum, "lr": RATE}
        add("Sequential", settings, dtype, **train(layers, shape, dtype, momentum, rng))
    info = json.dumps({"versions": [tf.__version__, tf_keras.__version__], "cases": cases}).encode()
    path = pathlib.Path(__file__).with_name("companions_golden.npz")
    # The arrays one after the other, as float64: small integers take little room.
    np.savez_compressed(path, numbers=np.concatenate(numbers, dtype=np.float64), cases=np.frombuffer(info, np.uint8))
    print(f"{len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
