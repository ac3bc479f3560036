"""A global field one step later, by a model whose weights are divided between ranks.

The field is synthetic: waves along circles of latitude, which move east near the equator and west in
the middle latitudes, with a speed that depends on the latitude. Each point has its own weights for
the 3 by 3 points around it, the first and the last longitude are neighbours, and two such layers
follow each other. Persistence, the forecast that nothing changes, is what it is compared with.

Run with ``mpiexec -n 4 python -m mpi4py docs/gallery/global_field.py --size 180 360``, or in one
process without mpiexec. With the size of ERA5, 721 by 1440 with 8 channels, the model has 1.2 billion
weights, 14 GB with Adam's states, which no rank has as a whole. The result does not depend on the
number of ranks.
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import numpy as np

import lcnumba as lc

WAVES = np.arange(1, 7)


def write(folder: Path, samples: int, size: tuple[int, int], channels: int) -> None:
    """Write fields x and y, one step later, to files, a sample at a time."""
    height, width = size
    latitude = np.linspace(-np.pi / 2, np.pi / 2, height)
    longitude = np.linspace(0, 2 * np.pi, width, endpoint=False)
    speed = 1.5 * 2 * np.pi / width * np.cos(3 * latitude)  # at most one and a half points a step
    rng = np.random.default_rng(0)
    files = [
        np.lib.format.open_memmap(folder / name, "w+", np.float32, (samples, height, width, channels))
        for name in ("x.npy", "y.npy")
    ]
    for sample in range(samples):
        amplitude = rng.standard_normal((channels, len(WAVES))) / len(WAVES) ** 0.5
        phase = rng.random((channels, len(WAVES))) * 2 * np.pi
        for step, file in enumerate(files):
            angle = (longitude[None, :] - step * speed[:, None])[..., None, None] * WAVES + phase
            file[sample] = np.sum(amplitude * np.cos(angle), axis=-1)


def model_of(size: tuple[int, int], channels: int, comm: object) -> object:
    """Return the model, divided between the ranks of a communicator unless that is None."""
    rng = np.random.default_rng(1)
    settings = {"padding": "same", "padding_mode": ("zeros", "circular"), "fans": "window", "rng": rng}
    layers = [
        lc.LocallyConnected2D(channels, 3, **settings),
        lc.LocallyConnected2D(channels, 3, **settings),
    ]
    model, shape = lc.Sequential(layers, name="field"), (None, *size, channels)
    if comm is None:
        model.build(shape)
    else:
        model = lc.mpi.distribute(model, comm, input_shape=shape)
    model.compile("adam", "mse", lr=0.01)
    return model


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, and return the mean squared errors of persistence and of the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", nargs=2, type=int, default=(45, 90), metavar=("H", "W"))
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument(
        "--folder", type=Path, help="for data and checkpoint, seen by all ranks; by default temporary"
    )
    given = parser.parse_args(arguments)
    try:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
    except (ImportError, RuntimeError):  # without MPI one process has all
        comm = None
    rank = 0 if comm is None else comm.rank

    with contextlib.ExitStack() as stack:
        folder = given.folder
        if folder is None and rank == 0:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder if comm is None else comm.bcast(folder)
        errors = train(folder, given, comm)
        if comm is not None:
            comm.Barrier()  # all are done with the folder
        return errors


def train(folder: Path, given: argparse.Namespace, comm: object) -> dict[str, float]:
    """Train on the data of a folder, which are made if it has none, and resume what it has begun."""
    rank = 0 if comm is None else comm.rank
    if rank == 0 and not (folder / "y.npy").exists():
        write(folder, given.samples, tuple(given.size), given.channels)
    if comm is not None:
        comm.Barrier()
    # Memory maps: each rank reads its lines of them.
    x, y = (np.load(folder / name, mmap_mode="r") for name in ("x.npy", "y.npy"))

    model = model_of(tuple(given.size), given.channels, comm)
    path = folder / "run.npz"
    history = model.fit(
        x, y, epochs=given.epochs, batch_size=given.batch_size, validation_split=0.25, rng=2,
        callbacks=[lc.callbacks.Checkpoint(path)], resume=path, progress=False,
    )  # fmt: skip
    held_out = slice(int(len(x) * 0.75), None)
    errors = {
        "persistence": float(np.mean(np.square(y[held_out] - x[held_out]), dtype=np.float64)),
        "model": history.history["val_loss"][-1],
    }
    if rank == 0:
        ranks = 1 if comm is None else comm.size
        print(f"{model.count_params():,} weights on {ranks} rank{'s' * (ranks > 1)}")
        print(
            f"mean squared error: persistence {errors['persistence']:.4f}, model {errors['model']:.6f}"
        )
    return errors


if __name__ == "__main__":
    main(sys.argv[1:])
