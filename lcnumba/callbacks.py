"""What happens beside the steps of `fit`: progress, early stopping, checkpoints, logs, learning rates.

A callback is an object of a subclass of `Callback`; it overrides the moments that it cares about, and is told of the
`lcnumba.training.run.Run`: model, epoch, batch, step, lr, history, and ways to stop and to save.
"""

import csv
import io as text
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from lcnumba.formats import npz
from lcnumba.protocol import lost_weights
from lcnumba.runtime import compilation
from lcnumba.runtime.signals import deferred
from lcnumba.utils import files
from lcnumba.utils.messages import missing, public_class, warn
from lcnumba.utils.validation import boolean, choice, file_path, integer, learning_rate, real

__all__ = [
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "LearningRate",
    "Progress",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
    "figures_text",
]

Figures = dict[str, float]
PathLike = str | os.PathLike[str]

_log = logging.getLogger("lcnumba")

# What Keras fills in of the name of a checkpoint, such as {epoch:02d}.
_FIELD = re.compile(r"\{[A-Za-z_]\w*(:[^{}]*)?\}")
# Keras' moments that are called otherwise here: a method of that name would never be called.
_KERAS_MOMENTS = {
    "on_batch_begin": "before_step(run, figures)",
    "on_train_batch_begin": "before_step(run, figures)",
    "on_train_batch_end": "on_batch_end(run, figures)",
    "on_test_begin": "on_epoch_end(run, figures), after the validation",
    "on_test_end": "on_epoch_end(run, figures), after the validation",
    "on_test_batch_begin": "on_epoch_end(run, figures), after the validation",
    "on_test_batch_end": "on_epoch_end(run, figures), after the validation",
    "on_predict_begin": "nothing: predict has no callbacks",
    "on_predict_end": "nothing: predict has no callbacks",
    "on_predict_batch_begin": "nothing: predict has no callbacks",
    "on_predict_batch_end": "nothing: predict has no callbacks",
}


class Callback:
    """Base of callbacks: each method is called at its moment, and does nothing here.

    Callbacks are called in their order. When all of them have seen the end of a batch or an epoch, `after_batch` and
    `after_epoch` follow, in which `Checkpoint` writes what all have made of it.

    The methods take `run`, the `lcnumba.training.run.Run`, and `figures`, a dict of loss and metrics by name.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> class StopBelow(lc.callbacks.Callback):
    ...     def on_epoch_end(self, run, figures):
    ...         if figures["loss"] < 0.5:
    ...             run.stop()
    >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="zeros")])
    >>> x, y = np.ones((4, 1)), np.ones((4, 1))
    >>> history = model.fit(x, y, loss="mse", epochs=100, lr=0.1, callbacks=[StopBelow()], progress=False)
    >>> len(history.epoch)
    2
    """

    def __init_subclass__(cls) -> None:
        """Refuse methods with names of Keras' that would never be called."""
        super().__init_subclass__()
        for name in _KERAS_MOMENTS.keys() & vars(cls).keys():
            raise TypeError(f"{cls.__name__}.{name} would never be called; here it is {_KERAS_MOMENTS[name]}")

    def __getattr__(self, name: str) -> Any:
        """Say where a callback finds what Keras gives it as an attribute."""
        if name in ("model", "params"):
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name}: each moment gets the run, which has model, epochs, lr "
                "and stop()"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def on_train_begin(self, run: Any) -> None:
        """Before everything else, and before a checkpoint is read; to forget what an earlier training left behind."""

    def on_epoch_begin(self, run: Any) -> None:
        """Before the first batch of an epoch, or of the rest of one that was broken off."""

    def before_step(self, run: Any, figures: Figures) -> None:
        """When the figures of a batch are known, and before its step, which ``run.stop()`` prevents."""

    def on_batch_end(self, run: Any, figures: Figures) -> None:
        """After a batch; the figures are those of the epoch so far."""

    def after_batch(self, run: Any, figures: Figures) -> None:
        """When all callbacks have seen the end of a batch; ``run.save`` is possible, but between steps alone."""

    def on_epoch_end(self, run: Any, figures: Figures) -> None:
        """After an epoch and its validation."""

    def after_epoch(self, run: Any, figures: Figures) -> None:
        """When all callbacks have seen the end of an epoch; ``run.save`` is possible."""

    def on_train_end(self, run: Any) -> None:
        """After the last epoch, if nothing went wrong."""

    def close(self) -> None:
        """At the end, whatever has happened."""

    def get_state(self) -> Any:
        """Return what a checkpoint must hold to go on: numbers, strings, None, arrays, lists, tuples and dicts."""
        return None

    def set_state(self, state: Any) -> None:
        """Go on from what `get_state` returned, if that was not None; called after `on_train_begin`."""


