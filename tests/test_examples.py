"""The examples of the documentation run, and their results are as stated."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "examples"
if not FOLDER.is_dir():
    pytest.skip("docs/ is in the checkout only", allow_module_level=True)


def test_lbfgs(capsys):
    figures = runpy.run_path(str(FOLDER / "lbfgs.py"))["main"]()
    assert figures["after"] < 0.1 * figures["before"]
    assert figures["right"] > 0.98
    assert "connections right" in capsys.readouterr().out


def test_global_field(tmp_path, capsys):
    arguments = ["--size", "18", "24", "--samples", "64", "--epochs", "6", "--folder", str(tmp_path)]
    figures = runpy.run_path(str(FOLDER / "global_field.py"))["main"](arguments)
    assert figures["model"] < 0.5 * figures["persistence"]
    assert f"model {figures['model']:.6f}" in capsys.readouterr().out


def picture(path):
    """Read a PNG as an array."""
    return pytest.importorskip("matplotlib.image").imread(path, format="png")


@pytest.mark.slow
def test_climate(tmp_path, capsys):
    for package in ("h5py", "iris_sample_data", "matplotlib"):
        pytest.importorskip(package)
    figures = runpy.run_path(str(FOLDER / "climate.py"))["main"](tmp_path / "climate.png")
    assert set(figures) == {"validation", "A1B", "E1"}
    for by in figures.values():
        assert by["locally connected"] < 0.95 * by["shared convolution"]
        assert by["locally connected"] < 0.85 * by["per-point regression"]
        assert by["shared convolution"] < by["interpolation"] < by["mean of 20 years before"]
    assert picture(tmp_path / "climate.png").std() > 0.1
    printed = capsys.readouterr().out
    assert f"{figures['E1']['locally connected']:.3f}" in printed


@pytest.mark.slow
def test_stream(tmp_path, capsys):
    for package in ("matplotlib", "mlxtend"):
        pytest.importorskip(package)
    figures = runpy.run_path(str(FOLDER / "stream.py"))["main"](tmp_path / "stream.png")
    assert figures["before the turn"] > 0.8
    assert figures["learning on"] > 0.8
    assert figures["stopped"] < 0.2
    assert figures["learning on, upright"] < 0.4
    assert picture(tmp_path / "stream.png").std() > 0.1
    assert "images a second" in capsys.readouterr().out


@pytest.mark.parametrize(("example", "package"), [("climate", "h5py"), ("stream", "mlxtend")])
def test_missing_packages_are_named(example, package, monkeypatch):
    pytest.importorskip("matplotlib")
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=rf'^{package}.* is missing; pip install "lcnumba\[examples\]"'):
        runpy.run_path(str(FOLDER / f"{example}.py"))
