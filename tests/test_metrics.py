"""Metrics of all samples together."""

import math

import numpy as np
import pytest

import lcnumba as lc
from lcnumba import metrics


def pairs(cases, scores):
    """The area by its definition: the share of pairs of a case and a control that are in the right order."""
    above = [(c > k) + 0.5 * (c == k) for c in scores[cases] for k in scores[~cases]]
    return sum(above) / len(above)


def test_auc_is_the_share_of_pairs(rng):
    cases, scores = rng.random(60) < 0.3, rng.integers(0, 10, 60).astype(float)  # with ties
    assert metrics.AUC()(cases.astype(int), scores) == pytest.approx(pairs(cases, scores), abs=1e-12)
    logits = np.stack([np.zeros(60), scores], axis=1)
    assert metrics.AUC()(cases.astype(int), logits) == metrics.AUC()(cases.astype(int), scores)
    assert metrics.AUC()(cases[:, None], scores[:, None]) == metrics.AUC()(cases, scores)
    unknown = np.where(np.arange(60) < 5, np.nan, cases)
    assert metrics.AUC()(unknown, scores) == pytest.approx(pairs(cases[5:], scores[5:]), abs=1e-12)


def test_auc_of_one_class_is_unknown():
    assert math.isnan(metrics.AUC()(np.zeros(3), np.arange(3.0)))
    with pytest.raises(
        ValueError, match=r"AUC needs targets 0 or 1 .*, got y of shape \(3,\) and predictions of shape \(3, 4\)"
    ):
        metrics.AUC()(np.zeros(3, int), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="y must be 0 or 1 for AUC, got values from 0 to 2"):
        metrics.AUC()(np.arange(3), np.zeros(3))


def test_fit_and_evaluate_take_it_over_all_samples(rng):
    x = rng.standard_normal((50, 3)).astype(np.float32)
    y = (x[:, 0] + rng.standard_normal(50) > 1).astype(int)
    model = lc.Sequential([lc.Dense(2, input_shape=(3,), rng=0)])
    model.compile("sgd", "softmax_cross_entropy", ["auc", "accuracy"], lr=0.0)
    history = model.fit(x, y, epochs=2, batch_size=7, validation_data=(x, y), progress=False)
    logits = model.predict(x)
    expected = pairs(y == 1, logits[:, 1] - logits[:, 0])
    assert model.evaluate(x, y, batch_size=11)["auc"] == pytest.approx(expected, abs=1e-12)
    assert history.history["auc"] == pytest.approx([expected] * 2, abs=1e-6)
    assert history.history["val_auc"] == pytest.approx([expected] * 2, abs=1e-6)
    found = model.train_on_batch(x[:20], y[:20])
    assert found["auc"] == pytest.approx(pairs(y[:20] == 1, logits[:20, 1] - logits[:20, 0]), abs=1e-6)
    stopping = lc.callbacks.EarlyStopping("val_auc", patience=2)
    model.fit(x, y, epochs=3, lr=0.1, validation_data=(x, y), callbacks=[stopping], progress=False)
    assert stopping.best == max(model.history.history["val_auc"]), "a larger area is better"


class RootMeanSquare:
    """A metric of the user's that is no mean over batches."""

    __name__ = "rmse"

    def __call__(self, y_true, y_pred):
        return self.compute(*self.collect(y_true, y_pred))

    def collect(self, y_true, y_pred):
        return ((y_true - y_pred).reshape(len(y_true), -1) ** 2,)

    def compute(self, squares):
        return float(np.sqrt(np.mean(squares)))


def test_an_epoch_that_was_broken_off_keeps_what_has_been_collected(rng, tmp_path):
    x = rng.standard_normal((24, 3)).astype(np.float32)
    y = (x[:, :1] > 0.3).astype(np.float32)

    class Stop(lc.callbacks.Callback):
        def after_batch(self, run, logs):
            if run.step == 8:
                run.stop()

    def train(*callbacks):
        model = lc.Sequential([lc.Dense(1, input_shape=(3,), rng=0)])
        model.compile("sgd", "mse", ["auc", RootMeanSquare()], lr=0.1)
        path = tmp_path / "run.npz"
        checkpoint = lc.callbacks.Checkpoint(path, every_batches=1)
        given = [*callbacks, checkpoint]
        return model.fit(x, y, epochs=2, batch_size=4, rng=0, callbacks=given, resume=path, progress=False).history

    train(Stop())
    resumed = train()
    (tmp_path / "run.npz").unlink()
    whole = train()
    assert resumed == whole
    assert set(whole) == {"loss", "auc", "rmse"}
    assert whole["rmse"] == pytest.approx(np.sqrt(whole["loss"]), rel=1e-6)


def test_unknown_targets_are_left_out(rng):
    y_true, y_pred = rng.random((20, 2)), rng.random((20, 2))
    known = rng.random((20, 2)) < 0.6
    unknown = np.where(known, y_true, np.nan)
    for metric in (metrics.mae, metrics.mse, metrics.binary_accuracy):
        assert metric(unknown, y_pred) == pytest.approx(metric(y_true[known], y_pred[known]), rel=1e-14)
        assert math.isnan(metric(np.full((2, 2), np.nan), np.ones((2, 2))))
    labels, scores = rng.integers(0, 3, 20), rng.random((20, 3))
    known = rng.random(20) < 0.6
    expected = metrics.accuracy(labels[known], scores[known])
    assert metrics.accuracy(np.where(known, labels, np.nan), scores) == expected
    rows = np.where(known[:, None], np.eye(3)[labels], np.nan)
    assert metrics.accuracy(rows, scores) == expected
    # Labels that the loss ignores are unknown to metrics, too.
    model = lc.Sequential([lc.Dense(3, input_shape=(3,), rng=0)])
    model.set_weights([np.eye(3), np.zeros(3)])
    found = model.evaluate(scores, np.where(known, labels, -1), metrics=["accuracy"],
                           loss=lc.losses.Masked("softmax_cross_entropy", ignore_class=-1))  # fmt: skip
    assert found["accuracy"] == pytest.approx(expected)
    found = model.evaluate(scores, unknown_of(scores), metrics=["mse", "mae"], loss=lc.losses.Masked("mse"))
    assert math.isfinite(found["mse"])


def unknown_of(values):
    """The values, some of them unknown."""
    return np.where(values > 0.7, np.nan, values)


def test_what_is_collected_is_copied():
    class Sum:
        __name__ = "sum"

        def __call__(self, y_true, y_pred):
            return 0.0

        def collect(self, y_true, y_pred):
            return (y_true,)

        def compute(self, y_true):
            return float(y_true.sum())

    def batches():
        x, y = np.zeros((2, 2)), np.zeros((2, 1))
        for number in range(3):
            y[:] = number
            yield x, y

    history = lc.Sequential([lc.Dense(1)]).fit(batches(), loss="mse", metrics=[Sum()], progress=False)
    assert history.history["sum"] == [6.0]


def test_names_of_metrics():
    with pytest.raises(ValueError, match="metric name 'val_loss' is reserved or not unique"):
        metrics.get([metrics.AUC("val_loss")])
    named = metrics.AUC()
    named.__name__ = 3
    with pytest.raises(TypeError, match="must be a str, got 3"):
        metrics.get([named])
    with pytest.raises(ValueError, match="use 'binary_accuracy'"):
        metrics.accuracy(np.ones((3, 1)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="y must be 0 or 1 for AUC"):
        metrics.AUC()(np.array([0.2, 0.4]), np.array([0.1, 0.3]))
