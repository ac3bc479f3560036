import concurrent.futures
import doctest
import functools
import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from problems import PROBLEMS
from training import RATE, Run

import lcnumba.jax
from lcnumba import functional, reference
from lcnumba.bridges import xla
from lcnumba.functional import DirectedSpec, Spec
from lcnumba.jax import init, locally_connected, locally_connected_transpose, locally_directed
from lcnumba.testing import integers

jax.config.update("jax_enable_x64", True)


@pytest.fixture(params=["handler", "callback"])
def way(request, monkeypatch):
    """Both ways in which XLA can call the kernels; compiled programs contain one."""
    if request.param == "callback":
        monkeypatch.setattr(xla, "handlers_work", lambda: False)
    jax.clear_caches()
    yield request.param
    jax.clear_caches()


def settings_of(problem):
    """The arguments for a problem, whose "same" is Keras': the same windows as pairs."""
    padding = "same" if problem.padding == "tf_same" else problem.padding
    if problem.padding == "same":
        rows = zip(problem.geometry.margins, problem.geometry.output_size, problem.strides,
                   problem.geometry.effective_size, problem.input_size, strict=True)  # fmt: skip
        padding = tuple((before, max(0, (o - 1) * s + e - n - before)) for (before, _), o, s, e, n in rows)
    return {"kernel_size": problem.kernel_size, "strides": problem.strides, "padding": padding,
            "dilation_rate": problem.dilation or 1, "padding_mode": problem.padding_mode, "groups": problem.groups,
            "weight_sharing": problem.weight_sharing}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_value_and_gradients_are_those_of_the_reference(problem, dtype, rng):
    arrays = problem.data(rng, dtype)
    x, kernel, bias, dy = map(jnp.asarray, arrays)

    @jax.jit
    def run(*given):
        return jax.vjp(lambda *each: locally_connected(*each, **settings_of(problem)), *given)[1](dy)

    y = locally_connected(x, kernel, bias, **settings_of(problem))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, reference.forward(*arrays[:3], **problem.settings))
    expected = reference.backward(arrays[0], arrays[1], arrays[3], **problem.settings)
    for found, right in zip(run(x, kernel, bias), expected, strict=True):
        np.testing.assert_array_equal(found, right)
        assert found.dtype == dtype


@pytest.mark.parametrize(
    "settings",
    [
        {"strides": 2, "padding": "same"}, {"strides": (2, 1), "output_padding": (1, 0)}, {"weight_sharing": (2, 2)},
        {"groups": 2, "padding": ((1, 0), (0, 1)), "padding_mode": "circular"},
    ],
    ids=str,
)  # fmt: skip
def test_the_transposed_layer(settings, rng):
    """Output and gradients of the library's own layer, jitted; and the gradient of the gradient."""
    layer = lcnumba.LocallyConnected2DTranspose(4, 3, input_shape=(4, 5, 2), dtype="float64", **settings)
    layer.build((None, 4, 5, 2))
    layer.set_weights([integers(rng, weight.shape) for weight in layer.weights])
    x = integers(rng, (3, 4, 5, 2), np.float64)
    y, backward = layer.forward(x)
    dy = integers(rng, y.shape, np.float64)
    dx, grads = backward(dy)

    @jax.jit
    def function(*given):
        return locally_connected_transpose(*given, filters=4, kernel_size=3, **settings)

    found, pullback = jax.vjp(function, x, *map(jnp.asarray, layer.weights))
    np.testing.assert_array_equal(found, y)
    for array, expected in zip(pullback(jnp.asarray(dy)), (dx, grads.kernel, grads.bias), strict=True):
        np.testing.assert_array_equal(array, expected)
    check_grads(function, (x, *map(jnp.asarray, layer.weights)), order=2, modes=["rev"])
    with pytest.raises(TypeError, match=r"kernel has shape .*; x, .* and the settings need"):
        locally_connected_transpose(x, layer.kernel[1:], filters=4, kernel_size=3, **settings)


