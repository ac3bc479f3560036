"""Checkpoints: a training that is broken off goes on bit for bit, and a broken file never passes for a good one."""

import copy
import json
import os
import warnings
import zipfile

import killed_training
import numpy as np
import pytest

import lcnumba as lc
from lcnumba import checkpoints
from lcnumba.callbacks import Callback, Checkpoint, CSVLogger, EarlyStopping, LearningRate


def net(seed=0, optimizer="adam"):
    layers = [
        lc.LocallyConnected2D(2, 2, activation="relu", input_shape=(4, 3, 1), rng=seed, fans="window"),
        lc.Dropout(0.25),  # unseeded: its numbers must come from the checkpoint
        lc.Flatten(),
        lc.Dense(3, rng=seed),
    ]
    model = lc.Sequential([lc.Sequential(layers[:2]), *layers[2:]])
    model.compile(optimizer, "softmax_cross_entropy", ["accuracy"])
    return model


@pytest.fixture
def data(rng):
    return rng.standard_normal((27, 4, 3, 1), np.float32), rng.integers(0, 3, 27)


class Crash(Callback):
    """Raise after so many batches in all."""

    last = True

    def __init__(self, after):
        self.left = after

    def on_batch_end(self, run, figures):
        self.left -= 1
        if not self.left:
            raise RuntimeError("crash")


def callbacks(path, **settings):
    return [
        Checkpoint(path, **settings),
        EarlyStopping("val_loss", patience=50),
        LearningRate(lambda epoch, lr: lr * 0.9),
        CSVLogger(path.with_suffix(".csv")),
    ]


def fit(model, data, path, extra=(), every=None, epochs=5, **settings):
    """Five batches of an epoch; weights, what early stopping holds, and the history."""
    x, y = data
    given = callbacks(path, every_batches=every)
    history = model.fit(
        x, y, epochs=epochs, batch_size=5, validation_split=0.2, rng=np.random.default_rng(7), progress=False,
        callbacks=[*given, *extra], resume=path, **settings,
    )  # fmt: skip
    table = path.with_suffix(".csv").read_text()
    return model.get_weights(), model.get_training_state(), history.history, history.epoch, given[1].best_epoch, table


def equal(one, other):
    assert checkpoints._encode(one[2:], []) == checkpoints._encode(other[2:], [])
    arrays, others = [], []
    tree, other_tree = checkpoints._encode(one[:2], arrays), checkpoints._encode(other[:2], others)
    assert tree == other_tree
    for a, b in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(a, b)


def copied(model):
    """A model whose unseeded layers draw the same numbers."""
    return copy.deepcopy(model)


@pytest.mark.parametrize("shuffle", [True, "batch"])
@pytest.mark.parametrize(("every", "after"), [(None, 7), (None, 12), (1, 3), (2, 8), (3, 14), (1, 19)])
def test_a_resumed_training_equals_an_unbroken_one(every, after, shuffle, data, tmp_path):
    first = net()
    whole = fit(copied(first), data, tmp_path / "whole.npz", every=every, shuffle=shuffle)
    path = tmp_path / "run.npz"
    with pytest.raises(RuntimeError, match="crash"):
        fit(first, data, path, extra=[Crash(after)], every=every, shuffle=shuffle)
    again = net(seed=5)
    equal(fit(again, data, path, every=every, shuffle=shuffle), whole)


@pytest.mark.parametrize("optimizer", ["sgd", lc.SGD(0.5), "rmsprop", "adamw"])
def test_every_optimizer_goes_on(optimizer, data, tmp_path):
    first = net(optimizer=optimizer)
    whole = fit(copied(first), data, tmp_path / "whole.npz")
    with pytest.raises(RuntimeError, match="crash"):
        fit(first, data, tmp_path / "run.npz", extra=[Crash(12)])
    equal(fit(net(9, optimizer), data, tmp_path / "run.npz"), whole)


