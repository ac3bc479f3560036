import json
import math
import typing

import numpy as np
import pytest

import lcnumba as lc
from lcnumba import SGD, Adam, AdamW, RMSprop, optimizers
from lcnumba.kernels import rules, update

# Also run with every index checked, and interpreted instead of compiled.
pytestmark = pytest.mark.kernels

# One more element than two tasks of the update kernels hold.
SIZES = [(3, 4), (2 * (1 << 15) + 1,), (0,)]


def formula_sgd(p, gradients, lr, momentum, nesterov):
    velocity = np.zeros_like(p)
    for g in gradients:
        velocity = momentum * velocity - lr * g
        p = p + (momentum * velocity - lr * g if nesterov else velocity)
    return p


def formula_adam(p, gradients, lr, beta_1, beta_2, epsilon, weight_decay=0):
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        p = p - p * weight_decay * lr
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g * g
        p = p - lr * math.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(v) + epsilon)
    return p


def formula_rmsprop(p, gradients, lr, rho, epsilon):
    v = np.zeros_like(p)
    for g in gradients:
        v = rho * v + (1 - rho) * g * g
        p = p - lr * g / (np.sqrt(v) + epsilon)
    return p


CASES = [
    (SGD(), lambda p, gs, lr: formula_sgd(p, gs, lr, 0.0, False)),
    (SGD(momentum=0.9), lambda p, gs, lr: formula_sgd(p, gs, lr, 0.9, False)),
    (SGD(momentum=0.5, nesterov=True), lambda p, gs, lr: formula_sgd(p, gs, lr, 0.5, True)),
    (Adam(), lambda p, gs, lr: formula_adam(p, gs, lr, 0.9, 0.999, 1e-7)),
    (AdamW(), lambda p, gs, lr: formula_adam(p, gs, lr, 0.9, 0.999, 1e-7, 0.004)),
    (
        AdamW(beta_1=0.5, beta_2=0.8, epsilon=0.1, weight_decay=0.5),
        lambda p, gs, lr: formula_adam(p, gs, lr, 0.5, 0.8, 0.1, 0.5),
    ),
    (Adam(beta_1=0.5, beta_2=0.8, epsilon=0.1), lambda p, gs, lr: formula_adam(p, gs, lr, 0.5, 0.8, 0.1)),
    (RMSprop(), lambda p, gs, lr: formula_rmsprop(p, gs, lr, 0.9, 1e-7)),
    (RMSprop(rho=0.5, epsilon=0.1), lambda p, gs, lr: formula_rmsprop(p, gs, lr, 0.5, 0.1)),
]


