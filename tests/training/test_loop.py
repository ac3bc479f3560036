import builtins
import copy
import math
import pickle
import signal

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.callbacks import Callback
from lcnumba.losses import MeanSquaredError
from lcnumba.schedules import StepDecay


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
        ({"y": np.zeros(89, int)}, ValueError, r"same number of samples, got x .* \(90, 5, 5, 1\) and y .* \(89,\)"),
        ({"x": np.zeros((0, 5, 5, 1)), "y": np.zeros(0, int)}, ValueError, "x and y are empty"),
        ({"loss": "nope"}, ValueError, "loss='nope'"),
        ({"epochs": -1}, ValueError, "epochs=-1"),
        ({"epochs": 1.5}, TypeError, "epochs=1.5"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"lr": np.nan}, ValueError, "lr must be finite, got nan"),
        ({"metrics": ["nope"]}, ValueError, "metric='nope'"),
        ({"y": np.full(90, 3)}, ValueError, r"labels y must be in \[0, 2\], got 3 to 3"),
        ({"x": np.zeros((90, 4, 5, 1))}, ValueError, "x has shape"),
        ({"validation_data": (np.zeros((2, 5, 5, 1)), np.zeros(3))}, ValueError, "same number of samples"),
        ({"validation_data": (np.zeros((2, 5, 4, 1)), np.zeros(2, int))}, ValueError, r"x has shape \(2, 5, 4, 1\)"),
        (
            {"validation_data": (np.zeros((2, 5, 5, 1)), np.full(2, 3))},
            ValueError,
            r"labels y must be in \[0, 2\], got 3 to 3",
        ),
        ({"validation_data": 5}, TypeError, "validation_data must be a tuple .* got int"),
        ({"y": np.array([0] * 89 + [3]), "shuffle": False}, ValueError, r"labels y must be in \[0, 2\], got 0 to 3"),
        ({"x": np.zeros((90, 5, 5, 1), complex)}, TypeError, "x has dtype complex128"),
        ({"metrics": [lambda a, b: None]}, TypeError, "NoneType"),
        *(
            ({"loss": lambda a, b, it=it: it}, TypeError, r"loss <function .*> must return a pair .*, got ")
            for it in (None, 3, (1.0,), ("a", 0), (None, 0), (np.ones(3), 0))
        ),
        ({"rng": "x"}, TypeError, "rng must be None, a seed or a Generator, got 'x'"),
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


def test_what_compile_says_is_what_fit_does(data):
    one, other = model(), model()
    one.compile("adam", "softmax_cross_entropy", ["accuracy"], lr=0.01)
    history = one.fit(*data, epochs=2, rng=0, progress=False).history
    other.set_optimizer("adam")
    settings = {"loss": "softmax_cross_entropy", "metrics": ["accuracy"]}
    assert other.fit(*data, epochs=2, rng=0, progress=False, lr=0.01, **settings).history == history
    assert one.evaluate(*data) == other.evaluate(*data, **settings)
    assert list(one.evaluate(*data, metrics=[])) == ["loss"]
    # What is given to fit goes before it.
    assert one.fit(*data, lr=0.0, epochs=1, metrics=[], progress=False).history.keys() == {"loss"}
    assert pickle.loads(pickle.dumps(one)).evaluate(*data) == one.evaluate(*data)


def test_compile_changes_all_or_nothing(data):
    net = model()
    net.compile("adam", "mse", lr=0.5)
    before = net.training_config
    for bad in ({"loss": "nope"}, {"metrics": ["nope"]}, {"lr": -1}, {"clip_norm": 0}, {"clip_value": -1},
                {"accumulate": 0}, {"optimizer": "nope"}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(bad))[:6]):
            net.compile(**{"optimizer": "sgd", "loss": "mse", **bad})
        assert net.training_config is before
        assert isinstance(net.layers[0].optimizer, lc.Adam)
    with pytest.raises(ValueError, match=r"'sequential\w*' has no loss; pass loss=\.\.\., or compile"):
        model().fit(*data, progress=False)


