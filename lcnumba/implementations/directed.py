"""Connections that are given as a list, computed by the kernels of `kernels/directed.py`."""

from typing import Any

import numpy as np

from lcnumba.connectivity.topology import Topology
from lcnumba.implementations.loop import Plan, store_plan
from lcnumba.implementations.scratch import aligned, scratch
from lcnumba.kernels import directed, microkernels, plain, update, vectors
from lcnumba.kernels.records import address
from lcnumba.kernels.rules import FORMULA, GRADIENT, Rule, workers
from lcnumba.kernels.tile import PANEL, SEGMENT
from lcnumba.runtime.memory import require
from lcnumba.utils.lazy import cached_property
from lcnumba.utils.types import Array

__all__ = ["CASTS", "Directed"]

# Integers that the kernels cast while they transpose: the dtypes of genotypes (0, 1, 2), and whether they have a sign.
CASTS = {np.dtype(np.int8): 1, np.dtype(np.uint8): 0, np.dtype(np.bool_): 0}

# Bytes of the transposed inputs of forward, which decide how many samples it computes at a time, one vector at least.
TRANSPOSED_BYTES = 1 << 25
# Numbers of a sample that are transposed at a time.
WIDTH = 512
# The most numbers of a sample, and about the fewest blocks, of the blocks of inputs of backward.
BLOCK, BLOCKS = 256, 64
# Tasks of forward, and bytes of the outputs that are transposed together.
TASKS, OUTPUTS_BYTES = 256, 1 << 15
# The most segments of an output that are summed by one call.
MOST_SEGMENTS = 1024


