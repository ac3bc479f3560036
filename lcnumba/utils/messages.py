"""Messages: hints for names of other libraries, unexpected arguments, warnings, and how to install extras."""

import difflib
import functools
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import lcnumba

__all__ = ["PUBLIC_WORDS", "install", "missing", "public", "public_class", "refuse_attribute", "warn"]

Called = TypeVar("Called", bound=Callable[..., Any])
Kind = TypeVar("Kind", bound=type)

RATE = "the learning rate is not a parameter of the optimizer: give compile(lr=...), fit(lr=...) or step(grads, lr=...)"
_CLIP = "gradients are clipped by compile(clip_value=...) and compile(clip_norm=...), over all layers together"
_NO_BAR = "give progress=False for no progress bar"
_ALL_BATCHES = "all samples of an array are used; steps_per_epoch of fit is for iterables of batches"
_STOPPING = "give callbacks=[lcnumba.callbacks.EarlyStopping(...)]"
_NO_WORKERS = "batches come from an iterable, such as torch's DataLoader, which has workers of its own"
_TRAINING = "a plain call is inference, and forward(x) is training"
_DICT = "a dict is always returned"
_OPTIONAL = "this variant is not implemented; a custom optimizer has init(param) and update(param, grad, state, lr)"

# For names of arguments in Keras, scikit-learn and PyTorch: the names here, each with a remark if need be, of which the
# first that the function has is shown. None: shown if it has none of them.
PUBLIC_WORDS: dict[str, dict[str | None, str]] = {
    # learning rates and optimizers
    "learning_rate": {"lr": "", "learning_rate_init": "", None: RATE},
    "lr": {"learning_rate_init": "", None: RATE},
    "initial_learning_rate": {"lr": ""},
    "decay": {None: "give a schedule, fit(lr=lcnumba.schedules.ExponentialDecay(...))"},
    "weight_decay": {"alpha": "", None: "AdamW has it; a penalty is kernel_regularizer of a layer"},
    "betas": {"beta_1": "give beta_1 and beta_2"},
    "beta1": {"beta_1": ""},
    "beta2": {"beta_2": ""},
    "eps": {"epsilon": ""},
    "alpha": {"final": "it is a rate, Keras' alpha times lr", "rho": "", "rate": ""},
    "amsgrad": {None: _OPTIONAL},
    "centered": {None: _OPTIONAL},
    "momentum": {None: "RMSprop has none here; SGD(momentum=...) has"},
    "use_ema": {None: _OPTIONAL},
    "clipnorm": {"clip_norm": "it is of all layers together, Keras' global_clipnorm", None: _CLIP},
    "global_clipnorm": {"clip_norm": "", None: _CLIP},
    "clipvalue": {"clip_value": "", None: _CLIP},
    "decay_steps": {"steps": ""},
    "decay_rate": {"rate": ""},
    "gamma": {"factor": "", "rate": ""},
    "step_size": {"every": ""},
    "warmup_steps": {"warmup": ""},
    # compile and fit
    "verbose": {"progress": _NO_BAR, None: "nothing is printed here"},
    "X": {"x": ""},
    "nb_epoch": {"epochs": ""},
    "num_epochs": {"epochs": ""},
    "n_epochs": {"epochs": ""},
    "max_epochs": {"epochs": ""},
    "max_iter": {"epochs": ""},
    "n_iter": {"epochs": "", "max_iter": ""},
    "epochs": {"max_iter": ""},
    "seed": {"rng": "", "random_state": ""},
    "random_state": {"rng": "", "seed": ""},
    "generator": {"rng": ""},
    "optimizer": {"solver": "", None: "give it to compile(optimizer), or to each layer"},
    "criterion": {"loss": ""},
    "loss_fn": {"loss": ""},
    "metric": {"metrics": ""},
    "weighted_metrics": {"metrics": "metrics are not weighted"},
    "loss_weights": {None: "a model has one output and one loss"},
    "run_eagerly": {None: "nothing is traced, so calls can always be debugged: leave it out"},
    "jit_compile": {None: "kernels are always compiled: leave it out"},
    "steps_per_execution": {None: "leave it out"},
    "gradient_accumulation_steps": {"accumulate": "", None: "give compile(accumulate=...)"},
    "steps": {None: _ALL_BATCHES},
    "validation_steps": {None: _ALL_BATCHES},
    "validation_freq": {None: "validation follows each epoch"},
    "validation_batch_size": {None: "batch_size is that of validation, too"},
    "workers": {None: _NO_WORKERS},
    "num_workers": {None: _NO_WORKERS},
    "use_multiprocessing": {None: _NO_WORKERS},
    "max_queue_size": {None: _NO_WORKERS},
    "early_stopping": {"callbacks": _STOPPING},
    "return_dict": {None: _DICT},
    "reset_metrics": {None: "metrics are those of this batch alone"},
    "callbacks": {None: "callbacks belong to fit"},
    "weights": {"sample_weight": "", "class_weight": ""},
    "class_weight": {None: "fit of a model and the constructor of LocallyConnectedClassifier have it"},
    # callbacks
    "restore_best_weights": {"restore_best": "it is True by default"},
    "patience": {"n_iter_no_change": "", "callbacks": _STOPPING},
    "baseline": {None: "not implemented; a custom callback can stop the training"},
    "start_from_epoch": {None: "not implemented; a custom callback can stop the training"},
    "epsilon": {"min_delta": ""},
    "filepath": {"path": ""},
    "filename": {"path": ""},
    "file": {"path": ""},
    "save_best_only": {"monitor": "give monitor='val_loss' to keep the best"},
    "save_weights_only": {None: "a checkpoint holds the whole training; lcnumba.load reads the model from it"},
    "save_freq": {"every_batches": "epochs are every, batches every_batches"},
    "period": {"every": ""},
    "append": {None: "the log of a resumed training includes the earlier epochs: leave it out"},
    "sep": {"separator": ""},
    "delimiter": {"separator": ""},
    # files and summaries
    "custom_objects": {"layers": ""},
    "compile": {None: "compile settings are not in the file: call compile on the returned model"},
    "overwrite": {None: "an existing file is replaced atomically: leave it out"},
    "save_format": {None: "the format is lcnumba's; lcnumba.save_keras_weights writes Keras'"},
    "include_optimizer": {None: "settings of optimizers are saved, their state is in checkpoints"},
    "line_length": {None: "the table is as wide as its contents"},
    # layers
    "training": {None: _TRAINING},
    "mask": {"kernel_mask": "", None: "layers take no mask; kernel_mask removes connections"},
    "out_channels": {"filters": ""},
    "n_filters": {"filters": ""},
    "num_filters": {"filters": ""},
    "hidden_layer_sizes": {"filters": "it is the number of filters of each locally connected layer"},
    "in_channels": {None: "it follows from the input: leave it out"},
    "in_features": {None: "it follows from the input: leave it out"},
    "out_features": {"units": ""},
    "kernel": {"kernel_size": ""},
    "stride": {"strides": ""},
    "dilation": {"dilation_rate": ""},
    "bias": {"use_bias": ""},
    "groups": {None: "locally connected, transposed and convolutional layers have groups"},
    "weight_sharing": {None: "locally connected and transposed layers have weight_sharing"},
    "kernel_init": {"kernel_initializer": ""},
    "init": {"kernel_initializer": ""},
    "W_regularizer": {"kernel_regularizer": ""},
    "shape": {"input_shape": ""},
    "input_size": {"input_shape": ""},
    "dynamic": {None: "leave it out"},
    "autocast": {None: "inputs are always cast to the layer's dtype: leave it out"},
    "device": {None: "everything is computed on the CPU: leave it out"},
    "p": {"rate": ""},
    "noise_shape": {None: "each element is dropped independently"},
    "negative_slope": {"alpha": ""},
    # losses
    "reduction": {None: "a loss is the mean over all elements of all samples"},
    "label_smoothing": {None: "smooth the targets: they may be probabilities"},
    "ignore_class": {None: "lcnumba.losses.Masked(loss, ignore_class=...) has it"},
    "ignore_index": {"ignore_class": "", None: "lcnumba.losses.Masked(loss, ignore_class=...) has it"},
    "logits": {"from_logits": ""},
    # estimators
    "n_jobs": {"n_threads": ""},
    "C": {"alpha": "alpha is as in MLPClassifier: about 1 / C"},
    "l2": {"alpha": "", "kernel_regularizer": ""},
    "max_fun": {None: "the solver 'lbfgs' is not implemented"},
}  # fmt: skip


