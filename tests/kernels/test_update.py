"""Fused steps (backward.step) against backward and step: equal results, without an array of the gradient."""

import tracemalloc

import numba
import numpy as np
import pytest

import lcnumba as lc
from lcnumba.implementations import loop
from lcnumba.implementations.create import IMPLEMENTATIONS
from lcnumba.kernels import vectors
from lcnumba.testing import integers

# Also run with bounds checks, and without compilation.
pytestmark = pytest.mark.kernels

OPTIMIZERS = [
    lc.SGD(), lc.SGD(momentum=0.5), lc.SGD(momentum=0.5, nesterov=True), lc.Adam(),
    lc.Adam(beta_1=0.5, beta_2=0.75, epsilon=0.125),
    lc.RMSprop(), lc.RMSprop(rho=0.5, epsilon=0.25), lc.AdamW(weight_decay=0.25),
]  # fmt: skip
SHAPES = [
    {"filters": 19, "kernel_size": (2, 3), "strides": (1, 2), "batch": 17},
    {"filters": 4, "kernel_size": (3, 3), "padding": "same", "batch": 33},
    {"filters": 33, "kernel_size": (3, 2), "padding": "same", "strides": (2, 1), "batch": 2, "activation": "relu"},
    {"filters": 2, "kernel_size": (3, 3), "batch": 9, "activation": "tanh", "use_bias": False},
    {"filters": 3, "kernel_size": (1, 1), "strides": (2, 2), "batch": 5, "data_format": "channels_first"},
    {"filters": 21, "kernel_size": (2, 3), "padding": "same", "batch": 1, "activation": "relu"},
]


def twins(rng, shape, optimizer, implementation, dtype="float32"):
    """Two equal layers, for fused and unfused steps, and data."""
    settings = dict(shape)
    batch = settings.pop("batch")
    size = (3, 6, 7) if settings.get("data_format") == "channels_first" else (6, 7, 3)
    settings |= {"input_shape": size, "dtype": dtype, "implementation": implementation, "optimizer": optimizer}
    layers = [lc.LocallyConnected2D(**settings) for _ in range(2)]
    layers[0].build((None, *size))
    layers[1].build((None, *size))
    weights = [integers(rng, w.shape, dtype) for w in layers[0].weights]
    for layer in layers:
        layer.set_weights(weights)
    return *layers, integers(rng, (batch, *size), dtype)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"F{s['filters']}N{s['batch']}")
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("tiled", [True, False])
def test_fused_steps_equal_unfused_ones(implementation, shape, optimizer, tiled, rng, monkeypatch):
    if tiled and numba.config.DISABLE_JIT:
        pytest.skip("register tiles need compilation")
    monkeypatch.setattr(vectors, "TILED", tiled)
    fused, unfused, x = twins(rng, shape, optimizer, implementation)
    exact = isinstance(optimizer, lc.SGD) and shape.get("activation") != "tanh"
    for number in range(3):
        y, backward = fused.forward(x)
        _, other_backward = unfused.forward(x)
        dy = integers(rng, y.shape)
        dx = backward.step(dy, lr=0.5)
        other_dx, grads = other_backward(dy)
        unfused.step(grads, lr=0.5)
        # On small integers SGD with these rates is exact for two steps; then sums need rounding.
        if exact and number < 2:
            np.testing.assert_array_equal(dx, other_dx)
            for a, b in zip(fused.weights, unfused.weights, strict=True):
                np.testing.assert_array_equal(a, b)
        else:
            scale = np.abs(other_dx).max()
            np.testing.assert_allclose(dx, other_dx, rtol=1e-4, atol=1e-5 * scale)
            for a, b in zip(fused.weights, unfused.weights, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_absent_connections_stay_zero(optimizer, rng):
    layer, _, x = twins(rng, SHAPES[1], optimizer, 1)
    before = layer.kernel.copy()
    for _ in range(2):
        y, backward = layer.forward(x)
        backward.step(np.ones_like(y), lr=0.5)
    assert not layer.kernel[~layer._geometry.exists].any()
    assert (layer.kernel != before)[layer._geometry.exists].mean() > 0.9


def test_a_layer_that_is_not_trainable_returns_dx_only(rng):
    layer, twin, x = twins(rng, SHAPES[0], "adam", 1)
    layer.trainable = False
    before = layer.get_weights()
    y, backward = layer.forward(x)
    dy = integers(rng, y.shape)
    np.testing.assert_array_equal(backward.step(dy, lr=1.0), twin.forward(x)[1](dy)[0])
    for a, b in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    backward(dy)  # still valid: the weights are unchanged


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_without_wants_dx_only_the_weights_are_updated(implementation, rng, monkeypatch):
    layer, twin, x = twins(rng, SHAPES[0], "sgd", implementation)
    y, backward = layer.forward(x)
    dy = integers(rng, y.shape)
    assert backward.step(dy, lr=0.5, wants_dx=False) is None
    twin.forward(x)[1].step(dy, lr=0.5)
    for a, b in zip(layer.weights, twin.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_fit_uses_fused_steps_without_dx_of_the_first_layer(rng, monkeypatch):
    seen = []
    real = loop.Loops.fused_update

    def watched(self, *arguments, wants_dx, **rest):
        seen.append((self, wants_dx))
        return real(self, *arguments, wants_dx=wants_dx, **rest)

    monkeypatch.setattr(loop.Loops, "fused_update", watched)
    model = lc.Sequential([lc.LocallyConnected2D(2, 3, input_shape=(6, 6, 1)), lc.LocallyConnected2D(2, 3),
                           lc.Flatten(), lc.Dense(3)])  # fmt: skip
    model.fit(rng.standard_normal((8, 6, 6, 1)), np.arange(8) % 3, loss="softmax_cross_entropy", progress=False)
    first, second = (layer._implementation for layer in model.layers[:2])
    assert seen == [(second, True), (first, False)]


def test_a_failing_optimizer_leaves_all_layers_unchanged(rng):
    """A custom optimizer may raise after the gradients are computed."""

    class Fails:
        def init(self, param):
            return None

        def update(self, param, grad, state, lr):
            raise ZeroDivisionError

    first = lc.LocallyConnected2D(2, 3, input_shape=(6, 6, 1), optimizer=Fails())
    model = lc.Sequential([first, lc.LocallyConnected2D(2, 3)])
    y, backward = model.forward(rng.standard_normal((2, 6, 6, 1)))
    before = model.get_weights()
    with pytest.raises(ZeroDivisionError):
        backward.step(np.ones_like(y), lr=0.5)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("states", "optimizer"), [(0, "sgd"), (1, lc.SGD(momentum=0.9)), (2, "adam")])
def test_a_step_allocates_less_than_the_size_of_the_weights(states, optimizer, rng):
    layer = lc.LocallyConnected2D(32, (3, 3), input_shape=(24, 24, 64), optimizer=optimizer)
    x = rng.standard_normal((4, 24, 24, 64), np.float32)
    for _ in range(2):  # the first step allocates the optimizer's state
        y, backward = layer.forward(x)
        tracemalloc.start()
        dx = backward.step(y, lr=1e-3)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak - dx.nbytes < 0.1 * layer.kernel.nbytes
    assert len(layer._parameters._states["kernel"].keys() - {"t"}) == states
