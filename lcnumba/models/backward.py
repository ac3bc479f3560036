"""The pullback of a model, and the step of all its layers or none; each layer's is in `layers/backward.py`."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from lcnumba.protocol import Layer, Pullback, note_step
from lcnumba.runtime.memory import require
from lcnumba.runtime.signals import deferred
from lcnumba.utils.arrays import as_numpy, fresh
from lcnumba.utils.deprecation import Renamed, plan_method
from lcnumba.utils.display import PublicNames
from lcnumba.utils.messages import public
from lcnumba.utils.validation import learning_rate

__all__ = ["SequentialBackward", "plan_updates"]


class SequentialBackward(PublicNames):
    """Derivatives at one forward call of a `Sequential`."""

    def __init__(self, layers: Sequence[Layer], pullbacks: Sequence[Pullback]) -> None:
        self._layers = layers
        self._pullbacks = pullbacks

    def __repr__(self) -> str:
        """The layers' pullbacks."""
        return f"<{type(self).__name__}{''.join(f'{chr(10)}  {pullback!r:.200}' for pullback in self._pullbacks)}>"

    @property
    def activity_loss(self) -> float:
        """The penalties of all layers' outputs in this call."""
        return sum(getattr(pullback, "activity_loss", 0.0) for pullback in self._pullbacks)

    @public
    def __call__(self, dy: Any) -> tuple[Any, list[Any]]:
        """Return dx, of the type of dy, and the list of the layers' gradients."""
        given, like = as_numpy("dy", dy)
        values, grads = given, []
        for pullback in reversed(self._pullbacks):
            found: Any = pullback(values)
            if not (isinstance(found, tuple | list) and len(found) == 2):
                raise TypeError(
                    f"the pullback {pullback!r:.80} returned a {type(found).__name__}; it must return (dx, grads), "
                    "with grads=None for a layer without weights"
                )
            values, grad = found
            grads.append(grad)
        return like(fresh(values, given)), grads[::-1]

    @public
    def step(self, dy: Any, lr: float, *, wants_dx: bool = True) -> Any:
        """Backward and the model's `step` in one: return dx, and change the parameters.

        Layers with built-in optimizers update their weights as gradients are computed, without gradient arrays. If
        user code is involved in any layer's step, all gradients are computed and all layers checked before the first
        one changes. If an error is raised, no layer has changed.

        Parameters
        ----------
        dy : array
            Of the shape of the output.
        lr : float
            Learning rate, finite and at least 0.
        wants_dx : bool, default True
            Whether to compute and return dx; otherwise None is returned.
        """
        rate = learning_rate(lr)
        with deferred():  # no signal handler may change a layer between checks and steps
            run = self.plan_step(rate)
            if run is not None:
                return run(dy, wants_dx)
        dx, grads = self(dy)
        self.plan_update(grads, rate)()
        return dx if wants_dx else None

    def plan_step(self, lr: float) -> Callable[[Any, bool], Any] | None:
        """Check a step before dy is known; return a function ``(dy, wants_dx) -> dx`` that runs it and cannot fail.

        None if a layer cannot check its step beforehand, so that the step could fail half-way.
        """
        plans = [plan(lr) if (plan := getattr(p, "plan_step", None)) else None for p in self._pullbacks]
        if any(plan is None for plan in plans):
            return None

        # What is alive at a time: dx of a layer, and that of the layer above it.
        sizes = [getattr(pullback, "bytes_of_step", 0) for pullback in self._pullbacks]
        require(max(map(sum, pairwise([0, *sizes, 0]))), "a step of the model", "give fewer samples at a time")

        def run(dy: Any, wants_dx: bool) -> Any:
            given, like = as_numpy("dy", dy)
            values = given
            with deferred():  # all layers step or none
                for number in reversed(range(len(plans))):
                    values = plans[number](values, wants_dx or number > 0)  # type: ignore[misc]
            return like(fresh(values, given)) if wants_dx else None

        return run

    def plan_update(self, grads: Sequence[Any], lr: float) -> Callable[[], None]:
        """Check a step from the gradients of this call; return a function that runs it."""
        return plan_updates(self._layers, self._pullbacks, grads, lr)

    prepare_step = Renamed("plan_update")


def plan_updates(
    layers: Sequence[Layer], pullbacks: Sequence[Any], grads: Sequence[Any], lr: float
) -> Callable[[], None]:
    """Check every layer's step; return a function that runs all of them.

    A pullback with ``plan_update`` is used in place of its layer: it knows the version of its weights. Steps that
    cannot be checked may fail and run first.
    """
    checked, unchecked = [], []
    for layer, pullback, grad in zip(layers, pullbacks, grads, strict=True):
        plan = plan_method(pullback, "update", "prepare_step") or plan_method(layer, "update", "prepare_step")
        note_step(layer, grad)
        if plan is not None:
            checked.append(plan(grad, lr))
        else:
            unchecked.append(partial(layer.step, grad, lr))

    def run() -> None:
        with deferred():
            for each in unchecked + checked:
                each()

    return run
