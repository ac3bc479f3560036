import json
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

import lcnumba as lc
from lcnumba import activations, initializers, io


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


def test_built_in_optimizers_are_kept(tmp_path):
    inner = lc.Sequential([lc.Dense(4, name="d")], name="inner")
    net = lc.Sequential([lc.Dense(2, input_shape=(3,)), inner, lc.Flatten()])
    net.set_optimizer(lc.Adam(beta_1=0.5))
    net.save(tmp_path / "m")
    again = lc.load(tmp_path / "m")
    assert again.layers[0].optimizer == again.layers[1].layers[0].optimizer == lc.Adam(beta_1=0.5)

    class Mine(lc.SGD):
        pass

    net.set_optimizer(Mine())
    net.save(tmp_path / "m")
    assert lc.load(tmp_path / "m").layers[0].optimizer == lc.SGD()


def test_a_model_whose_first_layer_knows_its_shape(tmp_path, rng):
    net = lc.Sequential([lc.LocallyConnected2D(3, 3, input_shape=(6, 7, 2))])
    net.save(tmp_path / "m")
    x = rng.standard_normal((3, 6, 7, 2))
    np.testing.assert_array_equal(lc.load(tmp_path / "m")(x), net(x))


def test_the_file_holds_json_and_arrays_and_no_pickle(saved):
    with np.load(saved[3], allow_pickle=False) as file:
        description = json.loads(file["config"].tobytes())
        assert sorted(file.files) == ["config", *(f"weight_{n}" for n in range(6))]
    assert description["format"] == "lcnumba-model-1"


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    net, _, _, path = saved
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        net.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(RuntimeError, match="save before build"):
        model().save(tmp_path / "m")

    class ReLU(activations.ReLU):
        """Called like a built-in one, and another."""

    class Ones(initializers.Ones):
        """Likewise."""

    for custom in (
        {"kernel_initializer": lambda s, d, r: np.ones(s)},
        {"kernel_initializer": Ones()},
        {"activation": ReLU()},
    ):
        net = lc.Sequential([lc.Dense(2, input_shape=(3,), **custom)])
        with pytest.raises(TypeError, match="cannot be saved: only the library's own"):
            net.save(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match=r"no such folder: '.*nowhere'"):
        lc.Sequential([lc.Dense(2, input_shape=(3,))]).save(tmp_path / "nowhere" / "m")
    assert list(tmp_path.iterdir()) == []


class Custom(lc.Flatten):
    pass


def test_layers_of_ones_own(tmp_path):
    net = lc.Sequential([Custom(name="c")])
    net(np.ones((2, 3, 4)))
    net.save(tmp_path / "m")
    with pytest.raises(ValueError, match="layer class 'Custom' is not known"):
        lc.load(tmp_path / "m")
    assert isinstance(lc.load(tmp_path / "m", layers={"Custom": Custom}).layers[0], Custom)


def rewritten(path, change):
    """The file with its arrays changed."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    description = json.loads(arrays["config"].tobytes())
    change(arrays, description)
    arrays["config"] = np.frombuffer(json.dumps(description).encode(), np.uint8)
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, d: a.pop("weight_1"), "is no model file"),
        (lambda a, d: a.update(weight_9=np.ones(3)), "is no model file"),
        (lambda a, d: a.update(weight_1=np.ones(3)), "weight_1 has shape"),
        (lambda a, d: d.update(format="other"), "its format is 'other'"),
        (lambda a, d: d.pop("model"), "is no model file"),
        (lambda a, d: d.update(model=3), "holds no config"),
        (lambda a, d: d["model"].pop("layers"), "holds no config"),
        (lambda a, d: d["model"]["layers"][0].update(class_name="os.system"), "layer class 'os.system' is not known"),
        (lambda a, d: d["model"]["layers"][0]["config"].update(foo=1), "holds no config.*foo"),
        (lambda a, d: d["model"]["layers"][0]["config"].update(filters=7), "has shape"),
        (lambda a, d: d["model"]["layers"][0]["config"].update(filters=10**12), "has shape"),
        (lambda a, d: d["model"]["layers"][0]["config"].update(filters=10**30), "too large"),
        (lambda a, d: d["model"]["layers"][0]["config"].update(kernel_regularizer="nope"), "not known"),
        (lambda a, d: d["model"]["layers"].append({"class_name": "Flatten", "config": {"name": "dense"}}), "already"),
        (lambda a, d: d["model"].update(build_input_shape=None), "holds no config"),
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
        with pytest.raises(ValueError, match="is no model file"):
            lc.load(path)
    np.save(path.with_suffix(".npy"), np.ones(3))
    with pytest.raises(ValueError, match="is no model file"):
        lc.load(path.with_suffix(".npy"))
    np.savez(path, config=np.array([object()], object))
    with pytest.raises(ValueError, match="is no model file"):
        lc.load(path.with_suffix(".npz"))
    with pytest.raises(FileNotFoundError):
        lc.load(tmp_path / "nowhere")


def test_a_truncated_file_is_refused(saved):
    path = saved[3]
    content = path.read_bytes()
    for size in (10, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="is no model file"):
            lc.load(path)
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("weight_0.npy").header_offset
    damaged = bytearray(content)
    damaged[offset + 300] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="is no model file"):
        lc.load(path)


def test_compressed_weights_are_refused(saved):
    """They could ask for a thousand times the memory that the file takes."""
    path = saved[3]
    with_member(path, "config.npy", zipfile.ZipFile(path).read("config.npy"), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        lc.load(path)


def test_an_oversized_config_is_not_read(saved, monkeypatch):
    monkeypatch.setattr(io, "CONFIG_BYTES", 100)
    with pytest.raises(ValueError, match=r"config declares \d+ bytes, and at most 100 are expected"):
        lc.load(saved[3])


def test_a_link_stays_a_link_and_a_private_file_private(saved):
    net, x, y, path = saved
    path.chmod(0o600)
    link = path.with_name("link")
    link.symlink_to(path)
    net.save(link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    np.testing.assert_array_equal(lc.load(link)(x), y)


def with_member(path, name, content, compression=zipfile.ZIP_STORED):
    """The file with one member replaced or added."""
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
        with pytest.raises(ValueError, match="is no model file"):
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
    with pytest.raises(ValueError, match="is no model file"):
        lc.load(path)


@pytest.mark.parametrize("path", [None, 3, b"model.npz", "a\0b", "\ud800"])
def test_paths_that_are_none(path):
    model = lc.Sequential([lc.Dense(1, input_shape=(2,))])
    for function in (lc.load, model.save, lc.load_keras, lambda path: lc.load_keras_weights(path, "dense")):
        with pytest.raises((TypeError, ValueError), match="path="):
            function(path)
