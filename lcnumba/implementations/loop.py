"""Implementation 1: Numba kernels over lines, without another layout of the weights or a patch matrix.

The kernels are in `kernels/forward.py` and `kernels/backward.py`, and without register tiles in `kernels/plain.py`.
"""

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

# The most plans that are cached.
PLANS = 32

# Bytes of a k-block of the kernel, which stays in the L2 cache while all rows of x are processed.
K_BLOCK_BYTES = 1 << 17
# Bytes of the transposed lines of x in forward; the batch tile is as many samples as fit.
TRANSPOSED_LINES_BYTES = 1 << 20
# Bytes of the transposed dx of a task, and of the transposed dy of a position; the batch tile fits both.
TRANSPOSED_DX_BYTES, TRANSPOSED_DY_BYTES = 1 << 18, 1 << 23
# Channels from which dx is accumulated by input columns rather than by blocks of the kernel.
CHANNELS = 8
# Multiplications of a block (channels by filters) from which that is faster.
BLOCK_WORK = 1 << 14
# Bytes of the blocks of an input column up to which they stay in the L2 cache until their update.
BLOCKS_BYTES = 1 << 19
# Bytes of dy, and again of its transpose, that may be cached for the next input line, if all that it reads fits.
CACHED_DY_BYTES = 1 << 22
# Bytes of a band of x that a task packs.
BAND_BYTES = 1 << 20


_NO_GRADIENT, _GRADIENT = Rule(NO_GRADIENT, (), ()), Rule(GRADIENT, (), ())


class _Plan(NamedTuple):
    """The blocking of backward for a batch size, chosen by shapes alone.

    Attributes
    ----------
    VL, VN : int
        Vector lengths for the kernel's gradient, and along the batch for dx, or 0.
    transposed : bool
        Whether VL vectors run along the inputs rather than along the filters.
    batch_tile : int
        Samples whose dx is accumulated at once, a multiple of VN.
    by_inputs : bool
        Whether dx is accumulated by input columns rather than by blocks.
    k_block : int
        Rows of a block of the kernel that are processed at once.
    blocks : int
        The most blocks that read one input column.
    cached : int
        Positions whose dy is cached.
    entries, row : int
        Elements of the longest band of an input line; and the row stride of its packed copy, or 0 without one.
    ranges : array of int64
        Segments over the batch, as `lcnumba.kernels.backward.backward` takes them.
    """

    VL: int
    VN: int
    transposed: bool
    batch_tile: int
    by_inputs: bool
    k_block: int
    blocks: int
    cached: int
    entries: int
    row: int
    ranges: Array


class _ForwardPlan(NamedTuple):
    """The blocking of forward for a batch size, chosen by shapes alone.

    Attributes
    ----------
    lanes : int
        Vector length, along the batch if there is a batch tile, else along the filters.
    batch_tile : int
        Samples that are processed at once with vectors along the batch; 0 for vectors along the filters.
    width : int
        Filters per task.
    k_block : int
        Window entries that are accumulated at a time.
    """

    lanes: int
    batch_tile: int
    width: int
    k_block: int


