"""The layers, one per file, and their base classes.

A layer with weights derives from `Trainable` in `base.py`, as `dense.py` does, one without from the base class in
`stateless.py`; both are decorated with `register_layer`.
"""

from typing import Any

from lcnumba.utils.messages import missing


def __getattr__(name: str) -> Any:
    raise missing(__name__, name)
