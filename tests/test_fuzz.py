"""Whatever comes in is refused by name, or right: no crash, no hang, no change half made, no memory without bound.

``pytest --hypothesis-profile=deep tests/test_fuzz.py`` searches at random, and for longer.
"""

import ast
import contextlib
import functools
import inspect
import math
import pickle
import signal
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import lcnumba as lc
from lcnumba import optimizers
from lcnumba.connectivity.geometry import Geometry
from lcnumba.layers.registry import layer_class
from lcnumba.runtime import memory as memory_
from lcnumba.testing import integers, reference

PACKAGE = Path(lc.__file__).parent
REFUSALS = (TypeError, ValueError, MemoryError, RuntimeError, AttributeError)


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    """A machine of 100 MB, and little address space, so that nothing large goes unnoticed."""
    monkeypatch.setattr(memory_, "SMALL", 1 << 20)
    monkeypatch.setattr(memory_, "available", lambda: (10**8, "the machine"))
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


class Hanging(BaseException):
    """What takes minutes will not end."""


@contextlib.contextmanager
def ending(seconds=120):
    """Raise `Hanging` in what does not come to an end, compilation included."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise Hanging

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@functools.cache
def raising_lines(file):
    """The lines of the `raise` statements of a source file."""
    found = set()
    for node in ast.walk(ast.parse(Path(file).read_text())):
        if isinstance(node, ast.Raise):
            found |= set(range(node.lineno, node.end_lineno + 1))
    return found


def check_refusal(error, names=(), values=()):
    """Raise unless an error is one that the library made itself, and that tells the parameter and its value."""
    assert isinstance(error, REFUSALS), f"{type(error).__name__}: {error}"
    assert not isinstance(error, NotImplementedError | RecursionError | UnboundLocalError), repr(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    told = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    assert PACKAGE in Path(where.filename).parents, f"raised elsewhere: {told}"
    message = str(error)
    # Python itself tells which argument a constructor does not have.
    assert where.lineno in raising_lines(where.filename) or "__init__() " in message, f"failed by itself: {told}"
    if names and not isinstance(error, RuntimeError):  # which tells of the moment
        known = {alias for name in names for alias in (name, *ALIASES.get(name, ()))}
        assert any(alias in message for alias in known), f"does not name {names}: {told}"
    # Of several settings that do not go together, their names are told alone.
    tells = len(values) == 1 and isinstance(values[0], bool | int | float | str | None) and not FORMS & set(names)
    if tells and not isinstance(error, MemoryError | RuntimeError):
        shown = repr(values[0]), type(values[0]).__name__
        assert any(text in message for text in shown), f"does not tell {values!r}: {told}"


# --- parameters of public functions


class Something:
    """Of no use to anybody."""

    def __init__(self, *args, **kwargs):
        pass


STRANGE = (
    None, True, False, 0, 1, 2, 3, -1, 2**31, 2**40, 2**63, 10**30, 10**400, -(10**400), math.nan, math.inf, -math.inf,
    -0.0, 0.5, 1e-300, 1e39, 1e300, 3.0, "", "Same", "valid", "3", "relu", "zeros", "nan", "a" * 999, "\0", "\ud800",
    b"", b"same", [], (), (1,), [1], (1, 2), (2, 2), (1, 2, 3), (1, 2, 3, 4), ((0, 1), (1, 0)), ((1,),), [[]], [None],
    (None, 5, 1), {}, {"class_name": "L1"}, {"class_name": None}, {"class_name": "ReLU", "config": {"a": 1}},
    {"class_name": "Zeros", "config": 3}, {"class_name": "SGD", "config": {1: 2}}, {1: 2}, {"a": math.nan}, set(), {1},
    np.int8(-128), np.int8(3), np.uint8(2), np.int64(3), np.uint64(2**64 - 1), np.float16(0.5), np.float32(0.5),
    np.float64(2), np.longdouble(1), np.complex64(1), np.bool_(True), np.str_("same"), np.bytes_(b"x"),
    np.datetime64("2020-01-01"), np.timedelta64(3, "s"), np.array(3), np.array(0.5), np.array(None), np.array([]),
    np.array([1, 2]), np.array([1.5, 2]), np.ones((2, 2)), np.ones((2, 2), bool), np.array("same"), np.ma.masked,
    np.ma.ones(3), object(), Something, Something(), int, 3j, range(3), Ellipsis, NotImplemented, slice(1),
    ValueError("x"), lambda *args, **kwargs: None, lambda *args, **kwargs: 1, lc.regularizers.L2, lc.initializers.Zeros,
    np.random.RandomState(0), np.float32, "float32", "float64", "float16", np.dtype("f8"),
)  # fmt: skip

# Of these messages tell the shape, the dtype, or what else is wrong.
FORMS = {
    "config", "dy", "grads", "kernel_mask", "sample_weight", "state", "steps_per_epoch", "valid", "validation_data",
    "vector", "weights", "x", "y",
}  # fmt: skip
# User code that raises.
CODE = {"loss", "lr", "metrics", "schedule"}
# What messages may say instead of the parameter's name.
ALIASES = {
    "batch_input_shape": ("batch_size", "input_shape"),
    "bias_constraint": ("constraint", "axis"),
    "bias_initializer": ("initializer",),
    "bias_regularizer": ("regularizer",),
    "activity_regularizer": ("regularizer",),
    "build_input_shape": ("input_shape",),
    "callbacks": ("callback",),
    "clip_norm": ("gradient",),
    "config": ("argument", "layers"),
    "dilation_rate": ("dilation",),
    "factor": ("gradient",),
    "filters": ("weights", "input_shape"),
    "grads": ("gradients",),
    "identifier": ("activation", "constraint", "initializer", "loss", "optimizer", "regularizer"),
    "input_dim": ("input_shape",),
    "input_size": ("kernel_size",),
    "input_shape": ("kernel_size", "built for", "weights of"),
    "kernel_constraint": ("constraint", "axis"),
    "kernel_initializer": ("initializer", "kernel"),
    "kernel_regularizer": ("regularizer",),
    "kernel_size": ("weights", "padding"),
    "layer": ("is a class", "locally connected"),
    "layers": ("layer", "model"),
    "loss": ("targets", "y has"),
    "lr": ("lr", "step"),
    "metrics": ("metric",),
    "padding": ("kernel_size", "windows"),
    "padding_mode": ("padding",),
    "schedule": ("lr",),
    "solver": ("optimizer",),
    "strides": ("weights",),
    "units": ("weights",),
    "validation_data": ("batch 1", "batches", "x ", "y "),
    "weights": ("kernel", "bias", "gamma", "arrays given"),
    "x": ("input_shape", "batch", "y "),
    "y": ("x ", "labels"),
    **{f"{part}_initializer": ("initializer", part) for part in ("beta", "gamma", "moving_mean", "moving_variance")},
    **{f"{part}_regularizer": ("regularizer",) for part in ("beta", "gamma")},
    **{f"{part}_constraint": ("constraint", "axis") for part in ("beta", "gamma")},
}  # fmt: skip


def strange(parameter):
    """The values to try for a parameter."""
    return [value for value in STRANGE if not (parameter in CODE and callable(value))]


class Subject(NamedTuple):
    """A public function, arguments that it takes, and what is then done with the result."""

    make: Any
    base: dict[str, Any]
    names: tuple[str, ...]
    use: Any = lambda result: None


def parameters(function, *without):
    names = inspect.signature(function).parameters
    return tuple(name for name in names if name not in ("self", "model", "args", "kwargs", *without))


def subject(make, base=None, use=lambda result: None, without=()):
    return Subject(make, base or {}, parameters(make, *without), use)


def trained(x):
    """Take a layer through two steps."""

    def use(layer):
        for _ in range(2):
            y, backward = layer.forward(x)
            backward(np.ones_like(y))
            if hasattr(backward, "step"):
                backward.step(np.ones_like(y), 0.1)
        repr(layer)
        layer.get_config()

    return use


X = {rank: np.ones((2, *[5, 4, 3][:rank], 2), np.float32) for rank in (1, 2, 3)}
ROWS = np.ones((4, 3), np.float32)
TARGETS = np.array([[1.0, 0.0]] * 4)


def learned(**settings):
    """A model, compiled, and fitted for an epoch, with settings of any of both."""
    model = lc.Sequential([lc.Dense(2, rng=0)])
    compiled = {name: settings.pop(name) for name in ("optimizer", "clip_value", "clip_norm") if name in settings}
    model.compile(
        loss="mse", **compiled, **({"accumulate": settings.pop("accumulate")} if "accumulate" in settings else {})
    )
    arguments = {"x": ROWS, "y": TARGETS, "progress": False} | settings
    model.fit(arguments.pop("x"), arguments.pop("y"), **arguments)
    return model


MASK = np.eye(X[1].shape[1])


def directed(mask, **settings):
    """A layer of a mask. Strings are paths; that a file does not exist is no refusal of an argument."""
    is_path = isinstance(mask, str) and mask and mask.isprintable()
    return lc.LocallyDirected1D(MASK if is_path else mask, **settings)


def of_model(method, **base):
    """A method of a fresh model."""

    def call(**settings):
        model = lc.Sequential([lc.Dense(2, rng=0), lc.Activation("relu")])
        model.compile(loss="mse", lr=0.1)
        return getattr(model, method)(**base | settings)

    return call


def of_layer(method, built=True, **base):
    """A method of a fresh layer."""

    def call(**settings):
        layer = lc.LocallyConnected2D(2, 2, optimizer="adam", rng=0)
        if built:
            layer.build((None, 5, 4, 2))
        return getattr(layer, method)(**base | settings)

    return call


def of_backward(method, **base):
    """A method of a fresh pullback."""

    def call(**settings):
        y, backward = lc.LocallyConnected2D(2, 2, rng=0).forward(X[2])
        return getattr(backward, method)(**{"dy": y} | base | settings)

    return call


def classes(module):
    """The classes that a module makes public, but for base classes and protocols."""
    for name in module.__all__:
        found = getattr(module, name)
        if inspect.isclass(found) and not getattr(found, "_is_protocol", False) and name != "Initializer":
            yield f"{module.__name__.rpartition('.')[2]}.{name}", found


def use_initializer(initializer):
    initializer((4, 3), np.float32, np.random.default_rng(0))


def use_activation(activation):
    z = np.ones((2, 3), np.float32)
    kept = lc.activations.apply(activation, z.copy(), True)[1]
    lc.activations.vjp(activation, z, kept)


def use_regularizer(regularizer):
    regularizer(ROWS)
    regularizer.gradient(ROWS)


def use_schedule(schedule):
    for step in (0, 1, 5, 10**9):
        assert isinstance(schedule(step), float)


def use_loss(loss):
    predictions = np.array([[0.25, 0.75], [0.5, 0.5]])
    loss(np.array([1, 0]) if "Sparse" in type(loss).__name__ else np.eye(2), predictions)


GRADIENTS = [lc.Gradients(np.ones((2, 3)), np.ones(3)), None]
SUBJECTS = {
    **{
        cls.__name__: subject(cls, {"filters": 2, "kernel_size": 2}, trained(X[cls.rank]))
        for cls in (
            lc.LocallyConnected1D, lc.LocallyConnected2D, lc.LocallyConnected3D, lc.LocallyConnected1DTranspose,
            lc.LocallyConnected2DTranspose, lc.LocallyConnected3DTranspose, lc.Conv1D, lc.Conv2D,
        )
    },
    "Dense": subject(lc.Dense, {"units": 2}, trained(ROWS)),
    "LocallyDirected1D": subject(lc.LocallyDirected1D, {"mask": MASK}, trained(X[1]))._replace(make=directed),
    "Activation": subject(lc.Activation, {"activation": "relu"}, trained(ROWS)),
    "Dropout": subject(lc.Dropout, {"rate": 0.5}, trained(ROWS)),
    "Flatten": subject(lc.Flatten, {}, trained(X[2])),
    **{
        cls.__name__: subject(cls, {}, trained(X[cls._rank]))
        for cls in (
            lc.MaxPooling1D, lc.MaxPooling2D, lc.AveragePooling1D, lc.AveragePooling2D, lc.GlobalMaxPooling1D,
            lc.GlobalMaxPooling2D, lc.GlobalAveragePooling1D, lc.GlobalAveragePooling2D, lc.ZeroPadding1D,
            lc.ZeroPadding2D, lc.UpSampling1D, lc.UpSampling2D,
        )
    },
    "Reshape": subject(lc.Reshape, {"target_shape": (-1,)}, trained(X[2])),
    **{cls.__name__: subject(cls, {}, trained(ROWS)) for cls in (lc.LeakyReLU, lc.ReLU, lc.ELU, lc.Softmax)},
    "BatchNormalization": subject(lc.BatchNormalization, {}, trained(ROWS)),
    "Sequential": subject(lc.Sequential),
    "Geometry": subject(
        Geometry, {"input_size": (6, 5), "channels": 2, "filters": 2, "kernel_size": 2}, lambda g: (g.complete, hash(g))
    ),
    **{
        cls.__name__: subject(cls, {}, lambda optimizer: trained(ROWS)(lc.Dense(2, optimizer=optimizer)))
        for cls in (lc.SGD, lc.Adam, lc.AdamW, lc.RMSprop)
    },
    **{name: subject(cls, {}, use_initializer) for name, cls in classes(lc.initializers)},
    **{name: subject(cls, {}, use_activation) for name, cls in classes(lc.activations)},
    **{name: subject(cls, {}, use_regularizer) for name, cls in classes(lc.regularizers)},
    **{name: subject(cls, {}, lambda constraint: constraint(ROWS)) for name, cls in classes(lc.constraints)},
    **{
        name: subject(cls, {"loss": "mse"} if cls is lc.losses.Masked else {}, use_loss)
        for name, cls in classes(lc.losses)
    },
    "AUC": subject(lc.metrics.AUC, {}, lambda metric: metric(np.arange(2), np.arange(2.0))),
    "CosineDecay": subject(lc.schedules.CosineDecay, {"lr": 0.1, "steps": 5}, use_schedule),
    "ExponentialDecay": subject(lc.schedules.ExponentialDecay, {"lr": 0.1, "steps": 5, "rate": 0.5}, use_schedule),
    "StepDecay": subject(lc.schedules.StepDecay, {"lr": 0.1, "every": 5}, use_schedule),
    "EarlyStopping": subject(
        lc.callbacks.EarlyStopping, {"monitor": "loss"}, lambda callback: learned(callbacks=[callback])
    ),
    "ReduceLROnPlateau": subject(
        lc.callbacks.ReduceLROnPlateau, {"monitor": "loss"}, lambda callback: learned(callbacks=[callback])
    ),
    "LearningRate": subject(
        lc.callbacks.LearningRate, {"schedule": lambda epoch, lr: lr}, lambda callback: learned(callbacks=[callback])
    ),
    "Checkpoint": subject(lc.callbacks.Checkpoint, {"path": "a"}),
    "CSVLogger": subject(lc.callbacks.CSVLogger, {"path": "a"}),
    **{
        f"{name}.get": subject(getattr(lc, name).get)
        for name in ("activations", "constraints", "initializers", "losses", "metrics", "optimizers", "regularizers")
    },
    "fit": Subject(
        learned, {},
        (*parameters(lc.Sequential.fit, "epochs", "initial_epoch", "resume"),
         "optimizer", "clip_value", "clip_norm", "accumulate"),
    ),
    "evaluate": Subject(of_model("evaluate", x=ROWS, y=TARGETS), {}, parameters(lc.Sequential.evaluate)),
    "train_on_batch": Subject(
        of_model("train_on_batch", x=ROWS, y=TARGETS), {}, parameters(lc.Sequential.train_on_batch)
    ),
    "predict": Subject(of_model("predict", x=ROWS), {}, ("x", "batch_size")),
    **{
        f"Sequential.{method}": Subject(of_model(method, **base), {}, names)
        for method, base, *names in (
            ("build", {}, "input_shape"), ("compute_output_shape", {}, "input_shape"), ("add", {}, "layer"),
            ("weight_shapes", {}, "input_shape"), ("set_optimizer", {}, "optimizer"), ("__call__", {}, "x"),
            ("forward", {}, "x"), ("plan_training_state", {}, "state"), ("set_weights", {}, "weights"),
            ("value_and_gradient", {"x": ROWS, "y": TARGETS, "loss": "mse"}, "x", "y", "loss"),
            ("from_config", {}, "config"), ("get_layer", {}, "name"), ("get_layer", {}, "index"),
        )
    },
    "kernel_mask_from": subject(lc.kernel_mask_from, {"valid": np.ones((5, 4), bool), "kernel_size": 2}),
    "Sequential.from_config of a dict": Subject(
        lambda **settings: lc.Sequential.from_config({"layers": [], **settings}), {},
        ("name", "layers", "build_input_shape"),
    ),
    **{
        f"{'built' if built else 'unbuilt'} {method}": Subject(of_layer(method, built, **base), {}, names)
        for built in (True, False)
        for method, base, *names in (
            ("build", {}, "input_shape"), ("compute_output_shape", {}, "input_shape"),
            ("weight_shapes", {}, "input_shape"), ("set_weights", {}, "weights"), ("__call__", {}, "x"),
            ("forward", {}, "x"), ("with_implementation", {}, "implementation"),
            ("build_with", {"input_shape": (None, 5, 4, 2)}, "weights"),
            ("plan_training_state", {}, "state"), ("from_config", {}, "config"),
            ("step", {"grads": (np.zeros((12, 8, 2), "f4"), np.zeros((4, 3, 2), "f4")), "lr": 0.1}, "grads", "lr"),
            ("set_flat", {}, "vector"), ("flat_gradient", {}, "grads"),
            *([("costs", {}, "batch_size"), ("explain", {"print_fn": str}, "batch_size")] if built else []),
        )
    },
    "backward": Subject(of_backward("__call__"), {}, ("dy",)),
    "backward.step": Subject(of_backward("step", lr=0.1), {}, ("dy", "lr")),
    **{
        f"{cls.__name__}.{method}": Subject(
            lambda cls=cls, method=method, **settings: getattr(cls("relu") if cls is lc.Activation else
                cls(0.5) if cls is lc.Dropout else cls(), method)(**settings), {}, names,
        )
        for cls in (lc.Activation, lc.Dropout, lc.Flatten, lc.MaxPooling2D, lc.Softmax, lc.BatchNormalization)
        for method, *names in (
            ("build", "input_shape"), ("compute_output_shape", "input_shape"), ("__call__", "x"), ("forward", "x"),
            ("set_weights", "weights"),
        )
    },
    "global_norm": subject(lc.gradients.global_norm),
    "clip_by_norm": subject(lc.gradients.clip_by_norm, {"grads": GRADIENTS, "limit": 1.0}),
    "clip_by_value": subject(lc.gradients.clip_by_value, {"grads": GRADIENTS, "limit": 1.0}),
    "Gradients * factor": Subject(lambda factor: GRADIENTS[0] * factor, {}, ("factor",)),
    "tune": Subject(
        lambda **settings: lc.tune(**{"layer": lc.LocallyConnected2D(2, 2), "x": X[2], "seconds": 0} | settings), {},
        ("layer", "x", "memory"),
    ),
    "import_weights": Subject(
        lambda **settings: lc.import_weights(
            **{"layer": lc.Dense(2, input_shape=(3,)), "weights": [np.ones((3, 2)), np.ones(2)]} | settings
        ), {},
        ("layer", "weights", "data_format"),
    ),
}  # fmt: skip
LAYERS = (
    "LocallyConnected1D", "LocallyDirected1D", "LocallyConnected2D", "LocallyConnected3D", "Dense", "Conv1D", "Conv2D",
    "LocallyConnected1DTranspose", "LocallyConnected2DTranspose", "LocallyConnected3DTranspose",
)  # fmt: skip


def test_all_layers_and_optimizers_are_among_the_subjects():
    found = {name for name in lc.__all__ if layer_class(name) is not None}
    assert found
    assert found | {type(optimizers.get(name)).__name__ for name in optimizers._BY_NAME} <= set(SUBJECTS)


def try_out(what, settings):
    """Call a function with these arguments among its usual ones, and use the result; True if nothing was refused."""
    with ending(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            what.use(what.make(**what.base | settings))
        except Exception as error:  # noqa: BLE001 - whatever it is
            check_refusal(error, settings, list(settings.values()))
            return False
    return True


@pytest.mark.parametrize("name", [name for name in SUBJECTS if name not in LAYERS[2:]])
def test_every_strange_argument_is_taken_or_refused_by_name(name):
    what = SUBJECTS[name]
    wrong = []
    for parameter in what.names:
        for value in strange(parameter):
            # Results of layers are used by the next test; here it would take too long.
            tried = what._replace(use=lambda result: None) if name in LAYERS else what
            try:
                try_out(tried, {parameter: value})
            except AssertionError as error:
                wrong.append(f"{parameter}={value!r:.80}: {error}")
    assert not wrong, "\n".join(wrong)


@given(st.data())
@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_strange_settings_work_or_are_refused(name, data):
    """Several settings at once, some of them as they should be; what is made must work."""
    what = SUBJECTS[name]
    chosen = data.draw(st.lists(st.sampled_from(what.names), min_size=1, max_size=4, unique=True))
    settings = {}
    for parameter in chosen:
        usual = USUAL.get(parameter, (None,))
        settings[parameter] = data.draw(st.sampled_from([*usual * (len(STRANGE) // len(usual)), *STRANGE]))
    note(repr(settings))
    try_out(what, settings)


USUAL = {
    "filters": (1, 3),
    "units": (1, 3),
    "kernel_size": (1, 2, 3, 2**20),
    "strides": (1, 2, 2**30),
    "use_bias": (True, False),
    "padding": ("valid", "same", ((1, 0), (0, 1)), ((0, 1),)),
    "dilation_rate": (1, 2, 2**31),
    "implementation": (1, 2, 3, "auto"),
    "padding_mode": ("zeros", "circular"),
    "dtype": ("float32", "float64"),
    "data_format": ("channels_first", "channels_last"),
    "activation": ("relu", "softmax", "swish", None),
    "kernel_initializer": ("orthogonal", "he_normal", lc.initializers.Constant(1e300)),
    "bias_initializer": ("ones", "identity"),
    "kernel_regularizer": ("l2", "l1_l2", lc.regularizers.L2(1e300)),
    "activity_regularizer": ("l1", lc.regularizers.L1(1e300)),
    "kernel_constraint": ("max_norm", "non_neg", lc.constraints.UnitNorm(-8)),
    "bias_constraint": ("unit_norm", lc.constraints.MaxNorm(1e300)),
    "fans": ("keras", "window"),
    "bias_sharing": ("filter", "position"),
    "weights": (
        [np.ones((4, 4, 2)), np.ones((4, 2))],
        [np.ones((12, 8, 2)), np.ones((4, 3, 2))],
        [np.ones((3, 2)), np.ones(2)],
    ),
    "kernel_mask": (np.ones((4, 4), bool), np.zeros((12, 8, 2), bool)),
    "input_shape": ((5, 2), (5, 4, 2), (3,), (2**30, 2**30)),
    "optimizer": ("adam", lc.SGD(momentum=0.5, nesterov=True)),
    "n_threads": (1, 4096),
    "trainable": (False,),
    "rng": (1,),
    "name": ("a",),
}


# --- arrays, in any order of operations


class Form(NamedTuple):
    """What an array is like beside what is wanted."""

    seed: int
    change: str
    dtype: str
    layout: str
    special: float | None

    @property
    def finite(self):
        return self.special is None

    def shape(self, wanted):
        """The shape of the array, where another one is wanted."""
        changes = {
            "larger": (*wanted[:-1], wanted[-1] + 1),
            "empty": (*wanted[:-1], 0),
            "fewer": wanted[1:],
            "more": (*wanted, 1),
            "flat": (math.prod(wanted),),
            "turned": wanted[::-1],
            "scalar": (),
            "many": (1,) * 6,
            "one": (1,) * len(wanted),
            "other batch": (wanted[0] + 1, *wanted[1:]),
            "no batch": (0, *wanted[1:]),
        }
        return changes.get(self.change, wanted)

    def of(self, wanted, own="f8"):
        """The array; `own` is the dtype that would be exactly right."""
        dtype = own if self.dtype == "own" else self.dtype
        rng = np.random.default_rng(self.seed)
        array = integers(rng, self.shape(wanted), np.float64)
        if self.special is not None and array.size:
            array.reshape(-1)[rng.integers(array.size)] = self.special
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = np.abs(array).astype(dtype) if np.dtype(dtype).kind in "bu" else array.astype(dtype)
        if self.layout == "fortran":
            return np.asfortranarray(array)
        if self.layout == "strided":
            return np.repeat(array[..., None], 2, axis=-1)[..., 0]
        if self.layout == "backwards" and array.ndim:
            return array[::-1].copy()[::-1]
        if self.layout == "swapped":
            return array.astype(array.dtype.newbyteorder())
        if self.layout == "unaligned" and array.dtype != object:
            memory = bytearray(array.nbytes + 1)
            view = np.frombuffer(memory, array.dtype, array.size, offset=1).reshape(array.shape)
            view[...] = array
            return view
        if self.layout == "read-only":
            array.setflags(write=False)
        return array


LAYOUTS = ("plain", "plain", "fortran", "strided", "backwards", "swapped", "unaligned", "read-only")
CHANGES = ("larger", "empty", "fewer", "more", "flat", "turned", "scalar", "many", "one", "other batch", "no batch")
OTHERS = ("f4", "f8", "i1", "u2", "i8", "?", "f2", "g", "c8", "O", "U3", "M8[s]", "m8[s]")
# Mostly as they should be, so that sequences of operations get somewhere.
FORMS_OF_ARRAYS = st.builds(
    Form,
    st.integers(0, 2**16),
    st.sampled_from(("none",) * 5 * len(CHANGES) + CHANGES),
    st.sampled_from(("own",) * 3 * len(OTHERS) + OTHERS),
    st.sampled_from(LAYOUTS),
    st.sampled_from((None,) * 30 + (math.nan, math.inf, -0.0, 1e30)),
)
GOOD_RATES = (0.0, 0.25, 0.5, 1.0, 1, np.float32(0.5), np.int8(1))
BAD_RATES = (-0.5, math.nan, math.inf, 10**400, None, True, "1", 1j, np.array([1.0]), np.timedelta64(1, "s"))
RATES = st.sampled_from(GOOD_RATES * 5 + BAD_RATES)


def good_rate(lr):
    return (
        isinstance(lr, int | float | np.number)
        and lr in (0, 0.25, 0.5, 1)
        and not isinstance(lr, bool | np.timedelta64)
    )


def fits(array, shape):
    return array.shape == shape and (array.dtype.kind in "biu" or array.dtype.newbyteorder("=") in ("f4", "f8"))


class FailedError(Exception):
    """What user code raises."""


class Fails:
    """An optimizer that fails when it has changed the last of its arrays."""

    def __init__(self, arrays):
        self.arrays, self.calls = arrays, 0

    def init(self, param):
        return {"seen": np.zeros(3)}

    def update(self, param, grad, state, lr):
        param += 7
        state["seen"] += 1
        self.calls += 1
        if self.calls % self.arrays == 0:
            raise FailedError("the optimizer failed")


SHAPES = (
    (1, (7, 2), {"filters": 3, "kernel_size": 3, "strides": 2}),
    (2, (4, 3, 1), {"filters": 2, "kernel_size": 2, "padding": "same"}),
    (2, (3, 4, 2), {"filters": 9, "kernel_size": (3, 2)}),
    (2, (4, 4, 1), {"filters": 1, "kernel_size": 2, "padding_mode": "circular", "padding": ((1, 0), (0, 1))}),
    (3, (3, 2, 3, 1), {"filters": 2, "kernel_size": 2, "use_bias": False}),
)
CLASSES = {1: lc.LocallyConnected1D, 2: lc.LocallyConnected2D, 3: lc.LocallyConnected3D}
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", lc.SGD(momentum=0.5), lc.SGD(momentum=0.5, nesterov=True))


def whole_numbers(shape, dtype, rng):
    """An initializer."""
    return integers(rng, shape, dtype)


class Held(NamedTuple):
    """A pullback, and what it belongs to."""

    backward: Any
    x: Any
    finite: bool
    version: int
    life: int


class LayerMachine(RuleBasedStateMachine):
    """One layer, in whatever order of operations, beside a model of its weights and of its optimizer.

    On small integers, and with rates that are powers of two, plain SGD is exact.
    """

    @initialize(
        shape=st.sampled_from(SHAPES), implementation=st.sampled_from((1, 2, 3)), dtype=st.sampled_from(("f4", "f8")),
        optimizer=st.sampled_from((*OPTIMIZERS, "fails")),
    )  # fmt: skip
    def make(self, shape, implementation, dtype, optimizer):
        rank, self.sample, settings = shape
        optimizer = Fails(2 if settings.get("use_bias", True) else 1) if optimizer == "fails" else optimizer
        self.dtype, self.held, self.life = np.dtype(dtype), [], 0
        self.layer = CLASSES[rank](
            **settings, implementation=implementation, dtype=self.dtype.name, optimizer=optimizer, rng=0, name="layer",
            kernel_initializer=whole_numbers,
        )  # fmt: skip
        self.layer.build((None, *self.sample))
        self.optimizer = self.layer.optimizer
        geometry = self.layer._geometry
        self.windows = {
            "kernel_size": geometry.kernel_size, "strides": geometry.strides, "dilation": geometry.dilation,
            "padding": geometry.padding, "padding_mode": geometry.padding_mode,
        }  # fmt: skip
        self.exists = geometry.exists[:, :, None]
        self.weights, self.states, self.trainable = self.layer.get_weights(), {}, True
        self.version = self.layer._parameters.version
        assert all(np.array_equal(w, np.rint(w)) for w in self.weights)

    # --- the model

    @property
    def exact(self):
        """Whether the numbers so far are small multiples of a quarter."""
        return self.optimizer == lc.SGD() and all(
            np.isfinite(w).all() and np.array_equal(4 * w, np.rint(4 * w)) and np.abs(w).max(initial=0) < 2**12
            for w in self.weights
        )

    def existing(self, arrays):
        kernel, *rest = arrays
        arrays = np.where(self.exists, kernel, 0), *rest
        return [np.array(array, self.dtype, order="C") for array in arrays]

    def expected_step(self, grads, lr):
        """What a step makes of weights and states, by each optimizer's own update of a single array."""
        weights, states = [w.copy() for w in self.weights], pickle.loads(pickle.dumps(self.states))
        if self.trainable:
            for name, weight, grad in zip(("kernel", "bias"), weights, self.existing(grads), strict=False):
                states.setdefault(name, self.optimizer.init(weight))
                with np.errstate(all="ignore"):
                    self.optimizer.update(weight, grad, states[name], float(lr))
        return weights, states

    def take_over(self, expected, exactly):
        """Compare the layer with what a step should have made of it, and continue from there."""
        weights, states = expected
        same = (
            np.testing.assert_array_equal
            if exactly
            else functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
        )
        for found, wanted in zip(self.layer.get_weights(), weights, strict=True):
            same(found, wanted)
        found = self.layer.get_training_state()
        assert found.keys() == states.keys()
        for name in found:
            assert found[name].keys() == states[name].keys()
            for key in found[name]:
                same(found[name][key], states[name][key])
        self.weights, self.states = self.layer.get_weights(), pickle.loads(pickle.dumps(found))
        self.version += self.trainable

    def attempt(self, call, good, names=()):
        """The result of a call; None if it was refused, as it must be unless it is good, and changed nothing."""
        before = self.layer._parameters.version
        with ending(), np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                result = call()
            except Exception as error:
                if good:
                    raise
                if not isinstance(error, FailedError):
                    check_refusal(error, names)
                assert self.layer._parameters.version == before, "the version has changed"
                return None
        assert good, f"taken, though it does not fit: {result!r:.300}"
        return result

    def renew(self, layer):
        """Go on with another layer; what pullbacks there are belong to the old one."""
        self.layer, self.life = layer, self.life + 1
        self.version = layer._parameters.version

    @invariant()
    def weights_and_states_are_those_of_the_model(self):
        if not hasattr(self, "layer"):
            return
        for found in (self.layer.get_weights(), self.layer.weights):
            for array, wanted in zip(found, self.weights, strict=True):
                assert array.dtype == self.dtype
                np.testing.assert_array_equal(array, wanted)
        found = self.layer.get_training_state()
        assert pickle.dumps(sorted(found)) == pickle.dumps(sorted(self.states))
        for name, state in self.states.items():
            for key, array in state.items():
                np.testing.assert_array_equal(found[name][key], array)
        assert self.layer._parameters.version == self.version
        assert self.layer.trainable == self.trainable

    def check_output(self, x, y, finite):
        if not finite:
            return
        bias = self.weights[1] if len(self.weights) == 2 else None
        with np.errstate(all="ignore"):
            expected = reference.forward(x, self.weights[0], bias, **self.windows)
        assert y.dtype == self.dtype
        assert y.shape == expected.shape
        if self.exact:
            np.testing.assert_array_equal(y, expected)
        elif all(np.isfinite(w).all() for w in self.weights):
            scale = 1 + np.abs(expected).max(initial=0) + max(np.abs(w).max(initial=0) for w in self.weights)
            np.testing.assert_allclose(y / scale, expected / scale, atol=1e-4)

    # --- operations

    @rule(form=FORMS_OF_ARRAYS, batch=st.integers(0, 3), as_list=st.booleans())
    def call(self, form, batch, as_list):
        x = form.of((batch, *self.sample))
        good = fits(x, (*x.shape[:1], *self.sample))
        if good and as_list and x.size:
            x = np.array(x.tolist())
            y = self.attempt(lambda: self.layer(x.tolist()), good, ["x"])
        else:
            y = self.attempt(lambda: self.layer(x), good, ["x"])
        if y is not None:
            self.check_output(x, y, form.finite)

    @rule(form=FORMS_OF_ARRAYS, batch=st.integers(0, 3))
    def forward(self, form, batch):
        x = form.of((batch, *self.sample))
        result = self.attempt(lambda: self.layer.forward(x), fits(x, (*x.shape[:1], *self.sample)), ["x"])
        if result is not None:
            self.check_output(x, result[0], form.finite)
            self.held = [*self.held[-3:], Held(result[1], x, form.finite, self.version, self.life)]

    def pick(self, number):
        held = self.held[number % len(self.held)]
        shape = (len(held.x), *self.layer.output_shape[1:])
        return held, shape, held.life == self.life

    def expected_gradients(self, held, dy):
        with np.errstate(all="ignore"):
            dx, dkernel, dbias = reference.backward(held.x, self.weights[0], dy, **self.windows)
        return dx, [dkernel, dbias][: len(self.weights)]

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 3), form=FORMS_OF_ARRAYS)
    def backward(self, number, form):
        held, shape, alive = self.pick(number)
        if not alive:
            return
        dy = form.of(shape, self.dtype)
        result = self.attempt(
            lambda: held.backward(dy), fits(dy, shape) and held.version == self.version, ["dy", "backward"]
        )
        if result is None:
            return
        dx, grads = result
        wanted, gradients = self.expected_gradients(held, dy)
        assert dx.shape == held.x.shape
        assert dx.dtype == self.dtype
        if not (form.finite and held.finite):
            return
        for found, array in zip((grads.kernel, grads.bias), gradients, strict=False):
            np.testing.assert_array_equal(found, array)
        if self.exact:
            np.testing.assert_array_equal(dx, wanted)

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 3), form=FORMS_OF_ARRAYS, lr=RATES, wants_dx=st.booleans())
    def backward_step(self, number, form, lr, wants_dx):
        held, shape, alive = self.pick(number)
        if not alive:
            return
        dy = form.of(shape, self.dtype)
        if not (form.finite and held.finite) and fits(dy, shape):
            return
        fresh = held.version == self.version
        good = (
            fits(dy, shape) and good_rate(lr) and fresh and not (self.trainable and isinstance(self.optimizer, Fails))
        )
        expected = self.expected_step(self.expected_gradients(held, dy)[1], lr) if good else None
        result = self.attempt(
            lambda: (held.backward.step(dy, lr, wants_dx=wants_dx),), good, ["dy", "lr", "backward", "grads"]
        )
        if result is not None:
            assert (result[0] is not None) == wants_dx
            self.take_over(expected, self.exact and self.optimizer == lc.SGD())

    @rule(
        seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)), lr=RATES, batch=st.integers(0, 3), fused=st.booleans()
    )
    def train(self, seeds, lr, batch, fused):
        """Forward and a step, as it should be; of the same pullback, one more is refused by the rule above."""
        x, dy = (Form(seed, "none", "own", "plain", None) for seed in seeds)
        self.forward(x, batch)
        number = len(self.held) - 1
        if fused:
            self.backward_step(number, dy, lr, True)
        else:
            self.backward(number, dy)

    @rule(
        form=FORMS_OF_ARRAYS,
        other=FORMS_OF_ARRAYS,
        lr=RATES,
        later=st.booleans(),
        count=st.sampled_from((0,) * 10 + (1, -1)),
    )
    def step(self, form, other, lr, later, count):
        if not (form.finite and other.finite):
            return
        grads = [each.of(w.shape, self.dtype) for each, w in zip((form, other), self.weights, strict=False)]
        alike = all(
            g.shape == w.shape and g.dtype.newbyteorder("=") == self.dtype
            for g, w in zip(grads, self.weights, strict=True)
        )
        given_ = [*grads, grads[0]] if count > 0 else grads[:-1] if count < 0 else grads
        failing = self.trainable and isinstance(self.optimizer, Fails)
        good = alike and good_rate(lr) and count == 0 and not failing
        expected = self.expected_step(grads, lr) if good else None
        if later:  # the plan of a step, carried out after the optimizer's state or the weights were asked for
            commit = self.attempt(lambda: self.layer.plan_update(tuple(given_), lr), good, ["grads", "lr"])
            if commit is not None:
                self.weights_and_states_are_those_of_the_model()
                commit()
        else:
            commit = self.attempt(lambda: (self.layer.step(tuple(given_), lr),), good, ["grads", "lr"])
        if commit is not None:
            self.take_over(expected, True)

    @rule(form=FORMS_OF_ARRAYS, other=FORMS_OF_ARRAYS, count=st.sampled_from((0,) * 10 + (1, -1)), own=st.booleans())
    def set_weights(self, form, other, count, own):
        arrays = [each.of(w.shape) for each, w in zip((form, other), self.weights, strict=False)]
        if own:  # the layer's own views
            arrays = [w[::-1] if form.seed % 2 else w for w in self.layer.weights]
        good = all(fits(a, w.shape) for a, w in zip(arrays, self.weights, strict=True)) and count == 0
        wanted = self.existing([np.array(a) for a in arrays]) if good else None
        given_ = [*arrays, arrays[0]] if count > 0 else arrays[:-1] if count < 0 else arrays
        if self.attempt(lambda: (self.layer.set_weights(given_),), good, ["weights"]) is not None:
            self.take(wanted)

    def take(self, wanted):
        """Expect other weights, of a new version unless they are equal to the bit."""
        alike = all(a.astype(self.dtype).tobytes() == b.tobytes() for a, b in zip(wanted, self.weights, strict=True))
        self.version += not alike
        self.weights = wanted

    @rule(form=FORMS_OF_ARRAYS)
    def set_flat(self, form):
        size = self.layer.count_params()
        vector = form.of((size,))
        good = fits(vector, (size,))
        if self.attempt(lambda: (self.layer.set_flat(vector),), good, ["vector"]) is not None:
            kernel = np.zeros(self.weights[0].shape, self.dtype)
            there = np.broadcast_to(self.exists, kernel.shape)
            kernel[there] = vector[: np.count_nonzero(there)]
            rest = vector[np.count_nonzero(there) :].astype(self.dtype)
            self.take([kernel, *(rest.reshape(w.shape) for w in self.weights[1:])])
            np.testing.assert_array_equal(self.layer.get_flat(), vector.astype(self.dtype))

    @rule(form=FORMS_OF_ARRAYS)
    def build_with(self, form):
        """Of a layer that has weights: refused, or new ones."""
        arrays = [form.of(w.shape) for w in self.weights]
        good = all(fits(a, w.shape) for a, w in zip(arrays, self.weights, strict=True))
        if not good:
            self.attempt(lambda: self.layer.build_with((None, *self.sample), arrays), good, ["weights"])
            fresh = type(self.layer).from_config(self.layer.get_config())
            self.attempt(lambda: fresh.build_with((None, *self.sample), arrays), good, ["weights"])
            assert not fresh.built
            fresh(np.zeros((1, *self.sample)))  # what was refused has left nothing behind

    @rule(
        strange=st.sampled_from(STRANGE),
        method=st.sampled_from(("forward", "step", "set_weights", "set_flat", "build")),
    )
    def anything(self, strange, method):
        arguments = (strange, 0.5) if method == "step" else (strange,)
        names = {
            "forward": ["x"],
            "step": ["grads"],
            "set_weights": ["weights"],
            "set_flat": ["vector"],
            "build": ["input_shape"],
        }
        if strange is None and method == "step" and not self.trainable:
            return
        if method == "build" and isinstance(strange, list | tuple):  # which may be a shape
            return
        self.attempt(lambda: getattr(self.layer, method)(*arguments), False, names[method])

    @rule(
        name=st.sampled_from(("filters", "strides", "padding", "dtype", "use_bias", "name", "implementation")),
        value=st.sampled_from(STRANGE),
    )
    def settings_are_locked(self, name, value):
        self.attempt(lambda: setattr(self.layer, name, value), False, [name])

    @rule(trainable=st.sampled_from((True, True, False, 1, None)))
    def flip(self, trainable):
        good = isinstance(trainable, bool)
        if self.attempt(lambda: (setattr(self.layer, "trainable", trainable),), good, ["trainable"]) is not None:
            self.trainable = trainable

    @rule(
        optimizer=st.one_of(
            st.sampled_from(OPTIMIZERS),
            st.just("fails"),
            st.just("fails"),
            st.sampled_from((None, 3, "adamm", {}, int)),
        )
    )
    def change_optimizer(self, optimizer):
        optimizer = Fails(len(self.weights)) if optimizer == "fails" else optimizer
        good = optimizer in OPTIMIZERS or isinstance(optimizer, Fails)
        if self.attempt(lambda: (setattr(self.layer, "optimizer", optimizer),), good, ["optimizer"]) is not None:
            self.optimizer, self.states = self.layer.optimizer, {}

    @rule(number=st.sampled_from((1, 2, 3, "auto", 0, 4, "1", None, 1.0, True)))
    def other_implementation(self, number):
        good = number in (1, 2, 3, "auto") and isinstance(number, int | str) and not isinstance(number, bool)
        found = self.attempt(lambda: self.layer.with_implementation(number), good, ["implementation"])
        if found is not None:
            self.renew(found)

    @rule(checkpoint=st.booleans())
    def stored(self, checkpoint):
        """The layer, or its optimizer's state, goes through a pickle."""
        if checkpoint:
            self.layer.plan_training_state(pickle.loads(pickle.dumps(self.layer.get_training_state())))()
        else:
            self.renew(pickle.loads(pickle.dumps(self.layer)))


