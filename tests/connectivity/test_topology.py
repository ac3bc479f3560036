"""Connections given one by one."""

import contextlib
import copy
import os
import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator

from lcnumba.connectivity import topology

# Inputs 0, 1, 2 -> output 0; 2, 3, 4, 5 -> output 1; output 2 has none, and nobody reads input 6.
PAIRS = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (4, 1), (5, 1)]
SHAPE = (7, 3)


@pytest.fixture
def dense():
    mask = np.zeros(SHAPE)
    mask[tuple(np.transpose(PAIRS))] = 0.5
    return mask


@pytest.fixture
def genes():
    return topology.get(PAIRS, SHAPE)


def test_connections_are_in_the_order_of_outputs_and_inputs(genes):
    assert genes.shape == SHAPE
    assert genes.indptr.tolist() == [0, 3, 7, 7]
    assert genes.indices.tolist() == [0, 1, 2, 2, 3, 4, 5]
    assert genes.indices.dtype == genes.indptr.dtype == np.int64
    assert not genes.indices.flags.writeable
    assert not genes.indptr.flags.writeable


FORMS = {
    **{
        kind: getattr(sp, kind)
        for kind in ("coo_array", "csr_array", "csc_array", "lil_array", "csr_matrix", "dok_array")
    },
    "bsr": lambda m: sp.bsr_array(m, blocksize=(7, 1)),
    "dia": sp.dia_array,
    "float": lambda m: m,
    "bool": lambda m: m != 0,
    "negative": lambda m: -m,
    "lists": lambda m: m.tolist(),
    "fortran": np.asfortranarray,
    "not a number": lambda m: np.where(m != 0, np.nan, 0),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_may_have_any_form(form, dense, genes):
    assert topology.get(FORMS[form](dense)) == genes


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint64"])
def test_pairs_may_have_any_order(dtype, genes, rng):
    assert topology.get(rng.permutation(np.array(PAIRS, dtype)), SHAPE) == genes


def test_explicit_zeros_are_no_connections(dense, genes):
    mask = sp.csr_array(np.where(dense == 0, 1.0, dense))
    mask.data[mask.data == 1] = 0
    assert mask.nnz == dense.size
    assert topology.get(mask) == genes


def test_indices_of_a_matrix_may_be_unsorted(dense, genes):
    mask = sp.csc_array(dense)
    for o in range(3):
        part = slice(mask.indptr[o], mask.indptr[o + 1])
        mask.indices[part] = mask.indices[part][::-1].copy()
    mask.has_sorted_indices = False
    assert topology.get(mask) == genes


def test_a_file_of_scipy_is_read(tmp_path, dense, genes):
    path = tmp_path / "genes.npz"
    for mask in (sp.csr_matrix(dense), sp.coo_array(dense), genes.to_scipy()):
        sp.save_npz(path, mask)
        assert topology.get(path) == topology.get(str(path)) == genes


def test_the_matrix_is_a_copy(genes):
    matrix = genes.to_scipy()
    assert matrix.shape == SHAPE
    matrix.indices[:] = 0
    assert topology.get(PAIRS, SHAPE) == genes


def test_a_config_makes_an_equal_topology_which_shares_memory(genes):
    config = genes.get_config()
    again = topology.get(config)
    assert again == genes
    assert again.indices is genes.indices
    text = {"shape": list(SHAPE), "indptr": genes.indptr.tolist(), "indices": genes.indices.tolist()}
    assert topology.get(text) == genes
    # Memory that somebody else can change is copied.
    writable = genes.indices.copy()
    view = writable[...]
    view.setflags(write=False)
    for indices in (writable, view):
        assert not np.may_share_memory(topology.get({**config, "indices": indices}).indices, writable)


def test_copies_and_pickles_are_equal(genes):
    assert copy.deepcopy(genes) is genes
    again = pickle.loads(pickle.dumps(genes))
    assert again == genes
    assert not again.indices.flags.writeable
    assert genes != topology.get(PAIRS[1:], SHAPE)
    assert genes != topology.get(PAIRS, (8, 3))
    assert genes != 3
    assert repr(genes) == "<Topology: 7 inputs, 3 outputs, 7 connections>"


def test_degrees_are_means_over_those_that_have_any(genes):
    assert genes.degrees == (7 / 2, 7 / 6)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 100])
