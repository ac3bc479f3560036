"""The linear maps as a typed handler of XLA's foreign function interface, on the CPU, without C++.

XLA calls the handler with a frame of pointers; arrays are read and written where XLA has them. The structures are those
of ``xla/ffi/api/c_api.h``, which jaxlib installs. Fields are only ever added to them at the end, and the version that
the handler reports is read from that file. The handler calls nothing of JAX: that could wait for the computation that
waits for the handler.

It is a function of ctypes within one that Numba compiles. An exception that leaves the former, as Ctrl-C may raise at
its first instruction, is printed, and what it returns is undefined: for XLA it may be success, with whatever the memory
of the results holds. So the former writes its status to memory, last of all. Without one, the latter calls it again,
and then sets the interrupt again.
"""

import ctypes
import functools
import math
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lcnumba import functional
from lcnumba.functional import Spec
from lcnumba.runtime.locks import Mutex
from lcnumba.runtime.signals import deferred
from lcnumba.utils.messages import warn
from lcnumba.utils.types import Array

__all__ = ["call"]

# Values of the enumerations of the C API.
_METADATA, _STRING, _EXECUTE = 1, 4, 3
_INVALID_ARGUMENT, _INTERNAL = 3, 13
TARGET = "lcnumba"
MAPS = ("apply", "input_gradient", "weight_gradient", "gradients", "bias_gradient")
_LONGEST_NAME = max(map(len, MAPS))
_DTYPES: dict[int, np.dtype[Any]] = {11: np.dtype(np.float32), 12: np.dtype(np.float64)}


# The structures, each beginning with its own size and a chain of extensions. They are read with `struct`: a field of
# ctypes.Structure takes a microsecond.
_EXTENSION = struct.Struct("@N i P P")  # size, type, next; in that of the metadata, the metadata
_BUFFER = struct.Struct("@N P i P q P")  # data type, data, rank, dimensions
_ARRAYS = "N P q P P"  # number, types, addresses: of arguments or results
_ATTRIBUTES = "N P q P P P"  # number, types, names, addresses
_FRAME = struct.Struct(f"@N P P P i {_ARRAYS} {_ARRAYS} {_ATTRIBUTES}")  # API, context, stage
_TEXT = struct.Struct("@P N")
_ERROR = struct.Struct("@N P P i")  # message, code
# Offsets of the version in the metadata, and of the function that makes an error in the API.
_MAJOR_MINOR, _CREATE_ERROR = 24, 48

_DONE = 1  # no address of an error
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_ssize_t, ctypes.c_ssize_t)
_CREATE = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)


def _read(structure: struct.Struct, address: int) -> tuple[Any, ...]:
    return structure.unpack(ctypes.string_at(address, structure.size))


def _addresses(address: int, number: int) -> tuple[int, ...]:
    return struct.unpack(f"@{number}q", ctypes.string_at(address, 8 * number))


def _arrays(number: int, addresses: int) -> list[Array]:
    """The arrays of arguments or results, in place."""
    arrays = []
    for address in _addresses(addresses, number):
        _, _, dtype, data, rank, dimensions = _read(_BUFFER, address)
        shape, kind = _addresses(dimensions, rank), _DTYPES[dtype]
        size = math.prod(shape) * kind.itemsize
        memory: Any = (ctypes.c_char * size).from_address(data) if size else None
        arrays.append(np.ndarray(shape, kind, memory))
    return arrays


def _what(number: int, types: int, addresses: int) -> tuple[str, Spec]:
    """The name of the map and the spec, whose text follows it in the only attribute."""
    if number != 1 or ctypes.c_int.from_address(types).value != _STRING:
        raise RuntimeError("XLA passes other attributes than the map and its spec")
    text, size = _read(_TEXT, _addresses(addresses, 1)[0])
    # A mask makes a text long; of a known spec the digest is enough.
    name, _, start = ctypes.string_at(text, min(size, _LONGEST_NAME + 1 + functional.DIGEST)).decode().partition(" ")
    spec = Spec.of_digest(start[: functional.DIGEST])
    return name, spec or Spec.from_text(ctypes.string_at(text, size).decode().partition(" ")[2])


def _run(name: str, spec: Spec, arguments: Sequence[Array], results: Sequence[Array]) -> None:
    out = tuple(results) if len(results) > 1 else results[0]
    getattr(functional, name)(spec, *arguments, out=out)


def _handle(address: int, status: int) -> None:
    """Compute what a frame asks for; set the status to 1, or to the address of an error."""
    try:
        done = _computed(address)
        ctypes.c_int64.from_address(status).value = done
    except BaseException:  # noqa: BLE001, S110 - an interrupt: without a status it is called again
        pass


