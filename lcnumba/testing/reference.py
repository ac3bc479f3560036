"""Reference implementation of the locally connected layer, by its definition: slow and obvious.

The tests compare with it. It computes in float64 with plain loops over output positions and window taps, imports only
NumPy, and shares no index code with `lcnumba.connectivity.geometry`.

Shapes: x (N, *input, C), kernel (P, K, F) with K = (*taps, C), bias and y (N, *output, F). With shared weights the
kernel is (S, K, F), with groups K = (*taps, C / groups).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["backward", "forward", "output_size"]

Array = npt.NDArray[np.float64]
Ints = tuple[int, ...]
Padding = Any  # "valid", "same", "tf_same", or (before, after) for each dimension


def output_size(input_size: Ints, kernel_size: Ints, strides: Ints, dilation: Ints, padding: Padding) -> Ints:
    """Return the spatial size of the output, by counting the windows of each dimension.

    Parameters
    ----------
    input_size : tuple of int
        Spatial size of the input.
    kernel_size, strides, dilation : tuple of int
        Window size, stride between windows, step between taps; one entry for each spatial dimension.
    padding : {"valid", "same", "tf_same"} or tuple of (int, int)
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
        if padding in ("same", "tf_same"):
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
                span = dilation[axis] * (kernel_size[axis] - 1) + 1
                if padding == "same":
                    begin -= span // 2
                elif padding == "tf_same":  # what the last window needs, the smaller half before
                    begin -= max((outputs[axis] - 1) * strides[axis] + span - input_size[axis], 0) // 2
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


def _set_of(position: int, out: Ints, outputs: Ints, weight_sharing: Any) -> int:
    """The set of weights of an output position."""
    if weight_sharing is None:
        return position
    if isinstance(weight_sharing, str):
        return 0
    if isinstance(weight_sharing, tuple):
        number = 0
        for o, size, block in zip(out, outputs, weight_sharing, strict=True):
            number = number * len(range(0, size, block)) + o // block
        return number
    return int(np.asarray(weight_sharing)[out])


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
    groups: int = 1,
    weight_sharing: Any = None,
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
    padding : {"valid", "same", "tf_same"} or tuple of (int, int)
        As for `lcnumba.connectivity.geometry.Geometry`.
    padding_mode : {"zeros", "circular"} or tuple of them, default "zeros"
        Values beyond the input.
    groups : int, default 1
        Filters read the channels of their group alone.
    weight_sharing : None, "all", tuple of int or array of int, optional
        As for `lcnumba.connectivity.geometry.Geometry`; blocks as a tuple.

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
    C, M, input_size = x.shape[-1] // groups, kernel.shape[2] // groups, x.shape[1:-1]
    outputs = output_size(input_size, kernel_size, strides, dilation, padding)
    y = np.zeros((x.shape[0], *outputs, kernel.shape[2]))
    if bias is not None:
        y += np.asarray(bias, np.float64)
    for out, p, t, at in _reads(input_size, kernel_size, strides, dilation, padding, padding_mode):
        own = _set_of(p, out[1:], outputs, weight_sharing)
        for g in range(groups):
            filters = slice(g * M, (g + 1) * M)
            y[(*out, filters)] += x[(*at, slice(g * C, (g + 1) * C))] @ kernel[own, t * C : (t + 1) * C, filters]
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
    groups: int = 1,
    weight_sharing: Any = None,
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
    padding : {"valid", "same", "tf_same"} or tuple of (int, int)
        As for `lcnumba.connectivity.geometry.Geometry`.
    padding_mode : {"zeros", "circular"} or tuple of them, default "zeros"
        Values beyond the input.
    groups : int, default 1
        Filters read the channels of their group alone.
    weight_sharing : None, "all", tuple of int or array of int, optional
        As for `lcnumba.connectivity.geometry.Geometry`; blocks as a tuple.

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
    C, M, input_size = x.shape[-1] // groups, kernel.shape[2] // groups, x.shape[1:-1]
    outputs = output_size(input_size, kernel_size, strides, dilation, padding)
    dx, dkernel = np.zeros_like(x), np.zeros_like(kernel)
    for out, p, t, at in _reads(input_size, kernel_size, strides, dilation, padding, padding_mode):
        own = _set_of(p, out[1:], outputs, weight_sharing)
        for g in range(groups):
            read, filters = (*at, slice(g * C, (g + 1) * C)), slice(g * M, (g + 1) * M)
            weights = (own, slice(t * C, (t + 1) * C), filters)
            dx[read] += dy[(*out, filters)] @ kernel[weights].T
            dkernel[weights] += x[read].T @ dy[(*out, filters)]
    dbias: Any = dy.sum(axis=0)
    return dx, dkernel, dbias


def __dir__() -> list[str]:
    return __all__
