"""Dropout: sets random elements to 0 in training."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lcnumba.layers.registry import STATELESS_COMMON, KerasSettings, register_layer
from lcnumba.layers.stateless import Stateless, StatelessBackward, as_floats
from lcnumba.runtime.locks import Mutex
from lcnumba.utils import random_state
from lcnumba.utils.deprecation import Renamed
from lcnumba.utils.messages import public, public_class
from lcnumba.utils.types import Array, Mask
from lcnumba.utils.validation import generator, integer, real

__all__ = ["Dropout"]


@register_layer(
    keras=KerasSettings(
        STATELESS_COMMON | {"rate", "seed", "noise_shape"}, STATELESS_COMMON - {"name"} | {"noise_shape"}
    )
)
@public_class
class Dropout(Stateless):
    """In training, set each element to 0 with probability `rate` and scale the others by 1 / (1 - rate).

    A plain call, for inference, returns x.

    Parameters
    ----------
    rate : float
        In [0, 1).
    seed : int, optional
        Seed of the layer's random generator.
    name : str, optional
        "dropout", "dropout_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> layer, x = lc.Dropout(0.75, seed=0), np.ones((100, 10))
    >>> y, backward = layer.forward(x)
    >>> np.unique(y)
    array([0., 4.])
    >>> np.array_equal(backward(x)[0], y), np.array_equal(layer(x), x)
    (True, True)
    """

    __module__ = "lcnumba"

    def __init__(self, rate: float, *, seed: int | None = None, name: str | None = None) -> None:
        super().__init__(name, "dropout")
        self._rate = real("rate", rate)
        if not 0 <= self._rate < 1:
            raise ValueError(f"rate must be in [0, 1), got {rate!r}")
        self.seed = None if seed is None else integer("seed", seed, 0)
        self._rng = generator(self.seed)
        self._rng_lock = Mutex()

    @property
    def rate(self) -> float:
        """The probability; read-only."""
        return self._rate

    @public
    def __call__(self, x: Any) -> Any:
        """Return x, for inference.

        Parameters
        ----------
        x : array
            Any array-API array on the CPU, or nested lists; float64 is kept, all else is cast to float32.

        Returns
        -------
        array of the type of x
            A new array.

        Raises
        ------
        TypeError
            If x is not an array of real numbers on the CPU, or its dtype is not supported.
        """
        values, like = as_floats(x)
        return like(values.copy())

    @public
    def forward(self, x: Any) -> tuple[Any, StatelessBackward]:
        """Return y and the pullback of this call, which drops the same elements, for training.

        Parameters
        ----------
        x : array
            Any array-API array on the CPU, or nested lists; float64 is kept, all else is cast to float32.

        Returns
        -------
        y : array of the type of x
            A new array.
        backward : callable
            ``backward(dy)`` returns dx and None: there are no weights.

        Raises
        ------
        TypeError
            If x is not an array of real numbers on the CPU, or its dtype is not supported.
        """
        values, like = as_floats(x, 2)
        with self._rng_lock.lock:
            mask = self._draw(values.shape)
        factor = values.dtype.type(1 / (1 - self.rate))

        def drop(array: Array) -> Array:
            return np.where(mask, array * factor, array.dtype.type(0))

        return like(drop(values)), StatelessBackward(values, drop, cannot_fail=True)

    def skip(self, shape: tuple[int, ...]) -> None:
        """Advance the random generator as a forward call of an input of this shape does."""
        with self._rng_lock.lock:
            self._draw(shape)

    def _draw(self, shape: tuple[int, ...]) -> Mask:
        """Which elements are kept."""
        kept: Mask = self._rng.random(shape, np.float32) >= self.rate
        return kept

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, "rate": self.rate, "seed": self.seed}

    def get_training_state(self) -> Any:
        """Return the state of the layer's random generator, for a checkpoint."""
        return random_state.generator_state(self._rng)

    def plan_training_state(self, state: Any) -> Callable[[], None]:
        """Check a result of `get_training_state`; return a function that restores it."""
        rng = random_state.restore_generator(state, like=self._rng)

        def run() -> None:
            self._rng = rng

        return run

    prepare_training_state = Renamed("plan_training_state")
