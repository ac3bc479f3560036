"""The parameters of one layer, the lock that guards them, and the only place that lets a step change them."""

import copy
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lcnumba import constraints, optimizers, regularizers
from lcnumba.gradients import LayerGradients
from lcnumba.kernels.rules import Rule
from lcnumba.layers.regularization import Regularization
from lcnumba.runtime.locks import SharedLock
from lcnumba.utils.arrays import as_numpy, check_dtype, check_exact, normalise, read_only
from lcnumba.utils.types import Array, Mask
from lcnumba.utils.validation import learning_rate

__all__ = ["FusedUpdate", "Parameters", "as_vector"]


def as_vector(vector: Any) -> Array:
    """Return a weight vector, of any array type, as NumPy; raise unless its dtype is float or integer."""
    values, _ = as_numpy("vector", vector)
    check_dtype("vector", values, np.dtype(np.float64))
    return values


def _bits(array: Array) -> Array:
    """The array's bits as unsigned integers, so that NaNs and signed zeros compare."""
    return array.view(f"u{array.itemsize}")


def _writable(array: Array) -> Array:
    """The array, or a copy unless it is writable, contiguous and owns its memory."""
    flags = array.flags
    own = type(array) is np.ndarray and flags.owndata and flags.writeable and flags.c_contiguous and flags.aligned
    return array if own else np.array(array, order="C")


def _own_arrays(state: Any) -> Any:
    """An optimizer's state with arrays that kernels may write to, copied where necessary."""
    if isinstance(state, dict) and all(isinstance(value, np.ndarray) for value in state.values()):
        return {name: _writable(array) for name, array in state.items()}
    return copy.deepcopy(state)


def _same_structure(state: Any, model: dict[str, Array]) -> bool:
    """Whether a state has arrays of the same names, shapes and dtypes as `model`, and no negative counters."""
    if not isinstance(state, dict) or not all(isinstance(array, np.ndarray) for array in state.values()):
        return False
    kinds = ({key: (a.shape, a.dtype) for key, a in arrays.items()} for arrays in (state, model))
    counts = (array for array in state.values() if array.dtype.kind == "i")
    return next(kinds) == next(kinds) and all(count.min() >= 0 for count in counts)


# Updates a kernel by a rule (unchanged for None) and returns dx if requested.
FusedUpdate = Callable[[Any, Rule | None], Any]
_NO_REGULARIZATION = Regularization()


@dataclass(frozen=True)
class _Step:
    """A checked step from gradients, and the version and optimizer states it was checked against."""

    version: int
    base: dict[str, Any]  # the states that `states` was derived from
    optimizer: optimizers.Optimizer
    lr: float
    states: dict[str, Any]
    gradients: dict[str, Array]
    values: dict[str, Array] | None  # new arrays computed by user code, if there is any
    averages: dict[str, Array]  # the new moving averages


# The user code that each thread is running.
_user_code = threading.local()


class _UserCode:
    """While this thread runs user code of a layer: whether the thread changes the layer meanwhile."""

    def __init__(self, parameters: "Parameters") -> None:
        self.parameters, self.changed = parameters, False

    def __enter__(self) -> None:
        _user_code.__dict__.setdefault("running", []).append(self)

    def __exit__(self, *_: object) -> None:
        _user_code.running.remove(self)


