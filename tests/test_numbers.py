"""Numerical guarantees of the library.

Non-finite values. NaN and inf reach only the windows that contain them, as in IEEE 754: in y, dx, dkernel, dbias, and
in the weights after a fused step. Connections that do not exist, because of padding or a mask, propagate nothing.
Implementation 2 spreads non-finite values of a sample of x over that sample of y, and of a sample of dy over that
sample of dx; non-finite weights and all gradients of weights are treated as in the other implementations.

Small and large values. Nothing is flushed to zero, on any thread. A sum of terms of one sign becomes inf exactly where
the exact sum does, rounded.

Error. Every result differs from the exact one by at most ``(n + 2) u S``: n is the number of its products, S
the sum of their absolute values and of the bias's, u half of the dtype's eps (2^-24 in float32, 2^-53 in float64). For
y, n is K, or as many connections as exist; for dx F times the connections of the input; for dkernel and dbias N. It is
the bound of a sum in any order, gamma_n S with gamma_n = n u / (1 - n u) (N. J. Higham, Accuracy and Stability of
Numerical Algorithms, 2nd ed., SIAM 2002, section 3.1, eq. 3.5), with one rounding for the bias and one for the
denominator, which is enough up to n = 4000 in float32. The error of a weight w after a step of gradient descent, fused
or not, is at most ``(N + 3) u (|w| + lr S)``, with S of its gradient.

Size. Indices are right in arrays of more than 2^31 elements.

Reproducibility. The same bits in every process, with any threading layer and any number of threads.
"""

import functools
import json
import math
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.connectivity.geometry import Geometry
from lcnumba.implementations import loop
from lcnumba.implementations.create import IMPLEMENTATIONS
from lcnumba.implementations.loop import Loops, bias_gradient
from lcnumba.kernels import rules, vectors
from lcnumba.kernels.sparse import product as sparse_product
from lcnumba.runtime.memory import available
from lcnumba.testing import PROBLEMS, Problem, reference
from lcnumba.testing.problems import WRAP

CLASSES = {1: lc.LocallyConnected1D, 2: lc.LocallyConnected2D, 3: lc.LocallyConnected3D}
BAD = (np.nan, np.inf, -np.inf)
NAMED = {
    "plain", "same_odd", "same_stride", "dilated_same", "circular", "circular_over_input", "rank_1",
    "rank_1_circular", "rank_3_same", "one_position", "wide_filters", "few_filters",
}  # fmt: skip
SOME = [
    *(p for p in PROBLEMS if p.name in NAMED),
    Problem("many_channels", "dx by input columns", 3, (3, 4), 9, 33, (2, 2), (1, 1), "same"),
    Problem("many_channels_circular", "the same around", 3, (3, 4), 9, 20, (2, 3), (1, 1), "same", None, WRAP),
]
FEW = [p for p in SOME if p.name not in {"plain", "same_stride", "dilated_same", "circular_over_input", "rank_1"}]
problems = pytest.mark.parametrize("problem", SOME, ids=str)
few_problems = pytest.mark.parametrize("problem", FEW, ids=str)
implementations = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
exact_ones = pytest.mark.parametrize("implementation", [1, 3])
# Each batch uses another path through the backward kernels.
BATCHES = [(1, np.float32), (3, np.float64), (20, np.float32), (20, np.float64)]
batches = pytest.mark.parametrize(("batch", "dtype"), BATCHES, ids=lambda v: getattr(v, "__name__", f"N{v}"))
ignored = functools.partial(np.errstate, all="ignore")


def test_named_problems_exist():
    assert {p.name for p in SOME} >= NAMED


def make_layer(problem, implementation, kernel, bias, **settings):
    """The layer of a problem, with these weights."""
    layer = CLASSES[len(problem.input_size)](
        problem.filters, problem.kernel_size, problem.strides, problem.padding,
        dilation_rate=problem.dilation or 1, padding_mode=problem.padding_mode, implementation=implementation,
        groups=problem.groups, weight_sharing=problem.weight_sharing, dtype=kernel.dtype.name, **settings,
    )  # fmt: skip
    layer.build((None, *problem.input_size, problem.channels))
    layer.set_weights([kernel, bias])
    return layer


def all_results(layer, x, dy, lr=0.5):
    """Y, dx, dkernel, dbias, dx of a fused step, and the weights after it."""
    y, backward = layer.forward(x)
    dx, grads = backward(dy)
    return y, dx, grads.kernel, grads.bias, backward.step(dy, lr), *layer.weights


def expected_of(problem, x, kernel, bias, dy, lr=0.5, rectified=False):
    """The same results from the reference, in float64."""
    y = reference.forward(x, kernel, bias, **problem.settings)
    if rectified:
        dy, y = np.where(y > 0, dy, 0), np.maximum(y, 0)
    dx, dkernel, dbias = reference.backward(x, kernel, dy, **problem.settings)
    return y, dx, dkernel, dbias, dx, kernel - lr * dkernel, bias - lr * dbias


