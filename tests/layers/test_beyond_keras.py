"""Features that Keras' layer does not have: other ranks, windows, biases and masks."""

import copy
import json
import pickle

import numba
import numpy as np
import pytest

import lcnumba as lc
from lcnumba.connectivity import masks
from lcnumba.implementations.create import IMPLEMENTATIONS
from lcnumba.kernels import vectors
from lcnumba.testing import PROBLEMS, integers, reference

# Also run with every index checked, and interpreted instead of compiled.
pytestmark = pytest.mark.kernels

CLASSES = {1: lc.LocallyConnected1D, 2: lc.LocallyConnected2D, 3: lc.LocallyConnected3D}
implementations = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def first(array):
    return np.moveaxis(array, -1, 1)


@implementations
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.batch], ids=str)
def test_layers_of_every_rank_equal_the_reference(problem, data_format, implementation, rng):
    settings = problem.settings
    x, kernel, bias, dy = problem.data(rng)
    layer = CLASSES[len(problem.input_size)](
        problem.filters, problem.kernel_size, problem.strides, problem.padding, data_format,
        dilation_rate=problem.dilation or 1, padding_mode=problem.padding_mode, implementation=implementation,
        groups=problem.groups, weight_sharing=problem.weight_sharing,
    )  # fmt: skip
    to_format = first if data_format == "channels_first" else np.asarray
    layer.build(to_format(x).shape)
    layer.set_weights([kernel, bias])
    y, backward = layer.forward(to_format(x))
    dx, grads = backward(to_format(dy))
    expected = reference.backward(x, kernel, dy, **settings)
    np.testing.assert_array_equal(y, to_format(reference.forward(x, kernel, bias, **settings)))
    for a, b in zip((dx, grads.kernel, grads.bias), (to_format(expected[0]), *expected[1:]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert layer.output_shape == (None, *y.shape[1:])
    again = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    assert again.get_config() == layer.get_config()


def test_keras_signature_of_the_one_dimensional_layer():
    layer = lc.LocallyConnected1D(4, 3, 2, "same", "channels_last", "tanh", input_shape=(11, 5), rng=0)
    layer.build((None, 11, 5))
    assert layer.kernel.shape == (6, 15, 4)
    assert layer.bias.shape == (6, 4)
    config = layer.get_config()
    assert config["kernel_size"] == (3,)
    assert config["strides"] == (2,)
    assert config["batch_input_shape"] == (None, 11, 5)
    assert "dilation_rate" not in config
    assert layer.name.startswith("locally_connected1d")
    with pytest.raises(ValueError, match=r"needs 3: \(batch, width, channels\)"):
        layer(np.ones((2, 11)))


def test_explicit_padding_may_be_one_pair_in_one_dimension():
    layer = lc.LocallyConnected1D(1, 3, padding=(2, 1))
    assert layer.padding == ((2, 1),)
    assert layer.compute_output_shape((None, 5, 1)) == (None, 6, 1)


def test_circular_padding_equals_wrapping_the_input(rng):
    """The result equals that of a valid layer on the input padded with copies of its other end."""
    x = integers(rng, (2, 5, 6, 2))
    wrapped = np.concatenate([x[:, :, -1:], x, x[:, :, :2]], axis=2)
    circular = lc.LocallyConnected2D(3, (2, 4), padding=((0, 0), (1, 2)), padding_mode=("zeros", "circular"))
    valid = lc.LocallyConnected2D(3, (2, 4))
    circular.build(x.shape)
    valid.build(wrapped.shape)
    weights = [integers(rng, w.shape) for w in valid.weights]
    for layer in (circular, valid):
        layer.set_weights(weights)
    np.testing.assert_array_equal(circular(x), valid(wrapped))
    assert circular.count_params() == valid.count_params()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"padding": "causal"}, "padding='causal' is not known"),
        ({"padding": ((1, 1),)}, r"padding=\(\(1, 1\),\) is not known; give .* 2 pairs"),
        ({"padding": (1, 1)}, r"padding must hold a pair \(before, after\) for each dimension, got"),
        ({"padding": ((1, -1), (0, 0))}, "padding=-1 is too small"),
        ({"padding": ((1, 1, 1), (0, 0))}, "has 3 entries"),
        ({"padding": ((3, 0), (0, 0))}, "is as large as the kernel, which spans"),
        ({"padding": ((0, 0), (0, 3))}, "is as large as the kernel"),
        ({"padding_mode": "reflect"}, "padding_mode='reflect'"),
        ({"padding_mode": ("zeros",)}, "is not known; give one of"),
        ({"dilation_rate": 0}, "dilation_rate=0 is too small"),
        ({"dilation_rate": (1, 2, 3)}, "has 3 entries"),
        ({"dilation_rate": 5}, r"with dilation=\(5, 5\) does not fit input"),
        ({"bias_sharing": "none"}, "bias_sharing='none' is not known; give one of 'position', 'region', 'filter'"),
        ({"bias_sharing": "region"}, "bias_sharing='region' shares the bias as weight_sharing .* which is None"),
        ({"groups": 2}, "groups=2 does not divide channels=1"),
        ({"groups": 0}, "groups=0 is too small"),
        ({"weight_sharing": "none"}, "weight_sharing='none' is not known"),
        ({"weight_sharing": (7, 1)}, r"weight_sharing=\(7, 1\) has blocks larger than the positions, \(6, 6\)"),
        ({"weight_sharing": np.zeros((8, 8), int)}, r"weight_sharing has shape \(8, 8\); there are"),
        ({"kernel_mask": np.ones(3, bool)}, r"give \(P, K\), or \(P, K, F\)"),
        ({"kernel_mask": np.ones((3, 3))}, "kernel_mask has dtype float64; give booleans"),
        ({"kernel_mask": {"shape": [3, 3], "bits": "!"}}, "invalid config of kernel_mask"),
        ({"kernel_mask": {"shape": [3, 10**12], "bits": "AAAA"}}, "invalid config of kernel_mask"),
        ({"kernel_mask": {"shape": [-8, -1], "bits": "AA=="}}, "invalid config of kernel_mask"),
    ],
)
def test_invalid_parameters(settings, match):
    with pytest.raises((ValueError, TypeError), match=match):
        lc.LocallyConnected2D(2, 3, input_shape=(8, 8, 1), **settings)


