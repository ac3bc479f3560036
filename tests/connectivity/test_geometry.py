import itertools
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import lcnumba as lc
from lcnumba.connectivity.geometry import BAND_COLUMNS, TASKS, Geometry, paddings
from lcnumba.runtime import memory
from lcnumba.testing import PROBLEMS, reference


@st.composite
def geometries(draw, max_size=9, max_rank=3):
    rank = draw(st.integers(1, max_rank))

    def numbers(top):
        return tuple(draw(st.lists(st.integers(1, top), min_size=rank, max_size=rank)))

    size = max_size if rank < 3 else 5
    input_size, kernel_size, strides, dilation = numbers(size), numbers(5), numbers(4), numbers(3)
    if rank == 1:
        input_size = (draw(st.integers(1, 60)),)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    padding = draw(st.sampled_from(("valid", "same", "tf_same", "pairs")))
    if padding == "pairs":
        padding = tuple((draw(st.integers(0, e - 1)), draw(st.integers(0, e - 1))) for e in spans)
    margins = [(0, 0)] * rank if isinstance(padding, str) else padding
    assume("same" in padding or all(e <= b + n + a for e, n, (b, a) in zip(spans, input_size, margins, strict=True)))
    modes = tuple(draw(st.lists(st.sampled_from(("zeros", "circular")), min_size=rank, max_size=rank)))
    channels, filters = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return Geometry(input_size, channels, filters, kernel_size, strides, dilation, padding, modes)