# Figures of which "auto" knows what is better, by the ends of their names.
_LARGER, _SMALLER = ("accuracy", "auc"), ("loss", "mae", "mse", "error")


class _Watch:
    """Whether a figure is better than it ever was."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor={monitor!r} is a {type(monitor).__name__}; give the name of a figure")
        self.monitor = monitor
        self._mode = choice("mode", mode, ("auto", "min", "max"))
        self._min_delta = real("min_delta", min_delta)
        if self._min_delta < 0:
            raise ValueError(f"min_delta={min_delta!r} cannot be used; give a number of at least 0")
        self.best: float | None = None
        self._doubted = False

    def check(self, run: Any) -> None:
        self._doubted = False
        if self.monitor not in run.names:
            raise ValueError(
                f"monitor={self.monitor!r} is no figure of this training; give one of {', '.join(run.names)}"
            )
        if self._mode == "auto" and not self.monitor.endswith((*_LARGER, *_SMALLER)):
            raise ValueError(
                f"mode='auto' does not tell whether a larger {self.monitor!r} is better; give mode='max' or mode='min'"
            )

    def improved(self, figures: Figures) -> bool:
        """Whether the figure is the best so far, which it then becomes."""
        value = figures[self.monitor]
        if math.isnan(value) and not self.monitor.endswith("loss") and not self._doubted:
            self._doubted = True
            warn(
                f"{self.monitor} is nan, which is no gain: its samples may hold one class alone, or no known target "
                "(validation_split takes the last samples; shuffle them before, or give validation_data)"
            )
        upward = self._mode == "max" or (self._mode == "auto" and self.monitor.endswith(_LARGER))
        gain = -math.inf if math.isnan(value) else value if upward else -value
        so_far = -math.inf if self.best is None else self.best if upward else -self.best
        better = gain > so_far + (self._min_delta if self.best is not None else 0)
        if better:
            self.best = value
        return better


@public_class
class EarlyStopping(Callback):
    """End the training when a figure has not become better for a while, and go back to the best weights.

    Parameters
    ----------
    monitor : str, default "val_loss"
        The figure.
    patience : int, default 0
        So many epochs in a row without a gain end the training; 0 is as good as 1.
    min_delta : float, default 0
        The least difference that is a gain.
    mode : {"auto", "min", "max"}
        Whether smaller or larger is better; "auto" knows it of losses and of the metrics of this library.
    restore_best : bool, default True
        Whether the weights of the best epoch are taken at the end, also if all epochs were run. They are kept as a
        copy in memory meanwhile.

    Attributes
    ----------
    best : float or None
        The best figure.
    best_epoch : int or None
        Its epoch, from 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="ones")])
    >>> stopping = lc.callbacks.EarlyStopping("loss", patience=1)
    >>> x, y = np.ones((4, 1)), np.ones((4, 1))
    >>> history = model.fit(x, y, loss="mse", epochs=100, callbacks=[stopping], progress=False)
    >>> len(history.epoch), stopping.best, stopping.best_epoch
    (2, 0.0, 0)
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        patience: int = 0,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = True,
    ) -> None:
        self._watch = _Watch(monitor, mode, min_delta)
        self._patience = integer("patience", patience, 0)
        self._restore = boolean("restore_best", restore_best)
        self._forget()

    def _forget(self) -> None:
        self._watch.best = None
        self.best_epoch: int | None = None
        self._waited = 0
        self._told = False
        self._weights: list[Any] | None = None

    @property
    def best(self) -> float | None:
        """The best figure so far."""
        return self._watch.best

    def on_train_begin(self, run: Any) -> None:
        """Begin anew."""
        self._watch.check(run)
        self._forget()

    def on_epoch_end(self, run: Any, figures: Figures) -> None:
        """Keep the best, and count the epochs since."""
        if self._watch.improved(figures):
            self.best_epoch, self._waited = run.epoch, 0
            self._weights = run.model.get_weights() if self._restore else None
            if self._restore and not self._told and (lost := lost_weights(run.model)):
                self._told = True
                warn(f"restore_best of EarlyStopping does not bring back {lost}", UserWarning)
            return
        self._waited += 1
        if self._waited > max(0, self._patience - 1):
            _log.info("%s has not improved for %d epochs; stopping", self._watch.monitor, self._waited)
            run.stop(finished=True)

    def on_train_end(self, run: Any) -> None:
        """Go back to the best weights."""
        if self._weights is not None:
            with deferred():
                run.model.set_weights(self._weights)

    def get_state(self) -> Any:
        """Return the best figure, its epoch and its weights."""
        return {"best": self.best, "epoch": self.best_epoch, "waited": self._waited, "weights": self._weights}

    def set_state(self, state: Any) -> None:
        """Go on from there."""
        best, epoch, waited, weights = (state[name] for name in ("best", "epoch", "waited", "weights"))
        arrays = weights is None or (isinstance(weights, list) and all(isinstance(w, np.ndarray) for w in weights))
        if not (_is_figure(best) and isinstance(waited, int) and isinstance(epoch, int | None) and arrays):
            raise ValueError(f"{state!r} is no state of EarlyStopping")
        self._watch.best, self.best_epoch, self._waited, self._weights = best, epoch, waited, weights


