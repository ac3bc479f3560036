"""The fully connected layer, which most networks end with."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lcnumba import activations, initializers
from lcnumba.arrays import float_dtype, ingest, normalise
from lcnumba.backward import Backward
from lcnumba.checks import boolean, integer
from lcnumba.naming import layer_name
from lcnumba.parameters import Gradients
from lcnumba.trainable import Trainable

__all__ = ["Dense"]

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]


class Dense(Trainable):
    """Fully connected layer: ``y = activation(x @ kernel + bias)``.

    Parameters
    ----------
    units : int
        Outputs U.
    activation, use_bias, kernel_initializer, bias_initializer
        As for `LocallyConnected2D`.
    input_shape, name, trainable, dtype, rng, optimizer
        As for `LocallyConnected2D`; `input_shape` is ``(features,)``.

    Notes
    -----
    The kernel has shape (features, U), the bias (U,). The product is BLAS'.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.Dense(3, rng=0)(np.ones((2, 5))).shape
    (2, 3)
    """

    _rules: ClassVar[dict[str, Callable[[Any, Any], Any]]] = {
        "name": lambda layer, v: layer_name(v, ""),
        "dtype": lambda layer, v: float_dtype(v).name,
        "units": lambda layer, v: integer("units", v),
        "activation": lambda layer, v: activations.get(v),
        "use_bias": lambda layer, v: boolean("use_bias", v),
        "kernel_initializer": lambda layer, v: initializers.get(v),
        "bias_initializer": lambda layer, v: initializers.get(v),
    }
    dtype: str
    units: int
    activation: activations.Activation
    use_bias: bool
    kernel_initializer: Callable[..., Array]
    bias_initializer: Callable[..., Array]

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        *,
        input_shape: tuple[int] | None = None,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = "float32",
        rng: Any = None,
        optimizer: Any = "sgd",
    ) -> None:
        super().__init__(name, "dense", trainable, optimizer, rng)
        self.units = units
        self.activation = activation
        self.use_bias = use_bias
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self.dtype = dtype
        if input_shape is not None:
            self._features((None, *input_shape))
            self._given_input_shape = (None, *input_shape)

    def build(self, input_shape: Shape) -> None:
        """Make fresh weights for inputs (batch or None, features)."""
        features = self._features(input_shape)
        with self._parameters.lock.exclusive():
            self._build(features)

    def __call__(self, x: Any) -> Any:
        """Return y (N, U) of x (N, features) for inference; may be called from several threads."""
        values, like = self._input(x)
        return like(self._apply(values)[0])

    def forward(self, x: Any) -> tuple[Any, Backward]:
        """Return y and the pullback of this very call; leave x and y unchanged until it has run."""
        values, like = self._input(x)
        y, version = self._apply(values)

        def pullback(dy: Array) -> tuple[Array, Gradients]:
            dz = self.activation.gradient(dy, y)
            with self._parameters.reading(version):
                dx = dz @ self._parameters["kernel"].T
            return dx, Gradients(values.T @ dz, np.sum(dz, axis=0) if self.use_bias else None)

        return like(y), Backward(self._parameters, version, y.shape, self._dtype, pullback)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return (batch, U)."""
        self._features(input_shape)
        return input_shape[0], self.units

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {
            **self._common_config(),
            "units": self.units,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
        }

    def _apply(self, x: Array) -> tuple[Array, int]:
        with self._parameters.reading():
            version = self._parameters.version
            z = x @ self._parameters["kernel"]
            if self.use_bias:
                z += self._parameters["bias"]
        return activations.apply(self.activation, z), version

    def _input(self, x: Any) -> tuple[Array, Callable[[Array], Any]]:
        given, like = ingest("x", x)
        if given.ndim != 2:
            raise ValueError(f"x has {given.ndim} dimensions (shape {given.shape}); Dense needs 2: (batch, features)")
        values = normalise("x", given, self._dtype)
        if not self.built:
            features = self._features(values.shape)
            with self._parameters.lock.exclusive():
                if not self.built:  # another thread may have come first
                    self._build(features)
        elif values.shape[1] != len(self._parameters["kernel"]):
            raise ValueError(f"x has {values.shape[1]} features; {self.name!r} was built for {self.input_shape[1]}")
        return values, like

    def _build(self, features: int) -> None:
        """Make weights; the caller holds the lock alone."""
        shape = (features, self.units)
        arrays = {"kernel": initializers.draw(self.kernel_initializer, shape, self._dtype, self._rng, None)}
        if self.use_bias:
            arrays["bias"] = initializers.draw(self.bias_initializer, shape[1:], self._dtype, self._rng, None)
        self._built_input_shape = None, features
        self._parameters.fill(arrays, {})

    def _features(self, input_shape: Shape) -> int:
        if len(input_shape) != 2 or input_shape[1] is None:
            raise ValueError(f"input_shape={tuple(input_shape)} must be (batch, features); put a Flatten before Dense")
        return integer("features", input_shape[1])
