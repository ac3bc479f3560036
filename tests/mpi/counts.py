"""How many bytes ranks send in a training step: `mpiexec -n 3 python -m mpi4py counts.py`. Prints them by layer."""

import json

import numpy as np
from mpi4py import MPI

import lcnumba as lc

# Shape of a sample, and the layer: it follows one of windows of one point, so that its input is divided as well.
LAYERS = {
    "valid": ((12, 7, 3), lambda: lc.LocallyConnected2D(4, 3)),
    "same": ((12, 7, 3), lambda: lc.LocallyConnected2D(4, 5, padding="same")),
    "circular": ((12, 7, 3), lambda: lc.LocallyConnected2D(4, 3, padding="same", padding_mode="circular")),
    "strides": ((25, 7, 3), lambda: lc.LocallyConnected2D(4, 3, strides=2)),
    "no overlap": ((24, 7, 3), lambda: lc.LocallyConnected2D(4, 2, strides=2)),
    "3d": ((9, 4, 5, 2), lambda: lc.LocallyConnected3D(3, 3)),
    "1d": ((130, 2), lambda: lc.LocallyConnected1D(3, 5)),
}


def main():
    comm, report = MPI.COMM_WORLD, {}
    for name, (shape, layer) in LAYERS.items():
        before = {2: lc.LocallyConnected1D, 3: lc.LocallyConnected2D, 4: lc.LocallyConnected3D}[len(shape)](
            shape[-1], 1
        )
        model = lc.mpi.distribute(lc.Sequential([before, layer()]), comm, input_shape=(None, *shape))
        model.compile("sgd", "mse")
        x, y = np.ones((5, *shape), np.float32), np.ones((5, *model.output_shape[1:]), np.float32)
        begun = model.bytes_sent
        model.predict(x)  # whose output is gathered as well
        predicted = model.bytes_sent - begun
        model.train_on_batch(x, y)
        report[name] = (predicted, model.bytes_sent - begun - predicted)
    reports = comm.gather(report)
    if comm.rank == 0:
        print(json.dumps({"ranks": comm.size, "sent": {name: [each[name] for each in reports] for name in LAYERS}}))


if __name__ == "__main__":
    main()
