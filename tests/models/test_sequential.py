import concurrent.futures
import copy
import pickle
import time

import array_api_strict
import numpy as np
import pytest

import lcnumba as lc
from lcnumba.protocol import Layer
from lcnumba.testing import numerical_gradient


def network(dtype="float64", seed=0, **settings):
    rng = np.random.default_rng(seed)
    return lc.Sequential(
        [
            lc.LocallyConnected2D(2, (3, 2), activation="tanh", dtype=dtype, rng=rng, fans="window", **settings),
            lc.LocallyConnected2D(3, 2, padding="same", dtype=dtype, rng=rng, fans="window"),
            lc.Flatten(),
            lc.Dense(4, activation="sigmoid", dtype=dtype, rng=rng),
        ]
    )


SHAPE = (3, 5, 4, 2)


class Halve:
    """A custom layer with the required members only."""

    def __init__(self, name="halve"):
        self.name = name

    def build(self, input_shape):
        pass

    def compute_output_shape(self, input_shape):
        return input_shape

    def __call__(self, x):
        return x / 2

    def forward(self, x):
        return x / 2, lambda dy: (dy / 2, None)

    def step(self, grads, lr):
        pass

    def get_config(self):
        return {"name": self.name}


def test_gradients_match_finite_differences(rng):
    model = network(input_shape=SHAPE[1:])
    model.add(Halve())
    x = rng.standard_normal(SHAPE)
    y, backward = model.forward(x)
    dy = rng.standard_normal(y.shape)
    dx, grads = backward(dy)
    np.testing.assert_array_equal(y, model(x))
    np.testing.assert_allclose(dx, numerical_gradient(lambda v: float(np.sum(model(v) * dy)), x), atol=1e-9)
    weights = model.get_weights()
    flat = [g for grad in grads if grad is not None for g in (grad.kernel, grad.bias)]
    assert len(grads) == 5
    for number, gradient in enumerate(flat):

        def loss(value, number=number):
            model.set_weights([value if n == number else w for n, w in enumerate(weights)])
            return float(np.sum(model(x) * dy))

        np.testing.assert_allclose(gradient, numerical_gradient(loss, weights[number]), atol=1e-9)


def test_built_as_layers_are_added_or_by_the_first_call():
    model = network(input_shape=SHAPE[1:])
    assert model.input_shape == (None, *SHAPE[1:])
    assert model.output_shape == (None, 4)
    late = network()
    with pytest.raises(AttributeError, match="has not been built"):
        late.output_shape  # noqa: B018
    with pytest.raises(AttributeError, match="has not been built"):
        late.input_shape  # noqa: B018
    assert late.compute_output_shape((None, *SHAPE[1:])) == (None, 4)
    np.testing.assert_array_equal(late(np.ones(SHAPE)), model(np.ones(SHAPE)))
    assert late.output_shape == (None, 4)


def test_a_layer_that_does_not_fit_is_not_added():
    model = lc.Sequential([lc.LocallyConnected2D(2, 3, input_shape=(5, 5, 1), name="first")])
    with pytest.raises(ValueError, match="does not fit"):
        model.add(lc.LocallyConnected2D(2, 4))
    with pytest.raises(ValueError, match="put a Flatten before Dense"):
        model.add(lc.Dense(3))
    with pytest.raises(ValueError, match="named 'first' is already in the model"):
        model.add(lc.Flatten(name="first"))
    with pytest.raises(TypeError, match=r"is not a layer; a layer must implement name, build\(\)"):
        model.add(3)
    with pytest.raises(TypeError, match="Flatten is a class; give an instance"):
        model.add(lc.Flatten)
    assert len(model.layers) == 1
    assert model.output_shape == (None, 3, 3, 2)
    model.add(lc.Flatten())
    assert model.output_shape == (None, 18)


def test_an_empty_model_raises():
    for action in (lambda: lc.Sequential()(np.ones(3)), lambda: lc.Sequential().forward(np.ones(3))):
        with pytest.raises(RuntimeError, match="has no layers"):
            action()


