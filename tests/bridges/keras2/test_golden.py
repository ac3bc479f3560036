"""Results equal those of tf_keras, recorded by `data/make_keras_golden.py`."""

import json
from pathlib import Path

import numpy as np
import pytest

import lcnumba as lc

# Also run with every index checked, and interpreted instead of compiled.
pytestmark = pytest.mark.kernels

with np.load(Path(__file__).parents[2] / "data" / "keras_golden.npz") as file:
    GOLDEN = {name: file[name] for name in file.files}
CASES = json.loads(GOLDEN.pop("cases").tobytes())["cases"]


def close(actual, expected, dtype):
    # Errors relative to the largest magnitude: sums of a few hundred terms, in another order.
    limit = {"float32": 2e-6, "float64": 5e-15}[dtype] * max(1.0, float(np.abs(expected).max()))
    assert actual.dtype == expected.dtype == dtype
    np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("implementation", [1, 2, 3])
@pytest.mark.parametrize("number", range(len(CASES)))
def test_equal_to_keras(number, implementation):
    case = CASES[number]
    record = {name.partition("_")[2]: a for name, a in GOLDEN.items() if name.startswith(f"{number}_")}
    layer = lc.LocallyConnected2D(**case, implementation=implementation)
    layer.build(record["x"].shape)
    layer.set_weights([record[name] for name in ("kernel", "bias") if name in record])
    y, backward = layer.forward(record["x"])
    dx, grads = backward(record["dy"])
    close(y, record["y"], case["dtype"])
    close(dx, record["dx"], case["dtype"])
    close(grads.kernel, record["dkernel"], case["dtype"])
    if case["use_bias"]:
        close(grads.bias, record["dbias"], case["dtype"])


def test_there_are_enough_cases():
    assert len(CASES) >= 20
