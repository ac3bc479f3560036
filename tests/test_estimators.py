import copy
import importlib
import pickle
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import lcnumba as lc
from lcnumba import estimators
from lcnumba.estimators import LocallyConnectedClassifier, LocallyConnectedRegressor
from lcnumba.runtime import compilation

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = [LocallyConnectedClassifier, LocallyConnectedRegressor]


# All of scikit-learn's checks; none is expected to fail.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs, of what they provoke
@parametrize_with_checks([kind(max_iter=100) for kind in KINDS])
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:600] / 16, y[:600]


def classifier(**settings):
    return LocallyConnectedClassifier(
        **{"image_shape": (8, 8), "max_iter": 15, "learning_rate_init": 0.02, "random_state": 0, **settings}
    )


def same(one, other, X):
    np.testing.assert_array_equal(one._outputs(X), other._outputs(X))


def test_parameters_mean_what_they_mean_in_scikit_learn():
    """Those of the same name have the same default, but for the classifier's penalty.

    That of MLPClassifier is of no use where features outnumber samples, which is what local networks are for.
    """
    for ours, theirs in ((LocallyConnectedClassifier, MLPClassifier), (LocallyConnectedRegressor, MLPRegressor)):
        mine, their = ours().get_params(), theirs().get_params()
        shared = mine.keys() & their.keys()
        assert len(shared) == 21
        differs = {name: mine[name] for name in shared if mine[name] != their[name]}
        assert differs == ({"alpha": "auto"} if ours is LocallyConnectedClassifier else {})


def test_digits(digits):
    X, y = digits
    held = np.arange(600) % 6 == 0
    model = classifier(filters=(8, 8), max_iter=30, learning_rate_init=0.005).fit(X[~held], y[~held])
    assert model.score(X[held], y[held]) > 0.9
    chances = model.predict_proba(X[held])
    assert chances.shape == (100, 10)
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    np.testing.assert_allclose(np.log(chances), model.predict_log_proba(X[held]))
    np.testing.assert_array_equal(model.classes_[chances.argmax(axis=1)], model.predict(X[held]))
    assert len(model.loss_curve_) == model.n_iter_ == 30
    assert model.t_ == 30 * 500
    assert model.loss_ == model.loss_curve_[-1] < model.loss_curve_[0]
    assert model.best_loss_ == min(model.loss_curve_)
    assert [type(layer).__name__ for layer in model.model_.layers] == [
        "LocallyConnected2D", "LocallyConnected2D", "Flatten", "Dense",
    ]  # fmt: skip


@pytest.mark.parametrize(("shape", "kind"), [((12,), lc.LocallyConnected1D), ((3, 4), lc.LocallyConnected2D),
                                             ((2, 3, 2), lc.LocallyConnected2D), ((2, 3, 2, 1), lc.LocallyConnected3D),
                                             (None, lc.LocallyConnected1D)])  # fmt: skip
def test_flat_and_shaped_samples(shape, kind, rng):
    X, y = rng.standard_normal((40, 12)), rng.integers(0, 2, 40)
    flat = LocallyConnectedClassifier(image_shape=shape, max_iter=3, random_state=0).fit(X, y)
    assert isinstance(flat.model_.layers[0], kind)
    if shape is not None and len(shape) > 1:
        shaped = LocallyConnectedClassifier(max_iter=3, random_state=0).fit(X.reshape(40, *shape), y)
        np.testing.assert_array_equal(shaped.predict_proba(X.reshape(40, *shape)), flat.predict_proba(X))
        assert shaped.image_shape_ == shape
        np.testing.assert_array_equal(
            shaped.predict_proba(X[:3].reshape(3, *shape).tolist()), shaped.predict_proba(X[:3].reshape(3, *shape))
        )


def test_numbers_are_computed_in_the_dtype_of_the_samples(digits):
    X, y = digits
    for dtype, expected in (
        (np.float32, "float32"), (np.float64, "float64"), (int, "float64"), (np.int8, "float32"), (np.uint8, "float32"),
        (np.int16, "float32"), (bool, "float32"), (np.float16, "float32"),
    ):  # fmt: skip
        model = classifier(max_iter=1).fit((16 * X).astype(dtype), y)
        assert model.model_.layers[0].dtype == expected
        assert model.predict_proba(X.astype(dtype)).dtype == expected


def test_integer_weights_are_repetitions(digits):
    """With one batch; what is drawn and how large the penalty is do not depend on the number of samples."""
    X, y = digits[0][:60], digits[1][:60]
    weights = np.arange(60) % 3
    repeated = np.repeat(np.arange(60), weights)
    settings = {"alpha": 0.5, "shuffle": False, "max_iter": 20}
    one = classifier(**settings, batch_size=60).fit(X, y, sample_weight=weights)
    other = classifier(**settings, batch_size=1000).fit(X[repeated], y[repeated])
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), rtol=1e-6)
    assert one.loss_ == pytest.approx(other.loss_, rel=1e-6)
    penalty = sum(np.sum(w**2) for w in one.model_.get_weights() if w.ndim > 1 and w.shape[-1] > 0)
    assert penalty > 0


def test_partial_fit_is_one_pass(digits):
    X, y = digits
    model = classifier(shuffle=False, batch_size=100)
    for _ in range(3):
        model.partial_fit(X, y, classes=np.arange(10))
    same(model, classifier(shuffle=False, batch_size=100, max_iter=3).fit(X, y), X)
    assert model.n_iter_ == len(model.loss_curve_) == 3
    with pytest.raises(ValueError, match=r"classes, all labels .*, is required in the first call"):
        classifier().partial_fit(X, y)
    few = classifier().partial_fit(X[y < 3], y[y < 3], classes=np.arange(10))
    assert few.predict_proba(X).shape == (600, 10)
    few.partial_fit(X, y)
    with pytest.raises(ValueError, match="classes must be those of the first call"):
        few.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"labels \[77\] that are not in classes_"):
        few.partial_fit(X, np.where(y == 1, 77, y))
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        classifier(early_stopping=True).partial_fit(X, y, classes=np.arange(10))
    regressor = LocallyConnectedRegressor(random_state=0).partial_fit(X, y).partial_fit(X, y)
    assert regressor.n_iter_ == 2


