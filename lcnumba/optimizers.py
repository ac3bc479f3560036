"""Optimizers, with Keras' formulas.

An optimizer holds hyperparameters only; its state, a dict of arrays, is stored with each parameter. Any object
with `init` and `update` can be used; it is run on copies, so that nothing has changed if it fails.

A new built-in one is a class here with `default_lr`, `init`, `rule`, `advance`, `update` and `get_config`, in `BuiltIn`
and `_BY_NAME`, and a public name in `lcnumba/__init__.py`. A new formula is the tuple of its scalars in
`kernels/rules.py` and a function in `kernels/update.py`.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, TypeGuard

import numpy as np

from lcnumba.kernels.rules import (
    AdamScalars,
    MomentumScalars,
    NesterovScalars,
    RMSpropScalars,
    Rule,
    Scalars,
    SGDScalars,
)
from lcnumba.runtime.memory import require
from lcnumba.runtime.signals import import_whole
from lcnumba.utils import registry
from lcnumba.utils.messages import RATE, missing, public_class, warn
from lcnumba.utils.types import Array
from lcnumba.utils.validation import boolean, real

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "BuiltIn",
    "Optimizer",
    "RMSprop",
    "default_lr",
    "get",
    "is_built_in",
    "prepare",
    "run",
]

State = dict[str, Array]


class Optimizer(Protocol):
    """What layers require of an optimizer."""

    def init(self, param: Array) -> Any:
        """Return the initial state for a parameter."""
        ...

    def update(self, param: Array, grad: Array, state: Any, lr: float) -> None:
        """Update `param` and `state` in place. `grad` is read-only, of the same shape and dtype."""
        ...


class _UsualRate:
    """The class attribute `usual_rate`, a deprecated alias of `default_lr`."""

    def __get__(self, instance: Any, owner: Any) -> float:
        warn(f"{owner.__name__}.usual_rate is deprecated; use {owner.__name__}.default_lr", DeprecationWarning)
        return owner.default_lr


@public_class(note=RATE)
@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with optional momentum, also Nesterov's.

    ``velocity = momentum * velocity - lr * grad``, then ``param += velocity``; with nesterov
    ``param += momentum * velocity - lr * grad``; without momentum ``param -= lr * grad``.

    Parameters
    ----------
    momentum : float, default 0
        Momentum, in [0, 1).
    nesterov : bool, default False
        Whether to use Nesterov momentum.

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

    __module__ = "lcnumba"

    default_lr: ClassVar[float] = 0.01
    usual_rate = _UsualRate()
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        """Validate the hyperparameters, and convert them to Python floats: NumPy scalars would change the precision."""
        self.__dict__.update(momentum=_fraction("momentum", self.momentum))
        boolean("nesterov", self.nesterov)

    def init(self, param: Array) -> State:
        """Return the velocity, initially 0; an empty state without momentum."""
        return {"velocity": _zeros(param, 1)[0]} if self.momentum else {}

    def rule(self, state: State, lr: float) -> Rule:
        """Return the update rule of the next step."""
        if not self.momentum:
            return Rule(SGDScalars(lr))
        return Rule(self._scalars(lr, self.momentum), (state["velocity"],))  # type: ignore[call-arg]

    @property
    def _scalars(self) -> type[Scalars]:
        """The type of the scalars of `rule`."""
        return (NesterovScalars if self.nesterov else MomentumScalars) if self.momentum else SGDScalars

    def advance(self, state: State) -> None:
        """Count a step; there is no step count to update."""

    def update(self, param: Array, grad: Array, state: State, lr: float) -> None:
        """Update `param` and `state` in place."""
        run(self, param, grad, state, lr)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal optimizer."""
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
        Decay rates of the two moments, in [0, 1).
    epsilon : float, default 1e-7
        Added to the denominator; at least 1e-37, so that float32 can represent it.

    Examples
    --------
    >>> import lcnumba as lc
    >>> layer = lc.LocallyConnected2D(2, 3, optimizer=lc.Adam(beta_1=0.8))
    >>> layer.optimizer
    Adam(beta_1=0.8, beta_2=0.999, epsilon=1e-07)
    """

    __module__ = "lcnumba"

    default_lr: ClassVar[float] = 0.001
    usual_rate = _UsualRate()
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        """Validate the hyperparameters, and convert them to Python floats."""
        beta_1, beta_2 = _fraction("beta_1", self.beta_1), _fraction("beta_2", self.beta_2)
        self.__dict__.update(beta_1=beta_1, beta_2=beta_2, epsilon=_epsilon(self.epsilon))

    def init(self, param: Array) -> State:
        """Return the two moments and the step count, all 0."""
        m, v = _zeros(param, 2)
        return {"m": m, "v": v, "t": np.zeros((), np.int64)}

    def rule(self, state: State, lr: float) -> Rule:
        """Return the update rule of the next step."""
        t = int(state["t"]) + 1
        corrected = lr * math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        scalars = AdamScalars(
            corrected, self.beta_1, self.beta_2, one_minus_beta_1=1 - self.beta_1, one_minus_beta_2=1 - self.beta_2,
            epsilon=self.epsilon, decay=self._decayed(lr),
        )  # fmt: skip
        return Rule(scalars, (state["m"], state["v"]))

    @property
    def _scalars(self) -> type[Scalars]:
        """The type of the scalars of `rule`."""
        return AdamScalars

    def _decayed(self, lr: float) -> float:
        """The factor of the parameter that a step subtracts in addition."""
        return 0.0

    def advance(self, state: State) -> None:
        """Count a step."""
        state["t"] += 1

    def update(self, param: Array, grad: Array, state: State, lr: float) -> None:
        """Update `param` and `state` in place."""
        run(self, param, grad, state, lr)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal optimizer."""
        return asdict(self)


