import concurrent.futures
import dataclasses
import math
import time
import tracemalloc

import numba
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import check_against_reference, run

from lcnumba.connectivity.geometry import Geometry
from lcnumba.implementations import loop
from lcnumba.implementations.create import IMPLEMENTATIONS, create
from lcnumba.kernels import rules, update, vectors
from lcnumba.testing import PROBLEMS, Problem, adjoint_sums, integers, reference

# Also run with every index checked, and interpreted instead of compiled.
pytestmark = pytest.mark.kernels

problems = pytest.mark.parametrize("problem", PROBLEMS, ids=str)
implementations = pytest.mark.parametrize("number", IMPLEMENTATIONS)


@problems
@implementations
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_to_the_reference_bit_for_bit(problem, number, dtype, rng):
    check_against_reference(problem, number, dtype, rng)


@st.composite
def random_problems(draw):
    rank = draw(st.integers(1, 3))

    def numbers(top):
        return tuple(draw(st.lists(st.integers(1, top), min_size=rank, max_size=rank)))

    kernel_size, strides, dilation = numbers(4), numbers(4), numbers(3)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    padding = draw(st.sampled_from(("valid", "same", "tf_same", "pairs")))
    if padding == "pairs":
        padding = tuple((draw(st.integers(0, e - 1)), draw(st.integers(0, e - 1))) for e in spans)
    mode = tuple(draw(st.lists(st.sampled_from(("zeros", "circular")), min_size=rank, max_size=rank)))
    rest = numbers((24, 6, 3)[rank - 1])
    least = spans if padding == "valid" else [1] * rank
    if not isinstance(padding, str):
        least = [max(1, e - sum(pair)) for e, pair in zip(spans, padding, strict=True)]
    size = tuple(a + b - 1 for a, b in zip(least, rest, strict=True))
    batch, channels, filters = (draw(st.integers(low, top)) for low, top in ((0, 5), (1, 4), (1, 9)))
    groups = draw(st.integers(1, 3))
    windows = (kernel_size, strides, padding, dilation, mode, groups)
    problem = Problem("random", "hypothesis", batch, size, channels * groups, filters * groups, *windows)
    output = problem.geometry.output_size
    sharing = draw(st.sampled_from((None, "all", "blocks", "regions")))
    if sharing == "blocks":
        sharing = tuple(draw(st.integers(1, n)) for n in output)
    elif sharing == "regions":
        entries = st.integers(0, draw(st.integers(0, 3)))
        numbers = draw(st.lists(entries, min_size=math.prod(output), max_size=math.prod(output)))
        sharing = np.unique(numbers, return_inverse=True)[1].reshape(output)
    return dataclasses.replace(problem, weight_sharing=sharing)


@implementations
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(problem=random_problems(), seed=st.integers(0, 2**32 - 1))
def test_equal_to_the_reference_on_random_geometries(number, problem, seed):
    check_against_reference(problem, number, np.float32, np.random.default_rng(seed))


@problems
@implementations
def test_adjoint_identities_are_exact(problem, number, rng):
    x, kernel, _, dy = problem.data(rng)
    y, dx, dkernel = run(create(number, problem.geometry), problem, x, kernel, None, dy)
    first, second, third = adjoint_sums(x, kernel, dy, y, dx, dkernel)
    assert first == second == third