def _computed(address: int) -> int:
    (
        size, extension, api, _, stage, _, _, n_arguments, _, arguments, _, _, n_results, _, results,
        _, _, n_attributes, types, _, attributes,
    ) = _read(_FRAME, address)  # fmt: skip
    if size < _FRAME.size:
        return _DONE  # another interface, which the check of the results will notice
    try:
        while extension:
            _, kind, following, metadata = _read(_EXTENSION, extension)
            if kind == _METADATA:
                struct.pack_into("@2i", (ctypes.c_char * 8).from_address(metadata + _MAJOR_MINOR), 0, *_version())
                return _DONE
            extension = following
        if stage == _EXECUTE:
            name, spec = _what(n_attributes, types, attributes)
            _run(name, spec, _arrays(n_arguments, arguments), _arrays(n_results, results))
    except Exception as error:  # noqa: BLE001 - XLA raises it again
        return _error(api, f"lcnumba: {type(error).__name__}: {error}", error)
    return _DONE


def _error(api: int, message: str, cause: BaseException) -> int:
    """The address of an error of XLA, which owns it."""
    text = ctypes.create_string_buffer(message.encode())
    code = _INVALID_ARGUMENT if isinstance(cause, TypeError | ValueError) else _INTERNAL
    arguments = ctypes.create_string_buffer(_ERROR.pack(_ERROR.size, 0, ctypes.addressof(text), code), _ERROR.size)
    [create] = _addresses(api + _CREATE_ERROR, 1)
    return int(_CREATE(create)(ctypes.addressof(arguments)))


@functools.cache
def _version() -> tuple[int, int]:
    """The version of the interface that the installed jaxlib speaks."""
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text(encoding="utf-8")
    major, minor = (re.search(rf"#define XLA_FFI_API_{part} (\d+)", header) for part in ("MAJOR", "MINOR"))
    if major is None or minor is None or int(major[1]) != 0:
        raise RuntimeError("jaxlib has another version of the interface than the one that is known here")
    return int(major[1]), int(minor[1])


_lock = Mutex()
_registered: list[Any] = []  # what the registered handler needs, for the life of the process


def _register() -> None:
    """Register the handler unless it is registered; two threads may begin at once."""
    with deferred():
        import numba

    with _lock.lock:
        if not _registered:
            _registered.extend(_make_handler(numba))
            jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(_registered[-1].address), platform="cpu")


def _make_handler(numba: Any) -> tuple[Any, ...]:
    """The functions of ctypes that the handler calls, and the handler."""
    handle = _HANDLER(_handle)
    interrupt = ctypes.cast(ctypes.pythonapi.PyErr_SetInterrupt, ctypes.c_void_p).value
    set_interrupt = ctypes.CFUNCTYPE(None)(interrupt or 0)

    @numba.cfunc("intp(intp)")
    def handler(address: Any) -> Any:
        status = np.zeros(1, np.int64)
        handle(address, status.ctypes.data)
        if status[0] == 0:
            while status[0] == 0:
                handle(address, status.ctypes.data)
            set_interrupt()
        return 0 if status[0] == _DONE else status[0]

    return handle, set_interrupt, handler


@functools.cache
def handlers_work() -> bool:
    """Whether XLA calls the handlers: found by a small call, and warned of if not."""
    spec = Spec((2, 1), 1, 1)
    try:
        _version()
        _register()
        with jax.ensure_compile_time_eval(), jax.default_device(jax.local_devices(backend="cpu")[0]):
            x, kernel = np.array([[[2], [3]]], np.float32), np.array([[[5]], [[7]]], np.float32)
            y = _by_handler("apply", spec, [jax.ShapeDtypeStruct(x.shape, x.dtype)], x, kernel)[0]
            if np.asarray(y).ravel().tolist() != [10, 21]:
                raise RuntimeError(f"the result is {y}, not 10 and 21")
    except Exception as error:  # noqa: BLE001 - whatever a future version of JAX raises
        warn(
            f"JAX {jax.__version__} does not call lcnumba's functions directly ({error}); they are called by "
            "jax.pure_callback, which copies every array",
            RuntimeWarning,
        )
        return False
    return True


def call(name: str, text: str, results: Sequence[jax.ShapeDtypeStruct], *arrays: Any) -> list[Any]:
    """Call a map of `lcnumba.functional` on arrays of JAX, or tracers of its transformations.

    Parameters
    ----------
    name : str
        The name of the map.
    text : str
        The text of the spec.
    results : sequence of jax.ShapeDtypeStruct
        Shapes and dtypes of the results.
    *arrays
        The arguments of the map.

    Returns
    -------
    list of arrays
        The results.
    """
    by: Callable[..., list[Any]] = _by_handler if handlers_work() else _by_callback
    return by(name, Spec.from_text(text), results, *arrays)


def _by_handler(name: str, spec: Spec, results: Sequence[jax.ShapeDtypeStruct], *arrays: Any) -> list[Any]:
    function = jax.ffi.ffi_call(TARGET, list(results), vmap_method="sequential")
    return list(function(*arrays, what=f"{name} {spec.text}"))


def _by_callback(name: str, spec: Spec, results: Sequence[jax.ShapeDtypeStruct], *arrays: Any) -> list[Any]:
    def run(*given: Any) -> list[Array]:
        out = [np.empty(result.shape, result.dtype) for result in results]
        _run(name, spec, list(map(np.ascontiguousarray, given)), out)
        return out

    return list(jax.pure_callback(run, list(results), *arrays, vmap_method="sequential"))
