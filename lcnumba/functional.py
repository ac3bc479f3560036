"""The locally connected layer as a function: its linear maps, without weights of their own, state or autograd.

`Spec` says which input each weight reads; the maps take it, NumPy arrays and nothing else. They are what the bridges to
PyTorch, JAX and Keras call, and what a training loop of one's own needs, where something else owns the weights:

==================  =========================================================================
`apply`             y = F(x, kernel), plus a bias
`input_gradient`    dx = A(kernel, dy), for which <dx, x> = <dy, F(x, kernel)>
`weight_gradient`   dkernel = B(x, dy), for which <dkernel, kernel> = <dy, F(x, kernel)>
`gradients`         both in one pass over the weights
`bias_gradient`     the sum of dy over the batch
==================  =========================================================================

F is linear in x and in the kernel, so the gradients of A and B are these maps again: of A(kernel, dy) with the
cotangent u, B(u, dy) by the kernel and F(u, kernel) by dy; of B(x, dy) with the cotangent v, A(v, dy) by x and F(x, v)
by dy. So reverse-mode differentiation of any order needs no other map.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from lcnumba.connectivity import masks, sharing, topology
from lcnumba.connectivity.geometry import Geometry, of_transposed, output_paddings, padding_modes, paddings
from lcnumba.implementations.create import Implementation, create
from lcnumba.runtime.memory import require
from lcnumba.runtime.signals import import_whole
from lcnumba.utils.arrays import FLOATS
from lcnumba.utils.lazy import cached_property
from lcnumba.utils.messages import public, public_class
from lcnumba.utils.types import Array, Mask
from lcnumba.utils.validation import any_shape, int_tuple, integer, thread_count

__all__ = ["DirectedSpec", "Spec", "apply", "bias_gradient", "gradients", "input_gradient", "weight_gradient"]

# Hexadecimal digits of the digest that a text begins with, and the most specs of texts that are kept.
DIGEST = 32
KEPT = 1024


class _Immutable:
    """What specs have in common: they are all in their text, and cannot be changed."""

    input_shape: tuple[int, ...]
    filters: int

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of an output sample, channels last."""
        raise NotImplementedError

    @property
    def kernel_shape(self) -> tuple[int, int, int]:
        """Shape of the kernel."""
        raise NotImplementedError

    @property
    def _implementation(self) -> Any:
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse every assignment."""
        kind = type(self).__name__
        raise AttributeError(f"{name} of a {kind} cannot be set: it is immutable; create another {kind}")

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, _Immutable) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text[:DIGEST])

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the text alone; tables are computed again."""
        return Spec.from_text, (self.text,)

    @cached_property
    def text(self) -> str:
        """All of the spec as text, for `Spec.from_text`; frameworks keep it in compiled and exported programs.

        A digest, and JSON of the parameters that differ from their defaults; a mask is in it with one bit an entry.
        """
        config = json.dumps(self._config(), separators=(",", ":"))
        return _digest(config) + config

    def _config(self) -> dict[str, Any]:
        """The parameters that are in the text."""
        raise NotImplementedError

    def _flat(self, x: Array) -> Array:
        """An input as the implementation takes it."""
        raise NotImplementedError

    def _by_position(self, y: Array) -> Array:
        """An output as the implementation takes it."""
        raise NotImplementedError

    def _rows_of_bias(self, bias: Array | None) -> Array | None:
        """A bias as the implementation takes it: rows of filters."""
        return None if bias is None else bias.reshape(-1, self.filters)

    def _present(self, kernel: Array) -> Array:
        """The kernel with 0 for weights that a mask excludes, as implementations need it; mostly the kernel itself."""
        return kernel


