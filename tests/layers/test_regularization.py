"""Penalties and constraints: values, steps and losses."""

import numpy as np
import pytest

import lcnumba as lc
from lcnumba import constraints, regularizers
from lcnumba.implementations.create import IMPLEMENTATIONS
from lcnumba.testing import numerical_gradient
from lcnumba.utils import sums

# Also run with every index checked, and interpreted instead of compiled.
pytestmark = pytest.mark.kernels

W = np.array([[[1.0, -2.0], [0.0, 3.0]], [[-1.0, 2.0], [4.0, -3.0]]])  # P, K, F


# --- regularizers


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("l1", 0.16), ("l2", 0.44), ("l1_l2", 0.6), ("L1L2", 0.0), ("L2", 0.44), (regularizers.L1L2(0.5, 0.25), 19.0),
        ({"class_name": "L2", "config": {"l2": 0.5}}, 22.0),
        ({"module": "keras.regularizers", "class_name": "L1", "config": {"l1": 1.0}, "registered_name": None}, 16.0),
    ],
)  # fmt: skip
def test_penalties(identifier, expected):
    regularizer = regularizers.get(identifier)
    assert regularizer(W) == pytest.approx(expected, rel=1e-12)
    assert regularizers.get(regularizers.serialize(regularizer))(W) == regularizer(W)
    away = W + 0.1  # from the kink at 0
    expected_gradient = numerical_gradient(lambda v: regularizer(v), away)
    np.testing.assert_allclose(regularizer.gradient(away), expected_gradient, atol=1e-8)
    assert regularizer.gradient(W.astype(np.float32)).dtype == np.float32
    assert regularizer.gradient(W)[0, 1, 0] == 0


def test_missing_factor_is_0():
    """As in configs of Keras."""
    assert regularizers.L1L2(None, 0.5).get_config() == {"l1": 0, "l2": 0.5}


def test_penalties_of_large_arrays_need_no_memory_of_their_size(monkeypatch):
    whole = regularizers.L1L2(0.5, 0.25)(W)
    monkeypatch.setattr(sums, "BLOCK", 3)
    assert regularizers.L1L2(0.5, 0.25)(W) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("get", "identifier", "error", "match"),
    [
        (regularizers.get, "nope", ValueError, "give one of"),
        (regularizers.get, lambda w: 0.0, TypeError, r"must implement __call__\(w\) and gradient"),
        (regularizers.get, "orthogonal_regularizer", ValueError, "needs a matrix"),
        (regularizers.get, "OrthogonalRegularizer", ValueError, "needs a matrix"),
        (constraints.get, "nope", ValueError, "give one of"),
        (constraints.get, 3, TypeError, "constraint must be .* or a callable .*, got 3"),
        (constraints.get, "radial_constraint", ValueError, "each position has its own kernel"),
        (constraints.get, {"class_name": "MaxNorm", "config": {"wide": 1}}, TypeError, "cannot create constraint from"),
    ],
)
def test_invalid_identifiers(get, identifier, error, match):
    with pytest.raises(error, match=match):
        get(identifier)


