import copy
import json
import pickle

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.implementations.create import IMPLEMENTATIONS
from lcnumba.testing import PROBLEMS, integers, reference

pytestmark = pytest.mark.kernels

TRANSPOSED = {
    1: lc.LocallyConnected1DTranspose, 2: lc.LocallyConnected2DTranspose, 3: lc.LocallyConnected3DTranspose
}  # fmt: skip


def output_padding(problem):
    """The output_padding with which the output has the size of the problem's input; None if there is none."""
    found = []
    for axis, (n, o, k, s) in enumerate(
        zip(problem.input_size, problem.geometry.output_size, problem.kernel_size, problem.strides, strict=True)
    ):
        span = (problem.dilation[axis] if problem.dilation else 1) * (k - 1) + 1
        cut = {"valid": 0, "tf_same": 2 * (span // 2)}.get(problem.padding) if isinstance(problem.padding, str) else 0
        cut = sum(problem.padding[axis]) if cut == 0 and not isinstance(problem.padding, str) else cut
        extra = None if cut is None else n - ((o - 1) * s + span - cut)
        if extra is None or not 0 <= extra < s:
            return None
        found.append(extra)
    return tuple(found)


PAIRS = [(p, extra) for p in PROBLEMS if (extra := output_padding(p)) is not None]


def transposed(problem, extra, **settings):
    """The layer whose output is the problem's input."""
    return TRANSPOSED[len(problem.input_size)](
        problem.channels, problem.kernel_size, problem.strides,
        "same" if problem.padding == "tf_same" else problem.padding, extra, dilation_rate=problem.dilation or 1,
        groups=problem.groups, padding_mode=problem.padding_mode, weight_sharing=problem.weight_sharing, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("problem", "extra"), PAIRS, ids=lambda v: str(v) if hasattr(v, "name") else "")
def test_it_is_the_adjoint_of_the_layer(problem, extra, implementation, data_format, rng):
    """Forward, and the gradients, are those of the reference with input and output exchanged."""
    moved = (lambda a: np.moveaxis(a, -1, 1)) if data_format == "channels_first" else np.asarray
    u, kernel, _, x = problem.data(rng)  # the layer's output has the shape of u
    layer = transposed(problem, extra, implementation=implementation, data_format=data_format)
    layer.build(moved(x).shape)
    bias = integers(rng, layer.bias.shape)
    layer.set_weights([kernel, bias])
    y, backward = layer.forward(moved(x))
    expected_y = reference.backward(u, kernel, x, **problem.settings)[0]
    np.testing.assert_array_equal(y, moved(expected_y + bias))
    np.testing.assert_array_equal(layer(moved(x)), y)
    dx, grads = backward(moved(u))
    np.testing.assert_array_equal(dx, moved(reference.forward(u, kernel, None, **problem.settings)))
    np.testing.assert_array_equal(grads.kernel, reference.backward(u, kernel, x, **problem.settings)[1])
    np.testing.assert_array_equal(grads.bias, u.sum(axis=0))
    # <T x, u> = <x, A u>
    assert np.sum(expected_y * u) == np.sum(moved(x) * dx)
    assert layer.output_shape == (None, *y.shape[1:])
    np.testing.assert_array_equal(backward.step(moved(u), lr=0.5), dx)
    np.testing.assert_array_equal(layer.kernel, kernel - grads.kernel / 2)
    np.testing.assert_array_equal(layer.bias, bias - grads.bias / 2)


@pytest.mark.parametrize(
    ("kernel_size", "strides", "padding", "extra", "expected"),
    [
        (2, 1, "valid", None, [1, 3, 5, 3]),
        (3, 2, "valid", None, [1, 1, 3, 2, 5, 3, 3]),
        (3, 2, "same", None, [1, 1, 3, 2, 5, 3]),
        (2, 1, "same", None, [1, 3, 5]),
        (1, 2, "valid", None, [1, 0, 2, 0, 3, 0]),
        (3, 2, "valid", 1, [1, 1, 3, 2, 5, 3, 3, 0]),
        (4, 2, "same", 1, [1, 3, 3, 5, 5]),
        (3, 1, ((1, 1),), None, [3, 6, 5]),
    ],
)
def test_values_as_of_keras_transposed_convolution(kernel_size, strides, padding, extra, expected):
    layer = lc.LocallyConnected1DTranspose(1, kernel_size, strides, padding, extra, kernel_initializer="ones")
    np.testing.assert_array_equal(layer([[[1.0], [2.0], [3.0]]])[0, :, 0], expected)


def test_what_wraps_is_added_at_the_other_end():
    layer = lc.LocallyConnected1DTranspose(1, 3, padding="same", padding_mode="circular", kernel_initializer="ones")
    np.testing.assert_array_equal(layer([[[1.0], [10.0], [100.0], [1000.0]]])[0, :, 0], [1011, 111, 1110, 1101])


@pytest.mark.parametrize("activation", ["relu", "tanh", None])
def test_training_with_any_activation(activation, rng):
    """The fused step equals that of the gradients, and the loss falls."""
    layers = [
        lc.LocallyConnected2DTranspose(3, 3, 2, "same", activation=activation, bias_sharing=shared, rng=0)
        for shared in ("position", "filter")
    ]
    x, target = rng.random((8, 4, 5, 2), np.float32), rng.random((8, 8, 10, 3), np.float32)
    for layer in layers:
        layer.optimizer = "adam"
        twin = copy.deepcopy(layer)
        losses = []
        for _ in range(20):
            (y, backward), (other, other_backward) = layer.forward(x), twin.forward(x)
            losses.append(float(np.mean((y - target) ** 2)))
            dy = 2 * (y - target) / y.size
            dx = backward.step(dy, lr=0.02)
            other_dx, grads = other_backward(dy)
            twin.step(grads, lr=0.02)
            np.testing.assert_allclose(dx, other_dx, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(layer.kernel, twin.kernel, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(y, other, rtol=1e-4, atol=1e-5)
        assert losses[-1] < 0.8 * losses[0]


def test_copies_configs_and_files(rng, tmp_path):
    model = lc.Sequential(
        [
            lc.LocallyConnected2D(4, 3, 2, "tf_same", input_shape=(6, 8, 1), activation="elu", rng=0),
            lc.LocallyConnected2DTranspose(1, 3, 2, "same", groups=1, weight_sharing=(3, 2), rng=1),
        ]
    )
    x = rng.random((3, 6, 8, 1))
    assert model.output_shape == (None, 6, 8, 1)
    model.save(tmp_path / "model.npz")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), lc.load(tmp_path / "model.npz")):
        np.testing.assert_array_equal(twin(x), model(x))
    layer = model.layers[1]
    again = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    assert again.get_config() == layer.get_config()
    assert layer.kernel_view().shape == (2, 3, 3, 1, 4)
    for implementation in IMPLEMENTATIONS:
        np.testing.assert_allclose(layer.with_implementation(implementation)(model.layers[0](x)), model(x), atol=1e-5)
    lines = []
    layer.explain(print_fn=lines.append)
    assert "weights" in lines[0]


def test_initial_values_follow_the_fans():
    layers = [
        lc.LocallyConnected1DTranspose(2, 3, fans=fans, kernel_initializer="lecun_uniform", rng=0, input_shape=(400, 5))
        for fans in ("keras", "window")
    ]
    for layer in layers:
        layer.build((None, 400, 5))
    assert abs(layers[1].kernel).max() == pytest.approx(np.sqrt(3 / (3 * 5)), rel=0.01)
    assert abs(layers[0].kernel).max() < abs(layers[1].kernel).max() / 5
    grouped = lc.LocallyConnected1DTranspose(
        4, 3, groups=2, fans="window", kernel_initializer="lecun_uniform", rng=0, input_shape=(400, 10)
    )
    grouped.build((None, 400, 10))
    assert abs(grouped.kernel).max() == pytest.approx(np.sqrt(3 / (3 * 5)), rel=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_padding": 2}, r"output_padding=2 must be less than strides=\(2, 2\)"),
        ({"output_padding": -1}, "output_padding=-1 is too small"),
        ({"output_padding": (0, 0, 0)}, "has 3 entries"),
        ({"strides": 1, "kernel_size": 2, "padding": "same", "output_padding": 0}, "windows are not as many as the"),
        ({"strides": 1, "padding": "tf_same"}, "of a transposed layer is called 'same'"),
        ({"strides": 2**30}, r"strides=\(1073741824, 1073741824\), .*; give at most 2147483648 in each dimension"),
        ({"padding": ((9, 9), (9, 9))}, "output of size"),
        ({"padding": "causal"}, "padding='causal' is not known"),
        ({"bias_sharing": "region", "weight_sharing": "all"}, "bias_sharing='region' is not known"),
        ({"weight_sharing": (5, 5)}, r"blocks larger than the positions, \(2, 4\)"),
        ({"groups": 2}, "groups=2 does not divide"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        lc.LocallyConnected2DTranspose(3, **({"kernel_size": 3, "strides": 2, "input_shape": (2, 4, 1)} | settings))


def test_a_sample_of_another_shape_is_refused(rng):
    layer = lc.LocallyConnected1DTranspose(1, 2, input_shape=(5, 2))
    with pytest.raises(ValueError, match=r"was created with input_shape=\(5, 2\), got \(6, 2\)"):
        layer(np.ones((1, 6, 2)))
    layer(np.ones((1, 5, 2)))
    with pytest.raises(ValueError, match="each position has its own weights, so every sample must have that shape"):
        layer(np.ones((1, 6, 2)))
