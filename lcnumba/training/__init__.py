"""The training loop of `Sequential.fit` (`loop.py`), a step on one batch (`step.py`), and what they need."""

from typing import Any

from lcnumba.runtime.signals import deferred
from lcnumba.utils.messages import missing, warn


def __getattr__(name: str) -> Any:
    # Names that docstrings of version 0.1.0 gave to what callbacks receive.
    if name not in ("History", "Run"):
        raise missing(__name__, name)
    with deferred():
        from lcnumba.training import run

    warn(f"lcnumba.training.{name} is deprecated; use lcnumba.training.run.{name}", DeprecationWarning)
    return getattr(run, name)
