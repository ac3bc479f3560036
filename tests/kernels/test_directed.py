"""Kernels of connections given one by one, against plain loops, bit for bit on integers."""

import functools

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcnumba import optimizers
from lcnumba.connectivity import topology
from lcnumba.implementations import directed
from lcnumba.implementations.directed import Directed
from lcnumba.kernels import vectors
from lcnumba.kernels.rules import AdamScalars, Rule, SGDScalars
from lcnumba.testing import integers

# Also run with bounds checks, and without compilation.
pytestmark = pytest.mark.kernels

TILED = [False] if numba.config.DISABLE_JIT else [True, False]


def oracle(mask, x, kernel, bias, dy):
    """Y, dx and dkernel in float64, a connection at a time."""
    x, kernel, bias, dy = (np.asarray(a, np.float64) for a in (x, kernel, bias, dy))
    y, dx, dkernel = np.zeros(dy.shape) + bias, np.zeros(x.shape), np.zeros(kernel.shape)
    number = 0
    for o in range(mask.shape[1]):
        for i in range(mask.shape[0]):
            if mask[i, o]:
                for c in range(x.shape[2]):
                    for f in range(dy.shape[2]):
                        y[:, o, f] += x[:, i, c] * kernel[number, c, f]
                        dx[:, i, c] += dy[:, o, f] * kernel[number, c, f]
                        dkernel[number, c, f] = x[:, i, c] @ dy[:, o, f]
                number += 1
    assert max(np.abs(a).max(initial=0) for a in (y, dx, dkernel)) < 2**24
    return y, dx, dkernel


class Case:
    """Data of integers for a mask."""

    def __init__(self, mask, channels=1, filters=1, batch=3, dtype="float32", seed=0):
        rng = np.random.default_rng(seed)
        self.mask, self.many = mask, int(mask.sum())
        inputs, outputs = mask.shape
        self.x = integers(rng, (batch, inputs, channels), dtype)
        self.kernel = integers(rng, (self.many, channels, filters), dtype)
        self.bias = integers(rng, (outputs, filters), dtype)
        self.dy = integers(rng, (batch, outputs, filters), dtype)
        self.answers = oracle(mask, self.x, self.kernel, self.bias, self.dy)
        self.one = Directed(topology.get(mask), channels, filters)

    def check(self, x=None, **threads):
        x, one, (y, dx, dkernel) = self.x if x is None else x, self.one, self.answers
        np.testing.assert_array_equal(one.apply(x, self.kernel, self.bias, **threads), y)
        np.testing.assert_array_equal(one.apply(x, self.kernel, **threads), y - self.bias)
        np.testing.assert_array_equal(one.apply_transpose(self.kernel, self.dy, **threads), dx)
        np.testing.assert_array_equal(one.weight_gradient(x, self.dy, **threads), dkernel)
        both = one.gradients(x, self.kernel, self.dy, **threads)
        for found, expected in zip(both, (dx, dkernel), strict=True):
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == self.kernel.dtype
        if one.supports_fused:
            for wants_dx in (True, False):
                kernel = self.kernel.copy()
                found = one.fused_update(x, kernel, self.dy, Rule(SGDScalars(0.5)), wants_dx=wants_dx, **threads)
                np.testing.assert_array_equal(kernel, self.kernel - 0.5 * dkernel)
                if wants_dx:
                    np.testing.assert_array_equal(found, dx)
                else:
                    assert found is None


def random_mask(inputs, outputs, share, seed=0):
    mask = np.random.default_rng(seed).random((inputs, outputs)) < share
    mask[0, 0] = True
    return mask


@st.composite
def masks(draw):
    """Runs of neighbouring inputs, scattered inputs, all or none for each output."""
    inputs, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 7))
    mask = np.zeros((inputs, outputs), bool)
    for o in range(outputs):
        kind = draw(st.sampled_from(["none", "all", "run", "scattered"]))
        if kind == "all":
            mask[:, o] = True
        elif kind == "run":
            begin = draw(st.integers(0, inputs - 1))
            mask[begin : draw(st.integers(begin, inputs)), o] = True
        elif kind == "scattered":
            mask[draw(st.lists(st.integers(0, inputs - 1), max_size=9)), o] = True
    mask[draw(st.integers(0, inputs - 1)), draw(st.integers(0, outputs - 1))] = True
    return mask