@public_class(note=RATE)
@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019) as Keras computes it.

    Adam's step, which also subtracts ``lr * weight_decay * param``; for all parameters, including the bias.

    Parameters
    ----------
    beta_1, beta_2, epsilon
        As for `Adam`.
    weight_decay : float, default 0.004
        Weight decay, at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> optimizer, weights = lc.AdamW(weight_decay=0.5), np.ones(2)
    >>> optimizer.update(weights, np.zeros(2), optimizer.init(weights), lr=0.5)
    >>> weights
    array([0.75, 0.75])
    """

    __module__ = "lcnumba"

    weight_decay: float = 0.004

    def __post_init__(self) -> None:
        """Validate the hyperparameters, and convert them to Python floats."""
        super().__post_init__()
        decay = real("weight_decay", self.weight_decay)
        if decay < 0:
            raise ValueError(f"weight_decay must be >= 0, got {self.weight_decay!r}")
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
        Decay rate of the mean square, in [0, 1).
    epsilon : float, default 1e-7
        Added to the denominator; at least 1e-37, so that float32 can represent it.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.LocallyConnected2D(2, 3, optimizer="rmsprop").optimizer
    RMSprop(rho=0.9, epsilon=1e-07)
    """

    __module__ = "lcnumba"

    default_lr: ClassVar[float] = 0.001
    usual_rate = _UsualRate()
    rho: float = 0.9
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        """Validate the hyperparameters, and convert them to Python floats."""
        self.__dict__.update(rho=_fraction("rho", self.rho), epsilon=_epsilon(self.epsilon))

    def init(self, param: Array) -> State:
        """Return the mean square, initially 0."""
        return {"v": _zeros(param, 1)[0]}

    def rule(self, state: State, lr: float) -> Rule:
        """Return the update rule of the next step."""
        return Rule(RMSpropScalars(lr, self.rho, 1 - self.rho, self.epsilon), (state["v"],))

    @property
    def _scalars(self) -> type[Scalars]:
        """The type of the scalars of `rule`."""
        return RMSpropScalars

    def advance(self, state: State) -> None:
        """Count a step; there is no step count to update."""

    def update(self, param: Array, grad: Array, state: State, lr: float) -> None:
        """Update `param` and `state` in place."""
        run(self, param, grad, state, lr)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal optimizer."""
        return asdict(self)


BuiltIn = SGD | Adam | RMSprop

_BY_NAME: dict[str, type[BuiltIn]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def get(identifier: Any) -> Optimizer:
    """Return the optimizer for a name or config dict; an optimizer object unchanged.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.optimizers.get("adamw")
    AdamW(beta_1=0.9, beta_2=0.999, epsilon=1e-07, weight_decay=0.004)
    """
    found = registry.build("optimizer", _BY_NAME, identifier)
    if not (callable(getattr(found, "init", None)) and callable(getattr(found, "update", None))):
        raise TypeError(
            f"optimizer={identifier!r} must implement init(param) and update(param, grad, state, lr); otherwise "
            f"give a name ({', '.join(sorted(_BY_NAME))})"
        )
    return found


def is_built_in(optimizer: Any) -> TypeGuard[BuiltIn]:
    """Whether the optimizer is one of this module, whose update cannot fail once its arguments are valid.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.optimizers.is_built_in(lc.SGD())
    True
    """
    return type(optimizer) in _BY_NAME.values()


def default_lr(optimizer: Any) -> float | None:
    """Return the default learning rate of a built-in optimizer, as in Keras; None for a custom one.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.optimizers.default_lr(lc.Adam())
    0.001
    """
    return optimizer.default_lr if is_built_in(optimizer) else None


def run(
    optimizer: BuiltIn, param: Array, grad: Array, state: State, lr: float, threads: int | None = None,
    regularize: Callable[[Rule], Rule] | None = None, *, restrain: Callable[[Rule], Rule] | None = None,
) -> None:  # fmt: skip
    """Update a parameter and its state in place by a built-in optimizer, on `threads` threads (None: all).

    `regularize` may add a penalty or a constraint to the update rule; `restrain` is its deprecated alias.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> weights = np.ones(2)
    >>> lc.optimizers.run(lc.SGD(), weights, np.array([1.0, 2.0]), {}, lr=0.5, threads=1)
    >>> weights
    array([0.5, 0. ])
    """
    if restrain is not None:
        warn("run(restrain=...) is deprecated; use run(regularize=...)", DeprecationWarning)
        regularize = restrain
    rule = optimizer.rule(state, lr)
    rule = rule if regularize is None else regularize(rule)
    for array in (param, grad, *rule.states):
        if array.shape != param.shape or array.dtype != param.dtype or not array.flags.c_contiguous:
            raise ValueError(
                f"param, grad and state must be C-contiguous and have the same shape and dtype, got {array.shape} "
                f"{array.dtype} and {param.shape} {param.dtype}"
            )
    _update().run(rule, param, grad, threads)
    optimizer.advance(state)


def prepare(param: Array, threads: int | None = None, optimizer: BuiltIn | None = None) -> None:
    """Compile what `run` with this optimizer (None: SGD) needs, so that it cannot run out of memory while compiling.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.optimizers.prepare(np.ones(2), threads=1)
    """
    _update().prepare((optimizer or SGD())._scalars, param, threads)


@import_whole
def _update() -> Any:
    from lcnumba.kernels import update

    return update


def _zeros(param: Array, count: int) -> list[Array]:
    """Return `count` arrays of the shape of the parameter."""
    require(count * param.nbytes, "the optimizer's state", "SGD without momentum has none")
    return [np.zeros_like(param) for _ in range(count)]


def _fraction(name: str, value: Any) -> float:
    number = real(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
    return number


def _epsilon(value: Any) -> float:
    number = real("epsilon", value)
    if number < 1e-37:
        raise ValueError(f"epsilon must be >= 1e-37, so that float32 can represent it, got {value!r}")
    return number


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name == "default_rate":
        warn("lcnumba.optimizers.default_rate is deprecated; use default_lr", DeprecationWarning)
        return default_lr
    raise missing(__name__, name)
