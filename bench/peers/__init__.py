"""The table of peers: label, module and memory requirement of each.

A peer's module has ``make(case, data, threads, **options) -> Operations``. The module and its framework are imported
only in worker processes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.case import Case

__all__ = ["OPERATIONS", "PEERS", "Operations", "Peer"]

# step = forward, gradients of input, kernel and bias, plain SGD.
OPERATIONS = ("forward", "step")


class Operations(NamedTuple):
    """The operations of a peer; each call returns when its results are computed.

    Attributes
    ----------
    forward : () -> y
        y (N, OH, OW, F) in the peer's array type, contiguous.
    step : () -> (y, dx)
        Also updates the weights; dx (N, H, W, C) belongs to the weights before the update.
    weights : () -> (kernel, bias)
        NumPy arrays of the shapes in `bench.data.Data`.
    """

    forward: Callable[[], Any]
    step: Callable[[], tuple[Any, Any]]
    weights: Callable[[], tuple[npt.NDArray[Any], npt.NDArray[Any]]]


def _nothing(case: Case, operation: str) -> int:  # noqa: ARG001 - as the others
    return 0


def _patches(case: Case, operation: str) -> int:
    """Bytes of a copy of all windows, and of its gradient."""
    copies = {"forward": 1, "step": 2}[operation]
    return copies * case.positions * case.batch * case.window * case.itemsize


def _sliced(case: Case, operation: str) -> int:
    """The gradient of each of P slices has the size of the input."""
    if operation == "forward":
        return 0
    return case.positions * case.batch * int(np.prod(case.input_size)) * case.itemsize


def _dense(case: Case, operation: str) -> int:
    """The matrix (inputs, outputs) and its masked copy, and in a step their gradients."""
    copies = {"forward": 2, "step": 4}[operation]
    return copies * int(np.prod(case.input_size)) * case.positions * case.filters * case.itemsize


def _own(case: Case, operation: str) -> int:
    """The kernel as a dense matrix, and its gradient."""
    return _dense(case, operation) // 2


@dataclass(frozen=True)
class Peer:
    """An implementation of the layer.

    Attributes
    ----------
    label : str
        Name in tables.
    module : str
        Module with its ``make``.
    options : dict
        Additional arguments of ``make``.
    packages : tuple of str
        Distributions whose versions are reported.
    needs : (case, operation) -> int
        Lower bound of its memory in bytes beyond the data, to skip peers that cannot fit.
    in_training : bool
        Whether it is a layer within a framework's training, for `bench.bridges` alone.
    """

    label: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    needs: Callable[[Case, str], int] = _nothing
    in_training: bool = False


_KERAS = ("tf_keras", "tensorflow", "tensorflow-cpu")

# own1 is first: all others are compared with it.
PEERS = {
    "own1": Peer("lcnumba", "bench.peers.own", {"implementation": 1}, ("lcnumba", "numba")),
    "own2": Peer("lcnumba impl. 2", "bench.peers.own", {"implementation": 2}, ("lcnumba",), _own),
    "own3": Peer("lcnumba impl. 3", "bench.peers.own", {"implementation": 3}, ("lcnumba",)),
    "numpy": Peer("NumPy matmul", "bench.peers.numpy_peer", {}, ("numpy",), _patches),
    "torch": Peer("PyTorch baddbmm", "bench.peers.torch_peer", {}, ("torch",), _patches),
    "jax": Peer("JAX conv_local", "bench.peers.jax_peer", {}, ("jax", "jaxlib"), _patches),
    "keras1": Peer("tf_keras 1", "bench.peers.keras_peer", {"implementation": 1}, _KERAS, _sliced),
    "keras1-xla": Peer("tf_keras 1 XLA", "bench.peers.keras_peer", {"implementation": 1, "xla": True}, _KERAS),
    "keras2": Peer("tf_keras 2", "bench.peers.keras_peer", {"implementation": 2}, _KERAS, _dense),
    "keras3": Peer("tf_keras 3", "bench.peers.keras_peer", {"implementation": 3}, _KERAS),
    "torch-bridge": Peer("lcnumba.torch", "bench.peers.torch_module", {"form": "lcnumba"}, in_training=True),
    "torch-unfold": Peer("unfold, baddbmm", "bench.peers.torch_module", {"form": "unfold"}, ("torch",), _patches, True),
    "torch-gather": Peer(
        "gather, baddbmm, compiled", "bench.peers.torch_module", {"form": "gather"}, ("torch",), _patches, True
    ),
    "jax-bridge": Peer("lcnumba.jax", "bench.peers.jax_peer", {"form": "lcnumba"}, in_training=True),
    **{
        f"keras3-{backend}-{name}": Peer(
            label, "bench.peers.keras3_peer", {"form": form, "backend": backend}, ("keras",),
            _nothing if form == "lcnumba" else _patches, True,
        )
        for backend in ("jax", "torch", "tensorflow")
        for name, form, label in (
            ("bridge", "lcnumba", f"lcnumba.keras, {backend}"), ("patches", "patches", "extract_patches, einsum"),
        )
    },
}  # fmt: skip
