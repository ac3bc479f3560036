"""Records: the arguments of a kernel in one block of memory, of which the kernel gets the address.

Numba takes 20 to 50 us to unpack 30 arrays, and compiles each function that passes them on for each combination of
their types. A record has one definition, `Fields`, which both sides use: `Fields.pack` fills it in Python,
`reader` makes the function by which a kernel reads its fields by name. Arrays are passed by address; their shapes are
further fields, from which the kernel makes them again with `array_at`.
"""

import ctypes
import math
import struct
import sys
from array import array
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

__all__ = [
    "BANDS",
    "COLUMNS",
    "NO_CLAMP",
    "ONE",
    "ROWS",
    "SEGMENT",
    "Fields",
    "address",
    "array_at",
    "bits",
    "fetch_and_add",
    "inlined",
    "int_at",
    "jitted",
    "reader",
    "tables_3",
    "tables_4",
    "zero",
]

# Fields of the tables of `lcnumba.connectivity.geometry`: the triples by output or input line, the segments by output
# column, and those split at the edges of bands.
ROWS = "row_start row_tap row_line"
COLUMNS = "col_start col_input col_tap col_taps"
BANDS = "band_start band_column band_input band_tap band_taps edges"

# A segment of a list of connections: its first connection, its output, its first input, from the first of a block of
# inputs on, and how many connections it has.
SEGMENT = np.dtype([("connection", np.int64), ("output", np.int32), ("input", np.int16), ("length", np.int16)])

_FLOAT, _INT = struct.Struct("d"), struct.Struct("q")


# Where an array keeps the address of its data: the first field after the header of an object. That is what NumPy's
# macro PyArray_DATA compiles to, and takes a tenth of the time of `array.ctypes.data`.
_HEADER_BYTES = object.__basicsize__


_size_at = ctypes.c_size_t.from_address


def _peeked(array: npt.NDArray[Any]) -> int:
    return _size_at(id(array) + _HEADER_BYTES).value


def _asked(array: npt.NDArray[Any]) -> int:
    return array.ctypes.data


_PROBE = np.empty(3)
# The address of an array's data.
address = _peeked if sys.implementation.name == "cpython" and _peeked(_PROBE[1:]) == _asked(_PROBE[1:]) else _asked


class Fields:
    """The names of a record's fields, each of 8 bytes.

    Parameters
    ----------
    integers : str
        Names of addresses and integers, separated by blanks. All records begin with `counter`, the address of the
        counters of tasks, and `workers`, their number; both are set at the launch.
    numbers : str
        Names of floating-point numbers, kept as float64.
    each_call : str
        Names of further addresses and integers, which come first: those that differ between launches of one plan.

    Examples
    --------
    >>> from lcnumba.kernels.records import Fields
    >>> Fields("rows", "factor").pack({"rows": 3, "factor": 0.5}).tolist()[:3]
    [0, 0, 3]
    """

    def __init__(self, integers: str, numbers: str = "", each_call: str = "") -> None:
        self._numbers = frozenset(numbers.split())
        self.each_call = tuple(each_call.split())
        self.names = ("counter", "workers", *self.each_call, *integers.split(), *numbers.split())
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"the names of fields must differ, got {self.names}")
        self.dtype = np.dtype([(name, np.float64 if name in self._numbers else np.int64) for name in self.names])
        self.index = {name: i for i, name in enumerate(self.names)}

    def pack(self, values: dict[str, Any]) -> "array[int]":
        """A record with these values of all fields but the first two: integers, numbers or arrays.

        Raises
        ------
        TypeError
            If fields are missing, or there are others.
        """
        if values.keys() != set(self.names[2:]):
            missing, unknown = sorted(set(self.names[2:]) - values.keys()), sorted(values.keys() - set(self.names[2:]))
            raise TypeError(f"the fields of a record must be as defined; missing {missing}, unknown {unknown}")
        record = array("q", bytes(8 * len(self.names)))
        for name, value in values.items():
            record[self.index[name]] = self.slot(name, value)
        return record

    def template(self, values: dict[str, Any]) -> "array[int]":
        """A record with these values, and 0 in the other fields, which launches replace where they are used."""
        return self.pack({**dict.fromkeys(self.names[2:], 0), **values})

    def slot(self, name: str, value: Any) -> int:
        """A value as the 64-bit integer that holds it."""
        if isinstance(value, np.ndarray):
            if not value.flags.c_contiguous:
                raise ValueError(f"{name} must be C-contiguous, since kernels take its address")
            return address(value)
        if name in self._numbers:
            return bits(value)
        return int(value)


def bits(value: float) -> int:
    """A floating-point number as the 64-bit integer of the same bits."""
    return int(_INT.unpack(_FLOAT.pack(value))[0])


