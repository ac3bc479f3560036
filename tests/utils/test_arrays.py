import sys
import tempfile
import types
import warnings

import array_api_strict
import numpy as np
import pytest
import scipy.sparse
from boundary import ANY_DTYPE, ENTRANCES, LAZY, Call, X, check, gradient_arrays, layer, network, plain

import lcnumba as lc
from lcnumba.utils import arrays


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


def memmap(x):
    """A file that cannot be written to: who tries by its address ends the process."""
    with tempfile.TemporaryFile() as file:
        file.write(x.tobytes())
        file.flush()
        return np.memmap(file, x.dtype, "r", shape=x.shape)


FORMS = {
    "read_only": read_only,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "negative_strides": lambda x: np.flip(np.flip(x).copy()),
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
    "memmap": memmap,
    "empty_batch": lambda x: x[:0],
    "array_api_strict_empty": lambda x: array_api_strict.asarray(x[:0]),
}
# Forms of whatever numbers: those that come in as dy, weights, targets.
PURE = ("read_only", "strided", "negative_strides", "fortran", "byte_swapped", "unaligned", "subclass", "memmap",
        "array_api_strict")  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_answer_of_the_plain_array(form, dtype):
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
    values, _ = arrays.as_numpy("x", FORMS[form](X))
    brought = arrays.normalise("x", values, np.dtype(np.float32))
    assert type(brought) is np.ndarray
    assert brought.dtype == np.float32
    assert brought.dtype.isnative
    assert brought.flags.c_contiguous
    assert brought.flags.aligned


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", PURE)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_every_entrance_takes_every_form(entrance, form, dtype):
    call = Call(entrance, FORMS[form], dtype)
    check(call, plain(entrance, dtype), type(FORMS["array_api_strict"](X)) if "strict" in form else np.ndarray)


def test_a_plain_array_is_shared_not_copied():
    values, like = arrays.as_numpy("x", X)
    assert arrays.normalise("x", values, np.dtype(np.float32)) is X
    assert like(X) is X
    strict = array_api_strict.asarray(X)
    values, like = arrays.as_numpy("x", strict)
    assert np.shares_memory(values, arrays.as_numpy("x", strict)[0])
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


class FakeWrapper(FakeTensor):
    """A tensor of a kind that does its own computing, as masked and traced ones do."""

    @classmethod
    def __torch_dispatch__(cls):
        raise AssertionError


# SciPy lets NumPy's warning pass, but only where these tests are the first to import it.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", PendingDeprecationWarning)
    MATRIX = np.matrix([[1.0]])