def equal(results, expected):
    for number, (a, b) in enumerate(zip(results, expected, strict=True)):
        np.testing.assert_array_equal(a, b, err_msg=f"result {number}", strict=False)


def insert_non_finite(array, rng, exists=None):
    """Insert NaN, inf and -inf at existing elements of an array: at both ends and in between."""
    at = np.arange(array.size) if exists is None else np.flatnonzero(np.broadcast_to(exists, array.shape))
    array.reshape(-1)[at[[0, rng.integers(len(at)), -1]]] = rng.permutation(BAD)


def reads(problem):
    """(P, K): which element of a sample each window entry reads, -1 for none; from the reference."""
    P, K, _ = problem.geometry.kernel_shape
    C, size = problem.channels, math.prod(problem.input_size)
    numbered = np.arange(1, size * C + 1).reshape(1, *problem.input_size, C)
    each = np.broadcast_to(np.eye(K), (P, K, K))
    return reference.forward(numbered, each, None, **problem.settings).reshape(P, K).astype(int) - 1


def by_terms(problem, x, kernel, bias, dy, mask=True):
    """Y, dx, dkernel and dbias in extended precision, with existing connections only."""
    index = reads(problem)
    exists = (index >= 0)[:, :, None] & mask
    shapes = [a.shape for a in (dy, x, kernel, bias)]
    x, kernel, bias, dy = (a.astype(np.longdouble) for a in (x, kernel, bias, dy))
    flat, rows = x.reshape(len(x), -1), dy.reshape(len(x), len(index), 1, -1)
    patches, none = flat[:, index][..., None], np.longdouble(0)
    y = np.where(exists, patches * kernel, none).sum(axis=2) + bias.reshape(len(index), -1)
    dkernel = np.where(exists, patches * rows, none).sum(axis=0)
    dx = np.zeros_like(flat)
    there = index >= 0
    np.add.at(dx, (slice(None), index[there]), np.where(exists, kernel * rows, none).sum(axis=3)[:, there])
    return [a.reshape(shape) for a, shape in zip((y, dx, dkernel, dy.sum(axis=0)), shapes, strict=True)]


# --- NaN and inf


@exact_ones
@problems
@batches
@pytest.mark.parametrize("where", ["x", "kernel", "bias", "dy"])
def test_non_finite_values_reach_only_their_windows(where, batch, dtype, problem, implementation, rng, monkeypatch):
    monkeypatch.setattr(loop, "BLOCK_WORK", 0)  # so that dx is computed by input columns if there are many channels
    problem = replace(problem, batch=batch)
    arrays = dict(zip(("x", "kernel", "bias", "dy"), problem.data(rng, dtype), strict=True))
    insert_non_finite(arrays[where], rng, problem.geometry.exists[:, :, None] if where == "kernel" else None)
    x, kernel, bias, dy = arrays.values()
    for activation in (None, "relu") if batch == 20 else (None,):
        layer = make_layer(problem, implementation, kernel, bias, activation=activation)
        with ignored():
            expected = expected_of(problem, x, kernel, bias, dy, rectified=activation == "relu")
            equal(all_results(layer, x, dy), expected)
        # ReLU may mask all of dy.
        assert activation or not np.isfinite(np.concatenate([a.ravel() for a in expected])).all()


@problems
@pytest.mark.parametrize("where", ["x", "kernel", "dy"])
def test_non_finite_values_in_plain_loops(where, problem, rng, monkeypatch):
    monkeypatch.setattr(vectors, "TILED", False)
    arrays = dict(zip(("x", "kernel", "bias", "dy"), problem.data(rng), strict=True))
    insert_non_finite(arrays[where], rng, problem.geometry.exists[:, :, None] if where == "kernel" else None)
    x, kernel, bias, dy = arrays.values()
    with ignored():
        equal(all_results(make_layer(problem, 1, kernel, bias), x, dy), expected_of(problem, x, kernel, bias, dy))


def reached(problem, array, backwards=False):
    """Which outputs an input that is not 0 reaches, or inputs an output."""
    ones = np.ones(problem.geometry.kernel_shape)
    if not backwards:
        return reference.forward(array != 0, ones, None, **problem.settings) != 0
    x = np.zeros((len(array), *problem.input_size, problem.channels))
    return reference.backward(x, ones, array != 0, **problem.settings)[0] != 0


