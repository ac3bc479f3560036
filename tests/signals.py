"""Let signals, finalizers and Ctrl-C come at random moments, as long as you like.

``python tests/signals.py --seconds 60`` takes so long for each case: a handler every 3 ms that calls the layer that the
program calls, and every 20 ms beside steps of a model; finalizers, callbacks of weak references and of the garbage
collector that call it; and processes whose loops, or first calls, are interrupted again and again. A case fails if it
hangs, if an answer is wrong, if a step is cut in half, or if a later call does not work.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time

SETTING = """
    import gc, json, random, signal, sys, threading, time, weakref
    import numpy as np
    import lcnumba as lc

    seconds, chance = float(sys.argv[1]), random.Random(int(sys.argv[2]))
    counts = {}

    def count(what):
        counts[what] = counts.get(what, 0) + 1

    def make(implementation=1, size=12):
        layer = lc.LocallyConnected2D(
            4, 3, kernel_initializer="ones", input_shape=(size, size, 2), implementation=implementation)
        return lc.Sequential([layer, lc.Flatten(), lc.Dense(1, kernel_initializer="ones")])

    def compile(model):
        model.compile("sgd", "mse", lr=0.0)  # so that there is one right answer, whoever steps
        return model

    models = [compile(make(n % 3 + 1)) for n in range(3)]
    x, y = np.ones((4, 12, 12, 2), np.float32), np.ones((4, 1), np.float32)
    right = [model.layers[0](x).copy() for model in models]

    def call(n=0):
        assert (models[n].layers[0](x) == right[n]).all(), "a wrong answer"

    def train(n=0):
        models[n].train_on_batch(x, y)

    def fit(n=0):
        models[n].fit(x, y, epochs=1, batch_size=2, progress=False)

    def attempt(action):
        try:
            action()
            count("in the middle: served")
        except RuntimeError as error:
            assert "while it is being" in str(error) or "interrupts one of its calls" in str(error), error
            count("in the middle: refused")

    def in_another_thread(action):
        "A lock that is left taken is one that its own thread may still have."
        done = []
        thread = threading.Thread(target=lambda: done.append(action()), daemon=True)
        thread.start()
        thread.join(60)
        assert done, "a thread waits for ever"

    def finish():
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.callbacks.clear()
        for n in range(3):
            call(n)
            train(n)
            in_another_thread(lambda: train(n))
        print(json.dumps(counts))

    for n in range(3):
        fit(n)  # all is compiled
    end = time.monotonic() + seconds
"""

TIMED = """
    def handle(*_):
        global busy
        if not busy:  # it may take longer than the interval
            busy = True
            attempt(inner)
            busy = False

    busy = False
    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, interval, interval)
    while time.monotonic() < end:
        n = chance.randrange(3)
        inner = lambda: act(n)
        try:
            outer(n)
        except RuntimeError as error:
            assert "older weights" in str(error), error
            count("backward of older weights")
        count("calls")
    finish()
"""

CASES = {
    "handler calls beside calls, 3 ms": "    interval, outer, act = 0.003, call, call" + TIMED,
    "handler calls beside steps, 20 ms": "    interval, outer, act = 0.02, train, call" + TIMED,
    "handler steps beside calls, 3 ms": "    interval, outer, act = 0.003, call, train" + TIMED,
    "handler steps beside fit, 20 ms": "    interval, outer, act = 0.02, fit, train" + TIMED,
    "handler calls beside steps of another thread, 3 ms": """
    def others():
        while time.monotonic() < end:
            train(chance.randrange(3))
            count("steps of the other thread")

    threading.Thread(target=others).start()
    interval, outer, act = 0.003, call, call"""
    + TIMED,
    "finalizers, weak references, garbage": """
    class Leaving:
        def __init__(self):
            self.me = self
        def __del__(self):
            attempt(lambda: chance.choice((call, call, train))(chance.randrange(3)))

    class Referred:
        pass

    def collected(phase, _):
        global inside
        if phase == "stop" and not inside:
            inside = True
            attempt(lambda: call(chance.randrange(3)))
            inside = False

    inside, references = False, set()
    gc.set_threshold(50)
    gc.callbacks.append(collected)
    while time.monotonic() < end:
        n = chance.randrange(3)
        Leaving()
        referred = Referred()
        referred.me = referred
        reference = weakref.ref(referred, lambda ref: (references.discard(ref), attempt(lambda: call(n))))
        references.add(reference)
        del referred
        try:
            chance.choice((call, train, fit))(n)
        except RuntimeError as error:
            assert "older weights" in str(error), error
            count("backward of older weights")
        count("calls")
    gc.set_threshold(700)
    finish()
