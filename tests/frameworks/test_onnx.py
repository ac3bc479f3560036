import doctest
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import PROBLEMS

import lcnumba as lc
import lcnumba.onnx
from lcnumba.onnx import export, torch_translations
from lcnumba.testing import integers

TRANSPOSED = {
    1: lc.LocallyConnected1DTranspose, 2: lc.LocallyConnected2DTranspose, 3: lc.LocallyConnected3DTranspose
}  # fmt: skip
LAYERS = {1: lc.LocallyConnected1D, 2: lc.LocallyConnected2D, 3: lc.LocallyConnected3D}


def run(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def layer_of(problem, weights, **rest):
    settings = {"dilation_rate": problem.dilation or 1, "padding_mode": problem.padding_mode, "groups": problem.groups}
    settings["weight_sharing"] = problem.weight_sharing
    kind = LAYERS[len(problem.input_size)]
    return kind(problem.filters, problem.kernel_size, problem.strides, problem.padding, **settings, weights=weights,
                 bias_initializer="normal", **rest)  # fmt: skip


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.filterwarnings("ignore:padding_mode='circular' has no effect")
def test_layers(problem, dtype, data_format, tmp_path, rng):
    x, kernel, bias, _ = problem.data(rng, np.dtype(dtype).type)
    layer = layer_of(problem, [kernel, bias], dtype=dtype, data_format=data_format)
    x = x if data_format == "channels_last" else np.moveaxis(x, -1, 1).copy()
    y = layer(x)
    export(layer, tmp_path / "layer.onnx")
    found = run(tmp_path / "layer.onnx", x)
    np.testing.assert_array_equal(found, y)
    assert found.dtype == dtype
    assert run(tmp_path / "layer.onnx", x[:1]).shape == y[:1].shape


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_the_rest_of_the_family(data_format, tmp_path, rng):
    """Transposed layers of all kinds of weights, a bias by region, and convolutions."""
    settings = {"data_format": data_format, "rng": 0, "bias_initializer": "normal"}
    regions = np.arange(12).reshape(3, 4) % 5
    model = lc.Sequential([
        lc.Conv2D(4, (2, 3), 2, "same", activation="relu", **settings, input_shape=(6, 8, 2)
                  if data_format == "channels_last" else (2, 6, 8)),
        lc.LocallyConnected2D(4, 3, padding="tf_same", weight_sharing=regions, bias_sharing="region", groups=2,
                              **settings),
        lc.LocallyConnected2DTranspose(6, 3, 2, "same", groups=2, activation="tanh", **settings),
        lc.LocallyConnected2DTranspose(3, (1, 2), (1, 3), padding_mode="circular", weight_sharing="all", **settings),
        lc.Conv2D(3, 1, groups=3, use_bias=False, **settings),
    ])  # fmt: skip
    model.build(model.input_shape)
    x = rng.standard_normal((5, *model.input_shape[1:])).astype(np.float32)
    export(model, tmp_path / "model.onnx")
    np.testing.assert_allclose(run(tmp_path / "model.onnx", x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.padding in ("valid", "tf_same")], ids=str)
def test_transposed_layers(problem, tmp_path, rng):
    _, kernel, _, x = problem.data(rng)
    kind = TRANSPOSED[len(problem.input_size)]
    layer = kind(
        problem.channels,
        problem.kernel_size,
        problem.strides,
        "same" if problem.padding == "tf_same" else "valid",
        dilation_rate=problem.dilation or 1,
        groups=problem.groups,
        weight_sharing=problem.weight_sharing,
        weights=[kernel],
        use_bias=False,
    )
    export_and_compare(layer, x, tmp_path / "layer.onnx")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_given_connections(dtype, tmp_path, rng):
    pairs = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (4, 1), (5, 1), (0, 3)]
    genes = lc.LocallyDirected1D(pairs, 3, "relu", mask_shape=(6, 4), input_shape=(6, 2), dtype=dtype)
    genes.build((None, 6, 2))
    genes.set_weights([integers(rng, weight.shape) for weight in genes.weights])
    x = integers(rng, (5, 6, 2), np.dtype(dtype).type)
    export_and_compare(genes, x, tmp_path / "genes.onnx")
    model = lc.Sequential([genes, lc.LocallyDirected1D(np.eye(4), use_bias=False, dtype=dtype), lc.Flatten()])
    model(x)
    export(model, tmp_path / "model.onnx")
    np.testing.assert_allclose(run(tmp_path / "model.onnx", x), model(x), rtol=1e-6)
    with pytest.raises(ValueError, match="opset=15 has no sums of given connections; give at least 16"):
        export(model, tmp_path / "model.onnx", opset=15)


