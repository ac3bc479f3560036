"""Training steps of connections given one by one: LocallyDirected1D, scipy.sparse, and tf.sparse as in GenNet.

``python -m bench.directed`` measures the first layer of a network from variants to genes: 500,000 inputs, 20,000
outputs, 1,000,000 connections, one Adam step without dx. "genes" are runs of 50 neighbouring inputs, which overlap;
"random" are pairs drawn at random. Inputs are float32, or int8 as genotypes are stored, which the others cast.

Each peer runs in turn with lcnumba, in processes of their own, on the same data. Output and weights after a first step
are compared before anything is timed. Printed are medians with quartiles over all steps, the median over the turns of
the ratios of their medians, and the peaks of memory beyond data, weights and states, of building a layer and of steps.
"""

import argparse
import ctypes
import functools
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.answers import check
from bench.process import Failure, Process
from bench.resident import status
from bench.rounds import quartiles
from lcnumba.kernels.vectors import target, vector_bytes
from lcnumba.tools.info import processor

__all__ = ["measure", "memory", "prepare", "steps"]

Array = npt.NDArray[Any]

INPUTS, OUTPUTS, CONNECTIONS, BATCH = 500_000, 20_000, 1_000_000, 64
RATE = 1e-3
KINDS, DTYPES, PEERS = ("genes", "random"), ("float32", "int8"), ("scipy", "tensorflow")
SETTLE, TURN_SECONDS = 0.1, 2.0

_step: Callable[[], Any]