class Parameters:
    """Named arrays, their optimizer and its state, guarded by a lock and counted by a version.

    Some arrays may be moving averages: a step takes the moments of batches into them, and no optimizer changes them.

    Calls of the layer hold the lock shared, changes hold it exclusively. Every change increments `version` before it
    writes, so that data derived from older values can be recognised as stale.
    """

    def __init__(self, owner: str, optimizer: Any) -> None:
        self.owner = owner  # the layer's name in messages
        self.lock = SharedLock()
        self.version = 0
        self.trainable = True
        self.threads: int | None = None  # used by updates; None: as many as Numba
        self._arrays: dict[str, Array] = {}
        self._exists: dict[str, Mask] = {}
        self._regularizations: dict[str, Regularization] = {}
        self._momentum: dict[str, float] = {}  # of the moving averages
        self._optimizer = optimizers.get(optimizer)
        self._states: dict[str, Any] = {}

    @property
    def built(self) -> bool:
        """Whether the arrays exist."""
        return bool(self._arrays)

    @property
    def optimizer(self) -> optimizers.Optimizer:
        """The optimizer; setting it discards the state of the previous one."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, identifier: Any) -> None:
        optimizer = optimizers.get(identifier)
        with self.lock.exclusive():
            self._note_change()
            self._optimizer, self._states = optimizer, {}

    def fill(
        self,
        arrays: Mapping[str, Array],
        exists: Mapping[str, Mask],
        regularizations: Mapping[str, Regularization],
        momentum: Mapping[str, float],
    ) -> None:
        """Set the arrays, without copying; the caller holds the exclusive lock.

        `exists` optionally masks an array: which rows (all axes but the last) or elements exist. The others are 0 and
        stay 0 whatever values or gradients are given. `momentum` names those that are moving averages.
        """
        for name, regularization in regularizations.items():
            regularization.check(name, arrays[name].dtype)
            if isinstance(regularization.constraint, constraints.Norm):
                regularization.constraint.check(f"{name}_constraint", arrays[name].shape)
        for name, mask in exists.items():
            arrays[name][~mask] = 0
        self._begin_change()
        self._arrays, self._exists, self._regularizations = dict(arrays), dict(exists), dict(regularizations)
        self._momentum, self._states = dict(momentum), {}

    def __getitem__(self, name: str) -> Array:
        """One array, not a copy, for computation under the lock."""
        return self._arrays[name]

    def views(self) -> dict[str, Array]:
        """The arrays as read-only views, which follow later changes."""
        return {name: read_only(array) for name, array in self._arrays.items()}

    @property
    def learned(self) -> dict[str, Array]:
        """The arrays that the optimizer changes: all but the moving averages."""
        return {name: array for name, array in self._arrays.items() if name not in self._momentum}

    def copies(self) -> list[Array]:
        """Copies of the arrays."""
        with self.lock.shared():
            return [array.copy() for array in self._arrays.values()]

    def snapshot(self) -> tuple[list[Array], optimizers.Optimizer, dict[str, Any]]:
        """Copies of the arrays, the optimizer and a copy of its state, taken atomically."""
        with self.lock.shared():
            arrays = [array.copy() for array in self._arrays.values()]
            return arrays, self._optimizer, copy.deepcopy(self._states)

    def __getstate__(self) -> dict[str, Any]:
        """Return a consistent snapshot for copying and pickling, also while other threads step."""
        with self.lock.shared():
            arrays = {name: array.copy() for name, array in self._arrays.items()}
            return {**self.__dict__, "_arrays": arrays, "_states": copy.deepcopy(self._states)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state, with arrays that kernels may write to.

        joblib passes large arrays as read-only memory maps, and out-of-band pickle buffers may be in any memory:
        writing to those could crash the process.
        """
        arrays = {name: _writable(array) for name, array in state["_arrays"].items()}
        self.__dict__.update(state, _arrays=arrays, _states={n: _own_arrays(s) for n, s in state["_states"].items()})

    def __deepcopy__(self, memo: dict[int, Any]) -> "Parameters":
        """Copy the arrays once: `__getstate__` has copied them already."""
        twin = object.__new__(Parameters)
        memo[id(self)] = twin
        arrays = ("_arrays", "_states")
        state = self.__getstate__()
        rest = {name: value for name, value in state.items() if name not in arrays}
        twin.__setstate__({**copy.deepcopy(rest, memo), **{name: state[name] for name in arrays}})
        return twin

    def set_optimizer_state(self, optimizer: optimizers.Optimizer, states: dict[str, Any]) -> None:
        """Set optimizer and state to those of a `snapshot` of parameters of the same shapes."""
        with self.lock.exclusive():
            self._note_change()
            self._optimizer, self._states = optimizer, states

    def states(self) -> dict[str, Any]:
        """The optimizer's state by array name, not copied; empty before the first step."""
        with self.lock.shared():
            return dict(self._states)

    def plan_states(self, states: Any) -> Callable[[], None]:
        """Check the result of `states` of equal parameters; return a function that restores it."""
        self.lock.check()
        optimizer, fits = self._optimizer, isinstance(states, dict) and set(states) <= set(self.learned)
        if fits and optimizers.is_built_in(optimizer):
            with self.lock.shared():
                fresh = {name: optimizer.init(self._arrays[name]) for name in states}
            fits = all(_same_structure(states[name], fresh[name]) for name in states)
        if not fits:
            raise ValueError(f"the optimizer state does not match {optimizer!r} and the weights of {self.owner}")

        def run() -> None:
            with self.lock.exclusive():
                self._note_change()
                self._states = {name: _own_arrays(self._without_absent(name, state)) for name, state in states.items()}

        return run

    def _without_absent(self, name: str, state: Any) -> Any:
        """A built-in optimizer's state, 0 where no weight exists: files of older versions hold other values there."""
        if not (name in self._exists and optimizers.is_built_in(self._optimizer)):
            return state
        shape = self._arrays[name].shape
        return {key: self._zero_absent(name, array) if array.shape == shape else array for key, array in state.items()}

    def count(self) -> int:
        """The number of elements that exist."""
        return sum(self.counts().values())

    @property
    def flat_size(self) -> int:
        """The number of elements of `flat`."""
        return sum(size for name, size in self.counts().items() if name not in self._momentum)

    def counts(self) -> dict[str, int]:
        """The number of elements of each array that exist."""
        found = {}
        for name, array in self._arrays.items():
            mask = self._exists.get(name)
            each = 1 if mask is None or mask.ndim == array.ndim else array.shape[-1]
            found[name] = array.size if mask is None else int(np.count_nonzero(mask)) * each
        return found

    def check_version(self, version: int | None) -> None:
        """Raise if the arrays have changed since this version (None: any); the caller holds the lock."""
        if version is not None and version != self.version:
            raise RuntimeError(
                f"backward belongs to older weights of {self.owner}, which have changed since its forward; "
                "call forward again"
            )

    def set(self, weights: Any) -> None:
        """Replace all values at once, or none if any has the wrong shape or dtype."""
        self.plan_set(weights)()

    def plan_set(self, weights: Any) -> Callable[[], None]:
        """Check new values; return a function that sets them and cannot fail.

        So several layers can be checked before the first one changes. Setting equal values does not count as a change:
        existing pullbacks stay valid.
        """
        given = self.as_numpy(weights)
        self.require_built("set_weights")
        return self._plan_set(given, list(self._arrays))

    def _plan_set(self, given: list[Array], names: list[str]) -> Callable[[], None]:
        """Check new values of some arrays; return a function that sets them."""
        with self.lock.shared():
            shapes = {name: self._arrays[name].shape for name in names}
            new = self.checked(given, shapes, self._dtype)
            new = {name: self._unaliased(self._zero_absent(name, values)) for name, values in new.items()}

        def run() -> None:
            with self.lock.exclusive():
                if {name: self._arrays[name].shape for name in names if name in self._arrays} != shapes:
                    raise RuntimeError(f"{self.owner} was rebuilt while its weights were being set; set them again")
                if all(np.array_equal(_bits(values), _bits(self._arrays[name])) for name, values in new.items()):
                    return  # existing pullbacks stay valid
                self._begin_change()
                for name, values in new.items():
                    np.copyto(self._arrays[name], values)

        return run

    def clear(self) -> None:
        """Remove the arrays; the caller holds the exclusive lock."""
        self._begin_change()
        self._arrays, self._exists, self._regularizations, self._momentum, self._states = {}, {}, {}, {}, {}

    def as_numpy(self, weights: Any) -> list[Array]:
        """A list or tuple of arrays of any type, as NumPy arrays."""
        if not isinstance(weights, list | tuple):
            raise TypeError(f"weights is a {type(weights).__name__}; give a list of arrays")
        return [as_numpy(f"weights[{number}]", weight)[0] for number, weight in enumerate(weights)]

    def checked(
        self, weights: list[Array], shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]
    ) -> dict[str, Array]:
        """The weights by name, cast to `dtype`; raise if a shape does not match."""
        if len(weights) != len(shapes):
            raise ValueError(f"{len(weights)} weights given; {self.owner} needs {len(shapes)}: {', '.join(shapes)}")
        for (name, shape), values in zip(shapes.items(), weights, strict=True):
            if values.shape != shape:
                raise ValueError(f"{name} has shape {values.shape}; {self.owner} needs {shape}")
        return {name: normalise(name, values, dtype) for name, values in zip(shapes, weights, strict=True)}

    def plan(self, grads: Any, lr: Any, version: int | None = None) -> Callable[[], None]:
        """Check a step from gradients; return a function that runs it.

        So several layers can be checked before the first one changes. Built-in optimizers work in place and cannot
        fail. User code (optimizer, regularizer, constraint) runs here, on copies and outside the lock, so that nothing
        has changed if it fails.
        """
        if grads is None and not self.trainable:
            self.check(lr, version)
            return lambda: None
        given, moments = self._by_name(grads), getattr(grads, "moments", ())
        planned = self._plan(given, lr, version, moments)

        def run() -> None:
            step = planned
            while step is not None and not self._apply(step):
                step = self._plan(given, lr, version, moments)  # another thread has changed the parameters since

        return run

    def plan_fused(self, lr: Any, version: int) -> Callable[[FusedUpdate, Mapping[str, Array]], Any] | None:
        """Check a step before its gradients are known; return a function that runs it.

        None if user code, which may fail, is involved. The function steps the kernel by ``update(kernel, rule)``, which
        applies the rule to it (unchanged for None) and must not fail, steps the other arrays by their gradients, and
        returns the result of `update`.
        """
        self.require_built("step")
        self.lock.check()
        with self.lock.shared():
            self.check_version(version)
            rate, optimizer, base = self._checked_lr(lr), self._optimizer, self._states
            if not (self.supports_fused and optimizers.is_built_in(optimizer)):
                return None
            trainable, states = self.trainable, {}
            if trainable:  # allocate all memory and compile all code before anything changes
                states = self._complete_states(optimizer)
                for name in self._arrays.keys() - {"kernel"}:
                    optimizers.prepare(self._arrays[name], self.threads, optimizer)

        def run(update: FusedUpdate, others: Mapping[str, Array]) -> Any:
            nonlocal states
            with self.lock.exclusive():
                self.check_version(version)
                if not trainable:
                    return update(self._arrays.get("kernel"), None)
                now = self._optimizer
                if not optimizers.is_built_in(now):
                    raise RuntimeError(f"the optimizer of {self.owner} was changed during its step; step again")
                if now is not optimizer or self._states is not base:  # another thread has set one
                    states = self._complete_states(now)
                rule = self._regularization("kernel").extend_rule(now.rule(states["kernel"], rate))
                self._begin_change()
                try:
                    result = update(self._arrays["kernel"], rule)
                except MemoryError:  # of a workspace, allocated before anything changes
                    self.version = version
                    raise
                now.advance(states["kernel"])
                self._regularization("kernel").apply_norm_constraint(self._arrays["kernel"], self._exists.get("kernel"))
                for name, grad in others.items():
                    self._step_array(now, name, grad, states[name], rate)
                self._states = states
                return result

        return run

    def check(self, lr: Any, version: int | None) -> None:
        """Raise the errors of a step that do not depend on gradients."""
        self.require_built("step")
        self.lock.check()
        with self.lock.shared():
            self.check_version(version)
            self._checked_lr(lr)

    def _complete_states(self, optimizer: optimizers.BuiltIn) -> dict[str, Any]:
        """The optimizer's states, initialised for arrays that have none."""
        return {name: self._states.get(name) or optimizer.init(array) for name, array in self.learned.items()}

    def _begin_change(self) -> None:
        """Record that the arrays are about to change; the caller holds the exclusive lock."""
        self.version += 1
        self._note_change()

    def _note_change(self) -> None:
        """Tell the user code that this thread is running, if any, that arrays, optimizer or states change."""
        for running in getattr(_user_code, "running", ()):
            if running.parameters is self:
                running.changed = True

    @property
    def supports_fused(self) -> bool:
        """Whether weights can be updated block by block as gradients are computed: no user code is involved."""
        return optimizers.is_built_in(self._optimizer) and all(r.built_in for r in self._regularizations.values())

    def flat(self) -> Array:
        """All elements that exist, one array after the other, as a new vector."""
        self.require_built("get_flat")
        with self.lock.shared():
            parts = [array.reshape(-1) if m is None else array[m] for array, m in self._with_masks()]
            return np.concatenate([np.empty(0, self._dtype), *parts])

    def plan_flat(self, vector: Array) -> Callable[[], None]:
        """Check a vector like that of `flat`; return a function that sets the elements that exist to it."""
        self.require_built("set_flat")
        values, at, new = as_vector(vector), 0, []
        if values.shape != (self.flat_size,):
            raise ValueError(f"the vector has shape {values.shape}; {self.owner} needs ({self.flat_size},)")
        for array, mask in self._with_masks():
            size = array.size if mask is None else int(np.count_nonzero(mask))
            part, at = values[at : at + size], at + size
            if mask is None:
                new.append(part.reshape(array.shape).astype(array.dtype))
            else:
                new.append(np.zeros_like(array))
                new[-1][mask] = part
        return self._plan_set(new, list(self.learned))

    def flat_gradient(self, grads: Any) -> Array:
        """The gradient of loss and penalties as a vector like that of `flat`, given the gradients of the loss."""
        given, parts = self._by_name(grads), [np.empty(0, self._dtype)]
        with self.lock.shared():
            arrays = {name: array.copy() for name, array in self.learned.items()}
        for (name, array), (_, mask) in zip(arrays.items(), self._with_masks(), strict=True):
            total = self._regularization(name).total_gradient(array, self._gradient(name, given[name]))
            parts.append(total.reshape(-1) if mask is None else total[mask])
        return np.concatenate(parts)

    def _with_masks(self) -> list[tuple[Array, Mask | None]]:
        """What the optimizer changes, each with a mask, of its shape, of the elements that exist; None if all do."""
        pairs: list[tuple[Array, Mask | None]] = []
        for name, array in self.learned.items():
            mask = self._exists.get(name)
            if mask is not None and mask.ndim < array.ndim:
                mask = np.broadcast_to(mask[..., None], array.shape)
            pairs.append((array, mask))
        return pairs

    def penalties(self) -> list[float]:
        """The penalties of the arrays that have a regularizer, in order."""
        with self.lock.shared():
            found = [(self._regularization(n).regularizer, a) for n, a in self._arrays.items()]
            # User code runs outside the lock.
            given = [(r, a if regularizers.is_built_in(r) else a.copy()) for r, a in found if r is not None]
            values = {n: r(a) for n, (r, a) in enumerate(given) if regularizers.is_built_in(r)}
        return [values[n] if n in values else float(r(read_only(a))) for n, (r, a) in enumerate(given)]

    def _checked_lr(self, lr: Any) -> float:
        """The learning rate; raise unless all factors of a step are finite in the arrays' dtype."""
        rate = learning_rate(lr, self._dtype)
        if isinstance(self._optimizer, optimizers.AdamW):
            learning_rate(rate * self._optimizer.weight_decay, self._dtype, "lr * weight_decay")
        return rate

    @property
    def _dtype(self) -> np.dtype[Any]:
        return next(iter(self._arrays.values())).dtype

    def _regularization(self, name: str) -> Regularization:
        return self._regularizations.get(name, _NO_REGULARIZATION)

    def _step_array(self, optimizer: optimizers.BuiltIn, name: str, grad: Array, state: Any, lr: float) -> None:
        """Step one array in place."""
        array, regularization = self._arrays[name], self._regularization(name)
        optimizers.run(optimizer, array, grad, state, lr, self.threads, regularization.extend_rule)
        regularization.apply_norm_constraint(array, self._exists.get(name))

    def require_built(self, action: str) -> None:
        """Raise unless the arrays exist."""
        if not self.built:
            raise RuntimeError(f"{action} before build: {self.owner} has no weights yet; call it or build it first")

    def _by_name(self, grads: Any) -> dict[str, Array]:
        """The gradients by name as NumPy arrays; raise unless there is one for each parameter."""
        self.require_built("step")
        if isinstance(grads, LayerGradients):
            grads = tuple(grad for grad in grads.parts().values() if grad is not None)
        names = tuple(self.learned)
        if not isinstance(grads, tuple | list):
            raise TypeError(
                f"grads is a {type(grads).__name__}; give the Gradients of a backward call or a tuple "
                f"({', '.join(names)})"
            )
        if len(grads) != len(names):
            raise ValueError(f"grads has {len(grads)} arrays; {self.owner} needs {len(names)}: {', '.join(names)}")
        return {name: as_numpy(f"grads of {name}", grad)[0] for name, grad in zip(names, grads, strict=True)}

    def _plan(self, given: dict[str, Array], lr: Any, version: int | None, moments: Any) -> _Step | None:
        """Check a step against the current parameters; None if they are not trainable.

        User code that changes its own layer would do so in every plan. A handler of a signal or a finalizer may come
        in its midst once, so it is an error only if it happens twice.
        """
        for _ in range(2):
            running = _UserCode(self)
            with running:
                step = self._checked_step(given, lr, version, moments)
            if not running.changed:
                return step
        raise RuntimeError(
            f"{self.owner} was changed during its own step; an optimizer, regularizer or constraint must not change "
            "its own layer"
        )

    def _checked_step(self, given: dict[str, Array], lr: Any, version: int | None, moments: Any) -> _Step | None:
        """Check a step, running user code on copies; None if the parameters are not trainable."""
        self.lock.check()
        with self.lock.shared():
            self.check_version(version)
            rate = self._checked_lr(lr)
            gradients = {name: self._gradient(name, grad) for name, grad in given.items()}
            if not self.trainable:
                return None
            version, optimizer, averages = self.version, self._optimizer, self._averages(moments)
            if self.supports_fused and optimizers.is_built_in(optimizer):
                # Allocate all memory and compile all code before anything changes.
                for array in self.learned.values():
                    optimizers.prepare(array, self.threads, optimizer)
                states = self._complete_states(optimizer)
                return _Step(version, self._states, optimizer, rate, states, gradients, None, averages)
            arrays = {name: array.copy() for name, array in self.learned.items()}
            base, states = self._states, copy.deepcopy(self._states)
        for name, array in arrays.items():
            shape, dtype = array.shape, array.dtype
            if name not in states:
                states[name] = optimizer.init(read_only(array))
            regularization = self._regularization(name)
            returned: Any = optimizer.update(  # type: ignore[func-returns-value]
                array, read_only(regularization.total_gradient(array, gradients[name])), states[name], rate
            )
            if returned is not None:
                raise TypeError(
                    f"update of optimizer {optimizer!r} returned a {type(returned).__name__}; it must change param and "
                    "state in place, such as param -= lr * grad, and return None"
                )
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"optimizer {optimizer!r} changed {name} from {dtype} {shape} to {array.dtype} {array.shape}; "
                    "it must change values only"
                )
            # Norms must not include elements that do not exist.
            array[...] = self._zero_absent(name, array)
            regularization.project(array)
        values = {name: self._zero_absent(name, array) for name, array in arrays.items()}
        return _Step(version, base, optimizer, rate, states, gradients, values, averages)

    def _averages(self, moments: tuple[tuple[Array, ...], ...]) -> dict[str, Array]:
        """The moving averages after the moments of some batches, in order; the caller holds the lock."""
        averages = {name: self._arrays[name] for name in self._momentum}
        for batch in moments:
            if len(batch) != len(averages):
                raise ValueError(f"moments has {len(batch)} arrays; {self.owner} needs {', '.join(averages)}")
            for (name, momentum), value in zip(self._momentum.items(), batch, strict=True):
                check_exact(f"the {name} of moments", value, averages[name].shape, self._dtype)
                decay = self._dtype.type(np.float32(1 - momentum))  # in float64, too, as Keras rounds it
                averages[name] = averages[name] - (averages[name] - value) * decay
        return averages

    def _apply(self, step: _Step) -> bool:
        """Run a step, or return False if the parameters have changed since it was checked."""
        with self.lock.exclusive():
            if self.version != step.version or self._states is not step.base:
                return False
            self._begin_change()
            for name, average in step.averages.items():
                np.copyto(self._arrays[name], average)
            for name, array in self.learned.items():
                if step.values is not None:
                    np.copyto(array, step.values[name])
                else:
                    assert optimizers.is_built_in(step.optimizer)
                    self._step_array(step.optimizer, name, step.gradients[name], step.states[name], step.lr)
            self._states = step.states
            return True

    def _gradient(self, name: str, grad: Array) -> Array:
        """One gradient, checked and cast, 0 where no weight exists, not aliasing the parameters."""
        array = self._arrays[name]
        check_exact(f"grads of {name}", grad, array.shape, array.dtype)
        return self._unaliased(self._zero_absent(name, normalise(f"grads of {name}", grad, array.dtype)))

    def _unaliased(self, values: Array) -> Array:
        """The values, copied if they share memory with the parameters."""
        aliased = any(np.may_share_memory(values, array) for array in self._arrays.values())
        return values.copy() if aliased else values

    def _zero_absent(self, name: str, values: Array) -> Array:
        """The values, with 0 where no weight exists; copied only if necessary."""
        mask = self._exists.get(name)
        if mask is None or not np.any(values[~mask] != 0):  # NaN != 0
            return values
        return np.where(mask if mask.ndim == values.ndim else mask[..., None], values, values.dtype.type(0))