def test_segments_are_runs_of_connections_within_blocks(width, genes):
    start, connections, outputs, inputs, lengths = genes.segments(width)
    assert len(start) == -(-7 // width) + 1
    found = []
    for block in range(len(start) - 1):
        rows = slice(start[block], start[block + 1])
        assert (np.diff(outputs[rows]) >= 0).all()
        for output, weight, first, length in zip(
            outputs[rows], connections[rows], inputs[rows], lengths[rows], strict=True
        ):
            assert first // width == (first + length - 1) // width == block
            assert genes.indices[weight : weight + length].tolist() == list(range(first, first + length))
            assert genes.indptr[output] <= weight
            assert weight + length <= genes.indptr[output + 1]
            found += range(weight, weight + length)
    assert sorted(found) == list(range(7))
    if width == 100:
        assert [a.tolist() for a in (connections, outputs, inputs, lengths)] == [[0, 3], [0, 1], [0, 2], [3, 4]]


def test_sizes_beyond_32_bits_are_not_cut_off():
    wide = topology.get(np.array([(2**31 - 1, 5), (0, 5), (2**31 - 1, 1)]), (2**31, 6))
    assert wide.indices.tolist() == [2**31 - 1, 0, 2**31 - 1]
    assert wide.indptr.tolist() == [0, 0, 1, 1, 1, 1, 3]


def malformed():
    mask = sp.csr_array(np.eye(3))
    mask.indices = np.array([0, 5, 2], np.int32)
    return mask


def outside():
    mask = sp.coo_array(np.eye(3))
    mask.coords[0][1] = -4
    return mask


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (([(0, 0), (7, 1)], SHAPE), ValueError, r"connection 1 of mask is of input 7 and output 1; inputs are 0 to 6"),
        (([(0, 0), (2, 3)], SHAPE), ValueError, r"connection 1 of mask is of input 2 and output 3; outputs are 0 to 2"),
        (([(0, 0), (-1, 1)], SHAPE), ValueError, r"connection 1 of mask is of input -1 and output 1"),
        (([(0, 0), (2, 1), (0, 0)], SHAPE), ValueError, "of input 0 and output 0 twice; give each pair once"),
        ((sp.coo_array(([1, 1], ([4, 4], [1, 1])), shape=SHAPE),), ValueError, "input 4 and output 1 twice"),
        ((sp.coo_array(np.ones(3)),), ValueError, r"mask has shape \(3,\); give a matrix"),
        (({"shape": [2, 1], "indptr": [0, 1], "indices": [[0]]},), ValueError, "config of mask .* is invalid"),
        ((outside(),), ValueError, "connection 1 of mask is of input -4 and output 1; inputs are 0 to 2"),
        ((malformed(),), ValueError, "not a valid csr_array: entry 1 is of output 5 at input 1; outputs are 0 to 2"),
        ((malformed().T,), ValueError, "not a valid csc_array: entry 1 is of input 5 at output 1; inputs are 0 to 2"),
        ((PAIRS,), ValueError, r"mask is an integer array of shape \(7, 2\) with a 5, which looks like pairs"),
        (([], SHAPE), ValueError, r"mask has shape \(0,\); with mask_shape give pairs"),
        ((np.empty((0, 2), int), SHAPE), ValueError, "has no connections; give at least one"),
        ((np.zeros((2, 3)),), ValueError, r"mask of shape \(2, 3\) has no connections"),
        ((np.eye(3), SHAPE), ValueError, r"mask has shape \(3, 3\); with mask_shape give pairs"),
        (([(0.0, 1.0)], SHAPE), TypeError, "mask has dtype float64; with mask_shape give pairs .* of integers"),
        ((sp.eye_array(3), SHAPE), TypeError, r"mask_shape=\(7, 3\) is for pairs .* leave it out"),
        ((PAIRS, (7,)), TypeError, r"mask_shape=\(7,\) is a tuple; give a pair"),
        ((PAIRS, (0, 3)), ValueError, "inputs of mask_shape=0 is too small"),
        ((PAIRS, (7, 3.0)), TypeError, "outputs of mask_shape=3.0 is a float"),
        ((PAIRS, (7, 2**31 + 1)), ValueError, "outputs of mask_shape=2147483649 is too large"),
        ((np.ones(3),), ValueError, r"mask is a ndarray of shape \(3,\); give a matrix"),
        ((np.array([["a"]]),), TypeError, "mask has dtype <U1; give booleans or numbers"),
        ((None,), TypeError, "mask is a NoneType"),
        ((np.ma.masked_equal(np.eye(2), 0),), TypeError, "mask is a numpy MaskedArray"),
        ((np.broadcast_to(np.ones(1), (10_000, 7_000)),), ValueError, "dense matrix of 70,000,000 .* a scipy.sparse"),
        (({"shape": [2, 1]},), ValueError, r"mask is a dict of \['shape'\]; a config has shape, indptr and indices"),
        (({"shape": [2, 1], "indptr": [0, 2], "indices": [0]},), ValueError, "config of mask .* is invalid"),
        (({"shape": [2, 2], "indptr": [0, 2, 1], "indices": [0]},), ValueError, "config of mask .* is invalid"),
        (({"shape": [2, 1], "indptr": [0, 1], "indices": [2]},), ValueError, "input 2 and output 0; inputs are 0 to 1"),
        (({"shape": [2, 1], "indptr": np.array([0, 1], np.uint64), "indices": [2]},), ValueError, "input 2 and output"),
        (({"shape": [2, 1], "indptr": [0, 1.5], "indices": [0]},), ValueError, "config of mask .* is invalid"),
    ],
)  # fmt: skip
def test_what_is_no_topology_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        topology.get(*given)