# Numbers as the register tile takes them: a factor of 1, and the lower clamp of no ReLU.
ONE, NO_CLAMP = bits(1.0), bits(-math.inf)


# Functions that kernels call; they are compiled with each process that compiles a kernel.
jitted = numba.njit(nogil=True, error_model="numpy")
# The same for short ones, which are not compiled by themselves.
inlined = numba.njit(inline="always", error_model="numpy")


def reader(dtype: np.dtype[Any]) -> Callable[[int], Any]:
    """The function by which kernels read the record at an address: a field is an attribute of what it returns."""
    if numba.config.DISABLE_JIT:
        return lambda address: SimpleNamespace(
            **dict(zip(dtype.names or (), _memory(address, 1, dtype)[0].tolist(), strict=True))
        )
    kind = numba.from_dtype(dtype)

    @intrinsic
    def read(_, address):
        def codegen(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(kind))

        return kind(types.int64), codegen

    return read


def _array_at(address, shape, dtype):
    shape = shape if isinstance(shape, tuple) else (shape,)
    return _memory(address, int(np.prod(shape)), np.dtype(dtype)).reshape(shape)


def _memory(address: int, length: int, dtype: Any) -> Any:
    """The `length` elements at an address."""
    memory = (ctypes.c_char * (int(length) * dtype.itemsize)).from_address(int(address))
    return np.frombuffer(memory, dtype) if length else np.empty(0, dtype)


def _int_at(address, index):
    return _memory(address + 8 * index, 1, np.dtype(np.int64))[0]


def _zero(address, count):
    _memory(address, count, np.dtype(np.uint8))[:] = 0


def _fetch_and_add(address):
    value = _memory(address, 1, np.dtype(np.int64))
    value += 1
    return value[0] - 1


if numba.config.DISABLE_JIT:
    array_at, int_at, zero, fetch_and_add = _array_at, _int_at, _zero, _fetch_and_add
else:

    @intrinsic
    def array_at(_, address, shape, dtype):
        """The C-contiguous array at an address, without reference counting: passing it on costs nothing."""
        number = getattr(dtype, "dtype", None) or dtype.instance_type
        kind = types.Array(number, len(shape) if isinstance(shape, types.BaseTuple) else 1, "C")

        def codegen(context, builder, signature, arguments):
            given = signature.args[1]
            sizes = (
                cgutils.unpack_tuple(builder, arguments[1]) if isinstance(given, types.BaseTuple) else [arguments[1]]
            )
            kinds = given.types if isinstance(given, types.BaseTuple) else [given]
            sizes = [context.cast(builder, size, k, types.intp) for size, k in zip(sizes, kinds, strict=True)]
            itemsize = context.get_abi_sizeof(context.get_data_type(number))
            strides = [context.get_constant(types.intp, itemsize)]
            for size in sizes[:0:-1]:
                strides.insert(0, builder.mul(strides[0], size))
            made = make_array(kind)(context, builder)
            data = builder.inttoptr(arguments[0], context.get_data_type(number).as_pointer())
            populate_array(made, data=data, shape=sizes, strides=strides, itemsize=itemsize, meminfo=None)
            return made._getvalue()

        return kind(types.int64, shape, dtype), codegen

    @intrinsic
    def int_at(_, address, index):
        """The entry of an int64 array at an address: as `array_at`, but compiled faster, and never checked."""

        def codegen(context, builder, signature, arguments):
            offset = builder.mul(arguments[1], ir.Constant(ir.IntType(64), 8))
            return builder.load(
                builder.inttoptr(builder.add(arguments[0], offset), ir.IntType(64).as_pointer()), align=8
            )

        return types.int64(types.int64, types.int64), codegen

    @intrinsic
    def zero(_, address, count):
        """Set `count` bytes at an address to 0: an assignment to a slice takes ten times longer to compile."""

        def codegen(context, builder, signature, arguments):
            pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
            cgutils.memset(builder, pointer, arguments[1], 0)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    @intrinsic
    def fetch_and_add(_, address):
        """Add 1 to the int64 at an address, which all threads share, and return its value before."""

        def codegen(context, builder, signature, arguments):
            pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
            return builder.atomic_rmw("add", pointer, ir.Constant(ir.IntType(64), 1), "monotonic")

        return types.int64(types.int64), codegen


@jitted
def tables_3(groups, start, first, second):
    """The arrays of a grouped table with two columns, at these addresses; group g holds start[g]:start[g + 1]."""
    starts = array_at(start, groups + 1, np.int64)
    size = starts[groups]
    return starts, array_at(first, size, np.int64), array_at(second, size, np.int64)


@jitted
def tables_4(groups, start, first, second, third):
    """The same with three columns."""
    starts = array_at(start, groups + 1, np.int64)
    size = starts[groups]
    return starts, array_at(first, size, np.int64), array_at(second, size, np.int64), array_at(third, size, np.int64)