# Attributes of models, layers and callbacks in Keras and PyTorch that would have no effect here: what to use instead.
_ATTRIBUTES = {
    "optimizer": "compile(optimizer), or set_optimizer, gives one to all layers",
    "loss": "give it to compile or fit",
    "metrics": "give them to compile or fit",
    "lr": "give it to compile, fit or step; a callback sets run.lr",
    "learning_rate": "give lr to compile, fit or step; a callback sets run.lr",
    "stop_training": "a callback calls run.stop()",
    "requires_grad": "set trainable",
}

# Names in Keras, scikit-learn and PyTorch that are different here.
_NAMES = {
    "ModelCheckpoint": "lcnumba.callbacks.Checkpoint",
    "BackupAndRestore": "lcnumba.callbacks.Checkpoint, with fit(resume=path)",
    "LearningRateScheduler": "lcnumba.callbacks.LearningRate, with a function (epoch, lr) -> lr",
    "LambdaCallback": "a subclass of lcnumba.callbacks.Callback",
    "TensorBoard": "lcnumba.callbacks.CSVLogger writes a table",
    "History": "lcnumba.History",
    "layers": "layers are names of lcnumba itself, such as lcnumba.Dense",
    "models": "lcnumba.Sequential, lcnumba.load",
    "nn": "layers are names of lcnumba itself, such as lcnumba.Dense",
    "optim": "lcnumba.optimizers",
    "Model": "lcnumba.Sequential",
    "Linear": "lcnumba.Dense",
    "load_model": "lcnumba.load for files of this library, lcnumba.load_keras for Keras'",
    "LocallyConnectedClassifier": "lcnumba.estimators.LocallyConnectedClassifier",
    "LocallyConnectedRegressor": "lcnumba.estimators.LocallyConnectedRegressor",
    "MaxPool1D": "lcnumba.MaxPooling1D",
    "MaxPool2D": "lcnumba.MaxPooling2D",
    "AvgPool2D": "lcnumba.AveragePooling2D",
    "BatchNorm1d": "lcnumba.BatchNormalization",
    "BatchNorm2d": "lcnumba.BatchNormalization",
    "l1": "lcnumba.regularizers.L1",
    "l2": "lcnumba.regularizers.L2",
    "l1_l2": "lcnumba.regularizers.L1L2",
    "relu": "lcnumba.activations.ReLU, or the name 'relu'",
    "softmax": "lcnumba.activations.Softmax, or the name 'softmax'",
    "EarlyStopping": "lcnumba.callbacks.EarlyStopping",
    "LearningRateSchedule": "any function of the step, as those of lcnumba.schedules",
}