def test_given_connections(rng):
    pairs = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (4, 1), (5, 1), (0, 3)]
    spec = DirectedSpec(pairs, 2, 3, mask_shape=(6, 4))
    arrays = [integers(rng, shape, np.float64) for shape in ((5, 6, 2), spec.kernel_shape, spec.output_shape)]
    function = jax.jit(functools.partial(locally_directed, spec=spec))
    np.testing.assert_array_equal(function(*arrays), functional.apply(spec, *arrays))
    dy = integers(rng, (5, 4, 3), np.float64)
    found = jax.vjp(function, *map(jnp.asarray, arrays))[1](jnp.asarray(dy))
    expected = (*functional.gradients(spec, *arrays[:2], dy), dy.sum(axis=0))
    assert all(map(np.array_equal, found, expected))
    check_grads(function, tuple(map(jnp.asarray, arrays)), order=2, modes=["rev"])
    with pytest.raises(TypeError, match=r"x has shape .*; give \(N, inputs, C\) = \(N, 6, 2\)"):
        function(arrays[0][:, 1:], *arrays[1:])
    with pytest.raises(TypeError, match=r"spec is a str; give a lcnumba.functional.DirectedSpec"):
        locally_directed(*arrays, spec="spec")


@st.composite
def convolutions(draw):
    """The spec of a convolution, and the arguments of JAX' own."""
    rank = draw(st.integers(1, 3))
    kernel_size, strides, dilation = (tuple(draw(st.integers(1, top)) for _ in range(rank)) for top in (4, 3, 3))
    padding, groups = draw(st.sampled_from(["valid", "tf_same"])), draw(st.integers(1, 3))
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel_size, strict=True)]
    size = tuple(draw(st.integers(e if padding == "valid" else 1, e + 4)) for e in spans)
    channels, filters = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 4))
    spec = Spec((*size, channels), filters, kernel_size, strides, padding, dilation_rate=dilation, groups=groups,
                weight_sharing="all")  # fmt: skip
    space = "DHW"[3 - rank :]
    return spec, {
        "window_strides": strides, "padding": "SAME" if padding == "tf_same" else "VALID", "rhs_dilation": dilation,
        "feature_group_count": groups, "dimension_numbers": (f"N{space}C", f"{space}IO", f"N{space}C"),
    }  # fmt: skip


@pytest.mark.hypothesis
@settings(max_examples=12)  # each compiles two programs
@given(convolutions(), st.integers(0, 999))
def test_one_set_of_weights_is_the_convolution_of_jax(convolution, seed):
    """Bit for bit on integers: output and both gradients, for "valid" and "tf_same", strides, dilations and groups."""
    spec, arguments = convolution
    rng = np.random.default_rng(seed)
    x, kernel = integers(rng, (2, *spec.input_shape)), integers(rng, spec.kernel_shape)
    dy = integers(rng, (2, *spec.output_shape))
    own = kernel.reshape(*spec.kernel_size, -1, spec.filters)
    y, pullback = jax.vjp(lambda *given: jax.lax.conv_general_dilated(*given, **arguments), x, own)
    np.testing.assert_array_equal(functional.apply(spec, x, kernel), y)
    expected_dx, expected_dkernel = pullback(jnp.asarray(dy))
    dx, dkernel = functional.gradients(spec, x, kernel, dy)
    np.testing.assert_array_equal(dx, expected_dx)
    np.testing.assert_array_equal(dkernel.reshape(own.shape), expected_dkernel)


SMALL = Spec((6, 5, 2), 3, (3, 2), (2, 1))


def small(rng, dtype=np.float64, batch=4):
    shapes = ((batch, 6, 5, 2), SMALL.kernel_shape, SMALL.output_shape)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def layer(x, kernel, bias=None, **rest):
    return locally_connected(x, kernel, bias, kernel_size=(3, 2), strides=(2, 1), **rest)