def test_the_default_lr_of_the_optimizer_is_taken(data):
    for optimizer, rate in (("sgd", 0.01), ("adam", 0.001), ("rmsprop", 0.001)):
        one, other = model(), model()
        for net in (one, other):
            net.compile(optimizer, "softmax_cross_entropy")
        one.fit(*data, rng=0, progress=False)
        other.fit(*data, rng=0, progress=False, lr=rate)
        np.testing.assert_array_equal(one.get_weights()[0], other.get_weights()[0])
    one.layers[0].optimizer = "sgd"
    with pytest.raises(ValueError, match=r"lr is required with a custom optimizer, or .* whose default lr differs"):
        one.fit(*data, progress=False)


def test_weights_count_a_sample_as_so_many(data):
    """On one batch: integer weights are repetitions, but for the number that the sum is divided by."""
    x, y = data
    weights = np.arange(90) % 3
    one, other = model(), model()
    for net in (one, other):
        net.compile(loss="softmax_cross_entropy", lr=0.5)
    repeated = np.repeat(np.arange(90), weights)
    share = len(repeated) / 90
    history = one.fit(x, y, sample_weight=weights, batch_size=90, shuffle=False, progress=False)
    other.fit(x[repeated], y[repeated], batch_size=1000, lr=0.5 * share, shuffle=False, progress=False)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    twin = model()
    losses_of_classes = twin.fit(x, y, loss="softmax_cross_entropy", class_weight={0: 0, 2: 2.0}, lr=0.5, batch_size=90,
                                 shuffle=False, progress=False)  # fmt: skip
    same = model()
    expected = same.fit(x, y, loss="softmax_cross_entropy", sample_weight=np.array([0, 1, 2])[y], lr=0.5, batch_size=90,
                        shuffle=False, progress=False)  # fmt: skip
    assert losses_of_classes.history == expected.history != history.history
    both = model().fit(x, y, loss="softmax_cross_entropy", sample_weight=np.full(90, 2.0), class_weight={0: 3.0},
                       batch_size=90, shuffle=False, progress=False)  # fmt: skip
    assert both.history["loss"][0] == pytest.approx(
        model().evaluate(x, y, loss="softmax_cross_entropy", sample_weight=np.array([6, 2, 2])[y])["loss"]
    )


def test_weights_need_a_loss_that_takes_them(data):
    x, y = data

    def plain(y_true, y_pred):
        return 0.0, np.zeros_like(y_pred)

    for extra in ({"sample_weight": np.ones(90)}, {"class_weight": {0: 1.0}}):
        with pytest.raises(TypeError, match=f"{next(iter(extra))} needs a loss with weights"):
            model().fit(x, y, loss=plain, progress=False, **extra)
        with pytest.raises(TypeError, match=f"{next(iter(extra))} needs a loss with weights"):
            model().train_on_batch(x, y, loss=plain, **extra)
    seen = []
    model().fit(x, y, loss=lambda t, p, w: (seen.append(w.copy()), plain(t, p))[1], sample_weight=np.arange(90),
                shuffle=False, batch_size=40, progress=False)  # fmt: skip
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(90))


def test_training_on_a_batch_is_one_step(data):
    one, other = model(), model()
    for net in (one, other):
        net.compile(
            lc.SGD(momentum=0.5), "softmax_cross_entropy", ["accuracy"], lr=lambda step: 0.5**step, clip_norm=0.3
        )
    for _ in range(3):
        figures = one.train_on_batch(*data)
    history = other.fit(*data, epochs=3, batch_size=90, shuffle=False, progress=False).history
    assert list(figures.values()) == [values[-1] for values in history.values()]
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="x and y must have the same number of samples"):
        one.train_on_batch(data[0], data[1][:3])


def test_accumulated_batches_are_one_large_batch(data):
    """Penalties count once; the mean is by samples, so that the last, smaller batch of the epoch counts as less."""
    x, y = data

    def network():
        return lc.Sequential(
            [
                lc.LocallyConnected2D(2, 3, activation="tanh", input_shape=(5, 5, 1), rng=0, dtype="float64",
                                      kernel_regularizer="l2", activity_regularizer="l2"),
                lc.Flatten(), lc.Dense(3, rng=0, dtype="float64"),
            ]
        )  # fmt: skip

    one, other = network(), network()
    one.compile("adam", "softmax_cross_entropy", accumulate=4)
    other.compile("adam", "softmax_cross_entropy")
    seen = []

    class Count(Callback):
        def on_batch_end(self, run, logs):
            seen.append((run.batch, run.step, run.between_steps))

    one.fit(x, y, batch_size=20, shuffle=False, progress=False, callbacks=[Count()], epochs=2)
    # Activity penalties are divided by the batch, so that their gradients' mean is that of one large batch.
    other.fit(x[:80], y[:80], batch_size=80, shuffle=False, progress=False)
    other.fit(x[80:], y[80:], batch_size=80, shuffle=False, progress=False)
    other.fit(x[:80], y[:80], batch_size=80, shuffle=False, progress=False)
    other.fit(x[80:], y[80:], batch_size=80, shuffle=False, progress=False)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert seen == [(1, 0, False), (2, 0, False), (3, 0, False), (4, 1, True), (5, 1, False),
                    (1, 2, False), (2, 2, False), (3, 2, False), (4, 3, True), (5, 3, False)]  # fmt: skip


