import csv
import logging
import warnings

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.callbacks import Callback, Checkpoint, CSVLogger, EarlyStopping, LearningRate, Progress, TerminateOnNaN
from lcnumba.training.run import Run


class Script(Callback):
    """Figures as a test wants them: it changes the weight so that the loss of the next epoch is the next number."""

    def __init__(self, losses):
        self.losses = losses

    def on_epoch_begin(self, run):
        run.model.set_weights([np.array([[self.losses[run.epoch]]], np.float32)])


def line():
    """One weight w, and the loss w^2; lr=0 leaves it alone."""
    return lc.Sequential([lc.Dense(1, use_bias=False, input_shape=(1,))])


ONES = np.ones((4, 1)), np.zeros((4, 1))
SETTINGS = {"loss": "mse", "lr": 0.0, "progress": False}


def run(figures, *callbacks, **settings):
    model = line()
    history = model.fit(*ONES, epochs=len(figures), callbacks=[Script(figures), *callbacks], **SETTINGS, **settings)
    return model, history


@pytest.mark.parametrize(
    ("figures", "settings", "epochs", "best"),
    [
        ([3, 2, 1, 2, 3], {}, 4, 2),
        ([3, 2, 2, 1, 1], {}, 3, 1),
        ([3, 4, 2, 3, 4, 1], {"patience": 2}, 5, 2),
        ([3, 4, 2, 3, 1, 1], {"patience": 2}, 6, 4),
        ([3, 2.9, 2.8, 1], {"min_delta": 1.0}, 2, 0),
        ([1, 2, 3, 1], {"mode": "max"}, 4, 2),
        ([1, 2, 3], {}, 2, 0),
        ([np.nan, np.nan, 1], {"patience": 3}, 3, 2),
    ],
)
def test_early_stopping_goes_back_to_the_best_weights(figures, settings, epochs, best):
    stopping = EarlyStopping("loss", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, history = run(figures, stopping)
    assert len(history.epoch) == epochs
    assert stopping.best_epoch == best
    assert stopping.best == pytest.approx(figures[best] ** 2)
    assert float(model.layers[0].kernel[0, 0]) == np.float32(figures[best])


def test_accuracies_are_better_when_larger(rng):
    x, y = rng.standard_normal((30, 2)), np.arange(30) % 2
    model = lc.Sequential([lc.Dense(2, rng=0)])
    stopping = EarlyStopping("val_accuracy", patience=100)
    history = model.fit(x, y, loss="softmax_cross_entropy", metrics=["accuracy"], epochs=8, lr=0.1, rng=0,
                        validation_data=(x, y), callbacks=[stopping], progress=False).history  # fmt: skip
    assert stopping.best == max(history["val_accuracy"])
    assert model.evaluate(x, y, loss="softmax_cross_entropy", metrics=["accuracy"])["accuracy"] == stopping.best


def test_early_stopping_may_leave_the_weights():
    model, _ = run([1, 2, 3], EarlyStopping("loss", restore_best=False))
    assert float(model.layers[0].kernel[0, 0]) == 2


def test_early_stopping_begins_anew_with_every_fit():
    stopping = EarlyStopping("loss")
    run([1, 2], stopping)
    _, history = run([5, 4, 3, 2, 3], stopping)
    assert len(history.epoch) == 5
    assert stopping.best == 4


@pytest.mark.parametrize("make", [EarlyStopping, lambda name="val_loss": Checkpoint("x.npz", monitor=name)])
def test_figures_that_there_will_not_be_are_told_before_the_first_step(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="monitor='val_loss' is not a metric of this training; give one of loss"):
        run([1, 2], make())
    with pytest.raises(TypeError, match="monitor must be the name of a metric, got 3"):
        make(3)


def test_the_table_is_complete_at_any_time(tmp_path):
    path, seen = tmp_path / "log.csv", []

    class Look(Callback):
        def after_epoch(self, run, logs):
            seen.append(path.read_text())

    _, history = run([3, 2, 1], CSVLogger(path), Look(), metrics=["mae"])
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [float(row["loss"]) for row in rows] == history.history["loss"]
    assert [float(row["mae"]) for row in rows] == history.history["mae"] == [3, 2, 1]
    assert [text.count("\n") for text in seen] == [2, 3, 4]
    run([3], CSVLogger(path, separator=";"))
    assert path.read_text() == "epoch;loss\n0;9.0\n"
    with pytest.raises(ValueError, match="separator must be a single character, got ''"):
        CSVLogger(path, separator="")


def test_a_folder_that_is_not_there_is_told_before_the_first_step(tmp_path):
    for callback in (CSVLogger(tmp_path / "no" / "log.csv"), Checkpoint(tmp_path / "no" / "run.npz")):
        seen = []

        class See(Callback):
            def on_epoch_begin(self, run, seen=seen):
                seen.append(run.epoch)

        with pytest.raises(FileNotFoundError):
            run([1], See(), callback)
        assert seen == []


def test_a_table_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch):
    full = CSVLogger(tmp_path / "log.csv")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lcnumba.formats.npz.os.fsync", no_space)
    with pytest.warns(RuntimeWarning, match="log of epoch . not written: .*No space left") as seen:
        _, history = run([1, 2], full)
    assert len(history.epoch) == len(seen) == 2
    assert list(tmp_path.iterdir()) == []


