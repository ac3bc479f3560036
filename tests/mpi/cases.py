"""Trainings that must give the same bytes on any number of ranks: `python cases.py FOLDER` or under mpiexec.

Prints the number of ranks, and a digest of each training: weights, optimizer states, history and predictions. In one
process without mpiexec the models are ordinary ones.
"""

import hashlib
import json
import sys
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np

import lcnumba as lc

SAMPLES = 24


def conv(filters, *size, rank=2, **settings):
    return [lc.LocallyConnected1D, lc.LocallyConnected2D, lc.LocallyConnected3D][rank - 1](filters, *size, **settings)


def field(shape, *layers, **settings):
    """A model whose output is a grid."""
    return {"layers": layers, "shape": shape, "loss": "mse", "metrics": ["mae", "mse"], **settings}


def classes(shape, *layers, **settings):
    """A model that ends in classes."""
    head = [lc.Flatten(name="flat"), lc.Dropout(0.3, seed=5, name="drop"), lc.Dense(4, rng=9, name="scores")]
    return {
        "layers": [*layers, *head], "shape": shape, "loss": "softmax_cross_entropy", "metrics": ["accuracy"],
        "classes": 4, **settings,
    }  # fmt: skip


def custom_loss(y_true, y_pred):
    difference = y_pred - y_true
    return float(np.mean(np.abs(difference) ** 3)), np.sign(difference) * 3 * difference**2 / difference.size


def custom_metric(y_true, y_pred):
    return float(np.max(np.abs(y_pred - y_true)))


def mask_of(shape):
    return np.random.default_rng(4).random(shape) < 0.6


