"""The layers by the name of their class, as files and configs call them."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, overload

import lcnumba

__all__ = ["KERAS_COMMON", "STATELESS_COMMON", "KerasSettings", "keras_layers", "layer_class", "register_layer"]

Class = TypeVar("Class", bound=type)

# Entries that the configs of all of Keras' layers with weights have.
KERAS_COMMON = frozenset({
    "name", "trainable", "dtype", "batch_input_shape", "activation", "use_bias", "kernel_initializer",
    "bias_initializer", "kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint",
    "bias_constraint",
})  # fmt: skip

# And those of layers without.
STATELESS_COMMON = frozenset({"name", "trainable", "dtype", "batch_input_shape"})


class KerasSettings(NamedTuple):
    """What the config of Keras' layer of the same name holds.

    Attributes
    ----------
    keys : frozenset of str
        All of its entries; a layer here takes more, which must not come from a file of Keras.
    ignored : frozenset of str
        Those that mean nothing here.
    """

    keys: frozenset[str]
    ignored: frozenset[str] = frozenset()


_layers: dict[str, type] = {}
_keras: dict[str, KerasSettings] = {}


@overload
def register_layer(cls: Class, /) -> Class: ...


@overload
def register_layer(*, keras: KerasSettings) -> Callable[[Class], Class]: ...


def register_layer(cls: Any = None, /, *, keras: KerasSettings | None = None) -> Any:
    """Let files and configs find a layer of the library by the name of its class: a class decorator.

    Parameters
    ----------
    keras : KerasSettings, optional
        If Keras has a layer of this name, whose files are read.
    """

    def registered(cls: Class) -> Class:
        _layers[cls.__name__] = cls
        if keras is not None:
            _keras[cls.__name__] = keras
        return cls

    return registered if cls is None else registered(cls)


def layer_class(name: str) -> type | None:
    """Return the library's layer of a name, or None.

    A layer that no one has used yet is imported by its public name.
    """
    if name not in _layers and name in lcnumba.__all__:
        getattr(lcnumba, name)
    return _layers.get(name)


def keras_layers() -> dict[str, KerasSettings]:
    """Return the layers that Keras has, too, by name."""
    for name in lcnumba.__all__:
        getattr(lcnumba, name)
    return dict(sorted(_keras.items()))
