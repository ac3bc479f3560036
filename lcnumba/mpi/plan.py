"""What dividing a layer costs on paper: ``python -m lcnumba mpi-plan``.

Bytes and memory are counted from shapes. Times follow from two numbers that are given for a network: each message takes
`alpha` seconds, and each byte that a rank sends 1 / `beta` seconds. They are a model, not a measurement.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lcnumba.connectivity.geometry import Geometry
from lcnumba.mpi.stripes import LayerStripes

__all__ = ["STATES", "LayerPlan", "plan", "table"]

# Arrays of the shape of the weights that each optimizer keeps.
STATES = {"sgd": 0, "momentum": 1, "rmsprop": 1, "adam": 2, "adamw": 2}


@dataclass(frozen=True)
class LayerPlan:
    """One layer in the midst of a network, divided between ranks.

    Attributes
    ----------
    ranks : int
        How many.
    lines : (int, int)
        The least and the most output lines of a rank.
    sent : int
        Bytes of x and dx that all ranks send in a training step.
    most_sent, messages : int
        Bytes and messages of the rank that sends most.
    sent_parallel : int
        Bytes that all ranks would send if each had all weights and some samples, and gradients were summed over a ring
        (Patarasuk and Yuan, 2009): ``2 (ranks - 1)`` times the weights.
    memory : int
        Bytes of weights, optimizer states, x, y and dx of the largest rank.
    seconds, seconds_parallel : float
        Predicted time of the messages of a step in each way.
    """

    ranks: int
    lines: tuple[int, int]
    sent: int
    most_sent: int
    messages: int
    sent_parallel: int
    memory: int
    seconds: float
    seconds_parallel: float


def plan(
    geometry: Geometry, ranks: int, batch_size: int, *, optimizer: str = "adam", itemsize: int = 4,
    alpha: float = 2e-6, beta: float = 1e10,
) -> LayerPlan:  # fmt: skip
    """Return what a training step of a layer costs on some ranks.

    Parameters
    ----------
    geometry : Geometry
        The layer.
    ranks : int
        Its stripes.
    batch_size : int
        Samples per step.
    optimizer : {"sgd", "momentum", "rmsprop", "adam", "adamw"}
        Whose states count as memory.
    itemsize : int
        Bytes of a number.
    alpha : float
        Seconds per message.
    beta : float
        Bytes per second that a rank sends.

    Raises
    ------
    ValueError
        If the stripes would be too thin.

    Examples
    --------
    >>> from lcnumba.connectivity.geometry import Geometry
    >>> from lcnumba.mpi.plan import plan
    >>> found = plan(Geometry((30, 30), channels=64, filters=32, kernel_size=3), ranks=2, batch_size=32)
    >>> found.lines, found.sent, found.sent_parallel
    ((14, 14), 1228800, 115806208)
    """
    stripes = LayerStripes(geometry, ranks, owns_input=ranks > 1)
    if not stripes.is_thick:
        raise ValueError(f"{geometry.output_size[0]} output lines are too few for {ranks} ranks")
    line_bytes = geometry.inputs // geometry.input_size[0] * batch_size * itemsize
    sent = [line_bytes * stripes.lines_sent_by(rank) for rank in range(ranks)]
    messages = [stripes.messages_sent_by(rank) for rank in range(ranks)]
    positions = geometry.positions // geometry.output_size[0]
    each = geometry.window * geometry.filters + geometry.filters  # weights of a position
    heights = [last - first for first, last in stripes.output_ranges]
    memory = 0
    for rank, height in enumerate(heights):
        weights = height * positions * each * (1 + STATES[optimizer])
        x = len(stripes.reads[rank]) * geometry.inputs // geometry.input_size[0]
        numbers = weights + batch_size * (2 * x + 2 * height * positions * geometry.filters)
        memory = max(memory, numbers * itemsize)
    weights = geometry.positions * each * itemsize
    return LayerPlan(
        ranks, (min(heights), max(heights)), sum(sent), max(sent), max(messages), 2 * (ranks - 1) * weights, memory,
        max(messages) * alpha + max(sent) / beta,
        2 * (ranks - 1) * (alpha + weights / ranks / beta),
    )  # fmt: skip


def table(geometry: Geometry, ranks: Iterable[int], batch_size: int, **network: Any) -> Iterator[str]:
    """Yield the lines of a table of plans, and of what they are."""
    yield (
        f"input {geometry.input_size} x {geometry.channels}, {geometry.filters} filters, window "
        f"{geometry.kernel_size}, batch {batch_size}: {math.prod(geometry.kernel_shape):,} weights"
    )
    yield (
        f"{'ranks':>5} {'lines a rank':>13} {'MB sent a step':>15} {'data-parallel':>14} {'ratio':>7} "
        f"{'MB a rank':>10} {'model: ms':>10} {'data-parallel':>14}"
    )
    for count in ranks:
        try:
            found = plan(geometry, count, batch_size, **network)
        except ValueError as error:
            yield f"{count:5} {error}"
            continue
        least, most = found.lines
        ratio = f"{found.sent_parallel / found.sent:7.1f}" if found.sent else f"{'':7}"
        yield (
            f"{count:5} {least if least == most else f'{least}-{most}':>13} {found.sent / 1e6:15.3f} "
            f"{found.sent_parallel / 1e6:14.1f} {ratio} {found.memory / 1e6:10.1f} {1e3 * found.seconds:10.3f} "
            f"{1e3 * found.seconds_parallel:14.3f}"
        )
    yield "bytes and memory are counted from shapes; times are a model, messages * alpha + bytes / beta, not measured"
