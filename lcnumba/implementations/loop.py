"""Implementation 1: Numba kernels over lines, without another layout of the weights or a patch matrix.

The kernels are in `kernels/forward.py` and `kernels/backward.py`, and without register tiles in `kernels/plain.py`.
"""

import functools
import math
from typing import Any

import numpy as np

from lcnumba.connectivity.geometry import TASKS
from lcnumba.connectivity.tables import Tables
from lcnumba.implementations.base import Borders
from lcnumba.implementations.scratch import aligned, scratch
from lcnumba.kernels import backward as tiled_backward
from lcnumba.kernels import forward as tiled_forward
from lcnumba.kernels import microkernels, plain, update, vectors, weight_gradient
from lcnumba.kernels import shared_gradient as tiled_shared
from lcnumba.kernels.forward import ROWS_OF_POSITIONS
from lcnumba.kernels.jit import Kernel, Launches
from lcnumba.kernels.records import BANDS, COLUMNS, NO_CLAMP, ROWS, address, bits
from lcnumba.kernels.rules import FACTOR, FORMULA, GRADIENT, LINE_BYTES, NO_GRADIENT, Rule, workers
from lcnumba.kernels.tile import PANEL, SEGMENT
from lcnumba.runtime.memory import require
from lcnumba.utils.lazy import cached_property
from lcnumba.utils.selection import selected
from lcnumba.utils.types import Array, Mask

__all__ = ["Loops", "Plan", "bias_gradient", "rectified", "store_plan"]

# The most plans that are cached.
PLANS = 32

# Bytes of a k-block of the kernel, which stays in the L2 cache while all rows of x are processed.
K_BLOCK_BYTES = 1 << 17
# Samples, and bytes of the weights of a position, from which it pays to pack them into panels: then a column of a
# panel, one cache line of each row, does not fit in L1 if rows are 256 or 512 bytes apart.
PACKED_BATCH, PACKED_BYTES = 16, 1 << 15
# Bytes of the transposed lines of x in forward; the batch tile is as many samples as fit.
TRANSPOSED_LINES_BYTES = 1 << 20
# Bytes of the outputs of neighbouring positions that are transposed together.
OUTPUTS_BYTES = 1 << 16
# Bytes of a segment from which a single filter is computed by dot products.
DOTS_BYTES = 64
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
# Bytes of the weights of neighbouring positions that are computed by one call: they stay in cache until their update.
RUN_BYTES = 1 << 14
# Samples up to which dy is read in place.
IN_PLACE_BATCH = 8
# What the calls for a transposed gradient of a block cost, in multiplications of vectors.
TRANSPOSED_CALLS = 100
# Terms of a sum over positions that share weights, and runs of them, that a product of a block takes at a time: what it
# reads of x and dy fits in the L1 and L2 caches, for the next rows.
MOST_SUMMED, MOST_SEGMENTS = 512, 256
# Bytes of a run of dy up to which they are packed for the gradient of shared weights.
PACKED_RUN_BYTES = 256
# Bytes of a band of x that a task packs.
BAND_BYTES = 1 << 20


class Plan(Launches):
    """Launches with scratch memory: `sizes` are the fields that are its addresses, and their bytes."""

    def __init__(self, kernel: Kernel, values: dict[str, Any], threads: int, sizes: dict[str, int]) -> None:
        super().__init__(kernel, threads, values)
        self._sizes = sizes

    def _scratch(self) -> tuple[dict[str, int], Array]:
        memory, places = scratch(self._sizes)
        return places, memory