def test_step_changes_every_layer_or_none(rng):
    model = network(input_shape=SHAPE[1:])
    x = rng.standard_normal(SHAPE)
    y, backward = model.forward(x)
    _, grads = backward(np.ones_like(y))
    before = model.get_weights()
    bad = [*grads[:3], lc.Gradients(grads[3].kernel, grads[3].bias[:1])]
    for refused, lr, error in ((bad, 0.1, ValueError), (grads[:3], 0.1, ValueError), (None, 0.1, ValueError),
                               (grads, np.nan, ValueError)):  # fmt: skip
        with pytest.raises(error):
            model.step(refused, lr)
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    twin = copy.deepcopy(model)
    model.step(grads, 0.1)
    twin_y, twin_backward = twin.forward(x)
    twin_backward.step(np.ones_like(twin_y), 0.1)
    for a, b, old in zip(model.get_weights(), twin.get_weights(), before, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        assert not np.array_equal(a, old)
    with pytest.raises(RuntimeError, match="older weights"):
        backward.step(np.ones_like(y), 0.1)


def test_implementations_agree_after_training(rng):
    """Two layers and a dense one, weights copied: equal before, close after two epochs."""
    x, target = rng.standard_normal((20, 8, 7, 2)), rng.standard_normal((20, 3))
    results, start = [], None
    for implementation in (1, 2, 3):
        settings = {"implementation": implementation, "activation": "relu", "dtype": "float64", "rng": 1}
        model = lc.Sequential(
            [
                lc.LocallyConnected2D(2, (3, 2), strides=(1, 3), **settings, input_shape=(8, 7, 2)),
                lc.LocallyConnected2D(2, (3, 2), strides=(1, 3), padding="same", **settings),
                lc.Flatten(),
                lc.Dense(3, dtype="float64", rng=1),
            ]
        )
        start = start or model.get_weights()
        model.set_weights(start)
        model.set_optimizer("adam")
        before = model(x)
        history = model.fit(x, target, loss="mse", epochs=2, lr=0.01, rng=0, progress=False)
        results.append((before, model(x), history.history["loss"]))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_set_weights_is_all_or_nothing():
    model = network(input_shape=SHAPE[1:])
    before = model.get_weights()
    new = [w + (w != 0) for w in before]
    with pytest.raises(ValueError, match=r"5 weights given; .* has 6"):
        model.set_weights(new[:-1])
    with pytest.raises(ValueError, match="has shape"):
        model.set_weights([*new[:-1], new[-1][:1]])
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    model.set_weights(new)
    for a, b in zip(new, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_predict_in_batches_equals_one_call(rng):
    model = network(input_shape=SHAPE[1:])
    x = rng.standard_normal((11, *SHAPE[1:]))
    for size in (1, 4, 11, 100):
        np.testing.assert_allclose(model.predict(x, batch_size=size), model(x), rtol=1e-13)
    assert model.predict(x[:0]).shape == (0, 4)
    with pytest.raises(ValueError, match="batch_size=0"):
        model.predict(x, batch_size=0)


def test_array_types(rng):
    model = network(input_shape=SHAPE[1:])
    x = rng.standard_normal(SHAPE)
    strict = array_api_strict.asarray(x)
    y, backward = model.forward(strict)
    assert isinstance(y, type(strict))
    assert isinstance(backward(y)[0], type(strict))
    assert isinstance(model.predict(strict, batch_size=2), type(strict))
    np.testing.assert_array_equal(np.asarray(model(strict)), model(x.tolist()))


def test_a_model_that_only_reshapes_returns_a_fresh_array():
    model, x = lc.Sequential([lc.Flatten()]), np.ones((2, 3, 4))
    assert not np.may_share_memory(model(x), x)
    y, backward = model.forward(x)
    assert not np.may_share_memory(y, x)
    assert backward(y)[0].shape == x.shape


def test_nested_models_and_custom_layers(rng):
    inner = network(input_shape=SHAPE[1:])
    model = lc.Sequential([inner, Halve(), lc.Dense(2, dtype="float64", name="head")], name="outer")
    assert isinstance(inner, Layer)
    assert model.output_shape == (None, 2)
    x = rng.standard_normal(SHAPE)
    y, backward = model.forward(x)
    backward.step(np.ones_like(y), 0.1)
    assert model.count_params() == inner.count_params() + 4 * 2 + 2
    again = lc.Sequential.from_config(model.get_config(), layers={"Halve": Halve})
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(x), model(x))
    with pytest.raises(ValueError, match=r"'Halve' is not known; pass layers=\{'Halve': the class\}"):
        lc.Sequential.from_config(model.get_config())


def test_optimizer_is_set_on_all_layers():
    model = network(input_shape=SHAPE[1:])
    outer = lc.Sequential([model, Halve()])
    outer.set_optimizer(lc.SGD(momentum=0.9))
    assert [layer.optimizer.momentum for layer in model.layers if hasattr(layer, "optimizer")] == [0.9] * 3


def test_summary():
    lines = []
    model = lc.Sequential(name="m")
    model.add(lc.LocallyConnected2D(64, (3, 3), input_shape=(32, 32, 3), name="a"))
    model.add(lc.Flatten(name="b"))
    model.summary(print_fn=lines.append)
    assert lines[0].split() == ["Layer", "(type)", "Output", "shape", "Parameters"]
    assert "a (LocallyConnected2D)" in lines[1]
    assert "(None, 30, 30, 64)" in lines[1]
    assert lines[1].endswith("1,612,800")
    assert lines[-1] == "Total parameters: 1,612,800"


def test_copies_and_pickles(rng):
    model = network(input_shape=SHAPE[1:])
    x = rng.standard_normal(SHAPE)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin(x), model(x))
        assert network().name != twin.name