@public_class
class Checkpoint(Callback):
    """Write the training to a file, from which ``fit(resume=path)`` goes on bit for bit.

    The file holds the model, its optimizers' state, the epoch, random state and history; `lcnumba.load` reads the
    model from it. It is written beside its place and then moved there: whatever happens, also to the power, there
    is the last or the new one. A file that cannot be written (a full disk) is a warning, and training goes on. Epochs
    whose loss is not finite are not written.

    Parameters
    ----------
    path : path
        The file, by convention ``.npz``. Its folder must exist.
    every : int, default 1
        Epochs between two checkpoints.
    every_batches : int, optional
        Batches between two checkpoints within an epoch, beside those at its end; where gradients are accumulated,
        the next step is waited for.
    monitor : str, optional
        Write only after epochs in which this figure is better than ever.
    mode : {"auto", "min", "max"}
        As for `EarlyStopping`.

    Attributes
    ----------
    path : pathlib.Path
        The file.

    Raises
    ------
    OSError
        By `fit`, before the first epoch, if the folder cannot be written to, or the path leads to what is no file.
    ValueError
        If the name ends as files of another kind do (``.h5``, ``.keras``), or has fields in braces, which Keras fills
        in.
        By `fit`, if `path` exists and ``resume=`` is another path, which does not: the training would begin at the
        beginning, and replace the file.
    TypeError
        By `fit`, before the first epoch, if the model cannot be saved.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> x, y = np.ones((4, 2)), np.ones((4, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "run.npz")
    ...     settings = {"loss": "mse", "callbacks": [lc.callbacks.Checkpoint(path)], "resume": path, "progress": False}
    ...     first = lc.Sequential([lc.Dense(1)]).fit(x, y, epochs=2, **settings)
    ...     second = lc.Sequential([lc.Dense(1)]).fit(x, y, epochs=3, **settings)  # one more
    >>> second.epoch, first.history["loss"] == second.history["loss"][:2]
    ([0, 1, 2], True)
    """

    def __init__(
        self,
        path: PathLike,
        *,
        every: int = 1,
        every_batches: int | None = None,
        monitor: str | None = None,
        mode: str = "auto",
    ) -> None:
        npz.check_suffix(path)
        self.path = file_path(path)
        if found := _FIELD.search(self.path.name):
            raise ValueError(
                f"path={os.fspath(path)!r} holds {found[0]!r}, which Keras fills in; here one file is kept, of the "
                "last epoch or, with monitor=..., the best one: give its name without braces"
            )
        self._target = self.path
        self._every = integer("every", every)
        self._every_batches = None if every_batches is None else integer("every_batches", every_batches)
        if monitor is not None and every_batches is not None:
            raise ValueError("give monitor or every_batches, not both: figures are compared after epochs")
        self._watch = None if monitor is None else _Watch(monitor, mode)
        self._due = self._told = False
        self._before: float | None = None  # the best figure of what is on disk

    def on_train_begin(self, run: Any) -> None:
        """Find out whether the training, and the folder, can be written."""
        if self._watch is not None:
            self._watch.check(run)
            self._watch.best = None
        run.check_saving()
        self._target = self.path.absolute()  # written there also if the folder changes
        files.check_writable(self._target)
        files.remove_stale_temp_files(self._target)
        self._due = self._told = False

    def on_batch_end(self, run: Any, figures: Figures) -> None:
        """Find out whether it is time to write."""
        if self._every_batches is not None:
            self._due = self._due or run.batch % self._every_batches == 0

    def after_batch(self, run: Any, figures: Figures) -> None:
        """Write, if it is time."""
        # A training that was stopped, and not for good, may go on from here.
        stopped = run.stopped and not run.finished and self._watch is None
        if (self._due or stopped) and run.between_steps:
            self._write(run, figures)

    def on_epoch_end(self, run: Any, figures: Figures) -> None:
        """Find out whether it is time to write."""
        self._due = self._due or (run.epoch + 1) % self._every == 0 or run.stopped or run.epoch + 1 == run.epochs
        if self._due and self._watch is not None:
            self._before = self._watch.best
            self._due = self._watch.improved(figures)

    def after_epoch(self, run: Any, figures: Figures) -> None:
        """Write, if it is time."""
        if self._due and run.between_steps:
            self._write(run, figures)

    def _write(self, run: Any, figures: Figures) -> None:
        self._due = False
        if not math.isfinite(figures["loss"]):
            _log.warning("no checkpoint of epoch %d, whose loss is %s", run.epoch + 1, figures["loss"])
            self._not_written()
            return
        if not self._told and (lost := lost_weights(run.model, with_state=True)):
            self._told = True
            warn(f"the checkpoint does not hold {lost}", UserWarning)
        try:
            run.save(self._target)
        except OSError as error:
            self._not_written()
            warnings.warn(f"no checkpoint of epoch {run.epoch + 1}: {error}", RuntimeWarning, stacklevel=2)
        else:
            _log.debug("checkpoint %s of epoch %d, batch %d", self._target, run.epoch + 1, run.batch)

    def _not_written(self) -> None:
        """Remember what is on disk."""
        if self._watch is not None:
            self._watch.best = self._before

    def get_state(self) -> Any:
        """Return the best figure."""
        return None if self._watch is None else {"best": self._watch.best}

    def set_state(self, state: Any) -> None:
        """Go on from there."""
        if self._watch is not None:
            if not _is_figure(state["best"]):
                raise ValueError(f"{state!r} is no state of Checkpoint")
            self._watch.best = state["best"]


