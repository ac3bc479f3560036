import base64
import copy
import json
import pickle
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import PROBLEMS, spec_of

import lcnumba as lc
from lcnumba import functional, reference
from lcnumba.functional import Spec
from lcnumba.testing import integers


@pytest.mark.parametrize("with_out", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_maps_are_those_of_the_reference(problem, dtype, with_out, rng):
    spec, (x, kernel, bias, dy) = spec_of(problem), problem.data(rng, dtype)
    dx, dkernel, dbias = reference.backward(x, kernel, dy, **problem.settings)
    expected = {
        "y": reference.forward(x, kernel, bias, **problem.settings), "one bias": None, "dx": dx, "dkernel": dkernel,
        "both": (dx, dkernel), "dbias": dbias,
    }  # fmt: skip
    expected["one bias"] = reference.forward(x, kernel, np.broadcast_to(bias[(0,) * (bias.ndim - 1)], bias.shape),
                                             **problem.settings)  # fmt: skip

    def out(array):
        return np.full(array.shape, np.nan, dtype) if with_out else None

    found = {
        "y": functional.apply(spec, x, kernel, bias, out=out(dy)),
        "one bias": functional.apply(spec, x, kernel, bias[(0,) * (bias.ndim - 1)].copy(), out=out(dy), n_threads=1),
        "dx": functional.input_gradient(spec, kernel, dy, out=out(x)),
        "dkernel": functional.weight_gradient(spec, x, dy, out=out(kernel)),
        "both": functional.gradients(spec, x, kernel, dy, out=(out(x), out(kernel))),
        "dbias": functional.bias_gradient(spec, dy, out=out(bias)),
    }
    for name, value in expected.items():
        for array, right in zip(*((a if name == "both" else [a]) for a in (found[name], value)), strict=True):
            assert array.dtype == dtype
            np.testing.assert_array_equal(array, right)


@pytest.mark.parametrize("mask_axes", [0, 2, 3])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_gradients_of_the_gradients_are_the_maps_again(problem, mask_axes, rng):
    """The rules of the module's docstring, by which frameworks differentiate twice: each is an identity of sums."""
    x, kernel, _, dy = problem.data(rng, np.float64)
    spec = spec_of(problem, kernel_mask=rng.random(kernel.shape[:mask_axes]) < 0.6 if mask_axes else None)
    kernel = integers(rng, kernel.shape, np.float64)  # also of connections that do not exist
    u, v = integers(rng, x.shape, np.float64), integers(rng, kernel.shape, np.float64)
    by_kernel, by_dy = functional.weight_gradient(spec, u, dy), functional.apply(spec, u, kernel)
    total = (u * functional.input_gradient(spec, kernel, dy)).sum()
    assert total == (by_kernel * kernel).sum() == (by_dy * dy).sum()
    by_x, by_dy = functional.input_gradient(spec, v, dy), functional.apply(spec, x, v)
    total = (v * functional.weight_gradient(spec, x, dy)).sum()
    assert total == (by_x * x).sum() == (by_dy * dy).sum()


@pytest.mark.parametrize("width", [2, 3])
def test_masks(width, rng):
    mask = rng.random((20, 12, 4)[:width]) < 0.6
    spec = Spec((5, 6, 3), 4, 2, kernel_mask=mask)
    exists = np.broadcast_to(spec.exists, spec.kernel_shape)
    x, dy = integers(rng, (3, 5, 6, 3)), integers(rng, (3, 4, 5, 4))
    kernel = integers(rng, spec.kernel_shape)
    masked, windows = (
        np.where(exists, kernel, 0),
        {"kernel_size": (2, 2), "strides": (1, 1), "dilation": (1, 1), "padding": "valid"},
    )
    y, dx = reference.forward(x, masked, None, **windows), reference.backward(x, masked, dy, **windows)[0]
    dkernel = np.where(exists, reference.backward(x, masked, dy, **windows)[1], 0)
    layer = lc.LocallyConnected2D(4, 2, kernel_mask=mask, use_bias=False, weights=[masked], input_shape=(5, 6, 3))
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_array_equal(functional.apply(spec, x, masked), y)
    for weights in (masked, kernel, np.where(exists, kernel, np.nan).astype(np.float32)):
        before = weights.copy()
        np.testing.assert_array_equal(functional.apply(spec, x, weights), y)
        np.testing.assert_array_equal(functional.input_gradient(spec, weights, dy), dx)
        found = functional.gradients(spec, x, weights, dy)
        np.testing.assert_array_equal(found[0], dx)
        np.testing.assert_array_equal(found[1], dkernel)
        np.testing.assert_array_equal(weights, before)


@st.composite
def specs(draw):
    rank = draw(st.integers(1, 3))
    numbers = st.lists(st.integers(1, 3), min_size=rank, max_size=rank).map(tuple)
    modes = st.lists(st.sampled_from(["zeros", "circular"]), min_size=rank, max_size=rank).map(tuple)
    windows = {"strides": draw(numbers), "dilation_rate": draw(numbers), "padding_mode": draw(modes),
               "padding": draw(st.sampled_from(["valid", "same"]))}  # fmt: skip
    size = (*[draw(st.integers(7, 9)) for _ in range(rank)], draw(st.integers(1, 2)))
    spec = Spec(size, draw(st.integers(1, 3)), draw(numbers), **windows)
    if draw(st.booleans()):
        shape = spec.kernel_shape[: draw(st.integers(2, 3))]
        mask = np.random.default_rng(draw(st.integers(0, 9))).random(shape) < 0.5
        spec = Spec(size, spec.filters, spec.kernel_size, **windows, kernel_mask=mask)
    return spec


@settings(max_examples=60)
@given(specs(), specs())
def test_specs_are_equal_by_value_and_come_back_from_their_text(one, other):
    for again in (Spec.from_text(one.text), pickle.loads(pickle.dumps(one)), copy.deepcopy(one), copy.copy(one)):
        assert again == one
        assert hash(again) == hash(one)
        assert {one: 1}[again] == 1
        assert again.text == one.text
        assert again.kernel_shape == one.kernel_shape
        np.testing.assert_array_equal(again.kernel_mask, one.kernel_mask)
    assert (one == other) == (one.text == other.text)
    assert one != one.text


def test_the_text_is_the_same_in_another_process_and_names_only_what_differs():
    spec = Spec([6, 5, 2], 3, 2, strides=(1, 1), padding="same", kernel_mask=np.eye(30, 8) != 0)
    code = (
        "import numpy as np; from lcnumba.functional import Spec; "
        "print(Spec((6, 5, 2), np.int64(3), (2, 2), padding='same', kernel_mask=np.eye(30, 8) != 0).text)"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == spec.text
    assert "strides" not in spec.text
    assert repr(spec) == "Spec((6, 5, 2), 3, (2, 2), padding='same', kernel_mask=<(30, 8)>)"
    assert Spec((3, 1), 1, 1).text != Spec((3, 1), 1, 1, padding="same").text


def test_one_spec_for_all_calls_with_a_text():
    text = Spec((9, 1), 2, 3).text
    assert Spec.from_text(text) is Spec.from_text(str(text + " ").strip())


def test_foreign_texts_are_refused():
    text = Spec((9, 7), 2, 3).text
    with pytest.raises(ValueError, match=r"is not the text of a Spec: its digest differs"):
        Spec.from_text("0" * 32 + text[32:])
    later = functional._digest('{"later":2}') + '{"later":2}'
    with pytest.raises(ValueError, match="has later, which this version of lcnumba does not know"):
        Spec.from_text(later)


def test_specs_are_immutable():
    spec = Spec((9, 1), 2, 3, kernel_mask=np.ones((7, 3), bool))
    with pytest.raises(AttributeError, match="strides of a Spec cannot be set: it is immutable"):
        spec.strides = (2,)
    with pytest.raises(ValueError, match="read-only"):
        spec.kernel_mask[0, 0] = False


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((5,), 1, 1), ValueError, r"input_shape=\(5,\) has 1 entries; give 2 to 4"),
        (((5, 5, 5, 5, 1), 1, 1), ValueError, "give 2 to 4"),
        ((7, 1, 1), TypeError, "input_shape=7 is a int; give a tuple"),
        (((5, None), 1, 1), TypeError, "input_shape=None is a NoneType"),
        (((5, 0), 1, 1), ValueError, "input_shape=0 is too small"),
        (((5, 1), 0, 1), ValueError, "filters=0 is too small"),
        (((5, 1), 1, 6), ValueError, r"kernel_size=\(6,\) does not fit input \(5,\)"),
        (((5, 1), 1, (2, 2)), ValueError, r"kernel_size=\(2, 2\) has 2 entries"),
        (((5, 1), 1, 2, 1, "full"), ValueError, "padding='full'"),
    ],
)
def test_bad_specs(arguments, error, message):
    with pytest.raises(error, match=message):
        Spec(*arguments)
    with pytest.raises(ValueError, match=r"kernel_mask has shape \(3, 1\); the kernel has shape \(4, 2, 1\)"):
        Spec((5, 1), 1, 2, kernel_mask=np.ones((3, 1), bool))


