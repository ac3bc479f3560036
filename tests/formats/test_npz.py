import json
import os
import pickle
import stat
import tracemalloc
import zipfile

import numpy as np
import pytest

import lcnumba as lc
from lcnumba import activations, initializers
from lcnumba.formats import npz
from lcnumba.tools import bench
from lcnumba.utils import files


def model():
    return lc.Sequential(
        [
            lc.LocallyConnected2D(3, 3, padding="same", activation="relu", fans="window", implementation=3),
            lc.LocallyConnected2D(2, (2, 3), strides=2, data_format="channels_last", dtype="float64"),
            lc.Flatten(),
            lc.Dense(
                4,
                name="dense",
                activation="softmax",
                kernel_initializer={"class_name": "he_normal", "config": {"seed": 1}},
            ),
        ],
        name="kept",
    )


@pytest.fixture
def saved(tmp_path, rng):
    net, x = model(), rng.standard_normal((3, 6, 7, 2))
    y = net(x)
    net.save(tmp_path / "model.npz")
    return net, x, y, tmp_path / "model.npz"


def test_a_loaded_model_predicts_the_same_and_trains_on(saved):
    net, x, y, path = saved
    for given in (path, str(path)):
        again = lc.load(given)
        np.testing.assert_array_equal(again(x), y)
        assert again.get_config() == net.get_config()
    again.fit(x, np.zeros((3, 4)), loss="mse", progress=False)
    assert list(path.parent.iterdir()) == [path]


def test_built_in_optimizers_are_saved(tmp_path):
    inner = lc.Sequential([lc.Dense(4, name="d")], name="inner")
    net = lc.Sequential([lc.Dense(2, input_shape=(3,)), inner, lc.Flatten()])
    net.set_optimizer(lc.Adam(beta_1=0.5))
    net.save(tmp_path / "m")
    again = lc.load(tmp_path / "m")
    assert again.layers[0].optimizer == again.layers[1].layers[0].optimizer == lc.Adam(beta_1=0.5)

    class Mine(lc.SGD):
        pass

    net.set_optimizer(Mine())
    with pytest.warns(UserWarning, match="the file does not contain the optimizer 'Mine' of layer .*, 'Mine' of"):
        net.save(tmp_path / "m")
    with pytest.warns(UserWarning, match="m' does not contain the optimizer 'Mine' of layer .*; 'sgd' is used instead"):
        assert lc.load(tmp_path / "m").layers[0].optimizer == lc.SGD()
    with pytest.warns(UserWarning, match="the config does not contain the optimizer 'Mine'"):
        lc.Sequential.from_config(net.get_config())


def test_a_model_whose_first_layer_knows_its_shape(tmp_path, rng):
    net = lc.Sequential([lc.LocallyConnected2D(3, 3, input_shape=(6, 7, 2))])
    net.save(tmp_path / "m")
    x = rng.standard_normal((3, 6, 7, 2))
    np.testing.assert_array_equal(lc.load(tmp_path / "m")(x), net(x))


def test_a_file_is_json_and_arrays_without_pickle(saved):
    with np.load(saved[3], allow_pickle=False) as file:
        description = json.loads(file["config"].tobytes())
        assert sorted(file.files) == ["config", *(f"weight_{n}" for n in range(6))]
    assert description["format"] == "lcnumba-model-1"


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    net, _, _, path = saved
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="No space left"):
        net.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(RuntimeError, match="save before build"):
        model().save(tmp_path / "m")

    class ReLU(activations.ReLU):
        """Custom, with the name of a built-in one."""

    class Ones(initializers.Ones):
        """Likewise."""

    for custom in (
        {"kernel_initializer": lambda s, d, r: np.ones(s)},
        {"kernel_initializer": Ones()},
        {"activation": ReLU()},
    ):
        net = lc.Sequential([lc.Dense(2, input_shape=(3,), **custom)])
        with pytest.raises(TypeError, match="cannot be saved: only built-in activations, initializers, regul"):
            net.save(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match=r"no such folder: '.*nowhere'"):
        lc.Sequential([lc.Dense(2, input_shape=(3,))]).save(tmp_path / "nowhere" / "m")
    assert list(tmp_path.iterdir()) == []


