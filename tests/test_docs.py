"""The Python blocks of the documentation run as written, those of a page in order and with the same names."""

import re
from pathlib import Path

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.testing import adjoint_sums, integers

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
if not DOCS.is_dir():
    pytest.skip("docs/ is in the checkout only", allow_module_level=True)

# What the blocks of a page import besides the library.
NEEDS = {
    "estimators.md": ("sklearn",),
    "training.md": ("h5py",),
    "pipelines.md": ("dask.array", "h5py", "joblib", "matplotlib", "xarray"),
    "frameworks.md": (),
    "get-started.md": ("matplotlib", "sklearn"),
    "index.md": (),
    "local-layers.md": (),
    "migrating.md": ("h5py",),
}


def blocks(page):
    """Yield the Python blocks of a page, each after as many empty lines, so that errors name the line of the page."""
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield "\n" * text.count("\n", 0, block.start(1)) + block[1]


PAGES = {page.name: list(blocks(page)) for page in sorted(DOCS.glob("*.md"))}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a page in an empty folder, with some names given; return all names that it defines."""

    def run(page, **names):
        for package in NEEDS.get(page, ()):
            pytest.importorskip(package)
        monkeypatch.chdir(tmp_path)
        names["__name__"] = "__main__"  # pickled by value for other processes
        for code in PAGES[page]:
            exec(compile(code, DOCS / page, "exec"), names)  # noqa: S102 - that is the test
        return names

    return run


def test_all_pages_with_code_are_tested():
    """Here, in frameworks/test_pages.py, whose environment has the frameworks, or in mpi/test_pages.py."""
    with_code = {page for page, code in PAGES.items() if code}
    assert with_code == set(NEEDS) | {"torch.md", "jax.md", "keras3.md", "onnx.md", "distributed.md"}, (
        "give a page with Python blocks a test here, or mark what cannot run as text"
    )


def test_code_fits_beside_the_navigation():
    """On a window of 1280 pixels, without scrolling."""
    long = [(page, line) for page, code in PAGES.items() for line in "\n".join(code).splitlines() if len(line) > 96]
    assert not long


def test_index(run, rng):
    names = run("index.md", images=rng.random((20, 6, 6, 1)), labels=np.arange(20) % 10)
    assert names["model"].count_params() == 4 * 4 * 9 * 8 + 128 + 1290


def test_get_started(run):
    names = run("get-started.md")
    assert 0.9 < names["result"]["accuracy"] < 0.94  # "about 92 of 100"
    assert len(names["wrong"]) == round(400 * (1 - names["result"]["accuracy"]))


def test_frameworks(run):
    names = run("frameworks.md")
    assert names["dx"].shape == names["x"].shape


def test_local_layers(run):
    """The page asserts shapes itself; here are the numbers of its table, and what else it says."""
    names = run("local-layers.md")
    zones = np.repeat(names["zone"][:, None], 26, axis=1)
    settings = {
        54_080: {},
        5_480: {"weight_sharing": "all"},
        8_936: {"weight_sharing": (4, 4)},
        5_624: {"weight_sharing": zones},
        60_064: {"padding": "same"},
    }
    for count, given in settings.items():
        layer = lc.LocallyConnected2D(8, 3, input_shape=(28, 28, 1), **given)
        layer.build((None, 28, 28, 1))
        assert layer.count_params() == count
    text = (DOCS / "local-layers.md").read_text()
    assert all(f"{count:,}" in text for count in settings)
    x, local, conv = names["x"], names["local"], names["conv"]
    conv.set_weights([local.kernel.reshape(3, 3, 4, 8), local.bias])
    np.testing.assert_array_equal(conv(x), local(x))
    assert np.isfinite(lc.LocallyConnected2D(1, 3, kernel_mask=lc.kernel_mask_from(names["sea"], 3, channels=4))(
        np.where(names["sea"][..., None], x, np.nan))).all()  # fmt: skip
    text = text[text.index("## Companions") : text.index("Why these")]
    named = {name for name in re.findall(r"`(\w+)`", text) if name not in ("Sequential", "Global")}
    named |= {f"Global{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in (1, 2)}
    layers = {name for name in lc.__all__ if hasattr(getattr(lc, name), "compute_output_shape")} - {"Sequential"}
    assert named == {name for name in layers if not name.startswith(("Locally", "Conv"))}


def test_training(run, tmp_path, rng):
    names = run("training.md")
    x, labels = names["x"], names["labels"]
    assert names["logits"].shape == (200, 2)
    assert names["stopping"].best_epoch is not None
    written = {"images.h5", "run.npz", "model.npz", "weights.npz", "pooled.npz"}
    assert {path.name for path in tmp_path.iterdir()} == written

    # A finished training does not start again.
    before = lc.load("run.npz").get_weights()
    for a, b in zip(before, names["train"](5).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

    # The custom layer: y is a selection of x, so on integers its gradient is exact.
    for size, shape in ((2, (3, 7, 6, 2)), (3, (2, 9, 10, 1)), (1, (2, 3, 4, 2))):
        pool, values = names["MaxPool2D"](size), integers(rng, shape)
        y, backward = pool.forward(values)
        np.testing.assert_array_equal(y, pool(values))
        assert y.shape[1:] == pool.compute_output_shape((None, *shape[1:]))[1:]
        dy = integers(rng, y.shape)
        dx = backward(dy)[0]
        first, second, _ = adjoint_sums(values, dy, dy, y, dx, dy)
        assert first == second
        assert dx.dtype == dy.dtype == np.float32
        assert dx.sum() == dy.sum()

    # The result does not depend on whether its pullback plans steps.
    class Unplanned(names["MaxPool2D"]):
        def forward(self, x):
            y, backward = super().forward(x)
            return y, lambda dy: backward(dy)

    weights = []
    for kind in (names["MaxPool2D"], Unplanned):
        layers = [lc.LocallyConnected2D(2, 3, input_shape=(8, 8, 1), rng=0), kind(2), lc.Flatten(), lc.Dense(2, rng=0)]
        model = lc.Sequential(layers)
        model.fit(x, labels, loss="softmax_cross_entropy", rng=0, progress=False)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    # The custom loss: its gradient equals finite differences, with weights and without.
    loss, y_true, y_pred = names["Quantile"](0.9), rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    for weights in (None, rng.random(4)):
        expected = lc.testing.numerical_gradient(lambda p, w=weights: loss(y_true, p, w)[0], y_pred)
        np.testing.assert_allclose(loss(y_true, y_pred, weights)[1], expected, atol=1e-8)
    many = rng.random(1001)
    at = min(np.linspace(0, 1, 101), key=lambda p: loss(many, np.full(1001, p))[0])
    assert at == pytest.approx(np.quantile(many, 0.9), abs=0.02)
    with pytest.raises(ValueError, match=r"y has shape \(200,\); the model predicts \(200, 1\)"):
        names["upper"].fit(x, x[:, 0, 0, 0], progress=False)


def test_pipelines(run, rng, tmp_path):
    xarray = pytest.importorskip("xarray")
    lat = ("lat", np.linspace(60, 30, 5), {"units": "degrees_north"})
    lon = ("lon", np.arange(0, 360, 60), {"units": "degrees_east"})
    wave = 280 + 10 * np.sin((np.arange(120)[:, None, None] + np.arange(6)) * np.pi / 3) + np.zeros((1, 5, 1))
    given = xarray.DataArray(wave, dims=("time", "lat", "lon"), coords={"lat": lat, "lon": lon}, name="temperature")
    given[:, 2, 3] = np.nan  # an island in the sea
    given.transpose("lat", "lon", "time").to_netcdf(tmp_path / "temperature.nc")
    names = run("pipelines.md")
    with xarray.open_dataarray(tmp_path / "forecast.nc") as written:
        assert written.dims == ("time", "lat", "lon")
        np.testing.assert_array_equal(written.lat, given.lat)
        np.testing.assert_allclose(written, given[101:], atol=0.1)  # NaN on the island alone
    assert names["error"] < 0.01 * names["persistence"]  # a wave that moves is a shift of the field
    assert {path.name for path in tmp_path.iterdir()} >= {"forecaster.npz", "weights.png", "forecast.png"}
    model, field = names["model"], names["temperature"]

    # xarray: in any order of dimensions, with coordinates and attributes.
    for result in (names["result"], names["xr"].apply_ufunc(names["on_grid"], field.transpose("lon", "time", "lat"),
                                                            **names["grid"])):  # fmt: skip
        assert result.dims == field.dims
        assert result.attrs == field.attrs
        assert set(result.coords) == {"time", "lat", "lon"}
    assert names["encoded"].dims == ("time", "y", "x", "feature")
    np.testing.assert_allclose(names["encoded"], names["two"](np.stack([field, field + 1], axis=-1)), atol=1e-5)
    result = names["result"]  # the model has been trained since, and this computes now
    np.testing.assert_allclose(result, model(field.values[..., None])[..., 0], atol=1e-5)

    # Positions of windows: a kernel that picks the centre, applied to a field of coordinates.
    latitudes = np.broadcast_to(np.arange(9.0)[:, None], (9, 9))[None, ..., None]
    for padding, wanted in (("same", slice(None, None, 2)), ("valid", slice(1, 8, 2))):
        centre = (np.arange(9) == 4)[:, None]
        layer = lc.LocallyConnected2D(1, 3, strides=2, padding=padding, use_bias=False, input_shape=(9, 9, 1))
        layer.build((None, 9, 9, 1))
        layer.set_weights([np.broadcast_to(centre, layer.kernel.shape).astype(np.float32)])
        np.testing.assert_array_equal(layer(latitudes)[0, :, 0, 0], np.arange(9)[wanted])

    # Dask.
    y, x = names["y"], names["x"]
    assert y.shape == (60, 6, 8, 1)
    np.testing.assert_allclose(y.compute(), model(x.compute()), atol=1e-5)
    for refuses in (model, model.layers[0]):
        with pytest.raises(TypeError, match=r"apply the layer with dask\.array\.map_blocks"):
            refuses(x)
    np.testing.assert_allclose(model.predict(x), model(x.compute()), atol=1e-5)
    with pytest.raises(ValueError, match="was built for"):
        x.rechunk((20, 3, -1, -1)).map_blocks(model, dtype=np.float32).compute()

    # Missing values.
    sea, ocean = names["sea"], names["ocean"]
    assert np.isfinite(ocean(names["sst"])).all()
    assert np.isnan(names["tomorrow"]).any(axis=0)[..., 0].tolist() == (~sea).tolist()
    assert not names["layer"].kernel[~names["mask"]].any()
    assert np.isfinite(names["inputs"]).all()
    assert names["inputs"].shape == (60, 6, 8, 2)

    np.testing.assert_allclose(names["predicted"], ocean(names["filled"]), atol=1e-5)
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)  # its processes would stay for minutes


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators(run):
    names = run("estimators.md")
    assert names["area"] > 0.75
    assert names["grid"].best_params_.keys() == {"network__alpha", "network__filters"}
    assert names["best"] > 0.6
    X, y = names["X_train"].reshape(-1, 400), names["y_train"]
    layers = names["two_layers"].set_params(max_iter=1).fit(X, y).model_.layers[:2]
    assert [(layer.kernel_size, layer.strides) for layer in layers] == [((20,), (20,)), ((3,), (1,))]
    layers = names["images"].set_params(max_iter=1).fit(X[:, :64], y).model_.layers[:2]
    assert [layer.kernel_size for layer in layers] == [(3, 5), (3, 5)]


def test_migrating(run, tmp_path):
    """With a Keras model, and the weights of another one, at the paths of the page."""
    keras = Path(__file__).parent / "data" / "keras"
    (tmp_path / "model.keras").write_bytes((keras / "digits.keras").read_bytes())
    with np.load(keras / "predictions.npz") as file:
        x, y = file["digits_x"], file["digits_y"]
    snps = lc.LocallyConnected1D(8, 5, input_shape=(1000, 1), name="snps")
    pytest.importorskip("h5py")
    lc.save_keras_weights(lc.Sequential([snps]), tmp_path / "model.h5")

    names = run("migrating.md", x=x)
    np.testing.assert_allclose(names["model"](x), y, atol=1e-5)
    np.testing.assert_allclose(lc.load(tmp_path / "model.npz")(x), y, atol=1e-5)
    np.testing.assert_array_equal(names["layer"].kernel, snps.kernel)


def files_named(text):
    return set(re.findall(r"`((?:[\w.]+/)*\w+\.(?:py|md|yml))`", text))


def test_the_tests_that_hold_promises_exist():
    named = files_named((DOCS / "reliability.md").read_text())
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / "tests" / name).is_file()]


@pytest.mark.parametrize(
    "page", [DOCS / "design.md", DOCS / "decisions.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name
)
def test_files_that_a_page_names_exist(page):
    """Relative to the repository, the package, or the room that a row of a table is about."""
    named = files_named(page.read_text()) - {".github/workflows/ci.yml"}  # no part of the source distribution
    assert named
    assert not [name for name in named if not ((ROOT / name).is_file() or list((ROOT / "lcnumba").rglob(name)))]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        other = page.parent / target if target else page
        assert other.is_file(), target
        if anchor:
            shown = other.read_text()
            shown += "".join((DOCS / name).read_text() for name in re.findall(r"{include} (\S+)", shown))
            headings = re.findall(r"^#+ (.*)$", shown, re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_decisions_keep_their_numbers():
    numbers = [int(n) for n in re.findall(r"^\*\*(\d+)\. ", (DOCS / "decisions.md").read_text(), re.MULTILINE)]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_one_version():
    """The changelog's first entry is the version of the package, or what comes after it."""
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    entries = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [entry for entry in entries if entry != "Unreleased"]
    assert entries.index(released[0]) <= 1
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", entry) for entry in released)
    number, _, date = released[0].partition(" - ")
    citation = (ROOT / "CITATION.cff").read_text()
    assert number == version == lc.__version__
    assert f"\nversion: {version}\ndate-released: {date}\n" in citation
    assert f"Version {version.rpartition('.')[0]}, " in (ROOT / "README.md").read_text()


def test_make_targets():
    """Those that pages name exist, and `make help` lists all of them."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    assert set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)) == targets
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")]
    named = {name for page in pages for name in re.findall(r"`make ([\w-]+)[^`]*`", page.read_text())}
    assert named
    assert named <= targets
