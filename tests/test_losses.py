import numpy as np
import pytest

from lcnumba import losses, metrics
from lcnumba.testing import numerical_gradient


@pytest.mark.parametrize(
    ("name", "y_true"),
    [
        ("mse", np.linspace(-1, 1, 12).reshape(4, 3)),
        ("softmax_cross_entropy", np.array([0, 2, 1, 2])),
        ("softmax_cross_entropy", np.array([[0.2, 0.3, 0.5], [1, 0, 0], [0, 0, 2], [0, 0, 0]])),
    ],
)
def test_gradient_is_that_of_finite_differences(name, y_true, rng):
    loss, y_pred = losses.get(name), rng.standard_normal((4, 3))
    _, gradient = loss(y_true, y_pred)
    np.testing.assert_allclose(gradient, numerical_gradient(lambda v: loss(y_true, v)[0], y_pred), atol=1e-9)


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
        ("softmax_cross_entropy", np.zeros(2, int), np.zeros((2, 3, 1)), ValueError, r"needs \(batch, classes\)"),
        ("softmax_cross_entropy", np.zeros(3, int), np.zeros((2, 3)), ValueError, r"give labels \(2,\)"),
        ("softmax_cross_entropy", np.zeros(2), np.zeros((2, 3)), TypeError, "labels of dtype float64; give integers"),
        ("softmax_cross_entropy", np.array([0, 3]), np.zeros((2, 3)), ValueError, "from 0 to 3; give 0 to 2"),
        ("softmax_cross_entropy", np.full((2, 3), -1.0), np.zeros((2, 3)), ValueError, "no probabilities"),
        ("softmax_cross_entropy", np.full((2, 3), np.nan), np.zeros((2, 3)), ValueError, "no probabilities"),
        ("mse", np.full((2, 3), "a"), np.zeros((2, 3)), TypeError, "y has dtype"),
        ("softmax_cross_entropy", np.array([-1, 1]), np.zeros((2, 3)), ValueError, "from -1 to 1"),
    ],
)
def test_bad_targets(loss, y_true, y_pred, error, message):
    with pytest.raises(error, match=message):
        losses.get(loss)(y_true, y_pred)


def test_get():
    assert losses.get(max) is max
    with pytest.raises(ValueError, match="loss='nope' is not known"):
        losses.get("nope")
    with pytest.raises(TypeError, match="neither a name nor a callable"):
        losses.get(3)


def test_metrics():
    y_pred = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert metrics.accuracy(np.array([1, 0, 0]), y_pred) == pytest.approx(2 / 3)
    assert metrics.accuracy(np.eye(2)[[1, 0, 0]], y_pred) == pytest.approx(2 / 3)
    assert list(metrics.get("accuracy")) == ["accuracy"]
    assert list(metrics.get([metrics.accuracy, max])) == ["accuracy", "max"]
    assert metrics.get(None) == {}
    for twice in ([lambda a, b: 0, lambda a, b: 1], ["accuracy", "accuracy"], [type("loss", (), {"__call__": max})()]):
        with pytest.raises(ValueError, match="two figures would be called"):
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