""",
    "Ctrl-C beside calls, steps and fit": """
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))

    def until_interrupted():  # of its own: Python does not cover the last jump of a loop in a try statement
        while time.monotonic() < end:
            action(n)
            count("calls")

    while time.monotonic() < end:
        n, action = chance.randrange(3), chance.choice((call, train, fit))
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 0.01))
            until_interrupted()
        except KeyboardInterrupt:
            count("interrupted")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if chance.random() < 0.1:
            in_another_thread(lambda: train(n))
    finish()
""",
}

# A process of its own for each interrupt.
FIRST = """
import json, random, signal, sys, threading, time
chance = random.Random(int(sys.argv[2]))
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
import numpy as np
import lcnumba as lc

def work():
    "Import all that there is, and compile or load what is needed."
    x, y = np.ones((4, 6, 6, 2), np.float32), np.ones((4, 1), np.float32)
    layers = [lc.LocallyConnected2D(4, 3, kernel_initializer="ones", input_shape=(6, 6, 2))]
    model = lc.Sequential([*layers, lc.Flatten(), lc.Dense(1, kernel_initializer="zeros")])
    loss = model.evaluate(x, y, loss="mse")["loss"]
    prediction, backward = model.forward(x)
    backward.step(np.ones_like(prediction), 0.5)
    return loss == 1 and bool((layers[0](x) == 18).all()) and bool((model(x) < 0).all())

began, hit = time.monotonic(), False
try:
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.01, float(sys.argv[3])))
    work()
    signal.setitimer(signal.ITIMER_REAL, 0)
except KeyboardInterrupt:
    hit = True
took, right = time.monotonic() - began, []
thread = threading.Thread(target=lambda: right.append(work()), daemon=True)
thread.start()
thread.join(120)
assert right == [True] and work(), right
print(json.dumps({"interrupted": int(hit), "processes": 1, "took": took}))
"""


def run(code: str, arguments: list[str], limit: float, cache: str | None = None) -> dict[str, float]:
    """Return what a process counted; an error if it hangs or fails."""
    result = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, timeout=limit, check=False,
        env=None if cache is None else {**os.environ, "NUMBA_CACHE_DIR": cache},
    )  # fmt: skip
    if result.returncode or result.stderr:
        raise RuntimeError(f"exit code {result.returncode}: {result.stderr}")
    return json.loads(result.stdout)


def first_calls(seconds: float, seed: int, cold: bool) -> dict[str, float]:
    """Interrupt processes in their first calls, with compiled code at hand or without."""
    total: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as warm:
        took = run(FIRST, ["0", str(seed), "1000"], 300, warm).pop("took")  # nothing comes
        if not cold:
            took = run(FIRST, ["0", str(seed), "1000"], 300, warm).pop("took")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            seed += 1
            with tempfile.TemporaryDirectory() as empty:
                found = run(FIRST, ["0", str(seed), str(took)], 300, empty if cold else warm)
            found.pop("took")
            total = {name: total.get(name, 0) + value for name, value in found.items()}
    return total


def main() -> int:
    """Run all cases; print what each of them counted, and return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    cases = {
        name: lambda code=code: run(
            textwrap.dedent(SETTING) + textwrap.dedent(code), [str(given.seconds), str(given.seed)], given.seconds + 180
        )
        for name, code in CASES.items()
    }
    cases["Ctrl-C in the first call, while all is imported and loaded"] = lambda: first_calls(
        given.seconds, given.seed, cold=False
    )
    cases["Ctrl-C in the first call, while all is compiled"] = lambda: first_calls(given.seconds, given.seed, cold=True)
    failed = 0
    print(f"Python {sys.version.split()[0]}, {given.seconds:g} s each, seed {given.seed}", flush=True)
    for name, case in cases.items():
        try:
            counts = ", ".join(f"{value:g} {what}" for what, value in sorted(case().items()))
            print(f"{name}: {counts}", flush=True)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            failed += 1
            reason = "it hangs" if isinstance(error, subprocess.TimeoutExpired) else error
            print(f"{name}: FAILED: {reason}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
