"""Callbacks of `fit`: progress, early stopping, checkpoints, logs, learning rates.

A callback subclasses `Callback` and overrides some of its methods, each of which gets the `lcnumba.training.run.Run`:
model, epoch, batch, step, lr, history, and methods to stop the training and to save it.
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
    "format_logs",
]

Logs = dict[str, float]
PathLike = str | os.PathLike[str]

_log = logging.getLogger("lcnumba")

# Placeholders in file names that Keras fills in, such as {epoch:02d}.
_FIELD = re.compile(r"\{[A-Za-z_]\w*(:[^{}]*)?\}")
# Keras' methods that have another name here, and would never be called.
_KERAS_METHODS = {
    "on_batch_begin": "before_step(run, logs)",
    "on_train_batch_begin": "before_step(run, logs)",
    "on_train_batch_end": "on_batch_end(run, logs)",
    "on_test_begin": "on_epoch_end(run, logs), after the validation",
    "on_test_end": "on_epoch_end(run, logs), after the validation",
    "on_test_batch_begin": "on_epoch_end(run, logs), after the validation",
    "on_test_batch_end": "on_epoch_end(run, logs), after the validation",
    "on_predict_begin": "nothing: predict has no callbacks",
    "on_predict_end": "nothing: predict has no callbacks",
    "on_predict_batch_begin": "nothing: predict has no callbacks",
    "on_predict_batch_end": "nothing: predict has no callbacks",
}


class Callback:
    """Base class of callbacks; its methods do nothing.

    Callbacks are called in the order given. `after_batch` and `after_epoch` are called when `on_batch_end` and
    `on_epoch_end` of all callbacks have returned, so that `Checkpoint` saves the state that all of them have reached.

    The methods take `run`, the `lcnumba.training.run.Run`, and `logs`, a dict of loss and metrics by name.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> class StopBelow(lc.callbacks.Callback):
    ...     def on_epoch_end(self, run, logs):
    ...         if logs["loss"] < 0.5:
    ...             run.stop()
    >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="zeros")])
    >>> x, y = np.ones((4, 1)), np.ones((4, 1))
    >>> history = model.fit(x, y, loss="mse", epochs=100, lr=0.1, callbacks=[StopBelow()], progress=False)
    >>> len(history.epoch)
    2
    """

    def __init_subclass__(cls) -> None:
        """Refuse methods of Keras' callbacks that would never be called."""
        super().__init_subclass__()
        for name in _KERAS_METHODS.keys() & vars(cls).keys():
            raise TypeError(f"{cls.__name__}.{name} would never be called; here it is {_KERAS_METHODS[name]}")

    def __getattr__(self, name: str) -> Any:
        """Say where to find what Keras sets as attributes of a callback."""
        if name in ("model", "params"):
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name}: each method gets the run, which has model, epochs, lr "
                "and stop()"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def on_train_begin(self, run: Any) -> None:
        """Before the training, and before a checkpoint is read; reset the state of an earlier training here."""

    def on_epoch_begin(self, run: Any) -> None:
        """Before the first batch of an epoch, or of the rest of an interrupted one."""

    def before_step(self, run: Any, logs: Logs) -> None:
        """After loss and metrics of a batch are known, before its step, which ``run.stop()`` prevents."""

    def on_batch_end(self, run: Any, logs: Logs) -> None:
        """After a batch; the logs are those of the epoch so far."""

    def after_batch(self, run: Any, logs: Logs) -> None:
        """After `on_batch_end` of all callbacks; ``run.save`` is possible if ``run.between_steps``."""

    def on_epoch_end(self, run: Any, logs: Logs) -> None:
        """After an epoch and its validation."""

    def after_epoch(self, run: Any, logs: Logs) -> None:
        """After `on_epoch_end` of all callbacks; ``run.save`` is possible if ``run.between_steps``."""

    def on_train_end(self, run: Any) -> None:
        """After the last epoch, unless an exception was raised."""

    def close(self) -> None:
        """At the end, also after an exception."""

    def get_state(self) -> Any:
        """Return the state for a checkpoint: numbers, strings, None, arrays, and lists, tuples and dicts of them."""
        return None

    def set_state(self, state: Any) -> None:
        """Restore what `get_state` returned, unless that was None; called after `on_train_begin`."""


# Metrics for which mode="auto" knows the direction, by the ends of their names.
_MAXIMIZED, _MINIMIZED = ("accuracy", "auc"), ("loss", "mae", "mse", "error")


