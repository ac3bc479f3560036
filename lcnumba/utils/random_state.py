"""States of NumPy random generators: serialized for checkpoints, and validated before they are restored."""

from typing import Any

import numpy as np

__all__ = ["generator_state", "restore_generator"]


_GENERATORS = {kind.__name__: kind for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937,
                                                np.random.Philox, np.random.SFC64)}  # fmt: skip


def generator_state(rng: np.random.Generator) -> Any:
    """Return the state of a random generator as serializable values."""
    return rng.bit_generator.state


def restore_generator(state: Any, like: np.random.Generator | None = None) -> np.random.Generator:
    """Return a random generator with the given state, whose bit generator must be that of `like` if given.

    Every value is validated here: NumPy accepts positions out of range, and would read out of bounds.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.utils import random_state
    >>> rng = np.random.default_rng(0)
    >>> twin = random_state.restore_generator(random_state.generator_state(rng))
    >>> bool(rng.integers(1000) == twin.integers(1000))
    True
    """
    name = str(state.get("bit_generator") if isinstance(state, dict) else None)
    known = _GENERATORS if like is None else {type(like.bit_generator).__name__: type(like.bit_generator)}
    if name not in known:
        raise ValueError(f"random state has bit_generator={name!r}; must be one of {', '.join(known)}")
    bits = known[name]()
    if not _is_valid(state, bits.state, ""):
        raise ValueError(f"random state of {name} is invalid: {state!r}")
    bits.state = state
    return np.random.Generator(bits)


# Maximum values of the integers in a state.
_MAX_VALUES = {"pos": 624, "buffer_pos": 4, "has_uint32": 1, "uinteger": 2**32 - 1}


def _is_valid(state: Any, template: Any, name: str) -> bool:
    """Return whether a state has the structure of the template, with integers in range."""
    if isinstance(template, dict):
        return (
            isinstance(state, dict)
            and state.keys() == template.keys()
            and all(_is_valid(state[key], template[key], key) for key in template)
        )
    if isinstance(template, np.ndarray):
        return isinstance(state, np.ndarray) and state.shape == template.shape and state.dtype == template.dtype
    if isinstance(template, str):
        return bool(state == template)
    return type(state) is int and 0 <= state <= _MAX_VALUES.get(name, 2**128 - 1)
