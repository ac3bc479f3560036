"""The fully connected layer."""

from typing import Any, ClassVar

import numpy as np

from lcnumba import activations, initializers
from lcnumba.gradients import Gradients
from lcnumba.kernels.rules import Rule
from lcnumba.layers.backward import Backward
from lcnumba.layers.base import REGULARIZATION_RULES, Fans, Trainable, dtype_rule, serialized
from lcnumba.layers.parameters import FusedUpdate
from lcnumba.layers.registry import KERAS_COMMON, KerasSettings, register_layer
from lcnumba.utils.arrays import as_numpy
from lcnumba.utils.messages import public, public_class
from lcnumba.utils.types import Array, Mask, Shape
from lcnumba.utils.validation import boolean, integer

__all__ = ["Dense"]


# Of Keras 3; `bridges/keras2/config.py` refuses any.
_QUANTIZATION = frozenset({"quantization_config"})


@register_layer(keras=KerasSettings(KERAS_COMMON | {"units"} | _QUANTIZATION, _QUANTIZATION))
@public_class
class Dense(Trainable):
    r"""Fully connected layer: ``y = activation(x @ kernel + bias)``.

    Parameters
    ----------
    units : int
        Number of outputs U.
    activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, \
    activity_regularizer, kernel_constraint, bias_constraint
        As for `LocallyConnected2D`.
    input_shape, batch_input_shape, batch_size, name, trainable, dtype, weights, rng, optimizer
        As for `LocallyConnected2D`; `input_shape` is ``(features,)``.
    input_dim : int, optional
        Alternative to `input_shape`.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Notes
    -----
    The kernel has shape (features, U), the bias (U,). The product is computed by BLAS.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.Dense(3, rng=0)(np.ones((2, 5))).shape
    (2, 3)
    >>> lc.Dense(2, activation="relu", weights=[np.eye(2), [0.0, -5.0]])([[3.0, 4.0]])
    array([[3., 0.]], dtype=float32)
    """

    __module__ = "lcnumba"

    _default_name = "dense"
    _shape_hint = "; put a Flatten before Dense"
    _memory_hint = "use fewer inputs or fewer units"
    _rules: ClassVar = {
        "dtype": dtype_rule,
        "units": lambda _, v: integer("units", v),
        "activation": lambda _, v: activations.get(v),
        "use_bias": lambda _, v: boolean("use_bias", v),
        "kernel_initializer": lambda _, v: initializers.get(v),
        "bias_initializer": lambda _, v: initializers.get(v),
        **REGULARIZATION_RULES,
    }
    units: int
    activation: activations.Activation

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        input_shape: tuple[int] | None = None,
        batch_input_shape: Shape | None = None,
        batch_size: int | None = None,
        input_dim: int | None = None,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = "float32",
        weights: list[Array] | None = None,
        rng: Any = None,
        optimizer: Any = "sgd",
    ) -> None:
        super().__init__(locals())

    @public
    def __call__(self, x: Any) -> Any:
        """Return y, for inference; thread-safe.

        Parameters
        ----------
        x : array, (N, features)
            Any array-API array on the CPU, or nested lists; cast to the layer's dtype.

        Returns
        -------
        array of the type of x, (N, U)
            A new array.

        Raises
        ------
        TypeError
            If x is not an array of real numbers on the CPU, or its dtype is not supported.
        ValueError
            If x does not have the shape for which the layer was built.
        """
        given, like = as_numpy("x", x)
        y = self._apply(self._normalised(given), for_backward=False)[0]
        self._activity_penalty(y)
        return like(y)

    @public
    def forward(self, x: Any) -> tuple[Any, Backward]:
        """Return y and the pullback of this call, for training.

        Parameters
        ----------
        x : array, (N, features)
            As for a plain call. Leave x and y unchanged until `Backward` has run: it does not copy them.

        Returns
        -------
        y : array of the type of x, (N, U)
            As from a plain call.
        backward : Backward
            ``backward(dy)`` returns dx and the `Gradients`; ``backward.step(dy, lr)`` also updates the weights.

        Raises
        ------
        TypeError, ValueError
            As for a plain call.
        """
        given, like = as_numpy("x", x)
        values = self._normalised(given)
        y, saved, version = self._apply(values, for_backward=True)

        vjp = _Vjp(self, values, saved, version)
        activity = self._activity_penalty(y)
        return like(y), Backward(self._parameters, version, y.shape, self._dtype, vjp, activity)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the output shape for an input shape.

        Parameters
        ----------
        input_shape : (int or None, int)
            The batch size, or None, and the features.

        Returns
        -------
        (int or None, int)
            The batch size and U.

        Raises
        ------
        TypeError, ValueError
            If the shape is invalid.
        """
        return self._checked_shape(input_shape)[0], self.units

    def weight_shapes(self, input_shape: Shape) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights for an input shape.

        Parameters
        ----------
        input_shape : (int or None, int)
            The batch size, or None, and the features.

        Returns
        -------
        dict of str to tuple of int
            "kernel": (features, U), and "bias": (U,), unless ``use_bias=False``.

        Raises
        ------
        TypeError, ValueError
            If the shape is invalid.
        """
        features = self._checked_shape(input_shape)[1] or 0
        shapes: dict[str, tuple[int, ...]] = {"kernel": (features, self.units)}
        return {**shapes, "bias": (self.units,)} if self.use_bias else shapes

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
            JSON-serialisable, unless an activation, initializer, regularizer or constraint is custom.
        """
        return {**self._common_config(), **{name: serialized(name, getattr(self, name)) for name in self._rules}}

    def _apply(self, x: Array, for_backward: bool) -> tuple[Array, Array, int]:
        """Y, the array saved for the activation's gradient, and the version of the weights."""
        with self._parameters.lock.shared():
            kernel, version = self._parameters["kernel"], self._parameters.version
            if x.shape[1] != len(kernel):
                raise ValueError(f"x has {x.shape[1]} features; {self.name!r} was built for {len(kernel)}")
            z = x @ kernel
            if self.use_bias:
                z += self._parameters["bias"]
        return *activations.apply(self.activation, z, for_backward), version

    def _axes(self) -> tuple[str, ...]:
        return "batch", "features"

    def _kernel_fans(self, input_shape: Shape) -> Fans:
        return None

    def _parts(self, input_shape: Shape) -> tuple[dict[str, Any], dict[str, Mask]]:
        return {}, {}


class _Vjp:
    """The vector-Jacobian product of one forward call; see `lcnumba.layers.backward.Vjp`."""

    def __init__(self, layer: Dense, x: Array, saved: Array, version: int) -> None:
        self._layer, self._x, self._saved, self._version = layer, x, saved, version
        self.cannot_fail, self.supports_fused = activations.is_built_in(layer.activation), False
        self.bytes_of_step = x.nbytes

    def gradients(self, dy: Array) -> tuple[Array, Gradients]:
        layer = self._layer
        dz = activations.vjp(layer.activation, dy, self._saved)
        with layer._parameters.lock.shared():
            layer._parameters.check_version(self._version)
            dx = dz @ layer._parameters["kernel"].T
        return dx, Gradients(self._x.T @ dz, np.sum(dz, axis=0) if layer.use_bias else None)

    def fused_update(self, dy: Array, wants_dx: bool) -> tuple[FusedUpdate, dict[str, Array]]:
        dz = activations.vjp(self._layer.activation, dy, self._saved) if wants_dx else None

        def update(kernel: Array, rule: Rule | None) -> Array | None:
            assert rule is None, "BLAS computes the gradient, which is no larger than the weights"
            return None if dz is None else dz @ kernel.T

        return update, {}
