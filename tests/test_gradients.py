import math

import numpy as np
import pytest

import lcnumba as lc
from lcnumba import gradients


def tree(factor=1.0):
    """Gradients as a model with layers of every sort gives them."""
    kernel, bias = np.array([[3.0, -4.0]], np.float32), np.array([12.0], np.float32)
    return [
        lc.Gradients(kernel * np.float32(factor), bias * np.float32(factor)),
        None,
        [lc.Gradients(84 * np.float32(factor) * np.ones((1, 1), np.float32))],
        {"mine": (np.zeros(2), np.float64(0.0))},
    ]


def flat(grads):
    return np.concatenate([np.ravel(array) for array in gradients._arrays(grads)])


def test_the_mean_is_that_of_all_samples(rng):
    """Batches of any sizes count as one made of all their samples."""
    layer = lc.LocallyConnected2D(2, 2, input_shape=(3, 3, 1), dtype="float64", rng=0, activation="tanh")
    x, dy = rng.standard_normal((7, 3, 3, 1)), rng.standard_normal((7, 2, 2, 2))
    whole = layer.forward(x)[1](dy / 7)[1]
    mean = gradients.Accumulator()
    for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
        samples = len(x[part])
        mean.add(layer.forward(x[part])[1](dy[part] / samples)[1], samples)
    assert mean.count == 3
    found = mean.take()
    np.testing.assert_allclose(found.kernel, whole.kernel, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.bias, whole.bias, rtol=1e-12, atol=1e-15)
    assert mean.count == 0
    with pytest.raises(RuntimeError, match="no gradients"):
        mean.take()


def test_arrays_that_are_filled_again_are_copied():
    mean, buffer = gradients.Accumulator(), np.array([1.0, 2.0])
    mean.add([buffer], 1)
    buffer += 4
    mean.add([buffer], 1)
    np.testing.assert_array_equal(mean.take()[0], [3, 4])


def test_what_is_added_is_not_changed():
    mean, first, second = gradients.Accumulator(), tree(), tree(3.0)
    mean.add(first, 1)
    mean.add(second, 1)
    np.testing.assert_array_equal(flat(mean.take()), 2 * flat(tree()))
    np.testing.assert_array_equal(flat(first), flat(tree()))
    np.testing.assert_array_equal(flat(second), flat(tree(3.0)))


def test_the_global_norm_goes_over_all_layers():
    assert gradients.global_norm(tree()) == 85
    assert gradients.global_norm([None]) == 0


def test_clipping_by_norm_scales_all_layers_alike():
    grads = tree()
    assert gradients.clip_by_norm(grads, 85) is grads
    clipped = gradients.clip_by_norm(grads, 42.5)
    np.testing.assert_array_equal(flat(clipped), flat(grads) / 2)
    assert clipped[0].kernel.dtype == np.float32
    assert clipped[1] is None
    assert isinstance(clipped[3]["mine"], tuple)


def test_clipping_by_value():
    clipped = gradients.clip_by_value(tree(), 5)
    np.testing.assert_array_equal(flat(clipped), [3, -4, 5, 5, 0, 0, 0])
    assert clipped[0].kernel.dtype == np.float32


def test_what_is_not_finite_stays_visible():
    for bad in (np.nan, np.inf):
        grads = [np.array([1.0, bad])]
        assert not np.isfinite(gradients.clip_by_norm(grads, 1.0)[0]).all()
    assert math.isnan(gradients.clip_by_value([np.array([np.nan])], 1.0)[0][0])


@pytest.mark.parametrize("limit", [0, -1, math.nan])
@pytest.mark.parametrize("clip", [gradients.clip_by_norm, gradients.clip_by_value])
def test_bad_limits(clip, limit):
    with pytest.raises(ValueError, match="limit must be finite, got nan" if math.isnan(limit) else f"limit={limit}"):
        clip(tree(), limit)


def test_gradients_of_unknown_kind():
    for function in (gradients.global_norm, lambda g: gradients.clip_by_value(g, 1.0)):
        with pytest.raises(TypeError, match="gradients of str cannot be accumulated or clipped"):
            function(["a"])


def test_gradients_are_real_numbers():
    for function in (
        gradients.global_norm,
        lambda g: gradients.clip_by_norm(g, 1.0),
        lambda g: gradients.clip_by_value(g, 1.0),
    ):
        for array in (np.array("a"), np.array([None]), np.array([1j])):
            with pytest.raises(TypeError, match="grads has dtype"):
                function([array])
    np.testing.assert_allclose(gradients.clip_by_norm([np.array([3, 4])], 1.0)[0], [0.6, 0.8])  # of integers, too


def test_bounds_beyond_the_type_change_neither_values_nor_type():
    grads = [np.array([3.0, -3e38, np.inf], np.float32)]
    clipped = gradients.clip_by_value(grads, 1e300)
    assert clipped[0].dtype == np.float32
    np.testing.assert_array_equal(clipped[0], grads[0])


G = lc.Gradients


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (G(np.ones((3, 2)), np.ones(2)), G(np.ones((1, 2)), np.ones(2))),  # would be broadcast
        (G(np.ones((3, 2))), G(np.ones((3, 2)), np.ones(2))),  # the second bias would be lost
        ([None, G(np.ones(2))], [G(np.ones(2)), G(np.ones(2))]),  # and here a whole gradient
        ([G(np.ones(2))], [None]),
        ({"a": np.ones(2)}, {"a": np.ones(2), "b": np.ones(2)}),
        ([np.ones(2)], [np.ones(2), np.ones(2)]),
        ([np.ones(2)], (np.ones(2),)),
    ],
)
def test_only_gradients_of_one_form_add_up(first, second):
    for one, other in ((first, second), (second, first)):
        with pytest.raises(ValueError, match="only gradients of one layer or model add up"):
            lc.gradients.add(one, other)
        mean = lc.gradients.Accumulator()
        mean.add(one, 1)
        with pytest.raises(ValueError, match="only gradients of one layer or model add up"):
            mean.add(other, 1)


def test_sums_take_what_they_say():
    np.testing.assert_array_equal(lc.gradients.add([np.ones(2)], [2 * np.ones(2)], [np.ones(2)])[0], [4, 4])
    given = [np.ones(2)]
    assert lc.gradients.add(given)[0] is not given[0]
    mean = lc.gradients.Accumulator()
    for numbers in ([1, 2], [2, 4]):
        mean.add([np.array(numbers)], 1)
    np.testing.assert_array_equal(mean.take()[0], [1.5, 3])
    for weight in (0, -2, float("nan"), None):
        with pytest.raises((ValueError, TypeError), match=r"weight=(0|-2|None)|weight must be finite, got nan"):
            mean.add([np.ones(2)], weight)
    for wrong in ("ab", 3):
        with pytest.raises(TypeError, match="cannot be accumulated or clipped"):
            lc.gradients.add(wrong)
    masked = [np.ma.masked_array([1.0, 2.0], [0, 1])]
    for call in (lc.gradients.add, lc.gradients.global_norm, lambda g: lc.gradients.clip_by_norm(g, 1.0)):
        with pytest.raises(TypeError, match="its mask would be ignored"):
            call(masked)
    with pytest.raises(TypeError, match=r"add\(\) lacks gradients"):
        lc.gradients.add()
