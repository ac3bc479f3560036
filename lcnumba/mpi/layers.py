"""The layers of a distributed model on one rank: each has its stripe of the numbers."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lcnumba.connectivity.stripe import Stripe
from lcnumba.constraints import Norm
from lcnumba.layers.backward import Backward
from lcnumba.layers.dropout import Dropout
from lcnumba.layers.locally_connected import LocallyConnected
from lcnumba.layers.stateless import Stateless
from lcnumba.mpi.exchange import Lines, World, WorldRows
from lcnumba.runtime.signals import import_whole
from lcnumba.utils.sums import ordered_sum
from lcnumba.utils.types import Array, Mask, Shape

__all__ = ["Gather", "Halo", "StripedDropout", "rows_of", "striped"]


@import_whole
def _loop() -> Any:
    from lcnumba.implementations import loop

    return loop


@import_whole
def _finite() -> Any:
    from lcnumba.kernels import finite

    return finite


class Halo(Stateless):
    """Gets the input lines that the next layer reads; backward returns their dx to the ranks that own them."""

    def __init__(self, name: str, world: World, lines: Lines) -> None:
        super().__init__(name, "halo")
        self._world, self._lines = world, lines

    def __call__(self, x: Array) -> Array:
        """Return the lines that this rank reads, given its own."""
        with self._world.agreed():
            run = self._lines.plan_halo(x)
        return run()

    def forward(self, x: Array) -> tuple[Array, "_Returned"]:
        """Return the same and the pullback."""
        return self(x), _Returned(self._lines.send_home)

    def get_config(self) -> dict[str, Any]:
        """Return no settings: the layer is not saved."""
        return {}


class Gather(Stateless):
    """Gets all lines on all ranks; backward takes this rank's lines of dx, which all ranks have."""

    def __init__(self, name: str, world: World, edges: Sequence[int]) -> None:
        super().__init__(name, "gather")
        self._world, self._edges = world, edges

    def __call__(self, x: Array) -> Array:
        """Return all lines, given this rank's."""
        return self._world.gather(x, self._edges)

    def forward(self, x: Array) -> tuple[Array, "_Returned"]:
        """Return the same and the pullback."""
        begin, end = self._edges[self._world.rank : self._world.rank + 2]
        return self(x), _Returned(lambda dx: np.ascontiguousarray(dx[:, begin:end]))

    def get_config(self) -> dict[str, Any]:
        """Return no settings: the layer is not saved."""
        return {}


class _Returned:
    """The pullback of `Halo` and `Gather`."""

    def __init__(self, run: Callable[[Array], Array]) -> None:
        self._run = run

    def __call__(self, dy: Array) -> tuple[Array, None]:
        """Return dx and no gradients."""
        return self._run(dy), None

    def plan_step(self, lr: float) -> Callable[[Array, bool], Any]:
        """Return a function ``(dy, wants_dx) -> dx``."""
        return lambda dy, wants_dx: self._run(dy) if wants_dx else None


class StripedDropout(Dropout):
    """Dropout of some lines: numbers are drawn for all lines, and those of the others are discarded."""

    def __init__(self, layer: Dropout, sample_shape: tuple[Any, ...], lines: Any) -> None:
        super().__init__(layer.rate, seed=layer.seed, name=layer.name)
        self._rng = layer._rng
        self._whole, self._lines = sample_shape, lines

    def _draw(self, shape: tuple[int, ...]) -> Mask:
        kept = np.empty(shape, bool)
        for sample in kept:
            np.greater_equal(self._rng.random(self._whole, np.float32)[self._lines], self.rate, out=sample)
        return kept


class _Striped(LocallyConnected):
    """What a stripe of a locally connected layer does otherwise than a whole one."""

    _stripe: Stripe
    _world: World
    _lines: Lines | None

    def forward(self, x: Any) -> tuple[Any, Backward]:
        """Return y and the pullback of this call."""
        self._check_finite(x)
        return super().forward(x)

    def __call__(self, x: Any) -> Any:
        """Return y, for inference."""
        self._check_finite(x)
        return super().__call__(x)

    def _check_finite(self, x: Array) -> None:
        """Refuse what a mask would let through: products of absent weights, which are 0, and infinity or NaN."""
        if self.kernel_mask is not None and not _finite().all_finite(x, self.n_threads):
            raise ValueError(f"x of {self.name!r} has values that are not finite; with a kernel_mask it must have none")

    def _geometry_of(self, input_shape: Any) -> Any:
        return self._stripe

    def _sum_lines(self, dbias: Array) -> Array:
        return ordered_sum(np.concatenate(self._world.gather_values(self._line_totals(dbias))))

    def _parts(self, input_shape: Shape) -> tuple[dict[str, Any], dict[str, Mask]]:
        stripe, mask = self._stripe, self.kernel_mask
        exists = None if stripe.complete else stripe.exists
        if mask is not None:
            exists = mask & (stripe.exists if mask.ndim == 2 else stripe.exists[:, :, None])
        borders: Any = self._lines
        loops = _loop().Loops(stripe, mask, borders)
        return {"_geometry": stripe, "_implementation": loops}, {} if exists is None else {"kernel": exists}


def striped(layer: LocallyConnected, stripe: Stripe, world: World, lines: Lines | None) -> LocallyConnected:
    """Return the stripe of a layer, without weights yet."""
    kind = type(layer)
    own = type(kind.__name__, (_Striped, kind), {"__module__": kind.__module__})
    settings = {name: getattr(layer, name) for name in layer._rules}
    mask = layer.kernel_mask
    settings["kernel_mask"] = None if mask is None else mask[slice(*rows_of(stripe))]
    for weight in ("kernel", *(["bias"] if layer.bias_sharing == "position" else [])):
        constraint = getattr(layer, f"{weight}_constraint")
        if isinstance(constraint, Norm):  # which may be over positions
            settings[f"{weight}_constraint"] = constraint = copy.copy(constraint)
            constraint.rows = WorldRows(world)
    made: Any = own(
        **settings, name=layer.name, trainable=layer.trainable, optimizer=layer.optimizer, n_threads=layer.n_threads
    )
    made.__dict__.update(_stripe=stripe, _world=world, _lines=lines)
    found: LocallyConnected = made
    return found


def rows_of(stripe: Stripe) -> tuple[int, int]:
    """The positions of the whole that a stripe has."""
    inner = stripe.positions // stripe.output_size[0]
    return stripe.first * inner, stripe.last * inner
