"""What `Sequential` asks of a layer: any object with these members joins one."""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol, runtime_checkable

from lcnumba.layers.tree import leaves
from lcnumba.utils.types import Array, Shape

__all__ = ["Layer", "Model", "Pullback", "leaves", "lost_weights", "note_step"]


# Layers that were stepped by gradients and do not give their weights, by id.
_stepped: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


class Pullback(Protocol):
    """What a layer's `forward` returns beside y."""

    def __call__(self, dy: Any) -> tuple[Any, Any]:
        """Return (dx, grads) of dy; grads is whatever the layer's own `step` takes."""
        ...


@runtime_checkable
class Layer(Protocol):
    """A layer of a `Sequential`.

    Arrays inside a `Sequential` are NumPy arrays, batch first, and shapes are tuples that begin
    with None for the batch. A layer may also bring, and is then asked for:

    - ``built`` and ``input_shape``, without which it is built anew by every model it joins;
    - ``plan_update(grads, lr)``, which raises what `step` would raise, or returns a function without arguments that
      runs the step and cannot fail, so that a refused step of one layer leaves all as they were. The pullback may have
      it, too, and then its own is called. A pullback may also have ``plan_step(lr)``, which raises what can be refused
      before dy is known, and returns a function ``(dy, wants_dx) -> dx`` that steps the layer and cannot fail, or None:
      if all layers do so, a model is stepped layer by layer, without the gradients of all weights at once;
    - ``get_weights()`` and ``set_weights(list)``, without which it is saved as having no weights;
    - ``count_params()`` for the summary, and an ``optimizer`` attribute;
    - ``get_training_state()``, and ``plan_training_state(state)``, which raises if the state cannot be restored,
      and else returns the function that does it: what a checkpoint must hold beside the weights (the state of an
      optimizer, random numbers), made of numbers, strings, None, NumPy arrays, and lists, tuples and dicts of them;
    - ``plan_unbuild()``, beside ``built``: it returns a function that makes the layer unbuilt again, for a model of
      which a later layer could not be built;
    - ``from_config(config)``, a class method; without it ``cls(**config)`` makes the layer again.
    """

    @property
    def name(self) -> str:
        """What the model calls it."""
        ...

    def build(self, input_shape: Shape) -> None:
        """Make weights for inputs of this shape."""
        ...

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the output for inputs of this shape."""
        ...

    def __call__(self, x: Any) -> Any:
        """Return y for inference."""
        ...

    def forward(self, x: Any) -> tuple[Any, Pullback]:
        """Return y and the pullback of this very call."""
        ...

    def step(self, grads: Any, lr: float) -> None:
        """Change the weights by the gradients that the pullback returned."""
        ...

    def get_config(self) -> dict[str, Any]:
        """Return arguments, JSON values only, that make an equal layer."""
        ...


class Model(Protocol):
    """What training asks of a model, which `Sequential` is."""

    name: str
    training_config: Any
    steps_taken: int
    history: Any

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers, in order."""
        ...

    @property
    def built(self) -> bool:
        """Whether the layers have their weights."""
        ...

    @property
    def input_shape(self) -> Shape:
        """Shape of the input, None for the batch."""
        ...

    def build(self, input_shape: Any) -> None:
        """Build the layers that have no weights yet."""
        ...

    def unbuilt_on_failure(self) -> AbstractContextManager[None]:
        """Take weights away again from layers that had none before, if the block fails."""
        ...

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the output for inputs of this shape."""
        ...

    def call_penalised(self, x: Any) -> tuple[Any, float]:
        """Return the output for inference, and the activity penalties of this very call."""
        ...

    def forward(self, x: Any) -> tuple[Any, Any]:
        """Return the output, and the pullback of this very call."""
        ...

    def step(self, grads: Any, lr: float) -> None:
        """Step every layer, or none."""
        ...

    def penalties(self) -> float:
        """Return the sum of the penalties of all layers' weights."""
        ...

    def get_config(self) -> dict[str, Any]:
        """Return what makes an equal model."""
        ...

    def live_weights(self) -> list[Array]:
        """Return the weights, in order, as read-only views."""
        ...

    def weight_shapes(self, input_shape: Shape) -> list[tuple[int, ...]]:
        """Return the shapes of the weights, in order, for an input shape."""
        ...

    def set_weights(self, weights: Any) -> None:
        """Replace the weights, all or none."""
        ...

    def get_training_state(self) -> list[Any]:
        """Return what a checkpoint holds of each layer beside its weights."""
        ...

    def plan_training_state(self, state: Any) -> Callable[[], None]:
        """Check such a state; return the function that restores it."""
        ...


def note_step(layer: Any, grads: Any) -> None:
    """Remember a layer that is stepped by gradients and has no `get_weights`: nothing else tells that it has weights.

    Examples
    --------
    >>> from lcnumba.protocol import note_step
    >>> note_step(object(), None)
    """
    if hasattr(layer, "get_weights") or grads is None or (isinstance(grads, list | tuple | dict) and not grads):
        return
    with suppress(TypeError):  # of what cannot be referred to weakly
        _stepped[id(layer)] = layer


def lost_weights(model: Any, *, with_state: bool = False) -> str:
    """What is not kept of a model's weights, as a sentence's end; empty if nothing is known to be lost.

    Parameters
    ----------
    model : Sequential
        The model.
    with_state : bool
        Whether the training state of layers is kept, too, which may hold their weights.

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
        f"the weights of layer {', '.join(found)}, which training changes: such a class needs get_weights() and "
        "set_weights(list)"
        if found
        else ""
    )


def __dir__() -> list[str]:
    return __all__