def test_gradients_are_clipped_over_all_layers(data):
    from lcnumba import gradients
    from lcnumba.losses import SoftmaxCrossEntropy

    x, y = data
    for settings in ({"clip_norm": 0.05}, {"clip_value": 0.002}, {"clip_value": 0.01, "clip_norm": 0.05}):
        one, other = model(), model()
        one.compile(loss="softmax_cross_entropy", lr=0.5, **settings)
        one.fit(x, y, batch_size=90, shuffle=False, progress=False)
        prediction, backward = other.forward(x)
        _, grads = backward(SoftmaxCrossEntropy()(y, prediction)[1])
        if "clip_value" in settings:
            grads = gradients.clip_by_value(grads, settings["clip_value"])
        if "clip_norm" in settings:
            assert gradients.global_norm(grads) > 0.05
            grads = gradients.clip_by_norm(grads, settings["clip_norm"])
        other.step(grads, lr=0.5)
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_frozen_layers_are_no_part_of_the_norm(data):
    """As in Keras, which clips the gradients of trainable variables."""
    x, y = data
    one, other = model(), model()
    for net in (one, other):
        net.layers[0].trainable = False
    one.compile(loss="softmax_cross_entropy", lr=0.5, clip_norm=0.05)
    one.fit(x, y, batch_size=90, shuffle=False, progress=False)
    from lcnumba import gradients
    from lcnumba.losses import SoftmaxCrossEntropy

    prediction, backward = other.forward(x)
    _, grads = backward(SoftmaxCrossEntropy()(y, prediction)[1])
    other.step([None, None, gradients.clip_by_norm(grads[2], 0.05)], lr=0.5)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    other.layers[0].trainable = True
    with pytest.raises(TypeError, match="grads is a NoneType"):
        other.step([None, None, grads[2]], lr=0.5)


