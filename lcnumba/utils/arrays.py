"""Conversion of arrays: any array-API array in, a NumPy array inside, the same kind out."""

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

# Array types that would be computed or misread silently: a hint for each top-level package.
_REFUSED = {
    "dask": "it would be computed as a whole; apply the layer with dask.array.map_blocks",
    "scipy": "make it dense with .toarray()",
    "cupy": "it lives on a GPU; copy it to the CPU with cupy.asnumpy",
}
# Entries of nested lists that need no check.
_PLAIN = {bool, int, float, np.ndarray}
_REAL = " after taking its real part"
# As many as NumPy's arrays have axes at most.
_MAX_NESTING = 64


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """Return `dtype` as np.dtype if it is supported: float32 or float64."""
    try:
        # None would be float64 to NumPy.
        wanted = FLOATS.index(np.dtype("O" if dtype is None else dtype))
    except Exception:  # noqa: BLE001 - NumPy raises all kinds of errors here, even SyntaxError
        raise ValueError(f"dtype={dtype!r} is not supported; give 'float32' or 'float64'") from None
    return FLOATS[wanted]


def as_numpy(name: str, array: Any, *, any_dtype: bool = False) -> tuple[Array, Callable[[Array], Any]]:
    """Convert a caller's array to NumPy, and return how to convert results back.

    Parameters
    ----------
    name : str
        Name of the array in messages.
    array : array_like
        NumPy arrays of any layout, nested lists, arrays of an array-API library on the CPU, and
        objects that NumPy can read (xarray, pandas).
    any_dtype : bool, default False
        Whether to allow unsupported dtypes: for targets, masks, and arrays that are only reshaped.

    Returns
    -------
    values : ndarray
        The same values, sharing memory where possible.
    like : callable
        Converts a NumPy result to the type and device of `array`, sharing memory where possible.
        Without ``jax_enable_x64``, JAX converts float64 to float32.

    Raises
    ------
    TypeError
        For arrays that would be misread silently or computed elsewhere: masked arrays, np.matrix,
        sparse, object and Dask arrays, also inside of lists, arrays on other devices, tensors that require a
        gradient or wrap others, and dtypes that `normalise` refuses.
    """
    if type(array) is np.ndarray:
        return array, _unchanged
    for entry in _entries(name, array) if isinstance(array, list | tuple) else (array,):
        _check_kind(name, entry, "is" if entry is array else "holds")
    if isinstance(array, np.ndarray | np.generic | list | tuple | int | float):
        return _asarray(name, array), _unchanged

    array_api_compat = _compat()

    if not array_api_compat.is_array_api_obj(array):
        return _asarray(name, array), _unchanged
    if getattr(array, "requires_grad", False):
        _refuse(
            name, array, "it requires a gradient, and autograd sees nothing of this layer; within a network of torch "
            "use lcnumba.torch.LocallyConnected2d, and otherwise pass .detach()"
        )  # fmt: skip
    if isinstance(getattr(type(array), "__torch_dispatch__", None), types.MethodType):
        _refuse(name, array, "it wraps other tensors, whose mask or the like would be ignored; pass a plain tensor")
    device = array_api_compat.device(array)
    kind = str(getattr(device, "type", getattr(device, "platform", device))).lower()
    if "cpu" not in kind:
        _refuse(name, array, f"it lives on device {device!r}; move it to the CPU first")
    _check_tensor_dtype(name, array, any_dtype)
    xp = array_api_compat.array_namespace(array)
    # Uncommitted arrays of JAX stay free to move to another device.
    like = partial(xp.asarray, device=device if getattr(array, "committed", True) else None)
    # torch negates some views lazily, which DLPack does not express.
    array = getattr(array, "resolve_neg", lambda: array)()
    try:
        values = np.from_dlpack(array)
    except (TypeError, RuntimeError, BufferError, AttributeError):  # dtypes that DLPack lacks, such as bool
        values = _asarray(name, array)
    return values, like


def reads_lazily(array: Any) -> bool:
    """Whether an array is read on indexing: of h5py, netCDF4, zarr, Dask, xarray and the like.

    In-memory arrays are not, nor are pandas' tables, which are indexed by labels.
    """
    if isinstance(array, np.ndarray | np.generic | list | tuple | int | float | type) or hasattr(array, "iloc"):
        return False
    if not all(hasattr(array, member) for member in ("shape", "dtype", "__getitem__")):
        return False
    package = type(array).__module__.partition(".")[0]
    if package == "dask":
        return True

    array_api_compat = _compat()

    return _hint(array) is None and not array_api_compat.is_array_api_obj(array)


@import_whole
def _compat() -> Any:
    import array_api_compat

    return array_api_compat


