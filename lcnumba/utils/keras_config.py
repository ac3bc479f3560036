"""What Keras' configuration file says of defaults: the data format."""

import functools
import json
import os
import stat
import warnings
from pathlib import Path

__all__ = ["FORMATS", "data_format"]

FORMATS = ("channels_last", "channels_first")
# Such a file holds four entries; a longer one is something else.
_LONGEST = 1 << 16


def data_format() -> str:
    """Return the data format of layers that are not given any.

    It is the entry "image_data_format" of ``$KERAS_HOME/keras.json``, by default
    ``~/.keras/keras.json``, which is read once and never written; without such a file "channels_last".

    Warns
    -----
    UserWarning
        If there is a file that cannot be read, or names no such format.
    """
    home = os.environ.get("KERAS_HOME")
    try:
        return _of_file(Path(home, "keras.json") if home else Path.home() / ".keras" / "keras.json")
    except RuntimeError:  # there is no home
        return FORMATS[0]


@functools.cache
def _of_file(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            return _first(path, "it is no file")
        with path.open("rb") as file:
            content = file.read(_LONGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return FORMATS[0]
    except (OSError, ValueError) as error:
        return _first(path, str(error))
    try:
        settings = json.loads(content[:_LONGEST])
    except (ValueError, RecursionError) as error:
        return _first(path, str(error))
    found = settings.get("image_data_format", FORMATS[0]) if isinstance(settings, dict) else settings
    if not isinstance(found, str) or found.lower() not in FORMATS:
        return _first(path, f"image_data_format is {found!r:.80}, and neither 'channels_last' nor 'channels_first'")
    return found.lower()


def _first(path: Path, why: str) -> str:
    warnings.warn(f"{path} is passed over, and data_format is {FORMATS[0]!r}: {why}", UserWarning, stacklevel=2)
    return FORMATS[0]
