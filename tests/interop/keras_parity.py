"""Compare layers with tf_keras over generated configurations.

In an environment of its own, with this library installed:

    pip install tensorflow-cpu==2.21.0 tf-keras==2.21.0
    python tests/interop/keras_parity.py --count 300
    python tests/interop/keras_parity.py --count 40 --seed 7 --golden tests/data/keras_parity.npz

The second line records what Keras computes, for the tests that run without it.

Each configuration is drawn from every parameter of Keras' layers of one and two dimensions. Compared are the
forward pass, all gradients, `losses`, and the weights after each of three optimizer steps, relative to
the largest magnitude: 1e-5 in float32, 1e-10 in float64 (with Keras' floatx set to it, since Keras rounds
coefficients to it). Configs go both ways. Initial values are compared by their moments and limits.
"""

import argparse
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tf_keras

import lcnumba as lc
from lcnumba.bridges.keras2 import layouts

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
ACTIVATIONS = (
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "softplus", "softsign", "tanh", "sigmoid", "hard_sigmoid",
    "exponential", "swish", "silu", "gelu", "mish", "softmax", "log_softmax", None,
)  # fmt: skip
REGULARIZERS = (None, "l1", "l2", "l1_l2", "L1L2", "L2", {"class_name": "L1L2", "config": {"l1": 0.03, "l2": 0.07}})
CONSTRAINTS = (
    None, "max_norm", "MaxNorm", "non_neg", "unit_norm", {"class_name": "UnitNorm", "config": {"axis": [0, 1]}},
    {"class_name": "MaxNorm", "config": {"max_value": 0.5, "axis": 1}},
    {"class_name": "MinMaxNorm", "config": {"min_value": 0.5, "max_value": 1.0, "rate": 0.5, "axis": 0}},
)  # fmt: skip
UNTRUNCATED = {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"}
INITIALIZERS = (
    "zeros", "ones", "random_uniform", "random_normal", "truncated_normal", "glorot_uniform", "glorot_normal",
    "he_uniform", "he_normal", "lecun_uniform", "lecun_normal", "orthogonal", "variance_scaling",
    {"class_name": "Constant", "config": {"value": 0.25}},
    {"class_name": "VarianceScaling", "config": {"scale": 0.5, "mode": "fan_avg", "distribution": "uniform"}},
    {"class_name": "VarianceScaling", "config": UNTRUNCATED},
)  # fmt: skip
# Keras rounds some of these settings to float32, even in float64, so they are exact in float32. A small epsilon would
# amplify the rounding of gradients near 0.
RATE, EPSILON = 0.0625, 2.0**-10
OPTIMIZERS = (
    ("sgd", lambda: tf_keras.optimizers.SGD(RATE)),
    (lc.SGD(momentum=0.5), lambda: tf_keras.optimizers.SGD(RATE, momentum=0.5)),
    (lc.SGD(momentum=0.5, nesterov=True), lambda: tf_keras.optimizers.SGD(RATE, momentum=0.5, nesterov=True)),
    (
        lc.Adam(beta_1=0.875, beta_2=0.96875, epsilon=EPSILON),
        lambda: tf_keras.optimizers.Adam(RATE, 0.875, 0.96875, EPSILON),
    ),
    # The formula of TensorFlow 2.3; later ones add epsilon under the root.
    (lc.RMSprop(rho=0.875, epsilon=EPSILON), lambda: tf_keras.optimizers.legacy.RMSprop(RATE, 0.875, epsilon=EPSILON)),
)


def pick(rng, options):
    """Draw one of the options, of any type."""
    return options[rng.integers(len(options))]


def configuration(rng):
    """Draw the settings of a layer, and the shape of its input."""
    rank = int(rng.integers(1, 3))
    implementation = int(rng.integers(1, 4))
    data_format = pick(rng, ("channels_last", "channels_first"))
    padding = "valid" if implementation == 1 else pick(rng, ("valid", "same"))
    kernel = [int(rng.integers(1, 5)) for _ in range(rank)]
    size = tuple(k + int(rng.integers(0, 5)) for k in kernel)
    channels, filters, batch = (int(rng.integers(1, top)) for top in (4, 6, 5))
    settings = {
        "filters": filters, "kernel_size": kernel, "strides": [int(rng.integers(1, 4)) for _ in range(rank)],
        "padding": padding, "data_format": data_format, "activation": pick(rng, ACTIVATIONS),
        "use_bias": bool(rng.random() < 0.8), "implementation": implementation,
        "kernel_initializer": pick(rng, INITIALIZERS), "bias_initializer": pick(rng, INITIALIZERS),
        "activity_regularizer": pick(rng, REGULARIZERS),
    }  # fmt: skip
    if implementation == 3 and settings["kernel_initializer"] == "orthogonal":
        settings["kernel_initializer"] = "he_normal"  # Keras' sparse storage has one axis
    if data_format == "channels_first" and settings["activation"] in ("softmax", "log_softmax"):
        settings["activation"] = "tanh"  # Keras normalises over the width
    if implementation == 1:  # with others, Keras' axes are those of another storage
        settings |= {"kernel_regularizer": pick(rng, REGULARIZERS), "kernel_constraint": pick(rng, CONSTRAINTS)}
        settings["bias_regularizer"] = pick(rng, REGULARIZERS)
        if data_format == "channels_last":
            settings["bias_constraint"] = pick(rng, CONSTRAINTS)
    sample = (*size, channels) if data_format == "channels_last" else (channels, *size)
    return rank, settings, (batch, *sample)


class Keras:
    """A Keras layer with its weights in the canonical layout."""

    def __init__(self, rank, settings, shape, dtype, geometry):
        cls = {1: tf_keras.layers.LocallyConnected1D, 2: tf_keras.layers.LocallyConnected2D}[rank]
        self.layer = cls(**settings, dtype=dtype)
        self.layer.build((None, *shape[1:]))
        self.geometry, self.form = geometry, (settings["implementation"], settings["data_format"])

    def ours(self, arrays):
        """Return kernel and bias, or their gradients, in the canonical layout."""
        kernel, *bias = arrays
        found = [layouts.kernel_from_keras(np.asarray(kernel), self.geometry, *self.form)]
        return found + [layouts.bias_from_keras(np.asarray(b), self.geometry, self.form[1]) for b in bias]

    def set(self, kernel, *bias):
        """Set canonical weights."""
        values = [layouts.kernel_to_keras(kernel, self.geometry, *self.form)]
        self.layer.set_weights(values + [layouts.bias_to_keras(b, self.geometry, self.form[1]) for b in bias])


def compare(rng, dtype, problems, golden):
    """Compare one configuration; append differences to `problems`, and the results of Keras to `golden`."""
    rank, settings, shape = configuration(rng)
    optimizer, make_optimizer = pick(rng, OPTIMIZERS)
    cls = {1: lc.LocallyConnected1D, 2: lc.LocallyConnected2D}[rank]
    try:
        mine = cls(**settings, dtype=dtype, optimizer=optimizer, rng=0)
        mine.build((None, *shape[1:]))
    except ValueError as error:
        try:
            Keras(rank, settings, shape, dtype, None)
        except ValueError:
            return 0  # both raise
        problems.append((settings, shape, f"refused here alone: {error}"))
        return 0
    keras = Keras(rank, settings, shape, dtype, mine._geometry)

    def check(what, actual, expected):
        actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
        if actual.shape != expected.shape:
            problems.append((settings, shape, f"{what}: shapes {actual.shape} and {expected.shape}"))
            return
        scale = max(1e-3, float(np.max(np.abs(expected), initial=0)))
        error = float(np.max(np.abs(actual - expected), initial=0)) / scale
        if not error <= TOLERANCE[dtype]:
            problems.append((settings, shape, f"{what}: {error:.2e}, {optimizer!r}"))

    kernel = rng.standard_normal(mine.kernel.shape) * 0.5
    kernel[~mine._geometry.exists] = 0
    weights = [kernel.astype(dtype)] + [rng.standard_normal(w.shape).astype(dtype) for w in mine.weights[1:]]
    mine.set_weights(weights)
    keras.set(*weights)
    variables, steps = keras.layer.trainable_weights, make_optimizer()
    record = {"weights": keras.layer.get_weights(), "steps": []}
    for step in range(3):
        x, label = rng.standard_normal(shape).astype(dtype), f"step {step}"
        y, backward = mine.forward(x)
        if np.max(np.abs(y), initial=0) > 1e3:
            break  # a diverging exponential amplifies any rounding
        dy = (rng.standard_normal(y.shape) * 0.5).astype(dtype)
        given = tf.Variable(x)
        with tf.GradientTape() as tape:
            output = keras.layer(given)
            total = tf.reduce_sum(output * dy)
            activity = [] if settings["activity_regularizer"] is None else keras.layer.losses[:1]
            total += sum(activity) if activity else 0
            penalty = sum(keras.layer.losses[len(activity) :]) if keras.layer.losses[len(activity) :] else None
            everything = total if penalty is None else total + penalty
        check(f"{label} y", y, output)
        losses = [float(loss) for loss in keras.layer.losses]
        check(f"{label} losses", mine.losses, losses)
        dx, grads = backward(dy)
        with tf.GradientTape() as again:
            output = keras.layer(given)
            total = tf.reduce_sum(output * dy)
            if activity:
                total += keras.layer.losses[0]
        expected = again.gradient(total, [given, *variables])
        check(f"{label} dx", dx, expected[0])
        gradients = [grads.kernel] + ([] if grads.bias is None else [grads.bias])
        for name, a, b in zip(("dkernel", "dbias"), gradients, keras.ours(expected[1:]), strict=False):
            check(f"{label} {name}", a, b)
        backward.step(dy, lr=RATE)
        steps.apply_gradients(zip(tape.gradient(everything, variables), variables, strict=True))
        after = keras.layer.get_weights()
        for name, a, b in zip(("kernel", "bias"), mine.weights, keras.ours(after), strict=False):
            check(f"{label} {name} after it", a, b)
        arrays = {"x": x, "dy": dy, "y": output.numpy(), "dx": np.asarray(expected[0]), "losses": np.array(losses)}
        record["steps"].append((arrays, after))
    configs(cls, mine, keras.layer, settings, shape, problems)
    named = optimizer if isinstance(optimizer, str) else [type(optimizer).__name__, optimizer.get_config()]
    golden.append(({"rank": rank, "settings": settings, "dtype": dtype, "optimizer": named}, record))
    return 1


def configs(cls, mine, keras, settings, shape, problems):
    """Exchange configs, through JSON."""
    theirs = keras.get_config()
    if list(mine.get_config()) != list(theirs):
        problems.append((settings, shape, f"keys {list(mine.get_config())} and {list(theirs)}"))
    read = cls.from_config(json.loads(json.dumps(theirs)))
    back = type(keras).from_config(json.loads(json.dumps(mine.get_config())))
    for name in ("filters", "padding", "data_format", "use_bias", "implementation"):
        if not getattr(read, name) == theirs[name] == back.get_config()[name]:
            problems.append((settings, shape, f"{name} got lost in a config"))
    for one in (read, back):
        if tuple(one.kernel_size) != tuple(keras.kernel_size) or tuple(one.strides) != tuple(keras.strides):
            problems.append((settings, shape, "the window got lost in a config"))
    if repr(back.get_config()["activation"]) != repr(theirs["activation"]):
        problems.append(
            (settings, shape, f"activation {theirs['activation']} came back as {back.get_config()['activation']}")
        )
    names = ("kernel_initializer", "bias_initializer", "kernel_regularizer", "bias_regularizer", "kernel_constraint")
    for name in names:
        a, b = (
            config[name] and (config[name]["class_name"], config[name]["config"])
            for config in (theirs, back.get_config())
        )
        if a != b:
            problems.append((settings, shape, f"{name} {a} came back as {b}"))


def initial_values(problems):
    """Compare the moments and limits of initial kernels of implementation 1."""
    for initializer in INITIALIZERS:
        shape = (None, 12, 13, 3)
        mine = lc.LocallyConnected2D(8, 3, kernel_initializer=initializer, bias_initializer=initializer, rng=1)
        keras = tf_keras.layers.LocallyConnected2D(8, 3, kernel_initializer=initializer, bias_initializer=initializer)
        mine.build(shape)
        keras.build(shape)
        for name, a, b in zip(("kernel", "bias"), mine.get_weights(), keras.get_weights(), strict=True):
            for what, of, tolerance in (("deviation", np.std, 0.06), ("limit", lambda v: np.abs(v).max(), 0.2)):
                x, y = float(of(a)), float(of(b))
                if abs(x - y) > tolerance * max(abs(x), abs(y), 1e-6):
                    problems.append((initializer, name, f"{what} {x:.5f} here, {y:.5f} in Keras"))


def write(path, golden):
    """Write the recorded arrays, by number, name and step, and the table of configurations."""
    arrays = {}
    for number, (_, record) in enumerate(golden):
        arrays |= {f"{number}_weight_{n}": weight for n, weight in enumerate(record["weights"])}
        for step, (found, after) in enumerate(record["steps"]):
            arrays |= {f"{number}_{step}_{name}": array for name, array in found.items()}
            arrays |= {f"{number}_{step}_weight_{n}": weight for n, weight in enumerate(after)}
    table = {"versions": [tf.__version__, tf_keras.__version__], "rate": RATE, "cases": [case for case, _ in golden]}
    np.savez_compressed(path, table=np.frombuffer(json.dumps(table).encode(), np.uint8), **arrays)


def main():
    """Run the comparison; return 0 if nothing differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="configurations in all, default 300")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--golden", metavar="FILE", help="write what Keras computed to this file")
    given = parser.parse_args()
    rng, problems, golden = np.random.default_rng(given.seed), [], []
    compared = dict.fromkeys(TOLERANCE, 0)
    tf.random.set_seed(given.seed)
    initial_values(problems)
    for dtype in TOLERANCE:
        tf_keras.backend.set_floatx(dtype)
        while compared[dtype] < -(-given.count // 2):
            compared[dtype] += compare(rng, dtype, problems, golden)
    for problem in problems:
        print(*problem, sep="\n    ")
    if given.golden:
        write(given.golden, golden)
    print(f"{sum(compared.values())} configurations compared, {len(problems)} differences")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