def test_warm_start_goes_on(digits):
    X, y = digits
    warm = classifier(warm_start=True, shuffle=False, max_iter=2).fit(X, y)
    first = warm._outputs(X)
    assert not np.array_equal(warm.fit(X, y)._outputs(X), first)
    assert warm.n_iter_ == 4
    same(warm, classifier(shuffle=False, max_iter=4).fit(X, y), X)
    cold = classifier(max_iter=2)
    np.testing.assert_array_equal(cold.fit(X, y)._outputs(X), cold.fit(X, y)._outputs(X))
    with pytest.raises(ValueError, match=r"y has labels \['a'\]|not in classes_"):
        warm.fit(X, y + 5)


def test_early_stopping_keeps_the_best_weights(digits):
    X, y = digits
    model = classifier(early_stopping=True, n_iter_no_change=3, max_iter=200, validation_fraction=0.25).fit(X, y)
    assert 4 < model.n_iter_ < 200
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert len(model.validation_scores_) == model.n_iter_
    assert model.best_loss_ is None
    regressor = LocallyConnectedRegressor(early_stopping=True, max_iter=5, random_state=0).fit(X, y)
    assert len(regressor.validation_scores_) == 5
    weighted = classifier(early_stopping=True, max_iter=3).fit(X, y, sample_weight=1 + (y == 3))
    assert len(weighted.validation_scores_) == 3


def test_training_ends_when_it_gains_no_more(digits):
    X, y = digits
    model = classifier(tol=1e9, n_iter_no_change=4, max_iter=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, y)
    assert model.n_iter_ == 5 + 1, "the first pass gains, against nothing"
    with pytest.warns(
        ConvergenceWarning,
        match=r"ended after max_iter=2 passes, before .* stopped improving by tol=0\.0001; increase max_iter",
    ):
        classifier(max_iter=2).fit(X, y)


def test_rates(digits, monkeypatch):
    X, y = digits
    rates = []
    before = estimators._Monitor.on_epoch_end

    def on_epoch_end(self, run, logs):
        rates.append(run.lr)
        before(self, run, logs)

    monkeypatch.setattr(estimators._Monitor, "on_epoch_end", on_epoch_end)
    classifier(max_iter=3, learning_rate="invscaling", learning_rate_init=0.5, solver="sgd").fit(X, y)
    assert rates == pytest.approx([0.5, 0.5 / 601**0.5, 0.5 / 1201**0.5])
    rates.clear()
    model = classifier(max_iter=100, learning_rate="adaptive", learning_rate_init=1e-4, solver="sgd", tol=1e9,
                       n_iter_no_change=1).fit(X, y)  # fmt: skip
    assert sorted(set(rates), reverse=True) == pytest.approx([1e-4, 2e-5, 4e-6, 8e-7]), "as MLPClassifier does"
    assert model.n_iter_ < 100
    for solver in (lc.SGD(momentum=0.5), lc.RMSprop()):
        assert classifier(max_iter=1, solver=solver).fit(X, y).model_.layers[0].optimizer == solver
    assert classifier(max_iter=1, solver="sgd", momentum=0.0).fit(X, y).model_.layers[0].optimizer == lc.SGD()


def test_penalties_are_those_of_mlp(digits):
    X, y = digits
    model = classifier(alpha=0.3, batch_size=50, max_iter=1).fit(X, y)
    assert [layer.kernel_regularizer.l2 for layer in (model.model_.layers[0], model.model_.layers[-1])] == [0.003] * 2
    assert model.model_.layers[0].bias_regularizer is None
    assert classifier(alpha=0, max_iter=1).fit(X, y).model_.layers[0].kernel_regularizer is None


def test_regression(rng):
    X = rng.standard_normal((300, 6, 5))
    y = np.stack([X[:, 2, 3] - X[:, 4, 1], 2 * X[:, 0, 0]], axis=1)
    model = LocallyConnectedRegressor((6,), learning_rate_init=0.02, random_state=0, max_iter=100).fit(X, y)
    assert model.score(X, y) > 0.95
    assert model.predict(X).shape == (300, 2)
    one = LocallyConnectedRegressor((6,), max_iter=3, random_state=0).fit(X, y[:, 0])
    assert one.predict(X).shape == (300,)
    half = 0.5 * np.mean((one.predict(X) - y[:, 0]) ** 2)
    penalties = one.model_.penalties()
    assert one._loss()(y[:, :1], one.predict(X)[:, None])[0] + penalties == pytest.approx(half + penalties)


def test_pipelines_and_grids(digits):
    X, y = digits
    pipeline = make_pipeline(StandardScaler(), classifier(max_iter=4))
    grid = GridSearchCV(pipeline, {"locallyconnectedclassifier__filters": [(2,), (8,)]}, cv=2, n_jobs=2)
    grid.fit(X, y)
    assert grid.best_params_ == {"locallyconnectedclassifier__filters": (8,)}
    alone = GridSearchCV(pipeline, {"locallyconnectedclassifier__filters": [(2,), (8,)]}, cv=2).fit(X, y)
    np.testing.assert_array_equal(grid.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])


def test_copies_and_pickles_predict_the_same(digits):
    X, y = digits
    model = classifier(max_iter=2).fit(X, y)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        same(twin, model, X)


def test_labels_may_be_words(digits):
    X, y = digits
    words = np.array(["even", "odd"])[y % 2]
    model = classifier(max_iter=20).fit(X, words)
    assert set(model.predict(X)) == {"even", "odd"}
    assert model.score(X, words) > 0.9


