"""The layer of connections given one by one."""

import copy
import json
import pickle
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

import lcnumba as lc
from lcnumba.formats import npz
from lcnumba.implementations.directed import FUSED
from lcnumba.kernels import vectors
from lcnumba.mpi.model import _check_layer
from lcnumba.runtime import memory
from lcnumba.testing import integers, numerical_gradient

# Variants 0, 1, 2 -> gene 0; 2, 3, 4, 5 -> gene 1.
PAIRS = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (4, 1), (5, 1)]
GENES = {"mask": PAIRS, "mask_shape": (6, 2)}


def genes(**settings):
    return lc.LocallyDirected1D(**{**GENES, "rng": 0, **settings})


def network(dtype="float32", optimizer="adam"):
    model = lc.Sequential([
        genes(filters=2, activation="tanh", input_shape=(6, 1), dtype=dtype),
        lc.LocallyDirected1D([[1, 1, 0], [0, 1, 1]], activation="relu", rng=1, dtype=dtype),
        lc.Flatten(),
        lc.Dense(1, rng=2, dtype=dtype),
    ])  # fmt: skip
    model.compile(optimizer, loss="mse", lr=0.01)
    return model


def genotypes(rng, samples=40):
    x = rng.integers(0, 3, (samples, 6, 1)).astype(np.int8)
    return x, (x[:, 1] - 0.5 * x[:, 4]).astype(np.float32)


def test_genes_are_sums_of_their_variants():
    layer = genes(kernel_initializer="ones")
    x = np.arange(1, 7).reshape(1, 6, 1)
    np.testing.assert_array_equal(layer(x)[0, :, 0], [6, 18])
    assert layer.output_shape == (None, 2, 1)
    assert [w.shape for w in layer.weights] == [(7, 1, 1), (2, 1)]
    assert layer.count_params() == 9
    _, backward = layer.forward(x)
    dx, grads = backward([[[1.0], [10.0]]])
    np.testing.assert_array_equal(dx[0, :, 0], [1, 1, 11, 10, 10, 10])
    np.testing.assert_array_equal(grads.kernel[:, 0, 0], [1, 2, 3, 30, 40, 50, 60])
    np.testing.assert_array_equal(grads.bias[:, 0], [1, 10])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_full_mask_is_a_dense_layer(dtype, rng):
    layer, dense = lc.LocallyDirected1D(np.ones((9, 4)), dtype=dtype), lc.Dense(4, dtype=dtype)
    x, kernel, bias = (integers(rng, shape, dtype) for shape in ((5, 9), (9, 4), (4,)))
    layer.build((None, 9, 1))
    dense.build((None, 9))
    layer.set_weights([kernel.T.reshape(-1, 1, 1), bias[:, None]])
    dense.set_weights([kernel, bias])
    (y, backward), (expected, other) = layer.forward(x[..., None]), dense.forward(x)
    np.testing.assert_array_equal(y[..., 0], expected)
    dy = integers(rng, y.shape, dtype)
    (dx, grads), (dx_dense, grads_dense) = backward(dy), other(dy[..., 0])
    np.testing.assert_array_equal(dx[..., 0], dx_dense)
    np.testing.assert_array_equal(grads.kernel.reshape(4, 9).T, grads_dense.kernel)
    np.testing.assert_array_equal(grads.bias[:, 0], grads_dense.bias)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_the_windows_of_a_locally_connected_layer_are_a_mask(padding, rng):
    windows = lc.LocallyConnected1D(3, 3, strides=2, padding=padding, activation="relu")
    windows.build((None, 12, 2))
    exists = windows._geometry.exists.reshape(-1, 3, 2)[:, :, 0]
    index = windows._geometry.input_index.reshape(-1, 3, 2)[:, :, 0] // 2
    positions, taps = np.nonzero(exists)
    pairs = np.stack([index[positions, taps], positions], axis=1)
    layer = lc.LocallyDirected1D(pairs, 3, "relu", mask_shape=(12, windows.output_shape[1]))
    layer.build((None, 12, 2))
    windows.set_weights([integers(rng, w.shape) for w in windows.weights])
    layer.set_weights([windows.kernel.reshape(-1, 3, 2, 3)[exists], windows.bias])
    x = integers(rng, (17, 12, 2))
    (y, backward), (expected, other) = layer.forward(x), windows.forward(x)
    np.testing.assert_array_equal(y, expected)
    dy = integers(rng, y.shape)
    (dx, grads), (dx_windows, grads_windows) = backward(dy), other(dy)
    np.testing.assert_array_equal(dx, dx_windows)
    np.testing.assert_array_equal(grads.kernel, grads_windows.kernel.reshape(-1, 3, 2, 3)[exists])
    np.testing.assert_array_equal(grads.bias, grads_windows.bias)
    assert layer.count_params() == windows.count_params()