def test_rates_by_step(data):
    one, other = model(), model()
    schedule = StepDecay(0.5, every=2, factor=0.5)
    one.fit(*data, loss="softmax_cross_entropy", lr=schedule, batch_size=30, epochs=2, shuffle=False, progress=False)
    x, y = data
    for step in range(6):
        part = slice(step % 3 * 30, step % 3 * 30 + 30)
        other.train_on_batch(x[part], y[part], loss="softmax_cross_entropy", lr=[0.5, 0.25, 0.125][step // 2])
    np.testing.assert_array_equal(one.get_weights()[0], other.get_weights()[0])
    net = model()
    before = net.get_weights()
    for bad, error, message in (
        (lambda step: None, TypeError, "lr=None is a NoneType"),
        (lambda step: -1.0, ValueError, r"lr must be at least 0 and finite in float64, got -1\.0"),
    ):
        with pytest.raises(error, match=message):
            net.fit(*data, loss="softmax_cross_entropy", lr=bad, progress=False)
    np.testing.assert_array_equal(before[0], net.get_weights()[0])


def test_validation_split_keeps_the_last_samples(data):
    x, y = data
    w = np.arange(90) + 1.0
    one, other = model(), model()
    settings = {"loss": "softmax_cross_entropy", "rng": 0, "progress": False}
    found = one.fit(x, y, sample_weight=w, validation_split=0.2, **settings).history
    expected = other.fit(x[:72], y[:72], sample_weight=w[:72], validation_data=(x[72:], y[72:], w[72:]), **settings)
    assert found == expected.history
    np.testing.assert_array_equal(one.get_weights()[0], other.get_weights()[0])


def test_epochs_are_numbered_from_the_initial_one(data):
    history = model().fit(*data, loss="softmax_cross_entropy", initial_epoch=3, epochs=5, progress=False)
    assert history.epoch == [3, 4]
    assert len(history.history["loss"]) == 2


def test_a_prediction_for_each_position(rng):
    """Segmentation: labels and logits at every position, without a Flatten."""
    x = rng.standard_normal((40, 6, 5, 1), np.float32)
    y = (x[..., 0] > 0).astype(int)
    net = lc.Sequential([lc.LocallyConnected2D(2, 1, fans="window", rng=0)])
    net.compile("adam", "softmax_cross_entropy", ["accuracy"], lr=0.05)
    history = net.fit(x, y, epochs=30, rng=0, progress=False).history
    assert history["accuracy"][-1] > 0.95


class Interrupt(Callback):
    """Ctrl-C while a certain step is under way."""

    def __init__(self, batch):
        self.batch = batch

    def before_step(self, run, logs):
        if run.epoch == 1 and run.batch == self.batch:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("plain", [True, False])
def test_an_interrupt_waits_for_the_end_of_the_batch(plain, data):
    one, other = model(), model()
    limit = {} if plain else {"clip_norm": 1.0}
    one.compile("adam", "softmax_cross_entropy", **limit)
    other.compile("adam", "softmax_cross_entropy", **limit)
    with pytest.raises(KeyboardInterrupt):
        one.fit(*data, epochs=5, batch_size=30, shuffle=False, progress=False, callbacks=[Interrupt(1)])
    assert one.history.epoch == [0]
    other.fit(*data, epochs=1, batch_size=30, shuffle=False, progress=False)
    for part in (slice(0, 30), slice(30, 60)):
        other.train_on_batch(data[0][part], data[1][part])
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_log_is_silent_unless_asked_for(data, capsys, caplog):
    settings = {"loss": "softmax_cross_entropy", "epochs": 2, "progress": False}
    model().fit(*data, **settings)
    assert capsys.readouterr() == ("", "")
    with caplog.at_level("INFO", logger="lcnumba"):
        model().fit(*data, **settings)
    assert [record.message.partition(":")[0] for record in caplog.records] == ["epoch 1/2", "epoch 2/2"]


def test_what_is_figured_out_later_begins_with_nan():
    history = lc.History()
    history.add(0, {"loss": 1.0, "mae": 2.0})
    history.add(1, {"loss": 0.5, "val_loss": 3.0})
    np.testing.assert_array_equal([history.history[name] for name in ("loss", "mae", "val_loss")],
                                  [[1, 0.5], [2, np.nan], [np.nan, 3]])  # fmt: skip


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_arrays_that_cannot_be_written_are_copied(optimizer, rng):
    """As joblib hands them over: memory maps, or buffers of pickles, which kernels write to by their address."""
    net = lc.Sequential([lc.LocallyConnected2D(2, 3, input_shape=(5, 5, 1), optimizer=optimizer)])
    x, y = rng.standard_normal((4, 5, 5, 1), np.float32), np.zeros((4, 3, 3, 2), np.float32)
    net.fit(x, y, loss="mse", progress=False)
    buffers = []
    data = pickle.dumps(net, protocol=5, buffer_callback=buffers.append)
    assert buffers
    kept = [bytes(buffer) for buffer in buffers]
    for frozen in (pickle.loads(data, buffers=kept), pickle.loads(data, buffers=[bytes(buffer) for buffer in kept])):
        frozen.fit(x, y, loss="mse", shuffle=False, progress=False)
        twin = copy.deepcopy(net)
        twin.fit(x, y, loss="mse", shuffle=False, progress=False)
        for a, b in zip(frozen.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert kept == [bytes(buffer) for buffer in buffers]


def test_large_models_travel_too(rng):
    """joblib hands arrays of more than 1 MB over as read-only memory maps."""
    joblib = pytest.importorskip("joblib")
    net = lc.Sequential([lc.LocallyConnected2D(16, 5, input_shape=(32, 32, 4), rng=0)])
    assert net.get_weights()[0].nbytes > 2**20
    x, y = rng.standard_normal((2, 32, 32, 4), np.float32), np.zeros((2, 28, 28, 16), np.float32)
    net.compile("sgd", "mse")
    with joblib.Parallel(n_jobs=2) as parallel:
        found = parallel(joblib.delayed(_one_more)(net, x, y) for _ in range(2))
    expected = _one_more(copy.deepcopy(net), x, y)
    for weights in found:
        for a, b in zip(weights, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_models_travel_to_other_processes(data):
    """With joblib's loky, as scikit-learn does it."""
    joblib = pytest.importorskip("joblib")
    net = model()
    net.compile("adam", "softmax_cross_entropy")
    net.fit(*data, progress=False)
    with joblib.Parallel(n_jobs=2) as parallel:
        found = parallel(joblib.delayed(_one_more)(net, *data) for _ in range(2))
    expected = _one_more(copy.deepcopy(net), *data)
    for weights in found:
        for a, b in zip(weights, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def _one_more(net, x, y):
    net.fit(x, y, rng=0, progress=False)
    return net.get_weights()


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
    with pytest.warns(RuntimeWarning, match=r"the loss is nan in epoch 1, batch 6; x has 25 NaN there") as seen:
        model().fit(x, y, loss="softmax_cross_entropy", batch_size=10, epochs=2, shuffle=False, progress=False)
    assert len([w for w in seen if "the loss is" in str(w.message)]) == 1


# --- losses that do not fit the last activation, and penalties that dominate the loss


def ending(activation=None, units=3):
    return lc.Sequential([lc.Flatten(), lc.Dense(units, activation=activation, rng=0), lc.Dropout(0.5)])


@pytest.mark.parametrize("call", ["fit", "train_on_batch", "evaluate"])
def test_logits_under_a_loss_of_probabilities_are_an_error_before_the_first_step(call, data):
    x, y = data
    net = ending()
    net.build((None, 5, 5, 1))
    before = net.get_weights()
    settings = {"progress": False} if call == "fit" else {}
    with pytest.raises(ValueError, match=r"categorical cross-entropy needs probabilities.*'softmax_cross_entropy'"):
        getattr(net, call)(x - 1, y, loss="sparse_categorical_crossentropy", **settings)
    for a, b in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_that_are_no_probabilities_are_one_warning(data):
    x, y = data
    net = ending("relu")
    with pytest.warns(RuntimeWarning) as caught:
        net.fit(x, y, loss="sparse_categorical_crossentropy", epochs=2, validation_data=(x, y), lr=1e-3, progress=False)
    assert len(caught) == 1
    assert "are divided by their sum, as in Keras" in str(caught[0].message)


@pytest.mark.parametrize(
    ("activation", "units", "loss"),
    [
        ("softmax", 3, "softmax_cross_entropy"),
        ("softmax", 3, lc.losses.SparseCategoricalCrossentropy(from_logits=True)),
        ("softmax", 3, lc.losses.Masked("softmax_cross_entropy")),
        ("sigmoid", 1, lc.losses.BinaryCrossentropy(from_logits=True)),
    ],
)
def test_a_softmax_before_a_loss_from_logits_is_a_warning(activation, units, loss, data):
    x, y = data
    y = y if units == 3 else (y[:, None] > 0).astype(float)
    with pytest.warns(RuntimeWarning, match=f"the model ends in activation='{activation}' and .* applied twice"):
        ending(activation, units).compile("sgd", loss)
    for call, settings in (("fit", {"progress": False}), ("evaluate", {}), ("train_on_batch", {})):
        net = ending(activation, units)
        with pytest.warns(RuntimeWarning, match="applied twice"):
            getattr(net, call)(x, y, loss=loss, **settings)
    nested = lc.Sequential([lc.Flatten(), lc.Sequential([lc.Dense(units), lc.Activation(activation)])])
    with pytest.warns(RuntimeWarning, match="applied twice"):
        nested.compile("sgd", loss)


@pytest.mark.parametrize("activation", [None, "relu", "log_softmax"])
def test_other_endings_are_no_warning(activation):
    ending(activation).compile("sgd", "softmax_cross_entropy")
    ending("softmax").compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])


def test_binary_accuracy_of_logits_is_a_warning():
    with pytest.warns(RuntimeWarning, match=r"binary_accuracy expects probabilities.*threshold=0"):
        ending(units=1).compile("sgd", lc.losses.BinaryCrossentropy(from_logits=True), ["binary_accuracy"])


def test_penalties_that_dominate_the_loss_are_a_warning(rng):
    x = rng.standard_normal((20, 8, 8, 1)).astype(np.float32)
    for factor, dominate in ((1e-4, False), (10.0, True)):
        net = lc.Sequential([lc.LocallyConnected2D(1, 3, padding="same", kernel_initializer="ones", rng=0,
                                                   kernel_regularizer=lc.regularizers.L2(factor))])  # fmt: skip
        settings = {"loss": "mse", "lr": 1e-6, "epochs": 2, "progress": False}
        if not dominate:
            net.fit(x, x, **settings)
            continue
        with pytest.warns(RuntimeWarning, match="penalties are .* in the first epoch, but the loss without") as caught:
            net.fit(x, x, **settings)
        assert len(caught) == 1


# --- targets that are unknown, and weights by position


def test_fields_with_unknown_targets_and_weights_by_position(rng):
    x = rng.standard_normal((30, 6, 5, 1)).astype(np.float32)
    known = rng.random((6, 5)) < 0.6
    y = np.where(known[..., None], 2 * x, np.nan)

    def trained(loss, targets, **settings):
        layer = lc.LocallyConnected2D(1, 1, kernel_initializer="zeros", input_shape=(6, 5, 1))
        net = lc.Sequential([layer])
        net.fit(x, targets, loss=loss, lr=5.0, epochs=60, batch_size=10, rng=0, progress=False, **settings)
        assert math.isfinite(net.evaluate(x, targets, loss=loss)["loss"])
        return layer.kernel.reshape(6, 5)

    kernel = trained(lc.losses.Masked("mse"), y)
    np.testing.assert_allclose(kernel[known], 2, atol=1e-2)
    assert not kernel[~known].any()
    weights = np.broadcast_to(known, (30, 6, 5)).astype(float)
    weighted = trained("mse", 2 * x, sample_weight=weights, validation_data=(x, 2 * x, weights))
    np.testing.assert_allclose(weighted[known], 2, atol=1e-2)
    assert not weighted[~known].any()


def test_weights_by_position_go_with_those_of_classes_and_with_batches(data):
    x, y = data
    net = lc.Sequential([lc.LocallyConnected2D(3, 3, input_shape=(5, 5, 1), rng=0)])
    labels = np.broadcast_to(y[:, None, None], (90, 3, 3))
    weights = np.ones((90, 3, 3))
    weights[:, 0] = 0
    settings = {"loss": "softmax_cross_entropy", "lr": 0.1}
    twin = copy.deepcopy(net)
    net.train_on_batch(x, labels, sample_weight=weights, **settings)
    twin.fit([(x, labels, weights)], progress=False, **settings)
    np.testing.assert_array_equal(net.layers[0].kernel, twin.layers[0].kernel)
    assert not net.layers[0].bias[0].any(), "no weight, no gradient"
    with pytest.raises(ValueError, match=r"sample_weight.* one weight for each of 90 .*, got shape \(90, 2\)"):
        net.train_on_batch(x, labels, sample_weight=np.ones((90, 2)), **settings)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((90, 1, 5, 5), r"np\.moveaxis\(x, 1, -1\), or x\.movedim\(1, -1\) of torch"),
        ((90, 5, 5), r"x\[\.\.\., None\] has that shape"),
        ((5, 5, 1), r"x\[None\] adds the batch"),
        ((90, 25), r"x\.reshape\(-1, 5, 5, 1\) has that shape"),
        ((90, 5, 5, 1, 1), r"x\[\.\.\., 0\] has that shape"),
    ],
)
def test_inputs_in_another_form_are_told_the_right_one(shape, hint):
    net = model()
    for call in (net, net.forward, net.predict, net.layers[0]):
        with pytest.raises(ValueError, match=hint):
            call(np.zeros(shape, np.float32))
    if len(shape) > 3 or shape[0] == 90:
        with pytest.raises(ValueError, match=hint):
            net.fit(np.zeros(shape, np.float32), np.zeros(90, int), loss="softmax_cross_entropy", progress=False)


def test_a_channels_first_layer_names_the_other_order():
    layer = lc.LocallyConnected2D(2, 3, data_format="channels_first", input_shape=(3, 6, 5))
    layer.build((None, 3, 6, 5))
    with pytest.raises(ValueError, match=r"channels come last: np\.moveaxis\(x, -1, 1\).*data_format='channels_last'"):
        layer(np.zeros((2, 6, 5, 3)))


@pytest.mark.parametrize(
    ("call", "settings", "error"),
    [
        ("train_on_batch", {"metrics": [lambda a, b: None]}, TypeError),
        ("train_on_batch", {"sample_weight": np.ones((90, 7))}, ValueError),
        ("train_on_batch", {"loss": lambda a, b: (1.0, np.ones(3))}, ValueError),
        ("train_on_batch", {"lr": 1e300}, ValueError),
        ("fit", {"lr": lambda step: -1.0, "progress": False}, ValueError),
    ],
)
def test_what_is_refused_at_a_batch_leaves_random_numbers_and_builds_as_they_were(call, settings, error, data):
    x, y = data

    def network():
        return lc.Sequential([lc.Flatten(), lc.Dense(4, rng=0), lc.Dropout(0.5, seed=1), lc.Dense(3, rng=0)])

    net, twin = network(), network()
    if call == "fit":
        settings = {"shuffle": False, **settings}
    with pytest.raises(error):
        getattr(net, call)(x, y, **{"loss": "softmax_cross_entropy", "lr": 0.1} | settings)
    assert not net.built
    for each in (net, twin):
        each.train_on_batch(x, y, loss="softmax_cross_entropy", lr=0.1)
    for a, b in zip(net.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_warning_that_is_an_error_comes_before_any_change():
    net = ending("softmax")
    config = net.training_config
    with pytest.raises(RuntimeWarning, match="applied twice"):  # pytest makes errors of warnings
        net.compile("adam", "softmax_cross_entropy")
    assert net.training_config is config
    assert net.layers[1].optimizer == lc.SGD()


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        ("y", r"y has 1 NaN there; lcnumba\.losses\.Masked ignores them$"),
        ("x", r"x has 25 NaN there; fill them with 0, .*kernel_mask_from\(\.\.\.\)$"),
        ("xy", r"y has 1 NaN there; .*; x has 25 NaN there; "),
    ],
)
def test_a_loss_of_nan_says_where_it_comes_from(where, hint, rng):
    x, y = rng.random((4, 5, 5, 1)), rng.random((4, 1))
    for name in where:
        {"x": x, "y": y}[name][1] = np.nan
    with pytest.warns(RuntimeWarning, match=f"the loss is nan in epoch 1, batch 1; {hint}"):
        lc.Sequential([lc.Flatten(), lc.Dense(1)]).fit(x, y, loss="mse", progress=False)


