"""Initializers of weights, with Keras' distributions.

An initializer is a callable ``f(shape, dtype, rng)``; any such function can be used. It draws in the given dtype. With
a `seed` it returns the same values at every call; without one it draws from the layer's `rng`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lcnumba.utils import registry
from lcnumba.utils.messages import public_class
from lcnumba.utils.types import Array
from lcnumba.utils.validation import choice, integer, real

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

Shape = tuple[int, ...]

FANS = ("fan_in", "fan_out", "fan_avg")
DISTRIBUTIONS = ("truncated_normal", "untruncated_normal", "uniform")

# Standard deviation of a standard normal variable truncated at two.
TRUNCATED_STDDEV = 0.87962566103423978


def fans_of(shape: Shape) -> tuple[int, int]:
    """Return (fan_in, fan_out) as Keras computes them from a shape: the last two axes times the others.

    Parameters
    ----------
    shape : tuple of int
        Shape of the weight.

    Returns
    -------
    fan_in, fan_out : int

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.initializers.fans_of((900, 27, 64))  # a kernel (P, K, F)
    (24300, 57600)
    """
    if len(shape) < 2:
        return (shape[0], shape[0]) if shape else (1, 1)
    others = math.prod(shape[:-2])
    return shape[-2] * others, shape[-1] * others


class Initializer:
    """Base class of the built-in initializers.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> initializer, rng = lc.initializers.RandomNormal(seed=1), np.random.default_rng(0)
    >>> first, second = initializer((2, 3), np.float32, rng), initializer((2, 3), np.float32, rng)
    >>> np.array_equal(first, second)  # its own seed, at every call
    True
    """

    _fields: tuple[str, ...] = ()

    @property
    def draws_in_order(self) -> bool:
        """Whether each number is drawn once, in C order, so that the first rows do not depend on how many follow."""
        return False

    def __call__(
        self, shape: Shape, dtype: Any, rng: np.random.Generator, fans: tuple[int, int] | None = None
    ) -> Array:
        """Return initial values.

        Parameters
        ----------
        shape : tuple of int
            Shape of the weight.
        dtype : float32 or float64
            Dtype to draw in.
        rng : numpy.random.Generator
            Source of random numbers, unless the initializer has a seed.
        fans : (int, int), optional
            fan_in and fan_out; by default those of the shape, as in Keras.

        Returns
        -------
        array
            Of this shape and dtype.

        Raises
        ------
        ValueError
            If the shape is not supported: `Identity` needs a matrix.

        Examples
        --------
        >>> import numpy as np
        >>> import lcnumba as lc
        >>> values = lc.initializers.HeUniform()((900, 27, 4), np.float32, np.random.default_rng(0), fans=(27, 36))
        >>> bool(np.abs(values).max() <= np.sqrt(6 / 27))  # as for a convolution of 27 inputs
        True
        """
        seed = getattr(self, "seed", None)
        source = rng if seed is None else np.random.default_rng(seed)
        return self._draw(shape, np.dtype(dtype), source, fans or fans_of(shape))

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal initializer."""
        return {name: getattr(self, name) for name in self._fields}


class Zeros(Initializer):
    """All zeros.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.initializers.Zeros()((2, 2), np.float32, np.random.default_rng(0))
    array([[0., 0.],
           [0., 0.]], dtype=float32)
    """

    @property
    def draws_in_order(self) -> bool:
        """Whether each number is drawn once, in C order."""
        return True

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        return np.zeros(shape, dtype)


class Ones(Initializer):
    """All ones.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.initializers.Ones()((2, 2), np.float64, np.random.default_rng(0))
    array([[1., 1.],
           [1., 1.]])
    """

    @property
    def draws_in_order(self) -> bool:
        """Whether each number is drawn once, in C order."""
        return True

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        return np.ones(shape, dtype)


@public_class
class Constant(Initializer):
    """A constant.

    Parameters
    ----------
    value : float, default 0
        The value.

    Raises
    ------
    TypeError, ValueError
        If it is not a finite number.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.initializers.Constant(2)((2, 2), np.float32, np.random.default_rng(0))
    array([[2., 2.],
           [2., 2.]], dtype=float32)
    """

    _fields = ("value",)

    def __init__(self, value: float = 0.0) -> None:
        self.value = real("value", value)

    @property
    def draws_in_order(self) -> bool:
        """Whether each number is drawn once, in C order."""
        return True

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        return np.full(shape, self.value, dtype)


