"""Reference implementation of the locally connected layer, by its definition: slow and obvious.

The tests compare with it. It computes in float64 with plain loops over output positions and window taps, imports only
NumPy, and shares no index code with `lcnumba.connectivity.geometry`.

Shapes: x (N, *input, C), kernel (P, K, F) with K = (*taps, C), bias and y (N, *output, F).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["backward", "forward", "output_size"]

Array = npt.NDArray[np.float64]
Ints = tuple[int, ...]
Padding = Any  # "valid", "same", or (before, after) for each dimension


def output_size(input_size: Ints, kernel_size: Ints, strides: Ints, dilation: Ints, padding: Padding) -> Ints:
    """Return the spatial size of the output, by counting the windows of each dimension.

    Parameters
    ----------
    input_size : tuple of int
        Spatial size of the input.
    kernel_size, strides, dilation : tuple of int
        Window size, stride between windows, step between taps; one entry for each spatial dimension.
    padding : {"valid", "same"} or tuple of (int, int)
        As for `lcnumba.connectivity.geometry.Geometry`.

    Returns
    -------
    tuple of int

    Examples
    --------
    >>> from lcnumba import reference
    >>> reference.output_size((7, 5), (3, 2), strides=(3, 1), dilation=(1, 1), padding="valid")
    (2, 4)
    """
    sizes = []
    for axis, (n, k, s, d) in enumerate(zip(input_size, kernel_size, strides, dilation, strict=True)):
        span = d * (k - 1) + 1
        count = 0
        if padding == "same":
            while count * s < n:
                count += 1
        else:
            before, after = (0, 0) if padding == "valid" else padding[axis]
            while count * s - before + span <= n + after:
                count += 1
        sizes.append(count)
    return tuple(sizes)


def _reads(
    input_size: Ints, kernel_size: Ints, strides: Ints, dilation: Ints, padding: Padding, padding_mode: Any
) -> Iterator[tuple[Any, int, int, Any]]:
    """Yield (index of the output, position, tap, index of the input) for every existing connection."""
    outputs = output_size(input_size, kernel_size, strides, dilation, padding)
    for p, out in enumerate(np.ndindex(*outputs)):
        for t, tap in enumerate(np.ndindex(*kernel_size)):
            at: list[int] = []
            for axis, (o, k) in enumerate(zip(out, tap, strict=True)):
                begin = o * strides[axis]
                if padding == "same":
                    begin -= (dilation[axis] * (kernel_size[axis] - 1) + 1) // 2
                elif padding != "valid":
                    begin -= padding[axis][0]
                here = begin + k * dilation[axis]
                mode = padding_mode if isinstance(padding_mode, str) else padding_mode[axis]
                while mode == "circular" and here < 0:
                    here += input_size[axis]
                while mode == "circular" and here >= input_size[axis]:
                    here -= input_size[axis]
                at.append(here)
            if all(0 <= a < n for a, n in zip(at, input_size, strict=True)):
                yield (slice(None), *out), p, t, (slice(None), *at)


def forward(
    x: npt.ArrayLike,
    kernel: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    *,
    kernel_size: Ints,
    strides: Ints,
    dilation: Ints,
    padding: Padding,
    padding_mode: Any = "zeros",
) -> Array:
    """Return y: y[n, o, f] = bias[o, f] + sum over taps t, channels c of x[n, i(o, t), c] * kernel[o, (t, c), f].

    Parameters
    ----------
    x : array_like, (N, *input, C)
        Input.
    kernel : array_like, (P, K, F)
        Weights, K over (*taps, C).
    bias : array_like, (*output, F), or None
        Bias.
    kernel_size, strides, dilation : tuple of int
        Window size, stride between windows, step between taps; one entry for each spatial dimension.
    padding : {"valid", "same"} or tuple of (int, int)
        As for `lcnumba.connectivity.geometry.Geometry`.
    padding_mode : {"zeros", "circular"} or tuple of them, default "zeros"
        Values beyond the input.

    Returns
    -------
    array of float64, (N, *output, F)

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba import reference
    >>> settings = {"kernel_size": (2,), "strides": (1,), "dilation": (1,), "padding": "valid"}
    >>> x, kernel = np.array([[[1.0], [2.0], [3.0]]]), np.array([[[1.0], [10.0]], [[100.0], [1000.0]]])
    >>> reference.forward(x, kernel, None, **settings)[0, :, 0]
    array([  21., 3200.])
    """
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    C, input_size = x.shape[-1], x.shape[1:-1]
    outputs = output_size(input_size, kernel_size, strides, dilation, padding)
    y = np.zeros((x.shape[0], *outputs, kernel.shape[2]))
    if bias is not None:
        y += np.asarray(bias, np.float64)
    for out, p, t, at in _reads(input_size, kernel_size, strides, dilation, padding, padding_mode):
        y[out] += x[at] @ kernel[p, t * C : (t + 1) * C]
    return y


def backward(
    x: npt.ArrayLike,
    kernel: npt.ArrayLike,
    dy: npt.ArrayLike,
    *,
    kernel_size: Ints,
    strides: Ints,
    dilation: Ints,
    padding: Padding,
    padding_mode: Any = "zeros",
) -> tuple[Array, Array, Array]:
    """Return the derivatives of sum(dy * forward(x, kernel, bias)).

    Parameters
    ----------
    x : array_like, (N, *input, C)
        Input.
    kernel : array_like, (P, K, F)
        Weights, K over (*taps, C).
    dy : array_like, (N, *output, F)
        Gradient with respect to y.
    kernel_size, strides, dilation : tuple of int
        Window size, stride between windows, step between taps; one entry for each spatial dimension.
    padding : {"valid", "same"} or tuple of (int, int)
        As for `lcnumba.connectivity.geometry.Geometry`.
    padding_mode : {"zeros", "circular"} or tuple of them, default "zeros"
        Values beyond the input.

    Returns
    -------
    dx, dkernel, dbias : arrays of float64
        With respect to x, the kernel, and a bias of shape (*output, F).

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba import reference
    >>> settings = {"kernel_size": (2,), "strides": (1,), "dilation": (1,), "padding": "valid"}
    >>> x, kernel = np.array([[[1.0], [2.0], [3.0]]]), np.ones((2, 2, 1))
    >>> dx, dkernel, dbias = reference.backward(x, kernel, np.array([[[1.0], [10.0]]]), **settings)
    >>> dx[0, :, 0]
    array([ 1., 11., 10.])
    >>> dkernel[:, :, 0]
    array([[ 1.,  2.],
           [20., 30.]])
    """
    x, kernel, dy = (np.asarray(a, np.float64) for a in (x, kernel, dy))
    C, input_size = x.shape[-1], x.shape[1:-1]
    dx, dkernel = np.zeros_like(x), np.zeros_like(kernel)
    for out, p, t, at in _reads(input_size, kernel_size, strides, dilation, padding, padding_mode):
        k = slice(t * C, (t + 1) * C)
        dx[at] += dy[out] @ kernel[p, k].T
        dkernel[p, k] += x[at].T @ dy[out]
    dbias: Any = dy.sum(axis=0)
    return dx, dkernel, dbias


def __dir__() -> list[str]:
    return __all__
