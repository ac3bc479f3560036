"""Training a network: what to do with a batch, epochs of them, and where a broken-off training goes on."""

import dataclasses
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lcnumba import activations, checkpoints, contents, gradients, io, losses, optimizers
from lcnumba.arrays import check_dtype, frozen, reads_lazily
from lcnumba.callbacks import Callback, Checkpoint, Progress, figures_text
from lcnumba.checks import axes_hint, boolean, choice, file_path, generator, integer, is_iterable, learning_rate, real
from lcnumba.data import Batch, Batches, Samples, class_weights
from lcnumba.elementwise import Dropout
from lcnumba.flatten import Flatten
from lcnumba.interrupts import deferred
from lcnumba.messages import public, refuse_attribute, warn
from lcnumba.metrics import Metric, binary_accuracy, is_of_all
from lcnumba.metrics import get as get_metrics
from lcnumba.protocol import leaves
from lcnumba.schedules import Schedule

__all__ = ["History", "Recipe", "Run", "compile_model", "evaluate", "fit", "train_on_batch", "value_and_gradients"]

Array = npt.NDArray[Any]
Figures = dict[str, float]
Data = Samples | Batches

_log = logging.getLogger("lcnumba")
_log.addHandler(logging.NullHandler())

# How many times the loss penalties may be before somebody is told that they drown it.
DROWNING = 100

# Functions of a model, which is not told of: they are called as its methods.
_method = partial(partial, public, method=True)