@public_class
class Spec(_Immutable):
    r"""Which input each weight of a locally connected layer reads: immutable, and hashable.

    Equal specs compare equal, in other processes, too: `text` holds all of a spec.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of a sample, channels last: (W, C), (H, W, C) or (D, H, W, C).
    filters : int
        Filters F, the channels of the output.
    kernel_size, strides, padding, dilation_rate, padding_mode, groups, weight_sharing
        As for `lcnumba.LocallyConnected2D`; an integer, or one for each spatial dimension. With shared weights P
        stands for the number S of weight sets wherever a kernel's shape is given.
    kernel_mask : bool array, (P, K) or (P, K, F), optional
        Which connections exist.

    Attributes
    ----------
    input_shape, filters, kernel_size, strides, padding, dilation_rate, padding_mode, groups, weight_sharing, \
    kernel_mask
        As given, one entry for each dimension.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter, and for a kernel that does not fit the input.

    Examples
    --------
    >>> from lcnumba.functional import Spec
    >>> spec = Spec((28, 28, 1), 8, 3, strides=2)
    >>> spec.output_shape, spec.kernel_shape
    ((13, 13, 8), (169, 9, 8))
    >>> spec == Spec((28, 28, 1), 8, (3, 3), (2, 2))
    True
    """

    input_shape: tuple[int, ...]
    filters: int
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Any
    dilation_rate: tuple[int, ...]
    padding_mode: tuple[str, ...]
    groups: int
    weight_sharing: Any
    kernel_mask: Mask | None

    def __init__(
        self,
        input_shape: tuple[int, ...],
        filters: int,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: Any = "valid",
        *,
        dilation_rate: int | tuple[int, ...] = 1,
        padding_mode: str | tuple[str, ...] = "zeros",
        groups: int = 1,
        weight_sharing: Any = None,
        kernel_mask: Any = None,
    ) -> None:
        shape = _sample_shape(input_shape)
        rank = len(shape) - 1
        mask = masks.get(kernel_mask)
        self.__dict__.update(
            input_shape=shape,
            filters=integer("filters", filters),
            kernel_size=int_tuple("kernel_size", kernel_size, rank),
            strides=int_tuple("strides", strides, rank),
            padding=paddings(padding, rank),
            dilation_rate=int_tuple("dilation_rate", dilation_rate, rank),
            padding_mode=padding_modes(padding_mode, rank),
            groups=integer("groups", groups),
            weight_sharing=sharing.as_argument(sharing.get(weight_sharing, rank)),
            kernel_mask=mask,
        )
        geometry = self._geometry
        if mask is not None:
            masks.check(mask, geometry.kernel_shape, geometry.sets is None and geometry.groups == 1)

    def __repr__(self) -> str:
        """The call that makes it, but for the entries of the mask."""
        fields = [repr(self.input_shape), str(self.filters), repr(self.kernel_size)]
        fields += [f"{name}={value!r}" for name, value in self._config().items() if name not in _REQUIRED]
        for name in _ARRAYS:
            if isinstance(value := getattr(self, name), np.ndarray):
                fields = [f for f in fields if not f.startswith(f"{name}=")] + [f"{name}=<{value.shape}>"]
        return f"Spec({', '.join(fields)})"

    @staticmethod
    def from_text(text: str) -> Any:
        """Return the spec of a `text`; mostly the same object for the same text, since its tables are costly.

        Parameters
        ----------
        text : str
            As `text` returns it, here or in another process.

        Returns
        -------
        Spec or DirectedSpec

        Raises
        ------
        ValueError
            If it is not such a text, or of a later version of the library.

        Examples
        --------
        >>> from lcnumba.functional import Spec
        >>> spec = Spec((10, 2), 4, 3)
        >>> Spec.from_text(spec.text) == spec
        True
        """
        found = Spec.of_digest(text[:DIGEST])  # a compiled program passes a new string with each call
        if found is not None:
            return found
        config = text[DIGEST:]
        if text[:DIGEST] != _digest(config):
            raise ValueError(f"text={text!r:.80} is not the text of a Spec: its digest differs; give Spec.text")
        settings = json.loads(config)
        directed = "mask" in settings
        unknown = set(settings) - ({"mask", "channels", "filters"} if directed else {*_REQUIRED, *_DEFAULTS})
        if unknown:
            raise ValueError(
                f"text={text!r:.80} has {', '.join(sorted(unknown))}, which this version of lcnumba does not know; "
                "use the version that wrote it"
            )
        if len(_known) >= KEPT:
            _known.clear()
        if directed:
            mask = topology.get(_unpacked(settings["mask"]))
            return _known.setdefault(text[:DIGEST], DirectedSpec(mask, settings["channels"], settings["filters"]))
        return _known.setdefault(text[:DIGEST], Spec(**{name: _tuples(value) for name, value in settings.items()}))

    @staticmethod
    def transposed(
        input_shape: tuple[int, ...],
        filters: int,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: Any = "valid",
        *,
        output_padding: int | tuple[int, ...] | None = None,
        dilation_rate: int | tuple[int, ...] = 1,
        padding_mode: str | tuple[str, ...] = "zeros",
        groups: int = 1,
        weight_sharing: Any = None,
        kernel_mask: Any = None,
    ) -> "Spec":
        """Return the spec of a transposed layer: `input_gradient` of it is the layer, and `apply` its gradient.

        Parameters
        ----------
        input_shape : tuple of int
            Shape of a sample of the transposed layer, channels last.
        filters : int
            Its filters.
        kernel_size, strides, padding, output_padding, dilation_rate, padding_mode, groups, weight_sharing, kernel_mask
            As for `lcnumba.LocallyConnected2DTranspose`.

        Returns
        -------
        Spec
            Whose `input_shape` is the output of the layer, and whose `output_shape` is its input.

        Raises
        ------
        TypeError, ValueError
            For an invalid parameter, or an output whose windows are not as many as the inputs.

        Examples
        --------
        >>> import numpy as np
        >>> from lcnumba import functional
        >>> spec = functional.Spec.transposed((3, 1), 1, 3, strides=2)
        >>> x, kernel = np.array([[[1.0], [2.0], [3.0]]]), np.ones(spec.kernel_shape)
        >>> functional.input_gradient(spec, kernel, x)[0, :, 0]
        array([1., 1., 3., 2., 5., 3., 3.])
        """
        *size, channels = _sample_shape(input_shape)
        rank = len(size)
        steps = int_tuple("strides", strides, rank)
        modes, shared = padding_modes(padding_mode, rank), sharing.get(weight_sharing, rank)
        windows = int_tuple("kernel_size", kernel_size, rank), steps, paddings(padding, rank)
        dilated = int_tuple("dilation_rate", dilation_rate, rank)
        geometry = of_transposed(
            tuple(size), channels, integer("filters", filters), *windows, output_paddings(output_padding, steps),
            dilated, modes, integer("groups", groups), shared,
        )  # fmt: skip
        return Spec(
            geometry.sample_shape, channels, *windows[:2], geometry.padding, dilation_rate=dilated, padding_mode=modes,
            groups=groups, weight_sharing=weight_sharing, kernel_mask=kernel_mask,
        )  # fmt: skip

    @staticmethod
    def of_digest(digest: str) -> Any:
        """Return the spec whose text begins with this digest, if it has been read before; else None."""
        return _known.get(digest)

    @property
    def kernel_shape(self) -> tuple[int, int, int]:
        """(P, K, F): positions, window entries in the order (*kernel_size, C), filters."""
        return self._geometry.kernel_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of an output sample, channels last: (OW, F), (OH, OW, F) or (OD, OH, OW, F)."""
        return self._geometry.bias_shape

    @property
    def sets(self) -> Array | None:
        """The weight set of each output position, (P,); None if each position has its own weights."""
        return self._geometry.sets

    @property
    def kernel_view_shape(self) -> tuple[int, ...]:
        """The shape (*output, *kernel_size, C, F) of the kernel by position and window entry; (S, ...) if shared."""
        return self._geometry.kernel_view_shape

    def bias_shape(self, bias_sharing: str) -> tuple[int, ...]:
        """Return the shape of a bias.

        Parameters
        ----------
        bias_sharing : {"position", "region", "filter"}
            As for `lcnumba.LocallyConnected2D`.

        Returns
        -------
        tuple of int

        Raises
        ------
        ValueError
            If it is another value, or "region" without shared weights.

        Examples
        --------
        >>> from lcnumba.functional import Spec
        >>> spec = Spec((9, 1), 4, 3, weight_sharing=2)
        >>> [spec.bias_shape(sharing) for sharing in ("position", "region", "filter")]
        [(7, 4), (4, 4), (4,)]
        """
        shared = sharing.check_bias(bias_sharing, self.weight_sharing)
        shapes = {"position": self.output_shape, "region": (self.kernel_shape[0], self.filters)}
        return shapes.get(shared, (self.filters,))

    @cached_property
    def exists(self) -> Mask | None:
        """Which weights exist, (P, K, 1) or (P, K, F); None if all do.

        The others are those of connections to zero padding and those that `kernel_mask` excludes. They have no effect,
        and their gradient is 0.
        """
        mask, geometry = self.kernel_mask, self._geometry
        if mask is None:
            return None if geometry.complete else geometry.weight_exists[:, :, None]
        return np.atleast_3d(mask) & geometry.weight_exists[:, :, None]

    @cached_property
    def _geometry(self) -> Geometry:
        windows = (self.kernel_size, self.strides, self.dilation_rate, self.padding, self.padding_mode)
        shared = sharing.get(self.weight_sharing, len(self.kernel_size))
        return Geometry(self.input_shape[:-1], self.input_shape[-1], self.filters, *windows, self.groups, shared)

    @cached_property
    def _implementation(self) -> Implementation:
        # The others cache another form of the weights, under a version of which nobody tells here.
        return create(1, self._geometry, self.kernel_mask)

    def _flat(self, x: Array) -> Array:
        return x.reshape(len(x), self._geometry.inputs)

    def _by_position(self, y: Array) -> Array:
        return y.reshape(len(y), self._geometry.positions, self.filters)

    def _present(self, kernel: Array) -> Array:
        mask = self.kernel_mask
        if mask is None or _absent_are_zero()(kernel, mask):
            return kernel
        require(kernel.nbytes, "a copy of the kernel", "set the weights that the mask excludes to 0")
        return np.where(np.atleast_3d(mask), kernel, kernel.dtype.type(0))

    def _config(self) -> dict[str, Any]:
        """The required parameters, and those that differ from their defaults, for JSON."""
        rank = len(self.kernel_size)
        config = {name: getattr(self, name) for name in _REQUIRED}
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                value = _ARRAYS[name](value)
            if value not in (default, (default,) * rank):
                config[name] = value
        return config


@public_class
class DirectedSpec(_Immutable):
    """Which input each weight of a `lcnumba.LocallyDirected1D` reads: immutable, and hashable.

    It takes the place of a `Spec` in all functions here, and in the bridges to frameworks.

    Parameters
    ----------
    mask, mask_shape
        The connections, as for `lcnumba.LocallyDirected1D`.
    channels, filters : int, default 1
        Channels C of an input, and filters F.

    Attributes
    ----------
    mask : lcnumba.connectivity.topology.Topology
        The connections.
    channels, filters : int
        As given.
    input_shape : (int, int)
        (inputs, C).

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba import functional
    >>> spec = functional.DirectedSpec([(0, 0), (1, 0), (1, 1)], mask_shape=(2, 2))
    >>> spec.input_shape, spec.output_shape, spec.kernel_shape
    ((2, 1), (2, 1), (3, 1, 1))
    >>> functional.apply(spec, np.array([[[1.0], [10.0]]]), np.ones((3, 1, 1)))[0, :, 0]
    array([11., 10.])
    """

    mask: topology.Topology
    channels: int

    def __init__(
        self, mask: Any, channels: int = 1, filters: int = 1, *, mask_shape: tuple[int, int] | None = None
    ) -> None:
        self.__dict__.update(
            mask=topology.get(mask, mask_shape), channels=integer("channels", channels),
            filters=integer("filters", filters),
        )  # fmt: skip
        self.__dict__["input_shape"] = self.mask.shape[0], self.channels

    def __repr__(self) -> str:
        """The numbers of the connections, channels and filters."""
        return f"DirectedSpec({self.mask!r}, {self.channels}, {self.filters})"

    @property
    def output_shape(self) -> tuple[int, int]:
        """(outputs, F)."""
        return self.mask.shape[1], self.filters

    @property
    def kernel_shape(self) -> tuple[int, int, int]:
        """(connections, C, F), in the order of outputs and, within an output, of inputs."""
        return len(self.mask.indices), self.channels, self.filters

    @property
    def exists(self) -> None:
        """None: all weights exist."""
        return

    @cached_property
    def _implementation(self) -> Any:
        return _directed()(self.mask, self.channels, self.filters)

    def _config(self) -> dict[str, Any]:
        config = self.mask.get_config()
        packed = {name: _packed(array) for name, array in config.items() if name != "shape"}
        return {"mask": {"shape": config["shape"], **packed}, "channels": self.channels, "filters": self.filters}

    def _flat(self, x: Array) -> Array:
        return x

    def _by_position(self, y: Array) -> Array:
        return y

    def _rows_of_bias(self, bias: Array | None) -> Array | None:
        if bias is None or bias.ndim == 2:
            return bias
        return np.ascontiguousarray(np.broadcast_to(bias, self.output_shape))


def _packed(array: Array) -> str:
    """Ascending or nearly ascending integers as text: differences, compressed."""
    return base64.b64encode(zlib.compress(np.diff(array, prepend=0).astype("<i8").tobytes())).decode("ascii")


def _unpacked(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a topology from its text."""
    try:
        inputs, outputs = config["shape"]
        shape = int_tuple("shape", (inputs, outputs), 2)
        indptr = _integers(config["indptr"], shape[1] + 1)
        return {"shape": shape, "indptr": indptr, "indices": _integers(config["indices"], int(indptr[-1]))}
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"the text of a DirectedSpec has an invalid mask: {error}") from error