@problems
@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("where", ["x", "kernel", "bias", "dy"])
def test_dense_spreads_non_finite_values_within_their_samples_only(where, tiled, problem, rng, monkeypatch):
    """One non-finite value in each of three samples: elsewhere in the sample 0 * NaN or 0 * inf is NaN.

    If a window reads an input several times, the dense matrix has the sum of their weights, which is another sum of
    infinities: those problems are skipped.
    """
    if problem.name == "circular_over_input" and where in ("x", "dy"):
        return
    monkeypatch.setattr(vectors, "TILED", tiled)
    for batch in (5, 20):
        problem = replace(problem, batch=batch)
        arrays = dict(zip(("x", "kernel", "bias", "dy"), problem.data(rng), strict=True))
        given = arrays[where]
        marks = np.zeros_like(given)
        if where in ("x", "dy"):
            for sample, bad in zip((0, 2, batch - 1), BAD, strict=True):
                place = sample, rng.integers(given[0].size)
                given.reshape(batch, -1)[place], marks.reshape(batch, -1)[place] = bad, 1
        else:
            insert_non_finite(given, rng, problem.geometry.exists[:, :, None] if where == "kernel" else None)
        x, kernel, bias, dy = arrays.values()
        with ignored():
            expected = list(expected_of(problem, x, kernel, bias, dy))
            results = all_results(make_layer(problem, 2, kernel, bias), x, dy)
        if where in ("x", "dy"):
            number = 0 if where == "x" else 1
            spread = marks.any(axis=tuple(range(1, marks.ndim)), keepdims=True)
            spread = spread & ~reached(problem, marks, backwards=where == "dy")
            expected[number] = np.where(spread, np.nan, expected[number])
            if where == "dy":
                expected[4] = expected[1]
        equal(results, expected)


@implementations
@pytest.mark.parametrize("per_filter", [False, True])
@pytest.mark.parametrize("where", ["x", "kernel", "dy"])
@pytest.mark.parametrize("name", ["same_odd", "circular", "rank_1", "many_channels"])
def test_masks_block_non_finite_values(name, where, per_filter, implementation, rng):
    """Nor does implementation 2 spread them with a mask."""
    for batch in (1, 3, 20):
        problem = replace(next(p for p in SOME if p.name == name), batch=batch)
        g = problem.geometry
        mask = rng.random(g.kernel_shape if per_filter else g.kernel_shape[:2]) < 0.6
        exists = g.exists[:, :, None] & np.atleast_3d(mask)
        arrays = dict(zip(("x", "kernel", "bias", "dy"), problem.data(rng), strict=True))
        insert_non_finite(arrays[where], rng, exists if where == "kernel" else None)
        x, kernel, bias, dy = arrays.values()
        with ignored():
            y, dx, dkernel, dbias = by_terms(problem, x, kernel, bias, dy, np.atleast_3d(mask))
            kernel = np.where(exists, kernel, 0).astype(np.float32)
            expected = y, dx, dkernel, dbias, dx, kernel - dkernel / 2, bias - dbias / 2
            equal(all_results(make_layer(problem, implementation, kernel, bias, kernel_mask=mask), x, dy), expected)
        assert not np.isfinite(np.concatenate([a.ravel() for a in expected])).all()


@implementations
def test_non_finite_weights_stay_in_place(implementation, rng):
    """Also in the cached layouts of implementations 2 and 3."""
    problem = next(p for p in SOME if p.name == "same_odd")
    x, kernel, bias, dy = problem.data(rng)
    layer = make_layer(problem, implementation, kernel, bias)
    layer(x)
    spoiled = dy.copy()
    spoiled[0, 2, 2, 1] = np.nan
    with ignored():
        _, backward = layer.forward(x)
        backward.step(spoiled, lr=1.0, wants_dx=False)
        for _ in range(2):
            expected = expected_of(problem, x, *layer.get_weights(), dy)
            equal(all_results(layer, x, dy), expected)
    assert np.isnan(layer.kernel).any(axis=(1, 2)).sum() == 1, "one position"
    layer.set_weights([kernel, bias])
    equal(all_results(layer, x, dy), expected_of(problem, x, kernel, bias, dy))


@pytest.mark.parametrize(
    "optimizer", ["sgd", lc.SGD(momentum=0.5), lc.SGD(momentum=0.5, nesterov=True), "adam", "rmsprop"]
)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("constrained", [{}, {"kernel_constraint": "non_neg", "kernel_regularizer": "l1_l2"}])
def test_optimizers_confine_non_finite_gradients_to_their_weights(constrained, fused, optimizer, rng):
    """Constraints do not turn NaN into 0 either."""
    problem = replace(next(p for p in SOME if p.name == "same_odd"), batch=9)
    x, kernel, bias, dy = problem.data(rng)
    kernel = np.abs(kernel)
    clean, spoiled = (make_layer(problem, 1, kernel, bias, optimizer=optimizer, **constrained) for _ in range(2))
    bad = dy.copy()
    bad[4, 1, 2, 0] = np.nan
    for layer, given in ((clean, dy), (spoiled, bad)):
        _, backward = layer.forward(x)
        backward.step(given, lr=0.125) if fused else layer.step(backward(given)[1], lr=0.125)
    hit = np.zeros(kernel.shape, bool)
    hit[1 * problem.geometry.output_size[1] + 2, :, 0] = True
    hit &= problem.geometry.exists[:, :, None]
    np.testing.assert_array_equal(spoiled.kernel, np.where(hit, np.nan, clean.kernel))
    hit = np.zeros(bias.shape, bool)
    hit[1, 2, 0] = True
    np.testing.assert_array_equal(spoiled.bias, np.where(hit, np.nan, clean.bias))