class Slow:
    """An optimizer of a user's, with a state of several kinds."""

    def init(self, param):
        return {"last": (np.zeros_like(param), 0), "rates": [0.5, None]}

    def update(self, param, grad, state, lr):
        last, steps = state["last"]
        param -= lr * (grad + state["rates"][0] * last) / (1 + steps)
        state["last"] = grad.copy(), steps + 1


def test_an_optimizer_of_ones_own_goes_on(data, tmp_path):
    first = net(optimizer=Slow())
    whole = fit(copied(first), data, tmp_path / "whole.npz", lr=0.1)
    with pytest.raises(RuntimeError, match="crash"):
        fit(first, data, tmp_path / "run.npz", extra=[Crash(12)], lr=0.1)
    equal(fit(net(9, Slow()), data, tmp_path / "run.npz", lr=0.1), whole)


def test_accumulated_gradients_are_waited_for(data, tmp_path):
    """Of 5 batches, 2 together: a checkpoint that is due after batch 3 is written after batch 4."""

    def network(seed=0):
        model = net(seed)
        model.compile("adam", "softmax_cross_entropy", accumulate=2, clip_norm=0.5)
        return model

    first = network()
    whole = fit(copied(first), data, tmp_path / "whole.npz", every=3)
    for after in (8, 9):
        path = tmp_path / f"{after}.npz"
        with pytest.raises(RuntimeError, match="crash"):
            fit(copied(first), data, path, extra=[Crash(after)], every=3)
        with lc.sequential.io.ModelFile(path) as file:
            progress = file.training["dict"]["progress"]["dict"]
        assert (progress["epoch"], progress["batch"], progress["step"]) == ((1, 0, 3), (1, 4, 5))[after - 8]
        equal(fit(network(3), data, path, every=3), whole)


def test_a_finished_training_resumes_to_itself(data, tmp_path):
    path = tmp_path / "run.npz"
    whole = fit(net(), data, path)
    equal(fit(net(3), data, path), whole)


def test_more_epochs_may_follow(data, tmp_path):
    first = net()
    whole = fit(copied(first), data, tmp_path / "whole.npz")
    fit(first, data, tmp_path / "run.npz", epochs=2)
    equal(fit(net(3), data, tmp_path / "run.npz"), whole)


def test_early_stopping_stays_stopped(data, tmp_path):
    x, y = data
    path = tmp_path / "run.npz"
    settings = {"epochs": 50, "lr": 1.0, "rng": 0, "progress": False, "resume": path}

    def go(model):
        stopping = EarlyStopping("loss", patience=2)
        history = model.fit(x, y, callbacks=[Checkpoint(path), stopping], **settings)
        return history, model.get_weights(), stopping.best_epoch

    one, other = go(net()), go(net(4))
    assert 2 < len(one[0].epoch) < 50
    assert one[0] == other[0]
    assert one[2] == other[2]
    for a, b in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("steps", [None, 3])
def test_iterables_go_on(steps, data, tmp_path):
    x, y = data
    loader = [(x[at : at + 5], y[at : at + 5]) for at in range(0, 25, 5)]
    settings = {"epochs": 4, "steps_per_epoch": steps, "progress": False}

    def go(model, path, *extra):
        history = model.fit(loader, callbacks=[Checkpoint(path, every_batches=2), *extra], resume=path, **settings)
        return model.get_weights(), model.get_training_state(), history.history

    first = net()
    whole = go(copied(first), tmp_path / "whole.npz")
    for after in (5, 7, 8):
        path = tmp_path / f"{after}.npz"
        with pytest.raises(RuntimeError, match="crash"):
            go(copied(first), path, Crash(after))
        equal(go(net(8), path), whole)


def test_a_model_can_be_read_from_a_checkpoint(data, tmp_path):
    model = net()
    fit(model, data, tmp_path / "run.npz", epochs=1)
    again = lc.load(tmp_path / "run.npz")
    np.testing.assert_array_equal(again(data[0]), model(data[0]))