def test_rates_by_epoch(rng):
    x, y = rng.standard_normal((8, 1)), rng.standard_normal((8, 1))
    seen = []

    def schedule(epoch, lr):
        seen.append((epoch, lr))
        return lr / 2

    one, other = line(), line()
    other.set_weights(one.get_weights())
    one.fit(x, y, loss="mse", lr=1.0, epochs=3, batch_size=8, shuffle=False, callbacks=[LearningRate(schedule)],
            progress=False)  # fmt: skip
    for rate in (0.5, 0.25, 0.125):
        other.train_on_batch(x, y, loss="mse", lr=rate)
    np.testing.assert_array_equal(one.get_weights()[0], other.get_weights()[0])
    assert seen == [(0, 1.0), (1, 0.5), (2, 0.25)]
    with pytest.raises(ValueError, match=r"lr must be at least 0 .*, got -1"):
        line().fit(x, y, loss="mse", callbacks=[LearningRate(lambda epoch, lr: -1)], progress=False)
    with pytest.raises(TypeError, match=r"schedule must be a function \(epoch, lr\) -> lr, got 0\.1"):
        LearningRate(0.1)


def test_a_loss_that_is_not_finite_ends_the_training_before_its_step():
    x = np.ones((9, 1))
    x[4] = np.inf
    model, twin = line(), line()
    twin.set_weights(model.get_weights())
    settings = {"loss": "mse", "batch_size": 2, "shuffle": False, "lr": 0.1, "progress": False}
    with pytest.warns(RuntimeWarning, match="the loss is inf in epoch 1, batch 3"):
        history = model.fit(x, np.zeros((9, 1)), epochs=5, callbacks=[TerminateOnNaN()], **settings)
    twin.fit(x[:4], np.zeros((4, 1)), **settings)
    np.testing.assert_array_equal(model.get_weights()[0], twin.get_weights()[0])
    assert history.epoch == [0]


def test_the_moments_and_their_order():
    seen = []

    class Tell(Callback):
        def __init__(self, name):
            self.name = name

        def __getattribute__(self, name):
            if name in ("on_train_begin", "on_epoch_begin", "before_step", "on_batch_end", "after_batch",
                        "on_epoch_end", "after_epoch", "on_train_end"):  # fmt: skip
                return lambda *_: seen.append(f"{object.__getattribute__(self, 'name')} {name}")
            return object.__getattribute__(self, name)

    line().fit(*ONES, **SETTINGS, batch_size=2, callbacks=[Tell("a"), Tell("b")])
    moments = ["on_train_begin", "on_epoch_begin", "before_step", "on_batch_end", "after_batch", "before_step",
               "on_batch_end", "after_batch", "on_epoch_end", "after_epoch", "on_train_end"]  # fmt: skip
    assert seen == [f"{name} {moment}" for moment in moments for name in "ab"]