def test_settings_are_checked():
    for make, match in (
        (lambda: regularizers.L1(-1), "l1 must be >= 0, got -1"),
        (lambda: constraints.MaxNorm(-1), "max_value must be >= 0, got -1"),
        (lambda: constraints.MinMaxNorm(2, 1), "min_value must be <= max_value, got 2 and 1"),
        (lambda: regularizers.L2(np.nan), "l2 must be finite, got nan"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
    layer = lc.LocallyConnected2D(2, 2, bias_constraint=constraints.UnitNorm(axis=3))
    with pytest.raises(
        ValueError, match=r"axis=3 of bias_constraint is out of bounds for weights of shape \(2, 2, 2\)"
    ):
        layer.build((None, 3, 3, 1))
    assert not layer.built


# --- constraints


def test_constraints():
    eps = 1e-7
    n0, n1 = np.sqrt((W**2).sum(axis=0, keepdims=True)), np.sqrt((W**2).sum(axis=(0, 1), keepdims=True))
    for constraint, expected in (
        ("non_neg", np.maximum(W, 0)),
        ("max_norm", W * np.clip(n0, 0, 2) / (eps + n0)),
        (constraints.MaxNorm(3, axis=[0, 1]), W * np.clip(n1, 0, 3) / (eps + n1)),
        ("UnitNorm", W / (eps + n0)),
        (constraints.UnitNorm(axis=-1), W / (eps + np.sqrt((W**2).sum(axis=-1, keepdims=True)))),
        (constraints.MinMaxNorm(3, 4, 0.5), W * (0.5 * np.clip(n0, 3, 4) + 0.5 * n0) / (eps + n0)),
    ):
        found = constraints.get(constraint)
        np.testing.assert_allclose(found(W), expected, rtol=1e-12)
        assert found(W.astype(np.float32)).dtype == np.float32
        again = constraints.get(constraints.serialize(found))
        np.testing.assert_array_equal(again(W), found(W))
    for alias, cls in (
        ("maxnorm", constraints.MaxNorm),
        ("nonneg", constraints.NonNeg),
        ("MinMaxNorm", constraints.MinMaxNorm),
    ):
        assert type(constraints.get(alias)) is cls


# --- in layers


RESTRAINTS = [
    {"kernel_regularizer": "l1", "bias_regularizer": regularizers.L2(0.25)},
    {
        "kernel_regularizer": regularizers.L1L2(0.125, 0.25),
        "kernel_constraint": "non_neg",
        "bias_constraint": "non_neg",
    },
    {"kernel_constraint": "max_norm", "bias_constraint": constraints.UnitNorm(axis=-1)},
    {"kernel_constraint": constraints.MinMaxNorm(0.5, 1.0, 0.5, axis=1), "kernel_regularizer": "l2"},
]
OPTIMIZERS = [lc.SGD(), lc.SGD(momentum=0.5), lc.SGD(momentum=0.5, nesterov=True), lc.Adam(), lc.RMSprop()]


class Manual:
    """Any optimizer wrapped as a custom one: it runs on copies, with penalty and constraint in Python."""

    def __init__(self, inner):
        self.init, self.update = inner.init, inner.update


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("regularizations", RESTRAINTS, ids=lambda r: "-".join(r))
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("shape", [(17, 5), (1, 21)], ids=str)
def test_fused_and_unfused_steps_match_a_manual_step(implementation, regularizations, optimizer, shape, rng):
    batch, filters = shape
    settings = {"filters": filters, "kernel_size": 2, "padding": "same", "implementation": implementation,
                "dtype": "float64", "kernel_initializer": "random_normal", "rng": 0, **regularizations}  # fmt: skip
    layers = [lc.LocallyConnected2D(**settings, optimizer=o) for o in (optimizer, optimizer, Manual(optimizer))]
    x = rng.standard_normal((batch, 4, 5, 3))
    for _ in range(3):
        for number, layer in enumerate(layers):
            y, backward = layer.forward(x)
            dy = np.cos(np.arange(y.size)).reshape(y.shape)
            if number == 0:
                backward.step(dy, lr=0.1)
            else:
                layer.step(backward(dy)[1], lr=0.1)
        for other in layers[1:]:
            for a, b in zip(layers[0].weights, other.weights, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert not layers[0].kernel[~layers[0]._geometry.exists].any()
    if regularizations.get("kernel_constraint") == "non_neg":
        assert layers[0].kernel.min() == 0


def test_penalties_are_added_once_with_accumulation(rng):
    layer = lc.LocallyConnected2D(2, 2, kernel_regularizer="l2", dtype="float64", kernel_initializer="ones")
    x = rng.standard_normal((2, 3, 3, 1))
    y, backward = layer.forward(x)
    _, grads = backward(np.zeros_like(y))
    layer.step(grads + grads, lr=1.0)
    np.testing.assert_allclose(layer.kernel, 1 - 2 * 0.01)


def test_a_frozen_layer_is_neither_penalised_nor_constrained(rng):
    layer = lc.LocallyConnected2D(2, 2, kernel_regularizer="l2", kernel_constraint="non_neg", trainable=False)
    y, backward = layer.forward(rng.standard_normal((2, 3, 3, 1)))
    before = layer.get_weights()
    backward.step(y, lr=1.0)
    for a, b in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(layer.losses) == 1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "linear"])
def test_backward_includes_the_activity_penalty(implementation, data_format, activation, rng):
    regularizer = regularizers.L1L2(0.5, 0.25)
    layer = lc.LocallyConnected2D(
        2, 2, data_format=data_format, activation=activation, activity_regularizer=regularizer, dtype="float64",
        implementation=implementation,
    )  # fmt: skip
    x = rng.standard_normal((3, 4, 4, 4))
    y, backward = layer.forward(x)
    assert backward.activity_loss == pytest.approx(regularizer(y) / 3, rel=1e-12)
    dy = rng.standard_normal(y.shape)

    def total(v):
        out = layer(v)
        return float(np.sum(out * dy)) + regularizer(out) / len(v)

    dx, _ = backward(dy)
    np.testing.assert_allclose(dx, numerical_gradient(total, x), atol=1e-6)
    twin = lc.LocallyConnected2D.from_config(layer.get_config())
    twin.build(x.shape)
    twin.set_weights(layer.get_weights())
    np.testing.assert_array_equal(twin.forward(x)[1].step(dy, lr=0.1), dx)


def test_the_activity_penalty_of_an_empty_batch_is_0():
    plain, penalised = lc.LocallyConnected2D(1, 2), lc.LocallyConnected2D(1, 2, activity_regularizer="l2")
    assert plain.forward(np.ones((2, 3, 3, 1)))[1].activity_loss == 0
    y, backward = penalised.forward(np.ones((0, 3, 3, 1)))
    assert backward.activity_loss == 0
    dx, grads = backward(y)
    assert dx.shape == (0, 3, 3, 1)
    assert not grads.kernel.any()


def test_losses_match_keras():
    """Two after build, three after a call: activity, kernel, bias."""
    layer = lc.LocallyConnected2D(
        2, 2, kernel_initializer="ones", bias_initializer="ones", kernel_regularizer="l1",
        bias_regularizer=regularizers.L2(0.5), activity_regularizer=regularizers.L1(0.25),
    )  # fmt: skip
    assert layer.losses == []
    layer.build((None, 3, 3, 1))
    assert layer.losses == pytest.approx([0.01 * 32, 0.5 * 8])
    y = layer(np.ones((4, 3, 3, 1)))
    assert layer.losses == pytest.approx([0.25 * y.sum() / 4, 0.01 * 32, 0.5 * 8])
    layer(np.ones((0, 3, 3, 1)))
    assert layer.losses[0] == 0
    layer.trainable = False
    assert len(layer.losses) == 3
    model = lc.Sequential([layer, lc.Flatten(), lc.Dense(2, kernel_regularizer="l2")])
    model(np.ones((4, 3, 3, 1)))
    assert len(model.losses) == 4
    figures = model.evaluate(np.ones((4, 3, 3, 1)), np.zeros((4, 2)), loss="mse")
    plain = np.mean(np.square(model(np.ones((4, 3, 3, 1)))))
    assert figures["loss"] == pytest.approx(plain + sum(model.losses), rel=1e-6)


class Cubic:
    """A custom penalty, and a custom constraint."""

    def __call__(self, w):
        return float(np.sum(np.abs(w) ** 3))

    def gradient(self, w):
        return 3 * w * np.abs(w)


def test_custom_regularizers_and_constraints_are_not_fused(rng):
    def halve(w):
        return w / 2

    layer = lc.LocallyConnected2D(
        2, 2, kernel_regularizer=Cubic(), kernel_constraint=halve, activity_regularizer=Cubic(), dtype="float64"
    )
    assert layer.kernel_constraint is halve
    x = rng.standard_normal((2, 3, 3, 1))
    y, backward = layer.forward(x)
    before = layer.kernel.copy()
    assert layer.losses == pytest.approx([Cubic()(y) / 2, Cubic()(before)])
    dy = rng.standard_normal(y.shape)
    _, grads = backward(dy)
    backward.step(dy, lr=0.1)
    np.testing.assert_allclose(layer.kernel, (before - 0.1 * (grads.kernel + Cubic().gradient(before))) / 2)
    with pytest.raises(TypeError, match="cannot be saved"):
        lc.Sequential([layer]).save("nowhere")


def test_failing_custom_regularizers_and_constraints_change_nothing(rng):
    class Fails(Cubic):
        def gradient(self, w):
            raise ZeroDivisionError

    class Flat(Cubic):
        def gradient(self, w):
            return np.zeros(3)

    def fails(w):
        raise ZeroDivisionError

    for settings, error in (
        ({"kernel_regularizer": Fails()}, ZeroDivisionError), ({"bias_constraint": fails}, ZeroDivisionError),
        ({"kernel_regularizer": Flat()}, ValueError), ({"kernel_constraint": lambda w: w[:1]}, ValueError),
        ({"activity_regularizer": Fails()}, ZeroDivisionError), ({"activity_regularizer": Flat()}, ValueError),
    ):  # fmt: skip
        layer = lc.LocallyConnected2D(2, 2, **settings)
        model = lc.Sequential([layer, lc.LocallyConnected2D(2, 2)])
        y, backward = model.forward(rng.standard_normal((2, 4, 4, 1)))
        before = model.get_weights()
        with pytest.raises(error):
            backward.step(np.ones_like(y), lr=0.1)
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_norms_include_existing_weights_only(rng):
    """Also if a custom optimizer changes non-existing weights."""

    class Shifts:
        def init(self, param):
            return None

        def update(self, param, grad, state, lr):
            param -= lr * (grad + 1)

    layer = lc.LocallyConnected2D(
        2, 3, padding="same", kernel_constraint=constraints.UnitNorm(axis=1), optimizer=Shifts(), dtype="float64"
    )
    y, backward = layer.forward(rng.standard_normal((2, 4, 4, 1)))
    backward.step(y, lr=0.5)
    np.testing.assert_allclose(np.sqrt((layer.kernel**2).sum(axis=1)), 1, rtol=1e-5)
    assert not layer.kernel[~layer._geometry.exists].any()


def test_a_constraint_that_changes_its_layer_raises():
    layer = lc.LocallyConnected2D(1, 1, kernel_constraint=lambda w: layer.set_weights(doubled()) or w)

    def doubled():  # setting equal values would not count as a change
        return [2 * weight for weight in layer.get_weights()]

    layer.build((None, 2, 2, 1))
    layer.set_weights([np.ones((4, 1, 1)), np.zeros((2, 2, 1))])
    y, backward = layer.forward(np.ones((1, 2, 2, 1)))
    with pytest.raises(RuntimeError, match="must not change its own layer"):
        layer.step(backward(y)[1], lr=0.1)


def test_complex_gradients_and_values_are_refused(rng):
    class Complex(Cubic):
        def gradient(self, w):
            return 1j * w

    for settings in ({"kernel_regularizer": Complex()}, {"kernel_constraint": lambda w: w * 1j}):
        layer = lc.LocallyConnected2D(1, 1, **settings)
        y, backward = layer.forward(np.ones((1, 2, 2, 1)))
        with pytest.raises(TypeError, match="complex; return real numbers"):
            backward.step(y, lr=0.1)


def test_rebuilding_clears_the_activity_loss():
    layer = lc.LocallyConnected2D(1, 1, activity_regularizer="l2", kernel_regularizer="l2")
    layer(np.ones((1, 2, 2, 1)))
    assert len(layer.losses) == 2
    layer.build((None, 2, 2, 1))
    assert len(layer.losses) == 1


def test_evaluate_uses_the_penalty_of_its_own_call(monkeypatch):
    """Regardless of calls from other threads; and Dropout is inactive."""
    first = lc.LocallyConnected2D(1, 1, activity_regularizer="l2", kernel_initializer="ones")
    model = lc.Sequential([first, lc.Dropout(0.5), lc.Flatten()])
    x, y = np.ones((4, 2, 2, 1)), np.zeros((4, 4))
    expected = 1 + 0.01 * 4

    def disturbed(y_true, y_pred):
        model.layers[0](100 * x)
        return lc.losses.MeanSquaredError()(y_true, y_pred)

    assert model.evaluate(x, y, loss=disturbed)["loss"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="the loss would be random with"):
        model.value_and_gradient(x, y, "mse")


def test_constraint_defaults_match_keras_and_limits_are_accepted():
    assert constraints.NonNeg().get_config() == {}
    assert constraints.MaxNorm().get_config() == {"max_value": 2, "axis": 0}
    assert constraints.UnitNorm().get_config() == {"axis": 0}
    assert constraints.MinMaxNorm().get_config() == {"min_value": 0, "max_value": 1, "rate": 1, "axis": 0}
    assert constraints.MinMaxNorm(1, 1, rate=0).get_config() == {"min_value": 1, "max_value": 1, "rate": 0, "axis": 0}
    np.testing.assert_allclose(constraints.MinMaxNorm(1, 1, rate=0)(W), W, rtol=1e-6)  # no change
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got 1\.5"):
        constraints.MinMaxNorm(rate=1.5)


@pytest.mark.parametrize(("axis", "exists"), [(2, True), (3, False), (-3, True), (-4, False), ([0, 3], False)])
def test_axes_must_exist(axis, exists):
    constraint = constraints.UnitNorm(axis)
    if exists:
        constraint.check("kernel_constraint", W.shape)
    else:
        with pytest.raises(ValueError, match=r"of kernel_constraint is out of bounds for weights of shape \(2, 2, 2\)"):
            constraint.check("kernel_constraint", W.shape)


def test_built_in_regularizers_and_constraints_are_recognised():
    for module, mine in ((regularizers, Cubic()), (constraints, abs)):
        assert module.is_built_in(None) is True
        assert module.is_built_in(module.get("l1" if module is regularizers else "non_neg")) is True
        assert module.is_built_in(mine) is False
        assert module.serialize(None) is None


def test_constraint_axes_are_copied():
    axes = [0, 1]
    constraint = constraints.MaxNorm(axis=axes)
    axes.append(7)
    assert constraint.get_config()["axis"] == [0, 1]
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got 5"):
        constraints.MinMaxNorm(rate=5)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, [0, 1], [1, 2], [0, 2], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("norms", [1, 7, 1000])
def test_norms_applied_in_blocks_match_those_at_once(axis, norms, rng, monkeypatch):
    monkeypatch.setattr(constraints, "NORMS", norms)
    weights = rng.standard_normal((5, 6, 4))
    constraint = constraints.MaxNorm(0.5, axis=axis)
    expected = constraint(weights)
    constraint.apply(weights)
    np.testing.assert_allclose(weights, expected, rtol=1e-14)


def test_factors_too_large_for_the_dtype_change_nothing():
    for settings in ({"kernel_regularizer": lc.regularizers.L2(1e39)}, {"bias_regularizer": lc.regularizers.L1(1e39)}):
        layer = lc.Dense(1, **settings)
        with pytest.raises(ValueError, match=r"l[12]=1e\+39 of (kernel|bias)_regularizer is too large for float32"):
            layer.build((None, 2))
        assert not layer.built
        lc.Dense(1, dtype="float64", **settings).build((None, 2))
    layer = lc.Dense(1, optimizer=lc.AdamW(weight_decay=1e30), rng=0)
    y, backward = layer.forward(np.ones((1, 2)))
    before = layer.kernel.copy()
    for step in (lambda: backward.step(y, lr=1e20), lambda: layer.step(backward(y)[1], lr=1e20)):
        with pytest.raises(ValueError, match=r"lr \* weight_decay must be at least 0 and finite in float32, got"):
            step()
    np.testing.assert_array_equal(layer.kernel, before)


@pytest.mark.parametrize("constraint", ["max_norm", "unit_norm", "min_max_norm"])
@pytest.mark.parametrize("mask", [[[1, 1], [0, 1]], [[[1], [1]], [[0], [1]]]], ids=["of entries", "of filters"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_norms_that_are_not_finite_leave_absent_weights_0(constraint, mask, fused, value, monkeypatch):
    monkeypatch.setattr("lcnumba.layers.regularization.ABSENT", 1)
    layer = lc.LocallyConnected1D(
        1, 2, strides=2, kernel_mask=np.array(mask, bool), kernel_constraint=constraint, kernel_initializer="ones",
        use_bias=False,
    )  # fmt: skip
    y, backward = layer.forward(np.ones((1, 4, 1)))
    dy = np.array([[[value], [1.0]]])
    with np.errstate(invalid="ignore"):
        if fused:
            backward.step(dy, lr=0.5)
        else:
            layer.step(backward(dy)[1], lr=0.5)
    assert layer.kernel[1, 0, 0] == 0
    assert np.isnan(layer.kernel[0, 0, 0])
    alone = lc.LocallyConnected1D(1, 2, padding="same", kernel_constraint=constraint, kernel_initializer="ones")
    y, backward = alone.forward(np.ones((1, 3, 1)))
    with np.errstate(invalid="ignore"):
        backward.step(np.full_like(y, value), lr=0.5)
    assert alone.kernel[0, 0, 0] == 0
