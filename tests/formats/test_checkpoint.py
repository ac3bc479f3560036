"""Checkpoints: interrupted training resumes bit for bit, and a damaged file is never taken for a good one."""

import collections
import copy
import json
import os
import warnings
import zipfile

import killed_training
import numpy as np
import pytest

import lcnumba as lc
from lcnumba.callbacks import Callback, Checkpoint, CSVLogger, EarlyStopping, LearningRate
from lcnumba.formats import checkpoint, npz
from lcnumba.utils import random_state


def net(seed=0, optimizer="adam"):
    layers = [
        lc.LocallyConnected2D(2, 2, activation="relu", input_shape=(4, 3, 1), rng=seed, fans="window"),
        lc.Dropout(0.25),  # unseeded: its random state must come from the checkpoint
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
    """Raise after this many batches."""

    def __init__(self, after):
        self.left = after

    def after_batch(self, run, logs):
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
    """Train with five batches an epoch; return weights, states, the history and the log."""
    x, y = data
    given = callbacks(path, every_batches=every)
    history = model.fit(
        x, y, epochs=epochs, batch_size=5, validation_split=0.2, rng=np.random.default_rng(7), progress=False,
        callbacks=[*given, *extra], resume=path, **settings,
    )  # fmt: skip
    table = path.with_suffix(".csv").read_text()
    return model.get_weights(), model.get_training_state(), history.history, history.epoch, given[1].best_epoch, table


def assert_equal(one, other):
    assert checkpoint._encode(one[2:], []) == checkpoint._encode(other[2:], [])
    arrays, others = [], []
    tree, other_tree = checkpoint._encode(one[:2], arrays), checkpoint._encode(other[:2], others)
    assert tree == other_tree
    for a, b in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(a, b)


def copy_of(model):
    """A copy whose unseeded layers draw the same numbers."""
    return copy.deepcopy(model)


@pytest.mark.parametrize("shuffle", [True, "batch"])
@pytest.mark.parametrize(("every", "after"), [(None, 7), (None, 12), (1, 3), (2, 8), (3, 14), (1, 19)])
def test_resumed_training_equals_uninterrupted_training(every, after, shuffle, data, tmp_path):
    first = net()
    whole = fit(copy_of(first), data, tmp_path / "whole.npz", every=every, shuffle=shuffle)
    path = tmp_path / "run.npz"
    with pytest.raises(RuntimeError, match="crash"):
        fit(first, data, path, extra=[Crash(after)], every=every, shuffle=shuffle)
    again = net(seed=5)
    assert_equal(fit(again, data, path, every=every, shuffle=shuffle), whole)


@pytest.mark.parametrize("optimizer", ["sgd", lc.SGD(momentum=0.5), "rmsprop", "adamw"])
def test_every_optimizer_resumes(optimizer, data, tmp_path):
    first = net(optimizer=optimizer)
    whole = fit(copy_of(first), data, tmp_path / "whole.npz")
    with pytest.raises(RuntimeError, match="crash"):
        fit(first, data, tmp_path / "run.npz", extra=[Crash(12)])
    assert_equal(fit(net(9, optimizer), data, tmp_path / "run.npz"), whole)


class Slow:
    """A custom optimizer, with a state of several types."""

    def init(self, param):
        return {"last": (np.zeros_like(param), 0), "rates": [0.5, None]}

    def update(self, param, grad, state, lr):
        last, steps = state["last"]
        param -= lr * (grad + state["rates"][0] * last) / (1 + steps)
        state["last"] = grad.copy(), steps + 1


def test_a_custom_optimizer_resumes(data, tmp_path):
    first = net(optimizer=Slow())
    whole = fit(copy_of(first), data, tmp_path / "whole.npz", lr=0.1)
    with pytest.raises(RuntimeError, match="crash"):
        fit(first, data, tmp_path / "run.npz", extra=[Crash(12)], lr=0.1)
    assert_equal(fit(net(9, Slow()), data, tmp_path / "run.npz", lr=0.1), whole)


def test_a_checkpoint_waits_for_accumulated_gradients(data, tmp_path):
    """With accumulate=2 and 5 batches, a checkpoint that is due after batch 3 is written after batch 4."""

    def network(seed=0):
        model = net(seed)
        model.compile("adam", "softmax_cross_entropy", accumulate=2, clip_norm=0.5)
        return model

    first = network()
    whole = fit(copy_of(first), data, tmp_path / "whole.npz", every=3)
    for after in (8, 9):
        path = tmp_path / f"{after}.npz"
        with pytest.raises(RuntimeError, match="crash"):
            fit(copy_of(first), data, path, extra=[Crash(after)], every=3)
        with npz.ModelFile(path) as file:
            progress = file.training["dict"]["progress"]["dict"]
        assert (progress["epoch"], progress["batch"], progress["step"]) == ((1, 0, 3), (1, 4, 5))[after - 8]
        assert_equal(fit(network(3), data, path, every=3), whole)


def test_resuming_a_finished_training_changes_nothing(data, tmp_path):
    path = tmp_path / "run.npz"
    whole = fit(net(), data, path)
    assert_equal(fit(net(3), data, path), whole)


def test_resuming_with_more_epochs(data, tmp_path):
    first = net()
    whole = fit(copy_of(first), data, tmp_path / "whole.npz")
    fit(first, data, tmp_path / "run.npz", epochs=2)
    assert_equal(fit(net(3), data, tmp_path / "run.npz"), whole)


def test_early_stopping_stays_stopped(data, tmp_path):
    x, y = data
    path = tmp_path / "run.npz"
    settings = {"epochs": 50, "lr": 1.0, "rng": 0, "progress": False, "resume": path}

    def train(model):
        stopping = EarlyStopping("loss", patience=2)
        history = model.fit(x, y, callbacks=[Checkpoint(path), stopping], **settings)
        return history, model.get_weights(), stopping.best_epoch

    one, other = train(net()), train(net(4))
    assert 2 < len(one[0].epoch) < 50
    assert one[0] == other[0]
    assert one[2] == other[2]
    for a, b in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("steps", [None, 3])
def test_iterables_resume(steps, data, tmp_path):
    x, y = data
    loader = [(x[at : at + 5], y[at : at + 5]) for at in range(0, 25, 5)]
    settings = {"epochs": 4, "steps_per_epoch": steps, "progress": False}

    def train(model, path, *extra):
        history = model.fit(loader, callbacks=[Checkpoint(path, every_batches=2), *extra], resume=path, **settings)
        return model.get_weights(), model.get_training_state(), history.history

    first = net()
    whole = train(copy_of(first), tmp_path / "whole.npz")
    for after in (5, 7, 8):
        path = tmp_path / f"{after}.npz"
        with pytest.raises(RuntimeError, match="crash"):
            train(copy_of(first), path, Crash(after))
        assert_equal(train(net(8), path), whole)


def test_load_reads_a_checkpoint(data, tmp_path):
    model = net()
    fit(model, data, tmp_path / "run.npz", epochs=1)
    again = lc.load(tmp_path / "run.npz")
    np.testing.assert_array_equal(again(data[0]), model(data[0]))


def test_monitor_keeps_only_the_best_epoch(tmp_path):
    path, figures, seen = tmp_path / "best.npz", [3, 1, 2, np.nan, 0.5, 4], []

    class Script(Callback):
        def on_epoch_begin(self, run):
            run.model.set_weights([np.array([[figures[run.epoch]]], np.float32)])

    class Look(Callback):
        def after_epoch(self, run, _):
            seen.append(float(lc.load(path).layers[0].kernel[0, 0]))

    model = lc.Sequential([lc.Dense(1, use_bias=False, input_shape=(1,))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(np.ones((2, 1)), np.zeros((2, 1)), loss="mse", lr=0.0, epochs=6, progress=False,
                  callbacks=[Checkpoint(path, monitor="loss"), Script(), Look()])  # fmt: skip
    assert seen == [3, 1, 1, 1, 0.5, 0.5]


def test_frequency_of_checkpoints(data, tmp_path, monkeypatch):
    x, y = data
    seen = []
    monkeypatch.setattr("lcnumba.training.run.Run.save", lambda run, path: seen.append((run.epoch, run.batch)))
    net().fit(x, y, epochs=5, callbacks=[Checkpoint(tmp_path / "a", every=2)], progress=False)
    assert [epoch for epoch, _ in seen] == [1, 3, 4], "and after the last"
    seen.clear()
    net().fit(x, y, batch_size=5, callbacks=[Checkpoint(tmp_path / "a", every_batches=4)], progress=False)
    assert seen == [(0, 4), (0, 6)]


def test_resume_without_a_checkpoint_starts_training(data, tmp_path):
    x, y = data
    one, other = net(), net()
    other.set_weights(one.get_weights())
    settings = {"epochs": 1, "rng": 0, "progress": False}
    other.plan_training_state(one.get_training_state())()
    assert one.fit(x, y, resume=tmp_path / "no.npz", **settings) == other.fit(x, y, **settings)


def write_changed(source, target, change):
    """Write a copy of a checkpoint with a changed description."""
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
    "dropout": lambda text: layers(text)[0].__setitem__(1, 3),
    "dropout of another kind": lambda text: layers(text)[0][1]["dict"].update(bit_generator="MT19937"),
    "negative epoch": lambda text: progress(text).update(epoch=-3),
    "epoch and a half": lambda text: progress(text).update(epoch=1.5),
    "batch": lambda text: progress(text).update(batch=-2),
    "rate": lambda text: progress(text).update(lr=float("nan")),
    "history": lambda text: progress(text)["history"]["dict"]["loss"].pop(),
    "figures": lambda text: progress(text)["sums"]["dict"].update(loss="x"),
    "stopped": lambda text: progress(text).update(finished="x"),
    "steps of adam": lambda text: layers(text)[-1]["dict"]["bias"]["dict"].update(t={"array": 1}),
    "numbers beyond their range": lambda text: progress(text)["rng"]["dict"].update(has_uint32=7),
    "an array twice": lambda text: progress(text)["callbacks"].update(dict={"a": [{"array": 0}, {"array": 0}]}),
    "shape": lambda text: text["model"].update(build_input_shape=[None, 40000, 30000, 1]),
    "no config": lambda text: text.update(model=3),
    "best": lambda text: progress(text)["callbacks"]["dict"]["EarlyStopping 1"]["dict"].update(best="x"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_invalid_checkpoints_change_nothing(change, data, tmp_path):
    x, y = data
    model = net()
    fit(net(), data, tmp_path / "run.npz", epochs=2)
    write_changed(tmp_path / "run.npz", tmp_path / "bad.npz", CHANGES[change])
    before = model.get_weights()
    stopping = EarlyStopping("loss")
    with pytest.raises(ValueError, match=r"cannot resume from '.*bad\.npz': |bad\.npz' holds a model and no training"):
        model.fit(x, y, epochs=3, callbacks=[stopping], resume=tmp_path / "bad.npz", progress=False)
    if change == "best":  # found by the callback, after all other checks
        return
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_damaged_files_are_refused(data, tmp_path):
    x, y = data
    fit(net(), data, tmp_path / "run.npz", epochs=1)
    content = (tmp_path / "run.npz").read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "bad.npz").write_bytes(content[:size])
        with pytest.raises(ValueError, match="is not an lcnumba model file"):
            net().fit(x, y, resume=tmp_path / "bad.npz", progress=False)
    with pytest.raises(OSError, match="directory"):
        net().fit(x, y, resume=tmp_path, progress=False)


def test_other_models_are_refused(data, tmp_path):
    x, y = data
    path = tmp_path / "run.npz"
    fit(net(), data, path, epochs=1)
    inner = r"layer 0 \(LocallyConnected2D '.*'\) in layer 0 \(Sequential '.*'\)"
    for other, message in (
        (net(optimizer="sgd"), rf"optimizer of {inner} is SGD\(.*\) here and Adam\(.*\) in the file"),
        (
            lc.Sequential([lc.Flatten(), lc.Dense(3)]),
            r"it has 2 layers \(Flatten, Dense\) here and 3 layers \(Sequential, Flatten, Dense\) in the file",
        ),
        (
            lc.Sequential([*net().layers[:2], lc.Dense(4)]),
            r"units of layer 2 \(Dense '.*'\) is 4 here and 3 in the file",
        ),
    ):
        with pytest.raises(ValueError, match=f"it belongs to a different model: {message}") as refused:
            other.fit(x, y, loss="softmax_cross_entropy", lr=0.1, resume=path, progress=False)
        assert len(str(refused.value)) < 600
    with pytest.raises(ValueError, match="initial_epoch and resume cannot be combined"):
        net().fit(x, y, resume=path, initial_epoch=1, progress=False)


def test_differences_of_models_are_short():
    """Also with large settings and many layers."""

    def net(mask, count=1):
        layers = [lc.LocallyConnected1D(1, 2, kernel_mask=mask, input_shape=(51, 1), name="masked")]
        return lc.Sequential([*layers, *(lc.Activation("relu") for _ in range(count))]).get_config()

    one, other = np.ones((50, 2), bool), np.eye(50, 2) == 0
    found = checkpoint._difference(json.loads(json.dumps(net(one))), json.loads(json.dumps(net(other))))
    assert found.startswith("kernel_mask of layer 0 (LocallyConnected1D 'masked') is ")
    assert len(found) < 400
    found = checkpoint._difference(net(one, 200), net(one, 300))
    assert found.startswith("it has 201 layers (LocallyConnected1D, Activation, ")
    assert "...) here and 301 layers (" in found
    assert len(found) < 400
    assert checkpoint._difference(net(one, 3), net(one, 3)) == "", "but for names"


def test_custom_optimizers_are_compared_by_class(data, tmp_path):
    """Files of the first versions do not name them."""

    class Other(Slow):
        pass

    x, y = data
    net(optimizer=Slow()).fit(x, y, lr=0.1, callbacks=[Checkpoint(tmp_path / "a.npz")], progress=False)
    with pytest.raises(ValueError, match=r"optimizer of layer 0 .* is Other here and Slow in the file"):
        net(optimizer=Other()).fit(x, y, lr=0.1, resume=tmp_path / "a.npz", progress=False)

    def without_optimizers(text):
        for entry in (text["model"]["layers"][0]["config"]["layers"][0], text["model"]["layers"][2]):
            entry.pop("optimizer_left_out")

    write_changed(tmp_path / "a.npz", tmp_path / "old.npz", without_optimizers)
    net(optimizer=Slow()).fit(x, y, lr=0.1, resume=tmp_path / "old.npz", progress=False)


def test_other_settings_within_an_epoch_are_refused(data, tmp_path):
    path = tmp_path / "run.npz"
    with pytest.raises(RuntimeError, match="crash"):
        fit(net(), data, path, extra=[Crash(3)], every=2)
    with pytest.raises(ValueError, match="resume with the same data and settings"):
        net().fit(*data, batch_size=6, resume=path, progress=False)


def test_what_cannot_be_saved_is_an_error_before_the_first_step(data, tmp_path):
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

    class Forgetful(Callback):
        def get_state(self):
            return {1, 2}

    for settings, callback in (({"optimizer": Odd()}, Callback()), ({}, Forgetful())):
        model = net(**settings)
        before = model.get_weights()
        with pytest.raises(TypeError, match="state of an optimizer, layer or callback, cannot be saved"):
            model.fit(x, y, lr=0.1, callbacks=[Checkpoint(tmp_path / "a.npz"), callback], progress=False)
        np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_states_keep_their_types():
    state = {"a": np.float64(0.1), "b": (1, [2.0, None]), "c": np.array(3), "d": np.float32(0.5), "e": True}
    arrays = []
    tree = json.loads(json.dumps(checkpoint._encode(state, arrays)))
    again = checkpoint._decode(tree, arrays.__getitem__)
    assert again == state
    assert [type(value) for value in again.values()] == [type(value) for value in state.values()]
    pair = collections.namedtuple("pair", "a b")(1, 2)
    with pytest.raises(TypeError, match="cannot be saved"):
        checkpoint._encode(pair, [])


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_random_states_are_validated(kind):
    """NumPy accepts positions out of range, and would read out of bounds."""
    rng = np.random.Generator(getattr(np.random, kind)(3))
    rng.random(5, np.float32)
    state = random_state.generator_state(rng)
    twin = random_state.restore_generator(state)
    assert [twin.random() for _ in range(9)] == [rng.random() for _ in range(9)]
    place = state["state"] if "pos" in state["state"] else state
    for name, value in {"pos": 10**9, "buffer_pos": -1, "has_uint32": 2, "uinteger": 2**40}.items():
        if name in place:
            with pytest.raises(ValueError, match=r"random state (of|has)"):
                random_state.restore_generator(
                    copy.deepcopy(state)
                    | ({"state": state["state"] | {name: value}} if place is not state else {name: value})
                )
    with pytest.raises(ValueError, match=r"random state (of|has)"):
        random_state.restore_generator(
            state, like=np.random.Generator(np.random.MT19937(0)) if kind != "MT19937" else np.random.default_rng()
        )


def test_unbuilt_models_resume(data, tmp_path):
    """Also nested ones; a file for other samples leaves them unbuilt."""

    def network():
        inner = [lc.LocallyConnected2D(2, 2, activation="relu", fans="window"), lc.Dropout(0.25)]
        model = lc.Sequential([lc.Sequential(inner), lc.Flatten(), lc.Dense(3)])
        model.compile("adam", "softmax_cross_entropy", ["accuracy"])
        return model

    first = network()
    first.build((None, 4, 3, 1))
    whole = fit(copy_of(first), data, tmp_path / "whole.npz")
    with pytest.raises(RuntimeError, match="crash"):
        fit(first, data, tmp_path / "run.npz", extra=[Crash(12)])
    assert_equal(fit(network(), data, tmp_path / "run.npz"), whole)
    other = network()
    with pytest.raises(ValueError, match=r"was trained on samples of shape \(4, 3, 1\), not \(5, 3, 1\)"):
        other.fit(np.zeros((3, 5, 3, 1)), np.zeros(3, int), resume=tmp_path / "run.npz", progress=False)
    assert not other.built


def test_several_checkpoints_hold_each_others_state(tmp_path):
    """The last and the best: the one that is written first holds the other's state."""
    figures = [3.0, 1.0, 2.0, 4.0]

    class Script(Callback):
        def on_epoch_begin(self, run):
            run.model.set_weights([np.array([[figures[run.epoch]]], np.float32)])

    def train(epochs):
        last, best = tmp_path / "last.npz", tmp_path / "best.npz"
        model = lc.Sequential([lc.Dense(1, use_bias=False, input_shape=(1,))])
        model.fit(np.ones((2, 1)), np.zeros((2, 1)), loss="mse", lr=0.0, epochs=epochs, progress=False, resume=last,
                  callbacks=[Script(), Checkpoint(last), Checkpoint(best, monitor="loss", every=1)])  # fmt: skip
        return [float(lc.load(path).layers[0].kernel[0, 0]) for path in (last, best)]

    assert [train(epochs) for epochs in (1, 2, 3, 4)] == [[3, 3], [1, 1], [2, 1], [4, 1]]


def test_monitor_compares_only_epochs_that_are_due(tmp_path):
    figures, path = [1.0, 3.0, 2.0, 2.5, 2.0, 2.0], tmp_path / "best.npz"

    class Script(Callback):
        def on_epoch_begin(self, run):
            run.model.set_weights([np.array([[figures[run.epoch]]], np.float32)])

    model = lc.Sequential([lc.Dense(1, use_bias=False, input_shape=(1,))])
    model.fit(np.ones((2, 1)), np.zeros((2, 1)), loss="mse", lr=0.0, epochs=6, progress=False,
              callbacks=[Script(), Checkpoint(path, every=2, monitor="loss")])  # fmt: skip
    assert float(lc.load(path).layers[0].kernel[0, 0]) == 2.0


def test_a_stop_before_the_last_epoch_is_not_saved(data, tmp_path):
    """After a time limit, say, the next run of the script resumes."""
    x, y = data
    path = tmp_path / "run.npz"

    class Stop(Callback):
        def on_epoch_end(self, run, logs):
            run.stop()

    settings = {"epochs": 3, "progress": False, "resume": path}
    for epochs in ([0], [0, 1], [0, 1, 2]):
        assert net().fit(x, y, callbacks=[Stop(), Checkpoint(path)], **settings).epoch == epochs


@pytest.mark.parametrize("every", [None, 1])
@pytest.mark.parametrize("moment", ["on_batch_end", "before_step"])
def test_training_stopped_within_an_epoch_resumes_there(moment, every, data, tmp_path):
    """Between or before steps: no batch is skipped or repeated."""

    class Stop(Callback):
        def __init__(self, step):
            self.step = step

    def stop(self, run, logs):
        if run.step == self.step:
            run.stop()

    setattr(Stop, moment, stop)
    first = net()
    whole = fit(copy_of(first), data, tmp_path / "whole.npz", every=every)
    path = tmp_path / "run.npz"
    if moment == "before_step" and every is None:
        return  # resumes from the previous epoch, as in other tests
    fit(first, data, path, extra=[Stop(12)], every=every)
    assert_equal(fit(net(5), data, path, every=every), whole)


def test_an_epoch_that_is_not_written_is_not_the_best(tmp_path):
    """A diverged epoch with a good metric: a later one that is better than the file is written."""
    path, figures = tmp_path / "best.npz", iter([1.0, 9.0, 5.0])
    losses = iter([1.0, np.inf, 1.0])

    def quality(y_true, y_pred):
        return next(figures)

    def loss(y_true, y_pred):
        return next(losses), np.zeros_like(y_pred)

    class Mark(Callback):
        def on_epoch_end(self, run, _):
            run.model.set_weights([np.full((1, 1), run.epoch, np.float32)])

    model = lc.Sequential([lc.Dense(1, use_bias=False, input_shape=(1,))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(np.ones((2, 1)), np.ones((2, 1)), loss=loss, metrics=[quality], lr=0.0, epochs=3, progress=False,
                  callbacks=[Mark(), Checkpoint(path, monitor="quality", mode="max")])  # fmt: skip
    assert float(lc.load(path).layers[0].kernel[0, 0]) == 2


def test_a_callback_that_refuses_its_state_leaves_the_model(data, tmp_path):
    class Odd(Callback):
        def get_state(self):
            return {"a": 1}

        def set_state(self, state):
            raise KeyError("b")

    x, y = data
    path, model = tmp_path / "run.npz", net()
    net(3).fit(x, y, callbacks=[Checkpoint(path), Odd()], progress=False)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"cannot resume from '.*': KeyError\('b'\)"):
        model.fit(x, y, callbacks=[Odd()], resume=path, progress=False)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_callers_generator_is_resumed(data, tmp_path):
    x, y = data
    path, rng, twin = tmp_path / "run.npz", np.random.default_rng(3), np.random.default_rng(3)
    net().fit(x, y, epochs=3, rng=twin, progress=False)
    net().fit(x, y, epochs=2, callbacks=[Checkpoint(path)], rng=np.random.default_rng(3), progress=False)
    net().fit(x, y, epochs=3, rng=rng, resume=path, progress=False)
    assert rng.random() == twin.random()


def test_other_metrics_within_an_epoch_are_refused(data, tmp_path):
    path = tmp_path / "run.npz"
    with pytest.raises(RuntimeError, match="crash"):
        fit(net(), data, path, extra=[Crash(3)], every=2)
    with pytest.raises(ValueError, match="resume with the same data and settings"):
        fit(net(), data, path, every=2, metrics=[])


def test_an_epoch_that_diverged_is_not_written(tmp_path):
    path = tmp_path / "run.npz"
    x = np.ones((4, 1))
    model = lc.Sequential([lc.Dense(1, use_bias=False, input_shape=(1,))])
    settings = {"loss": "mse", "callbacks": [Checkpoint(path)], "progress": False, "resume": path}
    model.fit(x, x, epochs=1, **settings)
    good = path.read_bytes()
    with pytest.warns(RuntimeWarning, match="the loss is nan"):
        model.fit(np.full((4, 1), np.nan), x, epochs=2, **settings)
    assert path.read_bytes() == good


def test_a_full_disk_is_a_warning_and_keeps_the_last_checkpoint(data, tmp_path, monkeypatch):
    x, y = data
    path = tmp_path / "run.npz"
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr("lcnumba.formats.npz.os.fsync", full)
    model = net()
    with pytest.warns(RuntimeWarning, match=r"checkpoint of epoch [23] not written: .*No space left") as seen:
        model.fit(x, y, epochs=3, callbacks=[Checkpoint(path)], progress=False, rng=0)
    assert len(seen) == 2
    assert len(model.history.epoch) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.npz"]
    again = net()
    again.fit(x, y, epochs=1, resume=path, progress=False)
    assert again.history.epoch == [0]


def test_stale_temp_files_are_removed(data, tmp_path):
    path = tmp_path / "run.npz"
    stale, other = tmp_path / ".run.npz.0123abcd", tmp_path / ".run.npz.mine"
    stale.touch(), other.touch()
    fit(net(), data, path, epochs=1)
    assert not stale.exists()
    assert other.exists()


def test_saving_at_other_moments_is_refused(data, tmp_path):
    model = net()
    model.compile("sgd", "softmax_cross_entropy", accumulate=3)

    def save(run, *_):
        run.save(tmp_path / "a.npz")

    for moment in ("after_batch", "on_epoch_begin", "before_step"):
        saving = type("Save", (Callback,), {moment: lambda self, *given: save(*given)})()
        with pytest.raises(RuntimeError, match="a checkpoint can only be written after a step or an epoch"):
            model.fit(*data, callbacks=[saving], batch_size=5, progress=False)


@pytest.mark.slow
def test_a_killed_training_resumes(tmp_path):
    """At three moments; the script `killed_training.py` takes more."""
    results = killed_training.run(tmp_path, kills=3, seed=0)
    assert results["kills"] == results["readable"] == 3
    assert results["equal"]