def test_progress_in_words(digits, capsys):
    X, y = digits
    classifier(max_iter=2, verbose=True, early_stopping=True).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0].partition(":")[0] for line in lines] == [
        "Iteration 1", "Validation score", "Iteration 2", "Validation score",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"kernel_size": (3, 3), "image_shape": None},
            ValueError,
            r"rows of a table are sequences, .* give image_shape=\(height, width\), too",
        ),
        (
            {"strides": [(2, 2)], "image_shape": None},
            ValueError,
            r"strides=\(2, 2\) has 2 entries, but the rows of a table",
        ),
        ({"image_shape": (3, 3)}, ValueError, r"image_shape=\(3, 3\) does not fit samples of 64 features"),
        ({"image_shape": (1, 1, 8, 8, 1)}, ValueError, "does not fit samples"),
        ({"filters": 0}, ValueError, "filters=0"),
        ({"filters": (2.5,)}, TypeError, "filters=2.5"),
        ({"kernel_size": 9, "padding": "valid"}, ValueError, "does not fit"),
        ({"solver": "lbfgs"}, ValueError, "solver='lbfgs' is not known"),
        ({"learning_rate": "nope"}, ValueError, "learning_rate must be one of .*, got 'nope'"),
        ({"learning_rate_init": 0}, ValueError, "learning_rate_init must be > 0, got 0"),
        ({"alpha": -1}, ValueError, "alpha must be >= 0 or 'auto', got -1"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"batch_size": "all"}, ValueError, "batch_size='all'"),
        ({"max_iter": 0}, ValueError, "max_iter=0"),
        ({"validation_fraction": 1.0}, ValueError, r"validation_fraction must be in \(0, 1\), got 1.0"),
        ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change=0"),
        ({"shuffle": 1}, TypeError, "shuffle=1"),
        ({"filters": None}, TypeError, "filters must be an integer, .*, got None"),
        ({"image_shape": 6}, TypeError, "image_shape must be a tuple of integers, got 6"),
        ({"momentum": "a"}, TypeError, "momentum='a'"),
        ({"power_t": "a"}, TypeError, "power_t='a'"),
        ({"early_stopping": "no"}, TypeError, "early_stopping must be True or False, got 'no'"),
        ({"activation": "nope"}, ValueError, "activation='nope'"),
        ({"momentum": 1.0, "solver": "sgd"}, ValueError, r"momentum must be in \[0, 1\), got 1.0"),
        ({"alpha": "much"}, TypeError, "alpha='much'"),
        ({"class_weight": "equal"}, ValueError, "class_weight must be .*, got 'equal'"),
        ({"class_weight": {1: -1}}, ValueError, r"class_weight must have finite weights >= 0, got \{1: -1\}"),
        ({"class_weight": {1: "a"}}, TypeError, "class_weight='a'"),
        ({"class_weight": {77: 1}}, ValueError, r"class_weight=.* has labels \[77\] that are not in classes_"),
        (
            {"class_weight": {**dict.fromkeys(range(10), 1), 11: 3}},
            ValueError,
            r"has labels \[11\] that are not in classes_",
        ),
        ({"power_t": 1e6, "learning_rate": "invscaling"}, ValueError, r"power_t must be in \[0, 16\], got 1000000.0"),
        ({"power_t": -1e6, "learning_rate": "invscaling"}, ValueError, r"power_t must be in \[0, 16\], got -1000000.0"),
        ({"filters": (n for n in (2, 3))}, TypeError, "filters must be an integer, .*, got <generator"),
        ({"filters": {2, 3}}, TypeError, r"filters must be an integer, .*, got \{2, 3\}"),
        ({"filters": {2: 3}}, TypeError, r"filters must be an integer, .*, got \{2: 3\}"),
        ({"image_shape": {8}}, TypeError, r"image_shape must be a tuple of integers, got \{8\}"),
        (
            {"learning_rate": 0.1},
            ValueError,
            "learning_rate must be one of .*, got 0.1; the rate itself is learning_rate_init",
        ),
        ({"n_threads": -1}, ValueError, "n_threads must be >= 1, or None for all, got -1"),
        ({"kernel_size": [3, 3]}, ValueError, r"kernel_size must be .* each of 1 layers, got \[3, 3\]"),
        ({"strides": [(1, 1), (1, 1)]}, ValueError, r"strides must be .* each of 1 layers, got \[\(1, 1\), \(1, 1\)\]"),
        ({"kernel_size": (3, 3, 3)}, ValueError, "kernel_size"),
        ({"scoring": 1}, TypeError, "scoring must be .*, got 1"),
        ({"scoring": ["accuracy"]}, TypeError, "scoring must be .*, got "),
        ({"scoring": "nope", "early_stopping": True}, ValueError, "nope"),
    ],
)
def test_bad_settings(settings, error, message, digits):
    with pytest.raises(error, match=message):
        classifier(**settings).fit(*digits)


def test_bad_samples(digits):
    X, y = digits
    model = classifier(max_iter=1).fit(X, y)
    with pytest.raises(ValueError, match=r"X must have samples of shape \(8, 8\), as in the first fit, got \(4, 16\)"):
        LocallyConnectedClassifier(max_iter=1).fit(X.reshape(-1, 8, 8), y).predict(X.reshape(-1, 4, 16))
    with pytest.raises(ValueError, match=r"image_shape=\(8, 8\); omit image_shape"):
        classifier().fit(X.reshape(-1, 4, 16), y)
    with pytest.raises(ValueError, match=r"sample_weight times class_weight must be above 0|at least one non-zero"):
        model.fit(X, y, sample_weight=np.zeros(600))
    with pytest.raises(ValueError, match=r"X must have shape .*, got \(1, 1, 1, 1, 1, 1\)"):
        LocallyConnectedRegressor().fit(np.ones((1, 1, 1, 1, 1, 1)), [1])
    with pytest.raises(NotFittedError):
        LocallyConnectedClassifier().predict_proba(X)
    with pytest.raises(ValueError, match="y must have 1 outputs, as in the first fit, got 2"):
        LocallyConnectedRegressor(warm_start=True, max_iter=1).fit(X, y).fit(X, np.stack([y, y], axis=1))


