import builtins

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.losses import MeanSquaredError


def model(seed=0):
    rng = np.random.default_rng(seed)
    return lc.Sequential(
        [
            lc.LocallyConnected2D(2, 3, activation="relu", input_shape=(5, 5, 1), rng=rng, fans="window"),
            lc.Flatten(),
            lc.Dense(3, rng=rng),
        ]
    )


@pytest.fixture
def data(rng):
    """Three classes: which row of the image is bright."""
    y = rng.integers(0, 3, 90)
    x = 0.1 * rng.standard_normal((90, 5, 5, 1), np.float32)
    x[np.arange(90), y] += 1
    return x, y


def test_training_learns_and_records(data):
    net = model()
    history = net.fit(*data, loss="softmax_cross_entropy", epochs=8, batch_size=16, lr=0.2, metrics=["accuracy"],
                      validation_data=data, rng=0, progress=False).history  # fmt: skip
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert all(len(values) == 8 for values in history.values())
    assert history["loss"][-1] < 0.2 < history["loss"][0]
    assert history["val_accuracy"][-1] == 1
    scores = net.evaluate(*data, loss="softmax_cross_entropy", metrics=["accuracy"], batch_size=7)
    assert scores["accuracy"] == 1
    assert scores["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-5)


def test_the_same_seed_gives_the_same_training(data):
    settings = {"loss": "softmax_cross_entropy", "epochs": 2, "batch_size": 16, "lr": 0.1, "progress": False}
    runs = []
    for seed in (3, 3, 4):
        net = model()
        runs.append((net.fit(*data, rng=seed, **settings).history["loss"], net.get_weights()[0]))
    assert runs[0][0] == runs[1][0] != runs[2][0]
    np.testing.assert_array_equal(runs[0][1], runs[1][1])


def test_an_epoch_is_one_step_for_each_batch(data):
    """Without shuffling, fit is the loop that one would write."""
    x, y = data
    net, twin = model(), model()
    for one in (net, twin):
        one.set_optimizer(lc.SGD(momentum=0.5))
    net.fit(x, y, loss="softmax_cross_entropy", batch_size=40, lr=0.1, shuffle=False, progress=False)
    from lcnumba.losses import SoftmaxCrossEntropy

    for at in range(0, 90, 40):
        prediction, backward = twin.forward(x[at : at + 40])
        backward.step(SoftmaxCrossEntropy()(y[at : at + 40], prediction)[1], lr=0.1)
    for a, b in zip(net.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_mean_loss_weights_batches_by_their_size(data):
    x, _ = data
    net = model()
    target = np.zeros((90, 3), np.float32)
    history = net.fit(x, target, loss="mse", batch_size=40, lr=0.0, progress=False).history
    assert history["loss"][0] == pytest.approx(MeanSquaredError()(target, net(x))[0], rel=1e-5)


def test_progress_goes_to_the_error_stream(data, capsys):
    net = model()
    net.fit(*data, loss="softmax_cross_entropy", epochs=2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 1/2" in err
    assert "loss" in err
    net.fit(*data, loss="softmax_cross_entropy", progress=False)
    assert capsys.readouterr() == ("", "")


def test_progress_without_tqdm_is_a_line_an_epoch(data, capsys, monkeypatch):
    real = builtins.__import__

    def no_tqdm(name, *rest, **more):
        if name.startswith("tqdm"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_tqdm)
    model().fit(*data, loss="softmax_cross_entropy", epochs=2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": np.zeros(89, int)}, ValueError, r"x has shape \(90, 5, 5, 1\) and y \(89,\); give as many"),
        ({"x": np.zeros((0, 5, 5, 1)), "y": np.zeros(0, int)}, ValueError, "x and y are empty"),
        ({"loss": "nope"}, ValueError, "loss='nope'"),
        ({"epochs": -1}, ValueError, "epochs=-1"),
        ({"epochs": 1.5}, TypeError, "epochs=1.5"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"lr": np.nan}, ValueError, "lr=nan"),
        ({"metrics": ["nope"]}, ValueError, "metric='nope'"),
        ({"y": np.full(90, 3)}, ValueError, "labels from 3 to 3; give 0 to 2"),
        ({"x": np.zeros((90, 4, 5, 1))}, ValueError, "x has shape"),
        ({"validation_data": (np.zeros((2, 5, 5, 1)), np.zeros(3))}, ValueError, "as many targets"),
        ({"validation_data": (np.zeros((2, 5, 4, 1)), np.zeros(2, int))}, ValueError, r"x has shape \(2, 5, 4, 1\)"),
        ({"validation_data": (np.zeros((2, 5, 5, 1)), np.full(2, 3))}, ValueError, "labels from 3 to 3"),
        ({"validation_data": 5}, TypeError, "must be a pair"),
        ({"y": np.array([0] * 89 + [3]), "shuffle": False}, ValueError, "labels from 0 to 3"),
        ({"x": np.zeros((90, 5, 5, 1), complex)}, TypeError, "x has dtype complex128"),
        ({"metrics": [lambda a, b: None]}, TypeError, "NoneType"),
        ({"loss": lambda a, b: (None, b)}, TypeError, "NoneType"),
        ({"loss": lambda a, b: (np.ones(3), b)}, TypeError, "scalar"),
        ({"rng": "x"}, TypeError, "rng='x'"),
    ],
)
def test_bad_settings_change_nothing(change, error, message, data):
    x, y = data
    net = model()
    before = net.get_weights()
    settings = {"x": x, "y": y, "loss": "softmax_cross_entropy", "progress": False} | change
    with pytest.raises(error, match=message):
        net.fit(settings.pop("x"), settings.pop("y"), **settings)
    for a, b in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_epochs_is_no_training(data):
    assert model().fit(*data, loss="softmax_cross_entropy", epochs=0).history == {}


def test_losses_and_metrics_may_only_read_the_prediction(data):
    """It is what backward refers to."""

    def writes(y_true, y_pred):
        y_pred -= 1
        return 0.0, y_pred

    with pytest.raises(ValueError, match="read-only"):
        model().fit(*data, loss=writes, progress=False)


def test_a_loss_that_is_not_finite_is_told_once(data):
    x, y = data
    x = x.copy()
    x[50] = np.nan
    with pytest.warns(RuntimeWarning, match=r"the loss is nan in epoch 1, batch 6; look for non-finite inputs") as seen:
        model().fit(x, y, loss="softmax_cross_entropy", batch_size=10, epochs=2, shuffle=False, progress=False)
    assert len([w for w in seen if "the loss is" in str(w.message)]) == 1