def test_a_model_is_built_once_by_many_threads():
    model = network()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: model(np.ones(SHAPE)), range(16)))
    for y in results:
        np.testing.assert_array_equal(y, results[0])


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
def test_built_layers_keep_their_weights(nested, lazy):
    trained = network(input_shape=SHAPE[1:])
    before = trained.get_weights()
    parts = [trained] if nested else trained.layers
    model = lc.Sequential([Halve(), *parts] if lazy else parts)
    model(np.ones(SHAPE))
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_layer_built_for_another_shape_is_refused():
    layer = lc.Dense(3, name="mine")
    layer.build((None, 4))
    with pytest.raises(ValueError, match=r"'mine' was built for input \(None, 4\), not \(None, 5\)"):
        lc.Sequential([lc.Dense(5, input_shape=(2,)), layer])
    late = lc.Sequential([lc.Dense(5), layer])
    with pytest.raises(ValueError, match="was built for input"):
        late(np.ones((1, 2)))
    assert not late.built
    assert not late.layers[0].built


def test_a_model_cannot_contain_itself():
    model = lc.Sequential([lc.Dense(2)])
    outer = lc.Sequential([model])
    for inner in (model, outer):
        with pytest.raises(ValueError, match="cannot contain itself"):
            model.add(inner)


@pytest.mark.parametrize("x", [np.zeros((2, 9, 9, 1), complex), np.full((2, 9, 9, 1), "a"), np.float64(3)])
def test_a_refused_input_leaves_a_model_unbuilt(x):
    model = lc.Sequential([lc.LocallyConnected2D(2, 3), lc.Flatten(), lc.Dense(3)])
    with pytest.raises((TypeError, ValueError)):
        model(x)
    assert not model.built
    model(np.zeros((2, 8, 8, 1)))


def test_dx_is_a_new_array():
    y, backward = lc.Sequential([lc.Flatten()]).forward(np.ones((2, 3, 3)))
    dy = np.ones_like(y)
    assert not np.shares_memory(backward(dy)[0], dy)