def test_what_fails_leaves_a_fitted_estimator_as_it_was(digits):
    X, y = digits
    model = classifier(max_iter=2).fit(X, y)
    before = model.predict_proba(X)
    for bad in (lambda: model.fit(X, y[:-1]), lambda: model.partial_fit(X, y + 5)):
        with pytest.raises(ValueError, match=r"inconsistent|labels"):
            bad()
        np.testing.assert_array_equal(model.predict_proba(X), before)
    new = classifier()
    with pytest.raises(ValueError, match="filters=0"):
        new.set_params(filters=0).fit(X, y)
    assert not [name for name in vars(new) if name.endswith("_")]


def test_early_stopping_may_be_switched_between_fits(digits):
    X, y = digits
    model = classifier(max_iter=2, warm_start=True).fit(X, y)
    model.set_params(early_stopping=True).fit(X, y)
    assert len(model.validation_scores_) == 2
    model.set_params(early_stopping=False).fit(X, y)
    assert model.validation_scores_ is None
    assert model.best_loss_ == min(model.loss_curve_)
    few = np.zeros(600)
    few[0] = 1
    with pytest.raises(
        ValueError, match=r"is 0 for all training or all validation .* a validation_fraction other than 0.1, or"
    ):
        classifier(early_stopping=True, max_iter=1).fit(X, y, sample_weight=few)


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "lcnumba.estimators")
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match=r"pip install 'lcnumba\[sklearn\]'"):
        importlib.import_module("lcnumba.estimators")


def test_a_loss_beyond_all_bounds_is_an_error(rng):
    X = 1e30 * rng.standard_normal((20, 5)).astype(np.float32)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"the loss became .*; scale X and y to about 1"):
        LocallyConnectedRegressor().fit(X, X[:, 0])


@pytest.mark.parametrize(
    "settings",
    [
        {"filters": np.array(3)},
        {"image_shape": np.array(16)},
        {"image_shape": np.ones((2, 2))},
        {"warm_start": np.array([])},
        {"tol": np.timedelta64(1, "s")},
    ],
)
def test_arrays_where_numbers_are_wanted(settings):
    [name] = settings
    with pytest.raises((TypeError, ValueError), match=f"{name}(=| must be .*, got )"):
        LocallyConnectedRegressor(**settings).fit(np.ones((6, 16)), np.arange(6.0))


def whole(estimator):
    """A copy of all that an estimator holds, and of what its network's training does."""
    model = estimator.model_
    states = [state for layer in model.get_training_state() if layer for state in layer.values()]
    return copy.deepcopy(
        {
            "fitted": {
                name: value
                for name, value in vars(estimator).items()
                if name not in ("model_", "random_state", "classes_")
            },
            "classes": getattr(estimator, "classes_", np.empty(0)).tolist(),
            "weights": model.get_weights(),
            "states": [array for state in states for array in state.values()],
            "history": (model.history.history, model.history.epoch),
            "steps": model.steps_taken,
        }
    )


def assert_whole(before, estimator):
    after = whole(estimator)
    for name in ("weights", "states"):
        assert len(after[name]) == len(before[name])
        for a, b in zip(before[name], after[name], strict=True):
            np.testing.assert_array_equal(a, b)
    for name in ("fitted", "classes", "history", "steps"):
        assert after[name] == before[name]


POISON = [
    ({"solver": "sgd", "momentum": 0.9}, np.float32, 3e25),
    ({"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": False}, np.float32, 3e25),
    ({"solver": "adam"}, np.float64, 1e200),
    ({"solver": lc.RMSprop()}, np.float64, 1e200),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("settings", "dtype", "poison"), POISON)
@pytest.mark.parametrize("partial", [True, False])
def test_a_refused_fit_poisons_nothing(kind, settings, dtype, poison, partial, rng):
    """Neither the next fit nor any attribute knows of it."""
    X = rng.standard_normal((40, 8)).astype(dtype)
    y = (X[:, 0] > 0).astype(int)
    bad = X.copy()
    bad[:20, 4] = poison  # of both classes
    twins = [kind((2,), random_state=0, batch_size=10, warm_start=True, max_iter=2, **settings) for _ in range(2)]
    for one in twins:
        one.fit(X, y)
    model, before = twins[0], whole(twins[0])
    go_on = model.partial_fit if partial else model.fit
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"infinite or NaN|the loss became"):
        go_on(bad, y)
    assert_whole(before, model)
    for one in twins:
        one.partial_fit(X, y)
    same(*twins, X)
    assert np.isfinite(model._outputs(X)).all()
    assert len(model.loss_curve_) == model.n_iter_ == 3


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_what_the_last_step_has_spoiled_is_told(solver, rng):
    """The one loss of a single batch is finite; the weights after it are not, or Adam's squares of gradients."""
    X = rng.standard_normal((6, 8))
    X[::2, 4] = 1e200  # one class alone: otherwise the sum of the gradients may cancel to exactly 0
    settings = {"solver": solver, "random_state": 0, "activation": "linear", "learning_rate_init": 1e150}
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="became infinite or NaN; scale X and y"):
        LocallyConnectedClassifier((2,), **settings).partial_fit(X, np.arange(6) % 2, classes=[0, 1])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_interrupts_a_fit_leaves_the_estimator_as_it_was(error, digits, monkeypatch):
    X, y = digits
    random = np.random.RandomState(3)
    model = classifier(max_iter=2, warm_start=True, early_stopping=True, random_state=random).fit(X, y)
    before, drawn, network, curve = whole(model), random.get_state(), model.model_, model.loss_curve_
    epochs = []

    def on_epoch_end(self, run, logs):
        epochs.append(logs)
        follow(self, run, logs)
        if len(epochs) == 2:
            raise error

    follow = estimators._Monitor.on_epoch_end
    monkeypatch.setattr(estimators._Monitor, "on_epoch_end", on_epoch_end)
    for _ in range(2):  # from here on, and from the beginning
        epochs.clear()
        with pytest.raises(error):
            model.fit(X, y)
        assert len(epochs) == 2
        before["fitted"]["warm_start"] = model.warm_start
        assert_whole(before, model)
        assert model.model_ is network
        assert model.loss_curve_ is curve
        np.testing.assert_array_equal(random.get_state()[1], drawn[1])
        assert random.get_state()[2:] == drawn[2:]
        model.set_params(warm_start=False)


