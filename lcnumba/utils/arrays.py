"""The array boundary: any array-API array in, one normalised NumPy array inside, the same kind out."""

import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import numpy as np

from lcnumba.runtime.memory import require
from lcnumba.runtime.signals import import_whole
from lcnumba.utils.types import Array

__all__ = [
    "as_numpy",
    "check_dtype",
    "check_exact",
    "float_dtype",
    "fresh",
    "like_model",
    "normalise",
    "read_only",
    "reads_lazily",
    "refuse_masked",
]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

# Array types that would be computed or misread in silence: by top-level package, the remedy.
_REFUSED = {
    "dask": "it would be computed as a whole; apply the layer with dask.array.map_blocks",
    "scipy": "make it dense with .toarray()",
    "cupy": "it lives on a GPU; copy it to the CPU with cupy.asnumpy",
}
# What nested lists hold that needs no look of its own.
_PLAIN = {bool, int, float, np.ndarray}
_REAL = " after taking its real part"
# Lists in lists: as many as NumPy's arrays have axes, at most.
_DEEPEST = 64


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """Return `dtype` as np.dtype if the library computes in it: float32 or float64."""
    try:
        # None would be float64 to NumPy.
        wanted = FLOATS.index(np.dtype("O" if dtype is None else dtype))
    except Exception:  # noqa: BLE001 - whatever NumPy makes of a strange description, SyntaxError included
        raise ValueError(f"dtype={dtype!r} is not supported; give 'float32' or 'float64'") from None
    return FLOATS[wanted]


def as_numpy(name: str, array: Any, *, any_dtype: bool = False) -> tuple[Array, Callable[[Array], Any]]:
    """Bring a caller's array in.

    Parameters
    ----------
    name : str
        What messages call the array.
    array : array_like
        NumPy arrays of any form, nested lists, arrays of an array-API library on the CPU, and
        objects that NumPy can read (xarray, pandas).
    any_dtype : bool, default False
        Whether dtypes that are not computed in may pass: of targets, masks, and what is only reshaped.

    Returns
    -------
    values : ndarray
        The same numbers, shared where possible.
    like : callable
        Turns a NumPy result into the kind of array that came in, on its device, sharing memory where possible.
        Without its own ``jax_enable_x64``, JAX makes float32 of float64.

    Raises
    ------
    TypeError
        For what would be misread in silence or computed elsewhere: masked arrays, np.matrix,
        sparse, object and Dask arrays, also inside of lists, arrays on other devices, tensors that carry a
        gradient, those that wrap others, and those of other dtypes than `normalise` takes.
    """
    if type(array) is np.ndarray:
        return array, _unchanged
    for entry in _held(name, array) if isinstance(array, list | tuple) else (array,):
        _check_kind(name, entry, "is" if entry is array else "holds")
    if isinstance(array, np.ndarray | np.generic | list | tuple | int | float):
        return _asarray(name, array), _unchanged

    array_api_compat = _compat()

    if not array_api_compat.is_array_api_obj(array):
        return _asarray(name, array), _unchanged
    if getattr(array, "requires_grad", False):
        _refuse(
            name, array, "it requires a gradient; pass .detach(). Autograd sees nothing of this library: for training, "
            "call y, backward = layer.forward(x) and dx, grads = backward(dy) in a torch.autograd.Function, as "
            "docs/torch.md does"
        )  # fmt: skip
    if isinstance(getattr(type(array), "__torch_dispatch__", None), types.MethodType):
        _refuse(name, array, "it wraps other tensors, whose mask or the like would be ignored; pass a plain tensor")
    device = array_api_compat.device(array)
    kind = str(getattr(device, "type", getattr(device, "platform", device))).lower()
    if "cpu" not in kind:
        _refuse(name, array, f"it lives on device {device!r}; move it to the CPU first")
    _check_tensor_dtype(name, array, any_dtype)
    xp = array_api_compat.array_namespace(array)
    # JAX leaves arrays that nobody placed free to go along with others.
    like = partial(xp.asarray, device=device if getattr(array, "committed", True) else None)
    # torch negates some views only when it reads them, and DLPack does not tell.
    array = getattr(array, "resolve_neg", lambda: array)()
    try:
        values = np.from_dlpack(array)
    except (TypeError, RuntimeError, BufferError, AttributeError):  # bool and other gaps of DLPack
        values = _asarray(name, array)
    return values, like


def reads_lazily(array: Any) -> bool:
    """Whether an object reads what is asked of it by ``[...]``: of h5py, netCDF4, zarr, Dask, xarray and the like.

    Arrays in memory do not, whatever their library, and neither do pandas' tables, whose ``[...]`` means labels.
    """
    if isinstance(array, np.ndarray | np.generic | list | tuple | int | float | type) or hasattr(array, "iloc"):
        return False
    if not all(hasattr(array, member) for member in ("shape", "dtype", "__getitem__")):
        return False
    package = type(array).__module__.partition(".")[0]
    if package == "dask":
        return True

    array_api_compat = _compat()

    return _remedy(array) is None and not array_api_compat.is_array_api_obj(array)


@import_whole
def _compat() -> Any:
    import array_api_compat

    return array_api_compat


def normalise(name: str, values: Array, dtype: np.dtype[Any]) -> Array:
    """Return `values` as a C-contiguous, aligned, native array of `dtype`, copied only if needed.

    Integers and booleans are cast; so are float32 and float64 into each other, as Keras does.
    Other dtypes are a TypeError that names the cast.
    """
    flags = values.flags
    if values.dtype is dtype and flags.c_contiguous and flags.aligned:
        return values
    check_dtype(name, values, dtype)
    if not (values.dtype == dtype and flags.c_contiguous and flags.aligned):
        size = values.size * dtype.itemsize
        require(size, f"a copy of {name}", f"give it C-contiguous and of dtype {dtype}")
    return np.require(values, dtype=dtype, requirements=("C", "A"))


