"""The same small network from the same weights on the same batches, for training in every framework."""

import numpy as np

import lcnumba as lc

RATE, STEPS = 0.05, 20


class Run:
    """The data, the initial weights, and the losses of this library's own training."""

    def __init__(self):
        rng = np.random.default_rng(7)
        self.x = rng.standard_normal((STEPS, 8, 9, 8, 2)).astype(np.float32)
        self.labels = rng.integers(0, 3, (STEPS, 8))
        layers = [
            lc.LocallyConnected2D(4, 3, activation="relu", fans="window", rng=1, input_shape=(9, 8, 2)),
            lc.LocallyConnected2D(3, 2, strides=2, activation="tanh", fans="window", rng=2),
            lc.Flatten(),
            lc.Dense(3, rng=3),
        ]
        model = lc.Sequential(layers)
        model.compile("sgd", "softmax_cross_entropy", lr=RATE)
        self.weights = model.get_weights()
        self.losses = [model.train_on_batch(x, y)["loss"] for x, y in zip(self.x, self.labels, strict=True)]
        assert self.losses[0] - min(self.losses) > 0.1

    def check(self, losses):
        np.testing.assert_allclose(losses, self.losses, rtol=0, atol=1e-5)
