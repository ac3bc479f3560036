"""Models: `Sequential`, its backward, and its files."""

from typing import Any

from lcnumba.utils.messages import missing


def __getattr__(name: str) -> Any:
    raise missing(__name__, name)
