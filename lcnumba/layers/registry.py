"""The layers by class name, as in files and configs.

A new layer with a kernel and perhaps a bias is a file of its own in this folder, like `dense.py`: a subclass of
`Trainable` (`base.py`), decorated with `register_layer`, and its public name in `lcnumba/__init__.py`. One without
weights derives from the base class in `stateless.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, overload

import lcnumba

__all__ = ["KERAS_COMMON", "STATELESS_COMMON", "KerasSettings", "keras_layers", "layer_class", "register_layer"]

Class = TypeVar("Class", bound=type)

# Config entries common to all of Keras' layers with weights,
KERAS_COMMON = frozenset({
    "name", "trainable", "dtype", "batch_input_shape", "activation", "use_bias", "kernel_initializer",
    "bias_initializer", "kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint",
    "bias_constraint",
})  # fmt: skip

# and to those without.
STATELESS_COMMON = frozenset({"name", "trainable", "dtype", "batch_input_shape"})


class KerasSettings(NamedTuple):
    """The config entries of Keras' layer of the same name.

    Attributes
    ----------
    keys : frozenset of str
        All of its entries; further arguments of the layer here are not accepted from a Keras file.
    ignored : frozenset of str
        Those that have no effect here.
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
    """Register a layer of the library under its class name, for files and configs: a class decorator.

    Parameters
    ----------
    keras : KerasSettings, optional
        Given if Keras has a layer of this name, whose files can be read.
    """

    def registered(cls: Class) -> Class:
        if cls.__name__ in _layers:
            raise ValueError(f"a layer named {cls.__name__} is registered already")
        _layers[cls.__name__] = cls
        if keras is not None:
            _keras[cls.__name__] = keras
        return cls

    return registered if cls is None else registered(cls)


def layer_class(name: str) -> type | None:
    """Return the library's layer class of a name, or None.

    A layer that has not been imported yet is imported by its public name.
    """
    if name not in _layers and name in lcnumba.__all__:
        getattr(lcnumba, name)
    return _layers.get(name)


def keras_layers() -> dict[str, KerasSettings]:
    """Return the settings of the layers that Keras also has, by name."""
    for name in lcnumba.__all__:
        getattr(lcnumba, name)
    return dict(sorted(_keras.items()))