class FailsOnSecondLayer:
    def init(self, param):
        return {}

    def update(self, param, grad, state, lr):
        param -= lr * grad
        if param.shape == (4, 2):
            raise FloatingPointError("no")


def test_a_custom_optimizer_that_fails_in_one_layer_changes_none():
    model = lc.Sequential([lc.Dense(4, input_shape=(3,)), lc.Dense(2)])
    model.set_optimizer(FailsOnSecondLayer())
    before = model.get_weights()
    y, backward = model.forward(np.ones((1, 3)))
    for step in (lambda: backward.step(np.ones_like(y), 1.0), lambda: model.step(backward(np.ones_like(y))[1], 1.0)):
        with pytest.raises(FloatingPointError):
            step()
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_step_between_backward_and_its_step_changes_no_layer():
    model = lc.Sequential([lc.Dense(4, input_shape=(3,)), lc.Dense(2)])
    y, backward = model.forward(np.ones((1, 3)))
    _, grads = backward(np.ones_like(y))
    prepared = backward.plan_update(grads, 0.1)
    model.layers[1].step(grads[1], 0.1)
    before = model.get_weights()
    with pytest.raises(RuntimeError, match="older weights"):
        backward.plan_update(grads, 0.1)
    np.testing.assert_array_equal(model.layers[0].kernel, before[0])
    assert callable(prepared)


def test_weights_must_be_a_list():
    with pytest.raises(TypeError, match="weights is a NoneType"):
        network(input_shape=SHAPE[1:]).set_weights(None)


def test_flatten_enforces_the_shape_of_its_model():
    flat = lc.Flatten()
    lc.Sequential([lc.LocallyConnected2D(2, 3, input_shape=(5, 5, 1)), flat])
    assert flat.input_shape == (None, 3, 3, 2)
    with pytest.raises(ValueError, match="was built for input"):
        lc.Sequential([lc.LocallyConnected2D(2, 3, input_shape=(6, 6, 1)), flat])


def test_build_accepts_integers_only(tmp_path):
    model = lc.Sequential([lc.Flatten(), lc.Dense(2)])
    for bad in (None, 5, ()):
        with pytest.raises(TypeError, match="must be a tuple, the batch first"):
            model.build(bad)
    model.build([None, np.int64(3), np.int32(2)])
    model.save(tmp_path / "m")
    assert lc.load(tmp_path / "m").input_shape == (None, 3, 2)


class Scale:
    """A custom layer with weights and no `built` attribute."""

    def __init__(self, name="scale"):
        self.name = name

    def build(self, input_shape):
        self.factors = np.random.default_rng().random(input_shape[-1])

    def compute_output_shape(self, input_shape):
        return input_shape

    def __call__(self, x):
        return x * self.factors

    def forward(self, x):
        return x * self.factors, lambda dy: (dy * self.factors, np.sum(dy * x, axis=0))

    def step(self, grads, lr):
        self.factors = self.factors - lr * grads

    def get_config(self):
        return {"name": self.name}

    def get_weights(self):
        return [self.factors]

    def set_weights(self, weights):
        self.factors = np.array(weights[0])


