"""Locally connected layers for JAX on the CPU (the extra ``lcnumba[jax]``), as functions.

They can be jitted, differentiated in reverse mode to any order, mapped by `jax.vmap` (one entry after the other) and
scanned. XLA calls the kernels on its own arrays, without copies. Computation is in float32, or in float64 with
``jax_enable_x64``.

There are no forward-mode derivatives (`jax.jvp`, `jax.jacfwd`, `jax.hessian`; ``jacrev(jacrev(f))`` works), and no GPU.
Within `jax.shard_map` they need ``check_vma=False``.
"""

import functools
from typing import Any

from lcnumba.connectivity.geometry import padding_modes, paddings
from lcnumba.functional import DirectedSpec, Spec
from lcnumba.utils.messages import install, public
from lcnumba.utils.validation import boolean, choice, hashable, int_tuple, integer

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise ImportError(f"{error}; lcnumba.jax needs JAX: {install('jax')}") from error

from lcnumba.bridges.jax import apply, apply_transpose

__all__ = ["init", "locally_connected", "locally_connected_transpose", "locally_directed"]


def _spec(
    input_shape: tuple[int, ...], filters: int, kernel_size: Any, strides: Any, padding: Any, dilation_rate: Any,
    padding_mode: Any, groups: int, weight_sharing: Any, kernel_mask: Any,
) -> Spec:  # fmt: skip
    """The spec of a layer whose `padding` is given as in JAX."""
    rank = len(input_shape) - 1
    size, steps, dilated = (
        int_tuple(name, value, rank)
        for name, value in (("kernel_size", kernel_size), ("strides", strides), ("dilation_rate", dilation_rate))
    )
    padding = paddings(padding, rank)
    if padding == "same":
        padding = "tf_same"
    return Spec(
        input_shape, filters, size, steps, padding, dilation_rate=dilated,
        padding_mode=padding_modes(padding_mode, rank), groups=groups, weight_sharing=weight_sharing,
        kernel_mask=kernel_mask,
    )  # fmt: skip


_known_spec = functools.lru_cache(maxsize=1024)(_spec)


@public
def init(
    key: Any,
    input_shape: tuple[int, ...],
    filters: int,
    kernel_size: int | tuple[int, ...],
    *,
    strides: int | tuple[int, ...] = 1,
    padding: Any = "valid",
    dilation_rate: int | tuple[int, ...] = 1,
    padding_mode: str | tuple[str, ...] = "zeros",
    groups: int = 1,
    weight_sharing: Any = None,
    kernel_mask: Any = None,
    use_bias: bool = True,
    bias_sharing: str = "position",
    dtype: Any = None,
) -> dict[str, Any]:
    """Return initial weights for `locally_connected`.

    The kernel is drawn as in Flax, "lecun_normal" of each window, with 0 for connections that do not exist; the bias is
    0.

    Parameters
    ----------
    key : jax.Array
        A random key.
    input_shape : tuple of int
        Shape of a sample, channels last: (W, C), (H, W, C) or (D, H, W, C).
    filters : int
        Filters F, the channels of the output.
    kernel_size, strides, padding, dilation_rate, padding_mode, groups, weight_sharing, kernel_mask
        As for `locally_connected`.
    use_bias : bool, default True
        Whether there is a bias.
    bias_sharing : {"position", "filter"}, default "position"
        Whether each output has its own bias, (OH, OW, F), or each filter one, (F,).
    dtype : optional
        float32 or float64; by default JAX's.

    Returns
    -------
    dict
        "kernel", (P, K, F), and "bias".

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter, and for a kernel that does not fit.

    Examples
    --------
    >>> import jax
    >>> from lcnumba.jax import init
    >>> weights = init(jax.random.key(0), (28, 28, 1), 8, 3, strides=2)
    >>> weights["kernel"].shape, weights["bias"].shape
    ((169, 9, 8), (13, 13, 8))
    """
    settings = (strides, padding, dilation_rate, padding_mode, integer("groups", groups), weight_sharing, kernel_mask)
    spec = _spec(tuple(input_shape), integer("filters", filters), kernel_size, *settings)
    wanted = jnp.zeros((), dtype).dtype
    if wanted not in (jnp.float32, jnp.float64):
        raise TypeError(f"dtype={wanted.name!r} is not supported; give 'float32' or 'float64'")
    draw = jax.nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
    weights = {"kernel": draw(key, spec.kernel_shape, wanted)}
    if spec.exists is not None:
        weights["kernel"] = jnp.where(spec.exists, weights["kernel"], 0)
    if bias_sharing == "region":
        raise ValueError(
            "bias_sharing='region' is not known to locally_connected; give use_bias=False, and a bias (S, F) of your "
            "own as bias[spec.sets].reshape(spec.output_shape), with spec = lcnumba.functional.Spec(...)"
        )
    shared = choice("bias_sharing", bias_sharing, ("position", "filter")) == "filter"
    if boolean("use_bias", use_bias):
        weights["bias"] = jnp.zeros(spec.output_shape[-1:] if shared else spec.output_shape, wanted)
    return weights


