"""Locally connected layers on the CPU, with Keras' behaviour and without a deep-learning framework.

Names are bound on first use, so that ``import lcnumba`` stays quick; Numba and SciPy are imported
by the first layer that computes.
"""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lcnumba import forks  # noqa: F401 - a fork waits for what is imported from here on
from lcnumba.interrupts import deferred

if TYPE_CHECKING:
    from lcnumba.dense import Dense
    from lcnumba.elementwise import Activation, Dropout
    from lcnumba.flatten import Flatten
    from lcnumba.keras_io import export_weights, import_weights, load_keras, load_keras_weights, save_keras_weights
    from lcnumba.layer import LocallyConnected1D, LocallyConnected2D, LocallyConnected3D
    from lcnumba.masks import kernel_mask_from
    from lcnumba.optimizers import SGD, Adam, AdamW, RMSprop
    from lcnumba.parameters import Gradients
    from lcnumba.sequential import Sequential, load
    from lcnumba.training import History
    from lcnumba.tuning import Tuning, tune

__all__ = [
    "SGD", "Activation", "Adam", "AdamW", "Dense", "Dropout", "Flatten", "Gradients", "History", "LocallyConnected1D",
    "LocallyConnected2D", "LocallyConnected3D", "RMSprop", "Sequential", "Tuning", "export_weights",
    "import_weights", "kernel_mask_from", "load", "load_keras", "load_keras_weights", "save_keras_weights", "tune",
]  # fmt: skip

_HOMES = {
    "Activation": "elementwise",
    "Adam": "optimizers",
    "AdamW": "optimizers",
    "Dense": "dense",
    "Dropout": "elementwise",
    "Flatten": "flatten",
    "Gradients": "parameters",
    "History": "training",
    "LocallyConnected1D": "layer",
    "LocallyConnected2D": "layer",
    "LocallyConnected3D": "layer",
    "RMSprop": "optimizers",
    "SGD": "optimizers",
    "Sequential": "sequential",
    "Tuning": "tuning",
    "export_weights": "keras_io",
    "import_weights": "keras_io",
    "kernel_mask_from": "masks",
    "load": "sequential",
    "load_keras": "keras_io",
    "load_keras_weights": "keras_io",
    "save_keras_weights": "keras_io",
    "tune": "tuning",
}


# Modules that are used by name: lcnumba.regularizers.L2(0.1).
_MODULES = (
    "activations", "callbacks", "constraints", "estimators", "gradients", "initializers", "losses", "metrics",
    "optimizers", "plotting", "protocol", "reference", "regularizers", "schedules", "testing",
)  # fmt: skip


def _module(name: str) -> Any:
    with deferred():  # NumPy is imported, too, which cannot go on from where an interrupt left it
        return importlib.import_module(f"lcnumba.{name}")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return _module(name)
    if name in _HOMES:
        value = getattr(_module(_HOMES[name]), name)
    elif name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value = version("lcnumba")
        except PackageNotFoundError:  # a frozen program, or a folder of files, does not say
            value = "unknown"
    else:
        from lcnumba.messages import missing

        raise missing(__name__, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # What cannot be had without scikit-learn would break whoever asks for every name, as help() does.
    modules = [name for name in _MODULES if name != "estimators" or find_spec("sklearn") is not None]
    return [*__all__, *modules, "__version__"]