@pytest.mark.parametrize("activation", ["relu", "softmax", "tanh"])
def test_activation_gradients(activation, rng):
    layer = genes(filters=3, activation=activation, dtype="float64")
    x, dy = rng.standard_normal((3, 6, 2)), rng.standard_normal((3, 2, 3))
    dx = layer.forward(x)[1](dy)[0]
    np.testing.assert_allclose(dx, numerical_gradient(lambda v: float(np.sum(layer(v) * dy)), x), atol=1e-9)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool", "int16", "int64", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_dtypes_equal_floats(dtype, order, rng):
    x = np.asarray(rng.integers(0, 2 if dtype == "bool" else 3, (20, 6, 2)), dtype, order=order)
    results = []
    for given in (x, x.astype("float32", order="C")):
        layer = genes(filters=2, optimizer="adam")
        y, backward = layer.forward(given)
        dx, grads = backward(np.ones_like(y))
        stepped = backward.step(np.ones_like(y), 0.1)
        results.append([layer(given), y, dx, grads.kernel, grads.bias, stepped, *layer.get_weights()])
        assert all(array.dtype == np.float32 for array in results[-1])
        assert dx.nbytes <= backward.bytes_of_step <= dx.nbytes + grads.kernel.nbytes
    for array, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_genotypes_are_not_cast_as_a_whole(monkeypatch, rng):
    """Neither by the layer nor by `fit`: what its kernels get has the dtype of the data."""
    model = network()
    seen = []
    implementation = type(model.layers[0]._implementation)
    for name in ("apply", "fused_update"):
        original = getattr(implementation, name)

        def spy(self, x, *arguments, original=original, **settings):
            seen.append((self.topology.shape[0], x.dtype))
            return original(self, x, *arguments, **settings)

        monkeypatch.setattr(implementation, name, spy)
    x, y = genotypes(rng)
    model.fit(x, y, epochs=1, batch_size=16, progress=False, rng=0, validation_data=(x, y))
    model.predict(x)
    assert {dtype.name for inputs, dtype in seen if inputs == 6} == {"int8"}
    assert {dtype.name for inputs, dtype in seen if inputs == 2} == {"float32"}


def test_missing_values(rng):
    x = rng.integers(0, 3, (4, 6, 1)).astype(np.float32)
    x[1, 0, 0] = np.nan
    y = genes()(x)
    assert np.isnan(y[:, :, 0]).tolist() == [[False] * 2, [True, False], [False] * 2, [False] * 2]
    masked = np.ma.masked_equal(rng.integers(0, 3, (4, 6, 1), np.int8), 1)
    with pytest.raises(TypeError, match=r"x is a numpy MaskedArray; its mask would be ignored; fill it"):
        genes()(masked)


@pytest.mark.parametrize(
    "optimizer", [lc.SGD(), lc.SGD(momentum=0.5, nesterov=True), lc.Adam(), lc.RMSprop()], ids=repr
)
@pytest.mark.parametrize("wants_dx", [True, False])
def test_fused_steps_equal_unfused_ones(optimizer, wants_dx, rng):
    settings = {"filters": 2, "optimizer": optimizer, "kernel_regularizer": "l2", "kernel_constraint": "non_neg"}
    fused, unfused = genes(**settings), genes(**settings)
    x = integers(rng, (17, 6, 3))
    for _ in range(3):
        y, backward = fused.forward(x)
        _, other = unfused.forward(x)
        dy = integers(rng, y.shape)
        dx, grads = other(dy)
        unfused.step(grads, 0.125)
        stepped = backward.step(dy, 0.125, wants_dx=wants_dx)
        assert (stepped is not None) == wants_dx
        if wants_dx:
            np.testing.assert_array_equal(stepped, dx)
        for weight, expected in zip(fused.weights, unfused.weights, strict=True):
            np.testing.assert_allclose(weight, expected, rtol=1e-6)