@problems
@implementations
def test_missing_connections_have_no_effect_and_no_gradient(problem, number, rng):
    g = problem.geometry
    x, kernel, bias, dy = problem.data(rng)
    clean = run(create(number, g), problem, x, kernel, bias, dy)
    kernel[~g.weight_exists] = np.nan
    garbage = run(create(number, g), problem, x, kernel, bias, dy)
    for a, b in zip(clean, garbage, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not clean[2][~g.weight_exists].any()


@pytest.mark.parametrize("tiled", sorted({vectors.TILED, False}))
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("name", ["plain", "same_stride", "few_filters"])
@implementations
def test_apply_with_a_bias_and_relu(name, number, relu, tiled, rng, monkeypatch):
    monkeypatch.setattr(vectors, "TILED", tiled)
    problem = next(p for p in PROBLEMS if p.name == name)
    g = problem.geometry
    x, kernel, bias, _ = problem.data(rng)
    for b in (bias, None):
        row = None if b is None else b.reshape(g.positions, -1)
        y = create(number, g).apply(x.reshape(len(x), -1), kernel, row, relu=relu)
        expected = reference.forward(x, kernel, b, **problem.settings).reshape(y.shape)
        np.testing.assert_array_equal(y, np.maximum(expected, 0) if relu else expected)


@pytest.mark.parametrize("name", ["plain", "same_stride", "few_filters", "batch_1"])
@implementations
def test_y_masks_dy(name, number, rng):
    problem = next(p for p in PROBLEMS if p.name == name)
    g, implementation = problem.geometry, create(number, problem.geometry)
    x, kernel, _, dy = problem.data(rng)
    x, dy = x.reshape(len(x), -1), dy.reshape(len(dy), g.positions, g.filters)
    y = np.maximum(integers(rng, dy.shape), 0)
    dx, dkernel = implementation.gradients(x, kernel, dy, y=y)
    expected_dx, expected = implementation.gradients(x, kernel, np.where(y > 0, dy, 0))
    np.testing.assert_array_equal(dx, expected_dx)
    np.testing.assert_array_equal(dkernel, expected)
    np.testing.assert_array_equal(implementation.weight_gradient(x, dy, y=y), expected)
    np.testing.assert_array_equal(implementation.apply_transpose(kernel, dy, y=y), expected_dx)


@pytest.mark.parametrize("tiled", sorted({vectors.TILED, False}))
@pytest.mark.parametrize("masked", [True, False])
@problems
@implementations
def test_linear_maps_with_out(problem, number, masked, tiled, rng, monkeypatch):
    """The map is bilinear: <dy, apply(x, k)> = <apply_transpose(k, dy), x> = <weight_gradient(x, dy), k>."""
    monkeypatch.setattr(vectors, "TILED", tiled)
    g = problem.geometry
    mask = rng.random(g.kernel_shape) < 0.5 if masked else None
    implementation = create(number, g, mask)
    x, kernel, bias, dy = problem.data(rng)
    kernel = np.where(g.weight_exists[:, :, None] & (True if mask is None else mask), kernel, 0)
    x, dy = x.reshape(len(x), g.inputs), dy.reshape(len(dy), g.positions, g.filters)
    row = bias.reshape(g.positions, g.filters)
    y, dx, dkernel = (np.full_like(like, np.nan) for like in (dy, x, kernel))
    assert implementation.apply(x, kernel, row, out=y) is y
    np.testing.assert_array_equal(y, implementation.apply(x, kernel, row))
    assert implementation.apply_transpose(kernel, dy, out=dx) is dx
    assert implementation.weight_gradient(x, dy, out=dkernel) is dkernel
    assert np.sum(dy * implementation.apply(x, kernel)) == np.sum(dx * x) == np.sum(dkernel * kernel)
    both = implementation.gradients(x, kernel, dy, out=(np.full_like(dx, np.nan), np.full_like(dkernel, np.nan)))
    for found, expected in zip(both, (dx, dkernel), strict=True):
        np.testing.assert_array_equal(found, expected)
    if implementation.supports_fused:
        updated, out = kernel.copy(), np.full_like(dx, np.nan)
        rule = rules.Rule(rules.SGDScalars(0.5))
        assert implementation.fused_update(x, updated, dy, rule, out=out) is out
        np.testing.assert_array_equal(out, dx)
        np.testing.assert_array_equal(updated, kernel - dkernel / 2)


@implementations
def test_a_kernel_without_a_version_is_not_cached(number, rng):
    problem = PROBLEMS[0]
    implementation = create(number, problem.geometry)
    x, kernel, bias, dy = problem.data(rng)
    run(implementation, problem, x, kernel, bias, dy, version=0)
    other = run(implementation, problem, x, 2 * kernel, bias, dy, version=None)
    for found, expected in zip(
        other, run(create(number, problem.geometry), problem, x, 2 * kernel, bias, dy), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@implementations
def test_inputs_are_not_modified(number, rng):
    problem = PROBLEMS[0]
    arrays = problem.data(rng)
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    outputs = run(create(number, problem.geometry), problem, *arrays)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
    for output in outputs:
        assert output.flags.writeable
        assert not any(np.may_share_memory(output, a) for a in arrays)


@implementations
@pytest.mark.parametrize("name", ["one_filter", "plain", "same_stride", "one_channel_one_tap"])
def test_a_new_version_of_the_kernel_is_used(number, name, rng):
    """Also if the cached layout could be a view of the kernel."""
    problem = next(p for p in PROBLEMS if p.name == name)
    x, kernel, bias, dy = problem.data(rng)
    implementation = create(number, problem.geometry)
    run(implementation, problem, x, kernel, bias, dy, version=0)
    _, other, _, _ = problem.data(rng)
    kept = kernel.copy()
    y, dx, _ = run(implementation, problem, x, other, bias, dy, version=1)
    np.testing.assert_array_equal(kernel, kept)
    kernel = other
    np.testing.assert_array_equal(y, reference.forward(x, kernel, bias, **problem.settings))
    np.testing.assert_array_equal(dx, reference.backward(x, kernel, dy, **problem.settings)[0])


@problems
@implementations
def test_results_do_not_depend_on_the_number_of_threads(problem, number, rng, monkeypatch):
    """Including the calling thread alone, which handles small work."""
    g = problem.geometry
    shapes = [(problem.batch, *problem.input_size, g.channels), g.kernel_shape, g.bias_shape]
    arrays = [rng.standard_normal(s, np.float32) for s in (*shapes, (problem.batch, *g.bias_shape))]
    small = run(create(number, g), problem, *arrays)
    monkeypatch.setattr(rules, "SERIAL_WORK", -1)
    for threads in (1, 2, 3, 7):
        for a, b in zip(small, run(create(number, g), problem, *arrays, threads=threads), strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_values_reach_only_their_windows(number, bad, rng):
    problem = Problem("nan", "", 2, (6, 6), 2, 3, (3, 3), (1, 1), "same")
    x, kernel, bias, dy = problem.data(rng)
    kernel[kernel == 0] = 1  # so that every product shows it
    x[0, 2, 3, 1] = bad
    y, _, _ = run(create(number, problem.geometry), problem, x, kernel, bias, dy)
    expected = np.zeros((2, 6, 6), bool)
    expected[0, 1:4, 2:5] = True
    np.testing.assert_array_equal(~np.isfinite(y).all(axis=-1), expected)
    np.testing.assert_array_equal(~np.isfinite(y).any(axis=-1), expected)


def test_dense_spreads_non_finite_values_within_their_sample_only(rng):
    problem = PROBLEMS[0]
    x, kernel, bias, dy = problem.data(rng)
    x[0, 0, 0, 0] = np.nan
    y, _, _ = run(create(2, problem.geometry), problem, x, kernel, bias, dy)
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1:]).all()


@pytest.mark.parametrize("number", [0, 4, "1", None])
def test_unknown_implementations(number):
    with pytest.raises(ValueError, match=r"implementation=.* is not known"):
        create(number, PROBLEMS[0].geometry)


def test_a_cached_layout_is_filled_once_for_many_threads():
    from lcnumba.implementations.cache import LayoutCache

    cache, fills = LayoutCache(), []

    def fill(old):
        fills.append(old)
        time.sleep(0.05)
        return object()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: cache.get(1, fill), range(8)))) == 1
    assert fills == [None]

    def fails(old):
        raise KeyError

    with pytest.raises(KeyError):
        cache.get(2, fails)
    cache.get(1, fill)
    assert len(fills) == 2, "what a failed fill left behind is not used"