def test_a_mask_must_fit_the_kernel():
    layer = lc.LocallyConnected2D(2, 3, kernel_mask=np.ones((9, 8), bool))
    with pytest.raises(ValueError, match=r"shape \(9, 8\); the kernel has shape \(9, 9, 2\): give \(9, 9\) or"):
        layer(np.ones((1, 5, 5, 1)))
    assert not layer.built
    for settings in ({"weight_sharing": "all"}, {"groups": 2, "filters": 2}):
        layer = lc.LocallyConnected2D(
            **{"filters": 2, "kernel_size": 3, "kernel_mask": np.ones((9, 8), bool)} | settings
        )
        with pytest.raises(
            ValueError, match=r"give \(\d, \d+\) or \(\d, \d+, 2\)$"
        ):  # kernel_mask_from makes no such mask
            layer(np.ones((1, 5, 5, 2)))


# --- biases


@implementations
@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("size", [(5, 6), (2, 3)], ids=str)
def test_bias_shared_by_all_positions(size, tiled, implementation, rng, monkeypatch):
    if tiled and numba.config.DISABLE_JIT:
        pytest.skip("tiles exist only compiled")
    monkeypatch.setattr(vectors, "TILED", tiled)
    shared, own = (
        lc.LocallyConnected2D(3, (2, 3), bias_sharing=sharing, implementation=implementation)
        for sharing in ("filter", "position")
    )
    x = integers(rng, (20, *size, 2))
    for layer in (shared, own):
        layer.build(x.shape)
    kernel, bias = integers(rng, own.kernel.shape), integers(rng, (3,))
    assert shared.bias.shape == (3,)
    assert shared.count_params() == kernel.size + 3
    shared.set_weights([kernel, bias])
    own.set_weights([kernel, np.broadcast_to(bias, own.bias.shape)])
    (y, backward), (other, other_backward) = shared.forward(x), own.forward(x)
    np.testing.assert_array_equal(y, other)
    dy = integers(rng, y.shape)
    (dx, grads), (other_dx, other_grads) = backward(dy), other_backward(dy)
    np.testing.assert_array_equal(dx, other_dx)
    np.testing.assert_array_equal(grads.kernel, other_grads.kernel)
    np.testing.assert_array_equal(grads.bias, other_grads.bias.sum(axis=(0, 1)))
    backward.step(dy, lr=0.5)
    np.testing.assert_array_equal(shared.bias, bias - 0.5 * grads.bias)
    assert shared.get_config()["bias_sharing"] == "filter"
    assert len(lc.LocallyConnected2D(3, 2, bias_sharing="filter", use_bias=False).weight_shapes(x.shape)) == 1