def test_callbacks_are_closed_whatever_happens():
    seen = []

    class Fails(Callback):
        def on_batch_end(self, run, logs):
            raise RuntimeError("mine")

        def on_train_end(self, run):
            seen.append("end")

        def close(self):
            seen.append("closed")

    with pytest.raises(RuntimeError, match="mine"):
        run([1], Fails())
    assert seen == ["closed"]

    class FailsToClose(Callback):
        def close(self):
            raise OSError("not mine")

    with pytest.raises(OSError, match="not mine") as caught:
        run([1], Fails(), FailsToClose())
    assert seen == ["closed"] * 2
    assert "mine" in str(caught.value.__context__)


def test_stop_ends_the_training_after_the_batch():
    class Stop(Callback):
        def on_batch_end(self, run, logs):
            if run.step == 3:
                run.stop()

    model = line()
    history = model.fit(*ONES, batch_size=2, epochs=9, callbacks=Stop(), **SETTINGS)
    assert history.epoch == [0, 1]


def test_a_callback_may_set_the_rate_and_read_it():
    class Set(Callback):
        def on_batch_end(self, run, logs):
            run.lr = 0.25

        def on_epoch_end(self, run, logs):
            assert run.lr == 0.25
            with pytest.raises(ValueError, match=r"lr must be at least 0 .*, got -1"):
                run.lr = -1

    line().fit(*ONES, callbacks=[Set()], **SETTINGS)


def test_what_is_no_callback():
    for bad in ([3], 3, [Progress]):
        with pytest.raises(TypeError, match="give instances of subclasses"):
            line().fit(*ONES, callbacks=bad, **SETTINGS)


def test_bars_and_lines(capsys, monkeypatch):
    """One bar an epoch, closed at its end, also if it is interrupted; one that is given is not added again."""
    import tqdm.auto

    made = []

    class Bar(tqdm.auto.tqdm):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            made.append(self)

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    settings = {**SETTINGS, "progress": True}
    line().fit(*ONES, batch_size=2, epochs=2, callbacks=[Progress()], **settings)
    assert [(bar.n, bar.total, bar.desc) for bar in made] == [(2, 2, "epoch 1/2"), (2, 2, "epoch 2/2")]

    class Fails(Callback):
        def on_batch_end(self, run, logs):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        line().fit(*ONES, callbacks=[Fails()], **settings)
    assert all(bar.disable for bar in made[:2]), "tqdm's way to say closed"
    assert made[2].disable
    assert "epoch 1/2" in capsys.readouterr().err
    line().fit(iter([ONES]), **settings)
    assert made[3].total is None


def test_the_logger_of_the_library_has_no_output_of_its_own():
    handlers = logging.getLogger("lcnumba").handlers
    assert all(isinstance(handler, logging.NullHandler) for handler in handlers)


@pytest.mark.parametrize("make", [lc.callbacks.Checkpoint, lc.callbacks.CSVLogger])
def test_paths_that_are_none(make):
    for path in (None, 3, b"bytes"):
        with pytest.raises(TypeError, match=r"path=.*; give a str or a pathlib.Path"):
            make(path)
    for path in ("a\0b", "\ud800"):
        with pytest.raises(ValueError, match=r"path=.* contains characters that are not allowed"):
            make(path)


@pytest.mark.parametrize("separator", [None, (1,), "", ",,", "\n", '"', "\ud800"])
def test_separators_that_make_no_table(separator):
    with pytest.raises(ValueError, match=r"separator must be a single character, got .+"):
        lc.callbacks.CSVLogger("table.csv", separator)


def test_callbacks_in_an_array_without_dimensions_are_no_list():
    model = lc.Sequential([lc.Dense(1)])
    with pytest.raises(TypeError, match=r"array\(3\) is no callback"):
        model.fit(np.ones((2, 1)), np.ones((2, 1)), loss="mse", callbacks=np.array(3), progress=False)
    with pytest.raises(TypeError, match="progress='yes' is a str"):
        model.fit(np.ones((2, 1)), np.ones((2, 1)), loss="mse", progress="yes")
    with pytest.raises(TypeError, match="resume=3 is a int"):
        model.fit(np.ones((2, 1)), np.ones((2, 1)), loss="mse", resume=3, progress=False)


