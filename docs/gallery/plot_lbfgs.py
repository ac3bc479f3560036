"""
L-BFGS: all weights as one vector
=================================

SciPy's optimizers want a function of a vector and its gradient: ``model.value_and_gradient``,
``model.get_flat`` and ``model.set_flat``. In float64 and on few data that is often the better way to
fit a model.

**The data are simulated**, with a seed: a field is observed on 8 x 10 points, and the next one
follows from each point's neighbourhood by rules that differ from place to place, most of them zero.
Which neighbours matter where?
"""

# %%
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize

import lcnumba as lc

rng = np.random.default_rng(0)
settings = {"padding": "same", "dtype": "float64", "use_bias": False, "input_shape": (8, 10, 1)}
truth = lc.LocallyConnected2D(1, 3, name="true weights", **settings)
truth.build((None, 8, 10, 1))
truth.set_weights(
    [np.where(rng.random(truth.kernel.shape) < 0.2, rng.choice([-1.0, 1.0], truth.kernel.shape), 0)]
)
x = rng.standard_normal((300, 8, 10, 1))
y = truth(x) + 0.1 * rng.standard_normal(x.shape)
x, y, x_test, y_test = x[:200], y[:200], x[200:], y[200:]


# %%
# An l1 penalty keeps most weights near zero. ``value_and_gradient`` includes it.
def fit(layer):
    """Fit a model of one layer, and return what SciPy reports."""
    model = lc.Sequential([layer])
    model.build((None, 8, 10, 1))

    def value_and_gradient(vector):
        model.set_flat(vector)
        return model.value_and_gradient(x, y, "mse")

    first, _ = value_and_gradient(model.get_flat())
    found = minimize(
        value_and_gradient, model.get_flat(), jac=True, method="L-BFGS-B", options={"maxiter": 300}
    )
    model.set_flat(found.x)
    print(f"{layer.name}: loss {first:.3f} -> {found.fun:.4f} in {found.nit} steps")
    return first, found


settings |= {
    "kernel_regularizer": lc.regularizers.L1(1e-4),
    "kernel_initializer": "random_normal",
    "rng": 0,
}
local = lc.LocallyConnected2D(1, 3, name="found weights", **settings)
shared = lc.LocallyConnected2D(1, 3, weight_sharing="all", name="shared weights", **settings)
before, found = fit(local)
fit(shared)

# %%
# Each window of 3 x 3 is the rule of one point. They are found nearly without fault.
figure = Figure(figsize=(12, 5), layout="constrained")
for axes, layer in zip(figure.subplots(1, 2), (truth, local), strict=True):
    lc.plotting.filters_by_position(layer, ax=axes)
    axes.set_title(layer.name)
figure

# %%
# On 100 fields that were not used, the mean squared errors of both and of the true rules, whose noise
# is 0.01. A convolution cannot know what differs from place to place.
errors = {
    layer.name: float(np.square(layer(x_test) - y_test).mean()) for layer in (local, shared, truth)
}
neighbours = truth.kernel != 0
right = float(np.mean((np.abs(local.kernel) > 0.3) == neighbours))
print(", ".join(f"{name} {error:.4f}" for name, error in errors.items()))
print(f"{right:.1%} of {neighbours.size} connections are right")
