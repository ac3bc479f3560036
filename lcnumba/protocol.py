"""The interface of layers: any object with these members can be added to a `Sequential`."""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol, runtime_checkable

from lcnumba.layers.tree import leaves
from lcnumba.utils.types import Array, Shape

__all__ = ["Layer", "Model", "Pullback", "leaves", "lost_weights", "note_step"]


# Layers that were stepped with gradients and have no get_weights, by id.
_stepped: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


class Pullback(Protocol):
    """The second result of a layer's `forward`."""

    def __call__(self, dy: Any) -> tuple[Any, Any]:
        """Return (dx, grads) for dy; grads is passed to the layer's `step`."""
        ...


@runtime_checkable
class Layer(Protocol):
    """A layer of a `Sequential`.

    Arrays inside a `Sequential` are NumPy arrays, batch first, and shapes are tuples that begin with None for the
    batch. Optional members:

    - ``built`` and ``input_shape``; without them every model that the layer is added to builds it again;
    - ``plan_update(grads, lr)`` raises the errors of `step`, or returns a function without arguments that runs the step
      and cannot fail, so that an invalid step of one layer changes none. If the pullback has the method, that of the
      pullback is called. A pullback may also have ``plan_step(lr)``, which checks a step before dy is known and returns
      a function ``(dy, wants_dx) -> dx`` that steps the layer and cannot fail, or None: if all layers do so, a model is
      stepped layer by layer, without the gradients of all weights at once;
    - ``get_weights()`` and ``set_weights(list)``; without them the layer is saved without weights;
    - ``count_params()`` for the summary, and an ``optimizer`` attribute;
    - ``get_training_state()`` returns the state that a checkpoint needs in addition to the weights (optimizer state,
      random generators), made of numbers, strings, None, NumPy arrays, and lists, tuples and dicts of them;
      ``plan_training_state(state)`` raises if the state is invalid, or returns a function that restores it;
    - ``plan_unbuild()``, together with ``built``, returns a function that removes the weights again; used when a later
      layer of a model cannot be built;
    - ``from_config(config)``, a class method; without it ``cls(**config)`` creates the layer.
    """

    @property
    def name(self) -> str:
        """Name of the layer, unique in a model."""
        ...

    def build(self, input_shape: Shape) -> None:
        """Create weights for inputs of this shape."""
        ...

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the output for inputs of this shape."""
        ...

    def __call__(self, x: Any) -> Any:
        """Return y, for inference."""
        ...

    def forward(self, x: Any) -> tuple[Any, Pullback]:
        """Return y and the pullback of this call."""
        ...

    def step(self, grads: Any, lr: float) -> None:
        """Update the weights, given the gradients returned by the pullback."""
        ...

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer, as JSON values."""
        ...


class Model(Protocol):
    """The interface of a model for training, implemented by `Sequential`."""

    name: str
    training_config: Any
    steps_taken: int
    history: Any
    share: Any  # what this process does of a training, a `lcnumba.training.share.Share`

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers, in order."""
        ...

    @property
    def built(self) -> bool:
        """Whether the layers have weights."""
        ...

    @property
    def input_shape(self) -> Shape:
        """Shape of the input, None for the batch."""
        ...

    def build(self, input_shape: Any) -> None:
        """Build the layers that have no weights yet."""
        ...

    def unbuilt_on_failure(self) -> AbstractContextManager[None]:
        """If the block fails, unbuild the built-in layers that it has built."""
        ...

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the output for inputs of this shape."""
        ...

    def call_penalised(self, x: Any) -> tuple[Any, float]:
        """Return the output for inference, and the activity penalties of this call."""
        ...

    def forward(self, x: Any) -> tuple[Any, Any]:
        """Return the output and the pullback of this call."""
        ...

    def step(self, grads: Any, lr: float) -> None:
        """Step every layer, or none."""
        ...

    def penalties(self) -> float:
        """Return the sum of the penalties of all layers' weights."""
        ...

    def get_config(self) -> dict[str, Any]:
        """Return the config of an equal model."""
        ...

    def live_weights(self) -> list[Array]:
        """Return the weights, in order, as read-only views."""
        ...

    def weight_shapes(self, input_shape: Shape) -> list[tuple[int, ...]]:
        """Return the shapes of the weights, in order, for an input shape."""
        ...

    def set_weights(self, weights: Any) -> None:
        """Set the weights, all or none."""
        ...

    def get_training_state(self) -> list[Any]:
        """Return the training state of each layer, for a checkpoint."""
        ...

    def plan_training_state(self, state: Any) -> Callable[[], None]:
        """Check a training state; return a function that restores it."""
        ...


def note_step(layer: Any, grads: Any) -> None:
    """Record a layer without `get_weights` that is stepped with gradients: it must have weights.

    Examples
    --------
    >>> from lcnumba.protocol import note_step
    >>> note_step(object(), None)
    """
    if hasattr(layer, "get_weights") or grads is None or (isinstance(grads, list | tuple | dict) and not grads):
        return
    with suppress(TypeError):  # raised for objects without weak references
        _stepped[id(layer)] = layer


def lost_weights(model: Any, *, with_state: bool = False) -> str:
    """Return the end of a sentence that names the layers whose weights are not saved; empty if there are none.

    Parameters
    ----------
    model : Sequential
        The model.
    with_state : bool
        Whether the training state of layers, which may include their weights, is saved too.

    Examples
    --------
    >>> import lcnumba as lc
    >>> from lcnumba.protocol import lost_weights
    >>> lost_weights(lc.Sequential([lc.Dense(3)]))
    ''
    """
    found = [
        f"{layer.name!r:.80} ({type(layer).__name__})"
        for layer in leaves(model)
        if id(layer) in _stepped and not (with_state and hasattr(layer, "get_training_state"))
    ]
    return (
        f"the weights of layer {', '.join(found)}, which training changes; implement get_weights() and "
        "set_weights(list)"
        if found
        else ""
    )


def __dir__() -> list[str]:
    return __all__