def cases():
    """Settings by name; called anew for each process, since layers have state."""
    same = {"padding": "same"}
    ring = {"padding": "same", "padding_mode": ("circular", "circular")}
    globe = {"padding": "same", "padding_mode": ("zeros", "circular")}
    found = {
        "uneven": field((13, 7, 2), conv(3, 3, **same, activation="relu"), conv(2, 3, **same)),
        "valid": field((14, 6, 2), conv(3, 3, activation="tanh"), conv(2, 3), conv(2, (2, 1))),
        "strides": field((23, 9, 2), conv(4, 3, strides=2), conv(3, 3, strides=(2, 1), **same)),
        "stride over kernel": field((25, 6, 2), conv(4, 2, strides=3), conv(3, 1, strides=(2, 1))),
        "dilation": field((20, 8, 2), conv(3, 3, dilation_rate=2, **same), conv(2, 2, dilation_rate=(3, 1))),
        "circular": field((12, 6, 2), conv(3, 3, **ring), conv(3, (5, 3), **ring), conv(2, 3, **globe)),
        "groups": field((12, 6, 4), conv(6, 3, groups=2, padding="tf_same", strides=(2, 1)),
                        conv(6, 3, groups=6, **globe), lc.Activation("elu"),
                        conv(3, (3, 2), groups=3, padding="tf_same")),
        "one filter": field((12, 8, 9), conv(1, 3, **same), conv(1, (3, 8), **same), conv(1, 1)),
        "many filters": field((9, 5, 16), conv(40, 3, **same, activation="elu"), conv(33, 3, **same)),
        "few filters": field((12, 6, 3), conv(2, 3, **same), conv(2, 3, **same), batch_size=23),
        "1d": field((61, 4), conv(3, 5, rank=1, activation="relu"), conv(2, 3, rank=1, strides=2, **same)),
        "1d channels": field((40, 16), conv(16, 5, rank=1, **same), conv(16, 3, rank=1, **same), batch_size=24),
        "1d circular": field((33, 3), conv(4, 3, rank=1, padding="same", padding_mode="circular"),
                             conv(2, 5, rank=1, padding="same", padding_mode="circular")),
        "3d": field((8, 4, 5, 2), conv(3, 3, rank=3, **same), conv(2, (3, 2, 1), rank=3)),
        "float64": field((11, 5, 2), conv(3, 3, **same, dtype="float64"), conv(2, 3, **same, dtype="float64")),
        "shared bias": field((12, 5, 2), conv(3, 3, **same, bias_sharing="filter"), conv(1, 3, bias_sharing="filter")),
        "no bias": field((12, 5, 2), conv(3, 3, use_bias=False), conv(2, 3, use_bias=False)),
        "masks": field((11, 5, 2), conv(3, 3, **same, kernel_mask=mask_of((55, 18))),
                       conv(2, 3, **same, kernel_mask=mask_of((55, 27, 2)))),
        "dropout": field((12, 5, 2), lc.Dropout(0.2, seed=1), conv(3, 3, **same), lc.Dropout(0.4, seed=2),
                         lc.Activation("sigmoid"), conv(2, 3, **same)),
        "penalties": field((12, 5, 2), conv(3, 3, kernel_regularizer="l1_l2", bias_regularizer="l2"),
                           conv(2, 3, kernel_regularizer=lc.regularizers.L1(1e-3), kernel_constraint="non_neg",
                                bias_constraint=lc.constraints.MaxNorm(1.0, axis=2))),
        "norms over positions": field((12, 5, 2), conv(3, 3, kernel_constraint=lc.constraints.MaxNorm(0.05),
                                                      bias_constraint=lc.constraints.MinMaxNorm(0.01, 0.02, 0.5)),
                                      conv(2, 3, kernel_constraint=lc.constraints.UnitNorm(axis=[0, 1])), lr=0.1),
        "norms of positions": field((12, 5, 2), conv(3, 3, kernel_constraint=lc.constraints.UnitNorm(axis=[1, 2])),
                                    conv(2, 3, bias_constraint=lc.constraints.UnitNorm(axis=-1))),
        "norm constraint": field((12, 5, 2), conv(3, 3, kernel_constraint=lc.constraints.UnitNorm(axis=1)), conv(2, 3)),
        "truncated": field((12, 5, 2), conv(3, 3, kernel_initializer="he_normal", fans="window"),
                           conv(2, 3, kernel_initializer="orthogonal", bias_initializer="random_normal")),
        "frozen": field((12, 5, 2), conv(3, 3, **same), conv(2, 3, **same, trainable=False), conv(2, 3, **same)),
        "clip": field((12, 5, 2), conv(3, 3, **same), conv(2, 3, **same), compile={"clip_norm": 1e-3}),
        "clip value": field((12, 5, 2), conv(3, 3), conv(2, 3), compile={"clip_value": 1e-3, "accumulate": 2}),
        "accumulate": field((12, 5, 2), conv(3, 3), conv(2, 3), compile={"accumulate": 3, "clip_norm": 1e-2}),
        "schedule": field((12, 5, 2), conv(3, 3), lr=lc.schedules.ExponentialDecay(0.01, 3, 0.5)),
        "weights": field((12, 5, 2), conv(3, 3), conv(2, 3), weights=(12 - 4, 5 - 4)),
        "sample weights": field((12, 5, 2), conv(3, 3), conv(2, 3), weights=()),
        "masked loss": field((12, 5, 2), conv(3, 3, **same), loss=lc.losses.Masked("mse"), unknown=True),
        "custom loss": field((12, 5, 2), conv(3, 3, **same), loss=custom_loss, metrics=[custom_metric]),
        "huber": field((12, 5, 2), conv(3, 3, **same), loss="huber", validation_split=0.25),
        "segmentation": field((12, 5, 2), conv(3, 3, **same, activation="softmax"), metrics=["accuracy"],
                              loss="sparse_categorical_crossentropy", labels=3),
        "binary": field((12, 5, 2), conv(1, 3, **same, activation="sigmoid"), loss="binary_crossentropy",
                        metrics=["binary_accuracy", "auc"], binary=True),
        "head": classes((14, 6, 2), conv(3, 3, activation="relu"), conv(3, 3, strides=2)),
        "head clip": classes((14, 6, 2), conv(3, 3), conv(3, 3), compile={"clip_norm": 1e-2}),
        "head 1d": classes((50, 3), conv(3, 4, rank=1, strides=2), conv(2, 3, rank=1)),
        "head only": classes((9, 5, 2), conv(2, 3), class_weight={0: 2.0, 3: 0.5}),
        "early stopping": field((12, 5, 2), conv(3, 3), conv(2, 3), epochs=6, lr=0.5, validation_split=0.25,
                                callbacks=lambda: [lc.callbacks.EarlyStopping(patience=1)]),
        "learning rate": field((12, 5, 2), conv(3, 3), conv(2, 3), epochs=3,
                               callbacks=lambda: [lc.callbacks.LearningRate(lambda epoch, lr: 0.01 / (epoch + 1))]),
        "read lazily": field((12, 6, 2), conv(3, 3, **ring), conv(2, 3, **same), lazy=True, validation_split=0.25),
        "memory map": field((12, 6, 2), lc.Activation("tanh"), conv(3, 3, **same), lazy="map"),
        "batches": field((12, 5, 2), conv(3, 3, **same), generator=True),
        "control": field((13, 7, 2), conv(3, 3, **same, activation="relu"), conv(2, 3, **same), seed=77),
    }  # fmt: skip
    for optimizer in ("sgd", "adam", "adamw", "rmsprop"):
        found[optimizer] = field((12, 5, 2), conv(3, 3, **same), conv(2, 3, **same), optimizer=optimizer)
    found["momentum"] = field((12, 5, 2), conv(3, 3), conv(2, 3), optimizer=lc.SGD(momentum=0.9, nesterov=True))
    return found