@public_class
class CSVLogger(Callback):
    """Write the history to a table of comma-separated values, a line an epoch.

    The whole table is written anew after each epoch and then moved to its place, so that it is complete at any time;
    a training that is resumed has the earlier epochs in it.

    Parameters
    ----------
    path : path
        The file. Its folder must exist. What is no regular file, a pipe or a terminal, gets each line as it comes.
    separator : str, default ","
        Between two values.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="zeros")])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "log.csv")
    ...     logger = lc.callbacks.CSVLogger(path)
    ...     _ = model.fit(np.ones((2, 1)), np.ones((2, 1)), loss="mse", callbacks=[logger], progress=False)
    ...     print(path.read_text().strip())
    epoch,loss
    0,1.0
    """

    def __init__(self, path: PathLike, separator: str = ",") -> None:
        given: Any = separator
        usable = isinstance(given, str) and len(given) == 1 and (given.isprintable() or given.isspace())
        if not usable or given in '\r\n"':
            raise ValueError(f"separator={separator!r} cannot be used; give one character")
        npz.check_suffix(path, table=True)
        self._path, self._separator = file_path(path), separator
        self._file: files.TextFile | None = None

    def on_train_begin(self, run: Any) -> None:
        """Find out whether the path can be written to."""
        self._file = files.TextFile(self._path)

    def on_epoch_end(self, run: Any, figures: Figures) -> None:
        """Write the table."""
        table = text.StringIO(newline="")
        writer = csv.writer(table, delimiter=self._separator, lineterminator="\n")
        history = run.history.history
        writer.writerow(["epoch", *history])
        writer.writerows(zip(run.history.epoch, *history.values(), strict=True))
        try:
            self._file.write(table.getvalue())  # type: ignore[union-attr]
        except OSError as error:
            warnings.warn(
                f"the log of epoch {run.epoch + 1} could not be written: {error}", RuntimeWarning, stacklevel=2
            )

    def close(self) -> None:
        """Close a pipe or device."""
        if self._file is not None:
            self._file.close()
            self._file = None