def export_and_compare(layer, x, path):
    y = layer(x)
    export(layer, path)
    np.testing.assert_array_equal(run(path, x), y)


@st.composite
def geometries(draw):
    rank = draw(st.integers(1, 3))
    numbers = st.lists(st.integers(1, 3), min_size=rank, max_size=rank).map(tuple)
    settings = {"strides": draw(numbers), "dilation_rate": draw(numbers), "kernel_size": draw(numbers)}
    spans = [d * (k - 1) + 1 for d, k in zip(settings["dilation_rate"], settings["kernel_size"], strict=True)]
    pairs = tuple((draw(st.integers(0, e - 1)), draw(st.integers(0, e - 1))) for e in spans)
    settings["padding"] = draw(st.sampled_from(["valid", "same", pairs]))
    if settings["padding"] != "valid":
        modes = st.lists(st.sampled_from(["zeros", "circular"]), min_size=rank, max_size=rank)
        settings["padding_mode"] = tuple(draw(modes))
    shape = (*[draw(st.integers(7, 9)) for _ in range(rank)], draw(st.integers(1, 3)))
    return shape, {"filters": draw(st.integers(1, 3)), **settings}


@settings(max_examples=60)
@given(geometries(), st.integers(0, 99))
def test_any_geometry(tmp_path_factory, geometry, seed):
    shape, arguments = geometry
    rng = np.random.default_rng(seed)
    layer = LAYERS[len(shape) - 1](**arguments, input_shape=shape)
    layer.build((None, *shape))
    layer.set_weights([integers(rng, weight.shape) for weight in layer.get_weights()])
    path = tmp_path_factory.mktemp("onnx") / "layer.onnx"
    x = integers(rng, (2, *shape))
    export(layer, path)
    np.testing.assert_array_equal(run(path, x), layer(x))


NAMES = ["linear", "relu", "relu6", "leaky_relu", "elu", "selu", "softplus", "softsign", "tanh", "sigmoid",
         "hard_sigmoid", "exponential", "swish", "gelu", "mish", "softmax", "log_softmax"]  # fmt: skip
A = lc.activations
OTHERS = [A.ReLU(alpha=0.1, max_value=2.0, threshold=0.5), A.ReLU(max_value=1.0), A.LeakyReLU(0.4),
          A.ThresholdedReLU(0.7), A.ELU(0.3)]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", [*NAMES, *OTHERS], ids=str)
def test_activations(activation, dtype, tmp_path, rng):
    if dtype == "float64" and activation == "gelu":
        pytest.skip("onnxruntime has no error function in float64")
    settings = {"data_format": "channels_first", "bias_initializer": "normal", "dtype": dtype}
    model = lc.Sequential([
        lc.LocallyConnected2D(3, 2, activation=activation, **settings, input_shape=(2, 5, 4)),
        lc.Activation(activation),
    ])  # fmt: skip
    x = 30 * rng.standard_normal((8, 2, 5, 4)).astype(dtype)
    export(model, tmp_path / "model.onnx")
    # Of exp(600), the exponential of a sum that is rounded otherwise, a part in 1e-12 is lost.
    np.testing.assert_allclose(run(tmp_path / "model.onnx", x), model(x), rtol=2e-5 if dtype == "float32" else 1e-11,
                               atol=2e-6 if dtype == "float32" else 1e-12)  # fmt: skip


@pytest.mark.parametrize("activation", [*NAMES, *OTHERS], ids=str)
def test_values_that_are_not_finite(activation, tmp_path):
    model = lc.Sequential([lc.Dense(1, kernel_initializer="ones", input_shape=(1,)), lc.Activation(activation)])
    x = np.array([[np.nan], [np.inf], [-np.inf]], np.float32)
    export(model, tmp_path / "model.onnx")
    with np.errstate(all="ignore"):
        expected = model(x)
    np.testing.assert_array_equal(run(tmp_path / "model.onnx", x), expected)


