"""Epochs of batches, and where an interrupted training resumes."""

import logging
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from lcnumba.callbacks import Callback, Checkpoint, Progress, figures_text
from lcnumba.formats import checkpoint, contents
from lcnumba.protocol import Model
from lcnumba.runtime.signals import deferred
from lcnumba.training.config import completed, overridden, warn_of_last_activation
from lcnumba.training.data import Batches, Samples
from lcnumba.training.evaluation import evaluate_batches
from lcnumba.training.inputs import Data, class_weighting, data_and_validation
from lcnumba.training.run import History, Run, RunningMean
from lcnumba.training.step import Stepper
from lcnumba.utils import files, random_state
from lcnumba.utils.messages import warn
from lcnumba.utils.validation import boolean, choice, file_path, generator, integer, is_iterable

__all__ = ["fit"]


_log = logging.getLogger("lcnumba")
_log.addHandler(logging.NullHandler())

# How many times the loss penalties may be before somebody is told that they drown it.
DROWNING = 100


def fit(
    model: Model,
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
    """Train a model on batches; `lcnumba.Sequential.fit` documents the arguments."""
    epochs, first = integer("epochs", epochs, 0), integer("initial_epoch", initial_epoch, 0)
    if first and resume is not None:
        raise ValueError("give initial_epoch or resume, not both: the checkpoint knows its epoch")
    size = integer("batch_size", batch_size)
    shuffle = choice("shuffle", shuffle, (True, False, "batch"))
    recipe = completed(model, overridden(model.recipe, loss, metrics, lr))
    if loss is not None:
        warn_of_last_activation(model, recipe)
    weigh = class_weighting(recipe, class_weight)
    hooks = _hooks(callbacks, boolean("progress", progress))
    data, validation = data_and_validation(
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
    stepper = Stepper(model, recipe, run, weigh)
    _look_at_checkpoints(resume, hooks)
    with ExitStack() as closing:
        for hook in hooks:
            closing.callback(hook.close)
        for hook in hooks:
            hook.on_train_begin(run)
        done, mean = (0, RunningMean()) if resume is None else _resumed(run, resume, data)
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
                figures |= {f"val_{name}": value for name, value in evaluate_batches(model, validation, recipe).items()}
            with deferred():
                run.history.add(run.epoch, figures)
            _log.info("epoch %d/%d: %s", run.epoch + 1, epochs, figures_text(figures))
            done, mean = 0, RunningMean()
            # Of an epoch that was broken off there is a rest, which whoever goes on from a checkpoint must not miss.
            if run.finished or not broken_off:
                run._border = run.epoch + 1, 0, mean, random_state.generator_state(run._order)
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
    there = [hook.path for hook in mine if files.exists(hook.path)]
    if resume is None:
        for path in there:
            _log.warning("%s is there, and is replaced by this training; fit(resume=...) would go on from it", path)
        return
    places = {os.path.realpath(hook.path) for hook in mine}
    if there and not files.exists(resume) and os.path.realpath(resume) not in places:
        raise ValueError(
            f"resume={os.fspath(resume)!r} does not exist, and Checkpoint({os.fspath(there[0])!r}), which does, would "
            "be replaced by a training from the beginning; give resume= the path of the file, or remove that one"
        )


def _resumed(run: Run, path: str | os.PathLike[str], data: Data) -> tuple[int, RunningMean]:
    """Go on from a checkpoint, if it is there: how many batches of the epoch are done, and their figures."""
    name = os.fspath(path)
    if not files.exists(path):
        _log.info("no checkpoint at %s; training from the beginning", name)
        return 0, RunningMean()
    with run.model.unbuilt_on_failure(), deferred():  # what a signal raises is no fault of the file
        progress, restore = checkpoint.read(path, run.model, data.sample if isinstance(data, Samples) else None)
        order, state = run._order, progress["rng"]
        try:
            run._check_settings(progress)
            done, mean = run._go_on(progress)  # code of users, which may fail, comes first
            restore()
            # The caller's own generator goes on, too, if it is of that kind.
            if type(order.bit_generator).__name__ == state["bit_generator"]:
                order.bit_generator.state = state
            else:
                run._order = random_state.restore_generator(state)
        except Exception as error:
            if not contents.is_content_error(error):
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


def _compare_penalties(mean: RunningMean, loss: float) -> None:
    """Warn if the penalties of the first epoch drown its loss."""
    penalty = mean.penalty / mean.samples
    rest = loss - penalty
    if math.isfinite(rest) and penalty > DROWNING * abs(rest):
        warn(
            f"penalties are {penalty:.3g} in the first epoch, and the loss without them is {rest:.3g}: penalties are "
            "sums over all weights, a loss is a mean over samples and positions; lower the factors of the regularizers"
        )


def _epoch(run: Run, stepper: "Stepper", data: Data, shuffle: Any, done: int, mean: RunningMean) -> RunningMean:
    """Train on the batches of an epoch that are not done yet; return its figures."""
    state = random_state.generator_state(run._order)
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
