"""One call of `fit` as callbacks see it, and the history that it leaves."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lcnumba import optimizers
from lcnumba.callbacks import Callback
from lcnumba.formats import checkpoint
from lcnumba.metrics import Metric, is_of_all
from lcnumba.protocol import Model
from lcnumba.schedules import Schedule
from lcnumba.training.config import optimizers_of
from lcnumba.utils import random_state
from lcnumba.utils.messages import refuse_attribute
from lcnumba.utils.types import Array
from lcnumba.utils.validation import generator, learning_rate

__all__ = ["BatchResult", "Figures", "History", "Run", "RunningMean"]

Figures = dict[str, float]


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


class BatchResult(NamedTuple):
    """What a batch tells: figures to be averaged, what metrics of all samples keep of it, and the penalties."""

    figures: Figures
    kept: dict[str, tuple[Array, ...]]
    penalty: float

    def of_batch(self, metrics: Mapping[str, Metric]) -> Figures:
        """The figures of this batch alone, all metrics included."""
        return self.figures | _of_all(metrics, self.kept)


class RunningMean:
    """Running means of figures, weighted by the number of samples, and what metrics of all samples have kept."""

    def __init__(
        self, samples: int = 0, sums: Figures | None = None, kept: dict[str, tuple[Array, ...]] | None = None
    ) -> None:
        self.samples = samples
        self.sums = sums or {}
        self.penalty = 0.0
        self._kept = {name: [arrays] for name, arrays in (kept or {}).items()}

    def add(self, samples: int, seen: BatchResult) -> None:
        """Count a batch of so many samples."""
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
        self, model: Model, epochs: int, batches: int, rate: float | Schedule, names: Sequence[str],
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
        self._border: tuple[int, int, RunningMean, Any] | None = None

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
        checkpoint.write(path, self.model, self._progress(*self._border))

    def check_saving(self) -> None:
        """Raise a TypeError if `save` would, as far as can be known now."""
        for optimizer in optimizers_of(self.model):
            if not optimizers.is_built_in(optimizer):
                checkpoint.check(self.model, optimizer.init(np.zeros((2, 2), np.float32)))
        random = random_state.generator_state(self._order)
        random_state.restore_generator(random)
        checkpoint.check(self.model, self._progress(0, 0, RunningMean(), random))

    def _progress(self, epoch: int, batch: int, mean: RunningMean, random: Any) -> dict[str, Any]:
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

    def _go_on(self, progress: dict[str, Any]) -> tuple[int, RunningMean]:
        """Take over what `save` wrote; return the batches that are done, and their figures."""
        for name, callback in self._named():
            if progress["callbacks"].get(name) is not None:
                callback.set_state(progress["callbacks"][name])
        self.epoch, self.batch, self.step = (progress[name] for name in ("epoch", "batch", "step"))
        self.stopped = self.finished = progress["finished"]
        self._set_rate, self.history = progress["lr"], History(progress["history"], progress["epochs"])
        return self.batch, RunningMean(progress["samples"], dict(progress["sums"]), progress.get("kept"))

    def _named(self) -> Iterator[tuple[str, Callback]]:
        """The callbacks, each under its class and its number among those of that class."""
        seen: dict[str, int] = {}
        for callback in self._callbacks:
            kind = type(callback).__name__
            seen[kind] = seen.get(kind, 0) + 1
            yield f"{kind} {seen[kind]}", callback