def missing(module: str, name: str) -> AttributeError:
    """Return the error for a name that a module lacks, with the name here if it is one of another library.

    Examples
    --------
    >>> from lcnumba.utils.messages import missing
    >>> str(missing("lcnumba.callbacks", "ModelCheckpoint"))
    "module 'lcnumba.callbacks' has no attribute 'ModelCheckpoint'; here it is lcnumba.callbacks.Checkpoint"
    """
    here = f"lcnumba.{name}" if name in lcnumba.__all__ else _NAMES.get(name)
    hint = f"; here it is {here}" if here not in (None, f"{module}.{name}") else ""
    return AttributeError(f"module {module!r} has no attribute {name!r}{hint}")


def refuse_attribute(thing: Any, name: str) -> None:
    """Raise for an attribute of another library's class, unless the class here has it too.

    Examples
    --------
    >>> from lcnumba.utils.messages import refuse_attribute
    >>> refuse_attribute(object(), "stop_training")
    Traceback (most recent call last):
    ...
    AttributeError: object has no attribute stop_training: a callback calls run.stop()
    """
    if name in _ATTRIBUTES and not hasattr(type(thing), name):
        raise AttributeError(f"{type(thing).__name__} has no attribute {name}: {_ATTRIBUTES[name]}")


def public(function: Called, *, name: str | None = None, method: bool | None = None, note: str = "") -> Called:
    """Improve the errors of a function about its arguments: a decorator.

    For unknown, missing, duplicate and too many positional arguments, raise a TypeError that names the class or
    function called, the name here of another library's argument, and the right form.

    Parameters
    ----------
    function : callable
        A function without ``*args`` and ``**kwargs``; for an ``__init__``, messages name the class.
    name : str, optional
        Its name in messages, by default its own.
    method : bool, optional
        Whether messages leave out the first argument; by default if it is called self.
    note : str
        Appended to the message about too many positional arguments.

    Examples
    --------
    >>> from lcnumba.utils.messages import public
    >>> @public
    ... def fit(x, *, lr=0.1):
    ...     return x * lr
    >>> fit(2, learning_rate=0.5)
    Traceback (most recent call last):
    ...
    TypeError: fit() got an unexpected keyword argument 'learning_rate' (0.5): it is called lr here
    """
    code = function.__code__
    most = code.co_argcount
    positional, rest = code.co_varnames[:most], code.co_varnames[most : most + code.co_kwonlyargcount]
    known = frozenset(positional + rest)
    optional = positional[most - len(function.__defaults__ or ()) :] + tuple(function.__kwdefaults__ or ())
    needed = tuple(argument for argument in positional + rest if argument not in optional)
    bound = positional[:1] == ("self",) if method is None else method
    refuse = functools.partial(_refuse, name or function.__name__, bound, positional, rest, needed, note)

    # The fewest positional arguments that are enough; no number is if some are required by name.
    least = len(needed) if set(needed) <= set(positional) else most + 1

    def call(*args: Any, **kwargs: Any) -> Any:
        if not kwargs and least <= len(args) <= most:
            return function(*args)
        given = positional[: len(args)]
        if (
            len(args) > most
            or not known.issuperset(kwargs)
            or (kwargs and not kwargs.keys().isdisjoint(given))
            or any(argument not in kwargs for argument in needed[len(args) :])
        ):
            refuse(args, kwargs)
        return function(*args, **kwargs)

    # With the function's globals: doctest skips functions whose globals are another module's.
    wrapper: Any = types.FunctionType(
        call.__code__,
        function.__globals__,
        function.__name__,
        closure=call.__closure__,
    )
    functools.update_wrapper(wrapper, function)
    return cast(Called, wrapper)


