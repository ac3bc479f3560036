"""Atomic writes: a file is written completely or not at all, and a path is checked before the work."""

import errno
import glob
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lcnumba.runtime.signals import deferred
from lcnumba.utils.validation import file_path

__all__ = ["PathLike", "TextFile", "atomic_write", "check_writable", "exists", "remove_stale_temp_files"]

PathLike = str | os.PathLike[str]
# The temporary file of a longer name is named by its hash: file systems allow 255 bytes, or fewer.
MAX_STEM_BYTES = 100


@contextmanager
def atomic_write(path: PathLike) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces `path` when the block succeeds and is removed when it fails.

    Signals are deferred meanwhile: zipfile turns an interrupt into another error.
    """
    target = _target(path)
    _check_folder(target)
    temporary = target.with_name(f".{_stem(target)}.{secrets.token_hex(4)}")
    with deferred():
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
            _fsync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _check_folder(target: Path) -> None:
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))


def exists(path: PathLike) -> bool:
    """Return whether a path exists; an OSError for one that cannot be resolved, such as a loop of links.

    Examples
    --------
    >>> import tempfile
    >>> from lcnumba.utils.files import exists
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     exists(folder), exists(f"{folder}/model.npz")
    (True, False)
    """
    return _mode(file_path(path)) is not None


def check_writable(path: PathLike) -> None:
    """Raise an OSError if no file can be written to `path`; for use before a long computation.

    Examples
    --------
    >>> import tempfile
    >>> from lcnumba.utils.files import check_writable
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     check_writable(f"{folder}/model.npz")
    ...     try:
    ...         check_writable(folder)
    ...     except OSError as error:
    ...         type(error).__name__
    'IsADirectoryError'
    """
    target = _target(path)
    _check_folder(target)
    with deferred():  # TemporaryFile creates a named file on some systems
        tempfile.TemporaryFile(dir=target.parent).close()


class TextFile:
    """A growing text file: each `write` takes the whole text and replaces the file atomically.

    A device or pipe is not replaced; it gets the new part of each text. The constructor raises an OSError for a path
    that cannot be written to, and for a pipe without a reader.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from lcnumba.utils.files import TextFile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "table.csv")
    ...     file = TextFile(path)
    ...     file.write("a")
    ...     file.write("a,b")
    ...     file.close()
    ...     path.read_text()
    'a,b'
    """

    def __init__(self, path: PathLike) -> None:
        self._path, self._written = file_path(path).absolute(), 0  # independent of later chdir
        self._stream: IO[str] | None = None
        mode = _mode(self._path)
        if mode is None or stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            check_writable(path)
            remove_stale_temp_files(path)
            return
        nonblocking = getattr(os, "O_NONBLOCK", 0)  # missing on Windows
        descriptor = os.open(self._path, os.O_WRONLY | nonblocking | getattr(os, "O_NOCTTY", 0))
        if nonblocking:
            os.set_blocking(descriptor, True)
        self._stream = os.fdopen(descriptor, "w", errors="backslashreplace")

    def write(self, text: str) -> None:
        """Write the whole text, which must begin with the text of the previous call."""
        if self._stream is None:
            with atomic_write(self._path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            return
        new, self._written = text[self._written :], len(text)
        self._stream.write(new)
        self._stream.flush()

    def close(self) -> None:
        """Close a pipe or device, even if its reader has gone."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()


def _target(path: PathLike) -> Path:
    """Return the path to write to, with links resolved; an OSError for what is not a regular file.

    Devices and pipes are not replaced: programs that use them would find a file in their place.
    """
    given = file_path(path)
    mode = _mode(given)
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if mode is not None and not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file, so it is not replaced; give the path of a file", str(path))
    return given.resolve()


def _mode(path: Path) -> int | None:
    """Return the mode of a path, or None if it does not exist; an OSError for a loop of links or too long a name."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _stem(target: Path) -> str:
    """Return the common part of a file's temporary names, of bounded length."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= MAX_STEM_BYTES else hashlib.sha256(name).hexdigest()[:16]


def remove_stale_temp_files(path: PathLike) -> None:
    """Remove temporary files that killed writers of `path` left behind; no other process may be writing it.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from lcnumba.utils.files import remove_stale_temp_files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stale = pathlib.Path(folder, ".model.npz.0a1b2c3d")
    ...     stale.touch()
    ...     remove_stale_temp_files(pathlib.Path(folder, "model.npz"))
    ...     stale.exists()
    False
    """
    target = _target(path)
    for stale in target.parent.glob(f".{glob.escape(_stem(target))}.{'[0-9a-f]' * 8}"):
        stale.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    """Flush a directory entry to disk, so that the file survives a power failure."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # directories cannot be opened on Windows
        return
    try:
        os.fsync(descriptor)
    except OSError:  # or not be flushed on some file systems
        pass
    finally:
        os.close(descriptor)
