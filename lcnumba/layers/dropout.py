"""The layer that drops numbers in training."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lcnumba.layers.registry import STATELESS_COMMON, KerasSettings, register_layer
from lcnumba.layers.stateless import Stateless, StatelessBackward, as_floats
from lcnumba.runtime.locks import Mutex
from lcnumba.utils import random_state
from lcnumba.utils.deprecation import Renamed
from lcnumba.utils.messages import public, public_class
from lcnumba.utils.types import Array
from lcnumba.utils.validation import generator, integer, real

__all__ = ["Dropout"]


@register_layer(
    keras=KerasSettings(
        STATELESS_COMMON | {"rate", "seed", "noise_shape"}, STATELESS_COMMON - {"name"} | {"noise_shape"}
    )
)
@public_class
class Dropout(Stateless):
    """In training, each number is dropped with probability `rate`, and the others grow by 1 / (1 - rate).

    Plain calls, for inference, return x.

    Parameters
    ----------
    rate : float
        At least 0 and below 1.
    seed : int, optional
        Of the layer's own random numbers.
    name : str, optional
        "dropout", "dropout_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For a parameter that is no such thing.

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

    def __init__(self, rate: float, *, seed: int | None = None, name: str | None = None) -> None:
        super().__init__(name, "dropout")
        self._rate = real("rate", rate)
        if not 0 <= self._rate < 1:
            raise ValueError(f"rate={rate!r} cannot be used; give a number of at least 0 and below 1")
        self.seed = None if seed is None else integer("seed", seed, 0)
        self._rng = generator(self.seed)
        self._drawing = Mutex()

    @property
    def rate(self) -> float:
        """The probability, fixed by the constructor."""
        return self._rate

    @public
    def __call__(self, x: Any) -> Any:
        """Return x, for inference.

        Parameters
        ----------
        x : array
            Any array-API array on the CPU, or nested lists; float64 stays, all else becomes float32.

        Returns
        -------
        array of the kind of x
            A fresh array.

        Raises
        ------
        TypeError
            If x is no array of real numbers on the CPU, or of a dtype that is not computed in.
        """
        values, like = as_floats(x)
        return like(values.copy())

    @public
    def forward(self, x: Any) -> tuple[Any, StatelessBackward]:
        """Return y and the pullback of this very call, which drops the same numbers, for training.

        Parameters
        ----------
        x : array
            Any array-API array on the CPU, or nested lists; float64 stays, all else becomes float32.

        Returns
        -------
        y : array of the kind of x
            A fresh array.
        backward : callable
            ``backward(dy)`` returns dx and None, for there are no gradients of weights.

        Raises
        ------
        TypeError
            If x is no array of real numbers on the CPU, or of a dtype that is not computed in.
        """
        values, like = as_floats(x, 2)
        with self._drawing.lock:
            kept = self._rng.random(values.shape, np.float32) >= self.rate
        factor = values.dtype.type(1 / (1 - self.rate))

        def drop(array: Array) -> Array:
            return np.where(kept, array * factor, array.dtype.type(0))

        return like(drop(values)), StatelessBackward(values, drop, cannot_fail=True)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, "rate": self.rate, "seed": self.seed}

    def get_training_state(self) -> Any:
        """Return the state of the layer's random numbers, for a checkpoint."""
        return random_state.generator_state(self._rng)

    def plan_training_state(self, state: Any) -> Callable[[], None]:
        """Check what `get_training_state` returned; return the function that takes it over."""
        rng = random_state.restore_generator(state, like=self._rng)

        def run() -> None:
            self._rng = rng

        return run

    prepare_training_state = Renamed("plan_training_state")