@public
def locally_connected(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    kernel_size: int | tuple[int, ...],
    strides: int | tuple[int, ...] = 1,
    padding: Any = "valid",
    dilation_rate: int | tuple[int, ...] = 1,
    padding_mode: str | tuple[str, ...] = "zeros",
    groups: int = 1,
    weight_sharing: Any = None,
    kernel_mask: Any = None,
) -> jax.Array:
    """Apply a locally connected layer: a convolution whose weights are not shared between positions.

    Parameters
    ----------
    x : array, (N, W, C), (N, H, W, C) or (N, D, H, W, C)
        The input, float32 or float64.
    kernel : array, (P, K, F)
        P = OH*OW positions; K window entries in the order (row, column, channel); F filters.
    bias : array, (OH, OW, F) or (F,), optional
        Added to each output.
    kernel_size : int or tuple of int
        Size of the window.
    strides : int or tuple of int, default 1
        Distance of neighbouring windows.
    padding : {"valid", "same"} or pairs (before, after), default "valid"
        "same" is that of JAX' and Flax' convolutions ("SAME"), which differs from that of Keras' locally connected
        layers for even windows and for strides.
    dilation_rate : int or tuple of int, default 1
        Distance of neighbouring entries of a window.
    padding_mode : {"zeros", "circular"} or one for each dimension, default "zeros"
        What windows read beyond the input.
    groups : int, default 1
        Divides channels and filters into as many groups; filters read the channels of their group, and K counts those.
    weight_sharing : None, "all", int, tuple of int, or NumPy array of int, default None
        Which positions share their weights, as for `lcnumba.LocallyConnected2D`; the kernel is then (S, K, F). For a
        bias of each set of weights, (S, F), give ``bias[regions]``, or of blocks
        ``bias[spec.sets].reshape(spec.output_shape)`` with their `lcnumba.functional.Spec`.
    kernel_mask : NumPy bool array, (P, K) or (P, K, F), optional
        Which connections exist; no tracer. The others are not read, and their gradient is 0. It is part of compiled
        programs, with one bit an entry.

    Returns
    -------
    array, (N, OW, F), (N, OH, OW, F) or (N, OD, OH, OW, F)
        Of the dtype of x.

    Raises
    ------
    TypeError
        If an array's shape does not fit, or the dtypes differ or are not supported.
    ValueError
        For an invalid setting.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from lcnumba.jax import locally_connected
    >>> x, kernel = jnp.array([[[1.0], [2.0], [3.0]]]), jnp.array([[[1.0], [1.0]], [[10.0], [10.0]]])
    >>> locally_connected(x, kernel, kernel_size=2)[0, :, 0]
    Array([ 3., 50.], dtype=float32)
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    if x.ndim not in (3, 4, 5) or kernel.ndim != 3:
        raise TypeError(
            f"x has shape {x.shape} and kernel {kernel.shape}; give (N, *spatial, C) with 1 to 3 spatial sizes, and "
            "(P, K, F); x[None] adds the batch"
        )
    arguments = {"kernel_size": kernel_size, "strides": strides, "padding": padding, "dilation_rate": dilation_rate}
    settings: Any = [hashable(name, value) for name, value in (arguments | {"padding_mode": padding_mode}).items()]
    _refuse_tracers(kernel_mask, weight_sharing)
    settings.append(integer("groups", groups))
    known = kernel_mask is None and isinstance(weight_sharing, str | int | tuple | None)
    make: Any = _known_spec if known else _spec
    spec: Spec = make(x.shape[1:], kernel.shape[2], *settings, weight_sharing, kernel_mask)
    bias = _checked_weights(x, kernel, bias, spec.kernel_shape, spec.output_shape)
    return apply(x, kernel, bias, spec.text)


@public
def locally_connected_transpose(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    filters: int,
    kernel_size: int | tuple[int, ...],
    strides: int | tuple[int, ...] = 1,
    padding: Any = "valid",
    output_padding: int | tuple[int, ...] | None = None,
    dilation_rate: int | tuple[int, ...] = 1,
    padding_mode: str | tuple[str, ...] = "zeros",
    groups: int = 1,
    weight_sharing: Any = None,
    kernel_mask: Any = None,
) -> jax.Array:
    """Apply a transposed locally connected layer, for decoders: every input position has its own weights.

    Parameters
    ----------
    x : array, (N, W, C), (N, H, W, C) or (N, D, H, W, C)
        The input, float32 or float64.
    kernel : array, (P, K, C)
        P positions of the input; K window entries in the order (row, column, filter).
    bias : array, (OH, OW, F) or (F,), optional
        Added to each output.
    filters : int
        Filters F, the channels of the output.
    kernel_size, strides, padding, output_padding, dilation_rate, padding_mode, groups, weight_sharing, kernel_mask
        As for `lcnumba.LocallyConnected2DTranspose`; arrays are NumPy arrays and no tracers.

    Returns
    -------
    array, (N, OW, F), (N, OH, OW, F) or (N, OD, OH, OW, F)
        Of the dtype of x.

    Raises
    ------
    TypeError
        If an array's shape does not fit, or the dtypes differ or are not supported.
    ValueError
        For an invalid setting.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from lcnumba.jax import locally_connected_transpose
    >>> x, kernel = jnp.array([[[1.0], [2.0], [3.0]]]), jnp.ones((3, 3, 1))
    >>> locally_connected_transpose(x, kernel, filters=1, kernel_size=3, strides=2)[0, :, 0]
    Array([1., 1., 3., 2., 5., 3., 3.], dtype=float32)
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    if x.ndim not in (3, 4, 5):
        raise TypeError(
            f"x has shape {x.shape}; give (N, *spatial, C) with 1 to 3 spatial sizes; x[None] adds the batch"
        )
    _refuse_tracers(kernel_mask, weight_sharing)
    spec = Spec.transposed(
        x.shape[1:], filters, kernel_size, strides, padding, output_padding=output_padding, dilation_rate=dilation_rate,
        padding_mode=padding_mode, groups=groups, weight_sharing=weight_sharing, kernel_mask=kernel_mask,
    )  # fmt: skip
    bias = _checked_weights(x, kernel, bias, spec.kernel_shape, spec.input_shape)
    return apply_transpose(x, kernel, bias, spec.text)


