import json
import pickle
import zipfile

import numpy as np
import pytest

import lcnumba as lc


def model():
    return lc.Sequential(
        [
            lc.LocallyConnected2D(3, 3, padding="same", activation="relu", fans="window", implementation=3),
            lc.LocallyConnected2D(2, (2, 3), strides=2, data_format="channels_last", dtype="float64"),
            lc.Flatten(),
            lc.Dense(4, activation="softmax", kernel_initializer={"class_name": "he_normal", "config": {"seed": 1}}),
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
    net = lc.Sequential([lc.Dense(2, input_shape=(3,), kernel_initializer=lambda s, d, r: np.ones(s))])
    with pytest.raises(TypeError, match="cannot be saved: only named"):
        net.save(tmp_path / "m")
    with pytest.raises(FileNotFoundError):
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