def _integers(packed: str, count: int) -> Array:
    """The integers of a text of `_packed`, which must be as many: no more of them is decompressed."""
    if count < 0:
        raise ValueError(f"{count} numbers are declared")
    require(8 * count, "a mask", "give fewer outputs or connections")
    content = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), 8 * count + 1)
    if len(content) != 8 * count:
        raise ValueError(f"it does not have the {count} numbers that are declared")
    return np.cumsum(np.frombuffer(content, "<i8")).astype(np.int64)


def _sample_shape(input_shape: Any) -> tuple[int, ...]:
    """The shape of a sample, checked."""
    shape = any_shape(input_shape)
    if not 2 <= len(shape) <= 4:
        raise ValueError(
            f"input_shape={input_shape!r} has {len(shape)} entries; give 2 to 4: spatial sizes and the channels"
        )
    return int_tuple("input_shape", shape, len(shape))


_known: dict[str, Any] = {}
_REQUIRED = ("input_shape", "filters", "kernel_size")
_DEFAULTS = {
    "strides": 1, "padding": "valid", "dilation_rate": 1, "padding_mode": "zeros", "groups": 1, "weight_sharing": None,
    "kernel_mask": None,
}  # fmt: skip
# Those that may be arrays, and how they are written to a config.
_ARRAYS: dict[str, Callable[[Any], Any]] = {"weight_sharing": sharing.serialize, "kernel_mask": masks.serialize}