def check_dtype(name: str, values: Array, dtype: np.dtype[Any] = FLOATS[0]) -> None:
    """Raise a TypeError that names the cast unless `normalise` would take the array."""
    given = values.dtype
    if given.kind not in "biu" and given.newbyteorder("=") not in FLOATS:
        raise TypeError(
            f"{name} has dtype {given}, which is not computed in; cast it with .astype({dtype.name!r})"
            + (_REAL if given.kind == "c" else "")
        )


def check_exact(name: str, values: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise unless an array has exactly this shape and, byte order aside, this dtype."""
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}; give shape {shape}")
    if values.dtype != dtype and values.dtype.newbyteorder("=") != dtype:
        tensor = ".double()" if dtype == np.float64 else ".float()"
        raise TypeError(
            f"{name} has dtype {values.dtype}; cast it with .astype({dtype.name!r}), or {tensor} of a torch tensor"
        )


def fresh(result: Array, given: Array) -> Array:
    """The result, or a copy where it is a view of what was given."""
    if not np.may_share_memory(result, given):
        return result
    require(result.nbytes, "a copy of the output", "give fewer samples at a time")
    return result.copy()


def read_only(array: Array) -> Array:
    """A read-only view of an array."""
    view = array[...]
    view.setflags(write=False)
    return view


def like_model(what: str, result: Any, model: Array) -> Array:
    """Return what code of users made of an array, in its dtype; an error unless it is real and of its shape."""
    if np.iscomplexobj(result):
        raise TypeError(f"{what} is complex; return real numbers")
    values = np.asarray(result, dtype=model.dtype)
    if values.shape != model.shape:
        raise ValueError(f"{what} has shape {values.shape}, not {model.shape}; return an array of the same shape")
    return values


def refuse_masked(**arrays: Any) -> None:
    """Raise a TypeError for masked arrays, also inside of lists, where others than `as_numpy` read what was given.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.utils.arrays import refuse_masked
    >>> refuse_masked(X=np.ma.masked_equal([1, 2], 2))
    Traceback (most recent call last):
    ...
    TypeError: X is a numpy MaskedArray; its mask would be ignored; fill it with .filled(value)
    """
    for name, array in arrays.items():
        for entry in _held(name, array) if isinstance(array, list | tuple) else (array,):
            if isinstance(entry, np.ma.MaskedArray):
                _check_kind(name, entry, "is" if entry is array else "holds")


def _check_tensor_dtype(name: str, array: Any, any_dtype: bool) -> None:
    """Raise for a dtype that NumPy lacks or, unless any will do, is not computed in; name the cast of the library."""
    given = str(array.dtype).rpartition(".")[2]
    if given == "bfloat16":
        _refuse(name, array, f"its dtype is bfloat16; cast it to float32 with {_cast(array)}")
    if not any_dtype and ("complex" in given or given in ("float16", "half") or given.startswith("float8")):
        raise TypeError(
            f"{name} has dtype {given}, which is not computed in; cast it with {_cast(array)}"
            + (_REAL if "complex" in given else "")
        )


def _cast(array: Any) -> str:
    """How an array becomes float32, in the words of its library."""
    if hasattr(array, "float"):
        return ".float()"
    return ".astype('float32')" if hasattr(array, "astype") else "astype(x, float32) of its namespace"


def _unchanged(array: Array) -> Array:
    return array


def _asarray(name: str, array: Any) -> Array:
    try:
        values = np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} is a {type(array).__name__} that is no array of numbers: {error}") from error
    if values.dtype == object:
        raise TypeError(
            f"{name} is a {type(array).__name__} that is no array of numbers; give an array or nested lists"
        )
    return values


def _held(name: str, nested: list[Any] | tuple[Any, ...], depth: int = 1) -> Iterator[Any]:
    """What nested lists hold, but for plain numbers and arrays."""
    if depth > _DEEPEST:
        raise TypeError(f"{name} is nested more than {_DEEPEST} lists deep, or holds itself; give an array")
    if set(map(type, nested)) <= _PLAIN:
        return
    for entry in nested:
        if isinstance(entry, list | tuple):
            yield from _held(name, entry, depth + 1)
        else:
            yield entry


def _check_kind(name: str, array: Any, verb: str) -> None:
    """Raise for what NumPy would compute or misread in silence."""
    remedy = _remedy(array)
    if remedy is None and type(array).__module__.startswith("xarray.") and getattr(array, "chunks", None):
        remedy = "its Dask array would be computed as a whole; use xarray.apply_ufunc, or .compute()"
    if remedy is not None:
        _refuse(name, array, remedy, verb)


def _remedy(array: Any) -> str | None:
    """What to do about an array of a type that is refused."""
    if isinstance(array, np.ma.MaskedArray):
        return "its mask would be ignored; fill it with .filled(value)"
    if isinstance(array, np.matrix):
        return "convert it with np.asarray"
    if isinstance(array, np.ndarray):
        return None
    if isinstance(array, getattr(sys.modules.get("jax.core"), "Tracer", ())):
        return (
            "it is a tracer inside a JAX transformation; call the layer outside of jax.jit and jax.grad: its own "
            "gradients are y, backward = layer.forward(x) and dx, grads = backward(dy)"
        )
    sparse = "make it dense with .todense()" if hasattr(type(array), "todense") else None
    return _REFUSED.get(type(array).__module__.partition(".")[0], sparse)


def _refuse(name: str, array: Any, remedy: str, verb: str = "is") -> NoReturn:
    kind = type(array)
    raise TypeError(f"{name} {verb} a {kind.__module__.partition('.')[0]} {kind.__name__}; {remedy}")
