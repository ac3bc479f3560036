"""`fit`: the loop over epochs and batches, and how an interrupted training resumes.

From `fit` to a weight's change: `Sequential.fit` calls `fit` here, which calls `Stepper` (`training/step.py`) for each
batch; that calls `models/backward.py` for all layers, which calls `layers/backward.py` for each, and that
`layers/parameters.py`, which holds the lock. The kernel of a locally connected layer changes as its gradient is
computed: `layers/locally_connected.py`, `implementations/loop.py`, `kernels/backward.py`, `kernels/weight_gradient.py`.
A bias, a dense layer, and all weights if gradients are clipped or accumulated, change in `kernels/update.py`.
"""

import logging
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from lcnumba.callbacks import Callback, Checkpoint, Progress, format_logs
from lcnumba.formats import checkpoint, contents
from lcnumba.protocol import Model
from lcnumba.runtime.signals import deferred
from lcnumba.training.config import config_of_call
from lcnumba.training.data import Batches, Samples
from lcnumba.training.evaluation import RunningMean, evaluate_batches
from lcnumba.training.inputs import Data, class_weighting, data_and_validation
from lcnumba.training.run import History, ResumePoint, Run
from lcnumba.training.step import Stepper
from lcnumba.utils import files, random_state
from lcnumba.utils.messages import warn
from lcnumba.utils.validation import boolean, choice, file_path, generator, integer, is_iterable

__all__ = ["fit"]

_log = logging.getLogger("lcnumba")
_log.addHandler(logging.NullHandler())

# There is a warning if penalties exceed so many times the loss.
MAX_PENALTY_RATIO = 100


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
    """Train a model; `lcnumba.Sequential.fit` documents the arguments."""
    share = model.share
    with share.together():
        epochs, first = integer("epochs", epochs, 0), integer("initial_epoch", initial_epoch, 0)
        if first and resume is not None:
            raise ValueError("initial_epoch and resume cannot be combined: the checkpoint has its own epoch")
        size = integer("batch_size", batch_size)
        shuffle = choice("shuffle", shuffle, (True, False, "batch"))
        config = config_of_call(model, loss, metrics, lr)
        weigh = class_weighting(config, class_weight)
        callbacks = _checked_callbacks(callbacks, boolean("progress", progress))
        data, validation = data_and_validation(
            model, config, x, y, sample_weight, size, steps_per_epoch, validation_data, validation_split, weigh
        )
        if isinstance(data, Batches) and data.is_one_shot and epochs > first + 1:
            raise ValueError(
                f"x is a one-shot iterator ({type(x).__name__}), but epochs={epochs}; give steps_per_epoch or a "
                "re-iterable"
            )

        names = ["loss", *config.metrics]
        names += [f"val_{name}" for name in names] if validation is not None else []
        if resume is not None:
            resume = file_path(resume, "resume").absolute()  # a callback may change the working directory
        settings = {
            "batch_size": size, "shuffle": shuffle, "accumulate": config.accumulate, "steps_per_epoch": steps_per_epoch,
            "samples": data.samples if isinstance(data, Samples) else None, "batches": len(data), "figures": names,
        }  # fmt: skip
        run = Run(model, epochs, len(data), config.lr, names, generator(rng), callbacks, settings)
        run.epoch = first
        stepper = Stepper(model, config, run, weigh)
        _check_checkpoints(resume, callbacks)
    with ExitStack() as stack:
        for callback in callbacks:
            stack.callback(share.close, callback)
        share.notify(run, "on_train_begin")
        mean = RunningMean() if resume is None else _resumed(run, resume, data)
        done = run.batch
        if resume is not None and (run.stopped or run.epoch >= epochs):
            _report_nothing_left(run, os.fspath(resume))
        model.history = run.history  # only now: if anything above fails, the history of the last fit stays
        while run.epoch < epochs and not run.stopped:
            mean = _train_epoch(run, stepper, data, shuffle, done, mean)
            if not mean.samples:
                break
            logs, interrupted = mean.result(config.metrics), run.stopped
            if not run.history.epoch:
                _warn_of_large_penalties(mean, logs["loss"])
            if validation is not None:
                logs |= {f"val_{name}": value for name, value in evaluate_batches(model, validation, config).items()}
            with deferred():
                run.history.add(run.epoch, logs)
            _log.info("epoch %d/%d: %s", run.epoch + 1, epochs, format_logs(logs))
            done, mean = 0, RunningMean()
            # The remaining batches of an interrupted epoch must not be skipped when the training resumes.
            if run.finished or not interrupted:
                run.resume_point = ResumePoint(run.epoch + 1, 0, mean, random_state.generator_state(run.rng))
            share.notify(run, "on_epoch_end", dict(logs))
            share.notify(run, "after_epoch", dict(logs))
            run.resume_point = None
            if isinstance(data, Batches) and data.ended:
                break
            run.epoch += 1
        if isinstance(data, Batches) and data.ended:
            warn(
                f"x ended in epoch {run.epoch + 1} of {epochs}, after {run.batch} of {len(data)} batches; "
                "training ends there"
            )
        share.notify(run, "on_train_end")
    return run.history