@public_class
class Identity(Initializer):
    """The identity matrix times gain; only for weights with two axes, as in `Dense`.

    Parameters
    ----------
    gain : float, default 1
        Value of the diagonal.

    Raises
    ------
    TypeError, ValueError
        If it is not a finite number.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.initializers.Identity(gain=3)((2, 3), np.float32, np.random.default_rng(0))
    array([[3., 0., 0.],
           [0., 3., 0.]], dtype=float32)
    """

    _fields = ("gain",)

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = real("gain", gain)

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        if len(shape) != 2:
            raise ValueError(
                f"initializer 'identity' needs a shape of two axes, got {shape}; use another one, such as 'orthogonal' "
                "or a callable f(shape, dtype, rng)"
            )
        return np.eye(*shape, dtype=dtype) * dtype.type(self.gain)


@public_class
class RandomNormal(Initializer):
    """Normal distribution of the given mean and standard deviation.

    Parameters
    ----------
    mean, stddev : float, default 0 and 0.05
        Its parameters.
    seed : int, optional
        If given, every call returns the same values.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not a finite number, or the seed is not an integer >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> values = lc.initializers.RandomNormal(mean=1, stddev=0.2)((100, 100), np.float32, np.random.default_rng(0))
    >>> round(float(values.mean()), 1), round(float(values.std()), 1)
    (1.0, 0.2)
    """

    _fields = ("mean", "stddev", "seed")

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        self.mean, self.stddev, self.seed = real("mean", mean), real("stddev", stddev), _seed(seed)

    @property
    def draws_in_order(self) -> bool:
        """Whether each number is drawn once, in C order."""
        return True

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        values = rng.standard_normal(shape, dtype)
        values *= dtype.type(self.stddev)
        values += dtype.type(self.mean)
        return values


class TruncatedNormal(RandomNormal):
    """Normal distribution, redrawn beyond two `stddev` from the mean.

    Parameters
    ----------
    mean, stddev : float, default 0 and 0.05
        Of the normal distribution before truncation, which lowers the standard deviation by 12 %.
    seed : int, optional
        If given, every call returns the same values.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not a finite number, or the seed is not an integer >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> values = lc.initializers.TruncatedNormal(stddev=0.5)((100, 100), np.float32, np.random.default_rng(0))
    >>> bool(np.abs(values).max() <= 1)
    True
    """

    @property
    def draws_in_order(self) -> bool:
        """Whether each number is drawn once, in C order."""
        return False

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        values = _truncated(shape, dtype, rng, self.stddev)
        values += dtype.type(self.mean)
        return values


@public_class
class RandomUniform(Initializer):
    """Uniform distribution over [minval, maxval).

    Parameters
    ----------
    minval, maxval : float, default -0.05 and 0.05
        Its bounds.
    seed : int, optional
        If given, every call returns the same values.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not a finite number, or the seed is not an integer >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> values = lc.initializers.RandomUniform(2, 3)((100, 100), np.float32, np.random.default_rng(0))
    >>> round(float(values.min()), 1), round(float(values.max()), 1)
    (2.0, 3.0)
    """

    _fields = ("minval", "maxval", "seed")

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None) -> None:
        self.minval, self.maxval, self.seed = real("minval", minval), real("maxval", maxval), _seed(seed)

    @property
    def draws_in_order(self) -> bool:
        """Whether each number is drawn once, in C order."""
        return True

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        return _uniform(shape, dtype, rng, self.minval, self.maxval)