def test_weights_of_custom_layers_are_saved_and_loaded(tmp_path):
    model = lc.Sequential([lc.Dense(3, input_shape=(2,), dtype="float64"), Scale()])
    before = model.get_weights()
    model.build((None, 2))
    model.save(tmp_path / "m")
    again = lc.load(tmp_path / "m", layers={"Scale": Scale})
    for a, b, c in zip(before, model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    y, backward = model.forward(np.ones((1, 2)))
    backward.step(np.ones_like(y), 0.1)
    assert not np.array_equal(model.get_weights()[2], before[2])
    model.layers[1].factors = np.arange(3)
    with pytest.raises(TypeError, match="weight 2 has dtype int64; only float32 and float64"):
        model.save(tmp_path / "m")


def test_one_layer_cannot_be_in_a_model_twice():
    layer = lc.Dense(3, input_shape=(3,))
    with pytest.raises(ValueError, match="weights cannot be shared"):
        lc.Sequential([layer, lc.Sequential([layer])])
    with pytest.raises(ValueError, match="already in the model"):
        lc.Sequential([layer, layer])


def test_a_nested_model_is_complete():
    inner = lc.Sequential([lc.Dense(2, input_shape=(2,))])
    lc.Sequential([inner])
    with pytest.raises(RuntimeError, match="is part of another model"):
        inner.add(lc.Dense(5))


def test_copies_share_no_layers():
    model = lc.Sequential([lc.Dense(2, input_shape=(2,))])
    copy.copy(model).add(lc.Dense(5))
    assert len(model.layers) == 1


def test_set_weights_with_the_models_own_views():
    one, two = (lc.Dense(2, input_shape=(2,), use_bias=False, kernel_initializer=i) for i in ("zeros", "ones"))
    model = lc.Sequential([one, two])
    model.set_weights([*two.weights, *one.weights])
    assert (one.kernel == 1).all()
    assert (two.kernel == 0).all()


def test_models_that_share_a_layer_build_it_once():
    draws = []

    def slow(shape, dtype, rng):
        draws.append(1)
        time.sleep(0.1)
        return np.ones(shape, dtype)

    layer = lc.Dense(3, kernel_initializer=slow, use_bias=False)
    models = [lc.Sequential([layer]), lc.Sequential([layer])]
    actions = [*models, models[0], layer, lambda x: models[1].build(x.shape)]
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        for future in [pool.submit(action, np.ones((1, 4))) for action in actions]:
            future.result(30)
    assert len(draws) == 1


def test_an_initializer_that_uses_its_model_raises():
    model = lc.Sequential()
    model.add(lc.Dense(3))
    model.add(lc.Dense(3, kernel_initializer=lambda *_: model(np.ones((1, 2)))))
    with pytest.raises(RuntimeError, match="while it is being built or changed: not by its initializers"):
        model(np.ones((1, 2)))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({}, "layers=None of the config is a NoneType"),
        ({"layers": "Dense"}, "layers='Dense' of the config is a str"),
        ({"layers": [3]}, "layers of the config holds 3"),
        ({"layers": [{"config": {}}]}, "layers of the config holds"),
        ({"layers": [{"class_name": "Dense"}]}, "config must be a dict of keyword arguments, .*, got None"),
        ({"layers": [], "build_input_shape": 3}, "input_shape=3 must be a tuple"),
    ],
)
def test_invalid_configs(config, match):
    with pytest.raises(TypeError, match=match):
        lc.Sequential.from_config(config)


@pytest.mark.parametrize("layers", [None, 3, np.array(3), lc.Dense(2)])
def test_layers_must_be_a_list(layers):
    with pytest.raises(TypeError, match=r"layers=.* give a list of layers"):
        lc.Sequential(layers)


@pytest.mark.parametrize("shape", [None, 3, "", ()])
def test_invalid_shapes_are_refused(shape):
    for model in (lc.Sequential([lc.Flatten()]), lc.Sequential([lc.Dense(2)])):
        for method in (model.compute_output_shape, model.weight_shapes):
            with pytest.raises((TypeError, ValueError), match="input_shape="):
                method(shape)


# --- layers of a model


def test_get_layer_by_name_and_index():
    inner = lc.Sequential([lc.Dense(3, name="scores")], name="inner")
    model = lc.Sequential([lc.Flatten(name="flat"), inner])
    assert len(model) == 2
    assert model[0] is model.get_layer("flat") is model.get_layer(index=0) is model["flat"] is model.layers[0]
    assert model[-1] is inner is model.get_layer(index=-1)
    assert model.get_layer("inner/scores") is inner[0]
    assert list(model) == list(model.layers) == list(model[:])
    assert lc.Sequential(), "an empty model is a model"
    for arguments, message in (
        ({"name": "nope"}, r"has no layer named 'nope'; its layers are flat, inner"),
        ({"name": "inner/nope"}, "'inner' has no layer named 'nope'; its layers are scores"),
        ({"name": "flat/nope"}, "'flat/nope'; its layers are flat, inner"),
        ({"index": 2}, "index=2 is too large; .* has 2 layers"),
        ({"index": -3}, "index=-3 is too small"),
        ({}, "give either name or index"),
        ({"name": "flat", "index": 0}, "give either name or index"),
    ):
        with pytest.raises(ValueError, match=message):
            model.get_layer(**arguments)
    with pytest.raises(IndexError):
        model[2]
    with pytest.raises(TypeError, match=r"(?s)layers=.* is a Sequential; give a list"):
        lc.Sequential(model)


