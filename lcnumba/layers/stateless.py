"""Base class of layers without weights."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np

from lcnumba.layers.naming import layer_name
from lcnumba.runtime.memory import require
from lcnumba.utils import keras_config
from lcnumba.utils.arrays import as_numpy, fresh, normalise
from lcnumba.utils.deprecation import Renamed
from lcnumba.utils.display import PublicNames
from lcnumba.utils.messages import public
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import any_shape, arguments, choice, input_shape

__all__ = ["Computed", "Spatial", "Stateless", "StatelessBackward", "as_floats"]


class Stateless(PublicNames):
    """A layer without weights; the output has the shape of the input unless a subclass overrides it."""

    def __init__(self, name: str | None, default: str) -> None:
        self._name = layer_name(name, default)
        self._sample_shape: Shape | None = None

    @property
    def name(self) -> str:
        """The name; read-only."""
        return self._name

    def build(self, input_shape: Shape) -> None:
        """Fix the shape of a sample; there are no weights to create."""
        self.compute_output_shape(input_shape)
        self._sample_shape = any_shape(input_shape)[1:]

    def plan_unbuild(self) -> Callable[[], None]:
        """Return a function that restores the present sample shape; see `Trainable.plan_unbuild`."""
        return partial(setattr, self, "_sample_shape", self._sample_shape)

    @property
    def built(self) -> bool:
        """Whether `build` has been called."""
        return self._sample_shape is not None

    @property
    def input_shape(self) -> Shape:
        """Shape of the input, None for the batch."""
        if self._sample_shape is None:
            raise AttributeError(f"the input shape of {self.name!r} is not known yet; build the layer first")
        return None, *self._sample_shape

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input shape."""
        return any_shape(input_shape)

    def step(self, grads: None, lr: float) -> None:
        """Do nothing: the layer has no weights."""

    def count_params(self) -> int:
        """Return 0."""
        return 0

    def get_weights(self) -> list[Array]:
        """Return no weights."""
        return []

    def set_weights(self, weights: list[Array]) -> None:
        """Accept an empty list only."""
        if not isinstance(weights, list | tuple):
            raise TypeError(f"weights is a {type(weights).__name__}; give a list of arrays")
        if weights:
            raise ValueError(f"{len(weights)} weights given; {type(self).__name__} has none")

    prepare_unbuild = Renamed("plan_unbuild")

    def __repr__(self) -> str:
        """Class, name and settings."""
        settings = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items() if key != "name")
        return f"<{type(self).__name__} {self.name!r}: {settings}>"

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Create a layer from the result of `get_config`.

        Parameters
        ----------
        config : dict
            Arguments of the constructor.

        Returns
        -------
        layer

        Raises
        ------
        TypeError, ValueError
            As for the constructor.
        """
        return cls(**arguments(config))

    def _check_built_for(self, shape: tuple[int, ...]) -> None:
        """Raise if the layer was built for samples of another shape than those of an input."""
        if self._sample_shape not in (None, shape[1:]):
            raise ValueError(f"x has shape {shape}; {self.name!r} was built for {self.input_shape}")


class Computed(Stateless):
    """A layer without weights whose output is computed in float32 or float64, by the method `_apply`."""

    @public
    def __call__(self, x: Any) -> Any:
        """Return y, for inference.

        Parameters
        ----------
        x : array, (N, ...)
            Any array-API array on the CPU, or nested lists; float64 is kept, all else is cast to float32.

        Returns
        -------
        array of the type of x
            A new array.

        Raises
        ------
        TypeError
            If x is not an array of real numbers on the CPU, or its dtype is not supported.
        ValueError
            If its shape does not fit.
        """
        return self.forward(x)[0]

    @public
    def forward(self, x: Any) -> tuple[Any, "StatelessBackward"]:
        """Return y and the pullback of this call, for training; leave x and y unchanged until it has run.

        Parameters
        ----------
        x : array, (N, ...)
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
        ValueError
            If its shape does not fit.
        """
        values, like = as_floats(x)
        if values.ndim < 1:
            raise ValueError("x has 0 dimensions; its first axis must be the batch")
        self._check_built_for(values.shape)
        size = math.prod(size or 0 for size in self.compute_output_shape(values.shape))
        require(size * values.itemsize, f"the output of {self!r}", "give fewer samples at a time")
        with np.errstate(all="ignore"):  # what is not finite stays so
            y, vjp = self._apply(values)

        def quiet(dy: Array) -> Array:
            with np.errstate(all="ignore"):
                return vjp(dy)

        return like(fresh(y, values)), StatelessBackward(y, quiet, cannot_fail=True)

    def _apply(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        """Y, and the function that returns dx of dy."""
        raise NotImplementedError


class Spatial(Computed):
    """A layer that treats spatial axes, which follow from `data_format`, other than the channels."""

    _rank: ClassVar[int]

    def __init__(self, name: str | None, default: str, data_format: Any) -> None:
        super().__init__(name, default)
        self._data_format = choice(
            "data_format", keras_config.data_format() if data_format is None else data_format, keras_config.FORMATS
        )
        first = 1 if self._data_format == "channels_last" else 2
        self._axes = tuple(range(first, first + self._rank))

    def _checked_shape(self, shape: Any) -> Shape:
        """The input shape; raise unless it is one, fully defined but for the batch."""
        sizes = ("steps",) if self._rank == 1 else ("height", "width")
        if self._data_format == "channels_last":
            return input_shape(shape, ("batch", *sizes, "channels"))
        return input_shape(shape, ("batch", "channels", *sizes))


def as_floats(x: Any, copies: int = 1) -> tuple[Array, Callable[[Array], Any]]:
    """The input as float32, or float64 if it is that; raise unless there is memory for `copies` copies."""
    given, like = as_numpy("x", x)
    double = given.dtype.newbyteorder("=") == np.float64
    values = normalise("x", given, np.dtype(np.float64 if double else np.float32))
    require(copies * values.nbytes, "the output with its temporary arrays", "give fewer samples at a time")
    return values, like


class StatelessBackward(PublicNames):
    """The pullback of a layer without weights."""

    def __init__(self, like: Array, vjp: Callable[[Array], Array], cannot_fail: bool) -> None:
        self._shape, self._dtype, self._vjp, self._cannot_fail = like.shape, like.dtype, vjp, cannot_fail

    def __repr__(self) -> str:
        """The shape that it takes."""
        return f"<{type(self).__name__}: dy {self._shape} {self._dtype}>"

    def __call__(self, dy: Any) -> tuple[Any, None]:
        """Return (dx, None): there are no weights."""
        given, like = as_numpy("dy", dy)
        if given.shape != self._shape:
            raise ValueError(f"dy has shape {given.shape}; give the shape of y, {self._shape}")
        dx = self._vjp(normalise("dy", given, self._dtype))
        # A linear activation returns dy itself.
        return like(fresh(dx, given)), None

    def plan_step(self, lr: float) -> Callable[[Any, bool], Any] | None:
        """Return a function ``(dy, wants_dx) -> dx``; None if user code is involved."""
        return (lambda dy, wants_dx: self(dy)[0] if wants_dx else None) if self._cannot_fail else None
