"""Locally connected layers on the CPU, with Keras' behaviour and without a deep-learning framework.

Names are bound on first use, so that ``import lcnumba`` stays fast; Numba and SciPy are imported
when the first layer computes.
"""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcnumba.bridges.keras2.models import load_keras, load_keras_weights, save_keras_weights
    from lcnumba.bridges.keras2.weights import export_weights, import_weights
    from lcnumba.connectivity.masks import kernel_mask_from
    from lcnumba.gradients import Gradients
    from lcnumba.layers.activation import Activation
    from lcnumba.layers.dense import Dense
    from lcnumba.layers.dropout import Dropout
    from lcnumba.layers.flatten import Flatten
    from lcnumba.layers.locally_connected import LocallyConnected1D, LocallyConnected2D, LocallyConnected3D
    from lcnumba.layers.locally_directed import LocallyDirected1D
    from lcnumba.models.sequential import Sequential, load
    from lcnumba.optimizers import SGD, Adam, AdamW, RMSprop
    from lcnumba.tools.tune import Tuning, tune
    from lcnumba.tools.warm_up import warm_up
    from lcnumba.training.run import History

__all__ = [
    "SGD", "Activation", "Adam", "AdamW", "Dense", "Dropout", "Flatten", "Gradients", "History", "LocallyConnected1D",
    "LocallyConnected2D", "LocallyConnected3D", "LocallyDirected1D", "RMSprop", "Sequential", "Tuning",
    "export_weights", "import_weights", "kernel_mask_from", "load", "load_keras", "load_keras_weights",
    "save_keras_weights", "tune", "warm_up",
]  # fmt: skip

_HOMES = {
    "Activation": "layers.activation",
    "Adam": "optimizers",
    "AdamW": "optimizers",
    "Dense": "layers.dense",
    "Dropout": "layers.dropout",
    "Flatten": "layers.flatten",
    "Gradients": "gradients",
    "History": "training.run",
    "LocallyConnected1D": "layers.locally_connected",
    "LocallyConnected2D": "layers.locally_connected",
    "LocallyConnected3D": "layers.locally_connected",
    "LocallyDirected1D": "layers.locally_directed",
    "RMSprop": "optimizers",
    "SGD": "optimizers",
    "Sequential": "models.sequential",
    "Tuning": "tools.tune",
    "export_weights": "bridges.keras2.weights",
    "import_weights": "bridges.keras2.weights",
    "kernel_mask_from": "connectivity.masks",
    "load": "models.sequential",
    "load_keras": "bridges.keras2.models",
    "load_keras_weights": "bridges.keras2.models",
    "save_keras_weights": "bridges.keras2.models",
    "tune": "tools.tune",
    "warm_up": "tools.warm_up",
}


# Documented namespaces: lcnumba.regularizers.L2(0.1).
_MODULES = (
    "activations", "callbacks", "constraints", "estimators", "functional", "gradients", "initializers", "losses",
    "metrics", "mpi", "optimizers", "plotting", "protocol", "reference", "regularizers", "schedules", "testing",
)  # fmt: skip
# Those that import a framework.
_BRIDGES = ("jax", "keras", "onnx", "torch")


def _module(name: str) -> Any:
    from lcnumba.runtime.signals import deferred

    with deferred():  # this imports NumPy, which cannot be imported again after an interrupt
        return importlib.import_module(f"lcnumba.{name}")


def __getattr__(name: str) -> Any:
    if name in _MODULES or name in _BRIDGES:
        return _module(name)
    if name in _HOMES:
        value = getattr(_module(_HOMES[name]), name)
    elif name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value = version("lcnumba")
        except PackageNotFoundError:  # frozen programs and plain folders have no metadata
            value = "unknown"
    else:
        from lcnumba.utils.messages import missing

        raise missing(__name__, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # help() gets every name. Without scikit-learn, importing estimators would break it; and it imports no framework.
    modules = [name for name in _MODULES if name != "estimators" or find_spec("sklearn") is not None]
    return [*__all__, *modules, "__version__"]
