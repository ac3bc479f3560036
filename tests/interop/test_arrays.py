"""Arrays of other libraries, each by every entrance. A library that is missing is skipped, or, with
``LCNUMBA_INTEROP=complete``, a failure.
"""

import importlib
import os
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
from boundary import ENTRANCES, LAZY, Call, X, check, layer, network, plain

import lcnumba as lc
from lcnumba.utils import arrays


def library(name):
    if os.environ.get("LCNUMBA_INTEROP") == "complete":
        return importlib.import_module(name)
    return pytest.importorskip(name)


@pytest.fixture
def torch():
    return library("torch")


@pytest.fixture
def jax():
    jax = library("jax")
    if not jax._src.xla_bridge.backends_are_initialized():
        jax.config.update("jax_num_cpu_devices", 2)
    return jax


def pandas_table(pandas, array):
    """A table for what has two dimensions, a series for what has one; there are no others."""
    kinds = {1: pandas.Series, 2: pandas.DataFrame}
    return kinds[array.ndim](array) if array.ndim in kinds else array


# Supported libraries: how their arrays are made, the class of results, and the address of their memory.
WELCOME = {
    "torch": (lambda torch, a: torch.from_numpy(a.copy()), lambda torch: torch.Tensor, lambda a: a.data_ptr()),
    "jax": (lambda jax, a: jax.numpy.asarray(a), lambda jax: jax.Array, lambda a: a.unsafe_buffer_pointer()),
    "array_api_strict": (lambda xp, a: xp.asarray(a), lambda xp: type(xp.zeros(1)), lambda a: address(a._array)),
    "xarray": (lambda xarray, a: xarray.DataArray(a), lambda _: np.ndarray, lambda a: address(a.values)),
    "pandas": (pandas_table, lambda _: np.ndarray, lambda a: address(np.asarray(a))),
}


def address(array):
    return array.__array_interface__["data"][0]


def own_dtypes(name, module, dtype):
    """A context in which a library keeps float64."""
    return module.enable_x64(True) if name == "jax" and dtype == "float64" else nullcontext()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", WELCOME)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_every_entrance_takes_every_library(entrance, name, dtype, request):
    module = request.getfixturevalue(name) if name in ("torch", "jax") else library(name)
    make, kind, _ = WELCOME[name]
    with own_dtypes(name, module, dtype):
        check(Call(entrance, lambda a: make(module, a), dtype), plain(entrance, dtype), kind(module))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", WELCOME)
def test_the_memory_is_shared_on_the_way_in_and_never_on_the_way_out(name, dtype):
    module = library(name)
    make, kind, memory_of = WELCOME[name]
    with own_dtypes(name, module, dtype):
        x = make(module, X.reshape(2, -1).astype(dtype))
        values, _ = arrays.as_numpy("x", x)
        assert name == "pandas" or arrays.normalise("x", values, np.dtype(dtype)) is values  # its columns lie together
        assert address(values) == memory_of(x)
        results = []
        for one in (lc.Flatten(), lc.Activation("linear"), lc.Dropout(0.0), lc.Sequential([lc.Flatten()])):
            y, backward = one.forward(x)
            results += [y, one(x), backward(x)[0]]
            results += [one.predict(x)] if isinstance(one, lc.Sequential) else []
        for number, result in enumerate(results):
            assert isinstance(result, kind(module))
            others = [x, *results[:number]]
            assert not any(np.may_share_memory(np.asarray(result), np.asarray(other)) for other in others)


