"""A training of 50 M weights with Adam, 600 MB, under a limit of memory: `limited.py`, or with --mpi on ranks."""

import sys

import numpy as np

import lcnumba as lc

SHAPE = (None, 96, 225, 16)


def main():
    model = lc.Sequential([lc.LocallyConnected2D(16, 3, padding="same", rng=0)])
    comm = None
    if "--mpi" in sys.argv:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
        model = lc.mpi.distribute(model, comm, input_shape=SHAPE)
    else:
        model.build(SHAPE)
    model.compile("adam", "mse", lr=0.001)
    x, y = (np.random.default_rng(seed).standard_normal((2, *SHAPE[1:]), np.float32) for seed in (0, 1))
    losses = [model.train_on_batch(x, y)["loss"] for _ in range(3)]
    assert losses[2] < losses[0]
    if comm is None or comm.rank == 0:
        print(f"{1 if comm is None else comm.size} ranks, {model.count_params():,} weights: {losses}")


if __name__ == "__main__":
    main()
