import numpy as np
import pytest

from lcnumba import losses, metrics
from lcnumba.testing import numerical_gradient

# Also run with every index checked, and interpreted instead of compiled.
pytestmark = pytest.mark.kernels

PAIRS = np.random.default_rng(5)
LABELS = np.array([0, 2, 1, 2])
ROWS = np.array([[0.2, 0.3, 0.5], [1, 0, 0], [0, 0, 2], [0, 0, 0]])
CASES = [
    ("mse", np.linspace(-1, 1, 12).reshape(4, 3), None),
    ("mae", np.linspace(-1, 1, 12).reshape(4, 3), None),
    ("huber", np.linspace(-3, 3, 12).reshape(4, 3), None),
    (losses.Huber(0.3), np.linspace(-3, 3, 12).reshape(4, 3), None),
    ("binary_crossentropy", PAIRS.random((4, 3)), "chances"),
    (losses.BinaryCrossentropy(from_logits=True), PAIRS.random((4, 3)), None),
    ("softmax_cross_entropy", LABELS, None),
    ("softmax_cross_entropy", ROWS, None),
    ("sparse_categorical_crossentropy", LABELS, "chances"),
    (losses.SparseCategoricalCrossentropy(from_logits=True), LABELS, None),
    ("categorical_crossentropy", ROWS, "chances"),
    (losses.CategoricalCrossentropy(from_logits=True), ROWS, None),
]


@pytest.mark.parametrize("weights", [None, np.array([0.5, 0.0, 2.0, 1.0])], ids=["plain", "weighted"])
@pytest.mark.parametrize(("loss", "y_true", "kind"), CASES)
def test_gradient_is_that_of_finite_differences(loss, y_true, kind, weights, rng):
    loss, y_pred = losses.get(loss), rng.standard_normal((4, 3))
    if kind == "chances":
        y_pred = rng.uniform(0.1, 0.9, (4, 3))
    _, gradient = loss(y_true, y_pred, weights)
    expected = numerical_gradient(lambda v: loss(y_true, v, weights)[0], y_pred)
    np.testing.assert_allclose(gradient, expected, atol=1e-8)


@pytest.mark.parametrize(("loss", "y_true", "kind"), CASES)
def test_weights_multiply_each_samples_part(loss, y_true, kind, rng):
    """The weighted mean is that of the losses of single samples, whatever blocks they are computed in."""
    loss, y_pred = losses.get(loss), rng.uniform(0.1, 0.9, (4, 3))
    weights = np.array([0.5, 0.0, 2.0, 1.0])
    each = [loss(y_true[n : n + 1], y_pred[n : n + 1]) for n in range(4)]
    value, gradient = loss(y_true, y_pred, weights)
    assert value == pytest.approx(np.mean([w * v for w, (v, _) in zip(weights, each, strict=True)]))
    np.testing.assert_allclose(gradient, np.concatenate([w * g / 4 for w, (_, g) in zip(weights, each, strict=True)]))
    assert loss(y_true, y_pred, np.ones(4))[0] == pytest.approx(loss(y_true, y_pred)[0])


@pytest.mark.parametrize("shape", [(5, 4000, 3), (700, 2, 10), (3, 30000), (0, 4)], ids=str)
def test_blocks_do_not_show(shape, rng):
    """Samples longer than a block, several to a block, none at all."""
    y_pred = rng.integers(-8, 9, shape).astype(np.float32)
    y_true = rng.integers(-8, 9, shape).astype(np.float32)
    value, gradient = losses.MeanSquaredError()(y_true, y_pred)
    size = max(1, y_pred.size)
    assert value == float(np.sum((y_pred - y_true).astype(np.float64) ** 2)) / size
    np.testing.assert_array_equal(gradient, 2 * (y_pred - y_true) * np.float32(1 / size))
    labels = rng.integers(0, shape[-1], shape[:-1])
    value, gradient = losses.SoftmaxCrossEntropy()(labels, y_pred.astype(float))
    z = y_pred.astype(float)
    chance = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    one_hot = np.eye(shape[-1])[labels] if len(shape) < 4 else None
    np.testing.assert_allclose(gradient, (chance - one_hot) / max(1, labels.size), atol=1e-12)
    expected = -np.log(np.take_along_axis(chance, labels[..., None], -1)).mean() if labels.size else 0
    assert value == pytest.approx(expected)