def normalise(name: str, values: Array, dtype: np.dtype[Any]) -> Array:
    """Return `values` as a C-contiguous, aligned, native array of `dtype`, copied only if needed.

    Integers and booleans are cast, and float32 and float64 to each other, as in Keras. For other dtypes, raise a
    TypeError that names the cast.
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
    """Raise a TypeError that names the cast if `normalise` would refuse the dtype."""
    given = values.dtype
    if given.kind not in "biu" and given.newbyteorder("=") not in FLOATS:
        raise TypeError(
            f"{name} has dtype {given}, which is not supported; cast it with .astype({dtype.name!r})"
            + (_REAL if given.kind == "c" else "")
        )


def check_exact(name: str, values: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise unless an array has this shape and, in any byte order, this dtype."""
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}; give shape {shape}")
    if values.dtype != dtype and values.dtype.newbyteorder("=") != dtype:
        tensor = ".double()" if dtype == np.float64 else ".float()"
        raise TypeError(
            f"{name} has dtype {values.dtype}; cast it with .astype({dtype.name!r}), or {tensor} of a torch tensor"
        )


def fresh(result: Array, given: Array) -> Array:
    """Return the result, or a copy if it may share memory with `given`."""
    if not np.may_share_memory(result, given):
        return result
    require(result.nbytes, "a copy of the output", "give fewer samples at a time")
    return result.copy()


def read_only(array: Array) -> Array:
    """Return a read-only view of an array."""
    view = array[...]
    view.setflags(write=False)
    return view


def like_model(what: str, result: Any, model: Array) -> Array:
    """Return the result of user code in the dtype of `model`; an error unless it is real and of the same shape."""
    if np.iscomplexobj(result):
        raise TypeError(f"{what} is complex; return real numbers")
    values = np.asarray(result, dtype=model.dtype)
    if values.shape != model.shape:
        raise ValueError(f"{what} has shape {values.shape}, not {model.shape}; return an array of the same shape")
    return values


def refuse_masked(**arrays: Any) -> None:
    """Raise a TypeError for masked arrays, also inside of lists: for arguments that `as_numpy` does not convert.

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
        for entry in _entries(name, array) if isinstance(array, list | tuple) else (array,):
            if isinstance(entry, np.ma.MaskedArray):
                _check_kind(name, entry, "is" if entry is array else "holds")


def _check_tensor_dtype(name: str, array: Any, any_dtype: bool) -> None:
    """Raise for a dtype that NumPy lacks or, unless `any_dtype`, that is not supported; name the library's cast."""
    given = str(array.dtype).rpartition(".")[2]
    if given == "bfloat16":
        _refuse(name, array, f"its dtype is bfloat16; cast it to float32 with {_cast(array)}")
    if not any_dtype and ("complex" in given or given in ("float16", "half") or given.startswith("float8")):
        raise TypeError(
            f"{name} has dtype {given}, which is not supported; cast it with {_cast(array)}"
            + (_REAL if "complex" in given else "")
        )


def _cast(array: Any) -> str:
    """The call of the array's library that casts to float32."""
    if hasattr(array, "float"):
        return ".float()"
    return ".astype('float32')" if hasattr(array, "astype") else "astype(x, float32) of its namespace"


def _unchanged(array: Array) -> Array:
    return array


def _asarray(name: str, array: Any) -> Array:
    try:
        values = np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} is a {type(array).__name__}, not an array of numbers: {error}") from error
    if values.dtype == object:
        raise TypeError(f"{name} is a {type(array).__name__}, not an array of numbers; give an array or nested lists")
    return values


def _entries(name: str, nested: list[Any] | tuple[Any, ...], depth: int = 1) -> Iterator[Any]:
    """The entries of nested lists, except numbers and NumPy arrays."""
    if depth > _MAX_NESTING:
        raise TypeError(f"{name} is nested more than {_MAX_NESTING} lists deep, or contains itself; give an array")
    if set(map(type, nested)) <= _PLAIN:
        return
    for entry in nested:
        if isinstance(entry, list | tuple):
            yield from _entries(name, entry, depth + 1)
        else:
            yield entry


def _check_kind(name: str, array: Any, verb: str) -> None:
    """Raise for arrays that NumPy would compute or misread silently."""
    hint = _hint(array)
    if hint is None and type(array).__module__.startswith("xarray.") and getattr(array, "chunks", None):
        hint = "its Dask array would be computed as a whole; use xarray.apply_ufunc, or .compute()"
    if hint is not None:
        _refuse(name, array, hint, verb)


def _hint(array: Any) -> str | None:
    """What to do if the type of an array is refused; None if it is accepted."""
    if isinstance(array, np.ma.MaskedArray):
        return "its mask would be ignored; fill it with .filled(value)"
    if isinstance(array, np.matrix):
        return "convert it with np.asarray"
    if isinstance(array, np.ndarray):
        return None
    if isinstance(array, getattr(sys.modules.get("jax.core"), "Tracer", ())):
        return (
            "it is a tracer inside a JAX transformation; there use lcnumba.jax.locally_connected, and call this layer "
            "outside of jax.jit and jax.grad"
        )
    sparse = "make it dense with .todense()" if hasattr(type(array), "todense") else None
    return _REFUSED.get(type(array).__module__.partition(".")[0], sparse)


def _refuse(name: str, array: Any, hint: str, verb: str = "is") -> NoReturn:
    kind = type(array)
    raise TypeError(f"{name} {verb} a {kind.__module__.partition('.')[0]} {kind.__name__}; {hint}")