class _Monitor:
    """Tracks the best value of a metric."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor must be the name of a metric, got {monitor!r}")
        self.monitor = monitor
        self._mode = choice("mode", mode, ("auto", "min", "max"))
        self._min_delta = real("min_delta", min_delta)
        if self._min_delta < 0:
            raise ValueError(f"min_delta must be >= 0, got {min_delta!r}")
        self.best: float | None = None
        self._warned_of_nan = False

    def check(self, run: Any) -> None:
        self._warned_of_nan = False
        if self.monitor not in run.metric_names:
            raise ValueError(
                f"monitor={self.monitor!r} is not a metric of this training; give one of {', '.join(run.metric_names)}"
            )
        if self._mode == "auto" and not self.monitor.endswith((*_MAXIMIZED, *_MINIMIZED)):
            raise ValueError(
                f"mode='auto' does not know the direction of monitor={self.monitor!r}; give mode='max' or mode='min'"
            )

    def improved(self, logs: Logs) -> bool:
        """Whether the metric is better than the best so far; if so, record it."""
        value = logs[self.monitor]
        if math.isnan(value) and not self.monitor.endswith("loss") and not self._warned_of_nan:
            self._warned_of_nan = True
            warn(
                f"{self.monitor} is nan, which counts as no improvement: its samples may be of one class, or have no "
                "known target (validation_split takes the last samples; shuffle them first, or use validation_data)"
            )
        maximize = self._mode == "max" or (self._mode == "auto" and self.monitor.endswith(_MAXIMIZED))
        score = -math.inf if math.isnan(value) else value if maximize else -value
        best = -math.inf if self.best is None else self.best if maximize else -self.best
        better = score > best + (self._min_delta if self.best is not None else 0)
        if better:
            self.best = value
        return better


@public_class
class EarlyStopping(Callback):
    """Stop the training when a metric has stopped improving, and restore the best weights.

    Parameters
    ----------
    monitor : str, default "val_loss"
        The metric.
    patience : int, default 0
        Number of consecutive epochs without improvement that end the training; 0 means 1.
    min_delta : float, default 0
        The smallest change that counts as an improvement.
    mode : {"auto", "min", "max"}
        Whether smaller or larger is better; "auto" knows it for losses and the metrics of this library.
    restore_best : bool, default True
        Whether to restore the weights of the best epoch at the end, also after the last of all epochs. Until then a
        copy of them is held in memory.

    Attributes
    ----------
    best : float or None
        The best value of the metric.
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
        self._monitor = _Monitor(monitor, mode, min_delta)
        self._patience = integer("patience", patience, 0)
        self._restore = boolean("restore_best", restore_best)
        self._reset()

    def _reset(self) -> None:
        self._monitor.best = None
        self.best_epoch: int | None = None
        self._waited = 0
        self._warned_of_lost_weights = False
        self._weights: list[Any] | None = None

    @property
    def best(self) -> float | None:
        """The best value so far."""
        return self._monitor.best

    def on_train_begin(self, run: Any) -> None:
        """Reset the state."""
        self._monitor.check(run)
        self._reset()

    def on_epoch_end(self, run: Any, logs: Logs) -> None:
        """Record an improvement, or count the epochs since the last one."""
        if self._monitor.improved(logs):
            self.best_epoch, self._waited = run.epoch, 0
            self._weights = run.model.get_weights() if self._restore else None
            if self._restore and not self._warned_of_lost_weights and (lost := lost_weights(run.model)):
                self._warned_of_lost_weights = True
                warn(f"restore_best of EarlyStopping does not restore {lost}", UserWarning)
            return
        self._waited += 1
        if self._waited > max(0, self._patience - 1):
            _log.info("%s has not improved for %d epochs; stopping", self._monitor.monitor, self._waited)
            run.stop(finished=True)

    def on_train_end(self, run: Any) -> None:
        """Restore the best weights."""
        if self._weights is not None:
            with deferred():
                run.model.set_weights(self._weights)

    def get_state(self) -> Any:
        """Return the best value, its epoch and its weights."""
        return {"best": self.best, "epoch": self.best_epoch, "waited": self._waited, "weights": self._weights}

    def set_state(self, state: Any) -> None:
        """Restore that state."""
        best, epoch, waited, weights = (state[name] for name in ("best", "epoch", "waited", "weights"))
        arrays = weights is None or (isinstance(weights, list) and all(isinstance(w, np.ndarray) for w in weights))
        if not (_is_metric(best) and isinstance(waited, int) and isinstance(epoch, int | None) and arrays):
            raise ValueError(f"state {state!r} is not one of EarlyStopping")
        self._monitor.best, self.best_epoch, self._waited, self._weights = best, epoch, waited, weights