# --- subnormal and huge values, and minimal shapes


def to_subnormals(integers, dtype):
    """Integers times the smallest positive number, built from bits, so that flushing to zero cannot affect them."""
    kind = np.dtype(f"i{np.dtype(dtype).itemsize}")
    whole = np.asarray(integers).astype(kind)
    return np.where(whole < 0, np.iinfo(kind).min - whole, whole).view(dtype)


def from_subnormals(array):
    """The integers of an array from `to_subnormals`."""
    bits = array.view(f"i{array.itemsize}")
    return np.where(bits < 0, np.iinfo(bits.dtype).min - bits, bits)


@implementations
@few_problems
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tiled", [True, False])
def test_subnormal_numbers_are_not_flushed(tiled, dtype, problem, implementation, rng, monkeypatch):
    """Scaling integers by the smallest positive number scales the results by it, on any thread."""
    monkeypatch.setattr(vectors, "TILED", tiled)
    if problem.name == "same_odd":
        monkeypatch.setattr(rules, "SERIAL_WORK", -1)
    for batch in (1, 20) if dtype == np.float32 else (3,):
        given = replace(problem, batch=batch)
        x, kernel, bias, dy = arrays = given.data(rng, dtype)
        small_x, small_kernel, small_bias = (to_subnormals(a, dtype) for a in arrays[:3])
        expected_y, expected_dx, expected_dkernel, *_, expected_kernel, _ = expected_of(given, *arrays, lr=1)
        # Small weights and biases give small y and dx.
        layer = make_layer(given, implementation, small_kernel, small_bias, n_threads=2)
        y, backward = layer.forward(x)
        equal(map(from_subnormals, (y, backward(dy)[0])), (expected_y, expected_dx))
        # Small x and biases give small y.
        equal([from_subnormals(make_layer(given, implementation, kernel, small_bias)(small_x))], [expected_y])
        # Small x give small dkernel, and small steps of small weights.
        layer = make_layer(given, implementation, small_kernel, bias, n_threads=2)
        y, backward = layer.forward(small_x)
        np.testing.assert_array_equal(y, np.broadcast_to(bias, y.shape), "products of two such numbers are 0")
        dkernel = backward(dy)[1].kernel
        backward.step(dy, lr=1)
        equal(map(from_subnormals, (dkernel, layer.kernel)), (expected_dkernel, expected_kernel))


@implementations
@few_problems
@pytest.mark.parametrize(("dtype", "exponent"), [(np.float32, 121), (np.float64, 1017)])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_overflow_where_the_exact_sum_does(sign, dtype, exponent, problem, implementation, rng):
    """Integers times a power of two, which overflows at 128 times."""
    over, under = 0, 0
    for batch in (1, 3, 20):
        given = replace(problem, batch=batch)
        x, kernel, bias, dy = arrays = [np.abs(a) for a in given.data(rng, dtype)]
        with ignored():
            expected = [np.asarray(a, dtype) for a in expected_of(given, *arrays, lr=1)]
            layer = make_layer(given, implementation, *(sign * np.ldexp(a, exponent) for a in (kernel, bias)))
            y, backward = layer.forward(x)
            y_dx = [sign * np.ldexp(a, exponent) for a in expected[:2]]
            equal([y, backward(dy)[0]], y_dx)
            _, backward = layer.forward(np.ldexp(x, exponent))
            dkernel = sign * np.ldexp(expected[2], exponent)
            equal([backward(sign * dy)[1].kernel], [dkernel])
        for result in (*y_dx, dkernel):
            over, under = over + np.isinf(result).sum(), under + (np.isfinite(result) & (result != 0)).sum()
    assert over
    assert under


TINY = [
    Problem("one_number", "", 1, (1, 1), 1, 1, (1, 1), (1, 1)),
    Problem("one_pixel", "", 1, (1, 1), 3, 5, (1, 1), (1, 1)),
    Problem("one_pixel_same", "", 1, (1, 1), 3, 1, (3, 5), (1, 1), "same"),
    Problem("one_pixel_circular", "one number met fifteen times", 1, (1, 1), 2, 3, (3, 5), (1, 1), "same", None, WRAP),
    Problem("one_position", "", 1, (3, 2), 2, 1, (3, 2), (1, 1)),
    Problem("one_position_wide", "", 1, (3, 2), 2, 40, (3, 2), (1, 1)),
    Problem("one_filter", "", 1, (4, 5), 3, 1, (2, 3), (1, 2)),
    Problem("one_input_of_a_line", "", 1, (1,), 1, 2, (1,), (7,)),
    Problem("one_voxel", "", 1, (1, 1, 1), 1, 2, (2, 2, 3), (1, 2, 1), "same"),
]