def test_gradients_of_any_order(way, rng):
    arrays = small(rng)
    check_grads(layer, arrays, order=3, modes=["rev"])
    one_bias = (*arrays[:2], jnp.ones(3))
    check_grads(layer, one_bias, order=2, modes=["rev"])
    mask = rng.random(SMALL.kernel_shape) < 0.5
    check_grads(lambda *given: layer(*given, kernel_mask=mask), arrays, order=3, modes=["rev"])


def test_both_ways_with_and_without_jit(way, rng):
    arrays = [jnp.asarray(integers(rng, a.shape)) for a in small(rng)]
    expected = functional.apply(SMALL, *map(np.asarray, arrays))
    for function in (layer, jax.jit(layer)):
        np.testing.assert_array_equal(function(*arrays), expected)
    expected = functional.gradients(SMALL, *map(np.asarray, arrays[:2]), np.ones_like(expected))
    for function in (jax.grad, lambda *given, **rest: jax.jit(jax.grad(*given, **rest))):
        found = function(lambda *given: layer(*given).sum(), argnums=(0, 1))(*arrays[:2])
        assert all(map(np.array_equal, found, expected))


@pytest.mark.parametrize("mapped", [(0, None, None), (None, 0, None), (0, 0, None), (1, 2, 0), (None, None, 0)])
def test_vmap(mapped, way, rng):
    x, kernel, bias = small(rng)
    many = [a if axis is None else jnp.stack([a, 2 * a, -a], axis) for a, axis in
            zip((x, kernel, bias), mapped, strict=True)]  # fmt: skip
    found = jax.vmap(layer, mapped)(*many)
    each = [[a if axis is None else a * factor for a, axis in zip((x, kernel, bias), mapped, strict=True)]
            for factor in (1, 2, -1)]  # fmt: skip
    np.testing.assert_allclose(found, jnp.stack([layer(*arrays) for arrays in each]), rtol=1e-12)

    def loss(*given):
        return (layer(*given) ** 2).sum()

    per_entry = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1, 2)), mapped))(*many)
    for number in range(3):
        for found, right in zip(per_entry, jax.grad(loss, argnums=(0, 1, 2))(*each[number]), strict=True):
            np.testing.assert_allclose(found[number], right, rtol=1e-12, atol=1e-12)


def test_scan_and_donation(way, rng):
    x, _, _ = small(rng)
    spec = Spec((6, 5, 2), 2, 3, padding="same")
    kernel = jnp.asarray(rng.standard_normal(spec.kernel_shape) / 5)

    def step(carry, _):
        return locally_connected(carry, kernel, kernel_size=3, padding="same"), carry.sum()

    last, sums = jax.jit(lambda x: jax.lax.scan(step, x, None, length=7))(x)
    expected = x
    for _ in range(7):
        expected, _ = step(expected, None)
    np.testing.assert_allclose(last, expected)
    assert sums.shape == (7,)

    @jax.jit
    def plain(kernel, x):
        return kernel - 0.01 * jax.grad(lambda k: (locally_connected(x, k, kernel_size=3, padding="same") ** 2).sum())(
            kernel
        )

    donated = jax.jit(plain, donate_argnums=0)
    found, expected = kernel.copy(), kernel
    for _ in range(5):
        found, expected = donated(found, x), plain(expected, x)
    np.testing.assert_array_equal(found, expected)


def test_only_the_gradients_that_are_needed_are_computed(rng, monkeypatch):
    called = []
    run = xla._run
    monkeypatch.setattr(xla, "_run", lambda name, *rest: called.append(name) or run(name, *rest))
    arrays = small(rng)

    def names(argnums):
        called.clear()
        jax.block_until_ready(jax.grad(lambda *given: (layer(*given) ** 2).sum(), argnums)(*arrays))
        return set(called) - {"apply"}

    assert names((0, 1, 2)) == {"gradients", "bias_gradient"}
    assert names((0, 2)) == {"input_gradient", "bias_gradient"}
    assert names(1) == {"weight_gradient"}
    assert names(2) == {"bias_gradient"}


