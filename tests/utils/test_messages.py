"""Calls in other libraries' words: refused by name, with the word here."""

import importlib
import inspect
import warnings

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.utils import messages

X, Y = np.ones((4, 3), np.float32), np.ones((4, 1), np.float32)


def network():
    model = lc.Sequential([lc.Dense(1, input_shape=(3,))])
    model.compile("sgd", "mse")
    return model


class Stopping(lc.callbacks.EarlyStopping):
    """A class of the user's that inherits the constructor."""


# What is called, with which wrong argument, and what it is called here.
WORDS = [
    (lc.Adam, {"learning_rate": 0.01}, r"^Adam\(\) got an unexpected .*compile\(lr=\.\.\.\), fit\(lr=.* step\(grads"),
    (lc.SGD, {"lr": 0.1}, r"^SGD\(\) got .*'lr' \(0\.1\): the learning rate is not a parameter of the optimizer"),
    (lc.SGD, {"decay": 0.1}, r"ExponentialDecay"),
    (lc.Adam, {"clipnorm": 1.0}, r"compile\(clip_value=\.\.\.\) and compile\(clip_norm="),
    (lc.Adam, {"betas": (0.9, 0.99)}, r"give beta_1 and beta_2"),
    (lc.Adam, {"eps": 1e-8}, r"it is called epsilon here"),
    (lc.RMSprop, {"alpha": 0.9}, r"it is called rho here"),
    (lc.RMSprop, {"momentum": 0.9}, r"SGD\(momentum=\.\.\.\) has"),
    (lc.Dense, {"units": 1, "in_features": 3}, r"^Dense\(\) .*it follows from the input"),
    (lc.LocallyConnected2D, {"filters": 1, "kernel_size": 3, "stride": 2}, r"^LocallyConnected2D\(\) .*called strides"),
    (lc.LocallyConnected1D, {"out_channels": 1, "kernel_size": 3}, r"^LocallyConnected1D\(\) .*called filters here"),
    (lc.Dense, {"units": 1, "groups": 2}, "convolutional layers have groups"),
    (lc.LocallyConnected2D, {"filters": 1, "kernel_size": 3, "dilation": 2}, "called dilation_rate here"),
    (lc.LocallyConnected2D, {"filters": 1, "kernel_size": 3, "bias": False}, "called use_bias here"),
    (lc.LocallyConnected2D, {"filters": 1, "kernel_size": 3, "seed": 0}, "called rng here"),
    (lc.LocallyConnected2D, {"filters": 1, "kernel_sise": 3}, r"did you mean kernel_size\?"),
    (lc.Dropout, {"p": 0.5}, "called rate here"),
    (lc.callbacks.EarlyStopping, {"restore_best_weights": True}, "called restore_best here"),
    (Stopping, {"restore_best_weights": True}, r"^Stopping\(\)"),
    (lc.callbacks.Checkpoint, {"filepath": "a.npz"}, "called path here"),
    (lc.callbacks.Checkpoint, {"path": "a.npz", "save_best_only": True}, "monitor='val_loss'"),
    (lc.callbacks.CSVLogger, {"filename": "a.csv"}, "called path here"),
    (lc.schedules.CosineDecay, {"initial_learning_rate": 1, "steps": 3}, "called lr here"),
    (lc.schedules.CosineDecay, {"lr": 1, "decay_steps": 3}, "called steps here"),
    (lc.schedules.CosineDecay, {"lr": 1, "steps": 3, "alpha": 0.1}, "called final here"),
    (lc.losses.BinaryCrossentropy, {"label_smoothing": 0.1}, "smooth the targets"),
    (lc.losses.SparseCategoricalCrossentropy, {"ignore_class": -1}, r"^SparseCategorical.*losses\.Masked"),
    (lc.load, {"path": "a.npz", "custom_objects": {}}, r"^load\(\) .*called layers here"),
    (lc.Sequential, {"layer": []}, r"did you mean layers\?"),
]
METHODS = [
    ("compile", {"learning_rate": 0.1}, "called lr here"),
    ("compile", {"weighted_metrics": []}, "called metrics here"),
    ("fit", {"x": X, "y": Y, "verbose": 0}, r"^fit\(\) .*'verbose' \(0\): it is called progress here"),
    ("fit", {"X": X, "y": Y}, "called x here"),
    ("fit", {"x": X, "y": Y, "learning_rate": 1}, "called lr here"),
    ("fit", {"x": X, "y": Y, "workers": 2}, "DataLoader"),
    ("fit", {"x": X, "y": Y, "patience": 2}, "EarlyStopping"),
    ("fit", {"x": X, "y": Y, "validation_steps": 2}, "all samples of an array are used"),
    ("fit", {"x": X, "y": Y, "optimizer": "adam"}, r"compile\(optimizer\)"),
    ("evaluate", {"x": X, "y": Y, "verbose": 0}, "nothing is printed here"),
    ("evaluate", {"x": X, "y": Y, "return_dict": True}, "a dict is always returned"),
    ("predict", {"x": X, "verbose": 0}, r"^predict\(\) .*nothing is printed here"),
    ("train_on_batch", {"x": X, "y": Y, "return_dict": True}, "a dict is always returned"),
    ("save", {"path": "a.npz", "overwrite": True}, "an existing file is replaced"),
    ("summary", {"line_length": 80}, "as wide as its contents"),
    ("__call__", {"x": X, "training": True}, r"^Sequential instance\(\) .*forward\(x\) is training"),
    ("step", {"grads": [], "learning_rate": 1}, "called lr here"),
]