@public_class
class Checkpoint(Callback):
    """Write the training to a file, from which ``fit(resume=path)`` resumes bit for bit.

    The file holds the model, the state of its optimizers, the epoch, the random state and the history; `lcnumba.load`
    reads the model from it. It is written to a temporary file that then replaces the old one atomically, so that one
    of both is complete even after a power failure. If it cannot be written (a full disk), there is a warning and
    training continues. Epochs whose loss is not finite are not written.

    Parameters
    ----------
    path : path
        The file, by convention ``.npz``. Its folder must exist.
    every : int, default 1
        Number of epochs between checkpoints.
    every_batches : int, optional
        Number of batches between checkpoints within an epoch, in addition to those at its end; with accumulated
        gradients, they are written after the next step.
    monitor : str, optional
        Write only after epochs in which this metric has improved on its best value.
    mode : {"auto", "min", "max"}
        As for `EarlyStopping`.

    Attributes
    ----------
    path : pathlib.Path
        The file.

    Raises
    ------
    OSError
        By `fit`, before the first epoch, if the folder is not writable, or the path is not that of a regular file.
    ValueError
        If the name has the suffix of another format (``.h5``, ``.keras``), or placeholders in braces, as in Keras.
        By `fit`, if `path` exists but ``resume=`` is another path that does not: the training would start anew and
        overwrite the file.
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
                f"path must not have placeholders in braces, got {os.fspath(path)!r} with {found[0]!r}: a single file "
                "is written, of the last epoch or, with monitor=..., of the best one"
            )
        self._target = self.path
        self._every = integer("every", every)
        self._every_batches = None if every_batches is None else integer("every_batches", every_batches)
        if monitor is not None and every_batches is not None:
            raise ValueError("monitor and every_batches cannot be combined: metrics are compared after epochs")
        self._monitor = None if monitor is None else _Monitor(monitor, mode)
        self._due = self._warned_of_lost_weights = False
        self._best_on_disk: float | None = None

    def on_train_begin(self, run: Any) -> None:
        """Check that the training can be saved, and the folder is writable."""
        if self._monitor is not None:
            self._monitor.check(run)
            self._monitor.best = None
        run.check_saving()
        self._target = self.path.absolute()  # a callback may change the working directory
        files.check_writable(self._target)
        files.remove_stale_temp_files(self._target)
        self._due = self._warned_of_lost_weights = False

    def on_batch_end(self, run: Any, logs: Logs) -> None:
        """Decide whether a checkpoint is due."""
        if self._every_batches is not None:
            self._due = self._due or run.batch % self._every_batches == 0

    def after_batch(self, run: Any, logs: Logs) -> None:
        """Write a checkpoint if it is due."""
        # A training that was stopped, but is not finished, may be resumed from here.
        stopped = run.stopped and not run.finished and self._monitor is None
        if (self._due or stopped) and run.between_steps:
            self._write(run, logs)

    def on_epoch_end(self, run: Any, logs: Logs) -> None:
        """Decide whether a checkpoint is due."""
        self._due = self._due or (run.epoch + 1) % self._every == 0 or run.stopped or run.epoch + 1 == run.epochs
        if self._due and self._monitor is not None:
            self._best_on_disk = self._monitor.best
            self._due = self._monitor.improved(logs)

    def after_epoch(self, run: Any, logs: Logs) -> None:
        """Write a checkpoint if it is due."""
        if self._due and run.between_steps:
            self._write(run, logs)

    def _write(self, run: Any, logs: Logs) -> None:
        self._due = False
        if not math.isfinite(logs["loss"]):
            _log.warning("checkpoint of epoch %d not written: its loss is %s", run.epoch + 1, logs["loss"])
            self._undo_best()
            return
        if not self._warned_of_lost_weights and (lost := lost_weights(run.model, with_state=True)):
            self._warned_of_lost_weights = True
            warn(f"the checkpoint does not contain {lost}", UserWarning)
        try:
            run.save(self._target)
        except OSError as error:
            self._undo_best()
            warnings.warn(f"checkpoint of epoch {run.epoch + 1} not written: {error}", RuntimeWarning, stacklevel=2)
        else:
            _log.debug("checkpoint %s of epoch %d, batch %d", self._target, run.epoch + 1, run.batch)

    def _undo_best(self) -> None:
        """Return to the best value of the file on disk."""
        if self._monitor is not None:
            self._monitor.best = self._best_on_disk

    def get_state(self) -> Any:
        """Return the best value."""
        return None if self._monitor is None else {"best": self._monitor.best}

    def set_state(self, state: Any) -> None:
        """Restore that state."""
        if self._monitor is not None:
            if not _is_metric(state["best"]):
                raise ValueError(f"state {state!r} is not one of Checkpoint")
            self._monitor.best = state["best"]


@public_class
class CSVLogger(Callback):
    """Write the history to a CSV file, one line per epoch.

    The whole file is replaced atomically after each epoch, so that it is complete at any time; in a resumed training
    it includes the earlier epochs.

    Parameters
    ----------
    path : path
        The file. Its folder must exist. To a pipe or terminal, each line is written as it comes.
    separator : str, default ","
        The delimiter.

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
            raise ValueError(f"separator must be a single character, got {separator!r}")
        npz.check_suffix(path, table=True)
        self._path, self._separator = file_path(path), separator
        self._file: files.TextFile | None = None

    def on_train_begin(self, run: Any) -> None:
        """Check that the file is writable."""
        self._file = files.TextFile(self._path)

    def on_epoch_end(self, run: Any, logs: Logs) -> None:
        """Write the file."""
        table = text.StringIO(newline="")
        writer = csv.writer(table, delimiter=self._separator, lineterminator="\n")
        history = run.history.history
        writer.writerow(["epoch", *history])
        writer.writerows(zip(run.history.epoch, *history.values(), strict=True))
        try:
            self._file.write(table.getvalue())  # type: ignore[union-attr]
        except OSError as error:
            warnings.warn(f"log of epoch {run.epoch + 1} not written: {error}", RuntimeWarning, stacklevel=2)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


