"""Base class of layers with parameters: build, step, and the attributes of Keras' layers.

`registry.py` says how a layer is added.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np

from lcnumba import activations, constraints, initializers, regularizers
from lcnumba.gradients import LayerGradients
from lcnumba.layers.backward import ActivityPenalty
from lcnumba.layers.naming import layer_name
from lcnumba.layers.parameters import Parameters
from lcnumba.layers.regularization import Regularization
from lcnumba.optimizers import Optimizer
from lcnumba.runtime.memory import require
from lcnumba.utils import validation
from lcnumba.utils.arrays import float_dtype, normalise, read_only
from lcnumba.utils.deprecation import Renamed
from lcnumba.utils.display import PublicNames, parameters_text
from lcnumba.utils.messages import public, refuse_attribute
from lcnumba.utils.types import Array, Mask, Shape
from lcnumba.utils.validation import arguments, boolean, generator, integer

__all__ = ["Trainable"]

Fans = tuple[int, int] | None

# What repr tells of the config.
_SHOWN = (
    "filters", "units", "axis", "momentum", "kernel_size", "strides", "padding", "padding_mode", "groups",
    "weight_sharing", "activation", "implementation", "dtype",
)  # fmt: skip


class Trainable(PublicNames):
    """Base class of layers with weights: most have a kernel and an optional bias.

    A subclass lists its config entries in `_rules`, each with a function that checks a value. Entries can be set until
    the layer is built. Methods that a subclass must implement raise NotImplementedError here.

    Examples
    --------
    >>> import lcnumba as lc
    >>> layer = lc.Dense(2, input_shape=(3,))
    >>> layer.units = 4  # possible before build
    >>> layer.build((None, 3))
    >>> layer.output_shape, layer.count_params()
    ((None, 4), 16)
    """

    _rules: ClassVar[dict[str, Callable[[Any, Any], Any]]] = {}
    _default_name: ClassVar[str]
    _shape_hint: ClassVar[str] = ""  # appended to the message about a wrong rank
    _memory_hint: ClassVar[str]  # and about too many weights

    name: str
    dtype: str
    use_bias: bool
    kernel_initializer: Callable[..., Array]
    bias_initializer: Callable[..., Array]
    kernel_regularizer: regularizers.Regularizer | None
    bias_regularizer: regularizers.Regularizer | None
    activity_regularizer: regularizers.Regularizer | None
    kernel_constraint: constraints.Constraint | None
    bias_constraint: constraints.Constraint | None

    def __init__(self, given: dict[str, Any]) -> None:
        """Set the arguments of the subclass' constructor: its config entries and those common to all layers."""
        self.name = layer_name(given["name"], self._default_name)
        for entry in self._rules:
            setattr(self, entry, given[entry])
        self._parameters = Parameters(f"{type(self).__name__} {self.name!r}", given["optimizer"])
        self.trainable = given["trainable"]
        self._rng = generator(given["rng"])
        self._initial_weights: list[Array] | None = None
        if given["weights"] is not None:
            self._initial_weights = [weight.copy() for weight in self._parameters.as_numpy(given["weights"])]
        self._given_input_shape = self._declared_shape(given)
        self._built_input_shape: Shape | None = None
        self._activity_loss: float | None = None
        if self._given_input_shape is not None:
            self.compute_output_shape(self._given_input_shape)

    def __setattr__(self, name: str, value: Any) -> None:
        """Check config entries; raise once the layer is built."""
        if name == "name" and "name" in self.__dict__:
            raise AttributeError(f"name of {type(self).__name__} {self.name!r} is locked; pass it to the constructor")
        refuse_attribute(self, name)
        rule = self._rules.get(name)
        if rule is not None:
            if self.built:
                raise AttributeError(
                    f"{name} of {type(self).__name__} {self.name!r} is locked: the layer has been built. "
                    f"Create a new layer: from_config({{**layer.get_config(), {name!r}: ...}})"
                )
            value = rule(self, value)
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """Class, name, shapes, number of parameters and settings."""
        settings = ", ".join(f"{key}={_shown(value)}" for key, value in self.get_config().items() if key in _SHOWN)
        known = self._built_input_shape or self._given_input_shape
        shapes = f", {self.input_shape} -> {self.output_shape}" if known else ""
        count = f", {parameters_text(self.count_params())}" if self.built else ", not built"
        return f"<{type(self).__name__} {self.name!r}{shapes}{count}: {settings}>"

    def __copy__(self) -> Self:
        """Return a deep copy: a shallow one would share the weights but not their shape."""
        return copy.deepcopy(self)

    # --- implemented by subclasses

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the output shape for an input shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first.

        Returns
        -------
        tuple of int or None
            The shape of y.
        """
        raise NotImplementedError

    def weight_shapes(self, input_shape: Shape) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights for an input shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first.

        Returns
        -------
        dict of str to tuple of int
            By name, in the order of `get_weights`.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
            By name; without weights.
        """
        raise NotImplementedError

    def _axes(self) -> tuple[str, ...]:
        """Names of the input's axes, the batch first."""
        raise NotImplementedError

    def _kernel_fans(self, input_shape: Shape) -> Fans:
        """fan_in and fan_out of the kernel, or None to derive them from its shape."""
        raise NotImplementedError

    def _parts(self, input_shape: Shape) -> tuple[dict[str, Any], dict[str, Mask]]:
        """Attributes to set for an input shape, and masks of the weights that exist."""
        raise NotImplementedError

    def _momentum_of_averages(self) -> dict[str, float]:
        """Which of the weights are moving averages, which `step` takes statistics of batches into, and how slowly."""
        return {}

    # --- build

    @property
    def built(self) -> bool:
        """Whether the layer has weights."""
        return "_parameters" in self.__dict__ and self._parameters.built

    @public
    def build(self, input_shape: Shape) -> None:
        """Create weights for an input shape; the first call does so automatically.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first.

        Raises
        ------
        TypeError
            If it is not a tuple of integers.
        ValueError
            If the rank is wrong, a dimension other than the batch is undefined, the kernel does not fit,
            or the layer was created with another `input_shape`.

        Examples
        --------
        >>> import lcnumba as lc
        >>> layer = lc.LocallyConnected1D(4, 3)
        >>> layer.build((None, 10, 2))
        >>> [weight.shape for weight in layer.get_weights()]
        [(8, 6, 4), (8, 4)]
        """
        shape = self._checked_shape(input_shape)
        with self._parameters.lock.exclusive():
            self._build(shape)

    def build_with(self, input_shape: Shape, weights: list[Array]) -> None:
        """Build with these weights, used without a copy, instead of initial values.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first.
        weights : list of arrays
            In the order of `get_weights`.

        Raises
        ------
        TypeError, ValueError
            As for `build`, or if the weights do not fit.
        """
        before, self._initial_weights = self._initial_weights, self._parameters.as_numpy(weights)
        try:
            self.build(input_shape)
        finally:  # do not keep weights that were refused
            self._initial_weights = None if self.built else before

    def ensure_built(self, shape: Shape) -> None:
        """Build the layer unless it has weights; thread-safe.

        Parameters
        ----------
        shape : tuple of int or None
            The batch size, or None, first.

        Raises
        ------
        TypeError, ValueError
            As for `build`.
        """
        if not self.built:
            shape = self._checked_shape(shape)
            with self._parameters.lock.exclusive():
                if not self.built:  # another thread may have built it
                    self._build(shape)

    def plan_unbuild(self) -> Callable[[], None]:
        """Return a function that restores the present, unbuilt state after a build.

        Used by models when a later layer cannot be built.

        Returns
        -------
        callable
            A function without arguments.
        """
        before, rng_state = dict(self.__dict__), self._rng.bit_generator.state

        def unbuild() -> None:
            with self._parameters.lock.exclusive():
                self._parameters.clear()
                for name in self.__dict__.keys() - before.keys():
                    del self.__dict__[name]
                for name in ("_built_input_shape", "_initial_weights", "_activity_loss"):
                    self.__dict__[name] = before[name]
                self._rng.bit_generator.state = rng_state

        return unbuild

    def _build(self, shape: Shape) -> None:
        """Create weights; the caller holds the exclusive lock. If it fails, nothing changes, nor does the generator."""
        rng_state = self._rng.bit_generator.state
        try:
            self._build_or_fail(shape)
        except BaseException:
            self._rng.bit_generator.state = rng_state
            raise

    def _build_or_fail(self, shape: Shape) -> None:
        declared = self._given_input_shape
        if declared is not None and declared[1:] != shape[1:]:
            raise ValueError(
                f"{type(self).__name__} {self.name!r} was created with input_shape={declared[1:]}, got {shape[1:]}"
                + (validation.axes_hint("x", shape, (None, *declared[1:])) or "; create another layer")
            )
        shapes = self.weight_shapes(shape)
        if self._initial_weights is not None:  # checked before tables are built, whose size follows from the weights
            arrays = self._parameters.checked(self._initial_weights, shapes, self._dtype)
        else:
            require(
                sum(map(math.prod, shapes.values())) * self._dtype.itemsize, f"building {self.name!r}",
                self._memory_hint,
            )  # fmt: skip
        attributes, exists = self._parts(shape)
        if self._initial_weights is None:
            fans = {"kernel": self._kernel_fans(shape)}
            arrays = {
                weight: initializers.draw(
                    getattr(self, f"{weight}_initializer"), size, self._dtype, self._rng, fans.get(weight)
                )
                for weight, size in shapes.items()
            }
        momentum = self._momentum_of_averages()
        regularizations = {
            name: Regularization(getattr(self, f"{name}_regularizer"), getattr(self, f"{name}_constraint"))
            for name in arrays.keys() - momentum.keys()
        }
        self._parameters.fill(arrays, exists, regularizations, momentum)
        self.__dict__.update(
            attributes, _built_input_shape=(None, *shape[1:]), _initial_weights=None, _activity_loss=None
        )

    def _activity_penalty(self, y: Array) -> ActivityPenalty | None:
        """The activity penalty of an output, if there is one; recorded in `losses`."""
        if self.activity_regularizer is None:
            return None
        activity = ActivityPenalty(self.activity_regularizer, y)
        self._activity_loss = activity.loss
        return activity

    def _declared_shape(self, given: dict[str, Any]) -> Shape | None:
        """The input shape given to the constructor in one of several ways, batch first; or None."""
        shapes = {name: given.get(name) for name in ("input_shape", "batch_input_shape", "input_dim")}
        shapes = {name: shape for name, shape in shapes.items() if shape is not None}
        batch = given.get("batch_size")
        if len(shapes) > 1 or (batch is not None and "batch_input_shape" in shapes):
            raise ValueError(f"give only one of {', '.join([*shapes, *(['batch_size'] if batch is not None else [])])}")
        if not shapes:
            return None
        [(name, shape)] = shapes.items()
        if name == "input_dim":
            shape = (integer(name, shape),)
        if name == "batch_input_shape":
            if not isinstance(shape, list | tuple):
                raise TypeError(f"batch_input_shape={shape!r} must be a tuple, the batch first")
            batch, shape = (shape[0], shape[1:]) if len(shape) else (None, ())
        batch = None if batch is None else integer("batch_size", batch)
        return batch, *validation.sample_shape(shape, self._axes())[1:]

    def _checked_shape(self, input_shape: Any) -> Shape:
        """The input shape as a tuple; raise unless samples are fully defined."""
        return validation.input_shape(input_shape, self._axes(), self._shape_hint)

    def _normalised(self, x: Array) -> Array:
        """The input in the layer's dtype; builds the layer if necessary."""
        built = self._built_input_shape
        axes = () if built is not None and x.ndim == len(built) else self._axes()
        if axes and x.ndim != len(axes):
            known = self._built_input_shape or self._given_input_shape
            hint = (known and validation.axes_hint("x", x.shape, known)) or self._shape_hint
            if hint == self._shape_hint and x.ndim == len(axes) - 1 > 1:
                hint = "; x[None] adds the batch axis, x[..., None] the channel axis"
            raise ValueError(
                f"x has {x.ndim} dimensions (shape {x.shape}); {type(self).__name__} needs {len(axes)}: "
                f"({', '.join(axes)}){hint}"
            )
        values = self._cast(x)
        self.ensure_built(values.shape)
        return values

    def _cast(self, x: Array) -> Array:
        """The input in the layer's dtype, or in another one that its kernels read."""
        return normalise("x", x, self._dtype)

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype)

    # --- shapes, weights, training

    @property
    def input_shape(self) -> Shape:
        """Shape of the input, None for the batch."""
        shape = self._built_input_shape or (self._given_input_shape and (None, *self._given_input_shape[1:]))
        if shape is None:
            raise AttributeError(f"the input shape of {self.name!r} is not known yet; call or build the layer first")
        return shape

    @property
    def output_shape(self) -> Shape:
        """Shape of the output, None for the batch."""
        return self.compute_output_shape(self.input_shape)

    def count_params(self) -> int:
        """Return the number of weights that exist.

        Returns
        -------
        int
            Of kernel and bias; connections to padding or excluded by a mask do not count.

        Raises
        ------
        ValueError
            If the layer has not been built.

        Examples
        --------
        >>> import lcnumba as lc
        >>> layer = lc.LocallyConnected1D(1, 3, padding="same", use_bias=False)
        >>> layer.build((None, 4, 1))
        >>> layer.kernel.size, layer.count_params()  # the first and the last window are clipped
        (12, 10)
        """
        if not self.built:
            raise ValueError(f"{self.name!r} has no weights yet; call or build the layer first")
        return self._parameters.count()

    def penalties(self) -> list[float]:
        """Return the penalties of kernel and bias, for those with a regularizer.

        Returns
        -------
        list of float
            Empty before build.
        """
        return self._parameters.penalties()

    @property
    def losses(self) -> list[float]:
        """Penalties: of the output of the last call, if any, then of kernel and bias.

        One entry per regularizer: at most two after build, and three after a call.

        Examples
        --------
        >>> import lcnumba as lc
        >>> l1, l2 = lc.regularizers.L1(1), lc.regularizers.L2(0.5)
        >>> layer = lc.Dense(2, kernel_initializer="ones", kernel_regularizer=l2, activity_regularizer=l1)
        >>> layer([[1.0, 1.0, 1.0]])
        array([[3., 3.]], dtype=float32)
        >>> layer.losses
        [6.0, 3.0]
        """
        activity = [] if self._activity_loss is None else [self._activity_loss]
        return activity + self.penalties()

    @property
    def trainable(self) -> bool:
        """Whether `step` changes the weights; can be set at any time."""
        return self._parameters.trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._parameters.trainable = boolean("trainable", value)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer of `step`; setting it discards the state of the previous one."""
        return self._parameters.optimizer

    @optimizer.setter
    def optimizer(self, value: Any) -> None:
        self._parameters.optimizer = value

    @public
    def step(self, grads: LayerGradients | tuple[Array, ...], lr: float) -> None:
        """Update the weights with the optimizer.

        Parameters
        ----------
        grads : Gradients or tuple of arrays
            Gradients of kernel and bias, of exactly their shapes and dtype.
        lr : float
            Learning rate, finite and at least 0.

        Raises
        ------
        TypeError, ValueError
            If a gradient or lr is invalid; nothing has changed then.
        RuntimeError
            If the layer has not been built.

        Examples
        --------
        >>> import lcnumba as lc
        >>> layer = lc.Dense(1, kernel_initializer="ones")
        >>> y, backward = layer.forward([[1.0, 2.0]])
        >>> dx, grads = backward([[4.0]])
        >>> layer.step(grads, lr=0.25)
        >>> layer.kernel[:, 0]
        array([ 0., -1.], dtype=float32)
        """
        self.plan_update(grads, lr)()

    def plan_update(self, grads: LayerGradients | tuple[Array, ...], lr: float) -> Callable[[], None]:
        """Check a step as `step` does; return a function that runs it and cannot fail.

        So several layers can be checked before the first one changes.

        Parameters
        ----------
        grads : Gradients or tuple of arrays
            As for `step`.
        lr : float
            As for `step`.

        Returns
        -------
        callable
            A function without arguments.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As for `step`.
        """
        return self._parameters.plan(grads, lr)

    def get_training_state(self) -> Any:
        """Return the optimizer's state by weight, for a checkpoint; arrays are not copied."""
        return self._parameters.states()

    def plan_training_state(self, state: Any) -> Callable[[], None]:
        """Check a result of `get_training_state` of an equal layer; return a function that restores it."""
        return self._parameters.plan_states(state)

    def get_weights(self) -> list[Array]:
        """Return copies of the weights.

        Returns
        -------
        list of arrays
            [kernel, bias] or [kernel]; empty before build.

        Examples
        --------
        >>> import lcnumba as lc
        >>> layer = lc.Dense(2, kernel_initializer="ones", input_shape=(3,))
        >>> layer.get_weights()
        []
        >>> layer.build((None, 3))
        >>> layer.get_weights()[1]
        array([0., 0.], dtype=float32)
        """
        return self._parameters.copies()

    def set_weights(self, weights: list[Array]) -> None:
        """Set all weights, or none if any does not fit.

        Parameters
        ----------
        weights : list of arrays
            In the order of `get_weights`, of exactly their shapes; real numbers, cast to the layer's dtype.

        Raises
        ------
        TypeError, ValueError
            If they do not fit.
        RuntimeError
            If the layer has not been built.

        Examples
        --------
        >>> import lcnumba as lc
        >>> layer = lc.Dense(1)
        >>> layer.build((None, 2))
        >>> layer.set_weights([[[1.0], [2.0]], [0.5]])
        >>> layer([[3.0, 4.0]])
        array([[11.5]], dtype=float32)
        """
        self.plan_weights(weights)()

    def plan_weights(self, weights: list[Array]) -> Callable[[], None]:
        """Check weights as `set_weights` does; return a function that sets them and cannot fail."""
        return self._parameters.plan_set(weights)

    def get_flat(self) -> Array:
        """Return the weights that exist as one vector.

        Returns
        -------
        array, (count_params,)
            Kernel first, then bias; of the layer's dtype.

        Raises
        ------
        RuntimeError
            If the layer has not been built.

        Examples
        --------
        >>> import lcnumba as lc
        >>> layer = lc.Dense(1, weights=[[[1.0], [2.0]], [3.0]])
        >>> layer.build((None, 2))
        >>> layer.get_flat()
        array([1., 2., 3.], dtype=float32)
        """
        return self._parameters.flat()

    def flat_gradient(self, grads: LayerGradients | tuple[Array, ...]) -> Array:
        """Return the gradient of loss and weight penalties as a vector like that of `get_flat`.

        Parameters
        ----------
        grads : Gradients or tuple of arrays
            Gradients of the loss, of exactly the shapes and dtype of kernel and bias.

        Returns
        -------
        array, (count_params,)
            Of the layer's dtype.

        Raises
        ------
        TypeError, ValueError
            If a gradient is invalid.
        RuntimeError
            If the layer has not been built.

        Examples
        --------
        >>> import lcnumba as lc
        >>> layer = lc.Dense(1, kernel_initializer="ones", kernel_regularizer=lc.regularizers.L2(0.5))
        >>> y, backward = layer.forward([[1.0, 2.0]])
        >>> dx, grads = backward([[4.0]])
        >>> layer.flat_gradient(grads)  # the gradient of the penalty is the kernel itself
        array([5., 9., 4.], dtype=float32)
        """
        return self._parameters.flat_gradient(grads)

    def set_flat(self, vector: Array) -> None:
        """Set the weights from a vector like that of `get_flat`.

        Parameters
        ----------
        vector : array, (count_params,)
            Real numbers, cast to the layer's dtype.

        Raises
        ------
        TypeError, ValueError
            If the vector is invalid.
        RuntimeError
            If the layer has not been built.

        Examples
        --------
        >>> import lcnumba as lc
        >>> layer = lc.Dense(1, kernel_initializer="ones")
        >>> layer.build((None, 2))
        >>> layer.set_flat(2 * layer.get_flat())
        >>> layer.get_flat()
        array([2., 2., 0.], dtype=float32)
        """
        self.plan_flat(vector)()

    def plan_flat(self, vector: Array) -> Callable[[], None]:
        """Check a vector as `set_flat` does; return a function that sets the weights and cannot fail."""
        return self._parameters.plan_flat(vector)

    @property
    def kernel(self) -> Array:
        """The kernel, as a read-only view that reflects later steps."""
        weights = self._built_weights()
        if "kernel" not in weights:
            raise AttributeError(f"{type(self).__name__} {self.name!r} has no kernel; it has {', '.join(weights)}")
        return weights["kernel"]

    @property
    def bias(self) -> Array | None:
        """The bias, as a read-only view that reflects later steps; None without one."""
        return self._built_weights().get("bias")

    @property
    def weights(self) -> list[Array]:
        """Read-only views of the weights."""
        return list(self._parameters.views().values())

    @property
    def trainable_weights(self) -> list[Array]:
        """Read-only views of the weights that the optimizer changes."""
        return [read_only(array) for array in self._parameters.learned.values()] if self.trainable else []

    @property
    def non_trainable_weights(self) -> list[Array]:
        """Read-only views of the weights that the optimizer does not change."""
        return self.weights[len(self.trainable_weights) :]

    def _built_weights(self) -> dict[str, Array]:
        if not self.built:
            raise AttributeError(f"{type(self).__name__} {self.name!r} has no weights yet; call or build it first")
        return self._parameters.views()

    prepare_step, prepare_weights, prepare_flat = Renamed("plan_update"), Renamed("plan_weights"), Renamed("plan_flat")
    prepare_training_state, prepare_unbuild = Renamed("plan_training_state"), Renamed("plan_unbuild")

    # --- config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Create a layer from the result of `get_config`, without weights.

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

        Examples
        --------
        >>> import lcnumba as lc
        >>> config = lc.Dense(3, activation="relu").get_config()
        >>> lc.Dense.from_config({**config, "units": 5}).compute_output_shape((None, 7))
        (None, 5)
        """
        return cls(**arguments(config))

    def _common_config(self) -> dict[str, Any]:
        """The config entries common to all layers, in Keras' order."""
        shape = {} if self._given_input_shape is None else {"batch_input_shape": self._given_input_shape}
        return {"name": self.name, "trainable": self.trainable, "dtype": self.dtype, **shape}


def _shown(value: Any) -> str:
    """A config entry in repr; of an array its shape."""
    return f"<{tuple(value['shape'])}>" if isinstance(value, dict) and "shape" in value else repr(value)


REGULARIZATION_RULES: dict[str, Callable[[Any, Any], Any]] = {
    **{f"{part}_regularizer": lambda _, v: regularizers.get(v) for part in ("kernel", "bias", "activity")},
    **{f"{part}_constraint": lambda _, v: constraints.get(v) for part in ("kernel", "bias")},
}


def serialized(name: str, value: Any) -> Any:
    """The value of a config entry as in `get_config`."""
    kinds = {
        "activation": activations, "initializer": initializers, "regularizer": regularizers, "constraint": constraints,
    }  # fmt: skip
    module = kinds.get(name.rpartition("_")[2])
    return value if module is None else module.serialize(value)


def dtype_rule(_: Any, value: Any) -> str:
    """The rule of `dtype`: None is float32, as in Keras; a dtype policy of a Keras config is read by its name."""
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value = value["config"].get("name")
    return float_dtype("float32" if value is None else value).name
