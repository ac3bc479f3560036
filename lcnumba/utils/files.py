"""Atomic writes, and checks that a file can be written."""

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
# The temporary name of a file with a longer name is a hash: names have at most 255 bytes, on some systems fewer.
LONGEST_STEM = 100


@contextmanager
def atomic_write(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside a file, which replaces the file if the block succeeds and is removed otherwise.

    Signals are deferred meanwhile, since zipfile replaces an interrupt by another error.
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
            _flush_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _check_folder(target: Path) -> None:
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))


def exists(path: PathLike) -> bool:
    """Whether a path exists; an OSError for one that cannot, such as a loop of links.

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
    """Raise an OSError if no file can be written at a path.

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
    with deferred():  # on some systems the file has a name meanwhile
        tempfile.TemporaryFile(dir=target.parent).close()


class TextFile:
    """A growing text file that is rewritten atomically, so that it is complete at any time.

    A device or a pipe is not replaced, but gets the new part of the text each time; for a pipe without a reader an
    OSError is raised. The constructor raises if the path cannot be written to.

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
        self._path, self._written = file_path(path).absolute(), 0  # the current folder may change
        self._stream: IO[str] | None = None
        mode = _mode(self._path)
        if mode is None or stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            check_writable(path)
            remove_stale_temp_files(path)
            return
        nonblocking = getattr(os, "O_NONBLOCK", 0)  # not on Windows
        descriptor = os.open(self._path, os.O_WRONLY | nonblocking | getattr(os, "O_NOCTTY", 0))
        if nonblocking:
            os.set_blocking(descriptor, True)
        self._stream = os.fdopen(descriptor, "w", errors="backslashreplace")

    def write(self, text: str) -> None:
        """Write the text, which starts with what was written before."""
        if self._stream is None:
            with atomic_write(self._path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            return
        new, self._written = text[self._written :], len(text)
        self._stream.write(new)
        self._stream.flush()

    def close(self) -> None:
        """Close a pipe or device, also one without a reader."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()


def _target(path: PathLike) -> Path:
    """The path to write, with links resolved; an OSError if a folder, device or pipe is there.

    These are not replaced: other programs may use them.
    """
    given = file_path(path)
    mode = _mode(given)
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if mode is not None and not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file, and not replaced; give the path of a file", str(path))
    return given.resolve()


def _mode(path: Path) -> int | None:
    """The mode of the file at a path, None if there is none; an OSError for a loop of links or too long a name."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _stem(target: Path) -> str:
    """The common part of a file's temporary names."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= LONGEST_STEM else hashlib.sha256(name).hexdigest()[:16]


def remove_stale_temp_files(path: PathLike) -> None:
    """Remove temporary files left by writers that were killed; no other process may be writing the file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from lcnumba.utils.files import remove_stale_temp_files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     left = pathlib.Path(folder, ".model.npz.0a1b2c3d")
    ...     left.touch()
    ...     remove_stale_temp_files(pathlib.Path(folder, "model.npz"))
    ...     left.exists()
    False
    """
    target = _target(path)
    for left in target.parent.glob(f".{glob.escape(_stem(target))}.{'[0-9a-f]' * 8}"):
        left.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Flush a folder to disk where that is possible, so that a new name survives a power loss."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems
        pass
    finally:
        os.close(descriptor)