@pytest.mark.parametrize(("call", "arguments", "message"), WORDS)
def test_words_of_others_are_refused_with_the_word_here(call, arguments, message):
    with pytest.raises(TypeError, match=message):
        call(**arguments)


@pytest.mark.parametrize(("method", "arguments", "message"), METHODS)
def test_so_are_those_of_methods_and_nothing_changes(method, arguments, message):
    model = network()
    before, config = model.get_weights(), model.training_config
    with pytest.raises(TypeError, match=message):
        getattr(model, method)(**arguments)
    assert model.training_config is config
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_calls_of_layers():
    layer = network().layers[0]
    for call in (layer, layer.forward):
        with pytest.raises(TypeError, match=r"forward\(x\) is training"):
            call(X, training=True)
    _, backward = layer.forward(X)
    with pytest.raises(TypeError, match="called lr here"):
        backward.step(Y, learning_rate=0.1)


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (
            lc.Adam,
            (0.01,),
            r"takes 0 positional arguments but 1 were given; 0\.01 is too many.*Adam\(beta_1.*learning rate",
        ),
        (lc.SGD, (0.1,), r"SGD\(momentum=\.\.\.\); the learning rate is not a parameter"),
        (lc.AdamW, (0.1, 0.2), "the learning rate is not a parameter"),
        (lc.RMSprop, (0.1,), "the learning rate is not a parameter"),
        (lc.activations.ReLU, (6.0,), r"such as ReLU\(alpha=\.\.\.\)"),  # Keras' max_value
        (lc.Flatten, ("channels_first",), r"takes 0 positional arguments"),  # Keras' data_format
        (lc.Dropout, (0.5, None, 3), r"takes 1 positional arguments but 3 were given"),  # Keras' noise_shape and seed
        (lc.callbacks.EarlyStopping, ("val_loss", 5), r"such as EarlyStopping\(patience="),  # Keras' min_delta
        (lc.callbacks.Checkpoint, ("a.npz", "val_loss"), "takes 1 positional"),  # Keras' monitor
        (lc.schedules.CosineDecay, (0.1, 100, 0), "takes 2 positional"),  # Keras' alpha
        (lc.callbacks.ReduceLROnPlateau, ("val_loss", 0.1), "takes 1 positional"),
    ],
)
def test_what_another_library_means_by_a_position_is_not_taken_for_something_else(call, arguments, message):
    with pytest.raises(TypeError, match=message):
        call(*arguments)


def test_the_class_that_was_called_is_told():
    with pytest.raises(TypeError, match=r"^LocallyConnected2D\(\) missing required argument 'filters'; give Locally"):
        lc.LocallyConnected2D(kernel_size=3)
    with pytest.raises(TypeError, match=r"^LocallyConnected1D\(\) missing required argument 'filters', 'kernel_size'"):
        lc.LocallyConnected1D()
    with pytest.raises(TypeError, match=r"^LocallyConnected3D\(\) got multiple values for argument 'filters'"):
        lc.LocallyConnected3D(3, 3, filters=3)
    with pytest.raises(TypeError, match=r"^fit\(\) missing required argument 'x'"):
        network().fit()


def test_optimizers_in_configs_of_keras():
    with pytest.raises(TypeError, match="the learning rate is not a parameter of the optimizer"):
        lc.optimizers.get({"class_name": "Adam", "config": {"learning_rate": 0.001}})


def test_signatures_are_those_of_the_functions():
    """For completion and documentation: what is called does not hide what it calls."""
    assert list(inspect.signature(lc.Adam).parameters) == ["beta_1", "beta_2", "epsilon"]
    assert list(inspect.signature(lc.Sequential.fit).parameters)[:3] == ["self", "x", "y"]
    assert lc.Sequential.fit.__doc__.startswith("Train the model")
    kinds = inspect.signature(lc.SGD).parameters.values()
    assert {parameter.kind for parameter in kinds} == {inspect.Parameter.KEYWORD_ONLY}


