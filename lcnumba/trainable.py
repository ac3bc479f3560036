"""What layers with parameters have in common: Keras' surface over `lcnumba.parameters`."""

from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from lcnumba.checks import boolean
from lcnumba.naming import layer_name
from lcnumba.optimizers import Optimizer
from lcnumba.parameters import Gradients, Parameters

__all__ = ["Trainable"]

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]


class Trainable:
    """Base of layers that hold a kernel and perhaps a bias.

    A subclass names its config entries in `_rules`, each with the function that checks a value;
    they are settable until the layer is built and locked from then on.
    """

    _rules: ClassVar[dict[str, Callable[[Any, Any], Any]]] = {}
    _parameters: Parameters
    dtype: str

    def __init__(self, name: str | None, default_name: str, trainable: bool, optimizer: Any, rng: Any) -> None:
        self.name = layer_name(name, default_name)
        self._parameters = Parameters(f"{type(self).__name__} {self.name!r}", optimizer)
        self.trainable = trainable
        self._rng = np.random.default_rng(rng)
        self._given_input_shape: Shape | None = None
        self._built_input_shape: Shape | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Check config entries, and refuse to change them once the layer is built."""
        rule = self._rules.get(name)
        if rule is not None:
            if self.built:
                raise AttributeError(
                    f"{name} of {type(self).__name__} {self.name!r} is locked: the layer has been built. "
                    f"Make a new layer: from_config({{**layer.get_config(), {name!r}: ...}})"
                )
            value = rule(self, value)
        object.__setattr__(self, name, value)

    @property
    def built(self) -> bool:
        """Whether the layer has weights."""
        return "_parameters" in self.__dict__ and self._parameters.built

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype)

    @property
    def trainable(self) -> bool:
        """Whether `step` changes the weights; may be set at any time."""
        return self._parameters.trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._parameters.trainable = boolean("trainable", value)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that `step` runs; setting it forgets the state of the last one."""
        return self._parameters.optimizer

    @optimizer.setter
    def optimizer(self, value: Any) -> None:
        self._parameters.optimizer = value

    @property
    def input_shape(self) -> Shape:
        """Shape of the input, None for the batch."""
        shape = self._built_input_shape or self._given_input_shape
        if shape is None:
            raise AttributeError(f"the input shape of {self.name!r} is not known yet; call or build the layer first")
        return shape

    @property
    def output_shape(self) -> Shape:
        """Shape of the output, None for the batch."""
        return self.compute_output_shape(self.input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the output shape for an input shape, the batch (or None) first."""
        raise NotImplementedError

    def count_params(self) -> int:
        """Return the number of weights that exist."""
        if not self.built:
            raise ValueError(f"the weights of {self.name!r} are not known yet; call or build the layer first")
        return self._parameters.count()

    def step(self, grads: Gradients | tuple[Array, ...], lr: float) -> None:
        """Let the optimizer change the weights: the one place where training changes them.

        Parameters
        ----------
        grads : Gradients or tuple of arrays
            Gradients of kernel and bias, of exactly their shapes and dtype.
        lr : float
            Learning rate, finite and at least 0.

        Raises
        ------
        TypeError, ValueError
            If a gradient or lr cannot be used; nothing has changed then.
        RuntimeError
            If the layer has not been built.
        """
        self._parameters.step(grads, lr)

    def check_gradients(self, grads: Gradients | tuple[Array, ...]) -> None:
        """Raise what `step` would raise for these gradients, and change nothing."""
        self._parameters.check(grads)

    def get_weights(self) -> list[Array]:
        """Return copies of the weights: [kernel, bias] or [kernel]; empty before build."""
        return self._parameters.copies()

    def set_weights(self, weights: list[Array]) -> None:
        """Replace all weights, given in the order of `get_weights`; none if any has a wrong shape."""
        self._parameters.set(weights)

    @property
    def kernel(self) -> Array:
        """The kernel, a read-only view that follows later steps."""
        return self._weight("kernel")

    @property
    def bias(self) -> Array | None:
        """The bias, a read-only view that follows later steps; None without one."""
        self._weight("kernel")
        return self._parameters.views().get("bias")

    @property
    def weights(self) -> list[Array]:
        """Read-only views of the weights."""
        return list(self._parameters.views().values())

    @property
    def trainable_weights(self) -> list[Array]:
        """Read-only views of the weights that `step` changes."""
        return self.weights if self.trainable else []

    @property
    def non_trainable_weights(self) -> list[Array]:
        """Read-only views of the weights that `step` leaves alone."""
        return [] if self.trainable else self.weights

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a layer from the result of `get_config`; its weights are fresh."""
        arguments = dict(config)
        batch_input_shape = arguments.pop("batch_input_shape", None)
        if batch_input_shape is not None:
            arguments["input_shape"] = tuple(batch_input_shape)[1:]
        return cls(**arguments)

    def _common_config(self) -> dict[str, Any]:
        """The entries that every layer's config begins with, in Keras' order."""
        shape = {} if self._given_input_shape is None else {"batch_input_shape": self._given_input_shape}
        return {"name": self.name, "trainable": self.trainable, "dtype": self.dtype, **shape}

    def _weight(self, name: str) -> Array:
        if not self.built:
            raise AttributeError(f"{name} does not exist yet; call or build {type(self).__name__} {self.name!r} first")
        return self._parameters.views()[name]