@public
def apply(
    spec: Spec | DirectedSpec, x: Array, kernel: Array, bias: Array | None = None, *, out: Array | None = None,
    n_threads: int | None = None,
) -> Array:  # fmt: skip
    """Return y = F(x, kernel) + bias.

    Parameters
    ----------
    spec : Spec or DirectedSpec
        The layer.
    x : array, (N, *input_shape)
        The input.
    kernel : array, (P, K, F)
        The weights. Those that do not exist, by padding or a mask, have no effect; 0 in place of those that a mask
        excludes saves a copy.
    bias : array, (*output, F) or (F,), optional
        Added to each output.
    out : array, (N, *output, F), optional
        The array for the result, which shares no memory with the others; by default a new one.
    n_threads : int, optional
        The most threads; by default as many as Numba. Results do not depend on it.

    Returns
    -------
    array, (N, *output, F)
        `out`, or a new array.

    Raises
    ------
    TypeError
        If an array is not a C-contiguous NumPy array, or they are not all of float32 or all of float64: nothing is
        copied or cast here.
    ValueError
        If a shape does not fit, or `out` shares memory with another array.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba import functional
    >>> spec = functional.Spec((3, 1), 1, 2)
    >>> x, kernel = np.array([[[1.0], [2.0], [3.0]]]), np.array([[[1.0], [1.0]], [[10.0], [10.0]]])
    >>> functional.apply(spec, x, kernel)[0, :, 0]
    array([ 3., 50.])
    """
    size = _batch("x", x, spec.input_shape)
    given = {"x": x, "kernel": _fits("kernel", kernel, spec.kernel_shape)}
    if bias is not None:
        shape = spec.output_shape
        _check_kind("bias", bias)
        given["bias"] = _fits("bias", bias, shape[-1:] if bias.ndim == 1 else shape)
    _target("out", out, (size, *spec.output_shape), given)
    _same_dtype(given)
    result = spec._implementation.apply(
        spec._flat(x), spec._present(kernel), spec._rows_of_bias(bias), threads=thread_count(n_threads),
        out=None if out is None else spec._by_position(out),
    )  # fmt: skip
    return result.reshape(size, *spec.output_shape) if out is None else out