def public_class(kind: Kind | None = None, *, note: str = "") -> Any:
    """Improve the errors of a constructor about its arguments: a class decorator.

    Examples
    --------
    >>> from lcnumba.utils.messages import public_class
    >>> @public_class
    ... class Stopping:
    ...     def __init__(self, *, restore_best=True):
    ...         pass
    >>> Stopping(restore_best_weights=True)
    Traceback (most recent call last):
    ...
    TypeError: Stopping() got an unexpected keyword argument 'restore_best_weights' (True): it is called restore_best
        here (it is True by default)
    """

    def decorated(kind: Any) -> Any:
        kind.__init__ = public(kind.__init__, note=note)
        return kind

    return decorated if kind is None else decorated(kind)


def _refuse(
    name: str, method: bool, positional: tuple[str, ...], rest: tuple[str, ...], needed: tuple[str, ...], note: str,
    args: tuple[Any, ...], kwargs: dict[str, Any],
) -> None:  # fmt: skip
    """Raise the error for the arguments of a call."""
    if name in ("__init__", "__call__") and args:
        name = f"{type(args[0]).__name__}{'' if name == '__init__' else ' instance'}"
    names = (*positional, *rest)[1 if method else 0 :]
    for word, value in kwargs.items():
        if word not in names:
            kind = type(args[0]) if method and args else None
            raise TypeError(
                f"{name}() got an unexpected keyword argument '{word}' ({value!r:.80}): {_hint(word, names, kind)}"
            )
    if len(args) > len(positional):
        first = args[len(positional)]
        form = f"{name}({rest[0]}=...)" if rest else f"{name}({', '.join(names)})"
        raise TypeError(
            f"{name}() takes {len(positional) - method} positional arguments but {len(args) - method} were given; "
            f"{first!r:.80} is too many: "
            + (f"give settings by name, such as {form}" if rest else f"give {form}")
            + (f"; {note}" if note else "")
        )
    for word in positional[: len(args)]:
        if word in kwargs:
            raise TypeError(f"{name}() got multiple values for argument '{word}', by position and by name; give one")
    missing = [argument for argument in needed[len(args) :] if argument not in kwargs]
    form = ", ".join(f"{word}=..." for word in missing)
    raise TypeError(f"{name}() missing required argument {', '.join(map(repr, missing))}; give {name}({form})")


def _hint(word: str, names: tuple[str, ...], kind: type | None) -> str:
    """What to use instead of an unexpected argument; `kind` is the class of a method."""
    here = PUBLIC_WORDS.get(word, {})
    for argument, remark in here.items():
        if argument in names:
            return f"it is called {argument} here" + (f" ({remark})" if remark else "")
    if kind is not None and _constructs(kind, word):
        return f"it belongs to the constructor, {kind.__name__}({word}=...)"
    if None in here:
        return here[None]
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"its arguments are {', '.join(names)}" if names else "it has none"


def _constructs(kind: type, word: str) -> bool:
    """Whether the constructor of a class has an argument."""
    import inspect

    return word in inspect.signature(kind).parameters


def warn(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Issue a warning for the caller's line, the innermost one outside of this package.

    Examples
    --------
    >>> import warnings
    >>> from lcnumba.utils.messages import warn
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("look")
    >>> str(caught[0].message)
    'look'
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "lcnumba":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def install(extra: str) -> str:
    """How to install an extra, from an index or from a checkout.

    Examples
    --------
    >>> from lcnumba.utils.messages import install
    >>> install("keras")
    "pip install 'lcnumba[keras]', or '.[keras]' in a checkout"
    """
    return f"pip install 'lcnumba[{extra}]', or '.[{extra}]' in a checkout"
