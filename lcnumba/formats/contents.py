"""File type by content, for error messages: what a file is, and which function reads it."""

import errno
import os
import stat
import zipfile
from pathlib import Path
from typing import IO

__all__ = ["KERAS_FILE", "LCNUMBA_FILE", "describe", "is_content_error", "open_regular"]

LCNUMBA_FILE = "an lcnumba file: lcnumba.load reads models, Sequential.load_weights reads weights"
KERAS_FILE = "lcnumba.load_keras(path) reads a Sequential model of Keras, lcnumba.load_keras(path, model) reads weights"
_BY_MAGIC = (
    (b"\x93NUMPY", "a single NumPy array: numpy.load reads it, and set_weights of a layer or model takes arrays"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run git lfs pull"),
    (b"\x1f\x8b", "compressed with gzip; decompress it first"),
    (b"CDF", "a netCDF data file"),
    (b"<", "a web page or XML, perhaps the result of a failed download"),
    (b"{", "JSON text, such as the config of a model without its weights"),
)
# The opcode PROTO and the protocol number.
_PICKLE_MAGICS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
MAX_MEMBERS = 1 << 16


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading; an OSError for anything else: opening a pipe without a writer would block.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from lcnumba.formats import contents
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.npz")
    ...     _ = path.write_bytes(b"PK")
    ...     with contents.open_regular(path) as file:
    ...         file.read()
    b'PK'
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # for a directory, open raises
        raise OSError(errno.EINVAL, "not a regular file, so it is not read; give the path of a file", str(path))
    return path.open("rb")


def is_content_error(error: Exception) -> bool:
    """Return whether an error while reading a file is due to its content, not to memory or the machine.

    Examples
    --------
    >>> from lcnumba.formats.contents import is_content_error
    >>> is_content_error(EOFError()), is_content_error(MemoryError()), is_content_error(OSError(5, "I/O error"))
    (True, False, False)
    """
    if isinstance(error, OSError):
        return error.errno in (None, errno.EINVAL)  # EINVAL: a seek to an offset that a damaged file names
    return not isinstance(error, MemoryError)


def describe(path: str | os.PathLike[str]) -> str | None:
    """Return what a file is and what reads it, by its magic bytes or a zip's member names; None if unknown.

    Nothing in the file is trusted, and only its first bytes and a zip's directory are read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from lcnumba.formats import contents
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.npz")
    ...     _ = path.write_bytes(b"")
    ...     contents.describe(path)
    'empty'
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - it may be a str
            return None
        with Path(path).open("rb") as file:
            start = file.read(64)
            if start.startswith(b"PK\x03\x04"):
                return _describe_zip(zipfile.ZipFile(file).namelist())
    except Exception:  # noqa: BLE001 - zipfile raises many types for a damaged file
        return None
    if not start:
        return "empty"
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return f"an HDF5 file: if Keras wrote it, {KERAS_FILE}"
    if start.startswith(_PICKLE_MAGICS):
        return "a pickle, which is not read because it can execute code; use pickle.load or joblib.load if you trust it"
    return next((text for magic, text in _BY_MAGIC if start.startswith(magic)), None)


def _describe_zip(names: list[str]) -> str | None:
    """Return what a zip with these members is; None if unknown."""
    found = set(names[:MAX_MEMBERS])
    if "config.json" in found and "model.weights.h5" in found:
        return f"a Keras archive: {KERAS_FILE}"
    if "config.npy" in found and all(name.startswith(("config.npy", "weight_", "state_", "array_")) for name in found):
        return LCNUMBA_FILE
    if found and all(name.endswith(".npy") for name in found):
        return "a plain .npz of arrays: numpy.load reads it, and set_weights of a layer or model takes arrays"
    if any(name.endswith("/data.pkl") for name in found):
        return "a PyTorch file: use torch.load if you trust it; set_weights takes the tensors as arrays"
    return None
