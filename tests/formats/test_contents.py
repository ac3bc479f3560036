"""Reading and writing under adverse conditions: pipes, signals, little memory, links; and their messages."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.__main__ import main
from lcnumba.bridges.keras2 import files as files_
from lcnumba.bridges.keras2 import models
from lcnumba.callbacks import Callback, Checkpoint, CSVLogger, EarlyStopping
from lcnumba.formats import checkpoint, contents, npz
from lcnumba.models import saving
from lcnumba.tools import inspect

X, Y = np.ones((4, 1)), np.ones((4, 1))


def net(**settings):
    model = lc.Sequential([lc.Dense(1, input_shape=(1,), kernel_initializer="zeros", **settings)])
    model.build((None, 1))
    return model


def train(*callbacks, model=None, **settings):
    return (model or net()).fit(X, Y, loss="mse", lr=0.25, callbacks=callbacks, progress=False, **settings)


def readers(path):
    return {
        "load": lambda: lc.load(path),
        "load_weights": lambda: net().load_weights(path),
        "resume": lambda: train(resume=path),
        "load_keras": lambda: lc.load_keras(path),
        "load_keras_weights": lambda: lc.load_keras_weights(path, "a"),
        "describe": lambda: list(inspect.describe(path)),
    }


READERS = ("load", "load_weights", "resume", "load_keras", "load_keras_weights", "describe")
THEIRS = READERS[3:5]


@pytest.fixture
def files(tmp_path):
    """A readable file for each reader."""
    ours, theirs = tmp_path / "ours.npz", tmp_path / "theirs.h5"
    train(Checkpoint(ours))
    pytest.importorskip("h5py")
    model = lc.Sequential([lc.Dense(1, input_shape=(1,), name="a")])
    model.build((None, 1))
    lc.save_keras_weights(model, theirs)
    return {kind: theirs if kind in THEIRS else ours for kind in READERS}


# --- not a regular file


@pytest.mark.parametrize("kind", READERS)
def test_reading_a_pipe_does_not_block(kind, tmp_path):
    path = tmp_path / "pipe.npz"
    os.mkfifo(path)
    done = threading.Event()

    def unblock():
        """Open the pipe for writing, in case a reader blocks."""
        while not done.wait(2):
            with contextlib.suppress(OSError):  # there is no reader
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    writer = threading.Thread(target=unblock, daemon=True)
    writer.start()
    try:
        with pytest.raises(OSError, match="not a regular file, so it is not read; give the path of a file"):
            readers(path)[kind]()
    finally:
        done.set()
        writer.join()


@pytest.mark.parametrize("command", [["inspect"], ["convert"]])
def test_the_command_line_does_not_block_on_a_pipe(command, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    target = [str(tmp_path / "out.npz")] if command == ["convert"] else []
    found = subprocess.run(
        [sys.executable, "-m", "lcnumba", *command, str(path), *target],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert found.returncode == 2
    assert "not a regular file" in found.stderr


@pytest.mark.parametrize("kind", READERS)
def test_a_loop_of_links_is_an_error(kind, tmp_path):
    path = tmp_path / "loop"
    path.symlink_to(path.name)
    with pytest.raises(OSError, match="symbolic links"):
        readers(path)[kind]()


# --- errors that are not due to a file


class HandlerError(Exception):
    """Raised by a signal handler."""


@pytest.fixture
def alarm():
    """A signal handler that raises the given error."""
    error = []

    def handle(*_):
        raise error[0]

    before = signal.signal(signal.SIGUSR1, handle)
    yield error
    signal.signal(signal.SIGUSR1, before)


# A function within each reader.
INNER = [
    ("load", npz, "_read_header"), ("load_weights", npz, "_native"), ("resume", npz, "_native"),
    ("resume", checkpoint, "_validate_progress"), ("resume", checkpoint, "restore_generator"),
    ("load", saving, "weights_plan"), ("load_keras", files_, "_index"), ("load_keras", contents, "describe"),
    ("load_keras_weights", models, "read_entries"), ("describe", npz, "_read_header"),
]  # fmt: skip


def before(monkeypatch, module, name, action):
    function = getattr(module, name)

    def changed(*args, **kwargs):
        action()
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, changed)


@pytest.mark.parametrize("error", [TimeoutError("too late"), HandlerError("mine"), ValueError("mine")])
@pytest.mark.parametrize(("kind", "module", "name"), INNER)
def test_errors_of_signal_handlers_pass_unchanged(kind, module, name, error, files, alarm, monkeypatch):
    alarm.append(error)
    before(monkeypatch, module, name, lambda: signal.raise_signal(signal.SIGUSR1))
    with pytest.raises(type(error)) as caught:
        readers(files[kind])[kind]()
    assert caught.value is error


@pytest.mark.parametrize("error", [MemoryError("no room"), OSError(errno.EIO, "Input/output error")])
@pytest.mark.parametrize(("kind", "module", "name"), INNER)
def test_errors_of_memory_and_disk_pass_unchanged(kind, module, name, error, files, monkeypatch):
    def fail():
        raise error

    before(monkeypatch, module, name, fail)
    with pytest.raises(type(error)) as caught:
        readers(files[kind])[kind]()
    assert caught.value is error


def test_a_short_member_allocates_nothing(tmp_path):
    path = tmp_path / "m.npz"
    lc.Sequential([lc.Dense(1 << 16, input_shape=(1,))]).save_weights(path)
    short = tmp_path / "short.npz"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(short, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[: 200 if name == "weight_0.npy" else None])
    model = lc.Sequential([lc.Dense(1 << 16, input_shape=(1,))])
    with pytest.raises(ValueError, match=r"weight_0 has 200 bytes, too few for shape \(1, 65536\)"):
        model.load_weights(short)


@pytest.mark.parametrize("kind", ["save", "save_weights", "Checkpoint", "CSVLogger", "keras"])
def test_an_interrupted_write_completes_and_leaves_no_temp_file(kind, tmp_path, monkeypatch):
    path = tmp_path / ("m.h5" if kind == "keras" else "m.csv" if kind == "CSVLogger" else "m.npz")
    if kind == "keras":
        pytest.importorskip("h5py")
    before(monkeypatch, npz.os, "fsync", lambda: signal.raise_signal(signal.SIGINT))
    before(monkeypatch, zipfile.ZipFile, "open", lambda: signal.raise_signal(signal.SIGINT))
    unlink = Path.unlink

    def interrupted(self, *args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        unlink(self, *args, **kwargs)

    monkeypatch.setattr(Path, "unlink", interrupted)
    write = {
        "save": lambda: net().save(path), "save_weights": lambda: net().save_weights(path),
        "Checkpoint": lambda: train(Checkpoint(path)), "CSVLogger": lambda: train(CSVLogger(path)),
        "keras": lambda: lc.save_keras_weights(net(), path),
    }  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        write[kind]()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]  # complete: the interrupt was deferred


# --- existing checkpoints


def test_a_checkpoint_is_not_replaced_by_a_mistyped_resume(tmp_path):
    path, typo = tmp_path / "run.npz", tmp_path / "rum.npz"
    train(Checkpoint(path), epochs=2)
    content, model, seen = path.read_bytes(), net(), []

    class Begins(Callback):
        def on_train_begin(self, run):
            seen.append(run)

    with pytest.raises(
        ValueError, match=r"resume='.*rum.npz' does not exist, so .* overwrite Checkpoint\('.*run.npz'\), which does"
    ):
        train(Begins(), Checkpoint(path), model=model, resume=typo)
    assert path.read_bytes() == content
    assert not seen
    np.testing.assert_array_equal(model.get_weights()[0], [[0]])


def test_a_second_checkpoint_may_exist_beside_the_resumed_one(tmp_path):
    last, best = tmp_path / "last.npz", tmp_path / "best.npz"
    best.write_bytes(b"")  # written by an earlier training
    assert train(Checkpoint(last), Checkpoint(best, monitor="loss"), resume=last).epoch == [0]
    link = tmp_path / "link.npz"
    link.symlink_to(last)
    assert train(Checkpoint(last), resume=link, epochs=2).epoch == [0, 1]


def test_replacing_a_checkpoint_is_logged(tmp_path, caplog):
    path = tmp_path / "run.npz"
    train(Checkpoint(path))
    assert not caplog.records
    train(Checkpoint(path))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{path} exists and will be overwritten; fit(resume=...) would resume from it" in caplog.text
    caplog.clear()
    train(Checkpoint(path), resume=path, epochs=2)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_relative_paths_are_independent_of_later_chdir(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.chdir(first)

    class Moves(Callback):
        def on_epoch_begin(self, run):
            os.chdir(second)

    train(Checkpoint("m.npz"), CSVLogger("m.csv"), Moves())
    assert sorted(entry.name for entry in first.iterdir()) == ["m.csv", "m.npz"]
    assert list(second.iterdir()) == []


def test_a_warning_as_error_is_raised_before_the_file_is_written(tmp_path):
    class Mine(lc.SGD):
        pass

    path = tmp_path / "m.npz"
    path.write_bytes(b"old")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="does not contain the optimizer 'Mine'"):
            net(optimizer=Mine()).save(path)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["best_{epoch:02d}.npz", "{val_loss:.2f}.npz", "{epoch}"])
def test_templates_of_file_names_are_refused(name):
    with pytest.raises(ValueError, match=r"must not have placeholders in braces, got .*: a single file is written"):
        Checkpoint(name)


def test_braces_without_fields_are_allowed(tmp_path):
    (tmp_path / "{run}").mkdir()
    train(Checkpoint(tmp_path / "{run}" / "{}{3F25-0}.npz"))
    assert (tmp_path / "{run}" / "{}{3F25-0}.npz").is_file()


# --- custom layers without get_weights


class Scale:
    """A minimal layer of the protocol, with one weight."""

    name = "scale"

    def __init__(self, name="scale"):
        self.name, self.factor = name, 1.0

    def build(self, input_shape):
        pass

    def compute_output_shape(self, input_shape):
        return input_shape

    def __call__(self, x):
        return x * self.factor

    def forward(self, x):
        return x * self.factor, lambda dy: (dy * self.factor, (dy * x).sum())

    def step(self, grads, lr):
        self.factor -= lr * grads

    def get_config(self):
        return {"name": self.name}


class Fixed(Scale):
    """Without a weight."""

    def forward(self, x):
        return x, lambda dy: (dy, None)

    def step(self, grads, lr):
        pass


class InState(Scale):
    """With its weight in the training state."""

    def get_training_state(self):
        return {"factor": self.factor}

    def plan_training_state(self, state):
        return lambda: setattr(self, "factor", state["factor"])


def of(layer):
    inner = lc.Sequential([layer, lc.Dense(1, kernel_initializer="ones")])
    return lc.Sequential([inner, lc.Dense(1, kernel_initializer="ones", input_shape=(1,))])


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 1.0}])
def test_weights_that_are_not_saved_are_a_warning(clip, tmp_path):
    model = of(Scale())
    model.compile("sgd", "mse", **clip)
    lost = r"the weights of layer 'scale' \(Scale\), which training changes; implement get_weights\(\)"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(Checkpoint(tmp_path / "m.npz"), EarlyStopping("loss", patience=9), model=model, epochs=3)
    messages = sorted(str(warning.message) for warning in caught)
    assert [text.partition(" the weights of")[0] for text in messages] == [
        "restore_best of EarlyStopping does not restore", "the checkpoint does not contain",
    ]  # fmt: skip
    for save in (model.save, model.save_weights):
        with pytest.warns(UserWarning, match="the file does not contain " + lost):
            save(tmp_path / "m.npz")


@pytest.mark.parametrize("layer", [Fixed, InState, lc.Flatten, lc.Dense])
def test_layers_that_lose_nothing_are_no_warning(layer, tmp_path):
    model = of(layer(1) if layer is lc.Dense else layer())
    model.compile("sgd", "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(Checkpoint(tmp_path / "m.npz"), model=model, epochs=2)
        if layer is not InState:
            model.save(tmp_path / "m.npz")


# --- messages


def test_a_missing_folder_is_named(tmp_path):
    for callback in (Checkpoint, CSVLogger):
        with pytest.raises(FileNotFoundError, match="no such folder") as caught:
            train(callback(tmp_path / "nowhere" / "m"))
        assert caught.value.filename == str(tmp_path / "nowhere")


def test_inspecting_unknown_files(tmp_path, capsys):
    path = tmp_path / "trash.npz"
    for content, text in (
        (b"trash", "it is not a Keras file (HDF5 or a zip), nor another known type"),
        (b"", "it is empty"), (b"\x93NUMPY", "it is a single NumPy array"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(SystemExit):
            main(["inspect", str(path)])
        assert text in capsys.readouterr().err
    net().save(path)
    with zipfile.ZipFile(path) as file:
        [info] = [info for info in file.infolist() if info.filename == "config.npy"]
    content = bytearray(path.read_bytes())
    content[info.header_offset + 200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(SystemExit):
        main(["inspect", str(path)])
    assert "is not an lcnumba model file: Bad CRC-32" in capsys.readouterr().err


def test_layers_must_be_a_dict(tmp_path):
    model = lc.Sequential([Fixed()])
    model.build((None, 1))
    model.save(tmp_path / "m.npz")
    for given in ([Fixed], Fixed):
        with pytest.raises(TypeError, match=r"layers=.* is a (list|type); give a dict of name to class"):
            lc.load(tmp_path / "m.npz", layers=given)
        with pytest.raises(TypeError, match="give a dict of name to class"):
            lc.Sequential.from_config(model.get_config(), given)
    with pytest.raises(ValueError, match=r"^layer class 'Fixed' is not known; pass layers=\{'Fixed': the class\}"):
        lc.load(tmp_path / "m.npz")


def test_what_the_command_line_cannot_convert(tmp_path, capsys):
    pytest.importorskip("h5py")
    model = lc.Sequential([Fixed(), lc.Dense(1)])
    model.build((None, 1))
    model.save(tmp_path / "own.npz")
    lc.save_keras_weights(net(), tmp_path / "only.weights.h5")
    for source, target, text in (
        ("own.npz", "out.h5", "the command line supports no custom classes: call lcnumba.load(path, layers=...)"),
        (
            "only.weights.h5",
            "out.npz",
            "it holds only weights; give their model: lcnumba.load_keras(path, model) in Python",
        ),
    ):
        with pytest.raises(SystemExit):
            main(["convert", str(tmp_path / source), str(tmp_path / target)])
        assert text in capsys.readouterr().err


@pytest.mark.parametrize("use", [net().save, net().save_weights, net().load_weights, lc.load, Checkpoint, CSVLogger])
def test_an_empty_path(use):
    with pytest.raises(ValueError, match="path='' is empty; give the path of a file"):
        use("")


@pytest.mark.parametrize(("name", "error"), [(3, TypeError), ("a\ud800", ValueError)])
def test_names_of_metrics_must_be_text(name, error, tmp_path):
    class Named:
        __name__ = name

        def __call__(self, y_true, y_pred):
            return 0.0

    for callback in (Checkpoint(tmp_path / "m.npz"), CSVLogger(tmp_path / "m.csv")):
        with pytest.raises(error, match="__name__ of metric="):
            train(callback, metrics=[Named()])
    assert list(tmp_path.iterdir()) == []


def test_a_table_holds_names_of_any_script(tmp_path):
    code = """if True:
        import sys, numpy as np, lcnumba as lc
        def metric(y_true, y_pred): return 0.5
        metric.__name__ = "\\u0442"
        model = lc.Sequential([lc.Dense(1, kernel_initializer="zeros")])
        model.fit(np.ones((1, 1)), np.ones((1, 1)), loss="mse", metrics=[metric], progress=False,
                  callbacks=[lc.callbacks.CSVLogger(sys.argv[1])])
    """
    settings = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.csv")], env=settings, check=True, timeout=120)
    assert (tmp_path / "m.csv").read_text(encoding="utf-8") == "epoch,loss,\u0442\n0,1.0,0.5\n"