def brute_index(g):
    """The input that each (position, window entry) reads, from the definition, by plain loops."""
    index = np.full((g.positions, g.window), -1)
    for p, out in enumerate(itertools.product(*map(range, g.output_size))):
        for t, tap in enumerate(itertools.product(*map(range, g.kernel_size))):
            at = []
            for axis, (o, k, s, d) in enumerate(zip(out, tap, g.strides, g.dilation, strict=True)):
                span, n = d * (g.kernel_size[axis] - 1) + 1, g.input_size[axis]
                if g.padding == "tf_same":
                    before = max((math.ceil(n / s) - 1) * s + span - n, 0) // 2
                else:
                    before = {"valid": 0, "same": span // 2}.get(g.padding) if isinstance(g.padding, str) else None
                before = g.padding[axis][0] if before is None else before
                here = o * s + k * d - before
                at.append(here % g.input_size[axis] if g.padding_mode[axis] == "circular" else here)
            if all(0 <= a < n for a, n in zip(at, g.input_size, strict=True)):
                flat = 0
                for a, n in zip(at, g.input_size, strict=True):
                    flat = flat * n + a
                each = g.channels // g.groups
                for c in range(each):
                    index[p, t * each + c] = flat * g.channels + c
    return index


def index_from_tables(g, triples, segments, grouped_by_output):
    """The same index, read off the triples and a segment table as the kernels read them."""
    index = np.full((g.positions, g.window), -1)
    OW, KW, W, C, E = g.output_size[-1], g.kernel_size[-1], g.input_size[-1], g.channels, g.channels // g.groups
    for group in range(len(triples.start) - 1):
        for row in range(triples.start[group], triples.start[group + 1]):
            o, i = (group, triples.line[row]) if grouped_by_output else (triples.line[row], group)
            for s in range(len(segments.column)):
                p = o * OW + segments.column[s]
                for t in range(segments.taps[s]):
                    for c in range(E):
                        k = (triples.tap_line[row] * KW + segments.first_tap[s] + t) * E + c
                        assert index[p, k] == -1, "a connection is listed twice"
                        index[p, k] = (i * W + segments.first_input[s] + t) * C + c
    return index


def check(g):
    assert g.output_size == reference.output_size(g.input_size, g.kernel_size, g.strides, g.dilation, g.padding)
    expected = brute_index(g)
    np.testing.assert_array_equal(g.input_index, expected)
    np.testing.assert_array_equal(index_from_tables(g, g.by_output, g.columns, True), expected)
    np.testing.assert_array_equal(index_from_tables(g, g.by_input, g.bands, False), expected)
    assert g.connections == np.count_nonzero(expected >= 0)
    assert g.complete == bool((expected >= 0).all())
    np.testing.assert_array_equal(g.exists, expected >= 0)


@given(geometries())
def test_tables_equal_the_definition(g):
    check(g)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_tables_of_the_problem_table(problem):
    check(problem.geometry)


@given(geometries())
def test_index_maps_expand_the_connections(g):
    kernel = np.arange(1, math.prod(g.kernel_shape) + 1).reshape(g.kernel_shape)
    expected = np.zeros((g.inputs, g.positions, g.filters), int)
    for p, k in zip(*np.nonzero(g.exists), strict=True):
        expected[g.input_index[p, k], p] += kernel[p, k]  # a window that wraps may meet an input twice
    expected = expected.reshape(g.inputs, -1)

    mask = np.broadcast_to(g.exists[:, None, :], (g.positions, g.filters, g.window))
    indptr, indices = g.csr_index(None if g.complete else mask)
    values = kernel.transpose(0, 2, 1)[mask]
    sparse = np.zeros_like(expected.T)
    for row in range(len(indptr) - 1):
        columns = indices[indptr[row] : indptr[row + 1]]
        assert "circular" in g.padding_mode or (np.diff(columns) > 0).all(), "columns are sorted within each row"
        np.add.at(sparse[row], columns, values[indptr[row] : indptr[row + 1]])
    np.testing.assert_array_equal(sparse.T, expected)


@given(geometries())
def test_segments_are_as_long_as_they_can_be(g):
    c = g.columns
    for j in range(g.output_size[-1]):
        part = slice(c.start[j], c.start[j + 1])
        ends = list(zip(c.first_input[part] + c.taps[part], c.first_tap[part] + c.taps[part], strict=True))
        begins = list(zip(c.first_input[part], c.first_tap[part], strict=True))
        assert not set(ends) & set(begins), "two segments could have been one"
        if g.dilation[-1] == 1 and g.padding_mode[-1] == "zeros":
            assert len(begins) <= 1


@given(geometries())
def test_bands_stay_between_their_edges(g):
    for band in range(len(g.band_edges) - 1):
        part = slice(g.bands.start[band], g.bands.start[band + 1])
        assert (g.bands.first_input[part] >= g.band_edges[band]).all()
        assert (g.bands.first_input[part] + g.bands.taps[part] <= g.band_edges[band + 1]).all()
        assert (np.diff(g.bands.column[part]) >= 0).all()
    assert (g.bands.taps > 0).all()
    assert g.band_edges[0] == 0
    assert g.band_edges[-1] == g.input_size[-1]


def reads_next(g, first, second):
    """Whether a segment (column, first input, first tap, taps) is that of the next column, one stride further on."""
    return second == (first[0] + 1, first[1] + g.strides[-1], *first[2:])


def check_all_runs(g):
    def segments(table, a, b):
        return [tuple(int(values[e]) for values in table[1:]) for e in range(a, b)]

    def check_runs(runs, groups):
        for i, run in enumerate(runs.tolist()):
            ends = [
                len(first) == len(second) and all(reads_next(g, *pair) for pair in zip(first, second, strict=True))
                for first, second in itertools.pairwise(groups[i : i + run + 1])
            ]
            assert ends == [True] * (run - 1) + [False] * (i + run < len(groups))

    starts = g.columns.start
    check_runs(g.column_runs, [segments(g.columns, a, b) for a, b in itertools.pairwise(starts)])
    assert len(g.column_runs) == g.output_size[-1]
    for a, b in itertools.pairwise(g.bands.start):
        check_runs(g.band_runs[a:b], [[segment] for segment in segments(g.bands, a, b)])
    assert len(g.band_runs) == len(g.bands.column)


@given(geometries())
def test_runs_are_the_longest_of_columns_that_read_the_same_taps(g):
    check_all_runs(g)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_runs_of_the_problem_table(problem):
    check_all_runs(problem.geometry)


@given(geometries())
def test_columns_that_read_a_band_and_inputs_that_are_read_once(g):
    for (a, b), (first, end) in zip(itertools.pairwise(g.bands.start), g.band_columns.tolist(), strict=True):
        columns = g.bands.column[a:b].tolist()
        assert (first, end) == ((min(columns), max(columns) + 1) if columns else (0, 0))
    read = g.input_index[g.input_index >= 0]
    assert g.covered == (sorted(read.tolist()) == list(range(g.inputs)))


@given(geometries())
def test_the_inverse_map_holds_the_taps_that_read_a_column(g):
    start, column, tap = g.inverse_map
    assert len(start) == g.input_size[-1] + 1
    found = {(w, j, t) for w in range(g.input_size[-1]) for j, t in zip(column[start[w]:start[w + 1]],
             tap[start[w]:start[w + 1]], strict=True)}  # fmt: skip
    taps = g.taps(-1)
    assert found == {(taps[j, t], j, t) for j in range(taps.shape[0]) for t in range(taps.shape[1]) if taps[j, t] >= 0}
    assert len(column) == len(found)


@given(geometries())
def test_lines_that_are_needed_at_once_have_places_of_their_own(g):
    """And no more places than it takes."""
    for triples, cycle in ((g.by_input, g.output_cycle), (g.by_output, g.input_cycle)):
        groups = [set(triples.line[a:b].tolist()) for a, b in itertools.pairwise(triples.start)]
        fits = (
            n for n in itertools.count(1) if all(len({line % n for line in group}) == len(group) for group in groups)
        )
        assert cycle == next(fits)


def test_few_lines_are_cut_into_bands_and_many_are_not():
    assert len(Geometry((1000,), 1, 1, 3).band_edges) - 1 == TASKS
    assert len(Geometry((32, 32), 1, 1, 3).band_edges) - 1 == 2
    assert len(Geometry((64, 100), 1, 1, 3).band_edges) - 1 == 1
    assert len(Geometry((8, BAND_COLUMNS), 1, 1, 3).band_edges) - 1 == 1
    # Many channels make long parts of few columns, and a line too long for a cache is cut anyway.
    assert len(Geometry((7, 7), 1024, 1, 3).band_edges) - 1 == 7
    assert len(Geometry((100, 1000), 16, 1, 3).band_edges) - 1 == 4


def test_the_sparse_form_counts_in_64_bits_where_32_would_overflow():
    """Indices up to 2^31 - 1 fit; of inputs alone, since so many weights would take too long."""
    for size, channels, dtype in ((2**31 - 1, 1, np.int32), (2**31, 1, np.int64), (2**31, 2, np.int64)):
        g = Geometry((size,), channels, 1, 1, strides=2**30)
        assert [array.dtype for array in g.csr_index()] == [dtype, dtype]
        expected = np.arange(0, size, 2**30)[:, None] * channels + np.arange(channels)
        np.testing.assert_array_equal(g.csr_index()[1], expected.reshape(-1))


@given(st.data())
def test_connections_are_counted_for_any_sizes(data):
    """Also where a kernel is far larger than its input, against a count of every pair."""
    n, k = (data.draw(st.integers(1, 200), label=name) for name in ("input", "kernel"))
    s, d = (data.draw(st.integers(1, 40) | st.integers(1, 2**31), label=name) for name in ("stride", "dilation"))
    span = d * (k - 1) + 1
    margin = st.integers(0, min(span - 1, 2**31))
    padding = data.draw(st.just("same") | st.just("valid") | st.tuples(margin, margin), label="padding")
    before, after = {"same": (span // 2, 0), "valid": (0, 0)}.get(padding, padding)
    assume(padding == "same" or span <= before + n + after)
    g = Geometry((n,), 1, 1, k, s, d, padding if isinstance(padding, str) else (padding,))
    assume(g.positions <= 10**4)
    counted = sum(0 <= o * s + t * d - before < n for o in range(g.positions) for t in range(k))
    assert g.connections == counted


def test_the_largest_sizes_are_counted_exactly():
    top = 2**31
    for g, connections in (
        (Geometry((top, top), 1, 1, (2, 3), (1, top), padding="same"), (2 * top - 1) * 2),
        (Geometry((top,), 1, 1, 2, 1, top - 1), 2),
        (Geometry((7,), 1, 1, top - 1, top, top, "same"), 1),
        (Geometry((top,), 1, 1, 3, 2, 2, ((4, 4),)), 3 * (top // 2)),
    ):
        assert g.connections == connections


def test_a_count_that_does_not_fit_is_refused(monkeypatch):
    """As the weights of such a layer would be."""
    monkeypatch.setattr(memory, "available", lambda: (10**9, "the machine"))
    with pytest.raises(MemoryError, match=r"counting the connections needs 42\.9 GB.*give a smaller kernel_size"):
        Geometry((2**30,), 1, 1, 2**31, padding="same").connections  # noqa: B018


def test_documented_example():
    g = Geometry((32, 32), channels=3, filters=64, kernel_size=(3, 3))
    assert g.output_size == (30, 30)
    assert g.connections * 64 + math.prod(g.bias_shape) == 1_612_800


def test_keras_same_is_not_tensorflow_same():
    # n = 6, k = 3, s = 2: Keras begins at -1, 1, 3, TensorFlow's convolutions at 0, 2, 4.
    g = Geometry((6,), 1, 1, 3, strides=2, padding="same")
    np.testing.assert_array_equal(g.input_index, [[-1, 0, 1], [1, 2, 3], [3, 4, 5]])


def test_what_exists_is_known_without_the_index():
    """A layer of implementation 1 needs no table of the size of its weights."""
    g = Geometry((256, 256), 3, 1, 9, padding="same")
    tracemalloc.start()
    exists = g.exists
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * exists.nbytes
    assert np.count_nonzero(exists) == g.connections


def test_tables_are_read_only_and_the_geometry_is_frozen():
    g = Geometry((5, 5), 1, 1, 3)
    for table in (
        *g.by_output,
        *g.by_input,
        *g.columns,
        *g.bands,
        g.band_edges,
        g.band_columns,
        g.column_runs,
        g.band_runs,
        g.input_index,
        g.exists,
    ):
        assert not table.flags.writeable
        assert table.flags.c_contiguous
    with pytest.raises(AttributeError, match="filters"):
        g.filters = 3
    assert pickle.loads(pickle.dumps(g)) == g
    assert hash(g) == hash(Geometry((5, 5), 1, 1, (3, 3)))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kernel_size": 0}, ValueError, r"kernel_size=0 is too small"),
        ({"kernel_size": (1, 2, 3)}, ValueError, r"kernel_size=\(1, 2, 3\) has 3 entries; give one integer or 2"),
        ({"kernel_size": (2.5, 2)}, TypeError, r"kernel_size=2.5 is a float"),
        ({"kernel_size": True}, TypeError, r"kernel_size=True is a bool"),
        ({"kernel_size": "3"}, TypeError, r"kernel_size='3' is a str"),
        ({"kernel_size": (9, 1)}, ValueError, r"kernel_size=\(9, 1\).*does not fit input \(6, 5\).*padding='same'"),
        ({"dilation": (3, 1)}, ValueError, r"with dilation=\(3, 1\) does not fit"),
        ({"strides": 0}, ValueError, r"strides=0 is too small"),
        ({"strides": (1, -1)}, ValueError, r"strides=-1 is too small"),
        ({"dilation": 0}, ValueError, r"dilation=0 is too small"),
        ({"filters": 0}, ValueError, r"filters=0 is too small"),
        ({"filters": 4.5}, TypeError, r"filters=4.5 is a float"),
        ({"channels": np.bool_(True)}, TypeError, r"channels=.*True.* is a bool"),
        ({"padding": "causal"}, ValueError, r"padding='causal' is not known; give one of 'valid', 'same'"),
        ({"padding": 3}, ValueError, r"padding=3 is not known"),
        ({"input_size": 5}, TypeError, r"input_size=5 must be a tuple"),
        ({"input_size": ()}, ValueError, r"input_size=\(\) has 0 entries"),
        ({"input_size": (3, 3, 3, 3)}, ValueError, r"has 4 entries; give 1, 2 or 3"),
        ({"input_size": (0, 5)}, ValueError, r"input_size=0 is too small"),
        ({"input_size": (5, 2**31 + 1)}, ValueError, r"input_size=2147483649 is too large; .* at most 2147483648"),
        ({"kernel_size": 2**31 + 1}, ValueError, r"kernel_size=2147483649 is too large"),
        ({"strides": 2**31 + 1}, ValueError, r"strides=2147483649 is too large"),
        ({"dilation": (1, 2**31 + 1)}, ValueError, r"dilation=2147483649 is too large"),
        ({"padding": ((0, 2**31 + 1), (0, 0))}, ValueError, r"padding=2147483649 is too large"),
    ],
)
def test_bad_parameters(changes, error, message):
    settings = {"input_size": (6, 5), "channels": 2, "filters": 3, "kernel_size": (3, 3)} | changes
    with pytest.raises(error, match=message):
        Geometry(**settings)


@pytest.mark.parametrize(
    ("padding", "rank", "error", "message"),
    [
        (((1, 1), 1), 2, TypeError, r"padding must hold a pair \(before, after\) for each dimension, got"),
        (((1, 1), 1), 1, ValueError, "give 'valid', 'same', 'tf_same', or 1 pairs"),
        ((), 1, ValueError, r"padding=\(\) has 0 entries"),
    ],
)
def test_paddings_that_are_no_pairs(padding, rank, error, message):
    with pytest.raises(error, match=message):
        paddings(padding, rank)


def test_any_integral_type_is_welcome():
    g = Geometry((np.int64(6), 5), np.uint8(2), 3, np.int32(3), strides=[1, np.int16(2)], padding="SAME")
    assert g == Geometry((6, 5), 2, 3, (3, 3), (1, 2), (1, 1), "same")


def test_a_layer_names_its_own_parameter_for_a_size_that_is_too_large():
    for settings, name in (
        ({"input_shape": (5, 2**31 + 1, 1)}, "input_shape"),
        ({"kernel_size": (1, 2**31 + 1)}, "kernel_size"),
        ({"strides": 2**31 + 1}, "strides"),
        ({"dilation_rate": 2**31 + 1}, "dilation_rate"),
    ):
        with pytest.raises(ValueError, match=f"{name}=2147483649 is too large; give an integer of at most 2147483648"):
            lc.LocallyConnected2D(**{"filters": 1, "kernel_size": 1} | settings)
    assert lc.Dense(1).compute_output_shape((None, 2**31 + 1)) == (None, 1)  # features are no spatial dimension
