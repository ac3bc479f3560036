"""The default data format, from Keras' configuration file."""

import functools
import json
import os
import stat
import warnings
from pathlib import Path

__all__ = ["FORMATS", "data_format"]

FORMATS = ("channels_last", "channels_first")
# In bytes; the file has four entries, and longer ones are not read.
_LONGEST = 1 << 16


def data_format() -> str:
    """Return the default data format of layers.

    It is the entry "image_data_format" of ``$KERAS_HOME/keras.json``, by default
    ``~/.keras/keras.json``, which is read once and never written; without that file "channels_last".

    Warns
    -----
    UserWarning
        If the file cannot be read, or the format is not known.
    """
    home = os.environ.get("KERAS_HOME")
    try:
        return _of_file(Path(home, "keras.json") if home else Path.home() / ".keras" / "keras.json")
    except RuntimeError:  # no home folder
        return FORMATS[0]


@functools.cache
def _of_file(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would block
            return _default(path, "not a regular file")
        with path.open("rb") as file:
            content = file.read(_LONGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return FORMATS[0]
    except (OSError, ValueError) as error:
        return _default(path, str(error))
    try:
        settings = json.loads(content[:_LONGEST])
    except (ValueError, RecursionError) as error:
        return _default(path, str(error))
    found = settings.get("image_data_format", FORMATS[0]) if isinstance(settings, dict) else settings
    if not isinstance(found, str) or found.lower() not in FORMATS:
        return _default(path, f"image_data_format is {found!r:.80}, neither 'channels_last' nor 'channels_first'")
    return found.lower()


def _default(path: Path, why: str) -> str:
    warnings.warn(f"ignoring {path}, using data_format={FORMATS[0]!r}: {why}", UserWarning, stacklevel=2)
    return FORMATS[0]
