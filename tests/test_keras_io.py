import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import lcnumba as lc
from lcnumba import __main__ as command_line
from lcnumba import keras_files, keras_index
from lcnumba.keras_files import KerasFileError

FOLDER = Path(__file__).parent / "data" / "keras"
NAMES = ("digits", "genes", "first_axis")
with np.load(FOLDER / "predictions.npz") as file:
    PREDICTIONS = {name: file[name] for name in file.files}


@pytest.fixture
def in_process(monkeypatch):
    """Look at files in this process: what the library's own one would do, a fifth of a second sooner."""

    def index(path):
        with h5py.File(path, "r") as file:
            return json.loads(json.dumps(keras_index.described(file)))

    monkeypatch.setattr(keras_files, "_index", index)


def predicts(model, name):
    np.testing.assert_allclose(model(PREDICTIONS[f"{name}_x"]), PREDICTIONS[f"{name}_y"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_models_of_keras_predict_the_same(name, suffix):
    model = lc.load_keras(FOLDER / (name + suffix))
    predicts(model, name)
    assert model.name == name


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".h5", ".keras", ".weights.h5", "_weights.h5"])
def test_models_are_filled_from_files(name, suffix, rng):
    model = lc.load_keras(FOLDER / f"{name}.keras")
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
    assert lc.load_keras(FOLDER / (name + suffix), model) is model
    predicts(model, name)


def test_users_names_and_settings_come_along():
    model = lc.load_keras(FOLDER / "digits.keras")
    assert [layer.name for layer in model.layers][:3:2] == ["first", "second"]
    assert model.layers[2].implementation == 3
    assert model.layers[1].rate == 0.5
    assert model.layers[4].kernel_regularizer.l2 == pytest.approx(0.01)
    assert isinstance(lc.load_keras(FOLDER / "first_axis.h5").layers[1].kernel_constraint, object)


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
@pytest.mark.parametrize("name", NAMES)
def test_weights_written_here_are_read_here(name, suffix, rng, tmp_path):
    model = lc.load_keras(FOLDER / f"{name}.h5")
    weights = [rng.standard_normal(w.shape).astype(np.float32) for w in model.get_weights()]
    model.set_weights(weights)
    expected = model.get_weights()
    lc.save_keras_weights(model, tmp_path / f"w{suffix}")
    model.set_weights([np.zeros_like(w) for w in weights])
    lc.load_keras(tmp_path / f"w{suffix}", model)
    for a, b in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [path.name for path in tmp_path.iterdir()] == [f"w{suffix}"]


def structure(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: getattr(item, "shape", None)}))
        names = [str(v) for v in file.attrs.get("layer_names", [])]
    return {name: shape for name, shape in found.items() if shape is not None}, names


@pytest.mark.parametrize("name", NAMES)
def test_weights_written_here_lie_where_keras_writes_them(name, tmp_path):
    model = lc.load_keras(FOLDER / f"{name}.keras")
    for mine, theirs in ((".weights.h5", ".weights.h5"), (".h5", "_weights.h5")):
        lc.save_keras_weights(model, tmp_path / f"w{mine}")
        (written, names), (kept, kept_names) = structure(tmp_path / f"w{mine}"), structure(FOLDER / (name + theirs))
        assert written == {n: s for n, s in kept.items() if not n.startswith(("optimizer", "metrics"))}
        assert names == kept_names


def test_the_implementation_of_each_layer_may_be_chosen(tmp_path):
    model = lc.load_keras(FOLDER / "digits.keras")
    lc.save_keras_weights(model, tmp_path / "w.h5", {"second": 2})
    shapes, _ = structure(tmp_path / "w.h5")
    assert len(shapes["second/second/kernel:0"]) == 6
    with pytest.raises(ValueError, match="no implementation 1 with padding='same'"):
        lc.save_keras_weights(model, tmp_path / "other.h5", {"second": 1})
    assert not (tmp_path / "other.h5").exists()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("file", "layer", "shapes"),
    [
        ("digits.h5", "second", [(120,), (4, 3, 2)]), ("digits.keras", "second", None),
        ("digits.weights.h5", "locally_connected2d_1", None), ("digits_weights.h5", "second", None),
        ("digits.keras", "locally_connected2d", [(12, 18, 3), (4, 3, 3)]), ("digits.h5", "dropout", []),
    ],
)  # fmt: skip
def test_one_layer_of_any_model(file, layer, shapes):
    weights = lc.load_keras_weights(FOLDER / file, layer)
    expected = [w.shape for w in lc.load_keras_weights(FOLDER / "digits.h5", "second")] if shapes is None else shapes
    assert [w.shape for w in weights][1:] == expected[1:]
    assert len(weights) == len(expected)
    with pytest.raises(ValueError, match="there is no layer 'nope'; there are"):
        lc.load_keras_weights(FOLDER / file, "nope")