@pytest.mark.parametrize(("optimizer", "formula"), CASES, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-14)])
def test_updates_follow_the_formula(optimizer, formula, shape, dtype, tolerance, rng):
    param = rng.standard_normal(shape).astype(dtype)
    gradients = [rng.standard_normal(shape).astype(dtype) for _ in range(3)]
    expected = formula(param.astype(np.float64), [g.astype(np.float64) for g in gradients], 0.1)
    state = optimizer.init(param)
    for gradient in gradients:
        kept = gradient.copy()
        optimizer.update(param, gradient, state, 0.1)
        np.testing.assert_array_equal(gradient, kept)
    assert param.dtype == dtype
    np.testing.assert_allclose(param, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("optimizer", [optimizer for optimizer, _ in CASES], ids=repr)
@pytest.mark.parametrize("nonnegative", [False, True])
def test_penalties_are_gradients_and_bounds_come_last(optimizer, nonnegative):
    """l1 by the sign, 0 at 0, and l2 twice; powers of two, so that all sums are exact."""
    param = np.array([-2, -1, -0.5, 0, 0.5, 1, 2])
    grad = np.array([0.5, -1, 2, 0.25, -2, 1, -0.5])
    plain, state, plain_state = param.copy(), optimizer.init(param), optimizer.init(param)
    optimizers.run(optimizer, plain, grad + 0.5 * np.sign(param) + 2 * 0.25 * param, plain_state, 0.5)
    optimizers.run(optimizer, param, grad, state, 0.5, 1, lambda rule: rule.regularized(0.5, 0.25, nonnegative))
    np.testing.assert_array_equal(param, np.maximum(plain, 0) if nonnegative else plain)
    assert plain.min() < 0 < plain.max()
    for name in state:
        np.testing.assert_array_equal(state[name], plain_state[name])


@pytest.mark.parametrize("optimizer", [optimizer for optimizer, _ in CASES], ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_states_of_dead_weights_become_zero_and_not_subnormal(optimizer, dtype):
    """Rounding keeps subnormal numbers from decaying, and they make steps many times slower; NaN stays NaN."""
    param, gradient, tiny = np.ones(19, dtype), np.ones(19, dtype), np.finfo(dtype).tiny
    state = optimizer.init(param)
    for array in state.values():
        if array.ndim:
            array[:] = 4 * tiny
    for _ in range(60):
        optimizer.update(param, gradient * 0, state, 1e-3)
        for array in state.values():
            assert not (array.ndim and ((array != 0) & (np.abs(array) < tiny)).any())
    gradient[3] = np.nan
    optimizer.update(param, gradient, state, 1e-3)
    for array in (param, *state.values()):
        assert not array.ndim or np.isnan(array).nonzero()[0].tolist() == [3]


def test_moments_of_tiny_gradients_are_kept_however_small():
    """Their quotient is not small: a flushed second moment would leave epsilon alone as the divisor."""
    for optimizer in (Adam(epsilon=1e-30), RMSprop(epsilon=1e-30)):
        param, exact = np.ones(3, np.float32), np.ones(3)
        gradient = np.full(3, 1e-18)
        optimizer.update(param, gradient.astype(np.float32), optimizer.init(param), 1e-3)
        optimizer.update(exact, gradient, optimizer.init(exact), 1e-3)
        np.testing.assert_allclose(param, exact, rtol=1e-5)


def test_every_tuple_of_scalars_has_a_formula():
    assert set(typing.get_args(rules.Scalars)) == set(update.FORMULAS)
    for optimizer, _ in CASES:
        state = optimizer.init(np.ones(2))
        assert type(optimizer.rule(state, 0.5).scalars) in update.FORMULAS


def test_sgd_is_exact_and_needs_no_state():
    param = np.array([1.0, 2.0, 3.0], np.float32)
    assert SGD().init(param) == {}
    SGD().update(param, np.array([1, -1, 2], np.float32), {}, 0.5)
    np.testing.assert_array_equal(param, [0.5, 2.5, 2.0])


def test_names_and_configs():
    assert isinstance(optimizers.get("SGD"), SGD)
    assert isinstance(optimizers.get("adam"), Adam)
    again = optimizers.get({"class_name": "SGD", "config": SGD(momentum=0.9, nesterov=True).get_config()})
    assert (again.momentum, again.nesterov) == (0.9, True)
    again = optimizers.get({"class_name": "Adam", "config": Adam(beta_1=0.5).get_config()})
    assert again.beta_1 == 0.5
    again = optimizers.get({"class_name": "AdamW", "config": AdamW(weight_decay=0.5).get_config()})
    assert again == AdamW(weight_decay=0.5) != AdamW()
    assert optimizers.get("AdamW") == optimizers.get("adamw") == AdamW()
    again = optimizers.get({"class_name": "RMSprop", "config": RMSprop(rho=0.5, epsilon=0.25).get_config()})
    assert again == RMSprop(rho=0.5, epsilon=0.25) != RMSprop()
    assert optimizers.is_built_in(SGD())
    assert optimizers.is_built_in(AdamW())

    class Mine(SGD):
        pass

    assert not optimizers.is_built_in(Mine()), "a subclass may fail"


def test_default_lrs_are_those_of_keras():
    rates = {type(o).__name__: optimizers.default_lr(o) for o in (SGD(momentum=0.9), Adam(), AdamW(), RMSprop())}
    assert rates == {"SGD": 0.01, "Adam": 0.001, "AdamW": 0.001, "RMSprop": 0.001}
    assert optimizers.default_lr(object()) is None
    assert "usual_rate" not in SGD().get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(momentum=1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: SGD(momentum=-0.1), r"momentum must be in \[0, 1\), got -0.1"),
        (lambda: SGD(momentum=math.nan), "momentum must be finite, got nan"),
        (lambda: Adam(beta_1=1), r"beta_1 must be in \[0, 1\), got 1"),
        (lambda: Adam(beta_2=2), r"beta_2 must be in \[0, 1\), got 2"),
        (lambda: Adam(epsilon=0), "epsilon must be >= 1e-37, .*, got 0"),
        (lambda: AdamW(weight_decay=-0.1), "weight_decay must be >= 0, got -0.1"),
        (lambda: AdamW(beta_1=1), r"beta_1 must be in \[0, 1\), got 1"),
        (lambda: Adam(epsilon=1e-50), "epsilon must be >= 1e-37, .* float32 .*, got 1e-50"),
        (lambda: Adam(epsilon=math.inf), "epsilon must be finite, got inf"),
        (lambda: RMSprop(rho=1), r"rho must be in \[0, 1\), got 1"),
        (lambda: RMSprop(epsilon=0), "epsilon must be >= 1e-37, .*, got 0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_settings_at_their_limits():
    assert AdamW(beta_1=0, beta_2=0, epsilon=1e-37, weight_decay=0) == AdamW(
        beta_1=0.0, beta_2=0.0, epsilon=1e-37, weight_decay=0.0
    )
    assert RMSprop(rho=0, epsilon=1e-37).rho == 0
    with pytest.raises(TypeError, match="nesterov=1 is a int"):
        SGD(momentum=0.5, nesterov=1)


class OnlyInit:
    def init(self, param):
        return None


class OnlyUpdate:
    def update(self, param, grad, state, lr):
        pass


@pytest.mark.parametrize("identifier", [3, OnlyInit(), OnlyUpdate()], ids=lambda v: type(v).__name__)
def test_what_is_no_optimizer(identifier):
    with pytest.raises(
        TypeError, match=r"optimizer=.* must implement init\(param\) and update.*adam, adamw, rmsprop, sgd"
    ):
        optimizers.get(identifier)


@pytest.mark.parametrize(
    ("optimizer", "param", "grad", "state"),
    [
        (SGD(), np.zeros((4, 4), "f4")[:, ::2], np.zeros((4, 2), "f4"), {}),  # the update would be lost
        (SGD(), np.zeros(10, "f4"), np.zeros(3, "f4"), {}),  # would be read past its end
        (SGD(), np.zeros(10, "f4"), np.zeros(10), {}),
        (
            SGD(momentum=0.9),
            np.zeros(10, "f4"),
            np.zeros(10, "f4"),
            {"velocity": np.zeros(1, "f4")},
        ),  # written past its end
        (Adam(), np.zeros(9, "f4"), np.zeros(9, "f4"), {"m": np.zeros(9), "v": np.zeros(9), "t": np.zeros((), int)}),
    ],
)
def test_arrays_that_do_not_match_are_refused(optimizer, param, grad, state):
    with pytest.raises(ValueError, match="must be C-contiguous and have the same shape and dtype"):
        optimizer.update(param, grad, state, 0.1)
    assert not param.any()


def test_settings_cannot_change_under_their_state():
    with pytest.raises(AttributeError):
        SGD().momentum = 0.9
    assert SGD(momentum=0.9) == SGD(momentum=np.float64(0.9))


@pytest.mark.parametrize(
    "make",
    [
        lambda number: Adam(beta_1=number, beta_2=number),
        lambda number: AdamW(weight_decay=number),
        lambda number: RMSprop(rho=number),
        lambda number: SGD(momentum=number),
    ],
)
def test_settings_are_kept_as_pythons_numbers(make):
    """NumPy's would decide the precision of the formula, and no file of JSON would hold them."""
    assert make(np.float32(0.25)) == make(0.25)
    for optimizer in (make(np.float32(0.1)), make(np.float16(0.1)), make(0)):
        numbers = [value for value in optimizer.get_config().values() if not isinstance(value, bool)]
        assert all(type(value) is float for value in numbers)
        json.dumps(optimizer.get_config())


class Returns:
    """An optimizer that does not change weights in place."""

    def __init__(self, what):
        self.what = what

    def init(self, param):
        return {}

    def update(self, param, grad, state, lr):
        return param - lr * grad if self.what == "param" else self.what


@pytest.mark.parametrize("what", ["param", 0, {}])
def test_what_an_update_returns_is_refused(what):
    """It would be lost, and nothing learnt."""
    layer = lc.Dense(1, kernel_initializer="ones", optimizer=Returns(what))
    y, backward = layer.forward([[1.0]])
    for step in (lambda: layer.step(backward(y)[1], lr=0.1), lambda: backward.step(y, lr=0.1)):
        with pytest.raises(TypeError, match=r"update of optimizer .* returned a .*; it must change param and state in"):
            step()
    assert layer.kernel == 1
