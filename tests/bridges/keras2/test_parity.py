"""Results of generated configurations equal those of tf_keras, recorded by `interop/keras_parity.py`."""

import json
from pathlib import Path

import numpy as np
import pytest

import lcnumba as lc

with np.load(Path(__file__).parents[2] / "data" / "keras_parity.npz") as file:
    GOLDEN = {name: file[name] for name in file.files}
TABLE = json.loads(GOLDEN.pop("table").tobytes())
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
CLASSES = {1: lc.LocallyConnected1D, 2: lc.LocallyConnected2D}


def make_layer(case, **changes):
    optimizer = case["optimizer"]
    if not isinstance(optimizer, str):
        optimizer = getattr(lc, optimizer[0])(**optimizer[1])
    return CLASSES[case["rank"]](**case["settings"] | changes, dtype=case["dtype"], optimizer=optimizer)


def close(actual, expected, dtype):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    limit = TOLERANCE[dtype] * max(1e-3, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("implementation", [1, 2, 3])
@pytest.mark.parametrize("number", range(len(TABLE["cases"])))
def test_three_steps_equal_those_of_keras(number, implementation):
    """For all implementations in Keras and here."""
    case = TABLE["cases"][number]
    dtype, stored = case["dtype"], case["settings"]["implementation"]

    def weights(step):
        names = (f"{number}_{step}weight_{n}" for n in range(2))
        return [GOLDEN[name] for name in names if name in GOLDEN]

    layer = make_layer(case, implementation=implementation)
    step = 0
    while f"{number}_{step}_x" in GOLDEN:
        x, dy, y, dx, losses = (GOLDEN[f"{number}_{step}_{name}"] for name in ("x", "dy", "y", "dx", "losses"))
        if step == 0:
            layer.build(x.shape)
            lc.import_weights(layer, weights(""))
        out, backward = layer.forward(x)
        close(out, y, dtype)
        close(layer.losses, losses, dtype)
        close(backward.step(dy, lr=TABLE["rate"]), dx, dtype)
        expected = weights(f"{step}_")
        exported = lc.export_weights(layer, stored)
        # Elements of the dense layout without a connection are arbitrary.
        twin = make_layer(case)
        twin.build(x.shape)
        lc.import_weights(twin, expected)
        for a, b in zip(layer.get_weights(), twin.get_weights(), strict=True):
            close(a, b, dtype)
        assert [a.shape for a in exported] == [b.shape for b in expected]
        if stored != 2:
            for a, b in zip(exported, expected, strict=True):
                close(a, b, dtype)
        step += 1
    assert step or not y.size


def test_there_are_enough_cases():
    assert len(TABLE["cases"]) >= 40
    assert {case["dtype"] for case in TABLE["cases"]} == set(TOLERANCE)
    assert {case["settings"]["implementation"] for case in TABLE["cases"]} == {1, 2, 3}
