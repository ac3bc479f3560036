"""Files that are written whole or not at all, and folders that are looked at first."""

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
# Longer names of files get a temporary one made of their hash: a name may have 255 bytes, or fewer.
LONGEST_STEM = 100


@contextmanager
def atomic_write(path: PathLike) -> Iterator[Path]:
    """Give a new place beside a file to write to, which takes the file's place if all goes well.

    Signals wait meanwhile: zipfile makes another error of an interrupt, and what is left over is removed in any case.
    """
    target = _place(path)
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
    """Whether a path leads to anything; an OSError for one that leads nowhere, such as a loop of links.

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
    """Raise an OSError if no file can be written there, before the work that it is for.

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
    target = _place(path)
    _check_folder(target)
    with deferred():  # where files without a name are not known, one with a name is made
        tempfile.TemporaryFile(dir=target.parent).close()


class TextFile:
    """A text that is written as a whole, again and again as it grows: in place of a file, complete at any time.

    A device or a pipe stays what it is, and gets what is new each time; one that nobody reads is an OSError, and
    not waited for. What cannot be written to is found by the constructor.

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
        self._path, self._written = file_path(path).absolute(), 0  # also if the folder changes
        self._stream: IO[str] | None = None
        mode = _mode(self._path)
        if mode is None or stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            check_writable(path)
            remove_stale_temp_files(path)
            return
        nonblocking = getattr(os, "O_NONBLOCK", 0)  # which Windows has not
        descriptor = os.open(self._path, os.O_WRONLY | nonblocking | getattr(os, "O_NOCTTY", 0))
        if nonblocking:
            os.set_blocking(descriptor, True)
        self._stream = os.fdopen(descriptor, "w", errors="backslashreplace")

    def write(self, text: str) -> None:
        """Write the whole text, of which a pipe has the beginning already."""
        if self._stream is None:
            with atomic_write(self._path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            return
        new, self._written = text[self._written :], len(text)
        self._stream.write(new)
        self._stream.flush()

    def close(self) -> None:
        """Close a pipe or device, also one that nobody reads any more."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()


def _place(path: PathLike) -> Path:
    """Where a file is written: what a link points to is, and the link stays. An OSError if that can be no file.

    What is there and no regular file (a device, a pipe) is not replaced: programs would wonder at a file in its place.
    """
    given = file_path(path)
    mode = _mode(given)
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if mode is not None and not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "no regular file, which is not replaced; give the path of a file", str(path))
    return given.resolve()


def _mode(path: Path) -> int | None:
    """The mode of what a path leads to, None if that is nothing yet; an OSError for a loop, or too long a name."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _stem(target: Path) -> str:
    """What the temporary names of a file have in common, however long its own is."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= LONGEST_STEM else hashlib.sha256(name).hexdigest()[:16]


def remove_stale_temp_files(path: PathLike) -> None:
    """Remove what writers of a file left beside it when they were killed; nobody may be writing it now.

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
    target = _place(path)
    for left in target.parent.glob(f".{glob.escape(_stem(target))}.{'[0-9a-f]' * 8}"):
        left.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Let a name outlive a loss of power, where folders can be flushed."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows has no such thing
        return
    try:
        os.fsync(descriptor)
    except OSError:  # nor have some file systems
        pass
    finally:
        os.close(descriptor)
