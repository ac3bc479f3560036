"""
A global field on two ranks of MPI
==================================

A layer for each point of a global grid has billions of weights at the resolution of today's models.
With :mod:`lcnumba.mpi` each rank has the weights of its latitudes; it exchanges lines of the field
with its neighbours, and never weights. The result is that of one process, to the last bit.

**The data are simulated**, with a seed: waves along circles of latitude, which move east near
the equator and west in the middle latitudes. The field one step later is the target. The program below
(:download:`global_field.py <../gallery/global_field.py>`) trains two layers on it, whose first and last
longitude are neighbours.

.. literalinclude:: ../gallery/global_field.py
   :language: python
   :caption: global_field.py
   :start-at: import argparse
"""

# %%
# It runs here in one process, and on two ranks; with 721 x 1440 points and 8 channels, the grid of
# ERA5, it needs a cluster. `Distributed training <../distributed.html>`_ says how to start it there.
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import lcnumba as lc

here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
beside = shutil.which("mpiexec", path=Path(sys.executable).parent)  # of the package mpich
launcher = beside or "mpiexec"
program = [
    sys.executable,
    "-m",
    "mpi4py",
    str(here / "global_field.py"),
    "--size",
    "32",
    "64",
    "--epochs",
    "30",
]
temporary = tempfile.TemporaryDirectory()
folders = {ranks: Path(temporary.name, str(ranks)) for ranks in (1, 2)}
for ranks, folder in folders.items():
    folder.mkdir()
    command = [launcher, "-n", str(ranks), *program, "--folder", str(folder)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"NUMBA_NUM_THREADS": "1"}
    )
    print(done.stdout.strip())

# %%
# The files that both have written:
equal = filecmp.cmp(folders[1] / "run.npz", folders[2] / "run.npz", shallow=False)
print("equal, byte by byte:", equal)

# %%
# The file is an ordinary one, which a single process reads. Beside it, the same two layers with one set
# of weights for all points, a convolution, on the quarter of the fields that was not used for training:
model = lc.load(folders[2] / "run.npz")
x, y = (np.load(folders[2] / name) for name in ("x.npy", "y.npy"))
settings = {"padding": "same", "padding_mode": ("zeros", "circular"), "fans": "window"}
settings |= {"weight_sharing": "all", "bias_sharing": "filter", "rng": np.random.default_rng(1)}
convolution = lc.Sequential([lc.LocallyConnected2D(4, 3, **settings) for _ in range(2)])
convolution.compile("adam", "mse", lr=0.01)
convolution.fit(x, y, epochs=30, batch_size=8, validation_split=0.25, rng=2, progress=False)
held_out = slice(int(len(x) * 0.75), None)
x, y = x[held_out], y[held_out]
predictions = {
    "nothing changes": x,
    "convolution": convolution.predict(x),
    "local weights": model.predict(x),
}
errors = {name: float(np.sqrt(np.mean(np.square(of - y)))) for name, of in predictions.items()}
print(*(f"{name}: root mean square error {error:.3f}" for name, error in errors.items()), sep="\n")

# %%
# One of these fields, and what each forecast leaves:
panels = {"one step later": y} | {name: of - y for name, of in predictions.items()}
figure = Figure(figsize=(11, 5.4), layout="constrained")
latitude, longitude = np.linspace(-90, 90, x.shape[1]), np.linspace(0, 360, x.shape[2], endpoint=False)
for axes, (title, values) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
    image = axes.pcolormesh(longitude, latitude, values[-1, ..., 0], cmap="RdBu_r", vmin=-2, vmax=2)
    title += f": error, root mean square {errors[title]:.3f}" if title in errors else ""
    axes.set(title=title, xlabel="degrees east", ylabel="degrees north")
figure.colorbar(image, ax=figure.axes)
figure

# %%
# The local weights of each latitude have learned the speed there: an eighth of the change is left. A
# single set of weights for all latitudes cannot know which way the waves move, and the convolution is
# hardly better than the forecast that nothing changes.
