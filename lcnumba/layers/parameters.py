"""The parameters of one layer: the one place where they change, and who may look meanwhile."""

import copy
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lcnumba import constraints, optimizers, regularizers
from lcnumba.gradients import Gradients
from lcnumba.kernels.rules import Rule
from lcnumba.layers.regularization import Restraint
from lcnumba.runtime.locks import SharedLock
from lcnumba.utils.arrays import as_numpy, check_dtype, check_exact, normalise, read_only
from lcnumba.utils.types import Array, Mask
from lcnumba.utils.validation import learning_rate

__all__ = ["FusedUpdate", "Parameters", "as_vector"]


def as_vector(vector: Any) -> Array:
    """Return a vector of weights, of any kind of array, as NumPy; an error for what is no float or integer."""
    values, _ = as_numpy("vector", vector)
    check_dtype("vector", values, np.dtype(np.float64))
    return values


def _bits(array: Array) -> Array:
    """The numbers as integers, by which NaN and the sign of 0 can be compared."""
    return array.view(f"u{array.itemsize}")


def _writable(array: Array) -> Array:
    """The array, or a copy if a kernel could not write to it, or would write to somebody else's memory."""
    flags = array.flags
    own = type(array) is np.ndarray and flags.owndata and flags.writeable and flags.c_contiguous and flags.aligned
    return array if own else np.array(array, order="C")


def _own(state: Any) -> Any:
    """An optimizer's state whose arrays kernels may write to, copied if need be."""
    if isinstance(state, dict) and all(isinstance(value, np.ndarray) for value in state.values()):
        return {name: _writable(array) for name, array in state.items()}
    return copy.deepcopy(state)


def _alike(state: Any, model: dict[str, Array]) -> bool:
    """Whether a state holds arrays of the same names, shapes and dtypes as another, and counts from 0."""
    if not isinstance(state, dict) or not all(isinstance(array, np.ndarray) for array in state.values()):
        return False
    kinds = ({key: (a.shape, a.dtype) for key, a in arrays.items()} for arrays in (state, model))
    counts = (array for array in state.values() if array.dtype.kind == "i")
    return next(kinds) == next(kinds) and all(count.min() >= 0 for count in counts)


# Changes a kernel by a rule, or not at all, and returns dx if that is wanted.
FusedUpdate = Callable[[Array, Rule | None], Any]
_FREE = Restraint()


@dataclass(frozen=True)
class _Step:
    """A checked step from gradients: what to apply, and the state of affairs for which it was checked."""

    version: int
    base: dict[str, Any]  # the states that `states` were made of
    optimizer: optimizers.Optimizer
    lr: float
    states: dict[str, Any]
    gradients: dict[str, Array]
    values: dict[str, Array] | None  # the new arrays that user code has made; None without such


