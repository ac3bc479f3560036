"""Training time: an epoch of the demo's network in lcnumba and in tf_keras, and a profile of `fit`.

``python -m bench.training`` prints both. The network, its initial weights, the batches and their order are the same.
The losses of the first epoch are compared before epochs are timed alternately, in separate processes. The profile is
of the documentation's second layer alone (30 x 30 x 64 to 32 filters), batch 32, mean squared error, SGD, with
shuffling.
"""

import argparse
import cProfile
import pstats
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bench.process import Failure, Process
from bench.rounds import quartiles

__all__ = ["PEERS", "compare", "epoch", "prepare", "profile"]

PEERS = {"lcnumba": None, "tf_keras 1": 1, "tf_keras 2": 2, "tf_keras 3": 3}
SAMPLES, BATCH, RATE = 4000, 32, 0.001
TOLERANCE = 1e-3  # relative, of the losses after an epoch in float32

_state: dict[str, Any] = {}


def prepare(implementation: int | None, folder: str) -> None:
    """Make the demo's network and save its weights in a folder; with an implementation, in tf_keras and load them."""
    rng = np.random.default_rng(0)
    x, y = rng.random((SAMPLES, 28, 28, 1), np.float32), rng.integers(0, 10, SAMPLES)
    if implementation is None:
        from lcnumba.tools import demo

        model = demo.network((28, 28, 1), 1, 0)
        model.compile("adam", "softmax_cross_entropy", ["accuracy"], lr=RATE)
        np.savez(Path(folder, "weights.npz"), *model.get_weights())
        settings = {"progress": False}
    else:
        import tf_keras

        layers = tf_keras.layers
        model = tf_keras.Sequential(
            [
                layers.LocallyConnected2D(8, 5, strides=2, activation="relu", input_shape=(28, 28, 1),
                                          implementation=implementation),
                layers.LocallyConnected2D(16, 3, activation="relu", implementation=implementation),
                layers.Flatten(), layers.Dense(10),
            ]
        )  # fmt: skip
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf_keras.optimizers.Adam(RATE), loss, ["accuracy"])
        with np.load(Path(folder, "weights.npz")) as file:
            model.set_weights(_as_stored(model, [file[name] for name in file.files]))
        settings = {"verbose": 0}
    _state["fit"] = lambda: model.fit(x, y, batch_size=BATCH, shuffle=False, **settings)


def _as_stored(model: Any, weights: list[Any]) -> list[Any]:
    """Canonical weights in the storage formats of Keras' implementations."""
    import lcnumba as lc

    stored: list[Any] = []
    for layer in model.layers:
        mine, weights = weights[: len(layer.weights)], weights[len(layer.weights) :]
        if type(layer).__name__ == "LocallyConnected2D":
            twin = lc.LocallyConnected2D.from_config(layer.get_config())
            twin.build(layer.input_shape)
            twin.set_weights(mine)
            mine = lc.export_weights(twin)
        stored += mine
    return stored


def epoch() -> dict[str, float]:
    """Train for one more epoch."""
    start = time.perf_counter()
    history = _state["fit"]().history
    return {"seconds": time.perf_counter() - start, "loss": history["loss"][-1]}


def compare(rounds: int, threads: int) -> list[dict[str, Any]]:
    """Time epochs of all peers alternately; return one row per peer."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        processes = {}
        for name, implementation in PEERS.items():
            row: dict[str, Any] = {"peer": name, "times": []}
            rows.append(row)
            process = stack.enter_context(Process(threads))
            try:
                _ask(process, "prepare", implementation=implementation, folder=folder)
                row["loss"] = _ask(process, "epoch")["loss"]
            except Failure as failure:
                row["reason"] = str(failure)
                continue
            if abs(row["loss"] - rows[0]["loss"]) > TOLERANCE * rows[0]["loss"]:
                row["reason"] = f"loss {row['loss']} differs from {rows[0]['loss']}"
                continue
            processes[name] = process
        for _ in range(rounds):
            for row in rows:
                if row["peer"] in processes:
                    row["times"].append(_ask(processes[row["peer"]], "epoch")["seconds"])
    return rows


def _ask(process: Process, function: str, **arguments: Any) -> Any:
    return process.ask("run", module="bench.training", function=function, arguments=arguments)["value"]


def profile(steps: int = 80) -> dict[str, float]:
    """Return the milliseconds of a step of `fit`, and the share of compiled code."""
    import lcnumba as lc

    rng = np.random.default_rng(0)
    samples = 32 * steps // 4
    x, y = (
        rng.standard_normal((samples, 30, 30, 64), np.float32),
        rng.standard_normal((samples, 28, 28, 32), np.float32),
    )
    model = lc.Sequential([lc.LocallyConnected2D(32, 3, input_shape=(30, 30, 64), rng=0)])
    model.compile("sgd", "mse")
    model.fit(x[:64], y[:64], progress=False)
    run = cProfile.Profile()
    start = time.perf_counter()
    run.enable()
    model.fit(x, y, epochs=4, rng=0, progress=False)
    run.disable()
    seconds = time.perf_counter() - start
    entries = pstats.Stats(run).stats.items()  # type: ignore[attr-defined]
    # The function that runs kernels on threads, and that which sums the bias' gradient.
    compiled = sum(
        own for (_, _, name), (_, _, own, *_) in entries if name.startswith(("_run_workers", "backward_bias"))
    )
    return {"step": 1000 * seconds / steps, "compiled": compiled / seconds}


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed epochs per peer, default 7")
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    given = parser.parse_args()
    found = profile()
    print(f"fit on seed2: {found['step']:.1f} ms per step, {found['compiled']:.1%} of it in compiled code")
    rows = compare(given.rounds, given.threads)
    ours = rows[0]["times"]
    for row in rows:
        if "reason" in row:
            print(f"{row['peer']:12s} {row['reason']}")
            continue
        spread = quartiles(row["times"])
        ratio = statistics.median(other / own for other, own in zip(row["times"], ours, strict=True))
        print(f"{row['peer']:12s} {spread['median']:.3f} s per epoch ({spread['low']:.3f} - {spread['high']:.3f}), "
              f"{ratio:.2f} times the time of lcnumba")  # fmt: skip
    sys.stdout.flush()


if __name__ == "__main__":
    main()
