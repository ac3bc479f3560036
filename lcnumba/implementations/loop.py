"""Implementation 1: Numba kernels over lines. No other form of the weights, no patch matrix."""

import math
from typing import Any, NamedTuple

import numpy as np

from lcnumba.connectivity.geometry import TASKS, Geometry
from lcnumba.implementations.scratch import aligned, scratch
from lcnumba.kernels import backward as tiled_backward
from lcnumba.kernels import block as tiled_block
from lcnumba.kernels import forward as tiled_forward
from lcnumba.kernels import plain, update, vectors
from lcnumba.kernels.rules import GRADIENT, LINE_BYTES, NO_GRADIENT, Rule, workers
from lcnumba.kernels.tile import PANEL, SEGMENT
from lcnumba.runtime.memory import require
from lcnumba.utils.arrays import read_only
from lcnumba.utils.lazy import cached_property
from lcnumba.utils.types import Array

__all__ = ["Loops", "bias_gradient"]

# Batch sizes whose plans are remembered.
PLANS = 32

# Bytes of W that stay in a core's second cache while all rows of x pass over them.
PIECE_BYTES = 1 << 17
# Bytes of the lines of x that forward holds turned, for as many samples at a time as fit.
LINES_BYTES = 1 << 20
# Bytes of dx that a task holds turned, and of dy of a position, for as many samples at a time as fit both.
TURNED_BYTES, TURNED_DY_BYTES = 1 << 18, 1 << 23
# Channels from which dx is summed up column by column of the input, rather than block by block.
CHANNELS = 8
# Multiplications of a channels by filters block from which that pays.
BLOCK_WORK = 1 << 14
# Bytes of the blocks of a column up to which they stay in a core's second cache until their update.
BLOCKS_BYTES = 1 << 19
# Bytes of dy, and again as many of dy turned, that are kept for the next input line, if all that it
# will read fits.
HELD_BYTES = 1 << 22
# Bytes of x that a task copies together, if all of its band fits.
BAND_BYTES = 1 << 20


_NO_GRADIENT, _GRADIENT = Rule(NO_GRADIENT, (), ()), Rule(GRADIENT, (), ())


class _Plan(NamedTuple):
    """How backward goes about a batch, decided by shapes alone.

    Attributes
    ----------
    VL, VN : int
        Lengths of vectors for the kernel's gradient, and along the batch for dx, or 0.
    turned : bool
        Whether VL vectors run along the inputs rather than along the filters.
    chunk : int
        Samples whose dx is summed up at once, a multiple of VN.
    by_inputs : bool
        Whether dx is summed up by input columns rather than by blocks.
    piece : int
        Rows of a block that are worked on at once.
    blocks : int
        The most blocks that one input column is read by.
    held : int
        Positions whose dy is kept.
    entries, row : int
        The most numbers of a band of an input line; and how far apart its copied rows lie, or 0.
    ranges : array of int64
        The segments that `lcnumba.kernels.backward.backward` asks for.
    """

    VL: int
    VN: int
    turned: bool
    chunk: int
    by_inputs: bool
    piece: int
    blocks: int
    held: int
    entries: int
    row: int
    ranges: Array


class _ForwardPlan(NamedTuple):
    """How forward goes about a batch, decided by shapes alone.

    Attributes
    ----------
    lanes : int
        Length of vectors, along the batch if there is a chunk, else along the filters.
    chunk : int
        Samples that are worked on at once with vectors along the batch; 0 for vectors along the filters.
    width : int
        Filters of a task.
    piece : int
        Window entries over which a sum goes on at a time.
    """

    lanes: int
    chunk: int
    width: int
    piece: int


