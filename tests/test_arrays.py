import sys
import types

import array_api_strict
import numpy as np
import pytest
import scipy.sparse

import lcnumba as lc
from lcnumba import arrays

X = np.arange(2 * 4 * 5 * 3, dtype=np.float32).reshape(2, 4, 5, 3)


def layer(dtype="float32"):
    made = lc.LocallyConnected2D(2, (2, 3), rng=0, dtype=dtype)
    made.build(X.shape)
    return made


def unaligned(x):
    buffer = np.zeros(x.nbytes + 1, np.uint8)
    out = buffer[1:].view(x.dtype).reshape(x.shape)
    out[...] = x
    assert not out.flags.aligned
    return out


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


class Subclass(np.ndarray):
    pass


def memmap(x, tmp_path):
    out = np.memmap(tmp_path / "x", x.dtype, "w+", shape=x.shape)
    out[...] = x
    return out


FORMS = {
    "read_only": read_only,
    "strided": lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
    "negative_strides": lambda x: x[:, ::-1, :, ::-1].copy()[:, ::-1, :, ::-1],
    "fortran": np.asfortranarray,
    "transposed": lambda x: x.transpose(3, 2, 1, 0).copy().transpose(3, 2, 1, 0),
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "byte_swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "unaligned": unaligned,
    "subclass": lambda x: x.view(Subclass),
    "float64": lambda x: x.astype(np.float64),
    "int": lambda x: x.astype(np.int16),
    "uint8": lambda x: x.astype(np.uint8),
    "bool": lambda x: x > 50,
    "list": lambda x: x.tolist(),
    "tuple_of_arrays": tuple,
    "array_api_strict": array_api_strict.asarray,
    "array_api_strict_int": lambda x: array_api_strict.asarray(x.astype(np.int32)),
    "array_api_strict_bool": lambda x: array_api_strict.asarray(x > 50),
    "empty_batch": lambda x: x[:0],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_answer_of_the_plain_array(form, dtype, tmp_path):
    x = FORMS[form](X)
    plain = np.ascontiguousarray(np.asarray(x), dtype=dtype)
    one = layer(dtype)
    before = np.array(np.asarray(x))
    y, backward = one.forward(x)
    expected, expected_backward = one.forward(plain)
    np.testing.assert_array_equal(np.asarray(y), expected)
    np.testing.assert_array_equal(np.asarray(one(x)), expected)
    for actual, wanted in zip(backward(expected)[1].__dict__.values(),
                              expected_backward(expected)[1].__dict__.values(), strict=True):  # fmt: skip
        np.testing.assert_array_equal(actual, wanted)
    np.testing.assert_array_equal(np.asarray(x), before)
    assert type(y) is (type(x) if form.startswith("array_api") else np.ndarray)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_brought_into_the_one_that_kernels_take(form):
    values, _ = arrays.ingest("x", FORMS[form](X))
    brought = arrays.normalise("x", values, np.dtype(np.float32))
    assert type(brought) is np.ndarray
    assert brought.dtype == np.float32
    assert brought.dtype.isnative
    assert brought.flags.c_contiguous
    assert brought.flags.aligned


def test_memmap(tmp_path):
    np.testing.assert_array_equal(layer()(memmap(X, tmp_path)), layer()(X))


def test_a_plain_array_is_shared_not_copied():
    values, like = arrays.ingest("x", X)
    assert arrays.normalise("x", values, np.dtype(np.float32)) is X
    assert like(X) is X
    strict = array_api_strict.asarray(X)
    values, like = arrays.ingest("x", strict)
    assert np.shares_memory(values, arrays.ingest("x", strict)[0])
    assert isinstance(like(values), type(strict))


def test_dask_arrays_inside_of_xarray_are_refused_as_well():
    array = pytest.importorskip("xarray").DataArray(X, dims=("a", "b", "c", "d"))
    np.testing.assert_array_equal(layer()(array), layer()(X))
    pytest.importorskip("dask.array")
    with pytest.raises(TypeError, match=r"use xarray\.apply_ufunc, or \.compute\(\)"):
        layer()(array.chunk(a=1))


class FakeDask:
    """Stands for dask.array.Array, which is not a dependency of the tests."""


FakeDask.__module__ = "dask.array.core"


class FakeTensor:
    """A tensor of an array-API library, with the attributes that decide."""

    def __init__(self, **attributes):
        self.__dict__ |= {"dtype": "float32", "shape": (1,), "device": "cpu"} | attributes

    def __array_namespace__(self, api_version=None):
        return array_api_strict


FakeTensor.__module__ = "torch"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ma.masked_array(X, X > 3), r"x is a numpy MaskedArray; its mask would be ignored; fill it"),
        ([np.ma.masked_array([1, 2], [0, 1])] * 2, "its mask would be ignored"),
        (np.matrix([[1.0]]), r"x is a numpy matrix; convert it with np.asarray"),
        (scipy.sparse.csr_array(np.eye(3)), r"x is a scipy csr_array; make it dense with .toarray"),
        (FakeDask(), r"x is a dask FakeDask; it would be computed as a whole; .*map_blocks"),
        (FakeTensor(requires_grad=True), r"requires a gradient; pass .detach\(\)"),
        (FakeTensor(device="cuda:0"), r"lives on device 'cuda:0'; move it to the CPU first"),
        (FakeTensor(dtype="torch.bfloat16"), r"dtype is bfloat16; cast it to float32"),
        (X.astype(object), "x has dtype object"),
        (X.astype(np.float16), r"x has dtype float16.*cast it with .astype\('float32'\)"),
        (X.astype(np.longdouble), r"x has dtype (longdouble|float\d+), which is not computed in"),
        (X.astype(complex), "after taking its real part"),
        (X.astype("M8[s]"), "x has dtype datetime64"),
        (X.astype([("a", "f4")]), "x has dtype"),
        ([[1, 2], [3]], "x is a list that is no array of numbers"),
        ({"a": 1}, "x is a dict that is no array of numbers"),
        ("text", "x has dtype <U4|x is a str"),
        (None, "x is a NoneType"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_what_would_be_misread_is_refused(x, message):
    with pytest.raises(TypeError, match=message):
        arrays.normalise("x", arrays.ingest("x", x)[0], np.dtype(np.float32))


def test_a_traced_jax_array_is_refused(monkeypatch):
    class Tracer(FakeTensor):
        pass

    fake = types.SimpleNamespace(core=types.SimpleNamespace(Tracer=Tracer), Array=FakeDask)
    monkeypatch.setitem(sys.modules, "jax", fake)
    with pytest.raises(TypeError, match=r"outside of jax.jit"):
        arrays.ingest("x", Tracer())


def test_exact_casts_nothing():
    float32 = np.dtype(np.float32)
    arrays.check_exact("g", X, X.shape, float32)
    arrays.check_exact("g", X.astype(X.dtype.newbyteorder()), X.shape, float32)
    with pytest.raises(TypeError, match="g has dtype float64"):
        arrays.check_exact("g", X.astype(np.float64), X.shape, float32)
    with pytest.raises(ValueError, match=r"g has shape \(4, 5, 3\)"):
        arrays.check_exact("g", X[0], X.shape, float32)