@pytest.mark.skipif(not vectors.TILED, reason="fused steps need register tiles")
def test_a_step_needs_no_gradient_array_and_no_dx(monkeypatch, rng):
    layer = genes(filters=FUSED, optimizer="adam")
    y, backward = layer.forward(integers(rng, (17, 6, 1)))
    for name in ("_dkernel", "_dx"):
        monkeypatch.setattr(type(layer._implementation), name, lambda *_: pytest.fail("an array of the input's size"))
    backward.step(np.ones_like(y), 0.1, wants_dx=False)


@pytest.mark.skipif(not vectors.TILED, reason="plain loops cast the batch")
@pytest.mark.parametrize("filters", [4, FUSED])
def test_neither_the_batch_nor_the_weights_are_copied(filters, rng):
    layer = lc.LocallyDirected1D(sp.random(50_000, 200, 0.005, random_state=0), filters, optimizer="adam", rng=0)
    x = rng.integers(0, 3, (32, 50_000, 1), np.int8)
    y, backward = layer.forward(x)
    backward.step(np.ones_like(y), 0.1, wants_dx=False)  # compiles, and makes the optimizer's states
    tracemalloc.start()
    try:
        y, backward = layer.forward(x)
        backward.step(np.ones_like(y), 0.1, wants_dx=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes  # in floats the batch would have four times as much
    # The weights of a connection are less than a vector, and all their gradients are stored.
    stored = layer.kernel.nbytes if filters < FUSED else 0
    assert peak < stored + (2 << 20)
    assert layer.kernel.nbytes > 3 << 20 or filters < FUSED


def test_a_step_for_which_memory_is_missing_changes_no_layer(monkeypatch):
    layers = [genes(optimizer="adam"), lc.BatchNormalization(), lc.Flatten(), lc.Dense(2)]
    model = lc.Sequential(layers)
    y, backward = model.forward(np.ones((5, 6, 1), np.float32))
    backward.step(np.ones_like(y), 0.1)  # makes the optimizer's states
    y, backward = model.forward(np.ones((5, 6, 1), np.float32))
    before = model.get_weights()
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "available", lambda: (layers[0].kernel.nbytes, "this test"))
    with pytest.raises(MemoryError, match=r"a step of the model needs .* give fewer samples at a time"):
        backward.step(np.ones_like(y), 0.1)
    for weight, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)
    monkeypatch.undo()
    backward.step(np.ones_like(y), 0.1)


def test_steps_of_an_empty_batch_and_of_fixed_weights(rng):
    layer = genes(optimizer=lc.SGD(momentum=0.5))
    x = integers(rng, (5, 6, 1))
    y, backward = layer.forward(x)
    backward.step(np.ones_like(y), 0.5)
    before = layer.get_weights()
    y, backward = layer.forward(x[:0])
    assert y.shape == (0, 2, 1)
    assert backward.step(y, 0.5).shape == (0, 6, 1)
    assert (layer.kernel != before[0]).any()  # momentum
    layer.trainable = False
    before = layer.get_weights()
    y, backward = layer.forward(x)
    dx = backward(np.ones_like(y))[0]
    np.testing.assert_array_equal(backward.step(np.ones_like(y), 0.5), dx)
    assert layer.forward(x)[1].step(np.ones_like(y), 0.5, wants_dx=False) is None
    for weight, expected in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_initial_values_follow_the_degrees():
    mask = sp.random(2000, 300, 0.02, random_state=0)
    layers = {fans: lc.LocallyDirected1D(mask, 4, fans=fans, rng=0) for fans in ("degree", "keras")}
    for layer in layers.values():
        layer.build((None, 2000, 3))
    inputs, outputs = (mask.nnz / np.count_nonzero(np.diff(m.indptr)) for m in (mask.tocsc(), mask.tocsr()))
    limits = {"degree": round(inputs * 3) + round(outputs * 4), "keras": mask.nnz * 7}
    for fans, layer in layers.items():
        assert np.abs(layer.kernel).max() == pytest.approx(np.sqrt(6 / limits[fans]), rel=1e-3)
    assert genes().fans == "degree"