@public_class
class LearningRate(Callback):
    """Set the learning rate at the beginning of each epoch.

    By step, give `fit` a schedule as `lr` (`lcnumba.schedules`).

    Parameters
    ----------
    schedule : callable
        ``schedule(epoch, lr) -> lr``: the number of the epoch, from 0, and the rate so far.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> halving = lc.callbacks.LearningRate(lambda epoch, lr: lr / 2 if epoch else lr)
    >>> model = lc.Sequential([lc.Dense(1)])
    >>> history = model.fit(np.ones((2, 1)), np.ones((2, 1)), loss="mse", epochs=3, callbacks=[halving], progress=False)
    """

    def __init__(self, schedule: Callable[[int, float], float]) -> None:
        if not callable(schedule):
            raise TypeError(f"schedule={schedule!r} is a {type(schedule).__name__}; give a function (epoch, lr) -> lr")
        self._schedule = schedule

    def on_epoch_begin(self, run: Any) -> None:
        """Set it, but for the rest of an epoch, whose rate has been set."""
        if not run.batch:
            run.lr = learning_rate(self._schedule(run.epoch, run.lr))


@public_class
class ReduceLROnPlateau(Callback):
    """Lower the learning rate when a figure has not become better for a while, as Keras' callback of this name.

    A schedule that was given as `lr` ends when the rate is lowered for the first time.

    Parameters
    ----------
    monitor : str, default "val_loss"
        The figure.
    factor : float, default 0.1
        What the rate is multiplied by; above 0 and below 1.
    patience : int, default 10
        So many epochs in a row without a gain lower the rate.
    min_delta : float, default 1e-4
        Differences up to it are no gain.
    cooldown : int, default 0
        Epochs after a reduction that are not counted.
    min_lr : float, default 0
        The lowest rate.
    mode : {"auto", "min", "max"}
        As for `EarlyStopping`.

    Raises
    ------
    ValueError, TypeError
        If a setting cannot be used; by `fit` if there is no such figure.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="ones")])
    >>> lowering = lc.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1)
    >>> x, y = np.ones((4, 1)), np.ones((4, 1))
    >>> history = model.fit(x, y, loss="mse", epochs=3, lr=0.5, callbacks=[lowering], progress=False)
    >>> lowering.lr  # the first epoch gains, against nothing
    0.125
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        mode: str = "auto",
    ) -> None:
        self._watch = _Watch(monitor, mode, min_delta)
        self._factor, self._least = real("factor", factor), learning_rate(min_lr, name="min_lr")
        if not 0 < self._factor < 1:
            raise ValueError(f"factor={factor!r} cannot be used; give a number above 0 and below 1")
        self._patience, self._cooldown = integer("patience", patience, 0), integer("cooldown", cooldown, 0)
        self._waited = self._cooling = 0
        self.lr: float | None = None  # the last rate that was set

    def on_train_begin(self, run: Any) -> None:
        """Begin anew."""
        self._watch.check(run)
        self._watch.best, self._waited, self._cooling, self.lr = None, 0, 0, None

    def on_epoch_end(self, run: Any, figures: Figures) -> None:
        """Count the epochs without a gain, and lower the rate."""
        if self._cooling:
            self._cooling -= 1
            self._waited = 0
        if self._watch.improved(figures):
            self._waited = 0
            return
        if self._cooling:
            return
        self._waited += 1
        if self._waited >= self._patience and run.lr > self._least:
            self.lr = run.lr = max(run.lr * self._factor, self._least)
            self._waited, self._cooling = 0, self._cooldown
            _log.info("%s has not improved; lr is %g from epoch %d on", self._watch.monitor, self.lr, run.epoch + 2)

    def get_state(self) -> Any:
        """Return the best figure and what has been counted; the rate is the run's."""
        return {"best": self._watch.best, "waited": self._waited, "cooling": self._cooling, "lr": self.lr}

    def set_state(self, state: Any) -> None:
        """Go on from there."""
        best, waited, cooling, lr = (state[name] for name in ("best", "waited", "cooling", "lr"))
        if not (_is_figure(best) and _is_figure(lr) and isinstance(waited, int) and isinstance(cooling, int)):
            raise ValueError(f"{state!r} is no state of ReduceLROnPlateau")
        self._watch.best, self._waited, self._cooling, self.lr = best, waited, cooling, lr


