"""
A global field on two ranks of MPI
==================================

A layer for each point of a global grid has billions of weights at the resolution of today's models.
With :mod:`lcnumba.mpi` each rank has the weights of its latitudes; it exchanges lines of the field
with its neighbours, and never weights. The result is that of one process, to the last bit.

**The data are simulated**, with a seed: waves along circles of latitude, which move east near
the equator and west in the middle latitudes. The field one step later is the target. The program below
trains two layers on it, whose first and last longitude are neighbours.

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
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import lcnumba as lc

here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
launcher = Path(sys.executable).with_name("mpiexec")  # of the package mpich
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
folders = {}
for ranks in (1, 2):
    folders[ranks] = Path(tempfile.mkdtemp())
    command = [str(launcher), "-n", str(ranks), *program, "--folder", str(folders[ranks])]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"NUMBA_NUM_THREADS": "1"}
    )
    print(done.stdout.strip())

# %%
# The files that both have written:
print(
    "equal, byte by byte:", filecmp.cmp(folders[1] / "run.npz", folders[2] / "run.npz", shallow=False)
)

# %%
# The file is an ordinary one, which a single process reads. The model beside persistence, the
# forecast that nothing changes, on a field that was not used for training:
folder = folders[2]
model = lc.load(folder / "run.npz")
x, y = (np.load(folder / name, mmap_mode="r")[-1:, ..., 0:4] for name in ("x.npy", "y.npy"))
panels = {"now": x, "one step later": y, "change": y - x, "error of the model": model.predict(x) - y}
figure = Figure(figsize=(11, 5.4), layout="constrained")
latitude, longitude = np.linspace(-90, 90, x.shape[1]), np.linspace(0, 360, x.shape[2], endpoint=False)
for axes, (title, values) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
    error = (
        float(np.sqrt(np.mean(np.square(values))))
        if title in ("change", "error of the model")
        else None
    )
    image = axes.pcolormesh(longitude, latitude, values[0, ..., 0], cmap="RdBu_r", vmin=-2, vmax=2)
    title += "" if error is None else f", root mean square {error:.3f}"
    axes.set(title=title, xlabel="degrees east", ylabel="degrees north")
figure.colorbar(image, ax=figure.axes)
figure

# %%
# The weights of each latitude have learned the speed there: what is left is a seventh of the change. A
# single set of weights for all latitudes could not know which way the waves move.