@pytest.mark.parametrize("with_bias", [True, False])
def test_different_gradients_of_one_jitted_function(with_bias, rng):
    """JAX caches what it traced of a function, and runs the parts of several traces in any order."""
    arrays = small(rng)[: 2 + with_bias]
    f, plain = (
        jax.jit(layer),
        functional.gradients(SMALL, *map(np.asarray, arrays[:2]), np.ones((4, *SMALL.output_shape))),
    )
    expected = (*plain, np.full(SMALL.output_shape, 4.0))
    choices = [c for size in (1, 2, 3) for c in itertools.combinations(range(len(arrays)), size)]

    def pullback(choice):
        def call(*given):
            each = list(arrays)
            for place, array in zip(choice, given, strict=True):
                each[place] = array
            return f(*each).sum()

        return jax.vjp(call, *(arrays[place] for place in choice))[1]

    def check(found, choice):
        for gradient, place in zip(found, choice, strict=True):
            np.testing.assert_allclose(gradient, expected[place], rtol=1e-12)

    for choice in (*choices, *choices[::-1]):
        check(pullback(choice)(1.0), choice)
    waiting = [(pullback(choice), choice) for choice in choices]
    for function, choice in waiting[::-1]:
        check(function(1.0), choice)
    for choice in choices:
        check(jax.jit(jax.grad(lambda *a: f(*a).sum(), choice))(*arrays), choice)


def test_arrays_are_not_copied(rng, monkeypatch):
    seen = []
    run = xla._run

    def noted(name, spec, arguments, results):
        seen.append([a.ctypes.data for a in (*arguments, *results)])
        run(name, spec, arguments, results)

    monkeypatch.setattr(xla, "_run", noted)
    arrays = jax.block_until_ready(small(rng))
    y = jax.jit(layer)(*arrays).block_until_ready()
    assert seen == [[a.unsafe_buffer_pointer() for a in (*arrays, y)]]


def test_no_samples(way):
    y, pullback = jax.vjp(layer, jnp.zeros((0, 6, 5, 2)), jnp.ones(SMALL.kernel_shape), jnp.ones(SMALL.output_shape))
    assert y.shape == (0, *SMALL.output_shape)
    dx, dkernel, dbias = pullback(y)
    assert dx.shape == (0, 6, 5, 2)
    assert not dkernel.any()
    assert not dbias.any()