@public
def locally_directed(x: Any, kernel: Any, bias: Any = None, *, spec: DirectedSpec) -> jax.Array:
    """Apply a layer of given connections, as from variants to genes and from genes to pathways.

    Parameters
    ----------
    x : array, (N, inputs, C)
        The input, float32 or float64.
    kernel : array, (connections, C, F)
        In the order of outputs and, within an output, of inputs.
    bias : array, (outputs, F) or (F,), optional
        Added to each output.
    spec : lcnumba.functional.DirectedSpec
        The connections, made once, outside of `jax.jit`. They are part of compiled programs.

    Returns
    -------
    array, (N, outputs, F)
        Of the dtype of x.

    Raises
    ------
    TypeError
        If `spec` is none, an array's shape does not fit, or the dtypes differ or are not supported.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from lcnumba.functional import DirectedSpec
    >>> from lcnumba.jax import locally_directed
    >>> genes = DirectedSpec([(0, 0), (1, 0), (1, 1)], mask_shape=(2, 2))
    >>> locally_directed(jnp.array([[[1.0], [10.0]]]), jnp.ones(genes.kernel_shape), spec=genes)[0, :, 0]
    Array([11., 10.], dtype=float32)
    """
    if not isinstance(spec, DirectedSpec):
        raise TypeError(f"spec is a {type(spec).__name__}; give a lcnumba.functional.DirectedSpec")
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    if x.shape[1:] != spec.input_shape:
        raise TypeError(f"x has shape {x.shape}; give (N, inputs, C) = (N, {spec.input_shape[0]}, {spec.channels})")
    bias = _checked_weights(x, kernel, bias, spec.kernel_shape, spec.output_shape)
    return apply(x, kernel, bias, spec.text)


def _refuse_tracers(kernel_mask: Any, weight_sharing: Any) -> None:
    for name, array in (("kernel_mask", kernel_mask), ("weight_sharing", weight_sharing)):
        if isinstance(array, jax.core.Tracer):
            raise TypeError(
                f"{name} is a tracer; give a NumPy array, which is made outside of jit and part of the program"
            )


def _checked_weights(
    x: Any, kernel: Any, bias: Any, kernel_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> Any:
    """The bias as an array; raise unless all arrays fit."""
    _check_dtype("x", x.dtype)
    given: dict[str, tuple[Any, tuple[int, ...]]] = {"kernel": (kernel, kernel_shape)}
    if bias is not None:
        bias = jnp.asarray(bias)
        given["bias"] = bias, output_shape[-1:] if bias.ndim == 1 else output_shape
    for name, (array, shape) in given.items():
        if array.shape != shape:
            raise TypeError(
                f"{name} has shape {array.shape}; x, (N, *spatial, C) = {x.shape}, and the settings need {shape}"
            )
        if array.dtype != x.dtype:
            raise TypeError(f"{name} has dtype {array.dtype}, and x {x.dtype}; give the same: {name}.astype(x.dtype)")
    for name, (array, _) in {"x": (x, None), **given}.items():
        _check_sharding(name, array)
    return bias


def _check_sharding(name: str, array: Any) -> None:
    """Raise within `jax.shard_map` with its check: its rules for gradients do not know these functions."""
    kind = jax.typeof(array)
    if getattr(kind, "vma", None) or getattr(getattr(kind, "manual_axis_type", None), "varying", None):
        raise NotImplementedError(
            f"{name} is of type {kind}, within jax.shard_map; give shard_map check_vma=False, and sum the gradients of "
            "replicated weights over the devices yourself"
        )


def _check_dtype(name: str, dtype: Any) -> None:
    if dtype not in (jnp.float32, jnp.float64):
        raise TypeError(f"{name} has dtype {dtype}; give float32 or float64: {name}.astype('float32')")


def __dir__() -> list[str]:
    return __all__
