"""Messages between ranks: lines, exact sums, and agreement. No other file of the library sends any.

Whatever can fail runs within `World.agreed`, so that all ranks raise the same error, or none. What changes weights runs
within `World.committed`, after everything has been agreed on; if it fails nevertheless all processes end, because the
others would wait for messages forever.
"""

import pickle
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from lcnumba.mpi.stripes import LayerStripes, Transfer
from lcnumba.utils.norms import Rows
from lcnumba.utils.sums import exact_parts, exact_sum
from lcnumba.utils.types import Array

__all__ = ["Lines", "World", "WorldRows"]

# The most bytes of a message: MPI before version 4 counts in 32 bits.
MESSAGE_BYTES = 1 << 30


class World:
    """The ranks that have the stripes of a model, and other groups of ranks that have the same stripes.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The communicator; messages go over copies of it.
    groups : int, default 1
        How many groups there are; neighbouring ranks of the communicator are in one.

    Attributes
    ----------
    rank, size : int
        The number of this process in its group, and of all in it.
    group, groups : int
        The number of this group, and of all.
    bytes_sent : int
        How many bytes of lines this rank has sent, and of gradients to other groups.
    """

    def __init__(self, comm: Any, groups: int = 1) -> None:
        self._all = comm.Dup()
        rank, size = comm.Get_rank(), comm.Get_size()
        if size % groups:
            raise ValueError(f"data_groups={groups} must divide the number of ranks, {size}")
        self.groups, self.size = groups, size // groups
        self.group, self.rank = divmod(rank, self.size)
        self._comm = self._all if groups == 1 else self._all.Split(self.group, self.rank)
        self._peers = None if groups == 1 else self._all.Split(self.rank, self.group)
        self._agreeing = self._all  # who must agree
        self.is_root = rank == 0  # which prints, calls callbacks and writes files
        self.is_alone = size == 1
        self.bytes_sent = 0

    @contextmanager
    def in_group(self) -> Iterator[None]:
        """Within this block the ranks of each group agree by themselves; at its end all do."""
        error = None
        self._agreeing = self._comm
        try:
            yield
        except Exception as found:  # noqa: BLE001 - raised below
            error = found
        except BaseException:  # this process ends
            self.abort()
            raise
        finally:
            self._agreeing = self._all
        self.raise_first(error)

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Run a block without messages on all ranks; if it fails on any, raise the error of the first on all."""
        error = None
        try:
            yield
        except Exception as found:  # noqa: BLE001 - raised below
            error = found
        except BaseException:  # this process ends, by Ctrl-C or sys.exit
            self.abort()
            raise
        self.raise_first(error)

    def raise_first(self, error: Exception | None) -> None:
        """Raise the error of the first rank that has one, on all ranks."""
        comm = self._agreeing
        rank, failed = comm.Get_rank(), np.zeros(comm.Get_size(), np.int8)
        comm.Allgather(np.array([error is not None], np.int8), failed)
        if not failed.any():
            return
        first = int(np.argmax(failed))
        told: Exception = comm.bcast(_portable(error) if rank == first else None, first)
        if rank == first and type(error) is type(told):
            told = error  # with its traceback
        if len(failed) > 1 and not getattr(told, "__notes__", []):
            told.add_note(f"raised by rank {first} of {len(failed)}")
        raise told from (None if told is error else error)

    @contextmanager
    def committed(self) -> Iterator[None]:
        """Run a block that must not fail; if it does, end all processes.

        NumPy does not warn in it: where warnings are errors, one of a number that overflows would be a failure.
        """
        try:
            with np.errstate(all="ignore"):
                yield
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Print the error that is being handled, and end all processes, if there are others."""
        if not self.is_alone:
            traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            self._all.Abort(1)

    def broadcast(self, value: Any) -> Any:
        """Return the root's value on all ranks."""
        return self._all.bcast(value, 0)

    def broadcast_from(self, rank: int, value: Any) -> Any:
        """Return the value of a rank on all ranks of its group."""
        return self._comm.bcast(value, rank)

    def broadcast_from_group(self, group: int, value: Any) -> Any:
        """Return the value of a group's rank on the ranks of other groups that have the same stripe."""
        return value if self._peers is None else self._peers.bcast(value, group)

    def copy_from_group(self, group: int, array: Array) -> None:
        """Copy a contiguous array of a group's rank to the ranks of other groups that have the same stripe."""
        if self._peers is None:
            return
        for part in _messages(array):
            self._peers.Bcast(part, group)
        if group == self.group:
            self.bytes_sent += array.nbytes * (self.groups - 1)

    def gather_values(self, value: Any) -> list[Any]:
        """Return the values of all ranks of this group, in order."""
        found: list[Any] = self._comm.allgather(value)
        return found

    def gather_all(self, value: Any) -> list[Any]:
        """Return the values of all ranks that must agree, in order."""
        found: list[Any] = self._agreeing.allgather(value)
        return found

    def total(self, values: Array) -> float:
        """Return the sum of the numbers of all ranks, rounded once: it does not depend on who has which."""
        return exact_sum([part for parts in self.gather_values(exact_parts(values)) for part in parts])

    def maximum(self, value: float) -> float:
        """Return the largest value of all ranks; NaN if there is one."""
        return float(np.max(self.gather_values(value)))

    def count(self, number: int) -> int:
        """Return the sum of an integer of each rank."""
        return sum(self.gather_values(number))

    def transfer(self, sends: Mapping[int, Array], gets: Mapping[int, Array]) -> None:
        """Send contiguous arrays to ranks, and fill those from others."""
        requests = [self._comm.Irecv(part, source=other) for other, array in gets.items() for part in _messages(array)]
        for other, array in sends.items():
            requests += [self._comm.Isend(part, dest=other) for part in _messages(array)]
            self.bytes_sent += array.nbytes
        for request in requests:
            request.Wait()

    def request(self, rank: int, what: Any) -> None:
        """Ask a rank that is in `serve` for a part of an array, or tell it that that was all."""
        self._comm.send(what, dest=rank)

    def receive(self, rank: int, into: Array) -> None:
        """Receive a part of an array, contiguous and small, from a rank that is in `serve`."""
        self._comm.Recv(into.reshape(-1).view(np.uint8), source=rank)

    def serve(self, part_of: Callable[[Any], Array]) -> None:
        """Send the root what it requests, until that was all."""
        while (what := self._comm.recv(source=0)) is not None:
            self._comm.Send(np.ascontiguousarray(part_of(what)).reshape(-1).view(np.uint8), dest=0)

    def gather(self, own: Array, edges: Sequence[int]) -> Array:
        """Return all lines of an array (N, lines, ...), of which each rank has those between two edges."""
        with self.agreed():
            whole = np.empty((len(own), edges[-1], *own.shape[2:]), own.dtype)
            whole[:, edges[self.rank] : edges[self.rank + 1]] = own
            others = [other for other in range(self.size) if other != self.rank]
            parts = [slice(*edge) for edge in pairwise(edges)]
            sends = dict.fromkeys(others, np.ascontiguousarray(own))
            gets = {other: np.empty_like(whole[:, parts[other]], order="C") for other in others}
        self.transfer(sends, gets)
        for other, array in gets.items():
            whole[:, parts[other]] = array
        return whole


