"""Stripes of one layer, one after the other in one process: they equal the whole to the last bit."""

import itertools
from itertools import pairwise

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lcnumba import optimizers
from lcnumba.connectivity.geometry import Geometry
from lcnumba.implementations import loop
from lcnumba.implementations.loop import Loops
from lcnumba.kernels import vectors
from lcnumba.mpi.exchange import Lines
from lcnumba.mpi.stripes import LayerStripes, edges_of, largest_count
from lcnumba.testing import PROBLEMS, integers

pytestmark = pytest.mark.kernels

RULES = {
    "sgd": optimizers.SGD(), "momentum": optimizers.SGD(momentum=0.9, nesterov=True), "adam": optimizers.Adam(),
    "adamw": optimizers.AdamW(), "rmsprop": optimizers.RMSprop(),
}  # fmt: skip


class Mail:
    """Messages between stripes that are computed one after the other, in the order of ranks."""

    def __init__(self):
        self.sent = {}

    def of(self, rank):
        def transfer(sends, gets):
            for other, array in sends.items():
                self.sent.setdefault((rank, other), []).append(array.copy())
            for other, array in gets.items():
                array[...] = self.sent[other, rank].pop(0)

        return transfer


class Layer:
    """A layer as a whole, with numbers, and as stripes."""

    def __init__(self, geometry, ranks, batch, dtype, rng, mask=None):
        g = self.geometry = geometry
        self.stripes, self.mail, self.mask = LayerStripes(g, ranks, owns_input=True), Mail(), mask
        self.lines = g.input_size[0]
        self.x = rng.standard_normal((batch, self.lines, g.inputs // self.lines)).astype(dtype)
        self.kernel = rng.standard_normal(g.kernel_shape).astype(dtype)
        exists = g.exists[:, :, None] if mask is None else np.atleast_3d(mask) & g.exists[:, :, None]
        self.kernel[~np.broadcast_to(exists, g.kernel_shape)] = 0
        self.bias = rng.standard_normal((g.positions, g.filters)).astype(dtype)
        self.dy = rng.standard_normal((batch, g.positions, g.filters)).astype(dtype)
        self.whole = Loops(g, mask)
        self.ranks = range(ranks)
        each = g.positions // g.output_size[0]
        self.rows = [slice(first * each, last * each) for first, last in pairwise(self.stripes.output_edges)]

    def part(self, rank):
        """The implementation, x and dy of a rank."""
        mask = None if self.mask is None else self.mask[self.rows[rank]]
        loops = Loops(self.stripes.stripe(rank), mask, Lines(self.stripes, rank, self.mail.of(rank)))
        x = np.ascontiguousarray(self.x[:, self.stripes.reads[rank]])
        return loops, x.reshape(len(x), -1 if x.size else 0), np.ascontiguousarray(self.dy[:, self.rows[rank]])

    def joined(self, parts):
        """Dx of all lines, of what each rank has of those that it reads."""
        dx = np.zeros_like(self.x)
        for rank, part in enumerate(parts):
            of_lines = part.reshape(len(dx), len(self.stripes.reads[rank]), dx.shape[2])
            for lines in (*self.stripes.home(rank)[0].values(), self.stripes.finished(rank)):
                dx[:, lines] = of_lines[:, np.searchsorted(self.stripes.reads[rank], lines)]
        return dx.reshape(len(dx), self.geometry.inputs)


def possible(geometry, ranks):
    return min(geometry.output_size[0], geometry.input_size[0]) >= ranks


def numbers_of_ranks(problem):
    return [ranks for ranks in (2, 3, 5) if possible(problem.geometry, ranks)]


DIVISIBLE = [problem for problem in PROBLEMS if problem.weight_sharing is None and numbers_of_ranks(problem)]


@pytest.mark.parametrize("way", ["tuned", "by blocks", "by input columns", "plain"])
@pytest.mark.parametrize("problem", DIVISIBLE, ids=str)
def test_stripes_equal_the_whole(problem, way, rng, monkeypatch):
    """Forward, dx and the gradient of the weights, whatever numbers."""
    if way != "tuned":
        monkeypatch.setattr(loop, "CHANNELS", 1 if way == "by input columns" else 1 << 30)
        monkeypatch.setattr(loop, "BLOCK_WORK", 0)
        monkeypatch.setattr(vectors, "TILED", way != "plain")
    batches = (1, 2, 9, 40) if way == "tuned" else ()
    kinds = [(problem.batch, np.float32), (9, np.float64), *((batch, np.float32) for batch in batches)]
    for ranks, (batch, dtype) in itertools.product(numbers_of_ranks(problem), kinds):
        layer = Layer(problem.geometry, ranks, batch, dtype, rng)
        flat = layer.x.reshape(batch, layer.geometry.inputs)
        y = layer.whole.apply(flat, layer.kernel, layer.bias, relu=True)
        dx, dkernel = layer.whole.gradients(flat, layer.kernel, layer.dy, y=y)
        # Without dx the blocks of weights may be other ones.
        alone = layer.whole.weight_gradient(flat, layer.dy, y=y)
        parts = []
        for rank, rows in zip(layer.ranks, layer.rows, strict=True):
            loops, x, dy = layer.part(rank)
            kernel = np.ascontiguousarray(layer.kernel[rows])
            own = loops.apply(x, kernel, layer.bias[rows], relu=True)
            np.testing.assert_array_equal(own, y[:, rows])
            own_dx, own_dkernel = loops.gradients(x, kernel, dy, y=own)
            np.testing.assert_array_equal(own_dkernel, dkernel[rows])
            np.testing.assert_array_equal(loops.weight_gradient(x, dy, y=own), alone[rows])
            parts.append(own_dx)
        np.testing.assert_array_equal(layer.joined(parts), dx)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("problem", DIVISIBLE[::2], ids=str)
def test_fused_updates_of_stripes_equal_those_of_the_whole(problem, name, rng):
    """With and without a mask of connections."""
    g, batch = problem.geometry, max(1, problem.batch)

    def step(loops, x, kernel, dy):
        optimizer = RULES[name]
        state = optimizer.init(kernel)
        found = []
        for _ in range(2):
            rule = optimizer.rule(state, 0.01)
            found.append(loops.fused_update(x, kernel, dy, rule))
            optimizer.advance(state)
        return found, kernel, state

    for ranks, masked in itertools.product(numbers_of_ranks(problem)[:2], (False, True)):
        mask = rng.random(g.kernel_shape[:2]) < 0.7 if masked else None
        layer = Layer(g, ranks, batch, np.float32, rng, mask)
        dx, kernel, state = step(layer.whole, layer.x.reshape(batch, g.inputs), layer.kernel.copy(), layer.dy)
        parts = []
        for rank, rows in zip(layer.ranks, layer.rows, strict=True):
            loops, x, dy = layer.part(rank)
            own, own_kernel, own_state = step(loops, x, np.ascontiguousarray(layer.kernel[rows]), dy)
            np.testing.assert_array_equal(own_kernel, kernel[rows])
            for key, values in state.items():
                np.testing.assert_array_equal(own_state[key], values[rows] if values.ndim > 1 else values)
            parts.append(own)
        for number, whole in enumerate(dx):
            np.testing.assert_array_equal(layer.joined([part[number] for part in parts]), whole)


@st.composite
def layers(draw):
    """A geometry and a number of ranks."""
    rank = draw(st.integers(1, 3))
    size = tuple(draw(st.integers(1, 30 if rank == 1 else 9)) for _ in range(rank))
    sides = st.integers(1, 4)
    kernel, stride, dilation = (tuple(draw(sides) for _ in range(rank)) for _ in range(3))
    mode = tuple(draw(st.sampled_from(["zeros", "circular"])) for _ in range(rank))
    padding, groups = draw(st.sampled_from(["valid", "same", "tf_same"])), draw(st.sampled_from([1, 1, 1, 2, 3]))
    try:
        channels, filters = groups * draw(st.integers(1, 9 // groups)), groups * draw(st.integers(1, 5))
        geometry = Geometry(size, channels, filters, kernel, stride, dilation, padding, mode, groups)
    except ValueError:
        assume(False)
    most = min(geometry.output_size[0], geometry.input_size[0])
    return geometry, draw(st.integers(1, min(5, most)))


@pytest.mark.hypothesis
@given(layers(), st.integers(1, 5), npst.floating_dtypes(sizes=(32, 64), endianness="="), st.integers(0, 1000))
def test_stripes_of_any_layer_equal_the_whole(case, batch, dtype, seed):
    geometry, ranks = case
    layer = Layer(geometry, ranks, batch, dtype, np.random.default_rng(seed))
    x = layer.x.reshape(batch, geometry.inputs)
    y, (dx, dkernel) = layer.whole.apply(x, layer.kernel), layer.whole.gradients(x, layer.kernel, layer.dy)
    parts = []
    for rank, rows in zip(layer.ranks, layer.rows, strict=True):
        loops, x, dy = layer.part(rank)
        kernel = np.ascontiguousarray(layer.kernel[rows])
        np.testing.assert_array_equal(loops.apply(x, kernel), y[:, rows])
        own = loops.gradients(x, kernel, dy)
        np.testing.assert_array_equal(own[1], dkernel[rows])
        parts.append(own[0])
    np.testing.assert_array_equal(layer.joined(parts), dx)


@pytest.mark.hypothesis
@given(layers())
def test_every_line_is_sent_to_who_reads_it_and_its_dx_returns_to_its_owner(case):
    geometry, ranks = case
    stripes = LayerStripes(geometry, ranks, owns_input=True)
    taps = geometry.taps(0)
    for rank in range(ranks):
        begin, end = stripes.input_edges[rank : rank + 2]
        first, last = stripes.output_edges[rank : rank + 2]
        used = np.unique(taps[first:last][taps[first:last] >= 0])
        assert np.isin(used, stripes.reads[rank]).all()
        sends, gets = stripes.halo(rank)
        have = np.concatenate([np.arange(begin, end), *gets.values()])
        assert np.isin(stripes.reads[rank], have).all()
        for other, lines in sends.items():
            np.testing.assert_array_equal(stripes.halo(other)[1][rank], lines)
        for other, lines in stripes.home(rank)[0].items():
            np.testing.assert_array_equal(stripes.home(other)[1][rank], lines)
        for stage in range(stripes.stage_count):
            for other, lines in stripes.carry(rank, stage)[0].items():
                assert other > rank
                np.testing.assert_array_equal(stripes.carry(other, stage)[1][rank], lines)
    returned = [*(stripes.finished(rank) for rank in range(ranks))]
    returned += [lines for rank in range(ranks) for lines in stripes.home(rank)[0].values()]
    np.testing.assert_array_equal(np.sort(np.concatenate(returned)), np.unique(taps[taps >= 0]))


def test_carry_and_halo_are_adjoint(rng):
    """<dx, x> over own lines equals <dread, read> over all ranks, exactly on integers."""
    geometry = Geometry((12, 3), 2, 1, 5, padding="same", padding_mode=("circular", "zeros"))
    layer = Layer(geometry, 3, 4, np.float64, rng)
    x = integers(rng, (4, 12, 6), np.float64)
    dread = [integers(rng, (4, len(reads), 6), np.float64) for reads in layer.stripes.reads]
    read = sum(float(np.sum(part * x[:, reads])) for part, reads in zip(dread, layer.stripes.reads, strict=True))
    for rank in layer.ranks:
        lines = Lines(layer.stripes, rank, layer.mail.of(rank))
        sums = np.zeros_like(dread[rank])
        for stage, parts in enumerate(lines.stages):
            for begin, end in parts:
                sums[:, begin:end] += dread[rank][:, begin:end]
            lines.pass_on(stage, sums)
        dread[rank] = sums
    assert float(np.sum(layer.joined(dread).reshape(x.shape) * x)) == read


@pytest.mark.parametrize(
    ("lines", "kernel", "padding", "most"),
    [(10, 3, "same", 10), (10, 5, "same", 5), (10, 1, "valid", 10), (10, 7, "same", 3), (4, 3, "valid", 2)],
)
def test_the_largest_number_of_ranks(lines, kernel, padding, most):
    """Each rank reads lines of its own and of the next ones alone."""
    geometry = Geometry((lines, 4), 1, 1, (kernel, 1), padding=padding)
    assert largest_count([geometry, geometry], 64) == most
    assert LayerStripes(geometry, most, owns_input=True).is_thick
    assert not LayerStripes(geometry, most + 1, owns_input=True).is_thick


def test_stripes_are_of_almost_equal_length():
    for lines, ranks in ((721, 64), (5, 5), (100, 7)):
        lengths = np.diff(edges_of(lines, ranks))
        assert lengths.max() - lengths.min() <= 1
        assert lengths.min() >= 1


@pytest.mark.parametrize(("first", "last"), [(0, 0), (3, 2), (-1, 2), (0, 9)])
def test_a_stripe_without_lines_is_refused(first, last):
    with pytest.raises(ValueError, match="at least one of the layer's 8 lines"):
        Geometry((8, 2), 1, 1, 1).stripe(first, last)