SPEC = Spec((5, 2), 3, 2)
X, KERNEL, BIAS, DY = (np.ones(shape, np.float32) for shape in ((7, 5, 2), (4, 4, 3), (4, 3), (7, 4, 3)))
MAPS = {
    "apply": lambda spec=SPEC, x=X, kernel=KERNEL, dy=None, **rest: functional.apply(spec, x, kernel, **rest),
    "input_gradient": lambda kernel=KERNEL, dy=DY, **rest: functional.input_gradient(SPEC, kernel, dy, **rest),
    "weight_gradient": lambda x=X, dy=DY, **rest: functional.weight_gradient(SPEC, x, dy, **rest),
    "gradients": lambda x=X, kernel=KERNEL, dy=DY, **rest: functional.gradients(SPEC, x, kernel, dy, **rest),
    "bias_gradient": lambda dy=DY, **rest: functional.bias_gradient(SPEC, dy, **rest),
}
SHAPES = {"x": X, "kernel": KERNEL, "dy": DY}


def calls(*maps):
    return [(name, argument) for name in maps or MAPS for argument in MAPS[name].__code__.co_varnames
            if argument in SHAPES and not (name == "apply" and argument == "dy")]  # fmt: skip


@pytest.mark.parametrize(("name", "argument"), calls())
def test_bad_arrays_are_refused(name, argument):
    call, good = MAPS[name], SHAPES[argument]

    def refused(value, error, message):
        with pytest.raises(error, match=message):
            call(**{argument: value})

    refused(good.tolist(), TypeError, f"{argument} is a builtins list; give a NumPy array")
    refused(np.ma.masked_equal(good, 3), TypeError, f"{argument} is a numpy MaskedArray")
    refused(good[..., None], ValueError, rf"{argument} has shape \(.*\); give shape \(")
    refused(np.ones((), np.float32), ValueError, rf"{argument} has shape \(\)")
    if name != "bias_gradient":
        refused(good.astype(np.float64), TypeError, "has dtype float.., and .* float..; give the same: ")
    refused(good.astype(np.int32), TypeError, "int32")
    refused(good.astype(">f4"), TypeError, ">f4")
    refused(np.asfortranarray(good), TypeError, f"{argument} is not C-contiguous")
    refused(np.repeat(good, 2, axis=0)[::2], TypeError, f"{argument} is not C-contiguous")


