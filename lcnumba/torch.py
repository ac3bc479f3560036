"""Locally connected layers for PyTorch on the CPU (the extra ``lcnumba[torch]``), as modules and as a function.

The weights are `torch.nn.Parameter`s, and torch's autograd, optimizers, `torch.compile` and `torch.export` work as with
its own layers. Three linear maps, those of `lcnumba.functional`, are operators of torch (``torch.ops.lcnumba``), each
differentiated by the others, so that gradients of any order are exact.

Arrays are shared with torch, not copied: contiguous inputs, weights and results stay where they are. Computation is in
float32 or float64; under `torch.autocast` in float32. Threads are limited by `torch.set_num_threads`.

There are no forward-mode derivatives, and no GPU. `torch.vmap` computes one sample after the other.
"""

import functools
import math
from typing import Any, ClassVar, Self

import numpy as np

from lcnumba import activations
from lcnumba.connectivity import sharing
from lcnumba.connectivity.geometry import padding_modes, paddings
from lcnumba.functional import DirectedSpec, Spec
from lcnumba.layers.locally_connected import LocallyConnected1D, LocallyConnected2D, LocallyConnected3D
from lcnumba.layers.locally_connected_transpose import (
    LocallyConnected1DTranspose,
    LocallyConnected2DTranspose,
    LocallyConnected3DTranspose,
)
from lcnumba.layers.locally_directed import LocallyDirected1D
from lcnumba.utils.messages import install, public_class
from lcnumba.utils.validation import axes_hint, boolean, choice, hashable, int_tuple, integer

try:
    import torch
    from torch import Tensor, nn
    from torch.autograd import forward_ad
except ImportError as error:
    raise ImportError(f"{error}; lcnumba.torch needs PyTorch: {install('torch')}") from error

from lcnumba.bridges.torch import apply, apply_transpose

__all__ = [
    "LocallyConnected1d", "LocallyConnected2d", "LocallyConnected3d", "LocallyConnectedTranspose1d",
    "LocallyConnectedTranspose2d", "LocallyConnectedTranspose3d", "LocallyDirected1d", "locally_connected",
]  # fmt: skip