@pytest.mark.parametrize("kernel_size", [2, 3, (2, 5)])
@pytest.mark.parametrize("strides", [1, 2, (3, 1)])
def test_same_padding_is_that_of_jax(kernel_size, strides, rng):
    """With equal windows a convolution; with its own at each position, `conv_general_dilated_local`."""
    size = kernel_size if isinstance(kernel_size, tuple) else (kernel_size,) * 2
    steps = strides if isinstance(strides, tuple) else (strides,) * 2
    x = jnp.asarray(integers(rng, (2, 7, 6, 3), np.float64))
    settings = {"kernel_size": kernel_size, "strides": strides, "padding": "SAME"}
    weights = init(jax.random.key(0), (7, 6, 3), 4, **settings)
    positions = weights["kernel"].shape[0]
    shared = jnp.asarray(integers(rng, (*size, 3, 4), np.float64))
    kernel = jnp.broadcast_to(shared.reshape(1, -1, 4), (positions, shared.size // 4, 4))
    numbers = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, shared, steps, "SAME", dimension_numbers=numbers)
    np.testing.assert_array_equal(locally_connected(x, kernel, **settings), expected)

    kernel = jnp.asarray(integers(rng, kernel.shape, np.float64))
    own = kernel.reshape(*expected.shape[1:3], *size, 3, 4)
    own = own.transpose(0, 1, 4, 2, 3, 5)  # its window entries are (channel, row, column)
    local = jax.lax.conv_general_dilated_local(x, own.reshape(*expected.shape[1:3], -1, 4), steps, "SAME", size,
                                               dimension_numbers=numbers)  # fmt: skip
    np.testing.assert_array_equal(locally_connected(x, kernel, **settings), local)


def test_initial_weights(rng):
    weights = init(jax.random.key(0), (20, 20, 4), 16, 3)
    assert weights["kernel"].std() == pytest.approx(1 / 6, rel=0.01)
    assert weights["bias"].shape == (18, 18, 16)
    assert not weights["bias"].any()
    mask = rng.random((9, 18)) < 0.5
    spec = Spec((3, 3, 2), 4, 3, padding="same", kernel_mask=mask)
    weights = init(jax.random.key(0), [3, 3, 2], 4, 3, padding="same", kernel_mask=mask, bias_sharing="filter",
                   dtype=np.float32)  # fmt: skip
    exists = np.broadcast_to(spec.exists, spec.kernel_shape)
    assert not weights["kernel"][~exists].any()
    assert weights["kernel"][exists].all()
    assert weights["bias"].shape == (4,)
    assert weights["kernel"].dtype == weights["bias"].dtype == np.float32
    assert list(init(jax.random.key(0), (5, 1), 1, 2, use_bias=False)) == ["kernel"]
    gradient = jax.grad(lambda k: (locally_connected(jnp.ones((2, 3, 3, 2)), k, kernel_size=3, padding="same",
                                                     kernel_mask=mask)).sum())(jnp.ones(spec.kernel_shape))  # fmt: skip
    np.testing.assert_array_equal(gradient, 2.0 * exists)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": np.ones((2, 6, 5, 2, 1, 1))}, TypeError, r"x has shape \(2, 6, 5, 2, 1, 1\) and kernel"),
        (
            {"x": np.ones((2, 6, 5, 1))},
            TypeError,
            r"kernel has shape \(8, 12, 3\); x, .*, and the settings need \(8, 6, 3\)",
        ),
        ({"kernel": np.ones((8, 12))}, TypeError, r"kernel \(8, 12\); give"),
        (
            {"bias": np.ones((2, 4, 2))},
            TypeError,
            r"bias has shape \(2, 4, 2\); x, .*, and the settings need \(2, 4, 3\)",
        ),
        ({"bias": np.ones(2)}, TypeError, r"bias has shape \(2,\); x, .*, and the settings need \(3,\)"),
        (
            {"kernel": np.ones((8, 12, 3), np.float32)},
            TypeError,
            "kernel has dtype float32, and x float64; give the same",
        ),
        ({"x": np.ones((2, 6, 5, 2), int)}, TypeError, "x has dtype int64; give float32 or float64"),
        ({"x": jnp.ones((2, 6, 5, 2), jnp.bfloat16)}, TypeError, "x has dtype bfloat16"),
        ({"strides": (2.0, True)}, TypeError, "strides=2.0 is a float"),
        ({"kernel_size": (7, 7)}, ValueError, r"kernel_size=\(7, 7\) does not fit input \(6, 5\)"),
        ({"padding": "causal"}, ValueError, "padding='causal' is not known"),
        ({"kernel_mask": np.ones((8, 12))}, TypeError, "kernel_mask has dtype float64; give booleans"),
        ({"stride": 2}, TypeError, "unexpected keyword argument 'stride'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    given = {"x": np.ones((2, 6, 5, 2)), "kernel": np.ones((8, 12, 3)), "kernel_size": (3, 2), "strides": (2, 1)}
    with pytest.raises(error, match=message):
        locally_connected(**(given | arguments))
    with pytest.raises(error, match=message):  # while it is traced
        jax.jit(lambda x: locally_connected(**(given | {"x": x} | arguments)))(given["x"])


def test_a_mask_cannot_be_traced(rng):
    x, kernel, _ = small(rng)
    with pytest.raises(TypeError, match="kernel_mask is a tracer; give a NumPy array"):
        jax.jit(lambda mask: layer(x, kernel, kernel_mask=mask))(np.ones((8, 12), bool))


def test_forward_mode_is_refused(rng):
    x, kernel, bias = small(rng)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jacfwd(layer)(x, kernel, bias)
    hessian = jax.jacrev(jax.jacrev(lambda k: (layer(x[:1], k, bias) ** 2).sum()))(kernel)
    assert hessian.shape == kernel.shape * 2


# --- the handlers


def test_errors_in_a_handler_are_raised(rng):
    """A handler that raised would print it, and XLA would take what memory holds for the result."""
    x, kernel, bias = small(rng)
    assert xla.handlers_work()
    wrong = [jax.ShapeDtypeStruct((4, 2, 4, 4), x.dtype)]
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"INVALID_ARGUMENT: lcnumba: ValueError: out has shape"):
        xla._by_handler("apply", SMALL, wrong, x, kernel)[0].block_until_ready()
    integer = [jax.ShapeDtypeStruct((4, *SMALL.output_shape), np.int32)]
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"INTERNAL: lcnumba: KeyError"):
        xla._by_handler("apply", SMALL, integer, x, kernel)[0].block_until_ready()
    call = jax.ffi.ffi_call("lcnumba", [jax.ShapeDtypeStruct((4, *SMALL.output_shape), x.dtype)])
    with pytest.raises(jax.errors.JaxRuntimeError, match="is not the text of a Spec"):
        call(x, kernel, what="apply nothing of the kind")[0].block_until_ready()
    with pytest.raises(jax.errors.JaxRuntimeError, match="other attributes"):
        call(x, kernel, what=f"apply {SMALL.text}", more=np.int32(1))[0].block_until_ready()
    np.testing.assert_array_equal(layer(x, kernel, bias), jax.jit(layer)(x, kernel, bias))  # all as it was