@public
def input_gradient(
    spec: Spec | DirectedSpec, kernel: Array, dy: Array, *, out: Array | None = None, n_threads: int | None = None
) -> Array:
    """Return dx = A(kernel, dy), the gradient by the input.

    Parameters
    ----------
    spec : Spec or DirectedSpec
        The layer.
    kernel : array, (P, K, F)
        The weights.
    dy : array, (N, *output, F)
        The gradient by y.
    out : array, (N, *input_shape), optional
        The array for the result.
    n_threads : int, optional
        As for `apply`.

    Returns
    -------
    array, (N, *input_shape)
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError
        As for `apply`.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba import functional
    >>> spec = functional.Spec((3, 1), 1, 2)
    >>> kernel = np.array([[[1.0], [1.0]], [[10.0], [10.0]]])
    >>> functional.input_gradient(spec, kernel, np.ones((1, 2, 1)))[0, :, 0]
    array([ 1., 11., 10.])
    """
    size = _batch("dy", dy, spec.output_shape)
    given = {"kernel": _fits("kernel", kernel, spec.kernel_shape), "dy": dy}
    _target("out", out, (size, *spec.input_shape), given)
    _same_dtype(given)
    result = spec._implementation.apply_transpose(
        spec._present(kernel), spec._by_position(dy), threads=thread_count(n_threads),
        out=None if out is None else spec._flat(out),
    )  # fmt: skip
    return result.reshape(size, *spec.input_shape) if out is None else out