class Parameters:
    """Named arrays, their optimizer and its state, guarded by a lock and counted by a version.

    Calls of the layer share the lock, changes exclude them; every change raises `version` before
    the first number changes, so that what was derived from older values can tell.
    """

    def __init__(self, owner: str, optimizer: Any) -> None:
        self._owner = owner  # how messages call the layer
        self.lock = SharedLock()
        self.version = 0
        self._changed_by: int | None = None  # the thread of the last change
        self.trainable = True
        self.threads: int | None = None  # how many updates may use; None: as many as Numba does
        self._arrays: dict[str, Array] = {}
        self._exists: dict[str, Mask] = {}
        self._restraints: dict[str, Restraint] = {}
        self._optimizer = optimizers.get(optimizer)
        self._states: dict[str, Any] = {}

    @property
    def built(self) -> bool:
        """Whether the arrays exist."""
        return bool(self._arrays)

    @property
    def optimizer(self) -> optimizers.Optimizer:
        """The optimizer; setting it forgets the state of the last one."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, identifier: Any) -> None:
        optimizer = optimizers.get(identifier)
        with self.lock.exclusive():
            self._optimizer, self._states = optimizer, {}

    def fill(
        self, arrays: Mapping[str, Array], exists: Mapping[str, Mask], restraints: Mapping[str, Restraint]
    ) -> None:
        """Take the first, or new, arrays as they are; the caller holds the lock alone.

        `exists` marks, for arrays that have such, the rows (all axes but the last) or numbers that exist:
        the others are 0 and stay 0 whatever values or gradients come.
        """
        for name, restraint in restraints.items():
            restraint.check(name, arrays[name].dtype)
            if isinstance(restraint.constraint, constraints.Norm):
                restraint.constraint.check(f"{name}_constraint", arrays[name].shape)
        for name, mask in exists.items():
            arrays[name][~mask] = 0
        self._changes()
        self._arrays, self._exists, self._restraints = dict(arrays), dict(exists), dict(restraints)
        self._states = {}

    def __getitem__(self, name: str) -> Array:
        """One array itself, for computation under the lock."""
        return self._arrays[name]

    def views(self) -> dict[str, Array]:
        """The arrays as read-only views, which follow later changes."""
        return {name: read_only(array) for name, array in self._arrays.items()}

    def copies(self) -> list[Array]:
        """Copies of the arrays."""
        with self.lock.shared():
            return [array.copy() for array in self._arrays.values()]

    def snapshot(self) -> tuple[list[Array], optimizers.Optimizer, dict[str, Any]]:
        """Copies of the arrays, the optimizer and a copy of its state, all of one moment."""
        with self.lock.shared():
            arrays = [array.copy() for array in self._arrays.values()]
            return arrays, self._optimizer, copy.deepcopy(self._states)

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle the state of one moment, whatever other threads do."""
        with self.lock.shared():
            arrays = {name: array.copy() for name, array in self._arrays.items()}
            return {**self.__dict__, "_arrays": arrays, "_states": copy.deepcopy(self._states)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a copy, with arrays that kernels may write to.

        joblib hands large arrays over as read-only memory maps, and pickles with buffers of their own may lie in any
        memory: writing to those would end the process.
        """
        arrays = {name: _writable(array) for name, array in state["_arrays"].items()}
        self.__dict__.update(state, _arrays=arrays, _states={n: _own(s) for n, s in state["_states"].items()})

    def __deepcopy__(self, memo: dict[int, Any]) -> "Parameters":
        """Copy once: the state that is taken is a copy already."""
        twin = object.__new__(Parameters)
        memo[id(self)] = twin
        arrays = ("_arrays", "_states")
        state = self.__getstate__()
        rest = {name: value for name, value in state.items() if name not in arrays}
        twin.__setstate__({**copy.deepcopy(rest, memo), **{name: state[name] for name in arrays}})
        return twin

    def set_optimizer_state(self, optimizer: optimizers.Optimizer, states: dict[str, Any]) -> None:
        """Take the optimizer and state of a `snapshot` of parameters of the same shapes."""
        with self.lock.exclusive():
            self._optimizer, self._states = optimizer, states

    def states(self) -> dict[str, Any]:
        """The optimizer's state by array, itself and no copy; empty before the first step."""
        with self.lock.shared():
            return dict(self._states)

    def plan_states(self, states: Any) -> Callable[[], None]:
        """Check what `states` returned of parameters like these, and return the function that takes it over."""
        self.lock.check()
        optimizer, fits = self._optimizer, isinstance(states, dict) and set(states) <= set(self._arrays)
        if fits and optimizers.is_built_in(optimizer):
            with self.lock.shared():
                fresh = {name: optimizer.init(self._arrays[name]) for name in states}
            fits = all(_alike(states[name], fresh[name]) for name in states)
        if not fits:
            raise ValueError(f"the state does not belong to {optimizer!r} on the weights of {self._owner}")

        def run() -> None:
            with self.lock.exclusive():
                self._states = {name: _own(state) for name, state in states.items()}

        return run

    def count(self) -> int:
        """How many numbers exist."""
        total = 0
        for name, array in self._arrays.items():
            mask = self._exists.get(name)
            each = 1 if mask is None or mask.ndim == array.ndim else array.shape[-1]
            total += array.size if mask is None else int(np.count_nonzero(mask)) * each
        return total

    def check_version(self, version: int | None) -> None:
        """Raise if the arrays have changed since they had this version; None is any. Under the lock."""
        if version is not None and version != self.version:
            raise RuntimeError(
                f"backward belongs to older weights of {self._owner}, which have changed since its forward; "
                "call forward again"
            )

    def set(self, weights: Any) -> None:
        """Replace all values at once, or none if any has the wrong shape or dtype."""
        self.plan_set(weights)()

    def plan_set(self, weights: Any) -> Callable[[], None]:
        """Check new values, and return the function that puts them in place, which does not fail.

        Several layers can so be checked before the first one changes. Equal values are no change, after which a
        pullback would refuse to run.
        """
        given = self.as_numpy(weights)
        self.require_built("set_weights")
        with self.lock.shared():
            shapes = {name: array.shape for name, array in self._arrays.items()}
            dtype = next(iter(self._arrays.values())).dtype
            new = {n: self._apart(self._existing(n, v)) for n, v in self.checked(given, shapes, dtype).items()}

        def run() -> None:
            with self.lock.exclusive():
                if {name: array.shape for name, array in self._arrays.items()} != shapes:
                    raise RuntimeError(f"{self._owner} was built anew while its weights were being set; set them again")
                if all(np.array_equal(_bits(values), _bits(self._arrays[name])) for name, values in new.items()):
                    return  # pullbacks of these very values stay right
                self._changes()
                for name, values in new.items():
                    np.copyto(self._arrays[name], values)

        return run

    def clear(self) -> None:
        """Forget the arrays; the caller holds the lock alone."""
        self._changes()
        self._arrays, self._exists, self._restraints, self._states = {}, {}, {}, {}

    def as_numpy(self, weights: Any) -> list[Array]:
        """A list or tuple of arrays of any kind, as NumPy arrays."""
        if not isinstance(weights, list | tuple):
            raise TypeError(f"weights is a {type(weights).__name__}; give a list of arrays")
        return [as_numpy(f"weights[{number}]", weight)[0] for number, weight in enumerate(weights)]

    def checked(
        self, weights: list[Array], shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]
    ) -> dict[str, Array]:
        """The weights by name, normalised, or an error that says which does not fit."""
        if len(weights) != len(shapes):
            raise ValueError(f"{len(weights)} weights given; {self._owner} needs {len(shapes)}: {', '.join(shapes)}")
        for (name, shape), values in zip(shapes.items(), weights, strict=True):
            if values.shape != shape:
                raise ValueError(f"{name} has shape {values.shape}; {self._owner} needs {shape}")
        return {name: normalise(name, values, dtype) for name, values in zip(shapes, weights, strict=True)}

    def plan(self, grads: Any, lr: Any, version: int | None = None) -> Callable[[], None]:
        """Check a step from gradients, and return the function that runs it.

        Several layers can so be checked before the first one changes. Built-in optimizers work in place, and do not
        fail as they run. User code - optimizer, regularizer or constraint - runs here, on copies and outside the lock,
        so that if it fails everything is as it was.
        """
        if grads is None and not self.trainable:
            self.check(lr, version)
            return lambda: None
        given = self._by_name(grads)
        planned = self._plan(given, lr, version)

        def run() -> None:
            step, own = planned, 0
            while step is not None and not self._apply(step):
                # Another thread has changed the parameters since, or a handler of this one. If this thread has changed
                # them twice in turn, it is what the user's code does whenever it is called.
                own = own + 1 if self._changed_by == threading.get_ident() else 0
                if own > 1:
                    raise RuntimeError(
                        f"{self._owner} was changed during its own step; an optimizer, regularizer or constraint must "
                        "not change the layer that it belongs to"
                    )
                step = self._plan(given, lr, version)

        return run

    def plan_fused(self, lr: Any, version: int) -> Callable[[FusedUpdate, Mapping[str, Array]], Any] | None:
        """Check a step whose gradients are not known yet, and return the function that runs it.

        None if user code has a part in it, which could fail. The function steps the kernel by ``update(kernel, rule)``,
        which changes it by the rule, or not at all if that is None, and whose result is returned; and the other arrays
        by their gradients. `update` must not fail.
        """
        self.require_built("step")
        self.lock.check()
        with self.lock.shared():
            self.check_version(version)
            rate, optimizer, base = self._rate(lr), self._optimizer, self._states
            if not (self.fuses and optimizers.is_built_in(optimizer)):
                return None
            # All memory is requested, and all code compiled, before anything changes.
            states = self._states_with(optimizer) if self.trainable else {}
            for name in self._arrays.keys() - {"kernel"}:
                optimizers.prepare(self._arrays[name], self.threads)

        def run(update: FusedUpdate, others: Mapping[str, Array]) -> Any:
            nonlocal states
            with self.lock.exclusive():
                self.check_version(version)
                if not self.trainable:
                    return update(self._arrays["kernel"], None)
                now = self._optimizer
                if not optimizers.is_built_in(now):
                    raise RuntimeError(f"the optimizer of {self._owner} was changed during its step; step again")
                if now is not optimizer or self._states is not base:  # another thread has set one
                    states = self._states_with(now)
                rule = self._restraint("kernel").on(now.rule(states["kernel"], rate))
                self._changes()
                try:
                    result = update(self._arrays["kernel"], rule)
                except MemoryError:  # of a workspace, which is requested before the first number changes
                    self.version = version
                    raise
                now.advance(states["kernel"])
                self._restraint("kernel").finish(self._arrays["kernel"])
                for name, grad in others.items():
                    self._run(now, name, grad, states[name], rate)
                self._states = states
                return result

        return run

    def check(self, lr: Any, version: int | None) -> None:
        """Raise what a step would raise before its gradients are known."""
        self.require_built("step")
        self.lock.check()
        with self.lock.shared():
            self.check_version(version)
            self._rate(lr)

    def _states_with(self, optimizer: optimizers.BuiltIn) -> dict[str, Any]:
        """The optimizer's states, made now for arrays that have none."""
        return {name: self._states.get(name) or optimizer.init(array) for name, array in self._arrays.items()}

    def _changes(self) -> None:
        """Note that the arrays are about to change; the caller holds the lock alone."""
        self.version += 1
        self._changed_by = threading.get_ident()

    @property
    def fuses(self) -> bool:
        """Whether weights can be updated block by block, as their gradients come: no code of users has a part."""
        return optimizers.is_built_in(self._optimizer) and all(r.built_in for r in self._restraints.values())

    def flat(self) -> Array:
        """All numbers that exist, one array after the other, as a fresh vector."""
        self.require_built("get_flat")
        with self.lock.shared():
            parts = [array.reshape(-1) if m is None else array[m] for array, m in self._with_masks()]
            return np.concatenate(parts)

    def plan_flat(self, vector: Array) -> Callable[[], None]:
        """Check a vector as `flat` returns it, and return the function that replaces all numbers that exist by its."""
        self.require_built("set_flat")
        values, at, new = as_vector(vector), 0, []
        if values.shape != (self.count(),):
            raise ValueError(f"the vector has shape {values.shape}; {self._owner} needs ({self.count()},)")
        for array, mask in self._with_masks():
            size = array.size if mask is None else int(np.count_nonzero(mask))
            part, at = values[at : at + size], at + size
            if mask is None:
                new.append(part.reshape(array.shape).astype(array.dtype))
            else:
                new.append(np.zeros_like(array))
                new[-1][mask] = part
        return self.plan_set(new)

    def flat_gradient(self, grads: Any) -> Array:
        """The gradients of loss and penalties as a vector like that of `flat`, given those of the loss."""
        given, parts = self._by_name(grads), []
        arrays = dict(zip(self._arrays, self.copies(), strict=True))
        for (name, array), (_, mask) in zip(arrays.items(), self._with_masks(), strict=True):
            total = self._restraint(name).total(array, self._gradient(name, given[name]))
            parts.append(total.reshape(-1) if mask is None else total[mask])
        return np.concatenate(parts)

    def _with_masks(self) -> list[tuple[Array, Mask | None]]:
        """The arrays, each with a mask of its own shape of the numbers that exist, or None for all."""
        pairs: list[tuple[Array, Mask | None]] = []
        for name, array in self._arrays.items():
            mask = self._exists.get(name)
            if mask is not None and mask.ndim < array.ndim:
                mask = np.broadcast_to(mask[..., None], array.shape)
            pairs.append((array, mask))
        return pairs

    def penalties(self) -> list[float]:
        """The penalties of the arrays that have one, in their order."""
        with self.lock.shared():
            found = [(self._restraints[n].regularizer, a) for n, a in self._arrays.items() if n in self._restraints]
            # Code of users runs outside the lock.
            given = [(r, a if regularizers.is_built_in(r) else a.copy()) for r, a in found if r is not None]
            values = {n: r(a) for n, (r, a) in enumerate(given) if regularizers.is_built_in(r)}
        return [values[n] if n in values else float(r(read_only(a))) for n, (r, a) in enumerate(given)]

    def _rate(self, lr: Any) -> float:
        """The learning rate, if all factors of a step are finite in the type of the arrays."""
        dtype = next(iter(self._arrays.values())).dtype
        rate = learning_rate(lr, dtype)
        if isinstance(self._optimizer, optimizers.AdamW):
            learning_rate(rate * self._optimizer.weight_decay, dtype, "lr * weight_decay")
        return rate

    def _restraint(self, name: str) -> Restraint:
        return self._restraints.get(name, _FREE)

    def _run(self, optimizer: optimizers.BuiltIn, name: str, grad: Array, state: Any, lr: float) -> None:
        """Step one array in place."""
        array, restraint = self._arrays[name], self._restraint(name)
        optimizers.run(optimizer, array, grad, state, lr, self.threads, restraint.on)
        restraint.finish(array)

    def require_built(self, action: str) -> None:
        """Raise unless the arrays exist."""
        if not self.built:
            raise RuntimeError(f"{action} before build: {self._owner} has no weights yet; call it or build it first")

    def _by_name(self, grads: Any) -> dict[str, Array]:
        """The gradients as NumPy arrays, as many as there are parameters."""
        self.require_built("step")
        if isinstance(grads, Gradients):
            grads = (grads.kernel,) if grads.bias is None else (grads.kernel, grads.bias)
        names = tuple(self._arrays)
        if not isinstance(grads, tuple | list):
            raise TypeError(
                f"grads is a {type(grads).__name__}; give the Gradients of a backward call or a tuple "
                f"({', '.join(names)})"
            )
        if len(grads) != len(names):
            raise ValueError(f"grads has {len(grads)} arrays; {self._owner} needs {len(names)}: {', '.join(names)}")
        return {name: as_numpy(f"grads of {name}", grad)[0] for name, grad in zip(names, grads, strict=True)}

    def _plan(self, given: dict[str, Array], lr: Any, version: int | None) -> _Step | None:
        """Check a step against the parameters as they are now; None if they are not trainable."""
        self.lock.check()
        with self.lock.shared():
            self.check_version(version)
            rate = self._rate(lr)
            gradients = {name: self._gradient(name, grad) for name, grad in given.items()}
            if not self.trainable:
                return None
            version, optimizer = self.version, self._optimizer
            if self.fuses and optimizers.is_built_in(optimizer):
                # All memory is requested, and all code compiled, before anything changes.
                for array in self._arrays.values():
                    optimizers.prepare(array, self.threads)
                return _Step(version, self._states, optimizer, rate, self._states_with(optimizer), gradients, None)
            arrays = {name: array.copy() for name, array in self._arrays.items()}
            base, states = self._states, copy.deepcopy(self._states)
        for name, array in arrays.items():
            shape, dtype = array.shape, array.dtype
            if name not in states:
                states[name] = optimizer.init(read_only(array))
            restraint = self._restraint(name)
            returned: Any = optimizer.update(  # type: ignore[func-returns-value]
                array, read_only(restraint.total(array, gradients[name])), states[name], rate
            )
            if returned is not None:
                raise TypeError(
                    f"update of optimizer {optimizer!r} returned a {type(returned).__name__}; it must change param and "
                    "state in place, such as param -= lr * grad, and return None"
                )
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"optimizer {optimizer!r} made {name} of shape {shape} an array of shape {array.shape}; "
                    "change its values alone"
                )
            # Norms are of what exists.
            array[...] = self._existing(name, array)
            restraint.bring_back(array)
        values = {name: self._existing(name, array) for name, array in arrays.items()}
        return _Step(version, base, optimizer, rate, states, gradients, values)

    def _apply(self, step: _Step) -> bool:
        """Run a step, or return False if it was checked against what is no more."""
        with self.lock.exclusive():
            if self.version != step.version or self._states is not step.base:
                return False
            self._changes()
            for name, array in self._arrays.items():
                if step.values is not None:
                    np.copyto(array, step.values[name])
                else:
                    assert optimizers.is_built_in(step.optimizer)
                    self._run(step.optimizer, name, step.gradients[name], step.states[name], step.lr)
            self._states = step.states
            return True

    def _gradient(self, name: str, grad: Array) -> Array:
        """One gradient, checked and normalised, 0 where nothing exists, apart from the parameters."""
        array = self._arrays[name]
        check_exact(f"grads of {name}", grad, array.shape, array.dtype)
        return self._apart(self._existing(name, normalise(f"grads of {name}", grad, array.dtype)))

    def _apart(self, values: Array) -> Array:
        """The values, copied if they lie in the parameters themselves."""
        aliased = any(np.may_share_memory(values, array) for array in self._arrays.values())
        return values.copy() if aliased else values

    def _existing(self, name: str, values: Array) -> Array:
        """The values, with 0 where nothing exists; copied only if they are not 0 there already."""
        mask = self._exists.get(name)
        if mask is None or not np.any(values[~mask] != 0):  # NaN != 0
            return values
        return np.where(mask if mask.ndim == values.ndim else mask[..., None], values, values.dtype.type(0))