# --- shared weights and groups

REGIONS = np.array([[0, 0, 1, 1, 2], [0, 0, 1, 2, 2], [3, 3, 1, 2, 2], [3, 3, 3, 0, 0]])


def test_values_of_shared_weights():
    blocks = lc.LocallyConnected2D(1, 1, weight_sharing=(2, 2), use_bias=False, input_shape=(4, 4, 1))
    blocks.build((None, 4, 4, 1))
    blocks.set_weights([np.array([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1)])
    expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    np.testing.assert_array_equal(blocks(np.ones((1, 4, 4, 1)))[0, :, :, 0], expected)
    weights = [np.array([1.0, 10.0]).reshape(2, 1, 1)]
    regions = lc.LocallyConnected1D(1, 1, weight_sharing=[0, 1, 0, 1, 0, 1], use_bias=False, weights=weights)
    np.testing.assert_array_equal(regions(np.arange(1.0, 7.0).reshape(1, 6, 1))[0, :, 0], [1, 20, 3, 40, 5, 60])
    assert repr(regions).endswith("weight_sharing=<(6,)>>")


def test_values_of_groups():
    first_channel = np.arange(16.0).reshape(4, 4)
    layer = lc.LocallyConnected2D(2, 2, groups=2, kernel_initializer="ones")
    y = layer(np.stack([first_channel, 2 * first_channel], axis=-1)[None])
    expected = np.array([[10, 14, 18], [26, 30, 34], [42, 46, 50]])
    np.testing.assert_array_equal(y[0], np.stack([expected, 2 * expected], axis=-1))
    assert layer.kernel.shape == (9, 4, 2)


@implementations
@pytest.mark.parametrize("bias_sharing", ["position", "region", "filter"])
@pytest.mark.parametrize("weight_sharing", ["all", (2, 3), REGIONS], ids=str)
def test_sharing_is_a_layer_whose_gradients_are_added(weight_sharing, bias_sharing, implementation, rng):
    """That is true of kernel and bias, also after a step."""
    settings = {"padding": "same", "activation": "relu", "implementation": implementation, "groups": 2}
    shared = lc.LocallyConnected2D(4, 3, weight_sharing=weight_sharing, bias_sharing=bias_sharing, **settings)
    own = lc.LocallyConnected2D(4, 3, **settings)
    x = integers(rng, (18, 4, 5, 2))
    for layer in (shared, own):
        layer.build(x.shape)
    sets = shared._geometry.sets
    exists = shared._geometry.weight_exists[..., None]
    kernel = np.where(exists, integers(rng, shared.kernel.shape), 0)
    bias = integers(rng, shared.bias.shape)
    shared.set_weights([kernel, bias])
    bias_of = {"position": lambda: bias, "region": lambda: bias[sets].reshape(4, 5, 4), "filter": lambda: bias}
    own.set_weights([kernel[sets], np.broadcast_to(bias_of[bias_sharing](), own.bias.shape)])
    assert shared.count_params() == np.count_nonzero(exists) * 4 + bias.size
    (y, backward), (other, other_backward) = shared.forward(x), own.forward(x)
    np.testing.assert_array_equal(y, other)
    dy = integers(rng, y.shape)
    (dx, grads), (other_dx, expected) = backward(dy), other_backward(dy)
    np.testing.assert_array_equal(dx, other_dx)
    dkernel, dbias = np.zeros_like(kernel), np.zeros_like(bias)
    np.add.at(dkernel, sets, expected.kernel)
    np.testing.assert_array_equal(grads.kernel, dkernel)
    at = {"position": slice(None), "region": sets, "filter": np.zeros(20, int)}[bias_sharing]
    flat = expected.bias if bias_sharing == "position" else expected.bias.reshape(20, 4)
    np.add.at(dbias.reshape(1, 4) if bias_sharing == "filter" else dbias, at, flat)
    np.testing.assert_array_equal(grads.bias, dbias)
    np.testing.assert_array_equal(backward.step(dy, lr=0.5), dx)
    np.testing.assert_array_equal(shared.kernel, kernel - dkernel / 2)
    np.testing.assert_array_equal(shared.bias, bias - dbias / 2)


@implementations
@pytest.mark.parametrize("per_filter", [True, False])
@pytest.mark.parametrize("batch", [1, 9])
def test_masks_of_shared_weights(batch, per_filter, implementation, rng):
    mask = rng.random((4, 18, 5) if per_filter else (4, 18)) < 0.6
    settings = {"padding": "same", "implementation": implementation, "optimizer": "adam", "use_bias": False}
    layer = lc.LocallyConnected2D(5, 3, kernel_mask=mask, weight_sharing=REGIONS, **settings)
    x = integers(rng, (batch, 4, 5, 2))
    layer.build(x.shape)
    exists = np.broadcast_to(np.atleast_3d(mask) & layer._geometry.weight_exists[..., None], layer.kernel.shape)
    layer.set_weights([integers(rng, layer.kernel.shape)])
    assert not layer.kernel[~exists].any()
    windows = PROBLEMS[0].settings | {"kernel_size": (3, 3), "padding": "same", "weight_sharing": REGIONS}
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(y, reference.forward(x, layer.kernel, None, **windows))
    dy = integers(rng, y.shape)
    dx, grads = backward(dy)
    expected = reference.backward(x, layer.kernel, dy, **windows)
    np.testing.assert_array_equal(dx, expected[0])
    np.testing.assert_array_equal(grads.kernel, np.where(exists, expected[1], 0))
    backward.step(dy, lr=0.5)
    assert not layer.kernel[~exists].any()
    bad = x.copy()
    bad[0, 1, 2, 0] = np.inf
    marked = np.zeros_like(x)
    marked[0, 1, 2, 0] = 1
    reached = reference.forward(marked, np.where(exists, 1, 0), None, **windows) != 0
    layer.set_weights([np.where(exists, 1, 0)])
    np.testing.assert_array_equal(~np.isfinite(layer(bad)), reached)


@pytest.mark.parametrize("weight_sharing", ["all", (2, 3), REGIONS], ids=str)
def test_shared_layers_survive_copies_configs_and_files(weight_sharing, rng, tmp_path):
    layer = lc.LocallyConnected2D(3, 3, padding="tf_same", weight_sharing=weight_sharing, bias_sharing="region", rng=0)
    model = lc.Sequential([layer, lc.Flatten(), lc.Dense(2)])
    x = rng.random((3, 4, 5, 2))
    y = model(x)
    model.save(tmp_path / "model.npz")
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), lc.load(tmp_path / "model.npz")]
    for twin in twins:
        np.testing.assert_array_equal(twin(x), y)
        assert twin.layers[0].get_config() == layer.get_config()
        np.testing.assert_array_equal(twin.layers[0].weight_sharing, layer.weight_sharing)
        if isinstance(weight_sharing, np.ndarray):
            assert not twin.layers[0].weight_sharing.flags.writeable
    again = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    assert again.get_config() == layer.get_config()
    for other in IMPLEMENTATIONS:
        np.testing.assert_allclose(layer.with_implementation(other)(x), layer(x), rtol=1e-5, atol=1e-6)