@public
def weight_gradient(
    spec: Spec | DirectedSpec, x: Array, dy: Array, *, out: Array | None = None, n_threads: int | None = None
) -> Array:
    """Return dkernel = B(x, dy), the gradient by the weights.

    Parameters
    ----------
    spec : Spec or DirectedSpec
        The layer.
    x : array, (N, *input_shape)
        The input.
    dy : array, (N, *output, F)
        The gradient by y.
    out : array, (P, K, F), optional
        The array for the result.
    n_threads : int, optional
        As for `apply`.

    Returns
    -------
    array, (P, K, F)
        `out`, or a new array; 0 for weights that do not exist. The gradient by the bias is the sum of dy over the
        batch.

    Raises
    ------
    TypeError, ValueError
        As for `apply`.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba import functional
    >>> spec = functional.Spec((3, 1), 1, 2)
    >>> functional.weight_gradient(spec, np.array([[[1.0], [2.0], [3.0]]]), np.array([[[1.0], [10.0]]]))[:, :, 0]
    array([[ 1.,  2.],
           [20., 30.]])
    """
    given = _gradient_arguments(spec, x, dy)
    _target("out", out, spec.kernel_shape, given)
    _same_dtype(given)
    return spec._implementation.weight_gradient(
        spec._flat(x), spec._by_position(dy), threads=thread_count(n_threads), out=out
    )