@dataclass
class History:
    """What `fit` saw, an entry an epoch.

    Attributes
    ----------
    history : dict of str to list of float
        "loss" and the metrics, averaged over the samples as they were seen during the epoch; with
        validation data also "val_loss" and so on, computed at its end. NaN where an epoch had no such figure.
    epoch : list of int
        The number of each epoch, from 0.

    Examples
    --------
    >>> import lcnumba as lc
    >>> history = lc.History()
    >>> history.add(0, {"loss": 0.5})
    >>> history.history, history.epoch
    ({'loss': [0.5]}, [0])
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    epoch: list[int] = field(default_factory=list)

    def add(self, epoch: int, figures: Figures) -> None:
        """Append one epoch."""
        for name in figures:
            self.history.setdefault(name, [math.nan] * len(self.epoch))
        for name, values in self.history.items():
            values.append(figures.get(name, math.nan))
        self.epoch.append(epoch)


class _Seen(NamedTuple):
    """What a batch tells: figures to be averaged, what metrics of all samples keep of it, and the penalties."""

    figures: Figures
    kept: dict[str, tuple[Array, ...]]
    penalty: float

    def of_batch(self, metrics: Mapping[str, Metric]) -> Figures:
        """The figures of this batch alone, all metrics included."""
        return self.figures | _of_all(metrics, self.kept)


class _Mean:
    """Running means of figures, weighted by the number of samples, and what metrics of all samples have kept."""

    def __init__(
        self, samples: int = 0, sums: Figures | None = None, kept: dict[str, tuple[Array, ...]] | None = None
    ) -> None:
        self.samples = samples
        self.sums = sums or {}
        self.penalty = 0.0
        self._kept = {name: [arrays] for name, arrays in (kept or {}).items()}

    def add(self, samples: int, seen: _Seen) -> None:
        self.samples += samples
        self.penalty += seen.penalty * samples
        for name, value in seen.figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * samples
        for name, arrays in seen.kept.items():
            self._kept.setdefault(name, []).append(arrays)

    def kept(self) -> dict[str, tuple[Array, ...]]:
        """What metrics of all samples have kept of all batches, joined."""
        return {
            name: tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            for name, parts in self._kept.items()
        }

    def result(self, metrics: Mapping[str, Metric] | None = None) -> Figures:
        """The means; at the end, given the metrics, with those of all samples."""
        means = {name: total / self.samples for name, total in self.sums.items()}
        return means if metrics is None else means | _of_all(metrics, self.kept())


def _of_all(metrics: Mapping[str, Metric], kept: Mapping[str, tuple[Array, ...]]) -> Figures:
    """The figures of metrics of all samples."""
    found: Figures = {}
    for name, metric in metrics.items():
        if name in kept and is_of_all(metric):
            found[name] = float(metric.compute(*kept[name]))
    return found


@dataclass(frozen=True)
class Recipe:
    """What a training does with a batch; `Sequential.compile` makes it.

    Attributes
    ----------
    loss : callable or None
        ``loss(y_true, y_pred) -> (value, dy_pred)``.
    metrics : mapping of str to callable
        ``metric(y_true, y_pred) -> float``.
    lr : float, callable or None
        Learning rate, a schedule of it by step, or what is usual with the optimizer.
    clip_value, clip_norm : float or None
        Largest number, and largest norm of all together, that gradients are cut to.
    accumulate : int
        Batches of which the mean gradient makes a step.

    Examples
    --------
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.Dense(3)])
    >>> model.compile("adam", "mse", accumulate=4)
    >>> model.recipe.accumulate
    4
    """

    loss: Any = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    lr: Any = None
    clip_value: float | None = None
    clip_norm: float | None = None
    accumulate: int = 1

    @property
    def plain(self) -> bool:
        """Whether every batch makes a step by its own gradients, as they are."""
        return self.accumulate == 1 and self.clip_value is None and self.clip_norm is None


@_method(name="compile")
def compile_model(
    model: Any,
    optimizer: Any = None,
    loss: Any = None,
    metrics: Iterable[Any] = (),
    *,
    lr: Any = None,
    clip_value: float | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
) -> None:
    """Say how the model is trained; `fit`, `evaluate` and `train_on_batch` go by it.

    Parameters
    ----------
    optimizer : str or object, optional
        For all layers, with fresh state; by default each keeps its own.
    loss : str or callable, optional
        "mse", "mae", "huber"; "softmax_cross_entropy" (from logits, labels or probabilities),
        "sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy" (of probabilities); an
        object of `lcnumba.losses`, ``lc.losses.BinaryCrossentropy(from_logits=True)`` for instance; or
        ``loss(y_true, y_pred) -> (value, dy_pred)``.
    metrics : iterable of str or callable
        "accuracy", "binary_accuracy", "auc", "mae", "mse", or ``metric(y_true, y_pred) -> float``.
    lr : float or callable, optional
        Learning rate, or a schedule ``lr(step)``; by default Keras' for the optimizer: 0.01 for SGD, 0.001 for
        the others.
    clip_value : float, optional
        Each number of the gradients is cut to -clip_value ... clip_value.
    clip_norm : float, optional
        Gradients are scaled down together where their norm, over all layers, exceeds it (after `clip_value`).
    accumulate : int, default 1
        A step is made of the gradients of so many batches: their mean, by samples.

    Raises
    ------
    ValueError, TypeError
        If anything cannot be used; nothing has changed then.

    Warns
    -----
    RuntimeWarning
        If the model ends in a softmax or sigmoid and the loss is from logits, which would apply it once more.

    Notes
    -----
    Penalties of weights (regularizers) are sums over all weights, while a loss is a mean over samples and positions: a
    factor that is usual elsewhere may drown the loss of a grid. Gradients are clipped before the penalties of weights
    are added to them (Keras: afterwards). Clipping and accumulation need the gradients of all layers at once, where a
    plain step takes them a block at a time.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="zeros")])
    >>> model.compile("sgd", "mse", ["mae"], lr=0.1)
    >>> x, y = np.array([[1.0], [2.0]]), np.array([[2.0], [4.0]])
    >>> history = model.fit(x, y, epochs=2, progress=False)
    >>> model.evaluate(x, y)["mae"] < history.history["mae"][0]
    True
    """
    recipe = _recipe(Recipe(), loss, metrics, lr)
    for name, limit in {"clip_value": clip_value, "clip_norm": clip_norm}.items():
        if limit is not None and real(name, limit) <= 0:
            raise ValueError(f"{name}={limit!r} cannot be used; give a number above 0, or None")
    together = integer("accumulate", accumulate)
    recipe = dataclasses.replace(recipe, clip_value=clip_value, clip_norm=clip_norm, accumulate=together)
    _doubt_ending(model, recipe)  # before anything changes: a warning may be an error
    if optimizer is not None:
        model.set_optimizer(optimizer)
    model.recipe, model.steps_taken = recipe, 0


class Run:
    """One call of `fit`, as callbacks see it.

    Attributes
    ----------
    model : Sequential
        What is trained.
    epochs, epoch : int
        How many there are to be, and the number of this one, from 0.
    batches, batch : int
        How many an epoch has (0 if nobody knows), and how many are done in this one.
    step : int
        How many steps the optimizers have made.
    lr : float
        Learning rate of the next step; setting it ends a schedule.
    names : tuple of str
        What the figures of an epoch are called.
    history : History
        The epochs that are done.
    stopped : bool
        Whether somebody called `stop`.
    finished : bool
        Whether it was for good, so that a checkpoint ends the training, too.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> class Halve(lc.callbacks.Callback):
    ...     def on_epoch_end(self, run, figures):
    ...         run.lr = run.lr / 2
    ...         print(run.epoch, run.step, run.lr)
    >>> model = lc.Sequential([lc.Dense(1)])
    >>> x, y = np.ones((6, 2)), np.ones((6, 1))
    >>> _ = model.fit(x, y, loss="mse", epochs=2, batch_size=2, lr=1.0, callbacks=[Halve()], progress=False)
    0 3 0.5
    1 6 0.25
    """

    def __init__(
        self, model: Any, epochs: int, batches: int, rate: float | Schedule, names: Sequence[str],
        order: np.random.Generator | None = None, callbacks: Sequence[Callback] = (),
    ) -> None:  # fmt: skip
        self.model, self.epochs, self.batches, self.names = model, epochs, batches, tuple(names)
        self.epoch = self.batch = self.step = 0
        self.history = History()
        self.stopped = self.finished = False
        self._rate = rate
        self._set_rate: float | None = None
        self._settings: dict[str, Any] = {}
        self._callbacks = callbacks
        self._order = generator(order)
        # Where a training that goes on from here would begin: epoch, batches of it that are done, figures of those,
        # and the state of the random numbers at its beginning. None but after a step, or an epoch.
        self._border: tuple[int, int, _Mean, Any] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse what Keras' callbacks set, and would do nothing here."""
        refuse_attribute(self, name)
        object.__setattr__(self, name, value)

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        if self._set_rate is not None:
            return self._set_rate
        return learning_rate(self._rate(self.step)) if callable(self._rate) else self._rate

    @lr.setter
    def lr(self, value: float) -> None:
        self._set_rate = learning_rate(value)

    def stop(self, finished: bool = False) -> None:
        """End the training after this batch; before its step, if that has not been made.

        A checkpoint of the moment remembers it if the training is `finished`, and resuming it comes to an end at once;
        else there it would go on.
        """
        self.stopped, self.finished = True, self.finished or finished

    @property
    def between_steps(self) -> bool:
        """Whether `save` is possible: after a step or an epoch, and if no gradients wait for more batches."""
        return self._border is not None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint, with which ``fit(resume=path)`` goes on from here.

        Raises
        ------
        OSError
            If it cannot be written; an older file is as it was.
        RuntimeError
            If it is not the moment: see `between_steps`.
        """
        if self._border is None:
            raise RuntimeError(
                "a checkpoint can be written after a step or an epoch, in after_batch or after_epoch, and where "
                "gradients are accumulated only when they have been used"
            )
        checkpoints.write(path, self.model, self._progress(*self._border))

    def check_saving(self) -> None:
        """Raise a TypeError if `save` would, as far as can be known now."""
        for optimizer in _optimizers(self.model):
            if not optimizers.is_built_in(optimizer):
                checkpoints.check(self.model, optimizer.init(np.zeros((2, 2), np.float32)))
        random = checkpoints.generator_state(self._order)
        checkpoints.restored_generator(random)
        checkpoints.check(self.model, self._progress(0, 0, _Mean(), random))

    def _progress(self, epoch: int, batch: int, mean: _Mean, random: Any) -> dict[str, Any]:
        """What a checkpoint must hold beside the model."""
        return {
            "epoch": epoch, "batch": batch, "samples": mean.samples, "sums": mean.sums, "kept": mean.kept(),
            "rng": random, "step": self.step, "lr": self._set_rate, "finished": self.finished and not batch,
            "settings": self._settings, "history": self.history.history, "epochs": self.history.epoch,
            "callbacks": {name: callback.get_state() for name, callback in self._named()},
        }  # fmt: skip

    def _check_settings(self, progress: dict[str, Any]) -> None:
        """Raise unless a training that was broken off within an epoch goes on with the same data and settings."""
        if progress["batch"] and progress["settings"] != self._settings:
            raise ValueError(
                f"it lies within an epoch of {progress['settings']}, and this fit has {self._settings}; resume with "
                "the same data and settings"
            )

    def _go_on(self, progress: dict[str, Any]) -> tuple[int, _Mean]:
        """Take over what `save` wrote; return the batches that are done, and their figures."""
        for name, callback in self._named():
            if progress["callbacks"].get(name) is not None:
                callback.set_state(progress["callbacks"][name])
        self.epoch, self.batch, self.step = (progress[name] for name in ("epoch", "batch", "step"))
        self.stopped = self.finished = progress["finished"]
        self._set_rate, self.history = progress["lr"], History(progress["history"], progress["epochs"])
        return self.batch, _Mean(progress["samples"], dict(progress["sums"]), progress.get("kept"))

    def _named(self) -> Iterator[tuple[str, Callback]]:
        """The callbacks, each under its class and its number among those of that class."""
        seen: dict[str, int] = {}
        for callback in self._callbacks:
            kind = type(callback).__name__
            seen[kind] = seen.get(kind, 0) + 1
            yield f"{kind} {seen[kind]}", callback


@_method()
def fit(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    loss: Any = None,
    epochs: int = 1,
    batch_size: int = 32,
    lr: Any = None,
    metrics: Iterable[Any] | None = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    validation_data: Any = None,
    validation_split: float = 0.0,
    shuffle: bool | str = True,
    rng: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    callbacks: Iterable[Callback] = (),
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> History:
    """Train the model by stepping it on batches.

    Parameters
    ----------
    x, y : arrays, (N, ...)
        Inputs and targets: arrays in memory or memory-mapped, or datasets of h5py, netCDF4, zarr, Dask, xarray and
        the like, of which a batch at a time is read. Or `x` is an iterable of batches ``(x, y)`` or ``(x, y,
        weights)``, and `y` is left out: one that can be gone through again, or a generator.
    loss, metrics, lr
        As for `compile`, which they go before. "softmax_cross_entropy": y holds labels (N,), integers from 0, or
        probabilities (N, classes), and the model ends in (N, classes) without an activation. "mse": y has the
        shape of the output, and the mean is over all its numbers, as in Keras; on a grid of many positions each
        one's gradient is small, so take "adam" or a larger lr.
    epochs : int
        Number of the last epoch; with `initial_epoch` 0, how many there are.
    batch_size : int
        Samples of a step; the last batch of an epoch may be smaller.
    sample_weight : array, (N,) or (N, ...) by position, optional
        Each sample's part of the loss is multiplied by its weight; of the shape of the first axes of the output, such
        as (N, H, W), each position's is. Metrics are not weighted.
    class_weight : dict of int to float, optional
        Weights by label, 1 where there is none.
    validation_data : (x, y), (x, y, weights) or iterable of such batches, optional
        Evaluated after each epoch, not trained on.
    validation_split : float, default 0
        The share of the last samples that is kept for validation instead.
    shuffle : bool or "batch"
        Whether each epoch visits the samples in a new random order; "batch" changes the order of batches of
        neighbours alone, which files are read much faster by.
    rng : None, int or numpy.random.Generator
        Source of that order.
    initial_epoch : int, default 0
        Number of the first epoch.
    steps_per_epoch : int, optional
        Of an iterable: how many batches make an epoch. The next one goes on where the last one ended.
    callbacks : iterable of Callback
        Called at certain moments: `lcnumba.callbacks`.
    resume : path, optional
        A file of the callback `Checkpoint`, from which training goes on as if it had not been broken off, given the
        same arguments. If there is no such file, training begins at the beginning; a ValueError if that would replace
        the file of a `Checkpoint` at another path.
    progress : bool
        Whether to show a bar on the standard error stream (with tqdm installed; else a line an
        epoch). The logger "lcnumba" gets a line an epoch in any case.

    Returns
    -------
    History
        Its ``history["loss"]`` and so on hold a number an epoch. It is ``model.history`` too, also after an error.

    Raises
    ------
    ValueError, TypeError
        If anything does not fit. Arrays are looked at before the first step; what is read lazily, or comes in
        batches, when it comes.
    KeyboardInterrupt
        After the batch during which it came: all layers have made its step, or none.

    Warns
    -----
    RuntimeWarning
        Once, if the loss is not finite: the weights are then lost, or will be. If an iterable ends before its epochs
        do, which ends the training. If penalties exceed the loss a hundredfold in the first epoch. And if the loss does
        not fit what the model ends in.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.LocallyConnected2D(2, 3, rng=0), lc.Flatten(), lc.Dense(2, rng=0)])
    >>> x, y = np.random.default_rng(0).random((64, 5, 5, 1)), np.arange(64) % 2
    >>> x[y == 1, 0, 0] += 3
    >>> history = model.fit(x, y, loss="softmax_cross_entropy", epochs=20, lr=0.2, metrics=["accuracy"], rng=0,
    ...                     validation_split=0.25, progress=False)
    >>> history.history["val_accuracy"][-1]
    1.0
    """
    epochs, first = integer("epochs", epochs, 0), integer("initial_epoch", initial_epoch, 0)
    if first and resume is not None:
        raise ValueError("give initial_epoch or resume, not both: the checkpoint knows its epoch")
    size = integer("batch_size", batch_size)
    shuffle = choice("shuffle", shuffle, (True, False, "batch"))
    recipe = _complete(model, _recipe(model.recipe, loss, metrics, lr))
    if loss is not None:
        _doubt_ending(model, recipe)
    weigh = _by_class(recipe, class_weight)
    hooks = _hooks(callbacks, boolean("progress", progress))
    data, validation = _data_and_validation(
        model, recipe, x, y, sample_weight, size, steps_per_epoch, validation_data, validation_split, weigh
    )
    if isinstance(data, Batches) and data.once and epochs > first + 1:
        raise ValueError(
            f"x is a {type(x).__name__}, which can be gone through once, and epochs={epochs}; give steps_per_epoch, or "
            "an iterable that can be gone through again"
        )

    names = ["loss", *recipe.metrics]
    names += [f"val_{name}" for name in names] if validation is not None else []
    if resume is not None:
        resume = file_path(resume, "resume").absolute()  # also if the folder changes
    run = Run(model, epochs, len(data), recipe.lr, names, generator(rng), hooks)
    run.epoch = first
    run._settings = {
        "batch_size": size, "shuffle": shuffle, "accumulate": recipe.accumulate, "steps_per_epoch": steps_per_epoch,
        "samples": data.samples if isinstance(data, Samples) else None, "batches": len(data), "figures": names,
    }  # fmt: skip
    stepper = _Stepper(model, recipe, run, weigh)
    _look_at_checkpoints(resume, hooks)
    with ExitStack() as closing:
        for hook in hooks:
            closing.callback(hook.close)
        for hook in hooks:
            hook.on_train_begin(run)
        done, mean = (0, _Mean()) if resume is None else _resumed(run, resume, data)
        if resume is not None and (run.stopped or run.epoch >= epochs):
            _tell_nothing_is_left(run, os.fspath(resume))
        model.history = run.history  # not before: a training that does not begin leaves the last one's
        while run.epoch < epochs and not run.stopped:
            mean = _epoch(run, stepper, data, shuffle, done, mean)
            if not mean.samples:
                break
            figures, broken_off = mean.result(recipe.metrics), run.stopped
            if not run.history.epoch:
                _compare_penalties(mean, figures["loss"])
            if validation is not None:
                figures |= {f"val_{name}": value for name, value in _evaluate(model, validation, recipe).items()}
            with deferred():
                run.history.add(run.epoch, figures)
            _log.info("epoch %d/%d: %s", run.epoch + 1, epochs, figures_text(figures))
            done, mean = 0, _Mean()
            # Of an epoch that was broken off there is a rest, which whoever goes on from a checkpoint must not miss.
            if run.finished or not broken_off:
                run._border = run.epoch + 1, 0, mean, checkpoints.generator_state(run._order)
            for hook in hooks:
                hook.on_epoch_end(run, dict(figures))
            for hook in hooks:
                hook.after_epoch(run, dict(figures))
            run._border = None
            if isinstance(data, Batches) and data.ended:
                break
            run.epoch += 1
        if isinstance(data, Batches) and data.ended:
            warn(
                f"x ended in epoch {run.epoch + 1} of {epochs}, after {run.batch} of {len(data)} batches; "
                "so does the training"
            )
        for hook in hooks:
            hook.on_train_end(run)
    return run.history


def _look_at_checkpoints(resume: Any, hooks: Sequence[Callback]) -> None:
    """Refuse, or log, a training that begins at the beginning and would replace a checkpoint that is there."""
    mine = [hook for hook in hooks if isinstance(hook, Checkpoint)]
    there = [hook.path for hook in mine if io.is_there(hook.path)]
    if resume is None:
        for path in there:
            _log.warning("%s is there, and is replaced by this training; fit(resume=...) would go on from it", path)
        return
    places = {os.path.realpath(hook.path) for hook in mine}
    if there and not io.is_there(resume) and os.path.realpath(resume) not in places:
        raise ValueError(
            f"resume={os.fspath(resume)!r} does not exist, and Checkpoint({os.fspath(there[0])!r}), which does, would "
            "be replaced by a training from the beginning; give resume= the path of the file, or remove that one"
        )


def _resumed(run: Run, path: str | os.PathLike[str], data: Data) -> tuple[int, _Mean]:
    """Go on from a checkpoint, if it is there: how many batches of the epoch are done, and their figures."""
    name = os.fspath(path)
    if not io.is_there(path):
        _log.info("no checkpoint at %s; training from the beginning", name)
        return 0, _Mean()
    with run.model.unbuilt_on_failure(), deferred():  # what a signal raises is no fault of the file
        progress, restore = checkpoints.read(path, run.model, data.sample if isinstance(data, Samples) else None)
        order, state = run._order, progress["rng"]
        try:
            run._check_settings(progress)
            done, mean = run._go_on(progress)  # code of users, which may fail, comes first
            restore()
            # The caller's own generator goes on, too, if it is of that kind.
            if type(order.bit_generator).__name__ == state["bit_generator"]:
                order.bit_generator.state = state
            else:
                run._order = checkpoints.restored_generator(state)
        except Exception as error:
            if not contents.is_of_content(error):
                raise
            raise ValueError(f"{name!r} is no checkpoint that can be gone on from: {error!r}") from error
    _log.info("resuming from %s: epoch %d, batch %d", name, run.epoch + 1, done)
    return done, mean


def _tell_nothing_is_left(run: Run, path: str) -> None:
    """Say that `fit` returns at once, in the log and where the progress would be."""
    if run.stopped:
        text = f"the training in {path!r} was ended by a callback after epoch {run.epoch}: nothing is left to do"
    else:
        text = f"all {run.epochs} epochs are done in {path!r}: nothing is left to do; more epochs would go on"
    _log.info("%s", text)
    if any(isinstance(hook, Progress) for hook in run._callbacks):
        print(text, file=sys.stderr)


def _compare_penalties(mean: _Mean, loss: float) -> None:
    """Warn if the penalties of the first epoch drown its loss."""
    penalty = mean.penalty / mean.samples
    rest = loss - penalty
    if math.isfinite(rest) and penalty > DROWNING * abs(rest):
        warn(
            f"penalties are {penalty:.3g} in the first epoch, and the loss without them is {rest:.3g}: penalties are "
            "sums over all weights, a loss is a mean over samples and positions; lower the factors of the regularizers"
        )


def _epoch(run: Run, stepper: "_Stepper", data: Data, shuffle: Any, done: int, mean: _Mean) -> _Mean:
    """Train on the batches of an epoch that are not done yet; return its figures."""
    state = checkpoints.generator_state(run._order)
    run.batch = done
    for hook in run._callbacks:
        hook.on_epoch_begin(run)
    for batch in data.batches(shuffle, run._order, done, len(run.history.epoch) * len(data)):
        # Not cut in half by Ctrl-C: all layers have made the step, and it has been counted.
        with deferred():
            run._border = None
            seen, step = stepper.train(batch), not run.stopped
            run.batch += step
            mean.add(len(batch.x), seen)
            if step and not stepper.waiting:
                run._border = run.epoch, run.batch, mean, state
        figures = mean.result()
        for hook in run._callbacks:
            hook.on_batch_end(run, dict(figures))
        for hook in run._callbacks:
            hook.after_batch(run, dict(figures))
        if run.stopped:
            break
    run._border = None
    with deferred():
        stepper.finish()
    if not (run.batch or isinstance(data, Samples) or data.ended):
        raise ValueError("x gave no batches; give at least one")
    return mean


class _Stepper:
    """What happens with a batch."""

    def __init__(self, model: Any, recipe: Recipe, run: Run, weigh: Callable[[Array], Array] | None = None) -> None:
        self._model, self._recipe, self._run, self._weigh = model, recipe, run, weigh
        self._gradients = gradients.Accumulator()
        self._warned = False
        self._first = True
        self._random = [layer for layer in leaves(model) if isinstance(layer, Dropout)]

    @property
    def waiting(self) -> bool:
        """Whether gradients wait for those of more batches."""
        return self._gradients.count > 0

    def train(self, batch: Batch) -> _Seen:
        """Take part of a step, or a whole one, on a batch; return its figures.

        A batch that is refused leaves random numbers, and layers that were not built, as they were.
        """
        drawn = [(layer, layer.get_training_state()) for layer in self._random]
        try:
            with self._model.unbuilt_on_failure() if self._first else nullcontext():
                return self._train(batch)
        except BaseException:
            with deferred():
                for layer, state in drawn:
                    layer.prepare_training_state(state)()
            raise

    def _train(self, batch: Batch) -> _Seen:
        if self._weigh is not None:
            weights = self._weigh(batch.y)
            if batch.weights is not None:
                weights = weights.reshape(-1, *[1] * (batch.weights.ndim - 1)) * batch.weights
            batch = batch._replace(weights=weights)
        prediction, backward = self._model.forward(batch.x)
        seen, dy = _figures(self._model, backward.activity_loss, batch, prediction, self._recipe, first=self._first)
        self._first = False
        self._look_at(seen.figures, batch)
        for hook in self._run._callbacks:
            hook.before_step(self._run, dict(seen.figures))
        if self._run.stopped:
            self._gradients = gradients.Accumulator()
        elif self._recipe.plain:
            backward.step(dy, self._run.lr, wants_dx=False)
            self._run.step += 1
        else:
            grads = _of_trainable(self._model, backward(dy)[1])
            if self._recipe.accumulate == 1:
                self._step(grads)
                return seen
            self._gradients.add(grads, len(batch.x))
            if self._gradients.count >= self._recipe.accumulate:
                self.finish()
        return seen

    def finish(self) -> None:
        """Make the step of the gradients that wait, if there are any."""
        if self.waiting:
            self._step(self._gradients.take())

    def _step(self, grads: Any) -> None:
        if self._recipe.clip_value is not None:
            grads = gradients.clip_by_value(grads, self._recipe.clip_value)
        if self._recipe.clip_norm is not None:
            grads = gradients.clip_by_norm(grads, self._recipe.clip_norm)
        self._model.step(grads, self._run.lr)
        self._run.step += 1

    def _look_at(self, figures: Figures, batch: Batch) -> None:
        if self._warned or math.isfinite(figures["loss"]):
            return
        self._warned = True
        arrays = {"x": batch.x, "y": batch.y}
        unknown = {n: np.count_nonzero(np.isnan(a)) if a.dtype.kind == "f" else 0 for n, a in arrays.items()}
        if unknown["y"]:
            remedy = f"y holds {unknown['y']} NaN there: lcnumba.losses.Masked leaves them out"
        elif unknown["x"]:
            remedy = f"look for non-finite inputs: x holds {unknown['x']} NaN there; fill them, or give a kernel_mask"
        else:
            remedy = "look for non-finite inputs, or lower lr"
        warn(f"the loss is {figures['loss']} in epoch {self._run.epoch + 1}, batch {self._run.batch + 1}; {remedy}")


@_method()
def evaluate(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    loss: Any = None,
    metrics: Iterable[Any] | None = None,
    sample_weight: Any = None,
    batch_size: int = 256,
) -> Figures:
    """Return the mean loss, penalties included, and metrics of the model on data.

    Parameters
    ----------
    x, y, loss, metrics, sample_weight, batch_size
        As for `fit`.

    Returns
    -------
    dict of str to float
        "loss" and the metrics.

    Raises
    ------
    ValueError, TypeError
        If anything does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="ones")])
    >>> model.evaluate(np.array([[1.0], [3.0]]), np.array([[0.0], [0.0]]), loss="mse", metrics=["mae"])
    {'loss': 5.0, 'mae': 2.0}
    """
    recipe = _complete(model, _recipe(model.recipe, loss, metrics, None))
    if loss is not None:
        _doubt_ending(model, recipe)
    size = integer("batch_size", batch_size)
    return _evaluate(model, _dataset(model, recipe, x, y, sample_weight, size, None), recipe, doubts=True)


@_method()
def train_on_batch(
    model: Any,
    x: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    loss: Any = None,
    metrics: Iterable[Any] | None = None,
    lr: Any = None,
) -> Figures:
    """Step the model once, on these samples, and return their figures before the step.

    Parameters
    ----------
    x, y, sample_weight, class_weight, loss, metrics, lr
        As for `fit`; a schedule counts the calls since `compile`. Gradients are clipped as `compile` says, and
        not accumulated.

    Returns
    -------
    dict of str to float
        "loss" and the metrics.

    Raises
    ------
    ValueError, TypeError
        If anything does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="zeros")])
    >>> model.train_on_batch(np.array([[1.0]]), np.array([[2.0]]), loss="mse", lr=0.5)
    {'loss': 4.0}
    >>> model.train_on_batch(np.array([[1.0]]), np.array([[2.0]]), loss="mse", lr=0.5)
    {'loss': 4.0}
    """
    recipe = _complete(model, _recipe(model.recipe, loss, metrics, lr))
    if loss is not None:
        _doubt_ending(model, recipe)
    if y is None:
        raise TypeError("y is missing; give targets, as many as inputs")
    data = _dataset(model, recipe, x, y, sample_weight, None, None)
    weigh = _by_class(recipe, class_weight)
    run = Run(model, 0, 1, recipe.lr, ())
    run.step = model.steps_taken
    stepper = _Stepper(model, dataclasses.replace(recipe, accumulate=1), run, weigh)
    [batch] = data.batches()
    with deferred():
        seen = stepper.train(batch)
        model.steps_taken = run.step
    return seen.of_batch(recipe.metrics)


def value_and_gradients(model: Any, x: Any, y: Any, loss: Any) -> tuple[float, list[Any]]:
    """Return the loss of a model on data, penalties included, and the gradients of all but the penalties of weights.

    Parameters
    ----------
    model : Sequential
        The model.
    x, y, loss
        As for `fit`.

    Returns
    -------
    value : float
    gradients : list
        As the model's pullback returns them.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> from lcnumba.training import value_and_gradients
    >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="ones", dtype="float64")])
    >>> value, [grads] = value_and_gradients(model, np.array([[3.0]]), np.array([[1.0]]), "mse")
    >>> value, grads.kernel
    (4.0, array([[12.]]))
    """
    recipe = _complete(model, _recipe(model.recipe, loss, (), None))
    [batch] = _dataset(model, recipe, x, y, None, None, None).batches()
    prediction, backward = model.forward(batch.x)
    seen, dy = _figures(model, backward.activity_loss, batch, prediction, recipe)
    return seen.figures["loss"], backward(dy)[1]


def _figures(
    model: Any, activity: float, batch: Batch, prediction: Array, recipe: Recipe, first: bool = False
) -> tuple[_Seen, Array]:
    """Loss, penalties included, and metrics of a batch, and the gradient of the loss alone by the prediction.

    At the first batch of several, what the loss doubts of the prediction is a warning.

    The prediction is what backward refers to, and y may be the caller's own: loss and metrics may
    only read them.
    """
    y, view = frozen(batch.y), frozen(prediction)
    found: Any = recipe.loss(y, view) if batch.weights is None else recipe.loss(y, view, batch.weights)
    try:
        value, dy = found
        value = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"loss {recipe.loss!r} returned {found!r:.80}; return a pair (value, dy_pred), and one number as value"
        ) from error
    doubt = getattr(recipe.loss, "doubt", None) if first else None
    if doubt is not None and (text := doubt(view)) is not None:
        warn(text)
    penalty = model.penalties() + activity
    figures, kept = {"loss": value + penalty}, {}
    if isinstance(recipe.loss, losses.Masked) and recipe.metrics:
        y = frozen(recipe.loss.with_unknown(y, view))
    for name, metric in recipe.metrics.items():
        if is_of_all(metric):
            # Copies: whoever gives batches may fill the same arrays again.
            kept[name] = tuple(np.array(array) for array in metric.collect(y, view))
            continue
        found = metric(y, view)
        try:
            figures[name] = float(found)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"metric {name!r} returned {found!r:.80}, a {type(found).__name__}; return one number"
            ) from error
    return _Seen(figures, kept, penalty), dy


def _evaluate(model: Any, data: Data, recipe: Recipe, doubts: bool = False) -> Figures:
    mean = _Mean()
    for batch in data.batches():
        prediction, activity = model.call_penalised(batch.x)
        first = doubts and not mean.samples
        mean.add(len(batch.x), _figures(model, activity, batch, prediction, recipe, first=first)[0])
    if not mean.samples:
        raise ValueError("the data to evaluate on gave no batches; give at least one")
    return mean.result(recipe.metrics)


def _doubt_ending(model: Any, recipe: Recipe) -> None:
    """Warn of a last layer that has done what the loss does once more, and of a metric that is not for logits."""
    last = next((layer for layer in reversed(model.layers) if hasattr(layer, "activation")), None)
    if isinstance(getattr(last, "activation", None), activations.Softmax) and getattr(last, "units", 2) == 1:
        warn("a softmax over one output is always 1: give activation='sigmoid', or as many units as there are classes")
    if not getattr(recipe.loss, "from_logits", getattr(getattr(recipe.loss, "loss", None), "from_logits", False)):
        return
    ending = _last_activation(model)
    if ending is not None:
        warn(
            f"the model ends in activation={ending!r}, and {recipe.loss!r} applies it once more: let the last layer "
            "end without an activation, or give the loss from probabilities"
        )
    elif recipe.metrics.get("binary_accuracy") is binary_accuracy:
        warn(
            "binary_accuracy takes probabilities, and the loss is from logits: give a metric of your own, a function "
            "that returns lcnumba.metrics.binary_accuracy(y_true, y_pred, threshold=0)"
        )


def _last_activation(model: Any) -> str | None:
    """The softmax or sigmoid that a model ends in, if it does."""
    for layer in reversed(model.layers):
        if hasattr(layer, "layers"):
            return _last_activation(layer)
        activation = getattr(layer, "activation", None)
        if isinstance(activation, activations.Softmax | activations.Sigmoid):
            return type(activation).__name__.lower()
        if not isinstance(layer, Flatten | Dropout):
            return None
    return None


def _recipe(given: Recipe, loss: Any, wanted: Iterable[Any] | None, lr: Any) -> Recipe:
    """A recipe in which what is given now goes before what was compiled."""
    changes: dict[str, Any] = {}
    if loss is not None:
        changes["loss"] = losses.get(loss)
    if wanted is not None:
        changes["metrics"] = get_metrics(wanted)
    if lr is not None:
        changes["lr"] = lr if callable(lr) else learning_rate(lr)
    return dataclasses.replace(given, **changes)


def _complete(model: Any, recipe: Recipe) -> Recipe:
    """A recipe that can be carried out: with a loss and a learning rate."""
    if recipe.loss is None:
        raise ValueError(f"{model.name!r} has no loss; give loss=..., or compile it with one")
    if recipe.lr is not None:
        return recipe
    usual = {optimizers.default_rate(optimizer) for optimizer in _optimizers(model)} or {0.01}
    if len(usual) > 1 or None in usual:
        raise ValueError("lr is missing; with several optimizers, or one of your own, there is no usual rate")
    return dataclasses.replace(recipe, lr=usual.pop())


def _of_trainable(model: Any, grads: Sequence[Any]) -> list[Any]:
    """The gradients of a model, None in place of those of layers that are not trainable: they are no part of a norm."""
    return [
        _of_trainable(layer, grad) if hasattr(layer, "layers") else grad if getattr(layer, "trainable", True) else None
        for layer, grad in zip(model.layers, grads, strict=True)
    ]


def _optimizers(model: Any) -> Iterator[Any]:
    return (layer.optimizer for layer in leaves(model) if hasattr(layer, "optimizer"))


def _hooks(callbacks: Any, progress: bool) -> list[Callback]:
    """The callbacks in the order in which they are called."""
    given = list(callbacks) if is_iterable(callbacks) and not isinstance(callbacks, Callback) else [callbacks]
    for callback in given:
        if not isinstance(callback, Callback):
            kind = f"{callback.__name__} is a class" if isinstance(callback, type) else f"{callback!r} is no callback"
            raise TypeError(f"{kind}; give instances of subclasses of lcnumba.callbacks.Callback")
    if progress and not any(isinstance(callback, Progress) for callback in given):
        given.append(Progress())
    return given


def _data_and_validation(
    model: Any,
    recipe: Recipe,
    x: Any,
    y: Any,
    weights: Any,
    size: int,
    steps: int | None,
    pair: Any,
    share: float,
    weigh: Callable[[Array], Array] | None,
) -> tuple[Data, Data | None]:
    """What to train on, and what to validate with."""
    fraction = real("validation_split", share)
    if not 0 <= fraction < 1:
        raise ValueError(f"validation_split={share!r} cannot be used; give a number of at least 0 and below 1")
    if fraction and pair is not None:
        raise ValueError("give validation_data or validation_split, not both")
    data = _dataset(model, recipe, x, y, weights, size, steps, weigh)
    if fraction:
        if isinstance(data, Batches):
            raise TypeError("validation_split needs arrays; give an iterable of batches its own validation_data")
        return data.split(fraction)
    if pair is None:
        return data, None
    if isinstance(pair, tuple | list) and len(pair) in (2, 3) and not all(isinstance(part, tuple) for part in pair):
        return data, _dataset(model, recipe, pair[0], pair[1], pair[2] if len(pair) == 3 else None, size, None)
    if not isinstance(pair, Iterable) or isinstance(pair, Iterator) or hasattr(pair, "shape"):
        raise TypeError(
            "validation_data must be a pair (x, y), or (x, y, weights), or an iterable of such batches that can be "
            "gone through again"
        )
    return data, _dataset(model, recipe, pair, None, None, size, None)


def _dataset(
    model: Any, recipe: Recipe, x: Any, y: Any, weights: Any, size: int | None, steps: int | None,
    weigh: Callable[[Array], Array] | None = None,
) -> Data:  # fmt: skip
    """Arrays, or an iterable of batches, each checked against the model, the loss and the weights of classes."""
    check = partial(_check, model, recipe.loss, weigh)
    if y is None and isinstance(x, Iterable) and not hasattr(x, "shape") and not reads_lazily(x):
        if weights is not None:
            raise TypeError("sample_weight is for arrays; let the iterable give (x, y, weights)")
        return Batches(x, None if steps is None else integer("steps_per_epoch", steps), check)
    if steps is not None:
        raise TypeError("steps_per_epoch is for iterables of batches; arrays are gone through as a whole")
    if weights is not None:
        _check_weighable(recipe, "sample_weight")
    return Samples(x, y, weights, size, check)


def _by_class(recipe: Recipe, weights: Mapping[int, float] | None) -> Callable[[Array], Array] | None:
    """The function that gives samples the weights of their classes, if there are any."""
    if weights is None:
        return None
    _check_weighable(recipe, "class_weight")
    return class_weights(weights)


def _check_weighable(recipe: Recipe, name: str) -> None:
    if not losses.takes_weights(recipe.loss):
        raise TypeError(
            f"{name} needs a loss that takes weights, loss(y_true, y_pred, weights) -> (value, dy_pred); "
            f"{recipe.loss!r} does not"
        )


def _check(
    model: Any, loss: Any, weigh: Callable[[Array], Array] | None, inputs: Array, targets: Array
) -> None:  # fmt: skip
    """Raise unless inputs and targets fit the model and the loss, and targets have classes to be weighed by."""
    check_dtype("x", inputs)
    if model.built and inputs.shape[1:] != model.input_shape[1:]:
        raise ValueError(
            f"x has shape {inputs.shape}; the model was built for {model.input_shape}"
            + axes_hint("x", inputs.shape, model.input_shape)
        )
    check = getattr(loss, "check", None)
    if check is not None:
        check(targets, tuple(model.compute_output_shape(inputs.shape)))
    if weigh is not None:
        weigh(targets)
