"""
Faces: how much to share
========================

Between a convolution, the same weights everywhere, and a locally connected layer, weights of their
own at each place, lies `weight_sharing`: positions of a region share. In pictures of faces, cut so
that eyes and mouth are where they are in all others, what is worth seeing differs between eyes, nose
and mouth, but not from pixel to pixel.

The data are the 200 images of 25 x 25 pixels of scikit-image's subset of "Labeled Faces in the Wild":
100 faces, and 100 pieces of background. That is very little to learn from.
"""

# %%
import numpy as np
from matplotlib.figure import Figure
from skimage.data import lfw_subset
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

import lcnumba as lc

REPEATS, EPOCHS = 8, 40

images = lfw_subset().astype(np.float32)
images = (images - images.mean()) / images.std()
labels = np.repeat([1, 0], 100)
figure = Figure(figsize=(10, 2.2), layout="constrained")
rows = [
    np.concatenate([np.pad(image, 1, constant_values=3) for image in part[:16]], 1)
    for part in (images, images[100:])
]
axes = figure.subplots()
axes.imshow(np.concatenate(rows), cmap="gray")
axes.set(xticks=[], yticks=[], title="faces, and not")
figure

# %%
# The regions: windows of 5 x 5 pixels, every second pixel, have 11 x 11 positions. Hair, eyes, nose
# and cheeks, mouth and chin are bands; left and right of the face is a region of its own.
regions = np.repeat([[0], [1], [2], [3]], [2, 3, 3, 3], axis=0).repeat(11, axis=1)
regions[:, [0, 1, 9, 10]] = 4

sharing = {
    "no sharing": None,
    "blocks of 4 x 4": (4, 4),
    "regions": regions,
    "a convolution": "all",
}


def network(kind, seed):
    """A layer of 8 filters with this sharing, dropout, and one score."""
    first = lc.LocallyConnected2D(
        8, 5, strides=2, activation="relu", fans="window", weight_sharing=kind, bias_sharing="filter",
        rng=seed, input_shape=(25, 25, 1), name="regions" if kind is regions else None,
    )  # fmt: skip
    model = lc.Sequential([first, lc.Flatten(), lc.Dropout(0.5, seed=seed), lc.Dense(1, rng=seed)])
    model.compile("adam", lc.losses.BinaryCrossentropy(from_logits=True), lr=0.002)
    return model


lc.plotting.sharing_map(network(regions, 0)[0]).figure

# %%
# How many images does each need? All are trained on some images of each kind and tested on all
# others, several times, with other images and other initial weights.
SIZES = (5, 10, 20, 40, 80)
shares = {name: np.zeros((len(SIZES), REPEATS)) for name in (*sharing, "logistic regression")}
for repeat in range(REPEATS):
    rng = np.random.default_rng(repeat)
    order = np.stack([rng.permutation(100), 100 + rng.permutation(100)])  # faces, and not
    for row, size in enumerate(SIZES):
        train, test = order[:, :size].ravel(), order[:, size:].ravel()
        for name, kind in sharing.items():
            model = network(kind, repeat)
            model.fit(
                images[train, ..., None],
                labels[train, None],
                epochs=EPOCHS,
                batch_size=10,
                rng=0,
                progress=False,
            )
            scores = model.predict(images[test, ..., None])[:, 0]
            shares[name][row, repeat] = ((scores > 0) == labels[test]).mean()
        linear = GridSearchCV(LogisticRegression(), {"C": [0.01, 0.1, 1]}).fit(
            images[train].reshape(-1, 625), labels[train]
        )
        shares["logistic regression"][row, repeat] = linear.score(
            images[test].reshape(-1, 625), labels[test]
        )
print("images of each kind ", *(f"{size:6}" for size in SIZES))
for name, found in shares.items():
    print(f"{name:20}", *(f"{share:6.1%}" for share in found.mean(axis=1)))

# %%
# With five images of each kind, weights of one's own at each place are already the best, though there
# are most of them: in pictures that are cut alike, where something is tells as much as what it is. Up
# to 20 images sharing by regions or blocks lies between the extremes; from 40 on all four agree. The
# bars are the spread over the repetitions.
figure = Figure(figsize=(8, 4.2), layout="constrained")
axes = figure.subplots()
for offset, ((name, found), color) in enumerate(
    zip(shares.items(), ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#000000"), strict=True)
):
    places = np.array(SIZES) * (1 + 0.03 * (offset - 2))  # side by side
    wrong = 100 - 100 * found
    axes.errorbar(places, wrong.mean(axis=1), wrong.std(axis=1), marker="o", color=color, label=name)
axes.set(
    xscale="log",
    xlabel="images of each kind to learn from",
    ylabel="error on the others, per cent",
    ylim=(0, None),
)
axes.set_xticks(SIZES, SIZES)
axes.minorticks_off()
axes.legend()
figure

# %%
# Filters of the model with regions, at each position: within a region all windows are the same.
model = network(regions, 0)
model.fit(images[..., None], labels[:, None], epochs=EPOCHS, batch_size=20, rng=0, progress=False)
lc.plotting.filters_by_position(model[0], 1).figure

# sphinx_gallery_thumbnail_number = 4