# --- the rate falls on a plateau


def rates(values, **settings):
    """The learning rates after epochs with these figures."""
    callback = lc.callbacks.ReduceLROnPlateau("loss", **settings)
    run = Run(None, len(values), 1, 1.0, ["loss"])
    callback.on_train_begin(run)
    found = []
    for value in values:
        callback.on_epoch_end(run, {"loss": value})
        found.append(run.lr)
    return found


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        ([3, 2, 1, 1, 1, 1], {"factor": 0.5, "patience": 2}, [1, 1, 1, 1, 0.5, 0.5]),
        ([1, 1, 1, 1, 1], {"factor": 0.5, "patience": 1, "cooldown": 2}, [1, 0.5, 0.5, 0.25, 0.25]),
        ([1, 1, 1, 1], {"factor": 0.5, "patience": 1, "min_lr": 0.4}, [1, 0.5, 0.4, 0.4]),
        ([1, 0.95, 0.9], {"factor": 0.5, "patience": 1, "min_delta": 0.06}, [1, 0.5, 0.5]),
        ([1, 2, 3, 3], {"factor": 0.5, "patience": 1, "mode": "max"}, [1, 1, 1, 0.5]),
        ([1, np.nan, np.nan], {"factor": 0.5, "patience": 2}, [1, 1, 0.5]),
    ],
)
def test_the_rate_is_lowered_on_a_plateau(values, settings, expected):
    """As tf_keras' ReduceLROnPlateau does with these figures."""
    assert rates(values, **settings) == expected


def test_what_the_plateau_callback_has_counted_is_in_checkpoints(tmp_path):
    def train(epochs):
        model = lc.Sequential([lc.Dense(1, kernel_initializer="ones")])
        lowering = lc.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=2)
        path = tmp_path / "run.npz"
        x, y = np.ones((4, 1)), np.ones((4, 1))  # nothing to be learnt
        model.fit(x, y, loss="mse", lr=1.0, epochs=epochs, callbacks=[lowering, lc.callbacks.Checkpoint(path)],
                  resume=path, progress=False)  # fmt: skip
        return lowering.lr

    assert train(2) is None  # one epoch without a gain
    assert train(3) == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 1.0}, r"factor must be in \(0, 1\), got 1.0"),
        ({"patience": -1}, "patience=-1 is too small"),
        ({"min_lr": -1}, "min_lr must be at least 0 and finite in float64, got -1"),
        ({"cooldown": 0.5}, "cooldown=0.5 is a float"),
        ({"min_delta": -1}, "min_delta must be >= 0, got -1"),
    ],
)
def test_bad_settings_of_the_plateau_callback(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        lc.callbacks.ReduceLROnPlateau(**settings)


@pytest.mark.parametrize("name", ["on_train_batch_end", "on_batch_begin", "on_test_end"])
def test_moments_of_keras_that_would_never_come_are_refused(name):
    with pytest.raises(TypeError, match=rf"Mine\.{name} would never be called; here it is"):
        type("Mine", (Callback,), {name: lambda self, *args: None})


def test_a_training_that_is_over_says_so(tmp_path, capsys, caplog):
    path = tmp_path / "run.npz"
    settings = {"loss": "mse", "epochs": 2, "resume": path, "callbacks": [lc.callbacks.Checkpoint(path)]}
    x, y = np.ones((4, 1)), np.ones((4, 1))
    with caplog.at_level("INFO", "lcnumba"):
        for _ in range(2):
            lc.Sequential([lc.Dense(1)]).fit(x, y, **settings)
    said = f"nothing left to do: all 2 epochs are done in {str(path)!r}; increase epochs to continue"
    assert said in caplog.messages
    assert capsys.readouterr().err.splitlines()[-1] == said
    lc.Sequential([lc.Dense(1)]).fit(x, y, progress=False, **settings)
    assert capsys.readouterr().err == ""