@public_class
class VarianceScaling(Initializer):
    """Random values of variance scale / n, where n is a fan of the weight.

    Parameters
    ----------
    scale : float, default 1
        Above 0.
    mode : {"fan_in", "fan_out", "fan_avg"}, default "fan_in"
        What n is.
    distribution : {"truncated_normal", "untruncated_normal", "uniform"}, default "truncated_normal"
        The distribution; "normal" means "truncated_normal".
    seed : int, optional
        If given, every call returns the same values.

    Raises
    ------
    TypeError, ValueError
        If a parameter is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> initializer = lc.initializers.VarianceScaling(scale=4, mode="fan_out", distribution="uniform")
    >>> values = initializer((50, 100), np.float32, np.random.default_rng(0))
    >>> round(float(values.std()), 2)  # sqrt(4 / 100)
    0.2
    """

    _fields: tuple[str, ...] = ("scale", "mode", "distribution", "seed")

    def __init__(
        self, scale: float = 1.0, mode: str = "fan_in", distribution: str = "truncated_normal", seed: int | None = None
    ) -> None:
        self.scale, self.seed = real("scale", scale), _seed(seed)
        if self.scale <= 0:
            raise ValueError(f"scale must be > 0, got {scale!r}")
        given: Any = mode
        if not isinstance(given, str) or given not in FANS:
            raise ValueError(f"mode={mode!r} is not known; give one of {', '.join(map(repr, FANS))}")
        self.mode = mode
        known = choice("distribution", distribution, (*DISTRIBUTIONS, "normal"))
        self.distribution = DISTRIBUTIONS[0] if known == "normal" else known

    @property
    def draws_in_order(self) -> bool:
        """Whether each number is drawn once, in C order."""
        return self.distribution != "truncated_normal"

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
    """A variance scaling with fixed parameters except the seed."""

    _fields = ("seed",)
    _rule: tuple[float, str, str]

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(*self._rule, seed)


class GlorotUniform(_Named):
    """Uniform within sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010).

    Parameters
    ----------
    seed : int, optional
        If given, every call returns the same values.

    Raises
    ------
    TypeError, ValueError
        If it is not an integer >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> values = lc.initializers.GlorotUniform()((50, 100), np.float32, np.random.default_rng(0))
    >>> round(float(np.abs(values).max()), 2)  # sqrt(6 / (50 + 100))
    0.2
    """

    _rule = (1.0, "fan_avg", "uniform")


class GlorotNormal(_Named):
    """Normal, redrawn beyond two sigma, with variance 2 / (fan_in + fan_out).

    Parameters
    ----------
    seed : int, optional
        If given, every call returns the same values.

    Raises
    ------
    TypeError, ValueError
        If it is not an integer >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> values = lc.initializers.GlorotNormal()((200, 50), np.float32, np.random.default_rng(0), fans=(20, 30))
    >>> round(float(values.std()), 2)  # sqrt(2 / (20 + 30))
    0.2
    """

    _rule = (1.0, "fan_avg", "truncated_normal")


class HeUniform(_Named):
    """Uniform within sqrt(6 / fan_in) (He et al., 2015).

    Parameters
    ----------
    seed : int, optional
        If given, every call returns the same values.

    Raises
    ------
    TypeError, ValueError
        If it is not an integer >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> values = lc.initializers.HeUniform()((150, 100), np.float32, np.random.default_rng(0))
    >>> round(float(np.abs(values).max()), 2)  # sqrt(6 / 150)
    0.2
    """

    _rule = (2.0, "fan_in", "uniform")


class HeNormal(_Named):
    """Normal, redrawn beyond two sigma, with variance 2 / fan_in.

    Parameters
    ----------
    seed : int, optional
        If given, every call returns the same values.

    Raises
    ------
    TypeError, ValueError
        If it is not an integer >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> values = lc.initializers.HeNormal()((50, 200), np.float32, np.random.default_rng(0))
    >>> round(float(values.std()), 2)  # sqrt(2 / 50)
    0.2
    """

    _rule = (2.0, "fan_in", "truncated_normal")


class LecunUniform(_Named):
    """Uniform within sqrt(3 / fan_in) (LeCun et al., 1998).

    Parameters
    ----------
    seed : int, optional
        If given, every call returns the same values.

    Raises
    ------
    TypeError, ValueError
        If it is not an integer >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> values = lc.initializers.LecunUniform()((75, 100), np.float32, np.random.default_rng(0))
    >>> round(float(np.abs(values).max()), 2)  # sqrt(3 / 75)
    0.2
    """

    _rule = (1.0, "fan_in", "uniform")


class LecunNormal(_Named):
    """Normal, redrawn beyond two sigma, with variance 1 / fan_in.

    Parameters
    ----------
    seed : int, optional
        If given, every call returns the same values.

    Raises
    ------
    TypeError, ValueError
        If it is not an integer >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> values = lc.initializers.LecunNormal()((25, 400), np.float32, np.random.default_rng(0))
    >>> round(float(values.std()), 2)  # sqrt(1 / 25)
    0.2
    """

    _rule = (1.0, "fan_in", "truncated_normal")