def test_two_branches_share_weights():
    """As in docs/training.md: both forwards, both pullbacks, one step with the sum."""
    layer = lc.Dense(2, kernel_initializer="ones", use_bias=False, optimizer="sgd")
    first, second = [[1.0, 2.0]], [[3.0, 5.0]]
    _, back_1 = layer.forward(first)
    _, back_2 = layer.forward(second)
    grads = lc.gradients.add(back_1([[1.0, 0.0]])[1], back_2([[0.0, 1.0]])[1])
    layer.step(grads, lr=1.0)
    np.testing.assert_array_equal(layer.kernel, [[0, -2], [-1, -4]])


def test_setting_equal_weights_keeps_pullbacks_valid():
    layer = lc.Dense(2, dtype="float64")
    layer.build((None, 2))
    y, backward = layer.forward([[1.0, 2.0]])
    layer.set_weights(layer.get_weights())
    backward(y)
    layer.set_weights([np.where(layer.kernel == 0, 0, layer.kernel), -np.zeros(2)])  # a different sign of 0 is a change
    assert np.signbit(layer.bias).all()
    with pytest.raises(RuntimeError, match="belongs to older weights"):
        backward(y)
    nan = [np.full((2, 2), np.nan), np.zeros(2)]
    layer.set_weights(nan)
    y, backward = layer.forward([[1.0, 2.0]])
    layer.set_weights(nan)
    backward(np.zeros_like(y))


def test_a_model_is_frozen_as_a_whole():
    base = lc.Sequential([lc.LocallyConnected2D(2, 3, input_shape=(5, 5, 1)), lc.Flatten()])
    model = lc.Sequential([base, lc.Dense(1)])
    base.trainable = False
    assert (base.trainable, base[0].trainable, model.trainable, model[1].trainable) == (False, False, False, True)
    before, x = base.get_weights(), np.ones((4, 5, 5, 1), np.float32)
    model.fit(x, np.ones((4, 1)), loss="mse", lr=0.1, progress=False)
    for a, b in zip(before, base.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    model.trainable = True
    assert base[0].trainable
    with pytest.raises(TypeError, match="trainable=1 is a int"):
        model.trainable = 1


def test_set_weights_copies_wrapped_views_of_the_weights():
    class Wrapped:
        def __init__(self, array):
            self.array = array

        def __array__(self, dtype=None, copy=None):
            return self.array

    first, second = (lc.Dense(2, rng=seed, input_shape=(2,)) for seed in (0, 1))
    model = lc.Sequential([first, second])
    before = model.get_weights()
    views = [*second.weights, *first.weights]
    for given in (views, [memoryview(view) for view in views], [Wrapped(view) for view in views]):
        model.set_weights(given)
        for a, b in zip([*second.get_weights(), *first.get_weights()], before, strict=True):
            np.testing.assert_array_equal(a, b)
        model.set_weights(before)


def test_a_pullback_that_returns_only_dx_raises():
    class Twice(Halve):
        def forward(self, x):
            return self(x), lambda dy: 0.5 * dy

    model = lc.Sequential([Twice(), lc.Flatten()])
    y, backward = model.forward(np.ones((2, 3)))
    with pytest.raises(
        TypeError, match=r"returned a ndarray; it must return \(dx, grads\), with grads=None for a layer with"
    ):
        backward(y)
