"""Trainings that fail in some way: `mpiexec -n 3 python -m mpi4py failures.py FOLDER WAY ...`.

Each rank writes what it raised, and whether its weights have changed since the batch before, to FOLDER.
"""

import hashlib
import json
import os
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from mpi4py import MPI

import lcnumba as lc

COMM = MPI.COMM_WORLD
GROUPS = int(os.environ.get("GROUPS", "1"))
SHAPE = (None, 16, 6, 2)


def model_of():
    """Two layers and Adam, on all ranks."""
    layers = [lc.LocallyConnected2D(4, 3, padding="same", rng=1), lc.LocallyConnected2D(3, 3, padding="same", rng=2)]
    model = lc.mpi.distribute(lc.Sequential(layers), COMM, input_shape=SHAPE, data_groups=GROUPS)
    model.compile("adam", "mse", lr=0.01)
    return model


def data_of(samples=24, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((samples, *SHAPE[1:]), np.float32), rng.standard_normal((samples, 16, 6, 3), np.float32)


class Source:
    """Reads lazily, and fails on one rank at a batch."""

    def __init__(self, values, fails_at, rank=1):
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim
        self.reads, self.fails_at, self.rank = 0, fails_at, rank

    def __len__(self):
        return len(self.values)

    def __getitem__(self, key):
        self.reads += 1
        if self.reads == self.fails_at and COMM.rank == self.rank:
            raise OSError("the disk of rank 1 is gone")
        return self.values[key]


class Watch(lc.callbacks.Callback):
    """On the root: what the weights were after each step; raises at a batch."""

    def __init__(self, fails_at=None):
        self.fails_at = fails_at

    def after_batch(self, run, logs):
        if run.batch == self.fails_at:
            raise KeyError("a callback failed")


def digest(model):
    arrays = [array for layer in model.layers for array in layer.get_weights()]
    states = [a for layer in model.layers for state in layer.get_training_state().values() for a in state.values()]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays + states)).hexdigest()


def limit_memory(more):
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))


def failing_loss(y_true, y_pred):
    if COMM.rank == 2 % COMM.size:
        raise ArithmeticError("the loss of one rank failed")
    return 0.0, np.zeros_like(y_pred)


def reading(model):
    x, y = data_of()
    model.fit(x[:8], y[:8], progress=False, rng=0)
    return lambda: model.fit(Source(x, 3), Source(y, 99), batch_size=8, progress=False, shuffle=False), 2