def data(kind: str, dtype: str, share: float) -> tuple[Array, Array, Array, Array, Array]:
    """Pairs by outputs and inputs, x (N, inputs, 1), dy (N, outputs, 1), and initial weights; a share of all sizes."""
    rng = np.random.default_rng(0)
    inputs, outputs, many = (int(size * share) for size in (INPUTS, OUTPUTS, CONNECTIONS))
    if kind == "genes":
        length = many // outputs
        begin = np.sort(rng.integers(0, inputs - length, outputs))
        pairs = np.stack(
            [np.add.outer(begin, np.arange(length)).ravel(), np.repeat(np.arange(outputs), length)], axis=1
        )
    else:
        drawn = np.unique(rng.integers(0, inputs * outputs, many + many // 100))
        keys = np.sort(rng.choice(drawn, many, replace=False))
        pairs = np.stack([keys % inputs, keys // inputs], axis=1)
    x = rng.integers(0, 3, (BATCH, inputs, 1), np.int8).astype(dtype)
    dy = rng.standard_normal((BATCH, outputs, 1), np.float32)
    return pairs, x, dy, rng.standard_normal(many, np.float32) / 8, rng.standard_normal(outputs, np.float32) / 8


def own(pairs: Array, x: Array, dy: Array, kernel: Array, bias: Array) -> tuple[Callable[[], Any], Callable[[], Array]]:
    """A step of this library, which returns y, and a function that returns the weights."""
    import lcnumba as lc

    layer = lc.LocallyDirected1D(pairs, mask_shape=(x.shape[1], dy.shape[1]), optimizer=lc.Adam())
    layer.build_with((None, *x.shape[1:]), [kernel.reshape(-1, 1, 1).copy(), bias.reshape(-1, 1).copy()])

    def step() -> Array:
        y, backward = layer.forward(x)
        backward.step(dy, RATE, wants_dx=False)
        return np.asarray(y)

    return step, lambda: layer.kernel.reshape(-1)


def with_scipy(
    pairs: Array, x: Array, dy: Array, kernel: Array, bias: Array
) -> tuple[Callable[[], Any], Callable[[], Array]]:
    """The same with a CSR matrix of the weights, a gradient by gathered products, and Adam in NumPy."""
    import scipy.sparse

    rows, columns = pairs[:, 1].astype(np.int32), pairs[:, 0].astype(np.int32)
    indptr = np.searchsorted(rows, np.arange(dy.shape[1] + 1)).astype(np.int32)
    weights = [kernel.copy(), bias.copy()]
    matrix = scipy.sparse.csr_array((weights[0], columns, indptr), shape=(dy.shape[1], x.shape[1]))
    assert np.shares_memory(matrix.data, weights[0])
    states = [(np.zeros_like(w), np.zeros_like(w)) for w in weights]
    count = 0

    def step() -> Array:
        nonlocal count
        count += 1
        xt = np.ascontiguousarray(x[:, :, 0].astype(np.float32, copy=False).T)
        y = (matrix @ xt).T + weights[1]
        dyt, gradient = np.ascontiguousarray(dy[:, :, 0].T), np.empty_like(weights[0])
        for at in range(0, len(rows), 1 << 16):
            part = slice(at, at + (1 << 16))
            gradient[part] = np.einsum("kn,kn->k", xt[columns[part]], dyt[rows[part]])
        rate = np.float32(RATE * np.sqrt(1 - 0.999**count) / (1 - 0.9**count))
        for weight, grad, (m, v) in zip(weights, (gradient, dyt.sum(axis=1)), states, strict=True):
            m += np.float32(0.1) * (grad - m)
            v += np.float32(0.001) * (grad * grad - v)
            weight -= rate * m / (np.sqrt(v) + np.float32(1e-7))
        return y[:, :, None]

    return step, lambda: weights[0]


def with_tensorflow(
    pairs: Array, x: Array, dy: Array, kernel: Array, bias: Array
) -> tuple[Callable[[], Any], Callable[[], Array]]:
    """The same with GenNet's layer: a product of a sparse tensor of the weights, in a compiled step of tf_keras."""
    import tensorflow as tf
    import tf_keras

    class Layer(tf_keras.layers.Layer):  # type: ignore[misc]
        def build(self, _: Any) -> None:
            constant = tf_keras.initializers.Constant
            self.kernel = self.add_weight(name="kernel", shape=kernel.shape, initializer=constant(kernel))
            self.bias = self.add_weight(name="bias", shape=bias.shape, initializer=constant(bias))

        def call(self, given: Any) -> Any:
            flat = tf.cast(given[:, :, 0], tf.float32)
            matrix = tf.sparse.SparseTensor(pairs[:, ::-1], self.kernel, (dy.shape[1], x.shape[1]))
            product = tf.sparse.sparse_dense_matmul(matrix, flat, adjoint_b=True)
            return (tf.transpose(product) + self.bias)[:, :, None]

    layer, optimizer = Layer(), tf_keras.optimizers.Adam(RATE)
    layer.build(None)
    given, derivative = tf.constant(x), tf.constant(dy)

    @tf.function  # type: ignore[untyped-decorator]
    def compiled() -> Any:
        with tf.GradientTape() as tape:
            y = layer(given)
        gradients = tape.gradient(y, layer.trainable_weights, derivative)
        optimizer.apply_gradients(zip(gradients, layer.trainable_weights, strict=True))
        return y

    return lambda: compiled().numpy(), lambda: layer.kernel.numpy()


_MAKERS = {"lcnumba": own, "scipy": with_scipy, "tensorflow": with_tensorflow}


def prepare(peer: str, kind: str, dtype: str, share: float, folder: str) -> None:
    """Make a step in this process, run it once, and save its results in a folder."""
    global _step
    _step, weights = _MAKERS[peer](*data(kind, dtype, share))
    np.save(Path(folder, "y.npy"), _step())
    np.save(Path(folder, "kernel.npy"), weights())


def steps(seconds: float) -> list[float]:
    """Time steps for about so long, at least two, after one that is not counted."""
    times: list[float] = []
    _step()
    end = time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        _step()
        times.append(time.perf_counter() - start)
    return times


def memory(kind: str, dtype: str, share: float) -> dict[str, int]:
    """The peaks of building this library's layer and of its steps, beyond data, weights and states; on Linux."""
    given = data(kind, dtype, share)
    own(*given)[0]()  # compiles
    gc.collect()
    weights = 4 * (len(given[3]) + len(given[4]))
    before, peaks = _reset(), {}
    step, _ = own(*given)
    peaks["build"] = status("VmHWM") - before - weights
    _reset()
    for _ in range(3):
        step()
    peaks["steps"] = status("VmHWM") - before - 3 * weights
    return peaks


def _reset() -> int:
    """Return freed memory to the system, set the peak to what is in use, and return that."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def measure(peer: str, kind: str, dtype: str, turns: int, share: float) -> str:
    """Run lcnumba and a peer in turn; return a row of the table."""
    with tempfile.TemporaryDirectory() as folder, Process(2) as ours, Process(2) as theirs:
        sides = {"lcnumba": ours, peer: theirs}
        ask = functools.partial(Process.ask, do="run", module="bench.directed")
        for name, side in sides.items():
            Path(folder, name).mkdir()
            arguments = {"peer": name, "kind": kind, "dtype": dtype, "share": share, "folder": str(Path(folder, name))}
            ask(side, function="prepare", arguments=arguments)
        difference = check(str(Path(folder, "lcnumba")), str(Path(folder, peer)), "float32")
        times: list[list[list[float]]] = []
        for _ in range(turns):
            times.append([])
            for side in sides.values():
                time.sleep(SETTLE)
                times[-1].append(ask(side, function="steps", arguments={"seconds": TURN_SECONDS})["value"])
        ratio = statistics.median(statistics.median(b) / statistics.median(a) for a, b in times)
        shown = []
        for number in range(2):
            found = quartiles([1e3 * t for turn in times for t in turn[number]])
            shown.append(f"{found['median']:.1f} ({found['low']:.1f} - {found['high']:.1f})")
        return f"| {kind} | {dtype} | {peer} | {shown[0]} | {shown[1]} | {ratio:.1f}x | {difference:.0e} |"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="of the sizes, to try it out; default 1")
    given = parser.parse_args()
    print(f"{processor()}, code for {target()}, vectors of {8 * vector_bytes()} bits, 2 threads, batch {BATCH}\n")
    print("| connections | x | peer | lcnumba, ms | peer, ms | ratio | difference |\n|---|---|---|---|---|---|---|")
    cases = [(kind, dtype) for kind in given.kinds for dtype in given.dtypes]
    for kind, dtype in cases:
        for peer in given.peers:
            try:
                print(measure(peer, kind, dtype, given.turns, given.share), flush=True)
            except Failure as failure:
                print(f"| {kind} | {dtype} | {peer} | {failure} | | | |", flush=True)
    print("\n| connections | x | MB extra, building | MB extra, steps |\n|---|---|---|---|")
    for kind, dtype in cases:
        with Process(2) as worker:
            arguments = {"kind": kind, "dtype": dtype, "share": given.share}
            peaks = worker.ask("run", module="bench.directed", function="memory", arguments=arguments)["value"]
        print(f"| {kind} | {dtype} | {peaks['build'] / 1e6:.0f} | {peaks['steps'] / 1e6:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