class Custom(lc.Flatten):
    pass


def test_custom_layers(tmp_path):
    net = lc.Sequential([Custom(name="c")])
    net(np.ones((2, 3, 4)))
    net.save(tmp_path / "m")
    with pytest.raises(ValueError, match="layer class 'Custom' is not known"):
        lc.load(tmp_path / "m")
    assert isinstance(lc.load(tmp_path / "m", layers={"Custom": Custom}).layers[0], Custom)


def rewritten(path, change):
    """Rewrite a file with changed arrays."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    description = json.loads(arrays["config"].tobytes())
    change(arrays, description)
    arrays["config"] = np.frombuffer(json.dumps(description).encode(), np.uint8)
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, d: a.pop("weight_1"), "is not an lcnumba model file"),
        (lambda a, d: a.update(weight_9=np.ones(3)), "is not an lcnumba model file"),
        (lambda a, d: a.update(weight_1=np.ones(3)), "weight_1 has shape"),
        (lambda a, d: d.update(format="other"), "its format is 'other'"),
        (lambda a, d: d.pop("model"), "is not an lcnumba model file"),
        (lambda a, d: d.update(model=3), "holds no valid model config"),
        (lambda a, d: d["model"].pop("layers"), "holds no valid model config"),
        (lambda a, d: d["model"]["layers"][0].update(class_name="os.system"), "layer class 'os.system' is not known"),
        (lambda a, d: d["model"]["layers"][0]["config"].update(foo=1), "holds no valid model config.*foo"),
        (lambda a, d: d["model"]["layers"][0]["config"].update(filters=7), "has shape"),
        (lambda a, d: d["model"]["layers"][0]["config"].update(filters=10**12), "too large"),
        (lambda a, d: d["model"]["layers"][0]["config"].update(filters=10**30), "too large"),
        (lambda a, d: d["model"]["layers"][0]["config"].update(kernel_regularizer="nope"), "not known"),
        (lambda a, d: d["model"]["layers"].append({"class_name": "Flatten", "config": {"name": "dense"}}), "already"),
        (lambda a, d: d["model"].update(build_input_shape=None), "holds no valid model config"),
        (lambda a, d: d["model"].update(build_input_shape=[None, 2**70, 7, 2]), "too large"),
        (lambda a, d: a.update(weight_0=a["weight_0"].astype(complex)), "complex128"),
        (lambda a, d: a.update(weight_0=a["weight_0"].astype("S1")), "dtype"),
        (lambda a, d: a.update(weight_0=a["weight_0"].astype(np.float16)), "float16"),
    ],
)
def test_a_changed_file_is_refused(saved, change, message):
    path = saved[3]
    rewritten(path, change)
    with pytest.raises(ValueError, match=message):
        lc.load(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "file"
    contents = [b"", b"text", b"PK\x03\x04 broken", pickle.dumps([1, 2])]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not an lcnumba model file"):
            lc.load(path)
    np.save(path.with_suffix(".npy"), np.ones(3))
    with pytest.raises(ValueError, match="is not an lcnumba model file"):
        lc.load(path.with_suffix(".npy"))
    np.savez(path, config=np.array([object()], object))
    with pytest.raises(ValueError, match="is not an lcnumba model file"):
        lc.load(path.with_suffix(".npz"))
    with pytest.raises(FileNotFoundError):
        lc.load(tmp_path / "nowhere")


def test_a_truncated_file_is_refused(saved):
    path = saved[3]
    content = path.read_bytes()
    for size in (10, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="is not an lcnumba model file"):
            lc.load(path)
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("weight_0.npy").header_offset
    damaged = bytearray(content)
    damaged[offset + 300] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="is not an lcnumba model file"):
        lc.load(path)


def test_compressed_weights_are_refused(saved):
    """They could take a thousand times the memory of the file."""
    path = saved[3]
    with_member(path, "config.npy", zipfile.ZipFile(path).read("config.npy"), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        lc.load(path)


def test_an_oversized_config_is_not_read(saved, monkeypatch):
    monkeypatch.setattr(npz, "MAX_CONFIG_BYTES", 100)
    with pytest.raises(ValueError, match=r"config declares \d+ bytes; at most 100 are allowed"):
        lc.load(saved[3])


def test_saving_keeps_links_and_permissions(saved):
    net, x, y, path = saved
    path.chmod(0o600)
    link = path.with_name("link")
    link.symlink_to(path)
    net.save(link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    np.testing.assert_array_equal(lc.load(link)(x), y)


def with_member(path, name, content, compression=zipfile.ZIP_STORED):
    """Replace or add a member."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    members[name] = content
    with zipfile.ZipFile(path, "w", compression=compression) as archive:
        for filename, data in members.items():
            archive.writestr(filename, data)


