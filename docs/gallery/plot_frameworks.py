"""
The same layer in PyTorch, JAX and Keras 3
==========================================

The layer is a module of PyTorch, a function of JAX, and a layer of Keras 3. All call the same
kernels, so that the same weights give the same outputs, to the last bit, and the same gradients.

The data are the 1,797 digits of 8 x 8 pixels of scikit-learn.
"""

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import lcnumba as lc
import lcnumba.jax
import lcnumba.keras
import lcnumba.torch

digits = load_digits()
images, labels = (digits.images[..., None] / 16).astype(np.float32), digits.target
x, y, x_test, y_test = images[:1400], labels[:1400], images[1400:], labels[1400:]

# %%
# A layer of the library, its output, and the gradients of the sum of squares of the output:
layer = lc.LocallyConnected2D(8, 3, fans="window", rng=0, input_shape=(8, 8, 1))
out, backward = layer.forward(x)
dx, grads = backward(2 * out)

# %%
# In PyTorch, with autograd. A module that is made from a layer keeps its channels last; others have
# them first.
module = lcnumba.torch.LocallyConnected2d.from_layer(layer)
x_torch = torch.from_numpy(x.copy()).requires_grad_()
out_torch = module(x_torch)
out_torch.square().sum().backward()

# %%
# In JAX, with ``jit`` and ``grad``:
weights = {"kernel": jnp.asarray(layer.kernel), "bias": jnp.asarray(layer.bias)}


@jax.jit
def apply(weights, x):
    return lcnumba.jax.locally_connected(x, **weights, kernel_size=3)


dx_jax = jax.grad(lambda x: jnp.square(apply(weights, x)).sum())(jnp.asarray(x))

# %%
# In Keras 3, here with the backend torch:
layer_keras = lcnumba.keras.LocallyConnected2D(8, 3)
layer_keras.build((None, 8, 8, 1))
layer_keras.set_weights(layer.get_weights())

equal = {
    "torch": np.array_equal(out_torch.detach().numpy(), out),
    "jax": np.array_equal(apply(weights, x), out),
    "keras": np.array_equal(keras.ops.convert_to_numpy(layer_keras(x)), out),
    "torch, gradient": np.array_equal(x_torch.grad.numpy(), dx),
    "jax, gradient": np.array_equal(dx_jax, dx),
}
print("equal:", equal)

# %%
# Trained by each framework's own means, from the same weights and with the same batches: a network of
# this layer, a ReLU and a dense layer, by gradient descent. A convolution in PyTorch stands beside
# it.
EPOCHS, BATCH, RATE = 15, 50, 0.3
head = lc.Dense(10, rng=1)
head.build((None, 288))


def batches():
    """The same batches for all, shuffled anew in each epoch."""
    rng = np.random.default_rng(0)
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        yield [order[start : start + BATCH] for start in range(0, len(x), BATCH)]


def in_numpy():
    model = lc.Sequential([lc.LocallyConnected2D(8, 3, activation="relu"), lc.Flatten(), lc.Dense(10)])
    model.build((None, 8, 8, 1))
    model.set_weights([*layer.get_weights(), *head.get_weights()])
    model.compile("sgd", "softmax_cross_entropy", lr=RATE)
    losses = [np.mean([model.train_on_batch(x[b], y[b])["loss"] for b in epoch]) for epoch in batches()]
    return losses, (model.predict(x_test).argmax(axis=1) == y_test).mean()


class FirstChannels(torch.nn.Module):
    """A module whose channels come first, for inputs whose channels come last."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x.movedim(-1, 1)).movedim(1, -1)


def in_torch(first):
    linear = torch.nn.Linear(288, 10)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(head.kernel.T.copy()))
        linear.bias.zero_()
    net = torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.Flatten(), linear)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    inputs, targets, losses = torch.from_numpy(x), torch.from_numpy(y), []
    for epoch in batches():
        values = []
        for batch in epoch:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(inputs[batch]), targets[batch])
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        losses.append(np.mean(values))
    with torch.no_grad():
        return losses, (net(torch.from_numpy(x_test)).argmax(1).numpy() == y_test).mean()


def in_jax():
    everything = {
        "first": weights,
        "head": {"kernel": jnp.asarray(head.kernel), "bias": jnp.asarray(head.bias)},
    }

    def scores(everything, x):
        hidden = jax.nn.relu(apply(everything["first"], x)).reshape(len(x), -1)
        return hidden @ everything["head"]["kernel"] + everything["head"]["bias"]

    def loss(everything, x, y):
        return -jnp.take_along_axis(
            jax.nn.log_softmax(scores(everything, x)), y[:, None], axis=1
        ).mean()

    @jax.jit
    def step(everything, x, y):
        value, gradients = jax.value_and_grad(loss)(everything, x, y)
        return value, jax.tree.map(lambda w, g: w - RATE * g, everything, gradients)

    losses = []
    for epoch in batches():
        values = []
        for batch in epoch:
            value, everything = step(everything, x[batch], y[batch])
            values.append(float(value))
        losses.append(np.mean(values))
    return losses, float((scores(everything, x_test).argmax(1) == y_test).mean())


def in_keras():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            lcnumba.keras.LocallyConnected2D(8, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    model.set_weights([*layer.get_weights(), *head.get_weights()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss)
    losses = []
    for epoch in batches():
        order = np.concatenate(epoch)
        found = model.fit(x[order], y[order], batch_size=BATCH, shuffle=False, verbose=0)
        losses += found.history["loss"]
    return losses, (model.predict(x_test, verbose=0).argmax(axis=1) == y_test).mean()


torch.manual_seed(0)
results = {
    "lcnumba": in_numpy(),
    "PyTorch": in_torch(lcnumba.torch.LocallyConnected2d.from_layer(layer)),
    "JAX": in_jax(),
    "Keras 3": in_keras(),
    "PyTorch, Conv2d": in_torch(FirstChannels(torch.nn.Conv2d(1, 8, 3))),
}
for name, (losses, accuracy) in results.items():
    print(f"{name:16} loss {losses[-1]:.5f}, accuracy on the test images {accuracy:.1%}")

# %%
# The four curves lie upon each other. The convolution learns these digits faster, and a little better.
figure = Figure(figsize=(7, 4.2), layout="constrained")
axes = figure.subplots()
styles = (
    {"lw": 9, "color": "#a6d1ee"},
    {"lw": 5, "color": "#E69F00"},
    {"lw": 2, "color": "#009E73"},
    {"ls": "", "marker": "o", "color": "black", "ms": 3},
    {"ls": "--", "color": "0.5"},
)
for (name, (losses, _)), style in zip(results.items(), styles, strict=True):
    axes.plot(range(1, EPOCHS + 1), losses, label=name, **style)
axes.set(xlabel="epoch", ylabel="mean loss of the batches", yscale="log")
axes.legend()
figure