class TerminateOnNaN(Callback):
    """End the training when the loss of a batch is not finite, before its step: the weights stay as they are.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="ones")])
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     history = model.fit(np.array([[np.nan]]), np.ones((1, 1)), loss="mse", epochs=9, progress=False,
    ...                         callbacks=[lc.callbacks.TerminateOnNaN()])
    >>> len(history.epoch), model.layers[0].kernel
    (1, array([[1.]], dtype=float32))
    """

    def before_step(self, run: Any, figures: Figures) -> None:
        """Stop if the loss is not finite."""
        if not math.isfinite(figures["loss"]):
            _log.warning(
                "the loss is %s in epoch %d, batch %d; stopping", figures["loss"], run.epoch + 1, run.batch + 1
            )
            run.stop()


class Progress(Callback):
    """A bar an epoch on the standard error stream, in notebooks a widget, by tqdm; a line an epoch without it.

    It says so while kernels are being compiled. `fit` adds it unless ``progress=False``.

    Examples
    --------
    >>> import lcnumba as lc
    >>> bars = lc.callbacks.Progress()
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._title, self._compiles = "", False
        self._listening = ExitStack()

    def on_train_begin(self, run: Any) -> None:
        """Listen for kernels that are compiled."""
        self._compiles = False
        self._listening.enter_context(compilation.listening(self._tell_compiling))

    def _tell_compiling(self) -> None:
        """Say why nothing moves: once for a training, or as the title of the bar until a batch is done."""
        if self._bar is not None:
            self._bar.set_description(f"{self._title}, {compilation.NOTICE}")
        elif not self._compiles:
            print(compilation.NOTICE, file=sys.stderr)
        self._compiles = True

    def on_epoch_begin(self, run: Any) -> None:
        """Show an empty bar."""
        try:
            with deferred():
                from tqdm.auto import tqdm
        except ImportError:
            return
        self._title = f"epoch {run.epoch + 1}/{run.epochs}"
        self._bar = tqdm(total=run.batches or None, initial=run.batch, desc=self._title, unit="batch")

    def on_batch_end(self, run: Any, figures: Figures) -> None:
        """Let the bar grow."""
        if self._bar is not None:
            if self._compiles:
                self._bar.set_description(self._title, refresh=False)
                self._compiles = False
            self._bar.set_postfix_str(figures_text(figures), refresh=False)
            self._bar.update()

    def on_epoch_end(self, run: Any, figures: Figures) -> None:
        """Show the figures of the epoch."""
        if self._bar is None:
            print(f"epoch {run.epoch + 1}/{run.epochs}: {figures_text(figures)}", file=sys.stderr)
        else:
            self._bar.set_postfix_str(figures_text(figures))
            self._close_bar()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._close_bar()
        self._listening.close()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _is_figure(value: Any) -> bool:
    return value is None or isinstance(value, float)


def figures_text(figures: Figures) -> str:
    """Return figures for people to read.

    Examples
    --------
    >>> from lcnumba.callbacks import figures_text
    >>> figures_text({"loss": 0.5, "accuracy": 1.0})
    'loss 0.5000, accuracy 1.0000'
    """
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    raise missing(__name__, name)
