"""Worker process that holds one peer: each request and each reply is a line of JSON.

Started as ``python -m bench.worker THREADS``. The requests are, by their "do":

- load: makes the data of "case", and the peer from "module" with "options" and "threads";
- first: calls "operation" once, including what it builds; replies "seconds";
- repeat: calls "operation" "calls" times, after "warm" untimed calls; replies "times";
- save: writes the results of the last first call, and with "weights" kernel and bias, to "folder";
- run: calls ``function(**arguments)`` of "module"; replies its "value".

A reply has "peak", the peak memory of the process in bytes, or "error" and "kind", the name of the exception.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from bench.case import Case
from bench.data import make
from bench.peers import Operations
from bench.resident import peak

__all__ = ["Worker"]


class Worker:
    """Handles the requests; each method returns its reply."""

    def __init__(self) -> None:
        self._operations: Operations
        self._results: dict[str, Any] = {}

    def load(self, case: dict[str, Any], module: str, options: dict[str, Any], threads: int) -> dict[str, Any]:
        """Make the data and the peer."""
        peer = importlib.import_module(module)
        sizes = Case.from_json(case)
        self._operations = peer.make(sizes, make(sizes), threads, **options)
        return {}

    def first(self, operation: str) -> dict[str, Any]:
        """Call an operation for the first time and keep its results."""
        start = time.perf_counter()
        result = getattr(self._operations, operation)()
        seconds = time.perf_counter() - start
        self._results = {"y": result} if operation == "forward" else dict(zip(("y", "dx"), result, strict=True))
        return {"seconds": seconds}

    def repeat(self, operation: str, calls: int, warm: int = 0) -> dict[str, Any]:
        """Time each call of an operation."""
        work = getattr(self._operations, operation)
        self._results = {}
        for _ in range(warm):
            work()
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return {"times": times}

    def save(self, folder: str, weights: bool) -> dict[str, Any]:
        """Write the results of the last first call, and the current weights."""
        arrays = dict(self._results)
        if weights:
            arrays["kernel"], arrays["bias"] = self._operations.weights()
        for name, array in arrays.items():
            np.save(Path(folder, name), np.asarray(array))
        return {}

    def run(self, module: str, function: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a function of a module."""
        return {"value": getattr(importlib.import_module(module), function)(**arguments)}


def _serve(requests: TextIO, replies: TextIO) -> None:
    worker = Worker()
    for line in requests:
        request = json.loads(line)
        try:
            reply = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # noqa: BLE001 - any exception of a framework is a result
            reply = {"error": str(error), "kind": type(error).__name__}
        print(json.dumps({**reply, "peak": peak()}), file=replies, flush=True)


def _limit_processors(threads: int) -> None:
    """Set the CPU affinity: libraries such as XLA start one thread per available processor."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


if __name__ == "__main__":
    _limit_processors(int(sys.argv[1]))
    # Frameworks may print to standard output, also from C, so replies use a duplicate of it.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as replies:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        _serve(sys.stdin, replies)
