"""Compare layers of every rank with JAX's ``conv_general_dilated_local``: valid and explicit padding, dilation.

In an environment with this library and JAX: ``python tests/interop/jax_parity.py --count 60``. On integers held
as floats both must agree bit for bit, forward and in both gradients.
"""

import argparse
import sys

import jax
import numpy as np

import lcnumba as lc

CLASSES = {1: lc.LocallyConnected1D, 2: lc.LocallyConnected2D, 3: lc.LocallyConnected3D}
NUMBERS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def compare(rng):
    """Compare one configuration in all implementations; return whether it is valid."""
    rank = int(rng.integers(1, 4))

    def numbers(low, high):
        return tuple(int(n) for n in rng.integers(low, high, rank))

    kernel, strides, dilation = numbers(1, 4), numbers(1, 3), numbers(1, 3)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = tuple(int(rng.integers(1, 4)) + e - 1 for e in spans)
    padding = tuple((int(rng.integers(e)), int(rng.integers(e))) for e in spans) if rng.random() < 0.6 else "valid"
    filters, channels, batch = (int(n) for n in rng.integers(1, 4, 3))
    x = rng.integers(-4, 5, (batch, *size, channels)).astype(np.float32)
    for implementation in (1, 2, 3):
        layer = CLASSES[rank](
            filters, kernel, strides, padding, "channels_last", dilation_rate=dilation, use_bias=False,
            implementation=implementation,
        )  # fmt: skip
        layer.build(x.shape)
        layer.set_weights([rng.integers(-4, 5, w.shape) for w in layer.weights])
        y, backward = layer.forward(x)
        dy = rng.integers(-4, 5, y.shape).astype(np.float32)
        dx, grads = backward(dy)
        # JAX orders the elements of a window by channel first.
        taps = int(np.prod(kernel))
        window = layer.kernel.reshape(*y.shape[1:-1], taps, channels, filters)
        rhs = np.moveaxis(window, -2, -3).reshape(*y.shape[1:-1], taps * channels, filters)
        pairs = [(0, 0)] * rank if padding == "valid" else padding

        def local(x, rhs, pairs=pairs):
            return jax.lax.conv_general_dilated_local(
                x, rhs, strides, pairs, kernel, rhs_dilation=dilation, dimension_numbers=NUMBERS[rank]
            )

        expected, pull = jax.vjp(local, x, rhs)
        expected_dx, expected_rhs = pull(dy)
        gradient = np.moveaxis(np.asarray(expected_rhs).reshape(*y.shape[1:-1], channels, taps, filters), -2, -3)
        exists = layer._geometry.exists[:, :, None]
        for a, b in (
            (y, expected), (dx, expected_dx), (grads.kernel, np.where(exists, gradient.reshape(layer.kernel.shape), 0)),
        ):  # fmt: skip
            np.testing.assert_array_equal(a, b)


def main():
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    for _ in range(given.count):
        compare(rng)
    print(f"{given.count} configurations of ranks 1 to 3, each in three implementations: equal bit for bit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