class Loops:
    """The layer computed by kernels that read the weights in place."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._work = geometry.connections * geometry.filters  # multiplications a sample
        self._plans: dict[tuple[int, int, bool], _Plan] = {}
        self._forward_plans: dict[tuple[int, int], _ForwardPlan] = {}

    @cached_property
    def _forward_tables(self) -> tuple[Any, ...]:
        g, columns = self._geometry, self._geometry.columns
        positions_per_task = -(-g.positions // TASKS)
        return (*g.by_output, columns.start, *columns[2:], g.channels, g.kernel_size[-1], positions_per_task)

    @property
    def supports_fused(self) -> bool:
        """Whether there are register tiles, which apply a block's gradient as it is computed."""
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
        clamp = dtype.type(0 if relu else -np.inf)
        arrays = (self._lines(x), read_only(kernel), read_only(bias), *self._forward_tables)
        if plan.batch_tile:
            cached, line = g.input_cycle, g.input_size[-1] * g.channels
            xt, yt = scratch(dtype, (threads, cached, line, plan.batch_tile), (threads, g.filters, plan.batch_tile))
            cache_keys = np.full((threads, cached), -1, np.int64)
            kernel_of_shape = tiled_forward.forward_by_batch(size, plan.lanes)
            kernel_of_shape(*arrays, plan.batch_tile, clamp, segments, xt, cache_keys, yt, y, threads=threads)
        else:
            tiled_forward.forward(size, plan.lanes)(
                *arrays, plan.width, plan.k_block, clamp, segments, y, threads=threads
            )
        return y

    def _forward_plan(self, N: int, size: int) -> _ForwardPlan:
        """Choose and cache the blocking of forward for N samples with elements of `size` bytes."""
        g = self._geometry
        batch_tile = self._batch_tile(N, size)
        lanes = vectors.for_batch(N, size) if batch_tile else vectors.for_filters(g.filters, size)
        parts = max(1, min(TASKS // g.positions, g.filters // (PANEL * lanes)))
        width = -(-g.filters // (lanes * parts)) * lanes
        k_block = max(1, min(g.window, K_BLOCK_BYTES // (min(width, g.filters) * size)))
        return _store_plan(self._forward_plans, (N, size), _ForwardPlan(lanes, batch_tile, width, k_block))

    def _batch_tile(self, N: int, size: int) -> int:
        """Samples per tile of forward with vectors along the batch; 0 for vectors along the filters.

        Filters that fill half a vector or less leave lanes idle. Vectors along the batch do not, but inputs and outputs
        must be transposed, at about three elements per cycle; products take half a cycle.
        """
        g, F, VN = self._geometry, self._geometry.filters, vectors.for_batch(N, size)
        if not VN or 2 * F * size > vectors.vector_bytes():
            return 0
        batch_tile = (
            min(-(-N // VN), TRANSPOSED_LINES_BYTES // (g.input_cycle * g.input_size[-1] * g.channels * size * VN)) * VN
        )
        along_filters = N * g.connections / 2
        along_batch = F * -(-N // VN) * g.connections / 2 + N * (g.inputs + g.positions * F) / 3
        return batch_tile if along_batch < along_filters else 0

    def apply_transpose(
        self, kernel: Array, dy: Array, *, y: Array | None = None, version: int | None = None,
        threads: int | None = None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return dx (N, LI*W*C); see `Implementation`."""
        dx = aligned((len(dy), self._geometry.inputs), dy.dtype) if out is None else out
        # Without a gradient neither x is read nor the target written.
        self._run(dx, kernel, dy, y, _NO_GRADIENT, kernel, dx, threads)
        return dx

    def weight_gradient(
        self, x: Array, dy: Array, *, y: Array | None = None, threads: int | None = None, out: Array | None = None
    ) -> Array:
        """Return dkernel (P, K, F); see `Implementation`."""
        dkernel = self._gradient_array(len(x), dy.dtype) if out is None else self._zeroed(len(x), out)
        # Without dx the kernel is not read.
        self._run(x, dkernel, dy, y, _GRADIENT, dkernel, None, threads)
        return dkernel

    def gradients(
        self, x: Array, kernel: Array, dy: Array, *, y: Array | None = None, version: int | None = None,
        threads: int | None = None, out: tuple[Array | None, Array | None] = (None, None),
    ) -> tuple[Array, Array]:  # fmt: skip
        """Return (dx, dkernel); see `Implementation`."""
        dx, dkernel = out
        dkernel = self._gradient_array(len(x), x.dtype) if dkernel is None else self._zeroed(len(x), dkernel)
        dx = aligned(x.shape, x.dtype) if dx is None else dx
        self._run(x, kernel, dy, y, _GRADIENT, dkernel, dx, threads)
        return dx, dkernel

    def fused_update(
        self, x: Array, kernel: Array, dy: Array, rule: Rule, *, y: Array | None = None, wants_dx: bool = True,
        version: int | None = None, threads: int | None = None, out: Array | None = None,
    ) -> Array | None:  # fmt: skip
        """Update the kernel and return dx; see `Implementation`."""
        dx = None
        if wants_dx:
            dx = aligned(x.shape, x.dtype) if out is None else out
        if len(x):
            self._run(x, kernel, dy, y, rule, kernel, dx, threads)
        else:  # the gradient is 0, but momentum and weight decay still change the weights
            update.run(rule, kernel, np.zeros_like(kernel), threads)
        return dx

    def _gradient_array(self, N: int, dtype: np.dtype[Any]) -> Array:
        """A new array for the gradient of N samples, 0 where the kernels do not write."""
        shape = self._geometry.kernel_shape
        require(
            math.prod(shape) * dtype.itemsize, "the gradient of the weights",
            "use backward.step, which needs none with a built-in optimizer",
        )  # fmt: skip
        return np.empty(shape, dtype) if self._geometry.complete and N else np.zeros(shape, dtype)

    def _zeroed(self, N: int, dkernel: Array) -> Array:
        """The array, set to 0 unless the kernels write all of it: they write existing connections only."""
        if not (self._geometry.complete and N):
            dkernel.fill(0)
        return dkernel

    def _run(
        self, x: Array, kernel: Array, dy: Array, y: Array | None, rule: Rule, target: Array, dx: Array | None,
        threads: int | None,
    ) -> None:  # fmt: skip
        """Compute dx, unless it is None, and apply the rule: store the gradient in target, or update target with it."""
        g, dtype, size = self._geometry, x.dtype, x.itemsize
        N, F, wants_dx = len(x), g.filters, dx is not None
        if not N:
            return
        lines = np.empty((0, 0, 0), dtype) if dx is None else self._as_lines(dx)
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
        VN, batch_tile, cached = plan.VN, plan.batch_tile, plan.cached
        transposes = VN > 0 and wants_dx
        empty = np.empty(0, dtype)
        states = [*(state.reshape(-1) for state in rule.states), empty, empty][:2]
        hyper = rule.packed(dtype)
        arrays = (self._lines(x), read_only(kernel), read_only(dy), read_only(_or_empty(y, dtype)), *g.by_input)
        changed = (rule.number, target.reshape(-1), *states, hyper)
        # With one position dy itself, which may be large, has the layout of the packed copy.
        in_place = g.positions == 1 and y is None and not plan.by_inputs
        xs, packed, dyt, dxt, gradient = scratch(
            dtype,
            (threads, N if rule.number >= GRADIENT else 0, plan.row),
            (threads, cached, 0 if in_place else N * F),
            (threads, cached if transposes else 0, F, batch_tile),
            (threads, plan.entries if transposes else 0, batch_tile),
            (threads, 2 * tiled_block.ROW_TILE * F),
        )
        cache_keys = np.full((threads, cached), -1, np.int64)
        zeros = np.zeros(max(F, batch_tile, tiled_block.ROW_TILE), dtype)
        workspace = (plan.ranges, zeros, xs, packed, dyt, cache_keys)
        kinds = (size, plan.VL, VN, plan.transposed)
        if plan.by_inputs:
            column_segments = np.empty((threads, 2, plan.blocks, SEGMENT), np.int64)
            tables: tuple[Any, ...] = (*g.inverse_map, g.band_edges, *sizes, batch_tile)
            tiled_backward.backward_by_inputs(*kinds)(
                *arrays, *tables, *changed, *workspace, column_segments, dxt, gradient, lines, threads=threads
            )
        else:
            tables = (*g.bands, g.band_edges, *sizes, batch_tile, plan.k_block)
            tiled_backward.backward(*kinds)(
                *arrays, *tables, *changed, *workspace, dxt, gradient, lines, threads=threads
            )

    def _plan(self, N: int, size: int, wants_dx: bool) -> _Plan:
        """Choose and cache the blocking of backward for N samples with elements of `size` bytes."""
        g, C, F = self._geometry, self._geometry.channels, self._geometry.filters
        VN = vectors.for_batch(N, size)
        entries = int(np.max(np.diff(g.band_edges))) * C
        batch_tile = N
        if VN and wants_dx:
            fitting = min(TRANSPOSED_DX_BYTES // (entries * size * VN), TRANSPOSED_DY_BYTES // (F * size * VN))
            batch_tile = max(1, min(-(-N // VN), fitting)) * VN
        blocks = int(np.max(np.diff(g.by_input.start))) * int(np.max(np.diff(g.inverse_map[0])))
        cached = g.output_cycle * g.output_size[-1]
        dy_fits = cached * F * max(batch_tile, N) * size <= CACHED_DY_BYTES
        pays_off = C >= CHANNELS and C * F * N >= BLOCK_WORK and blocks * C * F * size <= BLOCKS_BYTES
        by_inputs = VN > 0 and wants_dx and dy_fits and pays_off
        k_block = tiled_block.ROW_TILE * max(1, BLOCKS_BYTES // 2 // (tiled_block.ROW_TILE * F * size))
        # Few filters leave lanes idle; vectors along the inputs fill them if there are enough.
        rows = C if by_inputs else C * min(g.kernel_size[-1], g.input_size[-1])
        transposed = VN > 0 and 2 * F * size <= vectors.vector_bytes() <= rows * size
        VL = vectors.for_filters(rows if transposed else F, size)
        # An odd number of cache lines, so that a column of all rows does not map to a few cache sets.
        row = (-(-entries * size // LINE_BYTES) | 1) * LINE_BYTES // size
        row = row if N * row * size <= BAND_BYTES else 0
        ranges = np.array([[0, 0, n, 0] for n in (F, tiled_block.BATCH, N % tiled_block.BATCH, N)], np.int64)
        cached = cached if dy_fits else 1
        plan = _Plan(VL, VN, transposed, batch_tile, by_inputs, k_block, blocks, cached, entries, row, ranges)
        return _store_plan(self._plans, (N, size, wants_dx), plan)

    def _lines(self, x: Array) -> Array:
        """X as read-only (N, LI, W*C)."""
        return read_only(self._as_lines(x))

    def _as_lines(self, x: Array) -> Array:
        g = self._geometry
        return x.reshape(len(x), g.input_lines, g.input_size[-1] * g.channels)


def bias_gradient(dy: Array, y: Array | None, threads: int | None) -> Array:
    """Return the sum of dy (N, P, F) over the batch, (P, F); for y see `Implementation`."""
    dbias = np.empty(dy.shape[1:], dy.dtype)
    rows = (len(dy), dbias.size)
    y = np.empty((0, 0), dy.dtype) if y is None else y.reshape(rows)
    tiled_backward.backward_bias(
        read_only(dy.reshape(rows)), read_only(y), dbias.reshape(-1), threads=workers(dy.size, threads)
    )
    return dbias


def _store_plan(plans: dict[Any, Any], key: Any, plan: Any) -> Any:
    """Cache a plan, clearing a full cache, and return it."""
    if len(plans) >= PLANS:
        plans.clear()
    plans[key] = plan
    return plan


def _or_empty(y: Array | None, dtype: np.dtype) -> Array:
    return np.empty((0, 0, 0), dtype) if y is None else y
