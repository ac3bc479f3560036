"""A process that holds one peer and obeys: a JSON line in, a JSON line out.

Started as ``python -m bench.worker THREADS``. Requests, by their "do":

- load: makes the data of "case" and the peer from "module" with "options" and "threads";
- first: calls "operation" once, with all that it builds; replies "seconds";
- repeat: calls "operation" "calls" times, after "warm" untimed ones; replies "times";
- save: writes what the last first call returned, and with "weights" kernel and bias, to "folder";
- run: calls ``function(**arguments)`` of "module"; replies its "value".

A reply has "peak", the most memory that the process held so far, in bytes; or "error" and "kind",
the name of the exception.
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
    """The requests as methods; each returns its reply."""

    def __init__(self) -> None:
        self._operations: Operations
        self._results: dict[str, Any] = {}

    def load(self, case: dict[str, Any], module: str, options: dict[str, Any], threads: int) -> dict[str, Any]:
        """Make data and peer."""
        peer = importlib.import_module(module)
        sizes = Case.from_json(case)
        self._operations = peer.make(sizes, make(sizes), threads, **options)
        return {}

    def first(self, operation: str) -> dict[str, Any]:
        """Call an operation for the first time and keep what it returns."""
        start = time.perf_counter()
        result = getattr(self._operations, operation)()
        seconds = time.perf_counter() - start
        self._results = {"y": result} if operation == "forward" else dict(zip(("y", "dx"), result, strict=True))
        return {"seconds": seconds}

    def repeat(self, operation: str, calls: int, warm: int = 0) -> dict[str, Any]:
        """Time calls of an operation, one by one."""
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
        """Write the answers of the last first call, and the weights as they are now."""
        arrays = dict(self._results)
        if weights:
            arrays["kernel"], arrays["bias"] = self._operations.weights()
        for name, array in arrays.items():
            np.save(Path(folder, name), np.asarray(array))
        return {}

    def run(self, module: str, function: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a function of a module."""
        return {"value": getattr(importlib.import_module(module), function)(**arguments)}


def _obey(requests: TextIO, replies: TextIO) -> None:
    worker = Worker()
    for line in requests:
        request = json.loads(line)
        try:
            reply = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # noqa: BLE001 - whatever a framework raises is an answer
            reply = {"error": str(error), "kind": type(error).__name__}
        print(json.dumps({**reply, "peak": peak()}), file=replies, flush=True)


def _keep_to(threads: int) -> None:
    """Use so many processors: libraries that count them, as XLA does, then start so many threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


if __name__ == "__main__":
    _keep_to(int(sys.argv[1]))
    # Frameworks print what they like to standard output, also from C; replies get a channel of their own.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as replies:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        _obey(sys.stdin, replies)
