"""Records: both sides of a kernel's arguments follow from one definition."""

import copy
import gc
import pickle
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

import lcnumba as lc
from lcnumba.kernels import vectors
from lcnumba.kernels.jit import Kernel, Launches
from lcnumba.kernels.records import Fields, address, array_at, reader

FIELDS = Fields("first second third", "share")
read = reader(FIELDS.dtype)
pytestmark = pytest.mark.kernels

jitted = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")


def test_a_kernel_reads_what_was_packed():
    def told(worker, record):
        r = read(record)
        out = array_at(r.third, (2, 3), np.float64)
        out[0, 0], out[0, 1], out[0, 2] = r.first, r.second, r.share
        out[1, 0], out[1, 1], out[1, 2] = r.workers, worker, len(out)

    out = np.zeros((2, 3))
    Kernel(told, FIELDS)(first=-7, second=1 << 40, third=out, share=-np.inf, threads=1)
    assert out.tolist() == [[-7, 1 << 40, -np.inf], [1, 0, 2]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"first": 1, "second": 2, "third": 3}, r"missing \['share'\], unknown \[\]"),
        ({"first": 1, "second": 2, "third": 3, "share": 0.5, "more": 1}, r"missing \[\], unknown \['more'\]"),
    ],
)
def test_a_field_on_one_side_only_is_an_error(values, message):
    with pytest.raises(TypeError, match=message):
        FIELDS.pack(values)


@jitted
def test_a_field_that_only_the_kernel_knows_is_an_error():
    @numba.njit
    def reads(record):
        return read(record).fourth

    with pytest.raises((numba.TypingError, KeyError), match="fourth"):
        reads(0)


def test_launches_replace_the_fields_of_each_call():
    fields = Fields("first third", "share", each_call="second fourth")
    read = reader(fields.dtype)

    def told(worker, record):
        r = read(record)
        array_at(r.third, 1, np.int64)[0] = r.first + r.second + r.fourth + r.share

    kernel, out = Kernel(told, fields), np.zeros(1, np.int64)
    launches = Launches(kernel, 1, {"first": 1, "third": out, "share": 2.0})
    launches.run({"second": 5, "fourth": 10})
    assert out[0] == 18
    launches.run({"fourth": 20, "second": 7})
    assert out[0] == 30, "a launch runs again"
    kernel(first=1, second=2, third=out, fourth=3, share=0.0, threads=1)
    assert out[0] == 6
    with pytest.raises(KeyError, match="fourth"):
        launches.run({"second": 1})
    with pytest.raises(TypeError, match="unknown \\['fifth'\\]"):
        Launches(kernel, 1, {"fifth": 1})


def test_kept_launches_serve_all_kinds_of_calls():
    """With and without bias, ReLU and rules, from several threads: small layers reuse records and scratch memory."""
    settings = {"input_shape": (4, 5, 2), "rng": 0}
    layers = [
        lc.LocallyConnected2D(3, 2, activation=activation, use_bias=bias, optimizer=optimizer, **settings)
        for activation in ("relu", None) for bias in (True, False) for optimizer in ("sgd", "adam")
    ]  # fmt: skip
    x = np.random.default_rng(0).integers(-3, 4, (5, 4, 5, 2)).astype(np.float32)

    def results(layer):
        y, backward = layer.forward(x)
        dx, grads = backward(np.ones_like(y))
        return [y, dx, grads.kernel, backward.step(np.ones_like(y), lr=0.0)]

    for layer in layers:
        layer(x)
    expected = [results(copy.deepcopy(layer)) for layer in layers]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            for layer, values in zip(layers, expected, strict=True):
                twins = [copy.deepcopy(layer) for _ in range(4)]
                for twin in twins[1:]:  # one set of plans for all threads
                    twin.__dict__["_implementation"] = twins[0]._implementation
                for found in pool.map(results, twins):
                    for a, b in zip(found, values, strict=True):
                        np.testing.assert_array_equal(a, b)


def test_addresses():
    whole = np.zeros((4, 5))
    frozen = whole.view()
    frozen.flags.writeable = False
    for array in (whole, whole[1:], whole[2, 3:], frozen, np.empty(0), np.zeros(())):
        assert address(array) == array.ctypes.data


def test_arrays_that_are_not_contiguous_are_refused():
    with pytest.raises(ValueError, match="third must be C-contiguous"):
        FIELDS.slot("third", np.zeros((4, 4))[:, ::2])


def test_names_of_fields_differ():
    with pytest.raises(ValueError, match="must differ"):
        Fields("first second first")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copied_layer_makes_records_of_its_own(copied):
    """Those of the original hold addresses of its tables."""
    layer = lc.LocallyConnected2D(2, (2, 3), padding="same", kernel_initializer="ones", input_shape=(5, 6, 3))
    x = np.ones((4, 5, 6, 3), np.float32)
    expected = layer(x)
    layer.forward(x)[1](np.ones_like(expected))
    implementation = layer._implementation
    other = copied(implementation)
    assert bool(implementation._plans) == bool(implementation._forward_plans) == vectors.TILED
    assert not other._plans
    assert not other._forward_plans
    twin = copied(layer)
    del layer, implementation
    gc.collect()
    y, backward = twin.forward(x)
    np.testing.assert_array_equal(y, expected)
    assert backward(np.ones_like(y))[0].sum() == y.sum(), "both count the connections"