def test_a_masked_loss_of_nan_comes_from_x(rng):
    """Unknown targets are what it is for."""
    x, y = rng.random((4, 5, 5, 1)), rng.random((4, 1))
    x[1], y[2] = np.nan, np.nan
    with pytest.warns(RuntimeWarning, match="epoch 1, batch 1; x has 25 NaN there"):
        lc.Sequential([lc.Flatten(), lc.Dense(1)]).fit(x, y, loss=lc.losses.Masked("mse"), progress=False)


def test_figures_that_are_nan_or_unknown_to_auto_are_told(data):
    x, y = data
    y = np.sort((y > 0).astype(float))[:, None]
    net = lc.Sequential([lc.Flatten(), lc.Dense(1, activation="sigmoid", rng=0)])
    net.compile("adam", "binary_crossentropy", ["auc"])
    stopping = lc.callbacks.EarlyStopping("val_auc", patience=2)
    with pytest.warns(RuntimeWarning, match="val_auc is nan, which counts as no improvement") as caught:
        net.fit(x, y, epochs=5, validation_split=0.2, callbacks=[stopping], progress=False)
    assert len(caught) == 1

    def r2(y_true, y_pred):
        return 1.0

    with pytest.raises(ValueError, match=r"mode='auto' does not know the direction of monitor='r2'; give mode='max'"):
        net.fit(x, y, metrics=[r2], callbacks=[lc.callbacks.EarlyStopping("r2")], progress=False)
    net.fit(x, y, metrics=[r2], callbacks=[lc.callbacks.EarlyStopping("r2", mode="max")], progress=False)


def test_a_softmax_over_one_output_is_a_warning():
    with pytest.warns(RuntimeWarning, match="softmax over a single output is always 1; use activation='sigmoid'"):
        ending("softmax", 1).compile("sgd", "binary_crossentropy")