class WorldRows(Rows):
    """The rows of an array of which each rank has some."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __deepcopy__(self, memo: Any) -> "WorldRows":
        """Return itself: a communicator cannot be copied."""
        return self

    def sums(self, partial: Callable[[Array | None], Array]) -> Array:
        """Return a sum over the rows of all ranks, which each rank continues from that of the one before."""
        world = self._world
        first = partial(None) if world.rank == 0 else np.zeros(0)
        start = np.empty(world.broadcast_from(0, first.shape))
        if world.rank:
            world.transfer({}, {world.rank - 1: start})
            first = partial(start)
        found = np.ascontiguousarray(first)
        if world.rank + 1 < world.size:
            world.transfer({world.rank + 1: found}, {})
        return world.broadcast_from(world.size - 1, found)

    def maximum(self, values: Array) -> Array:
        """Return the largest values of all ranks."""
        largest: Array = np.max(self._world.gather_values(values), axis=0)
        return largest


class Lines:
    """The lines of one layer's input that ranks exchange, as `LayerStripes` says; its borders in backward.

    Parameters
    ----------
    stripes : LayerStripes
        The layer.
    rank : int
        The rank.
    transfer : callable
        ``transfer(sends, gets)`` of `World`.
    """

    def __init__(
        self, stripes: LayerStripes, rank: int, transfer: Callable[[Mapping[int, Array], Mapping[int, Array]], None]
    ) -> None:
        self._stripes, self._rank, self._transfer = stripes, rank, transfer
        self._reads = stripes.reads[rank]
        self._first = stripes.input_edges[rank]
        self._own = stripes.input_edges[rank + 1] - self._first
        self.stages = stripes.stages(rank)
        self._carry = [stripes.carry(rank, stage) for stage in range(len(self.stages))]
        self._begun = [stripes.begun(rank, stage + 1) for stage in range(len(self.stages))]
        self._halo, self._home, self._finished = stripes.halo(rank), stripes.home(rank), stripes.finished(rank)

    def plan_halo(self, own: Array) -> Callable[[], Array]:
        """Allocate the lines that this rank reads, given its own (N, lines, ...); return a function that fills them."""
        reads = np.empty((len(own), len(self._reads), *own.shape[2:]), own.dtype)
        mine = np.flatnonzero(self._stripes.owner[self._reads] == self._rank)
        sends = {other: np.ascontiguousarray(own[:, lines - self._first]) for other, lines in self._halo[0].items()}
        gets = self._buffers(reads, self._halo[1])

        def run() -> Array:
            _assign(reads, mine, own, self._reads[mine] - self._first)
            self._transfer(sends, gets)
            for other, lines in self._halo[1].items():
                _assign(reads, self._local(lines), gets[other])
            return reads

        return run

    def pass_on(self, stage: int, dx: Array) -> None:
        """Pass on the dx of a stage, and write the sums that the next stage begins with; see `Borders`."""
        lines = dx.reshape(len(dx), len(self._reads), -1 if dx.size else 0)
        lines[:, self._local(self._begun[stage])] = 0
        self._exchange(lines, lines, *self._carry[stage], self._local)

    def send_home(self, dx: Array) -> Array:
        """Return dx of this rank's own lines (N, lines, ...), given that of the lines that it reads."""
        own = np.zeros((len(dx), self._own, *dx.shape[2:]), dx.dtype)
        _assign(own, self._finished - self._first, dx, self._local(self._finished))
        self._exchange(dx, own, *self._home, lambda lines: lines - self._first)
        return own

    def _exchange(
        self, source: Array, target: Array, sends: Transfer, gets: Transfer, place: Callable[[Any], Any]
    ) -> None:
        """Send lines of `source`, and write those from other ranks to their place in `target`."""
        arrays = self._buffers(target, gets)
        self._transfer(
            {other: np.ascontiguousarray(source[:, self._local(lines)]) for other, lines in sends.items()}, arrays
        )
        for other, lines in gets.items():
            _assign(target, place(lines), arrays[other])

    def _local(self, lines: Any) -> Any:
        """Where lines are in this rank's arrays."""
        return np.searchsorted(self._reads, lines)

    @staticmethod
    def _buffers(like: Array, transfer: Transfer) -> dict[int, Array]:
        return {
            rank: np.empty((len(like), len(lines), *like.shape[2:]), like.dtype) for rank, lines in transfer.items()
        }


def _assign(target: Array, to: Any, source: Array, lines: Any = None) -> None:
    """Copy lines, as slices where they are neighbours, which is a fifth of the time."""
    if not len(to):
        return
    lines = np.arange(len(to)) if lines is None else lines
    for part in np.split(np.arange(len(to)), np.flatnonzero((np.diff(to) != 1) | (np.diff(lines) != 1)) + 1):
        first, last = part[0], part[-1]
        target[:, to[first] : to[last] + 1] = source[:, lines[first] : lines[last] + 1]


def _messages(array: Array) -> list[Array]:
    """The memory of a contiguous array, in messages whose length any MPI can count."""
    memory = array.reshape(-1).view(np.uint8)
    return [memory[at : at + MESSAGE_BYTES] for at in range(0, len(memory), MESSAGE_BYTES)]


def _portable(error: Exception | None) -> Exception:
    """The error as others can unpickle it."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - of a class with arguments of its own
        copy = None
    if type(copy) is type(error) and isinstance(copy, Exception):
        return copy
    return RuntimeError(f"{type(error).__name__}: {error}")