def test_a_config_makes_an_equal_layer():
    layer = genes(
        filters=3, activation="relu", use_bias=False, fans="keras", input_shape=(6, 2), kernel_regularizer="l1"
    )
    config = layer.get_config()
    again = lc.LocallyDirected1D.from_config(config)
    assert again.get_config() == config
    assert again.mask == layer.mask
    text = json.dumps(config, default=lambda array: array.tolist())
    assert lc.LocallyDirected1D.from_config(json.loads(text)).mask == layer.mask
    assert again.output_shape == (None, 2, 3)
    assert repr(again) == repr(layer)


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_have_their_own_weights(twin, rng):
    layer, x = genes(optimizer="adam"), integers(rng, (5, 6, 1))
    y, backward = layer.forward(x)
    backward.step(np.ones_like(y), 0.1)
    other = twin(layer)
    np.testing.assert_array_equal(other(x), layer(x))
    y, backward = other.forward(x)
    backward.step(np.ones_like(y), 0.1)
    assert (other(x) != layer(x)).any()


def test_a_network_is_trained_saved_and_resumed(tmp_path, rng):
    x, y = genotypes(rng)
    model = network()
    history = model.fit(x, y, epochs=60, batch_size=16, progress=False, rng=0).history["loss"]
    assert history[-1] < 0.2 * history[0]
    path = tmp_path / "model.npz"
    model.save(path)
    loaded = lc.load(path)
    np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded.layers[0].mask == model.layers[0].mask
    with np.load(path) as file:  # the mask's indices are arrays of the file
        assert file["array_1"].tolist() == model.layers[0].mask.indices.tolist()
        assert b"__array__" in file["config"].tobytes()
    model.save_weights(tmp_path / "weights.npz")
    other = network()
    other.load_weights(tmp_path / "weights.npz")
    np.testing.assert_array_equal(other(x), model(x))

    whole, first, second = network(), network(), network()
    settings = {"batch_size": 16, "progress": False, "rng": 3}
    whole.fit(x, y, epochs=4, **settings)
    checkpoint = tmp_path / "checkpoint.npz"
    first.fit(x, y, epochs=2, callbacks=[lc.callbacks.Checkpoint(checkpoint)], **settings)
    second.fit(x, y, epochs=4, resume=checkpoint, **settings)
    for weight, expected in zip(second.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)

    different = lc.Sequential([
        genes(mask=[(3, 0), *PAIRS[1:]], filters=2, activation="tanh", input_shape=(6, 1)), *network().layers[1:]
    ])  # fmt: skip
    different.compile("adam", loss="mse", lr=0.01)
    with pytest.raises(ValueError, match=r"mask of layer 0 \(LocallyDirected1D .* here and .* in the file"):
        different.fit(x, y, epochs=4, resume=checkpoint, **settings)


@pytest.mark.parametrize(
    ("array", "number", "message"),
    [
        (np.array([0, 1, 2, 2, 3, 4, 6]), 1, "inputs are 0 to 5"),
        (np.array([0, 3, 9]), 0, "do not belong together"),
        (np.array([{}], object), 1, "array_1"),
        (None, 1, "array_1"),
    ],
)
def test_a_damaged_mask_in_a_file_is_refused(array, number, message, tmp_path):
    path = tmp_path / "model.npz"
    model = lc.Sequential([genes(input_shape=(6, 1))])
    model.save(path)
    with np.load(path) as file:
        members = dict(file)
    del members[f"array_{number}"]
    if array is not None:
        members[f"array_{number}"] = array
    np.savez(path, **members)
    with pytest.raises(ValueError, match=message):
        lc.load(path)


