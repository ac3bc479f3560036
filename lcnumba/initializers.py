"""Initial values of weights, with Keras' distributions.

An initializer is called as ``f(shape, dtype, rng)``; any such function serves as a custom one. It
draws in the dtype it is asked for. One that is made with a `seed` repeats its numbers at every
call; without a seed it draws from the layer's `rng`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba import named
from lcnumba.checks import choice, integer, real

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "fans_of",
    "get",
]

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

FANS = ("fan_in", "fan_out", "fan_avg")
DISTRIBUTIONS = ("truncated_normal", "untruncated_normal", "uniform")

# Standard deviation of a standard normal variable that is redrawn beyond two: what a truncated
# draw must be divided by to have the wanted deviation.
TRUNCATED_STDDEV = 0.87962566103423978


def fans_of(shape: Shape) -> tuple[int, int]:
    """(fan_in, fan_out) that Keras reads off a weight's shape: the last two axes times the others."""
    if len(shape) < 2:
        return (shape[0], shape[0]) if shape else (1, 1)
    others = math.prod(shape[:-2])
    return shape[-2] * others, shape[-1] * others


class Initializer:
    """What the built-in initializers share: an own random state if seeded, and their config."""

    _fields: tuple[str, ...] = ()

    def __call__(
        self, shape: Shape, dtype: Any, rng: np.random.Generator, fans: tuple[int, int] | None = None
    ) -> Array:
        """Return fresh values.

        Parameters
        ----------
        shape : tuple of int
            Shape of the weight.
        dtype : float32 or float64
            Dtype to draw in.
        rng : numpy.random.Generator
            The source of numbers, unless the initializer has a seed of its own.
        fans : (int, int), optional
            fan_in and fan_out; by default what Keras reads off the shape.
        """
        seed = getattr(self, "seed", None)
        own = rng if seed is None else np.random.default_rng(seed)
        return self._draw(shape, np.dtype(dtype), own, fans or fans_of(shape))

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Arguments that make an equal initializer."""
        return {name: getattr(self, name) for name in self._fields}


class Zeros(Initializer):
    """All 0."""

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        return np.zeros(shape, dtype)


class Ones(Initializer):
    """All 1."""

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        return np.ones(shape, dtype)


class Constant(Initializer):
    """All of one value."""

    _fields = ("value",)

    def __init__(self, value: float = 0.0) -> None:
        self.value = real("value", value)

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        return np.full(shape, self.value, dtype)


class Identity(Initializer):
    """The identity matrix times gain: for weights of two dimensions, such as those of `Dense`, alone."""

    _fields = ("gain",)

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = real("gain", gain)

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        if len(shape) != 2:
            raise ValueError(
                f"initializer 'identity' makes a matrix and cannot fill shape {shape}; take another one, such as "
                "'orthogonal' or a callable f(shape, dtype, rng)"
            )
        return np.eye(*shape, dtype=dtype) * dtype.type(self.gain)


class RandomNormal(Initializer):
    """Normal distribution of the given mean and standard deviation."""

    _fields = ("mean", "stddev", "seed")

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        self.mean, self.stddev, self.seed = real("mean", mean), real("stddev", stddev), _seed(seed)

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        values = rng.standard_normal(shape, dtype)
        values *= dtype.type(self.stddev)
        values += dtype.type(self.mean)
        return values


class TruncatedNormal(RandomNormal):
    """Normal distribution of which values beyond two `stddev` from the mean are drawn again."""

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        values = _truncated(shape, dtype, rng, self.stddev)
        values += dtype.type(self.mean)
        return values


class RandomUniform(Initializer):
    """Uniform distribution over [minval, maxval)."""

    _fields = ("minval", "maxval", "seed")

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None) -> None:
        self.minval, self.maxval, self.seed = real("minval", minval), real("maxval", maxval), _seed(seed)

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        return _uniform(shape, dtype, rng, self.minval, self.maxval)


class VarianceScaling(Initializer):
    """Values whose variance is scale / n, n being a fan of the weight.

    Parameters
    ----------
    scale : float, default 1
        Above 0.
    mode : {"fan_in", "fan_out", "fan_avg"}, default "fan_in"
        What n is: inputs of an output, outputs of an input, or their mean.
    distribution : {"truncated_normal", "untruncated_normal", "uniform"}, default "truncated_normal"
        Which; "normal" means "truncated_normal".
    seed : int, optional
        To repeat the same numbers at every call.
    """

    _fields: tuple[str, ...] = ("scale", "mode", "distribution", "seed")

    def __init__(
        self, scale: float = 1.0, mode: str = "fan_in", distribution: str = "truncated_normal", seed: int | None = None
    ) -> None:
        self.scale, self.seed = real("scale", scale), _seed(seed)
        if self.scale <= 0:
            raise ValueError(f"scale={scale!r} cannot be used; give a number above 0")
        if mode not in FANS:
            raise ValueError(f"mode={mode!r} is not known; give one of {', '.join(map(repr, FANS))}")
        self.mode = mode
        known = choice("distribution", distribution, (*DISTRIBUTIONS, "normal"))
        self.distribution = DISTRIBUTIONS[0] if known == "normal" else known

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        fan_in, fan_out = fans
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        sigma = math.sqrt(self.scale / max(1.0, fan))
        if self.distribution == "uniform":
            limit = math.sqrt(3) * sigma
            return _uniform(shape, dtype, rng, -limit, limit)
        if self.distribution == "truncated_normal":
            return _truncated(shape, dtype, rng, sigma / TRUNCATED_STDDEV)
        values = rng.standard_normal(shape, dtype)
        values *= dtype.type(sigma)
        return values


class _Named(VarianceScaling):
    """A variance scaling that has a name of its own; only its seed can be chosen."""

    _fields = ("seed",)
    _rule: tuple[float, str, str]

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(*self._rule, seed)


class GlorotUniform(_Named):
    """Uniform within sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""

    _rule = (1.0, "fan_avg", "uniform")


