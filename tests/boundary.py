"""Every public function that takes arrays, with its results, for `test_arrays.py` and `interop/test_arrays.py`."""

import functools

import numpy as np

import lcnumba as lc

SAMPLE = (4, 5, 3)
X = np.arange(2 * 4 * 5 * 3, dtype=np.float32).reshape(2, *SAMPLE)
TARGETS = np.array([[1, 0, 2], [0, 3, 1]], np.float32)


def layer(dtype="float32", **settings):
    made = lc.LocallyConnected2D(2, (2, 3), rng=0, dtype=dtype, **settings)
    made.build((None, *SAMPLE))
    return made


def network(dtype="float32"):
    model = lc.Sequential([
        lc.LocallyConnected2D(2, (2, 3), activation="relu", input_shape=SAMPLE, rng=0, dtype=dtype),
        lc.Flatten(data_format="channels_first"),
        lc.Dense(3, rng=0, dtype=dtype),
    ])  # fmt: skip
    model.compile("sgd", loss="mse", lr=1e-4)
    return model


class Call:
    """One call with arrays of the caller's type, converted from NumPy arrays by `of`.

    `same_kind` are results that must be of that type, `others` other results that must have the same values, and
    `given` the caller's arrays, each with the values that it must keep.
    """

    def __init__(self, entrance, of=np.array, dtype="float32"):
        self._of, self.dtype = of, dtype
        self.x, self.targets = X.astype(dtype), TARGETS.astype(dtype)
        self.same_kind, self.others, self.given = [], [], []
        ENTRANCES[entrance](self)

    def of(self, array):
        self.given.append((self._of(array), array.copy()))
        return self.given[-1][0]


@functools.cache
def plain(entrance, dtype):
    return Call(entrance, dtype=dtype)


def check(call, plain, kind):
    """The results of a call must equal those with NumPy arrays, including dtypes, and be of the right type."""
    for result, expected in zip(call.same_kind, plain.same_kind, strict=True):
        assert isinstance(result, kind)
        assert np.asarray(result).dtype.name == expected.dtype.name
        np.testing.assert_array_equal(np.asarray(result), expected)
    for result, expected in zip(call.others, plain.others, strict=True):
        np.testing.assert_array_equal(np.asarray(result), np.asarray(expected))
    for array, before in call.given:
        np.testing.assert_array_equal(np.asarray(array), before)


def _call(one, call):
    call.same_kind = [one(call.of(call.x))]


def _forward(one, call):
    y, backward = one.forward(call.of(call.x))
    dx, grads = backward(np.asarray(y))
    call.same_kind, call.others = [y], [dx, *gradient_arrays(grads)]


def _backward(one, call):
    y, backward = one.forward(call.x)
    dx, grads = backward(call.of(y))
    call.same_kind, call.others = [dx], gradient_arrays(grads)


def _step_back(one, call):
    y, backward = one.forward(call.x)
    call.same_kind = [backward.step(call.of(y), 0.125)]
    call.others = one.get_weights()


def gradient_arrays(grads):
    """The arrays of the gradients of a layer or model."""
    if isinstance(grads, list):
        return [array for each in grads for array in gradient_arrays(each)]
    return [] if grads is None else [array for array in grads.parts().values() if array is not None]


def _step(make_gradients):
    def call_step(call):
        one = layer(call.dtype)
        y, backward = one.forward(call.x)
        one.step(make_gradients(call, backward(y)[1]), 0.125)
        call.others = one.get_weights()

    return call_step


def _set_weights(one, call):
    one.set_weights([call.of(weight + 1) for weight in one.get_weights()])
    call.others = one.get_weights()


def _initial_weights(call):
    weights = [call.of(weight + 1) for weight in layer(call.dtype).get_weights()]
    call.others = layer(call.dtype, weights=weights).get_weights()


def _set_flat(call):
    one = layer(call.dtype)
    one.set_flat(call.of(one.get_flat() + 1))
    call.others = one.get_weights()


def _directed(one, call):
    call.x = call.x.reshape(2, -1, 3)
    mask = np.arange(20)[:, None] % 3 == np.arange(3)
    one(lc.LocallyDirected1D(mask, 2, rng=0, dtype=call.dtype), call)


def _predict(call):
    model = network(call.dtype)
    call.same_kind = [model.predict(call.of(call.x), batch_size=size) for size in (2, 1)]


def _fit(call, x, y, **settings):
    model = network(call.dtype)
    history = model.fit(x, y, epochs=2, batch_size=1, progress=False, rng=0, **settings)
    call.others = [*model.get_weights(), *history.history.values()]


def _evaluate(call, x, y, **settings):
    call.others = [network(call.dtype).evaluate(x, y, **settings)["loss"]]


def _train_on_batch(call):
    model = network(call.dtype)
    call.others = [model.train_on_batch(call.of(call.x), call.of(call.targets))["loss"], *model.get_weights()]


def _weights_of_samples(call):
    return call.of(np.array([1, 2], call.dtype))


