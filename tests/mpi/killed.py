"""A training that is killed and resumed: `mpiexec -n 2 python -m mpi4py killed.py FOLDER slowly 3`.

Each rank writes its process number to FOLDER; the root writes the file `done` at the end. Batches take a while, so that
there is time to kill it, and a checkpoint is written after each.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

import lcnumba as lc

SHAPE = (None, 24, 10, 2)


class Begins(lc.callbacks.Callback):
    """Writes which step was the first, when that has been saved."""

    def __init__(self, folder):
        self.folder = folder

    def after_batch(self, run, logs):
        if not (self.folder / "begun").exists():
            (self.folder / "begun").write_text(f"{run.step}")


class Slowly(lc.callbacks.Callback):
    def after_batch(self, run, logs):
        time.sleep(0.03)


def main(folder, pace, epochs):
    comm, folder = MPI.COMM_WORLD, Path(folder)
    layers = [
        lc.LocallyConnected2D(8, 3, padding="same", activation="relu", rng=1), lc.Dropout(0.2, seed=2),
        lc.LocallyConnected2D(3, 3, padding="same", strides=2, rng=3),
    ]  # fmt: skip
    model = lc.mpi.distribute(lc.Sequential(layers, name="model"), comm, input_shape=SHAPE)
    model.compile("adam", "mse", ["mae"], lr=0.01, clip_norm=1.0)
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((60, *shape), np.float32) for shape in (SHAPE[1:], (12, 5, 3)))
    (folder / f"pid{comm.rank}").write_text(str(os.getpid()))
    checkpoint = lc.callbacks.Checkpoint(folder / "run.npz", every_batches=1)
    model.fit(x, y, epochs=int(epochs), batch_size=8, rng=5, resume=folder / "run.npz", progress=False,
              callbacks=[checkpoint, Begins(folder), *([Slowly()] if pace == "slowly" else [])])  # fmt: skip
    if comm.rank == 0:
        (folder / "done").touch()


if __name__ == "__main__":
    main(*sys.argv[1:])