TORCH_FORMS = {
    "strided": lambda torch, x: x.repeat_interleave(2, 2)[:, :, ::2],
    "permuted": lambda torch, x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "channels_last": lambda torch, x: x.contiguous(memory_format=torch.channels_last),
    "expanded": lambda torch, x: x[:1].expand(2, 4, 5, 3),
    "empty": lambda torch, x: x[:0],
    "float64": lambda torch, x: x.double(),
    "int": lambda torch, x: x.int(),
    "uint16": lambda torch, x: x.to(torch.uint16),
    "bool": lambda torch, x: x > 50,
    "parameter": lambda torch, x: torch.nn.Parameter(x, requires_grad=False),
    "detached": lambda torch, x: x.clone().requires_grad_().detach(),
    "negated when read": lambda torch, x: torch.complex(x, x).conj().imag,
    "list": lambda torch, x: list(x),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", TORCH_FORMS)
def test_forms_of_torch(form, dtype, torch):
    x = TORCH_FORMS[form](torch, torch.from_numpy(X.copy()))
    numbers = np.stack([np.array(part.tolist()) for part in x]) if len(x) else X[:0]
    one = layer(dtype)
    y, backward = one.forward(x)
    expected, expected_backward = one.forward(numbers)
    assert type(y) is (np.ndarray if form == "list" else torch.Tensor)
    assert np.asarray(y).dtype == dtype
    np.testing.assert_array_equal(np.asarray(y), expected)
    np.testing.assert_array_equal(backward(y)[1].kernel, expected_backward(expected)[1].kernel)


@pytest.mark.parametrize("form", ["int32", "bool", "uint8", "empty", "list"])
def test_forms_of_jax(form, jax):
    x = jax.numpy.asarray(X[:0] if form == "empty" else X)
    x = list(x) if form == "list" else x if form == "empty" else x.astype(form)
    y = layer()(x)
    assert isinstance(y, np.ndarray if form == "list" else jax.Array)
    np.testing.assert_array_equal(np.asarray(y), layer()(np.asarray(x)))


def test_forms_of_pandas_and_xarray():
    pandas, xarray = library("pandas"), library("xarray")
    one, x = lc.Dense(2, rng=0), X.reshape(2, -1)
    table = pandas.DataFrame(x)
    mixed = table.astype({0: "float64", 1: "int8"})
    for given in (table, mixed, table.astype(pandas.SparseDtype("float32")), xarray.Variable(("a", "b"), x)):
        y = one(given)
        assert type(y) is np.ndarray
        np.testing.assert_array_equal(y, one(np.asarray(given)))
    wrapped = xarray.DataArray(library("array_api_strict").asarray(x))
    np.testing.assert_array_equal(one(wrapped), one(x))


# Refused arrays: by library, how they are made from a NumPy array, and the hint in the message.
REFUSED = {
    "gradient": (
        "torch",
        lambda torch, a: torch.tensor(a, requires_grad=True),
        r"autograd sees nothing of this layer; .*lcnumba\.torch\.LocallyConnected2d, and otherwise pass \.detach\(\)",
    ),
    "parameter": ("torch", lambda torch, a: torch.nn.Parameter(torch.tensor(a)), r"pass \.detach\(\)"),
    "list of gradients": (
        "torch", lambda torch, a: list(torch.tensor(a, requires_grad=True)), r"\.detach\(\)|multiply"
    ),
    "device": ("torch", lambda torch, a: torch.tensor(a, device="meta"), "type='meta'.*; move it to the CPU first"),
    "bfloat16": ("torch", lambda torch, a: torch.tensor(a).bfloat16(), r"bfloat16; cast it .* with \.float\(\)"),
    "conjugate": (
        "torch", lambda torch, a: torch.complex(*[torch.tensor(a)] * 2).conj(), "resolve_conj|cast it with"
    ),
    "sparse tensor": ("torch", lambda torch, a: torch.tensor(a).to_sparse(), r"\.to_dense\(\)"),
    "masked tensor": (
        "torch",
        lambda torch, a: torch.masked.masked_tensor(torch.tensor(a), torch.tensor(a) > 0),
        "pass a plain tensor",
    ),
    "fake tensor": ("torch", lambda torch, a: fake(torch, a), "pass a plain tensor"),
    "jax bfloat16": (
        "jax",
        lambda jax, a: jax.numpy.asarray(a, jax.numpy.bfloat16),
        r"bfloat16; cast it to float32 with \.astype\('float32'\)",
    ),
    "sharded": ("jax", lambda jax, a: sharded(jax, a), "move it to the CPU first"),
    "dask": ("dask.array", lambda da, a: da.from_array(a), r"dask\.array\.map_blocks"),
    "list of dask": ("dask.array", lambda da, a: [da.from_array(a)], r"dask\.array\.map_blocks|multiply"),
    "xarray of dask": (
        "xarray", lambda xarray, a: xarray.DataArray(a).chunk(), r"xarray\.apply_ufunc, or \.compute\(\)|own type"
    ),
    "COO": ("sparse", lambda sparse, a: sparse.COO.from_numpy(a), r"\.todense\(\)"),
    "GCXS": ("sparse", lambda sparse, a: sparse.GCXS.from_numpy(a), r"\.todense\(\)"),
    "DOK": ("sparse", lambda sparse, a: sparse.DOK.from_numpy(a), r"\.todense\(\)"),
    "csr": ("scipy.sparse", lambda scipy, a: scipy.csr_array(a.reshape(len(a), -1)), r"\.toarray\(\)"),
    "csr matrix": ("scipy.sparse", lambda scipy, a: scipy.csr_matrix(a.reshape(len(a), -1)), r"\.toarray\(\)"),
    "device of strict": (
        "array_api_strict", lambda xp, a: xp.asarray(a, device=xp.Device("device1")), "move it to the CPU first"
    ),
}  # fmt: skip


def fake(torch, array):
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode().from_tensor(torch.tensor(array))


def sharded(jax, array):
    devices = jax.sharding.Mesh(np.array(jax.devices()), ("a",))
    spec = jax.sharding.PartitionSpec("a" if len(array) % 2 == 0 else None)
    return jax.device_put(array, jax.sharding.NamedSharding(devices, spec))


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_every_entrance_refuses_with_a_remedy(entrance, kind, request):
    name, make, hint = REFUSED[kind]
    module = request.getfixturevalue(name) if name in ("torch", "jax") else library(name)
    if kind in ("dask", "xarray of dask") and entrance in LAZY:
        check(Call(entrance, lambda a: make(module, a)), plain(entrance, "float32"), np.ndarray)  # read piece by piece
        return
    with pytest.raises(TypeError, match=hint):
        Call(entrance, lambda a: make(module, a))


@pytest.mark.parametrize("dtype", ["float16", "complex64"])
@pytest.mark.parametrize("name", ["torch", "jax", "array_api_strict"])
def test_dtypes_that_are_not_computed_in(name, dtype):
    module = library(name)
    if (name, dtype) == ("array_api_strict", "float16"):
        return  # it has none
    make = WELCOME[name][0]
    x = make(module, X.astype(dtype))
    # The cast in the words of the library: a tensor has no astype.
    cast = {
        "torch": r"\.float\(\)",
        "jax": r"\.astype\('float32'\)",
        "array_api_strict": r"astype\(x, float32\) of its namespace",
    }[name]  # fmt: skip
    message = rf"has dtype {dtype}, .*cast it with {cast}" + (".* after" if dtype == "complex64" else "")
    for one in (layer(), network(), lc.Activation("relu")):
        with pytest.raises(TypeError, match=message):
            one(x)
    y, backward = layer().forward(X)
    with pytest.raises(TypeError, match=message):
        backward(make(module, y.astype(dtype)))


@pytest.mark.parametrize(
    "entrance", ["layer(x)", "backward(dy)", "backward.step(dy)", "predict(x)", "fit(x)", "set_weights"]
)
@pytest.mark.parametrize("change", ["jit", "grad", "vmap"])
def test_tracers_of_jax_are_refused(change, entrance, jax):
    def traced(make):
        def inner(array):
            Call(entrance, make(array))
            return array.sum()

        return getattr(jax, change)(inner)

    for make in (lambda a: lambda _: a, lambda a: lambda _: [a]):
        with pytest.raises(
            TypeError, match=r"a tracer inside .*; there use lcnumba\.jax\.locally_connected, .* outside of jax\.jit"
        ):
            traced(make)(jax.numpy.asarray(X))


def test_sparse_arrays_keys_and_deleted_arrays_of_jax_are_refused(jax):
    sparse = importlib.import_module("jax.experimental.sparse").BCOO.fromdense(X)
    for refuses in (layer(), network().predict):
        with pytest.raises(TypeError, match=r"x is a jax BCOO; make it dense with \.todense\(\)"):
            refuses(sparse)
    with pytest.raises(TypeError, match=r", not an array of numbers: .*key_data"):
        layer()(jax.random.key(0))
    x = jax.numpy.asarray(X) + 1
    x.delete()
    with pytest.raises(RuntimeError, match="deleted"):
        layer()(x)


def test_tables_with_gaps_or_text_are_refused():
    pandas = library("pandas")
    table = pandas.DataFrame(X.reshape(2, -1)).astype("Float32")
    table.iloc[0, 0] = pandas.NA
    for given in (table, table.astype(str), table.fillna(0).astype({1: bool})):
        with pytest.raises(TypeError, match="x is a DataFrame, not an array of numbers"):
            lc.Dense(2)(given)


def test_results_stay_on_the_device_of_the_input(torch):
    """Also if the library's default device is another one."""
    x = torch.from_numpy(X.copy())
    with torch.device("meta"):
        y, backward = layer().forward(x)
        dx = backward(y)[0]
    assert y.device.type == dx.device.type == "cpu"
    np.testing.assert_array_equal(y, layer()(X))


def test_results_stay_on_the_device_of_jax(jax):
    first, second = jax.devices()[:2]
    for device in (first, second):
        assert layer()(jax.device_put(X, device)).devices() == {device}
    free = layer()(jax.numpy.asarray(X))  # uncommitted: it moves to the device of committed arrays
    assert (free + jax.device_put(1.0, second)).devices() == {second}


def test_without_its_x64_jax_has_float32_only(jax):
    y = layer("float64")(jax.numpy.asarray(X))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, layer("float64")(X).astype(np.float32))