@public
def gradients(
    spec: Spec | DirectedSpec, x: Array, kernel: Array, dy: Array, *,
    out: tuple[Array | None, Array | None] = (None, None), n_threads: int | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Return both gradients, dx = A(kernel, dy) and dkernel = B(x, dy), in one pass over the weights.

    Parameters
    ----------
    spec : Spec or DirectedSpec
        The layer.
    x : array, (N, *input_shape)
        The input.
    kernel : array, (P, K, F)
        The weights.
    dy : array, (N, *output, F)
        The gradient by y.
    out : (array or None, array or None), optional
        The arrays for dx and dkernel.
    n_threads : int, optional
        As for `apply`.

    Returns
    -------
    dx : array, (N, *input_shape)
        As from `input_gradient`.
    dkernel : array, (P, K, F)
        As from `weight_gradient`.

    Raises
    ------
    TypeError, ValueError
        As for `apply`.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba import functional
    >>> spec = functional.Spec((3, 1), 1, 2)
    >>> x, kernel = np.array([[[1.0], [2.0], [3.0]]]), np.ones((2, 2, 1))
    >>> dx, dkernel = functional.gradients(spec, x, kernel, np.array([[[1.0], [10.0]]]))
    >>> dx[0, :, 0], dkernel[1, :, 0]
    (array([ 1., 11., 10.]), array([20., 30.]))
    """
    given = {**_gradient_arguments(spec, x, dy), "kernel": _fits("kernel", kernel, spec.kernel_shape)}
    try:
        dx, dkernel = out
    except (TypeError, ValueError):
        raise TypeError(f"out={out!r:.80} must be a pair: the arrays, or None, for dx and dkernel") from None
    _target("out[0]", dx, x.shape, given)
    _target("out[1]", dkernel, spec.kernel_shape, given)
    _same_dtype(given)
    targets = None if dx is None else spec._flat(dx), dkernel
    flat_dx, dkernel = spec._implementation.gradients(
        spec._flat(x), spec._present(kernel), spec._by_position(dy), threads=thread_count(n_threads), out=targets
    )
    return flat_dx.reshape(x.shape) if dx is None else dx, dkernel


@public
def bias_gradient(
    spec: Spec | DirectedSpec, dy: Array, *, out: Array | None = None, n_threads: int | None = None
) -> Array:
    """Return the gradient by a bias of each output, the sum of dy over the batch.

    Parameters
    ----------
    spec : Spec or DirectedSpec
        The layer.
    dy : array, (N, *output, F)
        The gradient by y.
    out : array, (*output, F), optional
        The array for the result.
    n_threads : int, optional
        As for `apply`.

    Returns
    -------
    array, (*output, F)
        `out`, or a new array. Its sum over the positions is the gradient by a bias of each filter.

    Raises
    ------
    TypeError, ValueError
        As for `apply`.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba import functional
    >>> functional.bias_gradient(functional.Spec((3, 1), 1, 2), np.array([[[1.0], [2.0]], [[10.0], [20.0]]]))
    array([[11.],
           [22.]])
    """
    _batch("dy", dy, spec.output_shape)
    given = {"dy": dy}
    _target("out", out, spec.output_shape, given)
    _same_dtype(given)
    flat = None if out is None else out.reshape(-1, spec.filters)
    result = _loop().bias_gradient(spec._by_position(dy), None, thread_count(n_threads), flat)
    return result.reshape(spec.output_shape) if out is None else out


def _gradient_arguments(spec: Spec | DirectedSpec, x: Array, dy: Array) -> dict[str, Array]:
    """The arrays x and dy, which must have as many samples."""
    size = _batch("x", x, spec.input_shape)
    if _batch("dy", dy, spec.output_shape) != size:
        raise ValueError(f"dy has shape {dy.shape}, and x {x.shape}; give as many samples of both")
    return {"x": x, "dy": dy}


def _batch(name: str, array: Array, sample: tuple[int, ...]) -> int:
    """The number of samples of an array, which must be of shape (N, *sample)."""
    _check_kind(name, array)
    if array.ndim == 0 or array.shape[1:] != sample:
        raise ValueError(f"{name} has shape {array.shape}; give shape (N, {', '.join(map(str, sample))})")
    return len(array)


def _fits(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    _check_kind(name, array)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; give shape {shape}")
    return array


def _target(name: str, out: Array | None, shape: tuple[int, ...], given: dict[str, Array]) -> None:
    """Check an array for a result, and add it to those given."""
    if out is None:
        return
    _fits(name, out, shape)
    if not out.flags.writeable:
        raise ValueError(f"{name} is read-only; give an array that can be written")
    for other, array in given.items():
        if np.may_share_memory(out, array):
            raise ValueError(f"{name} shares memory with {other}, which is in use meanwhile; give another array")
    given[name] = out


def _check_kind(name: str, array: Any) -> None:
    """Raise unless it is an array of NumPy without a meaning beyond its numbers, such as a mask."""
    kind = type(array)
    if kind is not np.ndarray and kind is not np.memmap:
        package = kind.__module__.partition(".")[0]
        raise TypeError(f"{name} is a {package} {kind.__name__}; give a NumPy array: numpy.asarray({name})")


def _same_dtype(given: dict[str, Array]) -> None:
    """Raise unless all are C-contiguous and of one dtype, float32 or float64."""
    (first, model), *_ = given.items()
    if model.dtype not in FLOATS:
        raise TypeError(f"{first} has dtype {model.dtype}; give float32 or float64: {first}.astype('float32')")
    for name, array in given.items():
        if array.dtype != model.dtype:
            raise TypeError(
                f"{name} has dtype {array.dtype}, and {first} {model.dtype}; give the same: "
                f"{name}.astype({model.dtype.name!r})"
            )
        if not (array.flags.c_contiguous and array.flags.aligned):
            raise TypeError(f"{name} is not C-contiguous; give numpy.ascontiguousarray({name})")


@import_whole
def _loop() -> Any:
    from lcnumba.implementations import loop

    return loop


@import_whole
def _directed() -> Any:
    from lcnumba.implementations.directed import Directed

    return Directed


@import_whole
def _absent_are_zero() -> Any:
    from lcnumba.kernels.absent import absent_are_zero

    return absent_are_zero


def _digest(config: str) -> str:
    return hashlib.sha256(config.encode()).hexdigest()[:DIGEST]


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def __dir__() -> list[str]:
    return __all__
