"""What a call of `fit` (`training/loop.py`) holds: the history it returns, and the run that callbacks see."""

import html
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import lcnumba
from lcnumba import optimizers
from lcnumba.callbacks import Callback, Logs
from lcnumba.formats import checkpoint
from lcnumba.protocol import Model
from lcnumba.schedules import Schedule
from lcnumba.training.config import optimizers_of
from lcnumba.training.evaluation import RunningMean
from lcnumba.utils import random_state
from lcnumba.utils.deprecation import Renamed
from lcnumba.utils.display import PublicNames, sparkline
from lcnumba.utils.messages import refuse_attribute, warn
from lcnumba.utils.validation import generator, learning_rate

__all__ = ["History", "ResumePoint", "Run"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(repr=False)
class History(PublicNames):
    """Loss and metrics of each epoch of a `fit`.

    Attributes
    ----------
    history : dict of str to list of float
        "loss" and the metrics, averaged over the samples as they were seen during the epoch; with
        validation data also "val_loss" and so on, computed at its end. NaN where an epoch lacks the metric.
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

    __module__ = "lcnumba"

    history: dict[str, list[float]] = field(default_factory=dict)
    epoch: list[int] = field(default_factory=list)

    def add(self, epoch: int, logs: Logs | None = None, *, figures: Logs | None = None) -> None:
        """Append one epoch; `figures` is a deprecated alias of `logs`."""
        if figures is not None:
            warn("History.add(figures=...) is deprecated; use History.add(logs=...)", DeprecationWarning)
            logs = figures
        if logs is None:
            raise TypeError("add() missing required argument 'logs'")
        for name in logs:
            self.history.setdefault(name, [math.nan] * len(self.epoch))
        for name, values in self.history.items():
            values.append(logs.get(name, math.nan))
        self.epoch.append(epoch)

    def plot(self, ax: "Axes | None" = None, *, yscale: str = "linear") -> "Axes":
        """Plot losses and metrics by epoch, as `lcnumba.plotting.training_curve`, which has the parameters.

        Examples
        --------
        >>> import lcnumba as lc
        >>> history = lc.History()
        >>> history.add(0, {"loss": 0.5})
        >>> history.plot().get_ylabel()
        'loss'
        """
        return lcnumba.plotting.training_curve(self, ax, yscale=yscale)

    def __repr__(self) -> str:
        """The number of epochs, and the first and last value of each metric."""
        epochs = f"{len(self.epoch)} epoch{'s' if len(self.epoch) != 1 else ''}"
        metrics = ", ".join(f"{name} {values[0]:.4g} -> {values[-1]:.4g}" for name, values in self._curves())
        return f"<History: {epochs}{f': {metrics}' if metrics else ''}>"

    def _curves(self) -> list[tuple[str, list[float]]]:
        return [(name, values) for name, values in self.history.items() if values]

    def _repr_html_(self) -> str:
        """Curves: a picture, or lines of text without matplotlib."""
        curves = self._curves()
        if curves:
            with suppress(ImportError):
                picture = io.StringIO()
                lcnumba.plotting.training_curve(self).figure.savefig(picture, format="svg")
                text = picture.getvalue()
                return text[text.index("<svg") :]
        width = max((len(name) for name, _ in curves), default=0)
        lines = (f"{n:{width}} {sparkline(v)} {v[0]:.4g} -> {v[-1]:.4g}" for n, v in curves)
        return f"<pre>{html.escape(chr(10).join([repr(self), *lines]))}</pre>"


class ResumePoint(NamedTuple):
    """Where a training resumes from a checkpoint written now.

    Attributes
    ----------
    epoch, batch : int
        The epoch, and how many of its batches are done.
    mean : RunningMean
        Loss and metrics of those batches.
    rng_state : dict
        State of `Run.rng` at the beginning of the epoch.
    """

    epoch: int
    batch: int
    mean: RunningMean
    rng_state: Any


class Run(PublicNames):
    """One call of `fit`, as callbacks see it.

    Attributes
    ----------
    model : Sequential
        The model being trained.
    epochs, epoch : int
        The number of epochs, and the current one, from 0.
    batches, batch : int
        The number of batches in an epoch (0 if unknown), and how many of the current one are done.
    step : int
        The number of optimizer steps so far.
    lr : float
        Learning rate of the next step; setting it overrides a schedule.
    metric_names : tuple of str
        The keys of an epoch's logs.
    history : History
        The completed epochs.
    stopped : bool
        Whether `stop` has been called.
    finished : bool
        Whether it was called with ``finished=True``, so that resuming from a checkpoint ends at once.
    callbacks : tuple of Callback
        The callbacks, in the order in which they are called.
    rng : numpy.random.Generator
        Shuffles the samples.
    settings : mapping
        What must be the same when an interrupted epoch is resumed: batch size, number of samples and so on.
    resume_point : ResumePoint or None
        Where a training resumes from a checkpoint written now; None when `save` is not possible.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> class Halve(lc.callbacks.Callback):
    ...     def on_epoch_end(self, run, logs):
    ...         run.lr = run.lr / 2
    ...         print(run.epoch, run.step, run.lr)
    >>> model = lc.Sequential([lc.Dense(1)])
    >>> x, y = np.ones((6, 2)), np.ones((6, 1))
    >>> _ = model.fit(x, y, loss="mse", epochs=2, batch_size=2, lr=1.0, callbacks=[Halve()], progress=False)
    0 3 0.5
    1 6 0.25
    """

    def __init__(
        self, model: Model, epochs: int, batches: int, lr: float | Schedule, metric_names: Sequence[str],
        rng: np.random.Generator | None = None, callbacks: Sequence[Callback] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.epochs, self.batches, self.metric_names = model, epochs, batches, tuple(metric_names)
        self.epoch = self.batch = self.step = 0
        self.history = History()
        self.stopped = self.finished = False
        self.callbacks = tuple(callbacks)
        self.rng = generator(rng)
        self.settings = dict(settings or {})
        self.resume_point: ResumePoint | None = None
        self._lr = lr
        self._lr_override: float | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse attributes of Keras' callbacks and models that would have no effect here."""
        refuse_attribute(self, name)
        object.__setattr__(self, name, value)

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        if self._lr_override is not None:
            return self._lr_override
        return learning_rate(self._lr(self.step)) if callable(self._lr) else self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr_override = learning_rate(value)

    names = Renamed("metric_names")

    def __repr__(self) -> str:
        """How far the training is."""
        return (
            f"<Run: epoch {self.epoch} of {self.epochs}, batch {self.batch} of {self.batches or '?'}, step {self.step}>"
        )

    def stop(self, finished: bool = False) -> None:
        """End the training after this batch; before its step, if that has not been made.

        Parameters
        ----------
        finished : bool, default False
            Whether checkpoints written from now on record the training as finished, so that resuming from them
            ends at once; otherwise resuming continues it.
        """
        self.stopped, self.finished = True, self.finished or finished

    @property
    def between_steps(self) -> bool:
        """Whether `save` is possible: after a step or an epoch, with no accumulated gradients pending."""
        return self.resume_point is not None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint from which ``fit(resume=path)`` resumes.

        Raises
        ------
        OSError
            If it cannot be written; an existing file is left unchanged.
        RuntimeError
            If it is not possible now: see `between_steps`.
        """
        if self.resume_point is None:
            raise RuntimeError(
                "a checkpoint can only be written after a step or an epoch, in after_batch or after_epoch; with "
                "accumulate > 1, only when no gradients are pending"
            )
        self.model.share.save(path, self.model, self._progress(self.resume_point))

    def check_saving(self) -> None:
        """Raise a TypeError if `save` would, as far as that is known before the training."""
        for optimizer in optimizers_of(self.model):
            if not optimizers.is_built_in(optimizer):
                checkpoint.check(self.model, optimizer.init(np.zeros((2, 2), np.float32)))
        state = random_state.generator_state(self.rng)
        random_state.restore_generator(state)
        checkpoint.check(self.model, self._progress(ResumePoint(0, 0, RunningMean(), state)))

    def _progress(self, point: ResumePoint) -> dict[str, Any]:
        """What a checkpoint stores in addition to the model."""
        epoch, batch, mean, rng_state = point
        return {
            "epoch": epoch, "batch": batch, "samples": mean.samples, "sums": mean.sums, "kept": mean.collected(),
            "rng": rng_state, "step": self.step, "lr": self._lr_override, "finished": self.finished and not batch,
            "settings": self.settings, "history": self.history.history, "epochs": self.history.epoch,
            "callbacks": {name: callback.get_state() for name, callback in self._named_callbacks()},
        }  # fmt: skip

    def restore_progress(self, progress: dict[str, Any]) -> RunningMean:
        """Restore everything but the model and `rng` from what a checkpoint stores.

        Returns
        -------
        RunningMean
            Loss and metrics of the batches of the epoch that are done.

        Raises
        ------
        ValueError
            If an interrupted epoch would be resumed with other settings; whatever `set_state` of a callback raises.
        """
        if progress["batch"] and progress["settings"] != self.settings:
            raise ValueError(
                f"it was written within an epoch of {progress['settings']}, but this fit has {self.settings}; "
                "resume with the same data and settings"
            )
        for name, callback in self._named_callbacks():
            if progress["callbacks"].get(name) is not None:
                callback.set_state(progress["callbacks"][name])
        self.epoch, self.batch, self.step = (progress[name] for name in ("epoch", "batch", "step"))
        self.stopped = self.finished = progress["finished"]
        self._lr_override, self.history = progress["lr"], History(progress["history"], progress["epochs"])
        return RunningMean(progress["samples"], dict(progress["sums"]), progress.get("kept"))

    def _named_callbacks(self) -> Iterator[tuple[str, Callback]]:
        """The callbacks under their keys in a checkpoint: the class, and a number among those of that class."""
        seen: dict[str, int] = {}
        for callback in self.callbacks:
            kind = type(callback).__name__
            seen[kind] = seen.get(kind, 0) + 1
            yield f"{kind} {seen[kind]}", callback
