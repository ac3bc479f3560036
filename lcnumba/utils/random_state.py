"""The state of NumPy's random generators, for files, and validated before it is restored."""

from typing import Any

import numpy as np

__all__ = ["generator_state", "restored_generator"]


_GENERATORS = {kind.__name__: kind for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937,
                                                np.random.Philox, np.random.SFC64)}  # fmt: skip


def generator_state(rng: np.random.Generator) -> Any:
    """Return the state of a random generator, as a dict."""
    return rng.bit_generator.state


def restored_generator(state: Any, like: np.random.Generator | None = None) -> np.random.Generator:
    """Return a random generator with a given state, of the same kind as `like` if that is given.

    NumPy does not validate all states, and reads out of bounds with some; so everything is checked here.

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
    if not _is_valid(state, bits.state, ""):
        raise ValueError(f"invalid random state for {name}: {state!r}")
    bits.state = state
    return np.random.Generator(bits)


# The largest values of numbers in the states.
_MAXIMA = {"pos": 624, "buffer_pos": 4, "has_uint32": 1, "uinteger": 2**32 - 1}


def _is_valid(state: Any, model: Any, name: str) -> bool:
    """Whether a state has the structure of another one of its kind, and numbers in range."""
    if isinstance(model, dict):
        return (
            isinstance(state, dict)
            and state.keys() == model.keys()
            and all(_is_valid(state[key], model[key], key) for key in model)
        )
    if isinstance(model, np.ndarray):
        return isinstance(state, np.ndarray) and state.shape == model.shape and state.dtype == model.dtype
    if isinstance(model, str):
        return bool(state == model)
    return type(state) is int and 0 <= state <= _MAXIMA.get(name, 2**128 - 1)
