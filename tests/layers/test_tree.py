"""Walks over the layers of a model."""

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.layers.tree import flat_layers, leaves, models, walk


class Block:
    """A custom layer of layers, with a step of its own."""

    name = "block"

    def __init__(self):
        self.layers = (lc.Dense(2, optimizer="adam", name="dense"), lc.Dropout(0.5, seed=0, name="drop"))

    def build(self, input_shape):
        self.layers[0].build(input_shape)

    def compute_output_shape(self, input_shape):
        return self.layers[0].compute_output_shape(input_shape)

    def __call__(self, x):
        return self.layers[0](x)

    def forward(self, x):
        y, first = self.layers[0].forward(x)
        y, second = self.layers[1].forward(y)
        return y, lambda dy: first(second(dy)[0])

    def step(self, grads, lr):
        self.layers[0].step(grads, lr)

    def get_weights(self):
        return self.layers[0].get_weights()

    def set_weights(self, weights):
        self.layers[0].set_weights(weights)

    def get_config(self):
        return {}


@pytest.fixture
def model():
    inner = lc.Sequential([lc.Flatten(name="flat"), Block()], name="inner")
    return lc.Sequential([inner, lc.Dense(1, name="out")], name="outer")


def test_models_are_walked_into(model):
    assert [layer.name for layer in flat_layers(model)] == ["flat", "block", "out"]
    assert [found.name for found in models(model)] == ["outer", "inner"]
    assert list(flat_layers(model[1])) == [model[1]]


def test_entries_of_trees_come_along(model):
    assert [(layer.name, entry) for layer, entry in walk(model, [["a", "b"], "c"])] == [
        ("flat", "a"), ("block", "b"), ("out", "c"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        list(walk(model, [["a"], "c"]))


def test_custom_layers_of_layers_are_one_layer_for_a_model_and_several_for_training(model):
    assert [layer.name for layer in leaves(model)] == ["flat", "dense", "drop", "out"]
    model[1].optimizer = "adam"
    x, y = np.ones((4, 3)), np.ones((4, 1))
    # The default learning rate is that of all optimizers, Adam's here.
    twin = lc.Sequential([lc.Sequential([lc.Flatten(), Block()]), lc.Dense(1, optimizer="adam")])
    model.build((None, 3))
    twin.build((None, 3))
    twin.set_weights(model.get_weights())
    model.fit(x, y, loss="mse", progress=False)
    twin.fit(x, y, loss="mse", lr=0.001, progress=False)
    for mine, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
    # A refused batch leaves the random numbers of the layers within as they were.
    drop = list(leaves(model))[2]
    before = drop.get_training_state()
    with pytest.raises(ValueError, match="y"):
        model.train_on_batch(x, np.ones((4, 7)), loss=lambda *_: (_ for _ in ()).throw(ValueError("y")))
    assert drop.get_training_state() == before