def test_the_kernel_by_position_and_tap(rng):
    layer = lc.LocallyConnected2D(4, (2, 3), groups=2, input_shape=(4, 5, 6))
    layer.build((None, 4, 5, 6))
    view = layer.kernel_view()
    assert view.shape == (3, 3, 2, 3, 3, 4)
    assert np.shares_memory(view, layer.kernel)
    assert not view.flags.writeable
    np.testing.assert_array_equal(view[1, 2, 1, 0, 2, 3], layer.kernel[5, 3 * 3 + 2, 3])
    shared = lc.LocallyConnected1D(4, 3, weight_sharing="all", input_shape=(9, 2))
    with pytest.raises(AttributeError, match="has no weights yet"):
        shared.kernel_view()
    shared.build((None, 9, 2))
    assert shared.kernel_view().shape == (1, 3, 2, 4)


def test_costs_count_shared_weights_once():
    layer = lc.LocallyConnected2D(8, 3, weight_sharing="all", input_shape=(32, 32, 4))
    own = lc.LocallyConnected2D(8, 3, input_shape=(32, 32, 4))
    for shared_cost, own_cost in zip(layer.costs(), own.costs(), strict=True):
        assert shared_cost.flop_step == own_cost.flop_step
        assert shared_cost.bytes_step <= own_cost.bytes_step
    assert layer.costs()[0].bytes_step == 3 * 9 * 4 * 8 * 4
    lines = []
    layer.explain(print_fn=lines.append)
    assert lines[0].startswith("288 weights ")


