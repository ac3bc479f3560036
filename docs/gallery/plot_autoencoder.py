"""
An autoencoder with local weights in both directions
====================================================

A transposed layer, :class:`lcnumba.LocallyConnected2DTranspose`, does the reverse of a locally
connected one: each of its inputs spreads over a window of the output, with weights of its own. Two of
each make an autoencoder of handwritten digits, which is compared with principal components, the best
linear code of the same size.

The data are the 1,797 images of 8 x 8 pixels of scikit-learn. 1,200 are for training, 300 say when to
stop, and 297 are used for nothing but the comparison.
"""

# %%
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import lcnumba as lc

EPOCHS = 150  # at most

images = (load_digits().images[..., None] / 16).astype(np.float32)
images = images[np.random.default_rng(0).permutation(len(images))]
train, validation, test = images[:1200], images[1200:1500], images[1500:]

# %%
# The encoder makes 2 x 2 places with four numbers each. The decoder has the same layers in reverse
# order.
settings = {"fans": "window", "rng": np.random.default_rng(1)}
model = lc.Sequential(
    [
        lc.LocallyConnected2D(
            16, 3, padding="same", activation="relu", input_shape=(8, 8, 1), **settings
        ),
        lc.LocallyConnected2D(4, 4, strides=4, **settings),
        lc.LocallyConnected2DTranspose(16, 4, strides=4, activation="relu", **settings),
        lc.LocallyConnected2DTranspose(1, 3, padding="same", **settings),
    ],
    name="autoencoder",
)
model.compile("adam", "mse", lr=0.003)
patience = lc.callbacks.EarlyStopping("val_loss", patience=15)
history = model.fit(
    train, train, epochs=EPOCHS, batch_size=50, rng=0, progress=False, callbacks=[patience],
    validation_data=(validation, validation),
)  # fmt: skip
lc.plotting.model(model).figure

# %%
# The code of an image is what the first two layers make of it. They are a model, too, which shares
# the weights.
encoder = lc.Sequential(model.layers[:2])
size = encoder(test)[0].size
print(f"{size} numbers for {test[0].size} pixels")

# %%
# As many principal components, and the mean squared error of both on the test images:
mean = train.mean(axis=0)
_, _, directions = np.linalg.svd((train - mean).reshape(len(train), -1), full_matrices=False)
projection = directions[:size].T @ directions[:size]
made = {
    "principal components": mean
    + ((test - mean).reshape(len(test), -1) @ projection).reshape(test.shape),
    "local layers": model.predict(test),
}
errors = {name: float(np.square(again - test).mean()) for name, again in made.items()}
for name, error in errors.items():
    print(f"{name:22}{error:.4f}")

# %%
# Each number of the local code sees 5 x 5 pixels at most, a principal component all of them; yet the
# error is half as large. The hidden layers make the difference: a single layer in each direction is
# linear, and worse than the components. In the pictures strokes are sharper, and the loops of 8 and 9
# stay open.
figure = Figure(figsize=(10, 3.4), layout="constrained")
for axes, (name, shown) in zip(figure.subplots(3, 1), {"images": test, **made}.items(), strict=True):
    axes.imshow(
        np.concatenate([np.pad(image[..., 0], 1) for image in shown[:16]], axis=1),
        cmap="gray_r",
        clim=(0, 1),
    )
    axes.set(
        title=name + (f", mean squared error {errors[name]:.4f}" if name in errors else ""),
        xticks=[],
        yticks=[],
    )
figure

# sphinx_gallery_thumbnail_number = 2