ENDLESS: list[object] = [1.0]
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ma.masked_array(X, X > 3), r"x is a numpy MaskedArray; its mask would be ignored; fill it"),
        ([np.ma.masked_array([1, 2], [0, 1])] * 2, r"x holds a numpy MaskedArray; its mask would be ignored"),
        ([[1.0, np.ma.masked]], r"x holds a numpy MaskedConstant; its mask would be ignored"),
        (([np.ones(2)], [np.ma.masked_array([1, 2], [0, 1])]), r"x holds a numpy MaskedArray"),
        ([[FakeDask()]], r"x holds a dask FakeDask; it would be computed as a whole"),
        (MATRIX, r"x is a numpy matrix; convert it with np.asarray"),
        (scipy.sparse.csr_array(np.eye(3)), r"x is a scipy csr_array; make it dense with .toarray"),
        (FakeDask(), r"x is a dask FakeDask; it would be computed as a whole; .*map_blocks"),
        (
            FakeTensor(requires_grad=True),
            r"requires a gradient, .* use lcnumba.torch.LocallyConnected2d, and otherwise pass .detach\(\)",
        ),
        (FakeTensor(device="cuda:0"), r"lives on device 'cuda:0'; move it to the CPU first"),
        (array_api_strict.asarray(X, device=array_api_strict.Device("device1")), "move it to the CPU first"),
        (FakeWrapper(), r"wraps other tensors, .*; pass a plain tensor"),
        (FakeTensor(dtype="torch.bfloat16"), r"dtype is bfloat16; cast it to float32"),
        (X.astype(object), "x has dtype object"),
        (X.astype(np.float16), r"x has dtype float16.*cast it with .astype\('float32'\)"),
        (X.astype(np.longdouble), r"x has dtype (longdouble|float\d+), which is not supported"),
        (X.astype(complex), "after taking its real part"),
        (X.astype("M8[s]"), "x has dtype datetime64"),
        (X.astype([("a", "f4")]), "x has dtype"),
        ([[1, 2], [3]], "x is a list, not an array of numbers"),
        (ENDLESS, "x is nested more than 64 lists deep, or contains itself"),
        ({"a": 1}, "x is a dict, not an array of numbers"),
        ("text", "x has dtype <U4|x is a str"),
        (None, "x is a NoneType"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_what_would_be_misread_is_refused(x, message):
    with pytest.raises(TypeError, match=message):
        arrays.normalise("x", arrays.as_numpy("x", x)[0], np.dtype(np.float32))


def test_a_traced_jax_array_is_refused(monkeypatch):
    class Tracer(FakeTensor):
        pass

    monkeypatch.setitem(sys.modules, "jax.core", types.SimpleNamespace(Tracer=Tracer))
    with pytest.raises(TypeError, match=r"outside of jax.jit"):
        arrays.as_numpy("x", Tracer())
    with pytest.raises(TypeError, match=r"x holds a .* Tracer; .* outside of jax.jit"):
        arrays.as_numpy("x", ([1.0], [Tracer()]))


def test_exact_casts_nothing():
    float32 = np.dtype(np.float32)
    arrays.check_exact("g", X, X.shape, float32)
    arrays.check_exact("g", X.astype(X.dtype.newbyteorder()), X.shape, float32)
    with pytest.raises(TypeError, match="g has dtype float64"):
        arrays.check_exact("g", X.astype(np.float64), X.shape, float32)
    with pytest.raises(ValueError, match=r"g has shape \(4, 5, 3\)"):
        arrays.check_exact("g", X[0], X.shape, float32)


def lazily(array):
    return pytest.importorskip("dask.array").from_array(array)


REFUSED = {
    "masked": (np.ma.masked_array, r"fill it with .filled\(value\)"),
    "object": (lambda a: a.astype(object), r"cast it with|give real numbers"),
    "half": (lambda a: a.astype(np.float16), r"cast it with .astype\('float(32|64)'\)"),
    "longdouble": (lambda a: a.astype(np.longdouble), r"cast it with .astype\('float(32|64)'\)"),
    "complex": (lambda a: a.astype(complex), r"cast it with .astype\('float(32|64)'\)|give real numbers"),
    "dask": (lazily, r"apply the layer with dask.array.map_blocks"),
    "list_of_dask": (lambda a: [lazily(part) for part in a], r"dask.array.map_blocks|can't multiply"),
    "other_device": (
        lambda a: array_api_strict.asarray(a, device=array_api_strict.Device("device1")),
        r"Device\('device1'\); move it to the CPU first",
    ),
}


def accepts(entrance, kind):
    if kind == "dask":
        return entrance in LAZY
    if kind in ("half", "longdouble"):
        return entrance in ANY_DTYPE
    return entrance.startswith("Flatten") and kind in ("object", "complex")


PAIRS = [(entrance, kind) for entrance in ENTRANCES for kind in REFUSED]


@pytest.mark.parametrize(("entrance", "kind"), [pair for pair in PAIRS if not accepts(*pair)])
def test_every_entrance_refuses_with_a_remedy(entrance, kind):
    make, hint = REFUSED[kind]
    with pytest.raises(TypeError, match=hint):
        Call(entrance, make)


@pytest.mark.parametrize(("entrance", "kind"), [pair for pair in PAIRS if accepts(*pair)])
def test_what_some_entrances_take_all_the_same(entrance, kind):
    call = Call(entrance, REFUSED[kind][0])
    expected = plain(entrance, "float32")
    for result, numbers in zip(call.same_kind + call.others, expected.same_kind + expected.others, strict=True):
        np.testing.assert_array_equal(np.asarray(result), numbers)
    assert all(isinstance(result, np.ndarray) for result in call.same_kind)


def test_what_is_refused_changes_nothing():
    for one in (layer(), network()):
        before = one.get_weights()
        y, backward = one.forward(X)
        with pytest.raises(TypeError, match="filled"):
            backward.step(np.ma.masked_array(y), 0.1)
        backward(y)  # the weights are still those of its forward
        with pytest.raises(TypeError, match="filled"):
            one.set_weights([*before[:-1], np.ma.masked_array(before[-1] + 1)])
        for weight, same in zip(one.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weight, same)


# Layers that might hand on what they were given, or what they keep.
LAYERS = {
    "Dense": lambda: lc.Dense(4, kernel_initializer="identity", use_bias=False),
    "linear": lambda: lc.Activation("linear"),
    "Dropout": lambda: lc.Dropout(0.0),
    "Flatten": lc.Flatten,
    "Flatten channels_first": lambda: lc.Flatten(data_format="channels_first"),
    "local": lambda: lc.LocallyConnected1D(4, 1, kernel_initializer="ones"),
    "Sequential": lambda: lc.Sequential([lc.Flatten()]),
    "nested": lambda: lc.Sequential([lc.Sequential([lc.Flatten(), lc.Activation("linear")]), lc.Flatten()]),
    "network": lambda: lc.Sequential([lc.LocallyConnected1D(2, 1), lc.Flatten(), lc.Activation("linear")]),
}


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_fresh(name, samples):
    one = LAYERS[name]()
    x = np.arange(samples * 4, dtype=np.float32).reshape((samples, 4) if name == "Dense" else (samples, 1, 4))
    y, backward = one.forward(x)
    dy = np.ones_like(y)
    dx, grads = backward(dy)
    results = [y, one(x), one(x), dx, backward(dy)[0], *gradient_arrays(grads)]
    results += [one.predict(x), one.predict(x, batch_size=1)] if hasattr(one, "predict") else []
    results += [backward.step(dy, 0.0)] if hasattr(backward, "step") else []
    others = [x, dy, *getattr(one, "weights", [])]
    copies = [result.copy() for result in results]
    for number, result in enumerate(results):
        assert result.flags.writeable
        assert not any(np.may_share_memory(result, other) for other in (*others, *results[:number]))
    for number in range(samples + 1):  # workspaces of other sizes
        one(np.full((number, *x.shape[1:]), 9, np.float32))
    for result, copy in zip(results, copies, strict=True):
        np.testing.assert_array_equal(result, copy)


def test_a_layer_reads_the_very_memory_it_is_given():
    """Backward sees what has become of x."""
    for make in (np.asarray, array_api_strict.asarray):
        one, memory = layer(), X.copy()
        y, backward = one.forward(make(memory))
        expected = one.forward(X + 1)[1](np.asarray(y))[1].kernel
        memory += 1
        np.testing.assert_array_equal(backward(y)[1].kernel, expected)


def test_weights_are_copied_in():
    one = layer()
    weights = [weight + 1 for weight in one.get_weights()]
    one.set_weights(weights)
    for weight in (*weights, *one.get_weights()):
        weight[...] = 0
    assert one.kernel.any()
    assert not any(np.may_share_memory(weight, mine) for weight in weights for mine in one.weights)
