"""The parameters of one layer: the one place where they change, and who may look meanwhile."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba import optimizers
from lcnumba.arrays import exact, frozen, ingest, normalise
from lcnumba.checks import learning_rate
from lcnumba.locks import SharedLock

__all__ = ["Gradients", "Parameters"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Gradients:
    """Gradients of a layer with a kernel and, unless ``use_bias=False``, a bias.

    They add up and scale, so that gradients of several batches can be accumulated or averaged:
    ``0.5 * (first + second)``.
    """

    kernel: Array
    bias: Array | None = None

    # NumPy scalars then leave the multiplication to __rmul__ instead of making an object array.
    __array_ufunc__ = None

    def __add__(self, other: "Gradients") -> "Gradients":
        """Sum of two gradients of one layer."""
        if not isinstance(other, Gradients):
            return NotImplemented
        if (self.bias is None) != (other.bias is None) or self.kernel.shape != other.kernel.shape:
            raise ValueError("only gradients of the same layer add up")
        bias = None if self.bias is None or other.bias is None else self.bias + other.bias
        return Gradients(self.kernel + other.kernel, bias)

    def __mul__(self, factor: float) -> "Gradients":
        """Gradients times a scalar."""
        number = self.kernel.dtype.type(factor)
        return Gradients(self.kernel * number, None if self.bias is None else self.bias * number)

    __rmul__ = __mul__


class Parameters:
    """Named arrays, their optimizer and its state, guarded by a lock and counted by a version.

    Calls of the layer share the lock, changes exclude them; every change raises `version`, so
    that what was derived from older values can tell.
    """

    def __init__(self, owner: str, optimizer: Any) -> None:
        self.owner = owner  # how messages call the layer
        self.lock = SharedLock()
        self.version = 0
        self.trainable = True
        self._arrays: dict[str, Array] = {}
        self._exists: dict[str, npt.NDArray[np.bool_]] = {}
        self._built = False
        self._optimizer = optimizers.get(optimizer)
        self._states: dict[str, Any] = {}

    @property
    def built(self) -> bool:
        """Whether the arrays exist."""
        return self._built

    @property
    def optimizer(self) -> optimizers.Optimizer:
        """The optimizer; setting it forgets the state of the last one."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, identifier: Any) -> None:
        optimizer = optimizers.get(identifier)
        with self.lock.exclusive():
            self._optimizer, self._states = optimizer, {}

    def fill(self, arrays: Mapping[str, Array], exists: Mapping[str, npt.NDArray[np.bool_]]) -> None:
        """Take the first, or new, arrays; the caller holds the lock alone.

        `exists` marks, for arrays that have such, the elements that exist (broadcastable): the
        others are 0 and stay 0 whatever values or gradients come.
        """
        for name, mask in exists.items():
            np.copyto(arrays[name], 0, where=~mask)
        self._arrays, self._exists = dict(arrays), dict(exists)
        self._states = {}
        self._built = True
        self.version += 1

    def __getitem__(self, name: str) -> Array:
        """One array itself, for computation under the lock."""
        return self._arrays[name]

    def views(self) -> dict[str, Array]:
        """The arrays as read-only views, which follow later changes."""
        return {name: frozen(array) for name, array in self._arrays.items()}

    def copies(self) -> list[Array]:
        """Copies of the arrays."""
        with self.lock.shared():
            return [array.copy() for array in self._arrays.values()]

    def count(self) -> int:
        """How many numbers exist."""
        return sum(array.size - self._absent(name) for name, array in self._arrays.items())

    def _absent(self, name: str) -> int:
        """How many numbers of one array do not exist."""
        mask = self._exists.get(name)
        if mask is None:
            return 0
        return int(np.count_nonzero(~mask)) * (self._arrays[name].size // mask.size)

    @contextmanager
    def reading(self, version: int | None = None) -> Iterator[None]:
        """Hold the lock together with other calls; refuse if the version is no longer `version`."""
        with self.lock.shared():
            self._check_version(version)
            yield

    def set(self, weights: Sequence[Any]) -> None:
        """Replace all values at once, or none if any has the wrong shape."""
        self.require_built("set_weights")
        new = self.checked(weights, self._arrays)
        with self.lock.exclusive():
            self._commit(new)

    def checked(self, weights: Sequence[Any], like: Mapping[str, Array]) -> dict[str, Array]:
        """Return copies of `weights` by name, or say which does not match the arrays `like`."""
        if len(weights) != len(like):
            raise ValueError(f"{len(weights)} weights given; {self.owner} needs {len(like)}: {', '.join(like)}")
        new = {}
        for (name, array), weight in zip(like.items(), weights, strict=True):
            values = normalise(name, ingest(name, weight)[0], array.dtype)
            if values.shape != array.shape:
                raise ValueError(f"{name} has shape {values.shape}; {self.owner} needs {array.shape}")
            new[name] = values.copy()
        return new

    def take(self, other: "Parameters") -> None:
        """Take the values, the optimizer and its state of another layer's parameters."""
        with other.lock.shared():
            new = {name: array.copy() for name, array in other._arrays.items()}
            optimizer, states = other._optimizer, copy.deepcopy(other._states)
        with self.lock.exclusive():
            self._commit(new)
            self._optimizer, self._states = optimizer, states

    def step(self, grads: Any, lr: Any, version: int | None = None) -> None:
        """Let the optimizer change the parameters, all or none; see the layers' `step`."""
        rate = learning_rate(lr)
        self.require_built("step")
        gradients = self.check(grads)
        if not self.trainable:
            return
        with self.lock.exclusive():
            self._check_version(version)
            if optimizers.is_built_in(self._optimizer):
                self._step_in_place(gradients, rate)
            else:
                self._step_on_copies(gradients, rate)

    def check(self, grads: Any) -> dict[str, Array]:
        """Return the gradients by name, or say what is wrong with their number, shapes or dtype."""
        self.require_built("step")
        if isinstance(grads, Gradients):
            grads = (grads.kernel,) if grads.bias is None else (grads.kernel, grads.bias)
        if not isinstance(grads, tuple | list):
            raise TypeError(
                f"grads is a {type(grads).__name__}; give the Gradients of a backward call or a tuple "
                f"({', '.join(self._arrays)})"
            )
        if len(grads) != len(self._arrays):
            raise ValueError(
                f"grads has {len(grads)} arrays; {self.owner} needs {len(self._arrays)}: {', '.join(self._arrays)}"
            )
        return {
            name: self._existing(name, exact(f"grads of {name}", grad, array.shape, array.dtype))
            for (name, array), grad in zip(self._arrays.items(), grads, strict=True)
        }

    def require_built(self, action: str) -> None:
        """Raise unless the arrays exist."""
        if not self._built:
            raise RuntimeError(f"{action} before build: {self.owner} has no weights yet; call it or build it first")

    def _existing(self, name: str, values: Array) -> Array:
        """The values with 0 where no element exists (selected, so that NaN there has no effect)."""
        mask = self._exists.get(name)
        return values if mask is None else np.where(mask, values, values.dtype.type(0))

    def _check_version(self, version: int | None) -> None:
        if version is not None and version != self.version:
            raise RuntimeError(
                f"backward belongs to older weights of {self.owner}, which have changed since its forward; "
                "call forward again"
            )

    def _step_in_place(self, gradients: dict[str, Array], rate: float) -> None:
        # All memory is asked for before anything changes.
        for name, array in self._arrays.items():
            if name not in self._states:
                self._states[name] = self._optimizer.init(array)
        for name, grad in gradients.items():
            self._optimizer.update(self._arrays[name], grad, self._states[name], rate)
        self.version += 1

    def _step_on_copies(self, gradients: dict[str, Array], rate: float) -> None:
        arrays, states = {}, {}
        for name, grad in gradients.items():
            old = self._arrays[name]
            arrays[name] = old.copy()
            known = name in self._states
            states[name] = copy.deepcopy(self._states[name]) if known else self._optimizer.init(frozen(old))
            self._optimizer.update(arrays[name], frozen(grad), states[name], rate)
        self._commit(arrays)
        self._states = states

    def _commit(self, new: Mapping[str, Array]) -> None:
        """Write all new values; the caller has checked them and holds the lock alone."""
        for name, values in new.items():
            np.copyto(self._arrays[name], self._existing(name, values))
        self.version += 1