# What layers of the library have beside weights and the linear map, and modules of torch do not.
_BEYOND_THE_MAP = (
    "activation", "kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint",
    "bias_constraint",
)  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _spec(
    in_shape: tuple[int, ...], filters: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any, mode: Any,
    groups: int = 1,
) -> Spec:  # fmt: skip
    """The spec of torch's arguments, which are `hashable`; `in_shape` has the channels last."""
    rank = len(in_shape) - 1
    size, steps, dilated = (
        int_tuple(name, value, rank)
        for name, value in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation))
    )
    if isinstance(padding, str):
        padding = choice("padding", padding, ("valid", "same", "tf_same"))
    modes = padding_modes(mode, rank)
    if padding == "tf_same":
        return Spec(in_shape, filters, size, steps, padding, dilation_rate=dilated, padding_mode=modes, groups=groups)
    if padding == "same":
        if max(steps) > 1:
            raise ValueError(f"padding='same' needs stride=1, as in torch, got {stride!r}; give 'tf_same' or numbers")
        total = [d * (k - 1) for k, d in zip(size, dilated, strict=True)]
        padding = tuple((t // 2, t - t // 2) for t in total)
    elif padding == "valid":
        padding = 0
    if not isinstance(padding, tuple):
        padding = (padding,) * rank
    pairs = paddings(tuple(pair if isinstance(pair, tuple) else (pair, pair) for pair in padding), rank)
    plain = pairs if any(map(any, pairs)) else "valid"
    return Spec(in_shape, filters, size, steps, plain, dilation_rate=dilated, padding_mode=modes, groups=groups)


@torch.compiler.assume_constant_result
def _text(*arguments: Any) -> str:
    """The text of a spec; torch.compile takes it for a constant of the program."""
    return _spec(*arguments).text


def locally_connected(  # not `public`, whose checks torch.compile cannot trace
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: int | tuple[int, ...] = 1,
    padding_mode: str | tuple[str, ...] = "zeros",
    groups: int = 1,
    channels_last: bool = False,
) -> Tensor:
    """Apply a locally connected layer: a convolution whose weights are not shared between positions.

    Parameters
    ----------
    x : tensor, (N, C, H, W), or (N, H, W, C) with `channels_last`
        The input, of one, two or three spatial dimensions; float32 or float64, on the CPU.
    weight : tensor, (P, K, F)
        P = OH*OW positions; K window entries in the order (row, column, channel); F filters.
    bias : tensor, (OH, OW, F) or (F,), optional
        Added to each output.
    kernel_size, stride, padding, dilation, padding_mode, groups, channels_last
        As for `LocallyConnected2d`.

    Returns
    -------
    tensor, (N, F, OH, OW), or (N, OH, OW, F) with `channels_last`
        A new tensor.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.
    RuntimeError
        If a shape, or a dtype, does not fit.

    Examples
    --------
    >>> import torch
    >>> from lcnumba.torch import locally_connected
    >>> x, weight = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[1.0], [1.0]], [[10.0], [10.0]]])
    >>> locally_connected(x, weight, kernel_size=2)
    tensor([[[ 3., 50.]]])
    """
    if x.dim() not in (3, 4, 5) or weight.dim() != 3:
        raise RuntimeError(
            f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}; give (N, C, *spatial) with 1 to 3 spatial "
            "sizes, and (P, K, F)"
        )
    inner = x if channels_last else x.movedim(1, -1)
    settings = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    given = [hashable(name, value) for name, value in settings.items()]
    # A range needs numbers: from the second size on torch.compile would take sizes for symbols.
    *sizes, filters = (len(range(size)) for size in (*inner.shape[1:], weight.shape[2]))
    text = _text(tuple(sizes), filters, *given, hashable("padding_mode", padding_mode), integer("groups", groups))
    return _called(apply, x, weight, bias, text, channels_last)


def _called(function: Any, x: Tensor, weight: Tensor, bias: Tensor | None, text: str, channels_last: bool) -> Tensor:
    if not torch.compiler.is_compiling():
        for tensor in (x, weight) if bias is None else (x, weight, bias):
            if forward_ad.unpack_dual(tensor).tangent is not None:  # torch would take 0 for the derivative
                raise NotImplementedError(
                    "locally connected layers have no forward-mode derivatives; use reverse mode, such as "
                    "torch.autograd.functional.jacobian"
                )
    if channels_last:
        y: Tensor = function(x, weight, bias, text)
        return y
    y = function(x.movedim(1, -1), weight, bias, text).movedim(-1, 1)
    # As torch's convolutions: in the memory format of the input, and contiguous in general, so that .view works.
    return y.contiguous() if x.is_contiguous() else y


class _Windowed(nn.Module):
    """Base class of modules with the weights of a spec, for any spatial rank."""

    rank: ClassVar[int]
    _layer: ClassVar[Any]
    _function: ClassVar[Any]

    @staticmethod
    def _ends(spec: Spec) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of a sample of x and of y, channels last."""
        raise NotImplementedError

    def _setup(
        self, spec: Spec, weight_sharing: Any, mask: Any, bias: bool, bias_sharing: str, channels_last: bool
    ) -> None:
        if mask is not None or weight_sharing is not None:
            mask, regions = (
                array.detach().cpu().numpy() if isinstance(array, Tensor) else array for array in (mask, weight_sharing)
            )
            windows = (spec.kernel_size, spec.strides, spec.padding)
            spec = Spec(
                spec.input_shape, spec.filters, *windows, dilation_rate=spec.dilation_rate,
                padding_mode=spec.padding_mode, groups=spec.groups, weight_sharing=regions, kernel_mask=mask,
            )  # fmt: skip
        self._setup_of(spec, bias, bias_sharing, channels_last)

    def _setup_of(self, spec: Any, bias: bool, bias_sharing: str, channels_last: bool) -> None:
        self.spec, self._text = spec, spec.text
        input_shape, output_shape = self._ends(spec)
        self.in_channels, self.out_channels = input_shape[-1], output_shape[-1]
        self.channels_last = boolean("channels_last", channels_last)
        self._sample_shape = torch.Size(self._outer(input_shape))
        shape = self._shape_of_bias(spec, bias_sharing)
        self._bias_shape, self.bias_sharing = shape if bias else None, bias_sharing
        if bias and bias_sharing == "region":
            self.register_buffer("_sets", torch.tensor(spec.sets), persistent=False)

    def _shape_of_bias(self, spec: Spec, bias_sharing: str) -> tuple[int, ...]:
        return spec.bias_shape(bias_sharing)

    def _create(self, device: Any, dtype: Any) -> None:
        """Create the parameters, with initial values."""
        self.weight = nn.Parameter(torch.empty(self.spec.kernel_shape, device=device, dtype=dtype))
        if self._bias_shape is None:
            self.register_parameter("bias", None)
        else:
            self.bias = nn.Parameter(torch.empty(self._bias_shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and bias as torch's convolutions do: uniformly within 1 / sqrt(window entries).

        Weights of connections that do not exist become 0.
        """
        bound = 1 / math.sqrt(self.spec.kernel_shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)
        exists = self.spec.exists
        if exists is not None and not self.weight.is_meta:
            with torch.no_grad():
                self.weight.mul_(torch.tensor(exists))

    def forward(self, x: Tensor) -> Tensor:
        """Return y for x (N, C, *in_shape), or (C, *in_shape); with `channels_last` C comes last.

        y is contiguous, or channels last in memory if x is.
        """
        sample, weight = self._sample_shape, self.weight
        if not isinstance(x, Tensor):
            raise TypeError(f"x is a {type(x).__name__}; give a torch.Tensor, such as torch.as_tensor(x)")
        if x.shape[1:] != sample:
            if x.shape == sample:
                return self.forward(x.unsqueeze(0)).squeeze(0)
            raise RuntimeError(
                f"x has shape {tuple(x.shape)}; this {type(self).__name__} needs (N, {', '.join(map(str, sample))}): "
                "each position has its own weights, so every sample must have that shape"
                + axes_hint("x", tuple(x.shape), (None, *sample)).partition(", and a layer")[0]
            )
        if weight.dtype not in (torch.float32, torch.float64):
            raise RuntimeError(f"the weights have dtype {weight.dtype}; call .float() of the module: it computes in "
                               "float32 or float64")  # fmt: skip
        if x.dtype != weight.dtype and not torch.is_autocast_enabled("cpu"):
            raise RuntimeError(
                f"x has dtype {x.dtype}, and the weights {weight.dtype}; give the same: x.to({weight.dtype})"
            )
        bias = self.bias
        if bias is not None and self.bias_sharing == "region":
            bias = bias[self._sets].reshape(self.spec.output_shape)
        return _called(self._function, x, weight, bias, self._text, self.channels_last)

    def _outer(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a sample in the order of this module's axes."""
        return shape if self.channels_last else (shape[-1], *shape[:-1])

    def extra_repr(self) -> str:
        """Sizes, and the settings that differ from their defaults."""
        spec, in_shape = self.spec, self._ends(self.spec)[0][:-1]
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={spec.kernel_size}", f"in_shape={in_shape}"]
        settings = {
            "stride": (spec.strides, (1,) * self.rank), "padding": (spec.padding, "valid"),
            "dilation": (spec.dilation_rate, (1,) * self.rank),
            "padding_mode": (spec.padding_mode, ("zeros",) * self.rank), "channels_last": (self.channels_last, False),
            "bias": (self.bias is not None, True), "groups": (spec.groups, 1),
            "bias_sharing": (self.bias_sharing, "position"),
        }  # fmt: skip
        parts += [f"{name}={value!r}" for name, (value, default) in settings.items() if value != default]
        for name in ("weight_sharing", "kernel_mask"):
            if (value := getattr(spec, name)) is not None:
                parts.append(f"{name}={f'<{value.shape}>' if isinstance(value, np.ndarray) else repr(value)}")
        return ", ".join(parts)

    @classmethod
    def from_layer(cls, layer: Any, *, linear: bool = False) -> Self:
        """Return a module with the settings and copies of the weights of a layer of this library.

        Parameters
        ----------
        layer : the layer of the library of this class's name
            A built layer. The order of axes, `channels_last`, is that of the layer.
        linear : bool, default False
            Whether to leave out the layer's activation, regularizers and constraints, which in torch are not part of a
            layer: add torch's own to the network and the loss.

        Raises
        ------
        TypeError, ValueError
            If it is another layer or has no weights yet; or if it has any of these, unless `linear`.
        """
        linear = boolean("linear", linear)
        if not isinstance(layer, cls._layer):
            raise TypeError(f"layer is a {type(layer).__name__}; {cls.__name__} needs a {cls._layer.__name__}")
        if not layer.built:
            raise ValueError(f"{layer.name!r} has no weights yet; call or build it first")
        found = {name: getattr(layer, name) for name in _BEYOND_THE_MAP}
        found = {name: of for name, of in found.items() if of is not None and not isinstance(of, activations.Linear)}
        if found and not linear:
            given = ", ".join(f"{name}={getattr(of, '__name__', type(of).__name__)}" for name, of in found.items())
            raise ValueError(
                f"{layer.name!r} has {given}; a module of torch has none: from_layer(layer, linear=True) leaves "
                "them out; add torch's own to the network and the loss"
            )
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        settings = getattr(layer, "bias_sharing", "position"), getattr(layer, "data_format", "channels_last")
        module._setup_of(cls._spec_of(layer), layer.use_bias, settings[0], settings[1] == "channels_last")
        module.weight = nn.Parameter(torch.from_numpy(layer.kernel.copy()))
        module.bias = None if layer.bias is None else nn.Parameter(torch.from_numpy(layer.bias.copy()))
        return module

    @classmethod
    def _spec_of(cls, layer: Any) -> Any:
        """The spec of a layer of the library."""
        geometry = layer._geometry
        return Spec(
            geometry.sample_shape, geometry.filters, geometry.kernel_size, geometry.strides, geometry.padding,
            dilation_rate=geometry.dilation, padding_mode=geometry.padding_mode, groups=geometry.groups,
            weight_sharing=sharing.as_argument(geometry.weight_sharing), kernel_mask=layer.kernel_mask,
        )  # fmt: skip

    def to_layer(self, **settings: Any) -> Any:
        """Return a layer of this library with the settings and copies of the weights, for NumPy.

        Parameters
        ----------
        **settings
            Further arguments of the layer, such as ``activation="relu"``.
        """
        spec = self.spec
        weights = [w.detach().cpu().numpy() for w in (self.weight, self.bias) if w is not None]
        arguments: dict[str, Any] = {
            "dilation_rate": spec.dilation_rate, "padding_mode": spec.padding_mode, "groups": spec.groups,
            "weight_sharing": spec.weight_sharing, "kernel_mask": spec.kernel_mask, "use_bias": self.bias is not None,
            "bias_sharing": self.bias_sharing, "dtype": weights[0].dtype.name, "weights": weights,
            "data_format": "channels_last" if self.channels_last else "channels_first", **self._padding_arguments(),
        }  # fmt: skip
        layer = self._layer(self.out_channels, spec.kernel_size, spec.strides, **(arguments | settings))
        layer.build((None, *self._sample_shape))
        return layer

    def _padding_arguments(self) -> dict[str, Any]:
        """The padding in the terms of the layer."""
        return {"padding": self.spec.padding}


class _LocallyConnected(_Windowed):
    """Base class for any spatial rank."""

    _function = staticmethod(apply)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *,
        in_shape: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Any = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str | tuple[str, ...] = "zeros",
        bias_sharing: str = "position",
        weight_sharing: Any = None,
        kernel_mask: Any = None,
        channels_last: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (*int_tuple("in_shape", in_shape, self.rank), integer("in_channels", in_channels))
        for name, value in (("padding", padding), ("padding_mode", padding_mode), ("kernel_size", kernel_size),
                            ("stride", stride), ("dilation", dilation)):  # fmt: skip
            if isinstance(value, list | tuple) and len(value) != self.rank:
                raise ValueError(f"{name}={value!r} has {len(value)} entries; give one value or {self.rank}")
        settings = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
        given = [hashable(name, value) for name, value in settings.items()]
        given += [hashable("padding_mode", padding_mode), integer("groups", groups)]
        spec = _spec(shape, integer("out_channels", out_channels), *given)
        self._setup(spec, weight_sharing, kernel_mask, boolean("bias", bias), bias_sharing, channels_last)
        self._create(device, dtype)

    @staticmethod
    def _ends(spec: Spec) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return spec.input_shape, spec.output_shape

    @property
    def unfolded_weight(self) -> Tensor:
        """The weight as (*output, F, C, *kernel_size), the layout of layers that are written with ``unfold``.

        With groups C is the channels of a group, and with shared weights the number of the set is in place of *output*.
        """
        split = self.weight.reshape(self.spec.kernel_view_shape)
        return split.movedim((-1, -2), (-2 - self.rank, -1 - self.rank))

    def load_unfolded(self, weight: Tensor, bias: Tensor | None = None) -> Self:
        """Copy weights from a layer that is written with ``unfold``, and return this module.

        Parameters
        ----------
        weight : tensor, (*output, F, C, *kernel_size)
            Copied into `weight`; 0 is taken where no connection exists.
        bias : tensor, (F, *output) or (F,), optional
            Copied into `bias`; without it `bias` stays.
        """
        wanted = tuple(self.unfolded_weight.shape)
        if tuple(weight.shape) != wanted:
            raise ValueError(f"weight has shape {tuple(weight.shape)}; give shape {wanted}")
        outer = None if bias is None else bias if bias.dim() == 1 else bias.movedim(0, -1)
        if outer is not None and (self.bias is None or outer.shape != self.bias.shape):
            expected = None if self.bias is None else tuple(self.bias.movedim(-1, 0).shape)
            raise ValueError(f"bias has shape {tuple(bias.shape)}; this module has {expected}")  # type: ignore[union-attr]
        with torch.no_grad():
            filters_last = weight.movedim((-2 - self.rank, -1 - self.rank), (-1, -2))
            self.weight.copy_(filters_last.reshape(self.weight.shape))
            if self.spec.exists is not None:
                self.weight.mul_(torch.tensor(self.spec.exists))
            if outer is not None:
                self.bias.copy_(outer)
        return self


class _LocallyConnectedTranspose(_Windowed):
    """Base class of transposed layers for any spatial rank."""

    _function = staticmethod(apply_transpose)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *,
        in_shape: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Any = 0,
        output_padding: int | tuple[int, ...] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, ...] = 1,
        padding_mode: str | tuple[str, ...] = "zeros",
        bias_sharing: str = "position",
        weight_sharing: Any = None,
        kernel_mask: Any = None,
        channels_last: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        rank = self.rank
        if isinstance(padding, str) and choice("padding", padding, ("valid",)):
            padding = 0
        each = padding if isinstance(padding, list | tuple) else (padding,) * rank
        pairs = paddings(tuple(pair if isinstance(pair, list | tuple) else (pair, pair) for pair in each), rank)
        spec = Spec.transposed(
            (*int_tuple("in_shape", in_shape, rank), integer("in_channels", in_channels)), out_channels, kernel_size,
            stride, pairs if any(map(any, pairs)) else "valid", output_padding=output_padding, dilation_rate=dilation,
            padding_mode=padding_mode, groups=groups,
        )  # fmt: skip
        self._setup(spec, weight_sharing, kernel_mask, boolean("bias", bias), bias_sharing, channels_last)
        self._create(device, dtype)

    @staticmethod
    def _ends(spec: Spec) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return spec.output_shape, spec.input_shape

    def _shape_of_bias(self, spec: Spec, bias_sharing: str) -> tuple[int, ...]:
        shared = choice("bias_sharing", bias_sharing, ("position", "filter")) == "filter"
        return spec.input_shape[-1:] if shared else spec.input_shape

    def _padding_arguments(self) -> dict[str, Any]:
        spec = self.spec
        cut = [(0, 0)] * self.rank if isinstance(spec.padding, str) else spec.padding
        sizes = zip(
            spec.input_shape, spec.output_shape, spec.strides, spec.dilation_rate, spec.kernel_size, cut, strict=False
        )
        added = tuple(o - ((n - 1) * s + d * (k - 1) + 1 - sum(pair)) for o, n, s, d, k, pair in sizes)
        if spec.padding == "tf_same":  # of a layer with the default output_padding
            return {"padding": "same", "output_padding": None}
        default = spec.padding == "valid" and any(extra >= s for extra, s in zip(added, spec.strides, strict=True))
        return {"padding": spec.padding, "output_padding": None if default else added}


@public_class
class LocallyConnected2d(_LocallyConnected):
    """Locally connected layer for images: a convolution with weights of its own at every output position.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels C of the input, and filters F.
    kernel_size : int or (int, int)
        Height and width of the window.
    in_shape : int or (int, int)
        Height and width of the input: the number of weights depends on it.
    stride : int or (int, int), default 1
        Distance of neighbouring windows.
    padding : int, (int, int), ((int, int), (int, int)), "valid", "same" or "tf_same", default 0
        Padding of each dimension, or before and after it; less than the span of the window. "same" is that of torch,
        for ``stride=1``, "tf_same" TensorFlow's.
    dilation : int or (int, int), default 1
        Distance of neighbouring entries of a window.
    groups : int, default 1
        Divides channels and filters into as many groups, as in torch: filters read the channels of their group.
    bias : bool, default True
        Whether to add a bias.
    padding_mode : {"zeros", "circular"} or one for each dimension, default "zeros"
        What windows read beyond the input.
    bias_sharing : {"position", "region", "filter"}, default "position"
        Whether each output has its own bias, (OH, OW, F), each set of `weight_sharing`, (S, F), or each filter, (F,).
    weight_sharing : None, "all", int, (int, int), or array or tensor of int, default None
        Which positions share their weights; as for `lcnumba.LocallyConnected2D`. `weight` is then (S, K, F).
    kernel_mask : bool array or tensor, (P, K) or (P, K, F), optional
        Which connections exist. The others are not read, and their gradient is 0. It is part of compiled and exported
        programs, with one bit an entry.
    channels_last : bool, default False
        Whether x and y are (N, H, W, C). By default they are (N, C, H, W), which are copied unless they are in torch's
        memory format `channels_last`.
    device, dtype
        Of the parameters.

    Attributes
    ----------
    weight : torch.nn.Parameter, (P, K, F)
        P = OH*OW positions; K = KH*KW*C in the order (row, column, channel), with groups C the channels of a group. As
        in the layers of this library.
    bias : torch.nn.Parameter or None, (OH, OW, F), (S, F) or (F,)
    spec : lcnumba.functional.Spec

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter, and for a kernel that does not fit.

    Examples
    --------
    >>> import torch
    >>> from lcnumba.torch import LocallyConnected2d
    >>> layer = LocallyConnected2d(1, 8, 3, in_shape=(28, 28), stride=2)
    >>> y = layer(torch.randn(4, 1, 28, 28))
    >>> y.shape, layer.weight.shape
    (torch.Size([4, 8, 13, 13]), torch.Size([169, 9, 8]))
    >>> y.square().mean().backward()
    >>> layer.weight.grad.shape
    torch.Size([169, 9, 8])
    """

    rank = 2
    _layer = LocallyConnected2D


@public_class
class LocallyConnected1d(_LocallyConnected):
    """Locally connected layer for sequences: x (N, C, W), y (N, F, OW).

    Parameters and attributes are those of `LocallyConnected2d` with one dimension; `padding` may be a pair (before,
    after) in a tuple: ``padding=((2, 0),)``.

    Examples
    --------
    >>> import torch
    >>> from lcnumba.torch import LocallyConnected1d
    >>> layer = LocallyConnected1d(2, 4, 3, in_shape=11, padding="same", padding_mode="circular")
    >>> layer(torch.ones(5, 2, 11)).shape
    torch.Size([5, 4, 11])
    """

    rank = 1
    _layer = LocallyConnected1D


@public_class
class LocallyConnected3d(_LocallyConnected):
    """Locally connected layer for volumes: x (N, C, D, H, W), y (N, F, OD, OH, OW).

    Parameters and attributes are those of `LocallyConnected2d` with three dimensions.

    Examples
    --------
    >>> import torch
    >>> from lcnumba.torch import LocallyConnected3d
    >>> LocallyConnected3d(1, 2, (2, 3, 3), in_shape=(4, 5, 6))(torch.ones(1, 1, 4, 5, 6)).shape
    torch.Size([1, 2, 3, 3, 4])
    """

    rank = 3
    _layer = LocallyConnected3D


@public_class
class LocallyConnectedTranspose2d(_LocallyConnectedTranspose):
    """Transposed locally connected layer for images: every input position has its own weights, for decoders.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels C of the input, and filters F.
    kernel_size : int or (int, int)
        Height and width of the window, to which an input contributes.
    in_shape : int or (int, int)
        Height and width of the input: the number of weights depends on it.
    stride, padding, output_padding, groups, dilation
        As for ``torch.nn.ConvTranspose2d``; `padding` may be (before, after) for each dimension.
    bias : bool, default True
        Whether to add a bias.
    padding_mode : {"zeros", "circular"} or one for each dimension, default "zeros"
        Whether what is cut off is lost, or added to the output's other end.
    bias_sharing : {"position", "filter"}, default "position"
        Whether each output has its own bias, (OH, OW, F), or each filter one, (F,).
    weight_sharing, kernel_mask
        As for `LocallyConnected2d`, by input positions.
    channels_last : bool, default False
        Whether x and y are (N, H, W, C).
    device, dtype
        Of the parameters.

    Attributes
    ----------
    weight : torch.nn.Parameter, (P, K, C)
        P = H*W positions of the input; K = KH*KW*F in the order (row, column, filter).
    bias : torch.nn.Parameter or None, (OH, OW, F) or (F,)
    spec : lcnumba.functional.Spec
        Of the layer of which this is the adjoint.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter, and for an output whose windows are not as many as the inputs.

    Examples
    --------
    >>> import torch
    >>> from lcnumba.torch import LocallyConnectedTranspose2d
    >>> layer = LocallyConnectedTranspose2d(8, 1, 4, in_shape=(7, 7), stride=2, padding=1)
    >>> layer(torch.randn(2, 8, 7, 7)).shape, layer.weight.shape
    (torch.Size([2, 1, 14, 14]), torch.Size([49, 16, 8]))
    """

    rank = 2
    _layer = LocallyConnected2DTranspose


@public_class
class LocallyConnectedTranspose1d(_LocallyConnectedTranspose):
    """Transposed locally connected layer for sequences: x (N, C, W), y (N, F, OW).

    Parameters and attributes are those of `LocallyConnectedTranspose2d` with one dimension.

    Examples
    --------
    >>> import torch
    >>> from lcnumba.torch import LocallyConnectedTranspose1d
    >>> LocallyConnectedTranspose1d(2, 4, 3, in_shape=11, stride=2)(torch.ones(5, 2, 11)).shape
    torch.Size([5, 4, 23])
    """

    rank = 1
    _layer = LocallyConnected1DTranspose


@public_class
class LocallyConnectedTranspose3d(_LocallyConnectedTranspose):
    """Transposed locally connected layer for volumes: x (N, C, D, H, W), y (N, F, OD, OH, OW).

    Parameters and attributes are those of `LocallyConnectedTranspose2d` with three dimensions.

    Examples
    --------
    >>> import torch
    >>> from lcnumba.torch import LocallyConnectedTranspose3d
    >>> LocallyConnectedTranspose3d(1, 2, 2, in_shape=(2, 3, 4), stride=2)(torch.ones(1, 1, 2, 3, 4)).shape
    torch.Size([1, 2, 4, 6, 8])
    """

    rank = 3
    _layer = LocallyConnected3DTranspose


@public_class
class LocallyDirected1d(_Windowed):
    """Layer of given connections, as from variants to genes and from genes to pathways: x (N, C, inputs).

    Parameters
    ----------
    mask, mask_shape
        The connections, as for `lcnumba.LocallyDirected1D`: a scipy.sparse matrix (inputs, outputs), the path of a file
        of `scipy.sparse.save_npz`, or pairs (input, output). They are part of compiled and exported programs.
    in_channels, out_channels : int, default 1
        Channels C of an input, and filters F.
    bias : bool, default True
        Whether to add a bias to each output and filter.
    channels_last : bool, default False
        Whether x and y are (N, inputs, C) and (N, outputs, F); by default (N, C, inputs) and (N, F, outputs).
    device, dtype
        Of the parameters.

    Attributes
    ----------
    weight : torch.nn.Parameter, (connections, C, F)
        In the order of outputs and, within an output, of inputs.
    bias : torch.nn.Parameter or None, (outputs, F)
    spec : lcnumba.functional.DirectedSpec

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter, or a connection that is out of range or occurs twice.

    Examples
    --------
    >>> import torch
    >>> from lcnumba.torch import LocallyDirected1d
    >>> pairs = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (4, 1), (5, 1)]
    >>> genes = LocallyDirected1d(pairs, mask_shape=(6, 2))
    >>> genes(torch.ones(3, 1, 6)).shape, genes.weight.shape
    (torch.Size([3, 1, 2]), torch.Size([7, 1, 1]))
    """

    rank = 1
    _layer = LocallyDirected1D
    _function = staticmethod(apply)

    def __init__(
        self,
        mask: Any,
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        mask_shape: tuple[int, int] | None = None,
        bias: bool = True,
        channels_last: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        spec = DirectedSpec(mask, in_channels, out_channels, mask_shape=mask_shape)
        self._setup_of(spec, boolean("bias", bias), "position", channels_last)
        self._create(device, dtype)

    @staticmethod
    def _ends(spec: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return spec.input_shape, spec.output_shape

    def _shape_of_bias(self, spec: Any, bias_sharing: str) -> tuple[int, ...]:
        shape: tuple[int, ...] = spec.output_shape
        return shape

    def reset_parameters(self) -> None:
        """Draw weights and bias uniformly within 1 / sqrt(inputs of an output), a mean."""
        inputs, _ = self.spec.mask.degrees
        bound = 1 / math.sqrt(inputs * self.in_channels)
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """The sizes."""
        parts = [repr(self.spec.mask), f"{self.in_channels}, {self.out_channels}"]
        parts += ["bias=False"] if self.bias is None else []
        return ", ".join(parts + (["channels_last=True"] if self.channels_last else []))

    @classmethod
    def _spec_of(cls, layer: Any) -> Any:
        return DirectedSpec(layer.mask, layer.input_shape[2], layer.filters)

    def to_layer(self, **settings: Any) -> Any:
        """Return a layer of this library with the connections and copies of the weights, for NumPy; channels last.

        Parameters
        ----------
        **settings
            Further arguments of the layer, such as ``activation="relu"``.
        """
        weights = [w.detach().cpu().numpy() for w in (self.weight, self.bias) if w is not None]
        arguments = {"use_bias": self.bias is not None, "dtype": weights[0].dtype.name, "weights": weights}
        layer = LocallyDirected1D(self.spec.mask, self.out_channels, **(arguments | settings))
        layer.build((None, *self.spec.input_shape))
        return layer


def __dir__() -> list[str]:
    return __all__