def test_class_weights_are_weights_of_samples(digits):
    """Labels may be words; both kinds of weights are multiplied; no class need be named."""
    X, y = digits
    words = np.array(["few", "many"])[(y > 1).astype(int)]
    expected = np.where(words == "few", 5.0, 1.0)
    one = classifier(class_weight={"few": 5.0}).fit(X, words)
    same(one, classifier().fit(X, words, sample_weight=expected), X)
    counts = {word: (words == word).sum() for word in ("few", "many")}
    balanced = np.array([600 / (2 * counts[word]) for word in words])
    one = classifier(class_weight="balanced").fit(X, words)
    same(one, classifier().fit(X, words, sample_weight=balanced), X)
    sample_weight = 1.0 + np.arange(600) % 2
    one = classifier(class_weight={"few": 5.0}).fit(X, words, sample_weight=sample_weight)
    same(one, classifier().fit(X, words, sample_weight=sample_weight * expected), X)
    one = classifier(class_weight={"few": 5.0}).partial_fit(X[:50], words[:50], classes=["few", "many"])
    two = classifier().partial_fit(X[:50], words[:50], classes=["few", "many"], sample_weight=expected[:50])
    same(one, two, X)
    with pytest.raises(ValueError, match=r"partial_fit, .*, does not support class_weight='balanced'"):
        classifier(class_weight="balanced").partial_fit(X, words, classes=["few", "many"])
    with pytest.raises(ValueError, match="sample_weight times class_weight must be above 0"):
        classifier(class_weight={"few": 0, "many": 0}).fit(X, words)
    assert "class_weight" not in LocallyConnectedRegressor().get_params()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_shared_weights_and_groups_are_passed_on():
    rng = np.random.default_rng(0)
    X, y = rng.random((40, 6, 8, 2)), rng.integers(0, 2, 40)
    regions = np.arange(48).reshape(6, 8) % 3
    settings = {"groups": [2, 1], "weight_sharing": [regions, "all"], "warm_start": True}
    model = LocallyConnectedClassifier(filters=(4, 3), max_iter=1, random_state=0, **settings)
    model = clone(model).fit(X, y)
    first, second = model.model_.layers[:2]
    assert first.kernel.shape == (3, 9, 4)
    assert second.kernel.shape == (1, 36, 3)
    model.fit(X, y)
    with pytest.raises(ValueError, match="weight_sharing"):
        model.set_params(weight_sharing=[regions, (2, 2)]).fit(X, y)


@pytest.mark.filterwarnings("ignore:.* of 64 features are in no window:UserWarning")
def test_a_window_for_each_layer(digits):
    X, y = digits
    model = classifier(filters=(2, 3), kernel_size=[(3, 2), 4], strides=[2, (1, 2)], max_iter=1).fit(X, y)
    first, second = model.model_.layers[:2]
    assert (first.kernel_size, first.strides) == ((3, 2), (2, 2))
    assert (second.kernel_size, second.strides) == ((4, 4), (1, 2))
    model = classifier(filters=(2, 3), kernel_size=(3, 2), strides=(1, 2), max_iter=1).fit(X, y)
    assert [(layer.kernel_size, layer.strides) for layer in model.model_.layers[:2]] == [((3, 2), (1, 2))] * 2


def test_early_stopping_by_a_scorer(digits):
    X, y = digits
    few = (y == 3).astype(int)
    settings = {"early_stopping": True, "max_iter": 4, "validation_fraction": 0.25}
    kept = {}
    for scoring in ("loss", None, "accuracy", "roc_auc", lambda estimator, X, y: float(-len(X))):
        model = classifier(scoring=scoring, **settings).fit(X, few)
        kept[scoring if isinstance(scoring, str) else str(scoring)[:4]] = model.validation_scores_
    assert kept["None"] == kept["accuracy"]
    assert len({tuple(scores) for scores in kept.values()}) == 4
    assert kept["<fun"] == [-150.0] * 4
    assert all(score < 0 for score in kept["loss"])
    assert all(0 <= score <= 1 for score in kept["roc_auc"])
    shaped = classifier(scoring="roc_auc", image_shape=None, **settings).fit(X.reshape(-1, 8, 8), few)
    assert shaped.validation_scores_ == kept["roc_auc"]
    regressor = LocallyConnectedRegressor(scoring="r2", random_state=0, **settings).fit(X, y)
    own = LocallyConnectedRegressor(scoring=None, random_state=0, **settings).fit(X, y)
    assert regressor.validation_scores_ == own.validation_scores_


def test_scorers_get_labels_and_weights(digits):
    X, y = digits
    words, seen = np.array(["even", "odd"])[y % 2], []

    def scorer(estimator, X, y, sample_weight=None):
        seen.append((X.shape, set(y), set(sample_weight), estimator.predict(X).shape))
        return 0.5

    settings = {"early_stopping": True, "max_iter": 1, "validation_fraction": 0.25}
    classifier(scoring=scorer, **settings).fit(X, words, sample_weight=1.0 + np.arange(600) % 2)
    assert seen == [((150, 8, 8), {"even", "odd"}, {1.0, 2.0}, (150,))]
    with pytest.raises(
        ValueError, match=r"scoring=.* is NaN on the validation samples; .* a validation_fraction other than 0.25, or"
    ):
        classifier(scoring=lambda estimator, X, y: np.nan, **settings).fit(X, words)