# --- masks


def masked(rng, implementation, per_filter, batch=9, **settings):
    """A masked layer with integer weights, its mask, and x; "same" padding removes more connections."""
    shape = (20, 18, 5) if per_filter else (20, 18)
    mask = rng.random(shape) < 0.6
    mask[3] = False  # a position without connections
    layer = lc.LocallyConnected2D(
        5, 3, padding="same", kernel_mask=mask, implementation=implementation, **settings
    )  # fmt: skip
    x = integers(rng, (batch, 4, 5, 2))
    layer.build(x.shape)
    layer.set_weights([integers(rng, w.shape, layer.dtype) for w in layer.weights])
    return layer, np.atleast_3d(mask) & layer._geometry.exists[:, :, None], x


SETTINGS = {"kernel_size": (3, 3), "strides": (1, 1), "dilation": (1, 1), "padding": "same"}


@implementations
@pytest.mark.parametrize("per_filter", [False, True])
@pytest.mark.parametrize("batch", [1, 9, 40])
def test_masked_connections_do_not_exist(implementation, per_filter, batch, rng):
    layer, exists, x = masked(rng, implementation, per_filter, batch)
    kernel = layer.kernel
    assert not kernel[~np.broadcast_to(exists, kernel.shape)].any()
    each = 1 if per_filter else 5
    assert layer.count_params() == np.count_nonzero(exists) * each + layer.bias.size
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(y, reference.forward(x, kernel, layer.bias, **SETTINGS))
    dy = integers(rng, y.shape)
    dx, grads = backward(dy)
    expected_dx, expected, _ = reference.backward(x, kernel, dy, **SETTINGS)
    np.testing.assert_array_equal(dx, expected_dx)
    np.testing.assert_array_equal(grads.kernel, np.where(exists, expected, 0))