def test_the_version_is_that_of_the_header(tmp_path, monkeypatch):
    header = Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h").read_text()
    assert f"{xla._version()[1]}" == re.search(r"API_MINOR (\d+)", header)[1]
    folder = tmp_path / "xla" / "ffi" / "api"
    folder.mkdir(parents=True)
    (folder / "c_api.h").write_text("#define XLA_FFI_API_MAJOR 0\n#define XLA_FFI_API_MINOR 77\n")
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    monkeypatch.setattr(xla, "_version", xla._version.__wrapped__)
    assert xla._version() == (0, 77)
    (folder / "c_api.h").write_text("#define XLA_FFI_API_MAJOR 1\n#define XLA_FFI_API_MINOR 0\n")
    with pytest.raises(RuntimeError, match="another version of the interface"):
        xla._version()


def test_two_threads_register_one_handler(monkeypatch):
    registered, made, make = [], [], xla._make_handler
    monkeypatch.setattr(jax.ffi, "register_ffi_target", lambda *arguments, **rest: registered.append(arguments))
    monkeypatch.setattr(xla, "_registered", [])
    monkeypatch.setattr(xla, "_make_handler", lambda numba: (made.append(1), time.sleep(0.1), make(numba))[2])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(xla._register) for _ in range(2)]:
            future.result()
    assert len(made) == len(registered) == 1


def test_if_handlers_are_not_called_it_warns_and_calls_back(rng, monkeypatch):
    monkeypatch.setattr(xla, "handlers_work", xla.handlers_work.__wrapped__)
    monkeypatch.setattr(xla, "_by_handler", lambda *_: [np.zeros(2)])
    arrays = small(rng)
    jax.clear_caches()
    with pytest.warns(
        RuntimeWarning, match="does not call lcnumba's functions directly .*the result is .*not 10 and 21"
    ):
        y = layer(*arrays)
    np.testing.assert_array_equal(y, functional.apply(SMALL, *map(np.asarray, arrays)))
    jax.clear_caches()


def test_many_shapes_need_no_more_targets(rng, monkeypatch):
    monkeypatch.setattr(jax.ffi, "register_ffi_target", None)
    kernel = jnp.ones((3, 1, 1))
    for number in range(1, 1000):
        y = layer_of_ones(kernel, number % 20 + 1)
    assert y.shape == (20, 3, 1)


