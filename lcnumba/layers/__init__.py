"""The layers, one a file, and what they are made of."""

from typing import Any

from lcnumba.utils.messages import missing


def __getattr__(name: str) -> Any:
    raise missing(__name__, name)
