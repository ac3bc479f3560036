"""The command ``train``, on scikit-learn's 8 x 8 digits."""

import json
import subprocess
import sys

import numpy as np
import pytest

import lcnumba as lc
from lcnumba import __main__ as command_line
from lcnumba.tools import demo


def test_train_saves_and_plots(tmp_path, capsys):
    folder = tmp_path / "out" / "deep"
    assert command_line.main(["train", "--data", "digits", "--epochs", "15", "--output", str(folder)]) == 0
    out = capsys.readouterr().out
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["test_accuracy"] > 0.9
    assert figures["reload_equal"] is True
    assert len(figures["losses"]) == 15
    assert f"test accuracy        {figures['test_accuracy']:.3f}" in out
    assert "LogisticRegression" in out
    for name in ("training-curve.png", "filters.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    _, (x, y) = demo.load_data("digits")
    accuracy = np.mean(lc.load(folder / "model.npz").predict(x).argmax(axis=1) == y)
    assert accuracy == pytest.approx(figures["test_accuracy"])


@pytest.mark.slow
def test_implementations_give_the_same_losses(tmp_path, capsys):
    losses = [
        demo.run("digits", epochs=3, implementation=number, optimizer="sgd", output=tmp_path)["losses"]
        for number in (1, 2, 3)
    ]
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_mnist_is_a_stratified_split_of_4000_and_1000():
    (x, y), (x_test, y_test) = demo.load_data("mnist")
    assert x.shape == (4000, 28, 28, 1)
    assert x_test.shape == (1000, 28, 28, 1)
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (0, 1)
    assert set(np.bincount(y)) == {400}
    assert set(np.bincount(y_test)) == {100}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "cifar"], "--data: invalid choice: 'cifar'"),
        (["--epochs", "0"], "--epochs: '0' is not an integer of at least 1"),
        (["--epochs", "many"], "--epochs: 'many' is not an integer"),
        (["--batch-size", "-3"], "--batch-size: '-3' is not an integer of at least 1"),
        (["--implementation", "4"], "--implementation: invalid choice: "),
        (["--optimizer", "lbfgs"], "--optimizer: invalid choice: 'lbfgs'"),
        (["--seed", "-1"], "--seed: '-1' is not an integer of at least 0"),
        (["--nope"], "unrecognized arguments: --nope"),
        (["--output", "/dev/null/x"], "argument --output: "),
    ],
)
def test_invalid_arguments_are_errors_with_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        command_line.main(["train", *arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(SystemExit) as error:
        command_line.main(["train", "--output", "/tmp"])
    assert error.value.code == 2
    assert "pip install 'lcnumba[demo]'" in capsys.readouterr().err


def test_it_runs_as_a_module(tmp_path):
    command = [sys.executable, "-P", "-m", "lcnumba", "--help"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "train" in result.stdout