TestLayerMachine = LayerMachine.TestCase


# --- training

NUMBERS = st.sampled_from((1, 2, 3) * 8 + (100, 0, -1, 2**62, 1.0, None, True, "2", np.int8(2), math.nan))
SHARES = st.sampled_from((0.0,) * 20 + (0.5, 0.9, 1, 1.0, -0.1, math.nan, None, True, "0.5", np.float32(0.5)))
CLASS_WEIGHTS = st.sampled_from(
    (None,) * 20
    + (
        {0: 2.0},
        {1: 1, 2: 0.5},
        {5: 1},
        {-1: 1},
        {"0": 1},
        {None: 1},
        {1.5: 1},
        {0: -1},
        {0: math.nan},
        {0: "1"},
        [1, 2],
        3,
    )
)
LABELS = st.sampled_from(("good",) * 3 + ("bad at last", "rows", "bad rows", "floats"))


def labels(kind, n, form):
    """Targets of three classes, or what only looks like it."""
    rng = np.random.default_rng(form.seed)
    y = rng.integers(0, 3, n)
    if kind == "bad at last" and n:
        y[-1] = 3
    if "rows" in kind:
        y = np.eye(3)[y]
        y[-1:] = -1 if kind == "bad rows" else y[-1:]
    return y.astype(float) if kind == "floats" else y


