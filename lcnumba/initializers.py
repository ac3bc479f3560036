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
from lcnumba.checks import integer, real

__all__ = [
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "Ones",
    "RandomNormal",
    "RandomUniform",
    "Zeros",
    "fans_of",
    "get",
]

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

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


class RandomUniform(Initializer):
    """Uniform distribution over [minval, maxval)."""

    _fields = ("minval", "maxval", "seed")

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None) -> None:
        self.minval, self.maxval, self.seed = real("minval", minval), real("maxval", maxval), _seed(seed)

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        return _uniform(shape, dtype, rng, self.minval, self.maxval)


class _FanScaled(Initializer):
    """Variance scale / fan; `_scale` and `_average` make Glorot's and He's."""

    _fields = ("seed",)
    _scale = 1.0
    _average = True

    def __init__(self, seed: int | None = None) -> None:
        self.seed = _seed(seed)

    def _variance(self, fans: tuple[int, int]) -> float:
        fan = sum(fans) / 2 if self._average else fans[0]
        return self._scale / max(1.0, fan)


class GlorotUniform(_FanScaled):
    """Uniform within sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        limit = math.sqrt(3 * self._variance(fans))
        return _uniform(shape, dtype, rng, -limit, limit)


class GlorotNormal(_FanScaled):
    """Normal, redrawn beyond two sigma, with variance 2 / (fan_in + fan_out)."""

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        return _truncated(shape, dtype, rng, math.sqrt(self._variance(fans)) / TRUNCATED_STDDEV)


class HeUniform(GlorotUniform):
    """Uniform within sqrt(6 / fan_in) (He et al., 2015)."""

    _scale = 2.0
    _average = False


class HeNormal(GlorotNormal):
    """Normal, redrawn beyond two sigma, with variance 2 / fan_in."""

    _scale = 2.0
    _average = False


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


_BY_NAME = {
    "zeros": Zeros,
    "ones": Ones,
    "random_normal": RandomNormal,
    "random_uniform": RandomUniform,
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
}


def get(identifier: Any) -> Callable[..., Array]:
    """Return the initializer of a name, config dict, None (glorot_uniform) or callable."""
    if isinstance(identifier, type) and issubclass(identifier, Initializer):
        identifier = identifier()
    found = named.build("initializer", _BY_NAME, "glorot_uniform" if identifier is None else identifier)
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
