"""Layers without weights that work on single numbers: `Activation` and `Dropout`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba import activations, checkpoints
from lcnumba.arrays import fresh, ingest, normalise
from lcnumba.checks import generator, integer, real
from lcnumba.limits import require
from lcnumba.locks import Mutex
from lcnumba.messages import public, public_class
from lcnumba.weightless import Weightless

__all__ = ["Activation", "Dropout"]

Array = npt.NDArray[Any]


def _floats(x: Any, copies: int = 1) -> tuple[Array, Callable[[Array], Any]]:
    """The input as float32 or, if it is that, float64, of which there is memory for so many copies."""
    given, like = ingest("x", x)
    double = given.dtype.newbyteorder("=") == np.float64
    values = normalise("x", given, np.dtype(np.float64 if double else np.float32))
    require(copies * values.nbytes, "the output, with what it takes,", "give fewer samples at a time")
    return values, like


class _Pullback:
    """The pullback of a layer without weights."""

    def __init__(self, like: Array, pull: Callable[[Array], Array], sure: bool) -> None:
        self._shape, self._dtype, self._pull, self._sure = like.shape, like.dtype, pull, sure

    def __call__(self, dy: Any) -> tuple[Any, None]:
        """Return dx of dy, and no gradients."""
        given, like = ingest("dy", dy)
        if given.shape != self._shape:
            raise ValueError(f"dy has shape {given.shape}; give the shape of y, {self._shape}")
        dx = self._pull(normalise("dy", given, self._dtype))
        # Of a linear activation, dy is all there is to return.
        return like(fresh(dx, given)), None

    def plan_step(self, lr: float) -> Callable[[Any, bool], Any] | None:
        """Return the function (dy, wants_dx) -> dx; None if code of users has a part in it."""
        return (lambda dy, wants_dx: self(dy)[0] if wants_dx else None) if self._sure else None


@public_class
class Activation(Weightless):
    """y = activation(x), over the last axis where it is a softmax.

    Parameters
    ----------
    activation : str, dict or object
        As for `LocallyConnected2D`.
    name : str, optional
        "activation", "activation_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For a parameter that is no such thing.

    Examples
    --------
    >>> import lcnumba as lc
    >>> y, backward = lc.Activation("relu").forward([[-1.0, 2.0]])
    >>> y
    array([[0., 2.]])
    >>> backward([[5.0, 7.0]])  # no gradients: there are no weights
    (array([[0., 7.]]), None)
    """

    def __init__(self, activation: Any, *, name: str | None = None) -> None:
        super().__init__(name, "activation")
        self._activation = activations.get(activation)

    @property
    def activation(self) -> activations.Activation:
        """The function, fixed by the constructor."""
        return self._activation

    @public
    def __call__(self, x: Any) -> Any:
        """Return y, for inference.

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
        return self.forward(x)[0]

    @public
    def forward(self, x: Any) -> tuple[Any, _Pullback]:
        """Return y and the pullback of this very call, for training; leave y unchanged until it has run.

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
        values, like = _floats(x, 2 if getattr(self.activation, "uses_input", False) else 1)
        y, kept = activations.apply(self.activation, np.array(values, order="C"), keeps=True)

        def pull(dy: Array) -> Array:
            return activations.pull(self.activation, dy, kept)

        return like(y), _Pullback(y, pull, activations.is_built_in(self.activation))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, "activation": activations.serialize(self.activation)}


@public_class
class Dropout(Weightless):
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
        values, like = _floats(x)
        return like(values.copy())

    @public
    def forward(self, x: Any) -> tuple[Any, _Pullback]:
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
        values, like = _floats(x, 2)
        with self._drawing.lock:
            kept = self._rng.random(values.shape, np.float32) >= self.rate
        factor = values.dtype.type(1 / (1 - self.rate))

        def drop(array: Array) -> Array:
            return np.where(kept, array * factor, array.dtype.type(0))

        return like(drop(values)), _Pullback(values, drop, sure=True)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, "rate": self.rate, "seed": self.seed}

    def get_training_state(self) -> Any:
        """Return the state of the layer's random numbers, for a checkpoint."""
        return checkpoints.generator_state(self._rng)

    def prepare_training_state(self, state: Any) -> Callable[[], None]:
        """Check what `get_training_state` returned; return the function that takes it over."""
        rng = checkpoints.restored_generator(state, like=self._rng)

        def commit() -> None:
            self._rng = rng

        return commit