def classifier():
    """A small model with a little of everything."""
    layers = [
        lc.LocallyConnected2D(2, 2, activation="relu", name="local", rng=0), lc.Flatten(name="flat"),
        lc.Dropout(0.0, name="dropout"), lc.Dense(3, name="out", rng=1),
    ]  # fmt: skip
    model = lc.Sequential(layers)
    model.build((None, 3, 3, 1))
    model.compile("adam", loss="softmax_cross_entropy", metrics=["accuracy"])
    return model


def predicted(model, x):
    """What the model must predict."""
    kernel, bias, matrix, offset = model.get_weights()
    windows = {"kernel_size": (2, 2), "strides": (1, 1), "dilation": (1, 1), "padding": "valid"}
    hidden = np.maximum(reference.forward(x, kernel, bias, **windows), 0)
    return hidden.reshape(len(x), -1) @ matrix + offset


def remembered(model):
    """Weights and states as bytes; the random numbers of Dropout go on with every forward call."""
    states = [layer.get_training_state() for layer in model.layers if hasattr(layer, "weights")]
    arrays = [*model.get_weights(), *(a for state in states for arrays in state.values() for a in arrays.values())]
    return [array.tobytes() for array in arrays], model.steps_taken


@given(st.data())
def test_training_is_refused_before_it_changes_anything(data):
    model = classifier()
    for _ in range(data.draw(st.integers(1, 5))):
        method = data.draw(st.sampled_from(("fit", "fit", "fit", "train_on_batch", "evaluate", "predict", "step")))
        n = data.draw(st.sampled_from((1, 2, 3, 4, 5, 0)))
        form = data.draw(FORMS_OF_ARRAYS)
        x = form.of((n, 3, 3, 1))
        y = labels(data.draw(LABELS), n, form) if data.draw(st.integers(0, 5)) else data.draw(FORMS_OF_ARRAYS).of((n,))
        settings = {}
        if method in ("fit", "train_on_batch"):
            settings |= {"lr": data.draw(RATES), "class_weight": data.draw(CLASS_WEIGHTS)}
        if method in ("fit", "evaluate"):
            settings["batch_size"] = data.draw(NUMBERS)
        if method in ("fit", "train_on_batch", "evaluate") and not data.draw(st.integers(0, 4)):
            settings["sample_weight"] = data.draw(FORMS_OF_ARRAYS).of((n,))
        if method == "fit":
            settings |= {"epochs": data.draw(NUMBERS.filter(lambda n: n not in (100, 2**62))), "progress": False}
            settings["validation_split"] = data.draw(SHARES)
        if method == "predict":
            call = functools.partial(model.predict, x, data.draw(NUMBERS))
        elif method == "step":
            call = functools.partial(stepped, model, x, data.draw(FORMS_OF_ARRAYS).of((n, 3)), data.draw(RATES))
        else:
            call = functools.partial(getattr(model, method), x, y, **settings)
        note(f"{method} {x.shape} {x.dtype} {y.shape} {y.dtype} {settings}")
        before = remembered(model)
        with ending(), np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                call()
            except Exception as error:  # noqa: BLE001 - whatever it is
                check_refusal(error)
                assert remembered(model) == before
            else:
                assert method not in ("evaluate", "predict") or remembered(model) == before
    x = integers(np.random.default_rng(n), (2, 3, 3, 1))
    if all(np.isfinite(weight).all() for weight in model.get_weights()):
        with np.errstate(all="ignore"):
            expected = predicted(model, x)
        if np.abs(expected).max() < 1e30:
            np.testing.assert_allclose(model.predict(x), expected, rtol=1e-3, atol=1e-4 * (1 + np.abs(expected).max()))


def stepped(model, x, dy, lr):
    _, backward = model.forward(x)
    backward.step(dy, lr)