class Loops:
    """The layer by kernels that read the canonical weights as they lie."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._work = geometry.connections * geometry.filters  # multiplications a sample
        self._plans: dict[tuple[int, int, bool], _Plan] = {}
        self._forward_plans: dict[tuple[int, int], _ForwardPlan] = {}

    @cached_property
    def _forward_tables(self) -> tuple[Any, ...]:
        g, columns = self._geometry, self._geometry.columns
        positions_of_a_task = -(-g.positions // TASKS)
        return (*g.by_output, columns.start, *columns[2:], g.channels, g.kernel_size[-1], positions_of_a_task)

    @property
    def supports_fused(self) -> bool:
        """Whether there are register tiles, which apply a block's gradient as they compute it."""
        return vectors.TILED

    def apply(
        self, x: Array, kernel: Array, bias: Array | None = None, *, relu: bool = False, version: int | None = None,
        threads: int | None = None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return y (N, P, F); see `Implementation`."""
        g, dtype, size = self._geometry, x.dtype, x.itemsize
        y = aligned((len(x), g.positions, g.filters), dtype) if out is None else out
        threads = workers(len(x) * self._work, threads)
        if not vectors.TILED:
            bias = np.empty((0, 0), dtype) if bias is None else bias
            plain.forward(self._lines(x), read_only(kernel), read_only(bias), *self._forward_tables, y, threads=threads)
            return np.maximum(y, 0, out=y) if relu else y
        plan = self._forward_plans.get((len(x), size)) or self._forward_plan(len(x), size)
        segments = np.empty((threads, math.prod(g.kernel_size) + 1, SEGMENT), np.int64)
        bias = np.zeros((1, g.filters), dtype) if bias is None else bias
        floor = dtype.type(0 if relu else -np.inf)
        arrays = (self._lines(x), read_only(kernel), read_only(bias), *self._forward_tables)
        if plan.chunk:
            held, line = g.input_cycle, g.input_size[-1] * g.channels
            xt, yt = scratch(dtype, (threads, held, line, plan.chunk), (threads, g.filters, plan.chunk))
            tags = np.full((threads, held), -1, np.int64)
            kernel_of_shape = tiled_forward.forward_by_batch(size, plan.lanes)
            kernel_of_shape(*arrays, plan.chunk, floor, segments, xt, tags, yt, y, threads=threads)
        else:
            tiled_forward.forward(size, plan.lanes)(
                *arrays, plan.width, plan.piece, floor, segments, y, threads=threads
            )
        return y

    def _forward_plan(self, N: int, size: int) -> _ForwardPlan:
        """Decide how forward goes about N samples of numbers of `size` bytes, and remember it."""
        g = self._geometry
        chunk = self._turned_samples(N, size)
        lanes = vectors.for_batch(N, size) if chunk else vectors.for_filters(g.filters, size)
        parts = max(1, min(TASKS // g.positions, g.filters // (PANEL * lanes)))
        width = -(-g.filters // (lanes * parts)) * lanes
        piece = max(1, min(g.window, PIECE_BYTES // (min(width, g.filters) * size)))
        return _remember(self._forward_plans, (N, size), _ForwardPlan(lanes, chunk, width, piece))

    def _turned_samples(self, N: int, size: int) -> int:
        """How many samples at a time forward should work on with vectors along the batch; 0 for none.

        Filters that fill half a vector or less leave lanes idle. Vectors along the batch do not, but
        inputs and outputs must be turned, at about three numbers a cycle; products take half a cycle.
        """
        g, F, VN = self._geometry, self._geometry.filters, vectors.for_batch(N, size)
        if not VN or 2 * F * size > vectors.host_bytes():
            return 0
        chunk = min(-(-N // VN), LINES_BYTES // (g.input_cycle * g.input_size[-1] * g.channels * size * VN)) * VN
        along_filters = N * g.connections / 2
        along_batch = F * -(-N // VN) * g.connections / 2 + N * (g.inputs + g.positions * F) / 3
        return chunk if along_batch < along_filters else 0

    def apply_transpose(
        self, kernel: Array, dy: Array, *, y: Array | None = None, version: int | None = None,
        threads: int | None = None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return dx (N, LI*W*C); see `Implementation`."""
        dx = aligned((len(dy), self._geometry.inputs), dy.dtype) if out is None else out
        # Without a gradient x is not read, nor is a target written.
        self._run(dx, kernel, dy, y, _NO_GRADIENT, kernel, dx, threads)
        return dx

    def weight_gradient(
        self, x: Array, dy: Array, *, y: Array | None = None, threads: int | None = None, out: Array | None = None
    ) -> Array:
        """Return dkernel (P, K, F); see `Implementation`."""
        dkernel = self._gradient_array(len(x), dy.dtype) if out is None else self._cleared(len(x), out)
        # Without dx the kernel is not read.
        self._run(x, dkernel, dy, y, _GRADIENT, dkernel, None, threads)
        return dkernel

    def gradients(
        self, x: Array, kernel: Array, dy: Array, *, y: Array | None = None, version: int | None = None,
        threads: int | None = None, out: tuple[Array | None, Array | None] = (None, None),
    ) -> tuple[Array, Array]:  # fmt: skip
        """Return (dx, dkernel); see `Implementation`."""
        dx, dkernel = out
        dkernel = self._gradient_array(len(x), x.dtype) if dkernel is None else self._cleared(len(x), dkernel)
        dx = aligned(x.shape, x.dtype) if dx is None else dx
        self._run(x, kernel, dy, y, _GRADIENT, dkernel, dx, threads)
        return dx, dkernel

    def fused_update(
        self, x: Array, kernel: Array, dy: Array, rule: Rule, *, y: Array | None = None, wants_dx: bool = True,
        version: int | None = None, threads: int | None = None, out: Array | None = None,
    ) -> Array | None:  # fmt: skip
        """Change the kernel, and return dx; see `Implementation`."""
        dx = None
        if wants_dx:
            dx = aligned(x.shape, x.dtype) if out is None else out
        if len(x):
            self._run(x, kernel, dy, y, rule, kernel, dx, threads)
        else:  # a gradient of 0, by which momentum and weight decay still change the weights
            update.run(rule, kernel, np.zeros_like(kernel), threads)
        return dx

    def _gradient_array(self, N: int, dtype: np.dtype[Any]) -> Array:
        """An array for the gradient of N samples, 0 where the kernels do not write."""
        shape = self._geometry.kernel_shape
        require(
            math.prod(shape) * dtype.itemsize, "the gradient of the weights",
            "backward.step makes none for a built-in optimizer",
        )  # fmt: skip
        return np.empty(shape, dtype) if self._geometry.complete and N else np.zeros(shape, dtype)

    def _cleared(self, N: int, dkernel: Array) -> Array:
        """The array, 0 where the kernels do not write: they write existing connections only."""
        if not (self._geometry.complete and N):
            dkernel.fill(0)
        return dkernel

    def _run(
        self, x: Array, kernel: Array, dy: Array, y: Array | None, rule: Rule, target: Array, dx: Array | None,
        threads: int | None,
    ) -> None:  # fmt: skip
        """Fill dx unless it is None, and let the rule put the gradient into target, or change it, the kernel, by it."""
        g, dtype, size = self._geometry, x.dtype, x.itemsize
        N, F, wants_dx = len(x), g.filters, dx is not None
        if not N:
            return
        lines = np.empty((0, 0, 0), dtype) if dx is None else self._shaped(dx)
        sizes = (g.channels, g.kernel_size[-1], g.output_size[-1])
        threads = min(workers(N * self._work, threads), g.input_lines * (len(g.band_edges) - 1))
        if not vectors.TILED:
            dy = read_only(dy if y is None else np.where(y > 0, dy, dtype.type(0)))
            if dx is not None:
                bands = (*g.by_input, *g.bands, g.band_edges)
                plain.backward_input(read_only(kernel), dy, *bands, *sizes, lines, threads=threads)
            if rule.number == GRADIENT:
                plain.backward_kernel(self._lines(x), dy, *g.by_input, *g.bands, *sizes, target, threads=threads)
            return
        plan = self._plans.get((N, size, wants_dx)) or self._plan(N, size, wants_dx)
        VN, chunk, held = plan.VN, plan.chunk, plan.held
        turns = VN > 0 and wants_dx
        empty = np.empty(0, dtype)
        states = [*(state.reshape(-1) for state in rule.states), empty, empty][:2]
        numbers = rule.packed(dtype)
        arrays = (self._lines(x), read_only(kernel), read_only(dy), read_only(_or_empty(y, dtype)), *g.by_input)
        changed = (rule.number, target.reshape(-1), *states, numbers)
        # With one position dy is as good as a copy of it; and it may be large.
        in_place = g.positions == 1 and y is None and not plan.by_inputs
        xs, packed, dyt, dxt, gradient = scratch(
            dtype,
            (threads, N if rule.number >= GRADIENT else 0, plan.row),
            (threads, held, 0 if in_place else N * F),
            (threads, held if turns else 0, F, chunk),
            (threads, plan.entries if turns else 0, chunk),
            (threads, 2 * tiled_block.ROW_TILE * F),
        )
        tags = np.full((threads, held), -1, np.int64)
        zeros = np.zeros(max(F, chunk, tiled_block.ROW_TILE), dtype)
        held_arrays = (plan.ranges, zeros, xs, packed, dyt, tags)
        kinds = (size, plan.VL, VN, plan.turned)
        if plan.by_inputs:
            readers = np.empty((threads, 2, plan.blocks, SEGMENT), np.int64)
            tables: tuple[Any, ...] = (*g.inverse_map, g.band_edges, *sizes, chunk)
            tiled_backward.backward_by_inputs(*kinds)(
                *arrays, *tables, *changed, *held_arrays, readers, dxt, gradient, lines, threads=threads
            )
        else:
            tables = (*g.bands, g.band_edges, *sizes, chunk, plan.piece)
            tiled_backward.backward(*kinds)(
                *arrays, *tables, *changed, *held_arrays, dxt, gradient, lines, threads=threads
            )

    def _plan(self, N: int, size: int, wants_dx: bool) -> _Plan:
        """Decide how backward goes about N samples of numbers of `size` bytes, and remember it."""
        g, C, F = self._geometry, self._geometry.channels, self._geometry.filters
        VN = vectors.for_batch(N, size)
        entries = int(np.max(np.diff(g.band_edges))) * C
        chunk = N
        if VN and wants_dx:
            fitting = min(TURNED_BYTES // (entries * size * VN), TURNED_DY_BYTES // (F * size * VN))
            chunk = max(1, min(-(-N // VN), fitting)) * VN
        blocks = int(np.max(np.diff(g.by_input.start))) * int(np.max(np.diff(g.inverse_map[0])))
        held = g.output_cycle * g.output_size[-1]
        holds = held * F * max(chunk, N) * size <= HELD_BYTES
        pays = C >= CHANNELS and C * F * N >= BLOCK_WORK and blocks * C * F * size <= BLOCKS_BYTES
        by_inputs = VN > 0 and wants_dx and holds and pays
        piece = tiled_block.ROW_TILE * max(1, BLOCKS_BYTES // 2 // (tiled_block.ROW_TILE * F * size))
        # Few filters leave lanes idle, which as many inputs fill.
        rows = C if by_inputs else C * min(g.kernel_size[-1], g.input_size[-1])
        turned = VN > 0 and 2 * F * size <= vectors.host_bytes() <= rows * size
        VL = vectors.for_filters(rows if turned else F, size)
        # An odd number of cache lines: equal columns of all rows do not meet in the same few sets of a cache.
        row = (-(-entries * size // LINE_BYTES) | 1) * LINE_BYTES // size
        row = row if N * row * size <= BAND_BYTES else 0
        ranges = np.array([[0, 0, n, 0] for n in (F, tiled_block.BATCH, N % tiled_block.BATCH, N)], np.int64)
        held = held if holds else 1
        plan = _Plan(VL, VN, turned, chunk, by_inputs, piece, blocks, held, entries, row, ranges)
        return _remember(self._plans, (N, size, wants_dx), plan)

    def _lines(self, x: Array) -> Array:
        """X as read-only (N, LI, W*C)."""
        return read_only(self._shaped(x))

    def _shaped(self, x: Array) -> Array:
        g = self._geometry
        return x.reshape(len(x), g.input_lines, g.input_size[-1] * g.channels)


def bias_gradient(dy: Array, y: Array | None, threads: int | None) -> Array:
    """Return the sum of dy (N, P, F) over the batch, (P, F); y as for `Implementation`."""
    dbias = np.empty(dy.shape[1:], dy.dtype)
    rows = (len(dy), dbias.size)
    y = np.empty((0, 0), dy.dtype) if y is None else y.reshape(rows)
    tiled_backward.backward_bias(
        read_only(dy.reshape(rows)), read_only(y), dbias.reshape(-1), threads=workers(dy.size, threads)
    )
    return dbias


def _remember(plans: dict[Any, Any], key: Any, plan: Any) -> Any:
    """Keep a plan beside few others, and return it."""
    if len(plans) >= PLANS:
        plans.clear()
    plans[key] = plan
    return plan


def _or_empty(y: Array | None, dtype: np.dtype) -> Array:
    return np.empty((0, 0, 0), dtype) if y is None else y
