"""Connections that are given as a list, computed by the kernels of `kernels/directed.py`."""

from typing import Any

import numpy as np

from lcnumba.connectivity.topology import Topology
from lcnumba.implementations.loop import Plan, store_plan
from lcnumba.implementations.scratch import aligned, scratch
from lcnumba.kernels import directed, microkernels, plain, update, vectors
from lcnumba.kernels.records import SEGMENT, address
from lcnumba.kernels.rules import FORMULA, GRADIENT, LINE_BYTES, Rule, workers
from lcnumba.runtime.memory import require
from lcnumba.utils.lazy import cached_property
from lcnumba.utils.types import Array

__all__ = ["CASTS", "Directed"]

# Integers that the kernels cast while they transpose: the dtypes of genotypes (0, 1, 2), and whether they have a sign.
CASTS = {np.dtype(np.int8): 1, np.dtype(np.uint8): 0, np.dtype(np.bool_): 0}

# Numbers of a sample that are transposed at a time.
WIDTH = 512
# The most numbers of a sample, and about the fewest blocks, of the blocks of inputs.
BLOCK, BLOCKS = 512, 64
# The most bytes of the outputs of a task of forward.
OUTPUTS_BYTES = 1 << 25
# Weights whose gradient is kept until it is applied; a single segment may have more.
UPDATED = 2048
# Weights of a mean segment from which their update is fused. Of shorter ones each would be a call, and the weights of a
# block of inputs lie anywhere: then the gradient of all weights is stored first.
FUSED = 16


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

    @cached_property
    def _segments(self) -> tuple[Array, Array]:
        """The segments of each block of inputs, (blocks + 1,), and the table of all."""
        block_start, *columns = self.topology.segments(self._width)
        table = np.empty(len(columns[0]), SEGMENT)
        for name, values in zip(("connection", "output", "input", "length"), columns, strict=True):
            table[name] = values % self._width if name == "input" else values
        return block_start, table

    def __reduce__(self) -> tuple[Any, ...]:
        # Plans hold addresses of this object's tables: neither a copy nor another process may use them.
        return Directed, (self.topology, self.channels, self.filters)

    @property
    def supports_fused(self) -> bool:
        """Whether there are register tiles, which apply a gradient as it is computed."""
        return vectors.TILED

    def updates_in_place(self, kernel: Array) -> bool:
        """Whether a fused update takes weights as their gradients are computed, rather than storing these first."""
        return kernel.size >= FUSED * len(self._segments[1])

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
        if N:
            self._forward_plan(N, x.dtype, size, threads).run({
                "x": address(x), "kernel": address(kernel), "bias": 0 if bias is None else address(bias),
                "y": address(y),
            })  # fmt: skip
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
        if len(x) and self.updates_in_place(kernel):
            self._backward(x, kernel, dy, rule, kernel, dx, threads)
        else:
            dkernel = self._dkernel(dy)
            self._backward(x, kernel, dy, None, dkernel, dx, threads)
            update.run(rule, kernel, dkernel, threads)
        return dx

    def _dx(self, dy: Array) -> Array:
        return aligned((len(dy), self.topology.shape[0], self.channels), dy.dtype)

    def _dkernel(self, dy: Array) -> Array:
        shape = (len(self.topology.indices), self.channels, self.filters)
        require(int(np.prod(shape)) * dy.itemsize, "the gradient of the weights", "give fewer connections or filters")
        return np.empty(shape, dy.dtype)

    def _samples(self, given: np.dtype[Any], size: int, entries: int) -> dict[str, Any]:
        """The fields of records about samples of so many numbers."""
        casts = given in CASTS
        return {
            "size": size, "itemsize": given.itemsize, "row": entries * given.itemsize,
            "cast": directed.cast(size, CASTS[given]) if casts else 0, "transpose": microkernels.transpose(size),
        }  # fmt: skip

    def _forward_plan(self, N: int, given: np.dtype[Any], size: int, threads: int) -> Plan:
        key = ("forward", N, given, size, threads)
        plan = self._plans.get(key)
        if plan is not None:
            return plan
        (inputs, outputs), C, F, width = self.topology.shape, self.channels, self.filters, self._width
        (block_start, table), samples = self._segments, self._samples(given, size, inputs * C)
        # Parts of the outputs for threads that get no samples: each part transposes the inputs that it reads. It has
        # no influence on sums.
        vectors_of_samples = -(-N * size // LINE_BYTES)
        parts = max(-(-threads // vectors_of_samples), -(-outputs * F * LINE_BYTES // OUTPUTS_BYTES))
        edges = np.searchsorted(self.topology.indptr, np.linspace(0, len(self.topology.indices), parts + 1))
        edges[-1] = outputs  # the last ones may have no inputs
        blocks = np.arange(len(block_start) - 1)
        keys = np.repeat(blocks, np.diff(block_start)) * outputs + table["output"]
        starts = np.searchsorted(keys, blocks * outputs + edges[:, None])
        most = int(np.max(np.diff(edges)))
        values = {
            **samples, "N": N, "I": inputs, "C": C, "F": F, "outputs": outputs, "width": width, "blocks": len(blocks),
            "parts": parts, "part_output": edges, "part_start": starts, "table": table,
            "most_outputs": most, "y_segments": directed.y(size), "fill": directed.fill(size),
        }  # fmt: skip
        block = threads * width * C * LINE_BYTES
        sizes = {"xt": block, "yt": threads * most * F * LINE_BYTES}
        if samples["cast"]:
            sizes["packed"] = block
        return store_plan(self._plans, key, Plan(directed.forward(), values, threads, sizes))

    def _backward(
        self, x: Array | None, kernel: Array, dy: Array, rule: Rule | None, target: Array | None, dx: Array | None,
        threads: int | None,
    ) -> None:  # fmt: skip
        """Compute dx, unless it is None, and the gradient, stored in target or, with a rule, applied to it."""
        (inputs, outputs), N, size = self.topology.shape, len(dy), dy.itemsize
        if target is not None and rule is None:
            target.fill(0)  # gradients are added to it
        if not N:
            return
        C, F = self.channels, self.filters
        threads = workers(N * self._work * ((dx is not None) + (target is not None)), threads)
        if not vectors.TILED:
            block_start, table = self._segments
            plain.backward_directed(size)(
                x=0 if x is None else x.astype(dy.dtype, copy=False), kernel=kernel, dy=dy,
                dx=0 if dx is None else dx, target=0 if target is None else target, N=N, I=inputs, C=C, F=F,
                outputs=outputs, connections=len(kernel), width=self._width, blocks=len(block_start) - 1,
                block_start=block_start, table=table, threads=threads,
            )  # fmt: skip
            return
        tile_row = self._tile_row(N, size)
        memory, places = scratch({"dyt": outputs * F * tile_row})
        if tile_row > N * size:
            memory.fill(0)  # lanes without a sample
        self._transpose_plan(N, size, threads).run({"source": address(dy), "target": places["dyt"], "count": N})
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

    @staticmethod
    def _tile_row(N: int, size: int) -> int:
        """The bytes of N samples, rounded up to whole vectors, which are cache lines."""
        return -(-N * size // LINE_BYTES) * LINE_BYTES

    def _transpose_plan(self, N: int, size: int, threads: int) -> Plan:
        key = ("transpose", N, size, threads)
        plan = self._plans.get(key)
        if plan is not None:
            return plan
        entries = self.topology.shape[1] * self.filters
        values = {**self._samples(np.dtype(f"f{size}"), size, entries), "entries": entries, "width": WIDTH}
        values["tile_row"] = self._tile_row(N, size)
        return store_plan(self._plans, key, Plan(directed.transpose(), values, threads, {}))

    def _backward_plan(
        self, N: int, given: np.dtype[Any], size: int, threads: int, wants_dx: bool, wants_kernel: bool
    ) -> Plan:  # fmt: skip
        key = ("backward", N, given, size, threads, wants_dx, wants_kernel)
        plan = self._plans.get(key)
        if plan is not None:
            return plan
        C, F, inputs, width = self.channels, self.filters, self.topology.shape[0], self._width
        (block_start, table), samples = self._segments, self._samples(given, size, inputs * C)
        tile_row, most = self._tile_row(N, size), max(UPDATED, width * C * F)
        values = {
            **samples, "N": N, "I": inputs, "C": C, "F": F, "width": width, "blocks": len(block_start) - 1,
            "block_start": block_start, "table": table, "tile_row": tile_row, "most": most,
        }  # fmt: skip
        block = threads * width * C * tile_row
        sizes: dict[str, int] = {}
        if wants_kernel:
            values["gradient_segments"] = directed.gradient(size)
            sizes |= {"gradient": threads * most * size, "xt": block}
            sizes |= {"packed": block} if samples["cast"] else {}
        if wants_dx:
            values["dx_segments"] = directed.dx(size)
            sizes["dxt"] = block
        return store_plan(self._plans, key, Plan(directed.backward(), values, threads, sizes))