def public():
    """Yield the classes with settings and the functions that users reach."""
    names = [("lcnumba", name) for name in lc.__all__]
    for module in lc._MODULES:
        if module != "estimators":  # which needs scikit-learn: test_estimators.py
            names += [(f"lcnumba.{module}", name) for name in importlib.import_module(f"lcnumba.{module}").__all__]
    for module, name in names:
        found = getattr(importlib.import_module(module), name)
        if not inspect.isclass(found) or getattr(found, "_is_protocol", False):
            continue
        if "__init__" in vars(found) or issubclass(found, lc.LocallyConnected2D.__base__):
            yield f"{module}.{name}", found.__init__


# Calls with nothing that another library has by another name.
PLAIN = {
    "lcnumba.gradients.Accumulator", "lcnumba.History", "lcnumba.Tuning", "lcnumba.callbacks.Progress",
    "lcnumba.mpi.DistributedSequential", "lcnumba.testing.Problem",
}  # fmt: skip


def test_all_public_constructors_use_the_table():
    assert {name for name, function in public() if not hasattr(function, "__wrapped__")} <= PLAIN


def test_words_lead_somewhere():
    """No entry of the table leads to a word that no public call has."""
    known = set()
    modules = [importlib.import_module(f"lcnumba.{name}") for name in lc._MODULES if name != "estimators"]
    names = [getattr(lc, name) for name in lc.__all__]
    for module in modules:
        names += [found for _, found in inspect.getmembers(module)]
    for found in names:
        members = (
            [entry for kind in inspect.getmro(found) for entry in vars(kind).values()] if inspect.isclass(found) else []
        )
        for function in [found, *members]:
            if inspect.isfunction(function):
                known |= set(inspect.signature(function).parameters)
    known |= {"learning_rate_init", "n_iter_no_change", "solver", "max_iter", "random_state"}  # of the estimators
    targets = {word for entry in messages.PUBLIC_WORDS.values() for word in entry if word is not None}
    assert targets <= known


def test_warnings_point_at_the_line_of_the_caller():
    model = network()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(np.full((2, 3), np.nan), np.ones((2, 1)), progress=False)
        model.train_on_batch(np.full((2, 3), np.nan), np.ones((2, 1)))
    assert [warning.filename for warning in caught] == [__file__] * 2
    lines = [warning.lineno for warning in caught]
    assert lines[1] == lines[0] + 1


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("optimizer", "adam", r"compile\(optimizer\)"),
        ("lr", 0.1, "give it to compile, fit or step"),
        ("learning_rate", 0.1, "give lr to compile, fit or step"),
        ("loss", "mae", "compile or fit"),
        ("stop_training", True, r"run\.stop\(\)"),
    ],
)
def test_attributes_that_would_do_nothing_are_refused(name, value, hint):
    model = network()
    with pytest.raises(AttributeError, match=f"Sequential has no attribute {name}: .*{hint}"):
        setattr(model, name, value)
    if name != "optimizer":  # which a layer has
        with pytest.raises(AttributeError, match=f"Dense has no attribute {name}"):
            setattr(model[0], name, value)
    with pytest.raises(AttributeError, match="set trainable"):
        model[0].requires_grad = False


def test_callbacks_in_keras_words_are_told_the_words_here():
    class Stops(lc.callbacks.Callback):
        def on_epoch_end(self, run, logs):
            run.stop_training = True

    class Asks(lc.callbacks.Callback):
        def on_epoch_end(self, run, logs):
            self.model.stop_training = True

    with pytest.raises(AttributeError, match=r"Run has no attribute stop_training: a callback calls run\.stop\(\)"):
        network().fit(X, Y, callbacks=[Stops()], progress=False)
    with pytest.raises(AttributeError, match=r"Asks has no attribute model: each method gets the run"):
        network().fit(X, Y, callbacks=[Asks()], progress=False)


@pytest.mark.parametrize(
    ("module", "name", "here"),
    [
        (lc.callbacks, "ModelCheckpoint", r"lcnumba\.callbacks\.Checkpoint"),
        (lc.callbacks, "LearningRateScheduler", "LearningRate"),
        (lc, "LocallyConnectedClassifier", r"lcnumba\.estimators\.Locally"),
        (lc.layers, "Dense", r"here it is lcnumba\.Dense"),
        (lc.models, "load_model", r"lcnumba\.load_keras"),
        (lc, "nn", "names of lcnumba itself"),
        (lc, "load_model", r"lcnumba\.load_keras"),
        (lc.regularizers, "l2", r"lcnumba\.regularizers\.L2"),
        (lc.activations, "relu", "the name 'relu'"),
    ],
)
def test_names_of_others_lead_to_those_here(module, name, here):
    with pytest.raises(
        AttributeError, match=rf"has no attribute '{name}'; here it is .*{here}|; here it is {here}|{here}"
    ):
        getattr(module, name)
    with pytest.raises(AttributeError, match=r"^module 'lcnumba[.a-z]*' has no attribute 'nope'$"):
        module.nope  # noqa: B018