@implementations
@pytest.mark.parametrize("problem", TINY, ids=str)
@pytest.mark.parametrize("batch", [0, 1, 2, 17])
@pytest.mark.parametrize("tiled", [True, False])
def test_the_smallest_layers(tiled, batch, problem, implementation, rng, monkeypatch):
    monkeypatch.setattr(vectors, "TILED", tiled)
    problem = replace(problem, batch=batch)
    x, kernel, bias, dy = problem.data(rng)
    for activation in (None, "relu"):
        layer = make_layer(problem, implementation, kernel, bias, activation=activation)
        expected = expected_of(problem, x, kernel, bias, dy, rectified=activation == "relu")
        equal(all_results(layer, x, dy), expected)


@implementations
@pytest.mark.parametrize("problem", [p for p in TINY if len(p.input_size) == 2], ids=str)
def test_the_smallest_models(problem, implementation, rng):
    """One step of gradient descent on the mean of squares, and the empty batch of `predict`."""
    problem = replace(problem, batch=4)
    x, kernel, bias, dy = problem.data(rng)
    layer = make_layer(problem, implementation, kernel, bias)
    model = lc.Sequential([layer])
    target = reference.forward(x, kernel, bias, **problem.settings) - dy
    loss = float(np.mean(dy.astype(np.float64) ** 2))
    assert model.evaluate(x, target, loss="mse")["loss"] == pytest.approx(loss, rel=1e-6)
    np.testing.assert_array_equal(model.predict(x[:0]), np.empty((0, *dy.shape[1:]), np.float32), strict=True)
    for batch_size in (1, 3, 4):
        y = reference.forward(x, kernel, bias, **problem.settings)
        np.testing.assert_array_equal(model.predict(x, batch_size=batch_size), y, strict=False)
    history = model.fit(x, target, loss="mse", lr=0.25, epochs=1, batch_size=4, shuffle=False, progress=False)
    assert history.history["loss"][0] == pytest.approx(loss, rel=1e-6)
    _, dkernel, dbias = reference.backward(x, kernel, dy * (2 / dy.size), **problem.settings)
    np.testing.assert_allclose(layer.kernel, kernel - 0.25 * dkernel, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(layer.bias, bias - 0.25 * dbias, rtol=1e-6, atol=1e-6)


# --- the error bound


def random(rng, shape, dtype):
    """Normal values of several magnitudes, so that sums cancel and small terms are lost."""
    return (rng.standard_normal(shape) * 10 ** rng.uniform(-2, 2, shape)).astype(dtype)


def within(computed, exact, bound):
    """Assert that every element is within its bound."""
    error = np.abs(computed.astype(np.longdouble) - exact)
    assert (error <= bound).all(), f"{np.max(error / np.where(bound, bound, 1))} times the bound"


WIDE = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps
DTYPES = [np.float32, pytest.param(np.float64, marks=pytest.mark.skipif(not WIDE, reason="no wider type here"))]


@implementations
@few_problems
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tiled", [True, False])
def test_the_error_is_bounded(tiled, dtype, problem, implementation, rng, monkeypatch):
    monkeypatch.setattr(vectors, "TILED", tiled)
    monkeypatch.setattr(loop, "BLOCK_WORK", 0)
    u = np.finfo(dtype).eps / 2
    batches = (1, 20) if tiled else (3,)
    for batch in (*batches, 130) if problem.name == "same_odd" else batches:
        given = replace(problem, batch=batch)
        g, size = given.geometry, (batch, *given.input_size, given.channels)
        shapes = size, g.kernel_shape, g.bias_shape, (batch, *g.bias_shape)
        x, kernel, bias, dy = arrays = [random(rng, shape, dtype) for shape in shapes]
        kernel[~g.exists] = 0
        exact, sums = (by_terms(given, *of) for of in (arrays, [np.abs(a) for a in arrays]))
        counts = by_terms(
            given, *(np.full(shape, n != 2) for n, shape in enumerate(shapes))
        )  # the bias is not a product
        layer = make_layer(given, implementation, kernel, bias)
        y, backward = layer.forward(x)
        dx, grads = backward(dy)
        for computed, number, total, n in zip((y, dx, grads.kernel, grads.bias), exact, sums, counts, strict=True):
            within(computed, number, (n + 2) * u * total)
        twin = make_layer(given, implementation, kernel, bias)
        twin.step(grads, lr=0.25)
        within(backward.step(dy, lr=0.25), exact[1], (counts[1] + 2) * u * sums[1])
        for one in (layer, twin):
            for computed, before, slope, total in zip(one.weights, (kernel, bias), exact[2:], sums[2:], strict=True):
                within(computed, before - slope / 4, (batch + 3) * u * (np.abs(before) + total / 4))


# --- more than 2^31 elements

BEYOND = 1 << 31


def zeros(shape, dtype=np.float32):
    """Zeros that use no memory as long as they are only read; skips the test on other systems."""
    limit = available()
    if not sys.platform.startswith("linux") or limit is None or limit[0] < 10e9:
        pytest.skip("needs lazily allocated zero pages, or 10 GB")
    try:
        return np.zeros(shape, dtype)
    except MemoryError:
        pytest.skip("not enough address space")


# Two layers of slightly more than 2^31 weights: with small blocks, of 2^17, where dx is computed by input columns, and
# with large ones, of 2^25, by blocks.
BY_COLUMNS = Geometry((129, 128), channels=256, filters=512, kernel_size=1)
BY_BLOCKS = Geometry((65,), channels=4096, filters=8192, kernel_size=1)


def places(g):
    """Position, entry and filter of weights on both sides of 2^30 and of 2^31 elements, and the last one."""
    first = BEYOND // (g.channels * g.filters)
    last = g.channels - 1, g.filters - 1
    return [
        (0, 0, 0), (first // 2 - 1, *last), (first // 2, 0, 0), (first - 1, *last), (first, 0, 0), (first, 7, 3),
        (g.positions - 1, *last),
    ]  # fmt: skip


@pytest.mark.parametrize(("geometry", "batch"), [(BY_COLUMNS, 5), (BY_BLOCKS, 1), (BY_BLOCKS, 5)])
def test_a_kernel_beyond_2_31_elements_is_read_correctly(geometry, batch):
    g = geometry
    kernel = zeros(g.kernel_shape)
    assert kernel.size > BEYOND
    x, dy = np.ones((batch, g.inputs), np.float32), np.ones((batch, g.positions, g.filters), np.float32)
    for number, (p, k, f) in enumerate(places(g), 1):
        kernel[p, k, f] = number
        x[0, p * g.channels + k] = dy[0, p, f] = 3
    loops = Loops(g)
    assert ("most_blocks" in loops._plan(batch, 4, 1, True, True, True).values) == (g is BY_COLUMNS)
    y = loops.apply(x, kernel)
    dx = loops.apply_transpose(kernel, dy).reshape(batch, g.positions, g.channels)
    for result, index in ((y, 2), (dx, 1)):
        for number, place in enumerate(places(g), 1):
            at = result[:, place[0], place[index]]
            np.testing.assert_array_equal(at, [3 * number] + [number] * (batch - 1))
        assert np.count_nonzero(result) == batch * len(places(g)), "and nothing elsewhere"


def test_inputs_beyond_2_31_elements_are_read_correctly():
    """Two columns of each sample; the other pages are never touched."""
    width, batch = 1 << 20, 2050
    x = zeros((batch, width, 1))
    assert x.size > BEYOND
    kernel = np.arange(1, 7, dtype=np.float32).reshape(2, 1, 3)
    expected, dkernel = np.zeros((batch, 2, 3)), np.zeros((2, 1, 3))
    for number, (n, half) in enumerate(product((0, 1023, 1024, 2047, 2048, 2049), range(2)), 1):
        x[n, half * width // 2, 0] = number
        expected[n, half] = number * kernel[half, 0]
        dkernel[half] += number
    for filters in (slice(0, 3), slice(0, 1)):
        loops = Loops(Geometry((width,), 1, len(range(3)[filters]), 1, width // 2))
        some = np.ascontiguousarray(kernel[:, :, filters])
        y = loops.apply(x.reshape(batch, -1), some)
        np.testing.assert_array_equal(y, expected[:, :, filters])
        gradient = loops.weight_gradient(x.reshape(batch, -1), np.ones_like(y))
        np.testing.assert_array_equal(gradient, dkernel[:, :, filters])


def test_outputs_beyond_2_31_elements_are_read_correctly():
    positions, filters, batch = 1 << 15, 512, 129
    dy = zeros((batch, positions, filters))
    assert dy.size > BEYOND
    dx, dkernel = np.zeros((batch, positions)), np.zeros((positions, 1, filters))
    places = [(0, 0, 0), (63, -1, -1), (64, 0, 0), (127, -1, -1), (128, 0, 0), (128, 5, 3), (128, -1, -1)]
    for number, (n, p, f) in enumerate(places, 1):
        dy[n, p, f] = number
        dx[n, p] += number
        dkernel[p, 0, f] += number
    x, kernel = np.ones((batch, positions), np.float32), np.ones((positions, 1, filters), np.float32)
    loops = Loops(Geometry((positions,), 1, filters, 1))
    np.testing.assert_array_equal(loops.weight_gradient(x, dy), dkernel)
    np.testing.assert_array_equal(loops.apply_transpose(kernel, dy), dx)
    np.testing.assert_array_equal(bias_gradient(dy, None, None), dkernel[:, 0])


@exact_ones
def test_a_line_beyond_2_31_inputs_is_read_correctly(implementation):
    x = zeros((1, BEYOND // 2 + 8, 2))
    x[0, [0, 1 << 29, BEYOND // 2], 1] = 2, 3, 5
    layer = lc.LocallyConnected1D(
        2, 1, 1 << 29, implementation=implementation, kernel_initializer="ones", input_shape=x.shape[1:]
    )
    np.testing.assert_array_equal(layer(x)[0], [[2, 2], [3, 3], [5, 5]])


@pytest.mark.parametrize(("inputs", "dtype"), [(BEYOND - 1, np.int32), (BEYOND, np.int64)])
def test_sparse_index_dtype(inputs, dtype):
    indptr, indices = Geometry((inputs,), 1, 2, 1, (1 << 30) - 4).csr_index()
    assert indptr.dtype == indices.dtype == dtype
    last = [2 * ((1 << 30) - 4)] * 2
    np.testing.assert_array_equal(indices, [0, 0, (1 << 30) - 4, (1 << 30) - 4, *last])


def test_sparse_indices_of_channels_beyond_2_31():
    indptr, indices = Geometry((BEYOND // 2 + 4,), 2, 1, 1, 1 << 29).csr_index()
    assert indptr.dtype == indices.dtype == np.int64
    np.testing.assert_array_equal(indices, [0, 1, 1 << 30, (1 << 30) + 1, BEYOND, BEYOND + 1])


@pytest.mark.parametrize("ordered", [False, True])
def test_sparse_product_reads_values_beyond_2_31(ordered):
    """As with more weights than that; the rows used hold few of them."""
    indices, values = zeros(BEYOND + 4, np.int64), zeros(BEYOND + 4)
    indices[-6:], values[-6:] = [0, 1, 2, 2, 1, 0], [1, 2, 3, 4, 5, 6]
    indptr = np.array([BEYOND - 2, BEYOND + 1, BEYOND + 4])
    order = zeros(BEYOND + 4, np.int64) if ordered else np.empty(0, np.int64)
    if ordered:
        order[-6:] = BEYOND + 3 - np.arange(6)
    dense, out = np.array([[1, 2], [10, 20], [100, 200]], np.float32), np.empty((2, 2), np.float32)
    sparse_product(4, 8)(
        indptr=indptr, indices=indices, order=order, n_order=len(order), data=values, dense=dense, dense_rows=3, rows=2,
        N=2, task_rows=1, out=out, threads=1,
    )  # fmt: skip
    sums = np.array([6 + 50 + 400, 300 + 20 + 1] if ordered else [1 + 20 + 300, 400 + 50 + 6])
    np.testing.assert_array_equal(out, sums[:, None] * [1, 2])


def test_shapes_beyond_2_31_are_counted_exactly():
    """And refused with a clear message where their weights would be allocated."""
    layer = lc.LocallyConnected2D(64, 5, input_shape=(8192, 8192, 3), padding="same")
    taps = 5 * 8192 - (2 + 1) - (1 + 2)
    weights = taps**2 * 3 * 64
    assert layer.compute_output_shape((None, 8192, 8192, 3)) == (None, 8192, 8192, 64)
    loops, dense, sparse = layer.costs(100)
    assert loops.flop_forward == sparse.flop_forward == 200 * weights
    assert dense.flop_forward == 200 * 8192**4 * 3 * 64
    assert dense.memory == 4 * 8192**4 * 3 * 64 + 8 * 8192**2 * 75
    assert sparse.memory == weights * (4 + 3 * 8)
    text = []
    layer.explain(100, text.append)
    assert f"{weights:,} weights" in text[0]
    if available() is not None:
        with pytest.raises(MemoryError, match=r"needs 1\.31e\+03 GB"):
            layer.build((None, 8192, 8192, 3))


@pytest.fixture
def alone(tmp_path_factory):
    """Wait for other test processes that need as much memory."""
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path_factory.getbasetemp()
    with (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder).joinpath("large").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("geometry", "batch"), [(BY_COLUMNS, 5), (BY_BLOCKS, 1), (BY_BLOCKS, 5)])
def test_a_kernel_beyond_2_31_elements_is_updated_correctly(geometry, batch):
    """8.7 GB of weights, all written by a fused step."""
    limit = available()
    if limit is None or limit[0] < 12e9:
        pytest.skip("needs 12 GB")
    g = geometry
    layer = CLASSES[g.rank](
        g.filters, 1, kernel_initializer="zeros", use_bias=False, input_shape=(*g.input_size, g.channels)
    )
    x = np.zeros((batch, g.positions, g.channels), np.float32)
    dy = np.zeros((batch, g.positions, g.filters), np.float32)
    for number, (p, k, f) in enumerate(places(g), 1):
        x[-1, p, k], dy[-1, p, f] = number, 2
    # The weights whose x and dy are both nonzero change.
    pairs = [(one, other) for one in places(g) for other in places(g) if one[0] == other[0]]
    expected = {(p, k, f): -x[-1, p, k] for (p, k, _), (_, _, f) in pairs}
    # Weights are 0 at first: the second step reads what the first one wrote.
    for step in range(2):
        y, backward = layer.forward(x.reshape(batch, *g.input_size, g.channels))
        y = y.reshape(dy.shape)
        dx = backward.step(dy.reshape(batch, *g.output_size, g.filters), lr=0.5).reshape(x.shape)
        sums, gradient_sums = np.zeros_like(y[-1]), np.zeros_like(dx[-1])
        for (p, k, f), weight in expected.items() if step else ():
            sums[p, f] += weight * x[-1, p, k]
            gradient_sums[p, k] += weight * dy[-1, p, f]
        np.testing.assert_array_equal(y[-1], sums)
        np.testing.assert_array_equal(dx[-1], gradient_sums)
        assert not y[:-1].any()
        assert not dx[:-1].any()
    for place, weight in expected.items():
        assert layer.kernel[place] == 2 * weight
    assert sum(map(np.count_nonzero, layer.kernel)) == len(expected)


# --- reproducibility

# Steps of every kind, for several numbers of threads.
REPRODUCED = """
    import hashlib, json
    import numpy as np, numba
    import lcnumba as lc
    from lcnumba.kernels import rules

    rules.SERIAL_WORK = -1  # threads for the smallest work too
    TABLE = [
        ((9, 8, 8), (40, (3, 3)), {"padding": "same", "activation": "relu"}, "adam", 20),
        ((9, 8, 8), (40, (2, 3), (2, 1)), {"activation": "tanh"}, lc.SGD(momentum=0.5), 1),
        ((7, 9, 2), (3, (3, 2)), {"padding": "same", "padding_mode": "circular"}, "sgd", 33),
    ]

    def bits(implementation, threads):
        digest = hashlib.sha256()
        for size, arguments, settings, optimizer, batch in TABLE:
            rng = np.random.default_rng(5)
            settings = settings | {"implementation": implementation, "optimizer": optimizer, "fans": "window"}
            layers = [lc.LocallyConnected2D(*arguments, input_shape=size, rng=1, n_threads=threads, **settings),
                      lc.LocallyConnected2D(2, 2, rng=2, n_threads=threads, implementation=implementation)]
            model = lc.Sequential(layers)
            x = rng.standard_normal((batch, *size), np.float32)
            y, backward = layers[0].forward(x)
            dx, grads = backward(rng.standard_normal(y.shape, np.float32))
            layers[0].step(grads, lr=0.01)
            y_2, backward = layers[0].forward(x)
            dx_2 = backward.step(rng.standard_normal(y.shape, np.float32), lr=0.01)
            target = rng.standard_normal(model(x).shape, np.float32)
            model.fit(x, target, loss="mse", epochs=2, batch_size=12, rng=3, lr=0.01, progress=False)
            for array in (y, dx, grads.kernel, grads.bias, y_2, dx_2, *model.get_weights(), model.predict(x)):
                assert np.isfinite(array).all()
                digest.update(array.tobytes())
        return digest.hexdigest()

    found = {f"{i}": sorted({bits(i, threads) for threads in (1, 2, 3, 7)}) for i in (1, 3)}
    print(json.dumps([numba.threading_layer(), numba.get_num_threads(), found]))
"""


def test_results_are_reproducible_across_processes(tmp_path):
    """Bitwise, for any threading layer and number of threads."""
    seen, patient = [], {"OMP_WAIT_POLICY": "passive"}  # waiting threads do not spin
    for environment in ({"NUMBA_NUM_THREADS": "2"}, {"NUMBA_NUM_THREADS": "1"},
                        {"NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": "workqueue"}):  # fmt: skip
        result = subprocess.run(
            [sys.executable, "-P", "-c", textwrap.dedent(REPRODUCED)], cwd=tmp_path,
            env={**os.environ, **patient, **environment}, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        seen.append(json.loads(result.stdout))
    assert seen[2][0] == "workqueue"
    assert [threads for _, threads, _ in seen] == [2, 1, 2]
    for _, _, found in seen:
        assert all(len(digests) == 1 for digests in found.values()), "the number of threads"
        assert found == seen[0][2]