@pytest.mark.parametrize("name", ["weight_gradient", "gradients"])
def test_as_many_samples(name):
    with pytest.raises(ValueError, match=r"dy has shape \(6, 4, 3\), and x \(7, 5, 2\); give as many samples of both"):
        MAPS[name](dy=DY[:6])


@pytest.mark.parametrize("name", MAPS)
def test_bad_targets_are_refused_and_stay_as_they_are(name):
    good = MAPS[name]()
    good = good[0] if name == "gradients" else good

    def refused(out, error, message):
        before = out.copy()
        with pytest.raises(error, match=message):
            MAPS[name](out=(out, None) if name == "gradients" else out)
        np.testing.assert_array_equal(out, before)

    refused(good[:-1], ValueError, "has shape")
    refused(good.astype(np.float64), TypeError, "has dtype float64")
    read_only = good.copy()
    read_only.setflags(write=False)
    refused(read_only, ValueError, "is read-only")


def test_targets_that_share_memory_are_refused():
    spec, x = Spec((4, 1), 1, 1), np.ones((2, 4, 1))
    for call, name in (
        (lambda out: functional.apply(spec, x, np.ones((4, 1, 1)), out=out), "x"),
        (lambda out: functional.input_gradient(spec, np.ones((4, 1, 1)), x, out=out), "dy"),
    ):
        with pytest.raises(ValueError, match=f"out shares memory with {name}, which is in use meanwhile"):
            call(x)
    out = np.ones((2, 4, 1))
    spec = Spec((4, 1), 1, 1)
    square = np.ones((4, 1, 1))
    with pytest.raises(ValueError, match=r"out\[1\] shares memory with out\[0\]"):
        functional.gradients(spec, square[None, :, :, 0], square * 1, square[None, :, :, 0],
                             out=(out[:1], out[0, :, :, None]))  # fmt: skip
    with pytest.raises(TypeError, match="out=None must be a pair"):
        functional.gradients(spec, x, square, x, out=None)


