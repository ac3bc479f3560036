"""Measurement of the fastest implementation of a layer on this machine."""

import statistics
import time
from typing import Any, NamedTuple

import numpy as np

from lcnumba.layers.windowed import Windowed
from lcnumba.utils.arrays import as_numpy
from lcnumba.utils.messages import public
from lcnumba.utils.validation import real

__all__ = ["Tuning", "tune"]


class Tuning(NamedTuple):
    """The result of `tune`.

    Attributes
    ----------
    implementation : int
        The one with the fastest step.
    forward, step : dict of int to float
        Median seconds of each measured implementation.

    Examples
    --------
    >>> import lcnumba as lc
    >>> tuning = lc.Tuning(implementation=2, forward={1: 0.5, 2: 0.25}, step={1: 3.0, 2: 1.5})
    >>> tuning.step[1] / tuning.step[tuning.implementation]  # how many times as long the loops take
    2.0
    """

    implementation: int
    forward: dict[int, float]
    step: dict[int, float]


Tuning.__module__ = "lcnumba"  # as of all public classes: pickles survive when the file moves


@public
def tune(layer: Any, x: Any, *, seconds: float = 1.0, memory: float = 2**30) -> Tuning:
    """Measure each implementation on a batch, and return the fastest for training.

    Parameters
    ----------
    layer : LocallyConnected1D, 2D or 3D, their transposes, Conv1D or Conv2D
        The layer; it is built if necessary, and otherwise unchanged: copies are measured.
    x : array
        A batch of the size used in training.
    seconds : float, default 1
        How long the steps of each implementation are repeated, after a first one that compiles.
    memory : float, default 2**30
        Bytes; implementations that need more for their weights are skipped.

    Returns
    -------
    Tuning
        For ``layer.with_implementation(tuning.implementation)``.

    Raises
    ------
    TypeError, ValueError
        If a parameter is invalid, or x does not fit the layer.

    Notes
    -----
    Measurements vary by machine and over time; ``implementation="auto"`` chooses by shapes only. Each candidate holds
    a copy of the weights.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> layer = lc.LocallyConnected2D(2, 3)
    >>> tuning = lc.tune(layer, np.ones((4, 6, 6, 1)), seconds=0)
    >>> sorted(tuning.step)  # the measured implementations
    [1, 2, 3]
    >>> best = layer.with_implementation(tuning.implementation)
    """
    if not isinstance(layer, Windowed):
        raise TypeError(
            f"layer is a {type(layer).__name__}, which has one implementation; give a LocallyConnected2D or another "
            "layer of windows"
        )
    limit, budget = real("memory", memory), real("seconds", seconds)
    if limit < 0:
        raise ValueError(f"memory must be a number of bytes of at least 0, got {memory!r}")
    values, _ = as_numpy("x", x)
    layer._normalised(values)  # builds the layer like a call, but keeps the penalty of its last output
    forward, step = {}, {}
    for cost in layer.costs(len(values)):
        if cost.memory > limit:
            continue
        candidate = layer.with_implementation(cost.implementation)
        candidate.optimizer, candidate.trainable = "sgd", True
        y, backward = candidate.forward(values)
        dy = np.zeros_like(y)
        backward.step(dy, 0.0)
        both: list[tuple[float, float]] = []
        end = time.perf_counter() + budget
        while len(both) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            y, backward = candidate.forward(values)
            middle = time.perf_counter()
            backward.step(dy, 0.0)
            both.append((middle - start, time.perf_counter() - start))
        forward[cost.implementation], step[cost.implementation] = map(statistics.median, zip(*both, strict=True))
    return Tuning(min(step, key=lambda number: step[number]), forward, step)