def test_the_best_alone_is_kept_if_wanted(tmp_path):
    path, figures, seen = tmp_path / "best.npz", [3, 1, 2, np.nan, 0.5, 4], []

    class Script(Callback):
        def on_epoch_begin(self, run):
            run.model.set_weights([np.array([[figures[run.epoch]]], np.float32)])

    class Look(Callback):
        last = True

        def on_epoch_end(self, run, _):
            seen.append(float(lc.load(path).layers[0].kernel[0, 0]))

    model = lc.Sequential([lc.Dense(1, use_bias=False, input_shape=(1,))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(np.ones((2, 1)), np.zeros((2, 1)), loss="mse", lr=0.0, epochs=6, progress=False,
                  callbacks=[Checkpoint(path, monitor="loss"), Script(), Look()])  # fmt: skip
    assert seen == [3, 1, 1, 1, 0.5, 0.5]


def test_how_often(data, tmp_path, monkeypatch):
    x, y = data
    seen = []
    monkeypatch.setattr("lcnumba.training.Run.save", lambda run, path: seen.append((run.epoch, run.batch)))
    net().fit(x, y, epochs=5, callbacks=[Checkpoint(tmp_path / "a", every=2)], progress=False)
    assert [epoch for epoch, _ in seen] == [1, 3, 4], "and after the last"
    seen.clear()
    net().fit(x, y, batch_size=5, callbacks=[Checkpoint(tmp_path / "a", every_batches=4)], progress=False)
    assert seen == [(0, 4), (0, 6)]


def test_no_checkpoint_is_a_beginning(data, tmp_path):
    x, y = data
    one, other = net(), net()
    other.set_weights(one.get_weights())
    settings = {"epochs": 1, "rng": 0, "progress": False}
    other.prepare_training_state(one.get_training_state())()
    assert one.fit(x, y, resume=tmp_path / "no.npz", **settings) == other.fit(x, y, **settings)


def tampered(source, target, change):
    """A checkpoint whose description has been changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            if member == "config.npy":
                text = json.loads(np.lib.format.read_array(old.open(member)).tobytes())
                change(text)
                with new.open(member, "w") as stream:
                    np.lib.format.write_array(stream, np.frombuffer(json.dumps(text).encode(), np.uint8))
            else:
                new.writestr(member, content)


def progress(text):
    return text["training"]["dict"]["progress"]["dict"]


def layers(text):
    return text["training"]["dict"]["layers"]


CHANGES = {
    "no rng": lambda text: progress(text).pop("rng"),
    "unknown rng": lambda text: progress(text)["rng"]["dict"].update(bit_generator="Mine"),
    "no epoch": lambda text: progress(text).pop("epoch"),
    "sums": lambda text: progress(text).update(sums=3),
    "array that is not there": lambda text: progress(text).update(step={"array": 99}),
    "kind of value": lambda text: progress(text).update(step={"mine": 99}),
    "layers": lambda text: layers(text).pop(),
    "state of another layer": lambda text: layers(text)[-1]["dict"].update(mine=layers(text)[-1]["dict"].pop("bias")),
    "state of other shape": lambda text: layers(text)[-1]["dict"]["bias"]["dict"].update(m={"array": 0}),
    "no training": lambda text: text.pop("training"),
    "not a tree": lambda text: text.update(training=3),
    "dropout": lambda text: layers(text)[0].__setitem__(1, None if False else 3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_make_no_sense_change_nothing(change, data, tmp_path):
    x, y = data
    model = net()
    fit(net(), data, tmp_path / "run.npz", epochs=2)
    tampered(tmp_path / "run.npz", tmp_path / "bad.npz", CHANGES[change])
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"bad\.npz"):
        model.fit(x, y, epochs=3, resume=tmp_path / "bad.npz", progress=False)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_broken_files_are_told(data, tmp_path):
    x, y = data
    fit(net(), data, tmp_path / "run.npz", epochs=1)
    content = (tmp_path / "run.npz").read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "bad.npz").write_bytes(content[:size])
        with pytest.raises(ValueError, match="is no model file"):
            net().fit(x, y, resume=tmp_path / "bad.npz", progress=False)
    with pytest.raises(OSError, match="directory"):
        net().fit(x, y, resume=tmp_path, progress=False)


def test_other_models_are_refused(data, tmp_path):
    x, y = data
    path = tmp_path / "run.npz"
    fit(net(), data, path, epochs=1)
    for other, message in (
        (
            net(optimizer="sgd"),
            r"layers\[0\]\.config\.layers\[0\]\.optimizer\.class_name is 'SGD' here and 'Adam' there",
        ),
        (lc.Sequential([lc.Flatten(), lc.Dense(3)]), "is a checkpoint of another model: layers is"),
    ):
        with pytest.raises(ValueError, match=message):
            other.fit(x, y, loss="softmax_cross_entropy", resume=path, progress=False)
    with pytest.raises(ValueError, match="initial_epoch or resume, not both"):
        net().fit(x, y, resume=path, initial_epoch=1, progress=False)


def test_other_settings_within_an_epoch_are_refused(data, tmp_path):
    path = tmp_path / "run.npz"
    with pytest.raises(RuntimeError, match="crash"):
        fit(net(), data, path, extra=[Crash(3)], every=2)
    with pytest.raises(ValueError, match="resume with the same data and settings"):
        net().fit(*data, batch_size=6, resume=path, progress=False)


def test_what_cannot_be_saved_is_told_before_the_first_step(data, tmp_path):
    class Mine:
        def __call__(self, z, out=None):
            return z

        def gradient(self, dy, y):
            return dy

    x, y = data
    model = lc.Sequential([lc.Flatten(), lc.Dense(3, activation=Mine())])
    with pytest.raises(TypeError, match="cannot be saved"):
        model.fit(x, y, loss="softmax_cross_entropy", callbacks=[Checkpoint(tmp_path / "a.npz")], progress=False)
    assert not model.built

    class Odd(Slow):
        def init(self, param):
            return {"mine": object()}

    with pytest.raises(TypeError, match="part of the state of an optimizer, a layer or a callback, cannot be saved"):
        checkpoints._encode(Odd().init(None), [])


def test_a_full_disk_is_a_warning_and_the_last_checkpoint_stays(data, tmp_path, monkeypatch):
    x, y = data
    path = tmp_path / "run.npz"
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr("lcnumba.io.os.fsync", full)
    model = net()
    with pytest.warns(RuntimeWarning, match=r"no checkpoint of epoch [23]: .*No space left") as seen:
        model.fit(x, y, epochs=3, callbacks=[Checkpoint(path)], progress=False, rng=0)
    assert len(seen) == 2
    assert len(model.history.epoch) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.npz"]
    again = net()
    again.fit(x, y, epochs=1, resume=path, progress=False)
    assert again.history.epoch == [0]


def test_what_killed_writers_left_is_swept_away(data, tmp_path):
    path = tmp_path / "run.npz"
    left, other = tmp_path / ".run.npz.0123abcd", tmp_path / ".run.npz.mine"
    left.touch(), other.touch()
    fit(net(), data, path, epochs=1)
    assert not left.exists()
    assert other.exists()


def test_saving_between_batches_of_one_step_is_refused(data, tmp_path):
    model = net()
    model.compile("sgd", "softmax_cross_entropy", accumulate=3)

    class Save(Callback):
        def on_batch_end(self, run, figures):
            run.save(tmp_path / "a.npz")

    with pytest.raises(RuntimeError, match="save between steps"):
        model.fit(*data, callbacks=[Save()], batch_size=5, progress=False)


def test_a_killed_training_goes_on(tmp_path):
    """Killed at some moments; the script does it for as often as one likes."""
    figures = killed_training.run(tmp_path, kills=3, seed=0)
    assert figures["kills"] == figures["readable"] == 3
    assert figures["equal"]