@public_class
class Orthogonal(Initializer):
    """A matrix with orthonormal columns, or rows if these are fewer, times gain (Saxe et al., 2014).

    As in Keras, the matrix has shape (prod(shape[:-1]), shape[-1]), so that the filters of a kernel are orthogonal over
    all positions together.

    Parameters
    ----------
    gain : float, default 1
        Norm of the columns or rows.
    seed : int, optional
        If given, every call returns the same values.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not a finite number, or the seed is not an integer >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> kernel = lc.initializers.Orthogonal(gain=2)((4, 9, 3), np.float64, np.random.default_rng(0)).reshape(36, 3)
    >>> np.allclose(kernel.T @ kernel, 4 * np.eye(3))
    True
    """

    _fields = ("gain", "seed")

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        self.gain, self.seed = real("gain", gain), _seed(seed)

    def _draw(self, shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator, fans: tuple[int, int]) -> Array:
        rows, columns = math.prod(shape[:-1]), shape[-1]
        values = rng.standard_normal((max(rows, columns), min(rows, columns)), dtype)
        q, r = np.linalg.qr(values)
        # Fixing the signs makes the distribution independent of the QR algorithm.
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
# Other names in Keras, now and in its first versions.
_ALIASES = {"zero": Zeros, "one": Ones, "normal": RandomNormal, "uniform": RandomUniform} | {
    cls.__name__ + "V2": cls for cls in _BY_NAME.values()
}


def get(identifier: Any) -> Callable[..., Array]:
    """Return the initializer for an identifier.

    Parameters
    ----------
    identifier : str, dict, callable, class or None
        A name of Keras ("he_normal", ...) or of a class of this module; a config dict; a callable f(shape, dtype, rng),
        which is returned unchanged; a class of this module, for its defaults; None for "glorot_uniform".

    Returns
    -------
    callable

    Raises
    ------
    TypeError
        If it is none of these, or a config is invalid.
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.initializers.get("random_uniform").get_config()
    {'minval': -0.05, 'maxval': 0.05, 'seed': None}
    """
    if isinstance(identifier, type) and issubclass(identifier, Initializer):
        identifier = identifier()
    found = registry.build("initializer", _BY_NAME | _ALIASES, "glorot_uniform" if identifier is None else identifier)
    if not callable(found):
        raise TypeError(f"initializer must be a name or a callable f(shape, dtype, rng), got {identifier!r}")
    return found


def draw(
    initializer: Callable[..., Array], shape: Shape, dtype: np.dtype[Any], rng: np.random.Generator,
    fans: tuple[int, int] | None,
) -> Array:  # fmt: skip
    """Call an initializer, built-in or custom, and return a new C-contiguous array."""
    if type(initializer) in _BY_NAME.values():
        return initializer(shape, dtype, rng, fans)
    values = np.array(initializer(shape, dtype, rng), dtype=dtype, order="C")
    if values.shape != shape:
        raise ValueError(f"initializer {initializer!r} must return shape {shape}, got {values.shape}")
    return values


# Rows drawn at a time by `draw_rows`, in numbers.
BLOCK = 1 << 20


def draw_rows(
    initializer: Callable[..., Array], shape: Shape, first: int, last: int, dtype: np.dtype[Any],
    rng: np.random.Generator, fans: tuple[int, int] | None,
) -> Array:  # fmt: skip
    """Return rows `first` to ``last - 1`` of the result of `draw`, and advance the generator in the same way.

    Where numbers are drawn one after the other, no more than these rows and a block are in memory.
    """
    if not (type(initializer) in _BY_NAME.values() and getattr(initializer, "draws_in_order", False)):
        return np.array(draw(initializer, shape, dtype, rng, fans)[first:last], order="C")
    seed, made = getattr(initializer, "seed", None), np.empty((last - first, *shape[1:]), dtype)
    source, fans = rng if seed is None else np.random.default_rng(seed), fans or fans_of(shape)
    rows = max(1, BLOCK // max(1, math.prod(shape[1:])))
    for at in range(0, shape[0], rows):
        end = min(shape[0], at + rows)
        block = initializer._draw((end - at, *shape[1:]), dtype, source, fans)  # type: ignore[attr-defined]
        begin, stop = max(at, first), min(end, last)
        if begin < stop:
            made[begin - first : stop - first] = block[begin - at : stop - at]
    return made


def serialize(initializer: Callable[..., Array]) -> Any:
    """Return the config dict of a built-in initializer; a custom one unchanged."""
    return registry.config_of(initializer) if type(initializer) in _BY_NAME.values() else initializer


def __dir__() -> list[str]:
    return __all__