# --- import and export


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("implementation", [1, 2, 3])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("rank", [1, 2])
def test_export_and_import_are_inverse(rank, padding, implementation, data_format, rng):
    if implementation == 1 and padding == "same":
        return
    cls = (lc.LocallyConnected1D, lc.LocallyConnected2D)[rank - 1]
    layer = cls(3, 3, padding=padding, data_format=data_format)
    layer.build((None, *((2, 7, 5)[: rank + 1] if data_format == "channels_first" else (7, 5, 2)[2 - rank :])))
    weights = [rng.standard_normal(w.shape).astype(np.float32) for w in layer.weights]
    weights[0][:, 0] = 0  # an exact zero is a weight like any other
    layer.set_weights(weights)
    expected = layer.get_weights()
    stored = lc.export_weights(layer, implementation)
    if implementation == 2:
        dense = stored[0]
        dense[dense == 0] = np.where(rng.random((dense == 0).sum()) < 2, np.nan, 0)  # garbage outside the mask
        stored[0] = np.where(np.isnan(dense) & (lc.export_weights(layer, 2)[0] == 0) & _inside(layer), 0, dense)
    layer.set_weights([np.zeros_like(w) for w in weights])
    lc.import_weights(layer, stored)
    for a, b in zip(layer.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def _inside(layer):
    """Where connections exist, in the dense form."""
    twin = type(layer).from_config(layer.get_config() | {"name": None})
    twin.build(layer.input_shape)
    twin.set_weights([np.ones_like(w) for w in layer.weights])
    return lc.export_weights(twin, 2)[0] != 0


def test_import_checks_first_and_changes_nothing_else(rng):
    layer = lc.LocallyConnected2D(2, 3)
    with pytest.raises(RuntimeError, match=r"input shape .* is not known yet"):
        lc.import_weights(layer, [])
    layer.build((None, 5, 5, 1))
    before = layer.get_weights()
    kernel, bias = before
    for weights, match in (
        ([kernel], "1 arrays given; .* has 2"), ([kernel[:2], bias], r"weights\[0\] has shape \(2, 9, 2\)"),
        ([kernel[..., None], bias], "Keras stores it with 3 axes"), ([kernel, bias[0]], r"weights\[1\] has shape"),
        ([np.ones(7), bias], r"weights\[0\] has shape \(7,\); Keras' layer has \(162,\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            lc.import_weights(layer, weights)
    with pytest.raises(TypeError, match="weights is a int"):
        lc.import_weights(layer, 5)
    for a, b in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(RuntimeError, match="has no weights yet"):
        lc.export_weights(lc.LocallyConnected2D(2, 3))
    with pytest.raises(ValueError, match="implementation=4 is not known"):
        lc.export_weights(layer, 4)


@pytest.mark.parametrize(
    "settings",
    [
        {"dilation_rate": 2}, {"padding": ((1, 1), (0, 0))}, {"padding_mode": "circular"}, {"bias_sharing": "filter"},
        {"kernel_mask": np.ones((9, 9), bool)},
    ],
)  # fmt: skip
def test_what_keras_cannot_have_is_named(settings):
    layer = lc.LocallyConnected2D(2, 3, **settings)
    layer.build((None, 5, 5, 1))
    with pytest.raises(ValueError, match=f"Keras has no {next(iter(settings))}"):
        lc.export_weights(layer)
    volume = lc.LocallyConnected3D(1, 1)
    volume.build((None, 2, 2, 2, 1))
    with pytest.raises(TypeError, match="no layer of Keras"):
        lc.export_weights(volume)


# --- files that are broken, or meant to do harm


def changed(source, target, change):
    """A copy of a file of Keras with one thing changed."""
    shutil.copy(FOLDER / source, target)
    with h5py.File(target, "r+") as file:
        change(file)


def config_changed(change):
    def apply(file):
        config = json.loads(file.attrs["model_config"])
        change(config["config"]["layers"])
        file.attrs["model_config"] = json.dumps(config)

    return apply


def replaced(path, make):
    def apply(file):
        name = f"model_weights/{path}"
        old = file[name][...]
        del file[name]
        make(file, name, old)

    return apply


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


KERNEL = "first/first/kernel:0"


def compressed(file, name, old):
    file.create_dataset(name, data=old, compression="gzip")


def declared_only(file, name, old):
    """A dataset of which nothing was ever written: it would read as zeros, however large."""
    file.create_dataset(name, shape=old.shape, dtype="f4")


def virtual(file, name, old):
    layout = h5py.VirtualLayout(old.shape, "f4")
    layout[...] = h5py.VirtualSource("/etc/passwd", "x", old.shape)
    file.create_virtual_dataset(name, layout)


def external(file, name, old):
    file.create_dataset(name, shape=old.shape, dtype="f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def linked(file, name, old):
    file["other"] = old
    file[name] = h5py.SoftLink("/other")


def linked_outside(file, name, old):
    file[name] = h5py.ExternalLink("/etc/passwd", "/x")


def grouped(file, name, old):
    file.create_group(name)


def of_type(dtype):
    return lambda file, name, old: file.create_dataset(name, data=old.astype(dtype))


def shaped(change):
    return lambda file, name, old: file.create_dataset(name, data=change(old))


def without(name):
    def apply(file):
        del file["model_weights"].attrs[name]

    return apply


def names(group, attribute_name, value):
    def apply(file):
        file[group].attrs[attribute_name] = value

    return apply


def shaped_input(entries, shape):
    for entry in entries[:2]:
        entry["config"]["batch_input_shape"] = shape


BROKEN = {
    "compressed": (replaced(KERNEL, compressed), "not stored in one piece"),
    "declared only": (replaced(KERNEL, declared_only), "declares .* bytes and stores 0"),
    "virtual": (replaced(KERNEL, virtual), "not stored in one piece|cannot be read"),
    "external": (replaced(KERNEL, external), "not stored in one piece|cannot be read"),
    "soft link": (replaced(KERNEL, linked), "is a link"),
    "external link": (replaced(KERNEL, linked_outside), "is a link|there is no"),
    "group for a dataset": (replaced(KERNEL, grouped), "is no dataset"),
    "strings": (replaced(KERNEL, of_type("S4")), "weights are float32 or float64"),
    "integers": (replaced(KERNEL, of_type("i4")), "weights are float32 or float64"),
    "half": (replaced(KERNEL, of_type("f2")), "weights are float32 or float64"),
    "complex": (replaced(KERNEL, of_type("c8")), "weights are float32 or float64"),
    "transposed": (replaced(KERNEL, shaped(np.transpose)), "has shape"),
    "two axes": (replaced(KERNEL, shaped(lambda a: a[0])), "Keras stores it with"),
    "scalar": (replaced(KERNEL, shaped(lambda a: a[0, 0, 0])), "Keras stores it with"),
    "empty": (replaced(KERNEL, shaped(lambda a: a[:0])), "far too few|has shape"),
    "long bias": (replaced("first/first/bias:0", shaped(lambda a: np.ones((4, 3, 9), "f4"))), "has shape"),
    "no names": (without("layer_names"), "there is no|holds no|cannot be read|has weights of 0"),
    "one name": (names("model_weights", "layer_names", [b"first"]), "weights of 1 layers; the model has 3"),
    "unknown name": (names("model_weights", "layer_names", [b"nope"]), "there is no 'nope'"),
    "name that climbs": (names("model_weights", "layer_names", [b".."]), r"there is no '\.\.'"),
    "name that is root": (names("model_weights", "layer_names", [b"/"]), "there is no|is no group|cannot be read"),
    "number for names": (names("model_weights", "layer_names", 3), "is no name"),
    "many names": (names("model_weights", "layer_names", np.zeros(20_000, "S1")), "is too long"),
    "bytes that are no text": (names("model_weights", "layer_names", [b"\xff"]), "cannot be read"),
    "weight elsewhere": (names("model_weights/first", "weight_names", [b"a/b", b"c"]), "there is no 'a'"),
    "weight that is a link's name": (names("model_weights/first", "weight_names", [b"", b""]), "there is no ''"),
    "three weights": (names("model_weights/first", "weight_names", [b"first/kernel:0"] * 3), "3 arrays given"),
    "no json": (attribute("model_config", "{"), "cannot be read"),
    "json list": (attribute("model_config", "[]"), "is no object"),
    "deep json": (attribute("model_config", "[" * 60_000), "cannot be read"),
    "config number": (attribute("model_config", 3), "is no name|no text"),
    "functional": (
        attribute("model_config", '{"class_name": "Functional", "config": {}}'),
        "only a Sequential is read",
    ),
    "empty config": (attribute("model_config", '{"class_name": "Sequential"}'), "cannot be read"),
    "lambda": (config_changed(lambda entries: entries[2].update(class_name="Lambda")), "'Lambda'; known here are"),
    "convolution": (config_changed(lambda entries: entries[2].update(class_name="Conv2D")), "import_weights"),
    "foreign class": (config_changed(lambda entries: entries[2].update(class_name="os.system")), "'os.system'"),
    "class that is a list": (config_changed(lambda entries: entries[2].update(class_name=[])), "cannot be read"),
    "foreign activation": (
        config_changed(lambda entries: entries[1]["config"].update(activation="eval")),
        "'eval' is not known",
    ),
    "lambda activation": (
        config_changed(
            lambda entries: entries[1]["config"].update(activation={"class_name": "__lambda__", "config": ["x"]})
        ),
        "activation",
    ),
    "foreign initializer": (
        config_changed(
            lambda entries: entries[1]["config"].update(kernel_initializer={"class_name": "exec", "config": {}})
        ),
        "'exec' is not known",
    ),
    "huge filters": (
        config_changed(lambda entries: entries[1]["config"].update(filters=10**9)),
        "far too few|has shape",
    ),
    "more than huge": (config_changed(lambda entries: entries[1]["config"].update(filters=10**30)), "too large"),
    "huge kernel": (
        config_changed(lambda entries: entries[3]["config"].update(kernel_size=[10**6, 10**6])),
        "far too few",
    ),
    "huge input": (
        config_changed(lambda entries: shaped_input(entries, [None, 10**5, 10**5, 2])),
        "far too few|has shape",
    ),
    "no input": (config_changed(lambda entries: shaped_input(entries, [])), "cannot be read|entries"),
    "negative input": (
        config_changed(lambda entries: shaped_input(entries, [None, -1, 5, 2])),
        "too small",
    ),
    "unknown setting": (config_changed(lambda entries: entries[1]["config"].update(foo=1)), "foo"),
    "name twice": (
        config_changed(lambda entries: entries[3]["config"].update(name="first")),
        "is in the model already",
    ),
    "no layers": (config_changed(lambda entries: entries.clear()), "names no input shape|has weights of"),
}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", BROKEN)
def test_broken_and_hostile_models_are_refused(name, tmp_path):
    change, match = BROKEN[name]
    path = tmp_path / "broken.h5"
    changed("digits.h5", path, change)
    with pytest.raises(KerasFileError, match=match):
        lc.load_keras(path)


@pytest.mark.parametrize("name", [n for n in BROKEN if n in ("compressed", "soft link", "transposed", "three weights")])
def test_a_model_that_is_filled_stays_as_it_was(name, tmp_path):
    model = lc.load_keras(FOLDER / "digits.h5")
    before = model.get_weights()
    changed("digits.h5", tmp_path / "broken.h5", BROKEN[name][0])
    with pytest.raises(ValueError):
        lc.load_keras(tmp_path / "broken.h5", model)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_arrays_linked_many_times_are_read_once_at_most(tmp_path, monkeypatch):
    path = tmp_path / "many.h5"
    shutil.copy(FOLDER / "digits.h5", path)
    monkeypatch.setattr(keras_files.os, "fstat", lambda _: type("Stat", (), {"st_size": 900}))
    with pytest.raises(KerasFileError, match="describes more weights than it has bytes"):
        lc.load_keras(path)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".h5", ".keras", ".weights.h5"])
def test_truncated_files_are_refused(share, suffix, tmp_path):
    content = (FOLDER / f"digits{suffix}").read_bytes()
    path = tmp_path / "short"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(KerasFileError):
        lc.load_keras(path, lc.load_keras(FOLDER / "digits.h5"))


def zipped(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)


def test_zips_that_are_no_archives_of_keras(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(FOLDER / "digits.keras") as archive:
        config, weights = archive.read("config.json"), archive.read("model.weights.h5")
    good = [("config.json", config), ("model.weights.h5", weights)]
    zipped(path, good)
    predicts(lc.load_keras(path), "digits")
    bomb = [("config.json", b" " * 10_000_000), good[1]]
    for members, compression, match in (
        ([good[0]], 0, "holds 0 members model.weights.h5"), ([good[1]], 0, "holds 0 members config.json"),
        (good, zipfile.ZIP_DEFLATED, "is compressed"), (bomb, zipfile.ZIP_DEFLATED, "is compressed"),
        (bomb, 0, "at most 8388608 are expected"), ([good[0], ("model.weights.h5", b"no")], 0, "cannot be read"),
        ([("config.json", b"\x80\x04."), good[1]], 0, "cannot be read"),
        ([("config.json", b"null"), good[1]], 0, "is no object"),
    ):  # fmt: skip
        zipped(path, members, compression)
        with pytest.raises(KerasFileError, match=match):
            lc.load_keras(path)


def test_other_files(tmp_path):
    for content in (b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x80\x04\x95", b"text", b"\x93NUMPY"):
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(KerasFileError, match="cannot be read"):
            lc.load_keras(path)
    with pytest.raises(FileNotFoundError):
        lc.load_keras(tmp_path / "nothing")
    with pytest.raises(OSError, match="director"):
        lc.load_keras(tmp_path)
    with pytest.raises(KerasFileError, match="holds weights alone; give the model"):
        lc.load_keras(FOLDER / "digits.weights.h5")


def test_a_frozen_program_does_not_run_itself(monkeypatch):
    """`sys.executable` is no Python there, but the program."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(keras_files.subprocess, "run", lambda *_, **__: pytest.fail("it was run"))
    with pytest.raises(KerasFileError, match="a frozen program cannot start; convert it before"):
        lc.load_keras(FOLDER / "digits.keras")


def test_a_library_in_a_zip_reads_files_of_keras(tmp_path):
    """Whose code there is no file of, for the process that looks at them."""
    package = shutil.make_archive(tmp_path / "library", "zip", Path(lc.__file__).parents[1], "lcnumba")
    code = "import sys, lcnumba as lc; print(lc.__file__, len(lc.load_keras(sys.argv[1]).layers))"
    result = subprocess.run(
        [sys.executable, "-P", "-c", code, FOLDER / "digits.keras"], cwd=tmp_path, capture_output=True, text=True,
        timeout=100, check=False, env={**os.environ, "PYTHONPATH": package},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    file, layers = result.stdout.split()
    assert file.startswith(package)
    assert int(layers) > 1


@pytest.mark.usefixtures("in_process")
def test_files_for_another_model_are_refused():
    model = lc.load_keras(FOLDER / "digits.h5")
    before = model.get_weights()
    for name in ("genes.h5", "genes.weights.h5", "first_axis.keras", "first_axis_weights.h5"):
        with pytest.raises(KerasFileError):
            lc.load_keras(FOLDER / name, model)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_h5_files_are_written(tmp_path):
    model = lc.load_keras(FOLDER / "digits.h5")
    with pytest.raises(ValueError, match="must end in"):
        lc.save_keras_weights(model, tmp_path / "weights.keras")
    outer = lc.Sequential([model])
    with pytest.raises(ValueError, match="holds a model"):
        lc.save_keras_weights(outer, tmp_path / "weights.h5")
    assert list(tmp_path.iterdir()) == []


# --- command line


def test_convert_and_inspect(tmp_path, capsys):
    ours, theirs = str(tmp_path / "model.npz"), str(tmp_path / "model.weights.h5")
    assert command_line.main(["convert", str(FOLDER / "digits.keras"), ours]) == 0
    predicts(lc.load(ours), "digits")
    assert command_line.main(["convert", ours, theirs]) == 0
    predicts(lc.load_keras(theirs, lc.load_keras(FOLDER / "digits.h5")), "digits")
    capsys.readouterr()
    for path, expected in (
        (ours, "layer second (LocallyConnected2D)"), (theirs, "weights of dense: (24, 4), (4,)"),
        (FOLDER / "digits.h5", "layer second (LocallyConnected2D)"),
        (FOLDER / "digits.keras", "weights of locally_connected2d_1"),
    ):  # fmt: skip
        assert command_line.main(["inspect", str(path)]) == 0
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["convert", "nothing", "x.npz"], "No such file"), (["convert", "nothing", "x.txt"], "must end in"),
        (["convert", str(FOLDER / "digits.keras"), "x.h5"], "is no model file of lcnumba"),
        (["inspect", str(FOLDER / "predictions.npz")], "cannot be read"), (["inspect", "nothing"], "No such file"),
    ],
)  # fmt: skip
def test_wrong_files_end_with_a_message_and_code_2(arguments, match, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    assert ended.value.code == 2
    assert match in capsys.readouterr().err


# --- odd sizes, names and files


def test_windows_far_larger_than_the_image_go_out_and_come_back(rng):
    layer = lc.LocallyConnected2D(1, (10, 10), padding="same", implementation=3, input_shape=(2, 2, 1))
    layer.build((None, 2, 2, 1))
    expected = layer.get_weights()
    stored = lc.export_weights(layer)
    assert stored[0].shape == (16,)
    layer.set_weights([np.zeros_like(w) for w in expected])
    lc.import_weights(layer, stored)
    np.testing.assert_array_equal(layer.kernel, expected[0])


def test_a_refused_import_does_not_build():
    layer = lc.LocallyConnected2D(2, 2, input_shape=(4, 4, 1))
    for weights, settings in (([np.ones(3)] * 2, {}), ([], {}), ([np.ones(3)] * 2, {"data_format": "bogus"})):
        with pytest.raises(ValueError):
            lc.import_weights(layer, weights, **settings)
    assert not layer.built
    for wrong in (None, lc.Flatten()):
        with pytest.raises(TypeError, match="give a locally connected or Dense layer"):
            lc.import_weights(wrong, [])


def test_arrays_of_other_layers_need_not_be_readable(tmp_path):
    path = tmp_path / "other.h5"
    changed("digits.h5", path, BROKEN["integers"][0])
    assert len(lc.load_keras_weights(path, "second")) == 2
    with pytest.raises(KerasFileError, match="weights are float32 or float64"):
        lc.load_keras_weights(path, "first")
    assert command_line.main(["inspect", str(path)]) == 0


def test_floats_of_another_layout_are_refused(tmp_path):
    """NumPy calls them float64, and their bits lie otherwise."""

    def odd(file, name, old):
        kind = h5py.h5t.IEEE_F64LE.copy()
        kind.set_fields(63, 55, 8, 3, 52)
        kind.set_ebias(127)
        space = h5py.h5s.create_simple(old.shape)
        h5py.h5d.create(file.id, name.encode(), kind, space).write(space, space, old.astype(np.float64))

    changed("digits.h5", tmp_path / "odd.h5", replaced(KERNEL, odd))
    with pytest.raises(KerasFileError, match="weights are float32 or float64"):
        lc.load_keras(tmp_path / "odd.h5")


def test_files_are_written_with_the_usual_rights_and_names(tmp_path):
    model = lc.load_keras(FOLDER / "digits.h5")
    (tmp_path / "plain").touch()
    lc.save_keras_weights(model, tmp_path / "w.h5")
    assert (tmp_path / "w.h5").stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(ValueError, match="names a layer that"):
        lc.save_keras_weights(model, tmp_path / "w.h5", {"typo": 2})
    named = lc.Sequential([lc.Dense(2, input_shape=(3,), name="a/b")])
    with pytest.raises(ValueError, match="to Keras' first format under this name"):
        lc.save_keras_weights(named, tmp_path / "n.h5")

    class Mine(lc.Flatten):
        def get_weights(self):
            return [np.ones(3)]

    with pytest.raises(TypeError, match="has weights that Keras does not know"):
        lc.save_keras_weights(lc.Sequential([lc.Dense(2, input_shape=(3,)), Mine()]), tmp_path / "m.h5")
    with pytest.raises(RuntimeError, match="has not been built"):
        lc.load_keras(FOLDER / "digits.h5", lc.Sequential([lc.Dense(3)]))
    with pytest.raises(TypeError, match="give a Sequential"):
        lc.load_keras(FOLDER / "digits.h5", 5)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("entry", ["n_threads", "rng", "weights", "optimizer", "kernel_mask"])
def test_files_set_what_keras_has_alone(entry, tmp_path):
    changed("digits.h5", tmp_path / "b.h5", config_changed(lambda entries: entries[1]["config"].update({entry: 1})))
    with pytest.raises(KerasFileError, match=f"settings that Keras' layer has not: .*{entry}"):
        lc.load_keras(tmp_path / "b.h5")


def test_names_do_not_command_the_terminal(tmp_path, capsys):
    name = "\x1b[2Jevil\nweights of x: ok"
    changed("digits.h5", tmp_path / "b.h5", config_changed(lambda entries: entries[1]["config"].update(name=name)))
    assert command_line.main(["inspect", str(tmp_path / "b.h5")]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\nweights of x" not in shown