class GlorotNormal(_Named):
    """Normal, redrawn beyond two sigma, with variance 2 / (fan_in + fan_out)."""

    _rule = (1.0, "fan_avg", "truncated_normal")


class HeUniform(_Named):
    """Uniform within sqrt(6 / fan_in) (He et al., 2015)."""

    _rule = (2.0, "fan_in", "uniform")


class HeNormal(_Named):
    """Normal, redrawn beyond two sigma, with variance 2 / fan_in."""

    _rule = (2.0, "fan_in", "truncated_normal")


class LecunUniform(_Named):
    """Uniform within sqrt(3 / fan_in) (LeCun et al., 1998)."""

    _rule = (1.0, "fan_in", "uniform")


class LecunNormal(_Named):
    """Normal, redrawn beyond two sigma, with variance 1 / fan_in."""

    _rule = (1.0, "fan_in", "truncated_normal")


class Orthogonal(Initializer):
    """Orthonormal columns, or rows if they are fewer, times gain, of the weight as a matrix of its last axis.

    That matrix is (prod(shape[:-1]), shape[-1]), so a kernel's filters are orthogonal over all positions
    together, as in Keras (Saxe et al., 2014).
    """

    _fields = ("gain", "seed")

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        self.gain, self.seed = real("gain", gain), _seed(seed)

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        rows, columns = math.prod(shape[:-1]), shape[-1]
        values = rng.standard_normal((max(rows, columns), min(rows, columns)), dtype)
        q, r = np.linalg.qr(values)
        # Without the signs the distribution would depend on how the factors are computed.
        q *= np.where(np.diagonal(r) < 0, dtype.type(-1), dtype.type(1))
        q *= dtype.type(self.gain)
        return np.ascontiguousarray(q if rows >= columns else q.T).reshape(shape)


def _seed(seed: int | None) -> int | None:
    return None if seed is None else integer("seed", seed, 0)


def _uniform(shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, low: float, high: float) -> Array:
    values = rng.random(shape, dtype)
    values *= dtype.type(high - low)
    values += dtype.type(low)
    return values


def _truncated(shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, sigma: float) -> Array:
    values = rng.standard_normal(math.prod(shape), dtype)
    beyond = np.flatnonzero(np.abs(values) > 2)
    while len(beyond):
        values[beyond] = rng.standard_normal(len(beyond), dtype)
        beyond = beyond[np.abs(values[beyond]) > 2]
    values *= dtype.type(sigma)
    return values.reshape(shape)


_BY_NAME: dict[str, type[Initializer]] = {
    "zeros": Zeros,
    "ones": Ones,
    "constant": Constant,
    "identity": Identity,
    "random_normal": RandomNormal,
    "random_uniform": RandomUniform,
    "truncated_normal": TruncatedNormal,
    "variance_scaling": VarianceScaling,
    "glorot_normal": GlorotNormal,
    "glorot_uniform": GlorotUniform,
    "he_normal": HeNormal,
    "he_uniform": HeUniform,
    "lecun_normal": LecunNormal,
    "lecun_uniform": LecunUniform,
    "orthogonal": Orthogonal,
}
# Keras' other names, and those of its first versions.
_ALIASES = {"zero": Zeros, "one": Ones, "normal": RandomNormal, "uniform": RandomUniform} | {
    cls.__name__ + "V2": cls for cls in _BY_NAME.values()
}


def get(identifier: Any) -> Callable[..., Array]:
    """Return the initializer of a name, config dict, None (glorot_uniform) or callable."""
    if isinstance(identifier, type) and issubclass(identifier, Initializer):
        identifier = identifier()
    found = named.build("initializer", _BY_NAME | _ALIASES, "glorot_uniform" if identifier is None else identifier)
    if not callable(found):
        raise TypeError(f"initializer={identifier!r} is neither a name nor a callable f(shape, dtype, rng)")
    return found


def draw(
    initializer: Callable[..., Array], shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator,
    fans: tuple[int, int] | None,
) -> Array:  # fmt: skip
    """Call an initializer, built-in or custom, and return a fresh contiguous array."""
    if type(initializer) in _BY_NAME.values():
        return initializer(shape, dtype, rng, fans)
    values = np.array(initializer(shape, dtype, rng), dtype=dtype, order="C")
    if values.shape != shape:
        raise ValueError(f"initializer {initializer!r} returned shape {values.shape}; return shape {shape}")
    return values


def serialize(initializer: Callable[..., Array]) -> Any:
    """The config dict of a built-in initializer; a custom one, which has none, stays itself."""
    return named.config_of(initializer) if type(initializer) in _BY_NAME.values() else initializer