def test_a_loader_of_torch_gives_the_batches(torch):
    data = torch.utils.data.TensorDataset(torch.from_numpy(X.copy()), torch.ones(2, 3))
    ours, theirs = network(), network()
    theirs.fit(torch.utils.data.DataLoader(data, batch_size=1), epochs=2, progress=False)
    ours.fit([(X[:1], np.ones((1, 3))), (X[1:], np.ones((1, 3)))], epochs=2, progress=False)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


ORDER = """
import numba, numpy as np, lcnumba as lc
from lcnumba.testing import integers
rng = np.random.default_rng(0)
x, kernel = integers(rng, (8, 40, 40, 4)), integers(rng, (38 * 38, 36, 8))
weights = [kernel, np.zeros((38, 38, 8), np.float32)]
layers = [lc.LocallyConnected2D(8, 3, weights=weights, implementation=number) for number in (1, 2)]
windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2)).transpose(0, 1, 2, 4, 5, 3).reshape(8, -1, 36)
expected = np.matmul(windows.transpose(1, 0, 2), kernel).transpose(1, 0, 2).reshape(8, 38, 38, 8)
def ours():
    threads = numba.get_num_threads()
    for layer in layers:
        y, backward = layer.forward(x)
        assert np.array_equal(y, expected)
        assert np.array_equal(backward(y)[1].bias, y.sum(axis=0))
    assert numba.get_num_threads() == threads
def torch():
    import torch
    threads = torch.get_num_threads()
    a = torch.from_numpy(windows.transpose(1, 0, 2).copy())
    y = torch.bmm(a, torch.from_numpy(kernel))
    assert np.array_equal(y.numpy().transpose(1, 0, 2).reshape(expected.shape), expected)
    assert np.array_equal(layers[0](torch.from_numpy(x)), expected)
    assert torch.get_num_threads() == threads
def jax():
    import jax
    y = jax.jit(jax.numpy.matmul)(windows.transpose(1, 0, 2), kernel)
    assert np.array_equal(np.asarray(y).transpose(1, 0, 2).reshape(expected.shape), expected)
    assert np.array_equal(layers[0](jax.numpy.asarray(x)), expected)
"""


@pytest.mark.parametrize("name", ["torch", "jax"])
@pytest.mark.parametrize("order", ["ours, {0}, ours, {0}", "{0}, ours, {0}, ours"])
def test_both_work_in_one_process_in_either_order(order, name):
    library(name)
    calls = "".join(f"{call}()\n" for call in order.format(name).split(", "))
    first = f"import {name} as first\n" if order.startswith("{0}") else ""
    done = subprocess.run(
        [sys.executable, "-c", first + ORDER + calls], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_half_precision_targets_pass_where_their_loss_takes_them():
    torch = library("torch")
    model = lc.Sequential([lc.Dense(1, input_shape=(3,))])
    model.fit(torch.ones(4, 3), torch.ones(4, 1).half(), loss="mse", progress=False)
