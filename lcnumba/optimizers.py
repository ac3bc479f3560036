"""Optimizers: how a parameter changes by its gradient. The formulas are Keras'.

An optimizer holds settings only; its state, a dict of arrays, lives beside each parameter. Any
object with `init` and `update` serves as one; it is then run on copies, so that one that fails
half-way leaves everything as it was.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, TypeGuard

import numpy as np

from lcnumba.kernels import rules
from lcnumba.kernels.rules import Rule
from lcnumba.runtime.memory import require
from lcnumba.runtime.signals import import_whole
from lcnumba.utils import registry
from lcnumba.utils.messages import RATE, missing, public_class
from lcnumba.utils.types import Array
from lcnumba.utils.validation import boolean, real

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "BuiltIn",
    "Optimizer",
    "RMSprop",
    "default_rate",
    "get",
    "is_built_in",
    "prepare",
    "run",
]

State = dict[str, Array]


class Optimizer(Protocol):
    """What a layer asks of an optimizer."""

    def init(self, param: Array) -> Any:
        """Return fresh state for a parameter."""
        ...

    def update(self, param: Array, grad: Array, state: Any, lr: float) -> None:
        """Change `param` and `state` in place. `grad` is read-only, of the same shape and dtype."""
        ...


@public_class(note=RATE)
@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent, with momentum and Nesterov's look-ahead if wanted.

    ``velocity = momentum * velocity - lr * grad``, then ``param += velocity``; with nesterov
    ``param += momentum * velocity - lr * grad``; without momentum ``param -= lr * grad``.

    Parameters
    ----------
    momentum : float, default 0
        Share of the last change that is kept, in [0, 1).
    nesterov : bool, default False
        Whether to look ahead along the velocity.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> optimizer, weights = lc.SGD(momentum=0.5), np.zeros(2)
    >>> state = optimizer.init(weights)
    >>> for _ in range(2):
    ...     optimizer.update(weights, np.array([1.0, -1.0]), state, lr=1.0)
    >>> weights
    array([-2.5,  2.5])
    """

    usual_rate: ClassVar[float] = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        """Check the settings, and keep them as Python's numbers: NumPy's would decide the precision of a formula."""
        self.__dict__.update(momentum=_fraction("momentum", self.momentum))
        boolean("nesterov", self.nesterov)

    def init(self, param: Array) -> State:
        """Return the velocity, 0 at first; nothing without momentum."""
        return {"velocity": _zeros(param, 1)[0]} if self.momentum else {}

    def rule(self, state: State, lr: float) -> Rule:
        """Return the formula of the next step."""
        if not self.momentum:
            return Rule(rules.SGD, (), (lr,))
        return Rule(rules.NESTEROV if self.nesterov else rules.MOMENTUM, (state["velocity"],), (lr, self.momentum))

    def advance(self, state: State) -> None:
        """Count a step: nothing here."""

    def update(self, param: Array, grad: Array, state: State, lr: float) -> None:
        """Change `param` and `state` in place."""
        run(self, param, grad, state, lr)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make an equal optimizer."""
        return asdict(self)


@public_class(note=RATE)
@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam (Kingma and Ba, 2015) as Keras computes it.

    ``m = beta_1 m + (1 - beta_1) grad``, ``v = beta_2 v + (1 - beta_2) grad^2``, then ``param -=
    lr sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon)`` at step t = 1, 2, ...

    Parameters
    ----------
    beta_1, beta_2 : float, default 0.9 and 0.999
        Decay of the two moments, in [0, 1).
    epsilon : float, default 1e-7
        Keeps the quotient finite; at least 1e-37, the least that float32 can hold.

    Examples
    --------
    >>> import lcnumba as lc
    >>> layer = lc.LocallyConnected2D(2, 3, optimizer=lc.Adam(beta_1=0.8))
    >>> layer.optimizer
    Adam(beta_1=0.8, beta_2=0.999, epsilon=1e-07)
    """

    usual_rate: ClassVar[float] = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        """Check the settings, and keep them as Python's numbers."""
        beta_1, beta_2 = _fraction("beta_1", self.beta_1), _fraction("beta_2", self.beta_2)
        self.__dict__.update(beta_1=beta_1, beta_2=beta_2, epsilon=_epsilon(self.epsilon))

    def init(self, param: Array) -> State:
        """Return the two moments and the step count, all 0."""
        m, v = _zeros(param, 2)
        return {"m": m, "v": v, "t": np.zeros((), np.int64)}

    def rule(self, state: State, lr: float) -> Rule:
        """Return the formula of the next step."""
        t = int(state["t"]) + 1
        corrected = lr * math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        rates = (self.beta_1, self.beta_2, 1 - self.beta_1, 1 - self.beta_2, self.epsilon)
        return Rule(rules.ADAM, (state["m"], state["v"]), (corrected, *rates, self._decayed(lr)))

    def _decayed(self, lr: float) -> float:
        """The share of a parameter that a step takes off beside the rest."""
        return 0.0

    def advance(self, state: State) -> None:
        """Count a step."""
        state["t"] += 1

    def update(self, param: Array, grad: Array, state: State, lr: float) -> None:
        """Change `param` and `state` in place."""
        run(self, param, grad, state, lr)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make an equal optimizer."""
        return asdict(self)


@public_class(note=RATE)
@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019) as Keras computes it.

    Adam's step, and ``lr * weight_decay * param`` less besides; of all parameters, the bias too.

    Parameters
    ----------
    beta_1, beta_2, epsilon
        As for `Adam`.
    weight_decay : float, default 0.004
        At least 0; times the learning rate, the share of a weight that a step takes off.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> optimizer, weights = lc.AdamW(weight_decay=0.5), np.ones(2)
    >>> optimizer.update(weights, np.zeros(2), optimizer.init(weights), lr=0.5)
    >>> weights
    array([0.75, 0.75])
    """

    weight_decay: float = 0.004

    def __post_init__(self) -> None:
        """Check the settings, and keep them as Python's numbers."""
        super().__post_init__()
        decay = real("weight_decay", self.weight_decay)
        if decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay!r} cannot be used; give a number of at least 0")
        self.__dict__.update(weight_decay=decay)

    def _decayed(self, lr: float) -> float:
        return lr * self.weight_decay