@implementations
@pytest.mark.parametrize("per_filter", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", lc.SGD(momentum=0.5), "adam"], ids=repr)
def test_steps_leave_masked_weights_alone(implementation, per_filter, optimizer, rng):
    settings = {"optimizer": optimizer, "kernel_regularizer": "l2", "kernel_constraint": "max_norm"}
    layer, exists, x = masked(rng, implementation, per_filter, **settings)
    twin = layer.with_implementation(implementation)
    for _ in range(3):
        for one, fused in ((layer, True), (twin, False)):
            y, backward = one.forward(x)
            if fused:
                backward.step(np.cos(y), lr=0.1)
            else:
                one.step(backward(np.cos(y))[1], lr=0.1)
        for a, b in zip(layer.weights, twin.weights, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert not layer.kernel[~np.broadcast_to(exists, layer.kernel.shape)].any()


@pytest.mark.parametrize("implementation", [1, 3])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_does_not_pass_masked_connections(implementation, bad, rng):
    layer, exists, x = masked(rng, implementation, per_filter=False)
    x[0, 1, 2, 0] = bad
    y, backward = layer.forward(x)
    index = layer._geometry.input_index
    flat = (1 * 5 + 2) * 2
    reached = ((index == flat) & exists[:, :, 0]).any(axis=1).reshape(4, 5)
    weights = np.abs(np.where(((index == flat) & exists[:, :, 0])[:, :, None], layer.kernel, 0)).sum(axis=1)
    hit = weights.reshape(4, 5, 5) > 0 if np.isinf(bad) else reached[:, :, None] & np.ones(5, bool)
    np.testing.assert_array_equal(~np.isfinite(y[0]), hit | (np.isinf(bad) & reached[:, :, None] & ~hit))
    assert np.isfinite(y[1:]).all()
    dy = np.ones_like(y)
    dy[0, 2, 2, 0] = bad
    dx, grads = backward(dy)
    assert np.isfinite(dx[1:]).all()
    assert not grads.kernel[~np.broadcast_to(exists, grads.kernel.shape)].any()
    backward.step(dy, lr=0.5)
    assert not layer.kernel[~np.broadcast_to(exists, layer.kernel.shape)].any()


@pytest.mark.parametrize("implementation", [1, 3])
def test_nan_does_not_pass_a_mask_without_padding(implementation):
    """All connections exist except for the mask."""
    mask = np.array([[True, False], [True, True]])
    layer = lc.LocallyConnected1D(1, 2, kernel_mask=mask, kernel_initializer="ones", implementation=implementation)
    y, backward = layer.forward([[[1.0], [np.nan], [2.0]]])
    np.testing.assert_array_equal(y[0, :, 0], [1, np.nan])
    dx, _ = backward([[[np.nan], [1.0]]])
    np.testing.assert_array_equal(dx[0, :, 0], [np.nan, 1, 1])


@implementations
def test_a_frozen_masked_layer_computes_dx_only(implementation, rng):
    layer, _, x = masked(rng, implementation, per_filter=False)
    y, backward = layer.forward(x)
    dy, before = integers(rng, y.shape), layer.get_weights()
    expected, _ = backward(dy)
    layer.trainable = False
    np.testing.assert_array_equal(backward.step(dy, lr=0.5), expected)
    for a, b in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("per_filter", [False, True])
def test_masked_layers_are_saved_and_serialized(per_filter, rng, tmp_path):
    layer, _, x = masked(rng, 1, per_filter)
    config = layer.get_config()
    again = lc.LocallyConnected2D.from_config(json.loads(json.dumps(config)))
    np.testing.assert_array_equal(again.kernel_mask, layer.kernel_mask)
    assert masks.serialize(again.kernel_mask) == config["kernel_mask"]
    model = lc.Sequential([layer, lc.Flatten(), lc.Dense(2)])
    expected = model(x)
    model.save(tmp_path / "model.npz")
    loaded = lc.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded(x), expected)
    assert loaded.count_params() == model.count_params()


def test_a_mask_is_copied():
    mask = np.ones((9, 9), bool)
    layer = lc.LocallyConnected2D(2, 3, kernel_mask=mask)
    mask[:] = False
    for one in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert one.kernel_mask.all()
        assert not one.kernel_mask.flags.writeable


@implementations
def test_shared_bias_of_one_filter(implementation):
    """Kernels must not read past a broadcast view of one element."""
    layer = lc.LocallyConnected1D(
        1, 1, bias_sharing="filter", bias_initializer="ones", kernel_initializer="zeros", implementation=implementation
    )
    for _ in range(5):
        np.testing.assert_array_equal(layer(np.zeros((2, 50, 1))), 1)


# --- masks from valid inputs


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.filterwarnings("ignore:padding_mode='circular' has no effect")
def test_masks_of_valid_inputs(padding, mode, channels, rng):
    """Only valid inputs contribute."""
    valid = rng.random((6, 7)) < 0.7
    settings = {"strides": (1, 2), "padding": padding, "padding_mode": mode, "dilation_rate": (1, 2)}
    mask = lc.kernel_mask_from(valid, (3, 2), channels=channels, **settings)
    layer = lc.LocallyConnected2D(2, (3, 2), kernel_mask=mask, input_shape=(6, 7, channels), **settings)
    full = lc.LocallyConnected2D(2, (3, 2), input_shape=(6, 7, channels), **settings)
    for each in (layer, full):
        each.build((None, 6, 7, channels))
    x = integers(rng, (2, 6, 7, channels))
    kernel = integers(rng, layer.kernel.shape)
    full.set_weights([kernel, full.bias])
    layer.set_weights([kernel, layer.bias])
    np.testing.assert_array_equal(layer(np.where(valid[..., None], x, np.nan)), full(np.where(valid[..., None], x, 0)))
    by_channel = lc.kernel_mask_from(np.repeat(valid[..., None], channels, axis=-1), (3, 2), **settings)
    np.testing.assert_array_equal(mask, by_channel)


def test_masks_of_valid_inputs_of_other_ranks():
    assert lc.kernel_mask_from(np.array([True, False, True]), 2).tolist() == [[True, False], [False, True]]
    assert lc.kernel_mask_from(np.ones((2, 3, 4), bool), 2).shape == (1 * 2 * 3, 8)
    assert lc.kernel_mask_from(np.ones((2, 3, 4), bool), (2, 2)).shape == (1 * 2, 4 * 4)


@pytest.mark.parametrize(
    ("valid", "arguments", "message"),
    [
        (np.ones((3, 3)), (2,), r"valid has dtype float64; give booleans, such as np\.isfinite\(field\)"),
        (np.ones((3, 3), bool), ((2, 2, 2),), r"valid has shape \(3, 3\) and kernel_size=\(2, 2, 2\) has 3 dim"),
        (np.ones((3, 3, 2, 2), bool), (2,), "has 4 dimensions"),
        (np.ones((3, 3, 1), bool), (3,), r"shape \(3, 3, 1\), whose last axis .*: \(3, 3\)"),
        (np.ones((3, 3), bool), (4,), "kernel_size"),
        (np.ones((3, 3), bool), (2, 0), "strides=0"),
    ],
)
def test_invalid_masks_of_valid_inputs(valid, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        lc.kernel_mask_from(valid, *arguments)
    with pytest.raises(ValueError, match="channels=3, and valid has 2; leave channels out"):
        lc.kernel_mask_from(np.ones((3, 3, 2), bool), (2, 2), channels=3)


def test_circular_padding_without_effect_warns():
    for settings in ({"padding_mode": "circular"}, {"padding_mode": ("zeros", "circular")}):
        with pytest.warns(RuntimeWarning, match="padding_mode='circular' has no effect with padding='valid'"):
            lc.LocallyConnected2D(1, 3, **settings)
    layer = lc.LocallyConnected2D(1, 3, padding="same", padding_mode="circular")
    assert "padding_mode='circular'" in repr(layer)


def test_error_for_an_input_mask_suggests_kernel_mask_from():
    layer = lc.LocallyConnected2D(1, 3, kernel_mask=np.ones((5, 6), bool))
    with pytest.raises(ValueError, match=r"give \(12, 9\) or \(12, 9, 1\); lcnumba\.kernel_mask_from creates it"):
        layer.build((None, 5, 6, 1))