def test_what_is_no_file_of_a_matrix_is_refused(tmp_path):
    path = tmp_path / "mask.npz"
    with pytest.raises(FileNotFoundError):
        topology.get(path)
    np.savez(path, weights=np.ones(3))
    with pytest.raises(ValueError, match=r"mask=.*mask.npz' is no file of scipy.sparse.save_npz"):
        topology.get(path)
    path.write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="is no file of scipy"):
        topology.get(path)
    np.savez(path, format=np.array("csr"), shape=SHAPE, data=np.array([{}], object), indices=[0], indptr=[0])
    with pytest.raises(ValueError, match="is no file of scipy"):  # a pickle
        topology.get(path)
    np.savez(path, format=np.array("csr"), shape=(3, 3), data=[1.0], indices=[7], indptr=[0, 1, 1, 1])
    with pytest.raises(ValueError, match=r"is not a valid|is no file of"):
        topology.get(path)


def test_no_damaged_file_raises_anything_but_a_value_error(tmp_path):
    path, random = tmp_path / "mask.npz", np.random.default_rng(0)
    sp.save_npz(path, sp.csr_array(np.eye(4)))
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(500):
        damaged = whole.copy()
        damaged[random.integers(damaged.size, size=2)] = random.integers(256, size=2)
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert topology.get(path) == topology.get(np.eye(4))
    blocks = {"indptr": [0, 1, 2], "indices": [0, 1], "data": np.ones((2, 0, 0))}
    np.savez(path, format=np.array("bsr"), shape=(4, 4), **blocks)
    with pytest.raises(ValueError, match=r"is not a valid|is no file of"):  # an empty block
        topology.get(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        topology.get(tmp_path / "pipe")


def test_what_scipy_has_beside_matrices_is_refused():
    operator = aslinearoperator(np.eye(2))
    with pytest.raises(TypeError, match="mask is a scipy MatrixLinearOperator"):
        topology.get(operator)
    ragged = sp.coo_array(np.eye(2))
    ragged.data = np.array([1.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="mask is not a valid coo_array"):
        topology.get(ragged)
    with pytest.raises(ValueError, match="mask is a dict of"):
        topology.get({1: 2, "indices": 3})