@pytest.mark.parametrize("tiled", TILED)
@given(
    mask=masks(), channels=st.integers(1, 4), filters=st.sampled_from([1, 2, 3, 4, 5, 9]),
    batch=st.sampled_from([0, 1, 3, 4, 5, 8, 15, 16, 17, 70]), dtype=st.sampled_from(["float32", "float64"]),
    genotypes=st.sampled_from([None, "int8", "uint8", "bool"]), block=st.sampled_from([16, 512]),
)  # fmt: skip
def test_all_maps_equal_plain_loops(tiled, mask, channels, filters, batch, dtype, genotypes, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "TILED", tiled)
        patch.setattr(directed, "BLOCK", block)
        case = Case(mask, channels, filters, batch, dtype)
        if genotypes is None:
            case.check()
            return
        x = (case.x != 0 if genotypes == "bool" else np.abs(case.x)).astype(genotypes)
        case.answers = oracle(mask, x, case.kernel, case.bias, case.dy)
        case.check(x)


WIDE = [
    # More than one block of inputs, several chunks of weights, and the last block not full.
    (random_mask(1300, 9, 0.3), 1, 1, 33),
    (random_mask(1300, 9, 0.9), 2, 3, 16),
    (random_mask(70, 300, 0.5), 1, 1, 20),
    (np.tri(90, 60, -5, dtype=bool), 3, 17, 19),
    (np.ones((1, 900), bool), 1, 2, 7),
    (np.ones((600, 1), bool), 60, 1, 2),
]


@functools.cache
def wide(number):
    """A case with its answers, which take long; tests do not change it."""
    mask, channels, filters, batch = WIDE[number]
    if numba.config.DISABLE_JIT:
        mask, batch = mask[:60, :30], 2
        channels = min(channels, 5)
    return Case(mask, channels, filters, batch)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("number", range(len(WIDE)))
def test_wide_layers(number, threads, monkeypatch):
    monkeypatch.setattr(directed, "workers", lambda work, threads: threads)
    wide(number).check(threads=threads)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="one thread")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [5, 40])
def test_results_do_not_depend_on_the_number_of_threads(dtype, batch, monkeypatch):
    monkeypatch.setattr(directed, "workers", lambda work, threads: threads)
    mask, rng = random_mask(700, 90, 0.2), np.random.default_rng(1)
    many = int(mask.sum())
    x, kernel = rng.standard_normal((batch, 700, 2)).astype(dtype), rng.standard_normal((many, 2, 3)).astype(dtype)
    bias, dy = rng.standard_normal((90, 3)).astype(dtype), rng.standard_normal((batch, 90, 3)).astype(dtype)
    found = []
    for threads in (1, 2, 3, 7):
        one = Directed(topology.get(mask), 2, 3)
        arrays = [one.apply(x, kernel, bias, threads=threads), *one.gradients(x, kernel, dy, threads=threads)]
        if one.supports_fused:
            stepped, m, v = kernel.copy(), np.zeros_like(kernel), np.ones_like(kernel)
            rule = Rule(AdamScalars(0.1, 0.9, 0.99, 0.1, 0.01, 1e-7, 0.0), (m, v))
            arrays += [one.fused_update(x, stepped, dy, rule, threads=threads), stepped, m, v]
        found.append([array.tobytes() for array in arrays])
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.skipif(not vectors.TILED, reason="fused steps need register tiles")
@pytest.mark.parametrize(
    "name", ["sgd", "momentum", "adam", "rmsprop", "penalized"]
)  # fmt: skip
@pytest.mark.parametrize("number", range(len(WIDE)))
@pytest.mark.parametrize("fused", [0, 1 << 40])
def test_a_fused_update_is_the_formula_of_the_gradient(fused, number, name, monkeypatch):
    monkeypatch.setattr(directed, "FUSED", fused)
    case, rng = wide(number), np.random.default_rng(2)
    made = {
        "sgd": optimizers.SGD(), "momentum": optimizers.SGD(momentum=0.5), "adam": optimizers.Adam(),
        "rmsprop": optimizers.RMSprop(), "penalized": optimizers.SGD(),
    }[name]  # fmt: skip
    kernels = [rng.standard_normal(case.kernel.shape).astype(np.float32)] * 2
    kernels = [kernel.copy() for kernel in kernels]
    states = [made.init(kernel) for kernel in kernels]
    gradient = case.one.weight_gradient(case.x, case.dy)
    for _ in range(2):
        rules = [made.rule(state, 0.125) for state in states]
        if name == "penalized":
            rules = [rule.regularized(0.25, 0.5, True) for rule in rules]
        case.one.fused_update(case.x, kernels[0], case.dy, rules[0], wants_dx=False)
        directed.update.run(rules[1], kernels[1], gradient)
        for state in states:
            made.advance(state)
    np.testing.assert_array_equal(kernels[0], kernels[1])
    for key, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][key])