def data_of(case, model, rng):
    x = rng.standard_normal((SAMPLES, *case["shape"])).astype(np.float32)
    if "classes" in case:
        return x, rng.integers(0, case["classes"], SAMPLES)
    shape = (SAMPLES, *model.output_shape[1:])
    if "labels" in case:
        return x, rng.integers(0, case["labels"], shape[:-1])
    if "binary" in case:
        return x, rng.integers(0, 2, shape).astype(np.float32)
    y = rng.standard_normal(shape).astype(np.float32)
    if "unknown" in case:
        y[rng.random(shape) < 0.3] = np.nan
    return x, y


def lazily(how, path, comm, *arrays):
    """The arrays in files that rank 0 writes."""
    if comm is None or comm.rank == 0:
        for number, array in enumerate(arrays):
            np.save(f"{path}{number}.npy", array)
            with h5py.File(f"{path}{number}.h5", "w") as file:
                file["data"] = array
    if comm is not None:
        comm.Barrier()
    if how == "map":
        return tuple(np.load(f"{path}{number}.npy", mmap_mode="r") for number in range(len(arrays)))
    return tuple(h5py.File(f"{path}{number}.h5")["data"] for number in range(len(arrays)))


def train(case, path, comm=None, groups=1):
    """Train a model, and return it with its predictions.

    On several groups of ranks, or in one process with as many batches accumulated.
    """
    model = lc.Sequential(case["layers"], name="model")
    rng = np.random.default_rng(case.get("seed", 3))
    for layer in model.layers:
        if hasattr(layer, "kernel_initializer"):
            layer._rng = rng  # one generator for all layers
    if comm is None:
        model.build((None, *case["shape"]))
    else:
        model = lc.mpi.distribute(model, comm, input_shape=(None, *case["shape"]), data_groups=groups)
    settings = dict(case.get("compile", {}))
    if comm is None and groups > 1:
        settings["accumulate"] = groups * settings.get("accumulate", 1)
    lr = case.get("lr", 0.01)
    model.compile(case.get("optimizer", "adam"), case["loss"], case["metrics"], lr=lr, **settings)
    x, y = data_of(case, model, rng)
    settings = {name: case[name] for name in ("class_weight", "validation_split") if name in case}
    if "weights" in case:
        settings["sample_weight"] = rng.random((SAMPLES, *case["weights"]))
    given = lazily(case["lazy"], path, comm, x, y) if "lazy" in case else (x, y)
    if "generator" in case:
        given = ([(x[at : at + 7], y[at : at + 7]) for at in range(0, SAMPLES, 7)],)
    callbacks = [*case.get("callbacks", list)(), lc.callbacks.Checkpoint(path)]
    model.fit(*given, epochs=case.get("epochs", 2), batch_size=case.get("batch_size", 7), rng=11, progress=False,
              callbacks=callbacks, resume=path if case.get("resumes") else None, **settings)  # fmt: skip
    logs = model.evaluate(*given[:1], *given[1:], batch_size=5)
    more = {} if "generator" in case else model.train_on_batch(x[:5], y[:5])
    return model, model.predict(x, batch_size=9), {"evaluated": logs, "batch": more}


def resumed(path, comm=None, groups=1):
    """A training that stops after an epoch and is resumed, with the best weights and labels of all samples kept."""
    histories = []
    for epochs in (2, 5):
        case = field((12, 5, 2), conv(1, 3, padding="same", activation="sigmoid"), epochs=epochs, lr=0.3,
                     loss="binary_crossentropy", metrics=["auc"], binary=True, validation_split=0.25, resumes=True,
                     callbacks=lambda: [lc.callbacks.EarlyStopping("auc", patience=2, mode="min")])  # fmt: skip
        model, predictions, _ = train(case, path, comm, groups)
        histories.append(model.history.history)
    return model, predictions, histories


def digest(path, *others):
    """Of all members of a file and of further arrays and values."""
    found = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            found.update(name.encode() + archive.read(name))
    for other in others:
        found.update(other.tobytes() if isinstance(other, np.ndarray) else repr(other).encode())
    return found.hexdigest()


def main(folder):
    comm = None
    if "--mpi" in sys.argv:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
    groups = int(sys.argv[sys.argv.index("--groups") + 1]) if "--groups" in sys.argv else 1
    warnings.simplefilter("ignore")
    report = {"ranks": 1 if comm is None else comm.size, "digests": {}}
    for name, case in cases().items():
        path = Path(folder, f"{name.replace(' ', '_')}.npz")
        model, predictions, logs = train(case, path, comm, groups)
        weights = model.get_weights()
        if comm is None or comm.rank == 0:
            report["digests"][name] = digest(path, predictions, logs, model.history.history, *weights)
    path = Path(folder, "resumed.npz")
    model, predictions, histories = resumed(path, comm, groups)
    weights = model.get_weights()
    report["digests"]["resumed"] = digest(path, predictions, histories, *weights)
    if comm is None or comm.rank == 0:
        print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