def _check_checkpoints(resume: Any, callbacks: Sequence[Callback]) -> None:
    """Refuse, or log, a training that starts anew and would overwrite an existing checkpoint."""
    checkpoints = [callback for callback in callbacks if isinstance(callback, Checkpoint)]
    existing = [callback.path for callback in checkpoints if files.exists(callback.path)]
    if resume is None:
        for path in existing:
            _log.warning("%s exists and will be overwritten; fit(resume=...) would resume from it", path)
        return
    own = {os.path.realpath(callback.path) for callback in checkpoints}
    if existing and not files.exists(resume) and os.path.realpath(resume) not in own:
        raise ValueError(
            f"resume={os.fspath(resume)!r} does not exist, so training would start anew and overwrite "
            f"Checkpoint({os.fspath(existing[0])!r}), which does; pass that path as resume, or remove the file"
        )


def _resumed(run: Run, path: str | os.PathLike[str], data: Data) -> RunningMean:
    """Resume from a checkpoint, if it exists; return loss and metrics of the current epoch's batches so far."""
    name = os.fspath(path)
    share = run.model.share
    if not share.of_root(files.exists(path)):
        _log.info("no checkpoint at %s; training from the beginning", name)
        return RunningMean()
    # Deferred, so that an exception of a signal handler is not taken for an error of the file.
    with run.model.unbuilt_on_failure(), deferred():
        with share.together():
            # With a built model the data have been checked already.
            sample = data.sample if isinstance(data, Samples) and not run.model.built else None
            progress, restore_model = checkpoint.read(path, run.model, sample)
        state = progress["rng"]
        try:
            with share.together():  # it calls user code, which may fail, so it comes before the model
                mean = run.restore_progress(progress)
            share.check_read()
            with share.committing():
                restore_model()
            # Set in place if the kind allows, since the user may have passed this very generator.
            if type(run.rng.bit_generator).__name__ == state["bit_generator"]:
                run.rng.bit_generator.state = state
            else:
                run.rng = random_state.restore_generator(state)
        except Exception as error:
            if not contents.is_content_error(error):
                raise
            raise ValueError(f"cannot resume from {name!r}: {error!r}") from error
    _log.info("resuming from %s: epoch %d, batch %d", name, run.epoch + 1, run.batch)
    return mean


def _report_nothing_left(run: Run, path: str) -> None:
    """Say that `fit` returns at once, in the log and, with a progress bar, on the standard error stream."""
    if run.stopped:
        text = f"nothing left to do: a callback ended the training in {path!r} after epoch {run.epoch}"
    else:
        text = f"nothing left to do: all {run.epochs} epochs are done in {path!r}; increase epochs to continue"
    _log.info("%s", text)
    if any(isinstance(callback, Progress) for callback in run.callbacks):
        print(text, file=sys.stderr)


def _warn_of_large_penalties(mean: RunningMean, loss: float) -> None:
    """Warn if penalties dominate the loss of the first epoch."""
    penalty = mean.penalty / mean.samples
    rest = loss - penalty
    if math.isfinite(rest) and penalty > MAX_PENALTY_RATIO * abs(rest):
        warn(
            f"penalties are {penalty:.3g} in the first epoch, but the loss without them is {rest:.3g}: penalties are "
            "sums over all weights, the loss is a mean over samples and positions; lower the regularization factors"
        )


def _train_epoch(run: Run, stepper: Stepper, data: Data, shuffle: Any, done: int, mean: RunningMean) -> RunningMean:
    """Train on the batches of an epoch after the first `done`; return loss and metrics of all of them."""
    rng_state = random_state.generator_state(run.rng)
    run.batch = done
    share = run.model.share
    share.notify(run, "on_epoch_begin")
    earlier = len(run.history.epoch) * len(data)
    for batch in share.batches(data.batches(shuffle, run.rng, done, earlier, share.takes), training=True):
        # Ctrl-C must not separate the steps of the layers, or a step from its count.
        with deferred():
            run.resume_point = None
            result, stepped = stepper.train(batch), not run.stopped
            run.batch += stepped
            mean.add(len(batch.x), result)
            if stepped and not stepper.has_pending_gradients:
                run.resume_point = ResumePoint(run.epoch, run.batch, mean, rng_state)
        logs = mean.result()
        share.notify(run, "on_batch_end", dict(logs))
        share.notify(run, "after_batch", dict(logs))
        if run.stopped:
            break
    run.resume_point = None
    with deferred():
        stepper.finish()
    if not (run.batch or isinstance(data, Samples) or data.ended):
        raise ValueError("x has no batches; at least one is required")
    return mean


def _checked_callbacks(callbacks: Any, progress: bool) -> list[Callback]:
    """The callbacks as a list, with a progress bar if one is wanted and missing."""
    given = list(callbacks) if is_iterable(callbacks) and not isinstance(callbacks, Callback) else [callbacks]
    for callback in given:
        if not isinstance(callback, Callback):
            kind = f"{callback.__name__} is a class" if isinstance(callback, type) else f"{callback!r} is no callback"
            raise TypeError(f"{kind}; give instances of subclasses of lcnumba.callbacks.Callback")
    if progress and not any(isinstance(callback, Progress) for callback in given):
        given.append(Progress())
    return given