class Directed:
    """The layer computed by kernels that go through the connections; compare `Implementation` of `base.py`.

    x is (N, inputs, C), also of a dtype of `CASTS`; kernel (connections, C, F), y (N, outputs, F), bias (outputs, F).

    Parameters
    ----------
    topology : Topology
        The connections.
    channels, filters : int
        C and F.
    """

    def __init__(self, topology: Topology, channels: int, filters: int) -> None:
        self.topology, self.channels, self.filters = topology, channels, filters
        inputs, outputs = topology.shape
        # Multiplications a sample, and numbers that are transposed.
        self._work = len(topology.indices) * channels * filters + inputs * channels + outputs * filters
        share = -(-inputs * channels // BLOCKS)
        self._width = max(1, min(BLOCK, max(16, share - share % 16)) // channels)
        self._plans: dict[Any, Plan] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Plans hold addresses of this object's tables: neither a copy nor another process may use them.
        return Directed, (self.topology, self.channels, self.filters)

    @cached_property
    def _task_start(self) -> Array:
        """The first outputs of the tasks of forward, which have about as many connections each."""
        indptr = self.topology.indptr
        work = indptr + np.arange(len(indptr))
        starts = np.searchsorted(work, np.linspace(0, work[-1], TASKS + 1))
        starts[-1] = len(indptr) - 1
        return np.unique(starts)

    @property
    def supports_fused(self) -> bool:
        """Whether there are register tiles, which apply a gradient as it is computed."""
        return vectors.TILED

    def apply(
        self, x: Array, kernel: Array, bias: Array | None = None, *, threads: int | None = None,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return y."""
        (inputs, outputs), N, size, C, F = self.topology.shape, len(x), kernel.itemsize, self.channels, self.filters
        y = aligned((N, outputs, F), kernel.dtype) if out is None else out
        threads = workers(N * self._work, threads)
        if not vectors.TILED:
            plain.forward_directed(size)(
                x=x.astype(kernel.dtype, copy=False), kernel=kernel, bias=0 if bias is None else bias, y=y, N=N,
                I=inputs, C=C, F=F, outputs=outputs, connections=len(kernel), indptr=self.topology.indptr,
                indices=self.topology.indices, threads=threads,
            )  # fmt: skip
            return y
        lanes = vectors.for_filters(N, size)
        tile = min(-(-N // lanes), max(1, TRANSPOSED_BYTES // (inputs * C * size * lanes))) * lanes
        memory, places = scratch({"xt": inputs * C * tile * size if N else 0})
        for begin in range(0, N, tile):
            part = x[begin : begin + tile]
            self._transpose(part, places["xt"], tile, size, threads)
            self._forward_plan(tile, lanes, size, threads).run({
                "xt": places["xt"], "kernel": address(kernel), "bias": 0 if bias is None else address(bias),
                "y": address(y) + begin * outputs * F * size, "count": len(part),
            })  # fmt: skip
        del memory
        return y

    def apply_transpose(
        self, kernel: Array, dy: Array, *, threads: int | None = None, out: Array | None = None
    ) -> Array:  # fmt: skip
        """Return dx."""
        dx = self._dx(dy) if out is None else out
        self._backward(None, kernel, dy, None, None, dx, threads)
        return dx

    def weight_gradient(
        self, x: Array, dy: Array, *, threads: int | None = None, out: Array | None = None
    ) -> Array:  # fmt: skip
        """Return dkernel."""
        dkernel = self._dkernel(dy) if out is None else out
        self._backward(x, dkernel, dy, None, dkernel, None, threads)
        return dkernel

    def gradients(
        self, x: Array, kernel: Array, dy: Array, *, threads: int | None = None,
        out: tuple[Array | None, Array | None] = (None, None),
    ) -> tuple[Array, Array]:  # fmt: skip
        """Return (dx, dkernel)."""
        dx = self._dx(dy) if out[0] is None else out[0]
        dkernel = self._dkernel(dy) if out[1] is None else out[1]
        self._backward(x, kernel, dy, None, dkernel, dx, threads)
        return dx, dkernel

    def fused_update(
        self, x: Array, kernel: Array, dy: Array, rule: Rule, *, wants_dx: bool = True, threads: int | None = None,
        out: Array | None = None,
    ) -> Array | None:  # fmt: skip
        """Update the kernel and the states of `rule` in place; return dx, at the kernel before, if it is wanted."""
        dx = (self._dx(dy) if out is None else out) if wants_dx else None
        if len(x):
            self._backward(x, kernel, dy, rule, kernel, dx, threads)
        else:  # the gradient is 0, but momentum and weight decay still change the weights
            update.run(rule, kernel, np.zeros_like(kernel), threads)
        return dx

    def _dx(self, dy: Array) -> Array:
        return aligned((len(dy), self.topology.shape[0], self.channels), dy.dtype)

    def _dkernel(self, dy: Array) -> Array:
        shape = (len(self.topology.indices), self.channels, self.filters)
        require(
            int(np.prod(shape)) * dy.itemsize, "the gradient of the weights",
            "use backward.step, which needs none with a built-in optimizer",
        )  # fmt: skip
        return np.zeros(shape, dy.dtype)

    def _samples(self, given: np.dtype[Any], size: int, entries: int) -> dict[str, Any]:
        """The fields of records about samples of so many numbers."""
        casts = given in CASTS
        return {
            "size": size, "itemsize": given.itemsize, "row": entries * given.itemsize,
            "cast": directed.cast(size, CASTS[given]) if casts else 0, "transpose": microkernels.transpose(size),
        }  # fmt: skip

    def _transpose(self, source: Array, target: int, tile: int, size: int, threads: int) -> None:
        """Write samples to an address, as rows of `tile` samples."""
        entries = source[:1].size
        key = ("transpose", source.dtype, entries, tile, size, threads)
        plan = self._plans.get(key)
        if plan is None:
            values = {**self._samples(source.dtype, size, entries), "entries": entries, "width": WIDTH}
            values["tile_row"] = tile * size
            sizes = {"packed": threads * tile * size * WIDTH} if values["cast"] else {}
            plan = store_plan(self._plans, key, Plan(directed.transpose(), values, threads, sizes))
        plan.run({"source": address(source), "target": target, "count": len(source)})

    def _forward_plan(self, tile: int, lanes: int, size: int, threads: int) -> Plan:
        key = ("forward", tile, size, threads)
        plan = self._plans.get(key)
        if plan is not None:
            return plan
        C, F, outputs = self.channels, self.filters, self.topology.shape[1]
        segments = self.topology.segments(self._width)
        tile_row = tile * size
        ones = np.ones((2, tile), f"f{size}")
        ones[1] = 0
        most = int(min(MOST_SEGMENTS, np.max(np.diff(segments.start))))
        most_run = max(1, min(outputs, OUTPUTS_BYTES // (F * tile_row)))
        values = {
            "size": size, "C": C, "F": F, "outputs": outputs, "start": segments.start, "input": segments.input,
            "weight": segments.weight, "task_start": self._task_start, "tasks": len(self._task_start) - 1,
            "tile_row": tile_row, "y_row": outputs * F * size, "ones": ones, "most_segments": most,
            "most_run": most_run, "multiply": microkernels.multiply(size, lanes), "panel_bytes": PANEL * lanes * size,
            "transpose": microkernels.transpose(size),
        }  # fmt: skip
        sizes = {"segments": threads * (most + 1) * SEGMENT * 8, "yt": threads * most_run * F * tile_row}
        return store_plan(self._plans, key, Plan(directed.forward(), values, threads, sizes))

    def _backward(
        self, x: Array | None, kernel: Array, dy: Array, rule: Rule | None, target: Array | None, dx: Array | None,
        threads: int | None,
    ) -> None:  # fmt: skip
        """Compute dx, unless it is None, and the gradient, stored in target or, with a rule, applied to it."""
        (inputs, outputs), N, size = self.topology.shape, len(dy), dy.itemsize
        if not N:
            return
        C, F = self.channels, self.filters
        threads = workers(N * self._work * ((dx is not None) + (target is not None)), threads)
        if not vectors.TILED:
            table = self.topology.segments(self._width)
            plain.backward_directed(size)(
                x=0 if x is None else x.astype(dy.dtype, copy=False), kernel=kernel, dy=dy,
                dx=0 if dx is None else dx, target=0 if target is None else target, N=N, I=inputs, C=C, F=F,
                outputs=outputs, connections=len(kernel), width=self._width, blocks=len(table.block_start) - 1,
                segments=len(table.by_block), block_start=table.block_start, by_block=table.by_block, threads=threads,
            )  # fmt: skip
            return
        memory, places = scratch({"dyt": outputs * F * N * size})
        self._transpose(dy, places["dyt"], N, size, threads)
        values = {
            "x": 0 if x is None else address(x), "kernel": address(kernel), "dyt": places["dyt"],
            "dx": 0 if dx is None else address(dx), "target": 0 if target is None else address(target),
            "rule": GRADIENT, "formula": 0, "scalars": 0, "state_1": 0, "state_2": 0,
        }  # fmt: skip
        if rule is not None:
            scalars = update.scalars_of(rule)
            values |= {"rule": FORMULA, "formula": update.formula(rule, size), "scalars": scalars.buffer_info()[0]}
            values["state_1"], values["state_2"] = update.addresses_of_states(rule)
        given = dy.dtype if x is None else x.dtype
        self._backward_plan(N, given, size, threads, dx is not None, target is not None).run(values)
        del memory

    def _backward_plan(
        self, N: int, given: np.dtype[Any], size: int, threads: int, wants_dx: bool, wants_kernel: bool
    ) -> Plan:  # fmt: skip
        key = ("backward", N, given, size, threads, wants_dx, wants_kernel)
        plan = self._plans.get(key)
        if plan is not None:
            return plan
        C, F, inputs, width = self.channels, self.filters, self.topology.shape[0], self._width
        table, lanes = self.topology.segments(width), vectors.for_filters(N, size)
        samples, gradient = self._samples(given, size, inputs * C), width * C * F * size
        values = {
            **samples, "N": N, "I": inputs, "C": C, "F": F, "width": width,
            "blocks": len(table.block_start) - 1, "block_start": table.block_start, "by_block": table.by_block,
            "gradient_bytes": gradient, "filters": np.array([[0, 0, F, 0]], np.int64),
            "multiply": microkernels.multiply(size, lanes), "panel_bytes": PANEL * lanes * size,
            "dots": microkernels.dots(size, lanes),
        }  # fmt: skip
        block = threads * width * C * N * size
        sizes = {"gradient": threads * gradient}
        if wants_kernel:
            sizes |= {"xt": block, "packed": block} if samples["cast"] else {"xt": block}
        if wants_dx:
            sizes["dxt"] = block
        return store_plan(self._plans, key, Plan(directed.backward(), values, threads, sizes))
