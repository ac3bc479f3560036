"""Weights as one vector, for generic optimizers such as those of SciPy."""

import copy
import threading

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.testing import numerical_gradient


def network(rng, dtype="float64"):
    mask = rng.random((6, 4, 2)) < 0.7
    return lc.Sequential([
        lc.LocallyConnected2D(2, 3, padding="same", activation="tanh", input_shape=(4, 3, 1), dtype=dtype,
                              kernel_regularizer="l2", bias_initializer="random_normal", fans="window", rng=0),
        lc.LocallyConnected2D(2, 2, bias_sharing="filter", kernel_mask=None, dtype=dtype, rng=1, fans="window",
                              activity_regularizer="l2", bias_regularizer="l1"),
        lc.Flatten(),
        lc.Dense(3, dtype=dtype, kernel_regularizer="l1_l2", rng=2),
    ]), mask  # fmt: skip


def test_flat_includes_existing_weights_only(rng):
    layer = lc.LocallyConnected2D(2, 3, padding="same", kernel_mask=rng.random((12, 9, 2)) < 0.5, rng=0)
    layer.build((None, 4, 3, 1))
    vector = layer.get_flat()
    assert vector.shape == (layer.count_params(),)
    assert vector.dtype == np.float32
    before = layer.get_weights()
    layer.set_flat(np.zeros(vector.shape))
    assert not layer.kernel.any()
    layer.set_flat(vector.astype(np.float64))
    for a, b in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    vector[:] = 9  # a copy
    np.testing.assert_array_equal(layer.get_weights()[0], before[0])
    with pytest.raises(ValueError, match=r"the vector has shape \(3,\)"):
        layer.set_flat(np.ones(3))
    with pytest.raises(RuntimeError, match="set_flat before build"):
        lc.LocallyConnected2D(2, 3).set_flat(np.ones(3))


def test_gradients_match_finite_differences(rng):
    """Including weight and activity penalties, without non-trainable layers."""
    model, _ = network(rng)
    x, y = rng.standard_normal((5, 4, 3, 1)), rng.integers(0, 3, 5)

    def value(vector):
        model.set_flat(vector)
        return model.value_and_gradient(x, y, "softmax_cross_entropy")[0]

    for frozen in (False, True):
        model.layers[3].trainable = not frozen
        start = model.get_flat() + 0.01
        assert start.size == model.count_params() - frozen * model.layers[3].count_params()
        expected = numerical_gradient(value, start)
        model.set_flat(start)
        found, gradient = model.value_and_gradient(x, y, "softmax_cross_entropy")
        np.testing.assert_allclose(gradient, expected, atol=1e-7)
        assert gradient.dtype == np.float64
        assert found == pytest.approx(model.evaluate(x, y, loss="softmax_cross_entropy")["loss"])


def test_vectors_of_wrong_shape_change_nothing(rng):
    model, _ = network(rng)
    before = model.get_flat()
    with pytest.raises(ValueError, match="the vector has shape"):
        model.set_flat(before[:-1])
    np.testing.assert_array_equal(model.get_flat(), before)


def test_inner_models_and_custom_layers(rng):
    inner, _ = network(rng)
    outer = lc.Sequential([inner, lc.Dense(2, dtype="float64")])
    x = rng.standard_normal((5, 4, 3, 1))
    outer(x)
    assert outer.get_flat().size == outer.count_params()
    _, gradient = outer.value_and_gradient(x, np.zeros((5, 2)), "mse")
    assert gradient.shape == outer.get_flat().shape

    class Mine(lc.Flatten):
        def get_weights(self):
            return [np.ones(3)]

    with pytest.raises(TypeError, match="has weights but no get_flat; only built-in layers"):
        lc.Sequential([Mine()]).get_flat()


@pytest.mark.parametrize(
    "vector", [np.array([1.0, "x"], object), np.ones(2, complex), np.array(["1", "2"]), np.ma.masked_array([1.0, 2.0])]
)
def test_vectors_of_wrong_type_change_nothing(vector, rng):
    model = lc.Sequential([lc.Dense(1, use_bias=False, input_shape=(1,)), lc.Dense(1, use_bias=False)])
    before = model.get_flat()
    for one in (model, model.layers[0]):
        with pytest.raises(TypeError, match="vector"):
            one.set_flat(vector)
    np.testing.assert_array_equal(model.get_flat(), before)


def test_get_flat_before_build_raises():
    with pytest.raises(RuntimeError, match="get_flat before build"):
        lc.Sequential([lc.Dense(2)]).get_flat()


@pytest.mark.parametrize("trainable", [True, False])
def test_a_plan_decides_whether_weights_are_trainable(trainable):
    """Also of layers without a fused update."""
    model = lc.Sequential([lc.LocallyConnected1D(2, 2, input_shape=(4, 1)), lc.Flatten(), lc.Dense(1)])
    twin = copy.deepcopy(model)
    model.trainable = twin.trainable = trainable
    x = np.arange(8.0, dtype=np.float32).reshape(2, 4, 1)
    run = model.forward(x)[1].plan_step(0.5)
    model.trainable = not trainable
    run(np.ones((2, 1), np.float32), False)
    twin.forward(x)[1].step(np.ones((2, 1), np.float32), 0.5)
    if trainable:  # of Dense, the gradients are planned for as it runs
        np.testing.assert_array_equal(model[0].kernel, twin[0].kernel)
    else:
        for mine, other in zip(model.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, other)