def test_rare_cases_do_not_end_the_training_at_once(rng):
    """Accuracy is that of always saying no from the first pass on; the loss and the area under the curve go on."""
    X = rng.standard_normal((400, 30)).astype(np.float32)
    y = (X[:, 3] + X[:, 20] > 2).astype(int)
    assert 0.05 < y.mean() < 0.15
    settings = {"early_stopping": True, "random_state": 0, "learning_rate_init": 0.003, "n_iter_no_change": 5}
    passes = {scoring: LocallyConnectedClassifier(scoring=scoring, **settings).fit(X, y).n_iter_
              for scoring in ("accuracy", "loss")}  # fmt: skip
    assert passes["accuracy"] < 12
    assert passes["loss"] > 50


def test_small_integers_are_not_blown_up(digits, monkeypatch):
    X, y = digits
    X = (16 * X).astype(np.int8)
    seen = []
    forward = lc.Sequential.forward
    monkeypatch.setattr(lc.Sequential, "forward", lambda self, x: seen.append(x.dtype) or forward(self, x))
    model = classifier(max_iter=1).fit(X, y)
    assert set(seen) == {np.dtype(np.int8)}, "cast a batch at a time"
    same(model, classifier(max_iter=1).fit(X.astype(np.float32), y), X)


def test_the_penalty_is_that_of_a_linear_model(digits):
    """By default half the squared weights, divided by all samples, as LogisticRegression's with C=1."""
    X, y = digits
    weights = 1.0 + np.arange(600) % 2
    for given, total in ((None, 600), (weights, weights.sum())):
        model = classifier(max_iter=1, batch_size=50).fit(X, y, sample_weight=given)
        assert [model.model_.layers[at].kernel_regularizer.l2 for at in (0, -1)] == pytest.approx([0.5 / total] * 2)


