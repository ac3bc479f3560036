"""What a file is, told by what it holds, and which call reads it: for messages of a call that was given another one."""

import errno
import os
import stat
import zipfile
from pathlib import Path
from typing import IO

__all__ = ["KERAS", "OURS", "described", "is_of_content", "opened"]

OURS = "a file of lcnumba: lcnumba.load reads models, load_weights of a Sequential weights"
KERAS = "lcnumba.load_keras(path) reads a Sequential model of Keras, lcnumba.load_keras(path, model) weights"
_OTHERS = (
    (b"\x93NUMPY", "a single NumPy array: numpy.load reads it, and set_weights of a layer or model takes arrays"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: git lfs pull fetches that"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"CDF", "a netCDF file, of data"),
    (b"<", "a web page or XML, perhaps in place of a download that failed"),
    (b"{", "JSON text, such as the config of a model without its weights"),
)
# What pickles begin with: the opcode of the protocol, and its number.
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
MOST_MEMBERS = 1 << 16


def opened(path: Path) -> IO[bytes]:
    """Return a file, open for reading; an OSError for what is none: a pipe that nobody writes to would be waited for.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from lcnumba.formats import contents
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.npz")
    ...     _ = path.write_bytes(b"PK")
    ...     with contents.opened(path) as file:
    ...         file.read()
    b'PK'
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder the system says so
        raise OSError(errno.EINVAL, "no regular file, which is not read; give the path of a file", str(path))
    return path.open("rb")


def is_of_content(error: Exception) -> bool:
    """Whether what was raised while a file was read may tell of what it holds, and not of memory or the machine.

    Examples
    --------
    >>> from lcnumba.formats.contents import is_of_content
    >>> is_of_content(EOFError()), is_of_content(MemoryError()), is_of_content(OSError(5, "Input/output error"))
    (True, False, False)
    """
    if isinstance(error, OSError):
        return error.errno in (None, errno.EINVAL)  # of a place that no file has, which a damaged one may name
    return not isinstance(error, MemoryError)


def described(path: str | os.PathLike[str]) -> str | None:
    """Return what a file is, and what reads it, as far as its first bytes, and a zip's names, tell; else None.

    Nothing in the file is trusted, and no more than its beginning and a zip's list of names is read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from lcnumba.formats import contents
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.npz")
    ...     _ = path.write_bytes(b"")
    ...     contents.described(path)
    'empty'
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - it may be a str
            return None
        with Path(path).open("rb") as file:
            start = file.read(64)
            if start.startswith(b"PK\x03\x04"):
                return _zip(zipfile.ZipFile(file).namelist())
    except Exception:  # noqa: BLE001 - whatever zipfile makes of a damaged file; nothing is known of it then
        return None
    if not start:
        return "empty"
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return f"an HDF5 file: if Keras wrote it, {KERAS}"
    if start.startswith(_PICKLES):
        return "a pickle, which is not read here: it can run any code. pickle.load or joblib.load do, if you trust it"
    return next((text for magic, text in _OTHERS if start.startswith(magic)), None)


def _zip(names: list[str]) -> str | None:
    """What a zip of these members is."""
    found = set(names[:MOST_MEMBERS])
    if "config.json" in found and "model.weights.h5" in found:
        return f"an archive of Keras: {KERAS}"
    if "config.npy" in found and all(name.startswith(("config.npy", "weight_", "state_")) for name in found):
        return OURS
    if found and all(name.endswith(".npy") for name in found):
        return "a plain .npz of arrays: numpy.load reads it, and set_weights of a layer or model takes arrays"
    if any(name.endswith("/data.pkl") for name in found):
        return "a file of torch: torch.load reads it, if you trust it, and set_weights takes its tensors as arrays"
    return None
