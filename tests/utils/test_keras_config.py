import json
import os

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.utils import keras_config


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    keras_config._of_file.cache_clear()
    yield tmp_path
    keras_config._of_file.cache_clear()


def test_without_a_file_it_is_channels_last_and_none_is_written(home):
    assert lc.LocallyConnected2D(1, 1).data_format == "channels_last"
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("written", ["channels_first", "Channels_First"])
def test_the_file_of_keras_counts_where_nothing_is_given(home, written):
    (home / "keras.json").write_text(json.dumps({"floatx": "float32", "image_data_format": written}))
    assert lc.LocallyConnected2D(1, 1).data_format == "channels_first"
    assert lc.LocallyConnected2D(1, 1, data_format="channels_last").data_format == "channels_last"


def test_the_home_of_the_user_counts_without_keras_home(home, monkeypatch):
    (home / ".keras").mkdir()
    (home / ".keras" / "keras.json").write_text('{"image_data_format": "channels_first"}')
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    assert keras_config.data_format() == "channels_first"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"{", r"ignoring .*keras\.json, using data_format='channels_last'"),
        (b"[1, 2]", "neither"), (b"\xff\xfe", "ignoring"),
        (b'{"image_data_format": "sideways"}', "'sideways'"), (b'{"image_data_format": null}', "None"),
        (b"[" * 100_000, "ignoring"), (b" " * (1 << 17) + b"{}", "ignoring"),
    ],
)  # fmt: skip
def test_a_broken_file_is_a_warning_and_no_crash(home, content, match):
    (home / "keras.json").write_bytes(content)
    with pytest.warns(UserWarning, match=match):
        assert keras_config.data_format() == "channels_last"
    assert keras_config.data_format() == "channels_last"  # warned once


def test_a_folder_in_its_place_is_a_warning(home):
    (home / "keras.json").mkdir()
    with pytest.warns(UserWarning, match="ignoring"):
        assert keras_config.data_format() == "channels_last"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such pipes")
def test_a_pipe_in_its_place_is_not_waited_for(home):
    os.mkfifo(home / "keras.json")
    with pytest.warns(UserWarning, match="not a regular file"):
        assert keras_config.data_format() == "channels_last"


def test_flatten_follows_it(home, rng):
    (home / "keras.json").write_text('{"image_data_format": "channels_first"}')
    x = rng.standard_normal((2, 3, 4, 5))
    np.testing.assert_array_equal(lc.Flatten()(x), np.moveaxis(x, 1, -1).reshape(2, -1))
