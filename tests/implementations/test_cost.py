"""Choosing an implementation, by estimate and by measurement."""

import json

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.connectivity.geometry import Geometry
from lcnumba.implementations.cost import choose, costs
from lcnumba.testing import PROBLEMS

SEED1 = Geometry((32, 32), 3, 64, 3)


def test_costs_are_counted():
    loops, dense, sparse = costs(SEED1, 32, 4)
    weights, matrix = 900 * 27 * 64, 3072 * 900 * 64
    assert loops.flop_forward == sparse.flop_forward == 2 * 32 * weights
    assert loops.flop_step == 3 * loops.flop_forward
    assert dense.flop_forward == 2 * 32 * matrix
    assert dense.flop_step == 2 * dense.flop_forward + loops.flop_forward
    assert loops.memory == 0
    assert dense.memory == 4 * matrix + 8 * 900 * 27
    assert costs(SEED1, 32, 8)[1].memory - dense.memory == 4 * matrix


def test_clipped_connections_do_not_count():
    g = Geometry((4, 4), 1, 16, 3, padding="same")
    assert costs(g, 2, 4)[0].flop_forward == 2 * 2 * g.connections * 16


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.geometry.connections], ids=str)
def test_more_work_never_costs_less(problem):
    for small, large in zip(costs(problem.geometry, 8, 4), costs(problem.geometry, 64, 4), strict=True):
        assert small.estimate < large.estimate
        assert small.memory == large.memory


def test_loops_are_chosen_for_wide_layers_and_a_matrix_for_narrow_ones():
    assert choose(SEED1, 4) == 1
    assert choose(Geometry((30, 30), 64, 32, 3), 4) == 1
    # One filter fills a quarter of the shortest vector, and the window is half of the input.
    assert choose(Geometry((8, 8), 1, 1, 7, padding="same"), 4) == 2


def test_implementations_with_disproportionate_memory_are_not_chosen():
    g = Geometry((4096,), 1, 1, 513)
    assert costs(g, 32, 4)[1].memory > 2 * g.connections * 4
    assert choose(g, 4) != 2


def test_auto_is_preserved_by_files_and_copies(rng, tmp_path):
    layer = lc.LocallyConnected2D(1, 7, padding="same", implementation="auto", input_shape=(8, 8, 1))
    x = rng.standard_normal((3, 8, 8, 1), np.float32)
    y = layer(x)
    assert type(layer._implementation).__name__ == "DenseMatrix"
    assert json.loads(json.dumps(layer.get_config()))["implementation"] == "auto"
    assert lc.LocallyConnected2D.from_config(layer.get_config()).implementation == "auto"
    np.testing.assert_allclose(layer.with_implementation(1)(x), y, rtol=1e-5, atol=1e-6)
    assert layer.with_implementation(1).with_implementation("auto").implementation == "auto"
    lc.Sequential([layer]).save(tmp_path / "model.npz")
    assert lc.load(tmp_path / "model.npz").layers[0].implementation == "auto"


def test_explain_prints_costs_and_choice():
    lines = []
    layer = lc.LocallyConnected2D(64, 3, input_shape=(32, 32, 3), implementation="auto")
    layer.explain(16, lines.append)
    text = "\n".join(lines)
    assert "1,555,200 weights (6.22 MB), 0.88% of a dense matrix; batch of 16, 32 bits" in text
    assert "1 loops *" in text
    assert "implementation 1, the lowest estimate for a batch of 32" in text
    layer.with_implementation(3).explain(print_fn=lines.append)
    assert "3 sparse *" in lines[-1]
    assert "implementation 3, as set" in lines[-1]


def test_explain_of_given_connections():
    mask, lines = np.zeros((100, 8), bool), []
    mask[::3, 2] = mask[5:9, 7] = True
    layer = lc.LocallyDirected1D(mask, 4, dtype="float64", input_shape=(100, 2))
    weights = (34 + 4) * 2 * 4
    (cost,) = layer.costs(10)
    assert (cost.implementation, cost.flop_forward, cost.flop_step) == (1, 20 * weights, 60 * weights)
    assert cost.memory == 10 * 8 * 4 * 8 + 16 * 38
    layer.explain(10, lines.append)
    assert f"{weights} weights (0.00243 MB), 4.75% of a dense matrix; batch of 10, 64 bits" in lines[0]
    assert "1 loops *" in lines[0]
    with pytest.raises(AttributeError, match=r"input shape of .* is not known yet"):
        lc.LocallyDirected1D(mask).explain()
    with pytest.raises(ValueError, match="batch_size=0"):
        layer.costs(0)


def test_explain_requires_an_input_shape():
    with pytest.raises(AttributeError, match=r"input shape of .* is not known yet"):
        lc.LocallyConnected2D(2, 3).explain()
    with pytest.raises(ValueError, match="batch_size=0"):
        lc.LocallyConnected2D(2, 3, input_shape=(5, 5, 1)).explain(0)


def test_tune_measures_what_fits_in_memory_and_changes_nothing(rng):
    layer = lc.LocallyConnected2D(4, 3, optimizer="adam", trainable=False, name="mine")
    x = rng.standard_normal((5, 6, 6, 2))
    layer.build((None, 6, 6, 2))
    before = layer.get_weights()
    found = lc.tune(layer, x, seconds=0)
    assert set(found.forward) == set(found.step) == {1, 2, 3}
    assert found.implementation == min(found.step, key=found.step.get)
    assert all(0 < found.forward[i] < found.step[i] for i in found.step)
    for a, b in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert set(lc.tune(layer, x, seconds=0, memory=0).step) == {1}
    with pytest.raises(ValueError, match="memory must be a number of bytes of at least 0, got -1"):
        lc.tune(layer, x, memory=-1)
    with pytest.raises(TypeError, match="layer is a Dense"):
        lc.tune(lc.Dense(2), x)