@public_class
class LearningRate(Callback):
    """Set the learning rate at the beginning of each epoch.

    For a schedule by step, pass it to `fit` as `lr` (`lcnumba.schedules`).

    Parameters
    ----------
    schedule : callable
        ``schedule(epoch, lr) -> lr``, with the number of the epoch, from 0, and the current learning rate.

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
            raise TypeError(f"schedule must be a function (epoch, lr) -> lr, got {schedule!r}")
        self._schedule = schedule

    def on_epoch_begin(self, run: Any) -> None:
        """Set the learning rate, unless an interrupted epoch is resumed."""
        if not run.batch:
            run.lr = learning_rate(self._schedule(run.epoch, run.lr))


@public_class
class ReduceLROnPlateau(Callback):
    """Lower the learning rate when a metric has stopped improving, as in Keras.

    The first reduction overrides a schedule given as `lr`.

    Parameters
    ----------
    monitor : str, default "val_loss"
        The metric.
    factor : float, default 0.1
        Factor of each reduction, in (0, 1).
    patience : int, default 10
        Number of consecutive epochs without improvement before a reduction.
    min_delta : float, default 1e-4
        The smallest change that counts as an improvement.
    cooldown : int, default 0
        Number of epochs after a reduction that are not counted.
    min_lr : float, default 0
        Lower bound of the learning rate.
    mode : {"auto", "min", "max"}
        As for `EarlyStopping`.

    Raises
    ------
    ValueError, TypeError
        If a parameter is invalid; by `fit` if there is no such metric.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.Dense(1, kernel_initializer="ones")])
    >>> lowering = lc.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1)
    >>> x, y = np.ones((4, 1)), np.ones((4, 1))
    >>> history = model.fit(x, y, loss="mse", epochs=3, lr=0.5, callbacks=[lowering], progress=False)
    >>> lowering.lr  # the first epoch counts as an improvement
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
        self._monitor = _Monitor(monitor, mode, min_delta)
        self._factor, self._min_lr = real("factor", factor), learning_rate(min_lr, name="min_lr")
        if not 0 < self._factor < 1:
            raise ValueError(f"factor must be in (0, 1), got {factor!r}")
        self._patience, self._cooldown = integer("patience", patience, 0), integer("cooldown", cooldown, 0)
        self._waited = self._cooling = 0
        self.lr: float | None = None  # set by the last reduction

    def on_train_begin(self, run: Any) -> None:
        """Reset the state."""
        self._monitor.check(run)
        self._monitor.best, self._waited, self._cooling, self.lr = None, 0, 0, None

    def on_epoch_end(self, run: Any, logs: Logs) -> None:
        """Count the epochs without improvement, and lower the learning rate."""
        if self._cooling:
            self._cooling -= 1
            self._waited = 0
        if self._monitor.improved(logs):
            self._waited = 0
            return
        if self._cooling:
            return
        self._waited += 1
        if self._waited >= self._patience and run.lr > self._min_lr:
            self.lr = run.lr = max(run.lr * self._factor, self._min_lr)
            self._waited, self._cooling = 0, self._cooldown
            _log.info("%s has not improved; lr is %g from epoch %d on", self._monitor.monitor, self.lr, run.epoch + 2)

    def get_state(self) -> Any:
        """Return the best value and the counts; the run saves the learning rate."""
        return {"best": self._monitor.best, "waited": self._waited, "cooling": self._cooling, "lr": self.lr}

    def set_state(self, state: Any) -> None:
        """Restore that state."""
        best, waited, cooling, lr = (state[name] for name in ("best", "waited", "cooling", "lr"))
        if not (_is_metric(best) and _is_metric(lr) and isinstance(waited, int) and isinstance(cooling, int)):
            raise ValueError(f"state {state!r} is not one of ReduceLROnPlateau")
        self._monitor.best, self._waited, self._cooling, self.lr = best, waited, cooling, lr