@jax.jit
def _ones(x, kernel):
    return locally_connected(x, kernel, kernel_size=1)


def layer_of_ones(kernel, batch):
    return _ones(jnp.ones((batch, 3, 1)), kernel)


def test_two_threads_jit_at_once(rng):
    x = jnp.asarray(rng.standard_normal((16, 20, 20, 4)))

    def train(filters):
        weights = init(jax.random.key(filters), (20, 20, 4), filters, 3)

        @jax.jit
        def step(weights):
            def loss(w):
                return (locally_connected(x, w["kernel"], w["bias"], kernel_size=3) ** 2).mean()

            return jax.tree.map(lambda w, g: w - g, weights, jax.grad(loss)(weights))

        for _ in range(20):
            weights = step(weights)
        return np.asarray(weights["kernel"])

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        together = list(pool.map(train, (3, 8, 5, 16)))
    for found, right in zip(together, map(train, (3, 8, 5, 16)), strict=True):
        np.testing.assert_array_equal(found, right)


def run(code, cwd, **environment):
    return subprocess.run([sys.executable, "-P", "-c", code], cwd=cwd, capture_output=True, text=True, timeout=200,
                          check=True, env={**os.environ, **environment})  # fmt: skip


def test_asynchronous_iterations_end(tmp_path):
    """In a process of its own, which also ends while XLA still computes."""
    code = """
import jax, jax.numpy as jnp
from lcnumba.jax import init, locally_connected, locally_connected_transpose, locally_directed
x = jnp.ones((64, 30, 30, 8))
weights = init(jax.random.key(0), (30, 30, 8), 8, 3, padding="same")["kernel"]
step = jax.jit(lambda x: jnp.tanh(locally_connected(x, weights, kernel_size=3, padding="same")))
for _ in range(200):
    x = step(x)
assert jnp.isfinite(x).all()
for _ in range(20):
    x = step(x)
print("end")
"""
    assert run(code, tmp_path).stdout == "end\n"


def test_the_compilation_cache_across_processes(tmp_path):
    code = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_compilation_cache_dir", "cache")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
from lcnumba.jax import locally_connected
mask = np.arange(12).reshape(4, 3) % 2 == 0
print(jax.jit(lambda x, k: locally_connected(x, k, kernel_size=3, kernel_mask=mask))(
    jnp.arange(12.0).reshape(2, 6, 1), jnp.arange(24.0).reshape(4, 3, 2)).tolist())
"""
    first = run(code, tmp_path).stdout
    files = {path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith("atime")}
    assert files
    assert run(code, tmp_path).stdout == first
    assert {path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith("atime")} == files


def test_after_a_fork_numpy_can_compute(tmp_path):
    """JAX itself does not survive forks; the library does, for workers that load data."""
    code = """