class Loops:
    """The layer computed by kernels that read the weights in place.

    Parameters
    ----------
    geometry : Geometry or Stripe
        The layer, or a part of it, which is computed to the same bits.
    mask : (P, K) or (P, K, F) bool, optional
        Which connections exist: the others, whose weights must be 0, get no gradient and stay 0.
    borders : Borders, optional
        How sums of dx are shared with other parts of a layer.
    """

    def __init__(self, geometry: Tables, mask: Mask | None = None, borders: Borders | None = None) -> None:
        self._geometry, self._borders = geometry, borders
        self._whole = geometry.whole  # decides how sums are made, while geometry says where numbers are
        self._mask = None if mask is None else np.ascontiguousarray(mask)
        self._work = geometry.connections * geometry.filters  # multiplications a sample
        self._plans: dict[tuple[int, int, int, bool, bool, bool], Plan] = {}
        self._forward_plans: dict[tuple[int, int, int], Plan] = {}
        self._shared_plans: dict[tuple[int, int, int], Plan] = {}
        self._no_bias: dict[int, Array] = {}  # a row of zeros for each size of an element

    def __reduce__(self) -> tuple[Any, ...]:
        # Plans hold addresses of this geometry's tables: neither a copy nor another process may use them.
        return Loops, (self._geometry, self._mask, self._borders)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """The sizes that all records hold."""
        g = self._geometry
        return {
            "P": g.positions, "K": g.window, "F": g.filters, "LI": g.input_lines, "OW": g.output_size[-1],
            "line": g.input_size[-1] * g.channels, "C": g.channels, "KW": g.kernel_size[-1], "G": g.groups,
            "E": g.tap_entries, "entry_step": g.entry_step,
        }  # fmt: skip

    @cached_property
    def _output_tables(self) -> dict[str, Any]:
        """What forward reads of the geometry."""
        g, columns = self._geometry, self._geometry.columns
        return {
            **dict(zip(ROWS.split(), g.by_output, strict=True)),
            **dict(zip(COLUMNS.split(), (columns.start, *columns[2:]), strict=True)),
            "LO": len(g.by_output.start) - 1, "task_positions": self._task_positions, "sets": self._sets,
        }  # fmt: skip

    @cached_property
    def _task_positions(self) -> int:
        """Positions of a task of forward: whole lines where neighbours share weights, which one call computes."""
        g = self._geometry
        positions, line = -(-g.positions // TASKS), g.output_size[-1]
        if g.sets is None or g.set_runs[0]:
            return positions
        whole = ROWS_OF_POSITIONS if line > TASKS else line
        return -(-positions // whole) * whole

    @property
    def _sets(self) -> Array | int:
        """The weight set of each position, for a record."""
        return 0 if self._geometry.sets is None else self._geometry.sets

    @property
    def _set_runs(self) -> dict[str, Any]:
        """The fields that say how far neighbouring positions have the same weights, or the next ones."""
        if self._geometry.sets is None:
            return {}
        step, runs = self._geometry.set_runs
        return {"set_step": step, "set_run": runs}

    @cached_property
    def _input_tables(self) -> dict[str, Any]:
        """What backward reads of the geometry."""
        g = self._geometry
        return {
            **dict(zip(ROWS.split(), g.by_input, strict=True)),
            "edges": g.band_edges,
            "n_bands": len(g.band_edges) - 1,
        }

    @cached_property
    def _bands(self) -> dict[str, Any]:
        return dict(zip(BANDS.split()[:-1], self._geometry.bands, strict=True))

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
            bias = np.empty((0, g.filters), dtype) if bias is None else bias
            plain.forward(size)(
                **self._sizes, **self._output_tables, x=x, kernel=kernel, bias=bias, bias_rows=len(bias), y=y, N=len(x),
                threads=threads,
            )  # fmt: skip
            return np.maximum(y, 0, out=y) if relu else y
        key = (len(x), size, threads)
        plan = self._forward_plans.get(key) or self._forward_plan(*key)
        if bias is None:
            bias = self._no_bias.setdefault(size, np.zeros((1, g.filters), dtype))
        bias_step = g.filters * size if len(bias) == g.positions > 1 else 0
        plan.run({
            "x": address(x), "kernel": address(kernel), "y": address(y), "bias_step": bias_step,
            "bias": address(bias), "lower_clamp": 0 if relu else NO_CLAMP,
        })  # fmt: skip
        return y

    def _forward_plan(self, N: int, size: int, threads: int) -> Plan:
        """Choose and cache the blocking of forward for N samples with elements of `size` bytes."""
        g, whole = self._geometry, self._whole
        segment = min(g.kernel_size[-1], whole.input_size[-1]) * g.tap_entries
        by_dots = N > 0 and g.filters == 1 and segment * size >= DOTS_BYTES
        batch_tile = N if by_dots else self._batch_tile(N, size)
        filters = g.filters // g.groups
        lanes = vectors.for_filters(N if batch_tile else filters, size)
        panel_bytes = PANEL * lanes * size
        most_segments = math.prod(g.kernel_size) + 1
        values: dict[str, Any] = {
            **self._sizes, **self._output_tables, "size": size, "N": N, "most_segments": most_segments,
            "multiply": microkernels.multiply(size, lanes), "panel_bytes": panel_bytes,
            "col_run": g.column_runs, "stride": g.strides[-1], **self._set_runs,
        }  # fmt: skip
        sizes = {"segments": threads * most_segments * SEGMENT * 8}
        if batch_tile:
            ones = np.ones((2, batch_tile), f"f{size}")
            ones[1] = 0
            most_run = max(1, min(values["task_positions"], OUTPUTS_BYTES // (g.filters * batch_tile * size)))
            values |= {"transpose": microkernels.transpose(size), "ones": ones, "most_run": most_run}
            sizes["yt"] = threads * most_run * g.filters * batch_tile * size
        if by_dots:
            kernel = tiled_forward.forward_by_dots()
            values["dots"] = microkernels.dots(size, vectors.for_filters(segment, size))
        elif batch_tile:
            kernel = tiled_forward.forward_by_batch()
            values |= {"VN": lanes, "batch_tile": batch_tile, "cached_lines": g.input_cycle}
            sizes["xt"] = threads * g.input_cycle * values["line"] * batch_tile * size
            sizes["cache_keys"] = threads * g.input_cycle * 8
        else:
            kernel = tiled_forward.forward()
            parts = max(1, min(TASKS // whole.positions, filters // (PANEL * lanes))) if g.groups == 1 else 1
            width = -(-g.filters // (lanes * parts)) * lanes
            columns = min(width, g.filters)
            k_block = max(1, min(g.window, K_BLOCK_BYTES // (columns * size)))
            values |= {"width": width, "k_block": k_block}
            large = columns > PANEL * lanes and k_block * columns * size > PACKED_BYTES
            if N >= PACKED_BATCH and g.groups == 1 and large:
                values["pack_panels"] = microkernels.pack_panels(size, lanes)
                sizes["panels"] = threads * -(-columns * size // panel_bytes) * panel_bytes * k_block
        plan = Plan(kernel, values, threads, sizes)
        return store_plan(self._forward_plans, (N, size, threads), plan)

    def _batch_tile(self, N: int, size: int) -> int:
        """Samples per tile of forward with vectors along the batch; 0 for vectors along the filters.

        Filters that fill half a vector or less leave lanes idle. Vectors along the batch do not, but inputs and outputs
        must be transposed, at about three elements per cycle; products take half a cycle.
        """
        g, F, VN = self._whole, self._whole.filters, vectors.for_batch(N, size)
        if not VN or 2 * F // g.groups * size > vectors.vector_bytes():
            return 0
        batch_tile = (
            min(-(-N // VN), TRANSPOSED_LINES_BYTES // (g.input_cycle * g.input_size[-1] * g.channels * size * VN)) * VN
        )
        along_filters = N * g.groups * g.connections / 2
        along_batch = F * -(-N // VN) * g.connections / 2 + N * (g.inputs + g.positions * F) / 3
        return batch_tile if along_batch < along_filters else 0

    def apply_transpose(
        self, kernel: Array, dy: Array, *, y: Array | None = None, version: int | None = None,
        threads: int | None = None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return dx (N, LI*W*C); see `Implementation`."""
        dx = aligned((len(dy), self._geometry.inputs), dy.dtype) if out is None else out
        # Without a gradient x is not read.
        self._run(dx, kernel, dy, y, None, None, dx, threads)
        return dx

    def weight_gradient(
        self, x: Array, dy: Array, *, y: Array | None = None, threads: int | None = None, out: Array | None = None
    ) -> Array:
        """Return dkernel (P, K, F); see `Implementation`."""
        dkernel = self._gradient_array(len(x), dy.dtype) if out is None else self._zeroed(len(x), out)
        # Without dx the kernel is not read.
        self._run(x, dkernel, dy, y, None, dkernel, None, threads)
        return dkernel

    def gradients(
        self, x: Array, kernel: Array, dy: Array, *, y: Array | None = None, version: int | None = None,
        threads: int | None = None, out: tuple[Array | None, Array | None] = (None, None),
    ) -> tuple[Array, Array]:  # fmt: skip
        """Return (dx, dkernel); see `Implementation`."""
        dx, dkernel = out
        dkernel = self._gradient_array(len(x), x.dtype) if dkernel is None else self._zeroed(len(x), dkernel)
        dx = aligned(x.shape, x.dtype) if dx is None else dx
        self._run(x, kernel, dy, y, None, dkernel, dx, threads)
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
        self, x: Array, kernel: Array, dy: Array, y: Array | None, rule: Rule | None, target: Array | None,
        dx: Array | None, threads: int | None,
    ) -> None:  # fmt: skip
        """Compute dx, unless it is None, and the gradient, unless target is None.

        Without a rule the gradient is stored in target; with one target is updated by it.
        """
        if self._geometry.sets is not None:
            self._run_shared(x, kernel, dy, y, rule, target, dx, threads)
            return
        arrays = (x, kernel, dy, y, rule, target, dx, threads)
        if self._borders is None or dx is None:
            self._run_part(*arrays)
            return
        for stage, parts in enumerate(self._borders.stages):
            for part in parts:
                self._run_part(*arrays, part, adds=stage > 0)
            self._borders.pass_on(stage, dx)

    def _run_shared(
        self, x: Array, kernel: Array, dy: Array, y: Array | None, rule: Rule | None, target: Array | None,
        dx: Array | None, threads: int | None,
    ) -> None:  # fmt: skip
        """The same with weights that positions share: dx with all weights, then the gradient, set by set."""
        if not len(x):
            return
        if y is not None:  # both passes read it
            dy = rectified(dy, y)
        if dx is not None:
            self._run_part(x, kernel, dy, None, None, None, dx, threads)
        if target is None:
            return
        g, N, size = self._geometry, len(x), x.itemsize
        threads = workers(N * self._work, threads)
        if not vectors.TILED:
            plain.shared_kernel(size)(
                **self._sizes, **self._output_tables, S=g.n_sets, x=x, dy=dy, result=target, N=N,
                threads=min(threads, g.n_sets),
            )  # fmt: skip
            if self._mask is not None:
                np.copyto(target, 0, where=np.atleast_3d(~self._mask))
            return
        key = (N, size, threads)
        plan = self._shared_plans.get(key) or self._shared_plan(*key)
        scalars = None if rule is None else update.scalars_of(rule)
        plan.run({
            "x": address(x), "kernel": address(kernel), "dy": address(dy), "y": 0, "dx": 0, "adds": 0,
            "target": address(target), **self._rule_values(rule, scalars, size), **g.tasks(0, g.input_size[0]),
        })  # fmt: skip

    def _shared_plan(self, N: int, size: int, threads: int) -> Plan:
        """Choose and cache the blocking of the gradient of shared weights."""
        g, table = self._geometry, self._geometry.set_segments
        F, filters, entries = g.filters, g.filters // g.groups, g.kernel_size[-1] * g.tap_entries
        lines, lanes = g.line_table.shape[1], vectors.vector_bytes() // size
        transposed = g.groups == 1 and 2 * F <= lanes <= entries
        row_block = -(-max(1, g.n_sets * g.window // TASKS) // ROWS_OF_POSITIONS) * ROWS_OF_POSITIONS
        row_block = min(entries, max(row_block, lanes * PANEL if transposed else 0))
        tasks = g.n_sets * lines * -(-entries // row_block)
        width, least = F, PANEL // 2 * lanes
        if tasks < TASKS and g.groups == 1 and self._mask is None and not transposed:
            width = min(F, max(least, -(-F // -(-TASKS // tasks) // least) * least))
        VL = vectors.for_filters(row_block if transposed else min(filters, width), size)
        longest, ends = int(table.length.max(initial=1)), np.cumsum([0, *table.length])
        segments = max(1, min(MOST_SEGMENTS, N * len(table.length)))
        summed = min(MOST_SUMMED, segments * longest)
        # Of a set and kind: the runs, and the terms of a sum.
        most_runs = N * int(np.diff(table.start).max(initial=0))
        most_terms = N * np.diff(ends[table.start]).max(initial=0)
        at_once = not transposed and 0 < most_runs <= segments and most_terms <= summed
        gradient = row_block * width * size * (2 if transposed else 1)
        values: dict[str, Any] = {
            **self._sizes, "size": size, "N": N, "stride": g.strides[-1], "gradient_bytes": gradient,
            **dict(zip(tiled_shared.SETS.split(), table, strict=True)), "S": g.n_sets, "kinds": len(table.kind_tap),
            "tap_lines": lines, "line_table": g.line_table, "row_block": row_block, "width": width,
            "most_segments": segments, "most_summed": summed, "transposed": transposed,
            "ahead": -(-tiled_shared.AHEAD_ROWS * width * size // most_runs) if at_once else 0,
            "multiply": microkernels.multiply(size, VL), "panel_bytes": PANEL * VL * size,
            "transpose": microkernels.transpose(size), "pack": microkernels.pack(size), **self._mask_values(),
        }  # fmt: skip
        sizes = {"segments": threads * segments * SEGMENT * 8, "gradient": threads * gradient}
        if g.groups == 1 and not transposed and longest * width * size <= PACKED_RUN_BYTES:
            sizes["packed_dy"] = 2 * threads * summed * width * size
        plan = Plan(tiled_shared.shared_gradient(), values, threads, sizes)
        return store_plan(self._shared_plans, (N, size, threads), plan)

    def _mask_values(self) -> dict[str, Any]:
        """The fields by which kernels keep weights that a mask excludes at 0."""
        if self._mask is None:
            return {}
        width = self._geometry.filters if self._mask.ndim == 3 else 1
        return {"exists": self._mask, "exists_width": width, "clear_absent": weight_gradient.clear_absent()}

    @staticmethod
    def _rule_values(rule: Rule | None, scalars: Any, size: int) -> dict[str, int]:
        """The fields of an optimizer's rule and its `scalars`, which must live until the launch; None to store."""
        if rule is None:
            return dict.fromkeys(("factor", "formula", "scalars", "state_1", "state_2"), 0) | {"rule": GRADIENT}
        state_1, state_2 = update.addresses_of_states(rule)
        return {
            "rule": FACTOR if rule.is_factor else FORMULA, "factor": bits(-rule.scalars.lr),
            "scalars": scalars.buffer_info()[0], "formula": update.formula(rule, size),
            "state_1": state_1, "state_2": state_2,
        }  # fmt: skip

    def _run_part(
        self, x: Array, kernel: Array, dy: Array, y: Array | None, rule: Rule | None, target: Array | None,
        dx: Array | None, threads: int | None, part: tuple[int, int] | None = None, adds: bool = False,
    ) -> None:  # fmt: skip
        """The same for some input lines of the first dimension and the weights that read them, by default all.

        With `adds` dx is added to what it holds, to the same bits as if all had been summed at once, if that is the sum
        over the output lines before.
        """
        g, dtype, size = self._geometry, x.dtype, x.itemsize
        N = len(x)
        if not N:
            return
        tasks = g.tasks(*(part or (0, g.input_size[0])))
        threads = min(workers(N * self._work, threads), max(1, tasks["part_lines"] * tasks["part_bands"]))
        if not vectors.TILED:
            dy = dy if y is None else np.where(y > 0, dy, dtype.type(0))
            values = {**self._sizes, **self._input_tables, **self._bands, "N": N, "dy": dy, "adds": adds, **tasks}
            values["sets"] = self._sets
            if dx is not None:
                plain.backward_input(size)(**values, x=0, kernel=kernel, result=dx, threads=threads)
            if target is not None:
                plain.backward_kernel(size)(**values, x=x, kernel=0, result=target, threads=threads)
                if self._mask is not None:
                    np.copyto(target, 0, where=np.atleast_3d(~self._mask))
            return
        key = (N, size, threads, dx is not None, target is not None, y is not None)
        plan = self._plans.get(key) or self._plan(*key)
        scalars = None if rule is None else update.scalars_of(rule)
        values = {
            "x": address(x), "kernel": address(kernel), "dy": address(dy), "y": 0 if y is None else address(y),
            "dx": 0 if dx is None else address(dx), "target": 0 if target is None else address(target),
            **self._rule_values(rule, scalars, size), "adds": adds, **tasks,
        }  # fmt: skip
        if target is None:
            values["rule"] = NO_GRADIENT
        plan.run(values)

    def _plan(self, N: int, size: int, threads: int, wants_dx: bool, wants_kernel: bool, rectified: bool) -> Plan:
        """Choose and cache the blocking of backward for N samples with elements of `size` bytes."""
        g, whole = self._geometry, self._whole
        C, F = g.channels, g.filters
        # The weights of a single filter are a row vector along the inputs.
        VN = 0 if F == 1 else vectors.for_batch(N, size)
        if g.groups > 1:  # a group has too few filters for sums along them
            VN = vectors.for_filters(N, size)
        filters = F // g.groups
        entries = int(np.max(np.diff(whole.band_edges))) * C
        batch_tile = N
        if VN and wants_dx:
            fitting = min(TRANSPOSED_DX_BYTES // (entries * size * VN), TRANSPOSED_DY_BYTES // (F * size * VN))
            batch_tile = max(1, min(-(-N // VN), fitting)) * VN
        window = min(whole.kernel_size[-1], whole.input_size[-1]) * g.tap_entries  # entries of a block
        most_run = max(1, RUN_BYTES // (window * F * size)) if g.groups == 1 else 1
        blocks = int(np.max(np.diff(whole.by_input.start))) * int(np.max(np.diff(whole.inverse_map[0])))
        columns = int(np.max(np.diff(whole.band_columns)))
        dy_fits = whole.output_cycle * columns * F * max(batch_tile, N) * size <= CACHED_DY_BYTES
        pays_off = C >= CHANNELS and C * F * N >= BLOCK_WORK and blocks * C * F * size <= BLOCKS_BYTES
        by_inputs = VN > 0 and wants_dx and dy_fits and pays_off and g.groups == 1
        cached_lines, columns = (g.output_cycle, columns) if dy_fits else (0, min(columns, most_run))
        k_block = weight_gradient.ROW_TILE * max(1, BLOCKS_BYTES // 2 // (weight_gradient.ROW_TILE * F * size))
        # Few filters leave lanes idle; vectors along the inputs fill them if there are enough.
        rows = C if by_inputs else window
        lanes = vectors.vector_bytes() // size
        along_filters = N * rows * -(-F // vectors.for_filters(F, size))
        along_inputs = N * F * -(-rows // lanes) + rows * F + TRANSPOSED_CALLS
        fits = VN > 0 and g.groups == 1 and 2 * F <= lanes <= rows
        transposed = F == 1 or (fits and along_inputs < along_filters)
        VL = vectors.for_filters(rows if transposed else filters, size)
        # Rows of dy in place are far apart, and many map to a few cache sets; a single position has contiguous rows.
        in_place = (whole.positions == 1 or N <= IN_PLACE_BATCH) and not rectified and not by_inputs
        row, dy_row = _odd_lines(entries * size) // size, _odd_lines(columns * F * size)
        row = row if N * row * size <= BAND_BYTES and F > 1 else 0
        slots, gradient = max(cached_lines, 1), max(2 * weight_gradient.ROW_TILE * F, window) * size
        ranges = np.array(
            [[0, 0, n, 0] for n in (filters, weight_gradient.BATCH, N % weight_gradient.BATCH, N)], np.int64
        )
        transposes = VN > 0 and wants_dx
        values: dict[str, Any] = {
            **self._sizes, **self._input_tables, "size": size, "N": N, "VN": VN, "batch_tile": batch_tile,
            "ranges": ranges, "zeros": np.zeros(max(F, batch_tile, weight_gradient.ROW_TILE, window), f"f{size}"),
            "packed_x_row": row, "cached_lines": cached_lines, "cached_columns": columns,
            "dy_row": g.positions * F * size if in_place else dy_row, "most_run": most_run, "stride": g.strides[-1],
            "gradient_bytes": gradient, "covered": (VN > 0 or F == 1) and g.covered, "band_columns": g.band_columns,
            "dxt_rows": entries if transposes else 0,
            "multiply": microkernels.multiply(size, VL), "panel_bytes": PANEL * VL * size,
            "transpose": microkernels.transpose(size), "pack": microkernels.pack(size),
        }  # fmt: skip
        if transposes or (wants_dx and F == 1):
            lanes = VN or VL
            values |= {"multiply_dx": microkernels.multiply(size, lanes), "panel_bytes_dx": PANEL * lanes * size}
        elif wants_dx:
            values["dots"] = microkernels.dots(size, VL)
        values |= self._mask_values()
        block = weight_gradient.block_gradient_transposed if transposed else weight_gradient.block_gradient
        values["block_gradient"] = block()
        counts = {
            "packed_x": N * row * size if wants_kernel else 0, "packed_dy": 0 if in_place else slots * N * dy_row,
            "dyt": slots * columns * F * batch_tile * size if transposes else 0,
            "dxt": entries * batch_tile * size if transposes else 0,
            "gradient": gradient, "cache_keys": slots * 8,
        }  # fmt: skip
        sizes = {name: threads * count for name, count in counts.items() if count}
        if by_inputs:
            kernel = tiled_backward.backward_by_inputs()
            values |= dict(zip(("read_start", "read_column", "read_tap"), g.inverse_map, strict=True))
            values |= {"most_blocks": blocks, "sums_columns": g.rank == 1, "sets": self._sets}
            sizes["column_segments"] = threads * 2 * blocks * SEGMENT * 8
        else:
            kernel = tiled_backward.backward()
            values |= {**self._bands, "band_run": g.band_runs, "row_block": k_block, "sets": self._sets}
            values |= self._set_runs
        plan = Plan(kernel, values, threads, sizes)
        return store_plan(self._plans, (N, size, threads, wants_dx, wants_kernel, rectified), plan)


def _odd_lines(size: int) -> int:
    """Round bytes up to an odd number of cache lines: a column of such rows does not map to a few cache sets."""
    return (-(-size // LINE_BYTES) | 1) * LINE_BYTES


def rectified(dy: Array, y: Array) -> Array:
    """Return a copy of dy with 0 where y, the output of a ReLU, is not above 0."""
    dz = aligned(dy.shape, dy.dtype)
    return selected(y > 0, dy, dz)


def bias_gradient(dy: Array, y: Array | None, threads: int | None, out: Array | None = None) -> Array:
    """Return the sum of dy (N, P, F) over the batch, (P, F); for y and out see `Implementation`."""
    dbias = np.empty(dy.shape[1:], dy.dtype) if out is None else out
    values = {
        "dy": address(dy), "y": 0 if y is None else address(y), "N": len(dy), "entries": dbias.size,
        "dbias": address(dbias),
    }  # fmt: skip
    _bias_launches(dy.itemsize, workers(dy.size, threads)).run(values)
    return dbias


@functools.cache
def _bias_launches(size: int, threads: int) -> Launches:
    return Launches(tiled_backward.backward_bias(size), threads)


def store_plan(plans: dict[Any, Any], key: Any, plan: Any) -> Any:
    """Cache a plan, clearing a full cache, and return it."""
    if len(plans) >= PLANS:
        plans.clear()
    plans[key] = plan
    return plan
