"""Connections without a geometry: which inputs each output reads, as a list."""

import errno
import os
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from lcnumba.runtime.memory import require
from lcnumba.runtime.signals import import_whole
from lcnumba.utils.arrays import as_numpy
from lcnumba.utils.lazy import cached_property
from lcnumba.utils.types import Array
from lcnumba.utils.validation import MAX_SIZE, file_path, integer

__all__ = ["Segments", "Topology", "get"]

# The most entries of a dense mask.
DENSE_ENTRIES = 1 << 26


class Segments(NamedTuple):
    """Connections in segments: neighbouring inputs that one output reads, and that lie in one block of inputs.

    The weights of a segment are contiguous. Segments are sorted by block and, within a block, by output.

    Attributes
    ----------
    block_start : int64 array, (blocks + 1,)
        The segments of each block of inputs.
    connection, output, input, length : int64 arrays, (segments,)
        First connection, output, first input, and number of connections.
    """

    block_start: Array
    connection: Array
    output: Array
    input: Array
    length: Array


class Topology:
    """Which inputs each output reads, as in a scipy.sparse CSC matrix (inputs, outputs) without values.

    Parameters
    ----------
    shape : (int, int)
        Inputs and outputs.
    indptr : int64 array, (outputs + 1,)
        The connections of output o are ``indptr[o]:indptr[o + 1]``.
    indices : int64 array, (connections,)
        Their inputs, in ascending order within an output.

    Examples
    --------
    >>> from lcnumba.connectivity import topology
    >>> genes = topology.get([(0, 0), (1, 0), (1, 1)], (2, 2))
    >>> genes, genes.indices
    (<Topology: 2 inputs, 2 outputs, 3 connections>, array([0, 1, 1]))
    """

    def __init__(self, shape: tuple[int, int], indptr: Array, indices: Array) -> None:
        self.shape, self.indptr, self.indices = shape, _own(indptr), _own(indices)

    def __repr__(self) -> str:
        """The numbers of inputs, outputs and connections."""
        inputs, outputs = self.shape
        return f"<Topology: {inputs:,} inputs, {outputs:,} outputs, {len(self.indices):,} connections>"

    def __eq__(self, other: object) -> bool:
        """Whether both have the same connections."""
        if not isinstance(other, Topology):
            return NotImplemented
        mine, theirs = ((t.indptr, t.indices) for t in (self, other))
        return self.shape == other.shape and all(map(np.array_equal, mine, theirs))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the connections; what follows from them is made again."""
        return Topology, (self.shape, self.indptr, self.indices)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the object itself, which does not change."""
        return self

    def to_scipy(self) -> Any:
        """Return the connections as a scipy.sparse.csc_array of ones, (inputs, outputs), dtype bool.

        Returns
        -------
        scipy.sparse.csc_array

        Examples
        --------
        >>> import lcnumba as lc
        >>> layer = lc.LocallyDirected1D([[1, 0], [1, 1]])
        >>> layer.mask.to_scipy().toarray().astype(int)
        array([[1, 0],
               [1, 1]])
        """
        return _sparse().csc_array(
            (np.ones(len(self.indices), np.bool_), self.indices.copy(), self.indptr.copy()), shape=self.shape
        )

    def get_config(self) -> dict[str, Any]:
        """Return a dict of the shape and of two arrays, which files keep as arrays.

        Returns
        -------
        dict
            Which `get` takes.
        """
        return {"shape": self.shape, "indptr": self.indptr, "indices": self.indices}

    @cached_property
    def degrees(self) -> tuple[float, float]:
        """The mean numbers of inputs of an output that has any, and of outputs of an input that is read."""
        read = np.zeros(self.shape[0], np.bool_)
        read[self.indices] = True
        many = len(self.indices)
        return many / np.count_nonzero(np.diff(self.indptr)), many / np.count_nonzero(read)

    def segments(self, width: int) -> Segments:
        """The segments, for blocks of `width` inputs."""
        indices, indptr = self.indices, self.indptr
        first = np.ones(len(indices), np.bool_)
        first[1:] = (np.diff(indices) != 1) | (indices[1:] % width == 0)
        first[indptr[:-1][np.diff(indptr) > 0]] = True
        begin = np.flatnonzero(first)
        outputs = np.searchsorted(indptr, begin, side="right") - 1
        blocks = indices[begin] // width
        order = np.argsort(blocks, kind="stable")
        block_start = np.searchsorted(blocks[order], np.arange(-(-self.shape[0] // width) + 1))
        columns = begin, outputs, indices[begin], np.diff(begin, append=len(indices))
        return Segments(block_start, *(values[order] for values in columns))


def _own(array: Array) -> Array:
    """The array, read-only; a copy unless it owns its memory, which nobody else can change then."""
    array = array if array.flags.owndata else array.copy()
    array.setflags(write=False)
    return array


def get(identifier: Any, shape: tuple[int, int] | None = None) -> Topology:
    """Return the topology for a layer's argument.

    Parameters
    ----------
    identifier : scipy.sparse matrix or array, array, path, Topology or dict
        A mask (inputs, outputs), whose entries other than 0 are connections; the path of a file of
        `scipy.sparse.save_npz`; or the result of `Topology.get_config`.
    shape : (int, int), optional
        Inputs and outputs; `identifier` is then an integer array (connections, 2) of pairs (input, output).

    Returns
    -------
    Topology

    Raises
    ------
    TypeError, ValueError
        If it is none of these, a connection is out of range or occurs twice, or there is none.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.connectivity import topology
    >>> topology.get(np.eye(3))
    <Topology: 3 inputs, 3 outputs, 3 connections>
    >>> topology.get([(2, 0), (2, 0)], (3, 1))
    Traceback (most recent call last):
    ...
    ValueError: mask has the connection of input 2 and output 0 twice; give each pair once, as sum_duplicates() of a
        scipy.sparse matrix leaves it
    """
    if shape is not None:
        return _of_pairs(identifier, _shape("mask_shape", shape))
    if isinstance(identifier, Topology):
        return identifier
    if isinstance(identifier, str | os.PathLike):
        identifier = _read(identifier)
    if type(identifier).__module__.startswith("scipy.sparse") and hasattr(identifier, "tocoo"):
        return _of_sparse(identifier)
    if isinstance(identifier, Mapping):
        return _of_config(identifier)
    values, _ = as_numpy("mask", identifier, any_dtype=True)
    if values.ndim != 2:
        raise ValueError(
            f"mask is a {type(identifier).__name__} of shape {values.shape}; give a matrix (inputs, outputs), or pairs "
            "with mask_shape"
        )
    if values.dtype.kind not in "biufc":
        raise TypeError(f"mask has dtype {values.dtype}; give booleans or numbers, of which 0 means no connection")
    if values.dtype.kind in "iu" and values.shape[1] == 2 and values.max(initial=0) > 1:
        # Rare as a mask of numbers, and its entries would be taken for connections of a wrong layer.
        raise ValueError(
            f"mask is an integer array of shape {values.shape} with a {values.max()}, which looks like pairs (input, "
            "output); give mask_shape=(inputs, outputs) with pairs, or a matrix of booleans"
        )
    if values.size > DENSE_ENTRIES:
        raise ValueError(
            f"mask is a dense matrix of {values.size:,} entries, more than {DENSE_ENTRIES:,}; give a scipy.sparse "
            "matrix, or pairs (input, output) with mask_shape"
        )
    return _made(_shape("the shape of mask", values.shape), *np.nonzero(values))


def _shape(name: str, shape: Any) -> tuple[int, int]:
    if not isinstance(shape, list | tuple) or len(shape) != 2:
        raise TypeError(f"{name}={shape!r:.100} is a {type(shape).__name__}; give a pair (inputs, outputs)")
    inputs, outputs = shape
    return integer(f"inputs of {name}", inputs, 1, MAX_SIZE), integer(f"outputs of {name}", outputs, 1, MAX_SIZE)


def _of_pairs(pairs: Any, shape: tuple[int, int]) -> Topology:
    if type(pairs).__module__.startswith("scipy.sparse") or isinstance(pairs, Mapping | str | os.PathLike | Topology):
        raise TypeError(
            f"mask_shape={shape} is for pairs (input, output), but mask is a {type(pairs).__name__}; leave it out"
        )
    values, _ = as_numpy("mask", pairs, any_dtype=True)
    if values.ndim != 2 or values.shape[1] != 2:
        raise ValueError(
            f"mask has shape {values.shape}; with mask_shape give pairs (input, output): (connections, 2), as from "
            "np.stack([inputs, outputs], axis=1)"
        )
    if values.dtype.kind not in "iu":
        raise TypeError(f"mask has dtype {values.dtype}; with mask_shape give pairs (input, output) of integers")
    return _made(shape, values[:, 0], values[:, 1])


def _of_sparse(matrix: Any) -> Topology:
    if len(matrix.shape) != 2:
        raise ValueError(f"mask has shape {matrix.shape}; give a matrix (inputs, outputs)")
    shape = _shape("the shape of mask", tuple(map(int, matrix.shape)))
    try:
        if hasattr(matrix, "check_format"):  # the conversion trusts its indices
            matrix.check_format(full_check=False)
            _check_indices(matrix, shape)
        entries = matrix.tocoo()
        rows, columns, values = entries.row, entries.col, entries.data
        if not len(rows) == len(columns) == len(values):
            raise ValueError(f"it has {len(rows)} rows, {len(columns)} columns and {len(values)} values")
    except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"mask is not a valid {type(matrix).__name__}: {error}") from error
    if not np.all(values):
        rows, columns = rows[values != 0], columns[values != 0]
    return _made(shape, rows, columns)


def _check_indices(matrix: Any, shape: tuple[int, int]) -> None:
    """Raise with the entry's place if a CSR or CSC matrix has an index that is out of range."""
    if matrix.format not in ("csr", "csc"):
        matrix.check_format(full_check=True)
        return
    by_inputs = matrix.format == "csr"
    name, size = ("output", shape[1]) if by_inputs else ("input", shape[0])
    outside = (matrix.indices < 0) | (matrix.indices >= size)
    if outside.any():
        entry = int(np.argmax(outside))
        line = int(np.searchsorted(matrix.indptr, entry, side="right")) - 1
        raise ValueError(
            f"entry {entry} is of {name} {int(matrix.indices[entry])} at {'input' if by_inputs else 'output'} {line}; "
            f"{name}s are 0 to {size - 1}"
        )


def _made(shape: tuple[int, int], inputs: Array, outputs: Array) -> Topology:
    """The topology of checked pairs, sorted by output and input."""
    pairs = {"input": np.asarray(inputs), "output": np.asarray(outputs)}
    for (name, values), size in zip(pairs.items(), shape, strict=True):
        outside = (values < 0) | (values >= size)
        if outside.any():
            entry = int(np.argmax(outside))
            found = " and ".join(f"{each} {int(given[entry])}" for each, given in pairs.items())
            raise ValueError(
                f"connection {entry} of mask is of {found}; {name}s are 0 to {size - 1}: count from 0, or give a "
                "larger shape"
            )
    if not len(inputs):
        raise ValueError(f"mask of shape {shape} has no connections; give at least one")
    keys = outputs.astype(np.int64) * shape[0] + inputs.astype(np.int64)
    if not np.all(keys[1:] > keys[:-1]):
        keys.sort()
        twice = keys[1:] == keys[:-1]
        if twice.any():
            output, index = divmod(int(keys[int(np.argmax(twice))]), shape[0])
            raise ValueError(
                f"mask has the connection of input {index} and output {output} twice; give each pair once, as "
                "sum_duplicates() of a scipy.sparse matrix leaves it"
            )
    require(16 * shape[1], f"a mask of {shape[1]} outputs", "give fewer outputs")
    sorted_outputs, indices = np.divmod(keys, shape[0])
    return Topology(shape, np.searchsorted(sorted_outputs, np.arange(shape[1] + 1)), indices)


def _of_config(config: Mapping[str, Any]) -> Topology:
    if set(config) != {"shape", "indptr", "indices"}:
        raise ValueError(f"mask is a dict of {sorted(map(str, config))}; a config has shape, indptr and indices")
    shape = _shape("shape of the config of mask", config["shape"])
    indptr, indices = np.asarray(config["indptr"]), np.asarray(config["indices"])
    valid = (
        all(array.ndim == 1 and array.dtype.kind in "iu" for array in (indptr, indices))
        and len(indptr) == shape[1] + 1
        and indptr[0] == 0
        and indptr[-1] == len(indices)
        and np.all(indptr[1:] >= indptr[:-1])
    )
    if not valid:
        raise ValueError(f"the config of mask of shape {shape} is invalid: indptr and indices do not belong together")
    counts: Array = np.diff(indptr).astype(np.int64)
    found = _made(shape, indices, np.repeat(np.arange(shape[1]), counts))
    shared = all(a.dtype == np.int64 and a.flags.owndata and not a.flags.writeable for a in (indptr, indices))
    # Layers with the same connections share them.
    return Topology(shape, indptr, indices) if shared and np.array_equal(found.indices, indices) else found


def _read(path: Any) -> Any:
    """The matrix in a file of `scipy.sparse.save_npz`, without unpickling anything."""
    found = file_path(path, "mask")
    if found.exists() and not (found.is_file() or found.is_dir()):  # opening a pipe without a writer would block
        raise OSError(errno.EINVAL, "not a regular file, so it is not read; give the path of a file", str(found))
    sparse = _sparse()
    file = found.open("rb")
    try:
        with file, zipfile.ZipFile(file) as archive:
            require(sum(m.file_size for m in archive.infolist()), f"reading {str(found)!r}", "give a smaller mask")
            file.seek(0)
            return sparse.load_npz(file)
    except Exception as error:
        # EINVAL: a seek to an offset that a damaged file names.
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)):
            raise
        raise ValueError(
            f"mask={str(found)!r} is no file of scipy.sparse.save_npz, which holds a matrix (inputs, outputs): {error}"
        ) from error


@import_whole
def _sparse() -> Any:
    import scipy.sparse

    return scipy.sparse