def test_arrays_of_a_file_are_those_its_config_refers_to(tmp_path):
    path = tmp_path / "model.npz"
    lc.Sequential([genes(input_shape=(6, 1))]).save(path)
    with np.load(path) as file:
        members = dict(file)
    np.savez(path, **members, array_2=np.ones(3))
    with pytest.raises(ValueError, match="it holds 3 weights, but its config describes 2"):
        lc.load(path)
    text = members["config"].tobytes().replace(b'{"__array__": 1}', b'{"__array__": 0}')
    np.savez(path, **{**members, "config": np.frombuffer(text, np.uint8)})
    with pytest.raises(ValueError, match="array_0 is referenced twice"):
        npz.ModelFile(path)


def test_a_mask_is_read_from_and_written_to_a_file(tmp_path):
    path = tmp_path / "genes.npz"
    sp.save_npz(path, genes().mask.to_scipy())
    assert lc.LocallyDirected1D(path).mask == genes().mask


def test_a_path_in_a_config_is_not_read(tmp_path):
    path, other = tmp_path / "model.npz", tmp_path / "genes.npz"
    sp.save_npz(other, genes().mask.to_scipy())
    lc.Sequential([genes(input_shape=(6, 1))]).save(path)
    with np.load(path) as file:
        members = {name: array for name, array in file.items() if not name.startswith("array_")}
    config = json.loads(members["config"].tobytes())
    config["model"]["layers"][0]["config"]["mask"] = str(other)
    np.savez(path, **{**members, "config": np.frombuffer(json.dumps(config).encode(), np.uint8)})
    with pytest.raises(ValueError, match=r"the config has mask=.*, a path, which is not read"):
        lc.load(path)


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (lambda: genes(mask=[(0, 0), (6, 1)]), ValueError, "connection 1 of mask is of input 6 and output 1"),
        (lambda: genes(filters=0), ValueError, "filters=0"),
        (lambda: genes(fans="window"), ValueError, "fans='window'"),
        (lambda: genes(input_shape=(7, 1)), ValueError, r"has 7 inputs, and the mask of .* has 6: it is a matrix"),
        (lambda: genes().build((None, 7, 1)), ValueError, "has 7 inputs"),
        (
            lambda: genes()(np.ones((2, 6))),
            ValueError,
            r"needs 3: \(batch, inputs, channels\).*x\[..., None\] the channel",
        ),
        (lambda: genes()(np.ones((2, 6, 1), complex)), TypeError, "x has dtype complex128"),
        (lambda: lc.LocallyDirected1D(), TypeError, "mask"),
        (lambda: genes(kernel_size=3), TypeError, "kernel_size"),
    ],
)
def test_invalid_use(action, error, message):
    with pytest.raises(error, match=message):
        action()


def test_what_is_refused_leaves_the_layer_as_it_was(rng):
    layer = genes()
    with pytest.raises(ValueError, match="has 5 inputs"):
        layer(np.ones((2, 5, 1), np.int8))
    assert not layer.built
    layer.mask = [[1], [1]]  # possible before build
    layer.mask = genes().mask
    layer(np.ones((2, 6, 2)))
    with pytest.raises(AttributeError, match=r"mask of LocallyDirected1D .* is locked"):
        layer.mask = [[1]]
    with pytest.raises(ValueError, match=r"x has shape \(2, 6, 1\); .* was built for \(None, 6, 2\)"):
        layer(np.ones((2, 6, 1), np.int8))
    before = layer.get_weights()
    y, backward = layer.forward(np.ones((2, 6, 2)))
    with pytest.raises(ValueError, match="dy has shape"):
        backward.step(y[:1], 0.1)
    with pytest.raises(ValueError, match="lr"):
        backward.step(y, -1)
    for weight, expected in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_distributed_model_refuses_the_layer():
    with pytest.raises(TypeError, match="is a LocallyDirected1D; a distributed model can have"):
        _check_layer(genes(), flat=False)