class TerminateOnNaN(Callback):
    """Stop the training when the loss of a batch is not finite, before its step, so that the weights stay finite.

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

    def before_step(self, run: Any, logs: Logs) -> None:
        """Stop if the loss is not finite."""
        if not math.isfinite(logs["loss"]):
            _log.warning("the loss is %s in epoch %d, batch %d; stopping", logs["loss"], run.epoch + 1, run.batch + 1)
            run.stop()


class Progress(Callback):
    """Show a progress bar per epoch on the standard error stream, with tqdm (in notebooks a widget), else a line.

    It also shows that kernels are being compiled. `fit` adds it unless ``progress=False``.

    Examples
    --------
    >>> import lcnumba as lc
    >>> bars = lc.callbacks.Progress()
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._title, self._is_compiling = "", False
        self._exit_stack = ExitStack()

    def on_train_begin(self, run: Any) -> None:
        """Subscribe to notices of compilation."""
        self._is_compiling = False
        self._exit_stack.enter_context(compilation.listening(self._on_compilation))

    def _on_compilation(self) -> None:
        """Show the notice: as the title of the bar until a batch is done, or as a line, once."""
        if self._bar is not None:
            self._bar.set_description(f"{self._title}, {compilation.NOTICE}")
        elif not self._is_compiling:
            print(compilation.NOTICE, file=sys.stderr)
        self._is_compiling = True

    def on_epoch_begin(self, run: Any) -> None:
        """Show an empty bar."""
        try:
            with deferred():
                from tqdm.auto import tqdm
        except ImportError:
            return
        self._title = f"epoch {run.epoch + 1}/{run.epochs}"
        self._bar = tqdm(total=run.batches or None, initial=run.batch, desc=self._title, unit="batch")

    def on_batch_end(self, run: Any, logs: Logs) -> None:
        """Advance the bar."""
        if self._bar is not None:
            if self._is_compiling:
                self._bar.set_description(self._title, refresh=False)
                self._is_compiling = False
            self._bar.set_postfix_str(format_logs(logs), refresh=False)
            self._bar.update()

    def on_epoch_end(self, run: Any, logs: Logs) -> None:
        """Show loss and metrics of the epoch."""
        if self._bar is None:
            print(f"epoch {run.epoch + 1}/{run.epochs}: {format_logs(logs)}", file=sys.stderr)
        else:
            self._bar.set_postfix_str(format_logs(logs))
            self._close_bar()

    def close(self) -> None:
        """Close the bar, and unsubscribe."""
        self._close_bar()
        self._exit_stack.close()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _is_metric(value: Any) -> bool:
    return value is None or isinstance(value, float)


def format_logs(logs: Logs) -> str:
    """Format loss and metrics as a line of text.

    Examples
    --------
    >>> from lcnumba.callbacks import format_logs
    >>> format_logs({"loss": 0.5, "accuracy": 1.0})
    'loss 0.5000, accuracy 1.0000'
    """
    return ", ".join(f"{name} {value:.4f}" for name, value in logs.items())


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name == "figures_text":
        warn("lcnumba.callbacks.figures_text is deprecated; use format_logs", DeprecationWarning)
        return format_logs
    raise missing(__name__, name)