def test_no_samples():
    y = functional.apply(SPEC, X[:0], KERNEL, BIAS)
    assert y.shape == (0, 4, 3)
    dx, dkernel = functional.gradients(SPEC, X[:0], KERNEL, DY[:0])
    assert dx.shape == (0, 5, 2)
    assert not dkernel.any()
    assert dkernel.shape == KERNEL.shape


def test_a_mapped_file_is_read_in_place(tmp_path):
    stored = np.memmap(tmp_path / "kernel", np.float32, "w+", shape=KERNEL.shape)
    stored[:] = KERNEL
    np.testing.assert_array_equal(functional.apply(SPEC, X, stored), functional.apply(SPEC, X, KERNEL))


# --- connections that are given one by one

TOPOLOGY = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (4, 1), (5, 1), (0, 3), (5, 3)]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("filters", [1, 3])
def test_given_connections_are_the_layer(channels, filters, rng):
    spec = functional.DirectedSpec(TOPOLOGY, channels, filters, mask_shape=(6, 4))
    layer = lc.LocallyDirected1D(TOPOLOGY, filters, mask_shape=(6, 4), input_shape=(6, channels), dtype="float64")
    layer.build((None, 6, channels))
    assert (spec.input_shape, spec.output_shape, spec.kernel_shape) == ((6, channels), (4, filters), layer.kernel.shape)
    x, kernel, bias = (integers(rng, s, np.float64) for s in ((5, 6, channels), spec.kernel_shape, (4, filters)))
    layer.set_weights([kernel, bias])
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(functional.apply(spec, x, kernel, bias), y)
    row = bias[0].copy()
    np.testing.assert_array_equal(functional.apply(spec, x, kernel, row), functional.apply(spec, x, kernel) + row)
    dy = integers(rng, y.shape, np.float64)
    dx, grads = backward(dy)
    np.testing.assert_array_equal(functional.input_gradient(spec, kernel, dy, out=np.full_like(x, np.nan)), dx)
    np.testing.assert_array_equal(functional.weight_gradient(spec, x, dy), grads.kernel)
    for found, expected in zip(functional.gradients(spec, x, kernel, dy), (dx, grads.kernel), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(functional.bias_gradient(spec, dy), grads.bias)
    with pytest.raises(ValueError, match=r"kernel has shape \(1, .*; give shape \(9, "):
        functional.apply(spec, x, kernel[:1])


def test_the_text_of_given_connections():
    spec = functional.DirectedSpec(TOPOLOGY, 2, 3, mask_shape=(6, 4))
    functional._known.clear()
    again = Spec.from_text(spec.text)
    assert again == spec
    assert again is not spec
    assert again.mask == spec.mask
    assert pickle.loads(pickle.dumps(spec)) == copy.deepcopy(spec) == spec
    assert hash(spec) == hash(again)
    assert spec != functional.DirectedSpec(TOPOLOGY, 2, 4, mask_shape=(6, 4))
    assert repr(spec) == "DirectedSpec(<Topology: 6 inputs, 4 outputs, 9 connections>, 2, 3)"
    with pytest.raises(AttributeError, match="filters of a DirectedSpec cannot be set"):
        spec.filters = 4


def packed(*numbers):
    return base64.b64encode(zlib.compress(np.diff(numbers, prepend=0).astype("<i8").tobytes())).decode()


@pytest.mark.parametrize(
    "changed",
    [
        {"indptr": packed(0, 1, 2, 3, 3)},
        {"indptr": packed(0, 1)},
        {"indptr": packed(0, 1, 2, -1)},
        {"indptr": "!"},
        {"indptr": base64.b64encode(b"no zlib").decode()},
        {"indices": 3},
        {"indices": packed(0, 1, 2, 3)},
        {"shape": [3]},
        {"shape": "3"},
    ],
)
def test_a_text_of_an_invalid_mask_is_refused(changed):
    spec = functional.DirectedSpec(np.eye(3))
    fields = json.loads(spec.text[functional.DIGEST :])
    fields["mask"] |= changed
    config = json.dumps(fields)
    text = functional._digest(config) + config
    with pytest.raises(ValueError, match="the text of a DirectedSpec has an invalid mask"):
        Spec.from_text(text)


def test_no_more_of_a_text_is_decompressed_than_its_shape_declares():
    spec = functional.DirectedSpec(np.eye(3))
    fields = json.loads(spec.text[functional.DIGEST :])
    fields["mask"]["indptr"] = base64.b64encode(zlib.compress(bytes(1 << 26))).decode()
    config = json.dumps(fields)
    text = functional._digest(config) + config
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="does not have the 4 numbers"):
            Spec.from_text(text)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()