def npy(header, data=b""):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def header(shape, descr="<f4"):
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape},), }}"


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("config.npy", lambda: npy(header(200_000, "|u1"), b"[" * 200_000)),
        ("config.npy", lambda: npy(header(2**70, "|u1"))),
        ("config.npy", lambda: npy(header(3, "f4,("))),
        ("weight_0.npy", lambda: npy(header(3, "f4,("))),
        ("weight_0.npy", lambda: npy("(" * 9000)),
        ("weight_0.npy", lambda: npy(header(2 * 10**12))),
        ("weight_0.npy", lambda: npy(header("42, 18, 3"), b"short")),
        ("weight_0.npy", lambda: b"\x93NUMPY\x09\x00"),
        ("weight_0.npy", lambda: bytes(200_000_000)),
        ("weight_7.npy", lambda: b""),
        ("unrelated", lambda: bytes(200_000_000)),
    ],
)
def test_hostile_members_are_refused_within_bounded_memory(saved, name, make):
    path = saved[3]
    with_member(path, name, make())
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is not an lcnumba model file"):
            lc.load(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_an_encrypted_member_is_refused(saved):
    path = saved[3]
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not an lcnumba model file"):
        lc.load(path)


@pytest.mark.parametrize("path", [None, 3, b"model.npz", "a\0b", "\ud800"])
def test_invalid_paths(path):
    model = lc.Sequential([lc.Dense(1, input_shape=(2,))])
    for function in (lc.load, model.save, lc.load_keras, lambda path: lc.load_keras_weights(path, "dense")):
        with pytest.raises((TypeError, ValueError), match="path="):
            function(path)


# --- what a file does not hold


class Mine(lc.SGD):
    """A custom optimizer."""


def test_a_file_that_does_not_name_custom_optimizers(tmp_path):
    net = lc.Sequential([lc.Dense(2, input_shape=(3,), optimizer=Mine())])
    with pytest.warns(UserWarning, match="does not contain"):
        net.save(tmp_path / "m.npz")
    rewritten(tmp_path / "m.npz", lambda arrays, text: text["model"]["layers"][0].pop("optimizer_left_out"))
    assert lc.load(tmp_path / "m.npz").layers[0].optimizer == lc.SGD()


def test_a_warning_names_only_the_first_layers(tmp_path):
    net = lc.Sequential([lc.Dense(2, input_shape=(2,), optimizer=Mine(), name="first")])
    for _ in range(6):
        net.add(lc.Dense(2, optimizer=Mine()))
    with pytest.warns(UserWarning, match="'Mine' of layer 'first', .* and of 2 more: only built-in optimizers"):
        net.save(tmp_path / "m")


# --- names and types of files


@pytest.mark.parametrize(
    "name", ["m.keras", "m.h5", "m.weights.h5", "m.HDF5", "m.pt", "m.onnx", "m.pkl", "m.npy", "m.csv"]
)
def test_suffixes_of_other_formats_are_refused(name, tmp_path):
    net = lc.Sequential([lc.Dense(2, input_shape=(3,))])
    message = r"path=.* ends in '\..*', .*but an \.npz is written; use '\.npz'"
    for write in (net.save, net.save_weights, lc.callbacks.Checkpoint):
        with pytest.raises(ValueError, match=message) as refused:
            write(tmp_path / name)
        assert ("save_keras_weights" in str(refused.value)) == (
            name[2:].lower() in ("keras", "h5", "weights.h5", "hdf5")
        )
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_not_written_to_an_npz():
    for name in ("log.npz", "log.h5", "log.pkl"):
        with pytest.raises(ValueError, match=r"but a text table is written; use '\.csv'"):
            lc.callbacks.CSVLogger(name)


def writers(path):
    """Functions that write a file to a path, by name."""
    model = lc.Sequential([lc.Dense(1, input_shape=(1,))])

    def fit(callback):
        model.fit(np.ones((2, 1)), np.ones((2, 1)), loss="mse", epochs=2, callbacks=[callback(path)], progress=False)

    return {
        "save": lambda: model.save(path), "save_weights": lambda: model.save_weights(path),
        "Checkpoint": lambda: fit(lc.callbacks.Checkpoint), "CSVLogger": lambda: fit(lc.callbacks.CSVLogger),
        "keras": lambda: lc.save_keras_weights(model, path),
        "bench": lambda: bench.run([bench.WORKLOADS["digits"]], seconds=0.0, json_path=str(path)),
    }  # fmt: skip


MODELS, TEXTS = ("save", "save_weights", "Checkpoint", "keras"), ("CSVLogger", "bench")


def named(folder, kind, stem="file"):
    return folder / (f"{stem}.h5" if kind == "keras" else f"{stem}.npz" if kind in MODELS else f"{stem}.txt")


@pytest.mark.parametrize("kind", MODELS)
def test_a_pipe_is_not_replaced_by_a_model(kind, tmp_path):
    path = named(tmp_path, kind)
    os.mkfifo(path)
    for place in (path, named(tmp_path, kind, "link")):
        if place != path:
            place.symlink_to(path)
        with pytest.raises(OSError, match="not a regular file, so it is not replaced"):
            writers(place)[kind]()
        assert stat.S_ISFIFO(place.stat().st_mode)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root makes devices")
@pytest.mark.parametrize("kind", [*MODELS, *TEXTS])
def test_a_device_is_not_replaced(kind, tmp_path, capsys):
    path = named(tmp_path, kind)
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # a null device
        path.write_bytes(b"")
    except PermissionError:
        pytest.skip("devices cannot be created here")
    if kind in MODELS:
        with pytest.raises(OSError, match="not a regular file"):
            writers(path)[kind]()
    else:
        writers(path)[kind]()
    assert stat.S_ISCHR(path.stat().st_mode)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", TEXTS)
def test_a_pipe_gets_only_new_text(kind, tmp_path, capsys):
    path = named(tmp_path, kind)
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a reader, without waiting for a writer
    writers(path)[kind]()
    text = os.read(descriptor, 1 << 16).decode()
    os.close(descriptor)
    if kind == "bench":
        assert len(json.loads(text)["rows"]) == 3
    else:
        assert [line.split(",")[0] for line in text.splitlines()] == ["epoch", "0", "1"]
    assert stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.parametrize("kind", TEXTS)
def test_a_pipe_without_a_reader_is_an_error(kind, tmp_path, capsys):
    path = named(tmp_path, kind)
    os.mkfifo(path)
    with pytest.raises(OSError, match=r"\[Errno 6\]"):
        writers(path)[kind]()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", [*MODELS, *TEXTS])
def test_links_are_followed_and_loops_are_errors(kind, tmp_path, capsys):
    target, link, loop = (named(tmp_path, kind, stem) for stem in ("target", "link", "loop"))
    link.symlink_to(target.name)  # does not exist yet
    writers(link)[kind]()
    assert link.is_symlink()
    assert stat.S_ISREG(target.lstat().st_mode)
    loop.symlink_to(loop.name)
    with pytest.raises(OSError, match="symbolic links"):
        writers(loop)[kind]()
    assert loop.is_symlink()


@pytest.mark.parametrize("kind", [*MODELS, *TEXTS])
def test_a_folder_or_too_long_a_name_is_an_error_before_any_work(kind, tmp_path, capsys):
    folder = named(tmp_path, kind)
    folder.mkdir()
    for path, match in ((folder, "Is a directory"), (named(tmp_path, kind, "a" * 255), "too long")):
        with pytest.raises(OSError, match=match):
            writers(path)[kind]()
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("kind", [*MODELS, *TEXTS])
@pytest.mark.parametrize("letter", ["a", "\u00e9"])
def test_the_longest_name_that_the_system_allows(kind, letter, tmp_path, capsys):
    ending = len(named(tmp_path, kind, "").suffix) or 4
    path = named(tmp_path, kind, letter * ((255 - ending) // len(letter.encode())))
    stale, other = tmp_path / f".{files._stem(path)}.0123abcd", tmp_path / f".{'0' * 16}.0123abcd"
    stale.touch(), other.touch()
    writers(path)[kind]()
    assert path.stat().st_size > 0
    removed = kind in ("Checkpoint", *TEXTS)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(
        [path.name, other.name, *([] if removed else [stale.name])]
    )


# --- what messages say of a file


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "it is empty"), (b"\x89HDF\r\n\x1a\n....", r"it is an HDF5 file: if Keras wrote it, lcnumba\.load_keras"),
        (pickle.dumps([1]), "it is a pickle, which is not read because it can execute code"),
        (b"\x93NUMPY\x01\x00", r"it is a single NumPy array: numpy\.load"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (b"<!DOCTYPE html>", "it is a web page"), (b'{"a": 1}', "it is JSON text"), (b"text", "File is not a zip file"),
    ],
)  # fmt: skip
def test_a_file_of_another_type_is_named(content, match, tmp_path):
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    net = lc.Sequential([lc.Dense(1, input_shape=(1,))])
    for read in (lc.load, net.load_weights, lambda path: resume(net, path)):
        with pytest.raises(ValueError, match=f"is not an lcnumba model file: {match}"):
            read(path)


def resume(net, path):
    return net.fit(np.ones((2, 1)), np.ones((2, 1)), loss="mse", resume=path, progress=False)


def test_zips_of_other_types_are_named(tmp_path):
    path = tmp_path / "model.npz"
    for members, match in (
        (["config.json", "model.weights.h5"], r"it is a Keras archive: lcnumba\.load_keras"),
        (["a.npy", "b.npy"], r"it is a plain \.npz of arrays: numpy\.load"), (["x/data.pkl"], "it is a PyTorch file"),
    ):  # fmt: skip
        with zipfile.ZipFile(path, "w") as archive:
            for name in members:
                archive.writestr(name, b"x")
        with pytest.raises(ValueError, match=f"is not an lcnumba model file: {match}"):
            lc.load(path)
    net = lc.Sequential([lc.Dense(1, input_shape=(1,))])
    net.save(path)
    message = "cannot resume from .*: it holds a model without training state; give a file that Checkpoint wrote"
    with pytest.raises(ValueError, match=message):
        resume(net, path)
    net.save_weights(path)
    with pytest.raises(ValueError, match=r"holds weights only; create and build the model, then call its load_weights"):
        lc.load(path)
    with pytest.raises(ValueError, match=r"cannot resume from .*: it holds only weights; read them with load_weights"):
        resume(net, path)


# --- weights only


def test_weights_are_saved_and_loaded(tmp_path, saved):
    net, x, y, path = saved
    again = model()
    again.build((None, 6, 7, 2))
    net.save_weights(tmp_path / "w")
    again.fit(x, np.zeros((3, 4)), loss="mse", callbacks=[lc.callbacks.Checkpoint(tmp_path / "run")], progress=False)
    trained = again(x)
    for file, expected in (("w", y), ("run", trained), (path, y)):
        again.set_weights([0 * weight for weight in net.get_weights()])
        again.load_weights(tmp_path / file)
        np.testing.assert_array_equal(again(x), expected)
    assert again.layers[0].get_config()["name"] != net.layers[0].get_config()["name"], "names do not matter"


def test_weights_of_other_shapes_change_nothing(tmp_path):
    def net(*units):
        return lc.Sequential([lc.Dense(units[0], input_shape=(3,)), *map(lc.Dense, units[1:])], name="mine")

    mine = net(4, 2)
    before = mine.get_weights()
    for other, match in (
        (net(4, 5), r"weight 2 of '.*w' has shape \(4, 5\); that of 'mine' has \(4, 2\)"),
        (net(4), r"'.*w' holds 2 weights; 'mine' has 4"), (net(4, 2, 1), "holds 6 weights; 'mine' has 4"),
    ):  # fmt: skip
        other.save_weights(tmp_path / "w")
        with pytest.raises(ValueError, match=match):
            mine.load_weights(tmp_path / "w")
        for a, b in zip(mine.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)
    for call in (lc.Sequential([lc.Dense(1)]).save_weights, lc.Sequential([lc.Dense(1)]).load_weights):
        with pytest.raises(RuntimeError, match="before build"):
            call(tmp_path / "w")


def test_damaged_weights_change_nothing(tmp_path):
    net = lc.Sequential([lc.Dense(40, input_shape=(30,))])
    net.save_weights(tmp_path / "w")
    content, before = bytearray((tmp_path / "w").read_bytes()), net.get_weights()
    with zipfile.ZipFile(tmp_path / "w") as archive:
        content[archive.getinfo("weight_1.npy").header_offset + 200] ^= 0xFF
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ValueError, match="is not an lcnumba model file"):
        net.load_weights(tmp_path / "w")
    np.testing.assert_array_equal(net.get_weights()[0], before[0])