@implementations
def test_concurrent_calls_agree(number, rng):
    problem = Problem("threads", "", 8, (16, 16), 3, 32, (3, 3), (1, 1))  # large enough for threads
    arrays = problem.data(rng)
    implementation = create(number, problem.geometry)
    expected = run(create(number, problem.geometry), problem, *arrays)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: run(implementation, problem, *arrays), range(16)))
    for result in results:
        for a, b in zip(result, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="a large layer")
def test_sparse_memory_at_a_published_size():
    """14.5 million weights: Keras' implementation 3 needs more than 8 GB to build them."""
    problem = Problem("seed2", "", 1, (30, 30), 64, 32, (3, 3), (1, 1))
    g = problem.geometry
    kernel = np.ones(g.kernel_shape, np.float32)
    implementation = create(3, g)
    tracemalloc.start()
    try:
        implementation.apply(np.ones((1, g.inputs), np.float32), kernel, version=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * kernel.nbytes


@pytest.mark.parametrize("by_columns", [True, False])
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("batch", [1, 9])
def test_loops_clear_absent_weights_as_they_are_updated(by_columns, axes, batch, rng, monkeypatch):
    """To the same bits as a mask applied afterwards, by every rule."""
    monkeypatch.setattr(loop, "CHANNELS", 1)
    monkeypatch.setattr(loop, "BLOCK_WORK", 0 if by_columns else 1 << 40)
    g = Geometry((5, 6), 3, 4, (2, 3), padding="same")
    mask = rng.random(g.kernel_shape[:axes]) < 0.5
    present = np.broadcast_to(np.atleast_3d(mask), g.kernel_shape)
    x = rng.integers(-3, 4, (batch, g.inputs)).astype(np.float32)
    dy = rng.integers(-3, 4, (batch, g.positions, 4)).astype(np.float32)
    kernel = np.where(present & g.exists[:, :, None], rng.integers(1, 4, g.kernel_shape), 0).astype(np.float32)
    masked, plain = create(1, g, mask), create(1, g)
    np.testing.assert_array_equal(
        masked.gradients(x, kernel, dy)[1], np.where(present, plain.gradients(x, kernel, dy)[1], 0)
    )
    np.testing.assert_array_equal(masked.weight_gradient(x, dy), np.where(present, plain.weight_gradient(x, dy), 0))
    if not masked.supports_fused:
        return
    for scalars, states in (
        (rules.SGDScalars(0.5), 0), (rules.MomentumScalars(0.5, 0.5), 1), (rules.AdamScalars(*[0.5] * 7), 2),
    ):  # fmt: skip
        for wants_dx in (True, False):
            updated, expected = kernel.copy(), kernel.copy()
            for implementation, weights in ((masked, updated), (plain, expected)):
                rule = rules.Rule(scalars, tuple(np.zeros_like(kernel) for _ in range(states)))
                implementation.fused_update(x, weights, dy, rule, wants_dx=wants_dx)
            np.testing.assert_array_equal(updated, np.where(present, expected, 0))
            assert (updated[present & g.exists[:, :, None]] != 0).any()


@problems
def test_a_fused_update_is_that_of_the_gradient(problem, rng):
    g, (x, kernel, _, dy) = problem.geometry, problem.data(rng)
    x, dy = x.reshape(len(x), g.inputs), dy.reshape(len(dy), g.positions, g.filters)
    implementation = create(1, g)
    if not implementation.supports_fused:
        return
    dx, dkernel = implementation.gradients(x, kernel, dy)
    for scalars, states in ((rules.SGDScalars(0.5), 0), (rules.AdamScalars(*[0.5] * 7), 2)):
        for wants_dx in (True, False):
            (updated, rule), (expected, other) = (
                (kernel.copy(), rules.Rule(scalars, tuple(np.ones_like(kernel) for _ in range(states)))) for _ in "ab"
            )
            found = implementation.fused_update(x, updated, dy, rule, wants_dx=wants_dx)
            update.run(other, expected, dkernel)
            exists = g.weight_exists
            np.testing.assert_array_equal(updated[exists], expected[exists])
            for state, expected_state in zip(rule.states, other.states, strict=True):
                np.testing.assert_array_equal(state[exists], expected_state[exists])
            if wants_dx:
                np.testing.assert_array_equal(found, dx)


@pytest.mark.parametrize("packed_bytes", [0, 1 << 20])
@pytest.mark.parametrize(("summed", "segments"), [(1, 256), (3, 2), (512, 3), (512, 256)])
def test_updates_of_shared_weights_are_the_same_in_any_blocking(summed, segments, packed_bytes, rng, monkeypatch):
    """Whether a sum is one product, which is added to the weights at once, or several; and dy in place or packed."""
    monkeypatch.setattr(loop, "MOST_SUMMED", summed)
    monkeypatch.setattr(loop, "MOST_SEGMENTS", segments)
    monkeypatch.setattr(loop, "PACKED_RUN_BYTES", packed_bytes)
    found = 0
    for problem in PROBLEMS:
        if problem.weight_sharing is None or not vectors.TILED:
            continue
        g, (x, kernel, _, dy) = problem.geometry, problem.data(rng)
        dkernel = reference.backward(x, kernel, dy, **problem.settings)[1]
        updated, stored = kernel.copy(), np.empty_like(kernel)
        implementation = create(1, g)
        x, dy = x.reshape(len(x), g.inputs), dy.reshape(len(dy), g.positions, g.filters)
        implementation.weight_gradient(x, dy, out=stored)
        np.testing.assert_array_equal(stored, dkernel)
        implementation.fused_update(x, updated, dy, rules.Rule(rules.SGDScalars(0.5), ()), wants_dx=False)
        np.testing.assert_array_equal(updated[g.weight_exists], (kernel - dkernel / 2)[g.weight_exists])
        found += 1
    assert found > 5 or not vectors.TILED


@pytest.mark.skipif(not vectors.TILED, reason="needs register tiles")
def test_parts_of_a_sum_are_not_rounded_to_the_precision_of_a_weight(monkeypatch):
    monkeypatch.setattr(loop, "MOST_SUMMED", 1)
    g = Geometry((40,), 1, 40, 1, weight_sharing="all")
    kernel = np.full(g.kernel_shape, 1 << 24, np.float32)  # its neighbour is 1 less, and each part moves it by 1/2
    x, dy = np.ones((1, 40), np.float32), np.ones((1, 40, 40), np.float32)
    create(1, g).fused_update(x, kernel, dy, rules.Rule(rules.SGDScalars(0.5), ()), wants_dx=False)
    np.testing.assert_array_equal(kernel, (1 << 24) - 20)


def test_shared_weights_are_not_expanded(rng):
    """In implementation 1 they take the memory of one set, forward and backward."""
    g = Geometry((64, 64), 8, 16, 3, weight_sharing="all")
    x, kernel = rng.random((2, g.inputs), np.float32), rng.random(g.kernel_shape, np.float32)
    implementation = create(1, g)
    y = implementation.apply(x, kernel)
    implementation.gradients(x, kernel, y)  # tables are made
    tracemalloc.start()
    try:
        implementation.gradients(x, kernel, implementation.apply(x, kernel))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < y.nbytes + x.nbytes + (4 << 20)
    assert g.positions * kernel.nbytes > 3 * (y.nbytes + x.nbytes + (4 << 20))
