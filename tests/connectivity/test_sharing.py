import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lcnumba.connectivity import sharing
from lcnumba.connectivity.geometry import Geometry

EIGHT = np.arange(8).reshape(2, 4)


@pytest.mark.parametrize(
    ("value", "output_size", "expected"),
    [
        ("all", (2, 3), [[0, 0, 0], [0, 0, 0]]),
        ("ALL", (2,), [0, 0]),
        (1, (2, 3), [[0, 1, 2], [3, 4, 5]]),
        ((1, 2), (2, 3), [[0, 0, 1], [2, 2, 3]]),
        ([2, 2], (3, 3), [[0, 0, 1], [0, 0, 1], [2, 2, 3]]),
        ([2], (3,), [0, 0, 1]),
        (list(np.array([1, 2])), (2, 3), [[0, 0, 1], [2, 2, 3]]),
        ([np.int64(2)], (3,), [0, 0, 1]),
        ([0], (1,), [0]),
        (np.int64(2), (4,), [0, 0, 1, 1]),
        ([[0, 1], [1, 0]], (2, 2), [[0, 1], [1, 0]]),
        ((2, 1, 2), (2, 1, 3), [[[0, 0, 1]], [[0, 0, 1]]]),
        (EIGHT.astype(np.uint8), (2, 4), EIGHT),
    ],
)
def test_the_set_of_each_position(value, output_size, expected):
    canonical = sharing.get(value, len(output_size))
    found, count = sharing.sets(canonical, output_size)
    np.testing.assert_array_equal(found.reshape(output_size), expected)
    assert count == np.max(expected) + 1
    assert not found.flags.writeable
    again = sharing.get(json.loads(json.dumps(sharing.serialize(canonical))), len(output_size))
    np.testing.assert_array_equal(sharing.sets(again, output_size)[0], found)
    assert again == canonical
    assert hash(again) == hash(canonical)


def test_no_sharing():
    assert sharing.get(None, 2) is None
    assert sharing.sets(None, (2, 3)) is None
    assert sharing.serialize(None) is None


@given(arrays.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.integers(0, 9)))
def test_any_regions(values):
    regions = np.unique(values, return_inverse=True)[1].reshape(values.shape)
    canonical = sharing.get(regions, 2)
    np.testing.assert_array_equal(sharing.as_argument(canonical), regions)
    copy = pickle.loads(pickle.dumps(canonical))
    assert copy == canonical
    if regions.max():
        with pytest.raises(ValueError, match="without gaps"):
            sharing.get(np.where(regions == 0, regions.max() + 1, regions), 2)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("half", ValueError, "weight_sharing='half' is not known"),
        ((2, 2, 2), ValueError, "has 3 entries"),
        ((0, 2), ValueError, "weight_sharing"),
        ((1.5, 2), TypeError, "weight_sharing"),
        (np.ones((2, 2)), TypeError, "dtype float64; give integers"),
        (np.array([0, 1]), ValueError, r"shape \(2,\); give the spatial shape of the output, with 2 dimensions"),
        (np.zeros((0, 2), int), ValueError, "shape"),
        (np.array([[0, -1], [0, 0]]), ValueError, r"is -1 at \(0, 1\); number the sets from 0"),
        (np.array([[0, 2], [2, 0]]), ValueError, "uses numbers up to 2, but not 1"),
        (np.array([[0, 2**62], [0, 0]]), ValueError, "but not 1"),
        ([2, 0], ValueError, "weight_sharing=0 is too small; give an integer of at least 1"),
        ({"shape": [2, 2]}, ValueError, "invalid config of weight_sharing"),
        *(
            ({"shape": [2, size], "regions": "eJxjAAAAAQAB"}, ValueError, "invalid config of weight_sharing")
            for size in (2**62, 10**40)
        ),
        ({"shape": [2, 2], "regions": "AAAA"}, ValueError, "invalid config of weight_sharing"),
        ({"shape": [-2, -4], "regions": sharing.serialize(sharing.get(EIGHT, 2))["regions"]}, ValueError, "8 numbers"),
        ({"shape": [9, 9], "regions": sharing.serialize(sharing.get(EIGHT, 2))["regions"]}, ValueError, "8 numbers"),
    ],
)
def test_what_is_refused(value, error, message):
    with pytest.raises(error, match=message):
        sharing.get(value, 2)


def test_blocks_and_arrays_must_fit():
    with pytest.raises(ValueError, match=r"\(3, 1\) has blocks larger than the positions, \(2, 4\)"):
        sharing.sets((3, 1), (2, 4))
    with pytest.raises(ValueError, match=r"weight_sharing has shape \(2, 4\); there are \(4, 2\)"):
        Geometry((4, 2), 1, 1, 1, weight_sharing=EIGHT)


def test_an_entry_exists_if_it_does_at_a_position_of_its_set():
    g = Geometry((3,), 1, 1, 3, padding="same", weight_sharing=np.array([0, 0, 1]))
    np.testing.assert_array_equal(g.exists, [[False, True, True], [True, True, True], [True, True, False]])
    np.testing.assert_array_equal(g.weight_exists, [[True, True, True], [True, True, False]])
    assert g.kernel_shape == (2, 3, 1)
    assert pickle.loads(pickle.dumps(g)) == g