ENTRANCES = {
    "layer(x)": lambda call: _call(layer(call.dtype), call),
    "layer.forward(x)": lambda call: _forward(layer(call.dtype), call),
    "backward(dy)": lambda call: _backward(layer(call.dtype), call),
    "backward.step(dy)": lambda call: _step_back(layer(call.dtype), call),
    "step(Gradients)": _step(lambda call, grads: lc.Gradients(*map(call.of, gradient_arrays(grads)))),
    "step(0.5 * Gradients)": _step(lambda call, grads: 0.5 * lc.Gradients(*map(call.of, gradient_arrays(grads)))),
    "step(tuple)": _step(lambda call, grads: tuple(map(call.of, gradient_arrays(grads)))),
    "set_weights": lambda call: _set_weights(layer(call.dtype), call),
    "weights=": _initial_weights,
    "set_flat": _set_flat,
    "Activation(x)": lambda call: _call(lc.Activation("linear"), call),
    "Activation.forward(x)": lambda call: _forward(lc.Activation("tanh"), call),
    "Activation.backward(dy)": lambda call: _backward(lc.Activation("linear"), call),
    "Dropout.forward(x)": lambda call: _forward(lc.Dropout(0.5, seed=0), call),
    "BatchNormalization(x)": lambda call: _call(lc.BatchNormalization(dtype=call.dtype), call),
    "BatchNormalization.forward(x)": lambda call: _forward(lc.BatchNormalization(dtype=call.dtype), call),
    "BatchNormalization.backward(dy)": lambda call: _backward(lc.BatchNormalization(dtype=call.dtype), call),
    "BatchNormalization.backward.step(dy)": lambda call: _step_back(lc.BatchNormalization(dtype=call.dtype), call),
    "MaxPooling2D.forward(x)": lambda call: _forward(lc.MaxPooling2D(2), call),
    "MaxPooling2D.backward(dy)": lambda call: _backward(lc.MaxPooling2D(2), call),
    "GlobalAveragePooling2D(x)": lambda call: _call(lc.GlobalAveragePooling2D(), call),
    "Reshape(x)": lambda call: _call(lc.Reshape((-1,)), call),
    "Reshape.backward(dy)": lambda call: _backward(lc.Reshape((-1,)), call),
    "ZeroPadding2D.forward(x)": lambda call: _forward(lc.ZeroPadding2D(), call),
    "UpSampling2D.backward(dy)": lambda call: _backward(lc.UpSampling2D(), call),
    "Softmax.backward(dy)": lambda call: _backward(lc.Softmax(1), call),
    "Flatten(x)": lambda call: _call(lc.Flatten(), call),
    "Flatten.backward(dy)": lambda call: _backward(lc.Flatten(), call),
    "LocallyDirected1D(x)": lambda call: _directed(_call, call),
    "LocallyDirected1D.forward(x)": lambda call: _directed(_forward, call),
    "LocallyDirected1D.backward(dy)": lambda call: _directed(_backward, call),
    "LocallyDirected1D.backward.step(dy)": lambda call: _directed(_step_back, call),
    "model(x)": lambda call: _call(network(call.dtype), call),
    "model.forward(x)": lambda call: _forward(network(call.dtype), call),
    "model.backward(dy)": lambda call: _backward(network(call.dtype), call),
    "model.backward.step(dy)": lambda call: _step_back(network(call.dtype), call),
    "model.set_weights": lambda call: _set_weights(network(call.dtype), call),
    "predict(x)": _predict,
    "evaluate(x)": lambda call: _evaluate(call, call.of(call.x), call.targets),
    "evaluate(y)": lambda call: _evaluate(call, call.x, call.of(call.targets)),
    "evaluate(sample_weight)": lambda call: _evaluate(
        call, call.x, call.targets, sample_weight=_weights_of_samples(call)
    ),
    "fit(x)": lambda call: _fit(call, call.of(call.x), call.targets),
    "fit(y)": lambda call: _fit(call, call.x, call.of(call.targets)),
    "fit(batches)": lambda call: _fit(call, [(call.of(call.x), call.of(call.targets))], None),
    "fit(sample_weight)": lambda call: _fit(call, call.x, call.targets, sample_weight=_weights_of_samples(call)),
    "fit(validation_data)": lambda call: _fit(
        call, call.x, call.targets, validation_data=(call.of(call.x), call.of(call.targets))
    ),
    "train_on_batch": _train_on_batch,
}

# Where lazily read arrays are read piece by piece rather than refused.
LAZY = ("predict(x)", "evaluate(x)", "evaluate(y)", "evaluate(sample_weight)", "fit(x)", "fit(y)", "fit(sample_weight)",
        "fit(validation_data)", "train_on_batch")  # fmt: skip
# Where dtypes other than float32 and float64 are accepted.
ANY_DTYPE = ("Flatten(x)", "Flatten.backward(dy)", "evaluate(y)", "fit(y)")
