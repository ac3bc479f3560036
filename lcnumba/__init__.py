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
    from lcnumba.bridges.layouts import from_layout, to_layout
    from lcnumba.connectivity.masks import kernel_mask_from
    from lcnumba.gradients import Gradients
    from lcnumba.layers.activation import Activation
    from lcnumba.layers.advanced_activations import ELU, LeakyReLU, ReLU, Softmax
    from lcnumba.layers.batch_normalization import BatchNormalization
    from lcnumba.layers.convolution import Conv1D, Conv2D
    from lcnumba.layers.dense import Dense
    from lcnumba.layers.dropout import Dropout
    from lcnumba.layers.flatten import Flatten
    from lcnumba.layers.locally_connected import LocallyConnected1D, LocallyConnected2D, LocallyConnected3D
    from lcnumba.layers.locally_connected_transpose import (
        LocallyConnected1DTranspose,
        LocallyConnected2DTranspose,
        LocallyConnected3DTranspose,
    )
    from lcnumba.layers.locally_directed import LocallyDirected1D
    from lcnumba.layers.pooling import (
        AveragePooling1D,
        AveragePooling2D,
        GlobalAveragePooling1D,
        GlobalAveragePooling2D,
        GlobalMaxPooling1D,
        GlobalMaxPooling2D,
        MaxPooling1D,
        MaxPooling2D,
    )
    from lcnumba.layers.shapes import (
        Reshape,
        UpSampling1D,
        UpSampling2D,
        ZeroPadding1D,
        ZeroPadding2D,
    )
    from lcnumba.models.sequential import Sequential, load
    from lcnumba.optimizers import SGD, Adam, AdamW, RMSprop
    from lcnumba.tools.tune import Tuning, tune
    from lcnumba.tools.warm_up import warm_up
    from lcnumba.training.run import History

__all__ = [
    "ELU", "SGD", "Activation", "Adam", "AdamW", "AveragePooling1D", "AveragePooling2D", "BatchNormalization", "Conv1D",
    "Conv2D", "Dense", "Dropout", "Flatten", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D",
    "GlobalMaxPooling2D", "Gradients", "History", "LeakyReLU", "LocallyConnected1D", "LocallyConnected1DTranspose",
    "LocallyConnected2D", "LocallyConnected2DTranspose", "LocallyConnected3D", "LocallyConnected3DTranspose",
    "LocallyDirected1D", "MaxPooling1D", "MaxPooling2D", "RMSprop", "ReLU", "Reshape", "Sequential", "Softmax",
    "Tuning", "UpSampling1D", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D", "export_weights", "from_layout",
    "import_weights", "kernel_mask_from", "load", "load_keras", "load_keras_weights", "save_keras_weights", "to_layout",
    "tune", "warm_up",
]  # fmt: skip

_HOMES = {
    "Activation": "layers.activation",
    "Adam": "optimizers",
    "AdamW": "optimizers",
    "AveragePooling1D": "layers.pooling",
    "AveragePooling2D": "layers.pooling",
    "BatchNormalization": "layers.batch_normalization",
    "Conv1D": "layers.convolution",
    "Conv2D": "layers.convolution",
    "Dense": "layers.dense",
    "Dropout": "layers.dropout",
    "ELU": "layers.advanced_activations",
    "Flatten": "layers.flatten",
    "GlobalAveragePooling1D": "layers.pooling",
    "GlobalAveragePooling2D": "layers.pooling",
    "GlobalMaxPooling1D": "layers.pooling",
    "GlobalMaxPooling2D": "layers.pooling",
    "Gradients": "gradients",
    "History": "training.run",
    "LeakyReLU": "layers.advanced_activations",
    "LocallyConnected1D": "layers.locally_connected",
    "LocallyConnected1DTranspose": "layers.locally_connected_transpose",
    "LocallyConnected2D": "layers.locally_connected",
    "LocallyConnected2DTranspose": "layers.locally_connected_transpose",
    "LocallyConnected3D": "layers.locally_connected",
    "LocallyConnected3DTranspose": "layers.locally_connected_transpose",
    "LocallyDirected1D": "layers.locally_directed",
    "MaxPooling1D": "layers.pooling",
    "MaxPooling2D": "layers.pooling",
    "RMSprop": "optimizers",
    "ReLU": "layers.advanced_activations",
    "Reshape": "layers.shapes",
    "SGD": "optimizers",
    "Sequential": "models.sequential",
    "Softmax": "layers.advanced_activations",
    "Tuning": "tools.tune",
    "UpSampling1D": "layers.shapes",
    "UpSampling2D": "layers.shapes",
    "ZeroPadding1D": "layers.shapes",
    "ZeroPadding2D": "layers.shapes",
    "export_weights": "bridges.keras2.weights",
    "from_layout": "bridges.layouts",
    "import_weights": "bridges.keras2.weights",
    "kernel_mask_from": "connectivity.masks",
    "load": "models.sequential",
    "load_keras": "bridges.keras2.models",
    "load_keras_weights": "bridges.keras2.models",
    "save_keras_weights": "bridges.keras2.models",
    "to_layout": "bridges.layouts",
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
