"""The layers, one per file, and their base classes.

`registry.py` says how one is added.
"""

from typing import Any

from lcnumba.utils.messages import missing


def __getattr__(name: str) -> Any:
    raise missing(__name__, name)
