"""Fit a locally connected model with SciPy's L-BFGS: all weights as one vector, in float64.

A field is observed on 8 by 10 points; the next one follows from each point's neighbourhood by rules that differ
from place to place, most of them zero. An l1 penalty finds the nonzero ones, as in NOTEARS.

Run with ``python docs/examples/lbfgs.py``.
"""

import numpy as np
from scipy.optimize import minimize

import lcnumba as lc


def main() -> dict[str, float]:
    """Return the loss before and after, and the share of the true neighbours that were found."""
    rng = np.random.default_rng(0)
    truth = lc.LocallyConnected2D(1, 3, padding="same", dtype="float64", use_bias=False, data_format="channels_last")
    truth.build((None, 8, 10, 1))
    rules = np.where(rng.random(truth.kernel.shape) < 0.2, rng.choice([-1.0, 1.0], truth.kernel.shape), 0)
    truth.set_weights([rules])
    x = rng.standard_normal((200, 8, 10, 1))
    y = truth(x) + 0.1 * rng.standard_normal(x.shape)

    layer = lc.LocallyConnected2D(
        1, 3, padding="same", dtype="float64", use_bias=False, data_format="channels_last",
        kernel_regularizer=lc.regularizers.L1(1e-4), kernel_initializer="random_normal", rng=0,
    )  # fmt: skip
    model = lc.Sequential([layer])
    model.build((None, 8, 10, 1))

    def value_and_gradient(vector: np.ndarray) -> tuple[float, np.ndarray]:
        model.set_flat(vector)
        return model.value_and_gradient(x, y, "mse")

    before, _ = value_and_gradient(model.get_flat())
    found = minimize(value_and_gradient, model.get_flat(), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    model.set_flat(found.x)
    neighbours = truth.get_flat() != 0
    right = float(np.mean((np.abs(model.get_flat()) > 0.3) == neighbours))
    print(
        f"loss {before:.4f} -> {found.fun:.4f} in {found.nit} steps; {right:.1%} of {neighbours.size} connections right"
    )
    return {"before": before, "after": float(found.fun), "right": right}


if __name__ == "__main__":
    main()
