"""Deprecated aliases: old names work and warn."""

import warnings

import numpy as np
import pytest

import lcnumba as lc
from lcnumba import callbacks, optimizers
from lcnumba.training.run import Run

GRADS = np.ones((3, 2), np.float32), np.ones(2, np.float32)
STATE = np.random.default_rng(0).bit_generator.state


def built():
    """A layer with weights, one without, a model of both, and their pullbacks."""
    model = lc.Sequential([lc.Dense(2, input_shape=(3,)), lc.Dropout(0.5, seed=0)])
    x = np.ones((1, 3), np.float32)
    return model[0], model[1], model, model[0].forward(x)[1], model.forward(x)[1]


# Index of the object, old name, new name, arguments, and the class in the warning.
METHODS = [
    (0, "prepare_step", "plan_update", (GRADS, 0.5), "Dense"),
    (0, "prepare_weights", "plan_weights", ([np.ones((3, 2)), np.ones(2)],), "Dense"),
    (0, "prepare_flat", "plan_flat", (np.ones(8),), "Dense"),
    (0, "prepare_training_state", "plan_training_state", ({},), "Dense"),
    (0, "prepare_unbuild", "plan_unbuild", (), "Dense"),
    (1, "prepare_unbuild", "plan_unbuild", (), "Dropout"),
    (2, "prepare_training_state", "plan_training_state", ([{}, None],), "Sequential"),
    (1, "prepare_training_state", "plan_training_state", (STATE,), "Dropout"),
    (2, "prepare_step", "plan_update", ([GRADS, None], 0.5), "Sequential"),
    (3, "prepare_step", "plan_update", (GRADS, 0.5), "Backward"),
    (4, "prepare_step", "plan_update", ([GRADS, None], 0.5), "SequentialBackward"),
]


@pytest.mark.parametrize(("which", "old", "new", "arguments", "name"), METHODS, ids=lambda value: str(value)[:25])
def test_methods(which, old, new, arguments, name):
    thing = built()[which]
    with pytest.warns(DeprecationWarning, match=rf"^{name}\.{old} is deprecated; use {new}$") as caught:
        method = getattr(thing, old)
    assert [warning.filename for warning in caught] == [__file__]
    assert method == getattr(thing, new)
    method(*arguments)()


class Wrapped:
    """A custom layer with the methods of version 0.1."""

    name = "wrapped"

    def __init__(self):
        self.inner, self.calls = lc.Dense(1, kernel_initializer="ones"), []

    def build(self, input_shape):
        self.inner.build(input_shape)

    def compute_output_shape(self, input_shape):
        return self.inner.compute_output_shape(input_shape)

    def __call__(self, x):
        return self.inner(x)

    def forward(self, x):
        y, backward = self.inner.forward(x)
        return y, lambda dy: backward(dy)

    def step(self, grads, lr):
        raise AssertionError("prepare_step is there")

    def prepare_step(self, grads, lr):
        self.calls.append("step")
        return self.inner.plan_update(grads, lr)

    def get_training_state(self):
        return self.inner.get_training_state()

    def prepare_training_state(self, state):
        self.calls.append("state")
        return self.inner.plan_training_state(state)

    def get_config(self):
        return {}


def test_custom_layers_may_have_the_old_methods():
    layer = Wrapped()
    model = lc.Sequential([layer])
    _, backward = model.forward(np.ones((1, 2)))
    message = r"Wrapped\.prepare_step is deprecated; name the method plan_update"
    with pytest.warns(DeprecationWarning, match=message) as caught:
        backward.step(np.ones((1, 1)), lr=1.0)
    assert [warning.filename for warning in caught] == [__file__]
    np.testing.assert_array_equal(layer.inner.kernel, np.zeros((2, 1)))
    with pytest.warns(DeprecationWarning, match=r"prepare_training_state is deprecated; name the method plan_training"):
        model.plan_training_state(model.get_training_state())()
    assert set(layer.calls) == {"step", "state"}


def test_an_override_by_the_old_name_counts():
    """It may call super(), by the old name."""
    with pytest.warns(DeprecationWarning, match=r"^Halved\.prepare_step is deprecated; name the method plan_update$"):

        class Halved(lc.Dense):
            def prepare_step(self, grads, lr):
                with pytest.warns(DeprecationWarning, match=r"^Halved\.prepare_step is deprecated; use plan_update$"):
                    return super().prepare_step(grads, lr / 2)

    layer = Halved(1, kernel_initializer="ones", use_bias=False)
    _, backward = layer.forward(np.ones((1, 2)))
    _, grads = backward(np.ones((1, 1)))
    layer.step(grads, lr=1.0)
    np.testing.assert_array_equal(layer.kernel, np.full((2, 1), 0.5))


def test_names_of_the_module_of_training():
    from lcnumba import training

    for name in ("Run", "History"):
        with pytest.warns(DeprecationWarning, match=f"use lcnumba.training.run.{name}"):
            assert getattr(training, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        training.nothing  # noqa: B018


def test_cost():
    cost = lc.LocallyConnected2D(2, 3, input_shape=(5, 5, 1)).costs()[0]
    with pytest.warns(DeprecationWarning, match=r"^Cost\.effort is deprecated; use estimate$") as caught:
        assert cost.effort == cost.estimate
    assert [warning.filename for warning in caught] == [__file__]


def test_new_names_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for thing in built():
            thing.get_training_state() if hasattr(thing, "get_training_state") else None
        model = built()[2]
        model.plan_update([(np.ones((3, 2), np.float32), np.ones(2, np.float32)), None], 0.5)()


MODEL = lc.Sequential([lc.Dense(1)])
RUN = Run(MODEL, 1, 1, 0.1, ["loss", "mae"])


@pytest.mark.parametrize(
    ("thing", "old", "new"),
    [
        (MODEL, "recipe", "training_config"),
        (RUN, "names", "metric_names"),
        (lc.Sequential().training_config, "plain", "allows_fused_step"),
        (lc.SGD, "usual_rate", "default_lr"),
        (lc.AdamW(), "usual_rate", "default_lr"),
        (lc.RMSprop, "usual_rate", "default_lr"),
        (optimizers, "default_rate", "default_lr"),
        (callbacks, "figures_text", "format_logs"),
    ],
)
def test_old_names(thing, old, new):
    with pytest.warns(DeprecationWarning, match=rf"{old} is deprecated; use .*{new}$") as caught:
        value = getattr(thing, old)
    assert value is getattr(thing, new)
    assert caught[0].filename == __file__


def test_old_argument_of_run():
    weights = np.array([1.0, -1.0])
    with pytest.warns(DeprecationWarning, match=r"run\(restrain=\.\.\.\) is deprecated; use run\(regularize=\.\.\.\)"):
        optimizers.run(
            lc.SGD(), weights, np.zeros(2), {}, 1.0, restrain=lambda rule: rule._replace(l2=0.25, non_negative=True)
        )
    np.testing.assert_array_equal(weights, [0.5, 0.0])


def test_old_argument_of_history():
    history = lc.History()
    with pytest.warns(
        DeprecationWarning, match=r"add\(figures=\.\.\.\) is deprecated; use History\.add\(logs=\.\.\.\)"
    ):
        history.add(0, figures={"loss": 0.5})
    assert (history.history, history.epoch) == ({"loss": [0.5]}, [0])
    with pytest.raises(TypeError, match="missing required argument 'logs'"):
        history.add(1)
