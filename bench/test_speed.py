"""Speed of lcnumba's operations under pytest-benchmark: ``pytest bench/``.

By default a small subset runs. ``-k "seed2 and float32"`` or ``-m fused`` select from all benchmarks, and
``--everything`` runs all. Results are checked, and kernels compiled, before the timing.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bench import ROOT  # noqa: F401 - puts the installed lcnumba before the checkout's
from bench.case import Case
from bench.data import make
from lcnumba import LocallyConnected2D
from lcnumba.testing import adjoint_sums, integers
from lcnumba.tools.bench import WORKLOADS
from lcnumba.tools.info import usable_processors

_MODEST_WORKLOADS = ("digits", "seed1", "seed2_online")
# Dense and sparse matrices of larger layers need gigabytes.
_SMALL = ("digits", "seed1", "bindsnet", "cudaconvnet")
_ROUNDS = 20


def _cases() -> Iterator[Any]:
    threads = sorted({1, usable_processors()})
    for name in WORKLOADS:
        for implementation in (1, 2, 3) if name in _SMALL else (1,):
            for count in threads:
                for dtype in ("float32", "float64"):
                    modest = (
                        name in _MODEST_WORKLOADS
                        and (implementation == 1 or name == "digits")
                        and count == threads[-1]
                        and dtype == "float32"
                    )
                    yield pytest.param(
                        (name, implementation, count, dtype),
                        id=f"{name}-impl{implementation}-{count}threads-{dtype}",
                        marks=[pytest.mark.modest] if modest else [],
                    )  # fmt: skip


@pytest.fixture(scope="module", params=_cases())
def setting(request: pytest.FixtureRequest) -> Iterator[tuple[Case, Any, Any, Any]]:
    """Case, layer, input and loss gradient; the layer is checked on integers and its kernels are compiled."""
    import numba

    name, implementation, threads, dtype = request.param
    case = Case.of(WORKLOADS[name], dtype)
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        _check(case, implementation)
        data = make(case)
        layer = _layer(case, implementation, bias=True)
        layer.set_weights([data.kernel, data.bias])
        yield case, layer, data.x, data.dy
    finally:
        numba.set_num_threads(before)


def _layer(case: Case, implementation: int, bias: bool) -> LocallyConnected2D:
    layer = LocallyConnected2D(
        case.filters, case.kernel_size, case.strides, case.padding, use_bias=bias, implementation=implementation,
        dtype=case.dtype, input_shape=case.input_size, kernel_initializer="zeros",
    )  # fmt: skip
    layer.build((None, *case.input_size))
    return layer


def _check(case: Case, implementation: int) -> None:
    """Check that the adjoint identities hold exactly on integers."""
    rng = np.random.default_rng(0)
    layer = _layer(case, implementation, bias=False)
    layer.set_weights([integers(rng, layer.kernel.shape, case.dtype)])
    x = integers(rng, (case.batch, *case.input_size), case.dtype)
    y, backward = layer.forward(x)
    dy = integers(rng, y.shape, case.dtype)
    dx, grads = backward(dy)
    assert len(set(adjoint_sums(x, layer.kernel, dy, y, dx, grads.kernel))) == 1


@pytest.mark.forward
def test_forward(setting: Any, benchmark: Any) -> None:
    """Forward."""
    _, layer, x, _ = setting
    benchmark.pedantic(layer, (x,), rounds=_ROUNDS, warmup_rounds=1)


@pytest.mark.backward
def test_backward(setting: Any, benchmark: Any) -> None:
    """The gradients of input and weights, without forward."""
    _, layer, x, dy = setting
    _, backward = layer.forward(x)
    benchmark.pedantic(backward, (dy,), rounds=_ROUNDS, warmup_rounds=1)


@pytest.mark.step
def test_step(setting: Any, benchmark: Any) -> None:
    """The gradients, then an update by them, without forward."""
    _, layer, x, dy = setting

    def step(backward: Any) -> None:
        _, grads = backward(dy)
        layer.step(grads, 1e-3)

    benchmark.pedantic(step, setup=_forward(layer, x), rounds=_ROUNDS, warmup_rounds=1)


@pytest.mark.fused
def test_fused_step(setting: Any, benchmark: Any) -> None:
    """Fused gradients and update, without forward."""
    _, layer, x, dy = setting
    benchmark.pedantic(
        lambda backward: backward.step(dy, 1e-3), setup=_forward(layer, x), rounds=_ROUNDS, warmup_rounds=1
    )


@pytest.mark.modest
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("action", ["call", "forward", "forward_and_step"])
@pytest.mark.benchmark(group="call overhead")
def test_call_overhead(action: str, optimizer: str, benchmark: Any) -> None:
    """Calls of a layer whose kernels take a few microseconds in all."""
    layer = LocallyConnected2D(2, 2, activation="relu", optimizer=optimizer, input_shape=(4, 4, 1), rng=0)
    x = np.ones((2, 4, 4, 1), np.float32)
    dy = np.ones_like(layer(x))

    def forward_and_step() -> None:
        layer.forward(x)[1].step(dy, 0.0)

    forward_and_step()  # compiles
    benchmark({"call": lambda: layer(x), "forward": lambda: layer.forward(x)}.get(action, forward_and_step))


def _forward(layer: LocallyConnected2D, x: Any) -> Callable[[], Any]:
    """Setup of a round: a step invalidates its backward, so each round gets a new one, which is not timed."""
    return lambda: ((layer.forward(x)[1],), {})
