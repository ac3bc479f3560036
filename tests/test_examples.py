"""The examples of the documentation run, and their results are as stated."""

import runpy
import sys
from pathlib import Path

import pytest

import lcnumba as lc

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


def genes(folder, *arguments):
    for package in ("matplotlib", "sklearn"):
        pytest.importorskip(package)
    figures = runpy.run_path(str(FOLDER / "genes.py"))["main"](folder / "genes.png", *arguments)
    assert picture(folder / "genes.png").std() > 0.1
    again = (
        lc.LocallyDirected1D(folder / "genes_mask.npz").mask,
        lc.LocallyDirected1D(folder / "pathways_mask.npz").mask,
    )
    assert [mask.shape for mask in again] == [(3000, 300), (300, 40)]
    return figures


def autoencoder(folder, *arguments):
    for package in ("matplotlib", "sklearn"):
        pytest.importorskip(package)
    figures = runpy.run_path(str(FOLDER / "autoencoder.py"))["main"](folder / "autoencoder.png", *arguments)
    assert picture(folder / "autoencoder.png").std() > 0.1
    return figures


def test_genes_in_short(tmp_path, capsys):
    figures = genes(tmp_path, 2400, 20)
    assert figures["causal genes first"] >= 8
    assert figures["R2"] > 0.1
    assert f"correlation: {figures['correlation']:.3g}" in capsys.readouterr().out


@pytest.mark.slow
def test_genes(tmp_path):
    figures = genes(tmp_path)
    assert figures["causal genes first"] == figures["of the lasso"] == 15
    assert figures["R2"] == pytest.approx(0.58, abs=0.015)
    assert figures["R2 of the lasso"] == pytest.approx(0.563, abs=0.005)
    assert figures["correlation"] > 0.99


def test_autoencoder_in_short(tmp_path, capsys):
    figures = autoencoder(tmp_path, 20)
    assert figures["16 local numbers"] < 0.012
    assert f"{figures['16 local numbers']:.4f}" in capsys.readouterr().out


@pytest.mark.slow
def test_autoencoder(tmp_path):
    figures = autoencoder(tmp_path)
    assert figures["16 principal components"] == pytest.approx(0.0115, abs=5e-5)
    assert figures["16 local numbers"] == pytest.approx(0.0056, abs=3e-4)


def test_drawings_of_the_layers(tmp_path):
    """They are up to date, if this version of matplotlib has made them."""
    matplotlib = pytest.importorskip("matplotlib")
    folder = FOLDER.parent / "figures"
    paths = runpy.run_path(str(folder / "local_layers.py"))["main"](tmp_path)
    assert {path.name for path in paths} == {path.name for path in folder.glob("*.svg")}
    page = (FOLDER.parent / "local-layers.md").read_text()
    for path in paths:
        assert f"(figures/{path.name})" in page
        drawn, kept = path.read_text(), (folder / path.name).read_text()
        if f"Matplotlib v{matplotlib.__version__}," in kept:
            assert drawn == kept, "run docs/figures/local_layers.py"


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


@pytest.mark.parametrize(
    ("example", "package"),
    [("climate", "h5py"), ("stream", "mlxtend"), ("genes", "sklearn"), ("autoencoder", "sklearn")],
)
def test_missing_packages_are_named(example, package, monkeypatch):
    pytest.importorskip("matplotlib")
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=rf'^{package}.* is missing; pip install "lcnumba\[examples\]"'):
        runpy.run_path(str(FOLDER / f"{example}.py"))