import os, warnings
import numpy as np, jax, jax.numpy as jnp
from lcnumba.jax import locally_connected
from lcnumba import functional
spec = functional.Spec((34, 34, 8), 16, 3)
x, kernel = np.ones((32, 34, 34, 8), np.float32), np.ones(spec.kernel_shape, np.float32)
y = np.asarray(jax.jit(lambda x, k: locally_connected(x, k, kernel_size=3))(x, kernel))
warnings.simplefilter("ignore")
child = os.fork()
if not child:
    os._exit(0 if np.array_equal(functional.apply(spec, x, kernel), y) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    run(code, tmp_path)


def test_losses_are_those_of_this_librarys_training():
    data = Run()
    names = ("first", "first_bias", "second", "second_bias", "head", "head_bias")
    weights = {name: jnp.asarray(weight) for name, weight in zip(names, data.weights, strict=True)}

    def loss(w, x, labels):
        y = jax.nn.relu(locally_connected(x, w["first"], w["first_bias"], kernel_size=3))
        y = jnp.tanh(locally_connected(y, w["second"], w["second_bias"], kernel_size=2, strides=2))
        scores = jax.nn.log_softmax(y.reshape(len(y), -1) @ w["head"] + w["head_bias"])
        return -jnp.take_along_axis(scores, labels[:, None], 1).mean()

    @jax.jit
    def step(w, x, labels):
        value, grads = jax.value_and_grad(loss)(w, x, labels)
        return value, jax.tree.map(lambda a, g: a - RATE * g, w, grads)

    losses = []
    for x, labels in zip(data.x, data.labels, strict=True):
        value, weights = step(weights, x, labels)
        losses.append(float(value))
    data.check(losses)


def test_an_interrupt_leaves_no_wrong_result_and_is_not_lost(tmp_path):
    """It may come at any moment, also while XLA runs, so that the handler is the first to notice."""
    code = """
import os, signal, threading, time
import numpy as np, jax, jax.numpy as jnp
from lcnumba.jax import locally_connected
x, kernel = jnp.arange(8.0).reshape(2, 4, 1), jnp.ones((3, 2, 1))
f = jax.jit(lambda x, kernel: locally_connected(x, kernel, kernel_size=2))
expected, go = np.asarray(f(x, kernel)), threading.Event()
def interrupt():
    while True:
        go.wait()
        go.clear()
        time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
wrong, lost = 0, 0
for _ in range(500):
    try:
        go.set()
        end = time.monotonic() + 5
        while time.monotonic() < end:
            wrong += not np.array_equal(f(x, kernel), expected)
        lost += 1
    except KeyboardInterrupt:
        pass
print(wrong, lost)
"""
    found = run(code, tmp_path)
    assert found.stdout == "0 0\n"
    assert "Exception ignored on calling ctypes callback" in found.stderr  # it did come at the handler's start


def test_within_shard_map(tmp_path):
    code = """
import numpy as np, jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from lcnumba.jax import locally_connected
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("d",))
x, k = jnp.arange(12.0).reshape(4, 3, 1), jnp.ones((2, 2, 1))
f = lambda x, k: locally_connected(x, k, kernel_size=2)
def sharded(check):
    return jax.shard_map(f, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"), check_vma=check)
right = jax.grad(lambda k: f(x, k).sum())(k)
assert np.array_equal(jax.grad(lambda k: sharded(False)(x, k).sum())(k), right)
try:
    jax.grad(lambda k: sharded(True)(x, k).sum())(k)
except NotImplementedError as error:
    print(len(jax.devices()), str(error)[-100:])
"""
    printed = run(code, tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=2").stdout
    assert printed.startswith("2 ")
    assert "check_vma=False" in printed or "replicated weights" in printed


def test_many_steps_in_two_threads_keep_memory_flat_and_end(tmp_path):
    """In a process of its own, under a time limit: a leak of one small array a step would be seen."""
    code = """
import concurrent.futures, resource
import jax, jax.numpy as jnp
from lcnumba.jax import init, locally_connected, locally_connected_transpose, locally_directed
def train(filters):
    weights, x = init(jax.random.key(0), (12, 12, 1), filters, 3), jnp.ones((4, 12, 12, 1))
    @jax.jit
    def step(w):
        grads = jax.grad(lambda w: (locally_connected(x, w["kernel"], w["bias"], kernel_size=3) ** 2).mean())(w)
        return jax.tree.map(lambda a, g: a - 0.01 * g, w, grads)
    def steps(number):
        nonlocal weights
        for _ in range(number):
            weights = step(weights)
        jax.block_until_ready(weights)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = steps(1000)
    return steps(5000) - before
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    print(max(pool.map(train, (3, 4))))
"""
    assert int(run(code, tmp_path).stdout) < 8000  # KiB: of 10,000 steps; one array of the weights has 11


def test_examples_in_docstrings():
    with jax.enable_x64(False):
        result = doctest.testmod(lcnumba.jax, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed
