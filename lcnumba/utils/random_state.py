"""The state of NumPy's random generators, as it can be written, and checked before it is taken over."""

from typing import Any

import numpy as np

__all__ = ["generator_state", "restored_generator"]


_GENERATORS = {kind.__name__: kind for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937,
                                                np.random.Philox, np.random.SFC64)}  # fmt: skip


def generator_state(rng: np.random.Generator) -> Any:
    """Return the state of a random generator, as it can be written."""
    return rng.bit_generator.state


def restored_generator(state: Any, like: np.random.Generator | None = None) -> np.random.Generator:
    """Return a random generator that goes on from a state, of the kind of another one if that is given.

    NumPy takes some states as they are, and later reads wherever they point to; so everything is looked at here.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.utils import random_state
    >>> rng = np.random.default_rng(0)
    >>> twin = random_state.restored_generator(random_state.generator_state(rng))
    >>> bool(rng.integers(1000) == twin.integers(1000))
    True
    """
    name = str(state.get("bit_generator") if isinstance(state, dict) else None)
    known = _GENERATORS if like is None else {type(like.bit_generator).__name__: type(like.bit_generator)}
    if name not in known:
        raise ValueError(f"random state of {name!r} is not known; give one of {', '.join(known)}")
    bits = known[name]()
    if not _possible(state, bits.state, ""):
        raise ValueError(f"random state of {name} is none: {state!r}")
    bits.state = state
    return np.random.Generator(bits)


# The largest values of single numbers in states of random generators.
_MOST = {"pos": 624, "buffer_pos": 4, "has_uint32": 1, "uinteger": 2**32 - 1}


def _possible(state: Any, model: Any, name: str) -> bool:
    """Whether a state has the form of another one of its kind, and numbers within their range."""
    if isinstance(model, dict):
        return (
            isinstance(state, dict)
            and state.keys() == model.keys()
            and all(_possible(state[key], model[key], key) for key in model)
        )
    if isinstance(model, np.ndarray):
        return isinstance(state, np.ndarray) and state.shape == model.shape and state.dtype == model.dtype
    if isinstance(model, str):
        return bool(state == model)
    return type(state) is int and 0 <= state <= _MOST.get(name, 2**128 - 1)
