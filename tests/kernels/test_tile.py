"""The register tile against loops, on integers: all results must be bitwise equal.

All vector lengths are tested on every machine: LLVM splits vectors that the CPU does not have.
"""

import functools
from dataclasses import replace

import numba
import numpy as np
import pytest
from oracle import check_against_reference

from lcnumba.connectivity.geometry import Geometry
from lcnumba.implementations.loop import Loops
from lcnumba.kernels import update, vectors
from lcnumba.kernels.movement import pack, pack_panels, transpose
from lcnumba.kernels.records import NO_CLAMP, ONE, bits
from lcnumba.kernels.rules import AdamScalars, MomentumScalars, Rule, SGDScalars
from lcnumba.kernels.tile import PANEL, dots, multiply
from lcnumba.testing import PROBLEMS, Problem

SIZES = {4: np.float32, 8: np.float64}
WIDTHS = [(size, width // size) for size in SIZES for width in (16, 32, 64)]
widths = pytest.mark.parametrize(("size", "lanes"), WIDTHS, ids=lambda n: str(n))
GUARD = 77.0  # fills the memory around the result, which must not be written


@functools.cache
def product(SIZE, VL):
    number, panel = SIZES[SIZE], PANEL * VL * SIZE

    @numba.njit
    def run(a, b, segments, c, init, rows, cols):
        multiply(
            SIZE, VL, a.ctypes.data, a.strides[0], a.strides[1], b.ctypes.data, b.strides[0], panel,
            segments.ctypes.data, len(segments), c.ctypes.data, c.strides[0], init.ctypes.data, init.strides[0],
            rows, cols, 0, 0, 0, 0, ONE, NO_CLAMP, 1, 0, 0, 0, 0, 0,
        )  # fmt: skip

    @numba.njit
    def wrong(a, b, init, c, rows_from, rows_to, cols_from, cols_to, length):
        """The number of results, over all sizes in the ranges, that differ from plain loops."""
        segments = np.zeros((2, 4), np.int64)
        first = (length + 1) // 2
        segments[0, 2] = first
        segments[1, 0], segments[1, 1], segments[1, 2] = first * a.strides[1], first * b.strides[0], length - first
        count = 0
        for rows in range(rows_from, rows_to):
            for cols in range(cols_from, cols_to):
                c[:] = GUARD
                used = segments if length > first else segments[:1]
                run(a, b, used, c, init, rows, cols)
                for r in range(c.shape[0]):
                    for v in range(c.shape[1]):
                        expected = number(GUARD)
                        if r < rows and v < cols:
                            expected = init[r, v]
                            for k in range(length):
                                expected += a[r, k] * b[k, v]
                        count += c[r, v] != expected
        return count

    return run, wrong


def operands(rng, size, rows=41, cols=71, length=40):
    return tuple(rng.integers(-4, 5, s).astype(SIZES[size]) for s in ((rows, length), (length, cols), (rows, cols)))


@widths
def test_multiply_with_all_numbers_of_rows_and_columns(size, lanes, rng):
    a, b, init = operands(rng, size)
    c = np.empty((42, 72), SIZES[size])
    _, wrong = product(size, lanes)
    for length in (1, 5):
        assert wrong(a, b, init, c, 0, 41, 1, 71, length) == 0


@widths
def test_multiply_with_all_lengths_of_a_sum(size, lanes, rng):
    a, b, init = operands(rng, size)
    c = np.empty((34, 56), SIZES[size])
    _, wrong = product(size, lanes)
    for length in range(1, 41):
        assert wrong(a, b, init, c, 31, 34, 1, 6, length) == 0
        assert wrong(a, b, init, c, 1, 4, 33, 36, length) == 0


@widths
def test_multiply_without_segments_returns_init(size, lanes, rng):
    a, b, init = operands(rng, size)
    c = np.full_like(init, GUARD)
    product(size, lanes)[0](a, b, np.empty((0, 4), np.int64), c, init, 5, 19)
    np.testing.assert_array_equal(c[:5, :19], init[:5, :19])
    assert (c[5:] == GUARD).all()
    assert (c[:, 19:] == GUARD).all()


@functools.cache
def scaled_and_clamped(SIZE, VL):
    panel = PANEL * VL * SIZE

    @numba.njit
    def run(a, b, segments, c, init, factor, lower_clamp):
        multiply(
            SIZE, VL, a.ctypes.data, a.strides[0], a.strides[1], b.ctypes.data, b.strides[0], panel,
            segments.ctypes.data, 1, c.ctypes.data, c.strides[0], init.ctypes.data, init.strides[0],
            c.shape[0], c.shape[1], 0, 0, 0, 0, factor, lower_clamp, 1, 0, 0, 0, 0, 0,
        )  # fmt: skip

    return run


@widths
def test_factor_and_lower_clamp(size, lanes, rng):
    a, b, init = operands(rng, size)
    segments = np.array([[0, 0, 40, 0]])
    c = np.empty_like(init)
    scaled_and_clamped(size, lanes)(a, b, segments, c, init, bits(-0.5), bits(0.0))
    np.testing.assert_array_equal(c, np.maximum(init - 0.5 * (a @ b), 0))
    init[3, 4], init[5, 6], init[7, 8] = np.nan, np.inf, -np.inf
    scaled_and_clamped(size, lanes)(a, b, segments, c, init, ONE, bits(0.0))
    assert np.isnan(c[3, 4])
    assert (c[5, 6], c[7, 8]) == (np.inf, 0)
    assert np.isnan(c).sum() == 1
    scaled_and_clamped(size, lanes)(a, b, segments, c, init, ONE, NO_CLAMP)
    assert c[7, 8] == -np.inf


@functools.cache
def repeated(SIZE, VL):
    panel = PANEL * VL * SIZE

    @numba.njit
    def run(a, b, c, init, repeats):
        segment = np.array([[0, 0, a.shape[2], 0]])
        multiply(
            SIZE, VL, a.ctypes.data, a.strides[1], a.strides[2], b.ctypes.data, b.strides[1], panel,
            segment.ctypes.data, 1, c.ctypes.data, c.strides[1], init.ctypes.data, init.strides[1], a.shape[1],
            b.shape[2], 0, 0, 0, 0, ONE, NO_CLAMP, repeats, a.strides[0], b.strides[0], c.strides[0], init.strides[0],
            0,
        )  # fmt: skip

    return run


@widths
def test_repeated_products_move_by_their_steps(size, lanes, rng):
    a, b, init = (
        rng.integers(-4, 5, shape).astype(SIZES[size])
        for shape in ((4, 13, 6), (4, 6, 2 * lanes + 3), (4, 13, 2 * lanes + 3))
    )
    for repeats in range(5):
        c = np.full_like(init, GUARD)
        repeated(size, lanes)(a, b, c, init, repeats)
        np.testing.assert_array_equal(c[:repeats], (init + a @ b)[:repeats])
        assert (c[repeats:] == GUARD).all()


@functools.cache
def transposing(SIZE):
    @numba.njit
    def run(source, target, rows, cols):
        transpose(SIZE, source.ctypes.data, source.strides[0], target.ctypes.data, target.strides[0], rows, cols)

    return run


@pytest.mark.parametrize("size", SIZES)
def test_transpose_of_all_sizes(size, rng):
    source = rng.standard_normal((21, 23)).astype(SIZES[size])
    for rows in range(20):
        for cols in range(20):
            target = np.full((22, 25), GUARD, SIZES[size])
            transposing(size)(source, target, rows, cols)
            np.testing.assert_array_equal(target[:cols, :rows], source[:rows, :cols].T)
            target[:cols, :rows] = GUARD
            assert (target == GUARD).all()


@functools.cache
def packing(SIZE):
    @numba.njit
    def run(source, mask, target, rows, cols):
        at = mask.ctypes.data if mask.size else 0
        pack(SIZE, source.ctypes.data, at, source.strides[0], target.ctypes.data, target.strides[0], rows, cols, 64)

    return run


@pytest.mark.parametrize("size", SIZES)
def test_pack_with_and_without_a_relu_mask(size, rng):
    """All numbers of columns up to two vectors; NaN masks, and nothing beyond the columns is written."""
    dtype = SIZES[size]
    for cols in range(1, 34):
        source, mask = (rng.integers(-4, 5, (3, cols + 5)).astype(dtype) for _ in range(2))
        mask[0, 0] = np.nan
        for given in (mask, np.empty((0, 0), dtype)):
            target = np.full((3, cols + 2), 9, dtype)
            packing(size)(source, given, target, 3, cols)
            expected = np.where(mask > 0, source, 0) if given.size else source
            np.testing.assert_array_equal(target[:, :cols], expected[:, :cols])
            assert (target[:, cols:] == 9).all()


@functools.cache
def summing(SIZE, VL):
    @numba.njit
    def run(a, vector, c, rows, cols, x, factor):
        at = x.ctypes.data if x.size else 0
        begin, row_bytes = a.ctypes.data, a.strides[0]
        dots(SIZE, VL, begin, row_bytes, vector.ctypes.data, c.ctypes.data, rows, cols, begin, at, factor)

    return run


@widths
def test_dots_of_all_sizes(size, lanes, rng):
    dtype = SIZES[size]
    a, vector, start, x = (rng.integers(-4, 5, s).astype(dtype) for s in ((41, 71), 71, 45, 45))
    factor = -3
    for rows in range(41):
        for cols in (*range(20), 31, 32, 33, 47, 64, 70):
            for given in (np.empty(0, dtype), x):
                c, changed, expected = start.copy(), a.copy(), a.copy()
                summing(size, lanes)(changed, vector, c, rows, cols, given, bits(factor))
                np.testing.assert_array_equal(c[:rows], start[:rows] + a[:rows, :cols] @ vector[:cols])
                np.testing.assert_array_equal(c[rows:], start[rows:])
                if given.size:
                    expected[:rows, :cols] += factor * np.outer(x[:rows], vector[:cols])
                np.testing.assert_array_equal(changed, expected)


@pytest.mark.parametrize("dtype", SIZES.values(), ids=lambda d: d.__name__)
@pytest.mark.parametrize("width", [16, 32, 64])
def test_layers_with_all_vector_lengths(width, dtype, rng, monkeypatch):
    monkeypatch.setattr(vectors, "vector_bytes", lambda: width)
    for filters in (16, 19, 70):
        problem = Problem("width", "", 33, (5, 6), 3, filters, (2, 3), (1, 2), "same")
        check_against_reference(problem, 1, dtype, rng)


@pytest.mark.parametrize("dtype", SIZES.values(), ids=lambda d: d.__name__)
def test_layers_with_all_batch_sizes_and_numbers_of_filters(dtype, rng):
    for batch in range(41):
        check_against_reference(Problem("batch", "", batch, (3, 4), 2, 19, (2, 2), (1, 1)), 1, dtype, rng)
    for filters in range(1, 71):
        check_against_reference(Problem("filters", "", 9, (3, 4), 1, filters, (2, 3), (1, 1)), 1, dtype, rng)
        check_against_reference(Problem("filters", "", 2, (3, 4), 1, filters, (2, 3), (1, 1)), 1, dtype, rng)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_plain_loops_agree_with_the_reference(problem, rng, monkeypatch):
    monkeypatch.setattr(vectors, "TILED", False)
    check_against_reference(problem, 1, np.float32, rng)


@pytest.mark.parametrize("dtype", SIZES.values(), ids=lambda d: d.__name__)
def test_sums_in_k_blocks_if_the_weights_exceed_a_cache(dtype, rng, monkeypatch):
    from lcnumba.implementations import loop

    problem = Problem("pieces", "", 7, (6, 6), 3, 5, (3, 3), (1, 1), "same", (2, 1))
    for entries in (1, 2, 4, 5, 9, 26):
        monkeypatch.setattr(loop, "K_BLOCK_BYTES", entries * 5 * np.dtype(dtype).itemsize)
        check_against_reference(problem, 1, dtype, rng)


@functools.cache
def product_in_panels(SIZE, VL):
    row = PANEL * VL * SIZE

    @numba.njit
    def run(a, b, packed, segments, c, init, rows, cols, length):
        panel = length * row
        pack_panels(SIZE, VL, b.ctypes.data, b.strides[0], length, cols, packed.ctypes.data, panel)
        multiply(
            SIZE, VL, a.ctypes.data, a.strides[0], a.strides[1], packed.ctypes.data, row, panel,
            segments.ctypes.data, 1, c.ctypes.data, c.strides[0], init.ctypes.data, init.strides[0], rows, cols,
            0, 0, 0, 0, ONE, NO_CLAMP, 1, 0, 0, 0, 0, 0,
        )  # fmt: skip

    return run


@widths
def test_products_with_a_matrix_in_panels(size, lanes, rng):
    """The same results as from the matrix itself; nothing beyond its columns is written."""
    columns = 3 * PANEL * lanes + 2
    a, b, init = operands(rng, size, rows=14, cols=columns)
    rows, length = len(a), a.shape[1]
    for cols in (*range(1, 2 * PANEL * lanes + 1, 3), *range(columns - 4, columns)):
        packed = np.full((-(-cols // (PANEL * lanes)), length, PANEL * lanes), np.nan, SIZES[size])
        c = np.full_like(init, GUARD)
        segments = np.array([[0, 0, length, 0]])
        product_in_panels(size, lanes)(a, b[:, :cols], packed, segments, c, init, rows, cols, length)
        np.testing.assert_array_equal(c[:, :cols], init[:, :cols] + a @ b[:, :cols])
        assert (c[:, cols:] == GUARD).all()
        filled = np.isfinite(packed).transpose(1, 0, 2).reshape(length, -1)
        assert filled[:, :cols].all()
        assert not filled[:, cols:].any()


@pytest.mark.parametrize("entries", [1, 5, 100])
@pytest.mark.parametrize("dtype", SIZES.values(), ids=lambda d: d.__name__)
def test_forward_with_weights_in_panels(dtype, entries, rng, monkeypatch):
    """Whole windows at a time, or k-blocks that cut segments."""
    from lcnumba.implementations import loop

    filters = 2 * PANEL * vectors.vector_bytes() // dtype().itemsize + 5
    monkeypatch.setattr(loop, "PACKED_BYTES", 0)
    monkeypatch.setattr(loop, "K_BLOCK_BYTES", entries * filters * dtype().itemsize)
    problem = Problem("wide", "", 17, (3, 4), 2, filters, (2, 3), (1, 1), "same")
    assert "pack_panels" in Loops(problem.geometry)._forward_plan(17, dtype().itemsize, 1).values
    check_against_reference(problem, 1, dtype, rng)


@pytest.mark.parametrize("filters", [64, 65, 127, 128, 129, 256, 500, 693, 1025])
def test_filters_are_split_into_tasks_if_there_are_few_positions(filters, rng):
    """Also if full vectors for all tasks exceed the number of filters."""
    problem = Problem("one_position", "", 2, (2, 3), 2, filters, (2, 3), (1, 1))
    check_against_reference(problem, 1, np.float32, rng)


@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("room", [1 << 23, 1])
def test_a_single_position_without_a_copy_of_dy(rectify, room, rng, monkeypatch):
    """In one batch tile and in several; with a ReLU mask dy is copied."""
    from lcnumba.implementations import loop

    monkeypatch.setattr(loop, "TRANSPOSED_DY_BYTES", room)
    problem = Problem("one_position", "", 40, (2, 3), 2, 5, (2, 3), (1, 1))
    g = problem.geometry
    x, kernel, _, dy = problem.data(rng)
    flat, rows = x.reshape(40, g.inputs), dy.reshape(40, 1, 5)
    y = rng.integers(-1, 2, rows.shape).astype(np.float32) if rectify else None
    gated = rows if y is None else np.where(y > 0, rows, 0)
    dx, dkernel = Loops(g).gradients(flat, kernel, rows, y=y)
    np.testing.assert_array_equal(dx, gated[:, 0] @ kernel[0].T)
    np.testing.assert_array_equal(dkernel[0], flat.T @ gated[:, 0])


def test_relu_is_applied_after_the_last_k_block(rng, monkeypatch):
    from lcnumba.implementations import loop

    problem = Problem("pieces", "", 3, (5, 5), 2, 4, (3, 3), (1, 1))
    g = problem.geometry
    x, kernel, bias, _ = problem.data(rng)
    flat, row = x.reshape(3, g.inputs), bias.reshape(g.positions, 4)
    expected = np.maximum(Loops(g).apply(flat, kernel, row), 0)
    assert (expected > 0).any()
    assert (expected == 0).any()
    for entries in (18, 5, 1):
        monkeypatch.setattr(loop, "K_BLOCK_BYTES", entries * 4 * 4)
        np.testing.assert_array_equal(Loops(g).apply(flat, kernel, row, relu=True), expected)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("held", [1 << 21, 3000])
def test_dx_by_blocks_and_by_input_columns_agree(problem, held, rng, monkeypatch):
    """By input columns, as for many channels, also if not all rows of dy can be cached."""
    from lcnumba.implementations import loop

    monkeypatch.setattr(loop, "CHANNELS", 1)
    monkeypatch.setattr(loop, "BLOCK_WORK", 0)
    monkeypatch.setattr(loop, "CACHED_DY_BYTES", held)
    check_against_reference(problem, 1, np.float32, rng)


RUNS = (
    "one_filter",
    "few_filters",
    "ragged_filters",
    "long_line",
    "stride_over_kernel",
    "rank_1_same_dilated",
    "circular",
)


@pytest.mark.parametrize("run_bytes", [1, 300, 1 << 20])
@pytest.mark.parametrize("problem", [each for each in PROBLEMS if each.name.startswith(RUNS)], ids=str)
def test_neighbouring_positions_in_one_call_or_in_several(problem, run_bytes, rng, monkeypatch):
    """With and without cached lines of dy, and with dy in place, for every number of states."""
    from lcnumba.implementations import loop

    monkeypatch.setattr(loop, "RUN_BYTES", run_bytes)
    monkeypatch.setattr(loop, "OUTPUTS_BYTES", run_bytes)
    g = problem.geometry
    x, kernel, _, dy = problem.data(rng)
    flat, rows = x.reshape(len(x), g.inputs), dy.reshape(len(x), g.positions, g.filters)
    dkernel = Loops(g).weight_gradient(flat, rows)
    for cached, in_place in ((1 << 22, 0), (0, 0), (0, 40)):
        monkeypatch.setattr(loop, "CACHED_DY_BYTES", cached)
        monkeypatch.setattr(loop, "IN_PLACE_BATCH", in_place)
        check_against_reference(problem, 1, np.float32, rng)
        for scalars, states in ((SGDScalars(0.5), 0), (MomentumScalars(0.5, 0.5), 1), (AdamScalars(*[0.5] * 7), 2)):
            rules = [Rule(scalars, tuple(np.zeros_like(kernel) for _ in range(states))) for _ in range(2)]
            whole, fused = kernel.copy(), kernel.copy()
            update.run(rules[0], whole, dkernel)
            Loops(g).fused_update(flat, fused, rows, rules[1])
            np.testing.assert_array_equal(fused, np.where(g.exists[:, :, None], whole, 0))


@pytest.mark.parametrize("dtype", SIZES.values(), ids=lambda d: d.__name__)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forward_by_batch_agrees(problem, dtype, rng, monkeypatch):
    """As for few filters, in one batch tile or in batch tiles of 16 samples."""

    def samples(self, N, size):
        VN = vectors.for_batch(N, size)
        return min(-(-N // VN) * VN, 16) if VN else 0

    monkeypatch.setattr(Loops, "_batch_tile", samples)
    check_against_reference(problem, 1, dtype, rng)
    for batch in (5, 16, 17, 40):
        check_against_reference(replace(problem, batch=batch), 1, dtype, rng)


def test_few_filters_and_many_samples_use_vectors_along_the_batch(monkeypatch):
    monkeypatch.setattr(vectors, "vector_bytes", lambda: 64)

    def samples(filters, batch, kernel_size=3, input_size=(28, 28), channels=1):
        return Loops(Geometry(input_size, channels, filters, kernel_size))._batch_tile(batch, 4)

    assert samples(1, 64) == 64
    assert samples(1, 60) == 64
    assert samples(1, 4) == 0
    assert samples(16, 64) == 0
    assert samples(8, 100, 5, (29, 29), 32) == 48, "a batch that exceeds a cache is split into batch tiles"
    assert samples(1, 64, 3, (4, 10**6)) == 0, "or vectors along the filters are used"


@pytest.mark.parametrize("by_columns", [True, False])
@pytest.mark.parametrize("batch", [127, 128, 129, 200])
@pytest.mark.parametrize("room", ["held and copied", "held", "copied"])
def test_large_batches_are_split_into_batch_tiles(batch, by_columns, room, rng, monkeypatch):
    """dx in batch tiles, gradients in blocks of 64 samples, and no weight is updated before all of dx is computed."""
    from lcnumba.implementations import loop

    monkeypatch.setattr(loop, "CHANNELS", 1)
    monkeypatch.setattr(loop, "BLOCK_WORK", 0 if by_columns else 1 << 40)
    if "held" not in room:
        monkeypatch.setattr(loop, "CACHED_DY_BYTES", 1)
    if "copied" not in room:
        monkeypatch.setattr(loop, "BAND_BYTES", 1)
    problem = Problem("parts", "", batch, (4, 5), 3, 4, (2, 3), (1, 1), "same")
    g = problem.geometry
    x, kernel, _, dy = problem.data(rng)
    flat, rows = x.reshape(batch, g.inputs), dy.reshape(batch, g.positions, 4)
    results = []
    for turned_bytes in (1 << 18, 1):
        monkeypatch.setattr(loop, "TRANSPOSED_DX_BYTES", turned_bytes)
        check_against_reference(problem, 1, np.float32, rng)
        for scalars, states in ((SGDScalars(0.5), 0), (MomentumScalars(0.5, 0.5), 1), (AdamScalars(*[0.5] * 7), 2)):
            for wants_dx in (True, False):
                weights = kernel.copy()
                rule = Rule(scalars, tuple(np.zeros_like(kernel) for _ in range(states)))
                fused_dx = Loops(g).fused_update(flat, weights, rows, rule, wants_dx=wants_dx)
                results.append((states, fused_dx, weights))
    dx, dkernel = Loops(g).gradients(flat, kernel, rows)
    for states, fused_dx, weights in results:
        if fused_dx is not None:
            np.testing.assert_array_equal(fused_dx, dx)
        if states < 2:
            np.testing.assert_array_equal(weights, kernel - 0.5 * dkernel)


def test_vector_lengths(monkeypatch):
    monkeypatch.setattr(vectors, "vector_bytes", lambda: 64)
    assert [vectors.for_filters(f, 4) for f in (1, 4, 5, 8, 9, 16, 100)] == [4, 4, 8, 8, 16, 16, 16]
    assert [vectors.for_batch(n, 8) for n in (0, 1, 2, 3, 4, 5, 100)] == [0, 0, 0, 4, 4, 8, 8]
    monkeypatch.setattr(vectors, "vector_bytes", lambda: 16)
    assert [vectors.for_filters(f, 8) for f in (1, 2, 100)] == [2, 2, 2]