def test_probabilities_and_logits_are_one_loss(rng):
    """What a softmax or a sigmoid as last activation makes of the same numbers."""
    z = rng.standard_normal((4, 3))
    chance = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    for rows, make in ((LABELS, losses.SparseCategoricalCrossentropy), (ROWS, losses.CategoricalCrossentropy)):
        assert make()(rows, chance)[0] == pytest.approx(make(from_logits=True)(rows, z)[0])
        # Keras divides probabilities by their sum.
        assert make()(rows, 3 * chance)[0] == pytest.approx(make()(rows, chance)[0])
    sigmoid = 1 / (1 + np.exp(-z))
    t = rng.random((4, 3))
    assert losses.BinaryCrossentropy()(t, sigmoid)[0] == pytest.approx(
        losses.BinaryCrossentropy(from_logits=True)(t, z)[0]
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_certainty_is_finite(dtype):
    """Where a logarithm or a power would be infinite."""
    sure = np.array([[0.0, 1.0], [1.0, 0.0]], dtype)
    value, gradient = losses.BinaryCrossentropy()(1 - sure, sure)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    value, gradient = losses.SparseCategoricalCrossentropy()(np.array([0, 1]), sure)
    assert 80 < value < 800
    assert np.all(np.isfinite(gradient))
    z = np.array([[1e4, -1e4]], dtype)
    value, gradient = losses.BinaryCrossentropy(from_logits=True)(np.array([[0, 1]]), z)
    assert value == 1e4
    np.testing.assert_array_equal(gradient, [[0.5, -0.5]])
    assert losses.BinaryCrossentropy(from_logits=True)(np.array([[1, 0]]), z)[0] == 0
    assert gradient.dtype == dtype


def test_a_confident_mistake_keeps_its_gradient():
    """Through the softmax behind it; cut at 1e-7 it would be a thousandth."""
    chance = np.array([[1e-10, 1.0]], np.float32)
    _, dy = losses.SparseCategoricalCrossentropy()(np.array([0]), chance)
    dz = chance * (dy - np.sum(dy * chance))
    np.testing.assert_allclose(dz, [[-1, 1]], rtol=1e-5)


def test_known_values():
    value, gradient = losses.MeanSquaredError()(np.array([[1, 2]]), np.array([[2.0, 4.0]]))
    assert value == 2.5
    np.testing.assert_array_equal(gradient, [[1, 2]])
    value, gradient = losses.SoftmaxCrossEntropy()(np.array([1]), np.array([[0.0, 0.0]]))
    assert value == pytest.approx(np.log(2))
    np.testing.assert_array_equal(gradient, [[0.5, -0.5]])


def test_cross_entropy_is_stable_in_float32():
    logits = np.array([[1e4, 0.0], [-1e4, 0.0]], np.float32)
    value, gradient = losses.SoftmaxCrossEntropy()(np.array([1, 1]), logits)
    assert value == 5000
    assert gradient.dtype == np.float32
    np.testing.assert_array_equal(gradient, [[0.5, -0.5], [0, 0]])


def test_a_class_of_probability_0_may_have_a_logit_of_minus_infinity():
    logits = np.array([[0.0, 0.0, -np.inf]])
    value, gradient = losses.SoftmaxCrossEntropy()(np.array([0]), logits)
    assert value == pytest.approx(np.log(2))
    np.testing.assert_array_equal(gradient, [[-0.5, 0.5, 0]])


@pytest.mark.parametrize(
    ("loss", "y_true", "y_pred", "error", "message"),
    [
        ("mse", np.zeros((2, 1)), np.zeros((2, 3)), ValueError, r"y has shape \(2, 1\); the model predicts"),
        ("softmax_cross_entropy", np.zeros(2, int), np.zeros((2, 3, 1)), ValueError, r"y must be labels \(2, 3\) or"),
        ("softmax_cross_entropy", np.zeros(2, int), np.zeros(2), ValueError, r"shape \(batch, \.\.\., classes\) for"),
        (
            "categorical_crossentropy",
            np.zeros(2, int),
            np.zeros((2, 3)),
            ValueError,
            r"y must be probabilities \(2, 3\), got",
        ),
        (
            "sparse_categorical_crossentropy",
            np.eye(3)[:2],
            np.zeros((2, 3)),
            ValueError,
            r"y must be labels \(2,\), got",
        ),
        ("binary_crossentropy", np.full((2, 3), 2), np.zeros((2, 3)), ValueError, r"y must be in \[0, 1\]"),
        ("binary_crossentropy", np.full((2, 3), np.nan), np.zeros((2, 3)), ValueError, r"y must be in \[0, 1\]"),
        ("softmax_cross_entropy", np.zeros(3, int), np.zeros((2, 3)), ValueError, r"y must be labels \(2,\)"),
        (
            "softmax_cross_entropy",
            np.zeros(2),
            np.zeros((2, 3)),
            TypeError,
            "labels y must be integers, got dtype float64",
        ),
        (
            "softmax_cross_entropy",
            np.array([0, 3]),
            np.zeros((2, 3)),
            ValueError,
            r"labels y must be in \[0, 2\], got 0 to 3",
        ),
        (
            "softmax_cross_entropy",
            np.full((2, 3), -1.0),
            np.zeros((2, 3)),
            ValueError,
            "rows of y must be probabilities >= 0",
        ),
        (
            "softmax_cross_entropy",
            np.full((2, 3), np.nan),
            np.zeros((2, 3)),
            ValueError,
            "rows of y must be probabilities >= 0",
        ),
        ("mse", np.full((2, 3), "a"), np.zeros((2, 3)), TypeError, "y has dtype .*; give real numbers"),
        (
            "softmax_cross_entropy",
            np.array([-1, 1]),
            np.zeros((2, 3)),
            ValueError,
            r"labels y must be in \[0, 2\], got -1 to 1",
        ),
    ],
)
def test_bad_targets(loss, y_true, y_pred, error, message):
    with pytest.raises(error, match=message):
        losses.get(loss)(y_true, y_pred)


def test_get():
    assert losses.get(max) is max
    with pytest.raises(ValueError, match="loss='nope' is not known"):
        losses.get("nope")
    with pytest.raises(TypeError, match=r"loss must be a name or a callable .*, got 3"):
        losses.get(3)
    assert losses.get("Huber") == losses.Huber()
    assert losses.get({"class_name": "BinaryCrossentropy", "config": {"from_logits": True}}).from_logits
    for loss in (losses.Huber(2.0), losses.BinaryCrossentropy(True), losses.SoftmaxCrossEntropy()):
        assert type(loss)(**loss.get_config()) == loss
    with pytest.raises(ValueError, match="delta must be > 0, got 0"):
        losses.Huber(0)
    for make in (losses.BinaryCrossentropy, losses.CategoricalCrossentropy):
        with pytest.raises(TypeError, match="from_logits=1"):
            make(1)


def test_which_losses_take_weights():
    assert losses.takes_weights(losses.get("mse"))
    assert losses.takes_weights(lambda y, p, w: (0.0, p))
    assert losses.takes_weights(lambda y, p, weights=None: (0.0, p))
    assert losses.takes_weights(lambda *given: (0.0, given[1]))
    assert not losses.takes_weights(lambda y, p, delta=1.0: (0.0, p))
    assert not losses.takes_weights(lambda y, p: (0.0, p))
    assert not losses.takes_weights(dict.fromkeys)


def test_metrics():
    y_pred = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert metrics.accuracy(np.array([1, 0, 0]), y_pred) == pytest.approx(2 / 3)
    assert metrics.accuracy(np.eye(2)[[1, 0, 0]], y_pred) == pytest.approx(2 / 3)
    assert list(metrics.get("accuracy")) == ["accuracy"]
    places = np.array([[[0.1, 0.9], [0.8, 0.2]], [[0.3, 0.7], [0.6, 0.4]]])
    assert metrics.accuracy(np.array([[1, 0], [1, 1]]), places) == 0.75
    assert metrics.binary_accuracy(np.array([[1, 0, 1.0]]), np.array([[0.6, 0.6, 0.5]])) == pytest.approx(1 / 3)
    assert metrics.binary_accuracy(np.array([[1, 0]]), np.array([[0.1, -0.1]]), threshold=0) == 1
    assert metrics.mse(np.array([[1, 2]]), np.array([[2.0, 4.0]])) == 2.5
    assert metrics.mae(np.array([[1, 2]]), np.array([[2.0, 4.0]])) == 1.5
    for function in (metrics.mse, metrics.mae, metrics.binary_accuracy):
        with pytest.raises(ValueError, match="needs y and predictions of the same shape"):
            function(np.zeros(3), np.zeros((3, 1)))
    assert list(metrics.get([metrics.accuracy, max])) == ["accuracy", "max"]
    assert metrics.get(None) == {}
    for twice in ([lambda a, b: 0, lambda a, b: 1], ["accuracy", "accuracy"], [type("loss", (), {"__call__": max})()]):
        with pytest.raises(ValueError, match="reserved or not unique"):
            metrics.get(twice)
    with pytest.raises(ValueError, match="metric='nope'"):
        metrics.get(["nope"])


@pytest.mark.parametrize(
    ("y_true", "y_pred"),
    [((3, 1), (3, 3)), ((3, 1), (3, 1)), ((4,), (4,)), ((2,), (2, 2, 3)), ((3,), (2, 2))],
)
def test_accuracy_refuses_shapes_that_it_would_misread(y_true, y_pred):
    with pytest.raises(ValueError, match="accuracy needs predictions"):
        metrics.accuracy(np.zeros(y_true, int), np.zeros(y_pred))


@pytest.mark.parametrize("shape", [(5, 30000), (70000, 3), (2, 3, 40000)], ids=str)
@pytest.mark.parametrize("name", ["mse", "mae", "huber"])
def test_weights_and_pieces_of_large_batches(name, shape, rng):
    """Samples that lie across the pieces that threads work on, and many samples in one."""
    y_pred = rng.integers(-8, 9, shape).astype(np.float32)
    y_true = rng.integers(-8, 9, shape)
    weights = rng.integers(0, 4, shape[0])
    value, gradient = losses.get(name)(y_true, y_pred, weights)
    d = y_pred.astype(float) - y_true
    terms, slopes = {
        "mse": (d**2, 2 * d), "mae": (np.abs(d), np.sign(d)),
        "huber": (np.where(np.abs(d) > 1, np.abs(d) - 0.5, d**2 / 2), np.clip(d, -1, 1)),
    }[name]  # fmt: skip
    each = weights.reshape(-1, *[1] * (len(shape) - 1))
    assert value == np.sum(each * terms) / d.size
    np.testing.assert_array_equal(gradient, (np.float32(1 / d.size) * each.astype(np.float32)) * np.float32(slopes))


@pytest.mark.parametrize("name", ["mse", "mae", "huber", "binary_crossentropy", "sparse_categorical_crossentropy"])
def test_nan_stays_visible(name):
    y_true = np.array([0, 1]) if name.startswith("sparse") else np.ones((2, 2))
    with np.errstate(invalid="ignore"):
        value, gradient = losses.get(name)(y_true, np.array([[np.nan, 0.5], [0.5, 0.5]]))
    assert np.isnan(value)
    assert np.isnan(gradient[0, 0])
    assert np.isfinite(gradient[1]).all()


def test_the_number_of_threads_changes_no_bit(rng):
    numba = pytest.importorskip("numba")
    y_pred, y_true = rng.standard_normal((2, 7, 50000), np.float32)
    before, found = numba.get_num_threads(), []
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            found.append(losses.MeanSquaredError()(y_true, y_pred))
    finally:
        numba.set_num_threads(before)
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("name", ["mse", "huber", "binary_crossentropy", "categorical_crossentropy"])
@pytest.mark.parametrize("weights", [[2.0], [], [1, 2, 3, 4, 5], np.ones((4, 1)), 3.0])
def test_weights_of_another_number_are_refused(name, weights):
    """A kernel would read on from where they end."""
    with pytest.raises(ValueError, match=r"weights must have one weight for each of 4 samples.*, got shape"):
        losses.get(name)(np.ones((4, 2)), np.full((4, 2), 0.5), weights)


def test_lists_of_weights_and_rows_of_zeros():
    assert losses.MeanSquaredError()(np.zeros((2, 1)), np.ones((2, 1)), [2, 4])[0] == 3
    value, gradient = losses.CategoricalCrossentropy()(np.array([[0, 1]]), np.zeros((1, 2)))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    value, _ = losses.SoftmaxCrossEntropy()(np.array([1]), np.array([[0, 0]]))
    assert value == pytest.approx(np.log(2))
    assert metrics.mae(np.array([3], np.uint8), np.array([1], np.uint8)) == 2


def test_predictions_of_other_dtypes():
    value, gradient = losses.MeanSquaredError()(np.array([1, 2]), np.array([2, 4]))
    assert (value, gradient.tolist()) == (2.5, [1, 2])
    with pytest.raises(TypeError, match="y_pred has dtype complex128"):
        losses.MeanSquaredError()(np.array([1.0]), np.array([1j]))


def test_metrics_in_an_array_without_dimensions_are_no_list():
    with pytest.raises(ValueError, match=r"metric=array\(3\) is not known"):
        metrics.get(np.array(3))


# --- predictions that are no probabilities


@pytest.mark.parametrize(
    ("loss", "y_true", "predicted", "instead"),
    [
        ("sparse_categorical_crossentropy", np.array([0, 1]), [[0.5, -1.5], [2.0, 0.1]], "'softmax_cross_entropy'"),
        (
            "categorical_crossentropy",
            np.eye(2),
            [[0.5, -1.5], [2.0, 0.1]],
            r"CategoricalCrossentropy\(from_logits=True",
        ),
        ("binary_crossentropy", np.array([[0], [1]]), [[-0.1], [0.5]], r"BinaryCrossentropy\(from_logits=True\)"),
        ("binary_crossentropy", np.array([[0], [1]]), [[0.5], [1.01]], r"BinaryCrossentropy\(from_logits=True\)"),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_logits_are_no_probabilities(loss, y_true, predicted, instead, masked):
    found = losses.Masked(loss) if masked else losses.get(loss)
    with pytest.raises(ValueError, match=rf"needs probabilities in \[0, 1\]; end the model in .*{instead}"):
        found(y_true, np.array(predicted))


def test_rounding_is_no_reason_to_refuse_probabilities():
    value, _ = losses.get("binary_crossentropy")(np.array([[1.0]]), np.array([[1 + 5e-4]]))
    assert value == pytest.approx(0, abs=1e-3)
    rows = np.array([[0.5, 0.5004]])
    assert losses.get("sparse_categorical_crossentropy").doubt(rows) is None


def test_rows_that_do_not_sum_to_1_are_doubted():
    doubt = losses.get("sparse_categorical_crossentropy").doubt(np.array([[1.0, 2.0], [0.5, 0.5]]))
    assert "predictions sum to 1 ... 3 over the classes and are divided by their sum" in doubt
    assert losses.get("softmax_cross_entropy").doubt(np.array([[1.0, 2.0]])) is None
    assert losses.Masked("categorical_crossentropy").doubt(np.array([[1.0, 2.0]])) is not None
    assert losses.Masked("mse").doubt(np.array([[1.0, 2.0]])) is None


# --- weights by position, and targets that are unknown


@pytest.mark.parametrize("name", ["mse", "mae", "huber", "binary_crossentropy"])
@pytest.mark.parametrize("axes", [1, 2, 3, 4])
def test_weights_by_position(name, axes, rng):
    shape = (3, 4, 5, 2)
    y_true, y_pred = rng.random(shape), rng.random(shape)
    weights = rng.integers(0, 4, shape[:axes]).astype(float)
    loss = losses.get(name)
    value, slope = loss(y_true, y_pred, weights)
    each = np.broadcast_to(weights.reshape(weights.shape + (1,) * (4 - axes)), shape)
    terms = np.array([loss(t[None], p[None])[0] for t, p in zip(y_true.ravel(), y_pred.ravel(), strict=True)])
    assert value == pytest.approx(np.mean(terms * each.ravel()))
    np.testing.assert_allclose(slope, loss(y_true, y_pred)[1] * each, rtol=1e-12)


def test_weights_by_position_of_classes(rng):
    y_true, y_pred = rng.integers(0, 3, (2, 4, 5)), rng.standard_normal((2, 4, 5, 3))
    weights = rng.integers(0, 3, (2, 4, 5)).astype(float)
    loss = losses.get("softmax_cross_entropy")
    value, slope = loss(y_true, y_pred, weights)
    parts = [loss(t[None], p[None])[0] for t, p in zip(y_true.ravel(), y_pred.reshape(-1, 3), strict=True)]
    assert value == pytest.approx(np.mean(parts * weights.ravel()))
    np.testing.assert_allclose(slope, loss(y_true, y_pred)[1] * weights[..., None], rtol=1e-12)
    with pytest.raises(ValueError, match=r"one weight for each of 2 samples.*, got shape \(2, 4, 5, 3\)"):
        loss(y_true, y_pred, np.ones((2, 4, 5, 3)))


@pytest.mark.parametrize("shape", [(2, 3), (), (4, 2), (1, 4)])
def test_weights_of_another_shape_are_refused(shape):
    for loss in (losses.get("mse"), losses.get("binary_crossentropy"), losses.Masked("mse")):
        with pytest.raises(ValueError, match="must have one weight for each of 2 samples, or for each position"):
            loss(np.ones((2, 4)), np.ones((2, 4)), np.ones(shape))


@pytest.mark.parametrize("name", ["mse", "mae", "huber", "binary_crossentropy"])
def test_unknown_targets_are_left_out(name, rng):
    y_true, y_pred = rng.random((4, 5, 2)), rng.random((4, 5, 2))
    known = rng.random(y_true.shape) < 0.6
    loss, masked = losses.get(name), losses.Masked(name)
    value, slope = masked(np.where(known, y_true, np.nan), y_pred)
    expected, dense = loss(y_true[known], y_pred[known])
    assert value == pytest.approx(expected, rel=1e-14)  # summed line by line, not as one vector
    np.testing.assert_array_equal(slope[known], dense)
    assert not slope[~known].any()
    weights = rng.random((4, 5))
    value, slope = masked(np.where(known, y_true, np.nan), y_pred, weights)
    each = np.broadcast_to(weights[..., None], y_true.shape)[known]
    assert value == pytest.approx(loss(y_true[known], y_pred[known], each)[0], rel=1e-14)
    assert losses.takes_weights(masked)


@pytest.mark.parametrize("form", ["integers", "floats", "rows"])
def test_unknown_classes_are_left_out(form, rng):
    labels, y_pred = rng.integers(0, 3, (4, 5)), rng.standard_normal((4, 5, 3))
    known = rng.random(labels.shape) < 0.6
    masked = losses.Masked("softmax_cross_entropy", ignore_class=-1 if form == "integers" else None)
    y_true = np.where(known, labels, -1 if form == "integers" else np.nan)
    if form == "rows":
        y_true = np.where(known[..., None], np.eye(3)[labels], np.nan)
    value, slope = masked(y_true, y_pred)
    expected, dense = losses.get("softmax_cross_entropy")(labels[known], y_pred[known])
    assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(slope[known], dense)
    assert not slope[~known].any()


def test_nothing_known_is_no_loss():
    value, slope = losses.Masked("mse")(np.full((2, 3), np.nan), np.ones((2, 3), np.float32))
    assert value == 0
    assert slope.dtype == np.float32
    assert not slope.any()


def test_masked_losses_check_what_they_mask():
    with pytest.raises(
        ValueError, match=r"y has shape \(2,\); the model predicts shape \(2, 1\); y\[:, None\] has that"
    ):
        losses.Masked("mse").check(np.ones(2), (2, 1))
    with pytest.raises(ValueError, match=r"labels y must be in \[0, 2\], got 0 to 5"):
        losses.Masked("softmax_cross_entropy", ignore_class=-1).check(np.array([0, 5, -1]), (3, 3))
    with pytest.raises(ValueError, match="loss='nope' is not known"):
        losses.Masked("nope")
    again = losses.get({"class_name": "Masked", "config": losses.Masked("huber", ignore_class=9).get_config()})
    assert again == losses.Masked(losses.Huber(), ignore_class=9)


@pytest.mark.parametrize(
    ("loss", "y_true", "shape", "hint"),
    [
        ("mse", np.ones(4), (4, 1), r"y\[:, None\] has that shape"),
        ("mse", np.ones((4, 1)), (4,), r"y\[:, 0\] has that shape"),
        ("mse", np.ones((4, 5, 6)), (4, 5, 6, 1), r"y\[\.\.\., None\] has that shape"),
        ("mse", np.ones((4, 2, 5, 6)), (4, 5, 6, 2), r"np\.moveaxis\(y, 1, -1\)"),
        ("sparse_categorical_crossentropy", np.ones((4, 1), int), (4, 3), r"y\[:, 0\] has that shape"),
        ("sparse_categorical_crossentropy", np.eye(3), (3, 3), r"labels with y\.argmax\(axis=-1\)"),
        ("categorical_crossentropy", np.ones(4, int), (4, 3), r"rows with np\.eye\(3\)\[y\]"),
    ],
)
def test_targets_in_another_form_are_told_the_right_one(loss, y_true, shape, hint):
    with pytest.raises(ValueError, match=hint):
        losses.get(loss).check(y_true, shape)


def test_rows_of_an_ignored_class_are_left_out():
    masked, y_pred = losses.Masked("softmax_cross_entropy", ignore_class=1), np.array([[0.0, 1, 2], [2, 1, 0]])
    labels = np.array([0, 1])
    assert masked(labels, y_pred)[0] == masked(np.eye(3)[labels], y_pred)[0] > 0
    with pytest.raises(TypeError, match="loss must not be Masked itself"):
        losses.Masked(masked)


@pytest.mark.parametrize("name", ["mse", "mae", "huber", "binary_crossentropy", "masked"])
def test_masked_arrays_are_refused(name):
    loss = losses.Masked("mse") if name == "masked" else losses.get(name)
    plain, masked = np.array([[1.0, 0.5]]), np.ma.masked_array([[1.0, 9.0]], [[0, 1]])
    for arguments in ((masked, plain), (plain, masked), (plain, plain, masked)):
        with pytest.raises(TypeError, match="its mask would be ignored"):
            loss(*arguments)