class SetsItself:
    """An optimizer that replaces itself at each update."""

    def init(self, param):
        return {}

    def update(self, param, grad, state, lr):
        self.layer.optimizer = self


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lc.Dense(2), (3, 5)),
        (lc.LocallyConnected1D(2, 3), (3, 7, 2)),
        (lc.LocallyConnected2D(2, 3, weight_sharing="all"), (3, 5, 4, 2)),
        (lc.LocallyConnected3D(2, 2, groups=2), (3, 3, 4, 3, 2)),
        (lc.LocallyConnected2DTranspose(2, 3, 2), (3, 3, 4, 2)),
        (lc.Conv1D(2, 3), (3, 7, 2)),
        (lc.LocallyDirected1D(np.eye(7)), (3, 7, 1)),
        (lc.BatchNormalization(), (3, 7, 2)),
    ],
    ids=lambda given: "" if isinstance(given, tuple) else type(given).__name__,
)
@pytest.mark.parametrize("fused", [False, True])
def test_a_pullback_of_other_weights_is_refused(layer, shape, fused, rng):
    y, backward = layer.forward(rng.standard_normal(shape, np.float32))
    changed = [weight + 1 for weight in layer.get_weights()]
    layer.set_weights(changed)
    with pytest.raises(RuntimeError, match=r"backward belongs to older weights .* call forward again"):
        backward.step(np.ones_like(y), 0.1) if fused else backward(np.ones_like(y))
    for weight, expected in zip(layer.get_weights(), changed, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_an_optimizer_that_replaces_itself_is_an_error_in_any_thread():
    layer = lc.Dense(1, optimizer=(optimizer := SetsItself()))
    optimizer.layer = layer
    _, backward = layer.forward(np.ones((1, 2)))
    _, grads = backward(np.ones((1, 1)))
    errors = []

    def step():
        try:
            layer.step(grads, lr=1.0)
        except RuntimeError as error:
            errors.append(str(error))

    step()
    thread = threading.Thread(target=step)
    thread.start()
    thread.join(30)
    assert len(errors) == 2
    assert all("must not change its own layer" in error for error in errors)


def test_another_thread_may_set_the_optimizer_while_a_step_is_planned():
    """The step is planned again, and no user code is to blame."""

    class Waits:
        def __init__(self):
            self.calls = 0

        def init(self, param):
            return {}

        def update(self, param, grad, state, lr):
            self.calls += 1
            if self.calls <= 2:
                other = threading.Thread(target=setattr, args=(layer, "optimizer", self))
                other.start()
                other.join(30)
            param -= lr * grad

    layer = lc.Dense(1, optimizer=(optimizer := Waits()), kernel_initializer="ones", use_bias=False)
    _, backward = layer.forward(np.ones((1, 2)))
    layer.step(backward(np.ones((1, 1)))[1], lr=0.5)
    np.testing.assert_array_equal(layer.kernel, np.full((2, 1), 0.5))
    assert optimizer.calls == 3


def test_the_first_step_makes_its_states_once():
    made, init = [], lc.Adam.init

    def counted(self, param):
        made.append(param.shape)
        return init(self, param)

    layer = lc.Dense(2, optimizer="adam")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lc.Adam, "init", counted)
        _, backward = layer.forward(np.ones((1, 3)))
        backward.step(np.ones((1, 2)), lr=0.1)
    assert made == [(3, 2), (2,)]


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("implementation", [1, 2, 3])
@pytest.mark.parametrize(
    "optimizer", [lc.SGD(momentum=0.9), lc.SGD(momentum=0.9, nesterov=True), lc.Adam(), lc.RMSprop()]
)
def test_absent_weights_never_move(optimizer, implementation, axes, rng):
    """Nor do their states: after fused steps, on empty batches, from gradients, on NaN, with states from elsewhere."""
    mask = rng.random((16, 9, 3)[:axes]) < 0.5
    layer = lc.LocallyConnected2D(
        3, 3, input_shape=(6, 6, 1), kernel_mask=mask, optimizer=optimizer, implementation=implementation, rng=0
    )
    absent = ~np.broadcast_to(mask if axes == 3 else mask[:, :, None], (16, 9, 3))
    x = rng.standard_normal((4, 6, 6, 1), np.float32)

    def check():
        assert not layer.kernel[absent].any()
        for array in layer._parameters.states()["kernel"].values():
            assert not array.ndim or not array[absent].any()

    for batch in (x, x[:0], x):
        y, backward = layer.forward(batch)
        backward.step(np.ones_like(y), 0.1)
        check()
    y, backward = layer.forward(x)
    layer.step(backward(np.ones_like(y))[1], 0.1)
    check()
    states = {name: {key: array.copy() for key, array in s.items()} for name, s in layer._parameters.states().items()}
    for array in states["kernel"].values():
        if array.ndim:
            array[absent] = 1
    layer._parameters.plan_states(states)()
    check()
    y, backward = layer.forward(np.full_like(x, np.nan))
    dy = np.ones_like(y)
    dy[0] = np.nan
    backward.step(dy, 0.1)
    check()
