"""What is refused, or interrupted, leaves everything as it was: weights, states, counts, random numbers, builds."""

import copy

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.testing import integers


class Scale:
    """A layer of a user's with one weight, which refuses what it is told to."""

    def __init__(self, name="scale", refuses=()):
        self.name, self.refuses, self.built = name, set(refuses), False
        self.weight, self.state, self._optimizer = np.ones(2, np.float32), 0, "sgd"

    def _do(self, what):
        if what in self.refuses:
            raise KeyboardInterrupt(what)

    def build(self, input_shape):
        self._do("build")
        self.built, self.input_shape = True, input_shape

    def compute_output_shape(self, input_shape):
        return input_shape

    def __call__(self, x):
        return x * self.weight[0]

    def forward(self, x):
        return x * self.weight[0], lambda dy: (dy * self.weight[0], None)

    def step(self, grads, lr):
        self._do("step")

    def get_config(self):
        return {"name": self.name}

    def get_weights(self):
        return [self.weight.copy()]

    def set_weights(self, weights):
        self.weight[0] = weights[0][0]  # half of it
        self._do("weights")
        self.weight[1] = weights[0][1]

    @property
    def optimizer(self):
        return self._optimizer

    @optimizer.setter
    def optimizer(self, value):
        self._do("optimizer")
        self._optimizer = value

    def get_training_state(self):
        return self.state

    def plan_training_state(self, state):
        def commit():
            self.state = state
            self._do("state")

        return commit


def trained(*refuses, optimizer="adam"):
    """A model whose layers have weights and states of their optimizers; the last layer is a user's."""
    scale = Scale()
    model = lc.Sequential([lc.Dense(3, rng=0), lc.Dense(2, rng=1), scale])
    x, y = integers(np.random.default_rng(0), (4, 5)), integers(np.random.default_rng(1), (4, 2))
    model.compile(optimizer, "mse", lr=0.01)
    model.fit(x, y, epochs=2, progress=False)
    scale.refuses = set(refuses)
    return model, scale, x, y


def everything(model):
    """Copies of all that training changes."""
    states = copy.deepcopy(model.get_training_state())
    return [*model.get_weights(), *(array for state in states if isinstance(state, dict)
                                    for arrays in state.values() for array in arrays.values())]  # fmt: skip


def same(before, after):
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_that_a_layer_of_users_refuses():
    model, scale, x, _ = trained("weights")
    before, (prediction, backward) = everything(model), model.forward(x)
    with pytest.raises(KeyboardInterrupt, match="weights"):
        model.set_weights([weight + 1 for weight in model.get_weights()])
    same(before, everything(model))
    scale.refuses.clear()
    backward.step(np.ones_like(prediction), 0.1)  # still belongs to the weights


def test_refused_weights_end_no_pullback():
    model = lc.Sequential([lc.Dense(2, rng=0), lc.Dense(1, rng=0)])
    y, backward = model.forward(np.ones((1, 3)))
    weights = model.get_weights()
    with pytest.raises(ValueError, match="kernel has shape"):
        model.set_weights([weights[0] + 1, weights[1], weights[2][:1], weights[3]])
    backward.step(np.ones_like(y), 0.1)


def test_a_vector_that_cannot_be_cast_changes_no_layer():
    model = lc.Sequential([lc.Dense(2, rng=0, dtype="float64"), lc.Dense(1, rng=0)])
    model.build((None, 3))
    before = model.get_weights()
    vector = np.ones(model.count_params())
    vector[-1] = 1e300  # no float32 holds it
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        model.set_flat(vector)
    same(before, model.get_weights())


def test_an_optimizer_that_a_layer_of_users_refuses():
    model, _, _, _ = trained("optimizer")
    before, config = everything(model), model.training_config
    with pytest.raises(KeyboardInterrupt, match="optimizer"):
        model.compile("sgd", "mae")
    same(before, everything(model))
    assert [layer.optimizer for layer in model.layers] == [lc.Adam(), lc.Adam(), lc.Adam()]
    assert model.training_config is config


def test_a_step_that_a_layer_of_users_refuses():
    model, _, x, y = trained("step")
    before = everything(model)
    with pytest.raises(KeyboardInterrupt, match="step"):
        model.train_on_batch(x, y)
    same(before, everything(model))
    assert model.steps_taken == 0


def test_a_state_that_a_layer_of_users_refuses():
    model, scale, x, y = trained()
    before = everything(model)
    older = copy.deepcopy(model.get_training_state())
    older[-1] = 7
    model.fit(x, y, progress=False)
    now = everything(model)
    with pytest.raises(AssertionError):
        same(before, now)
    scale.refuses = {"state"}
    with pytest.raises(KeyboardInterrupt, match="state"):
        model.plan_training_state(older)()
    same(now, everything(model))
    assert scale.state == 0