@pytest.mark.skipif(not vectors.TILED, reason="fused steps need register tiles")
def test_a_segment_may_have_more_weights_than_are_updated_at_a_time():
    inputs, filters = 64 * directed.BLOCK, 8
    assert directed.BLOCK * filters > directed.UPDATED
    one = Directed(topology.get([(i, 0) for i in range(inputs)], (inputs, 1)), 1, filters)
    rng = np.random.default_rng(0)
    x, dy = integers(rng, (3, inputs, 1)), integers(rng, (3, 1, filters))
    kernel = np.ones((inputs, 1, filters), np.float32)
    one.fused_update(x, kernel, dy, Rule(SGDScalars(0.5), ()), wants_dx=False)
    np.testing.assert_array_equal(kernel[:, 0], 1 - 0.5 * (x[:, :, 0].T @ dy[:, 0]))


def test_nothing_is_written_elsewhere():
    """Results go to the given arrays, all of which are written; the arguments stay as they are."""
    case = Case(random_mask(50, 8, 0.3), 2, 3, 5)
    before = [array.copy() for array in (case.x, case.kernel, case.bias, case.dy)]
    y, dx, dkernel = (np.full(answer.shape, np.nan, np.float32) for answer in case.answers)
    assert case.one.apply(case.x, case.kernel, case.bias, out=y) is y
    assert case.one.apply_transpose(case.kernel, case.dy, out=dx) is dx
    assert case.one.weight_gradient(case.x, case.dy, out=dkernel) is dkernel
    for found, expected in zip((y, dx, dkernel), case.answers, strict=True):
        np.testing.assert_array_equal(found, expected)
    for array, value in zip((case.x, case.kernel, case.bias, case.dy), before, strict=True):
        np.testing.assert_array_equal(array, value)
    empty = case.x[:0], case.dy[:0]
    assert not case.one.weight_gradient(*empty, out=dkernel).any()


def test_values_that_are_not_finite_reach_what_is_connected_alone():
    mask = np.array([[1, 0], [1, 1], [0, 1]], bool)
    case = Case(mask, batch=3)
    case.x[1, 0] = np.nan
    y = case.one.apply(case.x, case.kernel, case.bias)
    assert np.isnan(y[..., 0]).tolist() == [[False, False], [True, False], [False, False]]
    gradient = case.one.weight_gradient(case.x, case.dy)
    assert np.isnan(gradient[:, 0, 0]).tolist() == [True, False, False, False]


def test_outputs_are_divided_where_they_would_fill_the_memory(monkeypatch):
    monkeypatch.setattr(directed, "OUTPUTS_BYTES", 1 << 10)
    for mask in (random_mask(60, 50, 0.2), np.eye(60, 50, dtype=bool)):
        Case(mask, 1, 2, 20).check()