@public_class(note=RATE)
@dataclass(frozen=True, kw_only=True)
class RMSprop:
    """RMSprop (Hinton, 2012) as Keras computes it, without momentum.

    ``v = rho v + (1 - rho) grad^2``, then ``param -= lr * grad / (sqrt(v) + epsilon)``.

    Parameters
    ----------
    rho : float, default 0.9
        Decay of the mean square, in [0, 1).
    epsilon : float, default 1e-7
        Keeps the quotient finite; at least 1e-37, the least that float32 can hold.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.LocallyConnected2D(2, 3, optimizer="rmsprop").optimizer
    RMSprop(rho=0.9, epsilon=1e-07)
    """

    usual_rate: ClassVar[float] = 0.001
    rho: float = 0.9
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        """Check the settings, and keep them as Python's numbers."""
        self.__dict__.update(rho=_fraction("rho", self.rho), epsilon=_epsilon(self.epsilon))

    def init(self, param: Array) -> State:
        """Return the mean square, 0 at first."""
        return {"v": _zeros(param, 1)[0]}

    def rule(self, state: State, lr: float) -> Rule:
        """Return the formula of the next step."""
        return Rule(rules.RMSPROP, (state["v"],), (lr, self.rho, 1 - self.rho, self.epsilon))

    def advance(self, state: State) -> None:
        """Count a step: nothing here."""

    def update(self, param: Array, grad: Array, state: State, lr: float) -> None:
        """Change `param` and `state` in place."""
        run(self, param, grad, state, lr)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make an equal optimizer."""
        return asdict(self)


BuiltIn = SGD | Adam | RMSprop

_BY_NAME: dict[str, type[BuiltIn]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def get(identifier: Any) -> Optimizer:
    """Return the optimizer of a name or config dict, or an optimizer object itself.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.optimizers.get("adamw")
    AdamW(beta_1=0.9, beta_2=0.999, epsilon=1e-07, weight_decay=0.004)
    """
    found = registry.build("optimizer", _BY_NAME, identifier)
    if not (callable(getattr(found, "init", None)) and callable(getattr(found, "update", None))):
        raise TypeError(
            f"optimizer={identifier!r} has no init(param) and update(param, grad, state, lr); give such "
            f"an object or a name ({', '.join(sorted(_BY_NAME))})"
        )
    return found


def is_built_in(optimizer: Any) -> TypeGuard[BuiltIn]:
    """Whether an update cannot fail once its arguments have been checked.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.optimizers.is_built_in(lc.SGD())
    True
    """
    return type(optimizer) in _BY_NAME.values()


def default_rate(optimizer: Any) -> float | None:
    """Return the learning rate that Keras takes with a built-in optimizer unless told otherwise, else None.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.optimizers.default_rate(lc.Adam())
    0.001
    """
    return optimizer.usual_rate if is_built_in(optimizer) else None


def run(
    optimizer: BuiltIn, param: Array, grad: Array, state: State, lr: float, threads: int | None = None,
    restrain: Callable[[Rule], Rule] | None = None,
) -> None:  # fmt: skip
    """Let a built-in optimizer change a parameter and its state in place, on so many threads (None: all).

    `restrain` may add a penalty or a constraint to the formula.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> weights = np.ones(2)
    >>> lc.optimizers.run(lc.SGD(), weights, np.array([1.0, 2.0]), {}, lr=0.5, threads=1)
    >>> weights
    array([0.5, 0. ])
    """
    rule = optimizer.rule(state, lr)
    rule = rule if restrain is None else restrain(rule)
    for array in (param, grad, *rule.states):
        if array.shape != param.shape or array.dtype != param.dtype or not array.flags.c_contiguous:
            raise ValueError(
                f"parameter, gradient and state must be C-contiguous and alike; got shape {array.shape} of "
                f"{array.dtype} beside {param.shape} of {param.dtype}"
            )
    _update().run(rule, param, grad, threads)
    optimizer.advance(state)


def prepare(param: Array, threads: int | None = None) -> None:
    """Raise what `run` would raise for want of memory to compile; then it does not.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.optimizers.prepare(np.ones(2), threads=1)
    """
    _update().prepare(param, threads)


@import_whole
def _update() -> Any:
    from lcnumba.kernels import update

    return update


def _zeros(param: Array, count: int) -> list[Array]:
    """So many arrays of the parameter's shape."""
    require(count * param.nbytes, "the optimizer's state", "SGD without momentum has none")
    return [np.zeros_like(param) for _ in range(count)]


def _fraction(name: str, value: Any) -> float:
    number = real(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name}={value!r} cannot be used; give a number of at least 0 and below 1")
    return number


def _epsilon(value: Any) -> float:
    number = real("epsilon", value)
    if number < 1e-37:
        raise ValueError(f"epsilon={value!r} cannot be used; give at least 1e-37, so that float32 holds it")
    return number


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    raise missing(__name__, name)
