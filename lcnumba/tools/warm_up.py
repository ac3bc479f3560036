"""Compilation, ahead of time, of what a model or layer will need."""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from lcnumba import losses
from lcnumba.layers.locally_connected import LocallyConnected2D
from lcnumba.layers.tree import is_model
from lcnumba.runtime.signals import deferred
from lcnumba.utils.messages import public
from lcnumba.utils.validation import boolean, integer, is_iterable

__all__ = ["warm_up", "warm_up_usual"]


@public
def warm_up(model: Any, batch_size: int | Iterable[int] = 32, *, training: bool = True) -> None:
    """Compile what calls and training steps of a model or layer will need, and cache the code on disk.

    A job array whose jobs share a cache folder (``NUMBA_CACHE_DIR``) then begins without compiling.

    Parameters
    ----------
    model : Sequential or layer
        With a known input shape. It is unchanged: a copy runs one call and one step, on zeros.
    batch_size : int or iterable of int, default 32
        The sizes of batches. Code depends on them, so give also the size of an incomplete last batch.
    training : bool, default True
        Whether steps are compiled, too. The loss, for a compiled model, and the optimizers are the model's.

    Raises
    ------
    TypeError, ValueError
        If a parameter is invalid, or the input shape is not known.
    MemoryError
        If the copy does not fit into memory.

    Examples
    --------
    >>> import lcnumba as lc
    >>> layer = lc.LocallyConnected2D(2, 3, input_shape=(6, 6, 1))
    >>> lc.warm_up(layer, batch_size=[16, 7])
    """
    sizes: Any = batch_size if is_iterable(batch_size) else [batch_size]
    counts = [integer("batch_size", size) for size in sizes]
    steps = boolean("training", training)
    if not callable(getattr(model, "forward", None)):
        raise TypeError(f"model is a {type(model).__name__}; give a Sequential or a layer")
    if getattr(model, "input_shape", None) is None:
        raise ValueError(f"{model!r:.80} has no input shape yet; build it, or give its first layer an input_shape")
    _, *shape = model.input_shape
    twin = copy.deepcopy(model)
    if not twin.built:
        twin.build(model.input_shape)
    for count in counts:
        _run(twin, np.zeros((count, *shape), np.float32), steps)  # each layer casts to its dtype


def warm_up_usual(batch_sizes: Iterable[int], dtype: str) -> None:
    """Compile what usual layers of a dtype need: few and many filters and channels, with each optimizer.

    Examples
    --------
    >>> from lcnumba.tools.warm_up import warm_up_usual
    >>> warm_up_usual([4], "float32")
    """
    sizes = list(batch_sizes)
    for filters in (2, 8, 32):
        for channels in (1, 16):
            warm_up(LocallyConnected2D(filters, 3, input_shape=(6, 6, channels), dtype=dtype), sizes)
    with deferred():
        from lcnumba.kernels import update

    parameter = np.zeros(update.TASK_SIZE + 1, dtype)  # large enough for threads
    for scalars in update.FORMULAS:
        update.prepare(scalars, parameter)


def _run(model: Any, x: Any, steps: bool) -> None:
    """Call the model on a batch, and step it."""
    model(x)
    if not steps:
        return
    with deferred():
        from lcnumba.kernels import rows

    rows.take(x, np.arange(len(x)))  # shuffling
    y, backward = model.forward(x)
    config = getattr(model, "training_config", None) if is_model(model) else None
    loss = None if config is None else config.loss
    if isinstance(loss, losses.MeanSquaredError | losses.MeanAbsoluteError | losses.Huber):
        loss(y, y)
    backward.step(np.zeros_like(y), 0.0)
    if config is not None and (config.gradient_transforms or config.accumulate > 1):
        y, backward = model.forward(x)
        model.step(backward(np.zeros_like(y))[1], 0.0)
