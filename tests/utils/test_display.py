"""What people see who work interactively."""

import importlib.util
import inspect
import pickle
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.utils.display import sparkline


@pytest.fixture
def model():
    return lc.Sequential([
        lc.LocallyConnected2D(2, 2, activation="relu", name="local", input_shape=(3, 3, 1)),
        lc.Flatten(name="flat"), lc.Dropout(0.5, seed=1, name="drop"), lc.Dense(3, name="scores"),
    ], name="net")  # fmt: skip


def test_layers(model):
    text = repr(model[0])
    assert text.startswith("<LocallyConnected2D 'local', (None, 3, 3, 1) -> (None, 2, 2, 2), 40 parameters: ")
    assert "kernel_size=(2, 2)" in text
    assert repr(model[2]) == "<Dropout 'drop': rate=0.5, seed=1>"
    assert repr(lc.Dense(3, name="new")).startswith("<Dense 'new', not built: ")


def test_models(model):
    first, *layers = repr(model).splitlines()
    assert first == "<Sequential 'net', 4 layers, (None, 3, 3, 1) -> (None, 3), 67 parameters"
    assert "\n".join(layers) == "\n".join(f"  {layer!r}" for layer in model) + ">"
    model.compile("adam", "mse")
    assert repr(model).splitlines()[0].endswith(", loss MeanSquaredError()")
    assert repr(lc.Sequential([lc.Dense(3)], name="new")).startswith("<Sequential 'new', 1 layer, not built\n  <Dense ")


def test_models_in_a_notebook(model):
    model.add(lc.Activation("tanh", name="<b>"))
    table = ElementTree.fromstring(model._repr_html_())
    cells = [[cell.text for cell in row] for row in table.iter("tr")]
    assert cells[0] == ["Layer (type)", "Output shape", "Parameters"]
    assert cells[1] == ["local (LocallyConnected2D)", "(None, 2, 2, 2)", "40"]
    assert cells[-1] == ["<b> (Activation)", "(None, 3)", "0"]
    unbuilt = ElementTree.fromstring(lc.Sequential([lc.Dense(3, name="new")])._repr_html_())
    assert [cell.text for cell in list(unbuilt.iter("tr"))[1]] == ["new (Dense)", None, None]


def test_gradients_and_pullbacks(model):
    _, backward = model.forward(np.ones((2, 3, 3, 1)))
    assert repr(backward).splitlines()[1] == "  <Backward of LocallyConnected2D 'local': dy (2, 2, 2, 2) float32>"
    _, grads = backward(np.ones((2, 3)))
    assert repr(grads[-1]) == "<Gradients: kernel: " + repr(grads[-1]).partition("kernel: ")[2]
    assert repr(lc.Gradients(np.array([1.0, -3.0]))) == "<Gradients: kernel: float64 (2,), at most 3>"
    assert re.search(r"bias: float32 \(3,\), at most 2>$", repr(grads[-1]))
    assert repr(lc.Gradients(np.empty((0, 2)), [1])) == "<Gradients: kernel: float64 (0, 2); bias: list ()>"
    model.step(grads, lr=0.1)
    assert "dy (2, 3) float32; the weights have changed since forward>" in repr(backward)


def history():
    history = lc.History()
    history.add(0, {"loss": 2.0})
    history.add(1, {"loss": 1.0, "val_loss": 3.0})
    return history


def test_histories():
    assert repr(history()) == "<History: 2 epochs: loss 2 -> 1, val_loss nan -> 3>"
    assert repr(lc.History()) == "<History: 0 epochs>"


def test_histories_in_a_notebook_without_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    lines = ElementTree.fromstring(history()._repr_html_()).text.splitlines()
    assert lines == [repr(history()), "loss     █▁ 2 -> 1", "val_loss  ▁ nan -> 3"]
    assert ElementTree.fromstring(lc.History()._repr_html_()).text == repr(lc.History())


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_histories_in_a_notebook():
    assert ElementTree.fromstring(history()._repr_html_()).tag.endswith("svg")


def test_curves():
    assert sparkline([]) == ""
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline([float("inf"), 0.0, 7.0]) == " ▁█"
    assert len(sparkline(list(range(1000)))) <= 60


def test_dir_shows_public_names(model):
    _, backward = model.forward(np.ones((2, 3, 3, 1)))
    for thing in (model, *model, backward, lc.Gradients(np.ones(2)), lc.History()):
        names = dir(thing)
        assert not [name for name in names if name.startswith("_") and not name.startswith("__")]
        assert not [name for name in names if name.startswith("prepare_") or name == "recipe"]
        # Nothing else is missing.
        public = {name for name in object.__dir__(thing) if not name.startswith(("_", "prepare_")) and name != "recipe"}
        assert public <= set(names)
    assert {"kernel", "step", "forward", "get_weights"} <= set(dir(model[0]))


@pytest.mark.parametrize("name", lc.__all__)
def test_public_classes_belong_to_the_package(name):
    """So that pickles survive when a file of the package moves."""
    found = getattr(lc, name)
    if inspect.isclass(found):
        assert found.__module__ == "lcnumba"
        assert pickle.loads(pickle.dumps(found)) is found