# --- byte order


def test_non_native_byte_order(saved):
    _, x, y, path = saved

    def swap(arrays, _):
        arrays |= {
            name: array.astype(array.dtype.newbyteorder(">")) for name, array in arrays.items() if name != "config"
        }

    rewritten(path, swap)
    with zipfile.ZipFile(path) as archive:
        assert b"'>f4'" in archive.read("weight_0.npy")[:128]
    again = lc.load(path)
    np.testing.assert_array_equal(again(x), y)
    assert all(weight.dtype.isnative for weight in again.get_weights())
    again.load_weights(path)
    np.testing.assert_array_equal(again(x), y)


class Parts(npz.Streamed):
    """An array that is written row by row."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def parts(self):
        yield from self.values


def test_an_array_in_parts_gives_the_same_file(tmp_path, rng):
    values = [rng.standard_normal((5, 3, 2)), rng.standard_normal((4, 1)).astype(np.float32)]
    npz.write_weights(tmp_path / "whole.npz", values)
    npz.write_weights(tmp_path / "parts.npz", [Parts(array) for array in values])
    members = [{n: zipfile.ZipFile(tmp_path / f).read(n) for n in ("weight_0.npy", "weight_1.npy", "config.npy")}
               for f in ("whole.npz", "parts.npz")]  # fmt: skip
    assert members[0] == members[1]
    with np.load(tmp_path / "parts.npz") as file:
        np.testing.assert_array_equal(file["weight_0"], values[0])


def test_rows_are_read_alone_and_checked_together(tmp_path, rng):
    values = rng.standard_normal((11, 900, 2)).astype(np.float32)
    path = tmp_path / "weights.npz"
    npz.write_weights(path, [values, values])

    def read(*ranges):
        parts = []
        for first, last in ranges:  # in as many processes
            with npz.ModelFile(path) as file:
                np.testing.assert_array_equal(file.read_rows("weight_1", first, last, values.shape), values[first:last])
                parts += file.parts
        return parts

    npz.check_parts(read((4, 7), (0, 4), (7, 11)))
    npz.check_parts(read((0, 11), (0, 11)))
    npz.check_parts(read((0, 11), (11, 11)))
    for missing in (read((4, 7), (7, 11)), read((0, 4)), read((0, 4), (5, 11))):
        with pytest.raises(ValueError, match="weight_1 of the file is damaged"):
            npz.check_parts(missing)
    np.savez(tmp_path / "fortran.npz", weight_0=np.asfortranarray(values), config=np.load(path)["config"])
    with npz.ModelFile(tmp_path / "fortran.npz") as file:
        np.testing.assert_array_equal(file.read_rows("weight_0", 2, 5, values.shape), values[2:5])
    with npz.ModelFile(path) as file, pytest.raises(ValueError, match=r"weight_1 has shape \(11, 900, 2\)"):
        file.read_rows("weight_1", 0, 2, (11, 1800))
    content = bytearray(path.read_bytes())
    content[content.rindex(values[5].tobytes()) + 3] ^= 16
    path.write_bytes(content)
    with npz.ModelFile(path) as file:
        file.read_rows("weight_1", 0, 11, values.shape)
        with pytest.raises(ValueError, match="damaged"):
            npz.check_parts(file.parts)