def test_many_features_and_few_samples():
    """A linear model's area under the curve is no target to miss; one window of 20 is all that is set."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(5)
    y = np.arange(400) % 5 == 0
    likely = np.tile(rng.uniform(0.05, 0.5, 2000), (400, 1))
    likely[np.ix_(y, rng.choice(2000, 30, replace=False))] += 0.2
    X = (rng.random((2, 400, 2000)) < likely).sum(0).astype(np.int8)
    train = np.arange(400) % 3 > 0
    linear = LogisticRegression(max_iter=1000).fit(X[train], y[train]).decision_function(X[~train])
    local = LocallyConnectedClassifier(kernel_size=20, strides=None, padding="valid", random_state=0).fit(
        X[train], y[train]
    )
    found = roc_auc_score(y[~train], local.predict_proba(X[~train])[:, 1])
    assert found > roc_auc_score(y[~train], linear) - 0.02
    assert found > 0.8


def test_words_of_others_are_refused_with_the_word_here(digits):
    for settings, word in (({"hidden_layer_sizes": (3,)}, "filters"), ({"lr": 0.1}, "learning_rate_init"),
                           ({"epochs": 3}, "max_iter"), ({"n_jobs": 2}, "n_threads"), ({"C": 1}, "alpha"),
                           ({"patience": 3}, "n_iter_no_change"), ({"optimizer": "adam"}, "solver")):  # fmt: skip
        for kind in KINDS:
            with pytest.raises(TypeError, match=rf"^{kind.__name__}\(\) got .*it is called {word} here"):
                kind(**settings)
    with pytest.raises(TypeError, match=r"^fit\(\) got an unexpected keyword argument 'epochs'"):
        classifier().fit(*digits, epochs=3)


def test_a_verbose_estimator_says_that_kernels_are_compiled(digits, capsys, monkeypatch):
    before = lc.Sequential.forward

    def forward(self, x):
        for _ in range(2):
            compilation.started("forward")
            compilation.finished("forward")
        return before(self, x)

    monkeypatch.setattr(lc.Sequential, "forward", forward)
    classifier(max_iter=2, verbose=True).fit(*digits)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "compiling kernels (seconds, once; the code is kept on disk)"
    assert [line[:9] for line in lines[1:]] == ["Iteration", "Iteration"]
    classifier(max_iter=1).fit(*digits)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", ["fit", "partial_fit", "predict", "score"])
@pytest.mark.parametrize("shape", [(12,), (3, 4)])
@pytest.mark.parametrize("form", [lambda array: array, list])
def test_masks_are_refused_and_not_ignored(kind, call, shape, form, rng):
    X, y = rng.integers(0, 9, (8, *shape)) / 8, np.arange(8) % 2
    model = kind(max_iter=1, random_state=0).fit(X, y)
    before = model._outputs(X)
    given = [("X", (np.ma.masked_greater(X, 0.5), y), {})]
    if call != "predict":
        given += [("y", (X, np.ma.masked_equal(y, 1)), {}),
                  ("sample_weight", (X, y), {"sample_weight": form(np.ma.masked_equal(1.0 + y, 2))})]  # fmt: skip
    for name, (samples, targets), weights in given:
        arguments = (form(samples),) if call == "predict" else (form(samples), form(targets))
        with pytest.raises(
            TypeError, match=rf"^{name} (is|holds) a numpy Masked.*; its mask would be ignored; fill it"
        ):
            getattr(model, call)(*arguments, **weights)
    np.testing.assert_array_equal(model._outputs(X), before)


def test_settings_changed_between_fits_are_applied_and_not_ignored(digits):
    """All that a network can take over; what its optimizer has gathered stays unless the solver changes."""
    X, y = digits
    settings = {"warm_start": True, "shuffle": False, "max_iter": 1, "alpha": 0.5, "batch_size": 100}
    model, weights = classifier(**settings).fit(X, y), None

    def go_on(partial=False, **changed):
        nonlocal weights
        weights, state = model.model_.get_weights(), model.model_.get_training_state()
        model.set_params(**changed)
        model.partial_fit(X, y) if partial else model.fit(X, y)
        assert not np.array_equal(model.model_.get_weights()[0], weights[0])
        return state[0]["kernel"].get("t"), model.model_.get_training_state()[0]["kernel"]

    def penalties():
        return [model.model_.layers[at].kernel_regularizer.l2 for at in (0, -1)]

    for partial in (False, True):
        before, after = go_on(partial, alpha=50.0)
        assert penalties() == [0.25, 0.25]
        assert after["t"] == before + 6, "the solver's state goes on"
        go_on(partial, batch_size=200)
        assert penalties() == [0.125, 0.125]
        go_on(partial, alpha="auto")
        assert penalties() == [0.5 / 600] * 2
        go_on(partial, batch_size=100)
        assert penalties() == [0.5 / 600] * 2, "all samples are the same"
        go_on(partial, n_threads=1, implementation=2)
        assert (model.model_.layers[0].n_threads, model.model_.layers[0].implementation) == (1, 2)
        _, after = go_on(partial, beta_1=0.5, epsilon=1e-5)
        assert model.model_.layers[0].optimizer == lc.Adam(beta_1=0.5, epsilon=1e-5)
        assert after["t"] == 6, "from the beginning"
        go_on(partial, solver="sgd", momentum=0.25, nesterovs_momentum=False)
        assert model.model_.layers[-1].optimizer == lc.SGD(momentum=0.25)
        go_on(partial, solver="adam", beta_1=0.9, epsilon=1e-8, alpha=0.5, implementation=1, n_threads=None)
    rate = model.set_params(learning_rate_init=1e-30)
    weights = rate.model_.get_weights()
    np.testing.assert_array_equal(rate.fit(X, y).model_.get_weights()[0], weights[0])
    own = lc.RMSprop()
    go_on(solver=own, learning_rate_init=0.01)
    assert model.model_.layers[0].optimizer == own


def test_a_penalty_that_changes_is_the_one_of_the_next_steps(digits):
    """Training resumes from the current weights with the new penalty: as a network that is told by hand."""
    X, y = digits
    settings = {
        "solver": "sgd",
        "momentum": 0.0,
        "shuffle": False,
        "max_iter": 1,
        "warm_start": True,
        "batch_size": 600,
    }
    model = classifier(alpha=0.0, **settings).fit(X, y)
    twin = copy.deepcopy(model).fit(X, y)
    start = model.model_.get_weights()
    model.set_params(alpha=60.0).fit(X, y)
    for before, free, bound in zip(start, twin.model_.get_weights(), model.model_.get_weights(), strict=True):
        shrunk = 0.02 * 2 * 0.05 * before if before.shape == start[0].shape or before.ndim == 2 else 0
        np.testing.assert_allclose(bound, free - shrunk, atol=1e-12)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"filters": (4,)},
            r"filters cannot be changed from 8 to \(4,\) once the network is fitted; set it back",
        ),
        ({"filters": (8, 8)}, r"filters cannot be changed from 8 to \(8, 8\)"),
        ({"kernel_size": 5}, r"kernel_size cannot be changed from \(3, 3\) to 5"),
        ({"strides": (1, 2)}, r"strides cannot be changed from \(1, 1\) to \(1, 2\)"),
        ({"padding": "valid"}, "padding cannot be changed from 'same' to 'valid'"),
        ({"activation": "tanh"}, "activation cannot be changed from 'relu' to 'tanh'"),
        ({"image_shape": (4, 16)}, r"image_shape cannot be changed from \(8, 8\) to \(4, 16\)"),
    ],
)
def test_a_network_of_another_shape_is_refused(changed, message, digits):
    X, y = digits
    model = classifier(warm_start=True, max_iter=1).fit(X, y)
    before = whole(model)
    model.set_params(**changed)
    for go_on in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match=message + ".*refit with warm_start=False"):
            go_on(X, y)
    model.set_params(**{name: classifier().get_params()[name] for name in changed})
    assert_whole(before, model)
    model.set_params(filters=8, kernel_size=[(3, 3)], activation=lc.activations.ReLU(), strides=[1]).fit(X, y)
    assert model.n_iter_ == 2, "the same in other words"


def test_an_optimizer_and_an_activation_of_ones_own_go_on(digits):
    class Plain:
        def init(self, param):
            return {"steps": np.zeros(())}

        def update(self, param, grad, state, lr):
            state["steps"] += 1
            param -= lr * grad

    class Doubled:
        def __call__(self, z, out=None):
            return np.multiply(z, 2, out=out)

        def gradient(self, dy, y):
            return 2 * dy

    X, y = digits
    model = classifier(solver=Plain(), activation=Doubled(), max_iter=2, batch_size=100, warm_start=True).fit(X, y)
    model.fit(X, y).partial_fit(X, y)
    assert model.model_.get_training_state()[0]["kernel"]["steps"] == 30
    with pytest.raises(ValueError, match=r"activation cannot be changed from .*Doubled.* to .*Doubled"):
        model.set_params(activation=Doubled()).fit(X, y)


def test_scorers_that_take_no_weights_get_none(digits):
    X, y = digits
    settings = {"early_stopping": True, "max_iter": 1}
    weights = 1.0 + np.arange(600) % 2
    seen = []

    def known(estimator, X, y, **further):
        seen.append(sorted(further))
        return 0.5

    for scoring in (lambda estimator, X, y: 0.5, known):
        model = classifier(scoring=scoring, **settings).fit(X, y, sample_weight=weights)
        assert model.validation_scores_ == [0.5]
    assert seen == [["sample_weight"]]
    for scoring in ("neg_max_error", "neg_mean_squared_error", None):
        model = LocallyConnectedRegressor(scoring=scoring, random_state=0, **settings)
        assert len(model.fit(X, y, sample_weight=weights).validation_scores_) == 1


@pytest.mark.parametrize(
    ("settings", "features", "unread", "hint"),
    [
        ({"kernel_size": 10, "strides": 20}, 400, 205, "use strides <= kernel_size; strides=None"),
        ({"kernel_size": 10, "strides": 20, "padding": "valid"}, 400, 200, "use strides <= kernel_size"),
        ({"kernel_size": 20, "strides": 20}, 400, 10, "padding='valid' uses all features"),
        ({"kernel_size": 20, "strides": 20, "padding": "valid"}, 410, 10, "padding='same' uses all features"),
        ({"kernel_size": 20, "strides": 20}, 415, 5, "decrease strides or increase kernel_size"),
        (
            {"filters": (2, 2), "kernel_size": [2, 1], "strides": [2, 2], "padding": "valid"},
            8,
            4,
            "use strides <= kernel_size",
        ),
        ({"kernel_size": (2, 1), "strides": (1, 3), "image_shape": (4, 6, 2)}, 48, 32, "use strides <= kernel_size"),
    ],
)
def test_features_that_no_window_reads_are_told(settings, features, unread, hint, rng):
    X, y = rng.integers(0, 3, (8, features)).astype(np.int8), np.arange(8) % 2
    model = LocallyConnectedClassifier(random_state=0, max_iter=2, **{"filters": (2,), **settings})
    with pytest.warns(UserWarning, match=rf"^{unread} of {features} features are in no window .*{hint}"):
        model.fit(X, y)
    # As the network has it: the weights of what is read are there, and all others' gradients are 0.
    model.model_.layers[-1].set_weights([np.ones_like(w) for w in model.model_.layers[-1].get_weights()])
    for layer in model.model_.layers[:-2]:
        layer.set_weights([np.ones_like(w) for w in layer.get_weights()])
    outputs, backward = model.model_.forward(model._shaped(np.ones((1, features), np.float32)))
    assert int((backward(np.ones_like(outputs))[0] == 0).sum()) == unread


def test_strides_none_are_as_large_as_the_window(rng):
    X, y = rng.integers(0, 3, (8, 400)).astype(np.int8), np.arange(8) % 2
    settings = {"padding": "valid", "max_iter": 1, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LocallyConnectedClassifier(kernel_size=20, strides=None, **settings).fit(X, y)
        assert model.model_.layers[0].strides == (20,)
        model.set_params(kernel_size=10).fit(X, y)
        assert model.model_.layers[0].strides == (10,)
        model.set_params(filters=(2, 2), kernel_size=[10, 4], strides=[None, 1]).fit(X, y)
    assert [layer.strides for layer in model.model_.layers[:2]] == [(10,), (1,)]


def test_a_scorer_without_early_stopping_is_told(digits):
    for scoring in ("roc_auc", None):
        with pytest.warns(UserWarning, match=f"scoring={scoring!r} has no effect without early_stopping=True"):
            classifier(scoring=scoring, max_iter=1).fit(*digits)


def test_samples_of_another_byte_order_are_computed_alike(digits):
    X, y = digits
    for dtype in ("f4", "i2", "f8", "f2"):
        for form in (lambda array: array, lambda array: array.reshape(-1, 8, 8)):
            one, other = (classifier(max_iter=1).fit(form((16 * X).astype(order + dtype)), y) for order in "<>")
            assert (
                one.model_.layers[0].dtype
                == other.model_.layers[0].dtype
                == ("float64" if dtype == "f8" else "float32")
            )
            same(one, other, form((16 * X).astype(">" + dtype)))


def test_activations_have_the_names_of_mlp_too(digits):
    for name, kind in (("logistic", lc.activations.Sigmoid), ("identity", lc.activations.Linear),
                       ("tanh", lc.activations.Tanh), ("relu", lc.activations.ReLU)):  # fmt: skip
        model = classifier(activation=name, max_iter=1).fit(*digits)
        assert isinstance(model.model_.layers[0].activation, kind)


@pytest.mark.parametrize("word", ["class_weight", "max_iter", "batch_size", "verbose", "scoring"])
def test_settings_given_to_fit_belong_to_the_constructor(word, digits):
    for call in (classifier().fit, classifier().partial_fit):
        with pytest.raises(
            TypeError, match=rf"it belongs to the constructor, LocallyConnectedClassifier\({word}=...\)"
        ):
            call(*digits, **{word: 1})
    with pytest.raises(TypeError, match="the constructor of LocallyConnectedClassifier have it"):
        LocallyConnectedRegressor().fit(*digits, class_weight={0: 1})


def test_words_are_used_as_they_are_checked(digits):
    """Solvers in any case, and rates in none but theirs, as in scikit-learn: "Adaptive" was a constant rate."""
    settings = {
        "max_iter": 30,
        "learning_rate": "adaptive",
        "learning_rate_init": 1e-4,
        "tol": 1e9,
        "n_iter_no_change": 1,
    }
    one, other = (classifier(solver=solver, **settings).fit(*digits) for solver in ("sgd", "SGD"))
    assert one.loss_curve_ == other.loss_curve_
    with pytest.raises(ValueError, match=r"learning_rate must be one of .*, got 'Adaptive'"):
        classifier(learning_rate="Adaptive").fit(*digits)
    image = classifier(max_iter=1).fit(*digits).set_params(image_shape=(4, 16))
    with pytest.raises(ValueError, match=r"image_shape cannot be changed from \(8, 8\) to \(4, 16\)"):
        image.predict(digits[0])
