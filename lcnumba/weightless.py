"""What layers without weights have in common."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy.typing as npt

from lcnumba.checks import any_shape
from lcnumba.naming import layer_name

__all__ = ["Weightless"]

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]


class Weightless:
    """A layer of which there is nothing to step; shapes stay unless a subclass says otherwise."""

    def __init__(self, name: str | None, default: str) -> None:
        self._name = layer_name(name, default)
        self._sample_shape: Shape | None = None

    @property
    def name(self) -> str:
        """The name, fixed by the constructor."""
        return self._name

    def build(self, input_shape: Shape) -> None:
        """Hold the layer to this shape of a sample; it has no weights."""
        self.compute_output_shape(input_shape)
        self._sample_shape = any_shape(input_shape)[1:]

    def prepare_unbuild(self) -> Callable[[], None]:
        """Return the function that lets go of the shape again; as of layers with weights."""
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
        """Take no weights."""
        if not isinstance(weights, list | tuple):
            raise TypeError(f"weights is a {type(weights).__name__}; give a list of arrays")
        if weights:
            raise ValueError(f"{len(weights)} weights given; {type(self).__name__} has none")

    def __repr__(self) -> str:
        """Class and name."""
        return f"<{type(self).__name__} {self.name!r}>"