def test_all_activations_are_tested_and_written():
    kinds = {type(A.get(name)) for name in NAMES} | {type(activation) for activation in OTHERS}
    assert kinds == set(lcnumba.onnx._ACTIVATIONS)
    built_in = {kind for kind in vars(A).values() if isinstance(kind, type) and issubclass(kind, A._BuiltIn)}
    assert kinds == built_in - {A._BuiltIn}


COMPANIONS = [
    *(
        (kind(size, strides, padding, data_format), shape)
        for kind, size, shape in (
            (lc.MaxPooling1D, 3, (7, 2)), (lc.MaxPooling2D, (3, 2), (6, 7, 2)),
            (lc.AveragePooling1D, 3, (7, 2)), (lc.AveragePooling2D, (3, 2), (6, 7, 2)),
        )
        for strides in (None, 2, 4)
        for padding in ("valid", "same")
        for data_format in ("channels_last", "channels_first")
        if data_format == "channels_last" or (strides, padding) == (2, "same")
    ),
    *(
        (kind(data_format, keepdims), shape)
        for kind, shape in (
            (lc.GlobalMaxPooling1D, (4, 3)), (lc.GlobalMaxPooling2D, (4, 5, 3)),
            (lc.GlobalAveragePooling1D, (4, 3)), (lc.GlobalAveragePooling2D, (4, 5, 3)),
        )
        for data_format in ("channels_last", "channels_first")
        for keepdims in (False, True)
    ),
    (lc.ZeroPadding1D((0, 2)), (4, 3)), (lc.ZeroPadding2D(((1, 0), (2, 3)), "channels_first"), (4, 3, 2)),
    (lc.UpSampling1D(3), (4, 3)), (lc.UpSampling2D((2, 3)), (4, 3, 2)),
    (lc.UpSampling2D((1, 2), "channels_first"), (4, 3, 2)), (lc.Reshape((-1, 6)), (4, 3)), (lc.Reshape((4,)), (2, 2)),
    (lc.LeakyReLU(), (5,)), (lc.ReLU(6, 0.1, 1), (5,)), (lc.ELU(0.5), (5,)), (lc.Softmax(), (4, 3)),
    (lc.Softmax(1), (4, 3)), (lc.Softmax((1, 3)), (4, 3, 2)), (lc.Softmax((1, 2)), (4, 3)),
    (lc.BatchNormalization(), (4, 3)), (lc.BatchNormalization(axis=1, scale=False), (4, 3)),
    (lc.BatchNormalization(axis=(1, 2), center=False), (4, 3, 2)),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(COMPANIONS)))
def test_other_layers(number, tmp_path, rng):
    layer, shape = COMPANIONS[number]
    model = lc.Sequential([layer])
    model.build((None, *shape))
    model.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in model.get_weights()])
    x = 3 * rng.standard_normal((3, *shape), np.float32)
    export(model, tmp_path / "model.onnx")
    for batch in (x, x[:1]):
        np.testing.assert_allclose(run(tmp_path / "model.onnx", batch), model(batch), rtol=1e-5, atol=1e-6)


def test_all_other_layers_are_tested():
    kinds = {type(layer) for layer, _ in COMPANIONS}
    assert kinds == set(lcnumba.onnx._LAYERS) - {lc.Flatten} | {lc.LeakyReLU, lc.ReLU, lc.ELU}


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_models(opset, tmp_path, rng):
    model = lc.Sequential([
        lc.LocallyConnected2D(4, 3, activation="relu", data_format="channels_first", input_shape=(2, 8, 7)),
        lc.Dropout(0.5),
        lc.Flatten(data_format="channels_first"),
        lc.Sequential([lc.Dense(5, activation="tanh"), lc.Activation("softplus")]),
        lc.Dense(3, use_bias=False, activation="softmax"),
    ])  # fmt: skip
    x = rng.standard_normal((6, 2, 8, 7), np.float32)
    export(model, tmp_path / "model.onnx", opset=opset)
    for batch in (x, x[:1], x[:0]):
        np.testing.assert_allclose(run(tmp_path / "model.onnx", batch), model(batch), atol=1e-6)
    stored = onnx.load(tmp_path / "model.onnx")
    assert stored.opset_import[0].version == opset
    assert stored.producer_name == "lcnumba"
    assert [d.dim_param or d.dim_value for d in stored.graph.input[0].type.tensor_type.shape.dim] == ["N", 2, 8, 7]


