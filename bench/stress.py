"""Stress test: concurrent activities on each of Numba's threading layers, with bitwise checks of all results.

``python -m bench.stress --minutes 10`` starts one process per installed threading layer, in which threads

- call shared layers of all implementations, and compute their gradients,
- train separate models, whose weights after each round are known in advance,
- call layers whose weights another thread sets and steps (each result must belong to one state of the weights),
- run a parallel Numba function of user code,
- fork children, which compile, compute, train, and fork again,
- start worker processes by fork, spawn and forkserver, which receive layers and return results.

It prints the counts of each activity, of wrong results and failed children, and the resident memory over time. The exit
code is 1 if anything failed, was never done, or hung.
"""

import argparse
import collections
import faulthandler
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import lcnumba as lc
from bench.launch import LAYERS, installed

__all__ = ["main"]

# Timeout of a child in seconds.
PATIENCE = 120
# Number of threads that run inference; training and reading use two each, other activities one.
CALLERS = 3
STEPS = 4  # per round of training


def whole_numbers(shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> Any:
    """An initializer with small integers."""
    return rng.integers(-2, 3, shape).astype(dtype)


class Problem:
    """One shape, with layers of all implementations and their expected results."""

    def __init__(self, seed: int, size: tuple[int, int, int], filters: int, batch: int, **settings: Any) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.integers(-3, 4, (batch, *size)).astype(np.float32)
        self.seed, self.settings = seed, {"filters": filters, "kernel_size": 3, "input_shape": size, **settings}
        first = self.made(1)
        y, backward = first.forward(self.x)
        self.dy = rng.integers(-2, 3, y.shape).astype(np.float32)
        self.layers = [first, *(first.with_implementation(i) for i in (2, 3))]
        self.y, (self.dx, self.grads) = y, backward(self.dy)
        self.trained = self.train(self.made(1))

    def made(self, implementation: int) -> lc.LocallyConnected2D:
        """A layer whose weights are small integers, so that all implementations agree bitwise."""
        layer = lc.LocallyConnected2D(
            **self.settings, kernel_initializer=whole_numbers, rng=self.seed, implementation=implementation
        )
        layer.build(self.x.shape)
        return layer

    def train(self, layer: lc.LocallyConnected2D) -> list[Any]:
        """The weights after a few Adam steps, alternately fused and unfused."""
        layer.optimizer = "adam"
        for step in range(STEPS):
            y, backward = layer.forward(self.x)
            if step % 2:
                layer.step(backward(y)[1], lr=0.01)
            else:
                backward.step(y, lr=0.01)
        return layer.get_weights()

    def answers(self) -> bool:
        """Whether y, dx and gradients of all layers are correct."""
        for layer in self.layers:
            y, backward = layer.forward(self.x)
            dx, grads = backward(self.dy)
            pairs = ((layer(self.x), self.y), (y, self.y), (dx, self.dx), (grads.kernel, self.grads.kernel),
                     (grads.bias, self.grads.bias))  # fmt: skip
            if not all(np.array_equal(*pair) for pair in pairs):
                return False
        return True

    def trains(self) -> bool:
        """Whether training a new layer gives the expected weights."""
        return all(map(np.array_equal, self.train(self.made(1)), self.trained))


class Stress:
    """The activities: each method performs one and returns whether it succeeded."""

    def __init__(self) -> None:
        import numba

        self.problems = [
            Problem(1, (16, 16, 3), 32, 8),
            Problem(2, (9, 9, 16), 64, 20, padding="same"),
            Problem(3, (12, 12, 8), 3, 33, strides=2),
            Problem(4, (5, 5, 2), 4, 2),
        ]
        first = lc.LocallyConnected2D(32, 3, input_shape=(16, 16, 3), kernel_initializer="zeros", use_bias=False)
        first.build((None, 16, 16, 3))
        self.shared = [first, *(first.with_implementation(i) for i in (2, 3))]
        self.ones = np.ones((4, 16, 16, 3), np.float32)

        @numba.njit(parallel=True)
        def own(a: Any) -> None:
            for i in numba.prange(len(a)):
                a[i] += 1

        self._own = own

    def infer(self, turn: int) -> bool:
        return self.problems[turn % len(self.problems)].answers()

    def train(self, turn: int) -> bool:
        return self.problems[turn % len(self.problems)].trains()

    def own(self, _: int) -> bool:
        a = np.zeros(10_000)
        self._own(a)
        return bool((a == 1).all())

    def change(self, turn: int) -> bool:
        """Set the weights of a shared layer to a constant, or change them by an unfused or a fused step."""
        layer = self.shared[turn % 3]
        match turn // 3 % 3:
            case 0:
                layer.set_weights([np.full_like(layer.kernel, turn % 8)])
            case 1:
                layer.step((np.ones_like(layer.kernel),), lr=1.0)
            case 2:
                y, backward = layer.forward(self.ones)
                backward.step(np.full_like(y, 1 / len(y)), lr=1.0)
        time.sleep(0.001)
        return True

    def look(self, turn: int) -> bool:
        """Whether a call of a shared layer used a consistent state of the weights."""
        y = self.shared[turn % 3](self.ones)
        return bool((y == y.flat[0]).all()) and y.flat[0] % 27 == 0

    def fork(self, turn: int) -> bool:
        child = os.fork()
        if not child:
            _end(lambda: self._child(turn, 2))
        return _ended_well(child)

    def _child(self, turn: int, generations: int) -> bool:
        problem = self.problems[turn % len(self.problems)]
        if not (self._compiles(turn) and problem.answers() and problem.trains()):
            return False
        if generations > 1:
            # In the child, since Numba never frees compiled code: the memory of the parent would grow.
            thread = threading.Thread(target=self._compiles, args=(turn,))
            thread.start()
            child = os.fork()
            if not child:
                _end(lambda: self._child(turn + 1, generations - 1))
            thread.join()
            return _ended_well(child)
        return True

    def _compiles(self, turn: int) -> bool:
        """Whether a new function is compiled correctly."""
        import numba

        return bool(numba.njit(lambda a: a + turn)(1) == 1 + turn)

    def workers(self, turn: int) -> bool:
        """Whether multiprocessing workers return correct results."""
        problem = self.problems[turn % len(self.problems)]
        context = multiprocessing.get_context(("fork", "spawn", "forkserver")[turn % 3])
        with context.Pool(2, faulthandler.register, (signal.SIGUSR1,)) as pool:
            try:
                ys = pool.map_async(problem.layers[turn % 3], [problem.x] * 6).get(PATIENCE)
            except multiprocessing.TimeoutError:
                for child in multiprocessing.active_children():
                    os.kill(child.pid, signal.SIGUSR1)  # to report where it hangs
                time.sleep(1)
                raise
        return all(np.array_equal(y, problem.y) for y in ys)


def _end(work: Callable[[], bool]) -> None:
    """Work in a forked child, and exit without the parent's cleanup."""
    faulthandler.register(signal.SIGALRM, chain=True)  # to report where it hangs
    signal.alarm(PATIENCE)
    code = 4
    try:
        code = 0 if work() else 3
    except BaseException:  # noqa: BLE001 - a child must not continue the parent's code
        traceback.print_exc()
    finally:
        os._exit(code)


def _ended_well(child: int) -> bool:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        print(f"a forked child exited with code {code}", file=sys.stderr, flush=True)
    return code == 0


def resident() -> float:
    """Resident memory of this process in MB."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def stress(seconds: float) -> int:
    """Run all activities concurrently; print their counts; return the number of failures."""
    from lcnumba.runtime import threads

    faulthandler.register(signal.SIGUSR1)  # children inherit it
    faulthandler.dump_traceback_later(seconds + 3 * PATIENCE, exit=True)
    warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks with threads, which this tests
    work = Stress()
    for problem in work.problems:
        if not (problem.answers() and problem.trains()):
            raise ArithmeticError("wrong results before the concurrent part")
    activities = [*["infer"] * CALLERS, "train", "train", "own", "change", "look", "look", "fork", "workers"]
    done: collections.Counter[str] = collections.Counter()
    wrong: collections.Counter[str] = collections.Counter()
    counting = threading.Lock()
    end = time.monotonic() + seconds

    def go(activity: str, seed: int) -> None:
        act = getattr(work, activity)
        for turn in itertools.count(random.Random(seed).randrange(100)):
            if time.monotonic() > end:
                return
            try:
                right = act(turn)
            except Exception:  # noqa: BLE001 - any exception is counted
                traceback.print_exc()
                right = False
            with counting:
                done[activity] += 1
                wrong[activity] += not right

    running = [threading.Thread(target=go, args=(name, seed)) for seed, name in enumerate(activities)]
    for thread in running:
        thread.start()
    sizes = []
    while any(thread.is_alive() for thread in running):
        sizes.append(resident())
        time.sleep(min(20, seconds / 3))
    for thread in running:
        thread.join()
    faulthandler.cancel_dump_traceback_later()
    where = "Numba's" if threads.numba_is_safe() else "Python's"
    print(
        f"{threads.threading_layer()} ({where} threads), {seconds / 60:.1f} minutes, {len(running)} concurrent threads:"
    )
    for name in sorted(set(activities)):
        print(f"  {name:8s} {done[name]:8,d} done, {wrong[name]} wrong")
    print("  resident memory, MB:", *(f"{size:.0f}" for size in (*sizes, resident())), flush=True)
    return sum(wrong.values()) + len(set(activities) - set(done))


def main(arguments: list[str] | None = None) -> int:
    """Run each threading layer in a separate process."""
    parser = argparse.ArgumentParser(prog="python -m bench.stress", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="per threading layer (default: 10)")
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=LAYERS, help="threading layers (default: all)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # run in the process of one layer
    given = parser.parse_args(arguments)
    if given.here:
        return min(1, stress(60 * given.minutes))
    failed = False
    for layer in given.layers:
        if not installed(layer):
            print(f"{layer}: not installed, skipped; pip install 'lcnumba[threads]'", flush=True)
            continue
        command = [sys.executable, "-m", "bench.stress", "--here", "--minutes", str(given.minutes)]
        ended = subprocess.run(command, env={**os.environ, "NUMBA_THREADING_LAYER": layer}, check=False)
        print(f"{layer}: {'passed' if ended.returncode == 0 else f'FAILED with code {ended.returncode}'}", flush=True)
        failed |= ended.returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