def memory(model):
    x, y = data_of(400_000 // 16, 1)
    model.train_on_batch(x[:8], y[:8])
    if COMM.rank == 1:
        limit_memory(10 << 20)
    return lambda: model.train_on_batch(x, y), 0


def loss(model):
    x, y = data_of()
    model.train_on_batch(x, y)
    return lambda: model.fit(x, y, loss=failing_loss, batch_size=8, progress=False), 0


def callback(model):
    x, y = data_of()
    return lambda: model.fit(x, y, batch_size=8, progress=False, rng=0, callbacks=[Watch(2)]), None


def shape(model):
    x, y = data_of()
    return lambda: model.fit(x[:, :-1] if COMM.rank == 1 else x, y, progress=False), 0


def different_data(model):
    x, y = data_of(seed=COMM.rank)
    return lambda: model.fit(x, y, progress=False), 0


def different_batches(model):
    x, y = data_of(seed=COMM.rank)
    return lambda: model.fit(iter([(x, y)]), progress=False), 0


def fewer_batches(model):
    x, y = data_of()
    return lambda: model.fit([(x, y)] * (1 if COMM.rank == 1 else 2), progress=False), None


def unwritable(model):
    return lambda: model.save("/nonexistent/folder/model.npz"), 0


def unreadable(model):
    return lambda: model.load_weights(__file__), 0


def damaged(model):
    """A bit of the rows of the last rank has changed on disk."""
    path = Path(tempfile.gettempdir(), f"lcnumba_damaged_{COMM.bcast(os.getpid())}.npz")
    model.save(path)
    if COMM.rank == 0:
        weight = np.load(path)["weight_0"]
        content = bytearray(path.read_bytes())
        content[content.index(weight[-1].tobytes()) + 1] ^= 1
        path.write_bytes(content)
    COMM.Barrier()

    def load():
        try:
            model.load_weights(path)
        finally:
            COMM.Barrier()
            path.unlink(missing_ok=True)

    return load, 0


def argument(model):
    x, y = data_of()
    return lambda: model.fit(x, y, batch_size=0, progress=False), 0


def thin(model):
    layers = [lc.LocallyConnected2D(1, 3), lc.LocallyConnected2D(1, 5)]
    return lambda: lc.mpi.distribute(lc.Sequential(layers), COMM, input_shape=(None, 8, 8, 1)), 0


def different_models(model):
    layers = [lc.LocallyConnected2D(1, 3, input_shape=(9, 9, 1), rng=COMM.rank)]
    return lambda: lc.mpi.distribute(lc.Sequential(layers), COMM), 0


def schedule(model):
    """A learning rate of the user's own fails on one rank."""
    x, y = data_of()

    def lr(step):
        if COMM.rank == 1:
            raise LookupError("no learning rate")
        return 0.01

    return lambda: model.fit(x, y, lr=lr, progress=False), 0


def slope(model):
    x, y = data_of()
    return lambda: model.fit(x, y, loss=lambda y, p: (0.0, np.zeros(3)), progress=False), 0


def number(model):
    x, y = data_of()
    return lambda: model.fit(x, y, loss=lambda y, p: 0.5, progress=False), 0


def labels_of_positions(model):
    x, y = data_of()
    return lambda: model.fit(x, y, class_weight={0: 2.0}, progress=False), 0


def different_evaluation(model):
    x, y = data_of(seed=COMM.rank)
    return lambda: model.evaluate(x, y), 0


def different_epochs(model):
    x, y = data_of()
    return lambda: model.fit(x, y, epochs=1 + COMM.rank, progress=False), 0


def compile_in_callback(model):
    x, y = data_of()

    class Compiles(lc.callbacks.Callback):
        def on_epoch_end(self, run, logs):
            run.model.compile("sgd", "mae")

    return lambda: model.fit(x, y, progress=False, callbacks=[Compiles()]), None


def evaluate_in_callback(model):
    x, y = data_of()

    class Evaluates(lc.callbacks.Callback):
        def on_epoch_end(self, run, logs):
            run.model.evaluate(x, y)

    return lambda: model.fit(x, y, progress=False, callbacks=[Evaluates()]), None


def changes_one_rank(model):
    """A callback that sets the root's rows of a layer."""
    x, y = data_of()

    class Sets(lc.callbacks.Callback):
        def on_epoch_end(self, run, logs):
            layer = run.model.layers[0]
            layer.set_weights([2 * weight for weight in layer.get_weights()])

    return lambda: model.fit(x, y, progress=False, callbacks=[Sets()]), None


# Ways in which one rank ends without the others' agreement: all processes end.


def bug(model):
    """An error of the script, on one rank, between calls."""
    x, y = data_of()
    model.train_on_batch(x, y)
    if COMM.rank == 1:
        raise ZeroDivisionError("a bug of one rank")
    model.train_on_batch(x, y)
    raise AssertionError("not reached")


def killed(model):
    x, y = data_of()
    model.train_on_batch(x, y)
    if COMM.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    model.train_on_batch(x, y)
    raise AssertionError("not reached")


def exits(model):
    """A callback that ends the program."""
    x, y = data_of()

    class Exits(lc.callbacks.Callback):
        def after_batch(self, run, logs):
            sys.exit(0)

    model.fit(x, y, batch_size=4, progress=False, callbacks=[Exits()])
    raise AssertionError("not reached")


def exits_in_loss(model):
    x, y = data_of()
    model.fit(x, y, progress=False, loss=lambda y, p: sys.exit(3) if COMM.rank == 1 else (0.0, np.zeros_like(p)))
    raise AssertionError("not reached")


def interrupted(model):
    """Ctrl-C at one rank."""
    x, y = data_of()

    class Interrupts(lc.callbacks.Callback):
        def after_batch(self, run, logs):
            os.kill(os.getpid(), signal.SIGINT)

    model.fit(x, y, batch_size=4, progress=False, callbacks=[Interrupts()])
    raise AssertionError("not reached")


def attempt(way, folder):
    """Fail in one way, and report it."""
    model = model_of()
    run, steps = globals()[way](model)
    before, error = digest(model), None
    if steps:  # the batches before the failing one change the weights
        x, y = data_of()
        twin = model_of()
        twin.fit(x[:8], y[:8], progress=False, rng=0)
        twin.fit(x[: 8 * (steps - 1)], y[: 8 * (steps - 1)], batch_size=8, progress=False, shuffle=False)
        before = digest(twin)
    try:
        run()
    except Exception as found:  # noqa: BLE001 - that is the point
        error = found
    if way == "memory":
        limit_memory(1 << 40)
    after = digest(model)
    x, y = data_of()
    logs = model.train_on_batch(x, y)  # the model can be used as before
    report = {
        "ranks": COMM.size, "type": type(error).__name__, "text": str(error), "notes": getattr(error, "__notes__", []),
        "changed": steps is not None and before != after, "loss": logs["loss"],
    }  # fmt: skip
    Path(folder, f"{way}{COMM.rank}.json").write_text(json.dumps(report))


def main(folder, *ways):
    warnings.simplefilter("ignore")
    for way in ways:
        attempt(way, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