@pytest.mark.parametrize("refuses", ["weights", "state"])
def test_a_checkpoint_that_is_refused_half_way(refuses, tmp_path):
    settings = {"loss": "mse", "lr": 0.01, "progress": False}
    model, scale, x, y = trained()
    scale.state = 5
    model.fit(x, y, **settings, callbacks=[lc.callbacks.Checkpoint(tmp_path / "run.npz")])
    other, scale, x, y = trained()
    before, history = everything(other), other.history
    random = np.random.default_rng(3)
    scale.refuses = {refuses}
    with pytest.raises(KeyboardInterrupt, match=refuses):
        other.fit(x, y, epochs=2, **settings, resume=tmp_path / "run.npz", rng=random)
    same(before, everything(other))
    assert scale.state == 0
    assert other.history is history
    assert random.integers(2**62) == np.random.default_rng(3).integers(2**62)


def test_a_fit_that_does_not_begin_leaves_the_history():
    model, _, x, y = trained()
    history = model.history
    with pytest.raises(ValueError, match="not a metric of this training"):
        model.fit(x, y, loss="mse", callbacks=[lc.callbacks.EarlyStopping("nothing")], progress=False)
    assert model.history is history
    assert len(history.epoch) == 2


def refusing(shape, dtype, rng):
    rng.random(7)
    raise KeyboardInterrupt("initializer")


def test_random_numbers_of_a_layer_that_could_not_be_built():
    """The kernel is drawn before the bias fails."""
    layer = lc.Dense(2, bias_initializer=refusing, rng=0)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt, match="initializer"):
            layer.build((None, 3))
    assert not layer.built
    layer.bias_initializer = "zeros"
    layer.build((None, 3))
    np.testing.assert_array_equal(layer.kernel, lc.Dense(2, rng=0)(np.eye(3)))


def test_a_model_of_which_a_layer_could_not_be_built():
    def layers(bias):
        rng = np.random.default_rng(0)
        inner = lc.Sequential([lc.LocallyConnected2D(2, 2, rng=rng), lc.Flatten()], name="inner")
        return [lc.LocallyConnected2D(2, 3, rng=rng), inner, lc.Dense(2, rng=rng, bias_initializer=bias)]

    parts = layers(refusing)
    model = lc.Sequential(parts)
    for attempt in (lambda: model.build((None, 6, 6, 1)), lambda: model(np.ones((1, 6, 6, 1)))):
        with pytest.raises(KeyboardInterrupt, match="initializer"):
            attempt()
    assert not model.built
    assert not parts[1].built
    assert [layer.built for layer in (parts[0], parts[1].layers[0], parts[2])] == [False] * 3
    parts[2].bias_initializer = "zeros"
    model.build((None, 5, 5, 1))  # another shape
    expected = lc.Sequential(layers("zeros"))
    expected.build((None, 5, 5, 1))
    same(expected.get_weights(), model.get_weights())


def test_initial_weights_outlive_a_model_that_could_not_be_built():
    kernel, bias = np.arange(6.0).reshape(3, 2), np.ones(2)
    model = lc.Sequential([lc.Dense(2, weights=[kernel, bias]), Scale(refuses=["build"])])
    with pytest.raises(KeyboardInterrupt, match="build"):
        model.build((None, 3))
    model.layers[1].refuses.clear()
    model.build((None, 3))
    np.testing.assert_array_equal(model.layers[0].kernel, kernel)


def test_a_refused_checkpoint_builds_no_model(tmp_path):
    """The file fits the model; the settings of the training do not."""
    x, y = np.ones((8, 3)), np.ones((8, 1))

    class Stop(lc.callbacks.Callback):
        def on_batch_end(self, run, logs):
            run.stop()

    def fit(model, size, *callbacks):
        path = tmp_path / "run.npz"
        model.fit(x, y, loss="mse", batch_size=size, progress=False, resume=path, callbacks=callbacks)

    fit(lc.Sequential([lc.Dense(1, rng=0)]), 2, Stop(), lc.callbacks.Checkpoint(tmp_path / "run.npz"))
    model = lc.Sequential([lc.Dense(1, rng=0)])
    with pytest.raises(ValueError, match="the same data and settings"):
        fit(model, 4)
    assert not model.built
    assert not model.layers[0].built
    np.testing.assert_array_equal(model(np.eye(3)), lc.Dense(1, rng=0)(np.eye(3)))


def test_tuning_leaves_the_penalties_of_a_layer():
    layer = lc.LocallyConnected1D(1, 2, activity_regularizer="l2", rng=0)
    layer(np.ones((1, 4, 1)))
    before = layer.losses
    lc.tune(layer, 100 * np.ones((2, 4, 1)), seconds=0)
    assert layer.losses == before