def test_masks(tmp_path, rng):
    mask = rng.random((20, 12)) < 0.5
    layer = lc.LocallyConnected2D(4, 2, kernel_mask=mask, bias_sharing="filter", bias_initializer="normal",
                                  input_shape=(5, 6, 3))  # fmt: skip
    layer.build((None, 5, 6, 3))
    x = rng.standard_normal((3, 5, 6, 3), np.float32)
    export(layer, tmp_path / "layer.onnx")
    np.testing.assert_allclose(run(tmp_path / "layer.onnx", x), layer(x), atol=1e-6)


def test_values_beyond_the_input_are_not_read(tmp_path):
    layer = lc.LocallyConnected1D(1, 3, padding="same", kernel_initializer="ones", input_shape=(5, 1))
    layer.build((None, 5, 1))
    x = np.array([[[np.nan], [1], [2], [3], [np.inf]]], np.float32)
    export(layer, tmp_path / "layer.onnx")
    np.testing.assert_array_equal(run(tmp_path / "layer.onnx", x), layer(x))
    np.testing.assert_array_equal(layer(x)[0, 2], [6])


def test_large_weights_are_in_a_file_beside(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(lcnumba.onnx, "EXTERNAL_BYTES", 1000)
    layer = lc.LocallyConnected2D(4, 3, input_shape=(8, 7, 2))
    layer.build((None, 8, 7, 2))
    export(layer, tmp_path / "layer.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layer.onnx", "layer.onnx.data"]
    assert (tmp_path / "layer.onnx").stat().st_size < layer.kernel.nbytes
    x = rng.standard_normal((3, 8, 7, 2), np.float32)
    np.testing.assert_allclose(run(tmp_path / "layer.onnx", x), layer(x), atol=1e-6)
    export(lc.Sequential([layer]), tmp_path / "layer.onnx")  # replaces both


class Mine:
    def __call__(self, z, out=None):
        return z

    def gradient(self, dy, y):
        return dy


class MyLayer(lc.LocallyConnected1D):
    pass


def test_user_objects_are_refused_by_name(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("before")
    with_activation = lc.LocallyConnected1D(2, 3, activation=Mine(), input_shape=(5, 1), name="first")
    with_layer = MyLayer(2, 3, input_shape=(5, 1), name="second")
    for layer, message in (
        (with_activation, "layer 'first' has the activation .*Mine.*, which is not one of the library"),
        (with_layer, "layer 'second' is a MyLayer, which is not one of the library"),
    ):
        layer.build((None, 5, 1))
        with pytest.raises(TypeError, match=message):
            export(layer, path)
    with pytest.raises(ValueError, match="'third' has no weights yet"):
        export(lc.Dense(3, name="third"), path)
    with pytest.raises(TypeError, match=r"model is a str; give an lcnumba\.Sequential"):
        export("model", path)
    dense = lc.Dense(3)
    dense.build((None, 2))
    with pytest.raises(ValueError, match="opset=12 is too small; give an integer of at least 13"):
        export(dense, path, opset=12)
    with pytest.raises(ValueError, match=r"opset=.* is too large"):
        export(dense, path, opset=999)
    mixed = lc.Sequential([lc.Dense(3, input_shape=(2,), dtype="float64"), lc.Dense(2)], name="mixed")
    with pytest.raises(ValueError, match="'mixed' has layers of float32 and of float64"):
        export(mixed, path)
    assert path.read_text() == "before"
    with pytest.raises(FileNotFoundError):
        export(dense, tmp_path / "none" / "model.onnx")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.filterwarnings("ignore")  # of torch's exporter
def test_modules_of_torch(mask, bias, tmp_path, rng):
    import torch

    from lcnumba.torch import LocallyConnected2d

    local = LocallyConnected2d(4, 3, 3, in_shape=6, padding=1, bias=bias,
                               kernel_mask=rng.random((36, 36)) < 0.5 if mask else None)  # fmt: skip
    with torch.no_grad():
        local.weight.uniform_()  # also where the mask excludes
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), local, torch.nn.ReLU()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.randn(2, 1, 8, 8),), tmp_path / "net.onnx", dynamo=True, verbose=False,
                          dynamic_shapes=({0: "N"},), custom_translation_table=torch_translations())  # fmt: skip
    x = torch.randn(5, 1, 8, 8)
    np.testing.assert_allclose(run(tmp_path / "net.onnx", x.numpy()), net(x).detach(), atol=1e-5)


def test_examples_in_docstrings():
    result = doctest.testmod(lcnumba.onnx, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed
