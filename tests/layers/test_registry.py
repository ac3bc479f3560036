"""The registry of layers."""

import pytest

import lcnumba as lc
from lcnumba.layers.registry import KERAS_COMMON, keras_layers, layer_class, register_layer


def test_layers_are_found_by_their_name():
    assert layer_class("Dense") is lc.Dense
    assert layer_class("LocallyConnected3D") is lc.LocallyConnected3D
    assert layer_class("Adam") is None
    assert layer_class("nothing") is None


def test_layers_of_keras_have_their_settings():
    layers = keras_layers()
    assert list(layers) == [
        "Activation", "AveragePooling1D", "AveragePooling2D", "BatchNormalization", "Conv1D", "Conv2D", "Dense",
        "Dropout", "ELU", "Flatten", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D",
        "GlobalMaxPooling2D", "LeakyReLU", "LocallyConnected1D", "LocallyConnected2D", "MaxPooling1D", "MaxPooling2D",
        "ReLU", "Reshape", "Softmax", "UpSampling1D", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D",
    ]  # fmt: skip
    assert layers["Dense"].keys == KERAS_COMMON | {"units", "quantization_config"}
    assert layers["Dropout"].ignored == {"trainable", "dtype", "batch_input_shape", "noise_shape"}


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="a layer named Dense is registered already"):

        @register_layer
        class Dense:
            """Another layer."""

    assert layer_class("Dense") is lc.Dense
