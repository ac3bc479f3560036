"""Batch normalization."""

import math
from typing import Any, ClassVar

import numpy as np

from lcnumba import constraints, initializers, regularizers
from lcnumba.gradients import BatchNormalizationGradients
from lcnumba.layers.backward import Backward
from lcnumba.layers.base import Fans, Trainable, dtype_rule
from lcnumba.layers.parameters import FusedUpdate
from lcnumba.layers.registry import STATELESS_COMMON, KerasSettings, register_layer
from lcnumba.runtime.memory import require
from lcnumba.utils.arrays import as_numpy
from lcnumba.utils.messages import public, public_class
from lcnumba.utils.types import Array, Mask, Shape
from lcnumba.utils.validation import any_shape, axes_of, boolean, real, resolved_axes

__all__ = ["BatchNormalization"]


def _momentum(_: Any, value: Any) -> float:
    """The rule of `momentum`."""
    if not 0 <= (number := real("momentum", value)) <= 1:
        raise ValueError(f"momentum must be in [0, 1], got {value!r}")
    return number


def _epsilon(_: Any, value: Any) -> float:
    """The rule of `epsilon`."""
    if (number := real("epsilon", value)) < 0:
        raise ValueError(f"epsilon must be >= 0, got {value!r}")
    return number


# Entries of the config with their checks, in Keras' order.
_INITIALIZERS = ("beta_initializer", "gamma_initializer", "moving_mean_initializer", "moving_variance_initializer")
_REGULARIZERS, _CONSTRAINTS = ("beta_regularizer", "gamma_regularizer"), ("beta_constraint", "gamma_constraint")
# Further settings of Keras' layer: `bridges/keras2/config.py` refuses those that change its numbers.
_IGNORED = frozenset({
    "fused", "synchronized", "renorm", "renorm_clipping", "renorm_momentum", "virtual_batch_size", "adjustment",
})  # fmt: skip


# Rows that are summed as one.
WIDE = 64


@register_layer(
    keras=KerasSettings(
        STATELESS_COMMON | {"axis", "momentum", "epsilon", "center", "scale"} | _IGNORED
        | {*_INITIALIZERS, *_REGULARIZERS, *_CONSTRAINTS},
        _IGNORED,
    )
)  # fmt: skip
@public_class
class BatchNormalization(Trainable):
    r"""Batch normalization: ``y = gamma * (x - mean) / sqrt(variance + epsilon) + beta``.

    A plain call, for inference, uses the moving averages of mean and variance. `forward`, for training, uses mean and
    variance of its batch, over all axes but `axis`, and `step` takes them into the moving averages.

    Parameters
    ----------
    axis : int or tuple of int, default -1
        The axis of the channels; not the batch. With data of channels first it is 1.
    momentum : float, default 0.99
        In [0, 1]: ``moving = momentum * moving + (1 - momentum) * batch``.
    epsilon : float, default 0.001
        Added to the variance, at least 0.
    center, scale : bool, default True
        Whether there is a beta, and a gamma.
    beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer, beta_regularizer, \
    gamma_regularizer, beta_constraint, gamma_constraint
        As those of the kernel of `LocallyConnected2D`.
    input_shape, batch_input_shape, batch_size, name, trainable, dtype, weights, rng, optimizer
        As for `LocallyConnected2D`. With ``trainable=False`` also `forward` uses the moving averages, and `step`
        changes nothing.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Notes
    -----
    The weights are gamma, beta, moving_mean and moving_variance. The moving averages are in `get_weights`, in files and
    in `count_params`, but not in `get_flat`, and no optimizer changes them.

    `forward` is pure. The statistics of its batch are in the gradients, from which `step` takes them: without
    gradients of a pullback, such as with a tuple of arrays, the moving averages stay as they are. If several batches
    are accumulated for a step, it takes the statistics of each, in their order, as as many steps would.

    As in Keras, the variance in the moving average is that of the population, but for float32 inputs of rank 4 or 5
    whose `axis` is 1 or the last it is that of a sample, N / (N - 1) times as large. An empty batch has no statistics,
    and leaves the moving averages.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> layer = lc.BatchNormalization(momentum=0.5, epsilon=0, weights=[[10.0], [1.0], [0.0], [1.0]])
    >>> y, backward = layer.forward([[2.0], [6.0]])
    >>> y[:, 0]
    array([-9., 11.], dtype=float32)
    >>> dx, grads = backward([[1.0], [0.0]])
    >>> layer.step(grads, lr=0)
    >>> layer.moving_mean, layer.moving_variance
    (array([2.], dtype=float32), array([2.5], dtype=float32))
    """

    __module__ = "lcnumba"

    _default_name = "batch_normalization"
    _memory_hint = "use fewer channels"
    _rules: ClassVar = {
        "dtype": dtype_rule,
        "axis": lambda _, v: axes_of(v),
        "momentum": _momentum,
        "epsilon": _epsilon,
        "center": lambda _, v: boolean("center", v),
        "scale": lambda _, v: boolean("scale", v),
        **dict.fromkeys(_INITIALIZERS, lambda _, v: initializers.get(v)),
        **dict.fromkeys(_REGULARIZERS, lambda _, v: regularizers.get(v)),
        **dict.fromkeys(_CONSTRAINTS, lambda _, v: constraints.get(v)),
    }
    axis: int | tuple[int, ...]
    momentum: float
    epsilon: float
    center: bool
    scale: bool

    def __init__(
        self,
        axis: Any = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        *,
        input_shape: Shape | None = None,
        batch_input_shape: Shape | None = None,
        batch_size: int | None = None,
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
        """Return y by the moving averages, for inference; thread-safe.

        Parameters
        ----------
        x : array, (N, ...)
            Any array-API array on the CPU, or nested lists; cast to the layer's dtype.

        Returns
        -------
        array of the type of x
            A new array.

        Raises
        ------
        TypeError
            If x is not an array of real numbers on the CPU, or its dtype is not supported.
        ValueError
            If x does not have the shape for which the layer was built.
        """
        given, like = as_numpy("x", x)
        return like(self._normalization(self._normalised(given), by_batch=False)[0])

    @public
    def forward(self, x: Any) -> tuple[Any, Backward]:
        """Return y by the statistics of the batch, and the pullback of this call, for training.

        Parameters
        ----------
        x : array, (N, ...)
            As for a plain call.

        Returns
        -------
        y : array of the type of x
            A new array.
        backward : Backward
            ``backward(dy)`` returns dx and the `lcnumba.gradients.BatchNormalizationGradients`;
            ``backward.step(dy, lr)`` also updates the weights and the moving averages.

        Raises
        ------
        TypeError, ValueError
            As for a plain call.
        """
        return self._forward(x, by_batch=self.trainable)

    def _forward(self, x: Any, by_batch: bool) -> tuple[Any, Backward]:
        """Y and the pullback, by the statistics of the batch or by the moving averages."""
        given, like = as_numpy("x", x)
        y, vjp, version = self._normalization(self._normalised(given), by_batch)
        return like(y), Backward(self._parameters, version, y.shape, self._dtype, vjp)

    @property
    def gamma(self) -> Array | None:
        """The scale, as a read-only view that reflects later steps; None without one."""
        return self._built_weights().get("gamma")

    @property
    def beta(self) -> Array | None:
        """The offset, as a read-only view that reflects later steps; None without one."""
        return self._built_weights().get("beta")

    @property
    def moving_mean(self) -> Array:
        """The moving average of the mean, as a read-only view that reflects later steps."""
        return self._built_weights()["moving_mean"]

    @property
    def moving_variance(self) -> Array:
        """The moving average of the variance, as a read-only view that reflects later steps."""
        return self._built_weights()["moving_variance"]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first.

        Returns
        -------
        tuple of int or None
            The same.

        Raises
        ------
        TypeError, ValueError
            If it is not a shape that is fully defined but for the batch, or has no such axis.
        """
        return self._checked_shape(input_shape)

    def weight_shapes(self, input_shape: Shape) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights for an input shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first.

        Returns
        -------
        dict of str to tuple of int
            "gamma", "beta", "moving_mean" and "moving_variance", all (channels,); with several axes their sizes, and 1
            for each other axis.

        Raises
        ------
        TypeError, ValueError
            If the shape is invalid.
        """
        shape = self._checked_shape(input_shape)
        axes = resolved_axes(self.axis, shape, self.name)
        size = tuple((n or 0) if number in axes else 1 for number, n in enumerate(shape))
        size = size if len(axes) > 1 else (math.prod(size),)
        names = ("gamma",) * self.scale + ("beta",) * self.center + ("moving_mean", "moving_variance")
        return dict.fromkeys(names, size)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
            JSON-serialisable, unless an initializer, regularizer or constraint is custom.
        """
        plain = ("axis", "momentum", "epsilon", "center", "scale")
        return {
            **self._common_config(),
            **{key: getattr(self, key) for key in plain},
            **{key: initializers.serialize(getattr(self, key)) for key in _INITIALIZERS},
            **{key: regularizers.serialize(getattr(self, key)) for key in _REGULARIZERS},
            **{key: constraints.serialize(getattr(self, key)) for key in _CONSTRAINTS},
        }

    def _normalization(self, x: Array, by_batch: bool) -> tuple[Array, "_Vjp", int]:
        """Y, the vector-Jacobian product, and the version of the weights."""
        if x.shape[1:] != self.input_shape[1:]:
            raise ValueError(f"x has shape {x.shape}; {self.name!r} was built for {self.input_shape}")
        require(4 * x.nbytes, "the output with its temporary arrays", "give fewer samples at a time")
        axes = resolved_axes(self.axis, x.shape, self.name)
        over = tuple(axis for axis in range(x.ndim) if axis not in axes)
        sizes = tuple(size if axis in axes else 1 for axis, size in enumerate(x.shape))
        with self._parameters.lock.shared():
            version = self._parameters.version
            weights = {name: array.reshape(sizes).copy() for name, array in self._parameters.views().items()}
        mean, variance = weights["moving_mean"], weights["moving_variance"]
        moments: tuple[tuple[Array, ...], ...] = ()
        with np.errstate(all="ignore"):  # what is not finite stays so
            if by_batch and len(x):
                count = math.prod(x.shape[axis] for axis in over)
                mean = (_sums(x, over) / count).astype(x.dtype)
                centred = x - mean
                variance = (_sums(np.square(centred), over) / count).astype(x.dtype)
                # TensorFlow's fused operator takes that of a sample into the moving average.
                fused = x.dtype == np.float32 and x.ndim in (4, 5) and axes in ((1,), (x.ndim - 1,))
                factor = count / max(count - 1, 1) if fused else 1
                shape = self.moving_mean.shape
                moments = ((mean.reshape(shape), (variance * x.dtype.type(factor)).reshape(shape)),)
            else:
                centred = x - mean
            scale = 1 / np.sqrt(variance + x.dtype.type(self.epsilon))
            centred *= scale
            y = centred * weights["gamma"] if self.scale else centred.copy()
            if self.center:
                y += weights["beta"]
            if self.scale:
                scale *= weights["gamma"]
        return y, _Vjp(self, version, centred, scale, over, by_batch, moments), version

    def _axes(self) -> tuple[str, ...]:
        return ()  # any number

    def _checked_shape(self, input_shape: Any) -> Shape:
        any_shape(input_shape)
        shape = super()._checked_shape(input_shape)
        resolved_axes(self.axis, shape, self.name)
        return shape

    def _kernel_fans(self, input_shape: Shape) -> Fans:
        return None

    def _parts(self, input_shape: Shape) -> tuple[dict[str, Any], dict[str, Mask]]:
        return {}, {}

    def _momentum_of_averages(self) -> dict[str, float]:
        return {"moving_mean": self.momentum, "moving_variance": self.momentum}


def _sums(array: Array, over: tuple[int, ...]) -> Array:
    """The sums over these axes, which stay with size 1, in float64."""
    last = array.ndim - 1
    if over != tuple(range(last)) or not array.flags.c_contiguous:
        return np.asarray(np.sum(array, over, keepdims=True, dtype=np.float64))
    # Rows of few channels take NumPy four times as long as `WIDE` of them in one.
    channels = array.shape[last]
    rows = array.reshape(-1, channels)
    whole = len(rows) // WIDE * WIDE
    sums = rows[:whole].reshape(-1, WIDE * channels).sum(axis=0, dtype=np.float64).reshape(WIDE, channels).sum(axis=0)
    sums += rows[whole:].sum(axis=0, dtype=np.float64)
    return sums.reshape((1,) * last + (channels,))


class _Vjp:
    """The vector-Jacobian product of one forward call; see `lcnumba.layers.backward.Vjp`."""

    cannot_fail, supports_fused = True, False

    def __init__(
        self,
        layer: BatchNormalization,
        version: int,
        normalised: Array,
        scale: Array,
        over: tuple[int, ...],
        by_batch: bool,
        moments: tuple[tuple[Array, ...], ...],
    ) -> None:
        self._layer, self._version, self._normalised, self._scale = layer, version, normalised, scale
        self._over, self._by_batch, self._moments = over, by_batch, moments
        self.bytes_of_step = normalised.nbytes

    def gradients(self, dy: Array) -> tuple[Array, BatchNormalizationGradients]:
        normalised, layer = self._normalised, self._layer
        layer._parameters.check_version(self._version)
        shape = layer.moving_mean.shape
        with np.errstate(all="ignore"):
            beta = self._sum(dy)
            product = dy * normalised
            gamma = self._sum(product)
            if self._by_batch and dy.size:
                count = dy.dtype.type(dy.size // beta.size)
                dx = dy - beta / count
                dx -= np.multiply(normalised, gamma / count, out=product)
                dx *= self._scale
            else:
                dx = dy * self._scale
        grads = BatchNormalizationGradients(
            gamma.reshape(shape) if layer.scale else None, beta.reshape(shape) if layer.center else None, self._moments
        )
        return dx, grads

    def fused_update(self, dy: Array, wants_dx: bool) -> tuple[FusedUpdate, dict[str, Array]]:
        dx = self.gradients(dy)[0] if wants_dx else None
        return lambda _, rule: dx, {}

    def _sum(self, array: Array) -> Array:
        """The sum over all axes but the channels, which keep their places."""
        total: Array = _sums(array, self._over).astype(array.dtype)
        return total
